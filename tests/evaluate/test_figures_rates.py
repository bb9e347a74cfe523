"""The plots of error rates hold the numbers that they are given, for systems that cannot be measured as well."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy.stats import norm

from face3d_lib.evaluate import figures_rates
from face3d_lib.evaluate.metrics import curves, thresholds


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def normal(mean, seed=0, n=4000):
    rng = np.random.default_rng(seed)
    return curves.roc(rng.normal(mean, 1, n), rng.normal(0, 1, n))


def test_det_of_normal_scores_is_a_straight_line():
    """FMR = Phi(-t), FNMR = Phi(t - 2): on normal deviate axes y = -2 - x."""
    ax = figures_rates.plot_det(plt.figure().subplots(), normal(2), "RGB")
    x, y = ax.lines[1].get_data()
    middle = (norm.cdf(x) > 0.01) & (norm.cdf(y) > 0.01)
    np.testing.assert_allclose((x + y)[middle], -2, atol=0.15)
    assert "1" in [text.get_text() for text in ax.get_xticklabels()]  # per cent


def test_det_shows_all_systems_and_names_those_without_a_curve():
    ax = plt.figure().subplots()
    for number, roc in enumerate((normal(2), normal(1, n=40000), curves.roc([], [0.1]), curves.roc([1, 1], [0, 0.0]))):
        figures_rates.plot_det(ax, roc, f"system {number}", number)
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["FMR = FNMR", "system 0", "system 1", "system 2 (not measurable)", "system 3"]
    assert ax.get_xlim()[0] == pytest.approx(norm.ppf(0.5 / 40000))
    assert np.isfinite(ax.lines[-1].get_data()).all()  # without an error, too


def test_expected_performance_and_the_figure_of_both():
    rocs = {"RGB": normal(2), "nobody": curves.roc([], [0.1])}
    tables = {label: thresholds.expected_performance(normal(2, 1), roc) for label, roc in rocs.items()}
    figure = figures_rates.rates_figure(rocs, tables)
    det, epc = figure.axes
    np.testing.assert_array_equal(epc.lines[0].get_ydata(), tables["RGB"]["hter"])
    assert [text.get_text() for text in epc.get_legend().get_texts()] == ["RGB", "nobody (not measurable)"]
    assert len(det.lines) == 3
