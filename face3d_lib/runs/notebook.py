"""`open_run` opens a notebook's stage of a run, with checked parameters, a lock, seeds and a record."""

import atexit
import io
import os
import platform
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

import numpy as np

from ..base import paths
from ..base.atomic import plain, write_json
from ..base.environment import rank_and_world, require_assertions, require_utf8, setting
from ..base.errors import UserError
from ..base.paths import ROOT, child_environment, relative
from ..base.processes import GRACE_SECONDS, PREEMPTING, is_alive, lock, stopping_signals, unlock
from .folders import find_stage, run_folder
from .parameters import as_words, check_parameters, parameter_model
from .plan import DATA, Job, planned, stage_of
from .record import (
    Before,
    close_record,
    is_current,
    new_record,
    outdated,
    read_record,
    refuse_a_copy,
    refuse_other_data,
    version,
)


class Preempted(KeyboardInterrupt):
    """Raised in the running cell when a signal asks this process to stop; the cell's `finally` blocks save."""


class Run:
    """One stage of one run, as its notebook sees it; made by `open_run`.

    folder: runs/<run>/<stage>. figures: the folder for `save_figure`. parameters: the checked values.
    rank: the rank under torchrun, else 0; only rank 0 writes records, and the others write into temporary folders that
    are deleted when they end. preempted: whether a signal asked this process to stop.
    """

    def __init__(self, stage: str, namespace: dict):
        self.stage, self.run = stage, str(namespace.get("run", "default"))
        self.folder = run_folder(self.run) / stage
        self.by_hand = setting("FACE3D_RUNNER") != str(self.folder)  # not started by `run_notebook`
        self._namespace, self._pid = namespace, os.getpid()
        self._thread_errors: list[str] = []
        self._notebook = self._own_notebook()
        if self.by_hand:
            self._adopt()
        self.parameters = self._check_parameters()
        refuse_a_copy(stage, self.run, self._notebook)
        if self._notebook.exists():
            refuse_other_data(self.folder, self._notebook, self.parameters)
        (self.rank, self.world), self.preempted = rank_and_world(), False
        if self.rank:  # rank 0 writes the same models, tables and pictures
            self.folder = Path(tempfile.mkdtemp(prefix="face3d-"))
            atexit.register(shutil.rmtree, self.folder, ignore_errors=True)
        self.figures = self.folder / "figures"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = lock(self.folder) if self.by_hand and self.rank == 0 else None
        self._before = Before(self.folder)
        if self.by_hand or self.rank:
            self._record = new_record(stage, self.run, self.parameters, self._notebook) | {"by_hand": self.by_hand}
        else:
            self._record = read_record(self.folder)  # the runner wrote it before the kernel started
        self._record["closed"] = False
        self._given = set(self._record.get("given", ())) | self._changed()
        self._again = (
            self.by_hand and self._before.done and is_current(self._before.record, self.parameters, self._notebook)
        )
        self._write()
        self._watch()

    def need(self, name: str) -> Path:
        """The folder of an upstream stage ("21_pack_dataset", "rgb/30_train_softmax"), which must be done.

        The stage is looked for in this run, then in the runs around it. If it is missing, the outermost run is
        "default" and the plan has a stage of that name, it is made by running its notebook with the defaults; otherwise
        a UserError names the command that makes it. The hash of its result is written into this stage's record.
        """
        folder = find_stage(self.run, name)
        if (record := read_record(folder))["status"] != "done":
            self._make(name, record)
            folder = find_stage(self.run, name)
        if folder is None:
            raise UserError(f"{name} was made, but its folder has disappeared: run this cell once more")
        for upstream in outdated(read_record(folder)):
            print(f"note: {name} was made before the present {upstream}; run it again to bring it up to date")
        where, sha256 = folder.relative_to(paths.RUNS).as_posix(), read_record(folder).get("result_sha256")
        self._record["upstream"][name] = {"folder": where, "result_sha256": sha256}
        self._write()
        return folder

    def expect(self, parameter: str, holds: bool, found: str) -> None:
        """Require what the parameter expect_... of a notebook says about a rate; nothing happens where it `holds`.

        found: what was found instead, in a few words. The notebooks' own values are for the built-in synthetic faces,
        where a worse rate means that something is broken: AssertionError. On the user's pictures a poor rate is a result:
        it is printed, it stands in run.json under "missed", and the stage goes on. A value that was given for this
        run holds there as well.
        """
        if holds:
            return
        if parameter in self._given or not self._on_own_pictures():
            raise AssertionError(found)
        self._record["missed"] = self._record.get("missed", {}) | {parameter: found}
        self._write()
        value = self.parameters.get(parameter)
        print(f"note: {found} (the built-in faces are held to {parameter} = {value}, your own only if you give it)")

    def done(self, metrics: dict | None = None) -> None:
        """Close the stage: write metrics.json (NaN becomes null) and the status. RuntimeError if a thread failed."""
        if self._thread_errors:
            raise RuntimeError(f"an exception in a thread: {self._thread_errors[0]}")
        if self.rank == 0:
            write_json(self.folder / "metrics.json", plain(metrics or {}))
        self._record["closed"] = True
        if self.by_hand:
            self._end("done")
        else:
            self._write()  # the runner writes "done" after it has checked that every cell ran
        self.release()

    def release(self) -> None:
        """Give up the lock on the folder and undo `_watch`; the status of the stage stays as it is."""
        if self._lock is not None and not self._record["closed"] and self._before.was_done_and_is_untouched():
            self._before.restore()
        threading.excepthook = self._previous_hook
        self._signals.close()
        atexit.unregister(self._on_exit)
        if self._lock is not None:
            unlock(self.folder, self._lock)
            self._lock = None

    def _own_notebook(self) -> Path:
        """The notebook file that runs, as the runner, JupyterLab or VS Code names it, else the one in notebooks/."""
        own, here = paths.NOTEBOOKS / f"{self.stage}.ipynb", self._namespace.get("__vsc_ipynb_file__")
        told = setting("FACE3D_NOTEBOOK") or here or setting("JPY_SESSION_NAME")
        executed = Path(told).parent == self.folder  # the executed copy that this stage left earlier
        return own if executed or not told.endswith(".ipynb") else Path(told)

    def _adopt(self) -> None:
        """When a finished stage is opened by hand, parameters that nobody chose take the values with which it was made.

        The notebook's defaults belong to the run "default". The demo, or a run on the user's data, was made with other
        values, and opening a notebook on it must not make the stage again. A value counts as chosen if it differs from
        the value in the file, or if the file itself names this run.
        """
        record = read_record(self.folder)
        if record["status"] != "done" or self.run.partition("/")[0] == "default" or not self._notebook.exists():
            return
        fields = parameter_model(self._notebook).model_fields
        if fields["run"].default == self.run:
            return
        left = {name for name, field in fields.items() if self._namespace.get(name) == field.default}
        adopted = {name: value for name, value in record["parameters"].items() if name in left}
        self._namespace.update(adopted)
        if told := [f"{name} = {value!r}" for name, value in adopted.items() if value != fields[name].default]:
            print(f"as {self.stage} was made in run {self.run}: {', '.join(told)}")

    def _check_parameters(self) -> dict:
        """All declared parameters with the values that the notebook's cells gave, checked as strictly as in batch."""
        if not self._notebook.exists():
            return {"run": self.run}
        model = parameter_model(self._notebook)
        values = {name: self._namespace[name] for name in model.model_fields if name in self._namespace}
        return check_parameters(model, values, strict=True)

    def _changed(self) -> set[str]:
        """The names of the parameters whose values are not those of the notebook's file."""
        fields = parameter_model(self._notebook).model_fields if self._notebook.exists() else {}
        return {name for name, field in fields.items() if self.parameters[name] != field.default}

    def _on_own_pictures(self) -> bool:
        """Whether the pictures are the user's: the stage, or else the run's 00_look_at_pairs, takes a folder `data`."""
        looked = read_record(find_stage(self.run, DATA[0].notebook)).get("parameters", {})
        return bool(self.parameters.get("data", looked.get("data")))

    def _make(self, name: str, record: dict) -> None:
        """Run the notebook that makes `name` and show its progress; UserError where the user has to decide about it."""
        job = planned(self.run, name)
        root, _, nested = job.run.partition("/")
        names = stage_of(job.notebook).nested  # {}: a notebook of the user's own
        mistyped = names and nested not in names  # "rbg/30_train_softmax" would train for minutes under that name
        as_page = setting("SERVER_SOFTWARE").startswith("voila")  # nobody waits minutes before an empty page
        if root != "default" or mistyped or self.world > 1 or as_page:
            raise UserError(
                f"{self.stage} reads {name}, which is {_state(record, self.run, name)}: {_advice(job, record)}"
            )
        if _wait_for_another(name, run_folder(job.run) / job.notebook):
            return
        print(f"{name} is {record['status']}: making it from the defaults", flush=True)
        notebook = self._notebook.with_name(f"{job.notebook}.ipynb")
        notebook = notebook if notebook.exists() else paths.NOTEBOOKS / notebook.name
        if code := _run_visibly(notebook, job):
            raise UserError(f"{self.stage} reads {name}, which could not be made (exit code {code}, see above)")

    def _write(self) -> None:
        if self.rank == 0 and not self._again:  # an unchanged stage that is made again stays done
            write_json(self.folder / "run.json", self._record)

    def _end(self, status: str) -> None:
        """Record how the stage ended; a stage that was done stays done if none of its files has changed."""
        if status != "done" and self._before.was_done_and_is_untouched():
            self._before.restore()
        elif self.rank == 0:
            close_record(self.folder, self._record, status)

    def _watch(self) -> None:
        """Notice failing threads, signals, and a process that ends before `done`."""
        self._previous_hook, threading.excepthook = threading.excepthook, self._on_thread_error
        self._signals = ExitStack()
        self._signals.enter_context(stopping_signals(self._on_signal, PREEMPTING))  # SIGINT interrupts a cell
        atexit.register(self._on_exit)

    def _on_thread_error(self, failure: threading.ExceptHookArgs) -> None:
        self._thread_errors.append(f"{failure.exc_type.__name__}: {failure.exc_value}")
        self._previous_hook(failure)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        ours = os.getpid() == self._pid  # forked workers inherit the handler: they just end
        if ours and self.preempted:
            return  # saving has begun; if it takes too long, the runner or the sender of the signal kills the process
        self.preempted = True
        if ours and self.by_hand:
            self._end("preempted")
        while frame is not None and frame.f_globals is not self._namespace:
            frame = frame.f_back
        if ours and frame is not None:
            raise Preempted(f"stopped by {signal.Signals(number).name}")
        signal.signal(number, signal.SIG_DFL)  # between cells there is nothing to save, and an exception would do harm
        os.kill(os.getpid(), number)

    def _on_exit(self) -> None:
        if self.by_hand and not self.preempted and os.getpid() == self._pid:
            self._end("incomplete")


