"""Plots of errors over the threshold: DET, and the error at thresholds chosen on other people. plot_*(ax, ...) -> ax."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator
from scipy.stats import norm

from .figures import style
from .metrics.curves import Roc

TICKS = (1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.05, 0.2, 0.5, 0.8, 0.95, 0.99)


def plot_det(ax: Axes, roc: Roc, label: str, system: int = 0) -> Axes:
    """The detection error tradeoff: FNMR over FMR, both on normal deviate axes; call it once for each system 0, 1, ...

    Scores that are normally distributed give a straight line (Martin et al. 1997, "The DET curve in assessment of
    detection task performance"). The curve is a staircase, drawn from one false match to one false non-match; beyond
    these the data show nothing. The grey line is where FMR equals FNMR. A curve that cannot be measured appears only in
    the legend.
    """
    first = not ax.lines
    if first:
        ends = norm.ppf([1e-7, 1 - 1e-7])
        ax.plot(ends, ends, color="#AAAAAA", linewidth=1.2, linestyle=(0, (1, 1)), label="FMR = FNMR")
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(FixedLocator(norm.ppf(TICKS)))
            axis.set_major_formatter(FixedFormatter([f"{100 * tick:g}" for tick in TICKS]))
            axis.set_minor_locator(NullLocator())
        ax.set(xlabel="false match rate (FMR), %", ylabel="false non-match rate (FNMR), %")
    if not roc.measurable:
        ax.plot([], [], label=f"{label} (not measurable)", **style(system))
    else:
        lowest = 0.5 / roc.n_impostor, 0.5 / roc.n_genuine
        fmr, fnmr = np.clip(roc.far, lowest[0], 1 - lowest[0]), np.clip(1 - roc.tar, lowest[1], 1 - lowest[1])
        ax.step(norm.ppf(fmr), norm.ppf(fnmr), where="post", label=label, **style(system))
        before = (ax.get_xlim()[0], ax.get_ylim()[0]) if not first else (np.inf, np.inf)
        left, low = (min(old, norm.ppf(min(rate, 0.1))) for old, rate in zip(before, lowest, strict=True))
        highest = norm.ppf(0.99) if roc.eer()[0] > 0.35 else norm.ppf(0.95)
        ax.set(xlim=(left, max(highest, ax.get_xlim()[1] if not first else highest)))
        ax.set(ylim=(low, max(highest, ax.get_ylim()[1] if not first else highest)))
    ax.legend(loc="upper right")
    return ax


def plot_expected_performance(ax: Axes, table: pd.DataFrame, label: str, system: int = 0) -> Axes:
    """HTER on test people over the weight of false accepts for which development people chose the threshold.

    table: of `thresholds.expected_performance`. What cannot be measured appears only in the legend.
    """
    measured = table["hter"].notna().any()
    ax.step(
        table["weight"],
        table["hter"],
        where="mid",
        label=label if measured else f"{label} (not measurable)",
        **style(system),
    )
    ax.set(xlabel="weight of false accepts on development people", ylabel="HTER on test people")
    ax.set(xlim=(0, 1), ylim=(0, 0.52))
    ax.legend(loc="best")
    return ax


def rates_figure(rocs: dict[str, Roc], performance: dict[str, pd.DataFrame]) -> plt.Figure:
    """DET beside the expected performance curves, by the label of each system; the latter may be of fewer systems."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2))
    for system, (label, roc) in enumerate(rocs.items()):
        plot_det(left, roc, label, system)
        if label in performance:
            plot_expected_performance(right, performance[label], label, system)
    left.set_title("detection error tradeoff (DET)")
    right.set_title("expected performance curve (EPC)")
    left.get_legend().remove()
    return figure
