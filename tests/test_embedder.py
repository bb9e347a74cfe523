"""Networks that see what they say they see, and files that are refused when anything does not agree."""

import json
import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from face3d_lib.atomic import UserError
from face3d_lib.embedder import (
    Architecture,
    Embedder,
    load_backbone,
    load_model,
    make_backbone,
    save_model,
    widen_stem,
)
from face3d_lib.losses import SoftmaxLoss
from face3d_lib.pack import Batch

KINDS = [
    Architecture("rgb"),
    Architecture("depth"),
    Architecture("depth", encoding="depth"),
    Architecture("rgbd"),
    Architecture("rgbd", fusion="early", embedding_size=32),
    Architecture("rgbd", fusion="early", encoding="depth"),
]
CARD = {"classes": ["001", "NA"], "settings_hash": "abc", "metrics": {"accuracy": 0.5}}


def faces(n=4, size=112, seed=0):
    random = torch.Generator().manual_seed(seed)
    rgb = torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=random)
    depth = 800 + 20 * torch.rand(n, 1, size, size, generator=random)
    return Batch(rgb, depth, torch.full((n,), 1.8))


@pytest.fixture
def embedder():
    torch.manual_seed(0)
    return Embedder(Architecture("rgbd", embedding_size=16)).eval()


@pytest.mark.parametrize("architecture", KINDS, ids=lambda a: f"{a.modality}-{a.encoding}-{a.fusion}")
def test_an_embedder_uses_its_modality_and_nothing_else(architecture):
    torch.manual_seed(0)
    embedder = Embedder(architecture).eval()
    batch, other = faces(), faces(seed=1)
    with torch.no_grad():
        here = embedder(batch)
        new_colour = embedder(Batch(other.rgb, batch.depth, batch.depth_per_px))
        new_depth = embedder(Batch(batch.rgb, other.depth, batch.depth_per_px))
    assert here.shape == (4, architecture.embedding_size)
    assert here.dtype == torch.float32
    assert torch.equal(here, new_colour) == (architecture.modality == "depth")
    assert torch.equal(here, new_depth) == (architecture.modality == "rgb")
    assert here.std(0).min() > 0  # not the same vector for everybody


def test_colour_channels_are_not_interchangeable(embedder):
    batch = faces()
    swapped = Batch(batch.rgb.flip(1), batch.depth, batch.depth_per_px)
    with torch.no_grad():
        assert not torch.allclose(embedder(batch), embedder(swapped), atol=1e-3)


def test_two_branches_speak_alone_and_together(embedder):
    batch = faces()
    with torch.no_grad():
        together, colour, depth = embedder.branches(batch)
        other = Batch(faces(seed=1).rgb, batch.depth, batch.depth_per_px)
        _, other_colour, same_depth = embedder.branches(other)
    assert together.shape == colour.shape == depth.shape == (4, 16)
    assert torch.equal(depth, same_depth)
    assert not torch.equal(colour, other_colour)
    assert torch.equal(embedder(batch), together)


def test_other_crop_sizes_fit_the_same_network(embedder):
    assert embedder(faces(size=182)).shape == (4, 16)


def first_filters(backbone):
    return next(m for m in backbone.modules() if isinstance(m, nn.Conv2d)).weight


@pytest.mark.parametrize("name", ["small", "resnet18"])
def test_a_widened_stem_keeps_the_colour_network(name):
    torch.manual_seed(0)
    backbone = make_backbone(name, 3).eval()
    colour = torch.randn(2, 3, 112, 112)
    with torch.no_grad():
        before = backbone.forward_features(colour)
        old = first_filters(backbone).clone()
        widen_stem(backbone, 4)
        after = backbone.forward_features(torch.cat([colour, torch.zeros(2, 1, 112, 112)], 1))
        deeper = backbone.forward_features(torch.cat([colour, torch.ones(2, 1, 112, 112)], 1))
    assert torch.allclose(before, after, atol=1e-6)
    assert not torch.allclose(before, deeper, atol=1e-3)
    assert torch.equal(first_filters(backbone)[:, :3], old)
    assert torch.equal(first_filters(backbone)[:, 3], old.mean(1))


