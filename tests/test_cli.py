"""The command line: the two commands of 2019, prediction without a notebook, and mistakes that end in one line."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from face3d_lib import cli, demo
from face3d_lib.base.errors import UserError
from face3d_lib.data.convention import DepthConvention
from face3d_lib.data.decoding import read_pair
from face3d_lib.data.pairs import single_pair
from face3d_lib.data.warp import AlignSettings
from face3d_lib.evaluate.embed import Embeddings, embed_pair
from face3d_lib.serve.gallery import Gallery
from face3d_lib.synthetic import dataset, people
from face3d_lib.train import embedder, model_files

MILLIMETRES = DepthConvention("mm", "farther")


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw") / "faces"
    easy = people.Knobs(yaw=5, occlusion=0, glasses=0)
    dataset.make_dataset(folder, 2, 3, seed=4, knobs=easy, workers=1)
    return folder


def face3d(*words):
    return CliRunner().invoke(cli.app, [str(word) for word in words], catch_exceptions=True)


def test_the_two_commands_of_2019(raw, tmp_path):
    crops, tables = tmp_path / "crops", tmp_path / "csv"
    words = ["--image-size", "182", "--margin", "44", "--random-order", "--workers", "1", "--device", "cpu"]
    done = face3d("align", "--input-dir", raw, "--output-dir", crops, *words)
    assert done.exit_code == 0, done.output
    assert json.loads((crops / "dataset.json").read_text())["aligned"]["mode"] == "facenet"
    done = face3d("split", "--input-dir", crops, "--output-dir", tables)
    assert done.exit_code == 0, done.output
    frame = pd.concat(pd.read_csv(tables / f"{name}.csv") for name in ("train", "eval", "test", "dirty"))
    assert len(frame) == 12
    ok = pd.read_csv(tables / "train.csv")
    assert Image.open(tables / ok["rgb_image_path"][0]).size == (182, 182)
    assert np.load(tables / ok["dep_image_path"][0]).shape == (182, 182)


@pytest.fixture
def small_run(raw, tmp_path, monkeypatch):
    """A run with an untrained network and a gallery of the first picture of each person, accepting everybody."""
    monkeypatch.setattr("face3d_lib.base.paths.RUNS", tmp_path)
    torch.manual_seed(0)
    network = embedder.Embedder(embedder.Architecture("rgb"))
    settings = AlignSettings()
    source = {"settings_hash": settings.hash(), "alignment": vars(settings), "depth_unit": "mm"}
    card = model_files.make_card(network, SimpleNamespace(info={"source": source, "sha256": {}}), [], {}, {})
    model = tmp_path / "small" / "rgb" / "30_train_softmax" / "model"
    model.mkdir(parents=True)
    model_files.save_model(model, network, card)
    network, card = model_files.load_model(model)
    firsts = {person: raw / person / "s1_000" for person in ("p0000", "p0001")}
    vectors = [
        embed_pair(network, read_pair(single_pair(f.with_suffix(".png"), f.with_suffix(".npy")), MILLIMETRES), settings)
        for f in firsts.values()
    ]
    people = Embeddings(np.array([f"{p}/s1_000" for p in firsts]), np.array(list(firsts)), np.stack(vectors))
    stage = tmp_path / "small" / "50_predict_identity"
    Gallery.enrol(people, card.weights_sha256, -0.99, 0.5).save(stage / "gallery")
    reference = {"model": "rgb", "reference": {p: f"{p}/s1_000" for p in firsts}}
    (stage / "reference.json").write_text(json.dumps(reference))
    return stage


def test_identify_names_the_enrolled_picture_itself(raw, small_run):
    for person in ("p0000", "p0001"):
        picture = raw / person / "s1_000.png"
        done = face3d("identify", picture, picture.with_suffix(".npy"), "--run", "small")
        assert done.exit_code == 0, done.output
        assert done.output.startswith(f"{person}   score 1.000")


def test_identify_says_unknown_below_the_threshold(raw, small_run):
    gallery = json.loads((small_run / "gallery" / "gallery.json").read_text())
    strict = Gallery.load(small_run / "gallery", gallery["model_id"])
    Gallery(strict.names, strict.templates, strict.model_id, 0.99999, 0.01).save(small_run / "gallery")
    other = raw / "p0000" / "s2_001.png"
    done = face3d("identify", other, other.with_suffix(".npy"), "--run", "small")
    assert done.output.startswith("unknown   score")


def test_forget_takes_a_person_out(raw, small_run):
    assert face3d("forget", "p0000", "--run", "small").exit_code == 0
    picture = raw / "p0000" / "s1_000.png"
    assert face3d("identify", picture, picture.with_suffix(".npy"), "--run", "small").output.startswith("p0001")


@pytest.mark.parametrize("case", ["no depth", "depth of another size", "no face", "pickle", "no run"])
def test_a_picture_that_cannot_be_used_is_one_line(raw, small_run, tmp_path, case):
    picture = tmp_path / "mine" / "me" / "a.png"
    picture.parent.mkdir(parents=True)
    (tmp_path / "mine" / "dataset.json").write_text((raw / "dataset.json").read_text())
    picture.write_bytes((raw / "p0000" / "s1_000.png").read_bytes())
    depth = picture.with_suffix(".npy")
    if case != "no depth":
        np.save(depth, np.load(raw / "p0000" / "s1_000.npy"))
    if case == "depth of another size":
        np.save(depth, np.ones((20, 20)))
    if case == "no face":
        Image.new("RGB", (160, 160), "grey").save(picture)
    if case == "pickle":
        np.save(depth, np.array([{}], dtype=object), allow_pickle=True)
    done = face3d("identify", picture, depth, "--run", "nothing" if case == "no run" else "small")
    assert isinstance(done.exception, UserError)  # which main() prints as one line
    assert "\n" not in str(done.exception)


def test_a_mistake_is_one_line_and_exit_code_2(monkeypatch, capsys, tmp_path):
    (tmp_path / "anna").mkdir()
    Image.new("RGB", (50, 50)).save(tmp_path / "anna" / "1.png")
    np.save(tmp_path / "anna" / "1.npy", np.ones((50, 50)))
    words = ["face3d", "align", "--input-dir", str(tmp_path), "--output-dir", str(tmp_path) + "-out"]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert "dataset.json" in message


def test_expectations_of_synthetic_faces_do_not_bind_other_data():
    assert demo.no_expectations("40_evaluate_verification") == {"expect_eer_below": 1.01}
    assert demo.no_expectations("30_train_softmax") == {"expect_accuracy_above": -0.01}
