"""Write-then-rename: a killed run leaves the old file or the new one, never a part of either.

The order is that of a database log: data to the disk, then the name, then the folder that holds the name.
"""

import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

from .errors import UserError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A unique sibling of `path` to write to; renamed to `path` when the block ends well, deleted when it does not.

    The name is short and unique: two writers never share a temporary file, and a 255-byte `path` still has a sibling.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".new-", suffix=path.suffix[:16], dir=path.parent)
    os.close(handle)
    sibling = Path(name)
    try:
        yield sibling
        os.chmod(sibling, 0o666 & ~_umask())  # mkstemp makes 0600; a data set is to be shared as the umask says
        _sync(sibling)
        os.replace(sibling, path)
        _sync(path.parent)
    finally:
        sibling.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """`data` in `path`, whole or not at all."""
    with replacing(path) as sibling:
        sibling.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """`text` in `path` as UTF-8, whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, value) -> None:
    """`value` in `path` as JSON, indented; NaN is refused (JSON has none): say null and why."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def plain(value):
    """`value` as JSON holds it: arrays and tables as lists, dataclasses as objects, NaN and infinities as null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, pd.DataFrame):
        value = value.to_dict("records")
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | np.ndarray | pd.Series):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return float(f"{value:.6g}") if np.isfinite(value) else None
    return value if isinstance(value, int | str | None) else str(value)


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    """`frame` in `path` as csv without its index, line feeds as line ends, whole or not at all."""
    write_text(path, frame.to_csv(index=False, lineterminator="\n"))


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_space(folder: Path, n_bytes: int) -> None:
    """Raise UserError unless the disk of `folder` has `n_bytes` free; a memory-mapped file on a full disk kills the process."""
    free = shutil.disk_usage(folder).free
    if free < n_bytes:
        raise UserError(
            f"{folder}: {n_bytes / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free: make room or choose another disk"
        )


def sweep(folder: Path) -> None:
    """Delete what killed writers left in `folder`; only for the one writer of that folder."""
    for leftover in Path(folder).rglob(".new-*"):
        leftover.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
