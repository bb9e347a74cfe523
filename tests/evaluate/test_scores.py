"""Scores against values worked by hand: cosines of known angles, and what a failed template does."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest

from face3d_lib.base.errors import UserError
from face3d_lib.evaluate.scores import FAILED, Trials, cosine, fuse, fuse_trials, genuine_impostor, joined, templates


@dataclass(frozen=True)
class Some:
    """A stand-in for embeddings.Embeddings."""

    pair_ids: np.ndarray
    subject_ids: np.ndarray
    vectors: np.ndarray


def at_angles(*degrees):
    radians = np.radians(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def two_people():
    """Person a at 0 and 60 degrees, person b at 90 and 180."""
    return Some(np.array(["a/1", "a/2", "b/1", "b/2"]), np.array(["a", "a", "b", "b"]), at_angles(0, 60, 90, 180))


def table(*rows):
    return pd.DataFrame(rows, columns=["pair_id_a", "pair_id_b", "same"])


def test_cosine_of_known_angles():
    scores = cosine(at_angles(0, 45), at_angles(0, 60, 180))
    assert scores.shape == (2, 3)
    assert scores.dtype == np.float32
    expected = np.cos(np.radians([[0, 60, 180], [45, 15, 135]]))
    np.testing.assert_allclose(scores, expected, atol=1e-6)


def test_cosine_does_not_depend_on_the_batch():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(1500, 64)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    whole = cosine(vectors, vectors[:7])
    one_by_one = np.concatenate([cosine(vectors[i : i + 1], vectors[:7]) for i in range(0, 1500, 100)])
    np.testing.assert_array_equal(whole[::100], one_by_one)
    assert whole.max() <= 1  # rounding would make 1.0000001 of a vector with itself


def test_failed_template_scores_minus_one_against_everybody_itself_included():
    vectors = at_angles(0, 90)
    vectors[1] = 0
    np.testing.assert_array_equal(cosine(vectors, vectors), [[1, FAILED], [FAILED, FAILED]])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3.0])
def test_no_score_is_made_of_what_is_not_a_template(bad):
    vectors = at_angles(0, 90)
    vectors[1, 0] = bad
    for make in (lambda: cosine(vectors, vectors[:1]), lambda: cosine(vectors[:1], vectors)):
        with pytest.raises(ValueError, match="row"):
            make()


def test_cosine_refuses_two_models():
    with pytest.raises(ValueError, match="two models"):
        cosine(at_angles(0), np.eye(3, dtype=np.float32))


def test_all_vs_all_makes_every_trial_once():
    trials = genuine_impostor(two_people())
    np.testing.assert_allclose(np.sort(trials.genuine), [0, 0.5], atol=1e-6)  # b: 90 degrees, a: 60
    np.testing.assert_allclose(np.sort(trials.impostor), np.sort(np.cos(np.radians([90, 180, 30, 120]))), atol=1e-6)
    assert len(trials.score) == 6


def test_pairs_table_chooses_the_trials_in_its_order():
    pairs = table(("b/2", "a/2", "0"), ("a/1", "a/2", "1"))
    trials = genuine_impostor(two_people(), pairs)
    np.testing.assert_allclose(trials.score, [-0.5, 0.5], atol=1e-6)
    assert trials.same.tolist() == [False, True]
    as_bool = genuine_impostor(two_people(), pairs.assign(same=[False, True]))
    np.testing.assert_array_equal(as_bool.score, trials.score)


def test_a_failed_vector_stays_in_the_trials():
    people = two_people()
    people.vectors[1] = 0
    trials = genuine_impostor(people)
    assert len(trials.score) == 6
    assert trials.genuine.tolist() == [FAILED, pytest.approx(0, abs=1e-6)]
    assert (trials.impostor == FAILED).sum() == 3  # two failures, and a/1 with b/2: 180 degrees


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (table(("a/1", "b/1", "1")), "wrong in column same"),
        (table(("a/1", "a/2", "0")), "wrong in column same"),
        (table(("a/1", "c/1", "0")), "no embedding.*'c/1'"),
        (table(("a/1", "a/1", "1")), "with itself"),
        (table(("a/1", "b/1", "0"), ("b/1", "a/1", "0")), "twice"),
        (table(("a/1", "b/1", "yes")), "'yes'"),
    ],
)
def test_pairs_table_that_does_not_fit_is_refused(pairs, message):
    with pytest.raises(UserError, match=message):
        genuine_impostor(two_people(), pairs)


def test_shuffled_labels_are_seen():
    """Labels of the embeddings shuffled: with a table it is an error, without one genuine scores fall."""
    people = two_people()
    shuffled = replace(people, subject_ids=people.subject_ids[[2, 0, 1, 3]])
    pairs = table(("a/1", "a/2", "1"), ("b/1", "b/2", "1"), ("a/1", "b/1", "0"))
    genuine_impostor(people, pairs)
    with pytest.raises(UserError, match="wrong in column same"):
        genuine_impostor(shuffled, pairs)


def test_templates_are_means_of_unit_length():
    people = Some(np.array(list("wxyz")), np.array(["b", "a", "a", "b"]), at_angles(10, 0, 60, 10))
    enrolled = templates(people)
    assert isinstance(enrolled, Some)
    assert enrolled.subject_ids.tolist() == enrolled.pair_ids.tolist() == ["a", "b"]
    np.testing.assert_allclose(enrolled.vectors, at_angles(30, 10), atol=1e-6)
    assert enrolled.vectors.dtype == np.float32


def test_template_leaves_failures_out_and_fails_when_all_fail():
    vectors = at_angles(0, 20, 40)
    vectors[1:] = 0
    enrolled = templates(Some(np.array(list("xyz")), np.array(["a", "a", "b"]), vectors))
    np.testing.assert_allclose(enrolled.vectors, [[1, 0], [0, 0]], atol=1e-7)
    opposed = templates(Some(np.array(list("xy")), np.array(["a", "a"]), at_angles(0, 180)))
    np.testing.assert_array_equal(opposed.vectors, [[0, 0]])


def test_fuse_is_the_weighted_mean():
    np.testing.assert_allclose(fuse([[[1.0, 0.0]], [[0.0, 0.5]]], [3, 1]), [[0.75, 0.125]])
    for scores, weights in (
        ([[1.0]], [1, 1]),
        ([[1.0], [1.0]], [0, 0]),
        ([[1.0], [1.0]], [-1, 2]),
        ([[1.0], [1.0, 2]], [1, 1]),
    ):
        with pytest.raises(ValueError, match="fuse"):
            fuse(scores, weights)


def test_only_the_same_trials_are_fused():
    rgb, people = genuine_impostor(two_people()), two_people()
    depth = genuine_impostor(replace(people, vectors=at_angles(0, 0, 90, 90)))
    fused = fuse_trials([rgb, depth], [1, 1])
    np.testing.assert_allclose(fused.genuine, [0.75, 0.5], atol=1e-6)
    with pytest.raises(ValueError, match="different trials"):
        fuse_trials([rgb, replace(depth, a=depth.b, b=depth.a)], [1, 1])


def test_trials_hold_no_nan():
    with pytest.raises(ValueError, match="not finite"):
        Trials(np.array([np.nan]), np.array([0]), np.array([1]), np.array(["x", "y"]), np.array(["a", "b"]))


def test_too_many_for_all_vs_all():
    n = 10_001
    many = Some(np.arange(n).astype(str), np.arange(n).astype(str), np.ones((n, 1), np.float32))
    with pytest.raises(UserError, match="table of pairs"):
        genuine_impostor(many)


def test_scores_have_the_type_of_the_vectors_and_all_pairs_are_those_of_the_table():
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(600, 7))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[5] = 0
    made = Some(np.array([f"{k}" for k in range(600)]), np.array([f"{k // 2}" for k in range(600)]), vectors)
    trials = genuine_impostor(made)
    a, b = np.triu_indices(600, 1)
    expected = np.einsum("td,td->t", vectors[a], vectors[b])
    expected[(a == 5) | (b == 5)] = FAILED
    assert trials.score.dtype == np.float64
    np.testing.assert_allclose(trials.score, expected, rtol=0, atol=2**-40)
    pairs = pd.DataFrame({"pair_id_a": a.astype(str), "pair_id_b": b.astype(str), "same": a // 2 == b // 2})
    np.testing.assert_allclose(genuine_impostor(made, pairs).score, expected, rtol=0, atol=2**-40)
    single = Some(made.pair_ids, made.subject_ids, vectors.astype(np.float32))
    assert genuine_impostor(single).score.dtype == np.float32


def test_the_cosine_of_joined_embeddings_is_the_fused_score():
    rng = np.random.default_rng(0)
    ids = np.array(["a/0", "a/1", "b/0", "b/1"])
    sides = [rng.normal(size=(4, size)) for size in (3, 5)]
    first, second = (Some(ids, np.array(list("aabb")), x / np.linalg.norm(x, axis=1)[:, None]) for x in sides)
    both = joined(first, second, 0.3)
    apart = [cosine(one.vectors, one.vectors) for one in (first, second)]
    np.testing.assert_allclose(cosine(both.vectors, both.vectors), 0.3 * apart[0] + 0.7 * apart[1], atol=1e-7)
    failed = replace(second, vectors=second.vectors * (ids != "b/0")[:, None])
    assert (joined(first, failed, 0.3).vectors != 0).any(axis=1).tolist() == [True, True, False, True]
    with pytest.raises(ValueError, match="different pairs"):
        joined(first, replace(second, pair_ids=ids[::-1]), 0.3)
