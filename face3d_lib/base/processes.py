"""Processes that share a machine: who may write into a folder, how work is spread, and what a signal does."""

import ctypes
import errno
import fcntl
import multiprocessing
import multiprocessing.connection
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from .atomic import clear_leftovers
from .errors import UserError
from .paths import relative

PREEMPTING = (signal.SIGTERM, signal.SIGUSR1)  # sent by machines that need the processor; SIGUSR1 is Slurm's warning
STOPPING = (*PREEMPTING, signal.SIGINT, signal.SIGHUP)  # the last two come from a user at a terminal
GRACE_SECONDS = 30  # after a stopping signal, before a kernel that does not stop is killed
ORPHANED_SECONDS = 15  # the longest time that a lock outlives its owner, whose kernel still holds it
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # of mallopt (malloc.h)
FULL = (errno.ENOSPC, errno.EDQUOT)  # errors of a disk without room and of a user without quota
WITHOUT_FLOCK = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)  # errors of Lustre and NFS mounted without locks

# ------------------------------------------------------------------------------------ one writer for each folder


class Busy(UserError):
    """Another process is the writer of a folder."""


def lock(folder: Path, patience_seconds: float = 0) -> int:
    """Become the only writer of `folder`, which is made if it is not there; returns the handle for `unlock`.

    The lock is an flock on `<folder>/.lock`, opened for writing because NFS asks for that. The lock ends with
    the last process that has the handle. A kernel inherits the handle from its runner, so after a runner was killed
    the folder is free only when its kernel has ended as well. Temporary files of killed writers are deleted.

    Some file systems have no flock (Lustre mounted without it answers ENOSYS). There the existence of the file is
    the lock. The file of a dead process of this machine is taken over. The file of another machine has to be deleted by
    hand, because this machine cannot tell whether the process is alive.

    Raises Busy, a UserError that names the owner, when the folder is still taken after `patience_seconds`.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        sys.exit(1)  # a worker imports a script without main guard again; `run_tasks` says so in the parent
    folder.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    while (handle := _try_lock(folder / ".lock")) is None:
        pid, host = _owner(folder / ".lock")
        here = host in ("", platform.node())
        patience = ORPHANED_SECONDS if here and not is_alive(pid) else 0
        if time.monotonic() - begun > max(patience, patience_seconds):
            busy = f"{relative(folder)}: process {pid or 'unknown'}{'' if here else f' on {host}'} is writing here"
            fix = f"; if it is gone, delete {folder / '.lock'}" if not here or not is_alive(pid) else ""
            raise Busy(f"{busy}: wait for it, stop it, or choose another run name or folder{fix}")
        time.sleep(0.1)
    clear_leftovers(folder)
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()} {platform.node()}".encode(), 0)
    except OSError as error:
        if error.errno not in FULL:  # the lock holds without a name in it, and a full disk can be read
            raise
    return handle


def unlock(folder: Path, handle: int) -> None:
    """Give up the lock on `folder` and delete its file."""
    (folder / ".lock").unlink(missing_ok=True)  # first, because another process may take the lock
    os.close(handle)


@contextmanager
def only_writer(folder: Path, patience_seconds: float = 0) -> Iterator[None]:
    """Within the block, this process is the only writer of `folder`; see `lock`."""
    handle = lock(folder, patience_seconds)
    try:
        yield
    finally:
        unlock(folder, handle)


def is_alive(pid: str) -> bool:
    """Whether this machine has a process with that number."""
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        pass  # it belongs to another user
    return True


def _try_lock(path: Path) -> int | None:
    """A handle that holds the lock; None while another process holds it."""
    try:
        handle, made = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), True
    except FileExistsError:
        try:
            handle, made = os.open(path, os.O_RDWR), False
        except FileNotFoundError:
            return None  # its owner has just deleted it
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        ours = path.exists() and os.path.samestat(os.fstat(handle), path.stat())  # not one that is deleted already
    except BlockingIOError:
        ours = False
    except OSError as error:
        if error.errno not in WITHOUT_FLOCK:
            os.close(handle)
            raise OSError(error.errno, error.strerror, str(path)) from None  # an error of a handle names no file
        pid, host = _owner(path)
        ours = made or (host == platform.node() and not is_alive(pid))
    if not ours:
        os.close(handle)
        return None
    return handle


def _owner(path: Path) -> tuple[str, str]:
    """(process number, machine) that a lock's file names; ("", "") while its owner has not written them."""
    try:
        pid, _, host = path.read_text(encoding="utf-8").partition(" ")
    except (OSError, UnicodeDecodeError):
        return "", ""
    return pid, host


