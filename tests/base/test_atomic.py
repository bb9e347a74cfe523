"""Files that are whole or not there, whatever happens: kills, full disks, the order of syncs."""

import dataclasses
import errno
import os
import stat
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from face3d_lib.base.atomic import clear_leftovers, plain, replacing, require_space, write_bytes
from face3d_lib.base.errors import UserError

OLD, NEW = b"old" * 1000, b"new" * 5000


def test_data_is_on_the_disk_before_the_name_and_the_name_before_the_end(tmp_path, monkeypatch):
    """Without the first sync the name may outlive the data, without the last the name may be lost."""
    calls, sync, rename = [], os.fsync, os.replace

    def fsync(handle):
        calls.append(("fsync", os.fstat(handle).st_ino))
        sync(handle)

    def replace(source, target):
        calls.append(("replace", os.stat(source).st_ino))
        rename(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    write_bytes(tmp_path / "file", NEW)
    file, folder = (tmp_path / "file").stat().st_ino, tmp_path.stat().st_ino
    assert calls == [("fsync", file), ("replace", file), ("fsync", folder)]


STEPS = {  # what can fail while a file is written, in order
    "write": (Path, "write_bytes", 1),
    "sync of the data": (os, "fsync", 1),
    "rename": (os, "replace", 1),
    "sync of the folder": (os, "fsync", 2),
}


@pytest.mark.parametrize("step", STEPS)
def test_whichever_step_fails_the_old_file_is_whole_and_nothing_is_left_over(tmp_path, monkeypatch, step):
    """A disk that is full shows it when the file is made, written or synced."""
    path = tmp_path / "file.pt"
    write_bytes(path, OLD)
    module, name, fails_at = STEPS[step]
    works, calls = getattr(module, name), []

    def fails(*arguments, **named):
        calls.append(arguments)
        if len(calls) < fails_at:
            return works(*arguments, **named)
        if step == "write":
            works(arguments[0], NEW[:777])  # as much as there was room for
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, name, fails)
        with pytest.raises(OSError, match="No space left"):
            write_bytes(path, NEW)
    assert path.read_bytes() == (NEW if step == "sync of the folder" else OLD)
    assert list(tmp_path.iterdir()) == [path]
    write_bytes(path, NEW)
    assert path.read_bytes() == NEW


def test_a_writer_that_raises_leaves_the_old_file(tmp_path):
    write_bytes(tmp_path / "file", OLD)

    def write_and_raise():
        with replacing(tmp_path / "file") as sibling:
            sibling.write_bytes(NEW)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_and_raise()
    assert (tmp_path / "file").read_bytes() == OLD
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_folder_of_temporary_files_plays_no_part(tmp_path, monkeypatch):
    """A rename from another file system is a copy, which a kill cuts short."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "elsewhere"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "elsewhere"))  # not there: whoever uses it fails
    with replacing(tmp_path / "data" / ("n" * 251 + ".csv")) as sibling:  # as long as a name can be
        assert sibling.parent == tmp_path / "data"
        sibling.write_bytes(NEW)
    assert [path.read_bytes() for path in (tmp_path / "data").iterdir()] == [NEW]


def test_files_are_as_open_as_the_umask_says(tmp_path):
    before = os.umask(0o027)
    try:
        write_bytes(tmp_path / "file", NEW)
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_too_little_space_is_said_before_anything_is_written(tmp_path):
    with pytest.raises(UserError, match=r"GB needed.*make room"):
        require_space(tmp_path, 10**18)


WRITER = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
from face3d_lib.base.atomic import write_bytes
for number in range(1, 2**31):
    write_bytes(Path({path!r}), number.to_bytes(4, "big") * 5_000_000)
    print(number, flush=True)
"""


def kill_while_writing(tmp_path: Path, times: int) -> None:
    """SIGKILL a process that writes one file again and again; it is never less than was last said to be written."""
    path, draw = tmp_path / "last.pt", np.random.default_rng()
    script = textwrap.dedent(WRITER).format(root=str(Path(__file__).parents[2]), path=str(path))
    leftovers = 0
    for _ in range(times):
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        first = process.stdout.readline()
        time.sleep(draw.uniform(0, 0.1))
        process.kill()
        said = int((first + process.communicate()[0]).split()[-1])
        found = np.unique(np.fromfile(path, ">u4"))
        assert path.stat().st_size == 20_000_000
        assert found.tolist() in ([said], [said + 1])  # the name may be there and the word not said yet
        leftovers += sum(1 for _ in tmp_path.glob(".new-*"))
        clear_leftovers(tmp_path)
        assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]
        path.unlink()
    assert leftovers, "no kill fell into the writing"


def test_a_kill_costs_nothing_that_was_written(tmp_path):
    kill_while_writing(tmp_path, times=6)


@pytest.mark.slow
def test_a_hundred_kills_cost_nothing_that_was_written(tmp_path):
    kill_while_writing(tmp_path, times=100)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="/dev/shm, another file system, is not there")
def test_a_hundred_kills_with_temporary_files_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", "/dev/shm")
    kill_while_writing(tmp_path, times=100)


def test_a_folder_that_cannot_be_synced_is_no_failure_and_a_file_is_one(tmp_path, monkeypatch):
    """CIFS before Linux 4.17 and some FUSE answer EINVAL to the sync of a folder."""
    sync, broken = os.fsync, stat.S_ISDIR

    def fsync(handle):
        if broken(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        sync(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    write_bytes(tmp_path / "file", NEW)
    assert (tmp_path / "file").read_bytes() == NEW
    broken = stat.S_ISREG
    with pytest.raises(OSError, match="Invalid argument"):
        write_bytes(tmp_path / "file", OLD)
    assert (tmp_path / "file").read_bytes() == NEW


def test_neither_numpy_nor_pandas_is_loaded_to_write_json():
    code = (
        "import sys, face3d_lib.base.atomic, face3d_lib.base.processes; print({'numpy', 'pandas'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8").stdout == "set()\n"


def test_any_result_becomes_plain_json():
    @dataclasses.dataclass
    class Result:
        rates: np.ndarray
        table: pd.DataFrame
        folder: Path

    result = Result(np.array([[0.123456789, np.nan]]), pd.DataFrame({"a": [np.int64(1)], "b": ["x"]}), Path("p"))
    assert plain(result) == {"rates": [[0.123457, None]], "table": [{"a": 1, "b": "x"}], "folder": "p"}
    assert plain({1: np.float32(0.5), "s": pd.Series([1, 2]), "t": (np.bool_(True), float("inf"), None)}) == {
        "1": 0.5, "s": [1, 2], "t": [True, None, None],
    }  # fmt: skip
    assert type(plain(np.int32(3))) is int


def test_a_failure_names_the_file_that_was_to_be_written(tmp_path, monkeypatch):
    """A full disk names no file, and the name of the new file beside it means nothing to anybody."""

    def full(path, *data, missing_ok=False):
        raise OSError(errno.ENOSPC, "No space left on device", None if data else str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*gallery\.json'"):
        write_bytes(tmp_path / "gallery.json", NEW)
    monkeypatch.setattr(Path, "unlink", full)  # as on read-only media, whose answer to it is that they are read-only
    with pytest.raises(OSError, match=r"gallery\.json'"):
        write_bytes(tmp_path / "gallery.json", NEW)
    monkeypatch.undo()
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match=r"directory: '[^']*folder'$"):
        write_bytes(tmp_path / "folder", NEW)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder"]
