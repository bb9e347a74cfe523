"""Photographs and screens held before the camera: the depth that a sensor would read where colour shows a face.

Colour stays as it is, because a good print or screen shows the same face; only depth gives it away. An attack replaces
the depth of one pair and works on synthetic pairs as on measured ones, in any unit of depth. Lengths are in distances
between the eyes (63 mm in an average adult).
"""

from dataclasses import replace

import numpy as np
from scipy.ndimage import gaussian_filter

from .camera import SyntheticPair, depth_readings
from .people import Knobs

EYES_MM = 63.0
SPECIES = {  # name -> what is held before the camera
    "flat": "a flat photograph, turned by 5 degrees at most",
    "tilted": "a flat photograph, turned by 15 to 45 degrees in any direction",
    "bent": "a photograph bent about any axis, to either side, with a radius of 80 to 320 mm",
    "cut_out": "a bent photograph, cut along the head, with holes for the eyes and for the mouth of whoever wears it",
    "nose": "the same with a hole for the nose, which stands out",
    "screen": "a screen, from which at most a fifth of the readings come back",
}


def attack_surface(
    species: str, depth: np.ndarray, points: np.ndarray, per_px: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """(the depth that a sensor without errors would read (H, W) float64, where it reads nothing at all (H, W) bool).

    species: one of SPECIES. depth: (H, W) of a face in any unit, larger = farther, 0 = no reading; it shows through
    holes, and outside of what was cut. points: (5, 2) px, eyes, nose tip and corners of the mouth. per_px: units of depth
    that one px measures across the face. ValueError: there is no such species.
    """
    if species not in SPECIES:
        raise ValueError(f"species {species!r}: one of {', '.join(SPECIES)} expected")
    eyes, centre = per_px * _eyes_px(points), points.mean(0)
    rows, columns = np.mgrid[: depth.shape[0], : depth.shape[1]].astype(np.float64)
    x, y = ((axis - middle) * per_px for axis, middle in zip((columns, rows), centre, strict=True))
    near = depth[(np.hypot(x, y) < eyes) & (depth > 0)]
    distance = float(np.median(near)) if len(near) else 12 * eyes
    tilt = np.radians(rng.uniform(15, 45) if species == "tilted" else rng.uniform(0, 5))
    across, axis = rng.uniform(0, 2 * np.pi, 2)
    surface = distance + np.tan(tilt) * (x * np.cos(across) + y * np.sin(across))
    if species in ("bent", "cut_out", "nose"):
        radius = eyes * rng.uniform(80, 320) / EYES_MM
        away = np.clip(x * np.cos(axis) + y * np.sin(axis), -0.9 * radius, 0.9 * radius)
        surface += rng.choice([-1, 1]) * (radius - np.sqrt(radius**2 - away**2))
    lost = np.zeros(depth.shape, bool)
    if species in ("cut_out", "nose"):
        through = _holes(columns, rows, points, species == "nose") & (depth > 0)
        gap = eyes * rng.uniform(0.05, 0.4)
        behind = depth - distance + (0 if species == "nose" else gap)  # through a hole the nose comes to the paper
        surface = np.where(through, distance + behind, surface)
        outside = (x / (1.5 * eyes)) ** 2 + (y / (2.1 * eyes)) ** 2 > 1
        surface = np.where(outside & (depth > 0), depth + gap, surface)
    if species == "screen":
        block = max(1, round(0.1 * _eyes_px(points)))  # readings come back in patches
        small = rng.random((depth.shape[0] // block + 1, depth.shape[1] // block + 1))
        lost = np.kron(small, np.ones((block, block)))[: depth.shape[0], : depth.shape[1]] > rng.uniform(0, 0.2)
    return surface, lost


def attacked(pair: SyntheticPair, species: str, seed: int, knobs: Knobs | None = None) -> SyntheticPair:
    """`pair` with the depth that its camera reads of an attack; it depends on the arguments alone.

    ValueError: there is no such species.
    """
    rng = np.random.default_rng([seed, *species.encode()])
    per_px = EYES_MM / _eyes_px(pair.landmarks)
    surface, lost = attack_surface(species, pair.true_depth.astype(np.float64), pair.landmarks, per_px, rng)
    readings = depth_readings(surface, knobs or Knobs(), rng)
    readings[lost] = 0
    return replace(pair, depth=readings, true_depth=surface.astype(np.float32))


def held_before(depth: np.ndarray, surface: np.ndarray, lost: np.ndarray) -> np.ndarray:
    """(H, W) float32: what a real sensor would read of `surface`, with the holes and the noise of a map that it measured.

    The noise is what a blur of 1.5 px takes away from `depth`, without its steps (beyond four deviations).
    """
    read = depth > 0
    share = np.maximum(gaussian_filter(read.astype(np.float64), 1.5), 1e-6)
    noise = np.where(read, depth - gaussian_filter(np.where(read, depth, 0.0), 1.5) / share, 0)
    most = 4 * 1.4826 * float(np.median(np.abs(noise[read]))) if read.any() else 0.0
    return np.where(read & ~lost, surface + np.clip(noise, -most, most), 0).astype(np.float32)


def _eyes_px(points: np.ndarray) -> float:
    """Distance between the eyes in px, as the face would show it from the front: by the size of all five points."""
    apart = points - points.mean(0)
    return float(np.sqrt((apart**2).sum()) / SPREAD)


# Root of the squared distances of the five points from their mean, over the distance between the eyes (the 112 px template)
SPREAD = 1.4752


def _holes(columns: np.ndarray, rows: np.ndarray, points: np.ndarray, nose: bool) -> np.ndarray:
    """(H, W) bool: ellipses around the eyes and between the corners of the mouth, and around the nose if wanted."""
    eyes = _eyes_px(points)
    places = [(points[0], 0.3, 0.18), (points[1], 0.3, 0.18), (points[3:].mean(0), 0.4, 0.18)]
    places += [(points[2] - [0, 0.2 * eyes], 0.28, 0.45)] if nose else []
    found = np.zeros(columns.shape, bool)
    for (x, y), wide, high in places:
        found |= ((columns - x) / (wide * eyes)) ** 2 + ((rows - y) / (high * eyes)) ** 2 < 1
    return found
