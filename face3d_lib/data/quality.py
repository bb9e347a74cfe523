"""The quality of each pair: what its depth and its picture are worth, one row of numbers a pair.

`measure_folder` measures a whole data set; QUALITY names the columns that order pairs from good to bad. Each pair is a
row. What cannot be measured is NaN, and the column `reason` says why.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..base.errors import UserError
from ..base.processes import cores, run_tasks
from ..base.tables import POINTS, read_table
from . import depth_measures as measures
from .convention import DepthConvention, read_convention
from .decoding import read_pairs
from .pairs import BadPair, PairFiles, RGBDPair, find_pairs
from .warp import EYES_TEMPLATE_PX, MATRIX, MM_PER_TEMPLATE_PX, source_of, template_transform

QUALITY = {  # column -> +1 where more is better, -1 where less is better; their units are in UNITS
    "holes": -1, "noise_mm": -1, "zigzag": -1, "distance_mm": -1, "turn_deg": -1,
    "eye_px": 1, "sharpness": 1, "brightness": 1, "contrast": 1, "clipped": -1, "side_light": -1, "probability": 1,
}  # fmt: skip
LABELS = {  # column of QUALITY -> what pictures call it, with its unit
    "holes": "holes, share", "noise_mm": "noise, mm", "zigzag": "zigzag", "distance_mm": "distance, mm",
    "turn_deg": "head turned, °", "eye_px": "eyes apart, px", "sharpness": "sharpness", "brightness": "brightness",
    "contrast": "contrast", "clipped": "black or white, share", "side_light": "light from the side",
    "probability": "detector's probability",
}  # fmt: skip
UNITS = {  # column of `measure_folder` -> unit and meaning
    "holes": "share of the pixels of the face without a reading",
    "noise_mm": "mm, residual of local surfaces, rounding included",
    "noise": "the same in units of depth",
    "zigzag": "share of the changes of depth that go to and fro (0: smooth, 0.42: white noise)",
    "noise_link": "correlation of the noise of neighbours along a row; -0.1: white noise",
    "step": "units of depth, of which readings are whole multiples; 0: none",
    "distance_mm": "mm, median of the readings of the face",
    "depth_range": "units of depth, between the 5th and the 95th percentile in the face",
    "yaw_deg": "degrees, by the five points; > 0: towards the right of the picture",
    "pitch_deg": "degrees, by the plane through the depth of the face; > 0: looks down",
    "turn_deg": "degrees, yaw and pitch together",
    "shift_x": "px of the picture, depth right of colour; uncertain in one pair",
    "shift_y": "px of the picture, depth below colour; uncertain in one pair",
    "shift_off_px": "px of the template between depth and colour, as of shift_x and shift_y",
    "colour_share": "R^2 of the fine detail of depth by that of colour",
    "eye_px": "px of the picture between the eyes",
    "sharpness": "fine over coarse detail of the picture of the face",
    "brightness": "grey level 0 to 255, mean of the face",
    "contrast": "grey levels, standard deviation in the face",
    "clipped": "share of the pixels of the face that are black or white",
    "side_light": "difference of the halves of the face over their mean",
    "probability": "of the detector",
    "sensor_px": "px of the picture in one reading of the sensor, along a side",
    "scale": "px of the picture in one px of the 112 px template",
    "mm_per_unit": "mm in one unit of depth; where the unit is a pixel, eyes 63 mm apart are assumed",
}
MEASURED = list(UNITS)
WHOLE_MM = 250.0  # width of the scene that is assumed where no face was looked for, as in crops.py
DARK, BRIGHT = 5, 250  # grey levels at which a pixel counts as clipped


@dataclass(frozen=True)
class Source:
    """A folder of pairs and how to read it; `aligned`: it holds crops, whose points moved with them."""

    root: Path
    convention: DepthConvention
    aligned: bool


def open_source(root: Path, convention: DepthConvention | None = None) -> Source:
    """The raw or aligned folder `root`; `convention` where dataset.json declares none. Raises UserError."""
    root = Path(root)
    path = root / "dataset.json"
    aligned = path.is_file() and "aligned" in json.loads(path.read_bytes())
    return Source(root, convention or read_convention(root), aligned)


def measure_folder(
    root: Path, table: pd.DataFrame, convention: DepthConvention | None = None, workers: int | None = None
) -> tuple[pd.DataFrame, dict[str, dict[str, np.ndarray]]]:
    """Measure all aligned pairs of `table`: (a table with a row a pair, arrays of each pair by pair_id).

    `root` is the raw folder that was aligned, or the aligned folder; `table` is alignment.csv as text (see
    `alignment_table`). The table has pair_id, subject_id, the columns UNITS as float64 and `reason`, which is ""
    where everything was measured. The arrays are `surface`, (13, 13) of depth_measures.shift_surface, and `marks`, (64,)
    of block_marks; they are missing where they could not be measured. Raises UserError where `root` holds none of the
    pairs. `workers`: number of processes (None: one for each core, fewer for small folders).
    """
    source = open_source(root, convention)
    ok = table[table["status"] == "ok"]
    files = {pair.pair_id: pair for pair in find_pairs(source.root)}
    if len(ok) and not any(pair_id in files for pair_id in ok["pair_id"]):
        raise UserError(
            f"{source.root}: no pair {ok['pair_id'].iloc[0]}: name the folder that was aligned, or its crops"
        )
    rows = ok.to_dict("records")
    chunks = [[(files.get(row["pair_id"]), row) for row in rows[k : k + 64]] for k in range(0, len(rows), 64)]
    workers = min(cores(), len(rows) // 800) if workers is None else workers
    measured, arrays = {}, {}
    for results in run_tasks(partial(_measurer, source), chunks, workers):
        for row, kept in results:
            measured[row["pair_id"]], arrays[row["pair_id"]] = row, kept
    frame = pd.DataFrame(
        [measured[pair_id] for pair_id in ok["pair_id"]], columns=["pair_id", "subject_id", *MEASURED, "reason"]
    )
    return frame.astype(dict.fromkeys(MEASURED, np.float64)), arrays


def rounded(pairs: pd.DataFrame) -> pd.DataFrame:
    """The table of `measure_folder` with its numbers to six digits, as quality.csv holds it."""
    numbers = pairs.select_dtypes("number").columns
    return pairs.assign(**{name: [float(f"{value:.6g}") for value in pairs[name]] for name in numbers})


def read_quality(path: Path) -> pd.DataFrame:
    """quality.csv, which notebook 10 writes, by pair_id: the columns QUALITY as float64, NaN where not measured.

    Raises UserError, which names the file, where it cannot be read or lacks a column.
    """
    table = read_table(path, ["pair_id", *QUALITY]).set_index("pair_id")[list(QUALITY)]
    return table.apply(pd.to_numeric, errors="coerce").astype(np.float64)


@contextmanager
def _measurer(source: Source) -> Iterator[Callable[[list], list]]:
    yield partial(_measure_chunk, source=source)


def _measure_chunk(chunk: list[tuple[PairFiles | None, dict[str, str]]], source: Source) -> list[tuple[dict, dict]]:
    results: list[tuple[dict, dict]] = []
    known = [files for files, _ in chunk if files is not None]
    read = {files.pair_id: (files, pair) for files, pair in read_pairs(known, source.convention)}
    for _, row in chunk:
        files, pair = read.get(row["pair_id"], (None, None))
        measured: dict[str, Any] = {"reason": files.detail if files else "the files are no longer there"}
        kept: dict[str, np.ndarray] = {}
        if pair is not None:
            try:
                original = original_depth(row, pair) if source.aligned else None
                measured, kept = measure_pair(pair, points_of(row, source.aligned), source.convention, original)
            except (BadPair, ValueError, np.linalg.LinAlgError) as error:  # one pair never stops the others
                measured = {"reason": " ".join(str(error).split())}
        if row.get("probability"):
            measured["probability"] = float(row["probability"])
        results.append(({"pair_id": row["pair_id"], "subject_id": row["subject_id"]} | measured, kept))
    return results


def points_of(row: dict[str, str], aligned: bool) -> np.ndarray | None:
    """The five points (5, 2) in the pixels of the raw picture, or of its crop, by a row of alignment.csv.

    None where no face was looked for, mode "none".
    """
    if not row.get("x1"):
        return None
    points = np.array([float(row[name]) for name in POINTS]).reshape(5, 2)
    if aligned:
        matrix = np.array([float(row[name]) for name in MATRIX]).reshape(2, 3)
        points = points @ matrix[:, :2].T + matrix[:, 2]
    return points


def original_depth(row: dict[str, str], crop: RGBDPair) -> tuple[np.ndarray, np.ndarray | None]:
    """(the depth map (H, W) that a crop was taken from, as far as the crop shows it; the five points in it or None).

    A crop takes the nearest reading of its source, which turns a smooth slope into a jagged one. Here the readings go
    back to the pixels that they came from, so that neighbours are neighbours again.
    """
    matrix = np.array([float(row[name]) for name in MATRIX]).reshape(2, 3)
    shape = int(row["height"]), int(row["width"])
    x, y = np.floor(source_of(matrix, len(crop.depth)) + 0.5).astype(np.int64)
    read = (crop.depth > 0) & (x >= 0) & (y >= 0) & (x < shape[1]) & (y < shape[0])
    depth = np.zeros(shape, np.float32)
    unit = np.sqrt(np.linalg.det(matrix[:, :2])) if crop.depth_unit == "pixel" else 1.0
    depth[y[read], x[read]] = crop.depth[read] / np.float32(unit)
    return depth, points_of(row, aligned=False)


def measure_pair(
    pair: RGBDPair,
    points: np.ndarray | None,
    convention: DepthConvention,
    original: tuple[np.ndarray, np.ndarray | None] | None = None,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The numbers of one pair by the names in UNITS, with `reason`, and its arrays, as of `measure_folder`.

    `points`: the five points (5, 2) in the picture; where they are None, the middle of the picture is measured as if a
    face filled it, and what needs the eyes is NaN. `original`: of `original_depth` where `pair` is a crop; sizes
    in px are then those of the original picture. Raises BadPair where the points lie in one spot.
    """
    reasons = [] if points is not None else ["no face was looked for"]
    frame = _frame(points, pair.depth.shape)
    depth, depth_frame = pair.depth, frame
    if original is not None:
        depth, depth_frame = original[0], _frame(original[1], original[0].shape)
    scale = measures.scale_of(depth_frame)
    per_px = scale if pair.depth_unit == "pixel" else MM_PER_TEMPLATE_PX
    row: dict[str, Any] = {"scale": scale, "mm_per_unit": MM_PER_TEMPLATE_PX / per_px}
    kept = {"marks": measures.block_marks(pair.depth)}
    view, crop = measures.face_view(depth, depth_frame), measures.face_view(pair.depth, frame)
    view = measures.head_only(view, per_px)
    readings = view.depth[view.face & (view.depth > 0)]
    if not len(readings):
        reasons.append("no reading in the face")
    else:
        row |= _depth_of(view, readings, per_px, row["mm_per_unit"])
        absolute = pair.depth_unit == "mm" and convention.larger_is == "farther"
        row["distance_mm"] = float(np.median(readings)) if absolute else np.nan
        reasons += [] if absolute else ["distance: depth is no distance from the camera"]
    row["holes"] = float((crop.depth[crop.face] == 0).mean()) if crop.face.any() else np.nan
    rgb, depth = measures.upright_crops(pair.rgb, pair.depth, frame)
    row |= picture_quality(rgb) | {"colour_share": measures.colour_share(rgb, depth)}
    if points is not None:
        row["eye_px"] = EYES_TEMPLATE_PX * scale
        row["yaw_deg"] = measures.face_yaw(points @ frame[:, :2].T + frame[:, 2])
        row["turn_deg"] = float(np.hypot(row["yaw_deg"], row.get("pitch_deg", np.nan)))
        crop_px = measures.scale_of(frame) if pair.depth_unit == "pixel" else per_px
        surface = measures.shift_surface(rgb, depth, crop_px)
        if surface is not None:
            kept["surface"] = surface
            shift = measures.shift_of(surface)
            row |= dict(zip(("shift_x", "shift_y"), (shift * scale).tolist(), strict=True))
            row["shift_off_px"] = float(np.hypot(*shift))
    reasons += [f"{name}: too few readings" for name in ("noise", "zigzag") if np.isnan(row.get(name, np.nan))]
    return row | {"reason": "; ".join(reasons)}, kept


