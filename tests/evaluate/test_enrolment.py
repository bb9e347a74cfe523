"""Galleries and templates of several sizes: by hand, with few people, and that no enrolled picture is a probe."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from test_protocol import split, vectors_of

from face3d_lib.base.errors import UserError
from face3d_lib.evaluate import enrolment
from face3d_lib.evaluate.embeddings import Embeddings
from face3d_lib.evaluate.metrics import identification, thresholds
from face3d_lib.evaluate.protocol import OpenSet, open_set


def three_people():
    """Three people with a probe each: the first is always found, the others are taken for each other; two unknown."""
    names = np.array(["ann", "bob", "cid"])
    known = np.array([[0.9, 0.1, 0.0], [0.1, 0.3, 0.7], [0.0, 0.8, 0.4]])
    unknown = np.array([[0.2, 0.0, 0.1], [0.0, 0.5, 0.1]])
    faces = Embeddings(names, names, np.eye(3, dtype=np.float32))
    return OpenSet(faces, faces, known, unknown)


def row_of(table, size, measure):
    return table[(table["size"] == size) & (table["measure"] == measure)].iloc[0]


def test_galleries_of_every_size_by_hand():
    table = enrolment.gallery_sizes(three_people(), [1, 2, 3, 4], far=0.5, at_ranks=(1, 2), draws=300)
    assert row_of(table, 1, "rank 1")["mean"] == 1  # nobody else to be taken for
    assert row_of(table, 1, "rank 2")["reason"] == "rank 2 needs 2 enrolled people"
    rank1 = row_of(table, 2, "rank 1")  # ann and bob: 1, ann and cid: 1, bob and cid: 0
    assert rank1["mean"] == pytest.approx(2 / 3, abs=0.08)
    assert rank1["sd"] == pytest.approx(np.sqrt(2 / 9), abs=0.05)
    assert row_of(table, 2, "rank 2")["mean"] == 1
    whole = row_of(table, 3, "rank 1")
    assert (whole["mean"], whole["draws"]) == (pytest.approx(1 / 3), 1)
    assert np.isnan(whole["sd"])  # there is one gallery of everybody
    assert row_of(table, 3, "DIR")["mean"] == pytest.approx(1 / 3)
    assert row_of(table, 4, "DIR")["reason"] == "3 people are enrolled, a gallery of 4 cannot be drawn"
    assert np.isnan(row_of(table, 4, "DIR")["mean"])


def test_the_whole_gallery_is_what_identification_says():
    division = split(test=9, strangers=2)
    people = open_set(vectors_of(division, noise=0.8), division)
    table = enrolment.gallery_sizes(people, [7], far=0.25, at_ranks=(1, 5))
    rates = identification.cmc(people.known, people.probes.subject_ids, people.enrolled.subject_ids)
    assert row_of(table, 7, "rank 5")["mean"] == rates[4]
    curve = identification.dir_curve(
        people.known, people.probes.subject_ids, people.enrolled.subject_ids, people.unknown
    )
    assert row_of(table, 7, "DIR")["mean"] == curve.at_far(0.25).dir


def test_a_far_that_the_unknown_probes_cannot_show_has_a_reason():
    table = enrolment.gallery_sizes(three_people(), [2, 3], far=0.1)
    assert table.loc[table["measure"] == "DIR", "mean"].isna().all()
    assert row_of(table, 2, "DIR")["reason"].startswith("FAR 0.1 cannot be measured with 2 unknown probes")


def test_only_who_is_enrolled_gives_false_alarms():
    lookalikes = np.array([[0.0, 0.0, 0.99], [0.0, 0.0, 0.99]])  # of cid
    people = dataclasses.replace(three_people(), unknown=lookalikes)
    alone = row_of(enrolment.gallery_sizes(people, [1], far=0.5, draws=300), 1, "DIR")
    assert alone["mean"] == pytest.approx(2 / 3, abs=0.08)  # ann and bob are found, cid is not


def test_probes_in_any_order_give_the_same_galleries():
    people = three_people()
    order = [2, 0, 1]
    probes = people.probes.select(people.probes.pair_ids[order])
    again = dataclasses.replace(people, probes=probes, known=people.known[order], unknown=people.unknown[::-1])
    found = [enrolment.gallery_sizes(one, [1, 2, 3], far=0.5, seed=4) for one in (people, again)]
    pd.testing.assert_frame_equal(*found)


def test_templates_of_all_pictures_are_those_of_the_protocol():
    division = split(dev=9, test=9, strangers=2, pictures=8)
    vectors = vectors_of(division, noise=1.2)
    table = enrolment.template_sizes(vectors, division, (1, 2, 4), far=0.25, replicates=50).set_index("pictures")
    assert table["people"].tolist() == [7, 7, 7]
    assert table["probes"].tolist() == [28, 28, 28]
    dev, test = (open_set(vectors, division, group) for group in ("dev", "test"))
    who, names = test.probes.subject_ids, test.enrolled.subject_ids
    threshold = thresholds.threshold_at_far(dev.alarms, 0.25)
    point = identification.dir_at(test.known, who, names, test.unknown, threshold)
    assert table.loc[4, "dir"] == pytest.approx(point.dir)
    assert table.loc[4, "far"] == pytest.approx(point.achieved_far)
    assert table.loc[4, "rank1"] == identification.cmc(test.known, who, names)[0]
    assert table.loc[1, "eer"] > table.loc[4, "eer"]  # more pictures average the noise
    assert (table["eer_low"] <= table["eer"]).all()
    assert (table["eer"] <= table["eer_high"]).all()


def test_the_order_of_the_rows_does_not_matter():
    division = split(dev=6, test=6, strangers=1, pictures=6)
    vectors = vectors_of(division, noise=1.2)
    order = np.random.default_rng(1).permutation(len(vectors))
    shuffled = dataclasses.replace(
        division, gallery=division.gallery.sample(frac=1, random_state=0), probe=division.probe[::-1]
    )
    other = vectors.select(vectors.pair_ids[order])
    found = [
        enrolment.template_sizes(*given, (1, 2), 0.2, replicates=20)
        for given in ((vectors, division), (other, shuffled))
    ]
    pd.testing.assert_frame_equal(*found)


def test_only_people_with_enough_pictures_count():
    counts = {"ann": 1, "bob": 2, "cid": 2, "dan": 8, "eva": 9}
    found = enrolment._people_by_size(counts, (1, 2, 4, 8))
    assert found[1] == found[2] == ["bob", "cid", "dan", "eva"]  # the same people, although ann has one picture
    assert found[4] == found[8] == ["dan", "eva"]  # fewer than half can fill these


def test_sizes_that_nobody_can_fill_are_nan_with_the_reason():
    division = split(dev=4, test=4, strangers=1, pictures=4)
    table = enrolment.template_sizes(vectors_of(division), division, (1, 2, 8), 0.5, replicates=20)
    assert table["people"].tolist() == [3, 3, 0]
    assert (
        table["reason"].tolist()[2]
        == "0 of the enrolled people have 8 pictures to enrol, two are needed; the most is 2"
    )
    assert table.iloc[2][["rank1", "dir", "eer"]].isna().all()


def test_without_development_people_there_is_no_dir_but_a_rank_1():
    division = split(test=4, strangers=1, pictures=4)
    table = enrolment.template_sizes(vectors_of(division), division, (1,), 0.5, replicates=20)
    assert np.isnan(table.loc[0, "dir"])
    assert table.loc[0, "rank1"] > 0.5
    assert "no development scores" in table.loc[0, "reason"]
    empty = split()
    assert enrolment.template_sizes(vectors_of(empty), empty, (1,)).loc[0, "reason"].startswith("0 of the enrolled")


def test_an_enrolled_picture_that_is_probed_too_is_refused():
    division = split(dev=3, test=3, strangers=1, pictures=4)
    twice = dataclasses.replace(division, probe=pd.concat([division.probe, division.gallery.tail(1)]))
    with pytest.raises(UserError, match="test2/1 is enrolled and probed"):
        enrolment.template_sizes(vectors_of(division), twice, (1, 2))
