"""Checkpoints: everything that a training needs to resume, written whole or not at all."""

import hashlib
import io
import math
import pickle
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import torch.distributed

from ..base.atomic import require_space, write_bytes
from ..base.errors import UserError
from .objective import Objective

DIGEST_BYTES = 32  # length of the SHA-256 at the end of a checkpoint


@dataclass
class State:
    """The progress of a training, in plain numbers, because `torch.load(weights_only=True)` accepts only these."""

    epoch: int = 0
    step: int = 0  # steps taken in this epoch
    totals: tuple = (0.0, 0.0, 0.0)  # sums over this epoch: loss x pairs, pairs recognised, pairs
    seconds: float = 0.0  # spent on this epoch
    waited: float = 0.0  # seconds of these spent waiting for data
    best: float = -1.0  # the highest accuracy on evaluation pictures so far
    history: list = field(default_factory=list)

    def close_epoch(self, eval_accuracy: float, lr: float, watched: dict) -> dict:
        """Add the row of the epoch that has just ended to the history, return it, and move on to the next epoch."""
        loss, right, n = self.totals
        best = not eval_accuracy < self.best  # without evaluation pictures (NaN) the last epoch is the best
        row = {"epoch": self.epoch + 1, "loss": loss / n, "train_accuracy": right / n if right >= 0 else math.nan}
        row |= {"eval_accuracy": eval_accuracy, "lr": lr, "images_per_second": n / self.seconds}
        row |= {"data_share": self.waited / self.seconds, "seconds": self.seconds, "best": best, **watched}
        self.history.append(row)
        self.epoch, self.step, self.totals = self.epoch + 1, 0, (0.0, 0.0, 0.0)
        self.seconds = self.waited = 0.0
        self.best = eval_accuracy if best else self.best
        return row


def save_checkpoint(
    path: Path, objective: Objective, optimizer: torch.optim.Optimizer, identity: dict, state: State
) -> None:
    """Write everything that a training needs to resume, whole or not at all."""
    parts = {"objective": objective.state_dict(), "optimizer": optimizer.state_dict()}
    write_checkpoint(path, parts | {"identity": identity, "state": asdict(state)})


def write_checkpoint(path: Path, content: dict) -> None:
    """Write `content` as torch.save does, followed by the SHA-256 of these bytes. UserError: the disk is full.

    An older file of that name stays whole until the new one is complete.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    data = buffer.getvalue()
    try:
        require_space(path.parent, 2 * len(data))
        write_bytes(path, data + hashlib.sha256(data).digest())
    except OSError as error:
        kept = "the one before it is whole" if path.exists() else "there is none before it"
        raise UserError(
            f"{path}: checkpoint not written ({error.strerror}; {kept}): free space and run again"
        ) from error


def read_checkpoint(path: Path) -> dict:
    """The content that `write_checkpoint` wrote, on the CPU. UserError: the file is missing or a byte of it differs."""
    try:
        data = path.read_bytes()
        data, digest = data[:-DIGEST_BYTES], data[-DIGEST_BYTES:]
        if hashlib.sha256(data).digest() != digest:
            raise RuntimeError("its SHA-256 is not the one written with it: cut or altered")
        return torch.load(io.BytesIO(data), "cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{path}: not a checkpoint that can be read ({reason}): delete it to start again") from None


def load_checkpoint(path: Path, objective: Objective, optimizer: torch.optim.Optimizer, identity: dict) -> State:
    """Fill objective and optimizer from `path`; returns the state of the training, a new State if there is no file.

    UserError: the file cannot be read, or belongs to a training with another `identity`; the message lists what
    differs.
    """
    if not path.exists():
        return State()
    saved = read_checkpoint(path)
    old = saved["identity"]
    if changed := sorted(key for key in identity.keys() | old.keys() if identity.get(key) != old.get(key)):
        listed = "; ".join(f"{key}: {_short(old.get(key))} -> {_short(identity.get(key))}" for key in changed)
        raise UserError(f"{path}: belongs to a run with other settings ({listed}): use another run name, or delete it")
    objective.load_state_dict(saved["objective"])
    optimizer.load_state_dict(saved["optimizer"])
    return State(**saved["state"])


def _short(value: object) -> str:
    return " ".join(str(value).split())[:60]
