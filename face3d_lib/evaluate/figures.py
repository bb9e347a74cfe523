"""Plots of rates, training and embeddings: plot_*(ax, ...) -> ax.

Systems differ in colour and, for readers who cannot tell colours apart, in line style.
"""

from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.patheffects import withStroke
from scipy.stats import norm

from .metrics import Roc
from .pictures import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY, literal, show_depth, show_rgb

SYSTEMS = {"rgb": (BLUE, "-"), "depth": (ORANGE, "--"), "rgbd": (GREEN, "-."), "fused": (PURPLE, ":")}


def plot_roc(ax, roc: Roc, label: str, system: str = "rgb", band=None):
    """TAR over FAR on a log axis, from one impostor trial up; call it once per system.

    `band` is (far (F,), low (F,), high (F,)), a 95 % interval as of metrics.subject_bootstrap. The curve is a
    staircase: its height at a FAR is TAR@FAR. The grey line is chance, TAR = FAR.
    """
    colour, style = SYSTEMS[system]
    _chance(ax, np.geomspace(1e-6, 1, 100), np.geomspace(1e-6, 1, 100))
    last = np.append(np.diff(roc.far) > 0, True)  # of the points of one FAR the highest
    far, tar = roc.far[last], roc.tar[last]
    ax.step(np.maximum(far, 1e-9), tar, where="post", color=colour, linestyle=style, label=label)
    if band is not None:
        ax.fill_between(*band, color=colour, alpha=0.15, linewidth=0)
    _widen(ax, 1 / roc.n_impostor)
    ax.set(xscale="log", ylim=(0, 1.02), xlabel="false accept rate (FAR)", ylabel="true accept rate (TAR)")
    ax.legend(loc="best")
    return ax


def plot_det(ax, roc: Roc, label: str, system: str = "rgb"):
    """FRR over FAR on normal-deviate axes (DET, Martin et al. 1997); normal scores give a straight line.

    The ring is the equal error rate.
    """
    colour, style = SYSTEMS[system]
    ticks = np.array([0.001, 0.01, 0.05, 0.2, 0.4, 0.6, 0.8])
    _chance(ax, norm.ppf(np.linspace(0.001, 0.999, 200)), norm.ppf(1 - np.linspace(0.001, 0.999, 200)))
    far, frr = roc.far, 1 - roc.tar
    inside = (far > 0) & (frr > 0) & (far < 1) & (frr < 1)  # 0 and 1 lie at infinity
    value, _ = roc.eer()
    shown = norm.ppf(far[inside]), norm.ppf(frr[inside])
    ax.plot(*shown, color=colour, linestyle=style, label=f"{label}, EER {value:.1%}")
    if 0 < value < 1:
        ax.plot(*[norm.ppf(value)] * 2, "o", markersize=8, markerfacecolor="none", color=colour)
    ax.set(xlabel="false accept rate (FAR)", ylabel="false reject rate (FRR)", aspect="equal")
    ax.set(xlim=norm.ppf([0.0005, 0.85]), ylim=norm.ppf([0.0005, 0.85]))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_ticks(norm.ppf(ticks), [f"{tick:.3g}" for tick in ticks])
    ax.legend(loc="lower left")
    return ax


def plot_cmc(ax, rates, label: str, system: str = "rgb", n_ranks: int = 20):
    """Share of probes found among the best k of the gallery: `rates` of metrics.cmc, grey is chance."""
    colour, style = SYSTEMS[system]
    shown = min(n_ranks, len(rates))
    rank = np.arange(1, shown + 1)
    _chance(ax, rank, rank / len(rates))
    ax.plot(rank, rates[:shown], color=colour, linestyle=style, marker="o", markersize=4, label=label)
    ax.set(ylim=(0, 1.02), xlabel=f"rank, of {len(rates)} enrolled", ylabel="identification rate")
    ax.xaxis.set_major_locator(plt.MaxNLocator(integer=True))
    ax.legend(loc="lower right")
    return ax


