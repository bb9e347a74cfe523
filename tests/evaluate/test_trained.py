"""Models by name: of any notebook, by as much of the name as leaves no doubt, and missing ones in one line."""

import json
from types import SimpleNamespace

import pytest
import torch

from face3d_lib.base.errors import UserError
from face3d_lib.data.warp import AlignSettings
from face3d_lib.evaluate import trained
from face3d_lib.evaluate.trained import find_models, fusion_of, need_models, results, stage_of, sweep_models
from face3d_lib.evaluate.words import design_of
from face3d_lib.train.embedder import Architecture, Embedder
from face3d_lib.train.model_files import make_card, save_model

PACK = SimpleNamespace(
    info={
        "source": {"settings_hash": AlignSettings().hash(), "alignment": vars(AlignSettings()), "depth_unit": "mm"},
        "sha256": {},
    }
)


def add(runs, stage, *parts, status="done", **parameters):
    """A finished training notebook at runs/<stage> with a model for each of `parts` ("" is the stage's own)."""
    torch.manual_seed(0)
    network = Embedder(Architecture("rgb", embedding_size=8))
    for part in parts or ("",):
        card = make_card(network, PACK, ["a", "b"], parameters, {"accuracy": 0.5})
        save_model(runs / stage / part / "model", network, card)
    (runs / stage / "run.json").write_text(json.dumps({"status": status, "parameters": parameters}))


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """runs/demo with networks of notebook 30 and 31 in nested runs, one of 30 in the run itself, two each of 38 and 45."""
    monkeypatch.setattr("face3d_lib.base.paths.RUNS", tmp_path)
    for name in ("rgb/30_train_softmax", "rgbd/30_train_softmax", "arcface/31_train_arcface", "30_train_softmax"):
        add(tmp_path, f"demo/{name}", modality="rgb")
    add(tmp_path, "demo/old/38_train_legacy", "legacy", "ours")
    add(tmp_path, "demo/45_transfer_depth", "depth_0", "rgb_0")
    return tmp_path


@pytest.mark.parametrize(
    ("typed", "model", "name", "label"),
    [
        ("rgb/30_train_softmax", "rgb/30_train_softmax", "rgb", "RGB"),
        ("rgbd", "rgbd/30_train_softmax", "rgbd", "RGB-D"),
        ("arcface", "arcface/31_train_arcface", "arcface", "arcface"),
        ("30_train_softmax", "30_train_softmax", "30_train_softmax", "30_train_softmax"),
        ("45_transfer_depth/depth_0", "45_transfer_depth/depth_0", *["45_transfer_depth/depth_0"] * 2),
        ("old/38_train_legacy/ours", "old/38_train_legacy/ours", "old/ours", "old/ours"),
    ],
)
def test_a_model_of_any_notebook_is_found_by_name(runs, typed, model, name, label):
    (found,) = find_models("demo", [typed])
    assert (found.model, found.name, found.label) == (model, name, label)
    assert found.stage == stage_of(model)
    assert found.card.metrics == {"accuracy": 0.5}
    assert found.load(PACK).architecture == Architecture("rgb", embedding_size=8)
    (from_within,) = find_models("demo/other/nested", [typed])  # the runs around are searched as well
    assert from_within.folder == found.folder


def test_many_models_have_names_of_their_own(runs):
    add(runs, "demo/rgb/31_train_arcface", modality="rgb")
    found = find_models("demo", ["rgb/30_train_softmax", "rgb/31_train_arcface", "rgbd"])
    assert [one.name for one in found] == ["rgb/30_train_softmax", "rgb/31_train_arcface", "rgbd"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["triplet"], "has no model triplet"),
        (["45_transfer_depth"], "may be any of 45_transfer_depth/depth_0, 45_transfer_depth/rgb_0"),
        (["old"], "may be any of old/38_train_legacy/legacy, old/38_train_legacy/ours"),
        (["rgb", "rgb/30_train_softmax"], "named twice"),
        (["../demo/rgb"], "use letters"),
    ],
)
def test_a_name_that_does_not_lead_to_one_model_is_one_line(runs, names, message):
    with pytest.raises(UserError, match=message) as caught:
        find_models("demo", names)
    assert "\n" not in str(caught.value)


