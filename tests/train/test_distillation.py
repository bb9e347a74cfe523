"""A student learns what its teachers answer together, and the answers tell people apart."""

import numpy as np
import pytest
import torch

from face3d_lib.train.distillation import Distillation, taught


def test_answers_are_the_teachers_vectors_without_what_all_faces_share():
    vectors = np.array([[5.0, 1.0, 7.0], [5.0, -1.0, 7.0], [5.0, 3.0, 3.0], [5.0, -3.0, 3.0]])
    half = np.sqrt([1 / 5, 4 / 5])
    other = np.sqrt([9 / 13, 4 / 13])
    expected = [[0, half[0], half[1]], [0, -half[0], half[1]], [0, other[0], -other[1]], [0, -other[0], -other[1]]]
    np.testing.assert_allclose(taught(vectors), expected, atol=1e-6)
    assert taught(vectors).dtype == np.float32


def test_the_loss_is_one_minus_the_cosine():
    loss = Distillation(np.array([[1.0, 0.0], [0.6, 0.8]], np.float32))
    embeddings = torch.tensor([[2.0, 0.0], [0.0, 3.0]], requires_grad=True)
    found = loss(embeddings, torch.tensor([1, 1]))
    assert found.item() == pytest.approx((0.4 + 0.2) / 2)
    found.backward()
    assert embeddings.grad.abs().sum() > 0
    assert repr(loss) != repr(Distillation(np.eye(2, dtype=np.float32)))  # so a resumed training knows its answers
