"""The training loop: it trains any embedder with any loss called as loss(embeddings, labels), on CPU or GPU.

Every random number is a function of (seed, epoch, pair) or of (seed, step), and the learning rate is a function of the
step. A run that was killed and started again therefore resumes from its last checkpoint and ends with the weights of a
run that was never stopped; on a CPU with the same number of threads the weights are equal bit for bit. Under torchrun
every process takes its share of the same batches, and the loss sees the embeddings of all processes, so N processes
compute the same as one process.
"""

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, NoReturn

import numpy as np
import pandas as pd
import torch
import torch.distributed
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from tqdm.auto import tqdm

from ..base.atomic import plain, write_json, write_text
from ..base.environment import rank_and_world
from ..base.errors import UserError
from ..base.processes import PREEMPTING, keep_freed_memory, stopping_signals
from ..data.pack import Batch, Pack
from ..runs.code import code_digest
from .augment import Augmentation
from .batches import epoch_batches, person_batches, train_batches
from .checkpoint import State, load_checkpoint, read_checkpoint, save_checkpoint, write_checkpoint
from .closed_set import LabelledRows, classify, closed_set_accuracy
from .draws import STEP, random_stream
from .embedder import Embedder
from .encodings import require_meaning
from .losses import describe
from .objective import Objective
from .recipe import LEGACY_RECIPE as LEGACY_RECIPE
from .recipe import FitSettings, suited, suited_augmentation


def fit(
    embedder: Embedder,
    loss: nn.Module,
    pack: Pack,
    train: LabelledRows,
    evaluation: LabelledRows,
    folder: Path,
    settings: FitSettings = FitSettings(),  # noqa: B008
    augmentation: Augmentation | Literal["suited"] | None = "suited",
    device: str | None = None,
    progress: bool = True,
    on_epoch: Callable[[pd.DataFrame], None] | None = None,
) -> pd.DataFrame:
    """Train `embedder` and `loss` in place; both end with the weights of the best epoch.

    train, evaluation: (rows of the pack (n,), labels (n,) int64 from 0 to C-1). The best epoch has the highest
    closed-set accuracy on `evaluation`; of equally good epochs the last one counts. Without evaluation rows the best
    epoch is the last one. settings, augmentation: 0 for batch_size and lr, and "suited", stand for what recipe.py
    chooses; None changes no pair. device: "cpu", "cuda", or None for the GPU where there is one. on_epoch: called by
    the main process after each epoch, with the rows so far; it cannot change the training.

    Returns a row per epoch: epoch, loss, train_accuracy (NaN for a loss without `get_logits`), eval_accuracy (NaN
    without evaluation rows), lr, images_per_second, data_share (share of the time spent waiting for data), seconds,
    best, and the columns that the loss's `watch()` gives. Writes to `folder`: metrics.jsonl (the same rows),
    tensorboard/, last.pt (the checkpoint to resume from) and best.pt.

    Called again with the same arguments, it resumes, or returns at once when training was done. UserError: the
    arguments differ from those of last.pt (the message lists which), last.pt was altered, the loss is not finite
    (last.pt stays good and bad_step.json names the pairs), the device is not there, memory or disk are too small,
    fewer than two people are in training, a batch has a single pair, parallel branches have no loss.
    """
    settings = suited(settings, len(train[0]), embedder)
    augmentation = suited_augmentation(settings.epochs) if augmentation == "suited" else augmentation
    objective = Objective(embedder, loss, settings.branch_weight)
    check_training(objective, pack, train, settings)
    accelerator = make_accelerator(settings.precision, device)
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    training = _prepare(accelerator, objective, pack, train, evaluation, folder, settings, augmentation)
    state, main = training.state, accelerator.is_main_process
    steps = steps_of(train, settings)
    done, total = state.epoch * steps, settings.epochs * steps
    with (
        stops_between_steps() as stop,  # outermost: a signal takes effect when the files below are closed
        memory_errors(settings),
        SummaryWriter(training.folder / "tensorboard", purge_step=done) if main else nullcontext() as board,
        tqdm(total=total, initial=done + state.step, disable=not (progress and main)) as bar,
    ):
        while state.epoch < settings.epochs:
            bar.set_description(f"epoch {state.epoch + 1}/{settings.epochs}")
            if not _train_epoch(training, bar, stop):
                break
            _close_epoch(training, board)
            if on_epoch and main:
                on_epoch(pd.DataFrame(state.history))
    accelerator.wait_for_everyone()
    if state.epoch == settings.epochs:
        objective.load_state_dict(read_checkpoint(training.folder / "best.pt"))
    embedder.eval()
    return pd.DataFrame(state.history)


