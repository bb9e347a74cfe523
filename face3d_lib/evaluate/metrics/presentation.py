"""Errors of a detector of presentation attacks, as ISO/IEC 30107-3 defines them."""

import numpy as np
from numpy.typing import ArrayLike

BONA_FIDE = "bona fide"


def accepted(scores: ArrayLike, threshold: float) -> np.ndarray:
    """(N,) bool: which presentations are taken for bona fide: a score that is finite and at least `threshold`."""
    scores = np.asarray(scores, float)
    return np.isfinite(scores) & (scores >= threshold)


def apcer(scores: ArrayLike, species: ArrayLike, threshold: float) -> dict[str, float]:
    """The attack presentation classification error rate of each species: the share of its attacks that are accepted.

    scores (N,), species (N,) names; bona fide presentations (BONA_FIDE) are left out. The standard asks for one rate
    of each species and for the highest of them, because attackers choose the best one; a mean over species hides it.
    """
    species, taken = np.asarray(species).astype(str), accepted(scores, threshold)
    return {name: float(taken[species == name].mean()) for name in dict.fromkeys(species.tolist()) if name != BONA_FIDE}


def bpcer(scores: ArrayLike, species: ArrayLike, threshold: float) -> float:
    """The bona fide presentation classification error rate: the share of bona fide presentations that are rejected.

    NaN where there are none.
    """
    real = np.asarray(species).astype(str) == BONA_FIDE
    return float(1 - accepted(scores, threshold)[real].mean()) if real.any() else float("nan")


def threshold_at_apcer(scores: ArrayLike, target: float) -> float:
    """The lowest threshold at which at most a share `target` of the attack `scores` (N,) is accepted.

    It is just above the highest score that must be rejected; a score that is not finite is never accepted. ValueError: no
    scores, or a target outside 0 to 1.
    """
    scores = np.asarray(scores, float)
    if not len(scores) or not 0 <= target <= 1:
        raise ValueError("scores, and a target from 0 to 1, are needed")
    ordered = np.sort(np.where(np.isfinite(scores), scores, -np.inf))[::-1]
    allowed = int(np.floor(target * len(ordered) + 1e-9))
    return float(np.nextafter(ordered[allowed], np.inf)) if allowed < len(ordered) else float(-np.inf)
