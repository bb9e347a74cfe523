"""Is there a face in depth where colour shows one? A photograph or a screen has a face in colour and a sheet in depth.

A sheet, however it is turned or bent, is a plane or a cylinder; a face is neither, and its nose stands out. Two numbers
are measured in the depth around the five points, without the eyes and the mouth, for which a mask of paper may have
holes:

- unevenness: how far the readings lie off the best plane or cylinder about any axis (root mean square);
- nose: the height of a bump of a nose's size over a surface of second order, near where the nose is expected.

Both are in distances between the eyes, so the unit of depth does not matter. The score is the root of their product. The
threshold was chosen on synthetic people (`make liveness`), and the results page has the errors.

Depth that is turned inside out, as by a wrong `larger_is`, has a nose that is a hole; its score is negative. It is told by
the height of the bump less the depth of the best hole of that size, plus the relief that `face_relief` measures.

This tells photographs and screens, held flat, tilted or bent, and paper masks with holes. It does not tell anything that
has the relief of a face: a mask of silicone, resin or plaster, or a paper mask through which the wearer's nose stands
out. It sees one pair and no movement.
"""

from dataclasses import dataclass

import numpy as np

from ..data.depth_check import face_relief
from ..data.warp import EYES_TEMPLATE_PX, MM_PER_TEMPLATE_PX, TEMPLATE_112, nearest, source_of, template_transform

THRESHOLD = 0.065  # least score of a live face; 2 % of the sheets of tests/bench/liveness.py reach it
INSIDE_OUT = -0.1  # below it the nose is a hole; no face of the synthetic people of tests/bench/liveness.py is
MIN_SHARE = 0.4  # of the face that must hold readings: a screen returns few
FACE_CENTRE, FACE_AXES = (56.0, 70.0), (26.0, 34.0)  # template px: the ellipse from the brows to the chin
CELL = 4  # template px (7 mm): readings are averaged in squares of this side, which takes most of their noise away
CELL_FULL = 0.25  # share of a square that must hold readings
FEW_CELLS = 40  # below this number nothing is decided
DIRECTIONS = 12  # axes of cylinders that are tried, over half a turn
NOSE_WIDTH = (0.17, 0.28)  # standard deviations of the bump, eye distances, across and along the nose
SHIFTS = [(0.1 * i, 0.15 * j - 0.1) for i in range(-3, 4) for j in (-1, 0, 1)]  # a turned nose moves aside
LEFT_OUT = ((0, 0.42, 0.30), (1, 0.42, 0.30), (None, 0.52, 0.30))  # eyes and mouth: point, half axes in eye distances


@dataclass(frozen=True)
class Liveness:
    """Whether depth shows a face; numbers are in distances between the eyes and NaN where too little was read."""

    live: bool
    score: float  # negative where the nose is a hole
    unevenness: float
    nose: float
    share: float  # of the face that holds readings
    reason: str  # one line: what was found, and what to do


def check_liveness(depth: np.ndarray, points: np.ndarray, unit: str, threshold: float = THRESHOLD) -> Liveness:
    """Whether the depth at a face that was found in colour is that of a face.

    depth: (H, W) canonical (larger = farther, 0 = no reading) of the whole picture, in `unit`, "mm" or "pixel"; points:
    (5, 2) px, as a detector finds them. Raises BadPair where the five points lie in one spot.
    """
    upright, eyes = _upright(depth, points, unit)
    places, heights, share = _cells(upright, eyes)
    if share < MIN_SHARE or len(heights) < FEW_CELLS:
        said = f"{share:.0%} of the face hold a depth, {MIN_SHARE:.0%} are needed: a screen returns little"
        return Liveness(False, np.nan, np.nan, np.nan, share, f"{said}; come into the sensor's range")
    uneven, nose = off_cylinder(places, heights), nose_height(places, heights)
    hole, relief = nose_height(places, -heights), face_relief(upright, TEMPLATE_112) / eyes
    if nose - hole + (relief if np.isfinite(relief) else 0.0) < INSIDE_OUT:
        said = "depth is turned inside out, the nose is a hole: declare larger_is the other way"
        return Liveness(False, -float(np.sqrt(uneven * max(hole, 0.0))), uneven, nose, share, said)
    score = float(np.sqrt(uneven * max(nose, 0.0)))
    if score >= threshold:
        return Liveness(True, score, uneven, nose, share, f"depth shows a face (score {score:.3f})")
    said = f"depth is flat or evenly bent where colour shows a face (score {score:.3f}, {threshold:.3f} is needed)"
    return Liveness(False, score, uneven, nose, share, f"{said}: show a face, turned to the camera")


