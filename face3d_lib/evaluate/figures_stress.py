"""Pictures of a stress test: a panel for each knob with rates or differences over its levels, and examples of the levels.

Levels stand at equal distances, the clean one first.
"""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..data.pairs import RGBDPair
from .degradations import KNOBS, degrade
from .figures import MARKERS, style
from .pictures import BLUE, GREY, RED, show_depth, show_rgb
from .stress import Drawn, Levels, Recorded

COLUMNS = 4  # panels in a row
NAMES = {"eer": "EER", "rank1": "rank-1"}
VERDICTS = {"pays": (BLUE, "o"), "hurts": (RED, "s"), "not shown": (GREY, "D"), "no data": (GREY, "x")}


def label_of(knob: str, unit: str = "mm") -> str:
    """The label of a knob's axis; `unit` is that of the depth."""
    return KNOBS[knob].label.format(unit=unit)


def plot_knob(ax: Axes, table: pd.DataFrame, rate: str, labels: dict[str, str]) -> Axes:
    """A rate of the systems `labels` (name -> label) over the levels of one knob, with 95 % bands over people.

    table: the rows of one knob from `stress_rates.rates_by_level`. Grey bars show the share of faces that were not found;
    the rate does not count them.
    """
    levels = table["level"].drop_duplicates().to_numpy()
    failed = table.drop_duplicates("level")["fta"].to_numpy(float)
    ax.bar(np.arange(len(levels)), failed, color="#CCCCCC", width=0.5, label="faces not found")
    for number, (name, label) in enumerate(labels.items()):
        rows = table[table["system"] == name]
        value, low, high = (rows[f"{rate}{end}"].to_numpy(float) for end in ("", "_low", "_high"))
        look = style(number)
        marker = MARKERS[number % len(MARKERS)]
        ax.plot(np.arange(len(value)), value, marker=marker, markersize=4, label=label, **look)
        ax.fill_between(np.arange(len(value)), low, high, color=look["color"], alpha=0.15, linewidth=0)
    _levels_axis(ax, levels)
    return ax


def levels_figure(
    table: pd.DataFrame, rate: str, labels: dict[str, str], unit: str = "mm", marks: pd.DataFrame | None = None
) -> Figure:
    """A panel for each knob of `stress_rates.rates_by_level`, with `rate` ("eer" or "rank1") of the systems `labels`.

    marks: crossings of EER (`crossings.crossings`), drawn as rings with their intervals along the levels.
    """
    figure, axes = _panels(table["knob"].unique(), unit)
    for knob, ax in axes.items():
        plot_knob(ax, table[table["knob"] == knob], rate, labels)
        if marks is not None:
            _mark_crossings(ax, marks[(marks["knob"] == knob) & marks["place"].notna()])
        ax.set_ylim(0, 1.02 if rate == "rank1" else 0.6)
    _finish(figure, axes, NAMES[rate])
    return figure


def _mark_crossings(ax: Axes, rows: pd.DataFrame) -> None:
    """Rings where two curves cross, with a line over the levels of the interval; to the worst level where it is open."""
    reach = len(ax.get_xticks()) - 1
    for row in rows.itertuples():
        high = row.place_high if np.isfinite(row.place_high) else reach
        ax.hlines(row.eer, row.place_low, high, color="black", linewidth=1, zorder=3)
        ax.plot(row.place, row.eer, "o", color="black", markerfacecolor="white", markersize=6, zorder=4)


