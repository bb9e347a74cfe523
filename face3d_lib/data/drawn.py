"""A pack of parametric heads, straight from the drawing: no raw files, and no detector, which needs colour.

The five points that align the faces are the true ones with errors like a detector's, so crops are as inexact as those
of found faces.
"""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from ..base.errors import UserError
from ..base.processes import only_writer
from ..synthetic.camera import SESSION_SIZE, VERSION
from ..synthetic.dataset import check_counts
from ..synthetic.parametric import Look
from ..synthetic.parametric_camera import SIZE, picture
from ..synthetic.people import Knobs
from ..synthetic.targets import SHA256
from .crops import MIN_CROP_READINGS, mm_per_source_px
from .faces import Detection
from .pack import Crop, Pack, find_pack, write_pack
from .warp import AlignSettings, nearest, source_of, warp_matrix


def pack_parametric(
    out_dir: Path,
    people: int,
    images_per_session: int,
    settings: AlignSettings,
    sessions: int = 2,
    seed: int = 0,
    look: Look | None = None,
    first_subject: int = 0,
    progress: bool = True,
) -> Pack:
    """The pack of depth pictures of parametric people, made in `out_dir` if it is not there; colour is 0.

    Persons are named m0000, m0001, ...; depth is in millimetres. About a hundred pairs are made in a second. An image
    whose crop has next to no depth, which alignment would refuse, is replaced by the person's next one. Raises
    UserError for counts from which no data can be made, for an alignment without points, for a package of targets that
    is missing or altered, and where another process writes into the folder.
    """
    out_dir, look = Path(out_dir), look or Look()
    check_counts(people, images_per_session, sessions, first_subject, seed, Knobs(size=SIZE))
    if settings.mode == "none":
        raise UserError("parametric heads: mode 'none' uses no points: choose mode template or dlib")
    source = {
        "drawn": {
            "targets": SHA256, "version": VERSION, "seed": seed, "people": people, "first_subject": first_subject,
            "sessions": sessions, "images_per_session": images_per_session, "look": {**asdict(look), "eyes_px": [*look.eyes_px]},
        },
        "settings_hash": settings.hash(), "alignment": asdict(settings), "depth_unit": "mm",
    }  # fmt: skip
    with only_writer(out_dir):
        if pack := find_pack(out_dir, source):
            return pack
        subjects = tqdm(range(first_subject, first_subject + people), "parametric heads", disable=not progress)
        count, size = people * images_per_session * sessions, settings.image_size
        crops = (crop for s in subjects for crop in _crops(seed, s, sessions, images_per_session, look, settings))
        return write_pack(out_dir, source, (size, size), count, crops)


def _crops(seed: int, subject: int, sessions: int, images: int, look: Look, settings: AlignSettings) -> Iterator[Crop]:
    """The aligned pairs of one person."""
    black = np.zeros((settings.image_size, settings.image_size, 3), np.uint8)
    for session in range(sessions):
        made = number = 0
        while made < images:
            shown = picture(seed, subject, session * SESSION_SIZE + number, look)
            number += 1
            depth, depth_per_px = align_depth(shown.depth, shown.found, settings)
            if (depth > 0).mean() < MIN_CROP_READINGS:
                continue
            yield f"m{subject:04d}/s{session + 1}_{number - 1:03d}", f"m{subject:04d}", black, depth, depth_per_px
            made += 1


def align_depth(depth: np.ndarray, points: np.ndarray, settings: AlignSettings) -> tuple[np.ndarray, float]:
    """(crop (S, S) float32, mm per crop pixel) of a depth map (H, W) in mm whose five points (5, 2) px are known."""
    points = np.asarray(points, np.float64)
    low, high = points.min(0), points.max(0)
    face = Detection(np.concatenate([low - (high - low) / 2, high + (high - low) / 2]), points, 1.0)
    matrix = warp_matrix(settings, depth.shape, face)
    crop, _ = nearest(depth.astype(np.float32), *source_of(matrix, settings.image_size))
    return crop, mm_per_source_px(points) / float(np.sqrt(np.linalg.det(matrix[:, :2])))
