"""The systems of notebook 40, read back."""

import json

import numpy as np
import pytest
from small_run import make_run, vectors_of

from face3d_lib.base.errors import UserError
from face3d_lib.evaluate.metrics.identification import ranks
from face3d_lib.evaluate.protocol import open_set, trials_of
from face3d_lib.evaluate.scores import joined
from face3d_lib.evaluate.systems import compared_systems

PEOPLE = {f"d{k}": "dev" for k in range(3)} | {f"e{k}": "test" for k in range(3)} | {"t0": "train", "t1": "train"}


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.setattr("face3d_lib.base.paths.RUNS", tmp_path)
    return tmp_path


def test_networks_and_their_fusion_are_read_back(runs):
    division = make_run(runs, PEOPLE, ("rgb", "depth"), fused=True)
    found = compared_systems(runs / "small/40_evaluate_verification", division)
    assert [one.name for one in found] == ["rgb", "depth", "rgb + depth"]
    assert [one.label for one in found] == ["RGB", "depth", "RGB + depth, fused"]
    first, second, both = (one.trials["test"].score for one in found)
    np.testing.assert_allclose(both, 0.6 * first + 0.4 * second, atol=1e-6)
    np.testing.assert_array_equal(first, trials_of(vectors_of(division), division).score)
    people = found[2].opened["test"]
    np.testing.assert_array_equal(
        people.known, open_set(joined(*(one.vectors for one in found[:2]), 0.6), division).known
    )
    right = found[2].identified()
    own = ranks(people.known, people.probes.subject_ids, people.enrolled.subject_ids)
    assert right.tolist() == (own == 1).tolist()
    assert right.index.get_level_values("person").tolist() == people.probes.subject_ids.tolist()


def test_other_peoples_embeddings_are_among_them(runs, tmp_path):
    division = make_run(runs, PEOPLE)
    vectors_of(division, 0.1, 5).save(tmp_path / "theirs.npz")
    path = runs / "small/40_evaluate_verification/metrics.json"
    metrics = json.loads(path.read_text())
    metrics["systems"]["theirs"] = {"eer": 0.1}
    metrics["files"] = {str(tmp_path / "theirs.npz"): "0" * 64}
    path.write_text(json.dumps(metrics))
    found = compared_systems(path.parent, division)
    assert [one.name for one in found] == ["rgb", "theirs"]
    assert found[1].label == "theirs"


def test_a_stage_that_is_not_done_is_refused(runs):
    division = make_run(runs, PEOPLE)
    path = runs / "small/40_evaluate_verification/run.json"
    path.write_text(path.read_text().replace('"done"', '"failed"'))
    with pytest.raises(UserError, match="failed: run 40_evaluate_verification first"):
        compared_systems(path.parent, division)
