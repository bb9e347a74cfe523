"""A student learns what its teachers answer together, and the answers tell people apart."""

import numpy as np
import pytest
import torch

from face3d_lib.train.distillation import Distillation, taught


def two_teachers(people=30, pictures=6, noise=2.0, seed=0):
    """Vectors (N, 16) of pairs: who it is shows in 4 directions, and what changes is large in 4 others."""
    rng = np.random.default_rng(seed)
    label = np.repeat(np.arange(people), pictures)
    vectors = 0.1 * rng.standard_normal((len(label), 16))
    vectors[:, :4] += rng.standard_normal((people, 4))[label]
    vectors[:, 4:8] += noise * rng.standard_normal((len(label), 4))
    return vectors + 5, label


def rank1(vectors, label):
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -2)
    return (label[scores.argmax(1)] == label).mean()


def test_answers_tell_people_apart_where_the_vectors_do_not():
    vectors, label = two_teachers()
    answers = taught(vectors, label, 4, share=0)
    assert answers.dtype == np.float32
    assert answers.shape == (180, 4)
    np.testing.assert_allclose(np.linalg.norm(answers, axis=1), 1, atol=1e-6)
    assert rank1(vectors, label) < 0.4
    assert rank1(answers, label) > 0.9
    assert rank1(taught(vectors, np.random.default_rng(1).permutation(label), 4, share=0), label) < 0.5  # wrong names


def test_with_the_whole_share_all_pairs_of_a_person_get_one_answer():
    vectors, label = two_teachers(people=5)
    answers = taught(vectors, label, 3, share=1)
    np.testing.assert_allclose(answers, answers[label * 6], atol=1e-6)


def test_the_loss_is_one_minus_the_cosine():
    loss = Distillation(np.array([[1.0, 0.0], [0.6, 0.8]], np.float32))
    embeddings = torch.tensor([[2.0, 0.0], [0.0, 3.0]], requires_grad=True)
    found = loss(embeddings, torch.tensor([1, 1]))
    assert found.item() == pytest.approx((0.4 + 0.2) / 2)
    found.backward()
    assert embeddings.grad.abs().sum() > 0
    assert repr(loss) != repr(Distillation(np.eye(2, dtype=np.float32)))  # so a resumed training knows its answers
