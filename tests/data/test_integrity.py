"""Can the depth of a data set be trusted: each fault is told, true depth raises no alarm, and real sets are told apart."""

import json

import numpy as np
import pandas as pd
import pytest
from aligning import run

from face3d_lib.base.tables import read_table
from face3d_lib.data import integrity
from face3d_lib.data.integrity import check_integrity
from face3d_lib.data.quality import QUALITY
from face3d_lib.synthetic.dataset import make_dataset
from face3d_lib.synthetic.people import Knobs

SOFT = {"yaw": 12, "pitch": 6, "occlusion": 0}


def made(base, **knobs):
    make_dataset(base / "raw", 6, 4, 1, seed=4, knobs=Knobs(**(SOFT | knobs)), workers=1)
    return base / "raw", run(base / "raw", base / "aligned")


@pytest.fixture(scope="module")
def sensor(tmp_path_factory):
    return made(tmp_path_factory.mktemp("sensor"))


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    return made(tmp_path_factory.mktemp("rendered"), depth_noise=0, depth_warp=0, depth_step=0, depth_holes=0)


def values(found):
    return found.table.set_index("measure")["value"]


def changed(folder, tmp_path, change):
    """A copy of a raw folder in which depth (H, W) uint16 becomes change(number of the pair, depth)."""
    raw, table = folder
    target = tmp_path / "changed"
    for number, row in enumerate(table.itertuples()):
        (target / row.subject_id).mkdir(parents=True, exist_ok=True)
        (target / f"{row.pair_id}.png").write_bytes((raw / f"{row.pair_id}.png").read_bytes())
        np.save(target / f"{row.pair_id}.npy", change(number, np.load(raw / f"{row.pair_id}.npy")))
    (target / "dataset.json").write_bytes((raw / "dataset.json").read_bytes())
    return target, table


def check(folder):
    return check_integrity(*folder, workers=1)


def test_the_synthetic_sensor_is_a_sensor_and_raises_no_alarm(sensor):
    found = check(sensor)
    assert found.warnings == []
    assert found.origin == "sensor"
    assert (found.pairs["origin"] == "sensor").all()
    seen = values(found)
    assert seen["unit"] == 1
    assert seen["quantisation step"] == seen["quantisation step in mm"] == 2
    assert seen["noise"] == pytest.approx(3 * (seen["distance"] / 800) ** 2, rel=0.15)
    assert seen["noise over distance"] == pytest.approx(1.8, abs=0.4)
    assert 0.01 < seen["no reading"] < 0.15
    assert seen["noise between neighbours"] < integrity.WHITE_LINK
    assert abs(seen["shift x"]) < 1.5
    assert abs(seen["shift y"]) < 1.5
    assert seen["frozen"] == seen["partly frozen"] == 0
    assert list(found.table.columns) == ["measure", "value", "unit", "note", "warning"]
    assert found.table["measure"].is_unique
    assert (found.table["note"].str.len() > 0).all()


def test_a_render_without_a_sensor_is_no_sensor(rendered):
    found = check(rendered)
    assert found.origin == "smooth"
    (line,) = found.warnings
    assert "no sensor noise: it was estimated from the picture, rendered, or smoothed" in line
    assert not (found.pairs["origin"] == "sensor").any()
    assert values(found)["noise"] < 1


def test_noise_alone_makes_a_sensor_and_holes_alone_do_not(rendered, tmp_path):
    noisy = changed(rendered, tmp_path / "a", lambda k, d: np.random.default_rng(k).normal(d, 2).astype(np.uint16))
    assert check(noisy).origin == "sensor"
    holes = changed(
        rendered, tmp_path / "b", lambda k, d: np.where(np.random.default_rng(k).random(d.shape) < 0.4, 0, d)
    )
    found = check(holes)
    assert found.origin == "smooth"
    assert values(found)["no reading"] == pytest.approx(0.4, abs=0.02)
    assert any("40% of the face has no reading" in line for line in found.warnings)
    half = changed(
        rendered, tmp_path / "c", lambda k, d: np.random.default_rng(k).normal(d, 2 * (k % 2)).astype(np.uint16)
    )
    found = check(half)
    assert found.origin == "mixed"
    assert any("are two sources mixed" in line for line in found.warnings)


