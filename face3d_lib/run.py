"""Run folders: what a notebook opens, and the strict runner that executes notebooks in batch.

A run is a path below runs/ ("default", "demo", "demo/rgb"), a stage is a notebook. A stage writes into
runs/<run>/<stage>/ and reads the stages of its own run and of the runs around it. `run.json` in that folder
says what happened, with which parameters, versions and upstream stages; nothing else decides whether a stage
is done.

papermill calls a notebook completed when its kernel was killed, when a cell called sys.exit(0) and when a
thread failed; it only warns about an unknown parameter, executes a crafted parameter *name*, and can leave
half a notebook. `run_notebook` uses it for execution alone and decides by itself. Its exit codes:
0 done, 1 failed, 2 incomplete (or a mistake of the user), 75 preempted by a signal, 138 the kernel died.
"""

import argparse
import ast
import atexit
import difflib
import fcntl
import hashlib
import importlib.metadata
import io
import json
import keyword
import logging
import os
import platform
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tokenize
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

import numpy as np

from .atomic import UserError, plain, sha256_of, sweep, write_json, write_text
from .paths import FIGURES, NOTEBOOKS, ROOT, RUNS, relative

EXIT_CODES = {"done": 0, "failed": 1, "incomplete": 2, "preempted": 75, "kernel_died": 138}
PACKAGES = ["torch", "torchvision", "facenet-pytorch", "timm", "numpy", "pandas", "scikit-learn", "ipykernel"]
SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1]  # SIGUSR1 is Slurm's usual warning
GRACE_SECONDS = 30  # between the signal and the end of a kernel that does not stop
START_SECONDS = 180  # for a kernel to come up on a busy machine


@dataclass(frozen=True)
class Step:
    """One notebook run of the experiment; `nested` is the run below "default" or "demo", "" for that one."""

    notebook: str
    nested: str = ""
    parameters: dict = field(default_factory=dict)
    demo_parameters: dict = field(default_factory=dict)  # on top of `parameters` in every run but "default"


PLAN = [
    Step("00_look_at_pairs", demo_parameters={"subjects": 120, "images_per_session": 8}),
    Step("10_align_faces"),
    Step("20_split_subjects"),
    Step("21_pack_dataset"),
    Step("22_encode_depth"),
    *(
        Step("30_train_softmax", modality, {"modality": modality}, {"epochs": 20, "input_size": 80})
        for modality in ("rgb", "depth", "rgbd")
    ),
    Step("40_evaluate_verification"),
    Step("41_evaluate_identification"),
    Step("42_view_embeddings"),
    Step("43_compare_modalities"),
    Step("50_predict_identity"),
]


class Preempted(KeyboardInterrupt):
    """A signal asked this process to stop: raised in the cell that runs, whose `finally` blocks save."""


# ---------------------------------------------------------------------------------------- folders and records


def run_folder(run: str) -> Path:
    """runs/<run>; UserError unless `run` is one or more plain names joined by "/"."""
    names = str(run).split("/")
    plain_names = all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name) for name in names)
    if not plain_names or "figures" in names:
        raise UserError(f"run {run!r}: use letters, digits, . _ -, and / between nested runs, as in demo/rgb")
    return RUNS / run


PUBLISHED = {"default": "", "demo": "demo"}  # runs of synthetic faces -> folder of figures/, which git tracks


def figures_folder(run: str, stage: str) -> Path:
    """Where a stage's figures go: only those of the two synthetic runs into figures/, which git tracks."""
    root, _, nested = run.partition("/")
    return FIGURES / PUBLISHED[root] / stage / nested if root in PUBLISHED else run_folder(run) / "figures" / stage


def refuse_real_faces(run: str) -> None:
    """UserError for a run whose figures git tracks."""
    if run.partition("/")[0] in PUBLISHED:
        raise UserError(f"run {run!r}: its figures are published in figures/; choose another name for real faces")


