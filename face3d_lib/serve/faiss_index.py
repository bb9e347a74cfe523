"""Search by FAISS, in the memory of this process: exact, or approximate and faster for very large galleries.

The exact index (IndexFlatIP) compares all templates. The approximate one (IndexPQFastScan, product quantisation: Jégou, Douze and
Schmid, 2011) compares codes of two bits per number, a sixteenth of a template, and proposes so many that the best are
very likely among them. Their scores are exact, so that nobody is accepted who would not be by exact search; what can happen is that an
enrolled person is missed. How often is on the results page. Below SMALL templates, and for templates of an odd
number of numbers, the approximate index is the exact one. Nothing is written to disk.
"""

from typing import Any

import numpy as np

from ..base.errors import UserError
from .search import SLACK, SPARE

SMALL = 20_000  # templates, which all are compared in a few milliseconds
PROPOSED = 1000  # templates that are compared exactly at least
TRAINING = 5000  # templates by which codes are chosen
DEVIATIONS = 4  # standard deviations of a code's error within which a template may belong to the best
WASTE = 0.01  # share of templates that are gone and still have codes; above it all codes are made anew


class Faiss:
    """An `Index`; exact unless it is `approximate`. UserError where the package is missing."""

    def __init__(self, approximate: bool = False) -> None:
        try:
            import faiss
        except ImportError:
            raise UserError("--search faiss needs faiss: pip install 'face3d[search]', or make env") from None
        self._faiss, self._approximate = faiss, approximate
        self.spare, self.slack = SPARE, SLACK
        self._coded = False  # whether the index holds codes
        self._index: Any = None
        self._ids = np.empty(0, np.int64)  # in the index
        self._built_for = 0  # templates, when the index was made

    def hold(self, ids: np.ndarray, templates: np.ndarray, model_id: str) -> None:
        """As `Index.hold`. Only what changed is added and removed, until the number of templates has doubled or halved."""
        gone, new = np.setdiff1d(self._ids, ids), ~np.isin(ids, self._ids)
        fits = self._index is not None and self._index.d == templates.shape[1]
        fits &= self._built_for / 2 <= len(ids) <= self._built_for * 2
        if not fits or (self._coded and len(gone) > WASTE * len(ids)):
            self._index, self._built_for, new[:] = self._built(templates), len(ids), True
            self._ids, gone = np.empty(0, np.int64), np.empty(0, np.int64)
        elif (
            len(gone) and not self._coded
        ):  # after removing codes, FAISS 1.15.1 misses others; `nearest` leaves them out
            self._index.remove_ids(gone)
            self._ids, gone = np.setdiff1d(self._ids, gone), np.empty(0, np.int64)
        self._index.add_with_ids(np.ascontiguousarray(templates[new]), ids[new])
        self._ids, self._gone = np.concatenate([self._ids, ids[new]]), gone

    def nearest(self, vector: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        """As `Index.nearest`."""
        products, ids = self._index.search(vector[None], n)
        found = ids[0] >= 0  # FAISS fills up with -1
        return ids[0][found], products[0][found]

    def _built(self, templates: np.ndarray) -> Any:
        """An index without templates; its codes, if it has any, are chosen for these."""
        size, faiss = templates.shape[1], self._faiss
        self.spare, self.slack = SPARE, SLACK
        self._coded = self._approximate and len(templates) >= SMALL and size % 2 == 0
        if not self._coded:
            return faiss.IndexIDMap2(faiss.IndexFlatIP(size))
        some = templates[np.random.default_rng(0).choice(len(templates), min(TRAINING, len(templates)), replace=False)]
        codes = faiss.IndexPQFastScan(size, size // 2, 4, faiss.METRIC_INNER_PRODUCT)
        codes.train(some)
        tried = faiss.clone_index(codes)
        tried.add(some)
        rough, rows = tried.search(some[:100], min(PROPOSED, len(some)))
        error = (rough - np.take_along_axis(some[:100] @ some.T, rows, 1))[:, 1:]  # without each with itself
        self.spare, self.slack = PROPOSED, SLACK + DEVIATIONS * float(error.std())
        return faiss.IndexIDMap2(codes)
