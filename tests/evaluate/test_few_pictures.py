"""Tuning on few people and pictures: who is drawn, and the rates on hand-worked vectors."""

import numpy as np
import pytest

from face3d_lib.base.errors import UserError
from face3d_lib.evaluate.few_pictures import Draw, divide, draw, outcome, rates

SUBJECTS = np.repeat([f"p{k}" for k in range(10)], 7)


def test_strangers_are_never_in_the_pool_and_have_few_pictures():
    pool, strangers = divide(SUBJECTS, 4, at_most=3, seed=0)
    assert len(set(SUBJECTS[pool])) == 6
    assert len(pool) == 42
    names, counts = np.unique(SUBJECTS[strangers], return_counts=True)
    assert len(names) == 4
    assert set(counts) == {3}
    assert not set(names) & set(SUBJECTS[pool])
    assert len(set(SUBJECTS[divide(SUBJECTS, 0, 3, 0)[1]])) == 5
    for wrong in (2, 8):
        with pytest.raises(UserError, match=f"{wrong} of 10 people as strangers"):
            divide(SUBJECTS, wrong, 3, 0)


def test_smaller_draws_are_parts_of_larger_ones_with_the_same_probes():
    pool, _ = divide(SUBJECTS, 4, 3, 0)
    large = draw(SUBJECTS, pool, people=5, pictures=4, most=4, at_most=2, seed=1)
    fewer = draw(SUBJECTS, pool, people=5, pictures=2, most=4, at_most=2, seed=1)
    small = draw(SUBJECTS, pool, people=3, pictures=4, most=4, at_most=2, seed=1)
    assert set(fewer.train) < set(large.train)
    assert set(small.train) < set(large.train)
    np.testing.assert_array_equal(fewer.probes, large.probes)
    np.testing.assert_array_equal(small.probes, large.probes[:6])
    assert not set(large.train) & set(large.probes)
    assert set(large.train) | set(large.probes) <= set(pool)
    for k in range(5):
        (name,) = set(SUBJECTS[large.train[large.labels == k]])
        assert set(SUBJECTS[large.probes[2 * k : 2 * k + 2]]) == {name}
    other = draw(SUBJECTS, pool, 5, 4, 4, 2, seed=2)
    assert set(other.train) != set(large.train)


def test_people_with_too_few_pictures_are_not_drawn():
    subjects = np.array(["a"] * 3 + ["b"] * 2 + ["c"] * 5)
    found = draw(subjects, np.arange(10), 2, 1, most=2, at_most=9, seed=0)
    assert set(subjects[found.train]) == {"a", "c"}
    assert len(found.probes) == 1 + 3
    with pytest.raises(UserError, match="3 people with more than 2 pictures each: 2 are there"):
        draw(subjects, np.arange(10), 3, 1, 2, 9, 0)


def unit(degrees):
    return np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], 1).astype(np.float32)


def test_rates_of_vectors_that_can_be_worked_by_hand():
    subjects = np.array(["a", "a", "b", "b", "c", "c", "d", "d"])
    drawn = Draw(np.array([0, 2]), np.array([0, 1]), np.array([1, 3]))
    strangers = np.array([4, 5, 6, 7])
    good = outcome(unit([0, 10, 90, 80, 180, 190, 270, 280]), subjects, drawn, strangers)
    assert good.right.tolist() == [True, True]
    assert good.alike.tolist() == [1, 1, 1, 1]
    # b's probe lies nearer to a, and d's pictures lie nearer to c's than to each other
    bad = outcome(unit([0, 10, 90, 40, 180, 190, 181, 280]), subjects, drawn, strangers)
    assert bad.right.tolist() == [True, False]
    assert bad.alike.tolist() == [0, 0, 0, 0]
    found = rates([good, good], [bad, bad])
    assert found["accuracy"].value == 1
    assert found["accuracy_gain"].value == 0.5
    assert found["rank1"].value == found["rank1_gain"].value == 1
    assert found["eer"].value == 0
    assert found["eer_gain"].value < 0
    same = rates([bad, good], [bad, good])
    assert same["accuracy"].value == 0.75
    assert [same[f"{name}_gain"].value for name in ("accuracy", "rank1", "eer")] == [0, 0, 0]
