"""Rates by any column of the manifest, such as age group, skin tone or glasses, and which differences are not chance.

A column either describes people (every picture of a person has the same value) or pictures (glasses, pose). For a
trait of people, impostor comparisons are those of two people of the same group, in which people resemble each other
most (ISO/IEC 19795-10 calls their rate the within-group FMR). For a condition of pictures each of the two pictures of a
comparison is in turn the probe, whose group the comparison counts for, so it counts once for each picture.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..base.errors import UserError, nearest
from .intervals import Interval, holm, mean_bootstrap, subject_bootstrap
from .metrics.curves import Roc, eer_of
from .metrics.failures import wilson
from .scores import Trials

UNKNOWN = "not known"  # the group of pictures without a value
MOST_GROUPS = 12  # numbers with more values make four groups; words with more are no groups
NO_GROUPS = {"pair_id", "subject_id"}
RATES = ("fta", "fnmr", "fmr", "eer", "rank1")


@dataclass(frozen=True)
class Grouping:
    """The groups of one column: the group of each picture, and every group of the data set in order."""

    column: str
    group_of: dict[str, str]  # pair_id -> group; a picture that is missing is of the group UNKNOWN
    groups: tuple[str, ...]

    def of(self, pair_ids: Iterable[str]) -> np.ndarray:
        """(N,) object: the group of each picture."""
        return np.array([self.group_of.get(pair_id, UNKNOWN) for pair_id in pair_ids], object)

    def is_trait(self, pair_ids: Iterable[str], people: Iterable[str]) -> bool:
        """True where all pictures of each person have the same value."""
        table = pd.DataFrame({"person": list(people), "group": self.of(pair_ids)})
        known = table[table["group"] != UNKNOWN]
        return bool((known.groupby("person")["group"].nunique() <= 1).all())


def grouping(rows: pd.DataFrame, column: str) -> Grouping:
    """The groups of a column of the manifest's `rows` (pair_id and text columns).

    A column of numbers with more than 12 values is cut into four groups of about the same size. UserError, with the
    nearest name, where there is no such column, and where it has too many values to be groups.
    """
    if column not in rows:
        raise UserError(f"manifest.csv has no column {column!r}; did you mean {nearest(column, rows.columns)}?")
    cells = rows[column].astype(str).str.strip()
    numbers = pd.to_numeric(cells.where(cells != ""), errors="coerce")
    if cells.nunique() > MOST_GROUPS and numbers.notna().sum() == (cells != "").sum():
        quarter = pd.qcut(numbers, 4, labels=False, duplicates="drop")
        ends = numbers.groupby(quarter).agg(["min", "max"])
        order = [f"{low:g} to {high:g}" for low, high in ends.itertuples(index=False)]
        cells = quarter.map(dict(zip(ends.index, order, strict=True))).fillna("")
    else:
        order = sorted(set(cells) - {""})
    if len(order) > MOST_GROUPS:
        raise UserError(f"manifest.csv: column {column!r} has {len(order)} values, too many for groups: name another")
    known = cells != ""
    return Grouping(column, dict(zip(rows.loc[known, "pair_id"], cells[known], strict=True)), tuple(order))


def columns_of(rows: pd.DataFrame) -> list[str]:
    """The columns of the manifest's `rows` that divide the pictures into 2 to 12 groups by words."""
    found = []
    for column in rows.columns.difference(NO_GROUPS, sort=False):
        cells = rows[column].astype(str).str.strip()
        words = pd.to_numeric(cells, errors="coerce").isna().any()
        if words and 2 <= len(set(cells) - {""}) <= MOST_GROUPS:
            found.append(column)
    twice = "condition" in found and "pose" in found and (rows["condition"] == rows["pose"]).all()
    return [column for column in found if not (twice and column == "condition")]


def trials_by_group(trials: Trials, groups: Grouping) -> dict[str, Trials]:
    """The trials of each group, as the top of this file says; those of a group without pictures are empty."""
    group = groups.of(trials.pair_ids)
    left, right = group[trials.a], group[trials.b]
    trait = groups.is_trait(trials.pair_ids, trials.subject_ids)
    found = {}
    for name in (*groups.groups, *([UNKNOWN] if UNKNOWN in group else [])):
        if trait:
            rows = np.flatnonzero((left == name) & (right == name))
        else:
            rows = np.concatenate([np.flatnonzero(side == name) for side in (left, right)])
        found[name] = trials.select(rows)
    return found


