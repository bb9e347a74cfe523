"""Calibration and Cllr: by hand, against scikit-learn and normal scores of known likelihood ratio, and under transforms."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from toy_trials import make_trials

from face3d_lib.base.errors import UserError
from face3d_lib.evaluate import intervals
from face3d_lib.evaluate.metrics import calibration, curves
from face3d_lib.evaluate.metrics.calibration import bayes_threshold, calibrate, cllr, min_cllr_of, pav

NONE = np.array([])


def known_scores(n_genuine=4000, n_impostor=8000, seed=0):
    """Scores x of normal densities around 1 and -1: the LLR is 2 x."""
    rng = np.random.default_rng(seed)
    return rng.normal(1, 1, n_genuine), rng.normal(-1, 1, n_impostor)


def test_llrs_of_zero_cost_one_bit():
    cost = cllr(np.zeros(3), np.zeros(7))
    assert (cost.cllr, cost.min_cllr, cost.loss) == (1, 1, 0)
    assert (cost.n_genuine, cost.n_impostor, cost.reason) == (3, 7, "")


def test_the_cost_by_hand():
    cost = cllr(np.log([3.0, 1.0]), np.log([1 / 3, 1.0, 3.0]))
    genuine, impostor = (np.log2(4 / 3) + 1) / 2, (np.log2(4 / 3) + 1 + 2) / 3
    assert cost.cllr == pytest.approx((genuine + impostor) / 2, abs=1e-12)
    # 3: one genuine (1/2) and one impostor (1/3) score; 1: the same; 1/3: one impostor score
    pooled = -np.log2([(1 / 2) / (5 / 6), (1 / 3) / (5 / 6)])
    assert cost.min_cllr == pytest.approx((2 / 2 * pooled[0] + 2 / 3 * pooled[1]) / 2, abs=1e-12)


def test_separated_llrs_have_no_least_cost_and_wrong_ones_cost_more_than_nothing():
    cost = cllr(np.array([2.0, 3.0]), np.array([-1.0, 0.5]))
    assert cost.min_cllr == 0
    assert cost.loss == cost.cllr > 0
    swapped = cllr(np.array([-1.0, 0.5]), np.array([2.0, 3.0]))
    assert swapped.cllr > 1
    assert swapped.min_cllr == pytest.approx(1)


def test_huge_llrs_cost_their_length_and_not_infinity():
    assert cllr(np.array([-1000.0]), np.array([1000.0])).cllr == pytest.approx(1000 / np.log(2))
    assert cllr(np.array([1000.0]), np.array([-1000.0])).cllr == 0


@pytest.mark.parametrize(("genuine", "impostor"), [(NONE, np.zeros(2)), (np.zeros(2), NONE), (NONE, NONE)])
def test_one_class_is_nan_with_the_reason(genuine, impostor):
    reason = f"{len(genuine)} genuine and {len(impostor)} impostor"
    cost, learnt = cllr(genuine, impostor), calibrate(genuine, impostor)
    assert np.isnan([cost.cllr, cost.min_cllr, cost.loss, learnt.slope, learnt.offset]).all()
    assert cost.reason == f"{reason} comparisons; both are needed"
    assert learnt.reason == f"{reason} development comparisons; both are needed"
    assert np.isnan(learnt.llr([0.5])).all()


@pytest.mark.parametrize("prior", [0.5, 0.01, 0.9])
def test_the_map_is_the_minimum_of_the_weighted_cost(prior):
    genuine, impostor = known_scores(60, 500)
    weight = np.repeat([prior / 60, (1 - prior) / 500], [60, 500]) * 560
    oracle = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-12)
    oracle.fit(np.concatenate([genuine, impostor])[:, None], np.repeat([1, 0], [60, 500]), weight)
    best = oracle.coef_[0, 0], oracle.intercept_[0] - np.log(prior / (1 - prior))
    learnt = calibrate(genuine, impostor, prior)
    np.testing.assert_allclose([learnt.slope, learnt.offset], best, rtol=1e-6)
    assert learnt.reason == ""


def test_known_likelihood_ratios_are_found_whatever_the_unit_of_the_scores():
    genuine, impostor = known_scores(20_000, 20_000)
    learnt = calibrate(genuine, impostor)
    assert learnt.slope == pytest.approx(2, rel=0.05)
    assert learnt.offset == pytest.approx(0, abs=0.05)
    other = calibrate(3e-4 * genuine + 7, 3e-4 * impostor + 7)
    np.testing.assert_allclose(other.llr(3e-4 * genuine + 7), learnt.llr(genuine), atol=1e-5)


def test_calibrated_llrs_cost_less_and_little_more_than_the_least():
    (genuine, impostor), learnt = known_scores(seed=1), calibrate(*known_scores(seed=2))
    before, after = cllr(genuine, impostor), cllr(learnt.llr(genuine), learnt.llr(impostor))
    assert before.min_cllr == pytest.approx(after.min_cllr, abs=1e-12)
    assert 0 < after.loss < 0.01 < before.loss


def test_separated_development_scores_give_a_finite_slope_and_say_so():
    learnt = calibrate(np.array([0.5, 0.6]), np.array([0.1, 0.2, 0.3]))
    assert np.isfinite([learnt.slope, learnt.offset]).all()
    assert learnt.slope > 0
    assert "separated" in learnt.reason
    many = calibrate(np.array([0.5, 0.6] * 50), np.array([0.1, 0.2, 0.3] * 50))
    assert many.slope > learnt.slope  # more scores, more sure
    assert "separated" in calibrate(np.array([0.5, 0.6]), np.array([0.1, 0.5])).reason  # they touch


@pytest.mark.parametrize("genuine", [[0.1, 0.2], [0.3, 0.3], [0.1, 0.6, 0.1]])
def test_scores_without_meaning_become_llrs_of_zero(genuine):
    learnt = calibrate(np.array(genuine), np.array([0.3, 0.3, 0.5]) if len(genuine) > 2 else np.array([0.3, 0.3]))
    assert (learnt.slope, learnt.offset) == (0, 0)
    assert "every LLR is 0" in learnt.reason


def test_test_people_get_the_ratios_that_dev_people_taught():
    dev, test = make_trials(8, seed=1), make_trials(9, seed=2)
    with pytest.raises(UserError, match="8 people are in dev and in test, the first p000"):
        calibration.calibrated(dev, test)
    dev = replace(dev, subject_ids=np.char.add("dev_", dev.subject_ids))
    found, learnt = calibration.calibrated(dev, test, 0.1)
    assert learnt == calibrate(dev.genuine, dev.impostor, 0.1)
    np.testing.assert_array_equal(found.score, learnt.llr(test.score))
    nobody = replace(dev, score=dev.score[:0], a=dev.a[:0], b=dev.b[:0])
    found, learnt = calibration.calibrated(nobody, test)
    assert len(found.score) == 0
    assert learnt.reason == "0 genuine and 0 impostor development comparisons; both are needed"


def test_the_threshold_of_a_prior():
    assert bayes_threshold(0.5) == 0
    assert bayes_threshold(0.01) == pytest.approx(np.log(99))
    for prior in (0, 1, -1, np.nan):
        with pytest.raises(UserError, match="no share between 0 and 1"):
            bayes_threshold(prior)
    genuine, impostor = known_scores()
    at = bayes_threshold(0.05)
    risk = [0.05 * (2 * genuine < t).mean() + 0.95 * (2 * impostor >= t).mean() for t in (at - 1, at, at + 1)]
    assert min(risk) == risk[1]


def test_pooling_by_hand_and_against_the_cost():
    curve = curves.roc(np.array([1.0, 3.0]), np.array([0.0, 2.0]))
    score, llr = pav(curve)
    assert score.tolist() == [0, 1, 2, 3]
    assert llr.tolist() == [-np.inf, 0, 0, np.inf]  # 1 is genuine and 2 is not, so the two are pooled
    assert min_cllr_of(curve) == pytest.approx(0.5)
    genuine, impostor = (part.round(1) for part in known_scores(300, 400))
    score, llr = pav(curves.roc(genuine, impostor))
    limited = np.clip(llr, -700, 700)
    found = [limited[np.searchsorted(score, part)] for part in (genuine, impostor)]
    assert cllr(*found).cllr == pytest.approx(min_cllr_of(curves.roc(genuine, impostor)), abs=1e-9)


def test_the_costs_are_statistics_of_a_bootstrap_over_people():
    trials = make_trials()
    for statistic in (calibration.cllr_of, min_cllr_of):
        found = intervals.subject_bootstrap(trials, statistic, 50)
        assert found.low < found.value < found.high
        assert found.value == statistic(curves.roc(trials.genuine, trials.impostor))


GRID = st.lists(st.integers(-8, 8), min_size=1, max_size=30).map(lambda numbers: np.array(numbers) / 4)


@settings(max_examples=80, deadline=None)
@given(GRID, GRID, st.integers(0, 1000))
def test_the_least_cost_depends_on_the_order_of_scores_only(genuine, impostor, seed):
    rng = np.random.default_rng(seed)
    cost = cllr(genuine, impostor)
    assert calibration.cllr_of(curves.roc(genuine, impostor)) == pytest.approx(cost.cllr, abs=1e-12)
    again = cllr(np.exp(genuine[rng.permutation(len(genuine))]), np.exp(impostor[rng.permutation(len(impostor))]))
    assert cost.min_cllr == pytest.approx(again.min_cllr, abs=1e-12)
    assert -1e-12 <= cost.min_cllr <= min(1, cost.cllr) + 1e-12
    mirrored = cllr(-impostor, -genuine)  # who is called genuine, with the sign of the score
    assert (mirrored.cllr, mirrored.min_cllr) == pytest.approx((cost.cllr, cost.min_cllr), abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(GRID, GRID)
def test_the_map_never_reverses_an_order_and_never_does_harm_where_it_was_learnt(genuine, impostor):
    learnt = calibrate(genuine, impostor)
    assert learnt.slope >= 0
    assert np.isfinite(learnt.offset)
    assert cllr(learnt.llr(genuine), learnt.llr(impostor)).cllr <= 1 + 1e-6
