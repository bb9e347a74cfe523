"""Embeddings of a whole split: all of it, in order, of unit length, whatever the batch size."""

import dataclasses

import numpy as np
import pytest
import torch
from test_fit import toy_pack

from face3d_lib.base.errors import UserError
from face3d_lib.evaluate.embed import embed, embed_batch, whitening
from face3d_lib.train.embedder import Architecture, Embedder


@pytest.fixture(scope="module")
def embedder():
    torch.manual_seed(0)
    return Embedder(Architecture("rgbd", embedding_size=16))


@pytest.fixture(scope="module")
def pack():
    return toy_pack(people=4, images=5)[0]


def test_nothing_is_dropped_and_order_is_kept(embedder, pack):
    rows = np.array([7, 3, 19, 0, 11])
    found = embed(embedder, pack, rows, batch_size=2, progress=False)
    assert list(found.pair_ids) == list(pack.index["pair_id"].iloc[rows])
    assert list(found.subject_ids) == list(pack.index["subject_id"].iloc[rows])
    assert found.vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(found.vectors, axis=1), 1, atol=1e-6)
    alone = embed(embedder, pack, rows[2:3], progress=False)
    assert np.allclose(alone.vectors[0], found.vectors[2], atol=1e-5)
    assert len(np.unique(found.vectors.round(4), axis=0)) == 5


def test_the_batch_size_the_mode_and_a_second_call_do_not_matter(embedder, pack):
    rows = np.arange(20)
    embedder.train()
    whole = embed(embedder, pack, rows, batch_size=20, progress=False).vectors
    assert np.array_equal(embed(embedder, pack, rows, batch_size=20, progress=False).vectors, whole)
    for size in (1, 3, 19):
        assert np.abs(embed(embedder, pack, rows, size, progress=False).vectors - whole).max() < 1e-5


def test_a_face_and_its_mirror_image_are_one(embedder, pack):
    batch = pack.batch(np.arange(4))
    assert torch.allclose(embed_batch(embedder, batch), embed_batch(embedder, batch.mirrored()), atol=1e-6)
    embedder.eval()
    with torch.no_grad():
        assert not torch.allclose(embedder(batch), embedder(batch.mirrored()), atol=1e-3)


def test_an_empty_split_is_an_empty_table(embedder, pack):
    assert embed(embedder, pack, np.empty(0, int), progress=False).vectors.shape == (0, 16)


def test_what_is_withheld_is_not_there(pack):
    """As in a batch where it is 0; and it would have mattered."""
    torch.manual_seed(0)
    network, rows = Embedder(Architecture("rgbd", embedding_size=16)), np.arange(6)
    whole, blind = (embed(network, pack, rows, progress=False, without=w).vectors for w in ("", "depth"))
    assert np.abs(whole - blind).max() > 0.01
    batch = pack.batch(rows)
    silent = dataclasses.replace(batch, depth=torch.zeros_like(batch.depth))
    np.testing.assert_allclose(blind, embed_batch(network, silent).numpy(), atol=1e-6)
    grey = embed(network, pack, rows, progress=False, without="rgb").vectors
    unseen = dataclasses.replace(batch, rgb=torch.zeros_like(batch.rgb))
    np.testing.assert_allclose(grey, embed_batch(network, unseen).numpy(), atol=1e-6)


def test_a_vector_that_is_not_finite_is_refused(pack):
    broken = Embedder(Architecture("rgb", embedding_size=16))
    with torch.no_grad():
        broken.branch[0].neck[2].weight.fill_(float("nan"))
    with pytest.raises(UserError, match="not finite"):
        embed(broken, pack, np.arange(2), progress=False)


def test_whitening_by_hand():
    """Many pairs of known covariance: mean 0 and unit covariance; an offset and a stretch of all make no difference."""
    rng = np.random.default_rng(0)
    shape = np.array([[3.0, 0, 0], [1, 1.5, 0], [0, 0.2, 1]])
    vectors = rng.normal(size=(20_000, 3)) @ shape + [5, -2, 1]
    white = whitening(vectors)(vectors)
    np.testing.assert_allclose(white.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(np.cov(white.T), np.eye(3), atol=0.05)
    moved = 7 * vectors + [1, 2, 3]
    np.testing.assert_allclose(whitening(moved)(moved) @ whitening(moved)(moved[:5]).T, white @ white[:5].T, atol=1e-6)


def test_whitening_with_fewer_pairs_than_dimensions_is_finite_and_one_pair_is_refused():
    vectors = np.random.default_rng(0).normal(size=(5, 40))
    assert np.isfinite(whitening(vectors)(vectors)).all()
    with pytest.raises(UserError, match="pairs that differ"):
        whitening(np.ones((3, 40)))
