"""The systems that notebook 40 compared, read back from the files that it left: embeddings, and fused scores."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from ..base.errors import UserError
from ..data.splits import Splits
from ..runs.record import read_record
from .embeddings import Embeddings
from .metrics.identification import ranks
from .other_systems import read_systems
from .protocol import GROUPS, OpenSet, open_set, trials_of
from .scores import Trials, joined
from .trained import find_models


@dataclass(frozen=True)
class System:
    """One system with the scores that it gave to dev and test people."""

    name: str  # as in the metrics of notebook 40
    label: str  # for legends
    vectors: Embeddings  # of dev and test people; those of a fusion are two networks' side by side
    trials: dict[str, Trials]  # comparisons of two pictures, by group
    opened: dict[str, OpenSet]  # probes against the enrolled people, by group
    ours: bool = True  # a network of this workbook, or a fusion of two; not a file of other people

    def identified(self, group: str = "test") -> pd.Series:
        """Whether each probe's own person came first, bool by (pair_id, person)."""
        people = self.opened[group]
        who = people.probes.subject_ids
        right = ranks(people.known, who, people.enrolled.subject_ids) == 1
        return pd.Series(right, pd.MultiIndex.from_arrays([people.probes.pair_ids, who], names=["pair_id", "person"]))


def compared_systems(folder: Path, division: Splits) -> list[System]:
    """The systems of the stage 40_evaluate_verification in `folder`, in its order; UserError where a file is missing.

    Other people's embeddings are among them, but not their files of scores, which name no pictures of this run.
    """
    record = read_record(folder)
    if record["status"] != "done":
        raise UserError(f"{folder}: {record['status']}: run 40_evaluate_verification first")
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    names = {rates["model"]: name for name, rates in metrics["systems"].items() if rates.get("model")}
    others = read_systems(metrics.get("files", {}), division)
    found = {}
    for network in find_models(record["run"], list(names)):
        vectors = Embeddings.load(folder / f"{network.model}.npz")
        found[names[network.model]] = _system(names[network.model], network.label, vectors, division)
    for name, vectors in others.embeddings.items():
        found[name] = replace(_system(name, name, vectors, division), ours=False)
    for name in [name for name in metrics["systems"] if name not in found and name not in others.scores]:
        first, second = (found[part] for part in name.split(" + "))
        vectors = joined(first.vectors, second.vectors, metrics["late_fusion_weight"])
        found[name] = _system(name, f"{first.label} + {second.label}, fused", vectors, division)
    return [found[name] for name in metrics["systems"] if name in found]


def _system(name: str, label: str, vectors: Embeddings, division: Splits) -> System:
    trials = {group: trials_of(vectors, division, group) for group in GROUPS}
    return System(name, label, vectors, trials, {group: open_set(vectors, division, group) for group in GROUPS})
