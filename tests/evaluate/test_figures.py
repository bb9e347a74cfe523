"""Figures: what they draw is what the numbers say, and their files are small, whole and always the same."""

import json
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

mpl.use("Agg")
import matplotlib.pyplot as plt
from PIL import Image

from face3d_lib.base.atomic import plain
from face3d_lib.base.paths import ROOT, child_environment
from face3d_lib.evaluate import figures, pictures
from face3d_lib.evaluate.metrics import curves, failures, thresholds


@pytest.fixture(autouse=True)
def close_all():
    yield
    plt.close("all")


def two_systems():
    rng = np.random.default_rng(0)
    return [curves.roc(rng.normal(mean, 1, 200), rng.normal(0, 1, 1000)) for mean in (2, 1)]


def noise_pairs(n):
    rng = np.random.default_rng(1)
    rgb = rng.integers(0, 256, (n, 112, 112, 3)).astype(np.uint8)
    depth = rng.uniform(500, 600, (n, 112, 112)).astype(np.float32)
    depth[:, :10] = 0
    return rgb, depth


def test_roc_is_read_as_tar_at_far():
    """The drawn staircase, at any FAR, is what thresholds.tar_at_far gives."""
    rng = np.random.default_rng(0)
    genuine, impostor = rng.normal(2, 1, 200), rng.normal(0, 1, 1000)
    ax = figures.plot_roc(plt.figure().subplots(), curves.roc(genuine, impostor), "RGB")
    curve = next(line for line in ax.lines if line.get_label() == "RGB")
    assert curve.get_drawstyle() == "steps-post"
    far, tar = curve.get_data()
    for asked in (0.0015, 0.01, 0.05, 0.3):
        drawn = tar[np.searchsorted(far, asked, side="right") - 1]
        assert drawn == thresholds.tar_at_far(genuine, impostor, asked).tar
    assert ax.get_xscale() == "log"
    assert ax.get_xlim() == (pytest.approx(1 / 1000), 1)


def test_intervals_of_a_table_are_drawn_row_by_row_and_missing_ones_are_not():
    table = pd.DataFrame({"eer": [0.1, np.nan, 0.3], "eer_low": [0.05, np.nan, 0.2], "eer_high": [0.2, np.nan, 0.45]})
    ax = figures.plot_intervals(plt.figure().subplots(), table, "eer", "RGB", 0, 0.1)
    (lines,), (dots,) = ax.collections, ax.lines
    ends = {round(float(line[0, 1]), 3): line[:, 0].tolist() for line in lines.get_segments() if len(line)}
    assert ends == {0.1: [0.05, 0.2], 2.1: [0.2, 0.45]}
    np.testing.assert_array_equal(dots.get_xdata(), table["eer"])
    assert ax.get_ylim() == (2.5, -0.5)  # the first row is on top


def test_roc_holds_many_systems_and_one_chance_line():
    ax = plt.figure().subplots()
    for system, (roc, label) in enumerate(zip(two_systems(), ("RGB", "depth"), strict=True)):
        figures.plot_roc(ax, roc, label, system)
    figures.plot_roc(ax, curves.roc([], [0.1]), "nobody", 2)
    labels = ["chance", "RGB", "depth", "nobody (not measurable)"]
    assert [line.get_label() for line in ax.lines] == labels
    assert [text.get_text() for text in ax.get_legend().get_texts()] == labels
    assert len({(line.get_color(), line.get_linestyle()) for line in ax.lines}) == 4


def test_many_systems_can_be_told_apart_and_any_eight_neighbours_in_grey():
    styles = [figures.style(number) for number in range(72)]
    assert len({str(style) for style in styles}) == 72
    for first in range(60):
        assert len({str(style["linestyle"]) for style in styles[first : first + 8]}) == 8
    assert styles[0]["color"] == pictures.BLUE


def test_perfect_and_hopeless_scores_can_be_drawn():
    for genuine, impostor in (([1.0, 0.9], [0.0, 0.1]), ([0.0], [1.0]), ([0.5], [0.5]), ([], [0.5]), ([], [])):
        roc = curves.roc(genuine, impostor)
        figure = plt.figure(figsize=(10, 5))
        first, second = figure.subplots(1, 2)
        figures.plot_roc(first, roc, "RGB")
        figures.plot_score_histogram(second, genuine, impostor, np.nan)
        figure.canvas.draw()