def test_a_pretrained_network_stands_beside_trained_ones(runs):
    """No run holds it, nothing is made for it, and crops of another alignment are refused in one line."""
    asked = []
    this = SimpleNamespace(run="demo", need=asked.append)
    found = need_models(this, ["pretrained/dlib", "rgb"])
    assert [(one.name, one.label, one.is_pretrained) for one in found] == [
        ("dlib", "RGB, pretrained (dlib)", True),
        ("rgb", "RGB", False),
    ]
    assert asked == ["rgb/30_train_softmax"]
    dlib = found[0]
    assert dlib.card.alignment == AlignSettings("dlib")
    assert dlib.card.classes == []
    assert design_of(dlib.parameters) == "pretrained dlib"
    fitting = {"settings_hash": AlignSettings("dlib").hash(), "depth_unit": "pixel"}
    assert dlib.load(SimpleNamespace(info={"source": fitting})).architecture.backbone == "dlib"
    for name, message in (("dlib", "align with mode = dlib"), ("depth_synthetic", "align with mode = dlib")):
        (one,) = find_models("demo", [f"pretrained/{name}"])
        with pytest.raises(UserError, match=message) as caught:
            one.load(PACK)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="one of dlib, depth_synthetic, rgbd_synthetic expected"):
        find_models("demo", ["pretrained/arcface"])
    add(runs, "demo/dlib/30_train_softmax")  # a run of the same name: both keep their whole names
    assert [one.name for one in find_models("demo", ["pretrained/dlib", "dlib"])] == [
        "pretrained/dlib",
        "dlib/30_train_softmax",
    ]


def test_a_training_that_did_not_end_is_not_used(runs):
    add(runs, "demo/half/30_train_softmax", status="preempted")
    with pytest.raises(UserError, match=r"half/30_train_softmax is preempted.*train it first"):
        find_models("demo", ["half"])


def test_what_is_read_is_recorded_and_what_is_missing_is_asked_for(runs):
    asked = []

    def need(stage):
        asked.append(stage)
        if not (runs / "demo" / stage).exists():
            add(runs, f"demo/{stage}")

    this = SimpleNamespace(run="demo", need=need)
    names = ["rgb", "45_transfer_depth/depth_0", "45_transfer_depth/rgb_0"]
    assert [one.model for one in need_models(this, names)] == ["rgb/30_train_softmax", *names[1:]]
    assert asked == ["rgb/30_train_softmax", "45_transfer_depth"]
    asked.clear()
    (made,) = need_models(this, ["triplet/32_train_triplet"])
    assert made.name == "triplet"
    assert asked == ["triplet/32_train_triplet"] * 2


def test_late_fusion_takes_any_two_and_says_when_one_is_missing(runs, capsys):
    networks = find_models("demo", ["rgb", "arcface", "45_transfer_depth/depth_0"])
    fused = fusion_of(networks, ["arcface/31_train_arcface", "45_transfer_depth/depth_0"])
    assert [one.name for one in fused] == ["arcface", "45_transfer_depth/depth_0"]
    assert fusion_of(networks, []) == []
    assert capsys.readouterr().out == ""
    assert fusion_of(networks, ["rgb", "depth"]) == []
    assert "depth is not among the models" in capsys.readouterr().out
    with pytest.raises(UserError, match="name two of the models"):
        fusion_of(networks, ["rgb"])


def test_the_models_of_a_sweep_are_those_that_are_done(runs, capsys):
    with pytest.raises(UserError, match="face3d sweep"):
        sweep_models("demo")
    rows = [
        {"notebook": "30_train_softmax", "run": "demo/rgb", "status": "done"},
        {"notebook": "31_train_arcface", "run": "demo/broken", "status": "failed"},
    ]
    (runs / "demo" / "sweep.json").write_text(json.dumps(rows))
    assert sweep_models("demo") == ["rgb/30_train_softmax"]
    assert "1 runs of the sweep are not done: demo/broken" in capsys.readouterr().out
    assert trained.find_models("demo", sweep_models("demo"))[0].name == "rgb"


def test_the_closing_table_has_a_row_for_each_system_of_any_notebook():
    systems = {
        "rgb": {"model": "rgb/30_train_softmax", "accuracy": 0.5, "eer": 0.25, "tar": None},
        "arcface": {"model": "arcface/31_train_arcface", "accuracy": None, "eer": 0.125, "tar": 0.5},
    }
    rows = results({"far_target": 0.01, "systems": systems}, {"systems": {"arcface": {"rank1": 0.75}}})
    assert rows == [
        ["", "closed-set accuracy", "EER", "TAR@FAR=0.01", "rank-1"],
        ["rgb", "0.500", "0.250", "-", "-"],
        ["arcface", "-", "0.125", "0.500", "0.750"],
    ]
    ready = {"systems": {"RGB, pretrained": {"loo": 0.875, "one_shot": 0.5, "eer": 0.0625, "tar": None}}}
    assert results({}, {}, ready)[1:] == [["RGB, pretrained *", "-", "0.062", "-", "0.875"]]
    assert results({}, {}) == [["", "closed-set accuracy", "EER", "TAR", "rank-1"]]


def test_a_mistyped_run_is_no_notebook_to_be_made(runs):
    """The advice used to be the command `face3d run rbg demo`, and there is no notebook rbg."""
    this = SimpleNamespace(run="demo", need=lambda name: pytest.fail(f"{name} was asked for"))
    with pytest.raises(UserError, match="run demo has no model rbg: train it, or name another one"):
        need_models(this, ["rbg"])
