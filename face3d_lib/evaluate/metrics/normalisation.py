"""Score normalisation: how far a score lies from the scores that the same picture gets with strangers. Pure numpy.

The strangers are a cohort of development people. Some pictures resemble everybody a little, and one threshold for all
scores then accepts too many of their impostors.
"""

from dataclasses import replace

import numpy as np

from ...base.errors import UserError
from ..scores import FAILED, Trials
from .checks import finite

KINDS = ("z", "t", "s")


def normalise(
    trials: Trials, cohort_scores: np.ndarray, cohort_subjects: np.ndarray, kind: str = "s", leave_out: bool = False
) -> Trials:
    """The trials with z-, t- or s-normalised scores: in standard deviations from the mean of impostor scores.

    cohort_scores: (E, N) scores of every embedding of `trials` with N pictures of the cohort; cohort_subjects: (N,).
    "z" uses mean and standard deviation of side a, the enrolled one, "t" those of side b, the probe (Auckenthaler,
    Carey and Lloyd-Thomas 2000, "Score normalization for text-independent speaker verification systems"), and "s" the
    mean of both (Kenny 2010, "Bayesian speaker verification with heavy-tailed priors"), which does not depend on which
    side is which.

    UserError names a person of the cohort who is compared in `trials`. With `leave_out`, meant for the development
    people's own trials, both people of a trial are left out of the cohort of that trial instead. UserError where fewer
    than two pictures are left. A comparison with a failed template, which has the same score with everybody, gets the
    lowest score of all, less 1.
    """
    if kind not in KINDS:
        raise UserError(f"a normalisation {kind!r} is not known: choose one of {', '.join(KINDS)}")
    cohort_scores, names = finite(cohort_scores, "cohort scores"), np.asarray(cohort_subjects)
    if cohort_scores.shape != (len(trials.subject_ids), len(names)):
        expected = (len(trials.subject_ids), len(names))
        raise ValueError(f"cohort scores {cohort_scores.shape} must be (embeddings, cohort) = {expected}")
    both = sorted(set(names.tolist()) & set(trials.subject_ids[np.r_[trials.a, trials.b]].tolist()))
    if both and not leave_out:
        raise UserError(
            f"cohort: {len(both)} of its people are compared too, the first {both[0]}: use development people"
        )
    sides = {"z": [trials.a], "t": [trials.b], "s": [trials.a, trials.b]}[kind]
    found = [_standard(trials, rows, cohort_scores, names) for rows in sides]
    score = np.mean(found, axis=0)  # NaN where a template failed
    failed = np.isnan(score)
    score[failed] = score[~failed].min() - 1 if not failed.all() else FAILED
    return replace(trials, score=score)


def _standard(trials: Trials, rows: np.ndarray, cohort_scores: np.ndarray, names: np.ndarray) -> np.ndarray:
    """(T,) the score less the mean, over the standard deviation, of the cohort scores of the embeddings at `rows`.

    Pictures of the trial's own two people do not count. NaN where the cohort scores do not vary.
    """
    people, owner = np.unique(names, return_inverse=True)
    member = np.where(np.isin(trials.subject_ids, people), np.searchsorted(people, trials.subject_ids), -1)  # -1: none
    centre = cohort_scores.mean()  # sums of squares of small numbers keep their digits
    by_person = [np.zeros((len(cohort_scores), len(people) + 1)) for _ in range(2)]  # sums and sums of squares
    for sums, values in zip(by_person, (cohort_scores - centre, (cohort_scores - centre) ** 2), strict=True):
        np.add.at(sums.T, owner, values.T)  # the last column stays 0: nobody
    size = np.append(np.bincount(owner, minlength=len(people)), 0)
    first, second = member[trials.a], member[trials.b]
    second = np.where(second == first, -1, second)  # of one person, leave out once
    n = len(names) - size[first] - size[second]
    if (n < 2).any():
        raise UserError("cohort: fewer than two pictures of other people are left: take more development people")
    total, squares = (s.sum(axis=1)[rows] - s[rows, first] - s[rows, second] for s in by_person)
    mean = total / n
    variance = np.maximum(squares / n - mean**2, 0)
    deviation = np.where(variance > 1e-12, np.sqrt(variance), np.nan)
    return (trials.score - centre - mean) / deviation
