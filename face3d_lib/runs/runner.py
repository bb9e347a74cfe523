"""The strict runner, which executes notebooks in batch.

papermill calls a notebook completed when its kernel was killed, when a cell called sys.exit(0) and when a
thread failed; it only warns about an unknown parameter, executes a crafted parameter *name*, and can leave
half a notebook. `run_notebook` uses it for execution alone and decides by itself. Its exit codes:
0 done, 1 failed, 2 incomplete (or a mistake of the user), 75 preempted by a signal, 138 the kernel died.
"""

import argparse
import logging
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from ..base.atomic import write_json, write_text
from ..base.environment import rank_and_world, speak_utf8
from ..base.errors import UserError, first_line
from ..base.paths import child_environment, relative
from ..base.processes import GRACE_SECONDS, lock, stopping_signals, unlock
from .folders import run_folder
from .parameters import check_parameters, find_notebook, parameter_model, parse_parameters, read_grid
from .record import EXIT_CODES, close_record, new_record, read_record

START_SECONDS = 180  # for a kernel to come up on a busy machine
SAME_SIGNAL_SECONDS = 0.3  # Ctrl-C reaches all processes of a terminal, and their parents pass it on as well


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
        self.pid = self.signal = self.timer = self.heard = None
        self.cell = 0  # the code cell that runs, as Jupyter counts: 1 is In [1]

    def start(self, folder: Path, notebook: Path, inherited: list[int]) -> None:
        from jupyter_core.utils import run_sync

        ours = {"FACE3D_RUNNER": str(folder), "FACE3D_NOTEBOOK": str(notebook), "MPLBACKEND": ""}  # "": that of Jupyter
        env = child_environment(**ours)
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

    def before_cell(self, cell, cell_index) -> None:
        if self.signal:
            raise _Stopped(f"stopped by {self.signal.name}")
        self.cell += cell.cell_type == "code" and bool(cell.source.strip())

    def after_cell(self, cell, cell_index, execute_reply) -> None:
        if any(part.get("source") == "ask_exit" for part in execute_reply["content"].get("payload", [])):
            raise _Stopped("the notebook asked to quit")


def run_notebook(notebook, run: str, parameters: dict | None = None, cell_timeout: int | None = None) -> int:
    """Execute a notebook with these parameters into runs/<run>/<stage>/; returns its exit code (EXIT_CODES).

    notebook: name or path. parameters: Python values, or text as typed. cell_timeout: seconds, None for ever.
    Leaves <stage>.ipynb, or <stage>.failed.ipynb, whole, and run.json with the status; prints one line. Under
    torchrun a rank above 0 writes <stage>.rank<r>.ipynb and leaves lock and run.json to rank 0.
    UserError, before anything runs, for a wrong parameter or run name and for a folder that another process
    holds.
    """
    notebook = find_notebook(notebook)
    stage, folder, rank = notebook.stem, run_folder(run) / notebook.stem, rank_and_world()[0]
    name = f"{stage}.rank{rank}" if rank else stage
    given = dict(parameters or {}) | {"run": run}
    values = check_parameters(parameter_model(notebook), given)
    folder.mkdir(parents=True, exist_ok=True)
    started, kernel, handles = time.monotonic(), _Kernel(), [] if rank else [lock(folder)]
    try:
        _partial(folder, name).unlink(missing_ok=True)  # of a runner that was killed
        if rank == 0:
            write_json(folder / "run.json", new_record(stage, run, values, notebook))
        with stopping_signals(kernel.forward):
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
            unlock(folder, handle)
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
    """`python -m face3d_lib.runs.runner NOTEBOOK RUN -p name=value -f grid.yaml`; torchrun starts one per rank."""
    if words is None:
        speak_utf8("face3d_lib.runs.runner")
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
