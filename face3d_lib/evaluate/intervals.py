"""Confidence intervals by the bootstrap over people: each replicate draws people, never single pairs.

**Rates.** The percentiles of the replicates make intervals that are too short for few people, and of length 0 where no
error was seen. The interval of a rate p is therefore a score interval (Wilson 1927) with the standard error s of the
bootstrap over people: all x with |p - x| <= t s sqrt(x (1 - x) / (p (1 - p))). Here t is the quantile of Student's t for
n - 1 degrees of freedom, and s is the standard deviation of the replicates times sqrt(n / (n - 1)), where n is the number
of people (Hesterberg 2015, "What Teachers Should Know About the Bootstrap"). Effective sample sizes for score intervals
follow Dean and Pagano 2015, "Evaluating Confidence Interval Methods for Binomial Proportions in Clustered Surveys". Where
all replicates are equal, as without any error, each person counts as one independent trial: no error among n people
gives [0, 3.84 / (n + 3.84)], near the rule of three.

**Differences.** The interval is the difference +- the quantile of the replicates' absolute deviations (Hall 1988, "On
Symmetric Bootstrap Confidence Intervals"), widened by sqrt(n / (n - 1)) t / z. Its p-value counts the same deviations.

**Achieved coverage.** In a simulation of people who differ, with rates down to no error at all, 95 % intervals of rates held
the truth in .970, .957, .959 and .942 of the cases with 10, 20, 50 and 200 people; percentiles did in .518, .631, .737
and .842. Intervals of differences held it in 1.000, .995, .980 and .953: with few people they are too long. The whole
table is on the results page, and `make coverage` measures it again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from .metrics.checks import flat
from .metrics.curves import Roc, curves_of, subject_numbers
from .scores import Trials, require_same_trials


@dataclass(frozen=True)
class Interval:
    """A value and its interval; a number that cannot be measured is NaN, and `reason` says why."""

    value: float
    low: float
    high: float
    level: float
    n_subjects: int
    n_replicates: int  # number of replicates with both genuine and impostor trials
    reason: str = ""
    p_value: float | None = None  # of a difference: two-sided, that there is none

    def named(self, name: str) -> dict[str, float]:
        """The columns `name`, name_low and name_high of a table's row."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


def in_brackets(row: Mapping[str, float], rate: str) -> str:
    """A rate of a row with columns as those of `Interval.named`, as text: ".. [low, high]", or "-" where it is NaN."""
    low, high = row[f"{rate}_low"], row[f"{rate}_high"]
    return "-" if np.isnan(row[rate]) else f"{row[rate]:.3f} [{low:.3f}, {high:.3f}]"


