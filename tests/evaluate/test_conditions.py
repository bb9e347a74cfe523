"""Rates of probes under a condition, by hand-worked scores; what failed is counted and what is empty is said."""

import numpy as np
import pandas as pd
import pytest

from face3d_lib.data.splits import Splits
from face3d_lib.evaluate.conditions import (
    Probes,
    compare_probes,
    fuse_probes,
    in_print,
    probes_of_split,
    rates,
    rates_by_condition,
)
from face3d_lib.evaluate.embeddings import Embeddings
from face3d_lib.evaluate.metrics.curves import eer
from face3d_lib.evaluate.scores import FAILED

PEOPLE = np.array(["ada", "bo", "cy", "di"])


def probes(scores, subjects, acquired=None, enrolled=None):
    scores = np.array(scores, np.float32)
    acquired = np.ones(len(scores), bool) if acquired is None else np.array(acquired)
    enrolled = np.ones(scores.shape[1], bool) if enrolled is None else np.array(enrolled)
    ids = np.array([f"{name}/{k}" for k, name in enumerate(subjects)])
    return Probes(scores, ids, np.array(subjects), acquired, PEOPLE[: scores.shape[1]], enrolled)


def four(last=0.9):
    """Four probes of four people: three are right, and the fourth has the score `last` with its own person."""
    scores = np.full((4, 4), 0.1)
    np.fill_diagonal(scores, [0.9, 0.9, 0.9, last])
    return probes(scores, PEOPLE)


def test_every_probe_is_compared_with_every_person_once():
    trials = four().trials()
    assert len(trials.score) == 16
    assert trials.same.sum() == 4
    assert sorted(trials.genuine) == pytest.approx([0.9] * 4)
    assert list(trials.pair_ids[trials.b[:4]]) == [f"template of {name}" for name in PEOPLE]


def test_rates_are_those_of_the_metrics():
    mixed = four(0.05)
    mixed.scores[0, 1] = 0.95  # the first probe looks more like another person
    row = rates(mixed)
    genuine, impostor = mixed.scores[np.eye(4, dtype=bool)], mixed.scores[~np.eye(4, dtype=bool)]
    assert row["eer"] == eer(genuine, impostor)[0]
    assert row["rank1"] == 0.5
    assert (row["probes"], row["people"], row["failed"], row["fta"], row["reason"]) == (4, 4, 0, 0, "")
    assert row["eer_with_fta"] == row["eer"]
    assert 0 <= row["rank1_low"] <= row["rank1"] <= row["rank1_high"] <= 1
    assert row["fta_high"] > 0  # no failure among four people does not mean that there is never one


def test_a_tie_is_no_hit():
    assert rates(probes(np.full((4, 4), 0.5), PEOPLE))["rank1"] == 0


def test_a_face_that_was_not_found_is_rejected_and_not_identified():
    scores = four().scores.copy()
    scores[3] = FAILED
    row = rates(probes(scores, PEOPLE, [True, True, True, False]))
    assert (row["probes"], row["failed"], row["fta"]) == (4, 1, 0.25)
    assert (row["eer"], row["rank1"]) == (0, 1)
    assert row["rank1_with_fta"] == 0.75
    # at a threshold that accepts no impostor: FRR 1/4, FAR 0; one that accepts all found ones: FRR 1/4, FAR 9/12
    assert row["eer_with_fta"] == pytest.approx(0.125)


def test_a_person_without_a_template_is_a_failure_of_its_probes_and_no_impostor():
    scores = four().scores.copy()
    scores[:, 3] = FAILED
    one = probes(scores, PEOPLE, [True, True, True, False], [True, True, True, False])
    assert one.without_failures().scores.shape == (3, 3)
    assert rates(one)["rank1_with_fta"] == 0.75


def test_no_acquired_probe_and_no_probe_are_told_apart():
    lost = rates(probes(np.full((4, 4), FAILED), PEOPLE, [False] * 4))
    assert (lost["fta"], lost["rank1_with_fta"], lost["reason"]) == (1, 0, "no probe was acquired")
    assert np.isnan(lost["eer"])
    assert np.isnan(lost["rank1"])
    none = rates(four().select(np.zeros(4, bool)))
    assert (none["probes"], none["reason"]) == (0, "no data")
    assert np.isnan([none[name] for name in ("fta", "eer", "rank1", "eer_with_fta", "rank1_with_fta")]).all()


