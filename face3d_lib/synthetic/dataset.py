"""A folder of synthetic people in the raw layout, with the truth about each picture in manifest.csv."""

import dataclasses
import io
import json
import multiprocessing
import os
import threading
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from tqdm.auto import tqdm

from ..base.atomic import sweep, write_bytes, write_csv, write_json
from ..base.errors import UserError
from .camera import ANGLES, CONDITIONS, POINTS, SESSION_SIZE, VERSION, describe, pair
from .people import Knobs

COLUMNS = ["pair_id", "subject_id", "session", *ANGLES, *CONDITIONS, *POINTS, "identity_seed"]


def make_dataset(root, subjects, images_per_session, sessions=2, seed=0, knobs=None, workers=None, first_subject=0):
    """Write a data set in the raw layout and return its manifest (a row per pair: COLUMNS).

    `root` holds `<subject>/<name>.png`, `<name>.npy` (uint16 mm), dataset.json and manifest.csv. Pairs that
    exist are kept, so the same call continues an interrupted one and ends with the same files; a folder made
    with other settings raises UserError. `workers` processes (default: one per core) share the subjects; a
    script that uses more than one needs the usual `if __name__ == "__main__":`.
    """
    root, knobs = Path(root), knobs or Knobs()
    check_counts(subjects, images_per_session, sessions, first_subject, seed, knobs)
    settings = {"depth_unit": "mm", "larger_is": "farther", "source": "face3d synthetic faces"}
    settings |= {"version": VERSION, "seed": seed, "subjects": subjects, "first_subject": first_subject}
    settings |= {"sessions": sessions, "images_per_session": images_per_session}
    settings |= {"knobs": dataclasses.asdict(knobs)}
    claim(root, settings)
    images = [s * SESSION_SIZE + i for s in range(sessions) for i in range(images_per_session)]
    jobs = [(root, seed, first_subject + k, images, knobs) for k in range(subjects)]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    workers = min(workers or cores, subjects)
    rows = {}
    with tqdm(total=subjects * len(images), desc="synthetic faces", unit="pair") as bar:
        for subject, made in finished(jobs, workers):
            rows[subject] = made
            bar.update(len(made))
    frame = pd.DataFrame([row for subject in sorted(rows) for row in rows[subject]], columns=COLUMNS)
    write_csv(root / "manifest.csv", frame)
    return frame


def check_counts(subjects, images_per_session, sessions, first_subject, seed, knobs):
    """Raise UserError for numbers that make no data set."""
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


def claim(root, settings):
    """Record the settings in root/dataset.json, or raise UserError where the folder holds something else."""
    record = root / "dataset.json"
    root.mkdir(parents=True, exist_ok=True)
    sweep(root)
    if not record.exists():
        if any(root.iterdir()):
            raise UserError(f"{root}: holds other files and no dataset.json: give a new folder")
        write_json(record, settings)
        return
    try:
        found = json.loads(record.read_text())
    except ValueError:
        found = None
    if found != settings:
        found = found if isinstance(found, dict) else {}
        other = ", ".join(k for k in settings if found.get(k) != settings[k]) or "more than these settings"
        raise UserError(f"{record}: made with other settings ({other}): delete the folder or give a new one")


def finished(jobs, workers):
    """Yield (subject, rows) of each job as it is done, in this process or in `workers` spawned ones."""
    if workers == 1:
        yield from map(make_subject, jobs)
        return
    context = multiprocessing.get_context("spawn")  # fork is unsafe in a Jupyter kernel, which has threads
    with ProcessPoolExecutor(workers, mp_context=context, initializer=end_with_parent) as pool:
        try:
            for future in as_completed([pool.submit(make_subject, job) for job in jobs]):
                yield future.result()
        except BaseException:  # also an interrupt from the keyboard: the rest is not begun
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def end_with_parent():
    """In a worker: end when the parent was killed, which the pool itself would not notice."""

    def watch():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def make_subject(job):
    """Write the missing pairs of one subject; returns (subject, rows of the manifest)."""
    root, seed, subject, images, knobs = job
    rows = []
    for image in images:
        row = describe(seed, subject, image, knobs)[0]
        colour_path, depth_path = (root / f"{row['pair_id']}{suffix}" for suffix in (".png", ".npy"))
        if not (colour_path.exists() and depth_path.exists()):  # a file that exists is whole
            made = pair(seed, subject, image, knobs)
            colour, depth = io.BytesIO(), io.BytesIO()
            Image.fromarray(made.rgb).save(colour, "PNG", compress_level=1)
            np.save(depth, made.depth, allow_pickle=False)
            write_bytes(colour_path, colour.getvalue())
            write_bytes(depth_path, depth.getvalue())
        rows.append(row)
    return subject, rows
