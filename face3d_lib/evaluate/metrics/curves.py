"""The curves of genuine and impostor scores: ROC, AUC, EER and the least error, for all comparisons or for people drawn
again. Pure numpy.

A comparison is accepted exactly when its score is at least the threshold, everywhere. FAR and FRR are counted over the
comparisons given (ISO/IEC 19795-1 calls these FMR and FNMR). A rate that the data cannot show is NaN. Scores that are
NaN or infinite are errors.
"""

from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from ..scores import Trials, fuse_trials
from .checks import flat

ROUNDING = 1e-12  # rates that differ by less are equal: quotients and sums of weights carry rounding
SORTED_WHOLE = 1_000_000  # more impostor scores than this are counted in cells, and few of them sorted
CELLS = 2**23


@dataclass(frozen=True, eq=False)
class Steps:
    """The scores of one kind, ascending, and how many comparisons (or which weight of them) lie below each.

    Where there are very many scores, only those that a curve needs are listed, and `below` still counts all.
    """

    score: np.ndarray  # (K,) ascending, float32 or float64; a score may be repeated
    below: np.ndarray  # (K + 1,) int64 or float64: the weight below score[k]; the last is the weight of all
    moments: tuple[float, float] | None = None  # mean and variance of all scores, where only some are listed
    every: np.ndarray | None = None  # all scores in any order, where only some are listed and all are at hand

    @property
    def total(self) -> float:
        """The weight of all comparisons."""
        return float(self.below[-1])

    def reach(self, threshold: ArrayLike) -> np.ndarray | float:
        """The share of the weight with at least the score of each threshold; NaN without weight or threshold."""
        if self.every is not None:
            found = [np.count_nonzero(self.every < value) for value in np.ravel(threshold)]
            below = np.array(found, np.int64).reshape(np.shape(threshold))
        else:
            below = self.below[np.searchsorted(self.score, threshold)]
        share = (self.total - below) / (self.total or np.nan)
        return np.where(np.isnan(threshold), np.nan, share)[()]

    def share_of(self, score: np.ndarray) -> np.ndarray:
        """(K,) the share of the weight from one of the ascending scores (K,) to the next, the latter left out."""
        below = np.append(self.below[np.searchsorted(self.score, score[1:])], self.below[-1])
        return np.diff(below, prepend=0)[: len(score)] / (self.total or np.nan)

    def mean_and_variance(self) -> tuple[float, float]:
        """The weighted mean and variance (divided by the weight, not by one less)."""
        if self.moments is not None:
            return self.moments
        if self.every is not None:
            return float(self.every.mean(dtype=np.float64)), float(self.every.var(dtype=np.float64))
        weight = np.diff(self.below)
        mean = weight @ self.score.astype(np.float64) / self.total
        return float(mean), float(weight @ (self.score - mean) ** 2 / self.total)


