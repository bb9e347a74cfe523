"""Widgets for a run's scores and pictures, in JupyterLab and as a page of their own under Voila.

What a widget says is computed by `explore`; here it is only shown. A move sends the few points that it changes, and
every picture is encoded once, so that a slider can be dragged.
"""

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import ipywidgets
import numpy as np
import pandas as pd
import plotly.graph_objects as go
from PIL import Image
from plotly.subplots import make_subplots

from ..data.pack import Pack
from ..train.encodings import ENCODINGS
from . import explore, pictures
from .explore import Explored
from .figures import COLOURS, score_bins
from .pictures import BLUE, RED
from .plot import Plot

DASHES = ("solid", "dash", "dashdot", "dot", "longdash", "longdashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-down", "triangle-up", "star", "pentagon", "x", "cross")
VIEWS = ("colour", "depth", "normals", "relative depth")
EXAMPLES = 5  # comparisons of each kind below the slider: a row at the width of a page
WIDE = {"width": "100%"}
LOOK = {
    "template": "plotly_white",
    "font": {"size": 13, "color": "#222222"},
    "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    "margin": {"l": 55, "r": 10, "t": 40, "b": 50},
    "hovermode": "closest",
    "uirevision": "kept",  # another pair keeps the view of the surfaces
}


class Thumbnails:
    """The pictures of a pack's pairs as `<img>` elements; each is encoded once."""

    def __init__(self, packed: Pack):
        self.packed = packed
        self.of = lru_cache(maxsize=4096)(self._colour_and_depth)  # about 10 kB each

    def _colour_and_depth(self, pair_id: str) -> str:
        """Colour above depth."""
        batch = self.packed.batch(self.packed.rows([pair_id]))
        rgb, depth = batch.rgb[0].permute(1, 2, 0).numpy(), batch.depth[0, 0].numpy()
        return image(np.vstack([rgb, pictures.depth_picture(depth)]), 80, pair_id)


