"""The widgets without a browser: what a move or a choice changes, on few scores, one system and pairs without depth."""

import base64
import json

import numpy as np
import pandas as pd
import pytest
from toy_pack import PAIR_IDS, PEOPLE, make_toy_pack

from face3d_lib.data.pack import Pack
from face3d_lib.evaluate import explore, widgets
from face3d_lib.evaluate.embeddings import Embeddings
from face3d_lib.evaluate.scores import genuine_impostor


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    return Pack.open(make_toy_pack(tmp_path_factory.mktemp("pack")))


def make_system(label="RGB", seed=0, chosen=0.5, n=None):
    rng = np.random.default_rng(seed)
    person = np.unique(PEOPLE, return_inverse=True)[1]
    vectors = rng.normal(size=(len(set(PEOPLE)), 16))[person] + 0.9 * rng.normal(size=(len(PEOPLE), 16))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    found = Embeddings(np.array(PAIR_IDS), np.array(PEOPLE), vectors)
    return explore.Explored(label, found, genuine_impostor(found.select(PAIR_IDS[:n])), chosen)


@pytest.fixture
def board(packed):
    return widgets.ThresholdBoard([make_system(), make_system("depth", 1, np.nan)], widgets.Thumbnails(packed))


def moved(plot):
    """What `move` set last: the x and the y of each trace by its number."""
    return {trace: (x, y) for trace, x, y in zip(plot.moved["traces"], plot.moved["x"], plot.moved["y"], strict=True)}


def numbers(packed):
    """An array as plotly packs it."""
    return np.frombuffer(base64.b64decode(packed["bdata"]), packed["dtype"])


def count(text):
    return text.count("score ")


def test_it_begins_at_the_threshold_of_the_dev_people(board):
    assert board.slider.value == 0.5
    assert "0.500 was chosen on dev people" in board.rates.value
    assert moved(board.plot)[2][0] == [0.5, 0.5]


def test_a_move_changes_rates_point_line_and_examples(board):
    system = board.systems[0]
    for threshold in (0.2, 0.7):
        board.slider.value = threshold
        point = system.rates(threshold)
        far, frr = explore.far_and_frr(point)
        assert all(text in board.rates.value for text in explore.counts_text(point))
        assert moved(board.plot)[2][0] == [threshold, threshold]
        assert moved(board.plot)[3] == ([pytest.approx(max(far, board.floor), 1e-5)], [pytest.approx(1 - frr, 1e-5)])
        assert count(board.accepts.value) == min(point.false_accepts, widgets.EXAMPLES)
        assert count(board.rejects.value) == min(point.false_rejects, widgets.EXAMPLES)


def test_the_order_of_the_examples_can_be_chosen(board):
    board.slider.value = 0.0
    nearest = board.accepts.value
    board.order.value = True
    worst = board.system.value, board.accepts.value
    highest = board.systems[0].trials.impostor.max()
    assert f"score {highest:.3f}" in worst[1]
    assert f"score {highest:.3f}" not in nearest


def test_without_a_false_accept_the_point_is_at_the_edge_and_it_is_said(board):
    board.slider.value = board.slider.max
    assert "FAR 0.00 % (0 of" in board.rates.value
    assert "none at this threshold" in board.accepts.value
    assert moved(board.plot)[3][0] == [pytest.approx(board.floor, 1e-5)]


def test_another_system_brings_its_own_threshold_and_scores(board):
    before = board.plot.figure["data"][0]["y"]
    board.system.value = 1
    second = board.systems[1]
    assert board.slider.value == second.start
    assert (board.slider.min, board.slider.max) == second.span
    assert "was chosen on dev people" not in board.rates.value
    assert board.plot.figure["data"][0]["y"] != before
    assert [curve["line"]["width"] for curve in board.plot.figure["data"][4:]] == [1.5, 4]
    assert moved(board.plot)[2][0] == [pytest.approx(second.start, 1e-5)] * 2


