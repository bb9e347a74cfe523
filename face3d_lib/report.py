"""What one trained network does on people it never saw, and many trained networks side by side."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from .atomic import UserError, plain
from .embed import Embeddings, embed
from .manifest import read_table
from .metrics import mean_bootstrap, paired_bootstrap, ranks, subject_bootstrap
from .run import find_stage, read_record, run_folder
from .scores import Trials, cosine, genuine_impostor, templates
from .splits import Splits

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
    gallery, probe = (
        vectors.select(frame.loc[frame["group"] == "test", "pair_id"]) for frame in (division.gallery, division.probe)
    )
    enrolled = templates(gallery)
    scores = cosine(probe.vectors, enrolled.vectors)
    return ranks(scores, probe.subject_ids, enrolled.subject_ids) == 1, probe.subject_ids


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
        rows = json.loads(path.read_text())
        if failed := [row["run"] for row in rows if row["status"] != "done"]:
            print(f"note: {len(failed)} runs of the sweep are not done: {', '.join(failed[:5])}")
        models = [f"{row['run'].removeprefix(run + '/')}/{row['notebook']}" for row in rows if row["status"] == "done"]
    found = []
    for name in models:
        folder = find_stage(run, name)
        record = read_record(folder)
        if record["status"] != "done":
            raise UserError(f"{name} is {record['status']} in run {run}: train it first")
        found.append(Trained(record, json.loads((folder / "metrics.json").read_text()), folder))
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


def compare(first: list[Trained], second: list[Trained], division: Splits, replicates: int = 500) -> dict:
    """Second minus first, means over seeds, with 95 % intervals from drawing people alike for all of them.

    Keys: eer and accuracy (closed set), each with _low and _high, and _shown: the interval leaves out 0. People are
    drawn and seeds averaged, so the interval speaks of other people, not of other seeds.
    """
    trials = [
        [test_trials(Embeddings.load(network.folder / "unseen.npz"), division) for network in group]
        for group in (first, second)
    ]
    eer = paired_bootstrap(*trials, lambda roc: roc.eer()[0], replicates)
    right = [_named_rightly(group) for group in (first, second)]
    both = pd.concat(right, axis=1, keys=["first", "second"]).dropna()
    accuracy = mean_bootstrap(both["second"] - both["first"], both.index.get_level_values(1), replicates)
    found = {}
    for name, interval in {"eer": eer, "accuracy": accuracy}.items():
        low, high = float(interval.low), float(interval.high)
        found |= {name: float(interval.value), f"{name}_low": low, f"{name}_high": high}
        found[f"{name}_shown"] = bool(low > 0 or high < 0)
    return plain(found)


def _named_rightly(networks: list[Trained]) -> pd.Series:
    """By (pair_id, person): the share of the networks that gave the closed-set picture its right name."""
    tables = [read_table(n.folder / "predictions.csv", ["pair_id", "cls_name", "predicted"]) for n in networks]
    rows = pd.concat(tables)
    return (rows["cls_name"] == rows["predicted"]).groupby([rows["pair_id"], rows["cls_name"]]).mean()