def differences_figure(table: pd.DataFrame, rate: str, unit: str = "mm") -> Figure:
    """A panel for each knob of `stress_rates.differences`: `rate` of RGB-D minus that of RGB, with 95 % intervals.

    Colour and marker show the verdict, which is corrected for the number of comparisons.
    """
    clean = table[table["knob"] == ""]
    figure, axes = _panels([knob for knob in table["knob"].unique() if knob], unit)
    reach = float(np.nanmax(np.abs(table[[f"{rate}_low", f"{rate}_high"]].to_numpy(float)), initial=0.05))
    for knob, ax in axes.items():
        rows = pd.concat([clean.assign(level=float(KNOBS[knob].clean)), table[table["knob"] == knob]])
        place = np.arange(len(rows))
        ax.axhline(0, color="black", linewidth=0.8)
        for verdict, (colour, marker) in VERDICTS.items():
            here = (rows[f"{rate}_verdict"] == verdict).to_numpy()
            value, low, high = (rows[f"{rate}{end}"].to_numpy(float)[here] for end in ("", "_low", "_high"))
            how: dict[str, Any] = {"fmt": marker, "color": colour, "capsize": 3, "elinewidth": 1.5, "markersize": 5}
            ax.errorbar(place[here], value, yerr=[value - low, high - value], label=WORDS[verdict], **how)
        _levels_axis(ax, rows["level"].to_numpy())
        ax.set_ylim(-1.05 * reach, 1.05 * reach)
    _finish(figure, axes, f"{NAMES[rate]} of RGB-D minus {NAMES[rate]} of RGB")
    return figure


WORDS = {"pays": "depth pays", "hurts": "depth hurts", "not shown": "no difference shown", "no data": "no data"}


def examples_figure(source: Drawn | Recorded, levels: Levels, seed: int = 0, unit: str = "mm") -> Figure:
    """One pair along the levels of each knob, colour above depth; knobs that withhold colour or depth have no picture.

    The figure has two knobs side by side. Raises BadPair where the pair cannot be read.
    """
    knobs = [knob for knob in levels if KNOBS[knob].kind != "crop"]
    wide = 1 + max((len(levels[knob]) for knob in knobs), default=0)
    lines = -(-len(knobs) // 2)
    figure = plt.figure(figsize=(2.0 * wide + 0.6, 2.3 * max(lines, 1)), dpi=36)
    if not knobs:
        return figure
    blocks = figure.subfigures(lines, 2, squeeze=False).ravel()
    for knob, block in zip(knobs, blocks, strict=False):
        axes = block.subplots(2, wide, squeeze=False, gridspec_kw={"wspace": 0.03, "hspace": 0.03})
        block.suptitle(label_of(knob, unit), fontsize=10)
        given = [KNOBS[knob].clean, *levels[knob]]
        for column, level in zip(axes.T, given, strict=False):
            pair = recorded_at(source, knob, level, seed)
            show_rgb(column[0], pair.rgb, f"{level:g}").title.set(fontsize=9)
            show_depth(column[1], pair.depth)
        for ax in axes[:, len(given) :].flat:
            ax.axis("off")
    return figure


def recorded_at(source: Drawn | Recorded, knob: str, level: float, seed: int = 0) -> RGBDPair:
    """The raw pair at a level of a scene knob or of a pair knob."""
    if KNOBS[knob].kind == "scene":
        return source.pair(knob, level)
    return degrade(source.pair(), knob, level, seed)


def _panels(knobs: Sequence[str], unit: str) -> tuple[Figure, dict[str, Axes]]:
    """A figure with a panel for each knob, and the panels by knob."""
    columns = min(COLUMNS, max(len(knobs), 1))
    lines = -(-max(len(knobs), 1) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(2.75 * columns, 2.1 * lines + 0.5), dpi=50, sharey=True, squeeze=False
    )
    for ax in axes.flat[len(knobs) :]:
        ax.axis("off")
    found = dict(zip(knobs, axes.flat, strict=False))
    for knob, ax in found.items():
        ax.set_xlabel(label_of(knob, unit), fontsize=10)
    return figure, found


def _levels_axis(ax: Axes, levels: np.ndarray) -> None:
    ax.set_xticks(np.arange(len(levels)), [f"{level:g}" for level in levels])
    ax.set_xlim(-0.4, len(levels) - 0.6)


def _finish(figure: Figure, axes: dict[str, Axes], name: str) -> None:
    """One label for the vertical axes and one legend above the panels."""
    figure.supylabel(name, fontsize=11)
    if axes:
        handles, names = next(iter(axes.values())).get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper center", ncols=len(names))
