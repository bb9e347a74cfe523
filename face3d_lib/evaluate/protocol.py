"""The protocol on people never seen in training: who is enrolled, who is probed, and which comparisons are made.

Thresholds and weights are chosen on development people (`dev`), and rates are reported on test people (`test`). Each
group has a gallery (the enrolled people's first session), probes of enrolled people, and probes of people who are not
enrolled.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..data.pack import Pack
from ..data.splits import Splits
from .embeddings import Embeddings
from .metrics.identification import own_best
from .scores import Trials, alarm_scores, cosine, genuine_impostor, templates

GROUPS = ("dev", "test")


def unseen_people(division: Splits) -> pd.DataFrame:
    """The rows of all pictures of dev and test people: gallery, probe and unknown, in this order."""
    return pd.concat([division.gallery, division.probe, division.unknown], ignore_index=True)


def everybody(division: Splits, packed: Pack) -> np.ndarray:
    """(n,) the rows of the pack that show a person for certain, whatever part the person has in the experiment.

    That is every aligned picture but exact copies that lie in the folders of two people. People with too few pictures
    to train or to test are among them.
    """
    doubtful = division.dirty.loc[division.dirty["reason"] == "duplicate_of_other_subject", "pair_id"]
    return np.flatnonzero(~packed.index["pair_id"].isin(set(doubtful)).to_numpy())


def trials_of(vectors: Embeddings, division: Splits, group: str = "test") -> Trials:
    """The genuine and impostor comparisons of one group, those of `pairs.csv`; there may be none."""
    return genuine_impostor(vectors, division.pairs[division.pairs["group"] == group])


@dataclass(frozen=True)
class OpenSet:
    """Identification in one group: G people are enrolled, P probes show them, U probes show others."""

    enrolled: Embeddings  # G templates, one for each enrolled person
    probes: Embeddings  # P
    known: np.ndarray  # (P, G) scores of the probes
    unknown: np.ndarray  # (U, G) scores of the probes of people who are not enrolled

    @property
    def alarms(self) -> np.ndarray:
        """(P + U,) the best score of each probe with people whom it does not show, from which a threshold is chosen.

        Probes of enrolled people count as unknown probes too, without their own template, so that few development
        people give more scores.
        """
        own = alarm_scores(self.known, self.probes.subject_ids, self.enrolled.subject_ids)
        others = len(self.enrolled) > 1  # with one person enrolled, a probe of that person has no other template
        parts = [own if others else own[:0], self.best_of_unknown if len(self.enrolled) else self.best_of_unknown[:0]]
        return np.concatenate(parts)

    @property
    def own_scores(self) -> np.ndarray:
        """(P,) the score of each probe with the template of the person whom it shows."""
        return own_best(self.known, self.probes.subject_ids, self.enrolled.subject_ids)

    @property
    def best_of_unknown(self) -> np.ndarray:
        """(U,) the score of each unknown probe with the person whom it resembles most."""
        return self.unknown.max(axis=1, initial=-1.0)


def open_set(vectors: Embeddings, division: Splits, group: str = "test") -> OpenSet:
    """One template for each enrolled person of the group, and the scores of all probes; any part may be empty."""
    parts = [
        frame.loc[frame["group"] == group, "pair_id"] for frame in (division.gallery, division.probe, division.unknown)
    ]
    gallery, probes, unknown = (vectors.select(pair_ids) for pair_ids in parts)
    enrolled = templates(gallery)
    return OpenSet(enrolled, probes, *(cosine(part.vectors, enrolled.vectors) for part in (probes, unknown)))
