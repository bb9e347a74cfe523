"""Exact search in memory: the templates that are most like a vector."""

import numpy as np

from ..evaluate.scores import FAILED, cosine

SLACK = 1e-5  # more than the error of a product in float32; everything nearer to the k-th score is compared again


def top_k(templates: np.ndarray, vector: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(rows, scores) of the `k` templates (G, D) float32 that are most like `vector` (D), best first; ties by row.

    All products are computed in float32; those that may belong to the best are computed again with sums in float64, so
    that the result does not depend on the machine. A template that is not finite scores FAILED: a NaN would win.
    """
    vector = np.asarray(vector, np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        rough = templates @ vector  # (G,); NaN or infinite where a template is
    rough[~np.isfinite(rough)] = FAILED - 1
    if 0 < k < len(rough):
        rows = np.flatnonzero(rough >= np.partition(rough, len(rough) - k)[len(rough) - k] - SLACK)
    else:
        rows = np.arange(len(rough))
    scores = np.full(len(rows), FAILED, np.float64)
    sound = rough[rows] >= FAILED - SLACK
    scores[sound] = cosine(vector[None], templates[rows[sound]])[0]
    order = np.lexsort((rows, -scores))[:k]
    return rows[order], scores[order]
