"""Curves that grow while a network trains, in JupyterLab and under Voila; elsewhere a line of text."""

from typing import Any

import pandas as pd
from IPython.display import DisplayHandle, display

from ..base.atomic import plain
from .pictures import BLUE, GREY, SKY

PLOTLY = "application/vnd.plotly.v1+json"
CURVES = {  # column of the history: (name in the legend, colour, dash, axis)
    "loss": ("loss", GREY, "solid", "y"),
    "train_accuracy": ("training accuracy", SKY, "dash", "y2"),
    "eval_accuracy": ("evaluation accuracy", BLUE, "solid", "y2"),
}


class LiveCurves:
    """Draws loss and accuracies below the cell that trains: `fit.fit(..., on_epoch=LiveCurves(epochs))`.

    A call replaces what was drawn before. It takes milliseconds, because it only sends numbers, which the browser
    draws. Where nothing can draw them, as in a terminal, the last epoch is told in words.
    """

    def __init__(self, epochs: int):
        self.epochs = epochs
        self.handle: DisplayHandle | None = None

    def __call__(self, history: pd.DataFrame) -> None:
        """Show `history`, the table that `fit.fit` returns, as far as it is filled."""
        bundle = {"text/plain": in_words(history, self.epochs), PLOTLY: curves(history, self.epochs)}
        if self.handle is None:
            self.handle = display(bundle, raw=True, display_id=True)
        else:
            self.handle.update(bundle, raw=True)


def in_words(history: pd.DataFrame, epochs: int) -> str:
    """The last row of `history` as a line; an accuracy that is not measured is left out."""
    last = history.iloc[-1]
    values = [f"{name} {last[column]:.3f}" for column, (name, *_) in CURVES.items() if pd.notna(last[column])]
    return f"epoch {last['epoch']:.0f} of {epochs}: {', '.join(values)}"


def curves(history: pd.DataFrame, epochs: int) -> dict[str, Any]:
    """The loss on the left axis and the accuracies on the right, by epoch, as a figure in plotly's JSON form."""
    traces = [
        {
            "x": history["epoch"].tolist(),
            "y": history[column].tolist(),
            "name": name,
            "yaxis": axis,
            "mode": "lines+markers",
            "line": {"color": colour, "dash": dash},
        }
        for column, (name, colour, dash, axis) in CURVES.items()
        if history[column].notna().any()
    ]
    layout = {
        "height": 300,
        "margin": {"l": 60, "r": 60, "t": 30, "b": 45},
        "legend": {"orientation": "h", "x": 0.5, "xanchor": "center", "y": 1.02, "yanchor": "bottom"},
        "xaxis": {"title": {"text": "epoch"}, "range": [0.5, epochs + 0.5], "tickformat": "d"},
        "yaxis": {"title": {"text": "training loss"}, "rangemode": "tozero", "gridcolor": "#DDDDDD"},
        "yaxis2": {
            "title": {"text": "accuracy"},
            "range": [0, 1.02],
            "overlaying": "y",
            "side": "right",
            "showgrid": False,
        },
        "plot_bgcolor": "white",
    }
    return plain({"data": traces, "layout": layout})
