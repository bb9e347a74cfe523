"""Thresholds, and the rates of genuine and impostor scores at one. Pure numpy.

A comparison is accepted exactly when its score is at least the threshold. Thresholds are chosen on development people
and applied to test people: `threshold_at_far(development impostors)`, then `rates_at(test genuine, test impostors,
threshold)`. A rate that the data cannot show is NaN, with the reason.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from ...base.errors import UserError
from .checks import flat, share, unreachable
from .curves import Roc

if TYPE_CHECKING:
    import pandas as pd

TABLE = (1 / 20, 1 / 100, 1 / 1000, 1 / 10000, 0.0)  # the false match rates of the threshold table; 0 is zero-FMR


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
    reason: str = ""


def checked_far(far: float) -> float:
    """`far`, if it is a share of impostors that can be asked for. UserError where it is not between 0 and 1."""
    if not 0 < far < 1:
        raise UserError(f"a false accept rate of {far:g} is no share between 0 and 1: set it to 0.01, for example")
    return far


def threshold_at_far(impostor: np.ndarray, far: float) -> float:
    """The lowest threshold that accepts at most the share `far` of impostors; NaN where far < 1 / their number.

    It lies just above an impostor score, so of tied scores all or none are accepted. `far` is read by its
    decimal text: .29 of 100 is 29. UserError where `far` is no share between 0 and 1.
    """
    impostor = flat(impostor, "impostor")
    checked_far(far)
    allowed = int(Fraction(str(float(far))) * len(impostor))  # false accepts that may happen
    if not allowed:
        return np.nan
    highest = len(impostor) - allowed - 1  # of those that may not pass
    return float(np.nextafter(np.partition(impostor, highest)[highest], np.inf))


def threshold_at_far_or_above(impostor: np.ndarray, far: float) -> tuple[float, str]:
    """(`threshold_at_far`, ""); if `far` is below 1 / their number, the lowest threshold that accepts none, and why.

    NaN and the reason where there are no scores, because then no threshold can be chosen.
    """
    threshold = threshold_at_far(impostor, far)
    if not np.isnan(threshold):
        return threshold, ""
    reason = unreachable(far, len(impostor), "development scores")
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
    point = rates_at(genuine, impostor, threshold_at_far(impostor, far))
    if not np.isnan(point.threshold):
        return point
    return replace(point, reason=unreachable(far, point.n_impostor, "impostor comparisons"))


def threshold_table(
    curve: Roc,
    fars: Sequence[float] = TABLE,
    interval: Callable[[Callable[[Roc], float]], Any] | None = None,
) -> "pd.DataFrame":
    """A row for each false match rate asked for: the threshold there, and what happens at it.

    Columns: asked_fmr (0 for zero-FMR), threshold, fmr (achieved), fnmr, fnmr_low, fnmr_high, false_matches, impostor,
    false_non_matches, genuine, reason. FMR and FNMR count comparisons that were made (ISO/IEC 19795-1). `interval` makes
    the `Interval` of a statistic, in which each draw of people chooses its own threshold:

    >>> threshold_table(curve, interval=lambda statistic: subject_bootstrap(trials, statistic))
    """
    import pandas as pd  # here, because `face3d identify` uses this file but not pandas

    rows = []
    for far in fars:
        threshold = curve.threshold_at_far(far)
        row: dict[str, float | str] = {"asked_fmr": far, "threshold": threshold, "fmr": np.nan, "fnmr": np.nan}
        row |= {"fnmr_low": np.nan, "fnmr_high": np.nan, "false_matches": np.nan, "impostor": curve.n_impostor}
        row |= {"false_non_matches": np.nan, "genuine": curve.n_genuine, "reason": ""}
        if np.isnan(threshold):
            lacking = unreachable(far, curve.n_impostor, "impostor comparisons")
            row["reason"] = lacking if curve.n_genuine else "no genuine comparison"
        else:
            fmr, tar = curve.at(threshold)
            row |= {"fmr": float(fmr), "fnmr": curve.fnmr_at_far(far)}
            row["false_matches"] = round(float(fmr) * curve.n_impostor)
            row["false_non_matches"] = round(float(1 - tar) * curve.n_genuine)
            if interval is not None:
                found = interval(lambda drawn, far=far: drawn.fnmr_at_far(far))  # type: ignore[misc]
                row |= {"fnmr_low": found.low, "fnmr_high": found.high, "reason": found.reason}
        rows.append(row)
    return pd.DataFrame(rows)


def expected_performance(
    development: Roc, test: Roc, weights: Sequence[float] = tuple(np.linspace(0, 1, 21))
) -> "pd.DataFrame":
    """The expected performance curve (EPC): the error on test people at thresholds chosen on development people.

    For each weight of false accepts, the threshold has the least weight * FAR + (1 - weight) * FRR on the development
    people (Bengio, Mariéthoz and Keller 2005, "The Expected Performance Curve"). Columns: weight, threshold, far, frr,
    hter, the latter three on the test people; NaN where either curve is not measurable. A ROC of the test people alone
    would choose each of its thresholds on the people whom it rates.
    """
    import pandas as pd  # here, because `face3d identify` uses this file but not pandas

    rows = []
    for weight in weights:
        threshold = development.least_error(float(weight))[1]
        far, tar = test.at(threshold) if test.measurable and not np.isnan(threshold) else (np.nan, np.nan)
        rows.append({"weight": float(weight), "threshold": threshold, "far": far, "frr": 1 - tar})
    table = pd.DataFrame(rows, dtype=float)
    return table.assign(hter=(table["far"] + table["frr"]) / 2)
