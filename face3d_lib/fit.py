"""The one training loop: any embedder, any loss called as loss(embeddings, labels), on a laptop or a GPU.

Everything random is a function of (seed, epoch, step), and the learning rate of the step alone, so a run that
was killed and started again goes on from its last checkpoint and ends with the weights of a run that was
never stopped: on CPU with the same number of threads, bit for bit.
"""

import copy
import hashlib
import json
import math
import os
import pickle
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from tqdm.auto import tqdm

from .atomic import UserError, replacing, write_text
from .batches import STEP, Augmentation, epoch_batches, random_stream, train_batches
from .embedder import Embedder
from .pack import Pack


@dataclass(frozen=True)
class FitSettings:
    """How to train; the defaults are the recipe of the notebooks."""

    epochs: int = 12
    batch_size: int = 32
    lr: float = 6e-3  # the highest, after the warm-up
    warmup: float = 0.2  # share of the steps, rising linearly from 0; then half a cosine down to 0
    weight_decay: float = 0.05  # of matrices and filters; not of biases and normalisation
    clip_norm: float = 5.0  # longest gradient
    branch_weight: float = 0.5  # of the losses on single branches, where the embedder has several
    seed: int = 0
    precision: Literal["auto", "float32", "bf16"] = "auto"  # auto: bf16 where the processor computes in it
    save_seconds: float = 60.0  # between checkpoints within an epoch; one is written after each epoch anyway


class Objective(nn.Module):
    """Embedder and loss as one module, (batch, labels) -> (loss, embeddings (B, D) float32).

    An embedder of several branches gets a copy of the loss, with weights of its own, on each branch's
    embedding. Losses run outside autocast: pytorch-metric-learning would turn their weights to bf16 for good
    (its issues 293 and 710).
    """

    def __init__(self, embedder: Embedder, loss: nn.Module, branch_weight: float):
        super().__init__()
        self.embedder, self.loss, self.branch_weight = embedder, loss, branch_weight
        extra = len(embedder.branch) if len(embedder.branch) > 1 else 0
        self.branch_losses = nn.ModuleList(copy.deepcopy(loss) for _ in range(extra))

    def forward(self, batch, labels):
        together, *single = self.embedder.branches(batch)
        with torch.autocast(together.device.type, enabled=False):
            total = self.loss(together.float(), labels)
            for loss, embeddings in zip(self.branch_losses, single[: len(self.branch_losses)], strict=True):
                total = total + self.branch_weight * loss(embeddings.float(), labels)
        return total, together.detach().float()


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
    accuracy on `evaluation`, the last of equals; without such rows, or with a loss without `get_logits`, it
    is the last epoch.

    Returns a row per epoch: epoch, loss, train_accuracy, eval_accuracy (NaN where it cannot be had), lr,
    images_per_second, seconds. In `folder`: metrics.jsonl (the same), tensorboard/, last.pt (to resume from),
    best.pt. Called again with the same arguments it resumes, or returns at once when it was done. UserError:
    other arguments than those of last.pt (it lists which), a loss that is not finite (last.pt stays good), a
    device that is not there.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    accelerator = make_accelerator(settings.precision, device)
    objective = Objective(embedder, loss, settings.branch_weight)
    objective.to(accelerator.device, memory_format=torch.channels_last)
    optimizer = make_optimizer(objective, settings)
    identity = identify(objective, pack, train, evaluation, settings, augmentation)
    state = load_checkpoint(folder / "last.pt", objective, optimizer, identity)
    pack = pack.resident(accelerator.device)
    model, wrapped = accelerator.prepare(objective, optimizer)
    steps = len(epoch_batches(len(train[0]), settings.batch_size, settings.seed, 0))
    board = SummaryWriter(folder / "tensorboard", purge_step=state.epoch * steps)

    def save():
        save_checkpoint(folder / "last.pt", objective, optimizer, identity, state)

    total, done = settings.epochs * steps, state.epoch * steps + state.step
    with tqdm(total=total, initial=done, disable=not progress) as bar, stops_between_steps() as stop:
        while state.epoch < settings.epochs:
            bar.set_description(f"epoch {state.epoch + 1}/{settings.epochs}")
            train_epoch(accelerator, model, wrapped, pack, train, settings, augmentation, state, save, bar, stop)
            if stop:
                break
            accuracy = closed_set_accuracy(embedder, loss, pack, *evaluation)
            row = state.close_epoch(accuracy, optimizer.param_groups[0]["lr"])
            for name in ("loss", "train_accuracy", "eval_accuracy", "lr", "images_per_second"):
                board.add_scalar(name, row[name], state.epoch * steps)
            if row["best"]:
                with replacing(folder / "best.pt") as path:
                    torch.save(objective.state_dict(), path)
            save()
            lines = [json.dumps(_without_nan(row)) for row in state.history]
            write_text(folder / "metrics.jsonl", "\n".join(lines) + "\n")
    board.close()
    objective.load_state_dict(torch.load(folder / "best.pt", accelerator.device, weights_only=True))
    embedder.eval()
    return pd.DataFrame(state.history)


