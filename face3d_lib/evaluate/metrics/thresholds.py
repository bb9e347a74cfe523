"""Thresholds, and the rates of genuine and impostor scores at one. Pure numpy.

A comparison is accepted exactly when its score is at least the threshold. Thresholds are chosen on development people
and applied to test people: `threshold_at_far(development impostors)`, then `rates_at(test genuine, test impostors,
threshold)`. A rate that the data cannot show is NaN, with the reason.
"""

from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from ...base.errors import UserError
from .checks import flat, share


@dataclass(frozen=True)
class OperatingPoint:
    """The rates of a set of trials at one threshold. Rates are shares in [0, 1]; `reason` says why one is NaN."""

    tar: float
    achieved_far: float  # counted at the threshold; not the FAR that was asked for
    threshold: float
    false_accepts: int
    n_impostor: int
    false_rejects: int
    n_genuine: int
    asked_far: float | None = None
    reason: str = ""


def threshold_at_far(impostor: np.ndarray, far: float) -> float:
    """The lowest threshold that accepts at most the share `far` of impostors; NaN where far < 1 / their number.

    It lies just above an impostor score, so of tied scores all or none are accepted. `far` is read by its
    decimal text: .29 of 100 is 29. UserError where `far` is no share between 0 and 1.
    """
    impostor = np.sort(flat(impostor, "impostor"))[::-1]
    if not 0 < far < 1:
        raise UserError(
            f"a false accept rate of {far} is no share between 0 and 1: set far_target to 0.01, for example"
        )
    allowed = int(Fraction(str(float(far))) * len(impostor))  # false accepts that may happen
    return float(np.nextafter(impostor[allowed], np.inf)) if allowed else np.nan


def threshold_at_far_or_above(impostor: np.ndarray, far: float) -> tuple[float, str]:
    """(`threshold_at_far`, ""); if `far` is below 1 / their number, the lowest threshold that accepts none, and why.

    NaN and the reason where there are no scores, because then no threshold can be chosen.
    """
    threshold = threshold_at_far(impostor, far)
    if not np.isnan(threshold):
        return threshold, ""
    reason = _unreachable(far, len(impostor), "development scores")
    if not len(impostor):
        return np.nan, reason
    return float(np.nextafter(np.max(impostor), np.inf)), f"{reason}; the threshold accepts none of them"


def rates_at(genuine: np.ndarray, impostor: np.ndarray, threshold: float) -> OperatingPoint:
    """Counts and rates at a threshold chosen elsewhere.

    A NaN threshold gives NaN rates; no genuine comparison gives a NaN TAR, no impostor comparison a NaN FAR. The
    reason is given each time.
    """
    genuine, impostor = flat(genuine, "genuine"), flat(impostor, "impostor")
    counts = {"n_genuine": len(genuine), "n_impostor": len(impostor)}
    if np.isnan(threshold):
        reason = "no threshold: the FAR asked for cannot be measured on the development data"
        return OperatingPoint(np.nan, np.nan, np.nan, false_accepts=0, false_rejects=0, reason=reason, **counts)
    accepts, rejects = int((impostor >= threshold).sum()), int((genuine < threshold).sum())
    tar, far = share(len(genuine) - rejects, len(genuine)), share(accepts, len(impostor))
    missing = [kind for kind, scores in (("genuine", genuine), ("impostor", impostor)) if not len(scores)]
    reason = f"no {' and no '.join(missing)} comparison" if missing else ""
    return OperatingPoint(
        tar, far, float(threshold), false_accepts=accepts, false_rejects=rejects, reason=reason, **counts
    )


def tar_at_far(genuine: np.ndarray, impostor: np.ndarray, far: float) -> OperatingPoint:
    """TAR at the lowest threshold whose FAR on these impostors is at most `far`, and the FAR achieved there.

    NaN with a reason where far < 1 / n_impostor: one false accept would already be more than was asked for.
    """
    point = replace(rates_at(genuine, impostor, threshold_at_far(impostor, far)), asked_far=far)
    if not np.isnan(point.threshold):
        return point
    return replace(point, reason=_unreachable(far, point.n_impostor, "impostor comparisons"))


def _unreachable(far: float, n: int, what: str) -> str:
    """Why a FAR below 1 / n cannot be measured."""
    if not n:
        return f"FAR {far:g} cannot be measured: there are no {what}"
    return f"FAR {far:g} cannot be measured with {n} {what}: one of them is already {1 / n:.2g}"
