"""Confidence intervals from drawing people again, never pairs."""

from dataclasses import dataclass

import numpy as np

from .metrics import curves_of, flat, subject_numbers
from .scores import Trials, require_same_trials


@dataclass(frozen=True)
class Interval:
    """A value and its percentile bootstrap interval; low and high are NaN without a usable replicate."""

    value: float | np.ndarray
    low: float | np.ndarray
    high: float | np.ndarray
    level: float
    n_subjects: int
    n_replicates: int  # those that had both genuine and impostor trials


def subject_bootstrap(
    trials: Trials, statistic, n_replicates: int = 1000, seed: int = 0, level: float = 0.95
) -> Interval:
    """The interval of `statistic(Roc)`, a number or an array, when people are drawn again with replacement.

    Trials share people, so drawing trials would make intervals several times too narrow. Here a person drawn
    w times weighs w in genuine trials, and persons drawn v and w times weigh v * w in the impostor trials
    between them.

    >>> subject_bootstrap(trials, lambda roc: roc.eer()[0])
    >>> subject_bootstrap(trials, lambda roc: roc.tar_at_far(1e-2))
    """
    (curve,) = curves_of(trials)
    values = [statistic(curve.roc(weight)) for weight in _draws(trials, n_replicates, seed) if curve.usable(weight)]
    return _interval(statistic(curve.roc()), values, curve.n_subjects, level)


def paired_bootstrap(
    first: Trials | list[Trials],
    second: Trials | list[Trials],
    statistic,
    n_replicates: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """The interval of statistic(second) - statistic(first): the same trials, people drawn alike for both.

    A list holds the same trials scored by several networks, as of several training seeds; their mean statistic
    counts. The difference is shown when the interval leaves out 0; intervals of the single systems may overlap even so.
    """
    first, second = ([part] if isinstance(part, Trials) else list(part) for part in (first, second))
    require_same_trials(*first, *second)
    curves = curves_of(*first, *second)

    def difference(weight=None):
        values = [statistic(curve.roc(weight)) for curve in curves]
        return np.mean(values[len(first) :], axis=0) - np.mean(values[: len(first)], axis=0)

    usable = (weight for weight in _draws(first[0], n_replicates, seed) if curves[0].usable(weight))
    values = [difference(weight) for weight in usable]
    return _interval(difference(), values, curves[0].n_subjects, level)


def mean_bootstrap(values, subjects, n_replicates: int = 1000, seed: int = 0, level: float = 0.95) -> Interval:
    """The interval of a mean over probes, people drawn again: accuracy, or rank-1 (`ranks(...) == 1`).

    `values` (P,) numbers or bool, `subjects` (P,). For two systems on the same probes give the difference of
    their values. The gallery stays as it is.
    """
    values = flat(values, "values")
    names, row = np.unique(np.asarray(subjects), return_inverse=True)
    total, count = np.bincount(row, values), np.bincount(row)  # (C,)
    weights = _multiplicities(len(names), n_replicates, seed)  # (R, C)
    return _interval(float(values.mean()), (weights @ total) / (weights @ count), len(names), level)


def _draws(trials: Trials, n_replicates: int, seed: int):
    n_subjects = max(side.max() for side in subject_numbers(trials)) + 1
    return _multiplicities(n_subjects, n_replicates, seed)


def _multiplicities(n_subjects: int, n_replicates: int, seed: int) -> np.ndarray:
    """(R, C) float: how often each of C subjects is drawn in each of R replicates."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(n_subjects, np.full(n_subjects, 1 / n_subjects), n_replicates).astype(np.float64)


def _interval(value, values, n_subjects: int, level: float) -> Interval:
    values = np.asarray(values, float)
    tail = 50 * (1 - level)
    low, high = np.percentile(values, [tail, 100 - tail], axis=0) if len(values) else (np.nan, np.nan)
    return Interval(value, low, high, level, int(n_subjects), len(values))
