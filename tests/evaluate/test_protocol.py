"""Who is compared with whom, and that few people give what can be measured."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from face3d_lib.data.splits import PAIR_COLUMNS, Splits
from face3d_lib.evaluate import intervals
from face3d_lib.evaluate.embeddings import Embeddings
from face3d_lib.evaluate.metrics import identification, thresholds
from face3d_lib.evaluate.protocol import everybody, open_set, trials_of, unseen_people

COLUMNS = ["pair_id", "cls_name", "group"]


def split(dev=0, test=0, strangers=0, pictures=4):
    """A split of `dev` and `test` people, of whom `strangers` of each group are not enrolled; half the pictures enrol."""
    parts, pairs = {"gallery": [], "probe": [], "unknown": []}, []
    for group, count in (("dev", dev), ("test", test)):
        ids = [(f"{group}{k}/{i}", f"{group}{k}", group) for k in range(count) for i in range(pictures)]
        for pair_id, name, _ in ids:
            number, picture = int(name.removeprefix(group)), int(pair_id[-1])
            part = "unknown" if number < strangers else "gallery" if picture < max(1, pictures // 2) else "probe"
            parts[part].append((pair_id, name, group))
        for k, (a, who, _) in enumerate(ids):
            pairs += [(a, b, str(int(who == other)), group) for b, other, _ in ids[k + 1 :]]
    frames = {name: pd.DataFrame(rows, columns=COLUMNS, dtype=str) for name, rows in parts.items()}
    empty = pd.DataFrame(columns=["pair_id", "cls_name", "reason"], dtype=str)
    closed = dict.fromkeys(("train", "eval", "test", "dirty"), empty)
    return Splits(**closed, **frames, pairs=pd.DataFrame(pairs, columns=PAIR_COLUMNS, dtype=str))


def vectors_of(division, size=16, noise=0.3):
    people = unseen_people(division)
    rng = np.random.default_rng(0)
    base = {name: rng.normal(size=size) for name in sorted(set(people["cls_name"]))}
    found = np.array([base[name] + noise * rng.normal(size=size) for name in people["cls_name"]]).reshape(-1, size)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return Embeddings(people["pair_id"].to_numpy(str), people["cls_name"].to_numpy(str), found.astype(np.float32))


def test_an_open_set_by_its_parts():
    division = split(dev=3, test=4, strangers=1)
    vectors = vectors_of(division)
    people = open_set(vectors, division)
    assert people.enrolled.subject_ids.tolist() == ["test1", "test2", "test3"]
    assert people.known.shape == (6, 3)
    assert people.unknown.shape == (4, 3)
    own = [people.known[k, int(name[-1]) - 1] for k, name in enumerate(people.probes.subject_ids)]
    np.testing.assert_array_equal(people.own_scores, own)
    np.testing.assert_array_equal(people.best_of_unknown, people.unknown.max(axis=1))
    others = [
        np.delete(row, int(name[-1]) - 1).max()
        for row, name in zip(people.known, people.probes.subject_ids, strict=True)
    ]
    np.testing.assert_array_equal(people.alarms, [*others, *people.best_of_unknown])
    assert set(open_set(vectors, division, "dev").enrolled.subject_ids) == {"dev1", "dev2"}
    assert len(trials_of(vectors, division).genuine) == 4 * 6
    assert len(trials_of(vectors, division, "dev").impostor) == 3 * 16


def test_one_enrolled_person_raises_no_alarm_with_nobody_else():
    """A probe of the only enrolled person resembles nobody else: the score -1 must not become a threshold."""
    division = split(dev=1)
    people = open_set(vectors_of(division), division, "dev")
    assert len(people.known) == 2
    assert len(people.alarms) == 0
    assert np.isnan(thresholds.threshold_at_far_or_above(people.alarms, 0.1)[0])
    division = split(dev=2, strangers=1)
    assert len(open_set(vectors_of(division), division, "dev").alarms) == 4  # the stranger's pictures


FEW = {
    "nobody": {},
    "no dev people": {"test": 3, "strangers": 1},
    "one test person": {"dev": 2, "test": 1},
    "no unknown people": {"dev": 2, "test": 2},
    "only strangers": {"dev": 2, "test": 1, "strangers": 2},
    "one picture each": {"dev": 2, "test": 3, "pictures": 1},
}


@pytest.mark.parametrize("few", FEW)
def test_few_people_give_what_can_be_measured_and_nan_with_reasons(few):
    """The steps of notebooks 40, 41 and 50 on a split in which something is missing."""
    division = split(**FEW[few])
    vectors = vectors_of(division)
    trials = {group: trials_of(vectors, division, group) for group in ("dev", "test")}
    people = {group: open_set(vectors, division, group) for group in ("dev", "test")}
    threshold, caution = thresholds.threshold_at_far_or_above(people["dev"].alarms, 0.1)
    test = people["test"]
    point = identification.dir_at(
        test.known, test.probes.subject_ids, test.enrolled.subject_ids, test.unknown, threshold
    )
    eer = intervals.subject_bootstrap(trials["test"], lambda roc: roc.eer()[0], 20)
    for value, reason in ((point.dir, point.reason), (point.achieved_far, point.reason), (eer.value, eer.reason)):
        assert np.isfinite(value) or reason
    assert np.isfinite(threshold) or caution
    if few == "no unknown people":
        assert np.isnan(point.achieved_far)
        assert np.isfinite([point.dir, eer.value]).all()
        assert point.reason == "no unknown probe"


def test_everybody_is_who_is_certain():
    division = split(test=1)
    reasons = {"anna/1": "duplicate_of_other_subject", "anna/2": "duplicate", "bert/1": "too_few_images"}
    dirty = pd.DataFrame([(i, i[:4], why) for i, why in reasons.items()], columns=["pair_id", "cls_name", "reason"])
    packed = SimpleNamespace(index=pd.DataFrame({"pair_id": ["anna/1", "anna/2", "bert/1", "test0/0"]}))
    assert everybody(dataclasses.replace(division, dirty=dirty), packed).tolist() == [1, 2, 3]