@dataclass(frozen=True, eq=False)
class Roc:
    """False and true accepts over the threshold, and the rates that are read from them.

    `threshold`, `far` and `tar` are the corners of the curve; between two of them it is a straight line. They are
    exact, and so are all rates that the methods return.
    """

    genuine: Steps
    impostor: Steps
    n_genuine: int
    n_impostor: int

    @property
    def measurable(self) -> bool:
        """True when there are genuine and impostor comparisons; else every rate of the curve is NaN."""
        return bool(self.n_genuine and self.n_impostor and self.genuine.total and self.impostor.total)

    @property
    def threshold(self) -> np.ndarray:
        """(K,) float64, descending, the first infinite, then the highest score, the last the lowest score."""
        return self._corners[0]

    @property
    def far(self) -> np.ndarray:
        """(K,) the share of impostors with at least the score `threshold`, 0 to 1; NaN without impostors."""
        return self._corners[1]

    @property
    def tar(self) -> np.ndarray:
        """(K,) the share of genuine comparisons with at least the score `threshold`, 0 to 1; NaN without any."""
        return self._corners[2]

    def at(self, threshold: ArrayLike) -> tuple[np.ndarray | float, np.ndarray | float]:
        """FAR and TAR at any thresholds (number or array): the shares that score at least the threshold."""
        return self.impostor.reach(threshold), self.genuine.reach(threshold)

    def at_every_score(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(K,) each distinct score, ascending, and the shares of the genuine and of the impostor weight with just it.

        Where there are very many impostors, those between the scores that a curve needs count to the next below.
        """
        score = np.union1d(self.genuine.score, self.impostor.score)
        return score.astype(np.float64), self.genuine.share_of(score), self.impostor.share_of(score)

    def tar_at_far(self, far: ArrayLike) -> np.ndarray | float:
        """The highest TAR whose FAR is at most `far` (number or array); NaN where far < 1 / n_impostor."""
        far = np.asarray(far, float)
        if not self.measurable:
            return np.full(far.shape, np.nan)[()]
        rejected = np.maximum(0, self.impostor.total * (1 - far - ROUNDING))
        first = np.searchsorted(self.impostor.below, rejected)  # of the impostors that may pass
        highest = self.impostor.score[np.maximum(first, 1) - 1]  # of those that may not: the threshold lies just above
        passed = np.searchsorted(self.genuine.score, highest, side="right")
        tar = 1 - self.genuine.below[np.where(first > 0, passed, 0)] / self.genuine.total
        return np.where(far < 1 / self.n_impostor - ROUNDING, np.nan, tar)[()]

    def threshold_at_far(self, far: float) -> float:
        """The lowest threshold whose FAR is at most `far`, just above an impostor score; NaN as in `tar_at_far`.

        `far` = 0 gives the lowest threshold that accepts no impostor (zero-FMR).
        """
        if not self.measurable or 0 < far < 1 / self.n_impostor - ROUNDING:
            return np.nan
        first = int(np.searchsorted(self.impostor.below, max(0.0, self.impostor.total * (1 - far - ROUNDING))))
        if first == 0:
            return float(self.impostor.score[0])
        highest = self.impostor.score[first - 1]
        if self.impostor.every is not None:
            rejected = len(self.impostor.every) - int(len(self.impostor.every) * (far + ROUNDING))
            highest = np.partition(self.impostor.every, rejected - 1)[rejected - 1]
        return float(np.nextafter(np.float64(highest), np.inf))

    def fnmr_at_far(self, far: float) -> float:
        """1 - TAR at `threshold_at_far(far)`; NaN where there is no such threshold."""
        threshold = self.threshold_at_far(far)
        return np.nan if np.isnan(threshold) else float(self._frr(threshold))

    def hter(self, threshold: float) -> float:
        """The half total error rate (FAR + FRR) / 2 at a threshold, which should be chosen on other people."""
        far, tar = self.at(threshold)
        return float((far + 1 - tar) / 2)

    def eer(self) -> tuple[float, float]:
        """The equal error rate, (FAR + FRR) / 2 where the two are nearest, and the threshold there, one of the scores.

        Two thresholds can be equally near, one on each side; the larger mean is returned, so that the rate is never
        too good. NaN and NaN where the curve is not measurable.
        """
        if not self.measurable:
            return np.nan, np.nan

        def crossed(score: float) -> bool:
            return self._far(score) < self._frr(score)

        scores = self.genuine.score, self.impostor.score
        after = [bisect_left(kind, True, key=crossed) for kind in scores]
        nearest = [max(kind[k - 1] for kind, k in zip(scores, after, strict=True) if k)]
        nearest += [min((kind[k] for kind, k in zip(scores, after, strict=True) if k < len(kind)), default=nearest[0])]
        far, frr = (np.array([rate(score) for score in nearest]) for rate in (self._far, self._frr))
        gap, mean = np.abs(far - frr), (far + frr) / 2
        best = np.where(gap <= gap.min() + ROUNDING, mean, -1).argmax()
        return float(mean[best]), float(nearest[best])

    def auc(self) -> float:
        """The area under the curve: how often a genuine score exceeds an impostor score, ties counted half.

        This is the statistic of Mann and Whitney (1947) divided by the number of pairs. NaN where not measurable.
        """
        if not self.measurable:
            return np.nan
        lower, upper = _both_sides(self.impostor.score, self.genuine.score)
        won = (self.impostor.below[lower] / 2 + self.impostor.below[upper] / 2) @ np.diff(self.genuine.below)
        return float(won / self.genuine.total / self.impostor.total)

    def d_prime(self) -> float:
        """d', the distance of the two means, in units of the root of the mean variance.

        |mean genuine - mean impostor| / sqrt((variance genuine + variance impostor) / 2), as in Daugman, "Biometric
        decision landscapes" (2000); variances are divided by the number of scores. NaN where not measurable or where
        no score varies.
        """
        if not self.measurable:
            return np.nan
        (mean, variance), (other, others) = self.genuine.mean_and_variance(), self.impostor.mean_and_variance()
        return float(abs(mean - other) / np.sqrt((variance + others) / 2)) if variance + others > 0 else np.nan

    def least_error(self, weight: float = 0.5) -> tuple[float, float]:
        """The least weight * FAR + (1 - weight) * FRR over all thresholds, and the highest threshold that has it.

        A weight of .5 gives the minimum of the half total error rate (HTER). The threshold is a genuine score, or
        lies just above all scores where rejecting everybody is best. NaN and NaN where the curve is not measurable.
        """
        if not self.measurable:
            return np.nan, np.nan
        score = self.genuine.score.astype(np.float64)
        top = np.nextafter(max(score[-1], float(self.impostor.score[-1])), np.inf)
        threshold = np.append(score, top)[::-1]
        below = self.impostor.below[np.searchsorted(self.impostor.score, threshold)]
        frr = self.genuine.below[np.searchsorted(self.genuine.score, threshold)] / self.genuine.total
        error = weight * (1 - below / self.impostor.total) + (1 - weight) * frr
        best = (error <= error.min() + ROUNDING).argmax()
        return float(error[best]), float(threshold[best])

    def _far(self, score: float) -> float:
        below = self.impostor.below
        return (below[-1] - below[self.impostor.score.searchsorted(score)]) / below[-1]

    def _frr(self, score: float) -> float:
        below = self.genuine.below
        return below[self.genuine.score.searchsorted(score)] / below[-1]

    @cached_property
    def _corners(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Threshold, FAR and TAR where the curve turns, and at the highest and the lowest score.

        Going down from one genuine score to the next, the curve turns at the last impostor between them. Where
        genuine scores follow each other without an impostor, it turns at the last of them.
        """
        ours, others = self.genuine.score, self.impostor.score
        start = np.flatnonzero(np.concatenate([[True], ours[1:] > ours[:-1]])[: len(ours)])  # distinct genuine scores
        end = np.append(start[1:], len(ours))[: len(start)]
        left, right = _both_sides(others, ours[start])
        between = right < np.append(left[1:], len(others))[: len(start)]  # impostors up to the next genuine score
        alone = left == right  # no impostor has this very score
        straight = np.zeros(len(start), bool)
        straight[1:-1] = (alone[1:] & alone[:-1] & ~between[:-1])[:-1]  # the highest score stays, as in scikit-learn
        if len(start) > 1 and between[-1]:
            straight[-1] = alone[-1] and alone[-2] and not between[-2]
        kept = np.stack([~straight, between], axis=1).ravel()
        at_genuine = np.stack([start, end], axis=1).ravel()[kept]  # positions, ascending
        at_impostor = np.stack([left, right], axis=1).ravel()[kept]
        threshold = np.stack([ours[start], others[np.minimum(right, len(others) - 1)] if len(others) else right], 1)
        parts = [(threshold.ravel()[kept].astype(np.float64), at_impostor, at_genuine)]
        if len(others):
            if not len(start) or left[0] > 0:
                parts.insert(0, (others[:1], [0], [0]))
            top = np.searchsorted(others, others[-1])  # the first of the highest impostors
            if others[-1] > max(parts[-1][0], default=others[-1]):
                parts.append((others[-1:], [top], [len(ours)]))
        joined = [np.concatenate(part)[::-1] for part in zip(*parts, strict=True)]
        far, tar = (
            np.concatenate([[0], kind.below[-1] - kind.below[place.astype(int)]]) / (kind.total or np.nan)
            for kind, place in zip((self.impostor, self.genuine), joined[1:], strict=True)
        )
        return np.concatenate([[np.inf], joined[0]]), far, tar


def _both_sides(scores: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many of the sorted `scores` are below each value, and how many are at most that."""
    return np.searchsorted(scores, values), np.searchsorted(scores, values, side="right")


def roc(genuine: np.ndarray, impostor: np.ndarray) -> Roc:
    """The ROC of flat arrays of scores; not measurable where one is empty. ValueError where a score is not finite.

    Threshold, FAR and TAR are those of `sklearn.metrics.roc_curve` where no score occurs twice. Where some do,
    scikit-learn keeps other points of the same curve: more of those on straight lines, and of ties between genuine and
    impostor scores sometimes too few to read TAR@FAR. The cost is linear in the number of impostors: where there are
    very many, they are counted in cells of equal width, and only those are sorted that share a cell with a genuine
    score or come next above one.
    """
    genuine, impostor = (_numbers(scores, name) for scores, name in ((genuine, "genuine"), (impostor, "impostor")))
    ours = Steps(np.sort(genuine), np.arange(len(genuine) + 1))
    if len(impostor) <= SORTED_WHOLE or not len(genuine):
        others = Steps(np.sort(impostor), np.arange(len(impostor) + 1))
    else:
        others = _listed(impostor, ours.score)
    return Roc(ours, others, len(genuine), len(impostor))


def _numbers(scores: ArrayLike, name: str) -> np.ndarray:
    """`scores` as a flat float32 or float64 array; ValueError where it is not flat or not finite."""
    scores = np.asarray(scores)
    single = scores.dtype == np.float32 and scores.ndim == 1 and len(scores) > 0
    if single and np.isfinite([scores.min(), scores.max()]).all():
        return scores  # as it is, because twice the bytes take twice the time
    return flat(scores, name)


def _listed(impostor: np.ndarray, genuine: np.ndarray) -> Steps:
    """The steps of very many impostors for the sorted `genuine` scores: all impostors counted, few of them listed.

    The cells are as wide as each other. Listed are those impostors that share a cell with a genuine score, those in the
    next cell above it that is not empty, the highest and the lowest, and those where FAR and FRR cross.
    """
    kind = np.result_type(impostor, genuine)
    low, high = kind.type(min(impostor.min(), genuine[0])), kind.type(max(impostor.max(), genuine[-1]))
    with np.errstate(all="ignore"):
        scale = kind.type(CELLS - 1) / (high - low)
    if not 0 < scale < np.inf:
        return Steps(np.sort(impostor), np.arange(len(impostor) + 1))

    def cells_of(scores: np.ndarray) -> np.ndarray:
        cells = np.empty(len(scores), np.intp)
        for start in range(0, len(scores), 2**18):  # pieces that stay in the cache
            piece = slice(start, start + 2**18)
            cells[piece] = (scores[piece].astype(kind, copy=False) - low) * scale
        return cells

    cells, own = cells_of(impostor), cells_of(genuine)
    count = np.bincount(cells, minlength=CELLS + 1)
    below = np.cumsum(count) - count

    def crossed(cell: int) -> bool:
        """FAR < FRR at the lower edge of the cell."""
        return (len(impostor) - int(below[cell])) * len(genuine) < int(np.searchsorted(own, cell)) * len(impostor)

    last = bisect_left(range(CELLS + 1), True, key=crossed) - 1
    filled, mine = np.flatnonzero(count), np.append(own[np.diff(own, prepend=-1) > 0], last)
    after = np.minimum(np.searchsorted(filled, mine, side="right"), len(filled) - 1)
    wanted = np.zeros(CELLS + 1, bool)
    for chosen in (mine, filled[after], filled[[0, -1]]):
        wanted[chosen] = True
    score = np.sort(impostor[wanted[cells]])
    chosen = np.flatnonzero(wanted & (count > 0))
    before = below[chosen] - (np.cumsum(count[chosen]) - count[chosen])  # those that are not listed
    under = np.repeat(before, count[chosen]) + np.arange(len(score))
    return Steps(score, np.append(under, len(impostor)), every=impostor)


def eer(genuine: np.ndarray, impostor: np.ndarray) -> tuple[float, float]:
    """Equal error rate and its threshold; see Roc.eer."""
    return roc(genuine, impostor).eer()


def eer_of(curve: Roc) -> float:
    """The equal error rate of a curve, as the statistic of a bootstrap."""
    return curve.eer()[0]


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
    good = weights[rates <= rates.min() + ROUNDING]
    return float(good[len(good) // 2])


class Curve:
    """Scores that are sorted once, so that each replicate of a bootstrap costs a look-up of weights and two sums."""

    def __init__(self, score: np.ndarray, same: np.ndarray, subject_a: np.ndarray, subject_b: np.ndarray):
        order = np.argsort(score)
        genuine, impostor = order[same[order]], order[~same[order]]
        self.scores = score[genuine], score[impostor]
        self.genuine_subject = subject_a[genuine]
        self.impostor_subjects = subject_a[impostor], subject_b[impostor]
        self.n_subjects = len(np.unique(np.concatenate([subject_a, subject_b])))

    def weigh(self, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The weights of the genuine and of the impostor comparisons when people are drawn `weight` (C,) times."""
        left, right = self.impostor_subjects
        impostor = weight[left]
        impostor *= weight[right]
        return weight[self.genuine_subject], impostor

    def usable(self, weight: np.ndarray) -> bool:
        """True when people drawn `weight` (C,) times still make genuine and impostor comparisons."""
        left, right = self.impostor_subjects
        some = slice(1000)  # nearly always enough to find one
        impostor = (weight[left[some]] * weight[right[some]]).any() or (weight[left] * weight[right]).any()
        return bool(impostor and weight[self.genuine_subject].any())

    def roc(self, weight: np.ndarray | None = None) -> Roc:
        """The curve, with people drawn `weight` (C,) times each where that is given."""
        counts = [len(score) for score in self.scores]
        weights = [np.ones(n, int) for n in counts] if weight is None else self.weigh(weight)
        steps = [Steps(score, _running_sum(part)) for score, part in zip(self.scores, weights, strict=True)]
        return Roc(steps[0], steps[1], counts[0], counts[1])


def _running_sum(weight: np.ndarray) -> np.ndarray:
    """(T + 1,) the sum of the first 0, 1, ... T weights."""
    total = np.empty(len(weight) + 1, weight.dtype)
    total[0] = 0
    np.cumsum(weight, out=total[1:])
    return total


def curves_of(*systems: Trials) -> list[Curve]:
    """A curve for each system; all systems must have made the same trials."""
    subject_a, subject_b = subject_numbers(systems[0])
    return [Curve(trials.score, trials.same, subject_a, subject_b) for trials in systems]


def subject_numbers(trials: Trials) -> tuple[np.ndarray, np.ndarray]:
    """(T,) and (T,) int: the two subjects of each trial, numbered 0.. among those that occur in trials."""
    codes = np.concatenate([trials.subject_codes[trials.a], trials.subject_codes[trials.b]])
    first, second = np.split(np.unique(codes, return_inverse=True)[1], 2)
    return first, second
