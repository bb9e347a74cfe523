"""The figure widget: what a page is sent, when it is opened and when it asks for the code of plotly."""

import json

import numpy as np
import plotly.graph_objects as go
import pytest

from face3d_lib.evaluate.plot import Plot


@pytest.fixture
def plot():
    return Plot(go.Figure([go.Scatter(x=[1.0, 2.0], y=[np.nan, 4.0]), go.Scatter(x=[], y=[])]))


def test_a_page_is_sent_a_few_kilobytes_that_json_can_write(plot):
    state = {name: plot.get_state()[name] for name in ("figure", "moved", "_esm")}
    assert state["figure"]["data"][0]["y"] == [None, 4.0]
    assert len(json.dumps(state, allow_nan=False)) < 20_000


def test_a_move_sends_the_points_of_the_traces_it_names(plot):
    sent = []
    plot.observe(lambda change: sent.append(change["name"]))
    plot.move({1: ([0.5, 0.5], [0, np.nan])})
    assert plot.moved == {"traces": [1], "x": [[0.5, 0.5]], "y": [[0, None]]}
    assert sent == ["moved"]


def test_another_figure_replaces_the_first(plot):
    plot.draw(go.Figure(go.Scatter(x=[7.0])))
    assert [trace["x"] for trace in plot.figure["data"]] == [[7.0]]


def test_the_point_under_the_pointer_is_told(plot):
    told = []
    plot.on_point(lambda trace, point: told.append((trace, point)))
    plot.pointed = [1, 5]
    assert told == [(1, 5)]


def test_a_page_without_plotly_is_sent_its_code_once_it_asks(plot, monkeypatch):
    sent = []
    monkeypatch.setattr(plot, "send", lambda content, buffers: sent.append((content, buffers)))
    plot._handle_custom_msg({"kind": "something else"}, [])
    assert sent == []
    plot._handle_custom_msg({"kind": "code"}, [])
    ((content, (code,)),) = sent
    assert content == {"kind": "code"}
    assert b"plotly.js" in code[:100]