def outward(run: str) -> list[str]:
    """The run and the runs it is nested in, innermost first: "demo/rgb" gives ["demo/rgb", "demo"]."""
    return [str(path) for path in (PurePosixPath(run), *PurePosixPath(run).parents) if path.name]


def find_stage(run: str, name: str) -> Path | None:
    """The folder of `name` ("21_pack_dataset", "rgb/30_train_softmax") in this run or the nearest around."""
    folders = [run_folder(outer) / name for outer in outward(run)]
    return next((folder for folder in folders if (folder / "run.json").exists()), None)


def read_record(folder: Path | None) -> dict:
    """The run.json of a stage's folder; {"status": "missing"} when there is none."""
    path = folder / "run.json" if folder else None
    return json.loads(path.read_text()) if path and path.exists() else {"status": "missing"}


def new_record(stage: str, run: str, parameters: dict, notebook: Path) -> dict:
    """What run.json says at the start; no host name and no folder of this machine."""
    return {
        "stage": stage,
        "run": run,
        "status": "running",
        "parameters": parameters,
        "started": utc_now(),
        "pid": os.getpid(),
        "versions": {name: version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "git": git_state(),
        "code_sha256": code_hash(notebook),
        "upstream": {},
    }


def close_record(folder: Path, record: dict, status: str, error: str | None = None) -> None:
    """Write the run.json of a stage that has ended. error: one line, or None."""
    ended = utc_now()
    seconds = (datetime.fromisoformat(ended) - datetime.fromisoformat(record["started"])).total_seconds()
    kept = {key: value for key, value in record.items() if key not in ("pid", "closed")}
    end = {"status": status, "ended": ended, "seconds": seconds, "error": error}
    write_json(folder / "run.json", kept | end)


def utc_now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def version(package: str) -> str | None:
    with suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)


def git_state() -> dict | None:
    """Commit, and whether tracked files differ from it; None outside a git checkout."""

    def git(*words):
        done = subprocess.run(["git", "-C", ROOT, *words], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    with suppress(OSError, subprocess.CalledProcessError):
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "-uno"))}


def code_hash(notebook: Path) -> str:
    """SHA-256 of this library and, where the file exists, of the notebook's cells without their outputs."""
    sources = [path.read_text() for path in sorted(Path(__file__).parent.glob("*.py"))]
    if notebook.exists():
        sources += [cell.source for cell in read_cells(notebook)]
    return hashlib.sha256("\0".join(sources).encode()).hexdigest()


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


# ------------------------------------------------------------------------------------------------- parameters


def find_notebook(name: str | Path) -> Path:
    """The notebook file: a path, or a name in notebooks/ with or without .ipynb."""
    for path in (Path(name), NOTEBOOKS / f"{Path(name).stem}.ipynb"):
        if path.suffix == ".ipynb" and path.is_file():
            return path.resolve()
    names = [path.stem for path in sorted(NOTEBOOKS.glob("*.ipynb"))]
    near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.3) or names
    raise UserError(f"there is no notebook {name}; in notebooks/ there is {', '.join(near) or 'none'}")


def read_cells(notebook: Path) -> list:
    """The cells of a notebook file; UserError when it is none."""
    import nbformat

    try:
        return nbformat.read(notebook, as_version=4).cells
    except Exception as error:  # nbformat answers damage with many kinds of exception
        raise UserError(f"{notebook}: not a readable notebook ({first_line(str(error))})") from None