def test_resnet50_of_four_channels_starts_from_a_file(tmp_path):
    torch.manual_seed(0)
    source = make_backbone("resnet50", 3)
    path = tmp_path / "weights.safetensors"
    save_file(source.state_dict() | {"fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}, path)
    early = Embedder(Architecture("rgbd", "resnet50", "depth", "early", 64), init=path)
    assert early.branch[0].backbone.conv1.weight.shape[1] == 4
    assert torch.equal(early.branch[0].backbone.conv1.weight[:, :3], source.conv1.weight)
    assert torch.equal(early.branch[0].backbone.layer4[2].conv3.weight, source.layer4[2].conv3.weight)
    with pytest.raises(UserError, match="does not fit"):
        load_backbone(make_backbone("resnet18", 3), path)


@pytest.mark.parametrize("harm", ["missing", "truncated", "pickle"])
def test_weights_that_cannot_be_read_are_one_line(tmp_path, harm):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "pwned"), "w"))

    path = tmp_path / "weights.pth"
    if harm == "truncated":
        torch.save(make_backbone("small", 3).state_dict(), path)
        path.write_bytes(path.read_bytes()[:5000])
    if harm == "pickle":
        path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UserError, match=r"weights\.pth") as caught:
        Embedder(Architecture("rgb"), init=path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "pwned").exists()


def test_a_saved_model_comes_back_bit_for_bit(tmp_path, embedder):
    loss = SoftmaxLoss(16, 2)
    save_model(tmp_path, embedder, CARD, loss)
    head = SoftmaxLoss(16, 2)
    again, card = load_model(tmp_path, settings_hash="abc", loss=head)
    with torch.no_grad():
        assert torch.equal(again(faces()), embedder(faces()))
    assert torch.equal(head.linear.weight, loss.linear.weight)
    assert card["classes"] == ["001", "NA"]
    assert card["architecture"]["modality"] == "rgbd"
    assert not again.training
    load_model(tmp_path)  # the head may be left where it is


@pytest.mark.parametrize(
    "harm", ["truncated", "altered", "no card", "other architecture", "other alignment", "other head"]
)
def test_a_model_that_does_not_agree_is_refused(tmp_path, embedder, harm):
    save_model(tmp_path, embedder, CARD, SoftmaxLoss(16, 2))
    weights, card = tmp_path / "model.safetensors", json.loads((tmp_path / "card.json").read_text())
    expected, loss = "abc", None
    if harm == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif harm == "altered":
        data = bytearray(weights.read_bytes())
        data[-50] ^= 1
        weights.write_bytes(data)
    elif harm == "no card":
        (tmp_path / "card.json").unlink()
    elif harm == "other architecture":
        card["architecture"]["embedding_size"] = 32
        (tmp_path / "card.json").write_text(json.dumps(card))
    elif harm == "other head":
        loss = SoftmaxLoss(16, 5)
    else:
        expected = "xyz"
    with pytest.raises(UserError) as caught:
        load_model(tmp_path, settings_hash=expected, loss=loss)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_softmax_is_the_cross_entropy_of_a_linear_layer():
    loss = SoftmaxLoss(2, 2)
    with torch.no_grad():
        loss.linear.weight.copy_(torch.eye(2))
        loss.linear.bias.zero_()
    embeddings = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    by_hand = (torch.log1p(torch.exp(torch.tensor(-2.0))) + torch.log1p(torch.exp(torch.tensor(-1.0)))) / 2
    assert torch.allclose(loss(embeddings, torch.tensor([0, 1])), by_hand)
    assert loss.get_logits(embeddings).argmax(1).tolist() == [0, 1]
    smooth = SoftmaxLoss(2, 2, label_smoothing=0.2)
    smooth.load_state_dict(loss.state_dict())
    assert torch.allclose(smooth(embeddings, torch.tensor([0, 1])), by_hand + 0.1 * 1.5)
