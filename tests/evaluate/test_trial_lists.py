"""Protocols over manifest columns: who is enrolled, who probes, what is missing, counted by hand."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from face3d_lib.base.errors import UserError
from face3d_lib.data.manifest import Manifest
from face3d_lib.data.splits import SplitSettings, make_splits
from face3d_lib.evaluate import trial_lists
from face3d_lib.evaluate.embeddings import Embeddings
from face3d_lib.evaluate.metrics import curves
from face3d_lib.evaluate.metrics.identification import leave_one_out_rank1
from face3d_lib.evaluate.scores import genuine_impostor
from face3d_lib.evaluate.trial_lists import COLUMNS, rates

ROWS = [  # pair_id, subject_id, use, people, session, condition, expression
    *[("a/1", "a", "gallery", "test", "s1", "", "neutral"), ("a/2", "a", "probe", "test", "s2", "", "smile")],
    *[("a/3", "a", "probe", "test", "s10", "", "smile"), ("b/1", "b", "gallery", "test", "s1", "", "neutral")],
    *[("b/2", "b", "probe", "test", "s2", "", "neutral"), ("c/1", "c", "unknown", "test", "s2", "", "smile")],
    *[("t/1", "t", "train", "train", "s1", "", "neutral"), ("t/2", "t", "test", "train", "s1", "", "frown")],
    *[("u/1", "u", "train", "train", "s1", "", "neutral"), ("u/2", "u", "train", "train", "s1", "", "neutral")],
    *[("u/3", "u", "test", "train", "s1", "", "neutral"), ("u/4", "u", "eval", "train", "s1", "", "")],
    *[("d/1", "d", "gallery", "dev", "s1", "", "neutral"), ("d/2", "d", "probe", "dev", "s2", "", "frown")],
]
TABLE = pd.DataFrame(
    ROWS, columns=["pair_id", "subject_id", "use", "people", "session", "condition", "expression"], dtype=str
)


def compared(one) -> dict[str, set[frozenset]]:
    """genuine and impostor comparisons of a list as sets of two pictures; a table without repetitions is checked."""
    assert list(one.pairs.columns) == COLUMNS
    sides = [frozenset(pair) for pair in zip(one.pairs["pair_id_a"], one.pairs["pair_id_b"], strict=True)]
    assert len(set(sides)) == len(sides)
    assert all(len(pair) == 2 for pair in sides)
    return {same: {pair for pair, s in zip(sides, one.pairs["same"], strict=True) if s == same} for same in "10"}


def two(*texts):
    return {frozenset(text.split()) for text in texts}


def test_image_split_probes_training_people_with_held_out_pictures():
    (one,) = trial_lists.image_split(TABLE)
    assert compared(one) == {"1": two("t/2 t/1", "u/3 u/1", "u/3 u/2"), "0": two("t/2 u/1", "t/2 u/2", "u/3 t/1")}
    assert one.without_mate == 0
    assert set(one.pairs["part"]) == {"people trained on"}
    (few,) = trial_lists.image_split(TABLE, people=1)
    assert few.reason == "no data: " + ("1" if "t/2" in few.probes else "2") + " genuine and 0 impostor comparisons"


def test_subject_disjoint_compares_all_pictures_of_test_people():
    (one,) = trial_lists.subject_disjoint(TABLE)
    pictures = ["a/1", "a/2", "a/3", "b/1", "b/2", "c/1"]
    found = compared(one)
    assert found["1"] == two("a/1 a/2", "a/1 a/3", "a/2 a/3", "b/1 b/2")
    assert found["1"] | found["0"] == {frozenset(pair) for pair in combinations(pictures, 2)}
    assert one.without_mate == 1  # the only picture of c
    (dev,) = trial_lists.subject_disjoint(TABLE, "dev")
    assert compared(dev) == {"1": two("d/1 d/2"), "0": set()}


def test_sessions_in_natural_order_each_later_one_against_the_first():
    second, tenth = trial_lists.sessions(TABLE)
    assert [second.part, tenth.part] == ["s1 → s2", "s1 → s10"]
    assert compared(second)["1"] == two("a/2 a/1", "b/2 b/1")
    assert compared(second)["0"] == two("a/2 b/1", "b/2 a/1", "c/1 a/1", "c/1 b/1")
    assert second.without_mate == 1  # c has no picture of the first session
    assert compared(tenth) == {"1": two("a/3 a/1"), "0": two("a/3 b/1")}
    (none,) = trial_lists.sessions(TABLE[TABLE["session"] == "s1"])
    assert none.reason == "no data: 0 probes, 2 enrolled pictures"
    (none,) = trial_lists.sessions(TABLE.assign(session=""))
    assert none.reason == "no data: 0 probes, 0 enrolled pictures"


def test_conditions_without_a_picture_are_lists_without_data():
    frown, smile = trial_lists.conditions(TABLE, "expression", "neutral")
    assert frown.part == "neutral → frown"  # only dev and training people frown
    assert frown.reason == "no data: 0 probes, 3 enrolled pictures"
    assert compared(smile)["1"] == two("a/2 a/1", "a/3 a/1")
    assert smile.without_mate == 1
    assert trial_lists.known_conditions(TABLE) == ["expression=neutral"]
    with pytest.raises(UserError, match=r"no column 'expresion'.*did you mean expression"):
        trial_lists.conditions(TABLE, "expresion", "neutral")
    with pytest.raises(UserError, match=r"never holds 'nutral'; did you mean neutral"):
        trial_lists.conditions(TABLE, "expression", "nutral")
    with pytest.raises(UserError, match="'condition' is empty for all 14 pictures"):
        trial_lists.conditions(TABLE, "condition", "neutral")


def test_one_sample_enrols_one_picture_of_each_person():
    (one,) = trial_lists.one_sample(TABLE)
    assert sorted(name[0] for name in one.gallery) == ["a", "b", "c"]
    assert sorted([*one.gallery, *one.probes]) == ["a/1", "a/2", "a/3", "b/1", "b/2", "c/1"]
    assert len(compared(one)["1"]) == 3
    assert one.without_mate == 0
    assert list(trial_lists.one_sample(TABLE)[0].gallery) == list(one.gallery)


def test_open_set_probes_with_people_who_are_not_enrolled():
    (one,) = trial_lists.open_set_lists(TABLE)
    assert compared(one)["1"] == two("a/2 a/1", "a/3 a/1", "b/2 b/1")
    assert two("c/1 a/1", "c/1 b/1") <= compared(one)["0"]
    assert one.without_mate == 1


def vectors(seed=0, noise=0.5):
    rng = np.random.default_rng(seed)
    of = {name: rng.normal(size=8) for name in "abctud"}
    found = np.array([of[who] + noise * rng.normal(size=8) for who in TABLE["subject_id"]])
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return Embeddings(TABLE["pair_id"].to_numpy(str), TABLE["subject_id"].to_numpy(str), found.astype(np.float32))


def test_a_modality_withheld_from_the_probes_alone():
    one = vectors()
    both = trial_lists.add_seen(one, vectors(1), "RGB")
    lists = trial_lists.sessions(TABLE)
    crossed = trial_lists.cross_modality(lists, "RGB")
    assert crossed[0].protocol == "RGB probe, RGB-D gallery"
    trials = genuine_impostor(both, crossed[0].pairs)
    scores = {(both.pair_ids[a], both.pair_ids[b]): s for a, b, s in zip(trials.a, trials.b, trials.score, strict=True)}
    for a, b in zip(lists[0].pairs["pair_id_a"], lists[0].pairs["pair_id_b"], strict=True):
        probe = vectors(1).vectors[TABLE.index[TABLE["pair_id"] == a][0]]
        enrolled = one.vectors[TABLE.index[TABLE["pair_id"] == b][0]]
        assert scores[f"{a} (RGB)", b] == pytest.approx(probe @ enrolled, abs=1e-6)
    table = rates(crossed, both, replicates=20)
    assert table["probes"].tolist() == [3, 1]
    (reverse, _) = trial_lists.cross_modality(lists, "RGB", "gallery")
    assert reverse.protocol == "RGB-D probe, RGB gallery"
    assert reverse.pairs["pair_id_a"].tolist() == lists[0].pairs["pair_id_a"].tolist()
    assert set(reverse.gallery) == {"a/1 (RGB)", "b/1 (RGB)"}
    assert rates([reverse], both, replicates=20)["genuine"].tolist() == [2]


def test_a_table_of_rates_has_a_row_for_each_list_and_says_what_is_missing():
    lists = [
        *trial_lists.subject_disjoint(TABLE),
        *trial_lists.conditions(TABLE, "expression", "neutral"),
        *trial_lists.sessions(TABLE),
    ]
    found = rates(lists, vectors(), replicates=30)
    assert found["part"].tolist() == ["any two pictures", "neutral → frown", "neutral → smile", "s1 → s2", "s1 → s10"]
    trials = genuine_impostor(vectors(), lists[0].pairs)
    assert found.loc[0, "eer"] == curves.eer(trials.genuine, trials.impostor)[0]
    assert found.loc[0, ["genuine", "impostor", "without_mate", "people"]].tolist() == [4, 11, 1, 3]
    assert "1 probes without a mate" in found.loc[0, "note"]
    empty = found.loc[1]
    assert empty[["eer", "eer_low", "tar", "rank1", "rank1_high"]].isna().all()
    assert empty["note"] == "no data: 0 probes, 3 enrolled pictures"
    assert "an interval needs" in found.loc[4, "note"]  # one person probes


def test_rank1_is_that_of_leave_one_out_where_all_are_compared_and_of_hand_where_not():
    (one,) = trial_lists.subject_disjoint(TABLE)
    test = TABLE["people"] == "test"
    for noise in (0.5, 2):
        hits = leave_one_out_rank1(vectors(0, noise).vectors[test], TABLE["subject_id"][test])
        assert rates([one], vectors(0, noise), replicates=10).loc[0, "rank1"] == pytest.approx(np.nanmean(hits))
    assert np.nanmean(hits) < 1  # a picture that were compared with itself would always be right
    at = {name: row for row, name in enumerate(TABLE["pair_id"])}
    (one,) = trial_lists.open_set_lists(TABLE)
    v = vectors().vectors
    right = [
        v[at[p]] @ v[at[f"{p[0]}/1"]] > v[at[p]] @ v[at[f"{q}/1"]]
        for p, q in (("a/2", "b"), ("a/3", "b"), ("b/2", "a"))
    ]
    assert rates([one], vectors(), replicates=10).loc[0, "rank1"] == pytest.approx(np.mean(right))
    same = Embeddings(vectors().pair_ids, vectors().subject_ids, np.repeat(v[:1], len(v), axis=0))
    assert rates([one], same, replicates=10).loc[0, "rank1"] == 0  # ties count against the probe


def test_many_impostors_are_drawn_and_all_genuine_stay(monkeypatch):
    monkeypatch.setattr(trial_lists, "MOST_IMPOSTORS", 50)
    people = pd.DataFrame([(f"p{k}/{i}", f"p{k}", "gallery" if i < 3 else "probe", "test", f"s{1 + i // 3}", "")
                           for k in range(20) for i in range(6)], columns=TABLE.columns[:6])  # fmt: skip
    for (one,) in (trial_lists.subject_disjoint(people), trial_lists.sessions(people)):
        found = compared(one)
        assert len(found["1"]) == (20 * 15 if one.protocol == "subject-disjoint" else 20 * 9)
        assert len(found["0"]) == 50
        assert all(len({name.split("/")[0] for name in pair}) == 2 for pair in found["0"])


def test_all_columns_of_the_manifest_are_there_and_the_split_says_who_is_who():
    rows = [(f"p{k:02d}/{i}", f"p{k:02d}", f"s{1 + i // 2}") for k in range(12) for i in range(4)]
    table = pd.DataFrame(rows, columns=["pair_id", "subject_id", "session"]).assign(status="ok", condition="half")
    table = table.assign(cls_name=table["subject_id"], sha256=table["pair_id"], rgb_sha256=table["pair_id"])
    split = make_splits(table.assign(rgb_image_path="", dep_image_path=""), SplitSettings())
    about = pd.DataFrame({"pair_id": table["pair_id"][1:], "subject_id": "someone else", "glasses": "yes"})
    found = trial_lists.picture_table(split, Manifest(about.assign(session="x", condition="y"), ()))
    assert sorted(found["pair_id"]) == sorted(table["pair_id"])
    assert (found["subject_id"] == found["pair_id"].str.partition("/")[0]).all()
    assert set(found["session"]) == {"s1", "s2"}
    assert found.set_index("pair_id")["glasses"].to_dict() == {**dict.fromkeys(table["pair_id"], "yes"), "p00/0": ""}
    for role in ("dev", "test"):
        opened = pd.concat([split.gallery, split.probe, split.unknown])
        placed = opened.loc[opened["group"] == role, "pair_id"]
        assert sorted(found.loc[found["people"] == role, "pair_id"]) == sorted(placed)
    assert list(trial_lists.picture_table(split).columns) == list(TABLE.columns[:6])
