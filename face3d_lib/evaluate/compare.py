"""Rates of one trained network on people never seen, and comparisons of many trained networks."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike

from ..base.errors import UserError
from ..base.tables import read_table
from ..data.pack import Pack
from ..data.splits import Splits
from ..train.closed_set import vectors_of
from ..train.embedder import Embedder
from .embed import embed
from .embeddings import Embeddings
from .intervals import holm, mean_bootstrap, paired_bootstrap, subject_bootstrap
from .metrics.curves import best_weight, eer, eer_of
from .metrics.identification import ranks
from .metrics.thresholds import tar_at_far
from .protocol import open_set, trials_of, unseen_people
from .scores import Trials, cosine, joined, templates
from .trained import Trained

FAR = 0.01  # of the TAR that is reported beside the EER


def unseen(network: Embedder, packed: Pack, division: Splits, folder: Path, replicates: int = 200) -> dict:
    """Embed the dev and test people into folder/unseen.npz and rate the network on the test people.

    Keys: eer, tar (at FAR), rank1, each with _low and _high (95 %, bootstrap over people), and the numbers of genuine
    and impostor comparisons. A rate that needs more people is NaN.
    """
    vectors = embed(network, packed, packed.rows(unseen_people(division)["pair_id"]))
    vectors.save(Path(folder) / "unseen.npz")
    trials = trials_of(vectors, division)
    statistics = {"eer": eer_of, "tar": lambda roc: roc.tar_at_far(FAR)}
    found = {name: subject_bootstrap(trials, rate, replicates) for name, rate in statistics.items()}
    people = open_set(vectors, division)
    who = people.probes.subject_ids
    found["rank1"] = mean_bootstrap(ranks(people.known, who, people.enrolled.subject_ids) == 1, who, replicates)
    rates: dict[str, float] = {"genuine": len(trials.genuine), "impostor": len(trials.impostor)}
    for name, interval in found.items():
        rates |= interval.named(name)
    return rates


def table_of(networks: list[Trained], setting: Callable[[dict], str]) -> pd.DataFrame:
    """A row for each network: setting (its name from `setting(parameters)`), seed, and the metrics of its card."""
    rows = [
        {"setting": setting(network.parameters), "seed": network.parameters["seed"]} | network.card.metrics
        for network in networks
    ]
    return pd.DataFrame(rows).fillna(np.nan).infer_objects()


def spread(table: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """For each setting: mean and standard deviation of `columns` over seeds (NaN for one), and the number of seeds."""
    groups = table.groupby("setting", sort=False)
    parts = {"seeds": groups.size()}
    for column in columns:
        parts |= {column: groups[column].mean(), f"{column}_sd": groups[column].std()}
    return pd.DataFrame(parts)


@dataclass(frozen=True)
class Outcome:
    """The results of one system on the test people's comparisons and on the closed set's test pictures."""

    trials: Trials
    right: pd.Series  # by (pair_id, person): True where the picture got the right name


def outcome(network: Trained, division: Splits) -> Outcome:
    """The outcome of one trained network, from the files that its training notebook left."""
    for name in ("unseen.npz", "predictions.csv"):
        if not (network.folder / name).is_file():
            reason = "its notebook does not name the closed set of this run's split"
            raise UserError(f"{network.model} has no {name} ({reason}): compare models of the notebooks 30 to 34")
    named = read_table(network.folder / "predictions.csv", ["pair_id", "cls_name", "predicted"])
    right = _right(named["pair_id"], named["cls_name"], named["predicted"])
    return Outcome(trials_of(Embeddings.load(network.folder / "unseen.npz"), division), right)


def late_fusion(first: Trained, second: Trained, packed: Pack, division: Splits) -> tuple[Outcome, dict]:
    """(outcome, metrics) of two networks as one system, a weighted sum of scores with the weight chosen on dev people.

    On the closed set a picture gets the name of the template with the highest score; a template is the mean of a
    person's training pictures. Metrics: accuracy, eer, tar (at FAR), rank1, weight (of the first network), and
    accuracies: those of either network alone by the same rule.
    """
    both = [_unseen_of(network, packed, division) for network in (first, second)]
    dev = [trials_of(vectors, division, "dev") for vectors in both]
    weight = best_weight(dev[0], dev[1], n_steps=21)
    vectors = joined(both[0], both[1], weight)
    alone = [_closed_set(network, packed, division) for network in (first, second)]
    train, test = (joined(one, other, weight) for one, other in zip(*alone, strict=True))
    accuracies = [float(_named_by_templates(*one).mean()) for one in alone]
    found, rates = _by_templates(vectors, train, test, division)
    return found, rates | {"weight": weight, "accuracies": accuracies}


def without_training(network: Trained, packed: Pack, division: Splits) -> tuple[Outcome, dict]:
    """(outcome, metrics) of a pretrained network, which has no classifier: pictures are named as in `late_fusion`.

    Metrics: accuracy, eer, tar (at FAR), rank1.
    """
    return _by_templates(_unseen_of(network, packed, division), *_closed_set(network, packed, division), division)


def _by_templates(vectors: Embeddings, train: Embeddings, test: Embeddings, division: Splits) -> tuple[Outcome, dict]:
    """The outcome and the rates of a system from the vectors of unseen people and of the closed set."""
    trials, people = trials_of(vectors, division), open_set(vectors, division)
    found = ranks(people.known, people.probes.subject_ids, people.enrolled.subject_ids)
    right = _named_by_templates(train, test)
    rates = {"accuracy": right.mean(), "eer": eer(trials.genuine, trials.impostor)[0]}
    rates |= {"tar": tar_at_far(trials.genuine, trials.impostor, FAR).tar}
    rates |= {"rank1": (found == 1).mean() if len(found) else np.nan}
    return Outcome(trials, right), {name: float(rate) for name, rate in rates.items()}


def _unseen_of(network: Trained, packed: Pack, division: Splits) -> Embeddings:
    if network.is_pretrained:
        return embed(network.load(packed), packed, packed.rows(unseen_people(division)["pair_id"]))
    return Embeddings.load(network.folder / "unseen.npz")


def _closed_set(network: Trained, packed: Pack, division: Splits) -> tuple[Embeddings, Embeddings]:
    """The training and the test pictures, embedded without their mirror images, as a classifier sees them."""
    model, found = network.load(packed), []
    for part in (division.train, division.test):
        rows = packed.rows(part["pair_id"])
        vectors = torch.nn.functional.normalize(vectors_of(model, packed, rows)).cpu().numpy()
        found.append(Embeddings(part["pair_id"].to_numpy(str), part["cls_name"].to_numpy(str), vectors))
    return found[0], found[1]


def _named_by_templates(train: Embeddings, test: Embeddings) -> pd.Series:
    people = templates(train)
    nearest = cosine(test.vectors, people.vectors).argmax(axis=1)
    return _right(test.pair_ids, test.subject_ids, people.subject_ids[nearest])


def _right(pair_ids: ArrayLike, people: ArrayLike, named: ArrayLike) -> pd.Series:
    index = pd.MultiIndex.from_arrays([pair_ids, people], names=["pair_id", "cls_name"])
    return pd.Series(np.asarray(people) == np.asarray(named), index)


def compare(outcomes: dict[str, list[Outcome]], baseline: str, replicates: int = 1000) -> pd.DataFrame:
    """A row for each setting but the baseline: its rates minus the baseline's, the same people drawn for both.

    `outcomes` has a list for each setting, an outcome for each training seed, over which rates are averaged. Columns,
    for eer and for accuracy (closed set): the difference, _low and _high (95 %, the variation between people, not between
    seeds), _p, the two-sided p-value, _p_holm, the p-value corrected for the number of rows, and _shown: True where the
    corrected p-value is below 0.05.
    """
    others = [name for name in outcomes if name != baseline]
    rows = {name: _difference(outcomes[baseline], outcomes[name], replicates) for name in others}
    columns = [f"{rate}{end}" for rate in ("eer", "accuracy") for end in ("", "_low", "_high", "_p")]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns).astype(float)
    for rate in ("eer", "accuracy"):
        table[f"{rate}_p_holm"] = holm(table[f"{rate}_p"])
        table[f"{rate}_shown"] = table[f"{rate}_p_holm"] < 0.05
    return table


def people_intervals(outcomes: dict[str, list[Outcome]], replicates: int = 1000) -> pd.DataFrame:
    """For each setting, the 95 % interval over people of the mean over its seeds: eer and accuracy, _low and _high.

    This is the sampling error of people. The spread between training seeds, which it does not hold, is that of `spread`.
    """
    rows = {}
    for name, group in outcomes.items():
        rate = subject_bootstrap([system.trials for system in group], eer_of, replicates)
        right = _mean_right(group)
        accuracy = mean_bootstrap(right, right.index.get_level_values(1), replicates)
        rows[name] = [rate.low, rate.high, accuracy.low, accuracy.high]
    columns = [f"{rate}{end}" for rate in ("eer", "accuracy") for end in ("_low", "_high")]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).astype(float)


def _difference(first: list[Outcome], second: list[Outcome], replicates: int) -> list[float]:
    one, other = ([system.trials for system in group] for group in (first, second))
    rate = paired_bootstrap(one, other, eer_of, replicates)
    both = pd.concat([_mean_right(first), _mean_right(second)], axis=1, keys=["first", "second"]).dropna()
    people = both.index.get_level_values(1)
    accuracy = mean_bootstrap(both["second"] - both["first"], people, replicates, difference=True)
    return [getattr(found, end) for found in (rate, accuracy) for end in ("value", "low", "high", "p_value")]


def _mean_right(group: list[Outcome]) -> pd.Series:
    """By (pair_id, person): the share of the seeds that gave the picture the right name."""
    return pd.concat([system.right.astype(float) for system in group], axis=1).mean(axis=1)
