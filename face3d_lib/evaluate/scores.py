"""Scores of embeddings: cosine similarity, genuine and impostor trials, templates, fusion of systems.

A score is a cosine similarity and never a distance; a higher score means more alike. A vector of zeros is a failed
template (no face, no usable depth). It is counted and scores FAILED against everybody, as in the NIST FRTE interface,
where a matcher must accept such templates and answer -1. NaN is never a score, because NaN would win every argmax and
never count as below a threshold.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from ..base.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from .embeddings import Embeddings

FAILED = -1.0  # the score of a comparison in which one side has no template
UNIT_TOLERANCE = 1e-3  # how far a vector's length may lie from 1
MAX_ALL_VS_ALL = 10_000  # embeddings; more make over 50 million trials
ONE = 2**40  # a score of 1, in the units to which float64 scores are rounded


@dataclass(frozen=True, eq=False)
class Trials:
    """T comparisons (trials) of two pairs each: the score, and which two of E embeddings were compared."""

    score: np.ndarray  # (T,) float32 or float64
    a: np.ndarray  # (T,) int, row of the first side in pair_ids and subject_ids
    b: np.ndarray  # (T,) int, row of the second side
    pair_ids: np.ndarray  # (E,) str
    subject_ids: np.ndarray  # (E,) str

    def __post_init__(self) -> None:
        if not len(self.score) == len(self.a) == len(self.b):
            raise ValueError(f"trials: {len(self.score)} scores for {len(self.a)} and {len(self.b)} sides")
        if not np.isfinite(self.score).all():
            raise ValueError(
                f"trials: {(~np.isfinite(self.score)).sum()} scores are not finite; a failure scores {FAILED}"
            )

    @cached_property
    def same(self) -> np.ndarray:
        """(T,) bool: whether both sides show the same subject."""
        codes = self.subject_codes
        return codes[self.a] == codes[self.b]

    @cached_property
    def subject_codes(self) -> np.ndarray:
        """(E,) int: a number per subject, the subjects in order of their names."""
        return np.unique(np.asarray(self.subject_ids), return_inverse=True)[1]

    @property
    def genuine(self) -> np.ndarray:
        """Scores of trials of one subject, (n_genuine,)."""
        return self.score[self.same]

    @property
    def impostor(self) -> np.ndarray:
        """Scores of trials of two subjects, (n_impostor,)."""
        return self.score[~self.same]

    def select(self, rows: np.ndarray) -> "Trials":
        """The comparisons at `rows`, by number or where True, among the same embeddings."""
        return replace(self, score=self.score[rows], a=self.a[rows], b=self.b[rows])


def check_vectors(vectors: np.ndarray, what: str = "embeddings") -> np.ndarray:
    """(N,) bool: True where there is a template (length 1), False where it failed (a vector of zeros).

    Raises ValueError, naming the row, where a vector is not finite or neither of unit length nor zero.
    """
    vectors = np.asarray(vectors)
    if vectors.ndim != 2 or not np.issubdtype(vectors.dtype, np.floating):
        raise ValueError(f"{what}: expected (N, D) floating point, got {vectors.shape} {vectors.dtype}")
    bad = ~np.isfinite(vectors).all(axis=1)
    if bad.any():
        raise ValueError(f"{what}: {bad.sum()} of {len(vectors)} rows hold NaN or infinity, the first: {bad.argmax()}")
    length = np.linalg.norm(vectors.astype(np.float64), axis=1)
    wrong = (length > 0) & (np.abs(length - 1) > UNIT_TOLERANCE)
    if wrong.any():
        row = wrong.argmax()
        raise ValueError(f"{what}: row {row} has length {length[row]:.4g}; a template has length 1, a failed one 0")
    return length > 0


def rounded(products: np.ndarray) -> np.ndarray:
    """`products` (float64), overwritten by the nearest multiples of 2**-40 (1e-12) from -1 to 1.

    The order of a sum differs between machines, block sizes and numbers of threads. Without rounding, comparisons of equal
    vectors would tie or not tie by chance, and with them every rate that counts ties.
    """
    products *= ONE
    np.rint(products, out=products)
    np.clip(products, -ONE, ONE, out=products)
    products /= ONE
    return products


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine similarity of every row of `a` (P, D) with every row of `b` (G, D): (P, G) float32 in [-1, 1].

    Sums are computed in float64, so that neither the number of threads nor the batch size changes the result. Rows of
    zeros score FAILED.
    """
    a, b = np.asarray(a), np.asarray(b)
    acquired_a, acquired_b = check_vectors(a, "probes"), check_vectors(b, "gallery")
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"probes have {a.shape[1]} dimensions, the gallery {b.shape[1]}: two models?")
    scores = np.empty((len(a), len(b)), np.float32)
    columns = b.astype(np.float64).T  # (D, G)
    for start in range(0, len(a), 1024):  # float64 for a slice of the probes at a time
        scores[start : start + 1024] = a[start : start + 1024].astype(np.float64) @ columns
    np.clip(scores, -1, 1, out=scores)
    scores[~acquired_a] = FAILED
    scores[:, ~acquired_b] = FAILED
    return scores


