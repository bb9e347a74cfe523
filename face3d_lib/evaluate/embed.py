"""Embeddings of unit length for the pairs of a split: no pair is dropped, and every run gives the same numbers."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from tqdm.auto import tqdm

from ..base.errors import UserError
from ..data.pack import Batch, Pack
from ..train.embedder import Embedder
from .embeddings import Embeddings


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
