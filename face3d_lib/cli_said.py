"""What the commands that enrol and recognise print: sentences, or JSON and nothing else."""

import json
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .serve.names import letters

if TYPE_CHECKING:
    from .serve.gallery import Match
    from .serve.people import Enrolment, People


def say_match(match: "Match", note: str, as_json: bool) -> None:
    if as_json:
        print_json(match_as_dict(match) | {"note": note})
        return
    verdict = f"accepted: {match.name}" if match.known else f"rejected: {match.refused or 'nobody who is enrolled'}"
    print(f"{verdict}   score {match.score:.3f}   threshold {match.threshold:.3f} ({note})")
    nearest = ", ".join(f"{person} {score:.3f}" for person, score in match.candidates)
    print(f"nearest: {nearest or 'nobody is enrolled'}")
    say_faces(match.faces)


def say_faces(count: int, where: str = "the picture") -> None:
    if count > 1:
        print(
            f"{count} faces are in {where}, and only one was compared, the largest: crop it to the person who is meant"
        )


def match_as_dict(match: "Match") -> dict[str, Any]:
    candidates = [{"name": name, "score": score} for name, score in match.candidates]
    facts = {"known": match.known, "name": match.name, "score": match.score, "threshold": match.threshold}
    facts |= {"refused": match.refused or None, "faces": match.faces}
    return facts | {"candidates": candidates}


def say_answers(rows: list[dict[str, Any]], as_json: bool, enrolled: Iterable[str] = ()) -> None:
    """enrolled: names of the gallery where the pictures lie in a folder per person, so that right answers can be counted."""
    if as_json:
        answers = [
            {"rgb": row["rgb"], "depth": row["depth"], "error": row["error"]}
            | (match_as_dict(row["match"]) if row["match"] else {})
            for row in rows
        ]
        print_json({"answers": answers})
        return
    for row in rows:
        match = row["match"]
        if match is None:
            print(f"{row['rgb']}   not answered: {row['error'].removeprefix(row['rgb'] + ': ')}")
        else:
            nearest = f", nearest {match.candidates[0][0]}" if match.candidates else ""
            said = f"accepted: {match.name}" if match.known else f"rejected{': ' * bool(match.refused)}{match.refused}"
            print(f"{row['rgb']}   {said}   score {match.score:.3f}{'' if match.known else nearest}")
    known = sum(bool(row["match"] and row["match"].known) for row in rows)
    failed = sum(row["match"] is None for row in rows)
    print(f"{len(rows)} pairs: {known} accepted, {len(rows) - known - failed} rejected, {failed} not answered")
    names = set(map(letters, enrolled))
    own = [row for row in rows if letters(Path(row["rgb"]).parent.name) in names]
    if own:
        named = [row for row in own if row["match"] and row["match"].known]
        right = sum(letters(row["match"].name) == letters(Path(row["rgb"]).parent.name) for row in named)
        print(f"of {len(own)} pictures of enrolled people, by their folders: {right} got the right name, ", end="")
        print(f"{len(named) - right} another one, {len(own) - len(named)} none")


def _reasons(one: "Enrolment") -> str:
    """What refuses a picture first, and then what only speaks against it."""
    first, rest = (
        "; ".join(f.message for f in one.findings if f.refused == refused)
        for refused in (one.status == "refused", one.status != "refused")
    )
    return f"{first} (besides: {rest})" if first and rest else first or rest


def say_enrolled(people: "People", done: list["Enrolment"], as_json: bool) -> None:
    from .serve.check import doubt_of

    found = people.gallery
    if as_json:
        rows = [
            {
                "name": one.name,
                "pair_id": one.pair_id,
                "status": one.status,
                "reasons": one.reasons,
                "weight": one.weight,
            }
            for one in done
        ]
        facts = {"people": len(found.names), "threshold": found.threshold, "note": found.note}
        print_json({"pictures": rows, **facts, "doubt": doubt_of(found) or None})
        return
    for one in done:
        said = _reasons(one)
        if one.status != "enrolled" or said:
            warned = ", with a warning" if one.status == "enrolled" else ""
            print(f"{one.name}   {one.pair_id}   {one.status}{warned}{': ' if said else ''}{said}")
    if doubt := doubt_of(found):
        print(f"look here: {doubt}")
    counts = {status: sum(one.status == status for one in done) for status in ("enrolled", "known", "refused")}
    print(
        f"{counts['enrolled']} pictures enrolled, {counts['known']} were enrolled before, {counts['refused']} refused; "
        f"{len(found.names)} people   threshold {found.threshold:.3f} ({found.note})"
    )


def progress(as_json: bool) -> Any:
    """What shows the progress of an iterable on the standard error, or does nothing with --json."""
    if as_json:
        return iter

    def shown(items: Iterable) -> Iterable:
        from tqdm.auto import tqdm

        width = (
            shutil.get_terminal_size().columns
        )  # 80 where a terminal says that it has none, and tqdm would stay blank
        return tqdm(items, unit="pair", file=sys.stderr, disable=None, ncols=width)

    return shown


def print_json(value: Any) -> None:
    from .base.atomic import plain

    print(json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False))
