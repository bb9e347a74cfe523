"""Systems of other people in the notebooks: embeddings of this run's pairs, or scores of pairs of their own."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..base.atomic import sha256_of
from ..base.errors import UserError
from ..base.paths import ROOT
from ..data.splits import Splits
from .embedding_files import read_embeddings
from .embeddings import Embeddings
from .protocol import unseen_people
from .score_files import ScoreSet, read_scores


@dataclass(frozen=True)
class OtherSystems:
    """What the files of other people hold, by the name of the file without its ending."""

    embeddings: dict[str, Embeddings]  # of the people never seen in training, in the order of `unseen_people`
    scores: dict[str, ScoreSet]
    notes: list[str]
    sha256: dict[str, str]  # by path


def read_systems(files: Iterable[str], division: Splits, taken: Iterable[str] = ()) -> OtherSystems:
    """The systems in `files`, whose paths are absolute or below the project's folder; see `read_embeddings`, `read_scores`.

    taken: names that other systems of the notebook have. UserError where two systems would share a name, or where
    embeddings lack a pair of a person never seen in training, or give it to another person.
    """
    found, names = OtherSystems({}, {}, [], {}), set(taken)
    for file in files:
        path = ROOT / file
        name = path.name.removesuffix(".gz").rsplit(".", 1)[0]
        if name in names:
            raise UserError(f"files: {file}: there is already a system {name}: rename the file")
        names.add(name)
        if path.suffix.lower() == ".npz":
            vectors, notes = read_embeddings(path)
            found.embeddings[name] = _of_these_people(vectors, division, path)
        else:
            scores = read_scores(path)
            found.scores[name], notes = scores, list(scores.notes)
        found.notes.extend(f"{name}: {note}" for note in notes)
        found.sha256[str(file)] = sha256_of(path)
    return found


def _of_these_people(vectors: Embeddings, division: Splits, path: Path) -> Embeddings:
    wanted = unseen_people(division)
    given = dict(zip(vectors.pair_ids.tolist(), vectors.subject_ids.tolist(), strict=True))
    if missing := [pair_id for pair_id in wanted["pair_id"] if pair_id not in given]:
        raise UserError(
            f"{path}: no embedding of {len(missing)} pairs of people never seen in training, the first {missing[0]}: "
            "embed them all, a failure as a vector of zeros"
        )
    for pair_id, person in zip(wanted["pair_id"], wanted["cls_name"], strict=True):
        if given[pair_id] != person:
            raise UserError(f"{path}: {pair_id} is of {given[pair_id]}, but this run's split says {person}")
    return vectors.select(wanted["pair_id"])
