"""Pictures of a stress test show what the tables say."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from face3d_lib.evaluate import figures_stress
from face3d_lib.evaluate.degradations import KNOBS
from face3d_lib.evaluate.stress import Drawn


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def a_table(knobs):
    rows = []
    for knob in knobs:
        for k, level in enumerate((KNOBS[knob].clean, *KNOBS[knob].levels)):
            for name, eer in (("rgb", 0.1 + 0.05 * k), ("rgbd", 0.05 + 0.05 * k)):
                row = {"knob": knob, "level": level, "system": name, "fta": 0.01 * k, "eer": eer}
                rows.append(row | {"eer_low": eer - 0.02, "eer_high": eer + 0.03})
    return pd.DataFrame(rows)


def shown(figure):
    return [ax for ax in figure.axes if ax.axison]


def test_a_panel_for_each_knob_with_a_line_for_each_system():
    figure = figures_stress.levels_figure(a_table(KNOBS), "eer", {"rgb": "RGB", "rgbd": "RGB-D"}, "px")
    panels = shown(figure)
    assert [ax.get_xlabel() for ax in panels] == [figures_stress.label_of(knob, "px") for knob in KNOBS]
    assert "depth noise, px" in [ax.get_xlabel() for ax in panels]
    yaw = panels[0]
    assert [text.get_text() for text in yaw.get_xticklabels()] == ["0", "15", "30", "45", "60"]
    assert np.allclose(yaw.lines[1].get_ydata(), [0.05, 0.1, 0.15, 0.2, 0.25])
    assert [bar.get_height() for bar in yaw.patches] == pytest.approx([0, 0.01, 0.02, 0.03, 0.04])
    assert {line.get_linestyle() for line in yaw.lines} == {"-", "--"}
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sorted(names) == ["RGB", "RGB-D", "faces not found"]


def test_differences_show_their_verdicts():
    table = pd.DataFrame({"knob": ["", "yaw", "yaw"], "level": [0.0, 15, 60], "eer": [-0.1, 0.1, np.nan]})
    table = table.assign(eer_low=table["eer"] - 0.05, eer_high=table["eer"] + 0.05)
    table["eer_verdict"] = ["pays", "hurts", "no data"]
    (panel,) = shown(figures_stress.differences_figure(table, "eer"))
    assert [text.get_text() for text in panel.get_xticklabels()] == ["0", "15", "60"]
    points = {bars.get_label(): bars.lines[0].get_ydata().tolist() for bars in panel.containers}
    assert points["depth pays"] == [-0.1]
    assert points["depth hurts"] == [0.1]


def test_a_table_without_rates_is_drawn_empty():
    table = pd.DataFrame(
        {"knob": ["", "yaw"], "level": [0.0, 15], "eer": np.nan, "eer_low": np.nan, "eer_high": np.nan}
    )
    (panel,) = shown(figures_stress.differences_figure(table.assign(eer_verdict="no data"), "eer"))
    assert panel.get_ylim() == pytest.approx((-1.05 * 0.05, 1.05 * 0.05))


def test_examples_show_every_level_of_every_knob_that_can_be_seen():
    levels = {"yaw": [60.0], "holes": [0.25, 0.75], "no_depth": [1.0]}
    figure = figures_stress.examples_figure(Drawn(0, 5000, 1000), levels)
    pictures = shown(figure)
    assert len(pictures) == 2 * (2 + 3)
    assert {ax.get_title() for ax in pictures} == {"0", "60", "0.25", "0.75", ""}
    assert len(figures_stress.examples_figure(Drawn(0, 5000, 1000), {"no_depth": [1.0]}).axes) == 0
