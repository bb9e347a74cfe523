"""Embeddings of unit length for the pairs of a split: no pair is dropped, and every run gives the same numbers."""

import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tqdm.auto import tqdm

from ..base.atomic import replacing
from ..base.errors import UserError
from ..data.crops import align_pair
from ..data.faces import find_faces, load_detector
from ..data.pack import Batch, Pack, make_batch
from ..data.pairs import RGBDPair
from ..data.warp import AlignSettings
from ..train.embedder import Embedder


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


def embed_batch(embedder: Embedder, batch: Batch) -> torch.Tensor:
    """(B, D) float32 of unit length: the mean of a pair's unit vector and its mirror image's, renormalised.

    The embedder is put into evaluation mode and computes in float32, whatever it was trained in, so that a pair's
    vector does not depend on the other pairs of its batch (beyond 1e-5). UserError when a vector is not finite.
    """
    embedder.eval()
    with torch.inference_mode(), torch.autocast(batch.rgb.device.type, enabled=False):
        both = F.normalize(embedder(batch)) + F.normalize(embedder(batch.mirrored()))
    vectors = F.normalize(both)
    if not torch.isfinite(vectors).all():
        raise UserError("the embedder gave a vector that is not finite: train again, or look at its input")
    return vectors


def embed(
    embedder: Embedder, pack: Pack, rows: np.ndarray, batch_size: int = 128, progress: bool = True, without: str = ""
) -> Embeddings:
    """The embeddings of the pairs at `rows` of the pack, in that order, made on the embedder's device.

    without: "rgb" or "depth" is withheld from every pair, as if its camera had failed: its values are set to 0, which
    marks a missing modality.
    """
    rows = np.asarray(rows)
    device = next(embedder.parameters()).device
    size = embedder.architecture.embedding_size
    vectors = np.empty((len(rows), size), np.float32)
    with tqdm(total=len(rows), desc="embed", unit="pair", disable=not progress) as bar:
        for i in range(0, len(rows), batch_size):
            chosen = rows[i : i + batch_size]
            batch = pack.batch(chosen, device)
            if without:
                batch = replace(batch, **{without: torch.zeros_like(getattr(batch, without))})
            vectors[i : i + batch_size] = embed_batch(embedder, batch).cpu().numpy()
            bar.update(len(chosen))
    index = pack.index.iloc[rows]
    return Embeddings(index["pair_id"].to_numpy(str), index["subject_id"].to_numpy(str), vectors)


def whitening(vectors: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A map (..., D) -> (..., D) that gives `vectors` (N, D) mean 0 and, but for shrinkage, unit covariance.

    It needs no names. For vectors from a sensor that the network was not trained for, whitening removes the offset that
    all of them share, and gives less weight to the directions in which they scatter most because of the sensor. The
    covariance is shrunk as in Ledoit and Wolf (2004, "A well-conditioned estimator for large-dimensional covariance
    matrices"), so fewer pairs than dimensions are enough. UserError for fewer than two different vectors.
    """
    from sklearn.covariance import LedoitWolf  # takes a second, and `identify` does without

    vectors = np.asarray(vectors, np.float64)
    if len(vectors) < 2 or not np.ptp(vectors, axis=0).any():
        raise UserError("whitening needs pairs that differ: give more of them")
    found = LedoitWolf().fit(vectors)
    variances, axes = np.linalg.eigh(found.covariance_)
    return lambda others: (np.asarray(others, np.float64) - found.location_) @ (axes / np.sqrt(variances))


def embed_pair(embedder: Embedder, pair: RGBDPair, alignment: AlignSettings) -> np.ndarray:
    """(D,) the unit vector of one raw pair, aligned with the settings in the card of the model.

    Raises BadPair (a UserError) with the status where no face is found or the crop has no depth.
    """
    found = None
    if alignment.mode != "none":
        (found,) = find_faces([pair.rgb], load_detector(), alignment.min_face_size)
    row: dict[str, Any] = {}
    rgb, depth = align_pair(pair, found, alignment, row)
    batch = make_batch(rgb, depth, row["depth_per_px"], str(next(embedder.parameters()).device))
    return embed_batch(embedder, batch)[0].cpu().numpy()
