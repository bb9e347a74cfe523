"""Embeddings with their pairs and people, in memory and on disk. Pure numpy: who only reads them needs no torch."""

import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..base.atomic import replacing
from ..base.errors import UserError


@dataclass(frozen=True)
class Embeddings:
    """Embeddings with the pair and the person that each belongs to."""

    pair_ids: np.ndarray  # (N,) str
    subject_ids: np.ndarray  # (N,) str
    vectors: np.ndarray  # (N, D) float32, unit length

    def __len__(self) -> int:
        return len(self.pair_ids)

    def select(self, pair_ids: Iterable[str]) -> "Embeddings":
        """The embeddings of `pair_ids`, in that order; UserError names the first pair_id that is missing."""
        place = {pair_id: row for row, pair_id in enumerate(self.pair_ids.tolist())}
        try:
            rows = [place[pair_id] for pair_id in pair_ids]
        except KeyError as error:
            raise UserError(f"no embedding of {error}: run 40_evaluate_verification again") from None
        return Embeddings(self.pair_ids[rows], self.subject_ids[rows], self.vectors[rows])

    def save(self, path: Path) -> None:
        """Write to `path` (.npz, no pickle inside), whole or not at all."""
        pair_ids, subject_ids = np.asarray(self.pair_ids, str), np.asarray(self.subject_ids, str)
        with replacing(Path(path)) as sibling, open(sibling, "wb") as file:
            np.savez(file, vectors=self.vectors, pair_ids=pair_ids, subject_ids=subject_ids)

    @classmethod
    def load(cls, path: Path) -> "Embeddings":
        """The embeddings in a file of `save`; UserError if it is missing, damaged, or has vectors of other length."""
        try:
            with np.load(path, allow_pickle=False) as file:
                found = cls(file["pair_ids"], file["subject_ids"], file["vectors"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f"{path}: no embeddings that can be read ({error}): embed again") from None
        lengths = {len(found.pair_ids), len(found.subject_ids), len(found.vectors)}
        sound = found.vectors.ndim == 2 and len(lengths) == 1
        if not sound or not np.allclose(np.linalg.norm(found.vectors, axis=1), 1, atol=1e-4):
            raise UserError(f"{path}: vectors are not one of unit length for each pair: embed again")
        return found
