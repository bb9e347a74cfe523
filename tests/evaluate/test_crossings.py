"""The level at which one system overtakes another, on curves drawn by hand and on people whose scores are known."""

import numpy as np
import pandas as pd
import pytest

from face3d_lib.evaluate import crossings as module
from face3d_lib.evaluate.crossings import COLUMNS, crossing, crossings
from face3d_lib.evaluate.metrics.curves import eer
from face3d_lib.evaluate.stress import ROWS, Stressed, fuse_systems, weights_of_halves

NO, NAN = np.inf, np.nan


@pytest.mark.parametrize(
    ("difference", "place"),
    [
        ([2, 1, -1, -2], 1.5),
        ([3, -1, -2, -3], 0.75),
        ([-1, -1, 3, 3], 1.25),  # the other one leads
        ([1, 1, 0, -1], 2),  # they touch, then cross: where they met
        ([1, 0, 1, 1], NO),  # they touch and part again
        ([1, 2, 3, 4], NO),
        ([0, 1, -1, 2], 1.5),  # equal on clean probes: who leads next leads; the first crossing counts
        ([0, 0, 0, 0], NO),
    ],
)
def test_the_first_change_of_sign_is_found_between_two_levels(difference, place):
    assert crossing(np.array(difference, float)) == [place]


def test_a_draw_that_begins_on_the_other_side_has_crossed_at_once():
    rows = np.array([[-1, -2.0], [2, -2], [1, 1]])
    assert crossing(rows, leader=1).tolist() == [0, 0.5, NO]


def made(noises, people=40, seed=0):
    """A test of two systems: by (knob, level), the noise of the vectors of each; the clean ones first."""
    rng = np.random.default_rng(seed)
    centre = rng.normal(size=(people, 16))
    names = [f"p{k:02d}" for k in range(people)]
    rows = [[f"{name}/0", name, "enrolment", "", 0.0, "ok", ""] for name in names]
    vectors = {"rgb": [centre], "depth": [centre]}
    levels = {}
    for (knob, level), pair in noises.items():
        if knob:
            levels.setdefault(knob, []).append(level)
        rows += [[f"{name}/{k}", name, "probe", knob, level, "ok", ""] for name in names for k in (1, 2)]
        for number, (name, noise) in enumerate(zip(vectors, pair, strict=True)):
            draw = np.random.default_rng(10 + number)
            vectors[name].append(np.repeat(centre, 2, 0) + noise * draw.normal(size=(2 * people, 16)))
    unit = {name: np.concatenate(parts) for name, parts in vectors.items()}
    unit = {name: (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32) for name, x in unit.items()}
    return Stressed(pd.DataFrame(rows, columns=ROWS), unit, levels=levels)


CLEAN = {("", 0.0): (0.5, 1.5)}
DARK = CLEAN | {("dark", 1.0): (0.5, 1.5), ("dark", 3.0): (3.0, 1.5), ("dark", 4.0): (6.0, 1.5)}


def rate(stressed, name, knob="", level=0.0):
    trials = stressed.probes(knob, level)[name].without_failures().trials()
    return eer(trials.genuine, trials.impostor)[0]


def test_depth_overtakes_colour_where_the_straight_lines_between_the_levels_meet():
    stressed = made(DARK)
    (row,) = crossings(stressed, [("rgb", "depth")], 100).to_dict("records")
    assert list(row) == COLUMNS
    flat = rate(stressed, "depth", "dark", 1.0)
    left, right = (rate(stressed, "rgb", "dark", level) for level in (1.0, 3.0))
    assert left < flat < right
    assert row["level"] == pytest.approx(1 + 2 * (flat - left) / (right - left))
    assert row["eer"] == pytest.approx(flat)
    assert row["place"] == pytest.approx(1 + (row["level"] - 1) / 2)
    assert 1 < row["level_low"] <= row["level"] <= row["level_high"] < 3
    assert (row["share"], row["reason"]) == (1, "")
    assert crossings(stressed, [("rgb", "rgbd")], 10).empty  # there is no such system
    again, swapped = (crossings(stressed, [pair], 100).iloc[0] for pair in (("rgb", "depth"), ("depth", "rgb")))
    assert again["level"] == pytest.approx(swapped["level"])


def test_where_nobody_is_overtaken_the_reason_says_who_stays_ahead():
    stressed = made(CLEAN | {("blur", 1.0): (0.5, 1.5), ("blur", 2.0): (0.6, 1.6)})
    row = crossings(stressed, [("rgb", "depth")], 50).iloc[0]
    assert np.isnan(row[["level", "level_low", "level_high", "eer", "place"]].astype(float)).all()
    assert row["reason"] == "rgb is not overtaken"
    row = crossings(stressed, [("rgb", "rgb")], 50).iloc[0]
    assert row["reason"] == "the two are equal at every level"


def test_an_interval_that_some_draws_leave_is_open():
    """At the worst level the two are nearly equal, so that many draws of people never cross."""
    stressed = made(CLEAN | {("dark", 4.0): (1.7, 1.5)}, people=12)
    row = crossings(stressed, [("rgb", "depth")], 200).iloc[0]
    if np.isfinite(row["level"]):
        assert np.isnan(row["level_high"])
        assert "more people" in row["reason"]
    assert 0 < row["share"] < 0.975


