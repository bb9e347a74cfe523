"""The strict runner, which executes notebooks in batch.

papermill calls a notebook completed when its kernel was killed, when a cell called sys.exit(0) and when a
thread failed; it only warns about an unknown parameter, executes a crafted parameter *name*, and can leave
half a notebook. `run_notebook` lets papermill execute the cells and checks by itself how they ended. Its exit code is 0
for done, 1 for failed, 2 for incomplete or a mistake of the user, 75 for preempted by a signal, 138 for a dead kernel.
"""

import html
import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, cast

from tqdm import tqdm

from ..base.atomic import write_json, write_text
from ..base.environment import rank_and_world, setting
from ..base.errors import UserError, first_line
from ..base.paths import ROOT, child_environment, relative
from ..base.processes import GRACE_SECONDS, lock, stopping_signals, unlock
from .folders import run_folder
from .parameters import find_notebook, parameters_for, read_cells
from .record import EXIT_CODES, Before, close_record, new_record, read_record, refuse_a_copy, refuse_other_data

if TYPE_CHECKING:
    from jupyter_client.provisioning import LocalProvisioner
    from nbformat import NotebookNode

SHOWN_LETTERS = 70  # of the latest line that the kernel reports
START_SECONDS = 180  # that a kernel may take to start on a busy machine
SAME_SIGNAL_SECONDS = 0.3  # Ctrl-C reaches all processes of a terminal, and their parents pass it on as well


class _Stopped(Exception):
    """The notebook must not go on to its next cell; the message says why."""


class _Kernel:
    """A kernel that runs this same Python in a process group of its own, and gets the runner's signals.

    bar: shows the cell that runs and the latest progress that the kernel reports.
    """

    def __init__(self, bar: tqdm):
        from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
        from jupyter_client.manager import AsyncKernelManager

        class ThisPython(KernelSpecManager):  # a kernelspec "python3" may belong to another Python
            def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
                argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
                metadata = {"supported_encryption": ["curve"]}
                return KernelSpec(argv=argv, display_name="Python 3", language="python", metadata=metadata)

        class Manager(AsyncKernelManager):
            def client(manager, **options: Any) -> Any:  # jupyter_client annotates another class than it returns
                client = super().client(**options)
                channel = client.iopub_channel
                receive = channel.get_msg

                async def receive_and_show(*arguments: Any, **options: Any) -> dict[str, Any]:
                    message = await receive(*arguments, **options)
                    self.show(message)
                    return message

                channel.get_msg = receive_and_show
                return client

        self.manager = Manager(kernel_spec_manager=ThisPython(), transport_encryption="auto")
        self.bar = bar
        self.pid: int | None = None
        self.signal: signal.Signals | None = None  # the first signal, received at the monotonic time `heard`
        self.heard = 0.0
        self.timer: threading.Timer | None = None
        self.left = ""  # the text to the left of tqdm's bar
        self.cell = 0  # the code cell that runs, as Jupyter counts: 1 is In [1]

    def start(self, folder: Path, notebook: Path, inherited: list[int]) -> None:
        from jupyter_core.utils import run_sync

        ours = {"FACE3D_RUNNER": str(folder), "FACE3D_NOTEBOOK": str(notebook)}
        jupyter = {"MPLBACKEND": "", "JPY_SESSION_NAME": ""}  # the kernel has its own backend and session
        library = os.pathsep.join(filter(None, [str(ROOT), setting("PYTHONPATH")]))  # the library of this checkout
        env = child_environment(**ours, **jupyter, PYTHONPATH=library)
        run_sync(self.manager.start_kernel)(cwd=str(notebook.parent), env=env, pass_fds=inherited)
        self.pid = cast("LocalProvisioner", self.manager.provisioner).pid

    def show(self, message: dict) -> None:
        """Show the progress that a message of the kernel reports, a printed line or a bar of tqdm, behind the bar.

        In a notebook tqdm is a widget: "epoch 3/16:  18%" is the HTML to the left of its bar and "49/272 [00:05<00:27"
        that to the right, with spaces as wide as digits.
        """
        content, kind, text = message["content"], message["msg_type"], ""
        if kind == "stream" and content["name"] == "stdout":
            text = content["text"]
        elif kind in ("comm_open", "comm_msg"):
            value = content.get("data", {}).get("state", {}).get("value", "")
            value = html.unescape(value).replace("\u2007", " ") if isinstance(value, str) else ""
            if value.endswith("%"):
                self.left = value
            elif re.search(r"\d+/\d+ \[", value):
                text = f"{self.left} {value.strip()}"
        if pieces := [piece.strip() for piece in re.split(r"[\r\n]", text) if piece.strip()]:
            self.bar.set_postfix_str(pieces[-1][:SHOWN_LETTERS], refresh=False)
            self.bar.update(0)

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

    def forward(self, number: int, frame: FrameType | None) -> None:
        """Signal handler of the runner: at the first signal the kernel may save, a later one ends it."""
        if self.signal:
            return None if time.monotonic() - self.heard < SAME_SIGNAL_SECONDS else self.kill()
        self.signal, self.heard = signal.Signals(number), time.monotonic()
        self.timer = threading.Timer(GRACE_SECONDS, self.kill)
        self.timer.daemon = True
        self.timer.start()
        if self.pid:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)

    def before_cell(self, cell: "NotebookNode", cell_index: int) -> None:
        if self.signal:
            raise _Stopped(f"stopped by {self.signal.name}")
        self.cell += cell.cell_type == "code" and bool(cell.source.strip())
        self.bar.set_postfix_str("", refresh=False)
        self.bar.update(cell_index - self.bar.n)

    def after_cell(self, cell: "NotebookNode", cell_index: int, execute_reply: dict[str, Any]) -> None:
        if any(part.get("source") == "ask_exit" for part in execute_reply["content"].get("payload", [])):
            raise _Stopped("the notebook asked to quit")


