"""The training loop: learns, stops on NaN, resumes bit for bit, refuses to resume something else."""

import dataclasses
import hashlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import Accelerator
from pytorch_metric_learning import losses as pml
from pytorch_metric_learning import miners
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

from face3d_lib.base.errors import UserError
from face3d_lib.data.pack import Pack
from face3d_lib.train import backbones, checkpoint, losses
from face3d_lib.train.augment import Augmentation
from face3d_lib.train.checkpoint import read_checkpoint
from face3d_lib.train.closed_set import predict, vectors_of
from face3d_lib.train.embedder import Architecture, Embedder
from face3d_lib.train.fit import (
    LEGACY_RECIPE,
    FitSettings,
    computes_bf16,
    fit,
    learning_rate,
    make_accelerator,
    make_optimizer,
)
from face3d_lib.train.losses import SoftmaxLoss
from face3d_lib.train.objective import Objective

SETTINGS = FitSettings(epochs=4, batch_size=16, lr=2e-3, precision="float32")
ENOUGH = dataclasses.replace(SETTINGS, epochs=8, batch_size=8)  # to learn the toy people
GENTLE = Augmentation(flip=0, rotation_deg=1, zoom=0.01, shift=0.01, erase=0)
NONE = (np.empty(0, int), np.empty(0, int))


def toy_pack(people=6, images=12, size=32, colour=True, depth=True, seed=0):
    """People told apart by their colour pattern, by their relief, or by both; in memory."""
    rng = np.random.default_rng(seed)
    n = people * images
    subject = np.repeat(np.arange(people), images)
    rows, columns = np.mgrid[:size, :size] / size

    def patterns(told_apart):
        phase = rng.uniform(0, 6, (people, 4)) if told_apart else np.tile(rng.uniform(0, 6, (1, 4)), (people, 1))
        a, b, c, d = (phase[subject, k][:, None, None] for k in range(4))
        return np.sin(5 * columns + a) * np.sin(5 * rows + b) + np.sin(9 * columns * rows + c) + np.cos(7 * rows + d)

    rgb = 128 + 45 * patterns(colour)[..., None] + rng.normal(0, 10, (n, size, size, 3))
    relief = 3 * patterns(depth) + rng.normal(0, 0.2, (n, size, size))
    codes = np.clip(relief * 1000 + 20000, 1, 65535).astype(np.uint16)
    index = pd.DataFrame(
        {"pair_id": [f"p{s}/{i}" for i, s in enumerate(subject)], "subject_id": [f"p{s}" for s in subject]}
    )
    scales = np.tile(np.float32([800, 0.001, 1.0]), (n, 1))
    info = {"sha256": {"index.csv": f"toy {people} {images} {seed} {colour} {depth}"}}
    return Pack(Path("toy"), info, index, rgb.clip(0, 255).astype(np.uint8), codes.view(np.int16), scales), subject


def halves(subject):
    rows = np.arange(len(subject))
    return (rows[rows % 3 > 0], subject[rows % 3 > 0]), (rows[rows % 3 == 0], subject[rows % 3 == 0])


@pytest.fixture(autouse=True)
def tiny_network(monkeypatch):
    small = {**backbones.SMALL, "channels": (8, 16, 16, 32)}
    monkeypatch.setattr("face3d_lib.train.backbones.SMALL", small)


def build(modality="rgb", classes=6, seed=0, **more):
    torch.manual_seed(seed)
    return Embedder(Architecture(modality, embedding_size=16, **more)), SoftmaxLoss(16, classes)


def weights(*modules):
    return {f"{i}.{k}": v.clone() for i, module in enumerate(modules) for k, v in module.state_dict().items()}


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert torch.equal(value, other[key]), key


