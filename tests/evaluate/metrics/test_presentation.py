"""APCER and BPCER against hand-worked values."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from face3d_lib.evaluate.metrics.presentation import BONA_FIDE, accepted, apcer, bpcer, threshold_at_apcer

SCORES = [0.9, 0.5, 0.2, np.nan, 0.6, 0.5, 0.1, np.inf]
SPECIES = [BONA_FIDE, BONA_FIDE, BONA_FIDE, BONA_FIDE, "flat", "flat", "screen", "screen"]


def test_rates_by_hand():
    assert accepted(SCORES, 0.5).tolist() == [True, True, False, False, True, True, False, False]
    assert bpcer(SCORES, SPECIES, 0.5) == 0.5  # 0.2 is too low, and NaN is no face
    assert apcer(SCORES, SPECIES, 0.5) == {"flat": 1.0, "screen": 0.0}
    assert apcer(SCORES, SPECIES, 0.55) == {"flat": 0.5, "screen": 0.0}
    assert np.isnan(bpcer([0.3], ["flat"], 0.5))


def test_a_threshold_by_hand():
    scores = [4, 1, 3, 2, np.nan, -np.inf, 0, 0]
    assert 3 < threshold_at_apcer(scores, 1 / 8) < 3.0001  # one of eight is accepted: 4
    assert 4 < threshold_at_apcer(scores, 0) < 4.0001
    assert threshold_at_apcer(scores, 1) == -np.inf
    for scores, target in (([], 0.1), ([1.0], -0.1), ([1.0], 1.1)):
        with pytest.raises(ValueError, match="needed"):
            threshold_at_apcer(scores, target)


@given(st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.3, np.nan]), min_size=1), st.floats(0, 1))
def test_the_threshold_is_the_lowest_that_holds_the_target(scores, target):
    found = threshold_at_apcer(scores, target)
    assert accepted(scores, found).mean() <= target + 1e-9
    lower = [score for score in scores if np.isfinite(score) and score < found]
    if lower:
        assert accepted(scores, max(lower)).mean() > target - 1e-9
