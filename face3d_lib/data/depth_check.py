"""Does the depth belong to the face? Measurements of each pair, and warnings about a whole folder.

The unit "eye distance" below is the distance between the eyes of an upright face in the 112 px template, the reference
points TEMPLATE_112 of warp.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import gaussian_filter

from .warp import EYES_TEMPLATE_PX, TEMPLATE_112, nearest, source_of

if TYPE_CHECKING:
    import pandas as pd

FLIPS = {"mirrored": (1, -1), "upside_down": (-1, 1), "half_turn": (-1, -1)}  # steps through rows and columns
DEPTH_MARKS = [  # columns of alignment.csv, in eye distances; `depth_marks` says what they mean
    *("relief", "nose_dx", "nose_dy", "registration"), *(f"registration_{name}" for name in FLIPS)
]  # fmt: skip
FACE_RELIEF = 0.4  # eye distances from eyes and mouth forward to the nose; 0.28 to 0.53 in the sets that were measured
DIRECTION_SURE = 0.1  # eye distances; a median relief below minus this means that the direction is wrong
REGISTRATION_LIMIT = 0.28  # eye distances; medians were 0.07 to 0.13 for true pairs, 0.35 to 0.5 for swapped depth
OFFSET_LIMIT = 0.12  # eye distances; the common offset of the noses was 0.07 and less for true pairs
FLIP_SURE = 0.5  # share of the median registration below which flipped depth fits far better than unflipped depth
FEW, MANY = 5, 20  # least numbers of pairs for a median that checks the unit, and one that checks the registration
FLIP_NAMES = {
    "mirrored": "mirrored left to right",
    "upside_down": "upside down",
    "half_turn": "turned by 180 degrees",
}


def depth_marks(depth: np.ndarray, matrix: np.ndarray, points: np.ndarray, per_px: float) -> dict[str, float]:
    """The measurements DEPTH_MARKS of one pair, in eye distances, without those that cannot be made.

    depth: (H, W) of the whole picture, larger = farther; matrix: (2, 3) from it to the 112 px template; points:
    (5, 2) px in the template; per_px: depth units in one pixel of the template. They are measured in the
    template whatever the crop is, so that they mean the same in every mode. The distance between the eyes is that of
    the template, because in a turned head the distance that the picture shows shrinks more than the scale of the
    similarity transform.
    `registration_mirrored` and the like give the registration that the flipped depth map would have.
    """
    places = source_of(matrix, 112)
    upright = nearest(depth, *places)[0]
    marks = {"relief": face_relief(upright, points) / (per_px * EYES_TEMPLATE_PX)}
    peak = nose_peak(upright)
    if peak is not None:
        offset = (peak - points[2]) / EYES_TEMPLATE_PX
        marks |= {"nose_dx": offset[0], "nose_dy": offset[1], "registration": np.hypot(*offset)}
    for name, (rows, columns) in FLIPS.items():
        peak = nose_peak(nearest(depth[::rows, ::columns], *places)[0])
        if peak is not None:
            marks[f"registration_{name}"] = np.hypot(*(peak - points[2])) / EYES_TEMPLATE_PX
    return {name: round(float(value), 4) for name, value in marks.items() if np.isfinite(value)}


def face_relief(depth: np.ndarray, points: np.ndarray) -> float:
    """How much farther the eyes and mouth corners are than the nose tip: median of the four, each the median of
    the readings within 4 px. NaN without readings. depth: (H, W), larger = farther; points: (5, 2) px in it.
    """
    levels = []
    for x, y in np.floor(points + 0.5).astype(int):
        patch = depth[max(0, y - 4) : max(0, y + 5), max(0, x - 4) : max(0, x + 5)]
        levels.append(_middle(patch[patch > 0]))
    around = np.array([levels[k] for k in (0, 1, 3, 4)])
    around = np.sort(around[np.isfinite(around)])
    return float(around[(len(around) - 1) // 2] + around[len(around) // 2]) / 2 - levels[2] if len(around) else np.nan


def _middle(values: np.ndarray) -> float:
    """The upper median, NaN for no values; on a few numbers this takes a tenth of the time of numpy.median."""
    return float(np.partition(values, len(values) // 2)[len(values) // 2]) if len(values) else np.nan


def nose_peak(depth: np.ndarray) -> np.ndarray | None:
    """(2,) x and y of the point that protrudes most within 20 px of the template's nose; None without readings.

    The point is found by a difference of Gaussians (2 and 6 px; Marr and Hildreth 1980) of the readings alone, which
    removes the tilt of the head. depth: (112, 112) in the template, larger = farther. Readings farther from the median
    than three times the distance between the quartiles are not the face; so the point does not depend on the unit.
    """
    centre = np.round(TEMPLATE_112[2]).astype(int)
    x0, y0 = centre - 36  # 20 px of search and 16 px around; every other pixel is enough
    window = depth[y0 : y0 + 73 : 2, x0 : x0 + 73 : 2]
    readings = np.sort(window[window > 0])
    if not len(readings):
        return None
    low, middle, high = readings[[len(readings) * k // 4 for k in (1, 2, 3)]]
    weight = (window > 0) & (np.abs(window - middle) <= 3 * (high - low))
    both = np.stack([weight * (middle - window), weight]).astype(np.float32)
    fine, coarse = (gaussian_filter(both, (0, sigma, sigma), truncate=2.5) for sigma in (1, 3))
    rows, columns = np.mgrid[-36:37:2, -36:37:2]
    allowed = (rows**2 + columns**2 < 20**2) & (fine[1] > 0.3)
    if not allowed.any():
        return None
    bump = fine[0] / np.maximum(fine[1], 1e-3) - coarse[0] / np.maximum(coarse[1], 1e-3)
    row, column = np.unravel_index(np.where(allowed, bump, -np.inf).argmax(), window.shape)
    return np.array([x0 + 2 * column, y0 + 2 * row], float)


def check_depth(frame: pd.DataFrame) -> list[str]:
    """One line for each problem that the pairs of an aligned folder seem to have; an empty list if there is none.

    `frame` is alignment.csv as text. Copies of depth maps are counted, and faces in the dark, whose crops tell colour
    networks little. The other lines come from medians over the
    pairs. With FEW pairs or more, they report a unit that is wrong by a factor of about ten, or a wrong direction. With
    MANY pairs or more, they report depth that is flipped, shifted or of other pictures. Only the first of these
    problems is reported, because the later ones may follow from it.
    """
    import pandas as pd  # the import takes half a second, and `face3d identify` does not need it

    if not {"relief", "depth_map_sha256"} <= set(frame) or not (frame["status"] == "ok").any():
        return []
    ok = frame[frame["status"] == "ok"]
    numbers = ok[DEPTH_MARKS].apply(pd.to_numeric, errors="coerce")
    told = _direction(numbers) or _turned_over(numbers) or _registration(numbers) or _unit(numbers)
    return [*_copies(ok), *_dark(ok), *told]


def frozen_depth(ok: pd.DataFrame) -> pd.Series:
    """(N,) bool: which of these rows of alignment.csv share their depth map with a row that has another picture.

    Copies of a picture together with its depth are no frozen depth; the split reports them.
    """
    copied = (ok["depth_map_sha256"] != "") & ok.duplicated("depth_map_sha256", keep=False)
    return copied & (ok.groupby("depth_map_sha256")["rgb_sha256"].transform("nunique") > 1)


def _copies(ok: pd.DataFrame) -> list[str]:
    several = ok[frozen_depth(ok)]
    if not len(several):
        return []
    return [
        f"depth: {len(several)} of {len(ok)} pairs share their depth map with another picture, such as "
        f"{several['pair_id'].iloc[0]}: the depth stream froze or files were copied; the split sets copies aside"
    ]


def _dark(ok: pd.DataFrame) -> list[str]:
    dark = ok[ok["found_at"].str.startswith("lit")] if "found_at" in ok else ok[:0]
    if not len(dark):
        return []
    return [
        f"colour: {len(dark)} of {len(ok)} faces are so dark that they were found in a brightened picture only, such as "
        f"{dark['pair_id'].iloc[0]}: add light (infrared of 10 to 14 bits in a 16-bit file looks so: scale its numbers "
        "to the full range when saving it)"
    ]


def _direction(numbers: pd.DataFrame) -> list[str]:
    relief, count = numbers["relief"].median(), int(numbers["relief"].count())
    if count < FEW or relief >= -DIRECTION_SURE:
        return []
    return [
        f"depth: noses lie {-relief:.2f} eye distances behind the eyes (median of {count} pairs): "
        "larger_is is likely declared the wrong way round"
    ]


def _turned_over(numbers: pd.DataFrame) -> list[str]:
    flipped = numbers[[f"registration_{name}" for name in FLIPS]]
    both = numbers[["registration"]].join(flipped).dropna()
    as_it_is, best = both["registration"].median(), both[flipped.columns].median()
    if len(both) < MANY or as_it_is <= OFFSET_LIMIT or not best.min() < FLIP_SURE * as_it_is:
        return []
    name = str(best.idxmin()).removeprefix("registration_")
    return [
        f"depth: it fits colour far better {FLIP_NAMES[name]} (its noses lie {best.min():.2f} eye distances from those "
        f"in colour, {as_it_is:.2f} as it is; medians of {len(both)} pairs): depth is likely {FLIP_NAMES[name]}"
    ]


def _registration(numbers: pd.DataFrame) -> list[str]:
    measured, apart = int(numbers["registration"].count()), numbers["registration"].median()
    dx, dy = numbers["nose_dx"].median(), numbers["nose_dy"].median()
    spread = np.hypot(numbers["nose_dx"] - dx, numbers["nose_dy"] - dy).median()
    if measured >= MANY and np.hypot(dx, dy) > OFFSET_LIMIT and spread < REGISTRATION_LIMIT:
        return [
            f"depth: its noses lie ({dx:+.2f}, {dy:+.2f}) eye distances right of and below those in colour (median of "
            f"{measured} pairs): depth is likely shifted against colour"
        ]
    if measured >= MANY and apart > REGISTRATION_LIMIT:
        return [
            f"depth: its noses lie {apart:.2f} eye distances from those in colour (median of {measured} pairs): depth "
            "likely belongs to other pictures or is not registered to colour"
        ]
    return []


def _unit(numbers: pd.DataFrame) -> list[str]:
    relief, count = numbers["relief"].median(), int(numbers["relief"].count())
    ratio = max(relief, 1e-3) / FACE_RELIEF
    if count < FEW or 10**-0.5 < ratio < 10**0.5:
        return []
    factor = 10.0 ** round(np.log10(ratio))
    sensors = "; a RealSense D405 needs 0.1, an L515 0.25, the 5000 per metre of TUM 0.2" if factor == 10 else ""
    return [
        f"depth: noses stand out {relief:.3g} eye distances (median of {count} pairs; about {FACE_RELIEF} in faces): "
        f"depth_unit is likely wrong, numbers are about {factor:g} times what it says: multiply depth_scale in "
        f"dataset.json by {1 / factor:g} (it is 1 where it is not written{sensors})"
    ]