@pytest.mark.parametrize("modality", ["rgb", "depth", "rgbd"])
def test_it_learns_people_and_records_it(tmp_path, modality):
    pack, subject = toy_pack()
    train, evaluation = halves(subject)
    embedder, loss = build(modality)
    untrained = (predict(embedder, loss, pack, evaluation[0]) == evaluation[1]).mean()
    history = fit(
        embedder,
        loss,
        pack,
        train,
        evaluation,
        tmp_path,
        dataclasses.replace(SETTINGS, epochs=8, batch_size=8),
        GENTLE,
        "cpu",
        False,
    )
    accuracy = (predict(embedder, loss, pack, evaluation[0]) == evaluation[1]).mean()
    assert untrained < 0.45
    assert accuracy > 0.8
    assert accuracy == history["eval_accuracy"].max()  # the best weights are the ones that are left
    assert history["loss"].iloc[-1] < 0.6 * history["loss"].iloc[0]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(1, 9))
    assert list((tmp_path / "tensorboard").iterdir())
    assert not list(tmp_path.glob(".new-*"))


def test_who_watches_each_epoch_changes_nothing(tmp_path):
    pack, subject = toy_pack()
    train, evaluation = halves(subject)
    settings, seen = dataclasses.replace(SETTINGS, epochs=2), []

    def watch(history):
        seen.append(history.copy())
        np.random.random(), torch.rand(1)  # noqa: NPY002
        history.loc[:, "eval_accuracy"] = 9.0

    def run(folder, on_epoch):
        network, loss = build()
        found = fit(
            network, loss, pack, train, evaluation, tmp_path / folder, settings, device="cpu", on_epoch=on_epoch
        )
        return weights(network, loss), found

    alone, history = run("alone", None)
    watched, again = run("watched", watch)
    assert_equal(alone, watched)
    assert [len(rows) for rows in seen] == [1, 2]
    pd.testing.assert_frame_equal(
        seen[-1][["epoch", "loss", "eval_accuracy"]], history[["epoch", "loss", "eval_accuracy"]]
    )
    assert again["eval_accuracy"].max() <= 1


def test_shuffled_labels_leave_it_at_chance(tmp_path):
    pack, subject = toy_pack()
    train, evaluation = halves(subject)
    shuffled = np.arange(len(train[1])) % 6  # of each person, every label alike
    embedder, loss = build("rgbd")
    fit(embedder, loss, pack, (train[0], shuffled), NONE, tmp_path, ENOUGH, GENTLE, "cpu", False)
    assert (predict(embedder, loss, pack, evaluation[0]) == evaluation[1]).mean() < 0.5


def test_a_modality_that_says_nothing_teaches_nothing(tmp_path):
    pack, subject = toy_pack(depth=False)
    train, evaluation = halves(subject)
    embedder, loss = build("depth")
    fit(embedder, loss, pack, train, NONE, tmp_path, ENOUGH, GENTLE, "cpu", False)
    assert (predict(embedder, loss, pack, evaluation[0]) == evaluation[1]).mean() < 0.4


@pytest.mark.parametrize(
    ("modality", "precision", "more"),
    [
        ("rgb", "float32", {}),
        ("rgbd", "float32", {}),
        ("rgbd", "bf16", {}),
        ("rgbd", "float32", {"fusion": "gated", "modality_dropout": 0.6}),  # draws from torch's generator in each step
    ],
)
def test_a_stopped_run_ends_as_one_that_never_stopped(tmp_path, monkeypatch, modality, precision, more):
    pack, subject = toy_pack()
    train, evaluation = halves(subject)
    settings = dataclasses.replace(SETTINGS, save_seconds=0, precision=precision)  # a checkpoint after every step

    def run(folder, seed=0):
        embedder, loss = build(modality, seed=seed, **more)
        history = fit(embedder, loss, pack, train, evaluation, folder, settings, Augmentation(), "cpu", False)
        return weights(embedder, loss), history.drop(columns=["seconds", "images_per_second", "data_share"])

    whole, history = run(tmp_path / "whole")
    saves = 0
    save = checkpoint.save_checkpoint

    def killed_in_the_third_epoch(*arguments):
        nonlocal saves
        save(*arguments)
        saves += 1
        if saves == 8:  # 3 steps an epoch: in the middle of the third
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("face3d_lib.train.fit.save_checkpoint", killed_in_the_third_epoch)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "stopped")
    torch.manual_seed(123)  # whatever else a kernel has drawn meanwhile
    resumed, resumed_history = run(tmp_path / "stopped", seed=5)
    assert_equal(whole, resumed)
    pd.testing.assert_frame_equal(history, resumed_history)
    again, _ = run(tmp_path / "stopped", seed=6)  # done: nothing is trained, the best weights are given back
    assert_equal(whole, again)