def plot_score_histogram(ax, genuine, impostor, threshold: float | None = None, label: str = "threshold"):
    """Densities of genuine and impostor scores on common bins, and the threshold."""
    low, high = min(np.min(genuine), np.min(impostor)), max(np.max(genuine), np.max(impostor))
    bins = np.linspace(low, max(high, low + 0.01), 61)
    for scores, colour, name in ((impostor, RED, "impostor"), (genuine, BLUE, "genuine")):
        ax.hist(scores, bins, density=True, histtype="stepfilled", color=colour, alpha=0.3)
        ax.hist(scores, bins, density=True, histtype="step", color=colour, label=f"{name}, {len(scores):,} trials")
    ax.set(xlabel="score (cosine similarity)", ylabel="density", ylim=(0, ax.get_ylim()[1] * 1.35))
    if threshold is not None and np.isfinite(threshold):
        ax.axvline(threshold, ymax=0.78, color="black", linewidth=1.2, linestyle="--")
        where = {"xy": (threshold, 0.79), "xycoords": ax.get_xaxis_transform()}
        ax.annotate(f"{label} {threshold:.3f}", ha="center", va="bottom", fontsize=10, **where)
    ax.legend(loc="upper left", ncols=2)
    return ax


def plot_failure_rates(ax, table: pd.DataFrame, what: str = "faces not found"):
    """A bar per row of metrics.failure_rates (group, n, failed, rate, low, high), and counts."""
    place = np.arange(len(table))[::-1]
    rate, low, high = (100 * table[name].to_numpy(float) for name in ("rate", "low", "high"))
    colours = [GREY if group == "all" else SKY for group in table["group"]]
    ax.barh(place, rate, color=colours, height=0.65)
    ax.errorbar(rate, place, xerr=[rate - low, high - rate], fmt="none", ecolor="black", elinewidth=1.2, capsize=3)
    for y, right, failed, n in zip(place, high, table["failed"], table["n"], strict=True):
        ax.annotate(f"{failed} of {n}", (right, y), (6, 0), textcoords="offset points", va="center", fontsize=10)
    ax.set_yticks(place, [literal(group) for group in table["group"]])
    ax.set(xlabel=f"{what}, % (95 % interval)", xlim=(0, max(high.max() * 1.25, 1)))
    ax.grid(axis="y", visible=False)
    return ax


def plot_landmark_error(ax, error, yaw_deg, bin_deg: float = 15):
    """Landmark error (N,), in fractions of the inter-eye distance, over |yaw| (N,), and medians of bins."""
    error, yaw = np.asarray(error, float), np.abs(np.asarray(yaw_deg, float))
    ax.plot(yaw, error, ".", color=SKY, markersize=4, alpha=0.5, label="one image")
    number = (yaw // bin_deg).astype(int)
    bins = np.unique(number)
    low, middle, high = np.transpose([np.percentile(error[number == b], [5, 50, 95]) for b in bins])
    reach, style = [middle - low, high - middle], {"fmt": "o", "color": BLUE, "elinewidth": 1.5, "capsize": 4}
    ax.errorbar((bins + 0.5) * bin_deg, middle, reach, label="median, 5-95 %", **style)
    ax.set(xlabel="head turned by, degrees of yaw", ylabel="error / inter-eye distance")
    ax.set_ylim(0, max(0.1, 1.1 * np.percentile(error, 99)))  # a single lost face would hide all others
    beyond = int((error > ax.get_ylim()[1]).sum())
    if beyond:
        ax.annotate(f"{beyond} above", (0.98, 0.98), xycoords="axes fraction", ha="right", va="top", fontsize=10)
    ax.legend(loc="upper left")
    return ax


def plot_training(ax, history: pd.DataFrame):
    """By epoch, loss on the left axis and accuracies on the right, from the table that fit.fit returns."""
    ax.plot(history["epoch"], history["loss"], color=GREY, marker="o", markersize=3, label="loss")
    ax.set(xlabel="epoch", ylabel="training loss", ylim=(0, None))
    ax.xaxis.set_major_locator(plt.MaxNLocator(integer=True))
    right = ax.twinx()
    right.grid(visible=False)
    for name, colour, style in (("train_accuracy", SKY, "--"), ("eval_accuracy", BLUE, "-")):
        if history[name].notna().any():
            label = name.replace("_", " ").replace("eval", "evaluation").replace("train", "training")
            right.plot(
                history["epoch"],
                history[name],
                color=colour,
                linestyle=style,
                marker="o",
                markersize=3,
                label=label,
            )
    right.set(ylabel="accuracy", ylim=(0, 1.02))
    right.spines["right"].set_visible(True)
    lines = [*ax.get_lines(), *right.get_lines()]
    above = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "ncols": 3, "columnspacing": 1.0}
    ax.legend(lines, [line.get_label() for line in lines], **above)
    return ax


