"""Locks, work on many processes and signals: one of each, on every file system and from every kind of script."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import nullcontext
from functools import partial

import pytest

from face3d_lib.base import processes
from face3d_lib.base.errors import UserError
from face3d_lib.base.paths import ROOT, child_environment
from face3d_lib.base.processes import lock, only_writer, run_tasks, stopping_signals, unlock


def script(code: str, **options) -> subprocess.Popen:
    """A process that runs `code`, with its output in a pipe."""
    environment = child_environment(PYTHONPATH=str(ROOT))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], env=environment, **pipes, **options)


HOLD = """
    import sys, time
    from pathlib import Path
    from face3d_lib.base.processes import lock
    handle = lock(Path({folder!r}))
    print("held", flush=True)
    time.sleep(60)
"""


# ---------------------------------------------------------------------------------------------------- the lock


def flock_on_nfs(handle: int, operation: int) -> None:
    """flock(2): NFS emulates it, and an exclusive lock there needs a file that is open for writing."""
    if operation & fcntl.LOCK_EX and fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))


def no_flock(handle: int, operation: int) -> None:
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


@pytest.fixture(params=["local", "nfs", "without flock"])
def file_system(request, monkeypatch):
    """This machine's file system, and two that answer flock as NFS and as Lustre without locks do."""
    if request.param == "nfs":
        works = fcntl.flock
        monkeypatch.setattr(fcntl, "flock", lambda *how: (flock_on_nfs(*how), works(*how)))
    if request.param == "without flock":
        monkeypatch.setattr(fcntl, "flock", no_flock)
    return request.param


def test_one_writer_at_a_time_and_nothing_is_left(tmp_path, file_system):
    folder = tmp_path / "made" / "on the way"
    for _ in range(2):
        with only_writer(folder), pytest.raises(UserError, match=f"process {os.getpid()} is writing here"):
            lock(folder)
    assert list(folder.iterdir()) == []


def test_the_lock_of_a_killed_process_is_free(tmp_path, file_system):
    owner = script(HOLD.format(folder=str(tmp_path)))
    assert owner.stdout.readline() == "held\n"
    if file_system == "local":
        with pytest.raises(UserError, match=f"process {owner.pid} is writing here"):
            lock(tmp_path)
    owner.kill()
    owner.communicate()
    unlock(tmp_path, lock(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_lock_of_another_machine_is_kept_and_named_with_its_file(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", no_flock)
    (tmp_path / ".lock").write_text("1 node7", encoding="utf-8")
    with pytest.raises(UserError, match=r"process 1 on node7 is writing here.*if it is gone, delete .*\.lock"):
        lock(tmp_path)


def test_patience_outlasts_a_short_owner(tmp_path):
    handle = lock(tmp_path)
    threading.Timer(0.5, unlock, (tmp_path, handle)).start()
    unlock(tmp_path, lock(tmp_path, patience_seconds=30))


def test_an_owner_that_ends_between_opening_and_locking_leaves_no_second_owner(tmp_path, monkeypatch):
    """The handle of a deleted file can be locked and means nothing: the next process makes a file of its own."""
    first, flock = lock(tmp_path), fcntl.flock

    def the_owner_ends_first(handle, operation):
        monkeypatch.setattr(fcntl, "flock", flock)
        unlock(tmp_path, first)
        flock(handle, operation)

    monkeypatch.setattr(fcntl, "flock", the_owner_ends_first)
    second = lock(tmp_path)
    assert os.path.samestat(os.fstat(second), (tmp_path / ".lock").stat())
    unlock(tmp_path, second)


def test_another_error_of_the_lock_is_not_swallowed(tmp_path, monkeypatch):
    def stale(handle, operation):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", stale)
    with pytest.raises(OSError, match="Input/output"):
        lock(tmp_path)


# ------------------------------------------------------------------------------------------- work on all cores


def double(number: int) -> tuple[int, int]:
    time.sleep(0.02)
    return 2 * number, os.getpid()


def fail(number: int) -> int:
    raise ValueError(f"task {number}")


@pytest.mark.parametrize("workers", [1, 3])
def test_every_task_is_done_once(workers):
    results = list(run_tasks(partial(nullcontext, double), range(40), workers))
    assert sorted(number for number, _ in results) == list(range(0, 80, 2))
    assert os.getpid() in {pid for _, pid in results}


def test_an_error_of_a_task_reaches_the_caller_and_ends_the_workers():
    with pytest.raises(ValueError, match="task"):
        list(run_tasks(partial(nullcontext, fail), range(40), 2))
    import multiprocessing

    assert multiprocessing.active_children() == []


UNGUARDED = """
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from face3d_lib.base.processes import only_writer, run_tasks
print("imported")
with only_writer(Path({folder!r})):
    print(sum(run_tasks(partial(nullcontext, abs), range(9), 2)))
"""


@pytest.mark.parametrize("stdin", [False, True])
def test_a_script_without_main_guard_is_told_so(tmp_path, stdin):
    (tmp_path / "mine.py").write_text(UNGUARDED.format(folder=str(tmp_path)), encoding="utf-8")
    words = ["-"] if stdin else [tmp_path / "mine.py"]
    with open(tmp_path / "mine.py", "rb") as text:
        environment = child_environment(PYTHONPATH=str(ROOT))
        done = subprocess.run([sys.executable, *words], stdin=text, capture_output=True, env=environment, timeout=120)
    assert done.returncode == 1
    assert b"UserError: no worker could start: a script that starts workers must be a file" in done.stderr
    assert b"memory" not in done.stderr
    assert b"bootstrapping" not in done.stderr  # Python's own page about it, from each worker


# ------------------------------------------------------------------------------------------------------ signals


def test_signals_reach_the_handler_within_the_block_only():
    def nothing(number, frame):
        """Stands for the handlers before the block: tests started in the background ignore SIGINT or SIGHUP."""

    heard, before = [], {number: signal.signal(number, nothing) for number in processes.STOPPING}
    try:
        with stopping_signals(lambda number, frame: heard.append(number)):
            for number in processes.STOPPING:
                os.kill(os.getpid(), number)
        assert heard == list(processes.STOPPING)
        assert {signal.getsignal(number) for number in processes.STOPPING} == {nothing}
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with stopping_signals(lambda number, frame: pytest.fail("heard")):
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_in_another_thread_nothing_changes():
    def body():
        with stopping_signals(lambda number, frame: None):
            seen.append(signal.getsignal(signal.SIGTERM))

    seen = []
    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM)]


def test_freed_memory_stays_with_the_process():
    """A large block that was freed still counts as the process's own, so the next one meets no page faults."""
    if not sys.platform.startswith("linux"):
        pytest.skip("the setting is one of glibc")
    code = """
        import sys
        from pathlib import Path
        from face3d_lib.base.processes import keep_freed_memory
        if sys.argv[1] == "keep":
            keep_freed_memory()
        before = int(Path("/proc/self/statm").read_text().split()[1])
        block = b"x" * (30 << 20)
        del block
        print(int(Path("/proc/self/statm").read_text().split()[1]) - before)
    """
    pages = {}
    for how in ("keep", "return"):
        environment = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
        command = [sys.executable, "-c", textwrap.dedent(code), how]
        pages[how] = int(subprocess.run(command, env=environment, capture_output=True, check=True).stdout)
    block = (30 << 20) // os.sysconf("SC_PAGE_SIZE")
    assert pages["return"] < 0.2 * block, pages
    assert pages["keep"] > 0.8 * block, pages