@dataclass
class _Training:
    """One training in progress: the objects that its steps and epochs share."""

    accelerator: Accelerator
    objective: Objective  # the embedder and its losses
    model: nn.Module  # the objective as accelerate wrapped it for this device and these processes
    plain_optimizer: torch.optim.Optimizer  # its state is what a checkpoint holds
    optimizer: AcceleratedOptimizer  # the same optimizer as accelerate wrapped it
    pack: Pack
    train: LabelledRows
    evaluation: LabelledRows
    folder: Path
    settings: FitSettings
    augmentation: Augmentation | None
    identity: dict  # settings and data that have to be equal before last.pt is resumed
    state: State

    def save(self) -> None:
        """Write last.pt; only the main process does."""
        if self.accelerator.is_main_process:
            save_checkpoint(self.folder / "last.pt", self.objective, self.plain_optimizer, self.identity, self.state)


def _prepare(
    accelerator: Accelerator,
    objective: Objective,
    pack: Pack,
    train: LabelledRows,
    evaluation: LabelledRows,
    folder: Path,
    settings: FitSettings,
    augmentation: Augmentation | None,
) -> _Training:
    """The training with everything on its device, and filled from last.pt if there is one."""
    folder = Path(broadcast_object_list([str(folder)])[0])  # all processes use the folder of rank 0
    folder.mkdir(parents=True, exist_ok=True)
    objective.to(accelerator.device).to(memory_format=torch.channels_last)
    if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(objective)  # torch offers it for GPUs only
    optimizer = make_optimizer(objective, settings)
    identity = identify(objective, pack, train, evaluation, settings, augmentation)
    identity["precision"] = accelerator.mixed_precision  # "auto" may mean another precision on another processor
    state = load_checkpoint(folder / "last.pt", objective, optimizer, identity)
    accelerator.wait_for_everyone()
    if settings.compile:
        for branch in objective.embedder.branch:
            branch.compile()
    model, wrapped = accelerator.prepare(objective, optimizer)
    return _Training(
        accelerator, objective, model, optimizer, wrapped, pack.resident(accelerator.device), train, evaluation,
        folder, settings, augmentation, identity, state,
    )  # fmt: skip


def identify(
    objective: Objective,
    pack: Pack,
    train: LabelledRows,
    evaluation: LabelledRows,
    settings: FitSettings,
    augmentation: Augmentation | None,
) -> dict:
    """The settings and data that have to be equal before a training is resumed, as plain values by name."""

    def digest(array: np.ndarray) -> str:
        return hashlib.sha256(np.ascontiguousarray(array, dtype=np.int64).tobytes()).hexdigest()[:16]

    identity = {key: value for key, value in asdict(settings).items() if key not in ("save_seconds", "compile")}
    identity |= {key: value for key, value in asdict(objective.embedder.architecture).items()}
    identity |= {f"augmentation.{key}": value for key, value in (asdict(augmentation) if augmentation else {}).items()}
    identity |= {"loss": describe(objective.loss), "code": code_digest(Path(__file__))[:16]}
    frozen = [name for name, weight in objective.named_parameters() if not weight.requires_grad]
    names = hashlib.sha256("\n".join(frozen).encode()).hexdigest()[:8]
    identity["frozen"] = f"{len(frozen)} tensors ({names})" if frozen else "nothing"
    identity |= {f"pack {name}": value[:16] for name, value in pack.info["sha256"].items()}
    parts = {
        "train_rows": train[0],
        "train_labels": train[1],
        "eval_rows": evaluation[0],
        "eval_labels": evaluation[1],
    }
    return identity | {key: digest(value) for key, value in parts.items()}


