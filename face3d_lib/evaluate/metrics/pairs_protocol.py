"""Accuracy over folds of pairs: each fold is decided by a threshold that is chosen on all other folds. Pure numpy.

This is view 2 of Labeled Faces in the Wild (Huang, Ramesh, Berg and Learned-Miller 2007, "Labeled Faces in the Wild",
section 4): ten folds, the mean accuracy, and its standard error.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from .checks import flat


@dataclass(frozen=True, eq=False)
class FoldAccuracy:
    """The share of comparisons that are decided rightly, by fold and over all folds."""

    mean: float  # of the folds; NaN where it cannot be measured
    standard_error: float  # standard deviation of the folds (divided by one less) / root of their number
    accuracy: np.ndarray  # (K,) of each fold
    threshold: np.ndarray  # (K,) the threshold that decided each fold, chosen on the others
    n: int  # comparisons in folds
    left_out: int  # comparisons in no fold (-1)
    reason: str = ""


def fold_accuracy(score: ArrayLike, same: ArrayLike, fold: ArrayLike) -> FoldAccuracy:
    """The accuracy of T comparisons over folds.

    `score` (T,), `same` (T,) bool, `fold` (T,) int, -1 for comparisons that belong to no fold. Of thresholds that are
    equally good on the other folds the middle one is taken. NaN with the reason for fewer than two folds, or where the
    others of some fold show one kind of comparison only. ValueError where a score is not finite.
    """
    score, same, fold = flat(np.asarray(score), "scores"), np.asarray(same, bool), np.asarray(fold)
    inside = fold >= 0
    folds = np.unique(fold[inside])
    n, left_out = int(inside.sum()), int((~inside).sum())
    reason = "" if len(folds) > 1 else f"{len(folds)} folds; two are needed"
    accuracy, threshold = np.full(len(folds), np.nan), np.full(len(folds), np.nan)
    for k, this in enumerate(folds if not reason else []):
        learn, decide = inside & (fold != this), fold == this
        if same[learn].all() or not same[learn].any():
            reason = f"the folds other than {this} show one kind of comparison only"
            break
        threshold[k] = best_threshold(score[learn & same], score[learn & ~same])
        accuracy[k] = ((score[decide] >= threshold[k]) == same[decide]).mean()
    if reason:
        return FoldAccuracy(np.nan, np.nan, accuracy, threshold, n, left_out, reason)
    error = float(accuracy.std(ddof=1) / np.sqrt(len(folds)))
    return FoldAccuracy(float(accuracy.mean()), error, accuracy, threshold, n, left_out)


def best_threshold(genuine: np.ndarray, impostor: np.ndarray) -> float:
    """The threshold that decides most comparisons rightly, one of the scores or just above all; of several the middle."""
    genuine, impostor = np.sort(genuine), np.sort(impostor)
    limits = np.union1d(genuine, impostor)
    limits = np.append(limits, np.nextafter(limits[-1], np.inf))
    right = len(genuine) - np.searchsorted(genuine, limits) + np.searchsorted(impostor, limits)
    best = np.flatnonzero(right == right.max())
    return float(limits[best[len(best) // 2]])
