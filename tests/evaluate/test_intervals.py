"""The bootstrap over people against the plain one, against formulas and against simulated truth."""

import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_trials import eer_of, make_trials

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
    interval = intervals.subject_bootstrap(trials, lambda roc: roc.at(0.5)[0], 300)
    assert interval.value == pytest.approx((trials.impostor >= 0.5).mean())
    naive = 2 * 1.96 * np.sqrt(interval.value * (1 - interval.value) / len(trials.impostor))
    assert interval.high - interval.low > 3 * naive


def test_interval_covers_the_truth_about_as_often_as_it_says():
    """FAR and FRR at .5 over 100 sets of 30 new people who differ; the truth from 400 people."""

    def frr_at_half(roc):
        return 1 - roc.at(0.5)[1]

    many = make_trials(400, 3, seed=99, person=0.3)
    far, tar = curves.roc(many.genuine, many.impostor).at(0.5)
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
        some = trials.select(chosen)
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


def score_interval(p, half, at):
    """Whether |p - x| <= half * sqrt(x (1 - x) / (p (1 - p))), the definition at the top of the file."""
    return abs(p - at) <= half * np.sqrt(at * (1 - at) / (p * (1 - p))) + 1e-9


def test_the_interval_of_a_rate_is_the_score_interval_by_definition():
    """Each end of the interval is the last value that the definition holds in, with Student's t and n / (n - 1)."""
    people = np.repeat(np.arange(8), 2)
    values = [1, 1, 1, 0, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1, 0]
    found = intervals.mean_bootstrap(values, people, 4000)
    by_person = np.reshape(values, (8, 2)).mean(1)
    half = 2.364624 * by_person.std(ddof=1) / np.sqrt(8)  # t for 7 degrees of freedom; the bootstrap has sd / n
    for end, inside in ((found.low, 1), (found.high, -1)):
        assert score_interval(found.value, half * 1.03, end + inside * 0.005)
        assert not score_interval(found.value, half * 0.97, end - inside * 0.005)
    assert found.value - found.low > found.high - found.value  # longer towards the middle
    assert found.p_value is None


@pytest.mark.parametrize("n", [2, 10, 200])
def test_no_error_among_n_people_is_no_proof_of_none(n):
    """Wilson's interval of 0 of n, however many pictures each person has; near the rule of three."""
    people = np.repeat(np.arange(n), 4)
    none, all_ = (intervals.mean_bootstrap(np.full(4 * n, value), people, 100) for value in (0, 1))
    assert (none.low, none.high) == (0, pytest.approx(3.8415 / (n + 3.8415), abs=1e-4))
    assert (all_.low, all_.high) == (pytest.approx(1 - none.high), 1)
    if n > 2:
        apart = make_trials(n if n < 50 else 20, 3, noise=0.01)
        eer = intervals.subject_bootstrap(apart, eer_of, 50)
        assert (eer.value, eer.low) == (0, 0)
        assert 0.15 < eer.high < 0.29


def test_two_systems_without_errors_are_not_shown_to_be_alike():
    apart = make_trials(10, 3, noise=0.01)
    other = make_trials(10, 3, noise=0.01, seed=1)
    found = intervals.paired_bootstrap(apart, other, eer_of, 50)
    assert (found.low, found.value, found.high) == pytest.approx((-0.2775, 0, 0.2775), abs=1e-3)
    assert found.p_value == 1
    agree = intervals.mean_bootstrap(np.zeros(20), np.repeat(np.arange(10), 2), 50, difference=True)
    assert (agree.low, agree.high) == pytest.approx((-0.2775, 0.2775), abs=1e-3)
    same = intervals.paired_bootstrap(apart, apart, eer_of, 50)
    assert (same.low, same.high, same.p_value) == (0, 0, 1)