def test_each_value_of_a_condition_has_a_row_and_an_empty_one_says_so():
    condition = pd.Series({"ada/0": "dark", "bo/1": "dark", "cy/2": "bright", "elsewhere/9": "foggy"})
    table = rates_by_condition({"rgb": four(0.05), "depth": four()}, condition, ["dusk"])
    assert table["value"].tolist() == [v for v in ("bright", "dark", "dusk", "not known", "all") for _ in "ab"]
    rows = table[table["system"] == "rgb"].set_index("value")
    assert rows["probes"].to_dict() == {"bright": 1, "dark": 2, "dusk": 0, "not known": 1, "all": 4}
    assert rows["rank1"].drop("dusk").to_dict() == {"bright": 1, "dark": 1, "not known": 0, "all": 0.75}
    assert rows.loc["dusk", "reason"] == "no data"
    text = in_print(table, "rank1", ["depth", "rgb"], ["value"])
    assert text.index.tolist() == ["bright", "dark", "dusk", "not known", "all"]
    assert text.loc["dusk"].tolist() == ["no data", "no data", "0 of 0"]
    assert text.loc["all", "rgb"].startswith("0.750 [")
    assert (table[table["system"] == "depth"].set_index("value")["rank1"].drop("dusk") == 1).all()


def test_fused_probes_add_the_scores():
    fused = fuse_probes([four(0.1), four(0.9)], [0.25, 0.75])
    assert fused.scores[3, 3] == pytest.approx(0.25 * 0.1 + 0.75 * 0.9)


def vectors_of(names):
    found = np.zeros((len(names), 4), np.float32)
    for k, name in enumerate(names):
        found[k, list(PEOPLE).index(name.partition("/")[0])] = 1
    return Embeddings(np.array(names), np.array([name.partition("/")[0] for name in names]), found)


def test_a_vector_of_zeros_is_a_failure_and_a_stranger_an_error():
    lost = vectors_of(["ada/1", "bo/1"])
    lost.vectors[1] = 0
    assert compare_probes(lost, vectors_of(["ada", "bo"])).acquired.tolist() == [True, False]
    assert compare_probes(vectors_of(["ada/1", "bo/1"]), lost).acquired.tolist() == [True, False]
    with pytest.raises(ValueError, match="first is cy"):
        compare_probes(vectors_of(["cy/1"]), vectors_of(["ada", "bo"]))


def test_the_probes_of_a_split_include_its_failures_but_not_those_of_the_enrolment():
    def table(*rows):
        frame = pd.DataFrame(rows, columns=["pair_id", "session", "group"], dtype=str)
        return frame.assign(cls_name=frame["pair_id"].str.partition("/")[0])

    lost = table(
        ["ada/8", "s2", ""], ["ada/9", "s1", ""], ["bo/9", "s2", ""], ["cy/9", "s2", ""], ["di/9", "s2", ""]
    ).assign(role=["test"] * 4 + ["dev"], reason=["no_face", "no_face", "too_few_images", "no_face", "no_face"])
    empty = pd.DataFrame()
    division = Splits(
        empty,
        empty,
        empty,
        lost,
        table(["ada/0", "s1", "test"], ["bo/0", "s1", "test"], ["di/0", "s1", "dev"]),
        table(["ada/1", "s2", "test"], ["bo/1", "s2", "test"], ["di/1", "s2", "dev"]),
        empty,
        empty,
    )
    everybody = vectors_of(["ada/0", "ada/1", "bo/0", "bo/1", "di/0", "di/1"])
    found = probes_of_split(everybody, division)
    assert dict(zip(found.pair_ids, found.acquired, strict=True)) == {"ada/1": True, "bo/1": True, "ada/8": False}
    assert found.gallery.tolist() == ["ada", "bo"]


def test_a_split_that_enrols_nobody_has_no_data():
    empty = pd.DataFrame(columns=["pair_id", "session", "group", "cls_name", "role", "reason"], dtype=str)
    found = probes_of_split(vectors_of(["ada/0", "ada/1"]), Splits(*[empty] * 8))
    assert rates_by_condition({"rgb": found}, pd.Series(dtype=str))["reason"].tolist() == ["no data"]