def run_notebook(
    notebook: str | Path, run: str, parameters: dict | None = None, cell_timeout: int | None = None
) -> int:
    """Execute a notebook with these parameters into runs/<run>/<stage>/; returns its exit code (EXIT_CODES).

    notebook: name or path. parameters: Python values, or text as typed. cell_timeout: seconds; None: no limit.
    Leaves <stage>.ipynb, or <stage>.failed.ipynb, whole, and run.json with the status; prints one line. Under
    torchrun a rank above 0 writes <stage>.rank<r>.ipynb and leaves lock and run.json to rank 0.
    A stage that was done stays done where the notebook stops before it changes a file of the stage.
    UserError, before anything is written, for a wrong parameter or run name, for a stage that belongs to another
    notebook, and for a folder that another process holds.
    """
    notebook = find_notebook(notebook)
    stage, folder, rank = notebook.stem, run_folder(run) / notebook.stem, rank_and_world()[0]
    name = f"{stage}.rank{rank}" if rank else stage
    values = parameters_for(notebook, run, parameters)
    refuse_a_copy(stage, run, notebook)
    refuse_other_data(folder, notebook, values)
    folder.mkdir(parents=True, exist_ok=True)
    started, handles = time.monotonic(), [] if rank else [lock(folder)]
    try:
        _partial(folder, name).unlink(missing_ok=True)  # left by a runner that was killed
        before = Before(folder)
        if rank == 0:
            given = {"given": sorted(parameters or {})}
            write_json(folder / "run.json", new_record(stage, run, values, notebook) | given)
        injected = {key: values[key] for key in {**(parameters or {}), "run": run}}
        with _progress(f"{name} ({run})") as bar, stopping_signals((kernel := _Kernel(bar)).forward):
            status, error = _execute(notebook, folder, name, injected, kernel, handles, cell_timeout)
            record = read_record(folder)
            if status == "done" and not record.get("closed", True) and rank == 0:
                status, error = "incomplete", "the notebook opened its run and never called done()"
            if kept := status != "done" and rank == 0 and before.was_done_and_is_untouched():
                before.restore()
            if kept and (error or "").partition(": ")[2].startswith("UserError"):  # a refusal leaves no trace
                _partial(folder, name).unlink(missing_ok=True)
            saved = _save_notebook(folder, name, notebook, done=status == "done")
            if rank == 0 and not kept:
                close_record(folder, record, status, error)
    finally:
        for handle in handles:
            unlock(folder, handle)
    ending = f"{status} in {time.monotonic() - started:.0f} s" + (f", {error}" if error else "")
    ending += "".join(f", note: {found}" for found in record.get("missed", {}).values())
    ending += "; what was done before stays as it is" if kept else ""
    stream = sys.stdout if status == "done" else sys.stderr
    print(f"{name} ({run}): {ending} -> {relative(saved)}", file=stream, flush=True)
    return EXIT_CODES[status]


