"""The systems that notebook 40 compared, read back from the files that it left: embeddings, and fused scores."""

import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ..base.errors import UserError
from ..data.splits import Splits
from ..runs.record import read_record
from .embeddings import Embeddings
from .metrics.identification import ranks
from .other_systems import read_systems
from .protocol import GROUPS, OpenSet, open_set, trials_of
from .scores import Trials, fuse, fuse_trials
from .trained import find_models


@dataclass(frozen=True)
class System:
    """One system with the scores that it gave to dev and test people."""

    name: str  # as in the metrics of notebook 40
    label: str  # for legends
    trials: dict[str, Trials]  # comparisons of two pictures, by group
    opened: dict[str, OpenSet]  # probes against the enrolled people, by group

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
    vectors_of = {
        names[network.model]: (network.label, Embeddings.load(folder / f"{network.model}.npz"))
        for network in find_models(record["run"], list(names))
    }
    vectors_of |= {name: (name, vectors) for name, vectors in others.embeddings.items()}
    found = {}
    for name, (label, vectors) in vectors_of.items():
        trials = {group: trials_of(vectors, division, group) for group in GROUPS}
        found[name] = System(name, label, trials, {group: open_set(vectors, division, group) for group in GROUPS})
    for name in [name for name in metrics["systems"] if name not in found and name not in others.scores]:
        first, second = (found[part] for part in name.split(" + "))
        weight = metrics["late_fusion_weight"]
        found[name] = _fused(name, first, second, [weight, 1 - weight])
    return [found[name] for name in metrics["systems"] if name in found]


def _fused(name: str, first: System, second: System, weights: list[float]) -> System:
    """Two systems as one, whose scores are the weighted means of theirs."""
    trials = {g: fuse_trials([first.trials[g], second.trials[g]], weights) for g in GROUPS}
    opened = {}
    for group in GROUPS:
        one, other = first.opened[group], second.opened[group]
        known, unknown = fuse([one.known, other.known], weights), fuse([one.unknown, other.unknown], weights)
        opened[group] = OpenSet(one.enrolled, one.probes, known, unknown)
    return System(name, f"{first.label} + {second.label}, fused", trials, opened)