def genuine_impostor(embeddings: "Embeddings", pairs: "pd.DataFrame | None" = None) -> Trials:
    """The trials among `embeddings`: those of the table `pairs`; where that is None, each with each other.

    `embeddings` has pair_ids (N), subject_ids (N), vectors (N, D). `pairs` has the columns pair_id_a,
    pair_id_b and same ("1"/"0" or bool). Scores are computed in float64, `rounded`, and have the type of the vectors,
    float32 or float64. Raises UserError where a row names a pair without embedding,
    compares a pair with itself, repeats a trial, or has a wrong `same`: a table and embeddings that disagree do not
    belong to one experiment.
    """
    pair_ids, subject_ids = np.asarray(embeddings.pair_ids), np.asarray(embeddings.subject_ids)
    vectors = np.asarray(embeddings.vectors)
    acquired = check_vectors(vectors)
    if len(set(pair_ids.tolist())) < len(pair_ids):
        raise ValueError("embeddings: a pair_id occurs twice")
    a, b = _all_sides(len(pair_ids)) if pairs is None else _sides_of_table(pairs, pair_ids)
    score = np.empty(len(a), np.result_type(vectors, np.float32))
    if pairs is None:
        _fill_all(score, vectors)
    else:
        for start in range(0, len(a), 8192):
            part = slice(start, start + 8192)
            score[part] = rounded(np.einsum("td,td->t", vectors[a[part]], vectors[b[part]], dtype=np.float64))
    score[~(acquired[a] & acquired[b])] = FAILED
    trials = Trials(score, a, b, pair_ids, subject_ids)
    if pairs is not None:
        wrong = np.flatnonzero(trials.same != _same_of_table(pairs))
        if len(wrong):
            left, right = pair_ids[a[wrong[0]]], pair_ids[b[wrong[0]]]
            raise UserError(
                f"pairs table: {len(wrong)} rows are wrong in column same, first {left}, {right}: split again"
            )
    return trials


def alarm_scores(scores: np.ndarray, probe_subjects: np.ndarray, gallery_subjects: np.ndarray) -> np.ndarray:
    """(P,) the best score of each probe with anybody but its own subject, as an unknown person would get.

    `scores` (P, G). Probes of enrolled people serve as unknown probes too, without their own templates, so that a
    threshold can be chosen on few development people. FAILED where nobody else is enrolled.
    """
    own = np.asarray(probe_subjects)[:, None] == np.asarray(gallery_subjects)[None]
    return np.where(own, FAILED, scores).max(axis=1, initial=FAILED)


def templates(embeddings: "Embeddings") -> "Embeddings":
    """One embedding per subject, in order of name: the mean of its unit vectors, made unit length again.

    The result has the type of `embeddings` (a dataclass), with pair_ids = subject_ids. Failed vectors do not count. A
    subject that has no other vectors, or whose vectors cancel out, gets a failed template (zeros).
    """
    vectors = np.asarray(embeddings.vectors)
    check_vectors(vectors)
    subjects, row = np.unique(np.asarray(embeddings.subject_ids), return_inverse=True)
    total = np.zeros((len(subjects), vectors.shape[1]))  # (C, D) float64
    np.add.at(total, row, vectors)
    length = np.linalg.norm(total, axis=1, keepdims=True)
    mean = np.divide(total, length, out=np.zeros_like(total), where=length > 1e-6).astype(np.float32)
    return replace(embeddings, pair_ids=subjects, subject_ids=subjects, vectors=mean)


