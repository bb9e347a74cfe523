"""Thresholds and rates at one, against values worked by hand."""

import numpy as np
import pytest
from toy_trials import GENUINE, IMPOSTOR, make_trials

from face3d_lib.base.errors import UserError
from face3d_lib.evaluate import intervals
from face3d_lib.evaluate.metrics import curves, thresholds


def test_rates_at_a_threshold_accept_iff_score_is_not_below_it():
    point = thresholds.rates_at(GENUINE, IMPOSTOR, 0.8)
    assert (point.false_accepts, point.n_impostor) == (2, 10)  # .8 itself and .9
    assert (point.false_rejects, point.n_genuine) == (2, 4)
    assert (point.achieved_far, point.tar) == (0.2, 0.5)
    assert thresholds.rates_at([0.8], [0.0], 0.8).tar == 1


@pytest.mark.parametrize(
    ("far", "accepts", "tar"),
    [(0.1, 1, 2 / 4), (0.15, 1, 2 / 4), (0.2, 2, 3 / 4), (0.3, 3, 3 / 4), (0.4, 4, 1), (0.5, 5, 1)],
)
def test_tar_at_far_by_hand(far, accepts, tar):
    """far .1: one impostor (.9) may pass, so the threshold lies just above .8: .85 and .95 pass."""
    point = thresholds.tar_at_far(GENUINE, IMPOSTOR, far)
    assert (point.false_accepts, point.achieved_far, point.tar) == (accepts, accepts / 10, tar)
    assert point.reason == ""


def test_far_below_one_impostor_is_nan_with_the_count():
    point = thresholds.tar_at_far(GENUINE, IMPOSTOR, 0.099)
    assert np.isnan([point.tar, point.achieved_far, point.threshold]).all()
    assert point.n_impostor == 10
    assert "FAR 0.099 cannot be measured with 10 impostor comparisons" in point.reason
    assert np.isnan(thresholds.threshold_at_far(IMPOSTOR, 0.099))
    assert np.isnan(curves.roc(GENUINE, IMPOSTOR).tar_at_far([0.099, 0.1])).tolist() == [True, False]


def test_far_is_read_as_a_decimal():
    """.29 * 100 is 28.999999999999996 in binary; twenty-nine impostors may pass."""
    impostor = np.arange(100) / 100
    for far in np.arange(1, 100) / 100:
        point = thresholds.tar_at_far([2.0], impostor, float(far))
        assert point.false_accepts == round(far * 100)


def test_tied_impostors_pass_together_or_not_at_all():
    impostor = [0.1, 0.5, 0.5, 0.5, 0.5]
    assert thresholds.tar_at_far([0.5, 0.6], impostor, 0.4).achieved_far == 0  # two may pass, four are tied
    assert thresholds.tar_at_far([0.5, 0.6], impostor, 0.4).tar == 0.5
    assert thresholds.tar_at_far([0.5, 0.6], impostor, 0.8).achieved_far == 0.8
    assert thresholds.tar_at_far([0.5, 0.6], impostor, 0.8).tar == 1


def test_threshold_of_development_is_applied_to_others():
    threshold = thresholds.threshold_at_far(IMPOSTOR, 0.1)
    assert 0.8 < threshold < 0.8 + 1e-9
    point = thresholds.rates_at([0.7, 0.9], [0.85, 0.95, 0.1, 0.2], threshold)
    assert (point.tar, point.achieved_far) == (0.5, 0.5)  # not the FAR that was asked for
    missing = thresholds.rates_at([0.7], [0.1], np.nan)
    assert np.isnan(missing.tar)
    assert missing.reason


def test_no_development_score_gives_no_threshold_and_few_give_one_that_accepts_none():
    threshold, reason = thresholds.threshold_at_far_or_above([], 0.1)
    assert np.isnan(threshold)  # not -1, which would accept everybody
    assert "there are no development scores" in reason
    threshold, reason = thresholds.threshold_at_far_or_above([0.3, 0.6], 0.1)
    assert 0.6 < threshold < 0.61
    assert "2 development scores" in reason
    assert "accepts none" in reason
    assert thresholds.threshold_at_far_or_above(IMPOSTOR, 0.1) == (thresholds.threshold_at_far(IMPOSTOR, 0.1), "")


@pytest.mark.parametrize("far", [0, 1, -0.1, 2, np.nan])
def test_far_must_be_a_share(far):
    with pytest.raises(UserError, match="between 0 and 1"):
        thresholds.threshold_at_far(IMPOSTOR, far)


