"""Checkpoints: all that a training needs to go on, whole or not at all."""

import hashlib
import io
import math
import pickle
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.distributed

from ..base.atomic import require_space, write_bytes
from ..base.errors import UserError
from .losses import describe

DIGEST = 32  # bytes of SHA-256 at the end of a checkpoint


@dataclass
class State:
    """Where a run is and what it has seen, in plain numbers, which weights_only loading accepts."""

    epoch: int = 0
    step: int = 0  # of this epoch
    totals: tuple = (0.0, 0.0, 0.0)  # of this epoch: loss x pairs, pairs recognised, pairs
    seconds: float = 0.0  # of this epoch
    waited: float = 0.0  # of these, for data
    best: float = -1.0
    history: list = field(default_factory=list)

    def close_epoch(self, eval_accuracy: float, lr: float, watched: dict) -> dict:
        """The history's row of the epoch just done; the state moves to the start of the next."""
        loss, right, n = self.totals
        best = not eval_accuracy < self.best  # without an accuracy (NaN) the last epoch is the best
        row = {"epoch": self.epoch + 1, "loss": loss / n, "train_accuracy": right / n if right >= 0 else math.nan}
        row |= {"eval_accuracy": eval_accuracy, "lr": lr, "images_per_second": n / self.seconds}
        row |= {"data_share": self.waited / self.seconds, "seconds": self.seconds, "best": best, **watched}
        self.history.append(row)
        self.epoch, self.step, self.totals = self.epoch + 1, 0, (0.0, 0.0, 0.0)
        self.seconds = self.waited = 0.0
        self.best = eval_accuracy if best else self.best
        return row


def identify(objective, pack, train, evaluation, settings, augmentation) -> dict:
    """What has to agree for a run to be resumed: name -> plain value."""

    def digest(array):
        return hashlib.sha256(np.ascontiguousarray(array, dtype=np.int64).tobytes()).hexdigest()[:16]

    identity = {key: value for key, value in asdict(settings).items() if key not in ("save_seconds", "compile")}
    identity |= {key: value for key, value in asdict(objective.embedder.architecture).items()}
    identity |= {f"augmentation.{key}": value for key, value in (asdict(augmentation) if augmentation else {}).items()}
    identity |= {"loss": describe(objective.loss), "code": code_digest()}
    identity |= {f"pack {name}": value[:16] for name, value in pack.info["sha256"].items()}
    parts = {
        "train_rows": train[0],
        "train_labels": train[1],
        "eval_rows": evaluation[0],
        "eval_labels": evaluation[1],
    }
    return identity | {key: digest(value) for key, value in parts.items()}


def code_digest() -> str:
    """Of the files that decide what a step does."""
    here = Path(__file__).parent
    files = [here.parent / "data" / "pack.py", *sorted(here.glob("*.py"))]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]


def save_checkpoint(path: Path, objective, optimizer, identity: dict, state: State) -> None:
    """All that a run needs to go on, whole or not at all."""
    parts = {"objective": objective.state_dict(), "optimizer": optimizer.state_dict()}
    write_checkpoint(path, parts | {"identity": identity, "state": asdict(state)})


def write_checkpoint(path: Path, content: dict) -> None:
    """`content` as torch.save writes it, with the SHA-256 of these bytes behind; UserError where the disk is full.

    The file that stood there before is whole until the new one is.
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
    """What `write_checkpoint` wrote, on the CPU; UserError where a byte differs."""
    try:
        data = path.read_bytes()
        data, digest = data[:-DIGEST], data[-DIGEST:]
        if hashlib.sha256(data).digest() != digest:
            raise RuntimeError("its SHA-256 is not the one written with it: cut or altered")
        return torch.load(io.BytesIO(data), "cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{path}: not a checkpoint that can be read ({reason}): delete it to start again") from None


def load_checkpoint(path: Path, objective, optimizer, identity: dict) -> State:
    """Fill objective and optimizer from `path` and return where the run was; a fresh State when there is no file."""
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


def _short(value) -> str:
    return " ".join(str(value).split())[:60]
