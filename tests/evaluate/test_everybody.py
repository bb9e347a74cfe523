"""Everybody against everybody: what a pack shows, missing scores, and rates of few people."""

import numpy as np
import pytest

from face3d_lib.evaluate import everybody
from face3d_lib.evaluate.scores import FAILED


def test_cosines_and_trials_of_missing_vectors():
    vectors = np.array([[1, 0], [0.6, 0.8], [0, 0]], np.float32)
    found = everybody.cosines(vectors)
    np.testing.assert_allclose(found, [[1, 0.6, np.nan], [0.6, 1, np.nan], [np.nan] * 3], rtol=1e-6)
    trials = everybody.trials_of_all(found, np.array(["a/1", "a/2", "b/1"]), np.array(["a", "a", "b"]))
    assert trials.score.tolist() == pytest.approx([0.6, FAILED, FAILED])
    assert trials.same.tolist() == [True, False, False]


def test_rates_by_hand():
    """Two people with two pictures each; one picture of b looks most like a."""
    scores = np.array([[1, 0.9, 0.1, 0.5], [0.9, 1, 0.2, 0.7], [0.1, 0.2, 1, 0.6], [0.5, 0.7, 0.6, 1]])
    found = everybody.rates_of_all(scores, np.array(["a", "a", "b", "b"]), replicates=20)
    assert found["loo"].value == 0.75
    assert found["eer"].value == pytest.approx(0.25, abs=0.26)
    assert np.isnan(found["eer"].low)  # of two people
    assert found["eer"].reason


def test_people_with_one_picture_each_are_measured_as_far_as_they_can():
    found = everybody.rates_of_all(np.eye(3), np.array(["a", "b", "c"]), replicates=20)
    assert all(np.isnan(interval.value) for interval in found.values())


def test_a_missing_score_is_below_all_others():
    scores = np.array([[1, -40, np.nan], [-40, 1, np.nan], [np.nan, np.nan, 1]])  # LLRs may lie below -1
    found = everybody.rates_of_all(scores, np.array(["a", "a", "b"]), replicates=20)
    assert (found["loo"].value, found["eer"].value) == (1, 0)


@pytest.mark.parametrize(
    ("count", "most", "places"), [(5, 0, range(5)), (3, 6, range(3)), (7, 3, [0, 3, 6]), (1, 1, [0])]
)
def test_pictures_are_spread_over_all(count, most, places):
    assert everybody.spread(count, most).tolist() == [*places]