def image(pixels: np.ndarray, width: int, description: str) -> str:
    """(H, W, 3) uint8 as an `<img>` element that holds the picture itself, `width` px wide on the page."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=88)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img src="data:image/jpeg;base64,{data}" width="{width}" alt="{html.escape(description)}">'


class ThresholdBoard(ipywidgets.VBox):
    """A slider of the threshold that moves FAR, FRR, the point on the ROC and the example comparisons along.

    A new threshold is `board.slider.value`, another system `board.system.value`, its number. `board.rates` holds the
    rates in words, `board.accepts` and `board.rejects` hold the examples.
    """

    def __init__(self, systems: Sequence[Explored], thumbnails: Thumbnails):
        self.systems, self.thumbnails = systems, thumbnails
        self.histograms = [_histogram(system) for system in systems]
        self.system = _choice(systems)
        orders = [("errors nearest to the threshold", False), ("worst errors", True)]
        self.order = ipywidgets.ToggleButtons(
            options=orders, style={"button_width": "auto"}, layout={"width": "auto", "margin": "0 0 0 30px"}
        )
        self.slider = ipywidgets.FloatSlider(description="threshold", readout_format=".3f", layout={"width": "98%"})
        self.rates, self.accepts, self.rejects = (ipywidgets.HTML(layout=WIDE) for _ in range(3))
        self.floor = min(0.5 / max(2, system.roc.n_impostor) for system in systems)  # where the axis of FAR begins
        self.plot = Plot(self._figure())
        self._take_system()
        self.system.observe(lambda _: self._take_system(), "value")
        for control in (self.slider, self.order):
            control.observe(lambda _: self._move(), "value")
        controls = ipywidgets.HBox([self.system, self.order], layout={"flex_flow": "row wrap"})
        super().__init__([controls, self.slider, self.rates, self.plot, self.accepts, self.rejects])

    def _figure(self) -> go.Figure:
        """Traces: both histograms, the threshold in them, the point on the ROC, and the ROC of every system.

        What depends on the threshold, traces 2 and 3, is left to `_move`.
        """
        figure = make_subplots(1, 2, column_widths=[0.55, 0.45], horizontal_spacing=0.1)
        _add_histogram(figure, self.histograms[self.system.value], "this threshold")
        marker = {"size": 13, "color": "black", "symbol": "circle-open", "line": {"width": 3}}
        figure.add_trace(go.Scatter(mode="markers", marker=marker, showlegend=False), 1, 2)
        for number, system in enumerate(self.systems):
            far, tar = explore.thinned(system.roc)
            line: dict[str, Any] = {"color": COLOURS[number % len(COLOURS)], "dash": DASHES[number % len(DASHES)]}
            line |= {"shape": "hv", "width": 4 if number == self.system.value else 1.5}
            curve = go.Scatter(x=np.maximum(far, self.floor), y=tar, line=line, name=system.label, mode="lines")
            figure.add_trace(curve, 1, 2)
        far_axis = {"type": "log", "range": [np.log10(self.floor), 0], "dtick": 1, "exponentformat": "power"}
        figure.update_xaxes(title=_title("false accept rate (FAR)"), col=2, **far_axis)
        figure.update_yaxes(title=_title("true accept rate (1 - FRR)"), col=2, range=[0, 1.02])
        return figure.update_layout(LOOK, height=370)

    def _take_system(self) -> None:
        """Show another system at the threshold that was chosen for it."""
        system = self.systems[self.system.value]
        low, high = system.span
        with self.slider.hold_trait_notifications():
            self.slider.min, self.slider.max = min(low, self.slider.min), high
            self.slider.min, self.slider.step, self.slider.value = low, (high - low) / 1000, system.start
        self.plot.draw(self._figure())
        self._move()

    def _move(self) -> None:
        """Show what the threshold of the slider does."""
        number, threshold = self.system.value, self.slider.value
        system = self.systems[number]
        point = system.rates(threshold)
        far, frr = explore.far_and_frr(point)
        self.rates.value = _rates_html(point, threshold, system)
        line = [threshold, threshold], [0, self.histograms[number].top]
        self.plot.move({2: line, 3: ([max(far, self.floor)], [1 - frr])})
        worst = self.order.value
        accepts = system.false_accepts(threshold, EXAMPLES, worst)
        rejects = system.false_rejects(threshold, EXAMPLES, worst)
        self.accepts.value = self._examples("False accepts: two people taken for one", accepts, point.false_accepts)
        self.rejects.value = self._examples("False rejects: one person taken for two", rejects, point.false_rejects)

    def _examples(self, title: str, rows: np.ndarray, count: int) -> str:
        trials = self.systems[self.system.value].trials
        cells = [
            self._example(trials.pair_ids[trials.a[row]], trials.pair_ids[trials.b[row]], trials.score[row])
            for row in rows
        ]
        shown = f"{len(cells)} of {count:,}" if count else "none at this threshold"
        strip = f'<div style="display:flex;flex-wrap:wrap;gap:12px;min-height:40px">{"".join(cells)}</div>'
        return f'<div style="line-height:1.3;margin-bottom:12px"><b>{title}</b>, {shown}{strip}</div>'

    def _example(self, first: str, second: str, score: float) -> str:
        both = "".join(self.thumbnails.of(pair_id) for pair_id in (first, second))
        names = f"{_name(first)}<br>{_name(second)}<br>score {score:.3f}"
        return f'<div style="width:164px"><div style="display:flex;gap:2px">{both}</div><small>{names}</small></div>'


class PairPicker(ipywidgets.VBox):
    """Any two pairs: what a network sees of them, their score, where it lies among all scores, and both surfaces.

    `picker.people` and `picker.pairs` are the menus of the left and of the right pair. `picker.views` holds their
    pictures and `picker.verdict` their score in words.
    """

    def __init__(self, systems: Sequence[Explored], packed: Pack):
        self.systems, self.packed = systems, packed
        self.histograms = [_histogram(system) for system in systems]
        embedded = systems[0].vectors
        if not len(embedded):
            super().__init__([ipywidgets.HTML("There is no picture of a person never seen in training.")])
            return
        self.pairs_of = pd.Series(embedded.pair_ids).groupby(embedded.subject_ids).agg(list).to_dict()
        names = list(self.pairs_of)
        self.system, self.verdict = _choice(systems), ipywidgets.HTML(layout=WIDE)
        self.people = [
            ipywidgets.Dropdown(options=names, value=who, description="person") for who in (names[0], names[-1])
        ]
        self.pairs = [
            ipywidgets.Dropdown(options=self.pairs_of[who.value], description="picture") for who in self.people
        ]
        self.views = [ipywidgets.HTML(layout=WIDE) for _ in range(2)]
        self.surface_of = lru_cache(maxsize=64)(self._surface)
        self.plot = Plot(go.Figure())
        for side in range(2):
            self._show_views(side)
            self.people[side].observe(lambda _, side=side: self._take_person(side), "value")
            self.pairs[side].observe(lambda _, side=side: self._take_pair(side), "value")
        self._show_score()
        self.system.observe(lambda _: self._show_score(), "value")
        sides = [
            ipywidgets.VBox([self.people[side], self.pairs[side], self.views[side]], layout={"width": "50%"})
            for side in range(2)
        ]
        super().__init__([self.system, ipywidgets.HBox(sides), self.verdict, self.plot])

    def _figure(self, score: float) -> go.Figure:
        """Traces: both histograms, the score in them, and the two surfaces."""
        kinds = [[{"type": "xy"}, {"type": "scene"}, {"type": "scene"}]]
        figure = make_subplots(1, 3, specs=kinds, column_widths=[0.4, 0.3, 0.3], horizontal_spacing=0.02)
        _add_histogram(figure, self.histograms[self.system.value], "this score", score)
        for column, pairs in enumerate(self.pairs, start=2):
            figure.add_trace(self.surface_of(pairs.value), 1, column)
        figure.update_scenes(pictures.SURFACE_SCENE)
        return figure.update_layout(LOOK, height=330)

    def _surface(self, pair_id: str) -> go.Surface:
        batch = self.packed.batch(self.packed.rows([pair_id]))
        rgb, depth = batch.rgb[0].permute(1, 2, 0).numpy(), batch.depth[0, 0].numpy()
        return pictures.depth_surface(rgb, depth, float(batch.depth_per_px[0]), cells=64).data[0]

    def _take_person(self, side: int) -> None:
        self.pairs[side].options = self.pairs_of[self.people[side].value]  # `_take_pair` sees the change

    def _take_pair(self, side: int) -> None:
        self._show_views(side)
        self._show_score()

    def _show_views(self, side: int) -> None:
        """Show the pictures of the pair that was chosen on this side."""
        pair_id = self.pairs[side].value
        batch = self.packed.batch(self.packed.rows([pair_id]))
        rgb, depth = batch.rgb[0].permute(1, 2, 0).numpy(), batch.depth[0, 0].numpy()
        encoded = ENCODINGS["normals_depth"].function(batch.depth, batch.depth_per_px)[0].numpy()
        normals, relative = pictures.normals_picture(encoded), pictures.relative_picture(encoded[2])
        cells = [
            f'<div style="width:90px">{image(pixels, 90, f"{view} of {pair_id}")}<br><small>{view}</small></div>'
            for view, pixels in zip(VIEWS, (rgb, pictures.depth_picture(depth), normals, relative), strict=True)
        ]
        note = "" if (depth > 0).any() else "<br>This pair has no depth reading."
        row = f'<div style="display:flex;flex-wrap:wrap;gap:4px;line-height:1.3">{"".join(cells)}</div>'
        self.views[side].value = row + note

    def _show_score(self) -> None:
        """Show the score of the two pairs, where it lies, and their surfaces."""
        first, second = (pairs.value for pairs in self.pairs)
        number = self.system.value
        score = self.systems[number].score(first, second)
        self.plot.draw(self._figure(score))
        if first == second:
            said = "a picture compared with itself"
        else:
            said = "one person" if self.people[0].value == self.people[1].value else "two people"
        place = explore.place_text(self.systems[number].rates(score))
        self.verdict.value = f'<b>score <span class="face3d-score">{score:.3f}</span></b>, {said}: {place}.'


def pointed_tsne(points: np.ndarray, table: pd.DataFrame, thumbnails: Thumbnails) -> ipywidgets.HBox:
    """The points (N, 2) of `figures.tsne`; the one under the pointer shows its pair on the right.

    table: a row for each point with pair_id, cls_name, session and condition.
    """
    figure = go.Figure(layout={**LOOK, "height": 430, "margin": {"l": 10, "r": 10, "t": 40, "b": 10}})
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    rows = table.reset_index(drop=True)
    groups = {str(name): group for name, group in rows.groupby("cls_name")}
    for number, (name, group) in enumerate(groups.items()):
        x, y = points[group.index].T.tolist()
        marker = {"size": 9, "color": COLOURS[number % len(COLOURS)], "symbol": SYMBOLS[number % len(SYMBOLS)]}
        figure.add_trace(go.Scatter(x=x, y=y, mode="markers", marker=marker, name=name, hoverinfo="name"))
    plot = Plot(figure)
    plot.layout.width = "75%"
    seen = ipywidgets.HTML("Point at a picture.", layout={"width": "220px", "padding": "20px"})

    def show(trace: int, point: int) -> None:
        row = list(groups.values())[trace].iloc[point]
        picture = thumbnails.of(row["pair_id"]).replace('width="80"', 'width="160"')
        told = ", ".join(row[name] for name in ("cls_name", "session", "condition") if row[name])
        words = f"{html.escape(told)}<br>{html.escape(row['pair_id'])}"
        seen.value = f'<div style="line-height:1.3">{picture}<br>{words}</div>'

    plot.on_point(show)
    return ipywidgets.HBox([plot, seen])


def _choice(systems: Sequence[Explored]) -> ipywidgets.Dropdown:
    labels = [system.label for system in systems]
    return ipywidgets.Dropdown(options=[(label, number) for number, label in enumerate(labels)], description="system")


def _name(pair_id: str) -> str:
    return html.escape(pictures.short(pair_id, 26))


def _rates_html(point: Any, threshold: float, system: Explored) -> str:
    far, frr = explore.counts_text(point)
    dev = "" if np.isnan(system.chosen) else f"; {system.chosen:.3f} was chosen on dev people"
    return (
        f'<div style="font-size:15px;line-height:1.5"><b class="face3d-far">{far}</b><br><b class="face3d-frr">{frr}</b>'
        f"<br><small>threshold {threshold:.3f}{dev}</small></div>"
    )


@dataclass(frozen=True)
class _Histogram:
    """The densities of a system's genuine and impostor scores in common bins."""

    edges: np.ndarray  # (n + 1,)
    densities: tuple[np.ndarray, np.ndarray]  # genuine, impostor: (n + 1,) each, the last 0
    top: float  # where the axis ends


