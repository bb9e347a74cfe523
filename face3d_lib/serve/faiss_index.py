"""Search by FAISS, in the memory of this process: exact, or approximate and faster for very large galleries.

The exact index (IndexFlatIP) compares all templates. The approximate one (IndexIVFFlat) sorts templates into as many cells as
the root of their number and looks into the sixteenth of the cells that is nearest. A template in another cell is missed, so
that an enrolled person may be taken for nobody; whoever is found has the exact score. Recall and times are on the results
page. Below SMALL templates the approximate index is the exact one. Nothing is written to disk.
"""

from typing import Any

import numpy as np

from ..base.errors import UserError

SMALL = 20_000  # templates, which all are compared in a few milliseconds
SHARE = 16  # one of so many cells is looked into
TRAINING = 64  # templates per cell, by which the cells are chosen


class Faiss:
    """An `Index`; exact unless it is `approximate`. UserError where the package is missing."""

    def __init__(self, approximate: bool = False) -> None:
        try:
            import faiss
        except ImportError:
            raise UserError("--search faiss needs faiss: pip install 'face3d[search]', or make env") from None
        self._faiss, self._approximate = faiss, approximate
        self._index: Any = None
        self._ids = np.empty(0, np.int64)
        self._built_for = 0  # templates, when the cells were chosen

    def hold(self, ids: np.ndarray, templates: np.ndarray, model_id: str) -> None:
        """As `Index.hold`. Only what changed is added and removed, until the number of templates has doubled or halved."""
        gone, new = np.setdiff1d(self._ids, ids), ~np.isin(ids, self._ids)
        fits = self._index is not None and self._index.d == templates.shape[1]
        if not fits or not self._built_for / 2 <= len(ids) <= self._built_for * 2:
            self._index, self._built_for, new[:] = self._built(templates), len(ids), True
        elif len(gone):
            self._index.remove_ids(gone)
        self._index.add_with_ids(np.ascontiguousarray(templates[new]), ids[new])
        self._ids = ids

    def nearest(self, vector: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        """As `Index.nearest`."""
        products, ids = self._index.search(vector[None], n)
        found = ids[0] >= 0  # FAISS fills up with -1
        return ids[0][found], products[0][found]

    def _built(self, templates: np.ndarray) -> Any:
        """An index without templates; its cells, if it has any, are chosen for these."""
        size, faiss = templates.shape[1], self._faiss
        if not self._approximate or len(templates) < SMALL:
            return faiss.IndexIDMap2(faiss.IndexFlatIP(size))
        cells = int(len(templates) ** 0.5)
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(size), size, cells, faiss.METRIC_INNER_PRODUCT)
        index.nprobe = -(-cells // SHARE)
        random = np.random.default_rng(0)
        index.train(templates[random.choice(len(templates), min(cells * TRAINING, len(templates)), replace=False)])
        return index
