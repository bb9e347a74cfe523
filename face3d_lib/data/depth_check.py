"""Does the depth belong to the face? Marks of each pair, and warnings about a whole folder."""

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter

from .alignment_table import DEPTH_MARKS
from .warp import EYES_TEMPLATE_PX, TEMPLATE_112

FACE_RELIEF = 0.4  # eye distances from eyes and mouth forward to the nose: 0.28 to 0.53 in the sets that were measured
DIRECTION_SURE = 0.1  # eye distances; a median relief below minus this is depth the other way round
REGISTRATION_LIMIT = 0.28  # eye distances; medians were 0.07 to 0.13 as recorded, 0.35 to 0.5 with depths swapped
OFFSET_LIMIT = 0.12  # eye distances; the common offset of the noses was 0.07 and less as recorded


def depth_marks(depth: np.ndarray, points: np.ndarray, per_px: float) -> dict:
    """relief, nose_dx, nose_dy and registration of a pair, in eye distances; without those that cannot be measured.

    depth: (112, 112) in the template whatever the crop is, so that they mean the same in every mode; points: (5, 2)
    in it; per_px: depth units in one of its pixels. The distance between the eyes is the template's: the similarity
    of five points shrinks less in a turned head.
    """
    marks = {"relief": face_relief(depth, points) / (per_px * EYES_TEMPLATE_PX)}
    peak = nose_peak(depth)
    if peak is not None:
        offset = (peak - points[2]) / EYES_TEMPLATE_PX
        marks |= {"nose_dx": offset[0], "nose_dy": offset[1], "registration": np.hypot(*offset)}
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
    """The upper median, NaN of none; a tenth of the time of numpy.median on a few numbers."""
    return float(np.partition(values, len(values) // 2)[len(values) // 2]) if len(values) else np.nan


def nose_peak(depth: np.ndarray) -> np.ndarray | None:
    """(2,) x and y of the place that stands out most within 20 px of the template's nose; None without readings.

    A difference of Gaussians (2 and 6 px; Marr and Hildreth 1980) of the readings alone: the tilt of the head drops
    out. depth: (112, 112) in the template, larger = farther. Readings farther from the median than three times the
    distance between the quartiles are not the face; so the place does not depend on the unit.
    """
    centre = np.round(TEMPLATE_112[2]).astype(int)
    x0, y0 = centre - 36  # the search, 20 px, and 16 px around it; every other pixel is enough
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
    """One line for each thing that looks wrong with the depth of an aligned folder; none where nothing does.

    `frame`: alignment.csv as text. From medians over the pairs: a unit wrong by about ten, the other direction (5
    pairs and more), depth that is shifted or of other pictures (20 and more). The first that is found is told alone:
    the later ones may be its consequence.
    """
    if "relief" not in frame or not (frame["status"] == "ok").any():
        return []
    numbers = frame.loc[frame["status"] == "ok", DEPTH_MARKS].apply(pd.to_numeric, errors="coerce")
    relief, count = numbers["relief"].median(), int(numbers["relief"].count())
    if count >= 5 and relief < -DIRECTION_SURE:
        return [
            f"depth: noses lie {-relief:.2f} eye distances behind the eyes (median of {count} pairs): "
            "larger_is is likely declared the wrong way round"
        ]
    measured, apart = int(numbers["registration"].count()), numbers["registration"].median()
    dx, dy = numbers["nose_dx"].median(), numbers["nose_dy"].median()
    spread = np.hypot(numbers["nose_dx"] - dx, numbers["nose_dy"] - dy).median()
    if measured >= 20 and np.hypot(dx, dy) > OFFSET_LIMIT and spread < REGISTRATION_LIMIT:
        return [
            f"depth: its noses lie ({dx:+.2f}, {dy:+.2f}) eye distances right of and below those in colour (median of "
            f"{measured} pairs): depth is likely shifted against colour"
        ]
    if measured >= 20 and apart > REGISTRATION_LIMIT:
        return [
            f"depth: its noses lie {apart:.2f} eye distances from those in colour (median of {measured} pairs): depth "
            "likely belongs to other pictures or is not registered to colour"
        ]
    ratio = max(relief, 1e-3) / FACE_RELIEF
    if count >= 5 and not 10**-0.5 < ratio < 10**0.5:
        return [
            f"depth: noses stand out {relief:.3g} eye distances (median of {count} pairs; about {FACE_RELIEF} in faces): "
            f"depth_unit is likely wrong, numbers are about {10.0 ** round(np.log10(ratio)):g} times what it says"
        ]
    return []
