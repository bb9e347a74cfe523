"""Scores of other people's systems: read from the files that bob, pyeer and spreadsheets write, and written for them.

Formats that are read, each also compressed (.gz):

- bob's four columns (claimed person, real person, probe, score) or five (claimed, model, real, probe, score), separated
  by white space or commas, without a header; and its two columns, 1 or -1 for genuine or impostor, and the score;
- a table with a header and separated by commas, semicolons, tabs or spaces: a column `score`, and either the two people
  compared, in any of the names of PEOPLE (those of bob.bio.base among them), or a column that says genuine or impostor;
- pyeer's two lists, one of genuine and one of impostor scores: a score in each line, after any other columns.

What a file means is never guessed: where a word, a column or a number can be read in two ways, the file is refused, and
the message names the line.
"""

import csv
import gzip
import math
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..base.atomic import replacing
from ..base.errors import UserError
from .scores import Trials

SCORES = ("score", "scores", "similarity", "distance")
LABELS = ("label", "same", "same_person", "is_same", "genuine", "is_genuine", "mated", "match", "target")
PEOPLE = (  # the columns that name the two people of a comparison
    ("subject_id_a", "subject_id_b"),
    ("bio_ref_subject_id", "probe_subject_id"),
    ("claimed", "real"),
    ("claimed_id", "real_id"),
)
SIDES = (  # the columns that name what was compared: first side, second side
    ("pair_id_a", "bio_ref_template_id", "bio_ref_reference_id", "model_label", "model"),
    ("pair_id_b", "probe_template_id", "probe_reference_id", "probe_key", "key", "test_label", "label"),
)
MEANING = (  # pairs of words, genuine first; a file keeps to one pair
    ("1", "0"),
    ("1.0", "0.0"),
    ("1", "-1"),
    ("genuine", "impostor"),
    ("true", "false"),
    ("yes", "no"),
    ("same", "different"),
    ("mated", "nonmated"),
    ("mated", "non-mated"),
    ("match", "nonmatch"),
    ("match", "non-match"),
    ("target", "nontarget"),
    ("target", "non-target"),
)
LARGEST = 1e100  # a larger score is a fault, and the square of its square would overflow
ATTACK = "probe_attack_type"  # bob.bio.base: filled where the probe is a presentation attack
COLUMNS = ("bio_ref_subject_id", "bio_ref_template_id", "probe_subject_id", "probe_template_id", "score")  # as written


@dataclass(frozen=True, eq=False)
class ScoreSet:
    """Scores from files: those of genuine and those of impostor comparisons; higher means more alike."""

    genuine: np.ndarray  # (G,) float64
    impostor: np.ndarray  # (I,) float64
    trials: Trials | None  # the same comparisons with their people; None where the files name no people
    notes: tuple[str, ...] = ()


def read_scores(path: Path, second: Path | None = None, distances: bool = False) -> ScoreSet:
    """The comparisons in a file, or in a list of genuine scores and a `second` list of impostor scores.

    distances: the numbers are distances, lower means more alike; their signs are changed. UserError, with the line,
    where a number is not finite, a label is unknown, or the columns do not say who was compared.
    """
    if second is not None:
        found = _read_lists(Path(path), Path(second), -1.0 if distances else 1.0)
    else:
        found = _read_table(Path(path), distances)
    notes = list(found.notes)
    if distances:
        notes.append("the scores are the distances with their signs changed")
    if len(found.genuine) and len(found.impostor) and found.genuine.mean() < found.impostor.mean():
        cure = "leave out --distances" if distances else "give --distances if a lower number means more alike"
        swapped = "exchange the two files" if second is not None else "look at the labels"
        notes.append(
            f"warning: genuine scores ({found.genuine.mean():.4g}) are on average lower than impostor scores "
            f"({found.impostor.mean():.4g}): {cure}, or {swapped}"
        )
    return ScoreSet(found.genuine, found.impostor, found.trials, tuple(notes))