def test_cmc_draws_the_rates():
    rates = np.array([0.5, 0.75, 1, 1])
    ax = figures.plot_cmc(plt.figure().subplots(), rates, "RGB", n_ranks=3)
    np.testing.assert_array_equal(ax.lines[1].get_data(), [[1, 2, 3], [0.5, 0.75, 1]])
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), [0.25, 0.5, 0.75])  # chance: k / G
    figures.plot_cmc(ax, np.array([]), "nobody is enrolled", 1).figure.canvas.draw()


def test_histogram_tells_counts_and_threshold():
    ax = figures.plot_score_histogram(plt.figure().subplots(), [0.5, 0.9], [0.1] * 1234, 0.3)
    texts = [text.get_text() for text in [*ax.get_legend().get_texts(), *ax.texts]]
    assert texts == ["genuine, 2 scores", "impostor, 1,234 scores", "threshold 0.300"]


def test_failure_bars_have_counts():
    table = failures.failure_rates(["ok", "no_face", "ok", "ok"], ["frontal", "profile", "frontal", "profile"])
    ax = figures.plot_failure_rates(plt.figure().subplots(), table)
    assert [bar.get_width() for bar in ax.patches] == [0, 50, 25]
    assert [text.get_text() for text in ax.texts] == ["0 of 2", "1 of 2", "1 of 4"]


def test_landmark_errors_show_the_lost_ones():
    error = np.full(200, 0.03)
    error[0] = 5
    ax = figures.plot_landmark_error(plt.figure().subplots(), error, np.linspace(-40, 40, 200))
    assert "1 above" in [text.get_text() for text in ax.texts]
    assert ax.get_ylim()[1] < 1


def test_training_without_evaluation():
    history = pd.DataFrame({"epoch": [1, 2], "loss": [2.0, 1], "train_accuracy": [0.1, 0.2], "eval_accuracy": np.nan})
    ax = figures.plot_training(plt.figure().subplots(), history)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["loss", "training accuracy"]


def test_a_training_has_a_panel_for_each_quantity_that_was_watched():
    history = pd.DataFrame(
        {"epoch": [1, 2], "loss": [2.0, 1], "train_accuracy": 0.5, "eval_accuracy": 0.4, "best": True}
    )
    with warnings.catch_warnings(action="error"):  # matplotlib warns when a legend leaves no room for the axes
        figures.training_figure(history).canvas.draw()
    assert len(figures.training_figure(history).axes) == 2  # loss, and accuracies on its right axis
    watched = {"left": [0.4, 0.1], "cos_same": [0.2, 0.9], "cos_other": [0.1, 0.0], "new": [7.0, 8.0]}
    left, _, share, cosines, new = sorted(
        figures.training_figure(history.assign(**watched)).axes, key=lambda ax: ax.get_position().x0
    )
    assert left.get_ylabel() == "training loss"
    assert share.get_ylabel().startswith("share")
    assert cosines.get_ylabel() == "mean cosine"
    assert [line.get_ydata().tolist() for line in cosines.get_lines()] == [[0.2, 0.9], [0.1, 0.0]]
    assert new.get_ylabel() == "new", "a value without a description is drawn, too"


def test_tsne_keeps_people_together_and_repeats_itself():
    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(3), 12)
    vectors = np.eye(3, 16)[people] + 0.05 * rng.normal(size=(36, 16))
    points = figures.tsne(vectors)
    assert points.shape == (36, 2)
    np.testing.assert_array_equal(points, figures.tsne(vectors))
    distance = np.linalg.norm(points[:, None] - points[None], axis=2) + np.diag(np.full(36, np.inf))
    assert (people[distance.argmin(axis=1)] == people).all()
    assert np.isnan(figures.tsne(vectors[:3])).all()
    assert figures.tsne(vectors[:4]).shape == (4, 2)


def test_tsne_names_its_colours_in_a_legend_and_nowhere_else():
    points, session = np.random.default_rng(0).normal(size=(36, 2)), np.tile(["first", "second", ""], 12)
    ax = figures.plot_tsne(plt.figure().subplots(), points, session, "by session")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["first", "not known", "second"]
    assert [text.get_text() for text in ax.texts] == []
    assert sum(len(group.get_offsets()) for group in ax.collections) == 36
    many = figures.plot_tsne(plt.figure().subplots(), points, np.arange(36))  # more labels than markers or colours
    assert sum(len(group.get_offsets()) for group in many.collections) == 36
    few = figures.plot_tsne(plt.figure().subplots(), np.full((3, 2), np.nan), ["a", "a", "b"])
    assert [text.get_text() for text in few.texts] == ["3 pictures; t-SNE needs four"]
    few.figure.canvas.draw()


