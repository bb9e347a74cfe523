"""Curves while a network trains: they grow with the history, and a line of text stands for them in a terminal."""

import json

import numpy as np
import pandas as pd
import pytest

from face3d_lib.evaluate import live

HISTORY = pd.DataFrame(
    {
        "epoch": [1, 2],
        "loss": [2.0, 1.0],
        "train_accuracy": [0.25, 0.5],
        "eval_accuracy": [np.nan, 0.75],
        "best": [True, True],
    }
)


def test_a_line_tells_the_last_epoch():
    assert live.in_words(HISTORY, 5) == "epoch 2 of 5: loss 1.000, training accuracy 0.500, evaluation accuracy 0.750"
    assert live.in_words(HISTORY[:1], 5) == "epoch 1 of 5: loss 2.000, training accuracy 0.250"


def test_curves_hold_the_numbers_and_json_can_write_them():
    drawn = live.curves(HISTORY, 5)
    found = {trace["name"]: (trace["x"], trace["y"]) for trace in drawn["data"]}
    assert found == {
        "loss": ([1, 2], [2.0, 1.0]),
        "training accuracy": ([1, 2], [0.25, 0.5]),
        "evaluation accuracy": ([1, 2], [None, 0.75]),
    }
    assert drawn["layout"]["xaxis"]["range"] == [0.5, 5.5]  # epochs to come have their place
    json.dumps(drawn, allow_nan=False)


def test_an_accuracy_that_is_never_measured_has_no_curve():
    drawn = live.curves(HISTORY.assign(train_accuracy=np.nan, eval_accuracy=np.nan), 5)
    assert [trace["name"] for trace in drawn["data"]] == ["loss"]


@pytest.fixture
def shown(monkeypatch):
    """What was displayed, in order: (whether it is new, the bundle)."""
    found = []

    class Handle:
        def update(self, bundle, raw):
            found.append((False, bundle))

    def display(bundle, raw, display_id):
        found.append((True, bundle))
        return Handle()

    monkeypatch.setattr(live, "display", display)
    return found


def test_an_epoch_replaces_what_the_epoch_before_drew(shown):
    curves = live.LiveCurves(5)
    curves(HISTORY[:1])
    curves(HISTORY)
    assert [new for new, _ in shown] == [True, False]
    assert [bundle["text/plain"][:12] for _, bundle in shown] == ["epoch 1 of 5", "epoch 2 of 5"]
    assert all(live.PLOTLY in bundle for _, bundle in shown)
