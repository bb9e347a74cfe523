"""All pairs counted in blocks against all pairs held in memory: the same numbers, whatever the blocks and threads."""

from dataclasses import replace

import numpy as np
import pytest

from face3d_lib.base.errors import UserError
from face3d_lib.evaluate import intervals, scores
from face3d_lib.evaluate.embeddings import Embeddings
from face3d_lib.evaluate.metrics import all_pairs, curves
from face3d_lib.evaluate.metrics.identification import leave_one_out_rank1


@pytest.fixture(autouse=True)
def wide_cells(monkeypatch):
    """Few cells, so that small blocks are fast and nearly every cell holds a genuine score and many impostors."""
    monkeypatch.setattr(all_pairs, "CELL_BITS", 32)
    monkeypatch.setattr(all_pairs, "CELLS", 2**9 + 1)


FARS = (0.3, 0.1, 0.05, 0.01, 0.003, 0.001, 0.0001)


def some_embeddings(people=60, each=5, spread=1.3, dimensions=16, seed=0):
    """Embeddings in mixed order, with failures, pictures that occur twice (of one person and of two), and a person alone."""
    rng = np.random.default_rng(seed)
    centre = rng.normal(size=(people, dimensions))
    vectors = np.repeat(centre, each, axis=0) + spread * rng.normal(size=(people * each, dimensions))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[[7, 90, 91]] = 0
    vectors[[50, 51]], vectors[60], vectors[4] = vectors[3], vectors[61], vectors[3]
    subjects = np.repeat([f"p{k:02d}" for k in range(people)], each)
    subjects[0] = "alone"
    order = rng.permutation(len(vectors))
    return vectors[order], subjects[order]


def in_memory(vectors, subjects):
    """The trials of each with each, rounded as all_pairs does it."""
    trials = scores.genuine_impostor(Embeddings(np.arange(len(vectors)).astype(str), subjects, vectors))
    return replace(trials, score=np.rint(trials.score * 2**40) / 2**40)


@pytest.mark.parametrize(("block", "sample", "threads"), [(2048, 2000, 1), (64, 2000, 2), (37, 40, 2), (300, 10, 1)])
def test_numbers_are_those_of_all_pairs_in_memory(monkeypatch, block, sample, threads):
    monkeypatch.setattr(all_pairs, "BLOCK", block)
    monkeypatch.setattr(all_pairs, "SAMPLE", sample)
    vectors, subjects = some_embeddings()
    trials = in_memory(vectors, subjects)
    small = curves.roc(trials.genuine, trials.impostor)
    found = all_pairs.all_pairs(vectors, subjects, FARS, threads=threads)
    big = found.roc
    assert (big.n_genuine, big.n_impostor, found.people) == (len(trials.genuine), len(trials.impostor), 61)
    assert big.eer() == pytest.approx(small.eer(), abs=1e-12)
    assert big.auc() == pytest.approx(small.auc(), abs=1e-12)
    assert big.d_prime() == pytest.approx(small.d_prime(), abs=1e-10)
    assert big.least_error() == pytest.approx(small.least_error(), abs=1e-12)
    np.testing.assert_allclose(big.tar_at_far(FARS), small.tar_at_far(FARS), atol=1e-12)
    np.testing.assert_allclose(big.at(trials.genuine), small.at(trials.genuine), atol=1e-12)
    np.testing.assert_allclose(big.at(np.linspace(-1, 1, 99)), small.at(np.linspace(-1, 1, 99)), atol=0.02)  # a cell
    highest = np.interp(np.linspace(0, 1, 50), big.far, big.tar), np.interp(np.linspace(0, 1, 50), small.far, small.tar)
    np.testing.assert_allclose(*highest, atol=1e-12)
    assert np.isnan(big.tar_at_far(1e-9))
    np.testing.assert_array_equal(found.right, rank1_with_failures(vectors, subjects))


def rank1_with_failures(vectors, subjects):
    """leave_one_out_rank1 of those with a template; a failure identifies nobody."""
    acquired = (vectors != 0).any(axis=1)
    right = np.zeros(len(vectors))
    right[acquired] = leave_one_out_rank1(vectors[acquired], subjects[acquired])
    pictures = np.array([(subjects == subject).sum() for subject in subjects])
    return np.where(pictures == 1, np.nan, np.where(np.isnan(right), 0, right))


