"""Fine-tuning: what is frozen does not move by one bit, what is tuned does, and made-up names teach nothing."""

import dataclasses

import numpy as np
import pytest
import torch
from test_embedder import faces
from test_fit import toy_pack

from face3d_lib.base.errors import UserError
from face3d_lib.evaluate.embed import embed_batch
from face3d_lib.train import fit as training
from face3d_lib.train.embedder import Architecture, Embedder
from face3d_lib.train.fit import FitSettings, fit, make_optimizer
from face3d_lib.train.losses import SoftmaxLoss
from face3d_lib.train.objective import Objective
from face3d_lib.train.tuning import freeze, make_tail, tail_inputs, tail_vectors, tune

SETTINGS = FitSettings(epochs=3, batch_size=8, lr=1e-3, precision="float32")
NONE = (np.empty(0, int), np.empty(0, int))
# The first and the last weight of the layers that "last_block" trains before the neck, written down from the papers'
# and the packages' own names of layers
BLOCKS = {
    "small": ("layer4.0.conv1.weight", "layer4.0.downsample.1.bias"),
    "resnet18": ("layer4.1.conv1.weight", "layer4.1.bn2.bias"),
    "resnet50": ("layer4.2.conv1.weight", "layer4.2.bn3.bias"),
    "facenet": ("block8.branch0.conv.weight", "block8.conv2d.bias"),
    "dlib": ("16.first.weight", "16.second.bias"),
    "efficientnet_lite0": ("blocks.6.0.conv_pw.weight", "bn2.bias"),
}
SIZES = {"facenet": 75, "dlib": 150}


def build(backbone="small", modality="rgb", seed=0, size=16, **more):
    torch.manual_seed(seed)
    return Embedder(Architecture(modality, backbone, embedding_size=size, **more))


