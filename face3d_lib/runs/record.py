"""The record of a stage, run.json, which holds its status, parameters, versions and upstream stages.

Whether a stage is done is decided by its record alone.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from ..base import paths
from ..base.atomic import sha256_of, write_bytes, write_json
from ..base.errors import UserError
from ..base.paths import ROOT, relative
from .code import notebook_code
from .folders import run_folder
from .parameters import find_notebook, is_folder, parameter_model, parameters_for

EXIT_CODES = {"done": 0, "failed": 1, "incomplete": 2, "preempted": 75, "kernel_died": 138}
PACKAGES = ["torch", "torchvision", "facenet-pytorch", "timm", "numpy", "pandas", "scikit-learn", "ipykernel"]
DRAWING = re.compile(r"face3d_lib/evaluate/(figures\w*|pictures|live|plot|widgets)\.py")  # no result depends on them


def read_record(folder: Path | None) -> dict:
    """The run.json of a stage's folder; {"status": "missing"} when there is none. UserError where it is damaged."""
    path = folder / "run.json" if folder else None
    if not path or not path.exists():
        return {"status": "missing"}
    try:
        return {"status": "missing", **json.loads(path.read_text(encoding="utf-8"))}
    except (ValueError, TypeError):
        raise UserError(f"{path}: not a record that can be read: delete it, then run the stage again") from None


