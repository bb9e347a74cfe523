"""The curves against values worked by hand, against scikit-learn, and against swaps and shuffles."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_curve
from toy_trials import GENUINE, IMPOSTOR, at_threshold, make_trials, part_of, random_scores

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


@pytest.mark.parametrize("decimals", [None, 1, 0])
@pytest.mark.parametrize("seed", range(5))
def test_roc_equals_scikit_learn(seed, decimals):
    genuine, impostor = random_scores(seed, decimals=decimals)
    ours = curves.roc(genuine, impostor)
    truth, score = np.r_[np.ones(len(genuine)), np.zeros(len(impostor))], np.r_[genuine, impostor]
    far, tar, threshold = roc_curve(truth, score, drop_intermediate=False)
    np.testing.assert_allclose(ours.far, far)
    np.testing.assert_allclose(ours.tar, tar)
    np.testing.assert_array_equal(ours.threshold, threshold)
    for asked in (0.01, 0.03, 0.1, 0.5):
        expected = tar[far <= asked].max()
        assert thresholds.tar_at_far(genuine, impostor, asked).tar == pytest.approx(expected)
        assert ours.tar_at_far(asked) == pytest.approx(expected)
    for at in (-1.0, 0.0, 0.5, threshold[3], 99.0):
        point = thresholds.rates_at(genuine, impostor, at)
        assert (point.achieved_far, point.tar) == pytest.approx(at_threshold(ours, at))


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
    assert curves.best_weight(part_of(trials, trials.same), part_of(trials, trials.same)) == 0.5


def test_best_weight_leaves_a_useless_system_out():
    good, noise = make_trials(noise=0.3), make_trials(noise=0.6, seed=1)
    noise = replace(noise, score=np.random.default_rng(0).normal(size=len(noise.score)).astype(np.float32))
    assert curves.best_weight(good, noise) > 0.7
    assert curves.best_weight(noise, good) < 0.3
    alike = make_trials(noise=0.6, seed=1), make_trials(noise=0.6, seed=2)
    assert 0.25 < curves.best_weight(*alike) < 0.75