WATCHED = {  # a value that a loss watches: (the quantity on the axis, its name in the legend)
    "angle_deg": ("mean angle, degrees", "to the own class"),
    "angle_other_deg": ("mean angle, degrees", "to the nearest other class"),
    "centre_distance": ("mean distance", "embedding to its centre"),
    "centre_spread": ("mean distance", "centre to the origin"),
    "cos_same": ("mean cosine", "pairs of one person"),
    "cos_other": ("mean cosine", "pairs of two people"),
    "left": ("share that the miner chose", "of the batch's triplets or pairs"),
    "norm": ("length of the embeddings", "mean"),
    "norm_sd": ("length of the embeddings", "standard deviation in a batch"),
    "norm_outside": ("share of embeddings", "with a length outside the range"),
}


def plot_watched(ax, history: pd.DataFrame, names: list[str]):
    """By epoch, the values `names` that a loss watched; they are columns of `history` and share a unit."""
    for name, style in zip(names, cycle(("-", "--", ":"))):
        quantity, label = WATCHED.get(name, (name, name))
        ax.plot(history["epoch"], history[name], linestyle=style, marker="o", markersize=3, label=label)
        ax.set(xlabel="epoch", ylabel=quantity)
    ax.xaxis.set_major_locator(plt.MaxNLocator(integer=True))
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize="small")
    return ax


def training_figure(history: pd.DataFrame):
    """The figure of one training: loss and accuracies by epoch, and a panel for each quantity that the loss watched.

    history: the table that `fit.fit` returns, in which the watched values follow the column `best`.
    """
    panels: dict[str, list[str]] = {}
    for name in history.columns[history.columns.get_loc("best") + 1 :]:
        panels.setdefault(WATCHED.get(name, (name, name))[0], []).append(name)
    ratios = [1.5, *[1] * len(panels)]
    width = 4 + 3 * max(len(panels), 1)  # inches
    figure, axes = plt.subplots(1, len(ratios), figsize=(width, 3.3), squeeze=False, width_ratios=ratios)
    plot_training(axes[0, 0], history)
    for ax, names in zip(axes[0, 1:], panels.values(), strict=True):
        plot_watched(ax, history, names)
    return figure


def plot_settings(ax, table: pd.DataFrame, column: str, label: str):
    """A row for each setting, sorted by the mean of `column`: a dot for each seed, a bar at the mean.

    table: columns setting, seed and `column`. Axes that share y are sorted by the first.
    """
    means = table.groupby("setting", sort=False)[column].mean()
    shared = [other for other in ax.get_shared_y_axes().get_siblings(ax) if other is not ax and other.lines]
    order = [text.get_text() for text in shared[0].get_yticklabels()] if shared else list(means.sort_values().index)
    for place, setting in enumerate(order):
        values = table.loc[table["setting"] == setting, column]
        ax.plot(values, [place] * len(values), "o", color=BLUE, alpha=0.6, markersize=6)
        ax.plot([means[setting]] * 2, [place - 0.3, place + 0.3], "-", color=RED)
    ax.set_yticks(range(len(order)), order)
    ax.set_ylim(len(order) - 0.5, -0.5)
    ax.set_xlabel(label)
    return ax


def tsne(vectors, seed: int = 0) -> np.ndarray:
    """t-SNE (van der Maaten and Hinton 2008) of unit vectors (N, D) by cosine: (N, 2). Needs N >= 4."""
    from sklearn.manifold import TSNE  # a second of import that only this needs

    vectors = np.asarray(vectors, np.float32)
    if len(vectors) < 4:
        raise ValueError(f"t-SNE of {len(vectors)} embeddings: at least 4 are needed")
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    return TSNE(
        metric="cosine",
        init="pca" if vectors.shape[1] > 1 else "random",
        perplexity=perplexity,
        random_state=seed,
    ).fit_transform(vectors)


