"""Rates from scores: ROC, EER, TAR@FAR, CMC and open-set identification. Pure numpy.

A comparison is accepted exactly when its score is at least the threshold, everywhere. FAR and FRR are counted over
the comparisons given (ISO/IEC 19795-1 calls these FMR and FNMR); `frr_with_fta` adds the pictures in which no face
was found. A rate that the data cannot show is NaN, with a reason if the result has a field for one. Scores that are
NaN or infinite are errors. Thresholds are chosen on development people and applied to test
people: `threshold_at_far(development impostors)`, then `rates_at(test genuine, test impostors, threshold)`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from ..base.errors import UserError
from .scores import FAILED, Trials, fuse_trials

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class OperatingPoint:
    """The rates of a set of trials at one threshold. Rates are shares in [0, 1]; `reason` says why one is NaN."""

    tar: float
    achieved_far: float  # counted at the threshold; not the FAR that was asked for
    threshold: float
    false_accepts: int
    n_impostor: int
    false_rejects: int
    n_genuine: int
    asked_far: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class OpenSetPoint:
    """Open-set identification at one threshold: known probes with the right name, and accepted unknown probes."""

    dir: float  # detection and identification rate, of the known probes
    achieved_far: float  # false alarm rate, of the unknown probes
    threshold: float
    n_known: int
    n_unknown: int
    reason: str = ""


@dataclass(frozen=True)
class Roc:
    """FAR and TAR at every distinct score, from a threshold above all (0, 0) to the lowest score (1, 1)."""

    threshold: np.ndarray  # (K,) descending, the first infinite
    far: np.ndarray  # (K,)
    tar: np.ndarray  # (K,)
    n_genuine: int
    n_impostor: int

    def tar_at_far(self, far: np.ndarray) -> np.ndarray | float:
        """The highest TAR whose FAR is at most `far` (number or array); NaN where far < 1 / n_impostor."""
        far = np.asarray(far, float)
        if not self.measurable:
            return np.full(far.shape, np.nan)[()]
        last = np.searchsorted(self.far, far + 1e-12, side="right") - 1  # sums of weights carry rounding
        return np.where(far < 1 / self.n_impostor - 1e-12, np.nan, self.tar[last])[()]

    @property
    def measurable(self) -> bool:
        """True when there are genuine and impostor comparisons; else every rate of the curve is NaN."""
        return bool(self.n_genuine and self.n_impostor)

    def eer(self) -> tuple[float, float]:
        """The equal error rate, (FAR + FRR) / 2 where the two are nearest, and the threshold there, one of the scores.

        Two thresholds can be equally near, one on each side; the larger mean is returned, so that the rate is never
        too good. NaN and NaN where the curve is not measurable.
        """
        if not self.measurable:
            return np.nan, np.nan
        gap = np.abs(self.far - (1 - self.tar))[1:]
        mean = ((self.far + 1 - self.tar) / 2)[1:]
        nearest = np.flatnonzero(gap <= gap.min() + 1e-12)
        best = nearest[mean[nearest].argmax()]
        return float(mean[best]), float(self.threshold[1 + best])


def roc(genuine: np.ndarray, impostor: np.ndarray) -> Roc:
    """The ROC of flat arrays of scores; not measurable where one is empty. ValueError where a score is not finite."""
    genuine, impostor = flat(genuine, "genuine"), flat(impostor, "impostor")
    return Curve(np.concatenate([genuine, impostor]), np.arange(len(genuine) + len(impostor)) < len(genuine)).roc()


def eer(genuine: np.ndarray, impostor: np.ndarray) -> tuple[float, float]:
    """Equal error rate and its threshold; see Roc.eer."""
    return roc(genuine, impostor).eer()


def threshold_at_far(impostor: np.ndarray, far: float) -> float:
    """The lowest threshold that accepts at most the share `far` of impostors; NaN where far < 1 / their number.

    It lies just above an impostor score, so of tied scores all or none are accepted. `far` is read by its
    decimal text: .29 of 100 is 29. UserError where `far` is no share between 0 and 1.
    """
    impostor = np.sort(flat(impostor, "impostor"))[::-1]
    if not 0 < far < 1:
        raise UserError(
            f"a false accept rate of {far} is no share between 0 and 1: set far_target to 0.01, for example"
        )
    allowed = int(Fraction(str(float(far))) * len(impostor))  # false accepts that may happen
    return float(np.nextafter(impostor[allowed], np.inf)) if allowed else np.nan


def threshold_at_far_or_above(impostor: np.ndarray, far: float) -> tuple[float, str]:
    """(`threshold_at_far`, ""); if `far` is below 1 / their number, the lowest threshold that accepts none, and why.

    NaN and the reason where there are no scores, because then no threshold can be chosen.
    """
    threshold = threshold_at_far(impostor, far)
    if not np.isnan(threshold):
        return threshold, ""
    reason = _unreachable(far, len(impostor), "development scores")
    if not len(impostor):
        return np.nan, reason
    return float(np.nextafter(np.max(impostor), np.inf)), f"{reason}; the threshold accepts none of them"


def rates_at(genuine: np.ndarray, impostor: np.ndarray, threshold: float) -> OperatingPoint:
    """Counts and rates at a threshold chosen elsewhere.

    A NaN threshold gives NaN rates; no genuine comparison gives a NaN TAR, no impostor comparison a NaN FAR. The
    reason is given each time.
    """
    genuine, impostor = flat(genuine, "genuine"), flat(impostor, "impostor")
    counts = {"n_genuine": len(genuine), "n_impostor": len(impostor)}
    if np.isnan(threshold):
        reason = "no threshold: the FAR asked for cannot be measured on the development data"
        return OperatingPoint(np.nan, np.nan, np.nan, false_accepts=0, false_rejects=0, reason=reason, **counts)
    accepts, rejects = int((impostor >= threshold).sum()), int((genuine < threshold).sum())
    tar, far = _share(len(genuine) - rejects, len(genuine)), _share(accepts, len(impostor))
    missing = [kind for kind, scores in (("genuine", genuine), ("impostor", impostor)) if not len(scores)]
    reason = f"no {' and no '.join(missing)} comparison" if missing else ""
    return OperatingPoint(
        tar, far, float(threshold), false_accepts=accepts, false_rejects=rejects, reason=reason, **counts
    )


def tar_at_far(genuine: np.ndarray, impostor: np.ndarray, far: float) -> OperatingPoint:
    """TAR at the lowest threshold whose FAR on these impostors is at most `far`, and the FAR achieved there.

    NaN with a reason where far < 1 / n_impostor: one false accept would already be more than was asked for.
    """
    point = replace(rates_at(genuine, impostor, threshold_at_far(impostor, far)), asked_far=far)
    if not np.isnan(point.threshold):
        return point
    return replace(point, reason=_unreachable(far, point.n_impostor, "impostor comparisons"))


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
    between two people counts as 0, as in `ranks`. A pair of a person without any other pair gets NaN. The values that
    are not NaN are meant for `mean_bootstrap`.
    """
    gallery, subjects = np.asarray(vectors, np.float64), np.asarray(subjects)
    probes = gallery if probes is None else np.asarray(probes, np.float64)
    scores = np.empty((len(probes), len(gallery)))
    for mine in (subjects == subject for subject in np.unique(subjects)):
        space = adapt(gallery[~mine]) if adapt else np.asarray
        one, all_ = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (space(probes[mine]), space(gallery)))
        scores[mine] = one @ all_.T
    scores = _finite(scores, "cosines")
    np.fill_diagonal(scores, -np.inf)
    same = subjects[:, None] == subjects
    own, other = (np.where(mask, scores, -np.inf).max(axis=1) for mask in (same, ~same))
    return np.where(np.isinf(own), np.nan, own > other)


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
    known, names = _per_subject(scores, gallery_subjects)
    alarm = _finite(unknown_scores, "unknown scores").max(axis=1, initial=FAILED)
    counts = {"n_known": len(known), "n_unknown": len(alarm)}
    if np.isnan(threshold):
        reason = "no threshold: the FAR asked for cannot be measured on the development data"
        return OpenSetPoint(np.nan, np.nan, np.nan, reason=reason, **counts)
    own = known[np.arange(len(known)), np.searchsorted(names, np.asarray(probe_subjects))]
    right = (ranks(scores, probe_subjects, gallery_subjects) <= rank) & (own >= threshold)
    rate, far = _share(int(right.sum()), len(known)), _share(int((alarm >= threshold).sum()), len(alarm))
    missing = [kind for kind, found in (("known", known), ("unknown", alarm)) if not len(found)]
    reason = f"no {' and no '.join(missing)} probe" if missing else ""
    return OpenSetPoint(rate, far, float(threshold), reason=reason, **counts)


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