def write_trials(folder: Path, trials: Trials) -> None:
    """Write the comparisons into `folder` for bob and pyeer; `read_scores` reads each of these files back exactly.

    scores.csv is the table of bob.bio.base, with the person and the picture of either side. four_columns.txt is that of
    bob.measure. genuine.txt and impostor.txt are pyeer's two lists, with the two pictures before each score. In the
    text files, white space in a name becomes an underscore; UserError where two names would become one.
    """
    people, pictures = _words(trials.subject_ids, "person"), _words(trials.pair_ids, "picture")
    first, second = trials.a.tolist(), trials.b.tolist()
    rows = list(zip(first, second, [repr(score) for score in trials.score.tolist()], trials.same.tolist(), strict=True))
    with replacing(folder / "scores.csv") as sibling, open(sibling, "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        who, what = trials.subject_ids.tolist(), trials.pair_ids.tolist()
        table.writerows((who[a], what[a], who[b], what[b], score) for a, b, score, _ in rows)
    with replacing(folder / "four_columns.txt") as sibling, open(sibling, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{people[a]} {people[b]} {pictures[b]} {score}\n" for a, b, score, _ in rows)
    for name, kind in (("genuine.txt", True), ("impostor.txt", False)):
        with replacing(folder / name) as sibling, open(sibling, "w", encoding="utf-8", newline="\n") as file:
            file.writelines(f"{pictures[a]} {pictures[b]} {score}\n" for a, b, score, same in rows if same == kind)


def _words(names: np.ndarray, what: str) -> list[str]:
    """The names without white space, which separates the columns of text files; a `#` in front would be a comment."""
    words = ["_".join(name.split()) or "_" for name in names.tolist()]
    words = [f"_{word}" if word.startswith("#") else word for word in words]
    if len(set(words)) < len(set(names.tolist())):
        raise UserError(f"two names of a {what} differ only in white space: rename one")
    return words


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number, text) of the lines that are not empty, of UTF-8 with or without byte order mark.

    Line ends may be those of any system, and a file named .gz is unpacked. UserError where the file is no text.
    """
    number = 0
    try:
        packed = Path(path).suffix == ".gz"
        with gzip.open(path, "rt", encoding="utf-8-sig") if packed else open(path, encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if "\0" in line:
                    raise UserError(f"{path} line {number}: holds a zero byte: this is no table of scores")
                if line.strip():
                    yield number, line.rstrip("\n")
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 after line {number}: save the table as UTF-8") from None
    except (OSError, EOFError, zlib.error) as error:
        if isinstance(error, FileNotFoundError):
            raise UserError(f"{path}: not there: correct the path") from None
        raise UserError(f"{path}: cannot be read after line {number} ({error})") from None


def _number(text: str, where: str, sign: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
        hint = ": write a point, not a comma" if "," in text else ": correct the line"
    else:
        failed = "a failed comparison has no score; leave it out, and state the failures by --fta"
        hint = f": {failed}" if math.isnan(value) else ": correct the line"
    if not abs(value) < LARGEST or "_" in text:
        raise UserError(f"{where}: the score {text!r} is not a finite number, or too large{hint}")
    return sign * value


def _read_lists(genuine: Path, impostor: Path, sign: float) -> ScoreSet:
    if "impostor" in genuine.name.lower() or "genuine" in impostor.name.lower():
        raise UserError(f"{genuine}, {impostor}: name the genuine scores first, then the impostor scores")
    found = []
    for path in (genuine, impostor):
        values, width = array("d"), 0
        for number, text in numbered_lines(path):
            if text.startswith("#"):
                continue
            cells = text.split()
            width = width or len(cells)
            if len(cells) != width:
                raise UserError(f"{path} line {number}: {len(cells)} columns, {width} in the lines before")
            values.append(_number(cells[-1], f"{path} line {number}", sign))
        if not len(values):
            raise UserError(f"{path}: no score in it: give two lists, genuine and impostor, with a score in each line")
        found.append(np.array(values))
    return ScoreSet(found[0], found[1], None)


def _read_table(path: Path, distances: bool) -> ScoreSet:
    lines = numbered_lines(path)
    first = next(((number, text) for number, text in lines if not text.startswith("#")), None)
    if first is None:
        raise UserError(f"{path}: empty: a table of scores has a line for each comparison")
    number, text = first
    where, sign = f"{path} line {number}", -1.0 if distances else 1.0
    mark, columns = _layout(text, where, distances)
    rows = _Rows(path, columns)
    if not columns.header:
        rows.add(number, _cells(text, mark, f"{path} line {number}"), sign)
    for number, text in lines:
        if columns.header or not text.startswith("#"):  # a comment for bob; below a header, it may be a name
            rows.add(number, _cells(text, mark, f"{path} line {number}"), sign)
    if not len(rows.scores):
        raise UserError(f"{where}: a header and no comparison below it")
    return rows.result()


def _layout(text: str, where: str, distances: bool) -> tuple[str, "_Columns"]:
    """The mark between the columns and their meaning, from the first line; UserError where they have none."""
    marks = [mark for mark in ",;\t " if len(_cells(text, mark, where)) > 1]
    for mark in marks:
        header = [cell.lower() for cell in _cells(text, mark, where)]
        if any(name in header for name in SCORES):
            return mark, _columns_of(header, where, distances)
    for mark in reversed(marks):  # white space first: a comma may stand in a number
        cells = _cells(text, mark, where)
        if len(cells) in (4, 5) and cells[-1][:1] in set("+-.0123456789iInN"):  # a number, or inf or nan
            return mark, _bob(len(cells))
        if len(cells) == 2 and cells[0] in ("1", "-1"):
            return mark, _bob(2)
    raise UserError(
        f"{where}: no header with a column score, and not the columns of bob: give columns that say who was compared "
        "(claimed, real, probe, score), a header (score, label), or two lists, one of genuine and one of impostor scores"
    )


def _cells(text: str, mark: str, where: str) -> list[str]:
    if mark == " ":
        return text.split()
    try:
        cells = next(csv.reader([text], delimiter=mark)) if '"' in text else text.split(mark)
    except csv.Error as error:
        raise UserError(f"{where}: not plain csv ({error}): correct the line") from None
    return [cell.strip() for cell in cells]


@dataclass(frozen=True)
class _Columns:
    """Where in a row the score, the label, the two people and the two sides stand; None where the file has none."""

    width: int
    score: int
    label: int | None = None
    people: tuple[int, int] | None = None
    sides: tuple[int | None, int | None] = (None, None)
    attack: int | None = None
    header: bool = False


def _bob(width: int) -> _Columns:
    """The columns of bob: claimed, real, probe, score; claimed, model, real, probe, score; or 1 or -1, score."""
    if width == 2:
        return _Columns(2, 1, label=0)
    if width == 4:
        return _Columns(4, 3, people=(0, 1), sides=(None, 2))
    return _Columns(5, 4, people=(0, 2), sides=(1, 3))


def _columns_of(header: list[str], where: str, distances: bool) -> _Columns:
    """The columns of a table with a header; UserError where it says neither who was compared nor what is genuine."""
    if double := sorted({name for name in header if header.count(name) > 1}):
        raise UserError(f"{where}: column {double[0]!r} occurs twice in the header: remove one")
    scores = [name for name in SCORES if name in header]
    if len(scores) > 1:
        raise UserError(f"{where}: columns {' and '.join(scores)}: keep one of them")
    if scores == ["distance"] and not distances:
        raise UserError(f"{where}: column distance: give --distances, if a lower number means more alike")
    people = next(((header.index(a), header.index(b)) for a, b in PEOPLE if a in header and b in header), None)
    labels = [name for name in LABELS if name in header and (people is None or name != "label")]
    if len(labels) > 1:
        raise UserError(f"{where}: columns {' and '.join(labels)}: keep the one that says genuine or impostor")
    if people is None and not labels:
        raise UserError(
            f"{where}: neither people nor labels beside the score: give the columns subject_id_a and subject_id_b, or a "
            "column label with genuine and impostor"
        )
    sides = [next((header.index(name) for name in names if name in header), None) for names in SIDES]
    return _Columns(
        width=len(header),
        score=header.index(scores[0]),
        label=header.index(labels[0]) if labels else None,
        people=people,
        sides=(sides[0], sides[1]) if people else (None, None),
        attack=header.index(ATTACK) if ATTACK in header else None,
        header=True,
    )


class _Rows:
    """The rows of a table, collected in arrays: names are kept once, so that long files need little memory."""

    def __init__(self, path: Path, columns: _Columns):
        self.path, self.columns = path, columns
        self.scores, self.labels = array("d"), array("b")
        self.a, self.b = array("l"), array("l")  # rows of `entries`
        self.entries: dict[tuple[str, str, str], int] = {}  # (side, person, what was compared) -> its row
        self.meaning = [pair for pair in MEANING if columns.header or pair == ("1", "-1")]  # that fit all labels so far

    def add(self, number: int, cells: list[str], sign: float) -> None:
        columns, where = self.columns, f"{self.path} line {number}"
        if len(cells) != columns.width:
            raise UserError(f"{where}: {len(cells)} columns, {columns.width} in the first line: correct the line")
        self.scores.append(_number(cells[columns.score], where, sign))
        if columns.attack is not None and cells[columns.attack]:
            raise UserError(f"{where}: a presentation attack is neither genuine nor impostor: leave such rows out")
        if columns.people is not None:
            for side, rows, person, what in zip("ab", (self.a, self.b), columns.people, columns.sides, strict=True):
                name = cells[person]
                if not name:
                    raise UserError(f"{where}: a person without a name: fill the cell")
                entry = (side, name, name if what is None else cells[what])
                rows.append(self.entries.setdefault(entry, len(self.entries)))
        if columns.label is not None:
            self.labels.append(self._label(cells[columns.label], where))
            if columns.people is not None:
                same = cells[columns.people[0]] == cells[columns.people[1]]
                if same != (self.labels[-1] == 1):
                    raise UserError(f"{where}: the label says {cells[columns.label]!r}, the people say otherwise")

    def _label(self, text: str, where: str) -> int:
        word = text.lower()
        left = [pair for pair in self.meaning if word in pair]
        if not left:
            known = any(word in pair for pair in MEANING)
            fault = "belongs to another pair of words than the labels above" if known else "is no known label"
            words = ", ".join("/".join(pair) for pair in MEANING[:5])
            raise UserError(f"{where}: label {text!r} {fault}: write all labels as one of {words}")
        self.meaning = left
        return int(word == left[0][0])

    def result(self) -> ScoreSet:
        score = np.array(self.scores)
        if self.columns.people is None:
            same = np.array(self.labels, bool)
            return ScoreSet(score[same], score[~same], None)
        names = np.array([person for _, person, _ in self.entries])
        pictures = np.array([what for _, _, what in self.entries])
        trials = Trials(score, np.array(self.a, np.int64), np.array(self.b, np.int64), pictures, names)
        return ScoreSet(trials.genuine, trials.impostor, trials, self._repeated(trials))

    def _repeated(self, trials: Trials) -> tuple[str, ...]:
        """A note where comparisons occur more than once; without names of what was compared this cannot be known."""
        if None in self.columns.sides:
            return ()
        distinct, first = np.unique(trials.a * len(trials.pair_ids) + trials.b, return_index=True)
        if len(distinct) == len(trials.a):
            return ()
        again = np.ones(len(trials.a), bool)
        again[first] = False
        row = again.argmax()
        left, right = trials.pair_ids[trials.a[row]], trials.pair_ids[trials.b[row]]
        return (f"{again.sum()} comparisons occur again, the first of {left} with {right}; all are counted",)
