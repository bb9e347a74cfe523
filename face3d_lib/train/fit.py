"""The one training loop: any embedder, any loss called as loss(embeddings, labels), on a laptop or a GPU box.

Everything random is a function of (seed, epoch, pair) or (seed, step), and the learning rate of the step alone, so
a run that was killed and started again goes on from its last checkpoint and ends with the weights of a run that was
never stopped: on CPU with the same number of threads, bit for bit. Under torchrun every process takes its share of
the same batches, and the loss sees the embeddings of all of them: N processes compute what one would.
"""

import json
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
import torch.distributed
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from tqdm.auto import tqdm

from ..base.atomic import plain, write_json, write_text
from ..base.errors import UserError
from ..data.pack import Pack
from .augment import Augmentation
from .batches import epoch_batches, person_batches, train_batches
from .checkpoint import State, identify, load_checkpoint, read_checkpoint, save_checkpoint, write_checkpoint
from .closed_set import classify, closed_set_accuracy
from .draws import STEP, random_stream
from .embedder import Embedder
from .encodings import require_meaning
from .objective import Objective


@dataclass(frozen=True)
class FitSettings:
    """How to train; the defaults are the recipe of the notebooks, `RECIPE_2019` that of the project before."""

    epochs: int = 12
    batch_size: int = 32  # pairs in one step, over all processes together
    per_person: int = 0  # pictures of each person in a batch (P x K batches); 0: pairs in any order
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = 6e-3  # the highest, after the warm-up
    schedule: Literal["cosine", "step"] = "cosine"  # step: a tenth after every 7 epochs
    warmup: float = 0.2  # share of the steps, rising linearly from 0
    weight_decay: float = 0.05  # of matrices and filters; not of biases and normalisation
    clip_norm: float = 5.0  # longest gradient; 0: any length
    branch_weight: float = 0.5  # of the losses on single branches, where the embedder has several
    seed: int = 0
    precision: Literal["auto", "float32", "bf16"] = "auto"  # auto: bf16 where the processor computes in it
    compile: bool = False  # torch.compile of the branches: minutes at the start, faster steps on a GPU
    save_seconds: float = 60.0  # between checkpoints within an epoch; one is written after each epoch anyway


# SGD as in the project of 2019: 1e-3, momentum .9, a tenth every 7 epochs, batches of 16, nothing else
RECIPE_2019 = FitSettings(
    epochs=25, batch_size=16, optimizer="sgd", lr=1e-3, schedule="step", warmup=0, weight_decay=0, clip_norm=0,
    precision="float32",
)  # fmt: skip


