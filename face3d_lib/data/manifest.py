"""manifest.csv, in which a data set gives what is known about its pictures: session, condition, true points.

A data set may hold a file `manifest.csv` in its root folder. It is a csv in UTF-8 with commas and a header:

    pair_id,session,condition
    anna/0001,2024-03-01,glasses
    anna/0002,2024-03-08,

- `pair_id` (required) is the person's folder, a slash and the file's name without its extension. A name with an
  extension (`anna/0001.png`, `anna/0001.depth.png`), with backslashes or a leading `./`, or in another Unicode
  form is understood as well.
- `session` says when or where a picture was taken. People are enrolled with the pictures of their first session
  and probed with those of later ones. Sessions are in natural order: 2 before 10, s2 before s10,
  2024-02-01 before 2024-10-01, and 31.12.2023 before 01.01.2024. An empty cell means that the session is not
  known; such pictures form no session.
- `condition` is shown beside pictures. Without such a column, `pose` is used in its place.
- Any other column is kept: notebook 10 reports failures by `pose`, `occlusion`, `glasses` and `light`.

Capitals and spaces around a column's name do not matter: `Session` is `session`.

Each picture has at most one row, and a row that fits no picture is reported. A manifest.csv whose header says
neither pair_id nor session belongs to another program: it is not used, and a note says so.
"""

import os
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ..base.errors import UserError
from ..base.tables import read_table
from .pairs import OTHER_PICTURES, PICTURES

NAME = "manifest.csv"
_EXTENSION = re.compile(
    r"(\.depth\.png|\.npy|" + "|".join(map(re.escape, PICTURES + OTHER_PICTURES)) + r")$", re.IGNORECASE
)
_DATE = re.compile(r"(\d{1,2})([./-])(\d{1,2})\2(\d{4})(?!\d)")  # the year is last; day and month in any order


@dataclass(frozen=True)
class Manifest:
    """The rows of manifest.csv, matched to the pairs of the data set, and notes for the user."""

    rows: pd.DataFrame  # text; pair_id (as `pairs.find_pairs` gives it, each once), session, condition, other columns
    notes: tuple[str, ...]  # sentences that the user should read, such as how many rows fit no picture


def read_manifest(root: Path, pair_ids: Iterable[str]) -> Manifest:
    """The manifest.csv in `root`, matched to `pair_ids`; without rows where there is no such file.

    Raises UserError with the file's name, the line and the fix where the file cannot be read as the table that
    the top of this file describes, where two rows contradict each other or are the same, or where no row at all
    fits a pair.
    """
    path, pair_ids = Path(root) / NAME, list(pair_ids)
    nothing = pd.DataFrame(columns=["pair_id", "session", "condition"], dtype=str)
    if not os.path.lexists(path):
        return Manifest(nothing, ())
    if not path.is_file():
        raise UserError(f"{path}: is no file that can be read (a folder, or a link to nothing?): mend or remove it")
    if not _is_meant_for_us(path):
        return Manifest(nothing, (f"{path}: has no column pair_id, so it is not used, and no session is known",))
    table = _with_plain_columns(path).apply(lambda cells: cells.str.strip())
    if not len(table):
        return Manifest(nothing, (f"{path}: has no rows, so no session is known",))
    known = _exact_names(pair_ids)
    table = table.assign(found=[known.get(text) or known.get(_plain(text), "") for text in table["pair_id"]])
    _require_one_row_each(table, path)
    missed = table[table["found"] == ""]
    if len(missed) == len(table) and pair_ids:
        raise UserError(
            f"{path}: no row fits a pair: its first pair_id is {table['pair_id'].iloc[0]!r}, the first pair is "
            f"{pair_ids[0]!r}: write pair_ids as <person>/<name without extension>"
        )
    rows = table[table["found"] != ""].drop_duplicates("found")
    notes = []
    if len(missed):
        notes.append(f"{path}: {len(missed)} of {len(table)} rows fit no pair, such as {missed['pair_id'].iloc[0]!r}")
    if len(rows) < len(pair_ids):
        given = set(rows["found"])
        absent = next(pair_id for pair_id in pair_ids if pair_id not in given)
        notes.append(f"{path}: {len(pair_ids) - len(rows)} of {len(pair_ids)} pairs have no row, such as {absent!r}")
    rows = rows.assign(pair_id=rows["found"]).drop(columns="found").reset_index(drop=True)
    if "session" not in rows:
        rows["session"] = ""
    if (rows["session"] == "").all():
        notes.append(f"{path}: no row names a session, so no session is known")
    if "condition" not in rows:
        rows["condition"] = rows.get("pose", "")
    session_keys(set(rows["session"]) - {""}, path)  # this refuses dates that can be read in two ways
    return Manifest(rows, tuple(notes))


