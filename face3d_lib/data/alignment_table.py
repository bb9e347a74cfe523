"""alignment.csv: its columns, the check that a table is valid, and the error of its points.

The table has one row for each input pair, and every cell is text; a cell is empty where a number was not measured.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pandera.pandas as pa

from ..base.errors import UserError
from ..base.tables import POINTS, checked, number
from .depth_check import DEPTH_MARKS
from .pairs import STATUSES, BadPair
from .warp import MATRIX

ALIGNMENT_COLUMNS = [
    "pair_id", "subject_id", "status", "detail", "rgb_path", "depth_path",
    "n_faces", "choice", "found_at", "probability", "box_left", "box_top", "box_right", "box_bottom", *POINTS,
    *MATRIX, "depth_per_px", "valid_depth", *DEPTH_MARKS, "width", "height",
    "rgb_sha256", "depth_sha256",  # of the input files' bytes
    "depth_map_sha256",  # of the depth map once read, (H, W) float32
    "aligned_rgb_sha256", "aligned_depth_sha256",  # of the crops' files
]  # fmt: skip
LIMITS = {  # lowest and highest number of a column; a cell may also be empty
    **dict.fromkeys(["box_left", "box_top", "box_right", "box_bottom", *POINTS, *MATRIX, *DEPTH_MARKS], (-1e6, 1e6)),
    "n_faces": (0.0, 1e6),
    "probability": (0.0, 1.0),
    "valid_depth": (0.0, 1.0),
    "depth_per_px": (1e-6, 1e6),
}
_named = pa.Column(str, pa.Check.str_length(min_value=1))
AlignmentTable = pa.DataFrameSchema(
    {
        "pair_id": pa.Column(str, unique=True),
        "subject_id": _named,
        "status": pa.Column(str, pa.Check.isin(STATUSES)),
        **{name: number(*limits) for name, limits in LIMITS.items()},
    },
    checks=[
        pa.Check(
            lambda t: pd.Series(
                [p.startswith(s + "/") for p, s in zip(t["pair_id"], t["subject_id"], strict=True)], t.index
            ),
            error="pair_id is subject_id/name",
        ),
        pa.Check(
            lambda t: (
                (t["status"] != "ok")
                | (t[[*MATRIX, "depth_per_px", "rgb_sha256", "aligned_rgb_sha256"]] != "").all(axis=1)
            ),
            error="an aligned pair has a matrix, a depth scale and hashes",
        ),
        pa.Check(
            lambda t: (t["status"] == "ok") | (t["detail"] != ""),
            error="a pair that was not aligned has a reason",
        ),
    ],
)


def require_limits(row: dict[str, Any]) -> None:
    """Raise BadPair where a pair's row holds a number that the table would refuse; all such numbers leave the row.

    A picture with sides of 1 and 300,000 px gives such numbers. One pair never ends the run, so it is found before
    the row enters the table.
    """
    outside = {name: row[name] for name in LIMITS if name in row and not _within(row[name], *LIMITS[name])}
    for name in outside:
        del row[name]
    if outside:
        name, value = next(iter(outside.items()))
        size = f"{row.get('width', '?')} x {row.get('height', '?')} px"
        raise BadPair(
            "internal_error",
            f"{name} is {value:g}, beyond all limits, in a picture of {size}: crop the picture around the face",
        )


def _within(value: Any, low: float, high: float) -> bool:
    return value == "" or math.isnan(value) or low <= value <= high


def check_alignment(frame: pd.DataFrame, path: Path = Path("alignment.csv")) -> pd.DataFrame:
    """`frame` itself if it is a valid alignment table with at least one row.

    Raises UserError, which names `path`, if it is not.
    """
    if not len(frame):
        raise UserError(f"{path}: no rows: align a folder that holds pairs")
    return checked(frame, AlignmentTable, path)


def landmark_error(frame: pd.DataFrame, truth: pd.DataFrame, worst: bool = False) -> pd.Series:
    """Mean distance of the five points from the true ones, as a fraction of the true distance between the eyes.

    worst: the largest of the five distances instead of their mean; above 0.5 the detector has missed grossly. Returns
    float64 by pair_id. Both tables have pair_id and x1, y1 .. x5, y5 in source pixels; pairs without points in either
    are left out.
    """
    truth = truth[(truth[POINTS] != "").all(axis=1)]
    found = frame[(frame["x1"] != "") & frame["pair_id"].isin(truth["pair_id"])].set_index("pair_id")
    true = truth.set_index("pair_id").loc[found.index, POINTS].astype(float).to_numpy().reshape(-1, 5, 2)
    points = found[POINTS].astype(float).to_numpy().reshape(-1, 5, 2)
    eyes = np.linalg.norm(true[:, 1] - true[:, 0], axis=1)
    distances = np.linalg.norm(points - true, axis=2)
    error = (distances.max(1) if worst else distances.mean(1)) / eyes
    return pd.Series(error, found.index, name="landmark_error")