def parameter_model(notebook: Path):
    """A pydantic model of the cell tagged `parameters`: title = type as written, description = the comment.

    Every statement must be `name: type = literal`; anything else there, or no `run: str`, is a UserError.
    """
    from pydantic import ConfigDict, Field, create_model

    sources = [c.source for c in read_cells(notebook) if "parameters" in c.metadata.get("tags", [])]
    if len(sources) != 1:
        raise UserError(f"{notebook.name}: one cell must be tagged `parameters`, {len(sources)} are")
    try:
        statements, comments, fields = ast.parse(sources[0]).body, trailing_comments(sources[0]), {}
    except SyntaxError as error:
        raise UserError(f"{notebook.name}: the cell tagged `parameters` is not Python: {error}") from None
    for statement in statements:
        try:
            kind, default = _kind(statement.annotation), ast.literal_eval(statement.value)
            title, comment = ast.unparse(statement.annotation), comments.get(statement.end_lineno, "")
            fields[statement.target.id] = (kind, Field(default, title=title, description=comment))
        except (AttributeError, TypeError, ValueError):
            wrong = ast.unparse(statement).splitlines()[0]
            message = f"{notebook.name}: a parameter is `name: type = literal`, not `{wrong}`"
            raise UserError(message) from None
    if "run" not in fields:
        raise UserError(f"{notebook.name}: the parameters must declare `run: str`")
    config = ConfigDict(extra="forbid", validate_default=True, protected_namespaces=())
    return create_model(notebook.stem, __config__=config, **fields)


def _kind(node: ast.expr):
    """The type that an annotation spells: numbers, text, list, Literal, unions; ValueError for others."""
    from pydantic import BeforeValidator, Field

    number = BeforeValidator(_refuse_bool)
    match node:
        case ast.Name(id="int"):
            return Annotated[int, number]
        case ast.Name(id="float"):
            return Annotated[float, number, Field(allow_inf_nan=False)]
        case ast.Name(id="str" | "bool" as name):
            return {"str": str, "bool": bool}[name]
        case ast.Constant(value=None):
            return None
        case ast.Subscript(value=ast.Name(id="list"), slice=inner):
            return list[_kind(inner)]
        case ast.Subscript(value=ast.Name(id="Literal"), slice=inner):
            return Literal[ast.literal_eval(inner)]
        case ast.BinOp(op=ast.BitOr(), left=left, right=right):
            return _kind(left) | _kind(right)
    raise ValueError


def _refuse_bool(value):
    if isinstance(value, bool):  # pydantic, like Python, takes True for 1
        raise ValueError("not a truth value")
    return value