def test_each_step_of_each_seed_draws_its_own_numbers(tmp_path):
    pack, subject = toy_pack()
    draws = {}

    class Drawing(SoftmaxLoss):
        def forward(self, embeddings, labels):
            draws[run].append(torch.rand(()).item())
            return super().forward(embeddings, labels)

    for run, seed in enumerate((3, 3, 4)):
        draws[run] = []
        settings = dataclasses.replace(SETTINGS, epochs=2, seed=seed)
        embedder, _ = build(seed=run)
        fit(embedder, Drawing(16, 6), pack, halves(subject)[0], NONE, tmp_path / str(run), settings, None, "cpu", False)
    assert len(draws[0]) == 6, "3 steps an epoch"
    assert draws[0] == draws[1]
    assert len({*draws[0], *draws[2]}) == 12


def test_a_stop_signal_ends_the_step_saves_and_then_takes_effect(tmp_path, monkeypatch):
    pack, subject = toy_pack()
    train, evaluation = halves(subject)

    class Stopped(Exception):
        pass

    def stopped(number, frame):
        raise Stopped

    def run(folder):
        embedder, loss = build("rgb")
        fit(embedder, loss, pack, train, evaluation, folder, SETTINGS, Augmentation(), "cpu", False)
        return weights(embedder, loss)

    whole, steps = run(tmp_path / "whole"), 0
    clip = Accelerator.clip_grad_norm_

    def signalled(self, *arguments):  # in the middle of the fifth step: 3 steps an epoch
        nonlocal steps
        steps += 1
        if steps == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return clip(self, *arguments)

    before = signal.signal(signal.SIGTERM, stopped)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(Accelerator, "clip_grad_norm_", signalled)
            with pytest.raises(Stopped):
                run(tmp_path / "stopped")
    finally:
        signal.signal(signal.SIGTERM, before)
    saved = read_checkpoint(tmp_path / "stopped" / "last.pt")["state"]
    assert (saved["epoch"], saved["step"]) == (1, 2)
    assert_equal(whole, run(tmp_path / "stopped"))


HEADS = {  # every loss that has weights or a memory of its own
    "softmax": lambda: SoftmaxLoss(16, 6),
    "centre": lambda: losses.CentreLoss(16, 6),
    "arcface": lambda: pml.ArcFaceLoss(6, 16),
    "subcentre": lambda: pml.SubCenterArcFaceLoss(num_classes=6, embedding_size=16),
    "proxy_anchor": lambda: pml.ProxyAnchorLoss(6, 16),
    "adaface": lambda: losses.AdaFaceLoss(16, 6),
    "magface": lambda: losses.MagFaceLoss(16, 6),
    "triplet": lambda: losses.MinedLoss(pml.TripletMarginLoss(), miners.BatchHardMiner()),
}
KILLED = """
import sys, torch
sys.path[:0] = [{tests!r}, {root!r}]
import test_fit as t
torch.set_num_threads(1)
t.backbones.SMALL = {{**t.backbones.SMALL, "channels": (8, 16, 16, 32)}}
pack, subject = t.toy_pack()
settings = t.dataclasses.replace(t.SETTINGS, epochs=3, save_seconds=0, per_person=4)
for name in {names!r}:
    folder = {folder!r} + "/" + name
    embedder, _ = t.build("rgbd")
    torch.manual_seed(1)
    loss = t.HEADS[name]()
    t.fit(embedder, loss, pack, *t.halves(subject), folder, settings, t.Augmentation(), "cpu", False)
    torch.save(t.weights(embedder, loss), folder + ".pt")
"""


