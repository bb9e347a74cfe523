"""What one trained network does on people it never saw, and many trained networks side by side."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ..base.atomic import plain
from ..base.errors import UserError
from ..base.tables import read_table
from ..data.splits import Splits
from ..runs.folders import find_stage, run_folder
from ..runs.record import read_record
from ..train.closed_set import vectors_of
from ..train.model_files import load_model
from .embed import Embeddings, embed
from .intervals import mean_bootstrap, paired_bootstrap, subject_bootstrap
from .metrics import best_weight, eer, ranks, tar_at_far
from .scores import Trials, cosine, fuse, fuse_trials, genuine_impostor, templates

FAR = 0.01  # of the TAR that is reported beside the EER


def unseen(network, packed, division: Splits, folder: Path, replicates: int = 200) -> dict:
    """Embed the open-set people into folder/unseen.npz and rate the network on the test people among them.

    Keys: eer, tar (at FAR), rank1, each with _low and _high (95 %, people drawn again), genuine, impostor (counts).
    """
    people = pd.concat([division.gallery, division.probe, division.unknown])
    vectors = embed(network, packed, packed.rows(people["pair_id"]))
    vectors.save(Path(folder) / "unseen.npz")
    trials = test_trials(vectors, division)
    statistics = {"eer": lambda roc: roc.eer()[0], "tar": lambda roc: roc.tar_at_far(FAR)}
    found = {name: subject_bootstrap(trials, rate, replicates) for name, rate in statistics.items()}
    found["rank1"] = mean_bootstrap(*_first_ranks(vectors, division), replicates)
    rates = {"genuine": len(trials.genuine), "impostor": len(trials.impostor)}
    for name, interval in found.items():
        rates |= {name: float(interval.value), f"{name}_low": float(interval.low), f"{name}_high": float(interval.high)}
    return rates


def test_trials(vectors: Embeddings, division: Splits) -> Trials:
    """The genuine and impostor comparisons of the test people."""
    return genuine_impostor(vectors, division.pairs[division.pairs["group"] == "test"])


test_trials.__test__ = False  # no test, whatever pytest makes of the name


def _first_ranks(vectors: Embeddings, division: Splits) -> tuple[np.ndarray, np.ndarray]:
    """Whether each probe of an enrolled test person finds that person first (P,), and the person (P,)."""
    (scores,), probes, enrolled = _alike([_enrolled_and_asked(vectors, division)])
    return ranks(scores, probes.subject_ids, enrolled) == 1, probes.subject_ids


def _enrolled_and_asked(vectors: Embeddings, division: Splits) -> tuple[Embeddings, Embeddings]:
    """Of the test people: the pictures to enrol, and the probes."""
    return tuple(
        vectors.select(frame.loc[frame["group"] == "test", "pair_id"]) for frame in (division.gallery, division.probe)
    )


@dataclass(frozen=True)
class Trained:
    """One trained network of a comparison, as its run left it."""

    record: dict  # run.json
    metrics: dict
    folder: Path


def trained(run: str, models: list[str]) -> list[Trained]:
    """The networks `models` ("arcface/31_train_arcface") of a run; with no names all that runs/<run>/sweep.json lists.

    Runs of a sweep that failed are left out and said in a line. UserError where one is missing.
    """
    if not models:
        path = run_folder(run) / "sweep.json"
        if not path.is_file():
            raise UserError(f"{path}: not there: face3d sweep FILE {run} makes it")
        rows = json.loads(path.read_text(encoding="utf-8"))
        if failed := [row["run"] for row in rows if row["status"] != "done"]:
            print(f"note: {len(failed)} runs of the sweep are not done: {', '.join(failed[:5])}")
        models = [f"{row['run'].removeprefix(run + '/')}/{row['notebook']}" for row in rows if row["status"] == "done"]
    found = []
    for name in models:
        folder = find_stage(run, name)
        record = read_record(folder)
        if record["status"] != "done":
            raise UserError(f"{name} is {record['status']} in run {run}: train it first")
        found.append(Trained(record, json.loads((folder / "metrics.json").read_text(encoding="utf-8")), folder))
    return found


def table_of(networks: list[Trained], setting) -> pd.DataFrame:
    """A row per network: setting (what `setting(parameters)` calls it), seed, and its metrics."""
    rows = [
        {"setting": setting(n.record["parameters"]), "seed": n.record["parameters"]["seed"]} | n.metrics
        for n in networks
    ]
    return pd.DataFrame(rows)


def spread(table: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """By setting: mean and standard deviation over seeds (NaN for one seed) of `columns`, and the number of seeds."""
    groups = table.groupby("setting", sort=False)
    parts = {"seeds": groups.size()}
    for column in columns:
        parts |= {column: groups[column].mean(), f"{column}_sd": groups[column].std()}
    return pd.DataFrame(parts)


@dataclass(frozen=True)
class Outcome:
    """What one system made of the test people's comparisons, and of the closed set's test pictures."""

    trials: Trials
    right: pd.Series  # by (pair_id, person): whether the picture was given its right name


def outcome(network: Trained, division: Splits) -> Outcome:
    """Of one trained network, as its run left it."""
    trials = test_trials(Embeddings.load(network.folder / "unseen.npz"), division)
    named = read_table(network.folder / "predictions.csv", ["pair_id", "cls_name", "predicted"])
    return Outcome(trials, _right(named["pair_id"], named["cls_name"], named["predicted"]))


def late_fusion(first: Trained, second: Trained, packed, division: Splits) -> tuple[Outcome, dict]:
    """A weighted sum of the scores of two networks that never met; the weight is chosen on dev people. And its metrics.

    On the closed set a picture gets the name of the template with the highest score; a template is the mean of a
    person's training pictures. Metrics: accuracy, eer, tar (at FAR), rank1, weight (of the first), and accuracies, those
    of the two alone by the same rule.
    """
    unseen = [Embeddings.load(network.folder / "unseen.npz") for network in (first, second)]
    dev = [genuine_impostor(found, division.pairs[division.pairs["group"] == "dev"]) for found in unseen]
    weight = best_weight(*dev, n_steps=21)
    weights = {"fused": [weight, 1 - weight], "first": [1, 0], "second": [0, 1]}
    trials = fuse_trials([test_trials(found, division) for found in unseen], weights["fused"])

    alike, probes, enrolled = _alike([_enrolled_and_asked(vectors, division) for vectors in unseen])
    first_ranks = ranks(fuse(alike, weights["fused"]), probes.subject_ids, enrolled)
    alike, asked, names = _alike([_closed_set(network, packed, division) for network in (first, second)])
    right = {
        which: _right(asked.pair_ids, asked.subject_ids, names[fuse(alike, w).argmax(1)])
        for which, w in weights.items()
    }
    rates = {"accuracy": right["fused"].mean(), "eer": eer(trials.genuine, trials.impostor)[0]}
    rates |= {"tar": tar_at_far(trials.genuine, trials.impostor, FAR).tar, "rank1": (first_ranks == 1).mean()}
    rates = {name: float(rate) for name, rate in rates.items()} | {"weight": weight}
    alone = [float(right[which].mean()) for which in ("first", "second")]
    return Outcome(trials, right["fused"]), rates | {"accuracies": alone}


def _alike(sides: list[tuple[Embeddings, Embeddings]]) -> tuple[list[np.ndarray], Embeddings, np.ndarray]:
    """Of networks that enrolled and asked the same: scores (P, G) of each, who was asked about, who is enrolled (G,)."""
    enrolled = [templates(gallery) for gallery, _ in sides]
    alike = [cosine(asked.vectors, of.vectors) for (_, asked), of in zip(sides, enrolled, strict=True)]
    return alike, sides[0][1], enrolled[0].subject_ids


def _closed_set(network: Trained, packed, division: Splits) -> tuple[Embeddings, Embeddings]:
    """The training and the test pictures, each embedded in one view, as classifiers see them."""
    model, _ = load_model(network.folder / "model")
    found = []
    for part in (division.train, division.test):
        rows = packed.rows(part["pair_id"])
        vectors = torch.nn.functional.normalize(vectors_of(model, packed, rows)).cpu().numpy()
        found.append(Embeddings(part["pair_id"].to_numpy(str), part["cls_name"].to_numpy(str), vectors))
    return tuple(found)


def _right(pair_ids, people, named) -> pd.Series:
    index = pd.MultiIndex.from_arrays([pair_ids, people], names=["pair_id", "cls_name"])
    return pd.Series(np.asarray(people) == np.asarray(named), index)


def compare(first: list[Outcome], second: list[Outcome], replicates: int = 500) -> dict:
    """Second minus first, means over seeds, with 95 % intervals from drawing people alike for all of them.

    Keys: eer and accuracy (closed set), each with _low and _high, and _shown: the interval leaves out 0. People are
    drawn and seeds averaged, so the interval speaks of other people, not of other seeds.
    """
    trials = [[system.trials for system in group] for group in (first, second)]
    rate = paired_bootstrap(*trials, lambda roc: roc.eer()[0], replicates)
    right = [
        pd.concat([system.right.astype(float) for system in group], axis=1).mean(axis=1) for group in (first, second)
    ]
    both = pd.concat(right, axis=1, keys=["first", "second"]).dropna()
    accuracy = mean_bootstrap(both["second"] - both["first"], both.index.get_level_values(1), replicates)
    found = {}
    for name, interval in {"eer": rate, "accuracy": accuracy}.items():
        low, high = float(interval.low), float(interval.high)
        found |= {name: float(interval.value), f"{name}_low": low, f"{name}_high": high}
        found[f"{name}_shown"] = bool(low > 0 or high < 0)
    return plain(found)
