"""Files that are written whole or not at all: a killed run leaves the old file or the new one, never a part of either.

The order is that of a database's log: first the data are synced to the disk, then the file gets its name, and then the
folder that holds the name is synced.
"""

import dataclasses
import errno
import hashlib
import json
import math
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import UserError

# Errors of file systems that cannot sync a folder: CIFS before Linux 4.17, shared folders of VirtualBox, some FUSE
FOLDERS_UNSYNCED = (errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.ENOSYS)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the block a new file's path beside `path`; the file becomes `path` when the block ends without an error.

    The name is short and random, so two writers never share one, and it fits even where the name of `path` is as long
    as a file system allows (255 bytes). If the block or the disk fails, the new file is deleted and `path` is as it was
    before.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    sibling = path.with_name(f".new-{secrets.token_hex(8)}{path.suffix[:16]}")
    try:
        yield sibling
        _sync(sibling)
        os.replace(sibling, path)
        _sync(path.parent)
    except OSError as error:  # a full disk names no file, and the name of the new one says nothing
        if error.filename in (None, os.fspath(sibling)):
            raise OSError(error.errno, error.strerror, os.fspath(path)) from None
        raise
    finally:
        with suppress(OSError):  # on read-only media this fails, too, and would hide why
            sibling.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all."""
    with replacing(path) as sibling:
        sibling.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` as indented JSON. Raises ValueError for NaN, which JSON lacks; `plain` makes it null."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def plain(value: Any) -> Any:
    """`value` in the types of JSON: arrays and tables become lists, dataclasses objects, NaN and infinities null.

    Numbers are rounded to six significant digits. Any other value becomes the text that `str` gives.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    elif (pandas := sys.modules.get("pandas")) and isinstance(value, pandas.DataFrame):
        value = value.to_dict("records")
    elif hasattr(value, "tolist"):  # numpy arrays and numbers, pandas Series, torch tensors
        value = value.tolist()
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value if isinstance(value, int | str | None) else str(value)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_space(folder: Path, n_bytes: int) -> None:
    """Raise UserError unless the disk of `folder` has `n_bytes` free.

    A process that writes to a memory-mapped file on a full disk is killed without a message, so space is checked first.
    """
    free = shutil.disk_usage(folder).free
    if free < n_bytes:
        raise UserError(
            f"{folder}: {n_bytes / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free: make room or choose another disk"
        )


def clear_leftovers(folder: Path) -> None:
    """Delete the temporary files that killed writers left below `folder`. Only the folder's one writer may call it."""
    for leftover in Path(folder).rglob(".new-*"):
        leftover.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Wait until a file or a folder is on the disk; that CIFS and some FUSE cannot sync folders is no failure."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if not (stat.S_ISDIR(os.fstat(handle).st_mode) and error.errno in FOLDERS_UNSYNCED):
            raise
    finally:
        os.close(handle)