def group_rates(
    trials: Trials,
    groups: Grouping,
    threshold: float,
    lost: Iterable[str] = (),
    right: pd.Series | None = None,
    replicates: int = 200,
) -> pd.DataFrame:
    """A row for each group with counts and rates with 95 % intervals over people, and the reason where one is missing.

    Columns: group, people, pictures, failed, genuine, impostor, then fta, fnmr, fmr, eer and rank1, each with _low and
    _high, and reason. fnmr and fmr are at `threshold`. lost: pair_ids of pictures of these people in which no face was
    found. right: True or False for each probe, by (pair_id, person), where rank-1 was measured. A group that nobody
    belongs to is a row whose reason is "no data". The interval of fta takes pictures as independent (Wilson).
    """
    lost_group = groups.of(lost)
    group, names = groups.of(trials.pair_ids), np.asarray(trials.subject_ids)
    probes = groups.of(right.index.get_level_values(0)) if right is not None else np.empty(0, object)
    used = np.isin(np.arange(len(group)), np.concatenate([trials.a, trials.b]))  # dev people are in the list, too
    rows, parts = [], trials_by_group(trials, groups)
    parts |= {UNKNOWN: trials.select(np.empty(0, int))} if UNKNOWN in lost_group and UNKNOWN not in parts else {}
    for name, part in parts.items():
        mine, failed = used & (group == name), int((lost_group == name).sum())
        taken = int(mine.sum()) + failed
        row = {"group": name, "people": len(set(names[mine])), "pictures": taken, "failed": failed}
        row |= {"genuine": len(part.genuine), "impostor": len(part.impostor)}
        low, high = wilson(failed, taken) if taken else (np.nan, np.nan)
        row |= {"fta": failed / taken if taken else np.nan, "fta_low": low, "fta_high": high}
        chosen = right[probes == name] if right is not None else None
        intervals = _rates(part, threshold, chosen, replicates)
        for rate, found in intervals.items():
            row |= found.named(rate)
        reasons = dict.fromkeys(f"{rate}: {found.reason}" for rate, found in intervals.items() if found.reason)
        rows.append(row | {"reason": " | ".join(reasons) if taken else "no data"})
    return pd.DataFrame(rows)


def differences(
    trials: Trials, groups: Grouping, threshold: float, replicates: int = 9999, seed: int = 0
) -> pd.DataFrame:
    """Each group's FNMR and FMR minus those of all other groups: column, group, rate, difference, low, high, p.

    low and high are the 95 % bootstrap over people. p is of a permutation test that keeps every person's scores together:
    for a trait of people the groups are dealt to the people at random; for a condition of pictures each person's
    pictures exchange their conditions at random. Of two groups only the first is compared, because the second says the
    same. A difference is more than chance where p, corrected by `corrected` for all rows that are read together,
    is below 0.05 and the interval does not contain 0: the test speaks of these people, the interval of people like
    them. Pictures without a value are left out; a NaN threshold gives no row.
    """
    trait = groups.is_trait(trials.pair_ids, trials.subject_ids)
    rows = []
    for rate in ("fnmr", "fmr") if not np.isnan(threshold) else ():
        counts = _counts(trials, groups, threshold, rate == "fnmr", trait)
        n = np.bincount(counts.code[counts.code >= 0], counts.n[counts.code >= 0], len(groups.groups))
        present = np.flatnonzero(n)
        tested = present[: 1 if len(present) == 2 else None] if len(present) > 1 else present[:0]
        found = _minus_rest(counts, counts.code, np.ones(len(counts.n)))[tested]
        low, high = np.nanpercentile(
            _resampled(counts, max(199, replicates // 10), seed)[:, tested], [2.5, 97.5], axis=0
        )
        chance = (_dealt if trait else _shuffled)(counts, replicates, seed)[:, tested]
        p = (1 + (np.abs(chance) >= np.abs(found) * (1 - 1e-9)).sum(0)) / (1 + replicates)
        rows += [
            {"column": groups.column, "group": groups.groups[g], "rate": rate}
            | {"difference": found[k], "low": low[k], "high": high[k], "p": p[k]}
            for k, g in enumerate(tested)
        ]
    return pd.DataFrame(rows, columns=["column", "group", "rate", "difference", "low", "high", "p"])


def corrected(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of `differences`, all that are read together, with p_holm and shown: True where it is no chance."""
    rows = rows.assign(p_holm=holm(rows["p"].to_numpy(float)))
    return rows.assign(shown=(rows["p_holm"] < 0.05) & ((rows["low"] > 0) | (rows["high"] < 0)))


def _rates(part: Trials, threshold: float, right: pd.Series | None, replicates: int) -> dict[str, Interval]:
    """The rates of one group's trials and probes with their intervals."""

    def false_matches(roc: Roc) -> float:
        return float(roc.at(threshold)[0])

    nothing = Interval(np.nan, np.nan, np.nan, 0.95, 0, 0, "no threshold")
    known = not np.isnan(threshold)
    who = np.asarray(part.subject_ids)[part.a[part.same]]
    rates = {
        "fnmr": mean_bootstrap(part.genuine < threshold, who, replicates) if known else nothing,
        "fmr": subject_bootstrap(part, false_matches, replicates) if known else nothing,
        "eer": subject_bootstrap(part, eer_of, replicates),
    }
    if right is not None:
        rates["rank1"] = mean_bootstrap(right.to_numpy(float), right.index.get_level_values(1), replicates)
    return rates


@dataclass(frozen=True)
class _Counts:
    """Errors and comparisons by the two people compared, C in all, and the group: M rows for G groups."""

    i: np.ndarray  # (M,) person of the probe
    j: np.ndarray  # (M,) the other person
    code: np.ndarray  # (M,) number of the group; -1: a comparison between two groups of people
    errors: np.ndarray  # (M,)
    n: np.ndarray  # (M,)
    label: np.ndarray  # (C,) number of the person's group where the column is a trait; -1: not known
    n_groups: int
    pictures: pd.DataFrame  # person, code, errors and n of each picture as the probe, where the column is a condition

    @property
    def genuine(self) -> bool:
        return bool((self.i == self.j).all())


def _counts(trials: Trials, groups: Grouping, threshold: float, same: bool, trait: bool) -> _Counts:
    """The counts of the genuine (`same`) or the impostor comparisons whose pictures have a known group."""
    number = {name: k for k, name in enumerate(groups.groups)}
    picture = np.array([number.get(name, -1) for name in groups.of(trials.pair_ids)], int)
    person, label = trials.subject_codes, np.full(int(trials.subject_codes.max(initial=-1)) + 1, -1)
    label[person[picture >= 0]] = picture[picture >= 0]
    rows = np.flatnonzero(trials.same == same)
    a, b = trials.a[rows], trials.b[rows]
    wrong = (trials.score[rows] < threshold) if same else (trials.score[rows] >= threshold)
    if not trait:  # each of the two pictures is the probe once
        a, b, wrong = np.concatenate([a, b]), np.concatenate([b, a]), np.tile(wrong, 2)
    known = (picture[a] >= 0) & ((picture[b] >= 0) | (not trait))
    a, b, wrong = a[known], b[known], wrong[known]
    probes, at = np.unique(a, return_inverse=True)
    shots = pd.DataFrame({"person": person[probes], "code": picture[probes]})
    shots = shots.assign(errors=np.bincount(at, wrong, len(probes)), n=np.bincount(at, minlength=len(probes)))
    code = np.where(picture[a] == picture[b], picture[a], -1) if trait else picture[a]
    keys, row = np.unique(np.stack([person[a], person[b], code], axis=1), axis=0, return_inverse=True)
    row, size = row.ravel(), len(keys)
    errors, n = np.bincount(row, wrong, size), np.bincount(row, minlength=size)
    i, j, code = keys.reshape(-1, 3).T
    return _Counts(i, j, code, errors, n.astype(float), label, len(groups.groups), shots)


def _minus_rest(counts: _Counts, code: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(G,) the rate of each group minus that of all others, with a weight (M,) for each row of the counts."""
    inside = code >= 0
    return _less_the_rest(
        *(np.bincount(code[inside], (part * weight)[inside], counts.n_groups) for part in (counts.errors, counts.n))
    )


def _resampled(counts: _Counts, replicates: int, seed: int) -> np.ndarray:
    """(R, G) differences when people are drawn again with replacement."""
    rng, n_people = np.random.default_rng(seed), len(counts.label)
    found = np.empty((replicates, counts.n_groups))
    for k in range(replicates):
        times = np.bincount(rng.integers(0, n_people, n_people), minlength=n_people).astype(float)
        weight = times[counts.i] if counts.genuine else times[counts.i] * times[counts.j]
        found[k] = _minus_rest(counts, counts.code, weight)
    return found


def _dealt(counts: _Counts, replicates: int, seed: int) -> np.ndarray:
    """(R, G) differences when the groups are dealt to the people at random: how they vary without a true difference."""
    rng, known = np.random.default_rng(seed), np.flatnonzero(counts.label >= 0)
    found, label, weight = np.empty((replicates, counts.n_groups)), counts.label.copy(), np.ones(len(counts.n))
    for k in range(replicates):
        label[known] = rng.permutation(counts.label[known])
        left, right = label[counts.i], label[counts.j]
        found[k] = _minus_rest(counts, np.where(left == right, left, -1), weight)
    return found


def _shuffled(counts: _Counts, replicates: int, seed: int) -> np.ndarray:
    """(R, G) differences when each person's pictures exchange their groups at random."""
    rng, at = np.random.default_rng(seed), counts.pictures
    order = np.argsort(at["person"].to_numpy(), kind="stable")
    person, code, errors, n = (at[name].to_numpy()[order] for name in ("person", "code", "errors", "n"))
    ends = np.flatnonzero(np.r_[np.diff(person) != 0, True]) + 1
    found = np.empty((replicates, counts.n_groups))
    for first in range(0, replicates, 1000):  # (1000, K) at a time
        part = np.broadcast_to(code, (min(1000, replicates - first), len(code)))
        dealt = np.concatenate([rng.permuted(one, axis=1) for one in np.split(part, ends[:-1], axis=1)], axis=1)
        place = (dealt + counts.n_groups * np.arange(len(dealt))[:, None]).ravel()
        sums = [
            np.bincount(place, np.tile(values, len(dealt)), len(dealt) * counts.n_groups).reshape(len(dealt), -1)
            for values in (errors, n)
        ]
        found[first : first + len(dealt)] = _less_the_rest(*sums)
    return found


def _less_the_rest(errors: np.ndarray, n: np.ndarray) -> np.ndarray:
    """(..., G) the rate of each group minus that of all others together; NaN where either has no comparison."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return errors / n - (errors.sum(-1, keepdims=True) - errors) / (n.sum(-1, keepdims=True) - n)
