"""A model comes back as it was saved, and is refused when its card, its weights or the pixels do not agree."""

import json
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_embedder import FUSIONS, faces

from face3d_lib.base.errors import UserError
from face3d_lib.base.paths import ROOT
from face3d_lib.data.drawn import pack_parametric
from face3d_lib.data.warp import AlignSettings
from face3d_lib.evaluate.embed import embed
from face3d_lib.runs.record import git_state
from face3d_lib.train.embedder import Architecture, Embedder
from face3d_lib.train.losses import SoftmaxLoss
from face3d_lib.train.model_files import load_model, make_card, read_card, save_model
from face3d_lib.train.pretrained import SHIPPED, load_pretrained


@pytest.fixture
def embedder():
    torch.manual_seed(0)
    return Embedder(Architecture("rgbd", embedding_size=16)).eval()


def pack_of(settings=None, depth_unit="mm"):
    """A stand-in for a pack: what a card takes from it."""
    settings = settings or AlignSettings()
    source = {"settings_hash": settings.hash(), "alignment": asdict(settings), "depth_unit": depth_unit}
    return SimpleNamespace(info={"source": source, "sha256": {"rgb.npy": "0" * 64}})


def card_of(embedder, pack=None, metrics=None):
    parameters = {"run": "default", "epochs": 3, "lr": 6e-3}
    return make_card(embedder, pack or pack_of(), ["001", "NA"], parameters, metrics or {"accuracy": 0.5})


def edit(folder, change):
    """Change card.json as somebody with an editor would."""
    card = json.loads((folder / "card.json").read_text())
    change(card)
    (folder / "card.json").write_text(json.dumps(card))


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_model_of_every_fusion_comes_back_and_only_as_itself(tmp_path, fusion):
    torch.manual_seed(0)
    embedder = Embedder(Architecture("rgbd", fusion=fusion, embedding_size=8, modality_dropout=0.0, input_size=64))
    save_model(tmp_path, embedder.eval(), card_of(embedder))
    again, _ = load_model(tmp_path)
    assert again.architecture == embedder.architecture
    with torch.no_grad():
        assert torch.equal(again(faces(2)), embedder(faces(2)))
    for other in {*FUSIONS, "no such fusion"} - {fusion}:
        edit(tmp_path, lambda card, other=other: card["architecture"].update(fusion=other))
        with pytest.raises(UserError, match="train") as caught:
            load_model(tmp_path)
        assert str(tmp_path) in str(caught.value)


def test_a_saved_model_comes_back_bit_for_bit(tmp_path, embedder):
    loss = SoftmaxLoss(16, 2)
    saved = save_model(tmp_path, embedder, card_of(embedder), loss)
    classifier = SoftmaxLoss(16, 2)
    again, card = load_model(tmp_path, pack_of(), loss=classifier)
    with torch.no_grad():
        assert torch.equal(again(faces()), embedder(faces()))
    assert torch.equal(classifier.linear.weight, loss.linear.weight)
    assert not again.training
    assert card == saved == read_card(tmp_path)
    assert (card.classes, card.alignment, card.depth_unit) == (["001", "NA"], AlignSettings(), "mm")
    assert (card.parameters["lr"], card.pack_sha256, card.git) == (6e-3, {"rgb.npy": "0" * 64}, git_state())
    load_model(tmp_path)  # the classifier may be left where it is


def test_what_could_not_be_measured_is_null_in_the_card(tmp_path, embedder):
    save_model(tmp_path, embedder, card_of(embedder, metrics={"eer": np.nan, "rates": np.array([np.inf, 0.5])}))
    assert read_card(tmp_path).metrics == {"eer": None, "rates": [None, 0.5]}
    assert "NaN" not in (tmp_path / "card.json").read_text()


