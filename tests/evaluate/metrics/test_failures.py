"""Failures to acquire against published values."""

import numpy as np
import pytest
from toy_trials import IMPOSTOR

from face3d_lib.evaluate.metrics import failures, thresholds


def test_failures_to_acquire_enter_the_rates():
    """8 % without a face: an FNMR of 10.65 % is an FRR of 17.8 %."""
    assert failures.frr_with_fta(0.1065, 0.08) == pytest.approx(0.178, abs=1e-4)
    assert failures.frr_with_fta(0.0, 1.0) == 1
    assert failures.far_with_fta(0.01, 0.08) == pytest.approx(0.0092)
    assert failures.far_with_fta(1.0, 1.0) == 0


def test_failed_templates_in_the_scores_give_the_same_frr():
    genuine = np.r_[np.full(8, -1.0), np.linspace(0, 1, 92)]
    without = thresholds.rates_at(genuine[8:], IMPOSTOR, 0.25)
    assert 1 - thresholds.rates_at(genuine, IMPOSTOR, 0.25).tar == pytest.approx(
        failures.frr_with_fta(1 - without.tar, 0.08)
    )


def test_wilson_against_published_values():
    """Newcombe (Statistics in Medicine 17, 1998), table I, method 3: 81/263, 15/148, 0/20, 1/29."""
    published = {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }
    for (count, n), expected in published.items():
        assert failures.wilson(count, n) == pytest.approx(expected, abs=1e-4)
    assert failures.wilson(20, 20) == pytest.approx((1 - 0.1611, 1), abs=1e-4)
    with pytest.raises(ValueError, match="not a share"):
        failures.wilson(1, 0)


def test_failure_rates_by_group():
    status = ["ok", "no_face", "ok", "ok", "bad_depth"]
    table = failures.failure_rates(status, ["frontal", "profile", "frontal", "profile", "profile"])
    assert table["group"].tolist() == ["frontal", "profile", "all"]
    assert table["n"].tolist() == [2, 3, 5]
    assert table["failed"].tolist() == [0, 2, 2]
    assert table["rate"].tolist() == [0, 2 / 3, 0.4]
    assert table["low"].iloc[2] == pytest.approx(failures.wilson(2, 5)[0])