def _state(record: dict, run: str, name: str) -> str:
    """A description of an upstream stage that is not done: its status and, if it failed, the reason and the log."""
    state = f"{record['status']} in run {run}"
    if not record.get("error"):
        return state
    folder, stage = run_folder(record["run"]) / record["stage"], record["stage"]
    log = folder / f"{stage}.failed.ipynb"
    return f"{state} ({record['error']}{f'; see {relative(log)}' if log.exists() else ''})"


def _advice(job: Job, record: dict) -> str:
    """The command that makes a missing stage, with the parameters of an earlier attempt, or else those of the plan."""
    notebook = paths.NOTEBOOKS / f"{job.notebook}.ipynb"
    if "parameters" in record and notebook.exists():
        declared = parameter_model(notebook).model_fields
        tried = {name: value for name, value in record["parameters"].items() if name in declared and name != "run"}
        chosen = {name: value for name, value in tried.items() if value != declared[name].default}
        job = Job(job.notebook, record["run"], chosen)
    elif job.notebook == DATA[0].notebook and job.run.partition("/")[0] != "demo":  # synthetic people are for the demo
        job = Job(job.notebook, job.run, {"data": "FOLDER"})
    return shlex.join(["face3d", "run", job.notebook, job.run, *as_words(job.parameters)])


