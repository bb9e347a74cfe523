"""Which comparisons a threshold gets wrong, and where any one score lies: the numbers behind the widgets. Pure numpy."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .embeddings import Embeddings
from .metrics.checks import share
from .metrics.curves import Roc, roc
from .metrics.thresholds import OperatingPoint, rates_at, threshold_at_far_or_above
from .scores import Trials, cosine
from .systems import System


@dataclass(frozen=True)
class Explored:
    """A system with the comparisons of test people that it made."""

    label: str
    vectors: Embeddings
    trials: Trials  # of test people
    chosen: float  # the threshold that was chosen on dev people; NaN where they allow none

    def rates(self, threshold: float) -> OperatingPoint:
        """Counts and rates of the test people's comparisons at `threshold`."""
        return rates_at(self.trials.genuine, self.trials.impostor, threshold)

    def false_accepts(self, threshold: float, limit: int, worst: bool) -> np.ndarray:
        """Rows of `trials`: impostor comparisons whose score is at least `threshold`, at most `limit` of them.

        worst: the highest scores come first; otherwise those that lie nearest to the threshold.
        """
        rows, scores = self._impostor
        wrong = rows[len(rows) if np.isnan(threshold) else np.searchsorted(scores, threshold) :]
        return (wrong[::-1] if worst else wrong)[:limit]

    def false_rejects(self, threshold: float, limit: int, worst: bool) -> np.ndarray:
        """Rows of `trials`: genuine comparisons whose score is below `threshold`, at most `limit` of them.

        worst: the lowest scores come first; otherwise those that lie nearest to the threshold.
        """
        rows, scores = self._genuine
        wrong = rows[: 0 if np.isnan(threshold) else np.searchsorted(scores, threshold)]
        return (wrong if worst else wrong[::-1])[:limit]

    def score(self, first: str, second: str) -> float:
        """The score of any two pairs by their pair_id, whether they are among the trials or not."""
        one, other = self.vectors.select([first, second]).vectors
        return float(cosine(one[None], other[None])[0, 0])

    @cached_property
    def span(self) -> tuple[float, float]:
        """The thresholds worth a look: from the lowest score to just above the highest; (-1, 1) without scores."""
        if not len(self.trials.score):
            return -1.0, 1.0
        return float(self.trials.score.min()), float(np.nextafter(np.float64(self.trials.score.max()), np.inf))

    @cached_property
    def start(self) -> float:
        """The threshold to begin with: that of the dev people, else that of equal error rates, else the middle."""
        for threshold in (self.chosen, self.roc.eer()[1]):
            if np.isfinite(threshold):
                return float(np.clip(threshold, *self.span))
        return sum(self.span) / 2

    @cached_property
    def roc(self) -> Roc:
        """The ROC of the test people's comparisons."""
        return roc(self.trials.genuine, self.trials.impostor)

    @cached_property
    def _genuine(self) -> tuple[np.ndarray, np.ndarray]:
        return self._ascending(self.trials.same)

    @cached_property
    def _impostor(self) -> tuple[np.ndarray, np.ndarray]:
        return self._ascending(~self.trials.same)

    def _ascending(self, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The rows of the `chosen` trials in ascending order of their scores, and these scores."""
        rows = np.flatnonzero(chosen)
        scores = self.trials.score[rows].astype(np.float64)
        order = np.argsort(scores, kind="stable")
        return rows[order], scores[order]


def explored(compared: Sequence[System], far: float) -> list[Explored]:
    """What can be explored of each system: its test people's comparisons, and a threshold.

    The threshold is chosen on dev people for the false accept rate `far`.
    """
    chosen = [threshold_at_far_or_above(one.trials["dev"].impostor, far)[0] for one in compared]
    return [Explored(one.label, one.vectors, one.trials["test"], at) for one, at in zip(compared, chosen, strict=True)]


def far_and_frr(point: OperatingPoint) -> tuple[float, float]:
    """The false accept and the false reject rate of a point; NaN where there are no comparisons of that kind."""
    return point.achieved_far, share(point.false_rejects, point.n_genuine)


def counts_text(point: OperatingPoint) -> tuple[str, str]:
    """FAR and FRR in words, each with its counts: "FAR 1.20 % (12 of 1,000 impostor comparisons accepted)"."""
    far, frr = far_and_frr(point)
    return (
        _rate("FAR", far, point.false_accepts, point.n_impostor, "impostor comparisons accepted"),
        _rate("FRR", frr, point.false_rejects, point.n_genuine, "genuine comparisons rejected"),
    )


def _rate(name: str, rate: float, count: int, n: int, what: str) -> str:
    if not n:
        return f"{name} cannot be measured: no {what.rpartition(' ')[0]}"
    return f"{name} {rate:.2%} ({count:,} of {n:,} {what})".replace("%", " %")


def place_text(point: OperatingPoint) -> str:
    """Where the score lies that is the threshold of `point`: what share of either kind of scores is on its wrong side."""
    far, frr = far_and_frr(point)
    impostor = (
        "there are no impostor scores" if np.isnan(far) else f"{far:.1%} of the impostor scores are as high or higher"
    )
    genuine = "there are no genuine scores" if np.isnan(frr) else f"{frr:.1%} of the genuine scores are lower"
    return f"{impostor}; {genuine}".replace("%", " %")


def thinned(curve: Roc, n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """FAR and TAR of at most about 2 `n` points of the curve, which look the same on a logarithmic axis of FAR."""
    steps = np.flatnonzero(np.append(np.diff(curve.far) > 0, True))  # of the points of one FAR the highest
    far, tar = curve.far[steps], curve.tar[steps]
    if not curve.measurable or len(far) <= n:
        return far, tar
    wanted = np.geomspace(max(far[far > 0].min(), 1e-9), 1, n)
    kept = np.unique(np.concatenate([[0], np.searchsorted(far, wanted, side="right") - 1]))
    return far[kept], tar[kept]
