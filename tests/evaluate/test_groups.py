"""Rates by group: by hand, a planted difference is found, and chance alone is not taken for a difference."""

import numpy as np
import pandas as pd
import pytest

from face3d_lib.base.errors import UserError
from face3d_lib.evaluate import groups
from face3d_lib.evaluate.scores import Trials

ROWS = pd.DataFrame(
    [
        ("a1", "a", "old", "no"),
        ("a2", "a", "old", "yes"),
        ("b1", "b", "old", "no"),
        ("b2", "b", "old", ""),
        ("c1", "c", "young", "no"),
        ("c2", "c", "young", "yes"),
        ("d1", "d", "young", "no"),
        ("x1", "x", "child", "no"),
    ],
    columns=["pair_id", "subject_id", "age", "glasses"],
)


def trials_of(rows):
    ids = sorted({name for row in rows for name in row[:2]})
    place = {name: k for k, name in enumerate(ids)}
    a, b = (np.array([place[row[side]] for row in rows], int) for side in (0, 1))
    return Trials(np.array([row[2] for row in rows]), a, b, np.array(ids), np.array([name[0] for name in ids]))


TRIALS = trials_of(
    [
        ("a1", "a2", 0.4),
        ("b1", "b2", 0.5),
        ("c1", "c2", 0.9),
        ("a1", "b1", 0.5),
        ("a2", "b1", 0.1),
        ("c1", "d1", 0.2),
        ("a1", "c1", 0.9),
        ("a2", "c2", 0.6),
    ]
)


def test_a_trait_of_people_by_hand():
    """Impostor comparisons count within a group, those between groups for none; a score of 0.5 is accepted."""
    grouped = groups.grouping(ROWS, "age")
    right = pd.Series([True, False], pd.MultiIndex.from_tuples([("a2", "a"), ("b2", "b")]))
    table = groups.group_rates(TRIALS, grouped, 0.5, ["a3", "x1"], right, 50).set_index("group")
    assert table.index.tolist() == ["child", "old", "young", groups.UNKNOWN]  # a3 is not in the manifest
    assert table["genuine"].tolist() == [0, 2, 1, 0]
    assert table["impostor"].tolist() == [0, 2, 1, 0]
    assert table["people"].tolist() == [0, 2, 2, 0]
    assert table["pictures"].tolist() == [1, 4, 3, 1]
    assert table["failed"].tolist() == [1, 0, 0, 1]
    np.testing.assert_allclose(table["fta"], [1, 0, 0, 1])
    np.testing.assert_allclose(table["fnmr"], [np.nan, 0.5, 0, np.nan])
    np.testing.assert_allclose(table["fmr"], [np.nan, 0.5, 0, np.nan])
    np.testing.assert_allclose(table["rank1"], [np.nan, 0.5, np.nan, np.nan])


def test_a_condition_of_pictures_by_hand():
    """Each picture of a comparison is the probe once; b2 has no value."""
    grouped = groups.grouping(ROWS, "glasses")
    assert not grouped.is_trait(TRIALS.pair_ids, TRIALS.subject_ids)
    table = groups.group_rates(TRIALS, grouped, 0.5, replicates=50).set_index("group")
    assert table.index.tolist() == ["no", "yes", groups.UNKNOWN]
    assert table["genuine"].tolist() == [3, 2, 1]
    assert table["impostor"].tolist() == [7, 3, 0]
    assert table["genuine"].sum() == 2 * TRIALS.same.sum()
    np.testing.assert_allclose(table["fnmr"], [1 / 3, 1 / 2, 0])
    np.testing.assert_allclose(table["fmr"], [4 / 7, 2 / 3, np.nan])


def test_an_empty_group_is_a_row_without_data():
    table = groups.group_rates(TRIALS, groups.grouping(ROWS, "age"), 0.5, replicates=50).set_index("group")
    assert table.loc["child", "reason"] == "no data"
    assert table.loc["child", "pictures"] == 0
    assert table.loc["child", ["fta", "fnmr", "fmr", "eer"]].isna().all()
    assert "people" in table.loc["young", "reason"]  # too few for an interval, and it says so


def test_many_differences_are_corrected_and_the_interval_must_agree():
    rows = pd.DataFrame({"p": [0.02, 0.04, 0.001], "low": [0.1, 0.1, -0.1], "high": [0.3, 0.3, 0.3]})
    found = groups.corrected(rows)
    np.testing.assert_allclose(found["p_holm"], [0.04, 0.04, 0.003])
    assert found["shown"].tolist() == [True, True, False]
    assert not groups.corrected(rows.assign(p=0.02))["shown"].any()  # 0.06 after the correction


def test_pictures_without_a_comparison_are_not_counted():
    """Dev people stand in the same list of pictures as test people."""
    ids, names = np.append(TRIALS.pair_ids, "x1"), np.append(TRIALS.subject_ids, "x")
    more = Trials(TRIALS.score, TRIALS.a, TRIALS.b, ids, names)
    table = groups.group_rates(more, groups.grouping(ROWS, "age"), 0.5, replicates=50).set_index("group")
    assert table.loc["child", ["people", "pictures"]].tolist() == [0, 0]