def test_the_quality_of_jpeg_falls_and_one_level_has_no_between():
    stressed = made(CLEAN | {("jpeg", 50.0): (0.5, 1.5), ("jpeg", 10.0): (6.0, 1.5), ("glasses", 1.0): (6.0, 1.5)})
    jpeg, glasses = crossings(stressed, [("rgb", "depth")], 50).to_dict("records")
    assert 10 < jpeg["level"] < 50
    assert np.isnan(glasses["level"])
    assert glasses["reason"] == "there is no level between the two"
    at_once = made(CLEAN | {("jpeg", 50.0): (6.0, 1.5)})
    assert 50 < crossings(at_once, [("rgb", "depth")], 50).iloc[0]["level"] < 100


def test_levels_at_which_nobody_was_found_are_left_out():
    stressed = made(DARK | {("yaw", 60.0): (1.0, 1.0)})
    lost = ((stressed.rows["level"] == 3) | (stressed.rows["knob"] == "yaw")).to_numpy()
    for vectors in stressed.vectors.values():
        vectors[lost] = 0
    dark, yaw = crossings(stressed, [("rgb", "depth")], 50).to_dict("records")
    assert 1 < dark["level"] < 4
    assert 1 < dark["place"] < 3
    assert yaw["reason"] == "no rates to compare"


def test_people_who_could_not_be_enrolled_do_not_shift_the_draws():
    """The weight of a draw belongs to a person by name, also where an earlier one has no template."""
    stressed = made(DARK)
    stressed.vectors["rgb"][0] = stressed.vectors["depth"][0] = 0
    probes = stressed.probes("dark", 3.0)
    weight = np.zeros((1, 40))
    weight[0, 20:] = 1  # the last twenty people alone
    found = module._rates(probes, ["rgb"], weight)["rgb"]
    chosen = probes["rgb"].select(np.isin(probes["rgb"].subjects, probes["rgb"].gallery[20:]))
    scores, same = chosen.scores[:, 20:], chosen.subjects[:, None] == chosen.gallery[None, 20:]
    assert found[1] == pytest.approx(eer(scores[same], scores[~same])[0])
    assert found[1] != found[0]


def test_the_weight_of_a_person_comes_from_the_other_half():
    """Colour is perfect for the one half of the people and noise for the other."""
    stressed = made({("", 0.0): (0.1, 1.0)})
    names = stressed.rows["subject_id"].to_numpy()
    even = np.isin(names, sorted(set(names))[::2])
    probe = (stressed.rows["role"] == "probe").to_numpy()
    noise = np.random.default_rng(5).normal(size=((even & probe).sum(), 16))
    stressed.vectors["rgb"][even & probe] = noise / np.linalg.norm(noise, axis=1, keepdims=True)
    weights = weights_of_halves(stressed, "rgb", "depth")
    assert set(weights) == set(names)
    of_even, of_odd = ({weights[name] for name in set(names[chosen])} for chosen in (even, ~even))
    (of_even,), (of_odd,) = of_even, of_odd
    assert of_even.weight > 0.4  # chosen on the odd people, for whom colour is perfect
    assert of_odd.weight < 0.2
    assert (of_even.scale, of_even.shift) == (1, 0)
    found = fuse_systems(stressed, "rgb", "depth", weights).probes()
    for k, name in enumerate(found["rgb"].subjects):
        w, scale, shift = weights[name]
        expected = scale * (w * found["rgb"].scores[k] + (1 - w) * found["depth"].scores[k]) + shift
        assert np.allclose(found["rgb + depth"].scores[k], expected)


def test_the_scores_of_both_halves_have_one_scale_and_failures_stay_last():
    stressed = made({("", 0.0): (0.8, 1.0)})
    stressed.vectors["rgb"][40] = stressed.vectors["depth"][40] = 0  # a probe of p00 that was not found
    weights = weights_of_halves(stressed, "rgb", "depth")
    found = fuse_systems(stressed, "rgb", "depth", weights).probes()["rgb + depth"]
    assert (found.scores[0] == -1).all()
    assert len({mixed.weight for mixed in weights.values()}) == 2
    levels, systems = [], stressed.probes()
    for own in (np.arange(40) % 2 == 0, np.arange(40) % 2 == 1):
        mixed = weights[found.gallery[own][0]]
        rows = np.isin(found.subjects, found.gallery[~own]) & found.acquired  # the people it was chosen on
        one, other = (systems[name].scores[np.ix_(rows, ~own)] for name in ("rgb", "depth"))
        fused = mixed.scale * (mixed.weight * one + (1 - mixed.weight) * other) + mixed.shift
        impostor = fused[found.subjects[rows][:, None] != found.gallery[None, ~own]]
        levels.append((impostor.mean(), impostor.std()))
    assert levels[0] == pytest.approx(levels[1], abs=1e-5)


def test_with_one_weight_for_both_halves_nothing_is_scaled(monkeypatch):
    monkeypatch.setattr("face3d_lib.evaluate.stress.best_weight", lambda one, other, steps: 0.75)
    stressed = made({("", 0.0): (0.8, 1.0)})
    weights = weights_of_halves(stressed, "rgb", "depth")
    assert set(weights.values()) == {(0.75, 1, 0)}
    found = fuse_systems(stressed, "rgb", "depth", 0.75).probes()["rgb + depth"]
    assert np.allclose(fuse_systems(stressed, "rgb", "depth", weights).probes()["rgb + depth"].scores, found.scores)
