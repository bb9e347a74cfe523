"""Curves that grow while a network trains, in JupyterLab; a line of text where nothing can draw them."""

import math

import pandas as pd
from IPython.display import DisplayHandle, display

from .pictures import BLUE, GREY, SKY

CURVES = {  # column of the history: (name in the legend, colour, dashes, axis)
    "loss": ("loss", GREY, "", "left"),
    "train_accuracy": ("training accuracy", SKY, "6 4", "right"),
    "eval_accuracy": ("evaluation accuracy", BLUE, "", "right"),
}
WIDTH, HEIGHT = 660, 260  # px
LEFT, RIGHT, TOP, BOTTOM = 55, 605, 35, 215  # edges of the plot, px


class LiveCurves:
    """Draws loss and accuracies below the cell that trains: `fit.fit(..., on_epoch=LiveCurves(epochs))`.

    A call replaces what was drawn before. It takes two milliseconds; matplotlib would need a hundred, and
    plotly's figures are either not drawn again or come with five megabytes of code.
    """

    def __init__(self, epochs: int):
        self.epochs = epochs
        self.handle: DisplayHandle | None = None

    def __call__(self, history: pd.DataFrame) -> None:
        """Show `history`, the table that `fit.fit` returns, as far as it is filled."""
        bundle = {"text/plain": in_words(history, self.epochs), "text/html": svg(history, self.epochs)}
        if self.handle is None:
            self.handle = display(bundle, raw=True, display_id=True)
        else:
            self.handle.update(bundle, raw=True)


def in_words(history: pd.DataFrame, epochs: int) -> str:
    """The last row of `history` as a line; an accuracy that is not measured is left out."""
    last = history.iloc[-1]
    values = [f"{name} {last[column]:.3f}" for column, (name, *_) in CURVES.items() if pd.notna(last[column])]
    return f"epoch {last['epoch']:.0f} of {epochs}: {', '.join(values)}"


def svg(history: pd.DataFrame, epochs: int) -> str:
    """By epoch, the loss on the left axis and the accuracies, from 0 to 1, on the right one, as an SVG picture."""
    top = _round_up(history["loss"].max() / 4) * 4
    parts = [_text((LEFT + RIGHT) / 2, HEIGHT - 8, "epoch"), _text(14, 125, "training loss", turned=True)]
    parts.append(_text(WIDTH - 8, 125, "accuracy", turned=True))
    for quarter in range(5):
        y = BOTTOM - quarter / 4 * (BOTTOM - TOP)
        parts.append(f'<line x1="{LEFT}" x2="{RIGHT}" y1="{y}" y2="{y}" stroke="#DDDDDD"/>')
        parts.append(_text(LEFT - 6, y + 4, f"{top * quarter / 4:g}", "end"))
        parts.append(_text(RIGHT + 6, y + 4, f"{quarter / 4:g}", "start"))
    for epoch in range(1, epochs + 1, -(-epochs // 20)):
        parts.append(_text(_x(epoch, epochs), BOTTOM + 17, str(epoch)))
    shown = [column for column in CURVES if history[column].notna().any()]
    for number, column in enumerate(shown):
        name, colour, dashes, axis = CURVES[column]
        rows = history[history[column].notna()]
        share = rows[column] / (top if axis == "left" else 1)
        y = (BOTTOM - share.clip(0, 1) * (BOTTOM - TOP)).round(1)
        points = [(round(_x(epoch, epochs), 1), height) for epoch, height in zip(rows["epoch"], y, strict=True)]
        look = f'fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dashes}"'
        parts.append(f'<polyline class="{column}" points="{" ".join(f"{x},{y}" for x, y in points)}" {look}/>')
        parts += [f'<circle cx="{x}" cy="{y}" r="2.5" fill="{colour}"/>' for x, y in points]
        start = LEFT + 190 * number
        parts.append(f'<line x1="{start}" x2="{start + 28}" y1="15" y2="15" {look}/>')
        parts.append(_text(start + 34, 19, name, "start"))
    size = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}"'
    style = "max-width:100%;background:white;font:12px sans-serif"
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} style="{style}">{"".join(parts)}</svg>'


def _round_up(value: float) -> float:
    """The next larger of the round numbers 1, 2, 2.5 and 5 times a power of ten; 1 where there is no value."""
    if not (math.isfinite(value) and value > 0):
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= value * (1 - 1e-9))


def _x(epoch: float, epochs: int) -> float:
    """The place of an epoch, px; the first and the last one keep off the edges."""
    return LEFT + (epoch - 0.5) / epochs * (RIGHT - LEFT)


def _text(x: float, y: float, text: str, anchor: str = "middle", turned: bool = False) -> str:
    turn = f' transform="rotate(-90 {x} {y})"' if turned else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="#222222"{turn}>{text}</text>'