def _with_plain_columns(path: Path) -> pd.DataFrame:
    """The table with its columns' names in lower case and without spaces around them; UserError as of `read_table`."""
    table = read_table(path, [])
    columns = [name.strip().casefold() for name in table.columns]
    plain = dict(zip(table.columns, columns, strict=True))
    if "pair_id" not in columns or len(set(columns)) < len(columns):
        table = read_table(path, ["pair_id"])  # raises the error that names the missing column
        double = next(name for name in columns if columns.count(name) > 1)
        raise UserError(f"{path} line 1: column {double!r} occurs twice in the header: remove one")
    return table.rename(columns=plain)


def session_keys(sessions: Iterable[str], path: Path = Path(NAME)) -> dict[str, tuple]:
    """A sort key for each of the `sessions` of a data set, for natural order.

    Numbers inside the texts count as numbers. Dates with the year last count as dates; whether the day or the
    month comes first follows from a number above 12 in any of them. In dates with dots (31.12.2023) the day comes
    first. Raises UserError where a set of dates can be read in both ways and the
    order of the sessions depends on it.
    """
    sessions = sorted(sessions)
    dates = {text: match for text in sessions if (match := _DATE.search(text))}
    numbers = [(int(match[1]), int(match[3])) for match in dates.values()]
    day_first = any(first > 12 for first, _ in numbers) or any(match[2] == "." for match in dates.values())
    month_first = any(second > 12 for _, second in numbers)
    one, other = ({text: _key(text, dates.get(text), first) for text in sessions} for first in (True, False))
    open_question = dates and day_first == month_first
    if open_question and sorted(sessions, key=one.__getitem__) != sorted(sessions, key=other.__getitem__):
        raise UserError(
            f"{path}: session {next(iter(dates))!r}: day and month cannot be told apart: write dates as 2024-01-31"
        )
    return one if day_first else other


def _key(text: str, date: re.Match | None, day_first: bool) -> tuple:
    if date:
        day, month = (date[1], date[3]) if day_first else (date[3], date[1])
        text = f"{text[: date.start()]}{date[4]}-{month}-{day}{text[date.end() :]}"
    parts = re.split(r"(\d+)", unicodedata.normalize("NFC", text).casefold())
    return tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts if part), text


def _is_meant_for_us(path: Path) -> bool:
    """Whether the first line of `path` names pairs or sessions, whatever separates its words."""
    try:
        with open(path, "rb") as file:
            first = file.readline(10_000).replace(b"\0", b"").lower()  # without zero bytes UTF-16 reads like ASCII
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}): check its permissions") from None
    return b"pair_id" in first or b"pair id" in first or b"session" in first


def _plain(text: str) -> str:
    """A pair_id as it is compared: no extension, slashes, no leading ./, Unicode form NFC."""
    text = unicodedata.normalize("NFC", text).replace("\\", "/")
    return _EXTENSION.sub("", re.sub(r"^(\./|/)+", "", text))


def _exact_names(pair_ids: list[str]) -> dict[str, str]:
    """Spelling -> the pair_id that it means; a spelling that could mean two pairs is left out."""
    known: dict[str, str] = {}
    for pair_id in pair_ids:
        form = _plain(pair_id)
        known[form] = "" if form in known else pair_id
    return known | {pair_id: pair_id for pair_id in pair_ids}


def _require_one_row_each(table: pd.DataFrame, path: Path) -> None:
    """Raise UserError where one pair has two rows; equal rows for the two files of a pair count as one."""
    for _, rows in table[table["found"] != ""].groupby("found", sort=False):
        values = rows.drop(columns=["pair_id", "found"])
        if len(rows) > 1 and (rows["pair_id"].duplicated().any() or len(values.drop_duplicates()) > 1):
            lines = " and ".join(str(index + 2) for index in rows.index[:2])
            raise UserError(f"{path} lines {lines}: {rows['found'].iloc[0]!r} occurs twice: keep one row")
