"""A folder of synthetic people in the raw layout, with the truth about each picture in manifest.csv."""

import dataclasses
import io
import json
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from tqdm.auto import tqdm

from ..base.atomic import write_bytes, write_json
from ..base.errors import UserError
from ..base.processes import cores, only_writer, run_tasks
from ..base.tables import POINTS, write_table
from .camera import ANGLES, CONDITIONS, SESSION_SIZE, VERSION, describe_pair, pair
from .people import Knobs

COLUMNS = ["pair_id", "subject_id", "session", *ANGLES, *CONDITIONS, *POINTS, "identity_seed"]


def make_dataset(
    root: Path,
    subjects: int,
    images_per_session: int,
    sessions: int = 2,
    seed: int = 0,
    knobs: Knobs | None = None,
    workers: int | None = None,
    first_subject: int = 0,
) -> pd.DataFrame:
    """Write a data set in the raw layout and return its manifest, which has the columns COLUMNS and a row per pair.

    `root` receives `<subject>/<name>.png`, `<subject>/<name>.npy` (uint16, millimetres), dataset.json and
    manifest.csv. Pairs that exist are kept, so the same call continues an interrupted one and ends with the same
    files. `workers` processes share the people (None: one per core); a script that uses more than one needs the usual
    `if __name__ == "__main__":`. Raises UserError where the folder was made with other settings, holds other files, or
    is being written by another process.
    """
    root, knobs = Path(root), knobs or Knobs()
    check_counts(subjects, images_per_session, sessions, first_subject, seed, knobs)
    settings: dict = {"depth_unit": "mm", "larger_is": "farther", "source": "face3d synthetic faces"}
    settings |= {"version": VERSION, "seed": seed, "subjects": subjects, "first_subject": first_subject}
    settings |= {"sessions": sessions, "images_per_session": images_per_session}
    settings |= {"knobs": dataclasses.asdict(knobs)}
    images = [s * SESSION_SIZE + i for s in range(sessions) for i in range(images_per_session)]
    jobs = [(root, seed, first_subject + k, images, knobs) for k in range(subjects)]
    rows = {}
    prepare: Callable[[], Any] = partial(nullcontext, make_subject)
    with only_writer(root), tqdm(total=subjects * len(images), desc="synthetic faces", unit="pair") as bar:
        claim_folder(root, settings)
        for subject, made in run_tasks(prepare, jobs, workers or cores()):
            rows[subject] = made
            bar.update(len(made))
        frame = pd.DataFrame([row for subject in sorted(rows) for row in rows[subject]], columns=COLUMNS)
        write_table(root / "manifest.csv", frame)
    return frame


def check_counts(
    subjects: int, images_per_session: int, sessions: int, first_subject: int, seed: int, knobs: Knobs
) -> None:
    """Raise UserError for numbers from which no data set can be made."""
    for name, value, low, high in [
        ("subjects", subjects, 1, 10_000 - first_subject),
        ("images_per_session", images_per_session, 1, SESSION_SIZE),
        ("sessions", sessions, 1, 100),
        ("first_subject", first_subject, 0, 9_999),
        ("seed", seed, 0, 2**63),
        ("knobs.size", knobs.size, 32, 1024),
        ("knobs.depth_pixel", knobs.depth_pixel, 1, 2),
    ]:
        if not low <= value <= high:
            raise UserError(f"synthetic faces: {name} is {value}: give a number from {low} to {high}")


def claim_folder(root: Path, settings: dict) -> None:
    """Record the settings in root/dataset.json, or raise UserError where the folder holds something else."""
    record = root / "dataset.json"
    if not record.exists():
        if any(root.glob("[!.]*")):
            raise UserError(f"{root}: holds other files and no dataset.json: give a new folder")
        write_json(record, settings)
        return
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if found != settings:
        found = found if isinstance(found, dict) else {}
        other = ", ".join(k for k in settings if found.get(k) != settings[k]) or "more than these settings"
        raise UserError(f"{record}: made with other settings ({other}): delete the folder or give a new one")


def make_subject(job: tuple[Path, int, int, list[int], Knobs]) -> tuple[int, list[dict]]:
    """Write the missing pairs of one person; returns the person's number and rows of the manifest.

    job: (root, seed, subject, numbers of the images, knobs).
    """
    root, seed, subject, images, knobs = job
    rows = []
    for image in images:
        row = describe_pair(seed, subject, image, knobs)[0]
        colour_path, depth_path = (root / f"{row['pair_id']}{suffix}" for suffix in (".png", ".npy"))
        if not (colour_path.exists() and depth_path.exists()):  # writes are atomic: a file is whole
            made = pair(seed, subject, image, knobs)
            colour, depth = io.BytesIO(), io.BytesIO()
            Image.fromarray(made.rgb).save(colour, "PNG", compress_level=1)
            np.save(depth, made.depth, allow_pickle=False)
            write_bytes(colour_path, colour.getvalue())
            write_bytes(depth_path, depth.getvalue())
        rows.append(row)
    return subject, rows
