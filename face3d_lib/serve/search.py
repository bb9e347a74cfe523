"""The templates that are most like a vector: exactly in memory, or by an index that proposes and is then compared exactly.

An index (`Index`) is FAISS in this process or a Qdrant server. It knows templates by ids made of their bytes, so it need not be
told what did not change. What it proposes is scored as `top_k` scores, and it is asked for more until nothing that it
left out can belong to the best. If the index itself is exact, the answers are those of `top_k`, ties included.
"""

from hashlib import blake2b
from typing import Protocol

import numpy as np

from ..evaluate.scores import FAILED, cosine

SLACK = 1e-5  # more than the error of a product in float32; everything nearer to the k-th score is compared again
SPARE = 16  # templates that an exact index is asked for beyond k at first


class Index(Protocol):
    """Proposes templates, which it knows by their ids."""

    spare: int  # templates that it is asked for beyond k at first
    slack: float  # how far a product may be from the exact one; SLACK where the index is exact

    def hold(self, ids: np.ndarray, templates: np.ndarray, model_id: str) -> None:
        """From now on hold exactly these templates (G, D) float32, all finite, no two with one id (G,) int64."""

    def nearest(self, vector: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        """(ids, products in float32) of the n templates with the largest products, best first; fewer if it finds no more.

        An index that is not exact may name ids that it no longer holds.
        """


def top_k(templates: np.ndarray, vector: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(rows, scores) of the `k` templates (G, D) float32 that are most like `vector` (D), best first; ties by row.

    All products are computed in float32; those that may belong to the best are computed again with sums in float64, so
    that the result does not depend on the machine. A template that is not finite scores FAILED: a NaN would win.
    """
    vector = np.asarray(vector, np.float32)
    rough = _products(templates, vector)
    if 0 < k < len(rough):
        rows = np.flatnonzero(rough >= np.partition(rough, len(rough) - k)[len(rough) - k] - SLACK)
    else:
        rows = np.arange(len(rough))
    return _best(templates, vector, rows, k)


class Indexed:
    """The templates of one gallery, searched by an index that holds them."""

    def __init__(self, templates: np.ndarray, index: Index) -> None:
        self.templates, self.index = templates, index
        with np.errstate(invalid="ignore"):
            sound = np.isfinite(templates @ np.zeros(templates.shape[1], np.float32))
        self._failed, rows = np.flatnonzero(~sound), np.flatnonzero(sound)
        ids = ids_of(templates if sound.all() else templates[rows])  # without a copy of all, if it can be
        order = np.argsort(ids, kind="stable")
        self._ids, self._rows = ids[order], rows[order]  # sorted by id; equal templates of several people lie together
        self.ids, first = np.unique(self._ids, return_index=True)
        self._first = self._rows[first]

    def follow(self, model_id: str) -> None:
        """Make the index hold the templates of this gallery."""
        self.index.hold(self.ids, self.templates[self._first], model_id)

    def top_k(self, vector: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """(rows, scores) as of the function `top_k`; of an index that is not exact, the best that it finds."""
        vector, most, n = np.asarray(vector, np.float32), len(self.ids), k + self.index.spare
        while True:
            n = min(n, most)
            ids, rough = self.index.nearest(vector, n) if n else (self.ids, np.empty(0))
            rows, scores = _best(self.templates, vector, self._rows_of(ids), k)
            everything = len(ids) < n or n == most
            if everything or (len(rows) == k and (not k or rough[-1] < scores[-1] - self.index.slack)):
                break
            n *= 4
        if len(rows) < k:
            rows, scores = _best(self.templates, vector, np.concatenate([rows, self._failed]), k)
        return rows, scores

    def _rows_of(self, ids: np.ndarray) -> np.ndarray:
        """The rows of all templates with these ids; an id that the gallery does not have has none."""
        low, high = (np.searchsorted(self._ids, ids, side) for side in ("left", "right"))
        return np.concatenate([self._rows[a:b] for a, b in zip(low, high, strict=True)] or [self._rows[:0]])


def ids_of(templates: np.ndarray) -> np.ndarray:
    """(G,) int64 >= 0, from the bytes of each template. Of a million, two share an id with a probability of 5e-8."""
    rows = np.ascontiguousarray(templates, np.float32)
    digests = b"".join(blake2b(row, digest_size=8).digest() for row in rows)
    return (np.frombuffer(digests, "<u8") >> 1).astype(np.int64)


def _products(templates: np.ndarray, vector: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", over="ignore"):
        rough = templates @ vector  # (G,); NaN or infinite where a template is
    rough[~np.isfinite(rough)] = FAILED - 1
    return rough


def _best(templates: np.ndarray, vector: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The best k of these rows, by scores with sums in float64."""
    scores = np.full(len(rows), FAILED, np.float64)
    sound = _products(templates[rows], vector) >= FAILED - SLACK
    scores[sound] = cosine(vector[None], templates[rows[sound]])[0]
    order = np.lexsort((rows, -scores))[:k]
    return rows[order], scores[order]