def test_killed_again_and_again_every_loss_ends_as_if_never_killed(tmp_path):
    """A real kill -9, at whatever step it hits, in the training of two losses, drawn anew each time (in full counts: all)."""
    random, interrupted = np.random.default_rng(), 0
    names = random.permutation(list(HEADS))[: len(HEADS) if os.environ.get("FACE3D_SLOW") else 2].tolist()

    def start(folder):
        here = Path(__file__).parent
        script = KILLED.format(tests=str(here), root=str(here.parents[1]), folder=str(tmp_path / folder), names=names)
        return subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(script)], env=os.environ | {"OMP_NUM_THREADS": "1"}
        )

    whole = start("whole")
    for name in names:
        process, folder = start("killed"), tmp_path / "killed" / name
        while not (folder / "last.pt").exists() and not folder.with_suffix(".pt").exists():
            assert process.poll() is None
            time.sleep(0.005)
        time.sleep(random.uniform(0, 0.3))
        process.kill()
        process.wait()
        interrupted += not folder.with_suffix(".pt").exists()
    assert interrupted
    assert start("killed").wait() == 0
    assert whole.wait() == 0
    for name in names:
        one, other = (torch.load(tmp_path / f / f"{name}.pt", weights_only=True) for f in ("whole", "killed"))
        assert_equal(one, other)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler, and there is none")
def test_compiled_branches_learn_the_same(tmp_path):
    """A minute of compiling; the same losses up to rounding, and files that do not know of it."""
    pack, subject = toy_pack()
    train, evaluation = halves(subject)
    found = {}
    for compiled in (False, True):
        embedder, loss = build("rgbd")
        settings = dataclasses.replace(SETTINGS, epochs=2, compile=compiled)
        history = fit(
            embedder, loss, pack, train, evaluation, tmp_path / str(compiled), settings, GENTLE, progress=False
        )
        found[compiled] = history["loss"].to_numpy(), set(embedder.state_dict())
    np.testing.assert_allclose(found[True][0], found[False][0], rtol=1e-3)
    assert found[True][1] == found[False][1]


def test_another_run_is_not_resumed(tmp_path):
    pack, subject = toy_pack()
    train, evaluation = halves(subject)
    short = dataclasses.replace(SETTINGS, epochs=1)
    fit(*build(), pack, train, evaluation, tmp_path, short, GENTLE, "cpu", False)
    changed = dataclasses.replace(short, lr=1e-3)
    with pytest.raises(UserError, match=r"lr: 0\.002 -> 0\.001; modality: rgb -> depth"):
        fit(*build("depth"), pack, train, evaluation, tmp_path, changed, GENTLE, "cpu", False)
    with pytest.raises(UserError, match="train_labels"):
        fit(
            *build(),
            pack,
            (train[0], train[1][::-1].copy()),
            evaluation,
            tmp_path,
            short,
            GENTLE,
            "cpu",
            False,
        )
    (tmp_path / "last.pt").write_bytes((tmp_path / "last.pt").read_bytes()[:3000])
    with pytest.raises(UserError, match="delete it"):
        fit(*build(), pack, train, evaluation, tmp_path, short, GENTLE, "cpu", False)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_state(tmp_path):
    class Breaks(SoftmaxLoss):
        calls = 0

        def forward(self, embeddings, labels):
            self.calls += 1
            return super().forward(embeddings, labels) * (float("nan") if self.calls > 5 else 1)

    pack, subject = toy_pack()
    train, evaluation = halves(subject)
    embedder, _ = build()
    with pytest.raises(UserError, match=r"epoch 2, step 3: .*not finite"):
        fit(embedder, Breaks(16, 6), pack, train, evaluation, tmp_path, SETTINGS, GENTLE, "cpu", False)
    state = read_checkpoint(tmp_path / "last.pt")
    bad = json.loads((tmp_path / "bad_step.json").read_text())
    assert (bad["epoch"], bad["step"], len(bad["pairs"])) == (2, 3, 16)
    assert state["state"]["epoch"] == 1
    assert all(torch.isfinite(value).all() for value in state["objective"].values())


