"""How high strangers score: from which threshold on a gallery of a given size may name anybody.

A stranger is accepted where the best of G templates reaches the threshold. If a share p of all comparisons of two people
reaches it, and comparisons were independent, that happens to 1 - (1 - p)^G of the strangers. On the people whom the table was
measured on, .0099, .0099, .0114 and .0104 of the strangers were accepted by galleries of 1, 5, 10 and 20 of them at the
thresholds for .01 (200 draws each, one picture a person).

The table that comes with the library (weights/strangers.json) belongs to the recogniser "pretrained": real people are in it as
numbers only. What it was measured on stands in its `source`. A network that has seen drawn faces alone gets none: how high
strangers score depends too much on what they are drawn or recorded with.
"""

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..base import paths
from ..base.errors import UserError
from ..evaluate.metrics.thresholds import checked_far

if TYPE_CHECKING:
    from ..evaluate.embeddings import Embeddings

SHIPPED = paths.SHIPPED / "strangers.json"
SHARES = tuple(float(f"{share:.3g}") for share in np.geomspace(0.5, 1e-4, 38))  # of which scores are kept
FEWEST_BEYOND = 3  # comparisons above a score without which its share is not believed


@dataclass(frozen=True)
class Strangers:
    """Scores of comparisons of two people: which share of them reaches which score."""

    shares: tuple[float, ...]  # falling
    scores: tuple[float, ...]  # of each share: the lowest score that it reaches
    low: tuple[float, ...]  # 95 % interval of each share at its score, over people
    high: tuple[float, ...]
    highest: float  # the highest score of all
    comparisons: int
    people: int
    source: str

    @classmethod
    def measure(cls, vectors: "Embeddings", source: str) -> "Strangers":
        """The table of all comparisons between people of `vectors`, single pictures with single pictures.

        UserError for fewer than two people.
        """
        from ..evaluate.intervals import mean_bootstrap
        from ..evaluate.scores import cosine

        owner = np.asarray(vectors.subject_ids)
        people = len(set(owner.tolist()))
        if people < 2:
            raise UserError(f"{source}: {people} people: strangers are compared with one another, give two or more")
        scores = cosine(vectors.vectors, vectors.vectors).astype(np.float64)
        other = owner[:, None] != owner[None]
        ordered = np.sort(scores[other])[::-1]
        shares = [share for share in SHARES if share * len(ordered) / 2 >= FEWEST_BEYOND] or [SHARES[0]]
        limits = [float(ordered[max(0, int(share * len(ordered)) - 1)]) for share in shares]
        low, high = [], []
        for share, limit in zip(shares, limits, strict=True):
            reached = ((scores >= limit) & other).sum(axis=1) / other.sum(axis=1)  # of each picture's comparisons
            found = mean_bootstrap(reached, owner, 200)
            low.append(float(np.nan_to_num(found.low, nan=0.0)))
            high.append(float(np.nan_to_num(found.high, nan=1.0)) if people > 2 else 1.0)
            high[-1] = max(high[-1], share)
        lists = (tuple(shares), tuple(limits), tuple(low), tuple(high))
        return cls(*lists, float(ordered[0]), len(ordered) // 2, people, source)

    def threshold(self, far: float, size: int) -> tuple[float, str]:
        """(the lowest threshold at which at most the share `far` of strangers is accepted by `size` people, the reason why
        it is another one or "").

        If so rare an event was not measured, the threshold lies above all scores that were.
        """
        share = 1 - (1 - checked_far(far)) ** (1 / max(size, 1))
        if share < self.shares[-1]:
            least = 1 - (1 - self.shares[-1]) ** max(size, 1)
            reason = f"{self.comparisons} comparisons show rates down to {least:.2g} for {size} people; the threshold accepts none of them"
            return float(np.nextafter(self.highest, 2)), reason
        at = np.interp(-np.log(share), -np.log(self.shares), self.scores)
        return float(np.nextafter(at, 2)), ""

    def rate(self, threshold: float, size: int) -> tuple[float, float, float]:
        """(share of strangers that `size` people accept at `threshold`, and its 95 % interval); (NaN, 0, high) beyond the table."""
        if threshold > self.scores[-1]:
            return np.nan, 0.0, float(1 - (1 - self.high[-1]) ** max(size, 1))
        share = float(np.exp(np.interp(threshold, self.scores, np.log(self.shares))))
        limits = [np.array(column) / self.shares for column in (self.low, self.high)]
        low, high = (min(1.0, share * float(np.interp(threshold, self.scores, limit))) for limit in limits)
        whole = [float(1 - (1 - each) ** max(size, 1)) for each in (share, low, high)]
        return whole[0], whole[1], whole[2]

    def as_json(self) -> dict[str, Any]:
        """The table in the types of JSON; `read` makes it again."""
        return asdict(self)

    @classmethod
    def read(cls, found: dict[str, Any]) -> "Strangers":
        """The table of `as_json`. Raises TypeError or KeyError for anything else."""
        lists = {key: tuple(map(float, found[key])) for key in ("shares", "scores", "low", "high")}
        return cls(**found | lists)


def shipped(model_id: str) -> Strangers | None:
    """The table that comes with the library for the recogniser of this identity; None where there is none."""
    try:
        found = json.loads(SHIPPED.read_text(encoding="utf-8"))["tables"].get(model_id)
        return Strangers.read(found) if found else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{SHIPPED}: no table that can be read ({error}): install face3d again") from None