def test_depth_from_brightness_is_a_function_of_colour(sensor, tmp_path):
    from PIL import Image

    raw, table = sensor
    pictures = [np.asarray(Image.open(raw / f"{name}.png"), np.float32).mean(2) for name in table["pair_id"]]
    found = check(changed(sensor, tmp_path, lambda k, d: (650 + pictures[k]).astype(np.uint16)))
    assert found.origin == "colour"
    assert any("computed from colour" in line for line in found.warnings)


@pytest.mark.parametrize(("right", "down"), [(5, 0), (-5, 0), (0, 5), (0, -5)])
def test_a_shift_is_told_in_px_with_its_sign(sensor, tmp_path, right, down):
    found = check(changed(sensor, tmp_path, lambda k, d: np.roll(d, (down, right), (0, 1))))
    seen, before = values(found), values(check(sensor))
    assert seen["shift x"] - before["shift x"] == pytest.approx(right, abs=1)
    assert seen["shift y"] - before["shift y"] == pytest.approx(down, abs=1)
    assert any("px right of and below colour" in line for line in found.warnings)


def test_rounding_and_noise_in_the_numbers_of_the_file(sensor, tmp_path):
    raw, table = changed(sensor, tmp_path, lambda k, d: np.round(d / 8).astype(np.uint16) * 80)
    dataset = json.loads((raw / "dataset.json").read_text(encoding="utf-8"))
    (raw / "dataset.json").write_text(json.dumps(dataset | {"depth_scale": 0.1}), encoding="utf-8")
    found = check((raw, table))
    seen = values(found)
    assert seen["quantisation step"] == pytest.approx(80, rel=1e-3)
    assert seen["quantisation step in mm"] == pytest.approx(8, rel=1e-3)
    assert any("rounded to 8.0 mm" in line for line in found.warnings)
    noise = found.table.set_index("measure")["note"]["noise"]
    assert "rounding alone gives 2.3" in noise


def test_a_step_in_metres_is_in_metres(sensor, tmp_path):
    raw, table = changed(sensor, tmp_path, lambda k, d: (d / np.float32(1000)).astype(np.float32))
    (raw / "dataset.json").write_text('{"depth_unit": "m", "larger_is": "farther"}', encoding="utf-8")
    seen = values(check((raw, table)))
    assert seen["quantisation step"] == pytest.approx(0.002, rel=0.01)
    assert seen["quantisation step in mm"] == pytest.approx(2, rel=0.01)


def test_frozen_maps_whole_and_in_part(sensor, tmp_path):
    raw, table = sensor
    maps = [np.load(raw / f"{name}.npy") for name in table["pair_id"]]

    def frozen(k, depth):
        if k == 3:
            return maps[2]
        return np.r_[maps[10][:80], depth[80:]] if k == 11 else depth

    folder, _ = changed(sensor, tmp_path, frozen)
    again = run(folder, tmp_path / "aligned")
    found = check((folder, again))
    shares = found.pairs.set_index("pair_id")["frozen_share"]
    assert shares[table["pair_id"].iloc[[2, 3]]].tolist() == [1, 1]
    assert (shares[table["pair_id"].iloc[[10, 11]]] > 0.3).all()
    assert (shares.sort_values().iloc[:-4] == 0).all()
    assert (values(found)["frozen"], values(found)["partly frozen"]) == (2, 2)
    assert any("share their depth map" in line for line in found.warnings)
    assert any("partly the same" in line for line in found.warnings)


def test_one_pair_and_no_reading(sensor, tmp_path):
    raw, table = sensor
    found = check_integrity(raw, table.iloc[:1], workers=1)
    assert found.origin == "sensor"
    assert np.isnan(values(found)["shift x"])
    notes = found.table.set_index("measure")["note"]
    assert "1 pairs could be measured, 20 are needed" in notes["shift x"]
    empty = changed(sensor, tmp_path, lambda k, d: np.where(np.arange(len(d))[:, None] < 4, d, 0).astype(np.uint16))
    found = check(empty)
    assert found.origin == "unknown"
    assert values(found)["no reading"] == 1
    assert np.isnan(values(found)["noise"])
    assert (found.pairs["reason"] != "").all()
    plane = changed(sensor, tmp_path / "b", lambda k, d: np.full_like(d, 700))
    found = check(plane)
    assert values(found)["noise"] == 0
    assert np.isnan(values(found)["quantisation step"])


