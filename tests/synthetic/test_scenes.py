"""One thing in the scene changes by the amount asked for; the person and everything else stay."""

import dataclasses

import numpy as np
import pytest

from face3d_lib.base.errors import UserError
from face3d_lib.synthetic import camera, scenes
from face3d_lib.synthetic.people import Knobs, identity_seed

FIELD = {  # what a change may touch
    "yaw": "angles",
    "pitch": "angles",
    "light": "key",
    "expression": "moves",
    "occlusion": "occluded",
    "glasses": "glasses",
}


def calm(image=1000):
    return camera.shot_of(0, 7, image, scenes.CALM)


@pytest.mark.parametrize("change", scenes.CHANGES)
def test_level_0_is_the_calm_scene_bit_for_bit(change):
    one, other = scenes.scene(0, 7, 1000), scenes.scene(0, 7, 1000, change, 0)
    assert np.array_equal(one.rgb, other.rgb)
    assert np.array_equal(one.depth, other.depth)


@pytest.mark.parametrize("change", scenes.CHANGES)
def test_a_change_touches_one_value_of_the_shot(change):
    before, after = calm(), scenes.changed(calm(), change, 1, 3)
    touched = {
        field.name
        for field in dataclasses.fields(camera.Shot)
        if not np.array_equal(getattr(before, field.name), getattr(after, field.name))
    }
    assert touched == {FIELD[change]}


def test_changes_have_the_amount_asked_for_on_both_sides():
    for number, side in ((2, -1), (3, 1)):
        assert scenes.changed(calm(), "yaw", 30, number).angles == (side * 30, *calm().angles[1:])
        assert scenes.changed(calm(), "pitch", 20, number).angles[1] == side * 20
        assert scenes.changed(calm(), "light", 60, number).key == (side * 60, calm().key[1])
    strengths = [scenes.changed(calm(), "expression", 1.5, number).moves.tolist() for number in range(5)]
    assert strengths == [[1.5 * (k == j) * (1 if j < 4 else scenes.JAW) for k in range(5)] for j in range(5)]
    assert scenes.changed(calm(), "occlusion", 0.5, 0).occluded == 0.5
    assert scenes.changed(calm(), "glasses", 1, 0).glasses is True


def test_the_calm_scene_is_calm():
    shots = [camera.shot_of(0, k, 0, scenes.CALM) for k in range(50)]
    assert max(abs(shot.angles[0]) for shot in shots) <= 8
    assert not any(shot.glasses or shot.occluded for shot in shots)
    assert len({shot.angles for shot in shots}) == 50


def test_the_picture_shows_the_change_and_the_same_person():
    frontal, turned = scenes.scene(0, 7, 1000), scenes.scene(0, 7, 1000, "yaw", 45)
    assert turned.row["yaw_deg"] in (45, -45)
    assert turned.row["identity_seed"] == frontal.row["identity_seed"] == identity_seed(0, 7)
    small, large = (np.mean(scenes.scene(0, 7, 1000, "occlusion", size).depth != frontal.depth) for size in (0.5, 1.5))
    assert 0 < small < large


def test_a_hand_of_size_1_is_the_object_that_data_sets_show():
    knobs = Knobs(occlusion=1)
    shot = camera.shot_of(0, 7, 0, knobs)
    assert shot.occluded == 1
    made = camera.pair(0, 7, 0, knobs)
    assert made.row["occlusion"] == "thing"
    assert np.array_equal(made.rgb, camera.pair(0, 7, 0, knobs, shot).rgb)


def test_a_change_that_does_not_exist_is_refused():
    with pytest.raises(UserError, match="no change 'hat'"):
        scenes.scene(0, 7, 0, "hat", 1)
