"""The heights of the drawn curves are the numbers of the tables, and what cannot be measured stands in the legend."""

import numpy as np
import pandas as pd

from face3d_lib.evaluate import figures_identification as figures
from face3d_lib.evaluate.metrics.identification import dir_curve

NAMES = np.array(["ann", "bob"])
KNOWN, UNKNOWN = np.array([[0.9, 0.2], [0.7, 0.5], [0.3, 0.6]]), np.array([[0.1], [0.4], [0.6], [0.6]]) * [1, 0.5]


def test_the_height_of_the_dir_curve_at_a_far_is_the_point_of_the_curve(ax, legend):
    curve = dir_curve(KNOWN, NAMES[[0, 1, 1]], NAMES, UNKNOWN, [1, 2, 5])
    figures.plot_dir(ax, curve, 2, "rank 2")
    (line,) = ax.lines
    for far in (0.25, 0.5, 0.74, 0.75, 1):
        drawn = line.get_ydata()[np.searchsorted(line.get_xdata(), far, side="right") - 1]
        assert drawn == curve.at_far(far, 2).dir
    assert ax.get_xlim() == (0.25, 1)
    figures.plot_dir(ax, curve, 5, "rank 5", 1)
    figures.plot_dir(ax, dir_curve(KNOWN, NAMES[[0, 1, 1]], NAMES, UNKNOWN[:0]), 1, "none", 2)
    assert legend() == ["rank 2", "rank 5 (not measurable)", "none (not measurable)"]


def test_gallery_sizes_show_mean_and_spread(ax, legend):
    rows = [(5, "DIR", 0.8, 0.1), (9, "DIR", 0.6, np.nan), (20, "DIR", np.nan, np.nan), (5, "rank 1", 0.9, 0.1)]
    table = pd.DataFrame(rows, columns=["size", "measure", "mean", "sd"])
    figures.plot_gallery_sizes(ax, table, "DIR", "RGB")
    (points,) = ax.containers
    np.testing.assert_array_equal(points.lines[0].get_xydata(), [[5, 0.8], [9, 0.6]])
    (bars,) = points.lines[2]
    np.testing.assert_allclose(bars.get_segments(), [[[5, 0.7], [5, 0.9]], [[9, 0.6], [9, 0.6]]])
    figures.plot_gallery_sizes(ax, table, "rank 20", "RGB", 1)
    assert legend() == ["RGB", "RGB (not measurable)"]


def test_template_sizes_show_the_interval(ax, legend):
    table = pd.DataFrame({"pictures": [1, 2, 4], "eer": [0.2, 0.1, np.nan]})
    table = table.assign(eer_low=[0.1, np.nan, np.nan], eer_high=[0.4, np.nan, np.nan])
    figures.plot_template_sizes(ax, table, "eer", "RGB")
    (points,) = ax.containers
    np.testing.assert_array_equal(points.lines[0].get_xydata(), [[1, 0.2], [2, 0.1]])
    (bars,) = points.lines[2]
    np.testing.assert_allclose(bars.get_segments()[0], [[1, 0.1], [1, 0.4]])
    assert [text.get_text() for text in ax.get_xticklabels()] == ["1", "2", "4"]
    figures.plot_template_sizes(ax, table.iloc[2:], "eer", "depth", 1)
    assert legend() == ["RGB", "depth (not measurable)"]