def test_crops_are_measured_where_the_raw_maps_are_gone(sensor, rendered):
    for (raw, table), origin in ((sensor, "sensor"), (rendered, "smooth")):
        found = check_integrity(raw.parent / "aligned", table, workers=1)
        assert found.origin == origin
        assert "name the raw folder" in found.table.set_index("measure")["note"]["partly frozen"]


def test_the_files_hold_the_table_and_the_pairs(sensor, tmp_path):
    found = check(sensor)
    integrity.write_integrity(tmp_path, found)
    entries = json.loads((tmp_path / "integrity.json").read_text(encoding="utf-8"))
    assert entries["origin"] == "sensor"
    assert [row["measure"] for row in entries["rows"]] == list(found.table["measure"])
    assert set(entries["rows"][0]) == {"measure", "value", "unit", "note", "warning"}
    table = read_table(tmp_path / "quality.csv", ["pair_id", *QUALITY, "frozen_share", "origin", "reason"])
    assert len(table) == len(found.pairs)


def test_the_worst_pair_is_the_worst_by_the_direction_of_its_column():
    pairs = pd.DataFrame(
        {"pair_id": ["a", "b", "c"], "holes": [0.1, 0.9, np.nan], "sharpness": [0.3, 0.2, 0.4], "noise_mm": np.nan}
    )
    worst = integrity.worst_pairs(pairs, ["holes", "sharpness", "noise_mm"])
    assert worst == {"holes": ("b", 0.9), "sharpness": ("b", 0.2)}


@pytest.mark.parametrize(
    ("name", "origin", "right"),
    [("kinect_rgbd", "sensor", 0.98), ("kinect2_rgbd", "sensor", 0.95), ("lfw_rgbd_rotated", "smooth", 1.0)],
)
def test_real_sets_are_told_apart(shared_data, tmp_path, name, origin, right):
    """The shares are those of notebooks/README.md, of which half of the people chose the threshold."""
    table = run(shared_data / name, tmp_path / "out")
    found = check_integrity(shared_data / name, table, workers=1)
    assert found.origin == origin
    assert (found.pairs["origin"] == origin).mean() >= right
    seen = values(found)
    assert seen["frozen"] == 0
    if origin == "sensor":
        assert seen["noise between neighbours"] > integrity.WHITE_LINK
    else:
        assert np.isnan(seen["noise between neighbours"])


def test_a_copy_of_a_whole_pair_is_no_frozen_depth():
    marks = np.arange(1, 65, dtype=np.uint64)
    pairs = pd.DataFrame({"pair_id": ["p/a", "p/b", "p/c", "p/d"], "rgb_sha256": ["x", "x", "y", "z"]})
    half = np.where(marks > 32, marks, marks + np.uint64(1000))
    arrays = {"p/a": {"marks": marks}, "p/b": {"marks": marks}, "p/c": {"marks": half}, "p/d": {}}
    shares = integrity._frozen_shares(pairs, arrays)
    assert shares[:3].tolist() == [0.5, 0, 0.5]  # the first and the third share half; the second copies the first
    assert np.isnan(shares[3])


def test_the_standard_error_of_the_shift_is_that_of_a_mean():
    """Where each person's surface is a parabola, the shift of all is the mean of the people's, known by hand."""
    best = np.random.default_rng(0).normal(0, 1, 10)  # of ten people, in half px along x
    steps = np.arange(-6, 7)
    surfaces = [0.1 * ((steps[None] - b) ** 2 + steps[:, None] ** 2) - 9 for b in best for _ in range(2)]
    names = [f"p{k:02d}/{i}" for k in range(10) for i in range(2)]
    pairs = pd.DataFrame({"pair_id": names, "subject_id": [name[:3] for name in names], "scale": 1.5})
    rows = integrity._shift(pairs, {name: {"surface": s} for name, s in zip(names, surfaces, strict=True)})
    assert rows[0]["value"] == pytest.approx(-2 * 1.5 * best.mean())
    error = 2 * 1.5 * best.std(ddof=1) / np.sqrt(10)
    assert f"standard error {error:.2g} px" in rows[0]["note"]
    assert rows[1]["value"] == pytest.approx(0)
