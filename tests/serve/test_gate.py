"""The gate: each fault that is put into a good picture is found, and says what to do."""

from dataclasses import replace

import numpy as np
import pytest

from face3d_lib.data.convention import DepthConvention
from face3d_lib.data.decoding import read_pair
from face3d_lib.data.pairs import single_pair
from face3d_lib.data.warp import template_transform
from face3d_lib.serve import gate
from face3d_lib.serve.gallery import Gallery, Picture
from face3d_lib.serve.strangers import Strangers

MM = DepthConvention("mm", "farther")


@pytest.fixture(scope="module")
def pair(faces):
    file = faces / "p0001" / "s1_000.png"
    return read_pair(single_pair(file, file.with_suffix(".npy")), MM)


def found(recogniser, pair, refused=True):
    findings, _ = gate.judge(recogniser.see(pair), MM)
    return {finding.what: finding.message for finding in findings if finding.refused or not refused}


def test_a_good_picture_passes(recogniser, pair):
    assert found(recogniser, pair) == {}


def test_a_warning_says_what_is_good_and_a_refusal_what_is_needed(recogniser, pair, monkeypatch):
    """ "25 are the most" about a picture that was enrolled with more was a contradiction."""
    seen = recogniser.see(pair)
    said = {}
    for value in (20, 10):
        monkeypatch.setattr(gate, "measures", lambda *_, value=value: {"eye_px": value, "yaw_abs": 50 - value})
        said[value] = [finding.message for finding in gate.judge(seen, MM)[0]]
    assert said[20] == [
        "come closer: 20 px between the eyes, good from 24",
        "look at the camera: the head is turned by 30 degrees, good up to 25",
    ]
    assert said[10] == [
        "come closer: 10 px between the eyes, 16 are needed",
        "look at the camera: the head is turned by 40 degrees, good up to 25",
    ]


def test_a_small_face_is_told_to_come_closer(recogniser, pair):
    step = int(np.ceil(gate.measures(recogniser.see(pair), MM)["eye_px"] / 14))
    small = replace(pair, rgb=np.ascontiguousarray(pair.rgb[::step, ::step]), depth=pair.depth[::step, ::step].copy())
    said = found(recogniser, small)["eye_px"]
    assert said.startswith("come closer: ")
    assert "px between the eyes, 16 are needed" in said


@pytest.mark.parametrize(
    ("change", "what", "advice"),
    [
        (lambda rgb: (rgb * 0.2).astype(np.uint8), "brightness", "add light"),
        (lambda rgb: np.where(rgb > 90, 255, rgb).astype(np.uint8), "clipped", "avoid direct light"),
    ],
)
def test_light(recogniser, pair, change, what, advice):
    seen = recogniser.see(pair)
    findings, _ = gate.judge(replace(seen, pair=replace(pair, rgb=change(pair.rgb))), MM)  # the face was found before
    assert [finding.message for finding in findings if finding.what == what and finding.message.startswith(advice)]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda depth: np.full_like(depth, 800), "liveness"),
        (lambda depth: np.where(depth > 0, 2 * np.median(depth[depth > 0]) - depth, 0).clip(0), "relief"),
        (lambda depth: np.roll(depth, 25, axis=1), "registration"),
        (lambda depth: np.where(np.random.default_rng(0).random(depth.shape) < 0.7, 0, depth), "valid"),
        (
            lambda depth: np.where(depth > 0, depth + 15 * np.random.default_rng(0).standard_normal(depth.shape), 0),
            "noise_mm",
        ),
    ],
)
def test_depth(recogniser, pair, change, what):
    assert what in found(recogniser, replace(pair, depth=change(pair.depth).astype(np.float32)), refused=False)


def test_half_a_face_is_refused(recogniser, pair):
    seen = recogniser.see(pair)
    eyes = seen.points[:2, 0].mean()
    half = replace(pair, rgb=pair.rgb[:, : int(eyes) + 2].copy(), depth=pair.depth[:, : int(eyes) + 2].copy())
    findings, _ = gate.judge(replace(seen, pair=half), MM)
    assert "inside" in {finding.what for finding in findings if finding.refused}


def test_a_second_face_is_said(recogniser, pair):
    both = replace(pair, rgb=np.hstack([pair.rgb, pair.rgb]), depth=np.hstack([pair.depth, pair.depth]))
    assert "2 faces" in found(recogniser, both)["faces"]
    assert "crop the picture to one person" in found(recogniser, both)["faces"]


