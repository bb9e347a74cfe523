"""Tables of text on disk: strict csv in and out, and checks of whole tables.

Every cell is text: labels such as 001, NA, 1e5 or True are read back byte for byte, and an empty cell is "", never NaN.
pandas.read_csv is not strict enough: it pads short rows, renames a column that occurs twice, and accepts a file that
was cut, a quote inside a cell and a zero byte. Where it refuses a file, it rarely names the line.
"""

from __future__ import annotations

import csv
import hashlib
import io
from pathlib import Path
from typing import TYPE_CHECKING

from .atomic import write_text
from .errors import UserError

if TYPE_CHECKING:  # pandas and pandera take a second to import, and `face3d identify` reads no table
    import pandas as pd
    import pandera.pandas as pa

# Columns of the five points of a face in pixels: left eye, right eye, nose tip, mouth corners, as the image shows them
POINTS = [f"{axis}{k}" for k in range(1, 6) for axis in "xy"]


def read_table(path: Path, required_columns: list[str], sha256: str | None = None) -> pd.DataFrame:
    """The csv at `path` with every cell as text (dtype str).

    The file must be UTF-8, with or without a byte order mark. It must have commas between the cells, a header with at
    least the required columns, rows that are exactly as long as the header, and a line end after the last row; without
    that line end the file may have been cut. `sha256` is the hash that the bytes of the file must have, where one was
    recorded. Raises UserError, which names the file and the line, for any other file.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        fix = "run the stage that writes it, or correct the path"
        raise UserError(f"{path}: cannot be read ({error.strerror}): {fix}") from None
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        raise UserError(f"{path}: was altered since it was written: run the stage that writes it again")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(f"{path} line {line}: not UTF-8: save the table as UTF-8") from None
    if "\0" in text:
        line = text.split("\0")[0].count("\n") + 1
        raise UserError(f"{path} line {line}: holds a zero byte: save the table as UTF-8")
    if text and not text.endswith("\n"):
        raise UserError(
            f"{path} line {text.count(chr(10)) + 1}: no line end: if the file was cut, write it again, else end the line"
        )
    header, rows, reader = None, [], csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for cells in reader:
            where = f"{path} line {reader.line_num}"
            if header is None:
                header = _checked_header(cells, required_columns, where)
            elif not cells:
                raise UserError(f"{where}: an empty line: delete it")
            elif len(cells) != len(header):
                raise UserError(
                    f"{where}: {len(cells)} cells under {len(header)} columns: quote cells that hold commas"
                )
            elif any("\n" in cell or "\r" in cell for cell in cells):
                raise UserError(f"{where}: a line break inside a cell: is a quote not closed?")
            else:
                rows.append(cells)
    except csv.Error as error:
        raise UserError(f"{path} line {reader.line_num}: not plain csv ({error}): correct the line") from None
    if header is None:
        raise UserError(f"{path}: empty, without even a header: write it again")
    import pandas as pd

    return pd.DataFrame(rows, columns=header, dtype=str)


def _checked_header(cells: list[str], required: list[str], where: str) -> list[str]:
    if missing := [name for name in required if name not in cells]:
        hint = ": separate cells by commas" if len(cells) == 1 and any(mark in cells[0] for mark in ";\t") else ""
        raise UserError(f"{where}: no column {', '.join(missing)} in the header{hint or ': add it'}")
    if double := sorted({name for name in cells if cells.count(name) > 1}):
        raise UserError(f"{where}: column {double[0]!r} occurs twice in the header: remove one")
    return cells


def write_table(path: Path, frame: pd.DataFrame) -> None:
    """Write `frame` as a csv that `read_table` reads back, whole or not at all.

    Cells are written as `str` gives them; None and NaN become empty. Raises UserError where a cell holds a line break,
    a zero byte or text that UTF-8 cannot encode.
    """
    import pandas as pd

    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(frame.columns)
    for number, row in enumerate(frame.itertuples(index=False, name=None), start=2):
        cells = ["" if not isinstance(cell, str) and pd.isna(cell) else str(cell) for cell in row]
        for cell in cells:
            if "\n" in cell or "\r" in cell or "\0" in cell or not _encodable(cell):
                raise UserError(f"{path} line {number}: {cell!a} cannot stand in a csv: rename it")
        writer.writerow(cells)
    write_text(path, out.getvalue())


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def number(low: float, high: float) -> pa.Column:
    """A column of text in which every cell is empty or a number from `low` to `high`."""

    import pandas as pd
    import pandera.pandas as pa

    def plausible(cells: pd.Series) -> pd.Series:
        values = pd.to_numeric(cells, errors="coerce")
        return (cells == "") | ((values >= low) & (values <= high))

    return pa.Column(str, pa.Check(plausible, error=f"a number from {low:g} to {high:g}"))


def checked(frame: pd.DataFrame, schema: pa.DataFrameSchema, path: Path) -> pd.DataFrame:
    """`frame` itself where it meets the schema; else UserError with the file, the line and the first bad cell."""
    import pandas as pd
    import pandera.pandas as pa

    if missing := [name for name in schema.columns if name not in frame]:
        raise UserError(f"{path}: no column {', '.join(missing)}: run the stage that writes it again")
    try:
        schema.validate(frame, lazy=True)
    except pa.errors.SchemaErrors as error:
        first = error.failure_cases.iloc[0]
        where = f"column {first['column']}" if first["schema_context"] == "Column" else "table"
        line = "" if pd.isna(first["index"]) else f" line {int(first['index']) + 2}"
        raise UserError(
            f"{path}{line}: {where}: {first['failure_case']!r} is not valid ({first['check']}); "
            f"{len(error.failure_cases)} such cells: run the stage that writes it again"
        ) from None
    return frame