def trained(module):
    return [name for name, weight in module.named_parameters() if weight.requires_grad]


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def moved(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("backbone", BLOCKS)
def test_the_last_block_is_the_last_block(backbone):
    embedder = freeze(build(backbone), "last_block")
    names = [name.removeprefix("branch.0.backbone.") for name in trained(embedder)]
    block = [name for name in names if not name.startswith("branch.0.neck")]
    assert (block[0], block[-1]) == BLOCKS[backbone]
    every = [name for name, _ in embedder.branch[0].backbone.named_parameters()]
    assert block == every[every.index(block[0]) :]
    assert names[len(block) :] == [f"branch.0.neck.{name}" for name, _ in embedder.branch[0].neck.named_parameters()]
    assert all(name.startswith("branch.0.neck.") for name in trained(freeze(embedder, "head")))
    assert trained(freeze(embedder, "all")) == [name for name, _ in embedder.named_parameters()]


@pytest.mark.parametrize("backbone", BLOCKS)
@pytest.mark.parametrize("tuned", ["head", "last_block"])
def test_what_is_frozen_does_not_move_by_one_bit(backbone, tuned):
    embedder = freeze(build(backbone), tuned)
    objective = Objective(embedder, SoftmaxLoss(16, 2), 0.5)
    optimizer, before, names = make_optimizer(objective, SETTINGS), state(embedder), trained(embedder)
    for seed in range(2):
        embedder.train()
        batch = faces(4, SIZES.get(backbone, 64), seed)
        objective(batch, torch.tensor([0, 0, 1, 1]))[0].backward()
        optimizer.step()
        optimizer.zero_grad()
    changed = moved(before, embedder.state_dict())
    weights = {name for name, _ in embedder.named_parameters()}
    assert changed & weights == set(names)
    layers = {name.rpartition(".")[0] for name in names}
    assert {name.rpartition(".")[0] for name in changed - weights} <= layers, "statistics of a frozen layer moved"
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(names) + 2  # and those of the loss
    assert len(optimizer.state) == len(names) + 2


def test_statistics_of_tuned_layers_move_and_those_of_frozen_layers_would_without_evaluation_mode():
    embedder = freeze(build(), "last_block")
    before = state(embedder)
    embedder.train()(faces(4, 64))
    means = {name for name in moved(before, embedder.state_dict()) if name.endswith("running_mean")}
    assert means
    assert all(name.startswith(("branch.0.backbone.layer4", "branch.0.neck")) for name in means)
    freeze(embedder, "all").train()(faces(4, 64, seed=1))
    assert moved(before, embedder.state_dict()) > means


@pytest.mark.parametrize("fusion", ["parallel", "joined", "attention", "early"])
def test_two_branches_are_frozen_alike(fusion):
    embedder = freeze(build("small", "rgbd", fusion=fusion), "head")
    assert {name.split(".")[0 if name.startswith("fusion") else 2] for name in trained(embedder)} <= {"neck", "fusion"}
    assert sum(".neck." in name for name in trained(embedder)) >= len(embedder.branch)
    assert any(name.startswith("fusion") for name in trained(embedder)) == (fusion in ("joined", "attention"))


def run_fit(folder, tuned, epochs=4, **more):
    pack, subject = toy_pack()
    embedder, loss = freeze(build(), tuned), SoftmaxLoss(16, 6)
    before = state(embedder)
    rows = np.arange(len(subject))
    settings = dataclasses.replace(SETTINGS, epochs=epochs)
    fit(embedder, loss, pack, (rows, subject), NONE, folder, settings, device="cpu", progress=False, **more)
    return before, embedder


@pytest.mark.parametrize("tuned", ["head", "last_block"])
def test_a_tuning_that_was_killed_ends_as_if_never_killed(tmp_path, monkeypatch, tuned):
    before, whole = run_fit(tmp_path / "whole", tuned)
    assert moved(before, whole.state_dict()) & {n for n, _ in whole.named_parameters()} == set(trained(whole))
    saved = []

    def killed_in_the_third_epoch(*arguments):
        saved.append(arguments)
        if len(saved) == 3:
            raise KeyboardInterrupt
        return keep(*arguments)

    keep = training.save_checkpoint
    with monkeypatch.context() as patch:
        patch.setattr("face3d_lib.train.fit.save_checkpoint", killed_in_the_third_epoch)
        with pytest.raises(KeyboardInterrupt):
            run_fit(tmp_path / "killed", tuned)
    _, resumed = run_fit(tmp_path / "killed", tuned)
    assert not moved(whole.state_dict(), resumed.state_dict())
    with pytest.raises(UserError, match=r"frozen: \d+ tensors \(\w+\) -> nothing"):
        run_fit(tmp_path / "killed", "all")


@pytest.mark.parametrize("modality", ["rgb", "depth", "rgbd"])
@pytest.mark.parametrize("tuned", ["head", "last_block", "all"])
def test_the_tail_on_its_inputs_is_the_network(modality, tuned):
    pack, _ = toy_pack()
    embedder = build("small", modality, fusion="early").eval()
    embedder.train()(pack.batch(np.arange(8)))  # statistics that are not those of the start
    rows = np.array([5, 0, 17])
    inputs = tail_inputs(embedder, tuned, pack, rows, batch_size=2)
    found = tail_vectors(make_tail(embedder, tuned), inputs)
    np.testing.assert_allclose(found, embed_batch(embedder, pack.batch(rows)).numpy(), atol=2e-6)


def test_tuning_a_tail_leaves_the_network_as_it_was_and_is_repeatable():
    pack, subject = toy_pack()
    embedder = build()
    before = state(embedder)
    inputs = tail_inputs(embedder, "last_block", pack, np.arange(12))
    ends = []
    for _ in range(2):
        torch.manual_seed(0)
        tail, loss = make_tail(embedder, "last_block"), SoftmaxLoss(16, 6)
        torch.manual_seed(len(ends))  # the global generator has no say
        history = tune(tail, loss, inputs, subject[:12], SETTINGS)
        ends.append(tail_vectors(tail, inputs))
    np.testing.assert_array_equal(*ends)
    assert len(history) == SETTINGS.epochs
    assert not moved(before, embedder.state_dict())
    assert not any(weight.grad is not None for weight in embedder.parameters())


def test_a_tail_of_two_branches_and_a_loss_without_end_are_refused():
    pack, subject = toy_pack()
    with pytest.raises(ValueError, match="one branch"):
        make_tail(build("small", "rgbd"), "head")
    embedder = build()
    inputs = tail_inputs(embedder, "head", pack, np.arange(12))
    with pytest.raises(UserError, match="epoch 1, step 1: the loss is not finite: lower lr"):
        tune(make_tail(embedder, "head"), SoftmaxLoss(16, 6), inputs * np.inf, subject[:12], SETTINGS)


def accuracy_of_tuning(shuffled: bool, seeds=4) -> float:
    """Share of held pictures that are named rightly after a tuning to four of the six toy people's pictures."""
    pack, subject = toy_pack(images=8)
    embedder, rows = build(size=32), np.arange(len(subject))
    held = rows % 2 == 1
    right = []
    inputs = tail_inputs(embedder, "last_block", pack, rows)
    for seed in range(seeds):
        names = np.random.default_rng(seed).permutation(subject[~held]) if shuffled else subject[~held]
        torch.manual_seed(seed)
        tail, loss = make_tail(embedder, "last_block"), SoftmaxLoss(32, 6)
        tune(tail, loss, inputs[~held], names, FitSettings(epochs=30, batch_size=12, lr=2e-3, seed=seed))
        vectors = tail_vectors(tail, inputs)
        means = np.stack([vectors[~held][names == person].mean(0) for person in range(6)])
        right.append(((vectors[held] @ means.T).argmax(1) == subject[held]).mean())
    return float(np.mean(right))


def test_shuffled_names_teach_nothing_about_held_pictures():
    assert accuracy_of_tuning(shuffled=False) > 0.7
    assert accuracy_of_tuning(shuffled=True) < 0.35  # chance is 1/6; the mean of 4 x 24 dependent answers scatters