def test_settings_are_rows_in_words_with_a_dot_for_each_seed():
    table = pd.DataFrame({"setting": ["rgb", "rgb", "rgbd parallel"], "seed": [0, 1, 0], "eer": [0.2, 0.3, 0.1]})
    figure = plt.figure()
    first, second = figure.subplots(1, 2, sharey=True)
    figures.plot_settings(first, table, "eer", "EER")
    assert [text.get_text() for text in first.get_yticklabels()] == ["RGB-D, parallel branches", "RGB"]
    assert sorted(x for group in first.collections for x, _ in group.get_offsets()) == [0.1, 0.2, 0.3]
    (mean,) = [line for line in first.lines if len(line.get_xdata()) == 2]
    np.testing.assert_allclose(mean.get_xdata(), [0.1, 0.25])
    figures.plot_settings(second, table.assign(eer=np.nan), "eer", "EER", ["rgb", "rgbd parallel"])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["one training seed", "mean"]
    figure.canvas.draw()


def test_holes_are_grey_and_near_is_bright():
    depth = np.full((40, 40), 600, np.float32)
    depth[20:] = 500
    depth[:, :5] = 0
    (shown,) = pictures.show_depth(plt.figure().subplots(), depth).images
    colours = shown.to_rgba(shown.get_array())
    np.testing.assert_allclose(colours[0, 0], mpl.colors.to_rgba(pictures.HOLE), atol=0.01)
    assert colours[30, 30, :3].sum() > colours[10, 30, :3].sum()
    pictures.show_depth(plt.figure().subplots(), np.zeros((8, 8), np.float32)).figure.canvas.draw()  # nothing but holes


def test_normals_point_out_of_the_picture():
    flat = np.zeros((3, 4, 4), np.float32)
    (shown,) = pictures.show_normals(plt.figure().subplots(), flat).images
    assert shown.get_array()[0, 0].tolist() == [128, 128, 255]


def test_grid_has_a_column_per_pair():
    rgb, depth = noise_pairs(5)
    figure = pictures.plot_pairs_grid(rgb, depth, np.zeros((5, 3, 112, 112)), list("abcde"))
    assert len(figure.axes) == 15
    assert [ax.get_title() for ax in figure.axes[:5]] == list("abcde")
    np.testing.assert_array_equal(figure.axes[2].images[0].get_array(), rgb[2])
    assert len(pictures.plot_pairs_grid(rgb[:1], depth[:1]).axes) == 2


@pytest.mark.parametrize("known", [True, False])
def test_match_says_who_and_why(known):
    rgb, _ = noise_pairs(2)
    match = SimpleNamespace(known=known, score=0.5, threshold=0.4 if known else 0.6, candidates=(("p0003", 0.5),))
    axes = pictures.plot_match(plt.figure().subplots(1, 2), *rgb, match, true_name="p0003")
    assert axes[0].get_title() == "probe: p0003"
    verdict = "p0003\n0.500 ≥ 0.400" if known else "not accepted\nbest: p0003, 0.500 < 0.600"
    assert axes[1].get_title() == verdict


def test_names_are_not_read_as_formulas():
    """A dollar sign starts mathematics in matplotlib: a name with two would be changed or raise."""
    rgb, depth = noise_pairs(2)
    match = SimpleNamespace(known=True, score=0.5, threshold=0.4, candidates=(("$\\bad$", 0.5),))
    axes = pictures.plot_match(plt.figure().subplots(1, 2), *rgb, match, true_name="$b_{$")
    axes[0].figure.canvas.draw()
    pictures.plot_pairs_grid(rgb, depth, titles=["$x_{$", "$\\frac$"]).canvas.draw()
    points = np.random.default_rng(0).normal(size=(4, 2))
    figures.plot_tsne(plt.figure().subplots(), points, ["$\\x$"] * 4, "$\\y_{$").figure.canvas.draw()


def test_overview_of_a_run(tmp_path):
    rgb, depth = noise_pairs(6)
    table = pd.DataFrame({"": ["EER"], "RGB": ["8 %"], "depth": ["9 %"]})
    figure = figures.overview(rgb, depth, dict(zip(("RGB", "depth"), two_systems(), strict=True)), table, title="run")
    pictures.save_figure(figure, tmp_path, "overview", {})
    path = tmp_path / "overview.png"
    assert path.stat().st_size <= 300_000  # noise: the worst case for PNG
    assert Image.open(path).width >= 700


