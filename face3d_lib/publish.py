"""Only figures of synthetic faces are copied into figures/, which git tracks.

The figures of a run lie in the run's own folders, which git ignores. `publish` copies them when it has proved, stage by
stage and back to the raw pairs, that every face in them was drawn by this project's generator. No name of a run and no
name of a parameter is trusted.
"""

import json
import re
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from .base import paths
from .base.errors import UserError
from .base.paths import relative
from .base.processes import cores, run_tasks
from .runs.code import notebook_code
from .runs.folders import run_folder
from .runs.parameters import parameter_model
from .runs.plan import planned
from .runs.record import outdated, read_record
from .synthetic.camera import SESSION_SIZE, VERSION, pair
from .synthetic.people import Knobs

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".npy")
SETTINGS = {"version", "seed", "subjects", "first_subject", "sessions", "images_per_session", "knobs"}
SAME_LEVELS = 1.0  # of 255 or mm: largest mean difference of one pair drawn on two kinds of processors
DEVICE = r"cpu|cuda(:\d+)?|mps"


def publish(run: str) -> int:
    """Copy the figures of `run` and the runs nested in it into figures/; returns how many pictures were copied.

    Those of "default" go to figures/<stage>/<nested run>/, those of another run to figures/<run>/<stage>/<nested run>/.
    UserError, and nothing is copied, where one stage cannot be proved to show synthetic faces only.
    """
    stages = [path.parent for path in sorted(run_folder(run).rglob("run.json")) if (path.parent / "figures").is_dir()]
    if not stages:
        raise UserError(f"run {run} has no figures: run its notebooks first, for example face3d demo --name {run}")
    proved: dict[Path, str] = {}
    for folder in stages:
        if doubt := doubt_about(folder, proved):
            raise UserError(f"{relative(folder)}: its figures stay where they are, nothing was copied: {doubt}")
    base = paths.FIGURES if run == "default" else paths.FIGURES / run
    return sum(_copy(folder, base / folder.name / folder.parent.relative_to(run_folder(run))) for folder in stages)


def doubt_about(folder: Path, proved: dict[Path, str]) -> str:
    """Why the figures of a stage might show a real face; "" if they cannot. proved: earlier answers, to be extended.

    They cannot if the stage is done by the present notebook of the project, no text parameter can have named a folder
    or a file from elsewhere, all that it read is proved likewise, and its raw pairs, if it holds any, are the
    generator's.
    """
    if folder not in proved:
        record = read_record(folder)
        own = paths.NOTEBOOKS / f"{folder.name}.ipynb"
        if record["status"] != "done":
            doubt = f"the stage is {record['status']}"
        elif not own.exists() or record.get("code_sha256") != notebook_code(own):
            doubt = "it was made by other code than the project's present notebook and library: run it again"
        else:
            doubt = _doubt_about_parameters(record, own) or _doubt_about_sources(folder, record, proved)
        proved[folder] = doubt
    return proved[folder]


def _doubt_about_parameters(record: dict, notebook: Path) -> str:
    """Why a text parameter might name real faces; "" if each has a value of the notebook, the plan or the record."""
    fields, plan = parameter_model(notebook).model_fields, planned(record["run"], record["stage"]).parameters
    for name, field in fields.items():
        texts, value = "str" in re.sub(r"Literal\[.*?\]", "", field.title or ""), record["parameters"].get(name)
        if name == "run" or not texts or value in (field.default, plan.get(name, field.default)):
            continue
        device = bool(re.fullmatch(DEVICE, str(field.default)))  # elsewhere "cpu" may be the name of a folder
        for text in value if isinstance(value, list) else [value]:
            harmless = not text or text in record["upstream"] or (device and re.fullmatch(DEVICE, str(text)))
            if not harmless:
                return f"its parameter {name} is {text!r}, which may name a folder of real faces"
    return ""


def _doubt_about_sources(folder: Path, record: dict, proved: dict[Path, str]) -> str:
    """Why stages that were read, or raw pairs in the stage's folder, might hold a real face; "" if they cannot."""
    if changed := outdated(record):
        return f"{changed[0]} ran again since: run it again"
    for name, entry in record["upstream"].items():
        if doubt := doubt_about(paths.RUNS / entry["folder"], proved):
            return f"it read {name}: {doubt}"
    marks = [
        path
        for path in sorted(folder.rglob("dataset.json"))
        if "aligned" not in json.loads(path.read_text(encoding="utf-8"))
    ]
    if not marks and not record["upstream"]:
        return "it read nothing and holds no raw pairs, so it is unknown whose faces it shows"
    return next(filter(None, (doubt_about_pairs(mark.parent) for mark in marks)), "")


def doubt_about_pairs(root: Path) -> str:
    """Why a folder of raw pairs might hold a real face; "" if dataset.json has the generator's mark and it is true.

    The mark is true if the folder holds the files that these settings make and no other, and every picture and every
    depth map, drawn again, is the same. That takes 40 ms of a processor for each pair.
    """
    mark = json.loads((root / "dataset.json").read_text(encoding="utf-8"))
    if mark.get("source") != "face3d synthetic faces" or not mark.keys() >= SETTINGS:
        return f"{relative(root)}/dataset.json lacks the mark of our generator"
    if mark["version"] != VERSION:
        return f"{relative(root)} was made by version {mark['version']} of our generator, and this is {VERSION}: make it again"
    drawn = {
        f"p{person:04d}/s{session + 1}_{number:03d}": (person, session * SESSION_SIZE + number)
        for person in range(mark["first_subject"], mark["first_subject"] + mark["subjects"])
        for session in range(mark["sessions"])
        for number in range(mark["images_per_session"])
    }
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() in PICTURES and path.relative_to(root).with_suffix("").as_posix() not in drawn:
            return f"{relative(path)} is no picture of our generator"
    jobs = [(root / pair_id, mark["seed"], *which, Knobs(**mark["knobs"])) for pair_id, which in drawn.items()]
    with tqdm(total=len(jobs), desc="proving that the faces are synthetic", unit="pair", disable=None) as bar:
        prepare: Callable[[], Any] = partial(nullcontext, _is_not_ours)
        for path in run_tasks(prepare, jobs, cores()):
            if path:
                return f"{relative(path)} is not what our generator draws"
            bar.update()
    return ""


def _is_not_ours(job: tuple[Path, int, int, int, Knobs]) -> Path | None:
    """The picture or depth map of a pair that differs from what the generator draws; None if both are equal.

    job: (path of the pair without extension, seed, person, number of the image, knobs).
    """
    stem, seed, person, number, knobs = job
    made = pair(seed, person, number, knobs)
    for path, drawn in ((stem.with_suffix(".png"), made.rgb), (stem.with_suffix(".npy"), made.depth)):
        if not path.is_file():
            return path
        try:
            found = np.asarray(Image.open(path)) if path.suffix == ".png" else np.load(path, allow_pickle=False)
        except (OSError, ValueError):  # no such picture, no such array
            return path
        same = found.shape == drawn.shape and found.dtype == drawn.dtype
        if not same or np.abs(found.astype(float) - drawn).mean() > SAME_LEVELS:
            return path
    return None


def _copy(folder: Path, target: Path) -> int:
    """Replace the content of `target` by the figures of a stage; returns the number of pictures."""
    for old in [path for path in target.glob("*") if path.suffix in (".png", ".json")]:
        old.unlink()
    target.mkdir(parents=True, exist_ok=True)
    files = sorted(path for path in (folder / "figures").iterdir() if path.suffix in (".png", ".json"))
    for path in files:
        shutil.copyfile(path, target / path.name)
    return sum(path.suffix == ".png" for path in files)
