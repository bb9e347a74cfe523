"""The audit before any number: nobody and no picture is in two places that must be apart.

A person who was trained on and is tested, a person who is enrolled and plays the unknown, or a picture that is there
under two names makes rates look better than they are. Such cases are refused, with the names.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from ..base.errors import UserError
from ..data.splits import OPENED, Splits, check_splits, first_names
from .embeddings import Embeddings

if TYPE_CHECKING:  # both need torch, and who only rates embeddings needs none
    from ..data.pack import Pack
    from ..train.model_files import ModelCard

APART = (("train", "dev"), ("train", "test"), ("dev", "test"), ("gallery", "unknown"), ("probe", "unknown"))
EQUAL = 1e-5  # largest difference of two vectors of one picture; embedding it in another batch moves it by less


def audit_split(division: Splits, cards: Mapping[str, "ModelCard"], packed: "Pack | None" = None) -> list[str]:
    """What was audited in a split and the networks that will be rated on it, as sentences for the reader.

    `cards`: the networks' cards by name; `packed`: the pack of the split. Raises UserError, with the names, where an
    image, an exact copy of a picture or of a depth map, or a person is in two parts that must be apart
    (`splits.check_splits`), where the table of comparisons joins people who must be apart or says wrongly whether
    two pictures show one person, and where a network was trained on a dev or test person. The last can be told only
    of networks that were trained on this pack, because people of other data sets may share a name.
    """
    check_splits(division)
    unseen = {name: getattr(division, name) for name in OPENED}
    person: dict[str, str] = {}
    group: dict[str, str] = {}
    for frame in unseen.values():
        person |= dict(zip(frame["pair_id"], frame["cls_name"], strict=True))
        group |= dict(zip(frame["pair_id"], frame["group"], strict=True))
    _audit_comparisons(division, person, group)
    found = [
        f"audited: {len(set(person.values()))} people never seen in training, {len(division.train['cls_name'].unique())} "
        f"training people, nobody in both; no picture and no depth map is there twice; {len(division.pairs)} comparisons"
    ]
    for name, card in cards.items():
        if packed is not None and card.pack_sha256 != packed.info["sha256"]:
            found.append(f"not audited: {name} was trained on another pack, whose people may have the same names")
        elif both := set(card.classes) & set(person.values()):
            raise UserError(
                f"{name} was trained on people of this split's dev and test people: {first_names(both)}: train it on this split"
            )
    return found


def _audit_comparisons(division: Splits, person: dict[str, str], group: dict[str, str]) -> None:
    table = division.pairs
    for side in ("pair_id_a", "pair_id_b"):
        if missing := set(table[side]) - set(person):
            raise UserError(
                f"pairs.csv compares pictures that are not in the open set: {first_names(missing)}: split again"
            )
        wrong = table.loc[table[side].map(group) != table["group"], side]
        if len(wrong):
            raise UserError(f"pairs.csv has pictures of the other group: {first_names(wrong)}: split again")
    same = (table["pair_id_a"].map(person) == table["pair_id_b"].map(person)).map({True: "1", False: "0"})
    wrong = table.loc[same != table["same"], "pair_id_a"]
    if len(wrong):
        raise UserError(f"pairs.csv is wrong in column same in {len(wrong)} rows: {first_names(wrong)}: split again")


def audit_embeddings(
    vectors: Embeddings,
    roles: ArrayLike | None = None,
    apart: Iterable[tuple[str, str]] = APART,
    refuse_copies: bool = True,
) -> list[str]:
    """What the reader should know about embeddings before they are rated, as sentences; [] where all is well.

    `roles` (N,): the role of each embedding, such as train, dev, test, gallery, probe or unknown. Raises UserError, with
    the names, where a person has two roles that must be `apart`, where a pair_id occurs twice, and where two pair_ids
    have one and the same vector, which is one picture under two names. With refuse_copies=False the last is a sentence
    in place of an error: published data sets hold such copies.
    """
    pair_ids, subjects = np.asarray(vectors.pair_ids), np.asarray(vectors.subject_ids)
    ids, counts = np.unique(pair_ids, return_counts=True)
    if (counts > 1).any():
        raise UserError(f"embeddings: pair_ids that occur twice: {first_names(ids[counts > 1])}: keep one of each")
    if roles is not None:
        given = np.asarray(roles)
        if len(given) != len(subjects):
            raise UserError(f"embeddings: {len(given)} roles for {len(subjects)} embeddings: give one role for each")
        for left, right in apart:
            if both := set(subjects[given == left].tolist()) & set(subjects[given == right].tolist()):
                raise UserError(
                    f"people with the roles {left} and {right}: {first_names(both)}: give each person one of them"
                )
    if not (copies := _equal(np.asarray(vectors.vectors))):
        return []
    shown = [f"{pair_ids[a]} = {pair_ids[b]}" for a, b in copies]
    others = sum(bool(subjects[a] != subjects[b]) for a, b in copies)
    text = f"{len(copies)} pairs of embeddings are equal ({others} of two people): {first_names(shown)}"
    if refuse_copies:
        raise UserError(f"{text}: one picture under two names, or a collapsed network: remove the copies")
    return [f"{text}; they are rated like all others"]


def _equal(vectors: np.ndarray) -> list[tuple[int, int]]:
    """Rows a < b of equal vectors (N, D) that are not zero: neighbours on a random line are compared, not all pairs."""
    rows = np.flatnonzero(np.any(vectors, axis=1))
    line = vectors[rows] @ np.random.default_rng(0).normal(size=vectors.shape[1])
    order = rows[np.argsort(line)]
    line, reach = np.sort(line), 3 * EQUAL * np.sqrt(vectors.shape[1])
    found: list[tuple[int, int]] = []
    for step in range(1, len(order)):
        near = np.flatnonzero(line[step:] - line[:-step] <= reach)
        if not len(near) or len(found) > 10 * len(order):  # with a collapsed network all vectors are equal
            break
        left, right = order[near], order[near + step]
        equal = np.abs(vectors[left] - vectors[right]).max(axis=1) <= EQUAL
        found += [(int(min(a, b)), int(max(a, b))) for a, b in zip(left[equal], right[equal], strict=True)]
    return sorted(found)