def frr_with_fta(fnmr: float, fta: float) -> float:
    """FTA + FNMR * (1 - FTA): a person who is not acquired counts as rejected (ISO/IEC 19795-1, one attempt)."""
    return fta + fnmr * (1 - fta)


def wilson(count: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """The Wilson score interval of a share count / n of independent events (95 % for z = 1.96)."""
    if not 0 <= count <= n or n == 0:
        raise ValueError(f"{count} of {n} is not a share")
    p, scale = count / n, 1 + z * z / n
    centre, half = (p + z * z / (2 * n)) / scale, z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / scale
    return (0.0 if count == 0 else float(centre - half)), (1.0 if count == n else float(centre + half))


def failure_rates(status: np.ndarray, group: np.ndarray) -> "pd.DataFrame":
    """Failure to acquire: columns group, n, failed, rate, low, high (Wilson 95 %), and a last row "all".

    `status` (N,) is "ok" or the reason of a failure; `group` (N,) is any label, such as a column of conditions.
    """
    import pandas as pd  # here, because `face3d identify` uses this file but not pandas

    frame = pd.DataFrame({"group": np.asarray(group).astype(str), "failed": np.asarray(status) != "ok"})
    table = frame.groupby("group")["failed"].agg(n="size", failed="sum").reset_index()
    table.loc[len(table)] = ["all", len(frame), int(frame["failed"].sum())]
    table["rate"] = table["failed"] / table["n"]
    table[["low", "high"]] = [wilson(failed, n) for failed, n in zip(table["failed"], table["n"], strict=True)]
    return table


def best_weight(first: Trials, second: Trials, n_steps: int = 101) -> float:
    """The w in [0, 1] for which w * first + (1 - w) * second has the lowest EER; for development trials.

    Of equally good weights the middle one is taken, which is farthest from worse weights. Where the development
    trials give no EER, both systems get the same weight, 0.5.
    """
    if first.same.all() or not first.same.any():
        return 0.5
    weights = np.linspace(0, 1, n_steps)
    fused = [fuse_trials([first, second], [weight, 1 - weight]) for weight in weights]
    rates = np.array([eer(trials.genuine, trials.impostor)[0] for trials in fused])
    good = weights[rates <= rates.min() + 1e-12]
    return float(good[len(good) // 2])


class Curve:
    """Scores that are sorted once, so that each replicate of a bootstrap costs two counts and two sums."""

    def __init__(
        self,
        score: np.ndarray,
        same: np.ndarray,
        subject_a: np.ndarray | None = None,
        subject_b: np.ndarray | None = None,
    ):
        distinct, place = np.unique(score, return_inverse=True)
        self.threshold = np.concatenate([[np.inf], distinct[::-1].astype(np.float64)])
        place = len(distinct) - 1 - place  # 0 = highest score
        self.genuine, self.impostor = place[same], place[~same]
        if subject_a is not None and subject_b is not None:
            self.genuine_subject = subject_a[same]
            self.impostor_subjects = subject_a[~same], subject_b[~same]
            self.n_subjects = len(np.unique(np.concatenate([subject_a, subject_b])))

    def weigh(self, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The weights of the genuine and of the impostor comparisons when people are drawn `weight` (C,) times."""
        left, right = self.impostor_subjects
        return weight[self.genuine_subject], weight[left] * weight[right]

    def usable(self, weight: np.ndarray) -> bool:
        """True when people drawn `weight` (C,) times still make genuine and impostor comparisons."""
        return all(part.any() for part in self.weigh(weight))

    def roc(self, weight: np.ndarray | None = None) -> Roc:
        """The curve, with people drawn `weight` (C,) times each where that is given."""
        genuine, impostor = (None, None) if weight is None else self.weigh(weight)
        return Roc(
            self.threshold,
            self._share(self.impostor, impostor),
            self._share(self.genuine, genuine),
            len(self.genuine),
            len(self.impostor),
        )

    def _share(self, place: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
        """Share of the weight at or above each threshold, (K,); NaN if the total weight is 0."""
        if not len(place):
            return np.full(len(self.threshold), np.nan)
        passed = np.cumsum(np.bincount(place, weight, minlength=len(self.threshold) - 1))
        return np.concatenate([[0.0], passed / passed[-1]])


def curves_of(*systems: Trials) -> list[Curve]:
    """A curve for each system; all systems must have made the same trials."""
    subject_a, subject_b = subject_numbers(systems[0])
    return [Curve(trials.score, trials.same, subject_a, subject_b) for trials in systems]


def subject_numbers(trials: Trials) -> tuple[np.ndarray, np.ndarray]:
    """(T,) and (T,) int: the two subjects of each trial, numbered 0.. among those that occur in trials."""
    codes = np.concatenate([trials.subject_codes[trials.a], trials.subject_codes[trials.b]])
    first, second = np.split(np.unique(codes, return_inverse=True)[1], 2)
    return first, second


def flat(values: np.ndarray, name: str) -> np.ndarray:
    """`values` as a flat float64 array, which may be empty. ValueError where it is not flat or not finite."""
    values = _finite(values, name)
    if values.ndim != 1:
        raise ValueError(f"{name}: a flat array is needed, got shape {values.shape}")
    return values


def _finite(values: ArrayLike, name: str) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if not np.isfinite(values).all():
        bad = values.size - np.isfinite(values).sum()
        raise ValueError(f"{name}: {values.size} scores, {bad} of them NaN or infinite; a failure scores -1, never NaN")
    return values


def _per_subject(scores: ArrayLike, gallery_subjects: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Scores (P, C) by subject, the best of each one's templates, and the subjects' names (C,) sorted."""
    scores, subjects = _finite(scores, "scores"), np.asarray(gallery_subjects)
    if scores.ndim != 2 or scores.shape[1] != len(subjects):
        raise ValueError(f"scores {scores.shape} must be (probes, gallery) with a gallery of {len(subjects)}")
    if not len(subjects):
        return scores, subjects
    order = np.argsort(subjects, kind="stable")
    names, start = np.unique(subjects[order], return_index=True)
    return np.maximum.reduceat(scores[:, order], start, axis=1), names


def _unreachable(far: float, n: int, what: str) -> str:
    """Why a FAR below 1 / n cannot be measured."""
    if not n:
        return f"FAR {far:g} cannot be measured: there are no {what}"
    return f"FAR {far:g} cannot be measured with {n} {what}: one of them is already {1 / n:.2g}"


def _share(count: int, n: int) -> float:
    return count / n if n else np.nan
