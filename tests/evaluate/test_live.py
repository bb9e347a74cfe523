"""Curves while a network trains: they grow with the history, and a line of text stands for them in a terminal."""

from xml.etree import ElementTree

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


def points(picture, column):
    """The points of a curve in the units of its data, with 4 as the top of the axis of the loss."""
    (found,) = [line for line in picture.iter() if line.get("class") == column]
    pixels = np.array([point.split(",") for point in found.get("points").split()], float)
    top = 4 if column == "loss" else 1
    epoch = (pixels[:, 0] - live.LEFT) / (live.RIGHT - live.LEFT) * 5 + 0.5
    return np.column_stack([epoch, (live.BOTTOM - pixels[:, 1]) / (live.BOTTOM - live.TOP) * top])


def test_curves_lie_where_the_numbers_are():
    picture = ElementTree.fromstring(live.svg(HISTORY.assign(loss=[4.0, 1.0]), 5))
    np.testing.assert_allclose(points(picture, "loss"), [(1, 4), (2, 1)], atol=0.01)
    np.testing.assert_allclose(points(picture, "train_accuracy"), [(1, 0.25), (2, 0.5)], atol=0.01)
    np.testing.assert_allclose(points(picture, "eval_accuracy"), [(2, 0.75)], atol=0.01)
    texts = [text.text for text in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert [text for text in texts if text.isdigit()][-5:] == [
        "1",
        "2",
        "3",
        "4",
        "5",
    ]  # epochs to come have their place


@pytest.mark.parametrize(("value", "expected"), [(0.9, 1), (1, 1), (1.1, 2), (2.1, 2.5), (30, 50), (0.06, 0.1), (0, 1)])
def test_an_axis_ends_at_a_round_number(value, expected):
    assert live._round_up(value) == pytest.approx(expected)


def test_an_accuracy_that_is_never_measured_has_no_curve():
    drawn = live.svg(HISTORY.assign(train_accuracy=np.nan, eval_accuracy=np.nan), 5)
    assert drawn.count("<polyline") == 1
    assert "accuracy" in drawn  # the axis keeps its name
    assert "nan" not in drawn


def test_a_loss_of_nothing_can_be_drawn():
    assert "nan" not in live.svg(HISTORY.assign(loss=0.0), 5)


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
    assert all(bundle["text/html"].startswith("<svg") for _, bundle in shown)