# ------------------------------------------------------------------------------------------- work on all cores

WORKER_KILLED = (
    "a worker was killed (too little memory?): run the same command again, which resumes; use fewer workers if it "
    "happens again"
)
NO_MAIN_GUARD = (
    "no worker could start: a script that starts workers must be a file and do its work below "
    '`if __name__ == "__main__":`, because each worker imports it; or use workers=1'
)


def cores() -> int:
    """How many processes can compute at once: CPU affinity and the limits of containers count."""
    import joblib

    return joblib.cpu_count()


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees instead of returning it to the kernel after every tensor.

    By default glibc maps each large block anew, so that every step of a training on the CPU waits for the same pages
    to be filled with zeros again, which takes about a tenth of the processor's time. With the change, the process keeps
    at most as much memory as it used at its peak. Where there is no glibc, nothing happens.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, 32 << 20)  # the largest value that glibc accepts
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_TOP_PAD, 64 << 20)


def run_tasks(
    prepare: Callable[[], AbstractContextManager[Callable[[Any], Any]]], tasks: Iterable[Any], workers: int
) -> Iterator[Any]:
    """Yield the results of all tasks, each as soon as it is ready, in any order.

    `prepare` (picklable) is entered once in each process and gives the function that turns a task into a result.
    This process works as well, beside `workers` - 1 spawned ones; with `workers` <= 1 it works alone. When the block
    that reads the results is left early, by Ctrl-C or an error, the spawned processes are ended. Raises UserError
    where a process died or could not start.
    """
    tasks = list(tasks)
    if not tasks:
        return
    if workers <= 1 or len(tasks) == 1:
        with prepare() as function:
            yield from map(function, tasks)
        return
    # spawned, not forked: a fork of a process that used torch, a GPU or threads (as every Jupyter kernel) can hang
    context, strangers = multiprocessing.get_context("spawn"), set(multiprocessing.active_children())
    started, spawned = context.Event(), set()
    pool = ProcessPoolExecutor(min(workers, len(tasks)) - 1, context, _start_worker, (prepare, started))
    try:
        with prepare() as function:
            with _deaf_children():
                waiting = {pool.submit(_work, task): task for task in tasks}
            spawned = set(multiprocessing.active_children()) - strangers
            while waiting:
                last = next(reversed(waiting))
                if last.cancel():
                    yield function(waiting.pop(last))
                else:
                    wait(waiting, return_when=FIRST_COMPLETED)
                for future in [future for future in waiting if future.done()]:
                    del waiting[future]
                    yield future.result()
    except BaseException as error:
        if isinstance(error, BrokenProcessPool):
            pool.shutdown(wait=True)  # afterwards the exit codes are known
            imported_in_vain = not started.is_set() and any(worker.exitcode == 1 for worker in spawned)
            raise UserError(NO_MAIN_GUARD if imported_in_vain else WORKER_KILLED) from None
        for worker in spawned:
            worker.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _deaf_children() -> Iterator[None]:
    """Processes that start within the block ignore Ctrl-C; their parent receives it as well and ends them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_entered: dict[str, Any] = {}  # in a worker process: the context that `prepare` gave, and its function


def _start_worker(prepare: Callable[[], AbstractContextManager], started: Any) -> None:
    started.set()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    context = prepare()
    _entered.update(context=context, function=context.__enter__())  # the context is left when the process ends


def _work(task: Any) -> Any:
    return _entered["function"](task)


def _end_with_parent() -> None:
    """End this worker when its parent was killed; without this it would wait for work for ever."""
    if parent := multiprocessing.parent_process():
        multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


# ------------------------------------------------------------------------------------------------------ signals


@contextmanager
def stopping_signals(
    handler: Callable[[int, Any], Any], signals: tuple[signal.Signals, ...] = STOPPING
) -> Iterator[None]:
    """Within the block, `handler(number, frame)` receives the signals that ask this process to stop.

    A signal that this process was told to ignore, as `nohup` does, stays ignored. In any thread but the main one
    Python cannot set handlers, and nothing changes.
    """
    main = threading.current_thread() is threading.main_thread()
    numbers = [number for number in signals if main and signal.getsignal(number) is not signal.SIG_IGN]
    previous = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)
