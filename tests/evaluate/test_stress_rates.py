"""The tables of a stress test and the sentences that follow from them."""

import numpy as np
import pandas as pd
import pytest

from face3d_lib.evaluate.conditions import in_print, rates
from face3d_lib.evaluate.degradations import KNOBS
from face3d_lib.evaluate.stress import ROWS, Stressed
from face3d_lib.evaluate.stress_rates import differences, rates_by_level, where_depth_pays

N = 40
LEVELS = {"depth_noise": [2.0, 20.0], "yaw": [30.0]}
NOISE = {  # of the vectors: knob and level -> of RGB, of RGB-D
    ("", 0.0): (2.0, 0.3),
    ("depth_noise", 2.0): (2.0, 0.3),
    ("depth_noise", 20.0): (0.3, 2.0),
    ("yaw", 30.0): (1.0, 1.0),
}


def unit(x):
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def tested():
    """Forty people, two probes each: RGB-D is better on clean probes and worse at a depth noise of 20 mm."""
    rng = np.random.default_rng(0)
    centre = rng.normal(size=(N, 16))
    names = [f"p{k:02d}" for k in range(N)]
    rows = [[f"{name}/0", name, "enrolment", "", 0.0, "ok", ""] for name in names]
    vectors = {"rgb": [centre], "rgbd": [centre]}
    for (knob, level), noises in NOISE.items():
        rows += [[f"{name}/{k}", name, "probe", knob, level, "ok", ""] for name in names for k in (1, 2)]
        for name, noise in zip(vectors, noises, strict=True):
            draw = np.random.default_rng(7)  # equal noise of both systems: equal rates
            vectors[name].append(np.repeat(centre, 2, 0) + noise * draw.normal(size=(2 * N, 16)))
    stacked = {name: unit(np.concatenate(parts)) for name, parts in vectors.items()}
    return Stressed(pd.DataFrame(rows, columns=ROWS), stacked, levels=LEVELS)


@pytest.fixture(scope="module")
def found(tested):
    return differences(tested, "rgb", "rgbd", 200)


def test_each_knob_begins_with_the_clean_probes(tested):
    table = rates_by_level(tested, 50)
    assert table.groupby("knob", sort=False)["level"].unique().map(list).to_dict() == {
        "depth_noise": [0, 2, 20],
        "yaw": [0, 30],
    }
    clean = table[(table["level"] == 0) & (table["system"] == "rgb")]
    assert len(clean) == 2
    assert clean["eer"].nunique() == 1
    assert clean["eer"].iloc[0] == rates(tested.probes()["rgb"], 50)["eer"]


def test_the_table_in_print_keeps_the_order_of_the_levels(tested):
    text = in_print(rates_by_level(tested, 50), "eer", ["rgbd", "rgb"], ["knob", "level"])
    assert list(text.index) == [("depth_noise", 0), ("depth_noise", 2), ("depth_noise", 20), ("yaw", 0), ("yaw", 30)]
    assert list(text.columns) == ["rgbd", "rgb", "not found"]
    assert text.loc[("yaw", 0), "not found"] == "0 of 80"
    assert text.loc[("yaw", 0), "rgb"].startswith(f"{rates(tested.probes()['rgb'])['eer']:.3f} [")


def test_differences_are_those_of_the_rates(tested, found):
    for row in found.itertuples():
        one, other = (rates(tested.probes(row.knob, row.level)[name], 50) for name in ("rgb", "rgbd"))
        assert row.eer == pytest.approx(other["eer"] - one["eer"])
        assert row.rank1 == pytest.approx(other["rank1"] - one["rank1"])
        assert row.eer_low <= row.eer <= row.eer_high


def test_depth_pays_where_it_is_better_and_hurts_where_it_is_worse(found):
    verdicts = found.set_index(["knob", "level"])
    expected = ["pays", "pays", "hurts", "not shown"]
    assert verdicts.loc[list(NOISE), "eer_verdict"].tolist() == expected
    assert verdicts.loc[list(NOISE), "rank1_verdict"].tolist() == expected
    assert verdicts.loc[("yaw", 30), "eer"] == 0


def test_p_values_are_corrected_for_the_number_of_comparisons(found):
    assert (found["eer_p_holm"] >= found["eer_p"]).all()
    smallest = found["eer_p"].min()
    assert found["eer_p_holm"].min() == pytest.approx(smallest * len(found))


def test_the_sentence_follows_from_the_numbers(found):
    text = where_depth_pays(found)
    assert text.startswith(
        "By EER, depth pays (RGB-D has a lower EER than RGB; p < 0.05 after Holm's correction for 4 "
    )
    assert "with clean probes; depth noise, mm: 2. It hurts (a higher EER) with depth noise, mm: 20." in text
    assert text.endswith("No difference is shown with head turned aside, degrees: 30.")
    assert "a higher rank-1 than RGB" in where_depth_pays(found, "rank1")


def test_a_level_without_data_is_named():
    table = pd.DataFrame({"knob": ["", "yaw"], "level": [0.0, 60.0], "eer": [0.1, np.nan]})
    text = where_depth_pays(table.assign(eer_verdict=["hurts", "no data"]))
    assert (
        "depth pays (RGB-D has a lower EER than RGB; p < 0.05 after Holm's correction for 1 comparisons) nowhere"
        in text
    )
    assert text.endswith("Nothing could be measured with head turned aside, degrees: 60.")


def test_a_level_at_which_nobody_was_found_has_no_verdict(tested):
    lost = (tested.rows["knob"] == "yaw").to_numpy()
    vectors = {name: np.where(lost[:, None], 0, x).astype(np.float32) for name, x in tested.vectors.items()}
    blind = Stressed(tested.rows, vectors, levels={"yaw": [30.0]})
    row = differences(blind, "rgb", "rgbd", 50).iloc[-1]
    assert (row["eer_verdict"], row["rank1_verdict"]) == ("no data", "no data")
    table = rates_by_level(blind, 50).iloc[-1]
    assert (table["fta"], table["failed"], table["reason"]) == (1, 2 * N, "no probe was acquired")
    assert KNOBS["yaw"].clean == 0