HARMS = {
    "a card of an older format": lambda card: card.pop("format"),
    "a field of the architecture that does not exist": lambda card: card["architecture"].update(depth=3),
    "a number as text": lambda card: card["architecture"].update(embedding_size="16"),
    "an encoding that does not exist": lambda card: card["architecture"].update(encoding="sonar"),
    "alignment settings that are not those of the hash": lambda card: card["alignment"].update(image_size=64),
    "alignment settings that cannot be": lambda card: card["alignment"].update(image_size=1),
    "no data hash": lambda card: card.pop("pack_sha256"),
    "no commit": lambda card: card.pop("git"),
    "a depth unit that does not exist": lambda card: card.update(depth_unit="inch"),
    "classes that are no list of names": lambda card: card.update(classes=[1, 2]),
    "a field that nobody knows": lambda card: card.update(more=1),
    "another embedding size": lambda card: card["architecture"].update(embedding_size=32),
    "no weights": lambda card: card.update(weights_sha256=None),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_card_that_is_not_as_it_should_be_is_one_line_that_says_train(tmp_path, embedder, harm):
    save_model(tmp_path, embedder, card_of(embedder))
    load_model(tmp_path)
    edit(tmp_path, HARMS[harm])
    with pytest.raises(UserError, match="train") as caught:
        load_model(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("harm", ["truncated", "altered", "no card", "no json", "no file", "another classifier"])
def test_files_that_do_not_agree_are_refused(tmp_path, embedder, harm):
    save_model(tmp_path, embedder, card_of(embedder), SoftmaxLoss(16, 2))
    weights, card, loss = tmp_path / "model.safetensors", tmp_path / "card.json", None
    if harm == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif harm == "altered":
        data = bytearray(weights.read_bytes())
        data[-50] ^= 1
        weights.write_bytes(data)
    elif harm == "no card":
        card.unlink()
    elif harm == "no json":
        card.write_text("{")
    elif harm == "no file":
        weights.unlink()
    else:
        loss = SoftmaxLoss(16, 5)
    with pytest.raises(UserError, match="train") as caught:
        load_model(tmp_path, loss=loss)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_model_never_meets_pixels_prepared_another_way(tmp_path, embedder):
    save_model(tmp_path, embedder, card_of(embedder))
    load_model(tmp_path, pack_of(depth_unit="pixel"))  # this encoding measures in pixels of the crop
    with pytest.raises(UserError, match="align with the model's settings"):
        load_model(tmp_path, pack_of(AlignSettings(image_size=64)))
    in_mm = Embedder(Architecture("depth", encoding="nose_depth", embedding_size=16))
    save_model(tmp_path, in_mm, card_of(in_mm))
    load_model(tmp_path, pack_of())
    with pytest.raises(UserError, match="needs depth in mm"):
        load_model(tmp_path, pack_of(depth_unit="pixel"))


def test_the_training_notebooks_let_one_function_make_the_card():
    saving = [path for path in (ROOT / "notebooks").glob("*.ipynb") if "save_model(" in path.read_text()]
    for path in saving:
        assert "make_card(" in path.read_text(), path.name


def test_a_model_stored_as_float16_computes_in_float32(tmp_path, embedder):
    save_model(tmp_path / "whole", embedder, card_of(embedder))
    save_model(tmp_path / "half", embedder, card_of(embedder), half=True)
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("half", "whole")]
    assert sizes[0] < 0.55 * sizes[1]
    again, _ = load_model(tmp_path / "half")
    assert all(p.dtype == torch.float32 for p in again.parameters())
    with torch.no_grad():
        torch.testing.assert_close(again(faces(2)), embedder(faces(2)), rtol=0.02, atol=0.02)


def rank1(vectors, names):
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -2)
    return (names[scores.argmax(1)] == names).mean()


def test_the_shipped_depth_network_recognises_heads_that_it_never_saw(tmp_path):
    embedder = load_pretrained("depth_synthetic")  # its hash is checked against the card
    card = read_card(SHIPPED / "depth_synthetic")
    assert (SHIPPED / "depth_synthetic" / "model.safetensors").stat().st_size < 5e6
    assert card.alignment == AlignSettings(mode="dlib")
    assert card.architecture.modality == "depth"
    heads = pack_parametric(tmp_path, 12, 2, card.alignment, seed=991, progress=False)
    vectors = embed(embedder, heads, np.arange(len(heads)), progress=False).vectors
    names = heads.index["subject_id"].to_numpy(str)
    assert rank1(vectors, names) > 0.8
    assert rank1(vectors, np.random.default_rng(0).permutation(names)) < 0.3  # people shuffled: chance is 0.06
