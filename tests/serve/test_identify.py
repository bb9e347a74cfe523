"""`face3d identify` and `face3d forget`: facts decide, nothing is overwritten, and mistakes end in one line."""

import dataclasses
import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from face3d_lib import cli
from face3d_lib.base import paths
from face3d_lib.base.errors import UserError
from face3d_lib.data.convention import DepthConvention
from face3d_lib.data.decoding import read_pair
from face3d_lib.data.pairs import single_pair
from face3d_lib.data.warp import AlignSettings
from face3d_lib.evaluate.embeddings import Embeddings
from face3d_lib.serve.gallery import Gallery, open_gallery
from face3d_lib.serve.identify import gallery_folder
from face3d_lib.serve.recogniser import Recogniser
from face3d_lib.synthetic import dataset, people
from face3d_lib.train import embedder, model_files

MILLIMETRES = DepthConvention("mm", "farther")


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Two synthetic people with three easy pictures in each of two sessions."""
    folder = tmp_path_factory.mktemp("raw") / "faces"
    easy = people.Knobs(yaw=5, occlusion=0, glasses=0)
    dataset.make_dataset(folder, 2, 3, seed=4, knobs=easy, workers=1)
    return folder


def face3d(*words):
    return CliRunner().invoke(cli.app, [str(word) for word in words], catch_exceptions=True)


@pytest.fixture
def small_run(raw, tmp_path, monkeypatch):
    """A run with an untrained network and a gallery of the first picture of each person, accepting everybody."""
    monkeypatch.setattr("face3d_lib.base.paths.RUNS", tmp_path)
    torch.manual_seed(0)
    network = embedder.Embedder(embedder.Architecture("rgb"))
    settings = AlignSettings()
    source = {"settings_hash": settings.hash(), "alignment": vars(settings), "depth_unit": "mm"}
    card = model_files.make_card(network, SimpleNamespace(info={"source": source, "sha256": {}}), [], {}, {})
    model = tmp_path / "small" / "rgb" / "31_train_arcface"
    model_files.save_model(model / "model", network, card)
    (model / "run.json").write_text(json.dumps({"status": "done", "parameters": {}}))
    network, card = model_files.load_model(model / "model")
    whole = Recogniser.of("small", network, card)
    firsts = {person: raw / person / "s1_000" for person in ("p0000", "p0001")}
    vectors = [
        whole.see(read_pair(single_pair(f.with_suffix(".png"), f.with_suffix(".npy")), MILLIMETRES)).vector
        for f in firsts.values()
    ]
    people = Embeddings(np.array([f"{p}/s1_000" for p in firsts]), np.array(list(firsts)), np.stack(vectors))
    stage = tmp_path / "small" / "50_predict_identity"
    gallery = Gallery.enrol(people, card.weights_sha256, -0.99, 0.5, "rgb/31_train_arcface", "chosen by hand")
    gallery.save(stage / "gallery")
    aligned, look = tmp_path / "small" / "10_align_faces", tmp_path / "small" / "00_look_at_pairs"
    look.mkdir()
    source = {"root": str(raw), "depth_unit": "mm", "larger_is": "farther"}
    (look / "source.json").write_text(json.dumps(source))
    for person, first in firsts.items():
        (aligned / "aligned" / person).mkdir(parents=True)
        (aligned / "aligned" / person / "s1_000.png").write_bytes(first.with_suffix(".png").read_bytes())
    for folder in (stage, aligned, look):
        (folder / "run.json").write_text(json.dumps({"status": "done", "parameters": {}}))
    return stage


def ask(picture, *words):
    return face3d("identify", picture, picture.with_suffix(".npy"), "--run", "small", *words)


def test_identify_names_the_enrolled_picture_itself(raw, small_run):
    for person in ("p0000", "p0001"):
        done = ask(raw / person / "s1_000.png")
        assert done.exit_code == 0, done.output
        assert done.output.startswith(f"accepted: {person}   score 1.000")
        assert "chosen by hand" in done.output


def test_a_rejection_cannot_be_mistaken_for_a_person(raw, small_run):
    """Neither below the threshold, nor where somebody is called unknown."""
    gallery = open_gallery(small_run / "gallery")
    strict = dataclasses.replace(gallery, threshold=0.99999, names=("unknown", "p0001"))
    strict.save(small_run / "gallery")
    assert ask(raw / "p0000" / "s1_000.png").output.startswith("accepted: unknown   score 1.000")
    assert ask(raw / "p0000" / "s2_001.png").output.startswith("rejected: nobody who is enrolled   score")


def test_forget_takes_a_person_out(raw, small_run):
    done = face3d("forget", "p0000", "--run", "small")
    assert done.exit_code == 0
    assert done.output.startswith("p0000 is no longer in the gallery")
    assert not [path for path in (small_run / "gallery").iterdir() if b"p0000" in path.read_bytes()]
    assert ask(raw / "p0000" / "s1_000.png").output.startswith("accepted: p0001")
    assert isinstance(face3d("forget", "p0000", "--run", "small").exception, UserError)
    assert face3d("forget", "p0001", "--run", "small").exit_code == 0
    assert "nobody is enrolled" in ask(raw / "p0000" / "s1_000.png").output


def test_a_picture_of_the_answer_is_written_but_never_over_anything(raw, small_run, tmp_path, monkeypatch):
    probe = raw / "p0000" / "s1_000.png"
    before = {path: path.read_bytes() for path in raw.rglob("*") if path.is_file()}
    done = ask(probe, "--picture", tmp_path / "answer.png")
    assert done.exit_code == 0, done.output
    assert Image.open(tmp_path / "answer.png").size[0] > 100
    (tmp_path / "link.png").symlink_to(raw / "p0001" / "s1_000.png")
    (tmp_path / "dangling.png").symlink_to(raw / "p0001" / "new.png")
    (tmp_path / "hard.png").hardlink_to(probe)
    shutil.copytree(gallery_folder("small"), tmp_path / "people")
    monkeypatch.chdir(raw / "p0000")
    monkeypatch.setattr("face3d_lib.serve.identify.identify", lambda *words: pytest.fail("began before it refused"))
    for target in (
        *[probe, probe.with_suffix(".npy"), raw / "p0001" / "s1_000.png", raw / "p0001" / "new.png", "new.png"],
        *[tmp_path / "answer.png", tmp_path / "link.png", tmp_path / "dangling.png", tmp_path / "answer.txt"],
        *[tmp_path / "hard.png", tmp_path / "people" / "new.png"],
        *[gallery_folder("small") / "new.png", paths.FIGURES / "new.png", paths.FIGURES / "mine" / "new.png"],
    ):
        assert isinstance(ask(probe, "--picture", target).exception, UserError), target
    assert {path: path.read_bytes() for path in raw.rglob("*") if path.is_file()} == before


def test_missing_files_are_said_before_anything_slow_starts(raw, small_run, monkeypatch):
    """A fresh process, so that imports are seen: neither torch nor the network is loaded for a mistyped path."""
    program = "import sys\nfrom face3d_lib import cli\ntry: cli.app()\nfinally: print('torch' in sys.modules)"
    for words in (["nowhere.png", "nowhere.npy"], [str(raw / "p0000" / "s1_000.png"), "nowhere.npy"]):
        command = [sys.executable, "-c", program, "identify", *words, "--run", "small"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "there is no such file" in done.stderr
        assert done.stdout.strip() == "False"


def test_a_probe_is_found_in_either_unicode_form(raw, small_run, tmp_path):
    composed, split = "Jos\u00e9", "Jose\u0301"
    folder = tmp_path / "mine" / split
    folder.mkdir(parents=True)
    (tmp_path / "mine" / "dataset.json").write_text((raw / "dataset.json").read_text())
    for suffix in (".png", ".npy"):
        (folder / f"{split}{suffix}").write_bytes((raw / "p0000" / f"s1_000{suffix}").read_bytes())
    done = ask(tmp_path / "mine" / composed / f"{composed}.png")
    assert done.output.startswith("accepted: p0000"), done.output


def test_a_model_that_was_trained_again_is_not_asked_about_the_old_gallery(raw, small_run):
    gallery = open_gallery(small_run / "gallery")
    dataclasses.replace(gallery, model_id="b" * 64).save(small_run / "gallery")
    done = ask(raw / "p0000" / "s1_000.png")
    assert isinstance(done.exception, UserError)
    assert "enrol again" in str(done.exception)


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


def test_a_pair_of_the_runs_own_folder_is_read_as_the_run_read_it(raw, small_run, tmp_path):
    """Depth that only the demo's parameters declared need not be declared again; elsewhere it does."""
    undeclared = tmp_path / "undeclared"
    shutil.copytree(raw, undeclared)
    (undeclared / "dataset.json").unlink()
    done = ask(undeclared / "p0000" / "s1_000.png")
    assert "is not declared" in str(done.exception)
    source = {"root": str(undeclared), "depth_unit": "mm", "larger_is": "farther"}
    (small_run.parent / "00_look_at_pairs" / "source.json").write_text(json.dumps(source))
    assert ask(undeclared / "p0000" / "s1_000.png").output.startswith("accepted: p0000   score 1.000")