def steps_of(train: LabelledRows, settings: FitSettings) -> int:
    """The number of steps in an epoch; the last batch is not dropped."""
    return max(1, -(-len(train[0]) // settings.batch_size))


def check_training(objective: Objective, pack: Pack, train: LabelledRows, settings: FitSettings) -> None:
    """Raise UserError where training would fail or be useless.

    The reasons are fewer than two people, a batch of one pair, parallel branches without a loss, or an encoding that
    needs depth in another unit than the pack has.
    """
    people, processes = len(np.unique(train[1])), rank_and_world()[1]
    if people < 2:
        raise UserError(f"{people} person to train on, and a network needs two or more: add people")
    smallest = settings.batch_size if settings.per_person else len(train[0]) // steps_of(train, settings)
    if smallest // processes < 2:
        raise UserError(
            f"batch_size = {settings.batch_size}: some of the {len(train[0])} training pairs would stand alone in a "
            "batch, and batch normalisation needs two or more: choose a larger batch_size"
        )
    architecture = objective.embedder.architecture
    if objective.branches_train_alone and not objective.branch_weight:
        raise UserError("branch_weight = 0: parallel branches learn from their own losses alone; give these a weight")
    unit = pack.info.get("source", {}).get("depth_unit")
    if unit and architecture.modality != "rgb":
        require_meaning(architecture.encoding, unit)


@contextmanager
def stops_between_steps() -> Iterator[list[int]]:
    """A list to which SIGTERM and SIGUSR1 append their numbers while the block runs.

    The first signal received takes its usual effect when the block has ended: no step is cut in two, and the block
    has time to save.
    """
    signals = []
    try:
        with stopping_signals(lambda number, frame: signals.append(number), PREEMPTING):
            yield signals
    finally:
        if signals:
            os.kill(os.getpid(), signals[0])


@contextmanager
def memory_errors(settings: FitSettings) -> Iterator[None]:
    """Turn a lack of memory into a UserError that says what to lower."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        said = any(words in str(error) for words in ("out of memory", "not enough memory", "can't allocate memory"))
        if not said and not isinstance(error, MemoryError):
            raise
        fix = f"lower batch_size (now {settings.batch_size}) or the size of the network or its input"
        raise UserError(f"out of memory: {fix}; the same command then resumes or starts anew") from error


def _train_epoch(training: _Training, bar: tqdm, stop: list[int]) -> bool:
    """Take the remaining steps of this epoch; False where a stop signal ended it early, after a checkpoint."""
    state, settings, accelerator = training.state, training.settings, training.accelerator
    steps = steps_of(training.train, settings)
    glance = 1 if accelerator.device.type == "cpu" else 20  # steps between readings, since each waits for the GPU
    single = accelerator.num_processes == 1  # several processes must all look after the same steps
    totals = torch.tensor(state.totals, dtype=torch.float64, device=accelerator.device)
    clock = Clock(state.seconds, state.waited)
    saved = time.monotonic()
    training.model.train()
    for batch, labels in clock.waiting_for(_epoch_batches(training)):
        totals += _step(training, batch, labels)
        state.step += 1
        bar.update()
        if state.step % glance == 0 or state.step == steps or (stop and single):
            state.totals = tuple(totals.tolist())
            state.seconds, state.waited = clock.read()
            if not math.isfinite(state.totals[0]):
                _report_bad_step(training)
            _show(bar, state)
            if agreed_stop(stop, accelerator):
                training.save()
                return False
            if time.monotonic() - saved > settings.save_seconds and state.step < steps:
                training.save()
                saved = time.monotonic()
    if not hasattr(training.objective.loss, "get_logits"):
        state.totals = (state.totals[0], -1.0, state.totals[2])
    return True


def _epoch_batches(training: _Training) -> Iterator[tuple[Batch, torch.Tensor]]:
    """This process's share of the batches of this epoch that are still to come."""
    accelerator, settings, state = training.accelerator, training.settings, training.state
    return train_batches(
        training.pack,
        *training.train,
        settings.batch_size,
        settings.seed,
        state.epoch,
        accelerator.device,
        training.augmentation,
        first_step=state.step,
        per_person=settings.per_person,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        modality=training.objective.embedder.architecture.modality,
    )


def _step(training: _Training, batch: Batch, labels: torch.Tensor) -> torch.Tensor:
    """Train on one batch; returns (3,) float64: loss times pairs, pairs recognised, pairs."""
    accelerator, settings, state = training.accelerator, training.settings, training.state
    steps = steps_of(training.train, settings)
    for group in training.optimizer.param_groups:
        group["lr"] = learning_rate(state.epoch * steps + state.step, settings.epochs * steps, steps, settings)
    device = accelerator.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(random_stream(STEP, settings.seed, state.epoch, state.step))  # for dropout and miners
        loss, embeddings, labels = training.model(batch, labels)
    accelerator.backward(loss)
    norm = accelerator.clip_grad_norm_(training.model.parameters(), settings.clip_norm or math.inf)
    training.optimizer.step()
    training.optimizer.zero_grad()
    right = (classify(training.objective.loss, embeddings) == labels).sum()
    seen = torch.full_like(right, len(labels))
    # 0 * norm is 0, or NaN where the gradient is not finite, so that one number shows both faults
    return torch.stack([(loss.detach() + 0 * norm) * len(labels), right, seen]).double()


def _close_epoch(training: _Training, board: SummaryWriter | None) -> None:
    """Evaluate, record the epoch in every file of the folder, and keep its weights where it is the best so far."""
    objective, state, folder = training.objective, training.state, training.folder
    accuracy = closed_set_accuracy(
        objective.embedder, objective.loss, training.pack, *training.evaluation, training.train, training.accelerator
    )
    row = state.close_epoch(accuracy, training.optimizer.param_groups[0]["lr"], objective.watch())
    if board is None:  # only the main process writes
        return
    for name, value in row.items():
        board.add_scalar(name, value, state.epoch * steps_of(training.train, training.settings))
    if row["best"]:
        write_checkpoint(folder / "best.pt", objective.state_dict())
    training.save()
    lines = [json.dumps(plain(row)) for row in state.history]
    write_text(folder / "metrics.jsonl", "\n".join(lines) + "\n")


def agreed_stop(stop: list[int], accelerator: Accelerator) -> bool:
    """Whether any process was asked to stop: all processes then stop after the same step, and none waits forever."""
    if accelerator.num_processes == 1:
        return bool(stop)
    asked = torch.tensor([stop[0] if stop else 0], device=accelerator.device)
    number = int(accelerator.gather(asked).max())
    if number and not stop:
        stop.append(number)
    return bool(number)


class Clock:
    """Seconds spent on this epoch summed over resumptions, and how many of them went into waiting for data."""

    def __init__(self, seconds: float, waited: float):
        self.begun, self.waited = time.monotonic() - seconds, waited

    def waiting_for(self, batches: Iterable) -> Iterator:
        """The same batches; the time until each is ready is added to `waited`."""
        batches = iter(batches)
        while True:
            asked = time.monotonic()
            batch = next(batches, None)
            self.waited += time.monotonic() - asked
            if batch is None:
                return
            yield batch

    def read(self) -> tuple[float, float]:
        """(seconds of this epoch so far, seconds of them spent waiting)."""
        return time.monotonic() - self.begun, self.waited


def _show(bar: tqdm, state: State) -> None:
    loss, right, n = state.totals
    speed, waiting = n / state.seconds, state.waited / state.seconds
    bar.set_postfix(loss=f"{loss / n:.3f}", accuracy=f"{right / n:.3f}", images_s=f"{speed:.0f}", data=f"{waiting:.0%}")


def _report_bad_step(training: _Training) -> NoReturn:
    """Write bad_step.json with the pairs of the step just taken, and raise UserError."""
    settings, state, (rows, labels) = training.settings, training.state, training.train
    if training.accelerator.is_main_process:
        size, k, where = settings.batch_size, settings.per_person, (settings.seed, state.epoch)
        steps = person_batches(labels, size, k, *where) if k else epoch_batches(len(rows), size, *where)
        pairs = [str(training.pack.index["pair_id"].iloc[row]) for row in rows[steps[state.step - 1]]]
        content = {"epoch": state.epoch + 1, "step": state.step, "pairs": pairs}
        write_json(training.folder / "bad_step.json", content)
    raise UserError(
        f"epoch {state.epoch + 1}, step {state.step}: the loss or its gradient is not finite (bad_step.json names the "
        "pairs); last.pt holds a good state from before: lower lr or the margin, or raise warmup"
    )


def learning_rate(step: int, steps: int, steps_per_epoch: int, settings: FitSettings) -> float:
    """The learning rate of step 0 <= step < steps.

    It rises linearly over the share `warmup` of the steps; then it follows half a cosine towards 0, or with
    schedule "step" falls to a tenth every 7 epochs.
    """
    rise = round(settings.warmup * steps)
    if step < rise:
        return settings.lr * (step + 1) / rise
    if settings.schedule == "step":
        return settings.lr * 0.1 ** (step // steps_per_epoch // 7)
    rise = max(1, rise)
    return settings.lr * 0.5 * (1 + math.cos(math.pi * (step + 1 - rise) / (steps + 1 - rise)))


def make_optimizer(module: nn.Module, settings: FitSettings) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019) or SGD with momentum 0.9; biases and normalisation layers are not decayed.

    Frozen weights, which need no gradient, are left out.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    decayed, free = [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=settings.lr, momentum=0.9)
    return torch.optim.AdamW(groups, lr=settings.lr, fused=True)


def make_accelerator(precision: str, device: str | None) -> Accelerator:
    """A new Accelerator on `device` (None: the GPU where there is one), whatever was made in this kernel before.

    UserError: the device is unknown or not there, or fewer processes joined than were started.
    """
    if device not in (None, "cpu", "cuda"):
        raise UserError(f"device {device!r}: cpu or cuda expected")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device cuda: PyTorch sees no GPU here: use device = 'cpu'")
    on_cpu = device == "cpu" or not torch.cuda.is_available()
    if precision == "auto":
        precision = "bf16" if computes_bf16(on_cpu) else "float32"
    AcceleratorState._reset_state(True)  # accelerate would refuse other settings than those of its first instance
    accelerator = Accelerator(cpu=on_cpu, mixed_precision="bf16" if precision == "bf16" else "no")
    if accelerator.num_processes != (wanted := rank_and_world()[1]):
        raise UserError(f"{wanted} processes were started and {accelerator.num_processes} joined: start with torchrun")
    return accelerator


def computes_bf16(on_cpu: bool) -> bool:
    """Whether the processor has bf16 instructions; elsewhere PyTorch emulates them, slower than float32."""
    if on_cpu:
        able = torch.cpu.get_capabilities()
        return able.get("amx_bf16", False) or able.get("avx512_bf16", False)
    return torch.cuda.is_bf16_supported(including_emulation=False)
