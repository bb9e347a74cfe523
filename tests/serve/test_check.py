"""The check of a gallery against hand-worked scores."""

import json

import numpy as np
import pytest

from face3d_lib.base.atomic import plain
from face3d_lib.base.errors import UserError
from face3d_lib.evaluate.embeddings import Embeddings
from face3d_lib.serve import check as checks
from face3d_lib.serve.check import check, doubt_of
from face3d_lib.serve.check_shown import as_html, as_text, draw
from face3d_lib.serve.gallery import Gallery, Picture
from face3d_lib.serve.strangers import Strangers

TABLE = Strangers((0.1, 0.01), (0.8, 0.9), (0.05, 0.005), (0.2, 0.02), 0.95, 1000, 40, "made by hand")


def at(*degrees):
    """Unit vectors in a plane, so that a score is the cosine of a difference of angles."""
    angles = np.deg2rad(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def gallery(people, threshold=0.9, **more):
    vectors = np.concatenate([at(*angles) for angles in people.values()])
    pictures = tuple(tuple(Picture(f"{name}/{k}") for k in range(len(angles))) for name, angles in people.items())
    return Gallery(tuple(people), vectors, "a" * 64, threshold, 0.01, pictures=pictures, **more)


FIVE = {"a": (0, 10), "b": (60, 70), "c": (120, 130), "d": (180, 190), "e": (240, 280)}


def test_each_picture_is_asked_for_without_itself():
    found = check(gallery(FIVE))  # pictures of one person are 10 degrees apart, those of e 40
    assert (found.people, found.pictures, found.pictures_each) == (5, 10, {2: 5})
    assert np.allclose(found.scores["own person"], np.cos(np.deg2rad([10] * 8 + [40] * 2)), atol=1e-6)
    assert found.right.value == pytest.approx(0.8)  # cos 10 = .98; e's pictures do not find each other
    assert found.wrong.value == 0
    assert found.right.low < 0.8 < found.right.high
    assert found.alarms.value == 0


def test_the_closest_people_and_the_highest_stranger():
    found = check(gallery({"a": (0, 10), "b": (15,), "c": (120,)}))
    score, one, other = found.closest
    assert {one, other} == {"a", "b"}
    assert score == pytest.approx(np.cos(np.deg2rad(10)), abs=1e-6)  # template of a at 5 degrees
    score, picture, person = found.highest_stranger
    assert (picture, person) == ("a/1", "b")
    assert score == pytest.approx(np.cos(np.deg2rad(5)), abs=1e-6)
    assert any("'a' and 'b' are as alike as one person" in line for line in found.advice)
    assert any("2 people have one picture" in line for line in found.advice)


def test_siblings_are_alarms():
    people = FIVE | {"sibling": (1, 11)}
    found = check(gallery(people))
    assert found.alarms.value == pytest.approx(4 / 12)
    assert found.alarms.n_subjects == 6


def test_what_few_people_cannot_say_is_nan_with_the_reason():
    found = check(gallery({"a": (0, 10), "b": (90,)}))
    for name in ("right", "wrong", "alarms"):
        assert np.isnan(getattr(found, name).value)
        assert "a rate needs 5" in found.reasons[name]
    assert np.isnan(found.one_more.value)
    assert np.isnan(found.expected_alarms[0])  # no model of that identity ships with scores
    assert "--strangers" in found.reasons["expected_alarms"]
    assert all(np.isnan(limit.threshold) for limit in found.thresholds.values())
    alone = check(gallery({"a": (0,)}))
    assert np.isnan(alone.closest[0])
    assert np.isnan(alone.highest_stranger[0])
    nobody = check(gallery({"a": (0,)}).forget("a"))
    assert (nobody.people, nobody.pictures) == (0, 0)
    for each in (found, alone, nobody):
        assert as_text(each)
        assert draw(each).axes
        json.dumps(plain(each), allow_nan=False)


def test_thresholds_are_those_for_the_size_of_the_gallery():
    found = check(gallery(FIVE, strangers=TABLE))
    for limit in found.thresholds.values():
        assert (limit.low, limit.high) == TABLE.rate(limit.threshold, 5)[1:]
    assert found.thresholds[0.1].threshold == TABLE.threshold(0.1, 5)[0]
    assert found.expected_alarms == TABLE.rate(0.9, 5)
    assert found.thresholds[0.001].threshold > 0.95
    assert "1000 comparisons" in found.thresholds[0.001].reason
    assert "5 people with 2 pictures" in as_text(found)
    assert "strangers who will get a name, by the scores of made by hand: 4.9 % (" in as_text(found)  # 1 - .99 ** 5


def test_more_pictures_find_more():
    """Each person has a plane, in which three pictures lie 20 degrees apart; a mean of two lies nearer to the third."""
    vectors = np.zeros((12, 3, 24), np.float32)
    for k in range(12):
        vectors[k, :, 2 * k : 2 * k + 2] = at(-20, 0, 20)
    pictures = tuple(tuple(Picture(f"{k}/{n}") for n in range(3)) for k in range(12))
    everybody = Gallery(tuple("abcdefghijkl"), vectors.reshape(36, 24), "a" * 64, 0.95, 0.01, pictures=pictures)
    found = check(everybody)  # 18.2 degrees
    assert found.by_pictures[1] == 0
    assert found.by_pictures[2] == pytest.approx(1 / 3)  # the middle one, from the mean of both others
    assert found.one_more.value == pytest.approx(1 / 3)
    assert 0 < found.one_more.low < 1 / 3
    assert any("one more picture" in line for line in found.advice)


def test_strangers_are_asked_as_well():
    others = Embeddings(
        np.array([f"s{k}/1" for k in range(5)]), np.array([f"s{k}" for k in range(5)]), at(5, 35, 95, 155, 215)
    )
    found = check(gallery(FIVE), others)
    assert found.strangers.value == pytest.approx(0.2)
    assert found.highest_stranger[1:] == ("s0/1", "a")
    assert sorted(found.scores["strangers"].tolist())[-1] == pytest.approx(np.cos(np.deg2rad(0)), abs=1e-6)
    same = Embeddings(others.pair_ids, np.array(["a", *others.subject_ids[1:]]), others.vectors)
    with pytest.raises(UserError, match="'a' is enrolled"):
        check(gallery(FIVE), same)


def test_a_gain_within_its_interval_is_no_advice():
    """Only one person of six gains by a second picture: that may be chance, and is said so."""
    people = {name: (c - 2, c, c + 2) for name, c in zip("abcde", range(0, 300, 60), strict=True)}
    found = check(gallery(people | {"f": (310, 330, 350)}, threshold=0.95))
    assert found.one_more.value == pytest.approx(1 / 18)
    assert found.one_more.low <= 0
    assert not any("one more" in line for line in found.advice)
    assert "no gain is shown" in as_text(found)


def test_names_and_pictures_are_shown_as_text():
    found = check(gallery({"<b>$x$": (0, 10), "b": (15,)}, note="by <hand>"))
    assert "<b>" not in as_html(found)
    assert "&lt;b&gt;$x$" in as_html(found)
    draw(found).canvas.draw()  # no formula, though there are dollar signs


def test_a_threshold_that_does_not_fit_the_camera_is_doubted(monkeypatch):
    """Faces before another camera, or drawn ones, were all as alike as one person, and nobody was told."""
    alike = {name: (3 * k, 3 * k + 1) for k, name in enumerate("abcdefgh")}
    assert "100% of the pictures get somebody else's name" in doubt_of(gallery(alike, fixed=False))
    assert check(gallery(alike, fixed=False)).advice[0] == doubt_of(gallery(alike, fixed=False))
    assert "gallery threshold --strangers" in doubt_of(gallery(alike, fixed=False))
    assert doubt_of(gallery(alike)) == "", "a threshold given by hand is its owner's"
    assert doubt_of(gallery(FIVE, fixed=False)) == ""
    assert "unusually alike" in doubt_of(gallery(alike, fixed=False)), "siblings have the same effect"
    monkeypatch.setattr(checks, "MOST_SCORES", 10)
    assert doubt_of(gallery(alike, fixed=False)) == "", "a large gallery is not compared with itself after each picture"
