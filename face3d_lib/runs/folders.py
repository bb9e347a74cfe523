"""Where a run and its stages lie.

A run is a path below runs/ ("default", "demo", "demo/rgb"); a stage is a notebook. A stage writes into
runs/<run>/<stage>/, its figures into the folder figures/ in there, and reads the stages of its own run and of the runs
around it.
"""

import re
from pathlib import Path, PurePosixPath

from ..base import paths
from ..base.errors import UserError


def run_folder(run: str) -> Path:
    """runs/<run>; UserError unless `run` is one or more plain names joined by "/".

    It is also a UserError where FACE3D_RUNS names a folder in figures/: git tracks that folder, and a run holds faces.
    """
    names = str(run).split("/")
    plain_names = all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name) for name in names)
    if not plain_names:
        raise UserError(f"run {run!r}: use letters, digits, . _ -, and / between nested runs, as in demo/rgb")
    if paths.RUNS.is_relative_to(paths.FIGURES):
        raise UserError(f"FACE3D_RUNS is {paths.RUNS}, which lies in the folder of published figures: choose another")
    return paths.RUNS / run


def outward(run: str) -> list[str]:
    """The run and the runs it is nested in, innermost first: "demo/rgb" gives ["demo/rgb", "demo"]."""
    return [str(path) for path in (PurePosixPath(run), *PurePosixPath(run).parents) if path.name]


def find_stage(run: str, name: str) -> Path | None:
    """The folder of `name` ("21_pack_dataset", "rgb/30_train_softmax") in this run or the nearest around."""
    folders = [run_folder(outer) / name for outer in outward(run)]
    return next((folder for folder in folders if (folder / "run.json").exists()), None)