def test_without_a_threshold():
    grouped = groups.grouping(ROWS, "age")
    table = groups.group_rates(TRIALS, grouped, np.nan, replicates=50)
    assert table[["fnmr", "fmr"]].isna().all(axis=None)
    assert not len(groups.differences(TRIALS, grouped, np.nan, 99))


def test_a_misspelt_column_gets_the_nearest_name():
    with pytest.raises(UserError, match="no column 'glases'; did you mean glasses"):
        groups.grouping(ROWS, "glases")
    many = pd.DataFrame({"pair_id": [f"a{k}" for k in range(40)], "word": [f"w{k}" for k in range(40)]})
    with pytest.raises(UserError, match="40 values, too many"):
        groups.grouping(many, "word")


def test_numbers_make_four_groups_and_words_are_chosen():
    yaw = [str(k) for k in range(-20, 19)] + [""]
    rows = pd.DataFrame({"pair_id": [f"a{k}" for k in range(40)], "yaw": yaw, "pose": ["half", "full"] * 20})
    grouped = groups.grouping(rows, "yaw")
    assert grouped.groups == ("-20 to -11", "-10 to -1", "0 to 8", "9 to 18")
    assert grouped.of(["a0", "a38", "a39", "z"]).tolist() == ["-20 to -11", "9 to 18", groups.UNKNOWN, groups.UNKNOWN]
    assert groups.columns_of(rows) == ["pose"]
    assert groups.columns_of(rows.assign(condition=rows["pose"])) == ["pose"]


def drawn(seed, harder=0.0, trait=True, n_people=16, pictures=4):
    """Trials of people who differ, and a table in which half the people (or pictures) are in group "one"."""
    rng = np.random.default_rng(seed)
    names = np.repeat([f"p{k:02d}" for k in range(n_people)], pictures)
    ids = np.array([f"{name}/{k}" for k, name in enumerate(names)])
    if trait:
        one = np.repeat(rng.permuted(np.arange(n_people) < n_people // 2), pictures)
    else:
        one = rng.random(len(names)) < 0.4
    person, picture = rng.normal(0, 0.15, n_people).repeat(pictures), rng.normal(0, 0.1, len(names))
    a, b = np.triu_indices(len(names), 1)
    same = names[a] == names[b]
    score = np.where(same, 0.6, 0.0) + person[a] + person[b] + picture[a] + picture[b] + rng.normal(0, 0.1, len(a))
    score -= harder * same * (one[a].astype(float) + one[b]) / 2
    rows = pd.DataFrame({"pair_id": ids, "kind": np.where(one, "one", "two")})
    return Trials(score, a, b, ids, names), rows


@pytest.mark.parametrize("trait", [True, False])
def test_a_planted_difference_is_shown(trait):
    trials, rows = drawn(3, 0.6, trait)
    found = groups.corrected(groups.differences(trials, groups.grouping(rows, "kind"), 0.45, 999)).set_index("rate")
    assert found["shown"].to_dict() == {"fnmr": True, "fmr": False}
    assert found.loc["fnmr", "difference"] > 0
    assert found.loc["fnmr", "low"] < found.loc["fnmr", "difference"] < found.loc["fnmr", "high"]
    assert found.loc["fmr", "low"] < found.loc["fmr", "difference"] < found.loc["fmr", "high"]
    assert (found["group"] == "one").all()  # of two groups one row is enough


@pytest.mark.parametrize("trait", [True, False])
def test_chance_is_not_taken_for_a_difference(trait):
    """The groups mean nothing here, though people and pictures differ: at most about 5 % of the tables show one."""
    shown, p = 0, []
    for seed in range(60):
        trials, rows = drawn(seed, 0, trait)
        found = groups.corrected(groups.differences(trials, groups.grouping(rows, "kind"), 0.45, 199, seed))
        shown += found["shown"].any()
        p += found["p"].tolist()
    assert shown <= 7, shown  # of 60; with the rate 0.05 more come in 1 % of all cases
    assert 0.01 <= (np.array(p) < 0.05).mean() <= 0.11
    assert 0.4 <= np.mean(p) <= 0.6  # a test that never rejects would be of no use


def test_the_difference_by_hand():
    found = groups.differences(TRIALS, groups.grouping(ROWS, "age"), 0.5, 99).set_index("rate")
    assert found.loc["fnmr", ["group", "difference"]].tolist() == ["old", 0.5]
    assert found.loc["fmr", ["group", "difference"]].tolist() == ["old", 0.5]
    found = groups.differences(TRIALS, groups.grouping(ROWS, "glasses"), 0.5, 99).set_index("rate")
    assert found.loc["fnmr", "difference"] == pytest.approx(1 / 3 - 1 / 2)
    assert found.loc["fmr", "difference"] == pytest.approx(4 / 7 - 2 / 3)


def test_the_threshold_itself_is_accepted_by_groups_too():
    counts = groups._counts(TRIALS, groups.grouping(ROWS, "age"), 0.9, True, True)
    assert counts.errors.sum() == 2  # 0.4 and 0.5; the score of 0.9 is accepted