def trailing_comments(source: str) -> dict[int, str]:
    """Line number -> comment on that line."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}


def check_parameters(model, values: dict, strict: bool = False) -> dict:
    """All parameters of a notebook, `values` over its defaults; text is read as declared, unless strict.

    UserError names the parameter, its type and the value; or, when unknown, the nearest and all declared.
    """
    from pydantic import ValidationError

    fields = model.model_fields
    for name in values:
        if not name.isidentifier() or keyword.iskeyword(name):
            raise UserError(f"{name!r} cannot be the name of a parameter")
        if name not in fields:
            near = difflib.get_close_matches(name, fields, cutoff=0.5)
            hint = f" (did you mean {' or '.join(near)}?)" if near else ""
            declared = [f"  {n}: {f.title} = {f.default!r}  # {f.description}" for n, f in fields.items()]
            raise UserError("\n".join([f"{model.__name__} has no parameter {name}{hint}; it declares", *declared]))
    if not strict:
        values = {name: _from_text(value, fields[name].title) for name, value in values.items()}
    try:
        return model.model_validate(values, strict=strict).model_dump()
    except ValidationError as error:
        first = error.errors()[0]
        name, given = first["loc"][0], first["input"]
        wrong = f"{model.__name__}: parameter {name} is {given!r} ({type(given).__name__})"
        raise UserError(f"{wrong}; {fields[name].title} is declared: {first['msg']}") from None


def _from_text(value, title: str):
    """Text of a command line as pydantic reads it: none, lists as "a,b" or "[1, 2]", Literals of numbers."""
    if not isinstance(value, str) or title == "str":
        return value
    if "None" in title and value.lower() in ("none", "null"):
        return None
    if title.startswith("list["):
        inside = value.strip().removeprefix("[").removesuffix("]")
        return [part.strip(" '\"") for part in inside.split(",")] if inside else []
    if title.startswith("Literal["):
        choices = ast.literal_eval(title.removeprefix("Literal[").partition("]")[0] + ",")
        return next((choice for choice in choices if str(choice) == value), value)
    return value


def parse_parameters(pairs: list[str]) -> dict[str, str]:
    """["lr=1e-3", "modality=rgb"] of a command line as a dict of text; UserError for anything else."""
    values = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise UserError(f"-p {pair}: name=value expected")
        if name == "run":
            raise UserError(f"-p {pair}: the run is named by the argument RUN")
        if name in values:
            raise UserError(f"-p {pair}: {name} is given twice")
        values[name] = value
    return values


# ------------------------------------------------------------------------------------------ inside a notebook


class Run:
    """One stage of one run, as its notebook sees it; made by `open_run`.

    folder: runs/<run>/<stage>. figures: the folder for `save_figure`. parameters: the checked values.
    rank: 0, or the rank under torchrun, where rank 0 alone writes records and the others write into folders that
    go when they end. preempted: a signal asked to stop.
    """

    def __init__(self, stage: str, namespace: dict):
        self.stage, self.run = stage, str(namespace.get("run", "default"))
        self.folder, self.figures = run_folder(self.run) / stage, figures_folder(self.run, stage)
        self.rank, self.preempted = int(os.environ.get("RANK", 0)), False
        if self.rank:  # what it writes too, rank 0 writes as well: models, tables and pictures stand there once
            self.folder = Path(tempfile.mkdtemp(prefix="face3d-"))
            self.figures = self.folder / "figures"
            atexit.register(shutil.rmtree, self.folder, ignore_errors=True)
        self.by_hand = os.environ.get("FACE3D_RUNNER") != str(run_folder(self.run) / stage)  # not by `run_notebook`
        self._notebook = NOTEBOOKS / f"{stage}.ipynb"
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
        where, sha256 = folder.relative_to(RUNS).as_posix(), sha256_of(folder / "run.json")
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
        while self._previous_handlers:
            signal.signal(*self._previous_handlers.popitem())
        atexit.unregister(self._on_exit)
        if self._lock is not None:
            os.close(self._lock)
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
        if not default or "RANK" in os.environ:
            command = " ".join(["face3d run", step.notebook, run, *words])
            raise UserError(f"{self.stage} reads {name}, which is {status} in run {self.run}: {command}")
        print(f"{name} is {status}: making it from the defaults", flush=True)
        notebook = self._notebook.with_name(f"{step.notebook}.ipynb")
        command = [sys.executable, "-m", "face3d_lib.run", notebook, run, *words]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        child = subprocess.Popen(command, cwd=ROOT, env=os.environ | folders(), **pipes)
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
        self._previous_handlers = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGUSR1):
                self._previous_handlers[number] = signal.signal(number, self._on_signal)
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


def planned(run: str, name: str) -> tuple[str, Step]:
    """The run and the step that make `name` for `run`: from PLAN, else the notebook with its own defaults."""
    inner, _, stage = name.rpartition("/")
    places = [f"{outer}/{inner}".rstrip("/") for outer in outward(run)]
    for place in places:
        for step in PLAN:
            if (step.notebook, step.nested) == (stage, place.partition("/")[2]):
                return place, step
    return places[0], Step(stage)


def outdated(record: dict) -> list[str]:
    """Names of the upstream stages of a record that ran again, or vanished, since it was written."""
    upstream = record.get("upstream", {})
    paths = {name: RUNS / entry["folder"] / "run.json" for name, entry in upstream.items()}
    present = {name: sha256_of(path) if path.exists() else None for name, path in paths.items()}
    return [name for name in upstream if present[name] != upstream[name]["run_json_sha256"]]


def up_to_date(notebook, run: str, parameters: dict | None = None) -> bool:
    """Whether it is done already, with these parameters, this code and this upstream."""
    notebook = find_notebook(notebook)
    record = read_record(run_folder(run) / notebook.stem)
    wanted = check_parameters(parameter_model(notebook), dict(parameters or {}) | {"run": run})
    same = (record.get("parameters"), record.get("code_sha256")) == (wanted, code_hash(notebook))
    return record["status"] == "done" and same and not outdated(record)


def folders() -> dict[str, str]:
    """The folders of this process, for one that starts elsewhere: a relative setting means others there."""
    return {"FACE3D_RUNS": str(RUNS), "FACE3D_FIGURES": str(FIGURES)}


# ------------------------------------------------------------------------------------------- the batch runner


class _Stopped(Exception):
    """The notebook must not go on to its next cell; the message says why."""


class _Kernel:
    """A kernel of this very Python, in a process group of its own, that hears of the runner's signals."""

    def __init__(self):
        from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
        from jupyter_client.manager import AsyncKernelManager

        class ThisPython(KernelSpecManager):  # a kernelspec "python3" may belong to another Python
            def get_kernel_spec(self, kernel_name):
                argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
                metadata = {"supported_encryption": ["curve"]}
                return KernelSpec(argv=argv, display_name="Python 3", language="python", metadata=metadata)

        self.manager = AsyncKernelManager(kernel_spec_manager=ThisPython(), transport_encryption="auto")
        self.pid = self.signal = self.timer = None
        self.cell = 0  # the code cell that runs, as Jupyter counts: 1 is In [1]

    def start(self, folder: Path, notebook: Path, inherited: list[int]) -> None:
        from jupyter_core.utils import run_sync

        ours = {"FACE3D_RUNNER": str(folder), "FACE3D_NOTEBOOK": str(notebook)}
        env = os.environ | folders() | ours
        run_sync(self.manager.start_kernel)(cwd=str(notebook.parent), env=env, pass_fds=inherited)
        self.pid = self.manager.provisioner.pid

    def stop(self, now: bool) -> None:
        """End the kernel, gently or at once, and whatever it left in its process group."""
        from jupyter_core.utils import run_sync

        if now:
            self.kill()
        if self.pid:
            run_sync(self.manager.shutdown_kernel)(now=now)
        self.kill()
        if self.timer:
            self.timer.cancel()

    def kill(self) -> None:
        if self.pid:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def forward(self, number: int, frame) -> None:
        """Signal handler of the runner: at the first signal the kernel may save, the second ends it."""
        if self.signal:
            return self.kill()
        self.signal = signal.Signals(number)
        self.timer = threading.Timer(GRACE_SECONDS, self.kill)
        self.timer.daemon = True
        self.timer.start()
        if self.pid:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)

    def before_cell(self, cell, cell_index) -> None:
        if self.signal:
            raise _Stopped(f"stopped by {self.signal.name}")
        self.cell += cell.cell_type == "code" and bool(cell.source.strip())

    def after_cell(self, cell, cell_index, execute_reply) -> None:
        if any(part.get("source") == "ask_exit" for part in execute_reply["content"].get("payload", [])):
            raise _Stopped("the notebook asked to quit")