def test_order_and_names_change_nothing_but_the_order_of_rank1():
    vectors, subjects = some_embeddings(30, 4)
    order = np.random.default_rng(5).permutation(len(vectors))
    renamed = np.array([f"z{name[::-1]}" for name in subjects])
    one, other = all_pairs.all_pairs(vectors, subjects), all_pairs.all_pairs(vectors[order], renamed[order])
    assert one.roc.eer() == other.roc.eer()
    assert one.roc.auc() == other.roc.auc()
    np.testing.assert_array_equal(one.right[order], other.right)


def test_ties_are_seen_in_every_block(monkeypatch):
    """Whole numbers of few values: nearly every score occurs many times, as genuine and as impostor."""
    monkeypatch.setattr(all_pairs, "BLOCK", 50)
    rng = np.random.default_rng(1)
    vectors = rng.choice([-1.0, 1.0], size=(240, 16)) / 4
    subjects = np.repeat(np.arange(40), 6).astype(str)
    trials = in_memory(vectors, subjects)
    small, big = curves.roc(trials.genuine, trials.impostor), all_pairs.all_pairs(vectors, subjects, FARS).roc
    for name in ("threshold", "far", "tar"):
        np.testing.assert_array_equal(getattr(big, name), getattr(small, name))
    assert (big.eer(), big.auc()) == (small.eer(), small.auc())


def test_intervals_are_those_of_the_bootstrap_over_people():
    vectors, subjects = some_embeddings(40)
    trials, found = in_memory(vectors, subjects), all_pairs.all_pairs(vectors, subjects, n_replicates=100, seed=3)
    statistics = [
        (lambda roc: roc.eer()[0], 0.002),
        (lambda roc: roc.tar_at_far(0.01), 0.005),
        (lambda roc: roc.tar_at_far(0.001), 0.005),
        (lambda roc: roc.auc(), 0.002),
        (lambda roc: roc.d_prime(), 0.005),
    ]
    for statistic, tolerance in statistics:
        small, big = intervals.subject_bootstrap(trials, statistic, 100, seed=3), found.interval(statistic)
        assert big.value == pytest.approx(small.value, abs=1e-10)
        assert (big.low, big.high) == pytest.approx((small.low, small.high), abs=tolerance)
        assert (big.n_subjects, big.n_replicates) == (small.n_subjects, small.n_replicates) == (41, 100)
    assert all_pairs.all_pairs(vectors, subjects, n_replicates=100, seed=3, threads=2).interval(
        statistics[0][0]
    ) == found.interval(statistics[0][0])


def test_one_person_or_nobody_or_everybody_alone():
    vectors, subjects = np.eye(4), np.array(list("aaaa"))
    one = all_pairs.all_pairs(vectors, subjects, n_replicates=10)
    assert not one.roc.measurable
    assert np.isnan([one.roc.eer()[0], one.roc.auc()]).all()
    assert "1 people" in one.interval(lambda roc: roc.eer()[0]).reason
    alone = all_pairs.all_pairs(np.eye(3), np.array(list("abc")), n_replicates=10)
    assert (alone.roc.n_genuine, alone.roc.n_impostor) == (0, 3)
    assert np.isnan(alone.right).all()
    nobody = all_pairs.all_pairs(np.empty((0, 3)), np.empty(0, str))
    assert (nobody.roc.n_genuine, nobody.roc.n_impostor, nobody.people) == (0, 0, 0)


def test_what_cannot_be_counted_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        all_pairs.all_pairs(np.full((2, 3), np.nan), np.array(["a", "b"]))
    with pytest.raises(UserError, match="table of pairs"):
        all_pairs.all_pairs(np.ones((20_000, 1)), np.repeat("a", 20_000))


def test_scores_that_are_all_equal_have_no_d_prime():
    vectors = np.tile(np.array([3, 4, 0.5, 1]) / np.linalg.norm([3, 4, 0.5, 1]), (60, 1))
    found = all_pairs.all_pairs(vectors, np.repeat(np.arange(20), 3).astype(str), n_replicates=2)
    assert np.isnan(found.roc.d_prime())