def fuse(scores: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """The weighted mean (float64) of the scores of several systems, arrays of one shape.

    Cosine scores share a scale, so they are added without rescaling. A failure (-1) of one system lowers the sum.
    """
    shares = np.asarray(weights, np.float64)
    if len(scores) != len(shares) or (shares < 0).any() or not shares.sum() > 0:
        raise ValueError(f"fuse: {len(scores)} systems, weights {shares.tolist()}: one weight >= 0 each, not all 0")
    if len({np.shape(score) for score in scores}) > 1:
        raise ValueError(f"fuse: scores of different shapes {[np.shape(score) for score in scores]}")
    parts = [share * np.asarray(score) for share, score in zip(shares / shares.sum(), scores, strict=True)]
    return np.asarray(np.sum(parts, axis=0), np.float64)


def joined(first: "Embeddings", second: "Embeddings", weight: float) -> "Embeddings":
    """Two systems as one: for each pair both vectors side by side, (N, D1 + D2) float64 of unit length.

    The cosine of two such vectors is `weight` times the first system's score plus 1 - `weight` times the second's, so
    whatever takes embeddings takes the fusion of two systems. A pair that failed in either fails in both. ValueError
    unless both hold the same pairs in the same order.
    """
    if not np.array_equal(first.pair_ids, second.pair_ids):
        raise ValueError("the systems hold different pairs: embed the same pairs in the same order")
    both = [np.sqrt(weight) * np.float64(first.vectors), np.sqrt(1 - weight) * np.float64(second.vectors)]
    vectors = np.concatenate(both, axis=1)
    vectors[~(check_vectors(first.vectors) & check_vectors(second.vectors))] = 0
    return replace(first, vectors=vectors)


def fuse_trials(systems: Sequence[Trials], weights: Sequence[float]) -> Trials:
    """The trials of several systems, which must be the same in the same order, as one system with fused scores."""
    require_same_trials(*systems)
    return replace(systems[0], score=fuse([trials.score for trials in systems], weights))


def require_same_trials(*systems: Trials) -> None:
    """Raise ValueError unless all `systems` compared the same pairs in the same order."""
    first = systems[0]
    for other in systems[1:]:
        for left, right in (
            (first.pair_ids, other.pair_ids),
            (first.subject_ids, other.subject_ids),
            (first.a, other.a),
            (first.b, other.b),
        ):
            if not np.array_equal(left, right):
                raise ValueError("the systems made different trials: embed the same pairs, and use one pairs table")


def _all_sides(n: int) -> tuple[np.ndarray, np.ndarray]:
    if n > MAX_ALL_VS_ALL:
        raise UserError(f"{n} embeddings make {n * (n - 1) // 2:.1e} trials: give a table of pairs (pairs.csv)")
    return np.triu_indices(n, 1)


def _fill_all(score: np.ndarray, vectors: np.ndarray) -> None:
    """Fill in the products of each row of `vectors` with all later rows, in the order of `np.triu_indices(N, 1)`."""
    double, start = vectors.astype(np.float64), 0
    for first in range(0, len(double), 256):
        block = rounded(double[first : first + 256] @ double[first:].T)
        for row, products in enumerate(block):
            later = products[row + 1 :]
            score[start : start + len(later)] = later
            start += len(later)


def _sides_of_table(pairs: "pd.DataFrame", pair_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    row_of = {pair_id: row for row, pair_id in enumerate(pair_ids.tolist())}
    named = [*pairs["pair_id_a"], *pairs["pair_id_b"]]
    missing = sorted({name for name in named if name not in row_of})
    if missing:
        raise UserError(f"pairs table: {len(missing)} pairs have no embedding, first {missing[0]!r}: embed the split")
    a, b = np.array([row_of[name] for name in named], np.int64).reshape(2, -1)
    if (a == b).any():
        raise UserError(f"pairs table: {str(pair_ids[a[(a == b).argmax()]])!r} is compared with itself")
    trial, count = np.unique(np.minimum(a, b) * len(pair_ids) + np.maximum(a, b), return_counts=True)
    if (count > 1).any():
        first = trial[count > 1][0]
        left, right = pair_ids[first // len(pair_ids)], pair_ids[first % len(pair_ids)]
        raise UserError(f"pairs table: {(count > 1).sum()} trials occur twice, the first is {left}, {right}")
    return a, b


def _same_of_table(pairs: "pd.DataFrame") -> np.ndarray:
    meaning = {"1": True, "0": False, True: True, False: False}
    try:
        return np.array([meaning[value] for value in pairs["same"]], bool)
    except KeyError as error:
        raise UserError(f"pairs table: column same holds {error.args[0]!r}; it must be 1 or 0") from None
