"""Figures of the people behind the errors: the zoo, the worst comparisons in colour and depth, and rates by group."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .figures import MARKERS, style
from .pictures import BLUE, GREY, ORANGE, PURPLE, RED, literal, short, show_depth, show_rgb

ANIMALS = {"": (GREY, "o"), "goat": (ORANGE, "v"), "wolf": (RED, "^"), "goat, wolf": (PURPLE, "D")}
LEGENDS = {"": "no more than chance", "goat": "goat", "wolf": "wolf or lamb", "goat, wolf": "goat and wolf"}
MOST_NAMES = 6  # of people in one panel


def plot_zoo(ax: Axes, table: pd.DataFrame) -> Axes:
    """A point for each person of `people.menagerie`: mean impostor score over mean genuine score.

    Goats and wolves, who differ from the others by more than chance, have colours, markers and, where they are few,
    names.
    """
    for animal, (colour, marker) in ANIMALS.items():
        rows = table[(table["animal"] == animal) & table[["genuine_mean", "impostor_mean"]].notna().all(axis=1)]
        if not len(rows):
            continue
        label = f"{LEGENDS[animal]}: {len(rows)}"
        how: dict[str, Any] = {"color": colour, "marker": marker, "linestyle": "none", "markersize": 6, "alpha": 0.85}
        ax.plot(rows["genuine_mean"], rows["impostor_mean"], label=label, **how)
    ax.margins(0.12)
    named = table[table["animal"] != ""].dropna(subset=["genuine_mean", "impostor_mean"])
    places: list[np.ndarray] = []
    for name, row in named.sort_values("impostor_mean", ascending=False, kind="stable").iterrows():
        where = row[["genuine_mean", "impostor_mean"]].to_numpy(float)
        apart = np.abs((ax.transLimits.transform([where, *places]) - ax.transLimits.transform(where))[1:])
        if len(places) < MOST_NAMES and not (apart < [0.17, 0.05]).all(axis=1).any():  # names do not overlap
            ax.annotate(literal(short(str(name), 12)), where, (4, 3), textcoords="offset points", fontsize=8)
            places.append(where)
    ax.set(xlabel="mean genuine score of a person", ylabel="mean impostor score")
    if ax.lines:
        ax.legend(loc="best", fontsize=8, handletextpad=0.2)
    return ax


def comparison_strip(rgb: np.ndarray, depth: np.ndarray, table: pd.DataFrame, title: str = "") -> Figure:
    """A column for each row of `people.worst`: colour and depth of its first picture above those of its second.

    rgb (2 K, H, W, 3) and depth (2 K, H, W) hold the first pictures of the K comparisons, then the second ones.
    A score in red is one that the threshold decides wrongly.
    """
    k = len(table)
    figure, axes = plt.subplots(4, max(k, 1), figsize=(max(1.5 * k, 4), 6.9 if k else 1), squeeze=False)
    for column, row in enumerate(table.itertuples(index=False)):
        for side, (person, pair_id) in enumerate(
            ((row.person_a, row.pair_id_a), (row.person_b, row.pair_id_b)),
        ):
            shown = short(str(pair_id).removeprefix(f"{person}/"), 12)
            heading = f"{short(str(person), 12)}\n{shown}"
            heading = f"score {row.score:.3f}\n{heading}" if side == 0 else heading
            ax = show_rgb(axes[2 * side, column], rgb[side * k + column], heading)
            ax.title.set(fontsize=9, color=RED if row.error and side == 0 else "black")
            show_depth(axes[2 * side + 1, column], depth[side * k + column])
    for ax in axes.flat if not k else ():
        ax.axis("off")
    if not k:
        axes[0, 0].annotate("no such comparison", (0.5, 0.5), xycoords="axes fraction", ha="center")
    if title:
        figure.suptitle(title, fontsize=11)
    figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    return figure


def plot_groups(ax: Axes, tables: dict[str, pd.DataFrame], rate: str, label: str) -> Axes:
    """A row for each group and a dot with its 95 % interval for each system.

    tables: by the label of the system, tables of `groups.group_rates` with the same groups. A group without data has a
    row that says so.
    """
    groups = list(dict.fromkeys(name for table in tables.values() for name in table["group"]))
    step = 0.7 / max(1, len(tables))
    for number, (system, table) in enumerate(tables.items()):
        rows = table.set_index("group").reindex(groups)
        place = np.arange(len(groups)) + step * (number - (len(tables) - 1) / 2)
        value, low, high = (100 * rows[name].to_numpy(float) for name in (rate, f"{rate}_low", f"{rate}_high"))
        look = {"color": style(number)["color"], "marker": MARKERS[number % len(MARKERS)], "markersize": 5}
        ax.plot(value, place, linestyle="none", label=literal(system), **look)
        ax.hlines(place, np.minimum(low, value), np.maximum(high, value), color=look["color"], linewidth=1.6)
    first = next(iter(tables.values())).set_index("group").reindex(groups) if tables else pd.DataFrame()
    names = [f"{short(str(name), 18)}\n{_counted(first.loc[name])}" for name in groups]
    ax.set_yticks(range(len(groups)), [literal(name) for name in names], fontsize=9)
    ax.set(xlabel=label, ylim=(len(groups) - 0.5, -0.5))
    ax.grid(axis="y", visible=False)
    return ax


def _counted(row: pd.Series) -> str:
    return "no data" if not row["pictures"] else f"{row['people']:.0f} people, {row['pictures']:.0f} pictures"


def _reach(tables: list[pd.DataFrame], rate: str) -> float:
    """The end of an axis in percent: all values fit, and most intervals; the widest would hide all others."""
    value, high = (100 * pd.concat([table[name] for table in tables]).dropna() for name in (rate, f"{rate}_high"))
    return float(min(101, 1.1 * max(value.max(), high.quantile(0.85), 0.1))) if len(high) else 101.0


def groups_figure(tables: dict[str, dict[str, pd.DataFrame]], rates: Sequence[tuple[str, str]]) -> Figure:
    """A row of panels for each column of the manifest, a panel for each rate (key, axis label).

    tables: by column, then by the label of the system, of `groups.group_rates`. A line that reaches the right edge
    goes on beyond it.
    """
    heights = [0.5 + 0.5 * len(next(iter(part.values()))) for part in tables.values()]
    figure, axes = plt.subplots(
        len(tables),
        len(rates),
        figsize=(10, 0.8 + sum(heights)),
        squeeze=False,
        height_ratios=heights,
        sharey="row",
        sharex="col",
    )
    for (column, part), row in zip(tables.items(), axes, strict=True):
        for ax, (rate, label) in zip(row, rates, strict=True):
            plot_groups(ax, part, rate, label)
        row[0].set_title(literal(column), loc="left", fontsize=11, color=BLUE)
    for (rate, _), column_axes in zip(rates, axes.T, strict=True):
        column_axes[0].set_xlim(0, _reach([table for part in tables.values() for table in part.values()], rate))
    for ax in axes[:-1].flat:
        ax.tick_params(labelbottom=True)
        ax.set_xlabel("")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure
