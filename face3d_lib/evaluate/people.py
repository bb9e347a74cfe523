"""The people behind the errors: who is rejected, who is taken for somebody else, and which two people are most alike.

Doddington et al. ("Sheep, goats, lambs and wolves", ICSLP 1998) call people goats whose own pictures match badly, and
wolves or lambs those who match others well. A score that is the same in both directions cannot tell a wolf from a
lamb. Yager and Dunstone ("The biometric menagerie", IEEE TPAMI 32(2), 2010) look at both means of a person at once.
In any sample some people come last, so every table here comes with a test against chance.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from .scores import Trials

MATCHINGS = 11  # ways of choosing genuine comparisons that share no picture
QUARTERS = {  # Yager and Dunstone: (genuine mean, impostor mean) in the lowest (-1) or highest (1) quarter of people
    (1, -1): "dove",
    (1, 1): "chameleon",
    (-1, -1): "phantom",
    (-1, 1): "worm",
}


def per_person(trials: Trials, threshold: float) -> pd.DataFrame:
    """A row for each person in `trials`, in order of name, with counts, rates at the threshold and mean scores.

    Columns: genuine, false_rejects, fnmr, genuine_mean, impostor, false_accepts, fmr, impostor_mean. An impostor
    comparison counts for both of its people, and is accepted exactly when score >= threshold. A rate or a mean without
    comparisons is NaN, and so is every rate and count of errors if the threshold is.
    """
    names, codes = np.unique(np.asarray(trials.subject_ids), return_inverse=True)
    first, second, accepted = codes[trials.a], codes[trials.b], trials.score >= threshold
    score = trials.score.astype(np.float64)
    same = trials.same
    sides = {"genuine": first[same], "impostor": np.concatenate([first[~same], second[~same]])}
    wrong = {"genuine": ~accepted[same], "impostor": np.tile(accepted[~same], 2)}
    values = {"genuine": score[same], "impostor": np.tile(score[~same], 2)}
    table = pd.DataFrame(index=pd.Index(names, name="person"))
    for kind, errors, rate in (("genuine", "false_rejects", "fnmr"), ("impostor", "false_accepts", "fmr")):
        count = np.bincount(sides[kind], minlength=len(names))
        table[kind] = count
        table[errors] = np.bincount(sides[kind], wrong[kind], minlength=len(names)).astype(int)
        with np.errstate(invalid="ignore"):  # 0 / 0 is NaN: a person without such comparisons
            table[rate] = table[errors] / count
            table[f"{kind}_mean"] = np.bincount(sides[kind], values[kind], minlength=len(names)) / count
    if np.isnan(threshold):
        table = table.assign(**dict.fromkeys(("false_rejects", "fnmr", "false_accepts", "fmr"), np.nan))
    return table[(table["genuine"] > 0) | (table["impostor"] > 0)]


def worst(trials: Trials, same: bool, threshold: float, n: int = 6) -> pd.DataFrame:
    """The n worst comparisons, worst first: genuine ones (`same`) with the lowest, others with the highest scores.

    Of each person, or of each two people, only the worst comparison is listed, so that the rows show different people.
    Columns: person_a, person_b, pair_id_a, pair_id_b, score, and error: True where the threshold decides it wrongly.
    """
    rows = np.flatnonzero(trials.same == same)
    rows = rows[np.argsort(trials.score[rows] if same else -trials.score[rows], kind="stable")]
    codes = trials.subject_codes
    who = np.sort(np.stack([codes[trials.a[rows]], codes[trials.b[rows]]], axis=1), axis=1)
    rows = rows[np.sort(np.unique(who, axis=0, return_index=True)[1])[:n]]
    score = trials.score[rows]
    found: dict[str, np.ndarray] = {}
    for name, ids in (("person", trials.subject_ids), ("pair_id", trials.pair_ids)):
        found |= {f"{name}_{side}": np.asarray(ids)[at[rows]] for side, at in (("a", trials.a), ("b", trials.b))}
    return pd.DataFrame(found | {"score": score, "error": score < threshold if same else score >= threshold})


def closest(trials: Trials, n: int = 6) -> pd.DataFrame:
    """The n couples of people with the highest mean impostor score, the most alike first.

    Columns: person_a, person_b, comparisons, mean, highest. Couples with a single comparison come after those with
    more, because one score says little.
    """
    apart = ~trials.same
    names = np.asarray(trials.subject_ids)
    couples = np.sort(np.stack([names[trials.a[apart]], names[trials.b[apart]]], axis=1), axis=1)
    table = pd.DataFrame(couples, columns=["person_a", "person_b"]).assign(score=trials.score[apart])
    table = table.groupby(["person_a", "person_b"])["score"].agg(comparisons="size", mean="mean", highest="max")
    table = table.reset_index().assign(few=lambda rows: rows["comparisons"] == 1)
    order = table.sort_values(["few", "mean"], ascending=[True, False], kind="stable")
    return order.drop(columns="few").head(n).reset_index(drop=True)


@dataclass(frozen=True)
class Spread:
    """Whether people differ in their mean score by more than chance."""

    sd: float  # standard deviation of the people's means
    sd_by_chance: float  # the same if the scores were dealt to people at random
    p: float  # share of random deals with at least this spread; NaN where there is nothing to test
    people: pd.Series  # by name: p of this person's mean, corrected for looking at everybody; NaN without scores
    reason: str = ""


def spread_of_impostors(trials: Trials, replicates: int = 2000, seed: int = 0) -> Spread:
    """Are some people taken for others more than chance? For wolves and lambs.

    Each picture has the mean score of its impostor comparisons. Without differences between people it does not matter
    which picture is whose, so the pictures are dealt to the people at random, `replicates` times. A person's own p
    is corrected by the distribution of the most extreme person (Westfall and Young 1993).
    """
    apart = ~trials.same
    side = np.concatenate([trials.a[apart], trials.b[apart]])
    count = np.bincount(side, minlength=len(trials.pair_ids))
    total = np.bincount(side, np.tile(trials.score[apart].astype(np.float64), 2), minlength=len(count))
    seen = count > 0
    names = np.asarray(trials.subject_ids)
    return _spread([(total[seen] / count[seen], names[seen])], replicates, seed)


def spread_of_genuine(trials: Trials, replicates: int = 2000, seed: int = 0) -> Spread:
    """Do some people's own pictures match worse than chance? For goats.

    Two comparisons that share a picture are alike even if people do not differ, so a test on all comparisons, such as
    Kruskal and Wallis's in Doddington et al., finds differences where there are none. Here comparisons that share no
    picture are drawn and dealt to the people at random. That is done for several draws, and twice the median of their
    p holds whatever their dependence (Rüger 1978).
    """
    names, rng = np.asarray(trials.subject_ids), np.random.default_rng(seed)
    rows = np.flatnonzero(trials.same)
    draws = []
    for _ in range(MATCHINGS if len(rows) else 0):
        chosen = _disjoint(trials, rng.permutation(rows))
        draws.append((trials.score[chosen].astype(np.float64), names[trials.a[chosen]]))
    return _spread(draws, replicates, seed)


def menagerie(trials: Trials, threshold: float, replicates: int = 2000, seed: int = 0) -> tuple[pd.DataFrame, dict]:
    """(`per_person` with four more columns, {"genuine": Spread, "impostor": Spread}).

    Columns: genuine_p and impostor_p, of the person's mean against chance; animal: "goat" for a genuine mean that is low
    by more than chance, "wolf" for an impostor mean that is high by more than chance, both, or ""; quarter: the name
    of Yager and Dunstone for people in an extreme quarter of both means, which is no test.
    """
    table = per_person(trials, threshold)
    spreads = {
        "genuine": spread_of_genuine(trials, replicates, seed),
        "impostor": spread_of_impostors(trials, replicates, seed),
    }
    place = {}
    for kind, spread in spreads.items():
        table[f"{kind}_p"] = spread.people.reindex(table.index)
        low, high = table[f"{kind}_mean"].quantile([0.25, 0.75])
        place[kind] = np.where(table[f"{kind}_mean"] <= low, -1, np.where(table[f"{kind}_mean"] >= high, 1, 0))
    goat = (table["genuine_p"] < 0.05) & (table["genuine_mean"] < table["genuine_mean"].mean())
    wolf = (table["impostor_p"] < 0.05) & (table["impostor_mean"] > table["impostor_mean"].mean())
    both = zip(goat, wolf, strict=True)
    table["animal"] = [
        ", ".join(name for name, is_one in zip(("goat", "wolf"), one, strict=True) if is_one) for one in both
    ]
    table["quarter"] = [QUARTERS.get(where, "") for where in zip(place["genuine"], place["impostor"], strict=True)]
    return table, spreads


def _disjoint(trials: Trials, rows: np.ndarray) -> np.ndarray:
    """The rows that are left when, from the first, each row is dropped that shares a picture with a kept one."""
    used, kept = set[int](), []
    for row, left, right in zip(rows.tolist(), trials.a[rows].tolist(), trials.b[rows].tolist(), strict=True):
        if left not in used and right not in used:
            used |= {left, right}
            kept.append(row)
    return np.array(kept, int)


def _spread(draws: list[tuple[np.ndarray, np.ndarray]], replicates: int, seed: int) -> Spread:
    """The spread of people's means in each draw (values (V,), people (V,)) against random deals, over all draws."""
    everybody = np.unique(np.concatenate([people for _, people in draws])) if draws else np.empty(0, str)
    fewest = min((len(values) for values, _ in draws), default=0)
    if len(everybody) < 3 or fewest <= len(everybody):
        reason = f"{fewest} independent scores of {len(everybody)} people; 3 people and two scores each are needed"
        return Spread(np.nan, np.nan, np.nan, pd.Series(np.nan, everybody, float), reason)
    rng = np.random.default_rng(seed)
    found, single = [], []
    for values, people in draws:
        names, row = np.unique(people, return_inverse=True)
        count = np.bincount(row)
        order = np.argsort(row, kind="stable")
        starts = np.r_[0, np.cumsum(count)[:-1]]
        centred = (values - values.mean())[order]
        dealt = rng.permuted(np.broadcast_to(centred, (replicates, len(centred))), axis=1)
        mean, chance = (np.add.reduceat(x, starts, axis=-1) / count for x in (centred, dealt))  # (C,), (R, C)
        weighed, by_chance = mean**2 * count, chance**2 * count
        p = (1 + (by_chance.sum(1) >= weighed.sum() * (1 - 1e-9)).sum()) / (1 + replicates)
        found.append((mean.std(), np.sqrt((chance.std(axis=1) ** 2).mean()), p))
        beyond = by_chance.max(axis=1)[:, None] >= weighed * (1 - 1e-9)
        single.append(pd.Series((1 + beyond.sum(0)) / (1 + replicates), names))
    factor = 2 if len(draws) > 1 else 1
    sd, by_chance_sd, p = np.median(found, axis=0)
    each = (factor * pd.concat(single, axis=1).median(axis=1)).clip(upper=1).reindex(everybody)
    return Spread(float(sd), float(by_chance_sd), float(min(1, factor * p)), each)