def new_record(stage: str, run: str, parameters: dict, notebook: Path) -> dict:
    """The content of run.json at the start, without the name or any folder of this machine."""
    return {
        "stage": stage,
        "run": run,
        "notebook": recorded_name(notebook),
        "status": "running",
        "parameters": parameters,
        "started": utc_now(),
        "pid": os.getpid(),
        "versions": {name: version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "git": git_state(),
        "code_sha256": notebook_code(notebook),
        "upstream": {},
    }


def refuse_a_copy(stage: str, run: str, notebook: Path) -> None:
    """Raise UserError where `notebook` is not the file that this stage belongs to, so that a copy replaces nothing.

    A stage belongs to the notebook that made it. In the run "default", which is made from the notebooks as they are,
    it belongs to the one in notebooks/ from the start.
    """
    if notebook.stem != stage:
        raise UserError(
            f"{notebook.name} opens the stage {stage}, which belongs to {stage}.ipynb: write "
            f'open_run("{notebook.stem}", globals()) in this copy, or give the file its old name'
        )
    folder, own = run_folder(run) / stage, paths.NOTEBOOKS / f"{stage}.ipynb"
    owner = read_record(folder).get("notebook")
    if owner is None and run.partition("/")[0] == "default" and own.exists():
        owner = recorded_name(own)
    if owner is not None and owner != recorded_name(notebook):
        raise UserError(
            f"{relative(folder)} belongs to {owner}, and this is {relative(notebook)}: give this notebook a run of its "
            "own (parameter run), or another name, which its open_run() must say as well"
        )


def recorded_name(notebook: Path) -> str:
    """The name of a notebook in a record: its path below the project, or the file name alone outside the project."""
    return relative(notebook) if notebook.resolve().is_relative_to(ROOT) else notebook.name


def refuse_other_data(folder: Path, notebook: Path, parameters: dict) -> None:
    """Raise UserError where a finished stage would take pairs from another folder than before: a run keeps its data.

    The parameters that hold a folder are compared, because everything in the run was made from what lies there.
    """
    record = read_record(folder)
    for name, field in parameter_model(notebook).model_fields.items():
        before, now = record.get("parameters", {}).get(name), parameters.get(name, field.default)
        if is_folder(field) and record["status"] == "done" and before not in (None, now):
            was, wanted = before or "no folder (synthetic faces)", now or "no folder (synthetic faces)"
            raise UserError(
                f"{relative(folder)} was made with {name} = {was}, and now it is {wanted}: "
                f"give {name} as it was, or choose another run"
            )


class Before:
    """The content of a stage's folder before a notebook ran in it; it shows what a failed attempt has changed."""

    def __init__(self, folder: Path):
        self.folder, self.record = folder, read_record(folder)
        self.done = self.record["status"] == "done"
        self._bytes = (folder / "run.json").read_bytes() if self.done else b""
        self._files = files_of(folder)

    def was_done_and_is_untouched(self) -> bool:
        """Whether the stage was done and every file that its notebook writes is as it was."""
        return self.done and files_of(self.folder) == self._files

    def restore(self) -> None:
        """Put the record back, byte for byte."""
        if (self.folder / "run.json").read_bytes() != self._bytes:
            write_bytes(self.folder / "run.json", self._bytes)


def close_record(folder: Path, record: dict, status: str, error: str | None = None) -> None:
    """Write the run.json of a stage that has ended. error: one line, or None."""
    ended = utc_now()
    seconds = (datetime.fromisoformat(ended) - datetime.fromisoformat(record["started"])).total_seconds()
    kept = {key: value for key, value in record.items() if key not in ("pid", "closed")}
    end = {"status": status, "ended": ended, "seconds": seconds, "error": error}
    if status == "done":
        end["result_sha256"] = result_hash(record, folder)
    write_json(folder / "run.json", kept | end)


def files_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of every file below a stage's folder that its notebook writes: path -> (bytes, ns).

    The record, hidden files and the notebook of a failed attempt are left out.
    """
    found = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if name != "run.json" and not re.search(r"(^|/)\.|\.failed\.ipynb$", name) and path.is_file():
            found[name] = (path.stat().st_size, path.stat().st_mtime_ns)
    return found


def utc_now() -> str:
    """The present time in UTC, ISO 8601 with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def version(package: str) -> str | None:
    """The installed version of a package, None where it is not installed."""
    with suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return None


def git_state() -> dict | None:
    """Commit, and whether tracked files differ from it; None outside a git checkout."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", ROOT, *words], capture_output=True, encoding="utf-8", check=True)
        return done.stdout.strip()

    with suppress(OSError, subprocess.CalledProcessError):
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "-uno"))}
    return None


def result_hash(record: dict, folder: Path) -> str:
    """SHA-256 of all that a result depends on: parameters, code, upstream results, and metrics.json if it exists.

    A stage that runs again and gives the same result has the same hash, so the stages that read it stay up to date.
    """
    upstream = {name: entry.get("result_sha256") for name, entry in record["upstream"].items()}
    metrics = folder / "metrics.json"
    parts = [record["stage"], record["parameters"], without_drawing(record["code_sha256"]), upstream]
    parts.append(sha256_of(metrics) if metrics.exists() else None)
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def without_drawing(code: dict[str, str]) -> dict[str, str]:
    """The hashes of a record's code without the files that only draw, because no result depends on those."""
    return {name: sha256 for name, sha256 in code.items() if not DRAWING.fullmatch(name)}


def outdated(record: dict) -> list[str]:
    """Names of the upstream stages whose result is no longer the one that this record's stage read."""
    upstream = record.get("upstream", {})
    present = {name: read_record(paths.RUNS / entry["folder"]) for name, entry in upstream.items()}
    return [
        name for name, entry in upstream.items() if present[name].get("result_sha256") != entry.get("result_sha256")
    ]


def up_to_date(notebook: str | Path, run: str, parameters: dict | None = None, pictures: bool = True) -> bool:
    """Whether the stage is done with these parameters, this code and the present results of what it reads.

    pictures: whether a change in code that only draws makes the stage outdated. Sweeps pass
    False, because nobody looks at their pictures.
    """
    notebook = find_notebook(notebook)
    record = read_record(run_folder(run) / notebook.stem)
    return is_current(record, parameters_for(notebook, run, parameters), notebook, pictures)


def is_current(record: dict, parameters: dict, notebook: Path, pictures: bool = True) -> bool:
    """The same as `up_to_date`, for a caller that has already read the record."""
    then, now = record.get("code_sha256"), notebook_code(notebook)
    if not pictures and isinstance(then, dict):
        then, now = without_drawing(then), without_drawing(now)
    same = (record.get("parameters"), then) == (parameters, now)
    return record["status"] == "done" and same and not outdated(record)
