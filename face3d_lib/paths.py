"""Folders, from this file's place and never from the working directory.

JupyterLab and nbval run a notebook in its own folder, papermill in the caller's; the paths here are the same for all.
"""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
RUNS = (ROOT / os.environ.get("FACE3D_RUNS", "runs")).resolve()  # a relative setting means below the project
FIGURES = (ROOT / os.environ.get("FACE3D_FIGURES", "figures")).resolve()


def relative(path: Path) -> str:
    """`path` as text below the project folder where it lies there, so that no record holds a machine's own folders."""
    path = Path(path).resolve()
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.as_posix()
