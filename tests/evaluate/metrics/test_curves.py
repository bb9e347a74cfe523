"""The curves against values worked by hand, against scikit-learn, and against swaps and shuffles."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.metrics import auc, roc_curve
from toy_trials import GENUINE, IMPOSTOR, make_trials, random_scores

from face3d_lib.evaluate.metrics import curves, thresholds


def test_eer_by_hand():
    """At .75 FAR is 2/10 and FRR 1/4 (gap .05); at .7 FAR is 3/10 and FRR 1/4 (gap .05 again)."""
    value, threshold = curves.eer(GENUINE, IMPOSTOR)
    assert (value, threshold) == (pytest.approx(0.275), 0.7)  # of the two means .225 and .275 the larger
    assert curves.eer([1.0], [0.0]) == (0, 1)
    assert curves.eer([0.0], [1.0])[0] == 1
    assert curves.eer([0.5], [0.5])[0] == 0.5
    assert curves.eer([0.3, 0.7, 0.8, 0.9], [0.1, 0.2, 0.4, 0.6])[0] == 0.25


def test_eer_of_two_normals():
    """Normals about 0 and 1, deviation .5: they cross at .5, where both errors are Phi(-1) = .1587."""
    rng = np.random.default_rng(1)
    value, threshold = curves.eer(rng.normal(1, 0.5, 200_000), rng.normal(0, 0.5, 200_000))
    assert value == pytest.approx(0.15866, abs=0.002)
    assert threshold == pytest.approx(0.5, abs=0.01)


def scikit_learn(genuine, impostor, **how):
    truth, score = np.r_[np.ones(len(genuine)), np.zeros(len(impostor))], np.r_[genuine, impostor]
    return roc_curve(truth, score, **how)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("n_genuine", [1, 2, 40, 400])
@pytest.mark.parametrize("seed", range(3))
def test_corners_are_those_of_scikit_learn(seed, n_genuine, kind):
    genuine, impostor = (scores.astype(kind) for scores in random_scores(seed, n_genuine))
    ours, far_tar_threshold = curves.roc(genuine, impostor), scikit_learn(genuine, impostor)
    for own, other in zip((ours.far, ours.tar, ours.threshold), far_tar_threshold, strict=True):
        np.testing.assert_array_equal(own, other)


@pytest.mark.parametrize("decimals", [None, 1, 0])
@pytest.mark.parametrize("seed", range(5))
def test_rates_equal_those_of_scikit_learn(seed, decimals):
    genuine, impostor = random_scores(seed, decimals=decimals)
    ours = curves.roc(genuine, impostor)
    far, tar, threshold = scikit_learn(genuine, impostor, drop_intermediate=False)
    np.testing.assert_allclose(ours.at(threshold), (far, tar), atol=1e-15)
    assert ours.auc() == pytest.approx(auc(far, tar), abs=1e-14)
    assert ours.least_error()[0] == pytest.approx(((far + 1 - tar) / 2).min(), abs=1e-14)
    gap = np.abs(far - 1 + tar)[1:]
    nearest = gap <= gap.min() + 1e-12
    assert ours.eer()[0] == pytest.approx(((far + 1 - tar) / 2)[1:][nearest].max(), abs=1e-14)
    for asked in (0.01, 0.03, 0.1, 0.5):
        expected = tar[far <= asked].max()
        assert thresholds.tar_at_far(genuine, impostor, asked).tar == pytest.approx(expected)
        assert ours.tar_at_far(asked) == pytest.approx(expected)
    for at in (-1.0, 0.0, 0.5, threshold[3], 99.0):
        point = thresholds.rates_at(genuine, impostor, at)
        assert (point.achieved_far, point.tar) == pytest.approx(ours.at(at))


# Few distinct values, so that ties within and between the kinds are common.
few_values = st.lists(st.integers(0, 12).map(lambda value: value / 4 - 1), min_size=1, max_size=30)


@given(few_values, few_values)
def test_corners_leave_out_only_points_on_straight_lines(genuine, impostor):
    ours, (far, tar, threshold) = (
        curves.roc(genuine, impostor),
        scikit_learn(genuine, impostor, drop_intermediate=False),
    )
    kept = np.isin(threshold, ours.threshold)
    np.testing.assert_array_equal(ours.threshold, threshold[kept])
    np.testing.assert_allclose((ours.far, ours.tar), (far[kept], tar[kept]), atol=1e-15)
    for point in np.flatnonzero(~kept):
        near = [np.flatnonzero(kept[:point])[-1], point, point + 1 + np.flatnonzero(kept[point + 1 :])[0]]
        assert np.ptp(far[near]) == 0 or np.ptp(tar[near]) == 0


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(few_values, few_values, st.integers(1, 9), st.booleans())
def test_counted_in_cells_or_sorted_whole_the_curve_is_the_same(monkeypatch, genuine, impostor, cells, single):
    genuine, impostor = (np.array(scores, np.float32 if single else np.float64) for scores in (genuine, impostor))
    whole = curves.roc(genuine, impostor)
    monkeypatch.setattr(curves, "SORTED_WHOLE", 0)
    monkeypatch.setattr(curves, "CELLS", cells)
    same_curve(curves.roc(genuine, impostor), whole)


def same_curve(one, other):
    for name in ("threshold", "far", "tar"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    some = np.linspace(-2, 3, 41)
    np.testing.assert_allclose(one.at(some), other.at(some), atol=1e-15)
    fars = np.linspace(0.01, 1, 34)
    np.testing.assert_array_equal(one.tar_at_far(fars), other.tar_at_far(fars))
    assert one.eer() == other.eer()
    assert one.least_error(0.2) == other.least_error(0.2)
    assert (one.auc(), one.d_prime()) == pytest.approx((other.auc(), other.d_prime()), abs=1e-12, nan_ok=True)


def test_many_scores_in_cells_equal_scikit_learn(monkeypatch):
    """With outliers that leave most cells empty, and with a score that very many comparisons share."""
    monkeypatch.setattr(curves, "SORTED_WHOLE", 1000)
    for seed, extra in enumerate(([], [-1e6, 1e6], np.full(3000, -1.0))):
        genuine, impostor = random_scores(seed, 300, 20_000)
        impostor = np.r_[impostor, extra]
        ours, others = curves.roc(genuine, impostor), scikit_learn(genuine, impostor)
        if seed < 2:
            for own, other in zip((ours.far, ours.tar, ours.threshold), others, strict=True):
                np.testing.assert_array_equal(own, other)
        assert ours.auc() == pytest.approx(auc(*others[:2]), abs=1e-14)
        monkeypatch.setattr(curves, "SORTED_WHOLE", 10**9)
        same_curve(ours, curves.roc(genuine, impostor))
        monkeypatch.setattr(curves, "SORTED_WHOLE", 1000)


def test_cells_of_scores_that_are_all_alike_or_span_all_numbers(monkeypatch):
    monkeypatch.setattr(curves, "SORTED_WHOLE", 0)
    assert curves.roc([0.5], [0.5, 0.5]).auc() == 0.5
    assert curves.roc([1e308], [-1e308, 0]).auc() == 1
    assert curves.roc([5e-324], [0.0, 0.0]).eer() == (0, 5e-324)


@given(few_values, few_values, st.randoms())
def test_order_and_increasing_transforms_change_no_rate(genuine, impostor, random):
    before = curves.roc(genuine, impostor)
    random.shuffle(genuine)
    random.shuffle(impostor)
    after = curves.roc(np.exp(genuine), np.exp(impostor))
    assert (np.diff(before.far) >= 0).all()
    assert (np.diff(before.tar) >= 0).all()
    np.testing.assert_array_equal((before.far, before.tar), (after.far, after.tar))
    assert before.eer()[0] == after.eer()[0]
    assert before.auc() == after.auc()
    assert before.least_error()[0] == after.least_error()[0]


@given(few_values, few_values)
def test_genuine_and_impostor_trade_places_when_scores_are_turned_over(genuine, impostor):
    one, other = curves.roc(genuine, impostor), curves.roc(-np.array(impostor), -np.array(genuine))
    assert one.auc() == pytest.approx(other.auc(), abs=1e-14)
    assert one.auc() == pytest.approx(1 - curves.roc(impostor, genuine).auc(), abs=1e-14)


def test_area_least_error_and_d_prime_by_hand():
    """Of 40 comparisons of a genuine with an impostor score, .55 wins 6, .75 8, .85 9, .95 10: 33 of 40."""
    ours = curves.roc(GENUINE, IMPOSTOR)
    assert ours.auc() == pytest.approx(33 / 40)
    assert curves.roc([0.5, 0.5], [0.5, 0.1]).auc() == 0.75  # ties count half
    assert ours.least_error() == (pytest.approx(0.2), 0.55)  # FAR 4 / 10, FRR 0
    assert ours.least_error(0.9) == (pytest.approx(0.075), 0.95)  # false accepts count nine times as much: FRR 3 / 4
    assert curves.roc([0.1], [0.5]).least_error() == (0.5, np.nextafter(0.5, 1))  # better to accept nobody
    # means .775 and .45, variances .021875 and .0825
    assert ours.d_prime() == pytest.approx(0.325 / np.sqrt((0.021875 + 0.0825) / 2))
    assert np.isnan(curves.roc([1, 1], [0, 0]).d_prime())
    assert np.isnan([*ours.at(np.nan), ours.hter(np.nan)]).all()  # no threshold was chosen
    assert ours.hter(0.75) == pytest.approx((2 / 10 + 1 / 4) / 2)


def test_swapping_genuine_and_impostor_shows():
    genuine, impostor = random_scores(0)
    value = curves.eer(genuine, impostor)[0]
    assert value < 0.4
    assert curves.eer(impostor, genuine)[0] == pytest.approx(1 - value, abs=0.05)
    assert thresholds.tar_at_far(genuine, impostor, 0.1).tar > 0.3
    assert thresholds.tar_at_far(impostor, genuine, 0.1).tar < 0.05


def test_shuffled_labels_show():
    trials = make_trials()
    shuffled = replace(trials, subject_ids=np.random.default_rng(3).permutation(trials.subject_ids))
    assert curves.eer(trials.genuine, trials.impostor)[0] < 0.25
    assert curves.eer(shuffled.genuine, shuffled.impostor)[0] == pytest.approx(0.5, abs=0.12)


@pytest.mark.parametrize("bad", [[np.nan], [0.5, np.inf], [[0.5]]])
def test_scores_that_are_none_are_refused(bad):
    calls = (
        lambda: curves.roc(bad, IMPOSTOR),
        lambda: curves.roc(GENUINE, bad),
        lambda: thresholds.rates_at(bad, IMPOSTOR, 0.5),
        lambda: thresholds.tar_at_far(GENUINE, bad, 0.5),
        lambda: thresholds.threshold_at_far(bad, 0.5),
    )
    for call in calls:
        with pytest.raises(ValueError, match=r"infinite|flat"):
            call()


def test_what_no_comparison_shows_is_nan_with_the_reason():
    nobody = curves.roc([], IMPOSTOR)
    for curve in (nobody, curves.roc(GENUINE, []), curves.roc([], [])):
        assert not curve.measurable
        assert np.isnan([*curve.eer(), curve.tar_at_far(0.1)]).all()
    assert np.isnan(nobody.tar_at_far([0.1, 0.2])).tolist() == [True, True]
    assert curves.roc(GENUINE, IMPOSTOR).measurable
    for genuine, impostor, kind in (([], IMPOSTOR, "genuine"), (GENUINE, [], "impostor")):
        point = thresholds.rates_at(genuine, impostor, 0.5)
        assert np.isnan([point.tar, point.achieved_far]).tolist() == [kind == "genuine", kind == "impostor"]
        assert point.reason == f"no {kind} comparison"
    assert "no impostor comparisons" in thresholds.tar_at_far(GENUINE, [], 0.1).reason
    assert thresholds.rates_at([], [], 0.5).reason == "no genuine and no impostor comparison"


def test_bootstrap_is_the_plain_one_done_by_repeating_people():
    """One replicate by hand: the trials of the drawn people written out as often as they were drawn."""
    trials = make_trials(n_subjects=6)
    (curve,) = curves.curves_of(trials)
    weight = np.array([2.0, 0, 1, 1, 0, 2])
    codes = trials.subject_codes
    left, right = codes[trials.a], codes[trials.b]
    times = np.where(trials.same, weight[left], weight[left] * weight[right]).astype(int)
    expected = curves.roc(
        np.repeat(trials.genuine, times[trials.same]), np.repeat(trials.impostor, times[~trials.same])
    )
    ours = curve.roc(weight)
    assert ours.eer()[0] == pytest.approx(expected.eer()[0])
    for far in (0.05, 0.1, 0.3):
        assert ours.tar_at_far(far) == pytest.approx(expected.tar_at_far(far))


def test_a_weight_is_even_where_development_trials_show_nothing():
    trials = make_trials(4, 2)
    assert curves.best_weight(trials.select(trials.same), trials.select(trials.same)) == 0.5


def test_best_weight_leaves_a_useless_system_out():
    good, noise = make_trials(noise=0.3), make_trials(noise=0.6, seed=1)
    noise = replace(noise, score=np.random.default_rng(0).normal(size=len(noise.score)).astype(np.float32))
    assert curves.best_weight(good, noise) > 0.7
    assert curves.best_weight(noise, good) < 0.3
    alike = make_trials(noise=0.6, seed=1), make_trials(noise=0.6, seed=2)
    assert 0.25 < curves.best_weight(*alike) < 0.75