def test_interval_and_p_value_of_a_difference_by_hand():
    """The replicates' deviations, sorted: the 95th of 100 is the half width, and their count is the p-value."""
    rng = np.random.default_rng(3)
    values, people = rng.normal(0.5, 1, 30), np.arange(30)
    found = intervals.mean_bootstrap(values, people, 999, seed=7)
    drawn = np.random.default_rng(7).multinomial(30, np.full(30, 1 / 30), 999) @ values / 30
    away = np.abs(drawn - values.mean()) * np.sqrt(30 / 29) * 2.045230 / 1.959964
    assert found.high - found.value == pytest.approx(np.quantile(away, 0.95), rel=1e-5)
    assert found.p_value == (1 + (away >= abs(values.mean())).sum()) / 1000
    assert (found.p_value < 0.05) == (found.low > 0)
    sure = intervals.mean_bootstrap(values + 5, people, 999)
    assert sure.p_value == 1 / 1000  # never 0


def test_a_statistic_of_many_rates_gives_each_its_interval():
    trials = make_trials(12, 3)
    fars = np.array([1e-5, 0.05, 0.1])
    many = intervals.subject_bootstrap(trials, lambda roc: roc.tar_at_far(fars), 100)
    assert np.isnan([many.value[0], many.low[0], many.high[0]]).all()  # below one impostor comparison
    for k in (1, 2):
        one = intervals.subject_bootstrap(trials, lambda roc, k=k: roc.tar_at_far(fars[k]), 100)
        assert (many.value[k], many.low[k], many.high[k]) == pytest.approx((one.value, one.low, one.high))
    nothing = intervals.subject_bootstrap(trials, lambda roc: roc.tar_at_far(1e-5), 20)
    assert np.isnan(nothing.low)
    assert "too few" in nothing.reason


def test_the_mean_over_seeds_has_one_interval():
    seeds = [make_trials(12, 3, seed=seed) for seed in range(3)]
    found = intervals.subject_bootstrap(seeds, eer_of, 60)
    assert found.value == pytest.approx(np.mean([curves.eer(t.genuine, t.impostor)[0] for t in seeds]))
    alone = intervals.subject_bootstrap(seeds[0], eer_of, 60)
    assert found.high - found.low < alone.high - alone.low
    assert intervals.subject_bootstrap(seeds[:1], eer_of, 60) == alone


def test_people_with_one_picture_give_no_genuine_comparison_and_do_not_count():
    trials = make_trials(10, 3)
    one = trials.select(~trials.same | (trials.subject_codes[trials.a] == 0))
    assert "1 person has genuine" in intervals.subject_bootstrap(one, eer_of, 50).reason
    two = trials.select(~trials.same | (trials.subject_codes[trials.a] < 2))
    few, all_ = (intervals.subject_bootstrap(t, eer_of, 200) for t in (two, trials))
    assert few.n_subjects == all_.n_subjects == 10
    assert few.high - few.low > 2 * (all_.high - all_.low)


def test_holm_by_hand():
    """Sorted .005 .01 .03 .04 times 4, 3, 2, 1 is .02 .03 .06 .04, and no value is below the one before."""
    assert intervals.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert intervals.holm([0.01, np.nan, 0.9, 0.6]) == pytest.approx([0.03, np.nan, 1, 1], nan_ok=True)
    assert intervals.holm([0.04]).tolist() == [0.04]
    assert intervals.holm([]).tolist() == intervals.holm([np.nan])[:0].tolist() == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_holm_lies_between_none_and_bonferroni_in_any_order(p_values, random):
    found, p_values = intervals.holm(p_values), np.array(p_values)
    assert (found >= p_values).all()
    assert (found <= np.minimum(1, len(p_values) * p_values) + 1e-12).all()
    order = list(range(len(p_values)))
    random.shuffle(order)
    np.testing.assert_array_equal(intervals.holm(p_values[order]), found[order])


def test_a_rate_of_a_table_is_written_with_its_brackets():
    row = {"eer": 0.1234, "eer_low": 0.1, "eer_high": 0.25, "tar": np.nan, "tar_low": np.nan, "tar_high": np.nan}
    assert intervals.in_brackets(row, "eer") == "0.123 [0.100, 0.250]"
    assert intervals.in_brackets(row, "tar") == "-"
