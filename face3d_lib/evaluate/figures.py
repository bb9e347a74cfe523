"""Plots of rates, training and embeddings: plot_*(ax, ...) -> ax.

Systems differ in colour and, for readers who cannot tell colours apart or print in grey, in line style.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .metrics.curves import Roc
from .pictures import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY, literal, short, show_depth, show_rgb
from .words import words

COLOURS = [BLUE, ORANGE, GREEN, PURPLE, RED, SKY, "black", "#7B4A12", "#8F9A00"]  # those of Okabe and Ito come first
LINES = ["-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (9, 3)), (0, (1, 3)), (0, (4, 1, 1, 4))]
MARKERS = "osD^vP*Xp"


def style(number: int) -> dict:
    """Colour and line style of system `number` (0, 1, ...), as arguments of `ax.plot`; 72 systems differ.

    The nine colours and the eight line styles advance together, so any eight neighbours can be told apart in grey.
    """
    return {"color": COLOURS[number % len(COLOURS)], "linestyle": LINES[number % len(LINES)]}


def one_legend(figure: Figure, axes: Iterable[Axes]) -> None:
    """One legend above all `axes`, which show the same systems, in place of one in each that would cover curves."""
    axes = list(axes)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    for ax in axes:
        legend = ax.get_legend()
        if legend is not None:
            legend.remove()


def plot_roc(ax: Axes, roc: Roc, label: str, system: int = 0) -> Axes:
    """TAR over FAR on a log axis, from one impostor comparison up; call it once for each system 0, 1, ...

    The curve is a staircase: its height at a FAR is TAR@FAR. The grey line is chance, TAR = FAR. A curve that cannot
    be measured appears only in the legend.
    """
    _chance(ax, np.geomspace(1e-6, 1, 100), np.geomspace(1e-6, 1, 100))
    ax.set(xscale="log", ylim=(0, 1.02), xlabel="false accept rate (FAR)", ylabel="true accept rate (TAR)")
    if roc.measurable:
        last = np.append(np.diff(roc.far) > 0, True)  # of the points of one FAR the highest
        ax.step(np.maximum(roc.far[last], 1e-9), roc.tar[last], where="post", label=label, **style(system))
    else:
        ax.plot([], [], label=f"{label} (not measurable)", **style(system))
    _widen(ax, 1 / max(2, roc.n_impostor))
    ax.legend(loc="best")
    return ax


def plot_cmc(ax: Axes, rates: np.ndarray, label: str, system: int = 0, n_ranks: int = 20) -> Axes:
    """Share of probes found among the best k of the gallery, `rates` of identification.cmc; the grey line is chance."""
    shown = min(n_ranks, len(rates))
    rank = np.arange(1, shown + 1)
    _chance(ax, rank, rank / max(1, len(rates)))
    ax.plot(rank, rates[:shown], marker=MARKERS[system % len(MARKERS)], markersize=4, label=label, **style(system))
    ax.set(ylim=(0, 1.02), xlabel=f"rank, of {len(rates)} enrolled people", ylabel="identification rate")
    ax.xaxis.set_major_locator(plt.MaxNLocator(integer=True))
    ax.legend(loc="lower right")
    return ax


def plot_score_histogram(
    ax: Axes,
    genuine: np.ndarray,
    impostor: np.ndarray,
    threshold: float | None = None,
    kinds: tuple[str, str] = ("genuine", "impostor"),
) -> Axes:
    """Densities of two kinds of scores on common bins, with their numbers, and the threshold.

    Either may be empty and then appears in the legend with the number 0. A threshold that is None or NaN is not drawn.
    """
    import seaborn as sns  # takes a second to import, and only some plots need it

    parts = [(kinds[0], np.asarray(genuine, float), BLUE), (kinds[1], np.asarray(impostor, float), RED)]
    how = {"bins": score_bins(genuine, impostor), "stat": "density", "element": "step", "alpha": 0.3, "linewidth": 1.5}
    for kind, scores, colour in parts:
        label = f"{kind}, {len(scores):,} scores"
        if len(scores):
            sns.histplot(x=scores, color=colour, label=label, ax=ax, **how)
        else:
            ax.plot([], [], color=colour, label=label)
    ax.set(xlabel="score (cosine similarity)", ylabel="density", ylim=(0, ax.get_ylim()[1] * 1.5))
    if threshold is not None and np.isfinite(threshold):
        ax.axvline(threshold, ymax=0.7, color="black", linewidth=1.2, linestyle="--")
        where: dict[str, Any] = {"xy": (threshold, 0.71), "xycoords": ax.get_xaxis_transform()}
        low, high = ax.get_xlim()
        side = "right" if threshold > low + 0.8 * (high - low) else "center"  # so that it stays inside the plot
        ax.annotate(f"threshold {threshold:.3f}", ha=side, va="bottom", fontsize=10, **where)
    ax.legend(loc="upper left")
    return ax


def score_bins(genuine: np.ndarray, impostor: np.ndarray) -> np.ndarray:
    """The edges of common bins for two kinds of scores, 10 to 60 bins: the more, the more scores the rarer kind has."""
    parts = [np.asarray(scores, float) for scores in (genuine, impostor)]
    every = np.concatenate(parts)
    low, high = (every.min(), every.max()) if len(every) else (0.0, 1.0)
    fewest = min((len(scores) for scores in parts if len(scores)), default=0)
    return np.linspace(low, max(high, low + 0.01), int(np.clip(3 * fewest**0.5, 10, 60)) + 1)


def plot_failure_rates(ax: Axes, table: pd.DataFrame, what: str = "faces not found") -> Axes:
    """A bar per row of failures.failure_rates (group, n, failed, rate, low, high), and counts."""
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


def plot_landmark_error(ax: Axes, error: np.ndarray, yaw_deg: np.ndarray, bin_deg: float = 15) -> Axes:
    """Landmark error (N,), in fractions of the inter-eye distance, over |yaw| (N,), and medians of bins."""
    error, yaw = np.asarray(error, float), np.abs(np.asarray(yaw_deg, float))
    ax.plot(yaw, error, ".", color=SKY, markersize=4, alpha=0.5, label="one image")
    number = (yaw // bin_deg).astype(int)
    bins = np.unique(number)
    low, middle, high = np.transpose([np.percentile(error[number == b], [5, 50, 95]) for b in bins])
    reach = [middle - low, high - middle]
    how: dict[str, Any] = {"fmt": "o", "color": BLUE, "elinewidth": 1.5, "capsize": 4}
    ax.errorbar((bins + 0.5) * bin_deg, middle, reach, label="median, 5-95 %", **how)
    ax.set(xlabel="head turned by, degrees of yaw", ylabel="error / inter-eye distance")
    ax.set_ylim(0, max(0.1, 1.1 * np.percentile(error, 99)))  # a single large error would flatten all others
    beyond = int((error > ax.get_ylim()[1]).sum())
    if beyond:
        ax.annotate(f"{beyond} above", (0.98, 0.98), xycoords="axes fraction", ha="right", va="top", fontsize=10)
    ax.legend(loc="upper left")
    return ax


def plot_training(ax: Axes, history: pd.DataFrame) -> Axes:
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
    above: dict[str, Any] = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "ncols": 3, "columnspacing": 1.0}
    ax.legend(lines, [str(line.get_label()) for line in lines], **above)
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


def plot_watched(ax: Axes, history: pd.DataFrame, names: list[str]) -> Axes:
    """By epoch, the values `names` that a loss watched; they are columns of `history` and share a unit."""
    for number, name in enumerate(names):
        quantity, label = WATCHED.get(name, (name, name))
        ax.plot(history["epoch"], history[name], marker="o", markersize=3, label=label, **style(number))
        ax.set(xlabel="epoch", ylabel=quantity)
    ax.xaxis.set_major_locator(plt.MaxNLocator(integer=True))
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize="small")
    return ax


def training_figure(history: pd.DataFrame) -> Figure:
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


def plot_settings(ax: Axes, table: pd.DataFrame, column: str, label: str, order: Sequence[str] = ()) -> Axes:
    """A row for each setting: a dot for each seed and a bar at the mean of `column`.

    table: columns setting, seed and `column`. order: the settings from the top; without it they are sorted by the mean.
    """
    import seaborn as sns  # takes a second to import, and only some plots need it

    means = table.groupby("setting", sort=False)[column].mean()
    order = list(order or means.sort_values().index)
    common = {"data": table, "x": column, "y": "setting", "order": order, "ax": ax}
    sns.stripplot(**common, color=BLUE, alpha=0.6, size=7, jitter=False, label="one training seed")
    ax.set_yticks(range(len(order)), [literal(words(setting)) for setting in order])
    ax.plot(means[order], range(len(order)), "|", color=RED, markersize=16, markeredgewidth=2, label="mean")
    ax.set(xlabel=label, ylabel="", ylim=(len(order) - 0.5, -0.5))
    handles, names = ax.get_legend_handles_labels()
    unique = dict(zip(names, handles, strict=True))
    if not ax.figure.legends:  # one legend for all axes of a figure
        ax.figure.legend(unique.values(), unique.keys(), loc="outside upper center", ncols=2)
    if legend := ax.get_legend():
        legend.remove()
    return ax


def plot_intervals(ax: Axes, table: pd.DataFrame, rate: str, label: str, system: int = 0, shift: float = 0.0) -> Axes:
    """A row for each row of `table`, from the top: a dot at `rate` and a line from `rate`_low to `rate`_high.

    Rows without a rate have neither. `shift` moves the marks of one of several systems down by a part of a row.
    """
    how, place = style(system), np.arange(len(table)) + shift
    low, high = table[f"{rate}_low"], table[f"{rate}_high"]
    ax.hlines(place, low, high, color=how["color"], linewidth=1.5)
    ax.plot(table[rate], place, "o", color=how["color"], markersize=5, label=label)
    ax.set(yticks=range(len(table)), ylim=(len(table) - 0.5, -0.5))
    return ax


def tsne(vectors: np.ndarray, seed: int = 0) -> np.ndarray:
    """(N, 2): t-SNE (van der Maaten and Hinton 2008) of unit vectors (N, D) by cosine; NaN for fewer than four."""
    from sklearn.manifold import TSNE  # takes a second to import, and only this function needs it

    vectors = np.asarray(vectors, np.float32)
    if len(vectors) < 4:
        return np.full((len(vectors), 2), np.nan)
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    return TSNE(
        metric="cosine",
        init="pca" if vectors.shape[1] > 1 else "random",
        perplexity=perplexity,
        random_state=seed,
    ).fit_transform(vectors)


def plot_tsne(ax: Axes, points: np.ndarray, labels: Iterable[str], title: str = "") -> Axes:
    """Points (N, 2) of `tsne`, a colour and a marker for each label, with a legend below. "" is an unknown label."""
    import seaborn as sns  # takes a second to import, and only some plots need it

    labels = np.array([literal(label) or "not known" for label in labels])
    names = sorted(set(labels))
    colours = COLOURS[: len(names)] if len(names) <= len(COLOURS) else sns.color_palette("husl", len(names))
    markers = {name: MARKERS[k % len(MARKERS)] for k, name in enumerate(names)}
    points = np.asarray(points, float)
    how = {"hue": labels, "hue_order": names, "palette": list(colours), "style": labels, "markers": markers, "s": 34}
    sns.scatterplot(x=points[:, 0], y=points[:, 1], ax=ax, **how)
    ax.set(xticks=[], yticks=[], xlabel="", ylabel="", title=literal(title))
    ax.spines[["left", "bottom"]].set_visible(False)
    if handles := ax.get_legend_handles_labels()[0]:
        columns = min(len(names), max(1, 60 // (6 + max(map(len, names)))), 4)
        ax.legend(handles, names, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=columns, handletextpad=0.1)
    if not np.isfinite(points).any():
        ax.annotate(f"{len(labels)} pictures; t-SNE needs four", (0.5, 0.5), xycoords="axes fraction", ha="center")
    return ax


def overview(
    rgb: Sequence[np.ndarray], depth: Sequence[np.ndarray], rocs: dict[str, Roc], table: pd.DataFrame, title: str = ""
) -> Figure:
    """One figure of a run: P pairs above, the ROC of each system and a table below.

    rgb: P pictures (H, W, 3); depth: P canonical maps (H, W). rocs: by the label of each system. table: texts, with a
    column for the row's name first; it should be small.
    """
    figure = plt.figure(figsize=(10, 7.4))
    columns = max(1, len(rgb))
    ratios = [2 * 10 / max(5, columns) + 0.1, 7.3 - 20 / max(5, columns)]
    above, below = figure.subfigures(2, 1, height_ratios=ratios, squeeze=False)[:, 0]
    axes = above.subplots(2, columns, gridspec_kw={"wspace": 0.02, "hspace": 0.02}, squeeze=False)
    for column in range(len(rgb)):
        show_rgb(axes[0, column], rgb[column])
        show_depth(axes[1, column], depth[column])
    for ax, name in zip(axes[:, 0], ("colour", "depth"), strict=True):
        ax.set_ylabel(name)
        if not len(rgb):
            ax.set(xticks=[], yticks=[])
    left, right = below.subplots(1, 2, gridspec_kw={"width_ratios": [1, 1.05]})
    for system, (label, roc) in enumerate(rocs.items()):
        plot_roc(left, roc, label, system)
    left.set_title("same person or not? people never seen in training")
    right.axis("off")
    width = [0.3, *[0.7 / (table.shape[1] - 1)] * (table.shape[1] - 1)]
    look = {"loc": "center", "cellLoc": "center", "edges": "horizontal", "colWidths": width}
    cells = [[short(str(name)), *texts] for name, *texts in table.to_numpy().tolist()]
    drawn = right.table(cells, colLabels=list(table.columns), **look)
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(10)
    drawn.scale(1, min(1.9, 11 / len(table)))  # eight systems fill the height
    for cell in drawn.get_celld().values():
        cell.set_edgecolor("#BBBBBB")
    if title:
        figure.suptitle(title)
    return figure


def _chance(ax: Axes, x: np.ndarray, y: np.ndarray) -> None:
    """The chance line, once for the first system on these axes."""
    if not ax.lines:
        ax.plot(x, y, color="#AAAAAA", linewidth=1.2, linestyle=(0, (1, 1)), label="chance")


def _widen(ax: Axes, far: float) -> None:
    """Let the log axis begin at the smallest FAR that any of its curves can show."""
    before = ax.get_xlim()[0] if len(ax.lines) > 2 else 1.0
    ax.set_xlim(min(before, far, 0.5), 1)
