"""Thresholds and rates at one, against values worked by hand."""

import numpy as np
import pytest
from toy_trials import GENUINE, IMPOSTOR

from face3d_lib.base.errors import UserError
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
    assert (point.asked_far, point.reason) == (far, "")


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
