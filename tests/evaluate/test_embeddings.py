"""Embeddings on disk: written whole, read back, refused where they are not what they claim; no torch is needed."""

import subprocess
import sys

import numpy as np
import pytest

from face3d_lib.base.errors import UserError
from face3d_lib.evaluate.embeddings import Embeddings


def six() -> Embeddings:
    vectors = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return Embeddings(np.array([f"{k % 3}/{k}" for k in range(6)]), np.array([str(k % 3) for k in range(6)]), vectors)


def test_embeddings_on_disk(tmp_path):
    found, path = six(), tmp_path / "test.npz"
    found.save(path)
    again = Embeddings.load(path)
    assert np.array_equal(again.vectors, found.vectors)
    assert list(again.pair_ids) == list(found.pair_ids)
    assert [p.name for p in tmp_path.iterdir()] == ["test.npz"]
    Embeddings(found.pair_ids, found.subject_ids, found.vectors * 2).save(path)
    with pytest.raises(UserError, match="unit length"):
        Embeddings.load(path)
    np.savez(path, vectors=np.array([{}], object), pair_ids=["a"], subject_ids=["b"])
    with pytest.raises(UserError):
        Embeddings.load(path)
    found.save(path)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UserError):
        Embeddings.load(path)
    with pytest.raises(UserError, match="embed again"):
        Embeddings.load(tmp_path / "none.npz")


def test_a_selection_keeps_its_order_and_names_what_is_missing():
    chosen = six().select(["2/5", "0/0"])
    assert list(chosen.subject_ids) == ["2", "0"]
    with pytest.raises(UserError, match="9/9"):
        six().select(["0/0", "9/9"])


def test_embeddings_need_no_torch():
    code = "import sys, face3d_lib.evaluate.embeddings; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
