"""Each degradation does what its unit says, by hand-worked values, and nothing else."""

import dataclasses

import numpy as np
import pytest

from face3d_lib.base.errors import UserError
from face3d_lib.data.pairs import RGBDPair
from face3d_lib.evaluate import degradations
from face3d_lib.evaluate.degradations import KNOBS, degrade, degrade_crop, is_lost

PAIR_KNOBS = [name for name, knob in KNOBS.items() if knob.kind == "pair"]
CASES = [(name, level) for name in PAIR_KNOBS for level in KNOBS[name].levels]


def a_pair(size=120, unit="mm", pair_id="ada/1"):
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:size, :size]
    rgb = np.clip(120 + 60 * np.sin(x / 9)[..., None] + rng.normal(0, 20, (size, size, 3)), 0, 255).astype(np.uint8)
    depth = (800 + 3.1 * x + y).astype(np.float32)
    depth[:10] = 0  # no reading
    return RGBDPair(pair_id, "ada", rgb, depth, unit, "", "")


def small(depth, unit="mm"):
    depth = np.array(depth, np.float32)
    rgb = np.arange(depth.size * 3, dtype=np.uint8).reshape(*depth.shape, 3)
    return RGBDPair("ada/1", "ada", rgb, depth, unit, "", "")


def same(one, other):
    return np.array_equal(one.rgb, other.rgb) and np.array_equal(one.depth, other.depth)


@pytest.mark.parametrize("name", PAIR_KNOBS)
def test_the_clean_level_is_the_pair_itself(name):
    pair = a_pair()
    assert degrade(pair, name, KNOBS[name].clean) is pair


@pytest.mark.parametrize(("name", "level"), CASES)
def test_what_a_knob_touches_changes_and_the_rest_does_not(name, level):
    pair, kept = a_pair(), a_pair()
    worse = degrade(pair, name, level)
    assert same(pair, kept)  # the input is not modified
    assert worse.rgb.dtype == np.uint8
    assert worse.depth.dtype == np.float32
    assert worse.rgb.shape[:2] == worse.depth.shape
    for part in ("rgb", "depth"):
        assert np.array_equal(getattr(worse, part), getattr(pair, part)) == (part not in KNOBS[name].touches)
    assert np.isfinite(worse.depth).all()
    assert (worse.depth >= 0).all()
    if name not in ("resolution", "misregistration"):  # these move pixels
        assert (worse.depth[pair.depth == 0] == 0).all()
    assert same(worse, degrade(pair, name, level))


@pytest.mark.parametrize("name", ["depth_noise", "holes", "misregistration"])
def test_random_numbers_depend_on_seed_knob_and_pair_alone(name):
    level = KNOBS[name].levels[1]
    others = [a_pair(pair_id=f"ada/{k}") for k in range(9)]
    forwards = [degrade(pair, name, level) for pair in others]
    backwards = [degrade(pair, name, level) for pair in others[::-1]][::-1]
    assert all(same(one, other) for one, other in zip(forwards, backwards, strict=True))
    assert len({pair.depth.tobytes() for pair in forwards}) > 1
    assert not all(same(one, degrade(pair, name, level, seed=1)) for one, pair in zip(forwards, others, strict=True))


@pytest.mark.parametrize("sd", KNOBS["depth_noise"].levels)
def test_the_noise_has_the_standard_deviation_asked_for(sd):
    pair = a_pair()
    error = (degrade(pair, "depth_noise", sd).depth - pair.depth)[pair.depth > 0]
    assert error.std() == pytest.approx(sd, rel=0.03)
    assert abs(error.mean()) < 0.05 * sd


def test_twice_the_level_is_the_same_noise_twice():
    pair = a_pair()
    once, twice = (degrade(pair, "depth_noise", sd).depth - pair.depth for sd in (2, 4))
    assert np.allclose(twice, 2 * once, atol=1e-3)


def test_noise_never_makes_a_reading_no_reading():
    pair = small(np.full((40, 40), 3))
    assert (degrade(pair, "depth_noise", 50).depth >= 1).all()


@pytest.mark.parametrize("share", KNOBS["holes"].levels)
def test_holes_take_the_share_of_the_readings_and_larger_ones_contain_smaller_ones(share):
    pair = a_pair()
    readings = (pair.depth > 0).sum()
    found = degrade(pair, "holes", share).depth
    assert 1 - (found > 0).sum() / readings == pytest.approx(share, abs=1 / readings)
    kept = found > 0
    assert np.array_equal(found[kept], pair.depth[kept])
    more = degrade(pair, "holes", min(1, share + 0.1)).depth
    assert ((more > 0) <= kept).all()


def test_holes_are_blobs_and_no_dust():
    lost = degrade(a_pair(), "holes", 0.25).depth[10:] == 0
    alone = lost[1:-1, 1:-1] & ~lost[:-2, 1:-1] & ~lost[2:, 1:-1] & ~lost[1:-1, :-2] & ~lost[1:-1, 2:]
    assert alone.sum() <= 2


def test_all_readings_can_be_lost():
    assert not degrade(a_pair(), "holes", 1).depth.any()


