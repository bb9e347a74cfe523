"""Tables of text on disk: strict csv in and out, paths that stay in their folder, checks of whole tables.

A table is all text: labels such as 001, NA, 1e5 or True come back byte for byte, and an empty cell is "",
never NaN.
"""

import csv
import hashlib
import io
import os
from pathlib import Path

import pandas as pd
import pandera.pandas as pa

from .atomic import UserError, write_text
from .pairs import STATUSES, unsafe_name

MATRIX = ["m00", "m01", "m02", "m10", "m11", "m12"]
POINTS = [f"{axis}{k}" for k in range(1, 6) for axis in "xy"]  # left, right eye, nose tip, mouth corners
DEPTH_MARKS = ["relief", "nose_dx", "nose_dy", "registration"]  # eye distances; see align.check_depth
ALIGNMENT_COLUMNS = [
    "pair_id", "subject_id", "status", "detail", "rgb_path", "depth_path",
    "n_faces", "choice", "found_at", "probability", "box_left", "box_top", "box_right", "box_bottom", *POINTS,
    *MATRIX, "depth_per_px", "valid_depth", *DEPTH_MARKS, "width", "height",
    "rgb_sha256", "depth_sha256", "aligned_rgb_sha256", "aligned_depth_sha256",
]  # fmt: skip


def read_table(path: Path, required_columns: list[str], sha256: str | None = None) -> pd.DataFrame:
    """The csv at `path`, every cell as text. Raises UserError with the line number where it is not plain csv.

    Legal: UTF-8 (a byte order mark is passed over), commas, a header with the required columns (others may be
    there too), rows of exactly the header's length, a line end after the last one (without it the file may
    have been cut). `sha256`: what the file's bytes must hash to, where that was recorded.
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
        raise UserError(f"{path} line {text.count(chr(10)) + 1}: no line end: the file was cut; write it again")
    header, rows, reader = None, [], csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for cells in reader:
            where = f"{path} line {reader.line_num}"
            if header is None:
                header = _checked_header(cells, required_columns, where)
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
    return pd.DataFrame(rows, columns=header, dtype=str)


def _checked_header(cells: list[str], required: list[str], where: str) -> list[str]:
    if missing := [name for name in required if name not in cells]:
        hint = ": separate cells by commas" if len(cells) == 1 and any(mark in cells[0] for mark in ";\t") else ""
        raise UserError(f"{where}: no column {', '.join(missing)} in the header{hint or ': add it'}")
    if double := sorted({name for name in cells if cells.count(name) > 1}):
        raise UserError(f"{where}: column {double[0]!r} stands twice in the header: remove one")
    return cells


def write_table(path: Path, frame: pd.DataFrame) -> None:
    """`frame` (cells of text; None and NaN become empty) as csv that `read_table` gives back, whole or not at
    all.
    """
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


def inside(root: Path, relative: str, base: Path | None = None, where: str = "") -> Path:
    """The path that a table's cell names, below `root`. Raises UserError naming the row (`where`) for any
    other.

    Refused: absolute paths, `~`, URLs, backslashes, control characters, `..` (unless `base`, the folder the
    cell is relative to, is given and the path comes back into `root`), and links that leave `root`. Nothing
    is opened.
    """
    text, label = str(relative), f"{where}: " if where else ""
    parts = text.split("/")
    problem = next(filter(None, map(unsafe_name, parts)), "")
    if not problem and (not text or text.startswith("/") or "://" in text or text.startswith("file:")):
        problem = "an absolute path, a URL or nothing at all"
    if not problem and ".." in parts and base is None:
        problem = "it climbs with .."
    if not problem:
        root, path = Path(os.path.abspath(root)), Path(os.path.abspath(Path(base or root) / text))
        if not path.is_relative_to(root) or path == root:
            problem = f"it leaves {root}"
        elif not _resolved(path).is_relative_to(_resolved(root)):
            problem = "a link leads out of the folder"
    if problem:
        raise UserError(f"{label}path {text!a} is refused ({problem}): name a file inside the data folder")
    return path


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except RuntimeError:  # a link to itself
        return Path("/")


# ---- checks of whole tables


def _number(low: float, high: float) -> pa.Column:
    """A column of text in which every cell is empty or a number from `low` to `high`."""

    def plausible(cells: pd.Series) -> pd.Series:
        values = pd.to_numeric(cells, errors="coerce")
        return (cells == "") | ((values >= low) & (values <= high))

    return pa.Column(str, pa.Check(plausible, error=f"a number from {low:g} to {high:g}"))


_named = pa.Column(str, pa.Check.str_length(min_value=1))
_PIXEL = _number(-1e6, 1e6)
AlignmentTable = pa.DataFrameSchema(
    {
        "pair_id": pa.Column(str, unique=True),
        "subject_id": _named,
        "status": pa.Column(str, pa.Check.isin(STATUSES)),
        **dict.fromkeys(["box_left", "box_top", "box_right", "box_bottom", *POINTS, *MATRIX], _PIXEL),
        "n_faces": _number(0, 1e6),
        "probability": _number(0, 1),
        "valid_depth": _number(0, 1),
        "depth_per_px": _number(1e-6, 1e6),
        **dict.fromkeys(DEPTH_MARKS, _number(-1e6, 1e6)),
    },
    checks=[
        pa.Check(
            lambda t: pd.Series(
                [p.startswith(s + "/") for p, s in zip(t["pair_id"], t["subject_id"], strict=True)], t.index
            ),
            error="pair_id is subject_id/name",
        ),
        pa.Check(
            lambda t: (
                (t["status"] != "ok")
                | (t[[*MATRIX, "depth_per_px", "rgb_sha256", "aligned_rgb_sha256"]] != "").all(axis=1)
            ),
            error="an aligned pair has a matrix, a depth scale and hashes",
        ),
        pa.Check(
            lambda t: (t["status"] == "ok") | (t["detail"] != ""),
            error="a pair that was not aligned has a reason",
        ),
    ],
)


def check_alignment(frame: pd.DataFrame, path: Path = Path("alignment.csv")) -> pd.DataFrame:
    """`frame` itself where it is a sound alignment table with at least one row; else UserError naming
    `path`.
    """
    if not len(frame):
        raise UserError(f"{path}: no rows: align a folder that holds pairs")
    return _checked(frame, AlignmentTable, path)


def _checked(frame: pd.DataFrame, schema: pa.DataFrameSchema, path: Path) -> pd.DataFrame:
    if missing := [name for name in schema.columns if name not in frame]:
        raise UserError(f"{path}: no column {', '.join(missing)}: run the stage that writes it again")
    try:
        schema.validate(frame, lazy=True)
    except pa.errors.SchemaErrors as error:
        first = error.failure_cases.iloc[0]
        where = f"column {first['column']}" if first["schema_context"] == "Column" else "table"
        line = "" if pd.isna(first["index"]) else f" line {int(first['index']) + 2}"
        raise UserError(
            f"{path}{line}: {where}: {first['failure_case']!r} is not as it should be ({first['check']}); "
            f"{len(error.failure_cases)} such cells: run the stage that writes it again"
        ) from None
    return frame