def test_any_loss_called_with_embeddings_and_labels_will_do(tmp_path):
    class Pull(nn.Module):  # without weights, without get_logits, as a contrastive loss is
        def forward(self, embeddings, labels):
            same = labels[:, None] == labels
            distance = torch.cdist(nn.functional.normalize(embeddings), nn.functional.normalize(embeddings) + 1e-4)
            return distance[same].mean() + (1 - distance[~same]).clamp_min(0).mean()

    pack, subject = toy_pack()
    train, evaluation = halves(subject)
    embedder, _ = build("rgbd")
    settings = dataclasses.replace(SETTINGS, epochs=2)
    history = fit(embedder, Pull(), pack, train, evaluation, tmp_path, settings, GENTLE, "cpu", False)
    assert history["train_accuracy"].isna().all()
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])["train_accuracy"] is None
    # people are named by the nearest mean of the training embeddings, here as scikit-learn does it
    unit = {name: nn.functional.normalize(vectors_of(embedder, pack, part[0])).cpu().numpy() for name, part in
            {"train": train, "evaluation": evaluation}.items()}  # fmt: skip
    means = np.stack([unit["train"][train[1] == c].mean(0) for c in range(6)])
    nearest = KNeighborsClassifier(1, metric="cosine").fit(means, range(6)).predict(unit["evaluation"])
    assert (predict(embedder, Pull(), pack, evaluation[0], train) == nearest).all()
    assert history["eval_accuracy"].max() == pytest.approx((nearest == evaluation[1]).mean())


def test_losses_see_float32_and_their_weights_stay_float32_under_bf16(tmp_path):
    class Watch(SoftmaxLoss):
        def forward(self, embeddings, labels):
            assert embeddings.dtype == torch.float32
            assert self.get_logits(embeddings).dtype == torch.float32
            return super().forward(embeddings, labels)

    pack, subject = toy_pack()
    train, evaluation = halves(subject)
    embedder, _ = build("rgbd")
    loss = Watch(16, 6)
    settings = dataclasses.replace(SETTINGS, epochs=1, precision="bf16")
    fit(embedder, loss, pack, train, evaluation, tmp_path, settings, GENTLE, "cpu", False)
    assert {p.dtype for p in [*embedder.parameters(), *loss.parameters()]} == {torch.float32}


def test_each_branch_has_a_loss_of_its_own():
    embedder, loss = build("rgbd")
    objective = Objective(embedder, loss, 0.5)
    assert len(objective.branch_losses) == 2
    pack, subject = toy_pack()
    batch, labels = pack.batch(np.arange(8)), torch.from_numpy(subject[:8])
    embedder.eval()
    total, _, _ = objective(batch, labels)
    parts = [
        head(e, labels) for head, e in zip([loss, *objective.branch_losses], embedder.branches(batch), strict=True)
    ]
    assert torch.allclose(total, parts[0] + 0.5 * (parts[1] + parts[2]))
    assert objective.branch_losses[0].linear.weight is not loss.linear.weight
    assert len(Objective(build("rgb")[0], loss, 0.5).branch_losses) == 0


@pytest.mark.parametrize("fusion", ["parallel", "joined"])
def test_what_is_watched_is_the_loss_that_trains_the_branches(fusion):
    embedder, _ = build("rgbd", fusion=fusion)
    objective = Objective(embedder.eval(), losses.MarginLoss(pml.ArcFaceLoss(6, 16)), 0.5)
    pack, subject = toy_pack()
    batch, labels = pack.batch(np.arange(8)), torch.from_numpy(subject[:8])
    objective(batch, labels)
    joint, *alone = (head.loss.get_cosine(e).gather(1, labels[:, None]).acos().rad2deg().mean().item() for head, e in
                     zip([objective.loss, *objective.branch_losses], embedder.branches(batch), strict=True))  # fmt: skip
    assert abs(joint - np.mean(alone)) > 0.1
    expected = np.mean(alone) if fusion == "parallel" else joint
    assert objective.watch()["angle_deg"] == pytest.approx(expected, rel=1e-5)
    assert np.isnan(objective.watch()["angle_deg"])  # begun anew


def test_a_branch_can_come_as_near_to_its_class_as_a_network_alone():
    """Weights of a loss that a branch cannot reach would keep every cosine below 1."""
    embedder, _ = build("rgbd", fusion="parallel")
    embedder.eval()
    _, colour, depth = embedder.branches(toy_pack()[0].batch(np.arange(2)))
    for alone in (colour, depth):
        assert (alone != 0).all()
        assert torch.equal(alone[:, :8], alone[:, 8:])