def test_readings_are_rounded_to_the_step():
    found = degrade(small([[0, 1, 814], [815.2, 817.4, 818]]), "quantisation", 5).depth
    assert found.tolist() == [[0, 5, 815], [815, 815, 820]]


def test_depth_is_shifted_by_exactly_so_many_pixels():
    y, x = np.mgrid[1:9, 1:9]
    pair = small(100 * y + x)
    found = {}
    for k in range(40):
        moved = degrade(dataclasses.replace(pair, pair_id=f"ada/{k}"), "misregistration", 2).depth
        row, column = np.argwhere(moved == 505)[0] - [4, 4]  # the reading 505 lay at (4, 4)
        found[int(row), int(column)] = moved
    assert set(found) == {(2, 0), (-2, 0), (0, 2), (0, -2)}
    assert np.array_equal(found[2, 0][2:], pair.depth[:-2])
    assert not found[2, 0][:2].any()
    assert np.array_equal(found[0, -2][:, :-2], pair.depth[:, 2:])
    assert not found[0, -2][:, -2:].any()


def test_a_coarse_picture_has_the_mean_colour_and_the_middle_reading():
    pair = small([[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12], [13, 0, 15, 16]])
    coarse = degrade(pair, "resolution", 2)
    assert coarse.depth.tolist() == [[6, 8], [0, 16]]
    means = pair.rgb.astype(float).reshape(2, 2, 2, 2, 3).mean(axis=(1, 3))
    assert np.abs(coarse.rgb - means).max() <= 0.5
    odd = degrade(small(np.arange(1, 26).reshape(5, 5)), "resolution", 2)
    assert odd.rgb.shape == (3, 3, 3)
    assert odd.depth.tolist() == [[7, 9, 10], [17, 19, 20], [22, 24, 25]]


def test_depth_in_pixels_stays_as_deep_as_it_is_wide():
    assert degrade(small(np.full((4, 4), 60), "pixel"), "resolution", 2).depth.tolist() == [[30, 30], [30, 30]]


def test_a_lower_quality_is_farther_from_the_picture():
    pair = a_pair()
    error = [np.abs(degrade(pair, "jpeg", q).rgb.astype(int) - pair.rgb).mean() for q in KNOBS["jpeg"].levels]
    assert error == sorted(error)
    assert error[0] > 0


COLOUR = ("dark", "backlit", "overexposed", "small", "blur")


@pytest.mark.parametrize("name", [*COLOUR, "coarse_depth", "depth_noise", "quantisation"])
def test_a_worse_level_is_farther_from_the_pair(name):
    pair = a_pair()
    part = KNOBS[name].touches[0]
    worse = [getattr(degrade(pair, name, level), part) for level in KNOBS[name].levels]
    error = [np.abs(np.float64(found) - getattr(pair, part)).mean() for found in worse]
    assert error == sorted(error)
    assert error[0] > 0


@pytest.mark.parametrize("name", ["dark", "backlit"])
def test_the_noise_of_colour_depends_on_seed_and_pair_alone(name):
    found = [
        degrade(a_pair(pair_id=pair_id), name, 3, seed).rgb for pair_id, seed in (("a/1", 0), ("a/2", 0), ("a/1", 1))
    ]
    assert not np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])
    assert np.array_equal(found[0], degrade(a_pair(pair_id="a/1"), name, 3).rgb)


def grey(value, size=40, depth=800.0):
    return RGBDPair(
        "ada/1",
        "ada",
        np.full((size, size, 3), value, np.uint8),
        np.full((size, size), depth, np.float32),
        "mm",
        "",
        "",
    )


def test_a_stop_halves_the_light_and_not_the_value():
    """sRGB 188 is half the light of white, 137 a quarter (IEC 61966-2-1)."""
    for stops, value in ((1, 188), (2, 137)):
        assert degrade(grey(255), "dark", stops).rgb.mean() == pytest.approx(value, abs=0.5)
    assert (degrade(grey(137), "overexposed", 1).rgb == 188).all()
    assert (degrade(grey(137), "overexposed", 2).rgb >= 254).all()
    assert (degrade(grey(200), "overexposed", 2).rgb == 255).all()


def test_darkness_cannot_be_undone():
    """Brightened again by exactly as much, the picture has noise: at 6 stops, more than half of what there was to see."""
    picture = a_pair().rgb
    light = degradations._light(degrade(a_pair(), "dark", 6).rgb) * 2.0**6
    error = degradations._encoded(light).astype(float) - picture
    assert error.std() > 0.5 * picture.std()
    black = (
        degrade(grey(0), "dark", 1).rgb / 255
    )  # noise of the sensor alone: 10 of 10,000 electrons, half of it below 0
    assert (black > 0).mean() == pytest.approx(0.44, abs=0.03)