def test_threshold_table_by_hand():
    """Ten impostors: 1/20 cannot be asked of them; at .1 one passes (.9), at .3 three; none passes above .9."""
    table = thresholds.threshold_table(curves.roc(GENUINE, IMPOSTOR), (1 / 20, 0.1, 0.3, 0))
    assert "cannot be measured with 10 impostor comparisons" in table["reason"][0]
    assert table.loc[0, ["threshold", "fmr", "fnmr", "false_matches"]].isna().all()
    assert table["threshold"][1:].tolist() == [np.nextafter(below, 1) for below in (0.8, IMPOSTOR[6], 0.9)]
    assert table["false_matches"][1:].tolist() == [1, 3, 0]
    assert table["fmr"][1:].tolist() == pytest.approx([0.1, 0.3, 0])
    assert table["false_non_matches"][1:].tolist() == [2, 1, 3]
    assert table["fnmr"][1:].tolist() == [0.5, 0.25, 0.75]
    assert (table["impostor"] == 10).all()
    assert (table["genuine"] == 4).all()
    nobody = thresholds.threshold_table(curves.roc([], IMPOSTOR), (0.1, 0))
    assert (nobody["reason"] == "no genuine comparison").all()


@pytest.mark.parametrize("sorted_whole", [0, 10**6])
def test_threshold_table_agrees_with_counting(monkeypatch, sorted_whole):
    """Whether few impostors are listed or all: the threshold is the lowest that accepts no more than the share asked."""
    monkeypatch.setattr(curves, "SORTED_WHOLE", sorted_whole)
    rng = np.random.default_rng(0)
    genuine, impostor = rng.normal(4, 0.3, 200).round(2), np.r_[rng.normal(0, 1, 8990), rng.normal(4, 1, 10)].round(2)
    table = thresholds.threshold_table(curves.roc(genuine, impostor))
    for row in table.itertuples():
        if row.asked_fmr and row.asked_fmr < 1 / 9000:
            continue
        point = thresholds.rates_at(genuine, impostor, row.threshold)
        assert (row.fmr, row.false_matches) == (pytest.approx(point.achieved_far, abs=1e-15), point.false_accepts)
        assert (row.fnmr, row.false_non_matches) == (pytest.approx(1 - point.tar, abs=1e-15), point.false_rejects)
        assert row.fmr <= row.asked_fmr < (impostor >= np.nextafter(row.threshold, -9)).mean()
        if row.asked_fmr:
            assert row.threshold == thresholds.threshold_at_far(impostor, row.asked_fmr)


def test_intervals_of_the_threshold_table_are_over_people():
    trials = make_trials()
    curve = curves.roc(trials.genuine, trials.impostor)
    table = thresholds.threshold_table(
        curve, (0.05, 0), lambda statistic: intervals.subject_bootstrap(trials, statistic, 50)
    )
    assert (table["fnmr_low"] < table["fnmr"]).all()
    assert (table["fnmr_high"] > table["fnmr"]).all()
    tar = intervals.subject_bootstrap(trials, lambda roc: roc.tar_at_far(0.05), 50)
    assert (1 - tar.high, 1 - tar.low) == pytest.approx((table["fnmr_low"][0], table["fnmr_high"][0]))


def test_expected_performance_by_hand():
    """Development: genuine .5 .7 .9, impostor .2 .4 .6. With weight 0 only false rejects count: the threshold is .5."""
    development, test = curves.roc([0.5, 0.7, 0.9], [0.2, 0.4, 0.6]), curves.roc([0.45, 0.8], [0.3, 0.75])
    table = thresholds.expected_performance(development, test, (0, 0.5, 0.9))
    assert table["threshold"].tolist() == [0.5, 0.7, 0.7]  # .5: (1/3 + 0) / 2 and (0 + 1/3) / 2 are equal
    assert table["far"].tolist() == [0.5, 0.5, 0.5]
    assert table["frr"].tolist() == [0.5, 0.5, 0.5]
    assert table["hter"].tolist() == [0.5, 0.5, 0.5]
    assert development.hter(0.7) == pytest.approx(1 / 6)
    for empty in (curves.roc([], [0.1]), curves.roc([0.1], [])):
        assert thresholds.expected_performance(empty, test)["hter"].isna().all()
        assert thresholds.expected_performance(development, empty)["hter"].isna().all()


def test_a_threshold_of_test_people_is_too_good():
    """The least error of the test people themselves is no more than that at any threshold of development people."""
    development, test = (curves.roc(trials.genuine, trials.impostor) for trials in (make_trials(), make_trials(seed=1)))
    table = thresholds.expected_performance(development, test)
    for row in table.itertuples():
        assert row.weight * row.far + (1 - row.weight) * row.frr >= test.least_error(row.weight)[0] - 1e-12
    assert table["hter"].min() >= test.least_error()[0] - 1e-12
