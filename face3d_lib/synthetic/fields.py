"""Arithmetic of the synthetic faces: bumps, smooth random fields, noise and a blur, all in float32.

Sums are written out and not given to BLAS, whose rounding may change with the number of its threads. A seed therefore
gives the same pixels on every machine.
"""

from functools import lru_cache
from typing import Any

import numpy as np

f32: Any = np.float32  # converts numbers, lists and arrays
Field = np.ndarray | float
NOISE_SEED = 20190615  # of the fixed noise table, from which all pictures read their noise
NOISE_VALUES = 1 << 18


def gauss(x: Field, y: Field, centre_x: Field, centre_y: float, width_x: float, width_y: float) -> Any:
    """A Gaussian bump at (x, y): 1 at its centre, 1/e at one width from it."""
    return np.exp(-(((x - centre_x) / f32(width_x)) ** 2) - ((y - centre_y) / f32(width_y)) ** 2)


def smoothstep(start: float, end: float, x: Field) -> Any:
    """0 at `start`, 1 at `end` and a smooth cubic between, as in GLSL; `start` may be the larger of the two."""
    t = np.clip((x - f32(start)) / f32(end - start), 0, 1)
    return t * t * (3 - 2 * t)


def smooth_field(lattice: np.ndarray, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """A smooth field (R, C), distributed about as N(0, 1), from normal draws on a lattice.

    rows (R,) and cols (C,) are the positions at which the field is read; 0 and 1 are the ends of the lattice.
    """

    def cells_and_weights(position: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        place = np.asarray(position, f32) * f32(n - 2)
        cell = place.astype(np.intp)
        part = place - cell
        return cell, part * part * (3 - 2 * part)

    (i, a), (j, b) = cells_and_weights(rows, lattice.shape[0]), cells_and_weights(cols, lattice.shape[1])
    lattice = lattice.astype(f32) * f32(1.5)
    lines = (lattice[i] * (1 - a)[:, None] + lattice[i + 1] * a[:, None]).T
    return (lines[j] * (1 - b)[:, None] + lines[j + 1] * b[:, None]).T


def field_at(lattice: np.ndarray, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """The `smooth_field` of a lattice at N scattered places: rows and cols are (N,), and so is the result."""
    (i, a), (j, b) = (
        (cell := (place := f32(position) * f32(n - 2)).astype(np.intp), place - cell)
        for position, n in zip((rows, cols), lattice.shape, strict=True)
    )
    a, b = (part * part * (3 - 2 * part) for part in (a, b))
    lattice = lattice.astype(f32) * f32(1.5)
    upper = lattice[i, j] * (1 - a) + lattice[i + 1, j] * a
    return upper * (1 - b) + (lattice[i, j + 1] * (1 - a) + lattice[i + 1, j + 1] * a) * b


def smooth_picture(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """A `smooth_field` over a picture of size x size pixels, from a lattice of cells x cells cells."""
    place = np.linspace(0, 1, size, dtype=f32)
    return smooth_field(rng.standard_normal((cells + 2, cells + 2)), place, place)


def blurred(image: np.ndarray, side: float) -> np.ndarray:
    """`image` (..., H, W) filtered by (side, 1 - 2 side, side); the variance is 2 side px^2, and 1/3 is a box."""
    side = f32(side)
    for cut in (lambda q, part: q[..., part], lambda q, part: q[..., part, :]):
        out, sides = image * (1 - 2 * side), image * side
        cut(out, slice(1, None))[...] += cut(sides, slice(None, -1))
        cut(out, slice(None, -1))[...] += cut(sides, slice(1, None))
        cut(out, 0)[...] += cut(sides, 0)
        cut(out, -1)[...] += cut(sides, -1)
        image = out
    return image


@lru_cache(maxsize=1)
def noise_table() -> np.ndarray:
    """NOISE_VALUES normal draws, always the same."""
    return np.random.default_rng(NOISE_SEED).standard_normal(NOISE_VALUES, dtype=f32)


def white_noise(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Normal noise, read from a random place of the fixed table: this is six times faster than drawing it."""
    return np.resize(noise_table()[rng.integers(0, NOISE_VALUES // 2) :][: np.prod(shape)], shape)