def subject_bootstrap(
    trials: Trials | Sequence[Trials],
    statistic: Callable[[Roc], float],
    n_replicates: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """The interval of `statistic(Roc)` when people are drawn again with replacement.

    A list holds the same trials scored by several networks, for example those of several training seeds; the statistic
    is then the mean over the networks, and the interval still shows the variation between people, not between seeds.

    Trials share people, so drawing trials would make intervals several times too narrow. In this bootstrap, a genuine
    trial of a person drawn w times has the weight w, and an impostor trial of people drawn v and w times has the weight
    v * w. A statistic that is not a rate (some replicate lies outside 0 to 1) gets the interval of differences. Value and
    interval are NaN without genuine or without impostor trials; the interval is NaN for fewer than three people, because
    all their usable draws are alike, and where only one person has genuine trials.

    >>> subject_bootstrap(trials, lambda roc: roc.eer()[0])
    >>> subject_bootstrap(trials, lambda roc: roc.tar_at_far(1e-2))
    """
    systems = [trials] if isinstance(trials, Trials) else list(trials)
    value, values, people = _replicates(systems, lambda rates: np.mean(rates, axis=0), statistic, n_replicates, seed)
    return _of_rate(value, values, people, level, _unusable(systems[0], people, len(values)))


def paired_bootstrap(
    first: Trials | Sequence[Trials],
    second: Trials | Sequence[Trials],
    statistic: Callable[[Roc], float],
    n_replicates: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """The interval and the p-value of statistic(second) - statistic(first): the same trials, people drawn alike for both.

    A list holds the same trials scored by several networks, for example those of several training seeds; the
    statistic is then the mean over the networks. A difference is shown when its p-value is below 0.05 (its interval then
    does not contain 0), even if the intervals of the single systems overlap; among many differences, `holm` corrects the
    p-values. NaN as in `subject_bootstrap`.
    """
    first, second = ([part] if isinstance(part, Trials) else list(part) for part in (first, second))
    systems, k = [*first, *second], len(first)

    def difference(rates: list) -> np.ndarray:
        return np.mean(rates[k:], axis=0) - np.mean(rates[:k], axis=0)

    value, values, people = _replicates(systems, difference, statistic, n_replicates, seed)
    identical = all(np.array_equal(systems[0].score, other.score) for other in systems)
    reason = _unusable(systems[0], people, len(values))
    return _of_difference(value, values, people, level, reason, identical)


def mean_bootstrap(
    values: np.ndarray,
    subjects: np.ndarray,
    n_replicates: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    difference: bool = False,
) -> Interval:
    """The interval of a mean over probes when people are drawn again: accuracy, or rank-1 (`ranks(...) == 1`).

    `values` (P,) numbers or bool, `subjects` (P,). For two systems on the same probes give the difference of
    their values, and difference=True; the interval then has a p-value. Values of which some lie outside 0 to 1 are treated
    so without being told. The gallery stays as it is. Value and interval are NaN without probes; the interval is NaN for one
    person.
    """
    values = flat(values, "values")
    if not len(values):
        return Interval(np.nan, np.nan, np.nan, level, 0, 0, "no probe")
    names, row = np.unique(np.asarray(subjects), return_inverse=True)
    total, count = np.bincount(row, values), np.bincount(row)  # (C,)
    weights = multiplicities(len(names), n_replicates, seed)  # (R, C)
    value, drawn = float(values.mean()), (weights @ total) / (weights @ count)
    reason = f"{len(names)} people; an interval needs 2" if len(names) < 2 else ""
    kind = _of_difference if difference or values.min() < 0 or values.max() > 1 else _of_rate
    return kind(value, drawn, (len(names), len(names)), level, reason)


def holm(p_values: ArrayLike) -> np.ndarray:
    """(M,) p-values of M comparisons, corrected so that one of them below 0.05 by chance is seen in 5 % of all tables.

    The smallest is multiplied by M, the next by M - 1, and so on; none is below the one before it, none above 1 (Holm
    1979, "A Simple Sequentially Rejective Multiple Test Procedure"). NaN stays NaN and counts as no comparison.
    """
    p_values = np.asarray(p_values, float)
    corrected = np.full(p_values.shape, np.nan)
    order = np.argsort(p_values)[: np.isfinite(p_values).sum()]  # NaN is sorted last
    times = len(order) - np.arange(len(order))
    corrected[order] = np.minimum(np.maximum.accumulate(p_values[order] * times), 1)
    return corrected


def _replicates(
    systems: list[Trials],
    combine: Callable[[list], np.ndarray],
    statistic: Callable[[Roc], float],
    n_replicates: int,
    seed: int,
) -> tuple[float, np.ndarray, tuple[int, int]]:
    """The combined statistic of the systems, its (R, ...) replicates, and the numbers of people.

    The second number is that of the people with genuine trials, who are fewer where some people have one picture.
    """
    require_same_trials(*systems)
    curves = curves_of(*systems)

    def combined(weight: np.ndarray | None = None) -> np.ndarray:
        return combine([statistic(curve.roc(weight)) for curve in curves])

    a, b = subject_numbers(systems[0])
    everybody = len(np.union1d(a, b))
    drawn = multiplicities(everybody, n_replicates, seed)
    values = [combined(weight) for weight in drawn if curves[0].usable(weight)]
    return _plain(combined()), np.asarray(values, float), (everybody, len(np.unique(a[systems[0].same])))


def multiplicities(n_subjects: int, n_replicates: int, seed: int) -> np.ndarray:
    """(R, C) float: how often each of C subjects is drawn in each of R replicates; R is 0 where C is 0."""
    if not n_subjects:
        return np.empty((0, 0))
    rng = np.random.default_rng(seed)
    return rng.multinomial(n_subjects, np.full(n_subjects, 1 / n_subjects), n_replicates).astype(np.float64)


def interval_of(value: float, values: np.ndarray, people: int, with_genuine: int, level: float = 0.95) -> Interval:
    """The interval of a `value` from its (R,) replicates over `people`, of whom `with_genuine` have genuine trials."""
    return _of_rate(value, values, (people, with_genuine), level, _too_few((people, with_genuine), len(values)))


def _unusable(trials: Trials, people: tuple[int, int], n_replicates: int) -> str:
    """Why `trials` give no interval; "" where they do."""
    genuine = int(trials.same.sum())
    impostor = len(trials.same) - genuine
    if not (genuine and impostor):
        return f"{genuine} genuine and {impostor} impostor comparisons; both are needed"
    return _too_few(people, n_replicates)


def _too_few(people: tuple[int, int], n_replicates: int) -> str:
    """Why so many people, the second number with genuine trials, give no interval; "" where they do."""
    if people[0] < 3:
        return f"{people[0]} people; an interval needs 3"
    if people[1] < 2:
        return f"{people[1]} person has genuine comparisons; an interval needs 2"
    return "" if n_replicates > 1 else "no usable draws of people"


def _of_rate(value: float, values: np.ndarray, people: tuple[int, int], level: float, reason: str = "") -> Interval:
    """The score interval of a rate; see the top of this file."""
    if reason:
        return Interval(value, np.nan, np.nan, level, people[0], len(values), reason)
    if np.isnan(value).all():
        return Interval(
            value, np.nan, np.nan, level, people[0], len(values), "the comparisons are too few for this rate"
        )
    if np.any((values < 0) | (values > 1)):
        return replace(_of_difference(value, values, people, level), p_value=None)
    n, p = people[1], np.asarray(value, float)
    variance, z, t = values.var(axis=0, ddof=1) * n / (n - 1), *_quantiles(n, level)
    at_risk = p * (1 - p)
    some = (variance > 1e-18) & (at_risk > 0)
    k = np.where(some, t**2 * variance / np.where(some, at_risk, 1), z**2 / n)  # z^2 / (effective number of trials)
    centre, half = (p + k / 2) / (1 + k), np.sqrt(k * at_risk + k**2 / 4) / (1 + k)
    low = np.where(p > 0, np.minimum(centre - half, p), p)  # rounding must not move an end past the rate
    high = np.where(p < 1, np.maximum(centre + half, p), p)
    return Interval(value, _plain(low), _plain(high), level, people[0], len(values))


def _of_difference(
    value: float,
    values: np.ndarray,
    people: tuple[int, int],
    level: float,
    reason: str = "",
    identical: bool = False,
) -> Interval:
    """The symmetric interval of a difference; see the top of this file. `identical`: the systems are one and the same."""
    if reason:
        return Interval(value, np.nan, np.nan, level, people[0], len(values), reason)
    n, (z, t) = people[1], _quantiles(people[1], level)
    away = np.abs(values - value) * np.sqrt(n / (n - 1)) * t / z  # (R, ...)
    if not identical:  # systems that never differ among n people may differ on others, as a rate of 0 may not be 0
        away = np.where(away.max(axis=0) > 1e-12, away, z**2 / (n + z**2))
    half = np.quantile(away, level, axis=0)
    p_value = (1 + (away >= np.abs(value)).sum(axis=0)) / (1 + len(away))
    return Interval(value, value - half, value + half, level, people[0], len(values), p_value=p_value)


def _plain(number: ArrayLike) -> float:
    """A float of an array without dimensions; a statistic that returns several rates keeps its array."""
    number = np.asarray(number, float)
    return number if number.ndim else float(number)  # type: ignore[return-value]


def _quantiles(n: int, level: float) -> tuple[float, float]:
    """The two-sided quantiles of the normal distribution and of Student's t for n people."""
    tail = 0.5 + level / 2
    return float(stats.norm.ppf(tail)), float(stats.t.ppf(tail, n - 1))
