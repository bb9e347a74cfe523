"""Figures of people and groups: what they draw is what the tables say, also with one person, one system or no data."""

import json

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

mpl.use("Agg")
import matplotlib.pyplot as plt

from face3d_lib.evaluate import figures_people, pictures

ZOO = pd.DataFrame(
    {
        "genuine_mean": [0.5, 0.6, 0.1, 0.7, np.nan],
        "impostor_mean": [0.0, 0.1, 0.0, 0.4, 0.2],
        "animal": ["", "", "goat", "wolf", "wolf"],
        "genuine_p": [0.9, 0.9, 0.01, 0.9, np.nan],
        "impostor_p": [0.9, 0.9, 0.9, 0.01, 0.01],
    },
    index=pd.Index(["a", "b", "c$x$", "d" * 40, "e"], name="person"),
)


@pytest.fixture(autouse=True)
def close_all():
    yield
    plt.close("all")


def test_the_zoo_shows_each_person_and_names_the_animals():
    ax = figures_people.plot_zoo(plt.figure().subplots(), ZOO)
    drawn = {line.get_label(): line.get_xydata().tolist() for line in ax.lines}
    assert drawn == {
        "no more than chance: 2": [[0.5, 0.0], [0.6, 0.1]],
        "goat: 1": [[0.1, 0.0]],
        "wolf or lamb: 1": [[0.7, 0.4]],
    }
    assert [text.get_text() for text in ax.texts] == ["d" * 11 + "…", r"c\$x\$"]
    ax.figure.savefig("/dev/null", format="png")


def test_names_that_would_overlap_are_left_out():
    crowd = pd.concat([ZOO.iloc[[3]]] * 20)
    assert len(figures_people.plot_zoo(plt.figure().subplots(), crowd).texts) == 1


def test_nobody_is_drawn_without_people():
    ax = figures_people.plot_zoo(plt.figure().subplots(), ZOO.iloc[:0])
    assert len(ax.lines) == 0
    assert ax.get_legend() is None


def rows(k):
    frame = {"person_a": "a", "person_b": "b", "pair_id_a": "a/s1_000", "pair_id_b": "b/s2_001", "score": 0.5}
    return pd.DataFrame([frame | {"error": number == 0} for number in range(k)], columns=[*frame, "error"])


@pytest.mark.parametrize("k", [0, 1, 6])
def test_a_strip_has_four_pictures_for_each_comparison(k, tmp_path):
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (2 * k, 40, 40, 3)).astype(np.uint8)
    depth = rng.uniform(500, 600, (2 * k, 40, 40))
    figure = figures_people.comparison_strip(rgb, depth, rows(k), "title")
    shown = [ax for ax in figure.axes if ax.images]
    assert len(shown) == 4 * k
    if k:
        assert shown[0].get_title() == "score 0.500\na\ns1_000"
        assert shown[0].title.get_color() == pictures.RED  # decided wrongly
        np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), rgb[0])
        np.testing.assert_array_equal(figure.axes[2 * k].images[0].get_array(), rgb[k])
    if k > 1:
        assert shown[1].title.get_color() == "black"
    pictures.save_figure(figure, tmp_path, "strip", {"rows": rows(k)})
    assert (tmp_path / "strip.png").stat().st_size <= pictures.MAX_PNG_BYTES
    assert len(json.loads((tmp_path / "strip.json").read_text())["rows"]) == k


def table(fnmr):
    found = {"group": ["old", "young"], "people": [3, 0], "pictures": [9, 0]}
    for rate, value in (("fnmr", fnmr), ("fmr", 0.01)):
        found |= {rate: [value, np.nan], f"{rate}_low": [value / 2, np.nan], f"{rate}_high": [2 * value, np.nan]}
    return pd.DataFrame(found)


def test_groups_are_drawn_in_percent_with_a_row_for_the_empty_one():
    tables = {"age": {"RGB": table(0.2), "depth": table(0.4)}}
    figure = figures_people.groups_figure(tables, [("fnmr", "FNMR, %"), ("fmr", "FMR, %")])
    left, right = figure.axes
    assert [line.get_xdata()[0] for line in left.lines] == pytest.approx([20, 40])
    assert left.get_xlim()[1] >= 44 * 0.99
    assert right.get_xlabel() == "FMR, %"
    assert [text.get_text() for text in left.get_yticklabels()] == ["old\n3 people, 9 pictures", "young\nno data"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["RGB", "depth"]


def test_a_rate_that_nobody_has_is_drawn_empty():
    empty = table(np.nan)
    figure = figures_people.groups_figure({"age": {"RGB": empty}}, [("fnmr", "FNMR, %")])
    assert figure.axes[0].get_xlim() == (0, 101)
