"""Error versus discard: by hand, ties as one block, unknown quality first, and against a random order."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_trials import make_trials

from face3d_lib.evaluate import intervals
from face3d_lib.evaluate.metrics import curves, discard
from face3d_lib.evaluate.metrics.discard import discard_curve, eer_of_the_rest, gains, random_order
from face3d_lib.evaluate.scores import Trials

# Five people with two pictures each: five genuine comparisons, whose scores and qualities are given below
PEOPLE = np.repeat(["a", "b", "c", "d", "e"], 2)
A, B = np.triu_indices(10, 1)
SAME = PEOPLE[A] == PEOPLE[B]
GENUINE = [0.1, 0.9, 0.2, 0.8, 0.7]
QUALITY = np.array([1, 9, 9, 4, 2, 9, 3, 9, 9, 5.0])  # the lower ones of a to e: 1 4 2 3 5


def five(genuine=GENUINE):
    """Impostors score 0 but for one of 0.5: at FMR 0.01 none of 40 may pass, so the FMR must be 1/40 or more."""
    score = np.zeros(len(A))
    score[SAME] = genuine
    score[np.flatnonzero(~SAME)[0]] = 0.5
    return Trials(score, A, B, np.array([f"{w}/{k}" for k, w in enumerate(PEOPLE)]), PEOPLE)


def test_the_curve_by_hand():
    curve = discard_curve(five(), QUALITY, far=0.03)  # one impostor of 40 may pass: the threshold is above 0
    assert 0 < curve.threshold < 0.1
    assert curve.fnmr.tolist() == [0] * 5
    trials = replace(five(), score=np.where(SAME, five().score, 0.5))  # all impostors score 0.5
    curve = discard_curve(trials, QUALITY, far=0.03)
    assert curve.threshold > 0.5
    np.testing.assert_allclose(curve.share, [0, 0.2, 0.4, 0.6, 0.8])
    np.testing.assert_allclose(curve.fnmr, [2 / 5, 1 / 4, 0, 0, 0])  # .1 has quality 1, .2 has quality 2
    assert curve.cut.tolist() == [-np.inf, 2, 3, 4, 5]
    assert curve.at(0.19) == (0.4, -np.inf)
    assert curve.at(0.2) == (0.25, 2)
    assert curve.area(0.2) == pytest.approx(0.4)
    assert curve.area(0.3) == pytest.approx((0.2 * 0.4 + 0.1 * 0.25) / 0.3)
    assert (curve.n_genuine, curve.n_unknown, curve.reason) == (5, 0, "")


def hard(genuine=GENUINE):
    return replace(five(genuine), score=np.where(SAME, five(genuine).score, 0.5))


def test_pictures_of_equal_quality_are_discarded_together():
    curve = discard_curve(hard(), np.full(10, 3.0), far=0.03)
    assert curve.share.tolist() == [0]
    assert curve.at(0.99) == (0.4, -np.inf)
    assert curve.area() == pytest.approx(0.4)
    curve = discard_curve(hard(), np.where(QUALITY < 3, 1.0, QUALITY), far=0.03)
    np.testing.assert_allclose(curve.share, [0, 0.4, 0.6, 0.8])
    assert curve.at(0.3)[0] == 0.4


def test_unknown_quality_is_discarded_first_and_counted():
    quality = QUALITY.copy()
    quality[[3, 9]] = np.nan  # of b and e, which are accepted
    curve = discard_curve(hard(), quality, far=0.03)
    assert curve.n_unknown == 2
    np.testing.assert_allclose(curve.share, [0, 0.4, 0.6, 0.8])
    np.testing.assert_allclose(curve.fnmr, [2 / 5, 2 / 3, 1 / 2, 0])
    nothing = discard_curve(hard(), np.full(10, np.nan), far=0.03)
    assert (nothing.n_unknown, nothing.share.tolist()) == (5, [0])


def test_a_score_at_the_threshold_is_accepted():
    threshold = discard_curve(hard(), QUALITY, far=0.03).threshold
    assert discard_curve(hard([threshold] * 5), QUALITY, far=0.03).fnmr[0] == 0
    assert discard_curve(hard([np.nextafter(threshold, 0)] * 5), QUALITY, far=0.03).fnmr[0] == 1


def test_a_far_that_cannot_be_measured_is_nan_with_the_reason():
    curve = discard_curve(five(), QUALITY, far=0.01)
    assert np.isnan(curve.fnmr).all()
    assert np.isnan(curve.area())
    assert "cannot be measured with 40 impostor comparisons" in curve.reason
    assert curve.at(0.2)[1] == 2  # the cut needs no threshold
    empty = replace(five(), score=np.empty(0), a=np.empty(0, int), b=np.empty(0, int))
    assert np.isnan(discard_curve(empty, QUALITY).area())
    with pytest.raises(ValueError, match="qualities for 10 pictures"):
        discard_curve(five(), QUALITY[:4])


def foreseen(seed=0):
    """Comparisons with errors, and a quality that foresees them: the noise of each picture's scores, negated."""
    trials, rng = make_trials(n_subjects=20, per_subject=4, noise=0.2, seed=seed), np.random.default_rng(seed)
    bad = rng.uniform(0, 1, len(trials.pair_ids))
    loss = (bad[trials.a] + bad[trials.b]) * trials.same
    return replace(trials, score=trials.score - loss.astype(np.float32)), -bad