def _frame(points: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    """The similarity (2, 3) from a picture of this shape to the 112 px template, by five points or by the middle."""
    if points is not None:
        return template_transform(points)
    size = WHOLE_MM / MM_PER_TEMPLATE_PX / min(shape)
    middle = np.array(shape[1::-1]) / 2
    return np.c_[size * np.eye(2), np.array(measures.FACE_CENTRE) - size * middle]


def _depth_of(view: measures.FaceView, readings: np.ndarray, per_px: float, mm: float) -> dict[str, float]:
    noise = measures.noise(view)
    return {
        "noise": noise,
        "noise_mm": noise * mm,
        "zigzag": measures.zigzag(view),
        "noise_link": measures.noise_link(view),
        "step": measures.quantisation_step(readings),
        "depth_range": float(np.subtract(*np.percentile(readings, [95, 5]))),
        "pitch_deg": measures.face_pitch(view, per_px),
        "sensor_px": float(view.pixel),
    }


def picture_quality(rgb: np.ndarray) -> dict[str, float]:
    """Sharpness, brightness, contrast, clipped and side_light, as in UNITS, of a face in (112, 112, 3) uint8.

    Sharpness is the ratio of the mean steps between neighbouring pixels and between every fourth pixel, at the scale of
    the template: 0.25 for a ramp, 1 for white noise.
    """
    rows, columns = np.mgrid[:112, :112]
    face = ((columns - 55.5) / 26) ** 2 + ((rows - 60) / 34) ** 2 < 1
    grey = rgb.mean(2, dtype=np.float32)
    inside = grey[face]
    fine, coarse = (np.abs(grey[:, step:] - grey[:, :-step])[face[:, step:]].mean() for step in (1, 4))
    left, right = grey[face & (columns < 56)].mean(), grey[face & (columns >= 56)].mean()
    return {
        "sharpness": float(fine / coarse) if coarse > 0 else np.nan,
        "brightness": float(inside.mean()),
        "contrast": float(inside.std()),
        "clipped": float(((inside <= DARK) | (inside >= BRIGHT)).mean()),
        "side_light": float(abs(left - right) / max(inside.mean(), 1.0)),
    }
