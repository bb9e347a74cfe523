"""One row of numbers a pair: complete, in the units they name, NaN with a reason, the same from raw maps and crops."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from aligning import run
from bad_inputs import declare, write_pair

from face3d_lib.base.errors import UserError
from face3d_lib.base.tables import read_table, write_table
from face3d_lib.data import quality
from face3d_lib.data.convention import DepthConvention
from face3d_lib.data.pairs import RGBDPair
from face3d_lib.data.warp import TEMPLATE_112, AlignSettings
from face3d_lib.synthetic.dataset import make_dataset
from face3d_lib.synthetic.people import Knobs

MM, PIXEL = DepthConvention("mm", "farther"), DepthConvention("pixel", "nearer")
POINTS_AT = 2 * TEMPLATE_112 + 20  # in a picture of 260 px: the eyes 70.5 px apart


def pair_of(depth, rgb=None, unit="mm"):
    rgb = np.full((*depth.shape, 3), 120, np.uint8) if rgb is None else rgb
    return RGBDPair("p/a", "p", rgb, depth.astype(np.float32), unit, "", "")


def plane(tilt=0.3):
    return 700 + tilt * np.mgrid[:260, :260][0]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Six synthetic people with two pictures each, raw and aligned, and alignment.csv."""
    base = tmp_path_factory.mktemp("quality")
    make_dataset(base / "raw", 6, 2, 1, seed=2, knobs=Knobs(yaw=10, pitch=5, roll=15), workers=1)
    return base / "raw", base / "aligned", run(base / "raw", base / "aligned")


def test_the_numbers_of_a_plane():
    depth = plane() + np.random.default_rng(0).normal(0, 2, (260, 260))
    row, kept = quality.measure_pair(pair_of(depth), POINTS_AT, MM)
    assert set(row) - {"reason"} <= set(quality.UNITS)
    assert row["reason"] == ""
    assert row["noise_mm"] == row["noise"] == pytest.approx(2, rel=0.1)
    assert row["eye_px"] == pytest.approx(70.5, abs=0.1)
    assert row["distance_mm"] == pytest.approx(700 + 0.3 * 160, abs=2)
    assert row["holes"] == 0
    assert row["scale"] == pytest.approx(2)
    assert row["mm_per_unit"] == 1
    assert row["turn_deg"] == pytest.approx(np.hypot(row["yaw_deg"], row["pitch_deg"]))
    assert kept["marks"].shape == (64,)
    assert kept["surface"].shape == (13, 13)


def test_a_unit_of_pixels_becomes_millimetres_by_the_eyes():
    depth = 300 + np.random.default_rng(0).normal(0, 2, (260, 260))
    row, _ = quality.measure_pair(pair_of(depth, unit="pixel"), POINTS_AT, PIXEL)
    assert row["noise"] == pytest.approx(2, rel=0.1)
    assert row["mm_per_unit"] == pytest.approx(63 / 70.5, rel=1e-2)
    assert row["noise_mm"] == pytest.approx(row["noise"] * row["mm_per_unit"])
    assert np.isnan(row["distance_mm"])
    assert "no distance from the camera" in row["reason"]


def test_holes_are_counted_in_the_face_alone():
    depth = plane()
    depth[:60] = 0  # above the face
    assert quality.measure_pair(pair_of(depth), POINTS_AT, MM)[0]["holes"] == 0
    depth[160:] = 0  # y of the middle of the ellipse
    assert quality.measure_pair(pair_of(depth), POINTS_AT, MM)[0]["holes"] == pytest.approx(0.5, abs=0.02)


def test_no_reading_no_face_and_points_in_one_spot():
    row, kept = quality.measure_pair(pair_of(np.zeros((260, 260))), POINTS_AT, MM)
    assert row["holes"] == 1
    assert "noise_mm" not in row
    assert "no reading in the face" in row["reason"]
    assert "surface" not in kept
    row, kept = quality.measure_pair(pair_of(plane()), None, MM)
    assert "no face was looked for" in row["reason"]
    assert "eye_px" not in row
    assert row["noise_mm"] < 0.01
    with pytest.raises(UserError, match="one spot"):
        quality.measure_pair(pair_of(plane()), np.full((5, 2), 3.0), MM)


def test_picture_quality_by_hand():
    ramp = np.repeat(np.arange(112, dtype=np.uint8)[None, :, None] + 60, 112, 0).repeat(3, 2)
    found = quality.picture_quality(ramp)
    assert found["sharpness"] == pytest.approx(0.25)
    assert found["brightness"] == pytest.approx(60 + 55.5, abs=0.1)
    assert found["clipped"] == 0
    noise = np.random.default_rng(0).integers(0, 256, (112, 112, 1), np.uint8).repeat(3, 2)
    assert quality.picture_quality(noise)["sharpness"] == pytest.approx(1, abs=0.05)
    black = quality.picture_quality(np.zeros((112, 112, 3), np.uint8))
    assert (black["clipped"], black["brightness"]) == (1, 0)
    assert np.isnan(black["sharpness"])
    half = np.full((112, 112, 3), 50, np.uint8)
    half[:, 56:] = 150
    assert quality.picture_quality(half)["side_light"] == pytest.approx(1.0, abs=0.01)