@pytest.mark.parametrize("name", gate.LIMITS)
def test_a_value_beyond_its_limit_is_never_printed_as_the_limit(name):
    """A face of 23.6 px was told that it had 24 px and needed 24."""
    for limit in gate.LIMITS[name][:2]:
        said = gate.LIMITS[name][3]
        value = limit - gate.LIMITS[name][2] * 1e-4
        shown = said.format(value=gate._shown(value, limit, said), limit=limit)
        assert shown != said.format(value=limit, limit=limit)
    assert gate._shown(23.6, 24, gate.LIMITS["eye_px"][3]) == 23
    assert gate._shown(22.6, 24, gate.LIMITS["eye_px"][3]) == 22.6


def test_all_limits_are_consistent():
    for name, (warn, refuse, sign, said, bound, advice) in gate.LIMITS.items():
        assert sign * refuse < sign * warn, name
        assert said.format(value=1.0)
        assert bound.format(limit=2.0)
        assert advice[0].islower()


def test_a_worse_picture_weighs_less():
    good = {"eye_px": 60.0, "noise_mm": 0.0, "relief": 0.3}
    assert gate.weight_of(good) == 1
    assert 0.25 <= gate.weight_of(good | {"eye_px": 17.0}) < 1
    assert gate.weight_of({name: values[1] for name, values in gate.LIMITS.items()}) == 0.25
    assert gate.weight_of({}) == 1


def unit(*numbers):
    return (np.array(numbers, np.float32) / np.linalg.norm(numbers)).astype(np.float32)


def enrolled():
    pictures = ((Picture("anna/1", "rgb1", "depth1"),), (Picture("bob/1", "rgb2", "depth2"),))
    return Gallery(("anna", "bob"), np.eye(2, 3, dtype=np.float32), "a" * 64, 0.8, 0.01, pictures=pictures)


def said(name, vector, picture):
    return {finding.what: finding.refused for finding in gate.compare(enrolled(), name, vector, picture)}


def test_a_picture_is_compared_with_everybody_who_is_enrolled():
    new = Picture("new", "rgb3", "depth3")
    assert said("anna", unit(1, 0, 0), new) == {}
    assert said("cy", unit(0, 0, 1), new) == {}
    assert said("cy", unit(1, 0, 0), new) == {"like_another": False}
    assert said("anna", unit(0, 0, 1), new) == {"unlike_own": False}
    assert said("anna", unit(0, 1, 0), new) == {"unlike_own": True, "like_another": False}
    assert said("cy", unit(0, 0, 1), Picture("new", "rgb1", "depth3")) == {"same_photo": True}
    assert said("cy", unit(0, 0, 1), Picture("new", "rgb3", "depth1")) == {"frozen_depth": True}
    assert said("anna", unit(1, 0, 0), Picture("again", "rgb1", "depth1")) == {}


@pytest.mark.parametrize(("score", "refused"), [(0.45, True), (0.55, False)])
def test_a_second_person_of_one_name_is_refused_where_other_people_are_as_alike(score, refused):
    shares, scores = (0.5, 0.1, 0.01), (0.3, 0.5, 0.7)
    table = Strangers(shares, scores, shares, shares, 0.75, 1000, 30, "other people")
    alone = replace(enrolled().forget("bob"), strangers=table)
    vector = unit(score, 0, np.sqrt(1 - score**2))
    found = {one.what: one.refused for one in gate.compare(alone, "anna", vector, Picture("new", "rgb3", "depth3"))}
    assert found == {"unlike_own": refused}
    few = replace(alone, strangers=replace(table, shares=(0.5, 0.4, 0.3)))
    (one,) = gate.compare(few, "anna", vector, Picture("new", "rgb3", "depth3"))
    assert not one.refused, "so few comparisons do not say what is rare"


def test_inside_is_the_share_of_the_ellipse():
    from face3d_lib.data.warp import TEMPLATE_112

    assert np.allclose(template_transform(TEMPLATE_112), np.eye(2, 3), atol=1e-9)
    assert gate._inside(TEMPLATE_112, (112, 112)) == 1
    assert gate._inside(TEMPLATE_112, (112, 56)) == pytest.approx(0.5, abs=0.02)
