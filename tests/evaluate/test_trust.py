"""The fusion by trust: by hand, its signs, a missing modality, and that it lives on depth that belongs to the person."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from face3d_lib.base.errors import UserError
from face3d_lib.evaluate import trust
from face3d_lib.evaluate.metrics.identification import leave_one_out_hits

FINE = {"yaw_deg": 0.0, "pitch_deg": 0.0, "brightness": 128.0, "eye_px": 64.0, "holes": 0.0, "noise_mm": 0.5}
WORSE = {"yaw_deg": 40.0, "pitch_deg": 20.0, "brightness": 12.0, "eye_px": 10.0, "holes": 0.5, "noise_mm": 6.0}
NONE = dict.fromkeys(trust.FLAWS, 0.0)


def pictures(*rows: dict) -> pd.DataFrame:
    return pd.DataFrame([FINE | row for row in rows])


def by_hand() -> trust.Trust:
    """A fusion whose numbers are round."""
    colour = trust.System(0.9, 20.0, 0.0, {"dark": -5.0}, {"apart": 2.0})
    depth = trust.System(0.5, 8.0, 0.0, {"holes": -16.0}, {"holes": 2.0})
    return trust.Trust({"colour": colour, "depth": depth}, NONE, dict.fromkeys(trust.FLAWS, 10.0), {})


def test_flaws_by_hand():
    found = trust.flaws_of(
        pictures({"yaw_deg": -30.0, "brightness": 25.0}), pictures({"yaw_deg": 30.0, "eye_px": 16.0})
    )
    assert {name: value.item() for name, value in found.items()} == pytest.approx(
        {"apart": 0, "turned": 1, "dark": 2, "unlike": np.log2(128 / 25), "holes": 0, "noise": 0, "small": 1}
    )
    tilted = trust.flaws_of(pictures({"pitch_deg": 12.0}), pictures({"holes": 0.3, "noise_mm": 4.0}))
    assert tilted["apart"].item() == pytest.approx(1 - np.exp(-1))
    assert (tilted["holes"].item(), tilted["noise"].item()) == pytest.approx((0.3, 2))


def test_llr_by_hand():
    fusion, cosines = by_hand(), {"colour": np.array([[0.95]]), "depth": np.array([[0.75]])}
    assert fusion.llr(cosines, pictures({}), pictures({})).item() == pytest.approx(1 + 2)
    dark = fusion.llr(cosines, pictures({}), pictures({"brightness": 50.0})).item()
    assert dark == pytest.approx(15 * 0.05 + 2)
    holes = fusion.llr(cosines, pictures({"holes": 0.25}), pictures({})).item()
    assert holes == pytest.approx(1 + 4 * 0.25 + 0.5)
    assert fusion.slopes("depth", pictures({"holes": 0.9}), pictures({})).item() == 0  # never below


def test_a_missing_modality_says_nothing():
    fusion, two = by_hand(), pictures({}, {})
    depth = np.array([[0.9, np.nan], [np.nan, 0.2]])
    colour = np.array([[np.nan, 0.95], [np.nan, 0.5]])
    both = fusion.llr({"colour": colour, "depth": depth}, two, two)
    assert both == pytest.approx(np.array([[3.2, 1], [trust.NOTHING, -8 - 2.4]]))
    assert np.array_equal(fusion.llr({"depth": depth}, two, two)[0, :1], both[0, :1])


def test_what_was_not_measured_is_typical_and_what_was_not_seen_is_the_most():
    typical, most = NONE | {"dark": 1.0}, dict.fromkeys(trust.FLAWS, 2.0)
    fusion = dataclasses.replace(by_hand(), typical=typical, most=most)
    assert fusion.slopes("colour", pictures({"brightness": np.nan}), pictures({})).item() == 15  # as 1
    assert fusion.slopes("colour", pictures({"brightness": 5.0}), pictures({})).item() == 10  # as 2, though 4.3


@pytest.fixture(scope="module")
def people() -> tuple[np.ndarray, pd.DataFrame, dict[str, np.ndarray]]:
    """40 people, four pictures each: colour is bad where it is dark, depth where it has holes."""
    rng = np.random.default_rng(0)
    who = np.repeat(np.arange(40), 4)
    quality = pictures(*({} for _ in who))
    quality["brightness"], quality["holes"] = rng.choice([128.0, 20.0], len(who)), rng.choice([0.0, 0.4], len(who))
    noise = {
        "colour": np.where(quality["brightness"] < 50, 2.0, 0.6),
        "depth": np.where(quality["holes"] > 0, 2.5, 0.9),
    }
    vectors = {}
    for name, spread in noise.items():
        made = rng.normal(size=(40, 16))[who] + spread[:, None] * rng.normal(size=(len(who), 16))
        vectors[name] = made / np.linalg.norm(made, axis=1, keepdims=True)
    return who.astype(str), quality, vectors


def lesson_of(people, rows: np.ndarray, vectors: dict | None = None) -> trust.Lesson:
    who, quality, own = people
    scores = {name: made[rows] @ made[rows].T for name, made in (vectors or own).items()}
    return trust.Lesson(scores, quality.iloc[rows], who[rows])


def rank1(fusion: trust.Trust, lesson: trust.Lesson) -> float:
    llr = fusion.llr(lesson.scores, lesson.quality, lesson.quality)
    return float(leave_one_out_hits(llr, lesson.subject_ids).mean())


HALF = np.arange(80), np.arange(80, 160)  # twenty people each


@pytest.fixture(scope="module")
def learnt(people) -> trust.Trust:
    return trust.learn([lesson_of(people, HALF[0])], {"people": 20})


def test_trust_beats_either_system_and_a_constant_weight(people, learnt):
    other = lesson_of(people, HALF[1])
    alone = [leave_one_out_hits(scores, other.subject_ids).mean() for scores in other.scores.values()]
    flat = dataclasses.replace(other, quality=pictures(*({} for _ in HALF[1])))
    constant = trust.learn([dataclasses.replace(lesson_of(people, HALF[0]), quality=flat.quality)], {})
    assert rank1(learnt, other) > max(alone) + 0.05
    assert rank1(learnt, other) > rank1(constant, flat)


def test_depth_of_other_people_takes_the_gain_away(people, learnt):
    own = people[2]
    other = lesson_of(people, HALF[1])
    shuffled = dict(own) | {"depth": np.random.default_rng(1).permutation(own["depth"])}
    mutant = lesson_of(people, HALF[1], shuffled)
    colour = leave_one_out_hits(other.scores["colour"], other.subject_ids).mean()
    assert rank1(learnt, mutant) < colour < rank1(learnt, other)
    fine, misled = pictures({}), trust.learn([lesson_of(people, HALF[0], shuffled)], {})
    assert misled.slopes("depth", fine, fine) < 0.1 * learnt.slopes("depth", fine, fine)


def test_better_quality_never_lowers_a_weight(people, learnt):
    for system in learnt.systems.values():
        assert system.slope >= 0
        assert all(change <= 0 for change in system.flatter.values())
        assert all(change >= 0 for change in system.higher.values())
    better = pictures({})
    for quality, value in WORSE.items():
        worse = pictures({quality: value})
        for name in learnt.systems:
            assert learnt.slopes(name, worse, better).item() <= learnt.slopes(name, better, better).item()
    assert learnt.slopes("colour", pictures({"brightness": 20.0}), better) < learnt.slopes("colour", better, better)
    assert learnt.slopes("depth", pictures({"holes": 0.4}), better) < learnt.slopes("depth", better, better)


def test_the_slope_of_the_losses_is_the_derivative(people):
    lesson = lesson_of(people, np.arange(24))
    terms = np.stack([lesson.scores["colour"], np.ones((24, 24))], axis=-1)
    cost, at, step = trust._cost_of(terms, lesson), np.array([2.0, -0.5]), 1e-6
    ends = [(cost(at + step * one)[0] - cost(at - step * one)[0]) / (2 * step) for one in np.eye(2)]
    assert cost(at)[1] == pytest.approx(ends, rel=1e-5)


def test_a_fusion_comes_back_from_its_file_and_a_damaged_one_is_refused(tmp_path, learnt):
    learnt.save(tmp_path / "trust.json")
    assert trust.Trust.load(tmp_path / "trust.json") == learnt
    (tmp_path / "cut.json").write_text((tmp_path / "trust.json").read_text()[:200])
    (tmp_path / "other.json").write_text('{"systems": {"colour": {"slope": 1}}}')
    for name in ("cut.json", "other.json", "none.json"):
        with pytest.raises(UserError, match=rf"{name}: no fusion that can be read"):
            trust.Trust.load(tmp_path / name)


def test_the_shipped_fusion_says_what_it_was_learnt_from():
    shipped = trust.Trust.load()
    assert set(shipped.systems) == {"colour", "depth"}
    assert 0.5 < shipped.source["fixed_weight"] < 1
    assert {"people", "pairs", "command"} <= set(shipped.source)