def test_the_learning_rate_by_hand():
    settings = FitSettings(lr=1.0, warmup=0.2)
    rates = [learning_rate(step, 10, 5, settings) for step in range(10)]
    assert rates[:2] == [0.5, 1.0]
    assert rates[5] == pytest.approx(0.5 * (1 + np.cos(np.pi * 4 / 9)))
    assert rates == sorted(rates[:2]) + sorted(rates[2:], reverse=True)
    assert 0 < rates[-1] < 0.05


def test_an_accelerator_can_be_made_twice_in_a_kernel_and_asks_for_what_is_there():
    assert make_accelerator("bf16", "cpu").mixed_precision == "bf16"
    assert make_accelerator("float32", "cpu").mixed_precision == "no"
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="no GPU"):
            make_accelerator("auto", "cuda")
    with pytest.raises(UserError, match="tpu"):
        make_accelerator("auto", "tpu")


@pytest.mark.parametrize(
    ("able", "precision"),
    [({}, "no"), ({"amx_bf16": True}, "bf16"), ({"avx512_bf16": True}, "bf16"), ({"avx512_f": True}, "no")],
)
def test_precision_is_bf16_only_where_the_processor_multiplies_it(monkeypatch, able, precision):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert make_accelerator("auto", "cpu").mixed_precision == precision
    assert make_accelerator("float32", "cpu").mixed_precision == "no"