def test_a_page_that_is_opened_later_is_sent_everything(board):
    board.slider.value = 0.3
    state = board.plot.get_state()
    json.dumps([state["figure"], state["moved"]], allow_nan=False)
    assert [len(numbers(trace["x"])) for trace in state["figure"]["data"][:2]] == [len(board.histograms[0].edges)] * 2
    assert state["moved"]["x"][0] == [0.3, 0.3]
    assert len(json.dumps(state["figure"])) < 30_000  # without the code of plotly


def test_no_comparisons_at_all_are_said(packed):
    board = widgets.ThresholdBoard([make_system(n=0, chosen=np.nan)], widgets.Thumbnails(packed))
    assert "FAR cannot be measured" in board.rates.value
    assert "FRR cannot be measured" in board.rates.value


def test_names_cannot_be_read_as_html(packed, monkeypatch):
    board = widgets.ThresholdBoard([make_system()], widgets.Thumbnails(packed))
    monkeypatch.setattr(board.thumbnails, "of", lambda pair_id: "")
    assert "&lt;b&gt;" in board._example("<b>", "b", 0.0)


def test_a_picture_is_encoded_once(packed):
    thumbnails = widgets.Thumbnails(packed)
    assert thumbnails.of(PAIR_IDS[0]) is thumbnails.of(PAIR_IDS[0])
    assert thumbnails.of(PAIR_IDS[0]).startswith('<img src="data:image/jpeg;base64,')


def test_the_picker_shows_any_two_pairs(packed):
    system = make_system()
    picker = widgets.PairPicker([system], packed)
    picker.people[0].value, picker.people[1].value = PEOPLE[0], PEOPLE[0]
    picker.pairs[1].value = PAIR_IDS[1]
    assert f"{system.score(PAIR_IDS[0], PAIR_IDS[1]):.3f}</span></b>, one person" in picker.verdict.value
    assert picker.plot.figure["data"][2]["x"] == [pytest.approx(system.score(PAIR_IDS[0], PAIR_IDS[1]), rel=1e-5)] * 2
    picker.people[1].value = PEOPLE[-1]
    assert "two people" in picker.verdict.value
    assert picker.views[1].value.count("<img") == 4
    assert "a picture compared with itself" not in picker.verdict.value
    picker.people[0].value = PEOPLE[-1]
    assert "a picture compared with itself" in picker.verdict.value


def test_without_any_embedding_the_picker_says_so(packed):
    nothing = Embeddings(np.empty(0, str), np.empty(0, str), np.empty((0, 16), np.float32))
    system = explore.Explored("RGB", nothing, genuine_impostor(nothing), np.nan)
    (said,) = widgets.PairPicker([system], packed).children
    assert "no picture of a person never seen" in said.value
    assert "FAR cannot be measured" in widgets.ThresholdBoard([system], widgets.Thumbnails(packed)).rates.value


def test_a_pair_without_depth_is_shown_and_it_is_said(packed):
    picker = widgets.PairPicker([make_system()], packed)
    picker.people[0].value, picker.pairs[0].value = PEOPLE[-1], PAIR_IDS[-1]
    assert "no depth reading" in picker.views[0].value
    assert np.isnan(numbers(picker.plot.figure["data"][3]["z"])).all()
    assert not np.isnan(numbers(picker.plot.figure["data"][4]["z"])).all()
    picker.people[0].value = PEOPLE[0]
    assert "no depth reading" not in picker.views[0].value


def test_a_point_of_the_tsne_shows_its_pair(packed):
    table = pd.DataFrame({"pair_id": PAIR_IDS, "cls_name": PEOPLE, "session": "s1", "condition": "frontal"})
    box = widgets.pointed_tsne(np.random.default_rng(0).normal(size=(len(table), 2)), table, widgets.Thumbnails(packed))
    figure, seen = box.children
    assert [len(trace["x"]) for trace in figure.figure["data"]] == [4] * 6
    figure.pointed = [2, 1]  # as the page tells it: the third person's second picture
    assert PAIR_IDS[2 * 4 + 1] in seen.value
    assert "p2, s1, frontal" in seen.value
    assert "<img" in seen.value