@contextmanager
def _progress(label: str) -> Iterator[tqdm]:
    """One line of progress, renewed in place on a terminal: the cell, the seconds, and what the kernel reports.

    Without a terminal nothing is shown, unless FACE3D_PROGRESS is set, as it is when a notebook has its inputs made.
    """
    form = "{desc}: cell {n_fmt} of {total_fmt} [{elapsed}]{postfix}"
    quiet = False if setting("FACE3D_PROGRESS") else None
    options = {"leave": False, "disable": quiet, "dynamic_ncols": True, "mininterval": 0.5, "miniters": 0}
    with tqdm(desc=label, bar_format=form, **options) as bar:
        yield bar


def _execute(
    notebook: Path,
    folder: Path,
    name: str,
    values: dict,
    kernel: _Kernel,
    handles: list[int],
    cell_timeout: int | None,
) -> tuple[str, str | None]:
    """Run the cells and stop the kernel: (status, None or one line that names the cell and the error)."""
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    logging.getLogger("papermill").setLevel(logging.ERROR)  # it warns about types that it cannot read
    paths = [str(path).replace("{", "{{").replace("}", "}}") for path in (notebook, _partial(folder, name))]
    options: dict[str, Any] = {"kernel_name": "python3", "language": "python", "cwd": str(notebook.parent)}
    options |= {"km": kernel.manager, "start_timeout": START_SECONDS, "iopub_timeout": 60}
    options |= {"execution_timeout": cell_timeout}
    options |= {"on_cell_start": kernel.before_cell, "on_cell_executed": kernel.after_cell}
    options["progress_bar"] = False
    try:
        kernel.bar.reset(len(read_cells(notebook)) + 1)  # papermill adds a cell with the given parameters
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


def _verdict(nb: "NotebookNode") -> tuple[str, str | None]:
    """The status and the error that the cells of an executed notebook show, whatever papermill reported."""
    cells = [cell for cell in nb.cells if cell.cell_type == "code" and cell.source.strip()]
    unrun = sum(cell.execution_count is None for cell in cells)
    for number, cell in enumerate(cells, start=1):
        for output in cell.outputs:
            if output.output_type == "error":  # only SystemExit is found here, because papermill counts it as success
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


def run_grid(notebook: str | Path, run: str, parameters: dict, entries: list[dict]) -> int:
    """Run the notebook once for each entry, in sequence; returns the first exit code that is not 0, or 0.

    An entry may name its own `run`; otherwise it runs in `run`. `parameters` replace those of the entry. All entries
    are checked before the first starts. A signal ends the sequence, a failure does not. UserError when two entries
    would write into the same run.
    """
    sets = {str(entry.get("run", run)): {**entry, **parameters} for entry in entries}
    if len(sets) < len(entries):
        raise UserError("two parameter sets would write into the same run: give each its own `run`")
    for name, values in sets.items():
        run_folder(name)
        parameters_for(find_notebook(notebook), name, values)
    codes = []
    for name, values in sets.items():
        codes.append(run_notebook(notebook, name, values))
        if codes[-1] == EXIT_CODES["preempted"]:
            break
    return next((code for code in codes if code), 0)