def _histogram(system: Explored) -> _Histogram:
    kinds = (system.trials.genuine, system.trials.impostor)
    edges = score_bins(*kinds)
    none = np.zeros(len(edges) - 1)
    found = [np.histogram(scores, edges, density=True)[0] if len(scores) else none for scores in kinds]
    genuine, impostor = (np.append(density, 0.0) for density in found)
    return _Histogram(edges, (genuine, impostor), 1.05 * max(genuine.max(), impostor.max()) or 1.0)


def _add_histogram(figure: go.Figure, histogram: _Histogram, line: str, place: float | None = None) -> None:
    """Add three traces to the first axes: genuine scores, impostor scores, and a line across at `place`."""
    edges, top = histogram.edges, histogram.top
    how = {"fill": "tozeroy", "mode": "lines"}
    for name, colour, density in zip(("genuine", "impostor"), (BLUE, RED), histogram.densities, strict=True):
        step = {"color": colour, "shape": "hv", "width": 1.5}
        figure.add_trace(go.Scatter(x=edges, y=density, name=name, line=step, **how), 1, 1)
    across = {"color": "black", "dash": "dash", "width": 2}
    where = {} if place is None else {"x": [place, place], "y": [0, top]}
    figure.add_trace(go.Scatter(name=line, mode="lines", line=across, **where), 1, 1)
    figure.layout.xaxis.update(title=_title("score (cosine similarity)"), range=[edges[0], edges[-1]])
    figure.layout.yaxis.update(title=_title("density"), range=[0, top])


def _title(text: str) -> dict[str, Any]:
    return {"text": text, "standoff": 6}
