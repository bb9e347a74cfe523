"""What is drawn are the numbers of the curves; what cannot be measured stands in the legend."""

import numpy as np
import pytest
from toy_trials import make_trials

from face3d_lib.evaluate import figures_calibration as figures
from face3d_lib.evaluate.metrics.discard import discard_curve, random_order

GENUINE, IMPOSTOR = np.array([1.0, 3.0, 40.0]), np.array([0.0, 2.0, -5.0])


def test_llrs_beyond_the_axis_are_drawn_at_its_end(ax, legend):
    figures.plot_llr_histogram(ax, GENUINE, IMPOSTOR)
    assert legend() == ["genuine, 3 scores", "impostor, 3 scores"]
    right = max(path.vertices[:, 0].max() for part in ax.collections for path in part.get_paths())
    assert right == pytest.approx(12)


def test_reliability_draws_the_pooled_ratios_that_are_finite(ax, legend):
    figures.plot_reliability(ax, GENUINE, IMPOSTOR, "RGB")
    np.testing.assert_allclose(ax.lines[1].get_xydata(), [[1, 0], [2, 0]])
    figures.plot_reliability(ax, GENUINE, IMPOSTOR[:0], "depth", 1)
    assert len(ax.lines) == 3  # one diagonal
    assert legend() == ["RGB", "depth (not measurable)"]


def test_the_height_of_a_discard_curve_is_its_fnmr(ax, legend):
    trials = make_trials()
    quality = np.random.default_rng(0).integers(0, 6, len(trials.pair_ids))
    curve, chance = discard_curve(trials, quality), random_order(trials, [0, 0.1, 0.4], draws=5)
    figures.plot_discard(ax, curve, "noise")
    (line,) = ax.lines
    for share in (0, 0.1, 0.25, 0.4):
        drawn = line.get_ydata()[np.searchsorted(line.get_xdata(), 100 * share, side="right") - 1]
        assert drawn == curve.at(share)[0]
    figures.plot_random_order(ax, chance)
    np.testing.assert_array_equal(ax.lines[1].get_ydata(), chance.fnmr[1])
    figures.plot_ideal_discard(ax, curve)
    assert ax.lines[2].get_ydata()[0] == curve.fnmr[0]
    assert ax.lines[2].get_ydata()[-1] == 0
    figures.plot_discard(ax, discard_curve(trials, quality, far=1e-9), "none", 1)
    assert "none (not measurable)" in legend()
    assert ax.get_ylim()[1] >= curve.fnmr[0]