@contextmanager
def _signals_go_to(kernel: _Kernel) -> Iterator[None]:
    """Within, the stopping signals go to the kernel; one that this process was told to ignore stays so."""
    main = threading.current_thread() is threading.main_thread()  # elsewhere Python cannot set handlers
    numbers = [number for number in SIGNALS if main and signal.getsignal(number) is not signal.SIG_IGN]
    previous = {number: signal.signal(number, kernel.forward) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def run_notebook(notebook, run: str, parameters: dict | None = None, cell_timeout: int | None = None) -> int:
    """Execute a notebook with these parameters into runs/<run>/<stage>/; returns its exit code (EXIT_CODES).

    notebook: name or path. parameters: Python values, or text as typed. cell_timeout: seconds, None for ever.
    Leaves <stage>.ipynb, or <stage>.failed.ipynb, whole, and run.json with the status; prints one line. Under
    torchrun a rank above 0 writes <stage>.rank<r>.ipynb and leaves lock and run.json to rank 0.
    UserError, before anything runs, for a wrong parameter or run name and for a folder that another process
    holds.
    """
    notebook = find_notebook(notebook)
    stage, folder, rank = notebook.stem, run_folder(run) / notebook.stem, int(os.environ.get("RANK", 0))
    name = f"{stage}.rank{rank}" if rank else stage
    given = dict(parameters or {}) | {"run": run}
    values = check_parameters(parameter_model(notebook), given)
    folder.mkdir(parents=True, exist_ok=True)
    started, kernel, handles = time.monotonic(), _Kernel(), [] if rank else [lock(folder)]
    try:
        _partial(folder, name).unlink(missing_ok=True)  # of a runner that was killed
        if rank == 0:
            write_json(folder / "run.json", new_record(stage, run, values, notebook))
        with _signals_go_to(kernel):
            injected = {key: values[key] for key in given}
            status, error = _execute(notebook, folder, name, injected, kernel, handles, cell_timeout)
            record = read_record(folder)
            if status == "done" and not record.get("closed", True) and rank == 0:
                status, error = "incomplete", "the notebook opened its run and never called done()"
            saved = _save_notebook(folder, name, notebook, done=status == "done")
            if rank == 0:
                close_record(folder, record, status, error)
    finally:
        for handle in handles:
            os.close(handle)
    ending = f"{status} in {time.monotonic() - started:.0f} s" + (f", {error}" if error else "")
    stream = sys.stdout if status == "done" else sys.stderr
    print(f"{name} ({run}): {ending} -> {relative(saved)}", file=stream, flush=True)
    return EXIT_CODES[status]


def _execute(notebook, folder, name, values, kernel, handles, cell_timeout) -> tuple[str, str | None]:
    """Run the cells and stop the kernel: (status, None or one line that names the cell and the error)."""
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    logging.getLogger("papermill").setLevel(logging.ERROR)  # it warns about types that it cannot read
    paths = [str(path).replace("{", "{{").replace("}", "}}") for path in (notebook, _partial(folder, name))]
    options = {"kernel_name": "python3", "language": "python", "cwd": str(notebook.parent)}
    options |= {"km": kernel.manager, "start_timeout": START_SECONDS, "iopub_timeout": 60}
    options |= {"execution_timeout": cell_timeout}
    options |= {"on_cell_start": kernel.before_cell, "on_cell_executed": kernel.after_cell}
    options["progress_bar"] = {"desc": f"{name} ({values['run']})", "leave": False, "disable": None}
    try:
        kernel.start(folder, notebook, handles)
        verdict = _verdict(papermill.execute_notebook(*paths, values, **options))
    except PapermillExecutionError as error:
        stopped = "preempted" if error.ename == "Preempted" else "failed"
        verdict = stopped, f"In [{kernel.cell}]: {error.ename}: {first_line(error.evalue)}"
    except DeadKernelError:
        verdict = "kernel_died", f"In [{kernel.cell}]: the kernel died"
    except _Stopped as error:
        verdict = "incomplete", f"In [{kernel.cell}]: {error}"
    except Exception as error:  # a timeout, a kernel that does not start, a full disk
        verdict = "failed", f"In [{kernel.cell}]: {type(error).__name__}: {first_line(str(error))}"
    kernel.stop(now=verdict[0] != "done")
    if kernel.signal and verdict[0] != "done":
        return "preempted", f"In [{kernel.cell}]: stopped by {kernel.signal.name}"
    return verdict


def _verdict(nb) -> tuple[str, str | None]:
    """What an executed notebook says when papermill is not believed."""
    cells = [cell for cell in nb.cells if cell.cell_type == "code" and cell.source.strip()]
    unrun = sum(cell.execution_count is None for cell in cells)
    for number, cell in enumerate(cells, start=1):
        for output in cell.outputs:
            if output.output_type == "error":  # only SystemExit comes here: papermill takes it for success
                return "incomplete", f"In [{number}]: {output.ename}, {unrun} cells did not run"
            if output.get("name") == "stderr" and "Exception in thread" in output.text:
                last = output.text.partition("Exception in thread")[2].strip().splitlines()[-1]
                return "failed", f"In [{number}]: an exception in a thread: {last}"
    return ("incomplete", f"{unrun} cells did not run") if unrun else ("done", None)


def _partial(folder: Path, name: str) -> Path:
    return folder / f".{name}.partial.ipynb"


def _save_notebook(folder: Path, name: str, notebook: Path, done: bool) -> Path:
    """Turn the partial notebook into <name>.ipynb or <name>.failed.ipynb; where there is none, the folder."""
    import nbformat

    partial, failed = _partial(folder, name), folder / f"{name}.failed.ipynb"
    failed.unlink(missing_ok=True)
    if not partial.exists():
        return folder
    nb = nbformat.read(partial, as_version=4)
    for cell in nb.cells:  # papermill marks cells completed that never ran
        if cell.cell_type == "code" and cell.source.strip() and cell.execution_count is None:
            cell.metadata.papermill.status = "pending"
    path = folder / f"{name}.ipynb" if done else failed
    nb.metadata.papermill |= {"input_path": relative(notebook), "output_path": relative(path)}
    write_text(path, nbformat.writes(nb))
    partial.unlink()
    return path


def first_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[0]


def read_grid(path: Path | None) -> list[dict]:
    """The parameter sets of a yaml file: one mapping, or a list of them; without a file one empty set."""
    import yaml

    if path is None:
        return [{}]
    try:
        entries = yaml.safe_load(Path(path).read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: {first_line(str(error))}: a yaml file of parameters is expected") from None
    entries = [entries] if isinstance(entries, dict) else entries
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"{path}: a mapping of parameters, or a list of mappings, is expected")
    return [{str(name): value for name, value in entry.items()} for entry in entries]


def run_grid(notebook, run: str, parameters: dict, entries: list[dict]) -> int:
    """One run of the notebook for each entry, in sequence; the first exit code that is not 0, or 0.

    An entry may hold `run`, else it goes to `run`; `parameters` go over the entry's. All are checked before
    the first starts; a signal ends the sequence, a failure does not. UserError when two go to the same run.
    """
    model = parameter_model(find_notebook(notebook))
    sets = {str(entry.get("run", run)): {**entry, **parameters} for entry in entries}
    if len(sets) < len(entries):
        raise UserError("two parameter sets would write into the same run: give each its own `run`")
    for name, values in sets.items():
        run_folder(name)
        check_parameters(model, values | {"run": name})
    codes = []
    for name, values in sets.items():
        codes.append(run_notebook(notebook, name, values))
        if codes[-1] == EXIT_CODES["preempted"]:
            break
    return next((code for code in codes if code), 0)


def main(words: list[str] | None = None) -> int:
    """`python -m face3d_lib.run NOTEBOOK RUN -p name=value -f grid.yaml`; torchrun starts one per rank."""
    parser = argparse.ArgumentParser(prog="face3d run", description=run_notebook.__doc__.splitlines()[0])
    parser.add_argument("notebook")
    parser.add_argument("run")
    parser.add_argument("-p", dest="pairs", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("-f", dest="grid", type=Path, metavar="YAML")
    asked = parser.parse_args(words)
    try:
        return run_grid(asked.notebook, asked.run, parse_parameters(asked.pairs), read_grid(asked.grid))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
