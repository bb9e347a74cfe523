"""Identification: CMC of a closed set, DIR over FAR of an open set, and leave-one-out. Pure numpy.

A probe is accepted exactly when its score is at least the threshold. A rate that the data cannot show is NaN, with
the reason.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..scores import FAILED, rounded
from .checks import finite, share, unreachable


@dataclass(frozen=True)
class OpenSetPoint:
    """Open-set identification at one threshold: known probes with the right name, and accepted unknown probes."""

    dir: float  # detection and identification rate, of the known probes
    achieved_far: float  # false alarm rate, of the unknown probes
    threshold: float
    n_known: int
    n_unknown: int
    reason: str = ""

    @property
    def fnir(self) -> float:
        """False negative identification rate, 1 - DIR (ISO/IEC 19795-1): known probes without the right name."""
        return 1 - self.dir


@dataclass(frozen=True)
class DirCurve:
    """DIR over FAR at every distinct score, from a threshold above all scores, where both are 0, to the lowest score.

    FAR is the false positive identification rate (FPIR) of ISO/IEC 19795-1.
    """

    threshold: np.ndarray  # (K,) descending, the first infinite
    far: np.ndarray  # (K,) share of the unknown probes whose best score reaches the threshold; NaN without such probes
    dir: dict[int, np.ndarray]  # rank -> (K,) share of the known probes that the threshold and the rank let through
    n_known: int
    n_unknown: int
    left_out: dict[int, str]  # rank that the gallery is too small for -> the reason

    def at_far(self, far: float, rank: int = 1) -> OpenSetPoint:
        """The highest DIR whose FAR is at most `far`, with the threshold and the FAR there.

        NaN with the reason where far < 1 / n_unknown (one alarm would already be more), without known probes, and for
        a rank that was left out. Not for a rank that the curve was not made for: KeyError.
        """
        counts = {"n_known": self.n_known, "n_unknown": self.n_unknown}
        reason = self.left_out.get(rank, "")
        if not reason and not (self.n_known and self.n_unknown):
            reason = f"{self.n_known} known and {self.n_unknown} unknown probes; both are needed"
        elif not reason and far < 1 / self.n_unknown - 1e-12:
            reason = unreachable(far, self.n_unknown, "unknown probes")
        if reason:
            return OpenSetPoint(np.nan, np.nan, np.nan, reason=reason, **counts)
        last = np.searchsorted(self.far, far + 1e-12, side="right") - 1
        return OpenSetPoint(
            float(self.dir[rank][last]), float(self.far[last]), float(self.threshold[last]), reason="", **counts
        )


def ranks(scores: np.ndarray, probe_subjects: np.ndarray, gallery_subjects: np.ndarray) -> np.ndarray:
    """(P,) int: the rank of each probe's own subject in the gallery, 1 = best. `scores` (P, G).

    Ties count against the probe: every subject with at least the same score is ranked before its own, so a constant
    score gives the last rank. Several templates of one subject count by their best score. Raises ValueError where a
    probe's subject is not enrolled.
    """
    scores, names = _per_subject(scores, gallery_subjects)  # (P, C)
    own = np.searchsorted(names, np.asarray(probe_subjects))
    if len(scores) != len(own):
        raise ValueError(f"{len(own)} probe subjects for {len(scores)} rows of scores")
    if not len(own):
        return np.empty(0, int)
    absent = ~np.isin(np.asarray(probe_subjects), names)
    if absent.any():
        raise ValueError(
            f"{absent.sum()} probes show nobody enrolled, the first: {np.asarray(probe_subjects)[absent][0]}"
        )
    return (scores >= scores[np.arange(len(scores)), own][:, None]).sum(axis=1)  # 1 for the own score


def cmc(
    scores: np.ndarray, probe_subjects: np.ndarray, gallery_subjects: np.ndarray, n_ranks: int | None = None
) -> np.ndarray:
    """Cumulative match characteristic: (n_ranks,) share of probes whose own subject is among the best k.

    `scores` (P, G), closed set: everybody is enrolled. `n_ranks` None gives all; ties as in `ranks`; NaN without
    probes.
    """
    rank = ranks(scores, probe_subjects, gallery_subjects)
    n_ranks = len(set(np.asarray(gallery_subjects).tolist())) if n_ranks is None else n_ranks
    if not len(rank):
        return np.full(n_ranks, np.nan)
    return (rank[:, None] <= np.arange(1, n_ranks + 1)).mean(axis=0)


def leave_one_out_rank1(
    vectors: np.ndarray,
    subjects: np.ndarray,
    probes: np.ndarray | None = None,
    adapt: Callable[[np.ndarray], Callable[[np.ndarray], np.ndarray]] | None = None,
) -> np.ndarray:
    """(N,) each pair against all others: 1.0 if the most similar one is of the same person, 0.0 if it is not.

    `vectors` (N, D) of any length, compared by cosine; `subjects` (N,). `probes` (N, D) are compared with `vectors`
    in place of `vectors` themselves, for example the same pairs after a change. `adapt` is called for each person with
    the `vectors` of all others. It returns a map, such as `embed.whitening`, that is applied to this person's probes
    and to all `vectors` before they are compared, so that the map never depends on the person who is probed. A tie
    between two people counts as 0, as in `ranks`; a vector of zeros is a failure, and gets 0. A pair of a person without
    any other pair gets NaN. The values that are not NaN are meant for `mean_bootstrap`.
    """
    gallery, subjects = np.asarray(vectors, np.float64), np.asarray(subjects)
    probes = gallery if probes is None else np.asarray(probes, np.float64)
    scores = np.empty((len(probes), len(gallery)))
    people = [subjects == subject for subject in np.unique(subjects)] if adapt else [np.ones(len(subjects), bool)]
    for mine in people:
        space = adapt(gallery[~mine]) if adapt else np.asarray
        one, all_ = (_unit(space(some)) for some in (probes[mine], gallery))
        scores[mine] = one @ all_.T
    scores = rounded(finite(scores, "cosines"))
    scores[~probes.any(axis=1)] = FAILED
    scores[:, ~gallery.any(axis=1)] = FAILED
    return leave_one_out_hits(scores, subjects)


def leave_one_out_hits(scores: np.ndarray, subjects: np.ndarray) -> np.ndarray:
    """(N,) for `scores` (N, N) of each picture with each: 1.0 if the best score with another is of the same person.

    0.0 if it is not, or tied; NaN for a person without another picture. The values are meant for `mean_bootstrap`.
    """
    scores, subjects = np.array(scores, np.float64), np.asarray(subjects)
    np.fill_diagonal(scores, -np.inf)
    same = subjects[:, None] == subjects
    own, other = (np.where(mask, scores, -np.inf).max(axis=1, initial=-np.inf) for mask in (same, ~same))
    return np.where(np.isinf(own), np.nan, own > other)


def one_shot_hits(scores: np.ndarray, subjects: np.ndarray, draws: int = 100, seed: int = 0) -> np.ndarray:
    """(N,) how often each picture gets its person's name when one picture of each person is enrolled, drawn `draws` times.

    `scores` (N, N), probes in rows. A picture is no probe where it is enrolled itself; a tie counts against it. NaN for
    a picture that was never a probe, as of a person without another. The values are meant for `mean_bootstrap`.
    """
    scores, subjects = np.asarray(scores, np.float64), np.asarray(subjects)
    rng = np.random.default_rng(seed)
    names, person, count = np.unique(subjects, return_inverse=True, return_counts=True)
    order, first = np.argsort(person, kind="stable"), np.cumsum(count) - count
    right, asked = np.zeros(len(scores)), np.zeros(len(scores))
    for _ in range(draws):
        gallery = order[first + rng.integers(count)]  # (C,) a picture of each person
        probes = np.setdiff1d(np.arange(len(scores)), gallery)
        right[probes] += ranks(scores[np.ix_(probes, gallery)], subjects[probes], names) == 1
        asked[probes] += 1
    return np.divide(right, asked, out=np.full(len(scores), np.nan), where=asked > 0)


def _unit(vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(length > 0, length, 1)


def identified(
    scores: np.ndarray, probe_subjects: np.ndarray, gallery_subjects: np.ndarray, threshold: float, rank: int = 1
) -> np.ndarray:
    """(P,) bool: the probe's own subject has `rank` or better, and its score is at least the threshold.

    `scores` (P, G) of probes whose people are enrolled. The mean is DIR; `mean_bootstrap` gives its interval.
    """
    place = ranks(scores, probe_subjects, gallery_subjects)
    return (place <= rank) & (own_best(scores, probe_subjects, gallery_subjects) >= threshold)


def dir_at(
    scores: np.ndarray,
    probe_subjects: np.ndarray,
    gallery_subjects: np.ndarray,
    unknown_scores: np.ndarray,
    threshold: float,
    rank: int = 1,
) -> OpenSetPoint:
    """Open-set rates at a threshold chosen elsewhere, from `scores` (P, G) of known and `unknown_scores` (U, G).

    DIR is the share of known probes whose own subject has `rank` or better and scores >= threshold; FAR is the
    share of unknown probes whose best score is >= threshold (Phillips, Grother and Micheals, "Evaluation methods in
    face recognition", in Handbook of Face Recognition, 2nd ed. 2011, ch. 21). NaN with the reason where there is no
    threshold, and for the rate of which there are no probes.
    """
    alarm = finite(unknown_scores, "unknown scores").max(axis=1, initial=FAILED)
    counts = {"n_known": len(scores), "n_unknown": len(alarm)}
    if np.isnan(threshold):
        reason = "no threshold: the FAR asked for cannot be measured on the development data"
        return OpenSetPoint(np.nan, np.nan, np.nan, reason=reason, **counts)
    right = identified(scores, probe_subjects, gallery_subjects, threshold, rank)
    rate, far = share(int(right.sum()), len(right)), share(int((alarm >= threshold).sum()), len(alarm))
    missing = [kind for kind, found in (("known", right), ("unknown", alarm)) if not len(found)]
    reason = f"no {' and no '.join(missing)} probe" if missing else ""
    return OpenSetPoint(rate, far, float(threshold), reason=reason, **counts)


def dir_curve(
    scores: np.ndarray,
    probe_subjects: np.ndarray,
    gallery_subjects: np.ndarray,
    unknown_scores: np.ndarray,
    at_ranks: Sequence[int] = (1, 5, 20),
) -> DirCurve:
    """`dir_at` at every threshold that changes a rate, for several ranks: exact, with no grid of thresholds.

    `scores` (P, G) of known and `unknown_scores` (U, G) of unknown probes. Ranks as in Phillips, Grother and Micheals
    (see `dir_at`) and in NIST FRTE 1:N (NIST IR 8271, FNIR and FPIR). A rank above the number of enrolled people is
    left out, with the reason.
    """
    place, own = (f(scores, probe_subjects, gallery_subjects) for f in (ranks, own_best))
    alarm = finite(unknown_scores, "unknown scores").max(axis=1, initial=FAILED)
    people = len(np.unique(np.asarray(gallery_subjects)))
    too_far = {rank: f"rank {rank} needs {rank} enrolled people, there are {people}" for rank in at_ranks}
    threshold = np.concatenate([[np.inf], np.unique(np.concatenate([alarm, own]))[::-1]])
    rates = {rank: _reaching(own[place <= rank], threshold, len(own)) for rank in at_ranks if rank <= people}
    left_out = {rank: reason for rank, reason in too_far.items() if rank > people}
    return DirCurve(threshold, _reaching(alarm, threshold, len(alarm)), rates, len(own), len(alarm), left_out)


def own_best(scores: np.ndarray, probe_subjects: np.ndarray, gallery_subjects: np.ndarray) -> np.ndarray:
    """(P,) the best score of each probe with the templates of its own subject; `scores` (P, G), everybody enrolled."""
    best, names = _per_subject(scores, gallery_subjects)
    return best[np.arange(len(best)), np.searchsorted(names, np.asarray(probe_subjects))]


def nearest_share(scores: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """The share of pictures whose most similar other picture has the same label, and the share expected by chance.

    `scores` (N, N) of each with each, `labels` (N,), such as person, session or pose. Chance is what a neighbour
    drawn at random would give. NaN and NaN for fewer than two pictures.
    """
    scores, labels = np.array(scores, np.float64), np.asarray(labels)
    if len(labels) < 2:
        return np.nan, np.nan
    np.fill_diagonal(scores, -np.inf)
    same = labels[:, None] == labels
    chance = (same.sum(axis=1) - 1).mean() / (len(labels) - 1)
    return float((labels[scores.argmax(axis=1)] == labels).mean()), float(chance)


def _reaching(values: np.ndarray, threshold: np.ndarray, n: int) -> np.ndarray:
    """(K,) the number of `values` that are at least each threshold, as a share of `n`; NaN where n is 0."""
    if not n:
        return np.full(len(threshold), np.nan)
    return (len(values) - np.searchsorted(np.sort(values), threshold, side="left")) / n


def _per_subject(scores: ArrayLike, gallery_subjects: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Scores (P, C) by subject, the best of each one's templates, and the subjects' names (C,) sorted."""
    scores, subjects = finite(scores, "scores"), np.asarray(gallery_subjects)
    if scores.ndim != 2 or scores.shape[1] != len(subjects):
        raise ValueError(f"scores {scores.shape} must be (probes, gallery) with a gallery of {len(subjects)}")
    if not len(subjects):
        return scores, subjects
    order = np.argsort(subjects, kind="stable")
    names, start = np.unique(subjects[order], return_index=True)
    return np.maximum.reduceat(scores[:, order], start, axis=1), names