def test_surface_is_small_and_open_where_nothing_was_read():
    rgb, depth = noise_pairs(1)
    depth[0, 60:, 60:] = 5000  # a wall far behind
    figure = pictures.depth_surface(rgb[0], depth[0], depth_per_px=2.0)
    assert len(figure.to_json()) < 150_000
    z = np.asarray(figure.data[0].z)[::-1]  # rows from the top again
    assert np.isnan(z[:10]).all()
    assert np.isnan(z[60:, 60:]).all()
    assert np.isfinite(z[20:50]).all()
    centre = depth[0, 28:84, 28:84]
    np.testing.assert_allclose(z[30, 40], (np.median(centre[centre > 0]) - depth[0, 30, 40]) / 2, rtol=1e-4)
    big = pictures.depth_surface(np.zeros((480, 640, 3), np.uint8), np.full((480, 640), 700.0))
    assert len(big.to_json()) < 150_000


def test_saved_figure_is_always_the_same_bytes_and_carries_its_numbers(tmp_path):
    contents = []
    for folder in ("one", "two"):
        figure = plt.figure()
        figures.plot_roc(figure.subplots(), two_systems()[0], "RGB")
        numbers = {
            "eer": np.float32(0.25),
            "unreachable": np.nan,
            "n": np.int64(3),
            "curve": np.array([1 / 3, 1]),
        }
        pictures.save_figure(figure, tmp_path / folder, "roc", numbers)
        path = tmp_path / folder / "roc.png"
        contents.append((path.read_bytes(), path.with_suffix(".json").read_bytes()))
        assert sorted(file.name for file in path.parent.iterdir()) == ["roc.json", "roc.png"]
    assert contents[0] == contents[1]
    picture = Image.open(tmp_path / "one" / "roc.png")
    assert not picture.text  # no software, no date
    saved = json.loads(contents[0][1])
    assert saved == {"eer": 0.25, "unreachable": None, "n": 3, "curve": [0.333333, 1]}


def test_tables_and_results_become_plain():
    point = thresholds.rates_at([0.9], [0.1, 0.2], 0.5)
    assert plain(point)["achieved_far"] == 0
    assert plain(pd.DataFrame({"a": ["x"], "b": [1.5]})) == [{"a": "x", "b": 1.5}]
    assert plain({"path": Path("a/b"), 1: (np.inf, True, None)}) == {
        "path": "a/b",
        "1": [None, True, None],
    }
    assert json.dumps(plain({"x": np.bool_(True), "y": np.str_("t")})) == '{"x": true, "y": "t"}'


def test_failed_save_keeps_the_old_picture(tmp_path, monkeypatch):
    figure = plt.figure()
    pictures.save_figure(figure, tmp_path, "f", {"n": 1})
    path = tmp_path / "f.png"
    before = path.read_bytes()
    monkeypatch.setattr(type(figure), "savefig", lambda *a, **k: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        pictures.save_figure(figure, tmp_path, "f", {"n": 2})
    assert path.read_bytes() == before
    assert json.loads(path.with_suffix(".json").read_text()) == {"n": 1}  # picture and numbers stay together


def test_the_users_matplotlibrc_changes_no_figure(tmp_path):
    """A matplotlibrc that sets figure.autolayout breaks constrained layouts; other lines would restyle our figures."""
    code = """
import sys
from pathlib import Path
from face3d_lib.evaluate import pictures
figure, axes = pictures.plt.subplots(1, 2, layout="constrained")
axes[0].plot([0, 1], [0, 1], label="a"); axes[0].legend()
Path(sys.argv[1]).write_bytes(pictures.png_of(figure))
"""
    (tmp_path / "matplotlibrc").write_text(
        "figure.autolayout: True\nfont.size: 22\naxes.facecolor: black\nsavefig.dpi: 30\n", encoding="utf-8"
    )
    for name, folder in (("without", tmp_path / "nothing"), ("with", tmp_path)):
        environment = child_environment(MPLCONFIGDIR=str(folder), PYTHONPATH=str(ROOT), MPLBACKEND="agg")
        words = [sys.executable, "-W", "error", "-c", code, tmp_path / name]
        done = subprocess.run(words, env=environment, cwd=tmp_path / "..", capture_output=True, encoding="utf-8")
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "with").read_bytes() == (tmp_path / "without").read_bytes()