def plot_tsne(ax, points, labels, shapes=None, max_named: int = 15):
    """Points (N, 2) of `tsne`, a colour per label; up to `max_named` labels are written there.

    `shapes` (N,), such as session or pose, gives each of its values a marker and a legend.
    """
    points, labels = np.asarray(points), np.asarray(labels).astype(str)
    shapes = np.full(len(labels), "") if shapes is None else np.asarray(shapes).astype(str)
    names = np.unique(labels)
    colours = plt.get_cmap("turbo")((0.05 + 0.618034 * np.arange(len(names))) % 1)  # neighbours far apart
    for marker, shape in zip(cycle("osD^vP*X"), np.unique(shapes), strict=False):
        chosen = shapes == shape
        colour = colours[np.searchsorted(names, labels[chosen])]
        ax.scatter(*points[chosen].T, c=colour, marker=marker, s=24, linewidths=0.4, edgecolors="white")
        if shape:
            ax.scatter([], [], c=GREY, marker=marker, s=24, label=literal(shape))
    if len(names) <= max_named:
        for name in names:
            own = points[labels == name]
            above = np.median(own[:, 0]), np.percentile(own[:, 1], 90)
            ax.text(
                *above,
                literal(name),
                ha="center",
                va="bottom",
                fontsize=9,
                path_effects=[withStroke(linewidth=3, foreground="white")],
            )
    ax.set(xticks=[], yticks=[], xlabel=f"t-SNE of {len(labels)} images of {len(names)} people")
    ax.spines[["left", "bottom"]].set_visible(False)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(loc="upper left", bbox_to_anchor=(0, 1.1), ncols=4)
    return ax


def overview(rgb, depth, rocs: dict, table: pd.DataFrame, bands: dict | None = None, title: str = ""):
    """One figure of a run: P pairs above, ROC of each system and a table below.

    rocs: {"rgb" | "depth" | "rgbd" | "fused": Roc}; bands: the same keys, as in plot_roc; table: texts,
    small.
    """
    figure = plt.figure(figsize=(10, 7.4))
    above, below = figure.subfigures(2, 1, height_ratios=[2 * 10 / len(rgb) + 0.1, 7.3 - 20 / len(rgb)])
    axes = above.subplots(2, len(rgb), gridspec_kw={"wspace": 0.02, "hspace": 0.02})
    for column in range(len(rgb)):
        show_rgb(axes[0, column], rgb[column])
        show_depth(axes[1, column], depth[column])
    for ax, name in zip(axes[:, 0], ("colour", "depth"), strict=True):
        ax.set_ylabel(name)
    left, right = below.subplots(1, 2, gridspec_kw={"width_ratios": [1, 1]})
    names = {"rgb": "RGB", "depth": "depth", "rgbd": "RGB-D", "fused": "RGB + depth, scores fused"}
    for system, roc in rocs.items():
        plot_roc(left, roc, names[system], system, (bands or {}).get(system))
    left.set_title("same person or not? people never seen in training")
    right.axis("off")
    width = [0.31, *[0.69 / (table.shape[1] - 1)] * (table.shape[1] - 1)]
    look = {"loc": "center", "cellLoc": "center", "edges": "horizontal", "colWidths": width}
    drawn = right.table(table.to_numpy(), colLabels=list(table.columns), **look)
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(11)
    drawn.scale(1, 1.9)
    for cell in drawn.get_celld().values():
        cell.set_edgecolor("#BBBBBB")
    if title:
        figure.suptitle(title)
    return figure


def _chance(ax, x, y) -> None:
    """The chance line, once for the first system on these axes."""
    if not ax.lines:
        ax.plot(x, y, color="#AAAAAA", linewidth=1.2, linestyle=(0, (1, 1)), label="chance")


def _widen(ax, far: float) -> None:
    """Let the log axis begin at the smallest FAR that any of its curves can show."""
    before = ax.get_xlim()[0] if len(ax.lines) > 2 else 1.0
    ax.set_xlim(min(before, far, 0.5), 1)
