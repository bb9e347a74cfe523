"""The pixels of an enrolled face, kept on request, so that a gallery can move to another model without its pictures.

What is kept is the part of picture and depth map around the face, at full resolution, with its box and points. The face is
not looked for again, so every alignment but "none" cuts the same crop from it as from the whole picture.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ..base.errors import UserError
from ..data.faces import Detection, Faces
from ..data.pairs import RGBDPair
from .gallery import Picture
from .recogniser import Seen

SPARE_PX = 64  # px beyond the box widened by its own size at each side: mode "facenet" adds a margin in px


def pack(seen: Seen) -> bytes:
    """The pixels of the chosen face as the bytes of a safetensors file. UserError where no face was looked for."""
    if "x1" not in seen.row:
        raise UserError("this model takes whole pictures, which are not kept: leave out --keep-crops")
    box = np.array([seen.row[f"box_{side}"] for side in ("left", "top", "right", "bottom")], np.float64)
    size = np.maximum(box[2:] - box[:2], 1)
    low = np.maximum(np.floor(box[:2] - size - SPARE_PX), 0).astype(int)
    high = np.minimum(np.ceil(box[2:] + size + SPARE_PX), seen.pair.rgb.shape[1::-1]).astype(int)
    part = np.s_[low[1] : high[1], low[0] : high[0]]
    facts = {"pair_id": seen.pair.pair_id, "subject_id": seen.pair.subject_id, "depth_unit": seen.pair.depth_unit}
    facts |= {"rgb_sha256": seen.pair.rgb_sha256, "depth_sha256": seen.pair.depth_sha256}
    tensors = {
        "rgb": np.ascontiguousarray(seen.pair.rgb[part]),
        "depth": np.ascontiguousarray(seen.pair.depth[part]),
        "box": box - np.tile(low, 2),
        "points": seen.points - low,
        "probability": np.array([seen.row["probability"]]),
    }
    return save(tensors, {"face": json.dumps(facts)})


def unpack(data: bytes, path: str) -> tuple[RGBDPair, Faces]:
    """The pair and its one face of the bytes that `pack` gave. UserError names `path` where they are something else."""
    try:
        length = int.from_bytes(data[:8], "little")
        facts = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["face"])
        found = load(data)
        pair = RGBDPair(rgb=found["rgb"], depth=found["depth"], **facts)
        face = Detection(found["box"], found["points"], float(found["probability"][0]))
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(f"{path}: no kept face that can be read ({error}): enrol again") from None
    return pair, Faces([face], "native")


def kept_crops(folder: Path, picture: Picture) -> bytes:
    """The bytes of the file that keeps the pixels of a picture's face. UserError where it is missing or altered."""
    path = Path(folder) / Path(picture.crops).name
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path}: the pixels of {picture.pair_id} cannot be read ({error.strerror}): enrol again"
        ) from None
    if crops_name(data) != path.name:
        raise UserError(f"{path}: the pixels of {picture.pair_id} were altered: enrol again")
    return data


def crops_name(data: bytes) -> str:
    """The name of the file that keeps these crops."""
    return f"crops-{hashlib.sha256(data).hexdigest()}.safetensors"
