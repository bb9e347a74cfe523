"""Other people's systems in the notebooks: their embeddings of this run's pairs, or scores of their own."""

import numpy as np
import pandas as pd
import pytest

from face3d_lib.base.errors import UserError
from face3d_lib.data.splits import Splits
from face3d_lib.evaluate.other_systems import read_systems
from face3d_lib.evaluate.protocol import trials_of
from face3d_lib.evaluate.scores import require_same_trials

PAIRS = [f"{person}/{k}" for person in "abc" for k in range(3)]


@pytest.fixture
def division():
    rows = pd.DataFrame({"pair_id": PAIRS, "cls_name": [p[0] for p in PAIRS], "group": "test"})
    empty = rows.iloc[:0]
    pairs = pd.DataFrame(
        [("test", "a/0", "a/1", "1"), ("test", "b/0", "b/2", "1"), ("test", "a/0", "c/1", "0")],
        columns=["group", "pair_id_a", "pair_id_b", "same"],
    )
    parts = dict.fromkeys(Splits.__dataclass_fields__, empty)
    return Splits(**parts | {"gallery": rows[::2], "probe": rows[1::2], "pairs": pairs})


def saved(path, pairs=PAIRS, people=None, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(len(pairs), 4))
    np.savez(path, pair_ids=pairs, subject_ids=people or [p[0] for p in pairs], vectors=vectors)
    return str(path)


def test_embeddings_in_any_order_make_the_same_comparisons(tmp_path, division):
    one = saved(tmp_path / "one.npz")
    other = saved(tmp_path / "other.v2.npz", [*reversed(PAIRS), "z/0"], seed=1)
    found = read_systems([one, other], division)
    assert list(found.embeddings) == ["one", "other.v2"]
    require_same_trials(*(trials_of(vectors, division) for vectors in found.embeddings.values()))
    assert len(trials_of(found.embeddings["one"], division).score) == 3
    assert list(found.sha256) == [one, other]
    assert any(note.startswith("one: vectors of lengths") for note in found.notes)


def test_scores_keep_comparisons_of_their_own(tmp_path, division):
    path = tmp_path / "theirs.csv"
    path.write_text("score,label\n0.9,1\n0.1,0\n", encoding="utf-8")
    found = read_systems([str(path)], division)
    assert found.scores["theirs"].genuine.tolist() == [0.9]
    assert found.embeddings == {}


def test_what_does_not_belong_to_this_run_is_refused(tmp_path, division):
    with pytest.raises(UserError, match=r"no embedding of 2 pairs .* the first b/0"):
        read_systems([saved(tmp_path / "few.npz", [p for p in PAIRS if p not in ("b/0", "c/1")])], division)
    with pytest.raises(UserError, match="b/0 is of x, but this run's split says b"):
        read_systems([saved(tmp_path / "x.npz", people=[*"aaa", *"xbb", *"ccc"])], division)
    with pytest.raises(UserError, match="already a system rgb: rename"):
        read_systems([saved(tmp_path / "rgb.npz")], division, taken=["rgb"])
    with pytest.raises(UserError, match=r"none\.npz: not there: correct the path"):
        read_systems(["none.npz"], division)
