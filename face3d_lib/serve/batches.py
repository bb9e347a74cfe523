"""Many pairs at once: a folder of people to enrol, a folder or a csv of pairs to identify, a folder of strangers.

One bad pair becomes a row with the reason and never stops the others. Each person is a change of its own, so a command
that was killed has enrolled the people it came to; the same command again goes on.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from ..base import paths
from ..base.errors import UserError
from ..base.tables import read_table
from ..data.convention import read_convention
from ..data.pairs import BadPair, find_pairs, require_usable
from ..evaluate.embeddings import Embeddings
from . import gate
from .gate import Finding
from .people import Enrolment, People
from .reading import Declared
from .recogniser import Recogniser

Progress = Callable[[Sequence], Iterable]


def enrol_folder(
    people: People,
    root: Path,
    declared: Declared,
    anyway: bool = False,
    progress: Progress = iter,
    begin: Callable[[], object] = lambda: None,
) -> list[Enrolment]:
    """Enrol everybody in `root`, a folder for each person as raw data; returns what became of each picture.

    begin: called once when the folder has been found usable, before anybody is enrolled.

    UserError where there is no usable pair, or where nothing says what depth means.
    """
    from ..data.decoding import read_pair

    rows = find_pairs(root)
    require_usable(root, [(row.status, row.detail) for row in rows])
    convention = read_convention(root, *declared)
    begin()
    done: list[Enrolment] = []
    for name, own in groupby(progress(rows), key=lambda row: row.subject_id):
        seen, failed = [], []
        for row in own:
            try:
                seen.append((people.recogniser.see(read_pair(row, convention)), convention))
            except BadPair as error:
                finding = Finding(error.status, True, str(error))
                failed.append(Enrolment(name, row.pair_id, "refused", (finding,)))
        try:
            done += [*people.enrol_seen(name, seen, anyway), *failed] if seen else failed
        except UserError as error:  # a name that cannot be used
            refused = (Finding("name", True, str(error)),)
            done += [Enrolment(name, one.pair.pair_id, "refused", refused) for one, _ in seen] + failed
    return done


def pairs_of(source: Path) -> list[tuple[Path, Path | None, str]]:
    """(picture, depth, why it cannot be read or "") of each pair in a folder as raw data, or in a csv with the columns rgb
    and depth, whose paths are relative to its folder.

    UserError where it cannot be read, holds no usable pair, or names a path outside of its folder.
    """
    if source.is_dir():
        rows = find_pairs(source)
        lacking = {row.pair_id for row in rows if row.status == "missing_depth"}  # some are asked without depth
        states = [("ok" if row.pair_id in lacking else row.status, row.detail) for row in rows]
        require_usable(source, states)
        return [
            (row.rgb_path or source / row.pair_id, row.depth_path, "" if status == "ok" else detail)
            for row, (status, detail) in zip(rows, states, strict=True)
        ]
    table, root = read_table(source, ["rgb", "depth"]), source.resolve().parent
    if not len(table):
        raise UserError(f"{source}: names no pair: give each a line with its picture and its depth")
    found: list[tuple[Path, Path | None, str]] = []
    for line, (rgb, depth) in enumerate(zip(table["rgb"], table["depth"], strict=True), 2):
        where = f"{source}, line {line}"
        found.append((paths.inside(root, rgb, where=where), paths.inside(root, depth, where=where), ""))
    return found


def identify_many(
    people: People,
    pairs: list[tuple[Path, Path | None, str]],
    declared: Declared,
    k: int = 5,
    allow_missing_depth: bool = False,
    liveness: bool = True,
    progress: Progress = iter,
) -> list[dict[str, Any]]:
    """The answer for each of `pairs_of`: rgb, depth, match and error, of which one is None.

    A pair whose depth is that of the pair before is nobody's. UserError, before the first pair, where the gallery cannot be asked.
    """
    rows, before = [], None
    people.ready()
    for rgb, depth, detail in progress(pairs):
        row: dict[str, Any] = {"rgb": str(rgb), "depth": str(depth) if depth else None, "match": None, "error": None}
        try:
            if detail:
                raise UserError(detail)
            seen, _ = people.see(rgb, depth, declared, allow_missing_depth)
            match = people.answer(seen, k, liveness)
            if before and liveness:
                match = match.unless(match.refused or gate.frozen(seen.pair, before))
            row["match"], before = match, seen.pair
        except UserError as error:
            row["error"] = str(error)
        rows.append(row)
    return rows


def strangers_of(root: Path, recogniser: Recogniser, declared: Declared, progress: Progress = iter) -> Embeddings:
    """The vectors of a folder of people of whom nobody is enrolled. Pairs that cannot be used are left out.

    UserError where no pair can be used.
    """
    from ..data.decoding import read_pair

    rows, convention = find_pairs(root), read_convention(root, *declared)
    require_usable(root, [(row.status, row.detail) for row in rows])
    ids, owners, vectors = [], [], []
    for row in progress(rows):
        try:
            vectors.append(recogniser.see(read_pair(row, convention)).vector)
        except BadPair:
            continue
        ids.append(row.pair_id)
        owners.append(row.subject_id)
    if not vectors:
        raise UserError(f"{root}: no pair in which a face with depth was found: name another folder of strangers")
    return Embeddings(np.array(ids), np.array(owners), np.stack(vectors))
