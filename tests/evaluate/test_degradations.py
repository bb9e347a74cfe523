"""Each degradation does what its unit says, by hand-worked values, and nothing else."""

import dataclasses

import numpy as np
import pytest

from face3d_lib.base.errors import UserError
from face3d_lib.data.pairs import RGBDPair
from face3d_lib.evaluate import degradations
from face3d_lib.evaluate.degradations import KNOBS, degrade, is_lost

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
