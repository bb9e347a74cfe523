"""What the commands that enrol and recognise print: sentences, or JSON and nothing else."""

import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

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


def say_answers(rows: list[dict[str, Any]], as_json: bool) -> None:
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
            said = f"accepted: {match.name}" if match.known else f"rejected{': ' * bool(match.refused)}{match.refused}"
            print(f"{row['rgb']}   {said}   score {match.score:.3f}")
    known = sum(bool(row["match"] and row["match"].known) for row in rows)
    failed = sum(row["match"] is None for row in rows)
    print(f"{len(rows)} pairs: {known} accepted, {len(rows) - known - failed} rejected, {failed} not answered")


def say_enrolled(people: "People", done: list["Enrolment"], as_json: bool) -> None:
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
        print_json({"pictures": rows, "people": len(found.names), "threshold": found.threshold, "note": found.note})
        return
    for one in done:
        said = "; ".join(one.reasons)
        if one.status != "enrolled" or said:
            warned = ", with a warning" if one.status == "enrolled" else ""
            print(f"{one.name}   {one.pair_id}   {one.status}{warned}{': ' if said else ''}{said}")
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

        return tqdm(items, unit="pair", file=sys.stderr, disable=None)

    return shown


def print_json(value: Any) -> None:
    from .base.atomic import plain

    print(json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False))
