"""What a notebook opens: its stage of a run, with checked parameters, a lock, seeds and a record."""

import atexit
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from ..base import paths
from ..base.atomic import plain, sha256_of, write_json
from ..base.environment import rank_and_world, require_utf8
from ..base.errors import UserError
from ..base.paths import ROOT, child_environment
from ..base.processes import GRACE_SECONDS, PREEMPTING, lock, stopping_signals, unlock
from .folders import figures_folder, find_stage, refuse_real_faces, run_folder
from .parameters import check_parameters, parameter_model
from .plan import planned
from .record import close_record, new_record, outdated, read_record, version


class Preempted(KeyboardInterrupt):
    """A signal asked this process to stop: raised in the cell that runs, whose `finally` blocks save."""


class Run:
    """One stage of one run, as its notebook sees it; made by `open_run`.

    folder: runs/<run>/<stage>. figures: the folder for `save_figure`. parameters: the checked values.
    rank: 0, or the rank under torchrun, where rank 0 alone writes records and the others write into folders that
    go when they end. preempted: a signal asked to stop.
    """

    def __init__(self, stage: str, namespace: dict):
        self.stage, self.run = stage, str(namespace.get("run", "default"))
        self.folder, self.figures = run_folder(self.run) / stage, figures_folder(self.run, stage)
        (self.rank, self.world), self.preempted = rank_and_world(), False
        if self.rank:  # what it writes too, rank 0 writes as well: models, tables and pictures stand there once
            self.folder = Path(tempfile.mkdtemp(prefix="face3d-"))
            self.figures = self.folder / "figures"
            atexit.register(shutil.rmtree, self.folder, ignore_errors=True)
        self.by_hand = os.environ.get("FACE3D_RUNNER") != str(run_folder(self.run) / stage)  # not by `run_notebook`
        self._notebook = paths.NOTEBOOKS / f"{stage}.ipynb"
        if not self.by_hand:
            self._notebook = Path(os.environ["FACE3D_NOTEBOOK"])
        self._namespace, self._pid, self._thread_errors = namespace, os.getpid(), []
        self.parameters = self._check_parameters()
        if self.parameters.get("data") or self.parameters.get("sensor"):  # a folder of somebody's pairs
            refuse_real_faces(self.run)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = lock(self.folder) if self.by_hand and self.rank == 0 else None
        if self.by_hand or self.rank:
            self._record = new_record(stage, self.run, self.parameters, self._notebook)
        else:
            self._record = read_record(self.folder)  # the runner has begun it
        self._record["closed"] = False
        self._write()
        self._watch()

    def need(self, name: str) -> Path:
        """The folder of an upstream stage ("21_pack_dataset", "rgb/30_train_softmax"), which must be done.

        Looked for in this run, then in the runs around it. When it is missing and the outermost run is
        "default", it is made from the defaults; else a UserError names the command. The hash of its run.json
        enters ours.
        """
        folder = find_stage(self.run, name)
        if (status := read_record(folder)["status"]) != "done":
            self._make(name, status)
            folder = find_stage(self.run, name)
        for upstream in outdated(read_record(folder)):
            print(f"note: {name} was made before the present {upstream}; run it again to bring it up to date")
        where, sha256 = folder.relative_to(paths.RUNS).as_posix(), sha256_of(folder / "run.json")
        self._record["upstream"][name] = {"folder": where, "run_json_sha256": sha256}
        self._write()
        return folder

    def done(self, metrics: dict | None = None) -> None:
        """Close the stage: metrics.json (NaN as null), status. RuntimeError when a thread has failed."""
        if self._thread_errors:
            raise RuntimeError(f"an exception in a thread: {self._thread_errors[0]}")
        if self.rank == 0:
            write_json(self.folder / "metrics.json", plain(metrics or {}))
        self._record["closed"] = True
        if self.by_hand:
            self._end("done")
        else:
            self._write()  # the runner says "done", when it has seen that every cell ran
        self.release()

    def release(self) -> None:
        """Give the folder free and undo `_watch`; the status stays as it is."""
        threading.excepthook = self._previous_hook
        self._signals.close()
        atexit.unregister(self._on_exit)
        if self._lock is not None:
            unlock(self.folder, self._lock)
            self._lock = None

    def _check_parameters(self) -> dict:
        """What the notebook declares, with the values that its cells gave; by hand as strict as in batch."""
        if not self._notebook.exists():
            return {"run": self.run}
        model = parameter_model(self._notebook)
        values = {name: self._namespace[name] for name in model.model_fields if name in self._namespace}
        return check_parameters(model, values, strict=True)

    def _make(self, name: str, status: str) -> None:
        """Run the notebook that makes `name`, visibly; UserError where that is for the user to do."""
        run, step = planned(self.run, name)
        default = run.partition("/")[0] == "default"
        parameters = step.parameters | ({} if default else step.demo_parameters)
        words = [word for key, value in parameters.items() for word in ("-p", f"{key}={value}")]
        if not default or self.world > 1:
            command = " ".join(["face3d run", step.notebook, run, *words])
            raise UserError(f"{self.stage} reads {name}, which is {status} in run {self.run}: {command}")
        print(f"{name} is {status}: making it from the defaults", flush=True)
        notebook = self._notebook.with_name(f"{step.notebook}.ipynb")
        command = [sys.executable, "-m", "face3d_lib.runs.runner", notebook, run, *words]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "encoding": "utf-8"}
        child = subprocess.Popen(command, cwd=ROOT, env=child_environment(), **pipes)
        try:
            for line in child.stdout:
                print(" ", line.rstrip(), flush=True)
            code = child.wait()
        except KeyboardInterrupt:
            child.terminate()  # it passes the signal on to its kernel, which may save
            child.wait(GRACE_SECONDS + 5)
            raise
        if code:
            raise UserError(f"{self.stage} reads {name}, which could not be made (exit code {code}, see above)")

    def _write(self) -> None:
        if self.rank == 0:
            write_json(self.folder / "run.json", self._record)

    def _end(self, status: str) -> None:
        if self.rank == 0:
            close_record(self.folder, self._record, status)

    def _watch(self) -> None:
        """Notice failing threads, signals, and a process that ends before `done`."""
        self._previous_hook, threading.excepthook = threading.excepthook, self._on_thread_error
        self._signals = ExitStack()
        self._signals.enter_context(stopping_signals(self._on_signal, PREEMPTING))  # SIGINT interrupts a cell
        atexit.register(self._on_exit)

    def _on_thread_error(self, failure) -> None:
        self._thread_errors.append(f"{failure.exc_type.__name__}: {failure.exc_value}")
        self._previous_hook(failure)

    def _on_signal(self, number: int, frame) -> None:
        ours = os.getpid() == self._pid  # forked workers inherit the handler: they just end
        if ours and self.preempted:
            return  # saving has begun; what takes too long is killed, by the runner or by who sent the signal
        self.preempted = True
        if ours and self.by_hand:
            self._end("preempted")
        while frame is not None and frame.f_globals is not self._namespace:
            frame = frame.f_back
        if ours and frame is not None:
            raise Preempted(f"stopped by {signal.Signals(number).name}")
        signal.signal(number, signal.SIG_DFL)  # between cells nothing is to be saved, and raising would do harm
        os.kill(os.getpid(), number)

    def _on_exit(self) -> None:
        if self.by_hand and not self.preempted and os.getpid() == self._pid:
            self._end("incomplete")


_opened: Run | None = None


def open_run(stage: str, namespace: dict) -> Run:
    """Open a notebook's stage, after its parameters: `this = open_run("10_align_faces", globals())`.

    Makes the folder, takes its lock, checks the parameters against the notebook's own declaration, sets the
    seeds and prints one line. May be called again in the same kernel. UserError for a wrong parameter or a
    busy folder.
    """
    global _opened
    require_utf8()
    if _opened is not None:
        _opened.release()
    this = _opened = Run(stage, namespace)
    seed, device = int(namespace.get("seed", 0)), namespace.get("device", "cpu")
    set_seeds(seed)
    packages = [f"{name} {version(name)}" for name in ("numpy", "torch") if name in sys.modules]
    about = ", ".join([f"seed {seed}", f"device {device}", f"python {platform.python_version()}", *packages])
    print(f"{stage}, run {this.run}: {about}")
    return this


def set_seeds(seed: int) -> None:
    """Seed python, numpy and, where imported, torch, which is then deterministic where it can be."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 (libraries draw from the global generator)
    if torch := sys.modules.get("torch"):
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.manual_seed(seed)
        torch.use_deterministic_algorithms(True, warn_only=True)