def test_a_surround_is_white_and_the_person_before_it_dark_and_never_full_of_holes():
    depth = np.full((40, 40), 2000.0, np.float32)
    depth[10:30, 10:30] = 800
    depth[18:21, 18:21] = 0  # no reading within the face
    depth[:5] = 0  # nor in the surround
    pair = dataclasses.replace(grey(255), depth=depth)
    found = degrade(pair, "backlit", 2).rgb
    person = np.zeros((40, 40), bool)
    person[10:30, 10:30] = True
    assert found[~person].min() > 250  # white, but for noise
    assert found[person].mean() == pytest.approx(139, abs=1)  # light of .25, and .0075 from the surround
    everything = degrade(dataclasses.replace(grey(255), depth=np.full((40, 40), 800, np.float32)), "backlit", 2).rgb
    assert everything.mean() == pytest.approx(139, abs=1)
    assert degrade(small(np.zeros((4, 4))), "backlit", 2).rgb.shape == (4, 4, 3)


def test_colour_alone_gets_coarse_or_blurred():
    rgb = np.zeros((8, 8, 3), np.uint8)
    rgb[:, 4:] = 200
    pair = RGBDPair("ada/1", "ada", rgb, np.full((8, 8), 800, np.float32), "mm", "", "")
    assert degrade(pair, "small", 8).rgb.tolist() == [[[100, 100, 100]] * 8] * 8
    step = degrade(pair, "blur", 1).rgb[4, :, 0].astype(int)
    assert (np.diff(step) >= 0).all()
    assert step[3] + step[4] == pytest.approx(200, abs=2)
    assert 40 < step[3] < 80  # half a pixel from the edge: 200 times the normal integral at -.5, .31


def test_coarse_depth_repeats_the_middle_reading_and_makes_none():
    pair = small([[1, 2, 3, 4], [5, 6, 7, 0], [9, 0, 11, 12], [13, 14, 15, 16]])
    assert degrade(pair, "coarse_depth", 2).depth.tolist() == [
        [6, 6, 0, 0],
        [6, 6, 0, 0],
        [14, 0, 16, 16],
        [14, 14, 16, 16],
    ]


@pytest.mark.parametrize("share", KNOBS["cover"].levels)
def test_a_square_covers_its_share_of_the_colour_crop_and_larger_ones_contain_it(share):
    rgb, depth = np.zeros((100, 100, 3), np.uint8), np.ones((100, 100), np.float32)
    for pair_id in ("ada/1", "ada/2", "bo/1"):
        covered, kept = degrade_crop(pair_id, rgb, depth, "cover", share)
        assert kept is depth
        assert (covered == 128).all(axis=2).mean() == pytest.approx(share, abs=0.01)
        more = degrade_crop(pair_id, rgb, depth, "cover", min(1, share + 0.2))[0]
        assert ((covered == 128) <= (more == 128)).all()
    assert not rgb.any()
    assert not np.array_equal(covered, degrade_crop("bo/1", rgb, depth, "cover", share, seed=1)[0])
    assert is_lost("ada/1", "cover", share)
    assert not is_lost("ada/1", "cover", 0)


def test_crops_that_are_withheld_are_zero_and_the_other_half_is_kept():
    rgb, depth = np.ones((4, 4, 3), np.uint8), np.ones((4, 4), np.float32)
    colour, found = degrade_crop("ada/1", rgb, depth, "no_depth", 1)
    assert colour is rgb
    assert not found.any()
    colour, found = degrade_crop("ada/1", rgb, depth, "no_colour", 1)
    assert found is depth
    assert not colour.any()
    assert degrade_crop("ada/1", rgb, depth, "no_colour", 0)[0] is rgb


def test_probes_are_lost_in_the_share_asked_for_and_more_contain_less():
    ids = [f"p{k}/0" for k in range(2000)]
    lost = {level: {i for i in ids if is_lost(i, "no_depth", level)} for level in (0, 0.25, 0.5, 1)}
    assert not lost[0]
    assert len(lost[0.25]) / 2000 == pytest.approx(0.25, abs=0.03)
    assert lost[0.25] < lost[0.5] < lost[1] == set(ids)
    assert lost[0.5] != {i for i in ids if is_lost(i, "no_colour", 0.5)}


@pytest.mark.parametrize(
    ("name", "level"),
    [("resolution", 2.5), ("jpeg", 96), ("holes", 1.5), ("depth_noise", -1), ("quantisation", np.nan)],
)
def test_levels_that_are_not_possible_are_refused(name, level):
    with pytest.raises(UserError, match=name):
        degrade(a_pair(), name, level)


def test_knobs_that_do_not_exist_or_do_not_fit_are_refused():
    for names, message in [(["yawn"], "no knob 'yawn'"), (["yaw", "yaw"], "twice"), (["yaw"], "scene knob")]:
        with pytest.raises(UserError, match=message):
            degradations.require_knobs(names, ("pair",) if names == ["yaw"] else ("scene", "pair", "crop"))
    with pytest.raises(UserError, match="scene knob"):
        degrade(a_pair(), "yaw", 15)


def test_every_knob_begins_where_nothing_changes_and_gets_worse():
    for name, knob in KNOBS.items():
        assert knob.clean not in knob.levels
        assert set(knob.touches) <= {"rgb", "depth"}
        order = sorted(knob.levels, reverse=name == "jpeg")
        assert list(knob.levels) == order
    assert set(degradations.DEGRADE) == set(degradations.POSSIBLE) == set(PAIR_KNOBS)
