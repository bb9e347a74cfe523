"""Plots of log-likelihood ratios and of error versus discard: plot_*(ax, ...) -> ax."""

import numpy as np
from matplotlib.axes import Axes

from .figures import plot_score_histogram, style
from .metrics.calibration import pav
from .metrics.curves import roc
from .metrics.discard import DiscardCurve, RandomOrder
from .pictures import GREY


def plot_llr_histogram(ax: Axes, genuine: np.ndarray, impostor: np.ndarray, reach: float = 12) -> Axes:
    """Densities of the LLRs of genuine and impostor comparisons; those beyond +-`reach` are drawn there.

    The line at 0 is the threshold where genuine and impostor comparisons are equally frequent.
    """
    shown = [np.clip(np.asarray(part, float), -reach, reach) for part in (genuine, impostor)]
    plot_score_histogram(ax, shown[0], shown[1])
    ax.axvline(0, color="black", linewidth=1.2, linestyle="--")
    ax.set(xlabel="log-likelihood ratio (natural logarithm)")
    return ax


def plot_reliability(ax: Axes, genuine: np.ndarray, impostor: np.ndarray, label: str, number: int = 0) -> Axes:
    """The LLR that the data at hand give (`calibration.pav`) over the LLR that the system states; one call per system.

    On the grey diagonal both agree. Below it on the right and above it on the left, the system promises too much.
    Parts where the data give an infinite LLR are left out.
    """
    limit = 8
    if not ax.lines:
        ax.plot([-limit, limit], [-limit, limit], color="#AAAAAA", linewidth=1.2, linestyle=(0, (1, 1)))
    curve = roc(genuine, impostor)
    stated, found = pav(curve) if curve.measurable else (np.array([]), np.array([]))
    inner = np.isfinite(found)
    ax.plot(stated[inner], found[inner], label=label if inner.any() else f"{label} (not measurable)", **style(number))
    ax.set(xlim=(-limit, limit), ylim=(-limit, limit), xlabel="LLR that is stated", ylabel="LLR that the data give")
    ax.legend(loc="upper left")
    return ax


def plot_discard(ax: Axes, curve: DiscardCurve, label: str, number: int = 0, most: float = 0.5) -> Axes:
    """FNMR over the share of genuine comparisons that are discarded, a staircase; call it once for each quality."""
    if np.isnan(curve.fnmr).all():
        ax.plot([], [], label=f"{label} (not measurable)", **style(number))
    else:
        share, fnmr = np.append(curve.share, 1), np.append(curve.fnmr, curve.fnmr[-1])
        ax.step(100 * share, fnmr, where="post", label=label, **style(number))
        ax.set_ylim(0, max(ax.get_ylim()[1] if len(ax.lines) > 1 else 0, 1.25 * curve.fnmr[0], 0.01))
    ax.set(xlim=(0, 100 * most), xlabel="genuine comparisons discarded, %", ylabel="FNMR of the others")
    ax.legend(loc="lower left", fontsize="small")
    return ax


def plot_random_order(ax: Axes, chance: RandomOrder) -> Axes:
    """The range of 95 % of random orders as a grey band with its mean; qualities below it foresee errors."""
    low, mean, high = chance.fnmr
    ax.fill_between(100 * chance.share, low, high, color=GREY, alpha=0.25, linewidth=0, label="random order, 95 %")
    ax.plot(100 * chance.share, mean, color=GREY, linewidth=1.2)
    return ax


def plot_ideal_discard(ax: Axes, curve: DiscardCurve) -> Axes:
    """What a quality would give that knew every error: (FNMR - share) / (1 - share) until no error is left."""
    share = np.linspace(0, 0.99, 200)
    best = np.maximum(curve.fnmr[0] - share, 0) / (1 - share)
    ax.plot(100 * share, best, color="black", linewidth=1, linestyle=(0, (1, 1)), label="every error foreseen")
    return ax
