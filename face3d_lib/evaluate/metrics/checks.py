"""Checks and shares that all metrics need. Pure numpy."""

import numpy as np
from numpy.typing import ArrayLike


def flat(values: np.ndarray, name: str) -> np.ndarray:
    """`values` as a flat float64 array, which may be empty. ValueError where it is not flat or not finite."""
    values = finite(values, name)
    if values.ndim != 1:
        raise ValueError(f"{name}: a flat array is needed, got shape {values.shape}")
    return values


def finite(values: ArrayLike, name: str) -> np.ndarray:
    """`values` as a float64 array. ValueError, with their number, where some are NaN or infinite."""
    values = np.asarray(values, np.float64)
    if not np.isfinite(values).all():
        bad = values.size - np.isfinite(values).sum()
        raise ValueError(f"{name}: {values.size} scores, {bad} of them NaN or infinite; a failure scores -1, never NaN")
    return values


def share(count: int, n: int) -> float:
    """count / n; NaN where n is 0."""
    return count / n if n else np.nan


def unreachable(far: float, n: int, what: str) -> str:
    """Why a FAR below 1 / n cannot be measured."""
    if not n:
        return f"FAR {far:g} cannot be measured: there are no {what}"
    return f"FAR {far:g} cannot be measured with {n} {what}: one of them is already {1 / n:.2g}"
