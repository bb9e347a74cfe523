"""Processes that share a machine: who may write into a folder, and which signals stop a process."""

import fcntl
import os
import signal
import time
from pathlib import Path

from .atomic import sweep
from .errors import UserError
from .paths import relative

SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1]  # SIGUSR1 is Slurm's usual warning
GRACE_SECONDS = 30  # between the signal and the end of a kernel that does not stop


def lock(folder: Path) -> int:
    """Become the one writer of `folder`: a file handle to close at the end; the process's end closes it too.

    The kernel of a runner inherits it: after a killed runner the folder is free when its kernel is gone as
    well, a second or two later, and that is waited for. UserError names the process that holds it.
    """
    handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    patience = time.monotonic() + 15
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            owner = os.pread(handle, 20, 0).decode()
            if is_alive(owner) or time.monotonic() > patience:
                os.close(handle)
                busy = f"{relative(folder)}: process {owner} is writing here"
                raise UserError(f"{busy}: wait for it, stop it, or choose another run name") from None
            time.sleep(0.1)
    os.ftruncate(handle, 0)
    os.pwrite(handle, str(os.getpid()).encode(), 0)
    sweep(folder)
    return handle


def is_alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        pass  # somebody else's process
    return True