def test_a_run_in_bf16_does_not_go_on_in_float32_unsaid(tmp_path, monkeypatch):
    pack, labels = toy_pack()
    data = (np.arange(len(labels)), labels)
    settings = dataclasses.replace(SETTINGS, epochs=1, precision="auto")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    fit(*build(), pack, data, NONE, tmp_path, settings, GENTLE, "cpu", False)
    fit(*build(), pack, data, NONE, tmp_path, settings, GENTLE, "cpu", False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    with pytest.raises(UserError, match="precision: bf16 -> no"):
        fit(*build(), pack, data, NONE, tmp_path, settings, GENTLE, "cpu", False)


def test_a_gpu_that_imitates_bf16_trains_in_float32(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert not computes_bf16(on_cpu=False)


def test_one_person_to_train_on_is_refused(tmp_path):
    pack, _ = toy_pack()
    rows = np.arange(12)
    with pytest.raises(UserError, match="1 person to train on"):
        fit(*build(), pack, (rows, np.zeros(12, int)), NONE, tmp_path, SETTINGS, GENTLE, "cpu", False)


def test_two_people_with_one_picture_each_are_enough(tmp_path):
    pack, subject = toy_pack(people=2, images=2)
    train = np.array([0, 2]), subject[[0, 2]]
    for name, per_person, head in [
        ("plain", 0, SoftmaxLoss(16, 2)),
        ("P x K", 2, losses.MinedLoss(pml.ContrastiveLoss())),
    ]:
        settings = dataclasses.replace(SETTINGS, epochs=2, batch_size=4, per_person=per_person)
        embedder, _ = build("rgbd")
        history = fit(embedder, head, pack, train, NONE, tmp_path / name, settings, GENTLE, "cpu", False)
        assert len(history) == 2
        assert history["eval_accuracy"].isna().all()
        assert history["best"].all(), "without evaluation pictures the last epoch is the best one so far"
        named = predict(embedder, head, pack, train[0], train)
        assert len(named) == 2


@pytest.mark.parametrize(("batch_size", "n"), [(1, 4), (2, 5)])
def test_a_batch_of_one_pair_is_refused_before_training(tmp_path, batch_size, n):
    pack, subject = toy_pack(people=2, images=5)
    rows = np.r_[0:n:2, 5 : 5 + n // 2]
    settings = dataclasses.replace(SETTINGS, batch_size=batch_size)
    with pytest.raises(UserError, match=rf"batch_size = {batch_size}: .*choose a larger"):
        fit(*build(classes=2), pack, (rows, subject[rows]), NONE, tmp_path, settings, GENTLE, "cpu", False)
    assert not (tmp_path / "last.pt").exists()


def test_parallel_branches_without_a_loss_of_their_own_are_refused(tmp_path):
    pack, subject = toy_pack()
    alone = dataclasses.replace(SETTINGS, branch_weight=0)
    with pytest.raises(UserError, match="branch_weight = 0"):
        fit(*build("rgbd"), pack, halves(subject)[0], NONE, tmp_path, alone, GENTLE, "cpu", False)


def test_an_encoding_that_the_depth_has_no_unit_for_is_refused(tmp_path):
    pack, subject = toy_pack()
    pack.info["source"] = {"depth_unit": "pixel"}
    train, _ = halves(subject)
    with pytest.raises(UserError, match="nose_depth"):
        fit(*build("depth", encoding="nose_depth"), pack, train, NONE, tmp_path, SETTINGS, GENTLE, "cpu", False)


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    pack, subject = toy_pack()
    train, evaluation = halves(subject)
    settings, write, written = dataclasses.replace(SETTINGS, save_seconds=0), checkpoint.write_bytes, []

    def full(path, data):
        written.append(path)
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        write(path, data)

    def run(folder):
        embedder, loss = build()
        fit(embedder, loss, pack, train, evaluation, folder, settings, GENTLE, "cpu", False)
        return weights(embedder, loss)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_bytes", full)
        with pytest.raises(UserError, match=r"last\.pt: .*No space left.*the one before it is whole"):
            run(tmp_path / "full")
    assert read_checkpoint(tmp_path / "full" / "last.pt")["state"]["step"] == 1
    assert_equal(run(tmp_path / "full"), run(tmp_path / "whole"))


def test_an_altered_checkpoint_is_refused_whatever_byte_differs(tmp_path):
    path = tmp_path / "last.pt"
    checkpoint.write_checkpoint(path, {"objective": {"w": torch.arange(1000.0)}})
    assert torch.equal(read_checkpoint(path)["objective"]["w"], torch.arange(1000.0))
    good = path.read_bytes()
    for place in (0, 700, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        with pytest.raises(UserError, match=r"cut or altered.*delete it"):
            read_checkpoint(path)


def test_a_checkpoint_that_wants_to_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "run"),))

    data = pickle.dumps(Evil())
    (tmp_path / "last.pt").write_bytes(data + hashlib.sha256(data).digest())
    with pytest.raises(UserError, match="delete it"):
        read_checkpoint(tmp_path / "last.pt")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), MemoryError()]
)
def test_too_little_memory_says_what_to_lower(tmp_path, error):
    class Large(SoftmaxLoss):
        def forward(self, embeddings, labels):
            raise error

    pack, subject = toy_pack()
    with pytest.raises(UserError, match=r"out of memory: lower batch_size \(now 16\)"):
        fit(build()[0], Large(16, 6), pack, halves(subject)[0], NONE, tmp_path, SETTINGS, GENTLE, "cpu", False)


def test_the_legacy_recipe_by_hand():
    recipe = LEGACY_RECIPE
    rates = [learning_rate(step, 250, 10, recipe) for step in (0, 69, 70, 139, 140, 249)]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-6])
    optimizer = make_optimizer(Objective(*build(), 0.5), recipe)
    assert isinstance(optimizer, torch.optim.SGD)
    assert {(g["momentum"], g["weight_decay"]) for g in optimizer.param_groups} == {(0.9, 0)}
    assert (recipe.batch_size, recipe.clip_norm, recipe.warmup) == (16, 0, 0)


def test_what_a_loss_watches_becomes_a_column(tmp_path):
    pack, subject = toy_pack()
    loss = losses.MinedLoss(pml.TripletMarginLoss(), miners.BatchHardMiner())
    settings = dataclasses.replace(SETTINGS, epochs=2, per_person=4)
    history = fit(build()[0], loss, pack, halves(subject)[0], NONE, tmp_path, settings, GENTLE, "cpu", False)
    assert set(loss.watches) <= set(history.columns)
    assert history[list(loss.watches)].notna().all().all()
