"""Accuracy over folds against values worked by hand; a fold never chooses its own threshold."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from face3d_lib.evaluate.metrics.pairs_protocol import best_threshold, fold_accuracy


def test_accuracy_of_two_folds_by_hand():
    """Fold 0 is perfect at .5, fold 1 at .9: each is decided by the other's threshold and is half wrong."""
    score = np.array([0.5, 0.6, 0.3, 0.4, 0.9, 0.95, 0.7, 0.8])
    same = np.array([1, 1, 0, 0, 1, 1, 0, 0], bool)
    fold = np.repeat([0, 1], 4)
    found = fold_accuracy(score, same, fold)
    assert found.threshold.tolist() == [0.9, 0.5]
    assert found.accuracy.tolist() == [0.5, 0.5]  # with its own threshold each fold would be 1
    assert (found.mean, found.standard_error, found.n, found.left_out, found.reason) == (0.5, 0, 8, 0, "")


def test_a_score_at_the_threshold_is_accepted():
    found = fold_accuracy([0.5, 0.1, 0.5, 0.1], [1, 0, 1, 0], [0, 0, 1, 1])
    assert found.threshold.tolist() == [0.5, 0.5]
    assert found.mean == 1


def test_standard_error_is_that_of_the_folds():
    rng = np.random.default_rng(0)
    same, fold = rng.random(6000) < 0.5, np.repeat(np.arange(10), 600)
    found = fold_accuracy(rng.normal(size=6000) + 2 * same, same, fold)
    assert found.mean == pytest.approx(0.8413, abs=0.02)  # Phi(1)
    assert found.standard_error == pytest.approx(np.std(found.accuracy, ddof=1) / np.sqrt(10))
    assert found.threshold == pytest.approx(1, abs=0.3)


def test_the_threshold_of_a_fold_does_not_depend_on_the_fold():
    rng = np.random.default_rng(1)
    same, fold = np.arange(200) % 2 == 0, np.arange(200) // 20
    score = rng.normal(size=200) + same
    before = fold_accuracy(score, same, fold).threshold
    for k in (0, 4, 9):
        changed = np.where(fold == k, rng.normal(size=200) * 100, score)
        assert fold_accuracy(changed, same, fold).threshold[k] == before[k]


def test_best_threshold_accepts_at_the_threshold_and_takes_the_middle():
    assert best_threshold(np.array([0.5]), np.array([0.4])) == 0.5
    assert best_threshold(np.array([0.1]), np.array([0.5, 0.6])) == np.nextafter(0.6, 1)  # accept nobody
    assert best_threshold(np.array([0.7, 0.8, 0.9]), np.array([0.5, 0.6])) == 0.7
    # .1 and .5 and .9 decide three of five rightly, .3 and .7 and all others only two
    assert best_threshold(np.array([0.1, 0.5, 0.9]), np.array([0.3, 0.7])) == 0.5


def test_what_cannot_be_measured_is_nan_with_the_reason():
    for fold, same, reason in (
        ([0, 0, 0], [1, 0, 1], "1 folds"),
        ([-1, -1, -1], [1, 0, 1], "0 folds"),
        ([0, 0, 1], [1, 0, 1], "other than 0 show one kind"),
    ):
        found = fold_accuracy([0.9, 0.1, 0.8], same, fold)
        assert np.isnan([found.mean, found.standard_error]).all()
        assert reason in found.reason
    with pytest.raises(ValueError, match="NaN"):
        fold_accuracy([np.nan, 0.1], [1, 0], [0, 1])


few = st.lists(st.tuples(st.integers(0, 6), st.booleans(), st.integers(0, 2)), min_size=2, max_size=20)


@given(few, st.randoms())
def test_neither_order_nor_an_increasing_transform_matters(rows, random):
    before = fold_accuracy(*np.array(rows, float).T)
    random.shuffle(rows)
    score, same, fold = np.array(rows, float).T
    after = fold_accuracy(np.exp(score), same, fold)
    np.testing.assert_array_equal(before.accuracy, after.accuracy)
    np.testing.assert_array_equal([before.mean], [after.mean])
