"""A checkpoint of the legacy project gives torchvision's answers, and a file that is no such checkpoint is refused."""

import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from typer.testing import CliRunner

from face3d_lib import cli
from face3d_lib.base.errors import UserError
from face3d_lib.data.pack import Batch
from face3d_lib.serve.models import import_legacy, load_named
from face3d_lib.train.legacy_network import read_legacy
from face3d_lib.train.losses import SoftmaxLoss
from face3d_lib.train.model_files import load_model, read_card

PEOPLE = ["anna", "ben", "carl"]


@pytest.fixture(scope="module")
def network():
    """torchvision's network as the legacy project changed it, with statistics of batches that are not 0 and 1."""
    torch.manual_seed(0)
    net = torchvision.models.resnet50(weights=None, num_classes=3)
    net.conv1 = nn.Conv2d(4, 64, 7, stride=2, padding=3, bias=False)
    with torch.no_grad():
        net.train()(torch.randn(4, 4, 64, 64))
    return net.eval()


def saved(tmp_path, state, name="net.pkl"):
    torch.save(state, tmp_path / name)
    return tmp_path / name


@pytest.mark.parametrize("wrapped", [False, True])
def test_an_imported_network_names_people_as_before(network, tmp_path, wrapped):
    state = {f"module.{key}": value for key, value in network.state_dict().items()} if wrapped else network.state_dict()
    (tmp_path / "people.txt").write_text("anna\nben\n\ncarl\n")
    words = [
        "models",
        "import",
        saved(tmp_path, state),
        "--classes",
        tmp_path / "people.txt",
        "--out",
        tmp_path / "model",
    ]
    done = CliRunner().invoke(cli.app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    assert read_card(tmp_path / "model").classes == PEOPLE
    loss = SoftmaxLoss(2048, 3)
    again, _ = load_model(tmp_path / "model", loss=loss)
    random = np.random.default_rng(0)
    rgb = torch.from_numpy(random.integers(0, 256, (2, 3, 224, 224), dtype=np.uint8))
    depth = torch.from_numpy(random.uniform(50, 90, (2, 1, 224, 224)).astype(np.float32))
    depth[0, 0, :20] = 0
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    colour = (rgb / 255 - mean.view(3, 1, 1)) / deviation.view(3, 1, 1)
    far, near = depth.amax((1, 2, 3), keepdim=True), torch.where(depth > 0, depth, 1e9).amin((1, 2, 3), keepdim=True)
    fourth = torch.where(depth > 0, (far - depth) / (far - near), 0)
    with torch.no_grad():
        embeddings = again(Batch(rgb, depth, torch.ones(2)))
        wanted = network(torch.cat([colour, fourth], 1))
    assert embeddings.shape == (2, 2048)
    assert torch.allclose(loss.get_logits(embeddings), wanted, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(wanted[0], wanted[1], atol=1e-2), "equality would show nothing"
    assert F.normalize(load_named(str(tmp_path / "model"))[0](Batch(rgb, depth, torch.ones(2)))).isfinite().all()


def test_files_without_counters_of_batches_are_read(network, tmp_path):
    old = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    backbone, classifier = read_legacy(saved(tmp_path, old), PEOPLE)
    assert classifier["weight"].shape == (3, 2048)
    assert torch.equal(backbone["net.layer1.0.conv1.weight"], old["layer1.0.conv1.weight"])


def test_other_files_are_refused(network, tmp_path):
    state = network.state_dict()
    path = saved(tmp_path, state)
    for names in (["anna", "ben"], [], ["anna", "anna", "ben"]):
        with pytest.raises(UserError, match="the classifier knows 3 people"):
            read_legacy(path, names)
    three = saved(tmp_path, state | {"conv1.weight": state["conv1.weight"][:, :3].clone()}, "three.pkl")
    with pytest.raises(UserError, match="64 x 3 x 7 x 7"):
        read_legacy(three, PEOPLE)
    with pytest.raises(UserError, match="layer1"):
        read_legacy(saved(tmp_path, {k: v for k, v in state.items() if "layer1" not in k}, "part.pkl"), PEOPLE)
    with pytest.raises(UserError, match="not a ResNet-50 of four channels"):
        read_legacy(saved(tmp_path, {"weight": torch.zeros(3)}, "other.pkl"), PEOPLE)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("kept")
    with pytest.raises(UserError, match="holds files already"):
        import_legacy(path, PEOPLE, tmp_path / "full")


class Evil:
    def __reduce__(self):
        return (open, ("ran", "w"))


@pytest.mark.parametrize("legacy", [False, True])
def test_nothing_in_a_file_is_run(tmp_path, monkeypatch, legacy):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pkl"
    if legacy:
        path.write_bytes(pickle.dumps({"conv1.weight": Evil()}))
    else:
        torch.save({"conv1.weight": Evil()}, path)
    with pytest.raises(UserError, match="read safely"):
        read_legacy(path, PEOPLE)
    assert not (tmp_path / "ran").exists()


def test_a_whole_pickled_model_is_refused_with_the_way_out(network, tmp_path):
    torch.save(network, tmp_path / "whole.pkl")
    with pytest.raises(UserError, match="read safely"):
        read_legacy(tmp_path / "whole.pkl", PEOPLE)
