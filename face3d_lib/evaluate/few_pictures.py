"""What a network that was tuned on few people and pictures is worth: to these people, and to people never seen.

A draw chooses the people and the pictures to tune on. People are named by templates: the mean of the embeddings of the
pictures that were tuned on. A network that was not tuned is asked the same questions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..base.errors import UserError
from .embeddings import Embeddings
from .intervals import Interval, mean_bootstrap, paired_bootstrap, subject_bootstrap
from .metrics.curves import eer_of
from .metrics.identification import leave_one_out_rank1
from .scores import Trials, cosine, genuine_impostor, templates

REPLICATES = 400


@dataclass(frozen=True)
class Draw:
    """Positions among all pictures."""

    train: np.ndarray  # (n,) the pictures to tune on, with the same number for each person
    labels: np.ndarray  # (n,) int64, the person of each, from 0 to C-1
    probes: np.ndarray  # (P,) other pictures of the same people


def divide(subjects: np.ndarray, strangers: int, at_most: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(positions of the pictures of people who may be tuned on, positions of those of strangers), each sorted.

    subjects: (N,) the person of each picture. strangers: the number of people whom nothing is ever tuned on, 0 for half
    of all. A stranger has `at_most` pictures at most, drawn at random. UserError: fewer than 3 people are left on
    either side.
    """
    names, rng = np.unique(subjects), np.random.default_rng(seed)
    n = strangers or len(names) // 2
    if not 3 <= n <= len(names) - 3:
        raise UserError(f"{n} of {len(names)} people as strangers: at least 3 must be strangers and 3 must not")
    kept = rng.permutation(names)[:n]
    chosen = [rng.permutation(np.flatnonzero(subjects == name))[:at_most] for name in kept]
    return np.flatnonzero(~np.isin(subjects, kept)), np.sort(np.concatenate(chosen))


def draw(
    subjects: np.ndarray, pool: np.ndarray, people: int, pictures: int, most: int, at_most: int, seed: int
) -> Draw:
    """`people` people of the pictures `pool`, and `pictures` pictures of each; up to `at_most` others are their probes.

    Draws of one seed with fewer people or pictures are parts of those with more, up to `most` pictures, and the probes
    of a person do not change. UserError: not enough people have more than `most` pictures.
    """
    rng = np.random.default_rng(seed)
    mine = {name: rng.permutation(pool[subjects[pool] == name]) for name in rng.permutation(np.unique(subjects[pool]))}
    able = [rows for rows in mine.values() if len(rows) > most][:people]
    if len(able) < people:
        raise UserError(f"{people} people with more than {most} pictures each: {len(able)} are there: ask for fewer")
    train, probes = ([rows[part] for rows in able] for part in (slice(pictures), slice(most, most + at_most)))
    return Draw(np.concatenate(train), np.repeat(np.arange(people), pictures), np.concatenate(probes))


@dataclass(frozen=True)
class Outcome:
    """What one network gave in one draw."""

    right: np.ndarray  # (P,) bool: the probe was given the right name
    asked: np.ndarray  # (P,) its person
    alike: np.ndarray  # (S,) leave-one-out rank-1 of each stranger's picture, NaN where it is the only one
    strangers: np.ndarray  # (S,) its person
    trials: Trials  # all comparisons of two pictures of strangers


def outcome(vectors: np.ndarray, subjects: np.ndarray, drawn: Draw, strangers: np.ndarray) -> Outcome:
    """The outcome of a network with the embeddings `vectors` (N, D) of unit length; subjects (N,); strangers (S,)."""
    ids = np.arange(len(subjects)).astype(str)
    train, probes, others = (
        Embeddings(ids[rows], subjects[rows], vectors[rows]) for rows in (drawn.train, drawn.probes, strangers)
    )
    known = templates(train)
    named = known.subject_ids[cosine(probes.vectors, known.vectors).argmax(1)]
    alike = leave_one_out_rank1(others.vectors, others.subject_ids)
    return Outcome(named == probes.subject_ids, probes.subject_ids, alike, others.subject_ids, genuine_impostor(others))


def rates(tuned: Sequence[Outcome], frozen: Sequence[Outcome]) -> dict[str, Interval]:
    """The rates of the draws `tuned`, and their differences to the untuned network in the same draws, `frozen`.

    accuracy: share of probes of the people tuned on that are named rightly. rank1 and eer: of strangers, leave-one-out
    rank-1 and equal error rate. accuracy_gain, rank1_gain, eer_gain: tuned minus untuned, with p-values. Each is the mean
    over the draws with a 95 % interval from a bootstrap over people; a person of several draws counts as one.
    """
    found = {}
    for name, values, people in (("accuracy", "right", "asked"), ("rank1", "alike", "strangers")):
        one, other = (
            np.concatenate([getattr(part, values) for part in parts]).astype(float) for parts in (tuned, frozen)
        )
        who, kept = np.concatenate([getattr(part, people) for part in tuned]), ~np.isnan(one)
        found[name] = mean_bootstrap(one[kept], who[kept], REPLICATES)
        found[f"{name}_gain"] = mean_bootstrap((one - other)[kept], who[kept], REPLICATES, difference=True)
    after, before = ([part.trials for part in parts] for parts in (tuned, frozen))
    found["eer"] = subject_bootstrap(after, eer_of, REPLICATES)
    found["eer_gain"] = paired_bootstrap(before, after, eer_of, REPLICATES)
    return found