def fit(
    embedder: Embedder,
    loss: nn.Module,
    pack: Pack,
    train: tuple[np.ndarray, np.ndarray],
    evaluation: tuple[np.ndarray, np.ndarray],
    folder: Path,
    settings: FitSettings = FitSettings(),
    augmentation: Augmentation | None = Augmentation(),  # noqa: B008
    device: str | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Train `embedder` and `loss` in place; both end with the weights of the best epoch.

    train, evaluation: (rows of the pack (n,), labels (n,) 0..C-1). The best epoch has the highest closed-set
    accuracy on `evaluation`, the last of equals; without such rows it is the last epoch.

    Returns a row per epoch: epoch, loss, train_accuracy (NaN for a loss without `get_logits`), eval_accuracy (NaN
    without evaluation rows), lr, images_per_second, data_share (of the time, waiting for data), seconds, and what the
    loss's `watch()` gives. In `folder`: metrics.jsonl (the same), tensorboard/, last.pt (to resume from), best.pt.
    Called again with the same arguments it resumes, or returns at once when it was done. UserError: other arguments
    than those of last.pt (it lists which), an altered last.pt, a loss that is not finite (last.pt stays good,
    bad_step.json names the pairs), a device that is not there, too little memory or disk, one person in training,
    branches without a loss.
    """
    objective = Objective(embedder, loss, settings.branch_weight)
    check_training(objective, pack, train)
    accelerator = make_accelerator(settings.precision, device)
    folder = Path(broadcast_object_list([str(folder)])[0])  # that of rank 0
    folder.mkdir(parents=True, exist_ok=True)
    objective.to(accelerator.device, memory_format=torch.channels_last)
    if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(objective)  # torch has it for GPUs alone
    optimizer = make_optimizer(objective, settings)
    identity = identify(objective, pack, train, evaluation, settings, augmentation)
    identity["precision"] = accelerator.mixed_precision  # what "auto" came to: another processor may choose otherwise
    state = load_checkpoint(folder / "last.pt", objective, optimizer, identity)
    accelerator.wait_for_everyone()
    pack = pack.resident(accelerator.device)
    if settings.compile:
        for branch in embedder.branch:
            branch.compile()
    model, wrapped = accelerator.prepare(objective, optimizer)
    steps, main = steps_of(train, settings), accelerator.is_main_process
    board = SummaryWriter(folder / "tensorboard", purge_step=state.epoch * steps) if main else None

    def save():
        if main:
            save_checkpoint(folder / "last.pt", objective, optimizer, identity, state)

    total, done = settings.epochs * steps, state.epoch * steps + state.step
    with (
        tqdm(total=total, initial=done, disable=not (progress and main)) as bar,
        stops_between_steps() as stop,
        memory_errors(settings),
    ):
        while state.epoch < settings.epochs:
            bar.set_description(f"epoch {state.epoch + 1}/{settings.epochs}")
            train_epoch(
                accelerator, model, wrapped, pack, train, settings, augmentation, state, save, bar, stop, folder
            )
            if stop:
                break
            accuracy = closed_set_accuracy(embedder, loss, pack, *evaluation, train=train, accelerator=accelerator)
            row = state.close_epoch(accuracy, optimizer.param_groups[0]["lr"], objective.watch())
            if main:
                for name, value in row.items():
                    board.add_scalar(name, value, state.epoch * steps)
                if row["best"]:
                    write_checkpoint(folder / "best.pt", objective.state_dict())
                save()
                lines = [json.dumps(plain(row)) for row in state.history]
                write_text(folder / "metrics.jsonl", "\n".join(lines) + "\n")
    if board:
        board.close()
    accelerator.wait_for_everyone()
    if state.epoch == settings.epochs:
        objective.load_state_dict(read_checkpoint(folder / "best.pt"))
    embedder.eval()
    return pd.DataFrame(state.history)


def steps_of(train, settings: FitSettings) -> int:
    """Steps of an epoch: nothing is dropped."""
    return max(1, -(-len(train[0]) // settings.batch_size))


def check_training(objective: Objective, pack: Pack, train) -> None:
    """UserError where training would mean nothing: one person, an encoding that the depth has no unit for, no loss."""
    if len(np.unique(train[1])) < 2:
        raise UserError(f"{len(np.unique(train[1]))} person to train on: nobody to be told apart from; add people")
    architecture = objective.embedder.architecture
    if objective.branches_alone and not objective.branch_weight:
        raise UserError("branch_weight = 0: parallel branches learn from their own losses alone; give these a weight")
    unit = pack.info.get("source", {}).get("depth_unit")
    if unit and architecture.modality != "rgb":
        require_meaning(architecture.encoding, unit)


@contextmanager
def stops_between_steps() -> Iterator[list[int]]:
    """A list that a stopping signal fills. It takes effect when the block ends: no step is cut in two, all is saved."""
    signals, previous = [], {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGUSR1):
            previous[number] = signal.signal(number, lambda number, frame: signals.append(number))
    try:
        yield signals
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        if signals:
            os.kill(os.getpid(), signals[0])


@contextmanager
def memory_errors(settings: FitSettings) -> Iterator[None]:
    """Too little memory as one line that says what to lower."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        said = any(words in str(error) for words in ("out of memory", "not enough memory", "can't allocate memory"))
        if not said and not isinstance(error, MemoryError):
            raise
        fix = f"lower batch_size (now {settings.batch_size}) or the size of the network or its input"
        raise UserError(f"out of memory: {fix}; the same command then goes on or starts anew") from error


def train_epoch(
    accelerator, model, optimizer, pack, train, settings, augmentation, state, save, bar, stop, folder
) -> None:
    """The steps of one epoch that `state` has not seen yet; `state` is brought to its end, or saved where `stop` fills."""
    device, seed, (rows, labels) = accelerator.device, settings.seed, train
    steps = steps_of(train, settings)
    glance = 1 if device.type == "cpu" else 20  # reading a number waits for a GPU
    alone = accelerator.num_processes == 1  # among several, all look at the same steps
    totals = torch.tensor(state.totals, dtype=torch.float64, device=device)
    clock = Clock(state.seconds, state.waited)
    saved = time.monotonic()
    model.train()
    options = {"first_step": state.step, "per_person": settings.per_person}
    options |= {"rank": accelerator.process_index, "world": accelerator.num_processes}
    where = (settings.batch_size, seed, state.epoch, device)
    for batch, target in clock.waiting_for(train_batches(pack, rows, labels, *where, augmentation, **options)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(state.epoch * steps + state.step, settings.epochs * steps, steps, settings)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(random_stream(STEP, seed, state.epoch, state.step))  # dropout, miners
            loss, embeddings, target = model(batch, target)
        accelerator.backward(loss)
        norm = accelerator.clip_grad_norm_(model.parameters(), settings.clip_norm or math.inf)
        optimizer.step()
        optimizer.zero_grad()
        right = (classify(accelerator.unwrap_model(model).loss, embeddings) == target).sum()
        seen = torch.full_like(right, len(target))
        totals += torch.stack([(loss.detach() + 0 * norm) * len(target), right, seen])  # a bad norm spoils it
        state.step += 1
        bar.update()
        if state.step % glance == 0 or state.step == steps or (stop and alone):
            state.totals = tuple(totals.tolist())
            state.seconds, state.waited = clock.read()
            if not math.isfinite(state.totals[0]):
                _report_bad_step(folder, pack, train, settings, state, accelerator)
            _show(bar, state)
            if agreed_stop(stop, accelerator):
                save()
                return
            if time.monotonic() - saved > settings.save_seconds and state.step < steps:
                save()
                saved = time.monotonic()
    if not hasattr(accelerator.unwrap_model(model).loss, "get_logits"):
        state.totals = (state.totals[0], -1.0, state.totals[2])


def agreed_stop(stop: list[int], accelerator) -> bool:
    """Whether any process was asked to stop; then all stop after the same step, and none waits for another."""
    if accelerator.num_processes == 1:
        return bool(stop)
    asked = torch.tensor([stop[0] if stop else 0], device=accelerator.device)
    number = int(accelerator.gather(asked).max())
    if number and not stop:
        stop.append(number)
    return bool(number)


class Clock:
    """Seconds since the epoch began, over all runs that worked at it, and how many of them went into waiting."""

    def __init__(self, seconds: float, waited: float):
        self.begun, self.waited = time.monotonic() - seconds, waited

    def waiting_for(self, batches):
        """Each of `batches`, the time until it is there counted."""
        batches = iter(batches)
        while True:
            asked = time.monotonic()
            batch = next(batches, None)
            self.waited += time.monotonic() - asked
            if batch is None:
                return
            yield batch

    def read(self) -> tuple[float, float]:
        return time.monotonic() - self.begun, self.waited


def _show(bar, state: State) -> None:
    loss, right, n = state.totals
    speed, waiting = n / state.seconds, state.waited / state.seconds
    bar.set_postfix(loss=f"{loss / n:.3f}", accuracy=f"{right / n:.3f}", images_s=f"{speed:.0f}", data=f"{waiting:.0%}")


def _report_bad_step(folder, pack, train, settings, state, accelerator) -> None:
    """Write bad_step.json with the pairs of the last step and raise UserError."""
    if accelerator.is_main_process:
        size, k, where = settings.batch_size, settings.per_person, (settings.seed, state.epoch)
        steps = person_batches(train[1], size, k, *where) if k else epoch_batches(len(train[0]), size, *where)
        pairs = [str(pack.index["pair_id"].iloc[row]) for row in train[0][steps[state.step - 1]]]
        write_json(folder / "bad_step.json", {"epoch": state.epoch + 1, "step": state.step, "pairs": pairs})
    raise UserError(
        f"epoch {state.epoch + 1}, step {state.step}: the loss or its gradient is not finite (bad_step.json names the "
        "pairs); last.pt holds a good state from before: lower lr or the margin, or raise warmup"
    )


def learning_rate(step: int, steps: int, steps_per_epoch: int, settings: FitSettings) -> float:
    """Of step 0 <= step < steps: a linear rise over `warmup` of the steps, then half a cosine towards 0, or steps."""
    rise = round(settings.warmup * steps)
    if step < rise:
        return settings.lr * (step + 1) / rise
    if settings.schedule == "step":
        return settings.lr * 0.1 ** (step // steps_per_epoch // 7)
    rise = max(1, rise)
    return settings.lr * 0.5 * (1 + math.cos(math.pi * (step + 1 - rise) / (steps + 1 - rise)))


def make_optimizer(objective: Objective, settings: FitSettings) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019) or SGD with momentum 0.9; biases and normalisation keep their size."""
    parameters = [p for p in objective.parameters() if p.requires_grad]
    decayed, free = [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=settings.lr, momentum=0.9)
    return torch.optim.AdamW(groups, lr=settings.lr)


def make_accelerator(precision: str, device: str | None) -> Accelerator:
    """A fresh Accelerator on `device` (None: the GPU when there is one); a second one in a kernel would be refused."""
    if device not in (None, "cpu", "cuda"):
        raise UserError(f"device {device!r}: cpu or cuda expected")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device cuda: PyTorch sees no GPU here: use device = 'cpu'")
    on_cpu = device == "cpu" or not torch.cuda.is_available()
    if precision == "auto":
        precision = "bf16" if computes_bf16(on_cpu) else "float32"
    AcceleratorState._reset_state(True)
    accelerator = Accelerator(cpu=on_cpu, mixed_precision="bf16" if precision == "bf16" else "no")
    if accelerator.num_processes != (wanted := int(os.environ.get("WORLD_SIZE", 1))):
        raise UserError(f"{wanted} processes were started and {accelerator.num_processes} joined: start with torchrun")
    return accelerator


def computes_bf16(on_cpu: bool) -> bool:
    """Whether the processor multiplies bf16 itself, and does not merely imitate it."""
    if on_cpu:
        able = torch.cpu.get_capabilities()
        return able.get("amx_bf16", False) or able.get("avx512_bf16", False)
    return torch.cuda.is_bf16_supported(including_emulation=False)
