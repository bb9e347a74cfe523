"""Error versus discard: what rejecting pictures of low quality is worth. Pure numpy.

The threshold is fixed on all comparisons. Comparisons are then discarded from the lowest quality upwards, and the false
non-match rate (FNMR) of those that are left falls if the quality foresees errors (Grother and Tabassi 2007, "Performance
of biometric quality measures"; ISO/IEC 29794-1). The quality of a comparison is the lower of its two pictures'.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..scores import Trials
from . import curves
from .thresholds import OperatingPoint, tar_at_far


@dataclass(frozen=True)
class DiscardCurve:
    """FNMR of the comparisons that are left, at every quality at which something more is discarded."""

    share: np.ndarray  # (K,) ascending from 0, share of the genuine comparisons that are discarded
    fnmr: np.ndarray  # (K,) of the others; all NaN where no threshold can be set
    cut: np.ndarray  # (K,) quality that a comparison needs, -inf first
    threshold: float
    n_genuine: int
    n_unknown: int  # genuine comparisons whose quality is NaN; they are discarded first
    reason: str = ""

    def at(self, share: float) -> tuple[float, float]:
        """(FNMR, cut) when at most this share of the genuine comparisons is discarded: ties go together or stay."""
        last = np.searchsorted(self.share, share + 1e-12, side="right") - 1
        return float(self.fnmr[last]), float(self.cut[last])

    def area(self, up_to: float = 0.2) -> float:
        """The mean FNMR while the share rises from 0 to `up_to`: the partial area under the steps over `up_to`."""
        edges = np.append(np.minimum(self.share, up_to), up_to)
        return float(self.fnmr @ np.diff(edges) / up_to)


@dataclass(frozen=True)
class RandomOrder:
    """The curve of qualities that are drawn at random, many times: mean, and the range of the middle 95 %."""

    share: np.ndarray  # (S,)
    fnmr: np.ndarray  # (3, S) low, mean, high
    areas: np.ndarray  # (draws,) the partial areas

    def p_value(self, area: float) -> float:
        """The share of random orders, this one counted among them, whose area is as small as `area`; NaN for NaN."""
        return float((1 + (self.areas <= area + 1e-12).sum()) / (1 + len(self.areas))) if np.isfinite(area) else np.nan


def comparison_quality(trials: Trials, quality: np.ndarray) -> np.ndarray:
    """(T,) the lower quality of both sides; `quality` (E,) of each picture, higher = better. -inf where one is NaN."""
    quality = np.asarray(quality, np.float64)
    if quality.shape != trials.pair_ids.shape:
        raise ValueError(f"{quality.shape} qualities for {len(trials.pair_ids)} pictures")
    lower = np.minimum(quality[trials.a], quality[trials.b])  # NaN wins
    return np.where(np.isnan(lower), -np.inf, lower)


def discard_curve(trials: Trials, quality: np.ndarray, far: float = 0.01) -> DiscardCurve:
    """FNMR at the threshold where all impostors of `trials` have at most the FMR `far`, by share discarded: exact.

    quality: (E,) of each picture, higher = better; NaN, not known, is lower than all others. NaN with the reason where
    there is no such threshold or no genuine comparison.
    """
    point = tar_at_far(trials.genuine, trials.impostor, far)
    return _curve(comparison_quality(trials, quality)[trials.same], trials.genuine < point.threshold, point)


def gains(trials: Trials, quality: np.ndarray, share: float, far: float = 0.01) -> np.ndarray:
    """(G,) a number for each genuine comparison; their mean is the FNMR after discarding less the FNMR before.

    At most `share` is discarded, as in `discard_curve`. `mean_bootstrap` of these numbers with difference=True gives the
    interval and the p-value over people: each number is the change and the comparison's influence on it (Efron and
    Tibshirani 1993, "An introduction to the bootstrap", ch. 21), for a fixed threshold and a fixed cut.
    """
    curve = discard_curve(trials, quality, far)
    (after, cut), before = curve.at(share), curve.fnmr[0]
    rejected = trials.genuine < curve.threshold
    kept = comparison_quality(trials, quality)[trials.same] >= cut
    return after - before + kept * (rejected - after) / kept.mean() - (rejected - before)


def eer_of_the_rest(trials: Trials, quality: np.ndarray, shares: Sequence[float]) -> np.ndarray:
    """(S,) the EER when at most each of the `shares` of the genuine comparisons is discarded, as in `discard_curve`.

    Impostor comparisons of a quality below the same cut are discarded too; the threshold is that of the rest.
    """
    lower = comparison_quality(trials, quality)
    curve = discard_curve(trials, quality)
    kept = (lower >= curve.at(share)[1] for share in shares)
    return np.array(
        [curves.eer(trials.score[rows & trials.same], trials.score[rows & ~trials.same])[0] for rows in kept]
    )


def random_order(
    trials: Trials, shares: Sequence[float], far: float = 0.01, draws: int = 200, seed: int = 0, up_to: float = 0.2
) -> RandomOrder:
    """What a quality without any meaning gives: each picture gets a random one, `draws` times.

    A curve inside the range of the middle 95 % is worth no more than chance. The range holds for the errors of these
    people, and says nothing of other people.
    """
    rng = np.random.default_rng(seed)
    point = tar_at_far(trials.genuine, trials.impostor, far)
    rejected, rates, areas = trials.genuine < point.threshold, [], []
    for _ in range(draws):
        lower = comparison_quality(trials, rng.permutation(len(trials.pair_ids)))[trials.same]
        curve = _curve(lower, rejected, point)
        rates.append([curve.at(share)[0] for share in shares])
        areas.append(curve.area(up_to))
    low, high = np.percentile(rates, [2.5, 97.5], axis=0)
    return RandomOrder(np.asarray(shares, float), np.array([low, np.mean(rates, axis=0), high]), np.array(areas))


def _curve(lower: np.ndarray, rejected: np.ndarray, point: OperatingPoint) -> DiscardCurve:
    """The curve of genuine comparisons with these qualities, of which some are rejected at the point's threshold."""
    order = np.argsort(lower, kind="stable")
    lower, wrong = lower[order], np.append(0, np.cumsum(rejected[order]))
    first = np.append(0, 1 + np.flatnonzero(lower[1:] > lower[:-1]))  # where a new quality begins
    cut = np.concatenate([[-np.inf], lower[first[1:]]])
    fnmr = np.full(len(first), np.nan)
    if len(lower) and not np.isnan(point.threshold):
        fnmr = (wrong[-1] - wrong[first]) / (len(lower) - first)
    n_unknown = int(np.isneginf(lower).sum())
    return DiscardCurve(first / max(1, len(lower)), fnmr, cut, point.threshold, len(lower), n_unknown, point.reason)
