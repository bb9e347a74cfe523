"""The bootstrap over people against the plain one, against formulas and against simulated truth."""

import time
from dataclasses import replace

import numpy as np
import pytest
from toy_trials import at_threshold, eer_of, make_trials, part_of

from face3d_lib.evaluate import intervals
from face3d_lib.evaluate.metrics import curves, thresholds


def test_bootstrap_repeats_itself_and_surrounds_the_value():
    trials = make_trials()
    first, again = (intervals.subject_bootstrap(trials, eer_of, 200, seed=1) for _ in range(2))
    assert first == again
    assert first != intervals.subject_bootstrap(trials, eer_of, 200, seed=2)
    assert first.low < first.value < first.high
    assert first.value == curves.eer(trials.genuine, trials.impostor)[0]
    assert (first.n_subjects, first.n_replicates) == (20, 200)
    tar = intervals.subject_bootstrap(trials, lambda roc: roc.tar_at_far(0.05), 200)
    assert tar.low < tar.value < tar.high
    assert tar.value == thresholds.tar_at_far(trials.genuine, trials.impostor, 0.05).tar


def test_people_who_differ_make_the_interval_wider_than_pairs_would():
    """Where people differ, drawing trials instead of people pretends to know several times too much."""
    trials = make_trials(n_subjects=25, per_subject=4, person=0.4)
    interval = intervals.subject_bootstrap(trials, lambda roc: at_threshold(roc, 0.5)[0], 300)
    assert interval.value == pytest.approx((trials.impostor >= 0.5).mean())
    naive = 2 * 1.96 * np.sqrt(interval.value * (1 - interval.value) / len(trials.impostor))
    assert interval.high - interval.low > 3 * naive


def test_interval_covers_the_truth_about_as_often_as_it_says():
    """FAR and FRR at .5 over 100 sets of 30 new people who differ; the truth from 400 people."""

    def frr_at_half(roc):
        return 1 - at_threshold(roc, 0.5)[1]

    many = make_trials(400, 3, seed=99, person=0.3)
    far, tar = at_threshold(curves.roc(many.genuine, many.impostor), 0.5)
    assert far > 0.1
    covered = 0
    for seed in range(100):
        interval = intervals.subject_bootstrap(make_trials(30, 3, seed=seed, person=0.3), frr_at_half, 150, seed)
        covered += interval.low <= 1 - tar <= interval.high
    assert covered >= 85


def test_paired_difference_is_narrower_than_two_intervals():
    """The second system is the first, a little better: the pairing sees it, single intervals do not."""
    first = make_trials(n_subjects=30, person=0.4)
    second = replace(first, score=first.score + 0.2 * first.same.astype(np.float32))
    difference = intervals.paired_bootstrap(first, second, eer_of, 300)
    one, two = (intervals.subject_bootstrap(trials, eer_of, 300) for trials in (first, second))
    assert difference.value == two.value - one.value
    assert difference.high < 0  # better, shown
    assert two.high > one.low  # although the intervals overlap
    swapped = intervals.paired_bootstrap(second, first, eer_of, 300)
    assert (swapped.low, swapped.high) == pytest.approx((-difference.high, -difference.low))
    nothing = intervals.paired_bootstrap(first, first, eer_of, 50)
    assert (nothing.value, nothing.low, nothing.high) == (0, 0, 0)


def test_paired_bootstrap_refuses_other_trials():
    with pytest.raises(ValueError, match="different trials"):
        intervals.paired_bootstrap(make_trials(10), make_trials(11), eer_of)


def test_trials_of_one_kind_or_none_give_nan_with_the_reason():
    trials = make_trials(4, 2)
    for chosen in (trials.same, ~trials.same, np.zeros(len(trials.same), bool)):
        some = part_of(trials, chosen)
        for interval in (
            intervals.subject_bootstrap(some, eer_of, 20),
            intervals.paired_bootstrap(some, some, eer_of, 20),
        ):
            assert np.isnan([interval.value, interval.low, interval.high]).all()
            assert "both are needed" in interval.reason
    nothing = intervals.mean_bootstrap([], [], 20)
    assert np.isnan([nothing.value, nothing.low, nothing.high]).all()
    assert nothing.reason == "no probe"


def test_an_interval_that_few_people_cannot_give_is_nan_and_the_value_stays():
    """Of two people every usable draw takes each once; of one person every draw is the same."""
    two = intervals.subject_bootstrap(make_trials(2, 3), eer_of, 50)
    assert np.isfinite(two.value)
    assert np.isnan([two.low, two.high]).all()
    assert "an interval needs 3" in two.reason
    one = intervals.mean_bootstrap([1, 0], ["a", "a"], 50)
    assert one.value == 0.5
    assert np.isnan([one.low, one.high]).all()
    assert intervals.subject_bootstrap(make_trials(3, 3), eer_of, 50).reason == ""


def test_replicates_without_impostors_are_counted_out():
    interval = intervals.subject_bootstrap(make_trials(2, 2), eer_of, 400)
    assert 120 < interval.n_replicates < 280  # of two people, half of the draws take one twice


def test_mean_bootstrap_against_the_formula():
    """One value per person: the deviation of the mean is that of the values / sqrt(n)."""
    values = np.random.default_rng(5).normal(size=400)
    interval = intervals.mean_bootstrap(values, np.arange(400).astype(str), 4000)
    half = 1.96 * values.std() / 20
    assert interval.value == values.mean()
    assert (interval.low, interval.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.01)
    repeated = intervals.mean_bootstrap(np.repeat(values, 5), np.repeat(np.arange(400), 5), 4000)
    assert repeated.high - repeated.low == pytest.approx(interval.high - interval.low, rel=0.05)  # 5 copies add nothing


def test_bootstrap_is_fast():
    """20,000 impostor trials, 1000 replicates: seconds, not minutes."""
    trials = make_trials(70, 3)
    assert len(trials.score) > 20_000
    start = time.process_time()
    intervals.subject_bootstrap(trials, eer_of, 200)
    assert time.process_time() - start < 2
