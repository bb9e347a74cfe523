"""How high strangers score: thresholds from hand-made scores, and the table that ships."""

import json

import numpy as np
import pytest

from face3d_lib.base.errors import UserError
from face3d_lib.evaluate.embeddings import Embeddings
from face3d_lib.serve import strangers
from face3d_lib.serve.strangers import SHARES, Strangers


def table():
    """A share of 0.1 reaches .8, 0.01 reaches .9."""
    return Strangers((0.1, 0.01), (0.8, 0.9), (0.05, 0.005), (0.2, 0.02), 0.95, 1000, 40, "made by hand")


def test_a_larger_gallery_gets_a_higher_threshold():
    found = table()
    assert found.threshold(0.1, 1)[0] == pytest.approx(0.8)
    assert found.threshold(1 - 0.99**10, 10)[0] == pytest.approx(0.9)  # each of ten accepts one in a hundred
    assert found.threshold(1 - 0.9**10, 10)[0] == pytest.approx(0.8)
    thresholds = [found.threshold(0.1, size)[0] for size in (1, 2, 5, 10)]
    assert thresholds == sorted(set(thresholds))


def test_the_rate_at_a_threshold_undoes_the_threshold():
    found = table()
    for size in (1, 3, 10):
        threshold = found.threshold(0.1, size)[0]
        value, low, high = found.rate(threshold, size)
        assert value == pytest.approx(0.1, abs=1e-9)
        assert low < value < high
    assert found.rate(0.9, 1) == pytest.approx((0.01, 0.005, 0.02))


def test_what_was_not_measured_is_said_and_accepts_nobody_who_was():
    threshold, reason = table().threshold(0.01, 100)
    assert threshold > 0.95
    assert "1000 comparisons" in reason
    value, low, high = table().rate(0.95, 100)
    assert np.isnan(value)
    assert (low, high) == (0, pytest.approx(1 - 0.98**100))
    with pytest.raises(UserError, match="no share"):
        table().threshold(0, 1)


def test_measured_shares_are_those_of_the_comparisons():
    vectors = np.random.default_rng(0).normal(size=(60, 8))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    owner = np.array([f"p{k // 3}" for k in range(60)])
    found = Strangers.measure(Embeddings(np.arange(60).astype(str), owner, vectors), "drawn")
    scores = (vectors.astype(float) @ vectors.T.astype(float))[owner[:, None] != owner]
    assert (found.comparisons, found.people) == (len(scores) // 2, 20)
    assert found.highest == pytest.approx(scores.max(), abs=1e-6)
    for share, score in zip(found.shares, found.scores, strict=True):
        assert (scores >= score - 1e-6).mean() == pytest.approx(share, abs=2 / len(scores) + 1e-3)
    assert found.shares[0] == SHARES[0]
    assert found.shares[-1] * found.comparisons >= 3  # rarer events are not claimed
    assert all(low <= share <= high for low, share, high in zip(found.low, found.shares, found.high, strict=True))
    assert Strangers.read(json.loads(json.dumps(found.as_json()))) == found


def test_one_person_makes_no_strangers():
    with pytest.raises(UserError, match="two or more"):
        Strangers.measure(Embeddings(np.array(["a"]), np.array(["a"]), np.eye(1, 4, dtype=np.float32)), "one")


def test_the_table_that_ships_belongs_to_the_recogniser_that_ships(recogniser):
    found = strangers.shipped(recogniser.model_id)
    assert found is not None
    assert found.people > 30
    assert list(found.scores) == sorted(found.scores)
    assert list(found.shares) == sorted(found.shares, reverse=True)
    assert strangers.shipped("0" * 64) is None
