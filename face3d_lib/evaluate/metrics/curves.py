"""The curves of genuine and impostor scores: ROC and EER, for all comparisons or for people drawn again. Pure numpy.

A comparison is accepted exactly when its score is at least the threshold, everywhere. FAR and FRR are counted over the
comparisons given (ISO/IEC 19795-1 calls these FMR and FNMR). A rate that the data cannot show is NaN. Scores that are
NaN or infinite are errors.
"""

from dataclasses import dataclass

import numpy as np

from ..scores import Trials, fuse_trials
from .checks import flat


@dataclass(frozen=True)
class Roc:
    """FAR and TAR at every distinct score, from a threshold above all (0, 0) to the lowest score (1, 1)."""

    threshold: np.ndarray  # (K,) descending, the first infinite
    far: np.ndarray  # (K,)
    tar: np.ndarray  # (K,)
    n_genuine: int
    n_impostor: int

    def tar_at_far(self, far: np.ndarray) -> np.ndarray | float:
        """The highest TAR whose FAR is at most `far` (number or array); NaN where far < 1 / n_impostor."""
        far = np.asarray(far, float)
        if not self.measurable:
            return np.full(far.shape, np.nan)[()]
        last = np.searchsorted(self.far, far + 1e-12, side="right") - 1  # sums of weights carry rounding
        return np.where(far < 1 / self.n_impostor - 1e-12, np.nan, self.tar[last])[()]

    @property
    def measurable(self) -> bool:
        """True when there are genuine and impostor comparisons; else every rate of the curve is NaN."""
        return bool(self.n_genuine and self.n_impostor)

    def eer(self) -> tuple[float, float]:
        """The equal error rate, (FAR + FRR) / 2 where the two are nearest, and the threshold there, one of the scores.

        Two thresholds can be equally near, one on each side; the larger mean is returned, so that the rate is never
        too good. NaN and NaN where the curve is not measurable.
        """
        if not self.measurable:
            return np.nan, np.nan
        gap = np.abs(self.far - (1 - self.tar))[1:]
        mean = ((self.far + 1 - self.tar) / 2)[1:]
        nearest = np.flatnonzero(gap <= gap.min() + 1e-12)
        best = nearest[mean[nearest].argmax()]
        return float(mean[best]), float(self.threshold[1 + best])


def roc(genuine: np.ndarray, impostor: np.ndarray) -> Roc:
    """The ROC of flat arrays of scores; not measurable where one is empty. ValueError where a score is not finite."""
    genuine, impostor = flat(genuine, "genuine"), flat(impostor, "impostor")
    return Curve(np.concatenate([genuine, impostor]), np.arange(len(genuine) + len(impostor)) < len(genuine)).roc()


def eer(genuine: np.ndarray, impostor: np.ndarray) -> tuple[float, float]:
    """Equal error rate and its threshold; see Roc.eer."""
    return roc(genuine, impostor).eer()


def best_weight(first: Trials, second: Trials, n_steps: int = 101) -> float:
    """The w in [0, 1] for which w * first + (1 - w) * second has the lowest EER; for development trials.

    Of equally good weights the middle one is taken, which is farthest from worse weights. Where the development
    trials give no EER, both systems get the same weight, 0.5.
    """
    if first.same.all() or not first.same.any():
        return 0.5
    weights = np.linspace(0, 1, n_steps)
    fused = [fuse_trials([first, second], [weight, 1 - weight]) for weight in weights]
    rates = np.array([eer(trials.genuine, trials.impostor)[0] for trials in fused])
    good = weights[rates <= rates.min() + 1e-12]
    return float(good[len(good) // 2])


class Curve:
    """Scores that are sorted once, so that each replicate of a bootstrap costs two counts and two sums."""

    def __init__(
        self,
        score: np.ndarray,
        same: np.ndarray,
        subject_a: np.ndarray | None = None,
        subject_b: np.ndarray | None = None,
    ):
        distinct, place = np.unique(score, return_inverse=True)
        self.threshold = np.concatenate([[np.inf], distinct[::-1].astype(np.float64)])
        place = len(distinct) - 1 - place  # 0 = highest score
        self.genuine, self.impostor = place[same], place[~same]
        if subject_a is not None and subject_b is not None:
            self.genuine_subject = subject_a[same]
            self.impostor_subjects = subject_a[~same], subject_b[~same]
            self.n_subjects = len(np.unique(np.concatenate([subject_a, subject_b])))

    def weigh(self, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The weights of the genuine and of the impostor comparisons when people are drawn `weight` (C,) times."""
        left, right = self.impostor_subjects
        return weight[self.genuine_subject], weight[left] * weight[right]

    def usable(self, weight: np.ndarray) -> bool:
        """True when people drawn `weight` (C,) times still make genuine and impostor comparisons."""
        return all(part.any() for part in self.weigh(weight))

    def roc(self, weight: np.ndarray | None = None) -> Roc:
        """The curve, with people drawn `weight` (C,) times each where that is given."""
        genuine, impostor = (None, None) if weight is None else self.weigh(weight)
        return Roc(
            self.threshold,
            self._share(self.impostor, impostor),
            self._share(self.genuine, genuine),
            len(self.genuine),
            len(self.impostor),
        )

    def _share(self, place: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
        """Share of the weight at or above each threshold, (K,); NaN if the total weight is 0."""
        if not len(place):
            return np.full(len(self.threshold), np.nan)
        passed = np.cumsum(np.bincount(place, weight, minlength=len(self.threshold) - 1))
        return np.concatenate([[0.0], passed / passed[-1]])


def curves_of(*systems: Trials) -> list[Curve]:
    """A curve for each system; all systems must have made the same trials."""
    subject_a, subject_b = subject_numbers(systems[0])
    return [Curve(trials.score, trials.same, subject_a, subject_b) for trials in systems]


def subject_numbers(trials: Trials) -> tuple[np.ndarray, np.ndarray]:
    """(T,) and (T,) int: the two subjects of each trial, numbered 0.. among those that occur in trials."""
    codes = np.concatenate([trials.subject_codes[trials.a], trials.subject_codes[trials.b]])
    first, second = np.split(np.unique(codes, return_inverse=True)[1], 2)
    return first, second