def test_a_folder_gives_a_row_for_each_aligned_pair(folders):
    raw, _, table = folders
    pairs, arrays = quality.measure_folder(raw, table, workers=1)
    ok = table[table["status"] == "ok"]
    assert list(pairs["pair_id"]) == list(ok["pair_id"])
    assert list(pairs.columns) == ["pair_id", "subject_id", *quality.UNITS, "reason"]
    assert set(quality.QUALITY) <= set(quality.UNITS)
    assert list(quality.LABELS) == list(quality.QUALITY)
    assert set(pairs.dtypes[list(quality.UNITS)]) == {np.dtype(np.float64)}
    assert set(arrays) == set(ok["pair_id"])
    apart = np.hypot(pairs["shift_x"], pairs["shift_y"])  # px of the picture, and of the template
    assert apart.notna().any()
    assert np.allclose(apart, pairs["shift_off_px"] * pairs["scale"], equal_nan=True)
    assert pairs["scale"].max() > 1.05
    assert pairs["sensor_px"].median() == 2
    assert pairs["step"].median() == 2
    expected = 3.0 * (pairs["distance_mm"] / 800) ** 2
    assert (pairs["noise_mm"] / expected).median() == pytest.approx(1.05, abs=0.1)


def test_two_processes_measure_the_same(folders):
    raw, _, table = folders
    rows = pd.concat([table] * 12, ignore_index=True).head(130)  # three chunks
    rows["pair_id"] = rows["pair_id"].where(~rows.duplicated("pair_id"), rows["pair_id"] + rows.index.astype(str))
    alone, _ = quality.measure_folder(raw, rows, workers=1)
    shared, _ = quality.measure_folder(raw, rows, workers=2)
    pd.testing.assert_frame_equal(alone, shared)
    assert (alone["reason"] == "the files are no longer there").sum() == len(rows) - len(table)


def test_crops_tell_what_the_raw_maps_tell(folders):
    raw, aligned, table = folders
    first, _ = quality.measure_folder(raw, table, workers=1)
    second, _ = quality.measure_folder(aligned, table, workers=1)
    assert np.allclose(first["eye_px"], second["eye_px"])
    assert np.allclose(first["distance_mm"], second["distance_mm"], rtol=0.01)
    assert np.allclose(first["yaw_deg"], second["yaw_deg"], atol=0.1)
    assert np.allclose(first["holes"], second["holes"], atol=0.03)
    assert (second["noise_mm"] / first["noise_mm"]).median() == pytest.approx(0.85, abs=0.2)
    assert np.allclose(first["zigzag"], second["zigzag"], atol=0.1)


def test_readings_of_a_crop_go_back_to_their_pixels(folders):
    raw, aligned, table = folders
    row = table[table["status"] == "ok"].iloc[0].to_dict()
    crop = pair_of(np.load(aligned / f"{row['pair_id']}.npy"))
    depth, points = quality.original_depth(row, crop)
    whole = np.load(raw / f"{row['pair_id']}.npy")
    assert depth.shape == whole.shape
    assert (depth[depth > 0] == whole[depth > 0]).all()
    assert points[0, 0] == float(row["x1"])
    scaled = dataclasses.replace(crop, depth=crop.depth * 2, depth_unit="pixel")
    matrix = np.array([float(row[name]) for name in ("m00", "m01", "m10", "m11")]).reshape(2, 2)
    again, _ = quality.original_depth(row, scaled)
    assert np.allclose(again, 2 * depth / np.sqrt(np.linalg.det(matrix)), rtol=1e-5)


def test_one_bad_pair_is_a_row(folders, tmp_path):
    raw, _, table = folders
    root = declare(tmp_path / "in")
    good, bad = table["pair_id"].iloc[:2]
    for name in (good, bad):
        person = root / name.split("/")[0]
        person.mkdir(exist_ok=True)
        (root / f"{name}.png").write_bytes((raw / f"{name}.png").read_bytes())
        (root / f"{name}.npy").write_bytes((raw / f"{name}.npy").read_bytes() if name == good else b"no depth")
    pairs, arrays = quality.measure_folder(root, table.iloc[:2], workers=1)
    assert pairs["noise_mm"].notna().tolist() == [True, False]
    assert "not a readable depth map" in pairs["reason"].iloc[1]
    assert list(arrays[bad]) == []
    with pytest.raises(UserError, match="name the folder that was aligned"):
        quality.measure_folder(root, table.iloc[2:], workers=1)


def test_a_folder_without_faces_is_measured_in_its_middle(tmp_path):
    root = declare(tmp_path / "in")
    write_pair(root, "p/a", np.full((260, 260, 3), 120, np.uint8), plane().astype(np.uint16))
    table = run(root, tmp_path / "out", AlignSettings("none"))
    pairs, _ = quality.measure_folder(root, table, workers=1)
    assert pairs["step"].iloc[0] == 1
    assert np.isnan(pairs["eye_px"].iloc[0])
    assert "no face was looked for" in pairs["reason"].iloc[0]


def test_quality_is_read_as_it_was_written(folders, tmp_path):
    raw, _, table = folders
    pairs, _ = quality.measure_folder(raw, table, workers=1)
    pairs.loc[0, "holes"] = np.nan
    write_table(tmp_path / "quality.csv", quality.rounded(pairs))
    back = quality.read_quality(tmp_path / "quality.csv")
    assert list(back.columns) == list(quality.QUALITY)
    assert np.allclose(back, pairs.set_index("pair_id")[list(quality.QUALITY)], rtol=1e-5, equal_nan=True)
    assert read_table(tmp_path / "quality.csv", ["reason"])["pair_id"].tolist() == pairs["pair_id"].tolist()
    write_table(tmp_path / "quality.csv", pairs[["pair_id", "holes"]])
    with pytest.raises(UserError, match="no column"):
        quality.read_quality(tmp_path / "quality.csv")
