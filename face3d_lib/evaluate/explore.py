"""Which comparisons a threshold gets wrong, and where any one score lies: the numbers behind the widgets. Pure numpy."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ..base.errors import UserError
from ..data.splits import Splits
from .embeddings import Embeddings
from .metrics.checks import share
from .metrics.curves import Roc, best_weight, roc
from .metrics.thresholds import OperatingPoint, rates_at, threshold_at_far_or_above
from .protocol import GROUPS, trials_of
from .scores import Trials, cosine, fuse, fuse_trials
from .trained import Trained


@dataclass(frozen=True)
class System:
    """A network, or two whose scores are added, with the comparisons of test people that it made."""

    label: str
    parts: tuple[tuple[Embeddings, float], ...]  # the embeddings of each network, and the weight of its scores
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
        vectors = [part.select([first, second]).vectors for part, _ in self.parts]
        return float(fuse([cosine(v[:1], v[1:]) for v in vectors], [weight for _, weight in self.parts])[0, 0])

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


def systems_of(
    networks: Sequence[Trained], folder: Path, division: Splits, far: float, fused: Sequence[Trained] = ()
) -> list[System]:
    """A system for each network whose embeddings lie in `folder`, that of notebook 40, and one for the two `fused`.

    The threshold of each is chosen on dev people for the false accept rate `far`, and so is the weight of the fusion.
    UserError where a network was not embedded.
    """
    vectors = {}
    for network in networks:
        path = folder / f"{network.model}.npz"
        if not path.is_file():
            raise UserError(
                f"{path}: not there: name {network.model} among the models of notebook 40 and run that again"
            )
        vectors[network.model] = Embeddings.load(path)
    trials = {model: {group: trials_of(found, division, group) for group in GROUPS} for model, found in vectors.items()}

    def system(label: str, parts: list[tuple[Embeddings, float]], groups: dict[str, Trials]) -> System:
        return System(label, tuple(parts), groups["test"], threshold_at_far_or_above(groups["dev"].impostor, far)[0])

    found = [system(network.label, [(vectors[network.model], 1.0)], trials[network.model]) for network in networks]
    if len(fused) == 2:
        first, second = (trials[network.model] for network in fused)
        weight = best_weight(first["dev"], second["dev"], n_steps=21)  # as notebook 40 does
        weights = [weight, 1 - weight]
        groups = {group: fuse_trials([first[group], second[group]], weights) for group in GROUPS}
        parts = [(vectors[network.model], part) for network, part in zip(fused, weights, strict=True)]
        found.append(system(" + ".join(network.label for network in fused) + ", fused", parts, groups))
    return found


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
