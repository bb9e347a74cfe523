"""Rates of probes that share a condition, with and without the faces that were not found.

Probes are compared with the templates of the enrolled people. EER and rank-1 come from the same scores, so a condition
needs no list of comparisons of its own. Every rate is given twice. Without failures to acquire it counts the probes
that became a template and whose person is enrolled. With them a probe without a template scores FAILED against
everybody: it is rejected and not identified, as a person in front of the camera would find (ISO/IEC 19795-1, FRR and
FAR as against FNMR and FMR).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from ..data.splits import SET_ASIDE, Splits
from .embeddings import Embeddings
from .intervals import mean_bootstrap, subject_bootstrap
from .metrics.curves import eer_of
from .metrics.identification import ranks
from .scores import Trials, cosine, fuse, templates

RATES = ("fta", "eer", "rank1", "eer_with_fta", "rank1_with_fta")


@dataclass(frozen=True)
class Probes:
    """The scores of P probes with the templates of G people, by one system."""

    scores: np.ndarray  # (P, G) float32; FAILED where one side has no template
    pair_ids: np.ndarray  # (P,) str
    subjects: np.ndarray  # (P,) str, all of them among `gallery`
    acquired: np.ndarray  # (P,) bool: the probe has a template, and its person has one too
    gallery: np.ndarray  # (G,) str, sorted
    enrolled: np.ndarray  # (G,) bool: the person has a template

    def select(self, chosen: np.ndarray) -> "Probes":
        """The probes where `chosen` (P,) is True, against the same gallery."""
        parts = {name: getattr(self, name)[chosen] for name in ("scores", "pair_ids", "subjects", "acquired")}
        return replace(self, **parts)

    def without_failures(self) -> "Probes":
        """The acquired probes against the people who have a template."""
        kept, enrolled = self.select(self.acquired), np.flatnonzero(self.enrolled)
        gallery = self.gallery[enrolled]
        return replace(kept, scores=kept.scores[:, enrolled], gallery=gallery, enrolled=np.ones(len(gallery), bool))

    def trials(self) -> Trials:
        """Every probe compared with every person, the probes in their order: P * G comparisons."""
        p, g = self.scores.shape
        a, b = np.repeat(np.arange(p), g), p + np.tile(np.arange(g), p)
        names = np.array([f"template of {name}" for name in self.gallery.tolist()], str)
        everybody = np.concatenate([np.asarray(self.subjects, str), np.asarray(self.gallery, str)])
        return Trials(self.scores.ravel(), a, b, np.concatenate([np.asarray(self.pair_ids, str), names]), everybody)

    def hits(self) -> np.ndarray:
        """(P,) float: 1.0 where the own person is the most similar one (rank 1), else 0.0; a tie counts as 0."""
        return np.asarray(ranks(self.scores, self.subjects, self.gallery) == 1, float) * self.acquired


def compare_probes(probes: Embeddings, people: Embeddings) -> Probes:
    """Probes against the templates of `people` (as of `scores.templates`); a vector of zeros is a failure.

    Raises ValueError where a probe shows somebody who is not among `people`.
    """
    scores = cosine(probes.vectors, people.vectors)
    subjects, gallery = np.asarray(probes.subject_ids, str), np.asarray(people.subject_ids, str)
    if strangers := sorted(set(subjects.tolist()) - set(gallery.tolist())):
        raise ValueError(f"{len(strangers)} people are probed and not enrolled, the first is {strangers[0]}")
    enrolled: np.ndarray = np.asarray(people.vectors.any(axis=1))
    acquired = probes.vectors.any(axis=1) & enrolled[np.searchsorted(gallery, subjects)]
    return Probes(scores, np.asarray(probes.pair_ids, str), subjects, acquired, gallery, enrolled)


def probes_of_split(vectors: Embeddings, division: Splits, group: str = "test") -> Probes:
    """The probes of the enrolled people of one group of a split, against their templates.

    Pictures of these people that could not be aligned are probes that failed, but for those of an enrolment session.
    """
    gallery, probes = (table[table["group"] == group] for table in (division.gallery, division.probe))
    sessions = set(zip(gallery["cls_name"], gallery["session"], strict=True))
    lost = division.dirty[(division.dirty["role"] == group) & ~division.dirty["reason"].isin(SET_ASIDE)]
    probed = [
        name in set(gallery["cls_name"]) and not (session and (name, session) in sessions)
        for name, session in zip(lost["cls_name"], lost["session"], strict=True)
    ]
    lost, found = lost[np.array(probed, bool)], vectors.select(probes["pair_id"])
    together = Embeddings(
        np.concatenate([found.pair_ids, lost["pair_id"].to_numpy(str)]),
        np.concatenate([found.subject_ids, lost["cls_name"].to_numpy(str)]),
        np.concatenate([found.vectors, np.zeros((len(lost), found.vectors.shape[1]), np.float32)]),
    )
    return compare_probes(together, templates(vectors.select(gallery["pair_id"])))


def fuse_probes(systems: Sequence[Probes], weights: Sequence[float]) -> Probes:
    """Several systems that compared the same probes with the same people as one, with fused scores."""
    return replace(systems[0], scores=fuse([system.scores for system in systems], weights))


def rates(probes: Probes, replicates: int = 200) -> dict[str, float | int | str]:
    """The rates RATES, each with _low and _high (95 %, bootstrap over people), for a row of a table.

    Further keys: probes and people (counts), failed (failures to acquire), reason (why a rate is NaN, else "").
    """
    kept = probes.without_failures()
    found = {"fta": mean_bootstrap(~probes.acquired, probes.subjects, replicates)}
    for ending, part in (("", kept), ("_with_fta", probes)):
        if ending and probes.acquired.all() and probes.enrolled.all():  # the two are the same
            found |= {f"{name}_with_fta": found[name] for name in ("eer", "rank1")}
            continue
        found[f"eer{ending}"] = subject_bootstrap(part.trials(), eer_of, replicates)
        found[f"rank1{ending}"] = mean_bootstrap(part.hits(), part.subjects, replicates)
    row: dict[str, float | int | str] = {"probes": len(probes.subjects), "people": len(np.unique(probes.subjects))}
    row["failed"] = int((~probes.acquired).sum())
    for name in RATES:
        row |= found[name].named(name)
    reason = found["eer"].reason if len(kept.subjects) else "no probe was acquired"
    return row | {"reason": reason if len(probes.subjects) else "no data"}


def rates_by_condition(
    systems: dict[str, Probes], condition: pd.Series, values: Sequence[str] = (), replicates: int = 200
) -> pd.DataFrame:
    """A row for each value of a condition and each system: value, system and the columns of `rates`.

    systems: the same probes by each system. condition: by pair_id, a text for each probe ("": not known, shown as such;
    so is a probe that it leaves out). values: further values, such as those that only occur in enrolment pictures; a
    value without a probe gets a row with the reason "no data". The rows of the value "all" come last.
    """
    first = next(iter(systems.values()))
    labels = condition.reindex(first.pair_ids).fillna("").astype(str).replace("", "not known").to_numpy(str)
    known = sorted({*labels.tolist(), *values})
    rows = []
    for value in [*known, "all"]:
        chosen = np.ones(len(labels), bool) if value == "all" else labels == value
        for name, probes in systems.items():
            rows.append({"value": value, "system": name} | rates(probes.select(chosen), replicates))
    return pd.DataFrame(rows)


def in_print(table: pd.DataFrame, rate: str, systems: Sequence[str], index: Sequence[str]) -> pd.DataFrame:
    """One of RATES for readers: a row for each value of the columns `index`, in their order, and a column for each system.

    table: with the columns of `rates`, `index` and system. The column "not found" counts failures to acquire.
    """
    value, low, high = (table[f"{rate}{end}"].map("{:.3f}".format) for end in ("", "_low", "_high"))
    measured = table[rate].notna()
    texts = table.assign(text=(value + " [" + low + ", " + high + "]").where(measured, table["reason"]))
    first = table.drop_duplicates(list(index)).set_index(list(index))
    wide = texts.pivot(index=list(index), columns="system", values="text").loc[first.index, list(systems)]
    return wide.assign(**{"not found": first["failed"].astype(str) + " of " + first["probes"].astype(str)})
