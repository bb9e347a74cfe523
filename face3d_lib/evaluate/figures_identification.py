"""Plots of open-set identification and of enrolment: plot_*(ax, ..., label, number) -> ax, one call for each curve."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from .figures import MARKERS, style
from .metrics.identification import DirCurve


def plot_dir(ax: Axes, curve: DirCurve, rank: int, label: str, number: int = 0) -> Axes:
    """DIR over FAR on a log axis, a staircase from one unknown probe up; its height is `curve.at_far(FAR, rank).dir`.

    A curve that cannot be measured appears only in the legend.
    """
    ax.set(xscale="log", ylim=(0, 1.02), xlabel="unknown people accepted (FAR)", ylabel="right name and accepted (DIR)")
    if rank in curve.left_out or not (curve.n_known and curve.n_unknown):
        ax.plot([], [], label=f"{label} (not measurable)", **style(number))
    else:
        last = np.append(np.diff(curve.far) > 0, True)  # of the points of one FAR the highest
        far, rate = curve.far[last], curve.dir[rank][last]
        ax.step(np.maximum(far, 1e-9), rate, where="post", label=label, **style(number))
        shown = len(ax.lines) > 1
        ax.set_xlim(min(ax.get_xlim()[0] if shown else 1.0, 1 / max(2, curve.n_unknown)), 1)
    ax.legend(loc="best")
    return ax


def plot_gallery_sizes(ax: Axes, table: pd.DataFrame, measure: str, label: str, number: int = 0) -> Axes:
    """A measure of `enrolment.gallery_sizes` over the number of enrolled people: mean, and a bar of one sd each way."""
    rows = table[(table["measure"] == measure) & table["mean"].notna()]
    error = rows["sd"].fillna(0)
    ax.errorbar(rows["size"], rows["mean"], error, **_look(label, number, measured=len(rows) > 0))
    ax.set(ylim=(0, 1.02), xlabel="people in the gallery", ylabel="mean and sd of the galleries")
    ax.xaxis.set_major_locator(plt.MaxNLocator(integer=True))
    ax.legend(loc="best")
    return ax


def plot_template_sizes(ax: Axes, table: pd.DataFrame, measure: str, label: str, number: int = 0) -> Axes:
    """A measure of `enrolment.template_sizes`, "rank1", "dir" or "eer", over the pictures of a template, with intervals.

    The points of several systems stand side by side, so that their intervals can be told apart.
    """
    rows = table[table[measure].notna()]
    value, low, high = (rows[f"{measure}{end}"].to_numpy(float) for end in ("", "_low", "_high"))
    place = rows["pictures"].to_numpy(float) * 1.03**number
    reach = np.nan_to_num([value - low, high - value]).clip(min=0)
    ax.errorbar(place, value, reach, **_look(label, number, measured=len(rows) > 0))
    names = {"rank1": "rank-1", "dir": "DIR", "eer": "EER"}
    ax.set_xscale("log", base=2)
    ax.set_xticks(table["pictures"].to_numpy(float), [str(n) for n in table["pictures"]])
    ax.set(xlabel="pictures in a template", ylabel=f"{names[measure]} (95 % interval)")
    ax.legend(loc="best")
    return ax


def _look(label: str, number: int, measured: bool) -> dict[str, Any]:
    """Arguments of `ax.errorbar` for curve `number`; the legend says so where there is nothing to draw."""
    name = label if measured else f"{label} (not measurable)"
    marker = {"marker": MARKERS[number % len(MARKERS)], "markersize": 5}
    return {"label": name, "capsize": 3, "elinewidth": 1.2, **marker, **style(number)}