def test_a_quality_that_foresees_errors_beats_a_random_order_and_its_opposite_is_worse():
    trials, quality = foreseen()
    chance = random_order(trials, [0, 0.1, 0.2], draws=100)
    good, bad = (discard_curve(trials, sign * quality) for sign in (1, -1))
    assert good.area() < chance.areas.min() < chance.areas.max() < bad.area()
    assert chance.p_value(good.area()) == 1 / 101
    assert chance.p_value(bad.area()) == 1
    assert chance.p_value(np.median(chance.areas)) == pytest.approx(0.5, abs=0.01)
    assert np.isnan(chance.p_value(np.nan))
    assert chance.fnmr.shape == (3, 3)
    np.testing.assert_allclose(chance.fnmr[:, 0], good.fnmr[0])  # nothing is discarded yet
    assert good.at(0.2)[0] < chance.fnmr[0, 2]
    assert chance.areas.mean() == pytest.approx(good.fnmr[0], abs=0.02)  # a random order changes little
    np.testing.assert_array_equal(random_order(trials, [0.1], draws=5).fnmr, random_order(trials, [0.1], draws=5).fnmr)


def test_the_equal_error_rate_of_what_is_left():
    trials, quality = foreseen()
    rates = eer_of_the_rest(trials, quality, [0, 0.3])
    assert rates[0] == curves.eer(trials.genuine, trials.impostor)[0]
    cut = discard_curve(trials, quality).at(0.3)[1]
    kept = np.minimum(quality[trials.a], quality[trials.b]) >= cut
    assert rates[1] == curves.eer(trials.score[kept & trials.same], trials.score[kept & ~trials.same])[0] < rates[0]


def test_the_gain_has_an_interval_over_people():
    trials, quality = foreseen()
    curve = discard_curve(trials, quality)
    values, who = gains(trials, quality, 0.2), trials.subject_ids[trials.a][trials.same]
    assert values.mean() == pytest.approx(curve.at(0.2)[0] - curve.fnmr[0], abs=1e-12)
    found = intervals.mean_bootstrap(values, who, 2000, difference=True)
    assert found.value < 0
    assert found.p_value < 0.05
    # people drawn again, and both rates counted again at the same threshold and cut
    rejected = trials.genuine < curve.threshold
    kept = discard.comparison_quality(trials, quality)[trials.same] >= curve.at(0.2)[1]
    people, row = np.unique(who, return_inverse=True)
    weight = np.random.default_rng(0).multinomial(len(people), np.full(len(people), 1 / len(people)), 2000)[:, row]
    left, every = weight * kept, weight
    changes = (left @ rejected) / left.sum(axis=1) - (every @ rejected) / every.sum(axis=1)
    from_values = (weight @ values) / weight.sum(axis=1)
    assert from_values.std() == pytest.approx(changes.std(), rel=0.1)
    assert np.corrcoef(from_values, changes)[0, 1] > 0.95
    useless = gains(trials, np.ones(len(trials.pair_ids)), 0.2)
    np.testing.assert_allclose(useless, 0, atol=1e-12)  # one block: nothing is discarded


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_only_the_order_of_qualities_counts_and_the_curve_is_a_count_at_each_cut(seed):
    rng = np.random.default_rng(seed)
    trials, quality = hard(rng.uniform(0, 1, 5)), rng.integers(0, 5, 10).astype(float)
    quality[rng.uniform(size=10) < 0.1] = np.nan
    curve = discard_curve(trials, quality, far=0.03)
    order = rng.permutation(len(A))
    shuffled = replace(trials, score=trials.score[order], a=trials.b[order], b=trials.a[order])
    again = discard_curve(shuffled, np.exp(quality), far=0.03)
    np.testing.assert_array_equal(curve.share, again.share)
    np.testing.assert_array_equal(curve.fnmr, again.fnmr)
    lower = discard.comparison_quality(trials, quality)[trials.same]
    for share, fnmr, cut in zip(curve.share, curve.fnmr, curve.cut, strict=True):
        kept = lower >= cut
        assert share == pytest.approx(1 - kept.mean())
        assert fnmr == pytest.approx((trials.genuine[kept] < curve.threshold).mean())