def _wait_for_another(name: str, folder: Path) -> bool:
    """Wait while another process makes the stage in `folder`; True if it was made, False at once if none makes it."""
    record, told = read_record(folder), False
    while record["status"] == "running" and not record.get("by_hand") and is_alive(str(record.get("pid"))):
        if not told:
            print(f"{name} is being made by process {record['pid']}: waiting for it", flush=True)
        told = True
        time.sleep(1)
        record = read_record(folder)
    return record["status"] == "done"


def _run_visibly(notebook: Path, job: Job) -> int:
    """Run a notebook in its own process, show its progress in one line that is renewed, and return its exit code."""
    command = [sys.executable, "-m", "face3d_lib.cli", "run", str(notebook), job.run, *as_words(job.parameters)]
    env = child_environment(FACE3D_PROGRESS="1")
    child = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert child.stdout is not None  # because Popen was asked for a pipe
    shown = ""
    try:
        told = io.TextIOWrapper(
            child.stdout, encoding="utf-8", newline=""
        )  # keeps carriage returns apart from line ends
        for letter in iter(lambda: told.read(1), ""):
            if letter not in "\r\n":
                shown += letter
            elif shown.strip():
                print(f"\r{shown.strip():<110}", end=letter.strip("\r"), flush=True)
                shown = ""
        return child.wait()
    except KeyboardInterrupt:
        child.terminate()  # the child passes the signal on to its kernel, which may save
        child.wait(GRACE_SECONDS + 5)
        raise


_opened: Run | None = None


def open_run(stage: str, namespace: dict) -> Run:
    """Open a notebook's stage, after its parameters: `this = open_run("10_align_faces", globals())`.

    Makes the folder, takes its lock, checks the parameters against the notebook's own declaration, sets the
    seeds and prints one line. May be called again in the same kernel. UserError for a wrong parameter or a
    busy folder.
    """
    global _opened
    require_utf8()
    require_assertions()
    if _opened is not None:
        _opened.release()
    this = _opened = Run(stage, namespace)
    seed, device = int(namespace.get("seed", 0)), namespace.get("device", "cpu")
    set_seeds(seed)
    packages = [f"{name} {version(name)}" for name in ("numpy", "torch") if name in sys.modules]
    about = ", ".join([f"seed {seed}", f"device {device}", f"python {platform.python_version()}", *packages])
    print(f"{stage}, run {this.run}: {about}")
    if this.by_hand and setting("FACE3D_LAB"):
        print(f"saving keeps the outputs in {relative(this.folder / f'{stage}.ipynb')}")
    return this


def set_seeds(seed: int) -> None:
    """Seed python, numpy and, if it is imported, torch, which then uses deterministic algorithms where it has such."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 (libraries draw from the global generator)
    if torch := sys.modules.get("torch"):
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.manual_seed(seed)
        torch.use_deterministic_algorithms(True, warn_only=True)
