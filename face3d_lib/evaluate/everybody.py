"""Everybody against everybody: rates of networks that nobody in the data took part in training.

Each picture is compared with each other, so that all people of a run are tested, however few they are. A score is NaN
where a picture lacks the modality of the system.
"""

from dataclasses import dataclass, replace

import numpy as np

from ..data.pack import Pack
from ..train.embedder import Embedder
from .embed import embed
from .embeddings import Embeddings
from .intervals import Interval, mean_bootstrap, subject_bootstrap
from .metrics.curves import eer_of
from .metrics.identification import leave_one_out_hits, one_shot_hits
from .scores import FAILED, Trials, cosine

RATES = {"loo": "leave-one-out rank-1", "one_shot": "one-shot rank-1", "eer": "EER", "tar": "TAR@FAR=0.01"}
FAR = 0.01
GREY = 2.0  # grey levels of 255 by which channels differ on average; below, a picture counts as one of a single channel


@dataclass(frozen=True)
class Shown:
    """What the crops of a pack show, a value a pair."""

    colour: np.ndarray  # (N,) bool: the picture holds more than one value
    depth: np.ndarray  # (N,) bool: there are readings
    grey: np.ndarray  # (N,) bool: the three channels are one, as of an infrared camera


def look(pack: Pack) -> Shown:
    """Which pairs of the pack hold colour and depth, and whether their colour is grey."""
    colour, depth, grey = (np.zeros(len(pack), bool) for _ in range(3))
    for row in range(len(pack)):
        rgb = np.asarray(pack.rgb[row]).astype(np.int16)
        colour[row], depth[row] = np.ptp(rgb) > 0, np.asarray(pack.depth[row]).any()
        grey[row] = colour[row] and np.abs(rgb - rgb[..., [1, 2, 0]]).mean() < GREY
    return Shown(colour, depth, grey)


def embed_shown(network: Embedder, pack: Pack, there: np.ndarray) -> Embeddings:
    """The embeddings of all pairs of the pack; a vector of zeros, a failed template, where `there` (N,) is False."""
    found = embed(network, pack, np.arange(len(pack)), progress=False)
    return replace(found, vectors=np.where(there[:, None], found.vectors, 0).astype(np.float32))


def cosines(vectors: np.ndarray) -> np.ndarray:
    """(N, N) float64 cosines of unit vectors; NaN where either is a vector of zeros."""
    there = np.asarray(vectors.any(axis=1))
    return np.where(there[:, None] & there[None], cosine(vectors, vectors).astype(np.float64), np.nan)


def trials_of_all(scores: np.ndarray, pair_ids: np.ndarray, subject_ids: np.ndarray) -> Trials:
    """The comparisons of each of N pictures with each later one; a missing score (NaN) counts as FAILED."""
    a, b = np.triu_indices(len(scores), 1)
    found = np.asarray(scores, np.float64)[a, b]
    return Trials(np.where(np.isnan(found), FAILED, found), a, b, np.asarray(pair_ids), np.asarray(subject_ids))


def rates_of_all(
    scores: np.ndarray, subject_ids: np.ndarray, replicates: int = 200, draws: int = 100, seed: int = 0
) -> dict[str, Interval]:
    """The rates named in RATES of `scores` (N, N), with 95 % intervals over people; what cannot be measured is NaN.

    One-shot: one picture of each person is enrolled and all others are asked, in the mean over `draws`. A missing score
    (NaN) is below all others.
    """
    ids = np.arange(len(scores)).astype(str)
    lowest = np.nanmin(scores, initial=FAILED) - 1
    whole = np.where(np.isnan(scores), lowest, scores)
    hits = {"loo": leave_one_out_hits(whole, subject_ids), "one_shot": one_shot_hits(whole, subject_ids, draws, seed)}
    found = {}
    for name, values in hits.items():
        known = ~np.isnan(values)
        found[name] = mean_bootstrap(values[known], np.asarray(subject_ids)[known], replicates, seed)
    trials = trials_of_all(whole, ids, subject_ids)
    found["eer"] = subject_bootstrap(trials, eer_of, replicates, seed)
    found["tar"] = subject_bootstrap(trials, lambda roc: np.asarray(roc.tar_at_far(FAR)).item(), replicates, seed)
    return found


def spread(count: int, most: int) -> np.ndarray:
    """(min(count, most),) the places of at most `most` of `count` pictures, evenly spread; 0: all."""
    return np.arange(count) if not 0 < most < count else np.linspace(0, count - 1, most).round().astype(int)
