"""The crops of one pair: made from the face that was found, and written as a PNG and a .npy file."""

import errno
import hashlib
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..base.atomic import sha256_of
from ..base.tables import POINTS
from .depth_check import depth_marks
from .faces import DARK, Detection, Faces, choose_face
from .pairs import BadPair, RGBDPair
from .warp import MATRIX, MM_PER_TEMPLATE_PX, AlignSettings, template_transform, warp_matrix, warp_pair

UNALIGNED_WIDTH_MM = 250.0  # assumed width of a portrait photo's scene, for mode "none", which finds no points
CROPS = (("rgb", ".png"), ("depth", ".npy"))  # the files of an aligned pair
MIN_CROP_READINGS = 0.02  # share of crop pixels with a depth below which the face counts as not measured


def align_pair(
    pair: RGBDPair, found: Faces | None, settings: AlignSettings, row: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
    """The crops of a pair, (S, S, 3) uint8 and (S, S) float32; the measurements are written into `row`.

    `found` is the result of `find_faces` for the picture, None in mode "none". `depth_per_px` in `row` is the width of
    one crop pixel in units of depth (see `depth_per_source_px`). Depth in "pixel" is rescaled to crop pixels, so that
    its `depth_per_px` is 1. Raises BadPair with the status no_face, internal_error or bad_depth.
    """
    row |= {"height": pair.rgb.shape[0], "width": pair.rgb.shape[1]}
    face = None
    if settings.mode != "none" and found is not None:
        if found.error:
            raise BadPair("internal_error", found.error)
        row |= {"n_faces": len(found.faces), "found_at": found.found_at}
        if not found.faces:
            raise BadPair("no_face", _why_no_face(pair.rgb, settings))
        chosen, row["choice"] = choose_face(found.faces, pair.rgb.shape)
        face = found.faces[chosen]
        row["probability"] = face.probability
        row |= dict(zip(("box_left", "box_top", "box_right", "box_bottom"), face.box.tolist(), strict=True))
        row |= dict(zip(POINTS, face.points.ravel().tolist(), strict=True))
    matrix = warp_matrix(settings, pair.rgb.shape, face)
    row |= dict(zip(MATRIX, matrix.ravel().tolist(), strict=True))
    rgb, depth = warp_pair(pair.rgb, pair.depth, matrix, settings.image_size)
    valid = float((depth > 0).mean())
    row["valid_depth"] = round(valid, 6)
    if valid < MIN_CROP_READINGS:
        raise BadPair("bad_depth", f"{valid:.1%} of the crop's pixels hold a depth: record it again")
    scale = float(np.sqrt(np.linalg.det(matrix[:, :2])))  # crop px per source px
    per_px = depth_per_source_px(pair, face)
    if face is not None:
        template = template_transform(face.points)
        per_template_px = per_px / float(np.sqrt(np.linalg.det(template[:, :2])))
        points = face.points @ template[:, :2].T + template[:, 2]
        row |= depth_marks(pair.depth, template, points, per_template_px)
    if pair.depth_unit == "pixel":
        depth, row["depth_per_px"] = depth * np.float32(scale), 1.0
    else:
        row["depth_per_px"] = round(per_px / scale, 9)
    return rgb, depth


def depth_per_source_px(pair: RGBDPair, face: Detection | None) -> float:
    """How many units of depth one pixel of the whole picture measures across the face.

    The result is 1 where the unit is "pixel". For millimetres it follows from the size of the face; without a face the
    picture's shorter side is assumed to measure UNALIGNED_WIDTH_MM.
    """
    if pair.depth_unit == "pixel":
        return 1.0
    if face is None:
        return UNALIGNED_WIDTH_MM / min(pair.rgb.shape[:2])
    return mm_per_source_px(face.points)


def mm_per_source_px(points: np.ndarray) -> float:
    """Millimetres across the face that one pixel of the picture measures, by the size of its five points (5, 2)."""
    return MM_PER_TEMPLATE_PX * float(np.sqrt(np.linalg.det(template_transform(points)[:, :2])))


def _why_no_face(rgb: np.ndarray, settings: AlignSettings) -> str:
    """One line that says no face was found and, where the picture shows it, why."""
    found = f"no face of {settings.min_face_size} px or more was found"
    brightest = int(np.percentile(rgb.max(axis=2), 99))
    if brightest < DARK:
        return (
            f"{found}: the picture is dark, 99 % of its pixels are at {brightest} of 255 or below (infrared of 10 to 14 "
            "bits in a 16-bit file looks so: scale its numbers to the full range when saving it)"
        )
    if min(rgb.shape[:2]) < 2 * settings.min_face_size:
        return f"{found}: the picture has only {rgb.shape[1]} x {rgb.shape[0]} px"
    return f"{found}: is a face in the picture, upright and not turned far to the side?"


def write_crops(folder: Path, pair_id: str, rgb: np.ndarray, depth: np.ndarray) -> dict[str, str]:
    """Write both crops below `folder`, each whole or not at all; returns their hashes as cells of alignment.csv.

    There is no fsync here, because it takes longer than finding the face. Crops are used again only if their hashes
    agree, and the disk is synced once before alignment.csv is written. Raises BadPair where the output's
    file system cannot hold so long a name.
    """
    picture, numbers = io.BytesIO(), io.BytesIO()
    Image.fromarray(rgb).save(picture, "PNG", compress_level=1)
    np.save(numbers, depth, allow_pickle=False)
    hashes = {}
    for (kind, suffix), data in zip(CROPS, (picture.getvalue(), numbers.getvalue()), strict=True):
        path = folder / f"{pair_id}{suffix}"
        sibling = path.with_name(f".new-{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            sibling.write_bytes(data)
            os.replace(sibling, path)
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:  # encrypted home folders allow 143 bytes, not 255
                sibling.unlink(missing_ok=True)
                raise BadPair(
                    "refused_path", "its name is too long for the output folder: give it a shorter one"
                ) from None
            raise
        hashes[f"aligned_{kind}_sha256"] = hashlib.sha256(data).hexdigest()
    return hashes


def crops_are_whole(folder: Path, row: dict[str, str]) -> bool:
    """Whether both crops of a row of alignment.csv are there with the hashes that it names."""
    paths = {kind: folder / f"{row['pair_id']}{suffix}" for kind, suffix in CROPS}
    return all(path.is_file() and sha256_of(path) == row[f"aligned_{kind}_sha256"] for kind, path in paths.items())


def remove_crops(folder: Path, pair_id: str) -> None:
    """Delete the crops of an input that is gone, or that can no longer be aligned, where there are any."""
    for _, suffix in CROPS:
        try:
            (folder / f"{pair_id}{suffix}").unlink(missing_ok=True)
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:  # the escaped name of a refused file can be too long
                raise