def face_cells(depth: np.ndarray, points: np.ndarray, unit: str) -> tuple[np.ndarray, np.ndarray, float]:
    """(places (n, 2), heights (n,), share of the face that holds readings) of the squares of the face with readings.

    Both are in distances between the eyes; a larger height is nearer to the camera. Eyes and mouth are left out, and
    readings farther than one eye distance from the median, which are not the face.
    """
    return _cells(*_upright(depth, points, unit))


def _upright(depth: np.ndarray, points: np.ndarray, unit: str) -> tuple[np.ndarray, float]:
    """(the depth in the template, (112, 112); the distance between the eyes in the unit of depth)."""
    matrix = template_transform(points)
    per_px = MM_PER_TEMPLATE_PX if unit == "mm" else 1 / np.sqrt(np.linalg.det(matrix[:, :2]))
    return nearest(depth, *source_of(matrix, 112))[0].astype(np.float64), per_px * EYES_TEMPLATE_PX


def _cells(upright: np.ndarray, eyes: float) -> tuple[np.ndarray, np.ndarray, float]:
    rows, columns = np.mgrid[:112, :112]
    away = [(axis - m) / half for axis, m, half in zip((columns, rows), FACE_CENTRE, FACE_AXES, strict=True)]
    inside = away[0] ** 2 + away[1] ** 2 < 1
    read = inside & (upright > 0)
    share = float(read.sum() / inside.sum())
    if not read.any():
        return np.zeros((0, 2)), np.zeros(0), share
    middle = np.median(upright[read])
    read &= np.abs(upright - middle) < eyes
    count, total, area = (_sums(image) for image in (read, np.where(read, upright, 0), inside))
    y, x = np.nonzero((count >= CELL_FULL * CELL**2) & (area >= CELL**2 / 2))
    places = (np.stack([x, y], 1) * CELL + (CELL - 1) / 2 - FACE_CENTRE) / EYES_TEMPLATE_PX
    kept = ~_left_out(places)
    return places[kept], ((middle - total[y, x] / count[y, x]) / eyes)[kept], share


def _sums(image: np.ndarray) -> np.ndarray:
    """The sums of the squares of CELL x CELL px of an image (112, 112)."""
    side = 112 // CELL
    return image.astype(np.float64).reshape(side, CELL, side, CELL).sum((1, 3))


def _left_out(places: np.ndarray) -> np.ndarray:
    """(n,) bool: which places (n, 2) lie at the eyes or at the mouth."""
    marks = (TEMPLATE_112 - FACE_CENTRE) / EYES_TEMPLATE_PX
    found = np.zeros(len(places), bool)
    for point, wide, high in LEFT_OUT:
        middle = marks[3:].mean(0) if point is None else marks[point]
        found |= (((places - middle) / (wide, high)) ** 2).sum(1) < 1
    return found


def off_cylinder(places: np.ndarray, heights: np.ndarray) -> float:
    """The root mean square of what is left of the heights (n,) after the best plane or cylinder about any axis.

    A cylinder is linear along its axis and of second order across it. Corrected for the four degrees of freedom.
    """
    x, y = places.T
    least = np.inf
    for angle in np.arange(DIRECTIONS) * np.pi / DIRECTIONS:
        across = x * np.cos(angle) + y * np.sin(angle)
        terms = np.stack([np.ones_like(x), x, y, across**2], 1)
        left = heights - terms @ np.linalg.lstsq(terms, heights, rcond=None)[0]
        least = min(least, float(left @ left) / (len(x) - 4))
    return float(np.sqrt(least))


def nose_height(places: np.ndarray, heights: np.ndarray) -> float:
    """The height of a bump of a nose's size over a surface of second order, at the best of SHIFTS from the nose tip.

    A bump is fitted by least squares together with the six terms of the surface.
    """
    x, y = places.T
    basis = np.linalg.qr(np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], 1))[0]
    left = heights - basis @ (basis.T @ heights)
    tip, best = (TEMPLATE_112[2] - FACE_CENTRE) / EYES_TEMPLATE_PX, -np.inf
    for shift in SHIFTS:
        bump = np.exp(-((((places - tip - shift) / NOSE_WIDTH) ** 2).sum(1)) / 2)
        bump -= basis @ (basis.T @ bump)
        best = max(best, float(bump @ left) / max(float(bump @ bump), 0.3))
    return best
