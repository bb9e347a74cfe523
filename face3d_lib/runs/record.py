"""The record of a stage, run.json: what happened, with which parameters, versions and upstream stages.

Nothing else decides whether a stage is done.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from ..base import paths
from ..base.atomic import sha256_of, write_json
from ..base.paths import ROOT
from .folders import run_folder
from .parameters import check_parameters, find_notebook, parameter_model, read_cells

EXIT_CODES = {"done": 0, "failed": 1, "incomplete": 2, "preempted": 75, "kernel_died": 138}
PACKAGES = ["torch", "torchvision", "facenet-pytorch", "timm", "numpy", "pandas", "scikit-learn", "ipykernel"]


def read_record(folder: Path | None) -> dict:
    """The run.json of a stage's folder; {"status": "missing"} when there is none."""
    path = folder / "run.json" if folder else None
    return json.loads(path.read_text(encoding="utf-8")) if path and path.exists() else {"status": "missing"}


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
        done = subprocess.run(["git", "-C", ROOT, *words], capture_output=True, encoding="utf-8", check=True)
        return done.stdout.strip()

    with suppress(OSError, subprocess.CalledProcessError):
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "-uno"))}


def code_hash(notebook: Path) -> str:
    """SHA-256 of this library and, where the file exists, of the notebook's cells without their outputs."""
    sources = [path.read_text(encoding="utf-8") for path in sorted(Path(__file__).parents[1].rglob("*.py"))]
    if notebook.exists():
        sources += [cell.source for cell in read_cells(notebook)]
    return hashlib.sha256("\0".join(sources).encode()).hexdigest()


def outdated(record: dict) -> list[str]:
    """Names of the upstream stages of a record that ran again, or vanished, since it was written."""
    upstream = record.get("upstream", {})
    files = {name: paths.RUNS / entry["folder"] / "run.json" for name, entry in upstream.items()}
    present = {name: sha256_of(path) if path.exists() else None for name, path in files.items()}
    return [name for name in upstream if present[name] != upstream[name]["run_json_sha256"]]


def up_to_date(notebook, run: str, parameters: dict | None = None) -> bool:
    """Whether it is done already, with these parameters, this code and this upstream."""
    notebook = find_notebook(notebook)
    record = read_record(run_folder(run) / notebook.stem)
    wanted = check_parameters(parameter_model(notebook), dict(parameters or {}) | {"run": run})
    same = (record.get("parameters"), record.get("code_sha256")) == (wanted, code_hash(notebook))
    return record["status"] == "done" and same and not outdated(record)
