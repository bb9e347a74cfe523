"""A recogniser: its vector is the fusion of its networks, its identity is all that the vector depends on."""

import dataclasses
import itertools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from face3d_lib.base.errors import UserError
from face3d_lib.data.convention import DepthConvention
from face3d_lib.data.decoding import read_pair
from face3d_lib.data.faces import Detection, Faces
from face3d_lib.data.pairs import BadPair, RGBDPair, single_pair
from face3d_lib.data.warp import AlignSettings
from face3d_lib.serve.recogniser import Recogniser
from face3d_lib.synthetic import camera
from face3d_lib.train import embedder, model_files
from face3d_lib.train.pretrained import SHIPPED


@pytest.fixture(scope="module")
def pairs(faces):
    files = [faces / person / "s1_000.png" for person in ("p0000", "p0001")]
    return [read_pair(single_pair(f, f.with_suffix(".npy")), DepthConvention("mm", "farther")) for f in files]


def test_a_cosine_is_the_weighted_mean_of_both_scores(recogniser, pairs):
    colour, depth = recogniser.parts
    assert (colour.share, depth.share) == (0.97, 0.03)
    scores = []
    for part in (colour, depth):
        alone = replace(recogniser, parts=(replace(part, share=1.0),))
        a, b = (alone.see(pair).vector.astype(float) for pair in pairs)
        scores.append(a @ b)
    seen = [recogniser.see(pair).vector.astype(float) for pair in pairs]
    assert [len(vector) for vector in seen] == [recogniser.size] * 2
    assert seen[0] @ seen[1] == pytest.approx(0.97 * scores[0] + 0.03 * scores[1], abs=1e-5)


def test_a_pair_without_depth_is_refused_or_answered_by_colour_alone(recogniser, pairs):
    blind = replace(pairs[0], depth=np.zeros_like(pairs[0].depth))
    with pytest.raises(BadPair) as error:
        recogniser.see(blind)
    assert error.value.status == "bad_depth"
    seen, whole = recogniser.see(blind, allow_missing_depth=True), recogniser.see(pairs[0])
    assert (seen.missing, whole.missing) == ("depth", "")
    assert np.linalg.norm(seen.vector) == pytest.approx(1, abs=1e-6)
    assert not seen.vector[128:].any()
    assert seen.vector.astype(float) @ whole.vector == pytest.approx(0.97**0.5, abs=1e-5)


def test_a_pair_without_colour_has_no_face(recogniser, pairs):
    with pytest.raises(BadPair) as error:
        recogniser.see(replace(pairs[0], rgb=np.zeros_like(pairs[0].rgb)), allow_missing_depth=True)
    assert error.value.status == "no_face"


def test_its_identity_changes_with_each_part(recogniser):
    colour, depth = recogniser.parts
    others = [
        dataclasses.replace(recogniser, alignment=AlignSettings()),
        dataclasses.replace(recogniser, parts=(replace(colour, share=0.9), replace(depth, share=0.1))),
        dataclasses.replace(recogniser, parts=(replace(colour, weights_sha256="0" * 64), depth)),
        dataclasses.replace(recogniser, parts=(colour,)),
    ]
    architecture = dataclasses.replace(depth.network.architecture, encoding="normals")
    network = SimpleNamespace(architecture=architecture)
    others.append(dataclasses.replace(recogniser, parts=(colour, replace(depth, network=network))))
    assert len({recogniser.model_id, *(other.model_id for other in others)}) == 6
    assert recogniser.model_id == dataclasses.replace(recogniser, name="renamed").model_id


def trained(folder, alignment):
    torch.manual_seed(0)
    network = embedder.Embedder(embedder.Architecture("rgb"))
    source = {"settings_hash": alignment.hash(), "alignment": vars(alignment), "depth_unit": "mm"}
    card = model_files.make_card(network, SimpleNamespace(info={"source": source, "sha256": {}}), [], {}, {})
    model_files.save_model(folder, network, card)


def test_a_trained_model_is_loaded_from_a_folder_or_from_a_run(tmp_path, monkeypatch, pairs):
    monkeypatch.setattr("face3d_lib.base.paths.RUNS", tmp_path)
    stage = tmp_path / "small" / "rgb" / "31_train_arcface"
    trained(stage / "model", AlignSettings())
    (stage / "run.json").write_text('{"status": "done", "parameters": {}}')
    by_folder, by_run = Recogniser.load(stage), Recogniser.load("small:rgb")
    assert by_run.name == "small:rgb"
    assert by_folder.model_id == by_run.model_id
    assert by_folder.alignment == AlignSettings()
    np.testing.assert_array_equal(by_folder.see(pairs[0]).vector, by_run.see(pairs[0]).vector)
    trained(tmp_path / "other", AlignSettings("dlib"))
    assert Recogniser.load(tmp_path / "other").model_id != by_run.model_id


@pytest.mark.parametrize("name", ["nothing", "nothing:rgb", ""])
def test_a_model_that_is_not_there_is_one_line(tmp_path, monkeypatch, name):
    monkeypatch.setattr("face3d_lib.base.paths.RUNS", tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        Recogniser.load(name)
    assert "\n" not in str(error.value)


def test_the_shipped_rgbd_network_recognises_faces_that_it_never_saw():
    """Two pictures of each of sixteen people at their true points: untrained or shuffled, it names one in sixteen."""
    trained = Recogniser.load("rgbd_synthetic")
    torch.manual_seed(0)
    card = model_files.read_card(SHIPPED / "rgbd_synthetic")
    untrained = Recogniser.of("untrained", embedder.Embedder(card.architecture).eval(), card)
    assert (SHIPPED / "rgbd_synthetic" / "model.safetensors").stat().st_size < 5e6
    shown = []
    for subject, image in itertools.product(range(16), (0, 1)):
        made = camera.pair(77, subject, image)
        points = made.landmarks.astype(np.float64)
        faces = Faces([Detection(np.array([*points.min(0), *points.max(0)]), points, 1.0)])
        shown.append((RGBDPair("", "", made.rgb, made.depth.astype(np.float32), "mm", "", ""), faces))

    def rank1(recogniser, order):
        vectors = np.stack([recogniser.see(pair, faces).vector for pair, faces in shown])
        return ((vectors[::2] @ vectors[1::2].T).argmax(1) == order).mean()

    people = np.arange(16)
    assert rank1(trained, people) > 0.8
    assert rank1(untrained, people) < 0.5
    assert rank1(trained, np.roll(people, 1)) < 0.2
