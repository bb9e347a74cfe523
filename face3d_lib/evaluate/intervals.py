"""Confidence intervals by the bootstrap over people: each replicate draws people, never single pairs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from .metrics.checks import flat
from .metrics.curves import Roc, curves_of, subject_numbers
from .scores import Trials, require_same_trials


@dataclass(frozen=True)
class Interval:
    """A value and its percentile bootstrap interval; a number that cannot be measured is NaN, and `reason` says why."""

    value: float
    low: float
    high: float
    level: float
    n_subjects: int
    n_replicates: int  # number of replicates with both genuine and impostor trials
    reason: str = ""


def subject_bootstrap(
    trials: Trials, statistic: Callable[[Roc], float], n_replicates: int = 1000, seed: int = 0, level: float = 0.95
) -> Interval:
    """The interval of `statistic(Roc)` when people are drawn again with replacement.

    Trials share people, so drawing trials would make intervals several times too narrow. In this bootstrap, a genuine
    trial of a person drawn w times has the weight w, and an impostor trial of people drawn v and w times has the weight
    v * w. Value and interval are NaN without genuine or without impostor trials; the interval is NaN for
    fewer than three people, because all their usable draws are alike.

    >>> subject_bootstrap(trials, lambda roc: roc.eer()[0])
    >>> subject_bootstrap(trials, lambda roc: roc.tar_at_far(1e-2))
    """
    (curve,) = curves_of(trials)
    draws = _draws(trials, n_replicates, seed)
    values = [statistic(curve.roc(weight)) for weight in draws if curve.usable(weight)]
    return _interval(statistic(curve.roc()), values, curve.n_subjects, level, least=3, reason=_one_kind(trials))


def paired_bootstrap(
    first: Trials | Sequence[Trials],
    second: Trials | Sequence[Trials],
    statistic: Callable[[Roc], float],
    n_replicates: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """The interval of statistic(second) - statistic(first): the same trials, people drawn alike for both.

    A list holds the same trials scored by several networks, for example those of several training seeds; the
    statistic is then the mean over the networks. A difference is shown when its interval does not contain 0, even if
    the intervals of the single systems overlap. NaN as in `subject_bootstrap`.
    """
    first, second = ([part] if isinstance(part, Trials) else list(part) for part in (first, second))
    require_same_trials(*first, *second)
    curves = curves_of(*first, *second)

    def difference(weight: np.ndarray | None = None) -> float:
        values = [statistic(curve.roc(weight)) for curve in curves]
        return np.mean(values[len(first) :], axis=0) - np.mean(values[: len(first)], axis=0)

    usable = (weight for weight in _draws(first[0], n_replicates, seed) if curves[0].usable(weight))
    values = [difference(weight) for weight in usable]
    return _interval(difference(), values, curves[0].n_subjects, level, least=3, reason=_one_kind(first[0]))


def mean_bootstrap(
    values: np.ndarray, subjects: np.ndarray, n_replicates: int = 1000, seed: int = 0, level: float = 0.95
) -> Interval:
    """The interval of a mean over probes when people are drawn again: accuracy, or rank-1 (`ranks(...) == 1`).

    `values` (P,) numbers or bool, `subjects` (P,). For two systems on the same probes give the difference of
    their values. The gallery stays as it is. Value and interval are NaN without probes; the interval is NaN for one
    person.
    """
    values = flat(values, "values")
    if not len(values):
        return Interval(np.nan, np.nan, np.nan, level, 0, 0, "no probe")
    names, row = np.unique(np.asarray(subjects), return_inverse=True)
    total, count = np.bincount(row, values), np.bincount(row)  # (C,)
    weights = _multiplicities(len(names), n_replicates, seed)  # (R, C)
    return _interval(float(values.mean()), (weights @ total) / (weights @ count), len(names), level, least=2)


def _one_kind(trials: Trials) -> str:
    """Why no rate can be measured on `trials`; "" where there are genuine and impostor ones."""
    genuine = int(trials.same.sum())
    impostor = len(trials.same) - genuine
    return "" if genuine and impostor else f"{genuine} genuine and {impostor} impostor comparisons; both are needed"


def _draws(trials: Trials, n_replicates: int, seed: int) -> np.ndarray:
    n_subjects = max((int(side.max(initial=-1)) for side in subject_numbers(trials)), default=-1) + 1
    return _multiplicities(n_subjects, n_replicates, seed)


def _multiplicities(n_subjects: int, n_replicates: int, seed: int) -> np.ndarray:
    """(R, C) float: how often each of C subjects is drawn in each of R replicates; R is 0 where C is 0."""
    if not n_subjects:
        return np.empty((0, 0))
    rng = np.random.default_rng(seed)
    return rng.multinomial(n_subjects, np.full(n_subjects, 1 / n_subjects), n_replicates).astype(np.float64)


def _interval(value: float, values: ArrayLike, n_subjects: int, level: float, least: int, reason: str = "") -> Interval:
    """The interval of the replicates' `values`; NaN for fewer than `least` people."""
    values = np.asarray(values, float)
    if not reason and n_subjects < least:
        reason = f"{n_subjects} people; an interval needs {least}"
    if reason or not len(values):
        return Interval(
            value, np.nan, np.nan, level, int(n_subjects), len(values), reason or "no usable draw of people"
        )
    tail = 50 * (1 - level)
    low, high = np.percentile(values, [tail, 100 - tail], axis=0)
    return Interval(value, low, high, level, int(n_subjects), len(values))