@dataclass
class State:
    """Where a run is and what it has seen, in plain numbers, which weights_only loading accepts."""

    epoch: int = 0
    step: int = 0  # of this epoch
    totals: tuple = (0.0, 0.0, 0.0)  # of this epoch: loss x pairs, pairs recognised, pairs
    seconds: float = 0.0  # of this epoch
    best: float = -1.0
    history: list = field(default_factory=list)

    def close_epoch(self, eval_accuracy: float, lr: float) -> dict:
        """The history's row of the epoch just done; the state moves to the start of the next."""
        loss, right, n = self.totals
        best = not eval_accuracy < self.best  # without an accuracy (NaN) the last epoch is the best
        row = {"epoch": self.epoch + 1, "loss": loss / n, "train_accuracy": right / n}
        row |= {"eval_accuracy": eval_accuracy, "lr": lr, "images_per_second": n / self.seconds}
        row |= {"seconds": self.seconds, "best": best}
        self.history.append(row)
        self.epoch, self.step, self.totals, self.seconds = self.epoch + 1, 0, (0.0, 0.0, 0.0), 0.0
        self.best = eval_accuracy if best else self.best
        return row


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


def train_epoch(accelerator, model, optimizer, pack, train, settings, augmentation, state, save, bar, stop) -> None:
    """The steps of one epoch that `state` has not seen yet; `state` is brought to its end, or saved where `stop` fills."""
    device, seed, (rows, labels) = accelerator.device, settings.seed, train
    steps = len(epoch_batches(len(rows), settings.batch_size, seed, 0))
    glance = 1 if device.type == "cpu" else 20  # reading a number waits for a GPU
    totals = torch.tensor(state.totals, dtype=torch.float64, device=device)
    done, started = state.seconds, time.monotonic()
    saved = started
    model.train()
    where = (settings.batch_size, seed, state.epoch, device)
    for batch, target in train_batches(pack, rows, labels, *where, augmentation, first_step=state.step):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(state.epoch * steps + state.step, settings.epochs * steps, settings)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(random_stream(STEP, seed, state.epoch, state.step))  # dropout, miners
            loss, embeddings = model(batch, target)
        accelerator.backward(loss)
        norm = accelerator.clip_grad_norm_(model.parameters(), settings.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        right = (classify(accelerator.unwrap_model(model).loss, embeddings) == target).sum()
        seen = torch.full_like(right, len(target))
        totals += torch.stack([(loss.detach() + 0 * norm) * len(target), right, seen])  # a bad norm spoils it
        state.step += 1
        bar.update()
        if state.step % glance == 0 or state.step == steps or stop:
            state.totals = tuple(totals.tolist())
            state.seconds = done + time.monotonic() - started
            mean, share = state.totals[0] / state.totals[2], state.totals[1] / state.totals[2]
            if not math.isfinite(mean):
                raise UserError(
                    f"epoch {state.epoch + 1}, step {state.step}: the loss or its gradient is not finite; "
                    "last.pt holds a good state from before: lower lr, or raise warmup"
                )
            speed = state.totals[2] / state.seconds
            bar.set_postfix(loss=f"{mean:.3f}", accuracy=f"{share:.3f}", images_s=f"{speed:.0f}")
            if stop or (time.monotonic() - saved > settings.save_seconds and state.step < steps):
                save()
                saved = time.monotonic()
            if stop:
                return


def classify(loss: nn.Module, embeddings: torch.Tensor) -> torch.Tensor:
    """(B,) the class that the loss's weights give the highest logit; -1 for a loss without `get_logits`."""
    if not hasattr(loss, "get_logits"):
        return torch.full((len(embeddings),), -1, device=embeddings.device)
    with torch.no_grad(), torch.autocast(embeddings.device.type, enabled=False):
        return loss.get_logits(embeddings.float()).argmax(1)


def predict(embedder: Embedder, loss: nn.Module, pack: Pack, rows, batch_size: int = 128) -> np.ndarray:
    """(n,) int64: the closed-set class 0..C-1 of the pairs at `rows`, in evaluation mode, float32."""
    device = next(embedder.parameters()).device
    embedder.eval()
    found = np.empty(len(rows), np.int64)
    with torch.inference_mode():
        for i in range(0, len(rows), batch_size):
            batch = pack.batch(rows[i : i + batch_size], device)
            found[i : i + batch_size] = classify(loss, embedder(batch)).cpu()
    return found


def closed_set_accuracy(embedder: Embedder, loss: nn.Module, pack: Pack, rows, labels) -> float:
    """Share of `rows` whose class is found; NaN when there are none or the loss has no classes."""
    if len(rows) == 0 or not hasattr(loss, "get_logits"):
        return math.nan
    return float((predict(embedder, loss, pack, rows) == labels).mean())


def learning_rate(step: int, steps: int, settings: FitSettings) -> float:
    """Of step 0 <= step < steps: a linear rise over `warmup` of the steps, then half a cosine towards 0."""
    rise = max(1, round(settings.warmup * steps))
    if step < rise:
        return settings.lr * (step + 1) / rise
    return settings.lr * 0.5 * (1 + math.cos(math.pi * (step + 1 - rise) / (steps + 1 - rise)))


def make_optimizer(objective: Objective, settings: FitSettings) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019) that lets biases and normalisation keep their size."""
    parameters = [p for p in objective.parameters() if p.requires_grad]
    decayed, free = [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.lr)


def make_accelerator(precision: str, device: str | None) -> Accelerator:
    """A fresh Accelerator on `device` (None:

    the GPU when there is one); a second one in a kernel would be refused.
    """
    if device not in (None, "cpu", "cuda"):
        raise UserError(f"device {device!r}: cpu or cuda expected")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device cuda: PyTorch sees no GPU here: use device = 'cpu'")
    on_cpu = device == "cpu" or not torch.cuda.is_available()
    if precision == "auto":
        pays = torch.cpu.get_capabilities().get("amx_bf16", False) if on_cpu else torch.cuda.is_bf16_supported()
        precision = "bf16" if pays else "float32"
    AcceleratorState._reset_state(True)
    return Accelerator(cpu=on_cpu, mixed_precision="bf16" if precision == "bf16" else "no")


# ---------------------------------------------------------------- checkpoints


def identify(objective, pack, train, evaluation, settings, augmentation) -> dict:
    """What has to agree for a run to be resumed: name -> plain value."""

    def digest(array):
        return hashlib.sha256(np.ascontiguousarray(array, dtype=np.int64).tobytes()).hexdigest()[:16]

    identity = {key: value for key, value in asdict(settings).items() if key != "save_seconds"}
    identity |= {key: value for key, value in asdict(objective.embedder.architecture).items()}
    identity |= {f"augmentation.{key}": value for key, value in (asdict(augmentation) if augmentation else {}).items()}
    identity |= {"loss": repr(objective.loss), "pack": pack.info["sha256"]["index.csv"][:16]}
    parts = {
        "train_rows": train[0],
        "train_labels": train[1],
        "eval_rows": evaluation[0],
        "eval_labels": evaluation[1],
    }
    return identity | {key: digest(value) for key, value in parts.items()}


def save_checkpoint(path: Path, objective, optimizer, identity: dict, state: State) -> None:
    """All that a run needs to go on, whole or not at all."""
    with replacing(path) as sibling:
        torch.save(
            {
                "objective": objective.state_dict(),
                "optimizer": optimizer.state_dict(),
                "identity": identity,
                "state": asdict(state),
            },
            sibling,
        )


def load_checkpoint(path: Path, objective, optimizer, identity: dict) -> State:
    """Fill objective and optimizer from `path` and return where the run was;

    a fresh State when there is no file.
    """
    if not path.exists():
        return State()
    try:
        saved = torch.load(path, next(objective.parameters()).device, weights_only=True)
        old = saved["identity"]
    except (OSError, RuntimeError, EOFError, KeyError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{path}: not a checkpoint that can be read ({reason}): delete it to start again") from None
    if changed := sorted(key for key in identity.keys() | old.keys() if identity.get(key) != old.get(key)):
        listed = "; ".join(f"{key}: {_short(old.get(key))} -> {_short(identity.get(key))}" for key in changed)
        raise UserError(f"{path}: belongs to a run with other settings ({listed}): use another run name, or delete it")
    objective.load_state_dict(saved["objective"])
    optimizer.load_state_dict(saved["optimizer"])
    return State(**saved["state"])


def _short(value) -> str:
    return " ".join(str(value).split())[:60]


def _without_nan(row: dict) -> dict:
    return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in row.items()}
