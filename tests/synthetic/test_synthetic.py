"""The synthetic faces: determinism, geometry, knobs, interruption, and that a face detector accepts them."""

import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from face3d_lib.base.errors import UserError
from face3d_lib.synthetic import camera, dataset, people, sittings
from face3d_lib.synthetic.camera import SESSION_SIZE, pair
from face3d_lib.synthetic.dataset import make_dataset
from face3d_lib.synthetic.people import Knobs

STILL = Knobs(yaw=0, pitch=0, roll=0, light=0, expression=0, glasses=0, occlusion=0, drift=0)
CLEAN = dataclasses.replace(STILL, blur=0, noise=0, jpeg=0, depth_noise=0, depth_warp=0, depth_step=0, depth_holes=0)


def tree(root):
    """{path: SHA-256} of every file below root."""
    files = (p for p in Path(root).rglob("*") if p.is_file())
    return {p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def smooth_part(made, limit):
    """Where (H, W) a pixel of the head and its eight neighbours lie within `limit` mm of each other."""
    z = np.pad(np.where(made.mask, made.true_depth, np.inf), 1, constant_values=np.inf)
    size = len(made.mask)
    near = np.stack([z[r : r + size, c : c + size] for r in range(3) for c in range(3)])
    return near.max(0) < near.min(0) + limit


def read_depth(made, point, reach=2):
    """Median reading (mm) around a point (x, y) in px."""
    x, y = np.round(point).astype(int)
    block = made.depth[y - reach : y + reach + 1, x - reach : x + reach + 1]
    return np.median(block[block > 0])


def turned_to(monkeypatch, subject=3, knobs=CLEAN, **angles):
    """A pair whose pose is given, everything else as drawn."""
    draw = camera.draw_shot
    pose = tuple(float(angles.get(name, 0)) for name in ("yaw", "pitch", "roll"))
    with monkeypatch.context() as patch:
        patch.setattr(
            "face3d_lib.synthetic.camera.draw_shot", lambda rng, k: dataclasses.replace(draw(rng, k), angles=pose)
        )
        return pair(0, subject, 0, knobs)


# ---- determinism -----------------------------------------------------------------------------------------


def test_same_numbers_same_pixels_whatever_was_made_before():
    first = pair(5, 2, SESSION_SIZE + 1)
    people.person.cache_clear()
    sittings.sitting.cache_clear()
    pair(5, 7, 0), pair(6, 2, 1)
    again = pair(5, 2, SESSION_SIZE + 1)
    for name in ("rgb", "depth", "true_depth", "mask", "landmarks"):
        assert np.array_equal(getattr(first, name), getattr(again, name)), name
    assert first.row == again.row
    assert not np.array_equal(first.rgb, pair(5, 2, SESSION_SIZE + 2).rgb)
    assert not np.array_equal(first.rgb, pair(6, 2, SESSION_SIZE + 1).rgb)


def test_the_data_set_does_not_depend_on_the_number_of_processes(tmp_path):
    settings = {"subjects": 3, "images_per_session": 2, "seed": 4, "knobs": Knobs(size=96)}
    alone = make_dataset(tmp_path / "one", workers=1, **settings)
    shared = make_dataset(tmp_path / "two", workers=2, **settings)
    pd.testing.assert_frame_equal(alone, shared)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    assert len(tree(tmp_path / "one")) == 3 * 2 * 2 * 2 + 2
    made = pair(4, 1, SESSION_SIZE + 1, Knobs(size=96))
    assert np.array_equal(np.array(Image.open(tmp_path / "two/p0001/s2_001.png")), made.rgb)
    assert np.array_equal(np.load(tmp_path / "two/p0001/s2_001.npy", allow_pickle=False), made.depth)


def test_a_finer_grid_shows_the_same_person():
    coarse, fine = pair(0, 3, 0, CLEAN), pair(0, 3, 0, dataclasses.replace(CLEAN, size=320))
    assert np.abs(fine.landmarks + 0.5 - 2 * (coarse.landmarks + 0.5)).max() < 1.0
    both = coarse.mask[1:-1, 1:-1] & fine.mask[::2, ::2][1:-1, 1:-1]
    gap = np.abs(coarse.true_depth - fine.true_depth[::2, ::2])[1:-1, 1:-1][both]
    assert np.median(gap) < 1.5


# ---- depth -----------------------------------------------------------------------------------------------


def test_depth_is_millimetres_and_larger_is_farther():
    for subject in range(4):
        made = pair(0, subject, 0, CLEAN)
        assert made.depth.dtype == np.uint16
        assert made.rgb.dtype == np.uint8
        assert made.rgb.shape == (160, 160, 3)
        eyes, nose = made.landmarks[:2], made.landmarks[2]
        nose_mm = read_depth(made, nose)
        assert 500 < nose_mm < 950
        beside = np.array([1.1 * (eyes[1, 0] - eyes[0, 0]), 0])  # 70 mm
        side = made.landmarks.mean(0) + beside
        assert 20 < np.mean([read_depth(made, eye) for eye in eyes]) - nose_mm < 60
        assert made.true_depth[int(side[1]), int(side[0])] - nose_mm > 50
        assert made.true_depth[0, 0] - nose_mm > 200  # the wall
    # a head 63 mm between the eyes at its distance has that many pixels: depth and picture share one scale
    wide = eyes[1, 0] - eyes[0, 0]
    assert 50 < wide * np.median(made.true_depth[made.mask]) / camera.describe_pair(0, 3, 0, CLEAN)[1].focal < 75


def test_the_sensor_reads_the_true_surface_within_its_noise():
    knobs = dataclasses.replace(CLEAN, depth_noise=3, depth_step=2)
    errors = []
    for subject in range(3):
        made = pair(1, subject, 0, knobs)
        inner = smooth_part(made, 8) & (made.depth > 0)
        errors.append((made.depth.astype(float) - made.true_depth)[inner] * (800 / made.true_depth[inner]) ** 2)
    errors = np.concatenate(errors)
    assert abs(np.mean(errors)) < 0.5
    assert 2.4 < np.std(errors) < 4.5  # 3 mm noise, 2 / sqrt(12) mm steps, slope within 2 x 2


def test_sensor_noise_grows_with_the_square_of_the_distance():
    knobs = dataclasses.replace(CLEAN, depth_noise=3)
    noise = [
        camera.depth_readings(np.full((200, 200), z, np.float32), knobs, np.random.default_rng(0)) - float(z)
        for z in (800, 1600)
    ]
    assert np.std(noise[0]) == pytest.approx(3, rel=0.1)
    assert np.std(noise[1]) == pytest.approx(12, rel=0.1)


def test_holes_are_zero_and_nothing_else_is_implausible():
    made = pair(0, 1, 0, dataclasses.replace(Knobs(), glasses=1))
    near, far = made.true_depth.min(), made.true_depth.max()
    readings = made.depth[made.depth > 0].astype(float)
    assert 0.005 < np.mean(made.depth == 0) < 0.25
    assert readings.min() > near - 40
    assert readings.max() < far * 1.03 + 40
    steps = dataclasses.replace(CLEAN, depth_step=2)
    assert set(np.unique(pair(0, 1, 0, steps).depth % 2)) == {0}


def test_glasses_make_holes_at_the_eyes():
    def lost(knobs):
        shares = []
        for subject in range(6):
            made = pair(0, subject, 0, knobs)
            for x, y in np.round(made.landmarks[:2]).astype(int):
                shares.append(np.mean(made.depth[y - 4 : y + 5, x - 6 : x + 7] == 0))
        return np.mean(shares)

    holes = dataclasses.replace(STILL, depth_holes=1)
    assert lost(dataclasses.replace(holes, glasses=1)) > 0.25
    assert lost(holes) < 0.1
    assert lost(dataclasses.replace(holes, glasses=1, depth_holes=0)) == 0


# ---- people and sittings ---------------------------------------------------------------------------------


def test_a_person_keeps_the_shape_and_others_have_another():
    shapes = [people.draw_identity(people.identity_seed(0, k), Knobs()).shape for k in range(40)]
    again = [people.draw_identity(people.identity_seed(0, k), Knobs()).shape for k in range(40)]
    assert np.array_equal(shapes, again)
    apart = [np.linalg.norm(a - b) for i, a in enumerate(shapes) for b in shapes[:i]]
    assert min(apart) > 4  # 36 latents N(0, 1): the distance is sqrt(2 * 36) = 8.5 on average
    assert np.mean(apart) == pytest.approx(np.sqrt(2 * len(people.BUMPS)), rel=0.1)
    rows = [pair(0, k, image).row["identity_seed"] for k in (0, 1) for image in (0, SESSION_SIZE)]
    assert rows[0] == rows[1] != rows[2] == rows[3]


@pytest.mark.parametrize("what", ["colour", "depth"])
def test_pictures_of_a_person_are_closer_than_those_of_two(what):
    """Frontal crops cut at the true landmarks; sittings differ, so does what the camera adds."""
    knobs = dataclasses.replace(Knobs(), yaw=0, pitch=0, roll=0, expression=0, light=0, glasses=0, occlusion=0)

    def crop(subject, image):
        made = pair(3, subject, image, knobs)
        left, right = made.landmarks[:2]
        middle, scale = made.landmarks.mean(0), (right[0] - left[0]) / 32
        ys, xs = np.mgrid[-20:25, -18:19] * scale
        ys, xs = np.round(ys + middle[1]).astype(int), np.round(xs + middle[0]).astype(int)
        picked = made.rgb[ys, xs].mean(2) if what == "colour" else made.true_depth[ys, xs]
        return ((picked - picked.mean()) / (picked.std() if what == "colour" else 1)).ravel()

    first = np.array([crop(k, 0) for k in range(12)])
    second = np.array([crop(k, SESSION_SIZE) for k in range(12)])
    distance = np.linalg.norm(first[:, None] - second[None], axis=2)  # (12, 12)
    own, others = np.diag(distance), distance[~np.eye(12, dtype=bool)]
    assert own.mean() < 0.8 * others.mean()
    assert np.mean(distance.argmin(1) == np.arange(12)) >= 0.7  # chance: 0.08


def test_what_lasts_through_a_sitting_and_what_changes_between():
    knobs = Knobs()
    same = [sittings.sitting(0, 1, 0, knobs), sittings.sitting(0, 1, 0, knobs)]
    other = sittings.sitting(0, 1, 1, knobs)
    assert same[0] is same[1] or np.array_equal(same[0].albedo, same[1].albedo)
    assert not np.array_equal(same[0].albedo, other.albedo)
    assert not np.array_equal(same[0].wall, other.wall)
    still = dataclasses.replace(knobs, drift=0)
    a, b = (sittings.sitting(0, 1, session, still) for session in (0, 1))
    assert np.array_equal(a.albedo, b.albedo)
    assert np.array_equal(a.surface, b.surface)
    assert np.array_equal(a.wall, b.wall)


# ---- pose and landmarks ----------------------------------------------------------------------------------


def test_landmarks_are_in_image_order_and_on_the_face():
    for subject in range(12):
        made = pair(2, subject, 0)
        left, right, nose, mouth_left, mouth_right = made.landmarks
        assert made.landmarks.shape == (5, 2)
        assert left[0] < right[0]
        assert mouth_left[0] < mouth_right[0]
        assert max(left[1], right[1]) < nose[1] + 5 < max(mouth_left[1], mouth_right[1]) + 10
        x, y = np.round(made.landmarks).astype(int).T
        assert made.mask[y, x].all() or abs(made.row["yaw_deg"]) > 35
        assert [made.row[name] for name in ("x1", "y1")] == [round(float(q), 2) for q in left]


def test_signs_of_the_pose(monkeypatch):
    def nose(**angles):
        made = turned_to(monkeypatch, **angles)
        return made.landmarks[2] - made.landmarks[:2].mean(0), made.landmarks

    (x0, y0), _ = nose()
    assert nose(yaw=30)[0][0] > x0 + 8  # to the image's right
    assert nose(yaw=-30)[0][0] < x0 - 8
    assert nose(pitch=15)[0][1] > y0 + 3  # down
    assert nose(pitch=-15)[0][1] < y0 - 3
    _, rolled = nose(roll=20)
    (dx, dy) = rolled[1] - rolled[0]
    assert np.degrees(np.arctan2(-dy, dx)) == pytest.approx(20, abs=3)  # counter-clockwise in the image


def test_the_marked_nose_is_the_nearest_part_of_a_frontal_face(monkeypatch):
    for subject in range(4):
        made = turned_to(monkeypatch, subject)
        x, y = made.landmarks[2]
        window = made.true_depth[int(y) - 12 : int(y) + 13, int(x) - 15 : int(x) + 16]
        row, column = np.unravel_index(window.argmin(), window.shape)
        assert np.hypot(row - 12, column - 15) < 5


# ---- knobs -----------------------------------------------------------------------------------------------


def test_knobs_at_zero_switch_their_effect_off():
    rows = [pair(0, subject, image, CLEAN).row for subject in range(4) for image in range(3)]
    assert {(r["yaw_deg"], r["pitch_deg"], r["roll_deg"]) for r in rows} == {(0, 0, 0)}
    conditions = {tuple(r[name] for name in dataset.CONDITIONS) for r in rows}
    assert conditions == {("frontal", "neutral", "front", "none", "no")}
    made = pair(0, 0, 0, CLEAN)
    assert not (made.depth == 0).any()
    inner = smooth_part(made, 8)
    assert inner.sum() > 4000
    assert np.abs(made.depth - made.true_depth)[inner].max() < 6  # rounding and 2 x 2 blocks only
    nobody = dataclasses.replace(CLEAN, shape=0, albedo=0)
    a, b = (sittings.sitting(0, k, 0, nobody) for k in (1, 2))
    assert np.allclose(a.surface, b.surface, atol=0.01)


@pytest.mark.parametrize("name", ["noise", "blur", "jpeg", "depth_noise", "depth_warp", "depth_step", "depth_holes"])
def test_each_camera_knob_changes_its_own_camera_only(name):
    plain, changed = pair(0, 1, 0, CLEAN), pair(0, 1, 0, dataclasses.replace(CLEAN, **{name: 8}))
    depth_knob = name.startswith("depth")
    assert np.array_equal(plain.rgb, changed.rgb) == depth_knob
    assert np.array_equal(plain.depth, changed.depth) != depth_knob
    assert np.array_equal(plain.true_depth, changed.true_depth)


def test_variety_is_the_persons_own_and_nearly_symmetric():
    knobs = dataclasses.replace(CLEAN, variety=2.0)
    plain, varied = (np.stack([people.person(0, k, q)[1] for k in range(12)]) for q in (CLEAN, knobs))
    added = (varied - plain)[:, :, 60:120, 40:-40]  # face and cheeks: (12, 3, rows, columns)
    assert 2 < added[:, 2].std() < 5  # mm: about 1.35 of the knob by the waves, and some by proportions
    assert added[:, 2].mean(0).std() < added[:, 2].std() / 2  # others have others
    deep = added[:, 2] - added[:, 2].mean((1, 2), keepdims=True)
    assert np.corrcoef(deep.ravel(), deep[:, :, ::-1].ravel())[0, 1] > 0.8
    wide = added[:, 0] - added[:, 0].mean((1, 2), keepdims=True)
    assert np.corrcoef(wide.ravel(), wide[:, :, ::-1].ravel())[0, 1] < -0.5  # outwards on both sides
    people.person.cache_clear()
    assert np.array_equal(people.person(0, 5, knobs)[1], varied[5])


def test_mimic_moves_surface_and_landmarks_together():
    knobs = dataclasses.replace(CLEAN, mimic=3.0)
    _, surface = people.person(0, 3, knobs)
    assert np.array_equal(surface, people.person(0, 3, CLEAN)[1])  # an image's, not the person's
    noses = []
    for image in range(6):
        made, shot = pair(0, 3, image, knobs), camera.describe_pair(0, 3, image, knobs)[1]
        points, on_head = camera.true_landmarks(surface, shot, knobs)
        noses.append(on_head[:, 2])
        x, y = np.round(points[2]).astype(int)
        assert abs(made.true_depth[y, x] - (shot.distance - on_head[2, 2])) < 2.5
    assert np.std(noses, axis=0).min() > 1  # in x, y and z


def test_relief_deepens_what_all_faces_share():
    deep = dataclasses.replace(CLEAN, relief=1.5)
    flat, cut = (np.mean([people.person(0, k, q)[1][2] for k in range(3)], axis=0) for q in (CLEAN, deep))
    head = people.mean_head()
    nose, socket = (head.vertex(0, -31), head.vertex(24, 13))
    assert (cut - flat).ravel()[nose] > 6  # the tip's 15 mm and what lies below, times a half
    assert (cut - flat).ravel()[socket] < 0


def test_depth_pixels_as_fine_as_the_picture():
    fine = pair(0, 0, 0, dataclasses.replace(CLEAN, depth_pixel=1))
    assert np.array_equal(fine.depth, np.round(fine.true_depth))
    coarse = pair(0, 0, 0, CLEAN).depth
    assert np.array_equal(coarse[::2, ::2], coarse[1::2, 1::2])
    assert not np.array_equal(fine.depth[::2, ::2], fine.depth[1::2, 1::2])


def test_harder_knobs_are_seen_in_the_manifest():
    knobs = dataclasses.replace(Knobs(), glasses=1, occlusion=1, yaw=60)
    rows = pd.DataFrame([camera.describe_pair(0, k, 0, knobs)[0] for k in range(40)])
    assert set(rows.glasses) == {"yes"}
    assert set(rows.occlusion) == {"thing"}
    assert (rows.pose == "profile").mean() > 0.25
    assert (rows.pose == "profile").eq(rows.yaw_deg.abs() >= 45).all()


# ---- the data set on disk --------------------------------------------------------------------------------


def test_manifest_and_dataset_json(tmp_path):
    frame = make_dataset(tmp_path / "raw", 2, 3, seed=1, knobs=Knobs(size=64), workers=1, first_subject=7)
    assert list(frame.columns) == dataset.COLUMNS
    assert list(frame.columns[:6]) == ["pair_id", "subject_id", "session", "yaw_deg", "pitch_deg", "roll_deg"]
    assert len(frame) == 2 * 2 * 3
    assert frame.pair_id.is_unique
    assert frame.groupby(["subject_id", "session"]).size().to_dict() == {
        ("p0007", "s1"): 3, ("p0007", "s2"): 3, ("p0008", "s1"): 3, ("p0008", "s2"): 3,
    }  # fmt: skip
    for pair_id, subject in zip(frame.pair_id, frame.subject_id, strict=True):
        assert pair_id.startswith(subject + "/")
        assert Image.open(tmp_path / "raw" / f"{pair_id}.png").size == (64, 64)
        depth = np.load(tmp_path / "raw" / f"{pair_id}.npy", allow_pickle=False)
        assert (depth.dtype, depth.shape) == (np.uint16, (64, 64))
    told = json.loads((tmp_path / "raw/dataset.json").read_text())
    assert (told["depth_unit"], told["larger_is"], told["seed"]) == ("mm", "farther", 1)
    assert told["source"] == "face3d synthetic faces"
    assert told["knobs"] == dataclasses.asdict(Knobs(size=64))
    read = pd.read_csv(tmp_path / "raw/manifest.csv", dtype={"subject_id": str})
    pd.testing.assert_frame_equal(read, frame, check_dtype=False)


def test_deleted_files_come_back_and_kept_files_are_not_made_again(tmp_path):
    call = {"subjects": 2, "images_per_session": 2, "knobs": Knobs(size=64), "workers": 1}
    make_dataset(tmp_path / "raw", **call)
    before = tree(tmp_path / "raw")
    kept = tmp_path / "raw/p0001/s1_000.png"
    stamp = kept.stat().st_mtime_ns
    (tmp_path / "raw/p0000/s1_001.png").unlink()
    (tmp_path / "raw/p0000/s2_000.npy").unlink()
    (tmp_path / "raw/manifest.csv").unlink()
    (tmp_path / "raw/p0000/.new-killed.png").write_bytes(b"part of a picture")
    make_dataset(tmp_path / "raw", **call)
    assert tree(tmp_path / "raw") == before
    assert kept.stat().st_mtime_ns == stamp


CHILD = """
from face3d_lib.synthetic.dataset import make_dataset
from face3d_lib.synthetic.people import Knobs
if __name__ == "__main__":
    make_dataset({root!r}, 3, 8, seed=2, knobs=Knobs(size=64), workers=2)
"""


def test_killed_in_the_middle_it_continues_to_the_same_files(tmp_path):
    root, script = tmp_path / "raw", tmp_path / "child.py"
    script.write_text(CHILD.format(root=str(root)))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    child = subprocess.Popen([sys.executable, script], stderr=subprocess.DEVNULL, env=environment)
    deadline = time.monotonic() + 60
    while len(list(root.glob("*/*.png"))) < 4 and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    count = -1
    while count != (count := len(tree(root))):  # workers end with their parent
        time.sleep(0.3)
    assert 4 <= count < 2 * 48, "killed too late to be in the middle"
    assert not (root / "manifest.csv").exists()
    call = {"subjects": 3, "images_per_session": 8, "seed": 2, "knobs": Knobs(size=64), "workers": 1}
    make_dataset(root, **call)
    make_dataset(tmp_path / "whole", **call)
    assert tree(root) == tree(tmp_path / "whole")


def test_a_folder_of_other_settings_is_refused(tmp_path):
    call = {"subjects": 1, "images_per_session": 1, "knobs": Knobs(size=64), "workers": 1}
    make_dataset(tmp_path / "raw", **call)
    before = tree(tmp_path / "raw")
    for other, named in [
        ({"seed": 1}, "seed"), ({"subjects": 2}, "subjects"), ({"knobs": Knobs(size=64, yaw=3)}, "knobs"),
    ]:  # fmt: skip
        with pytest.raises(UserError, match=rf"dataset.json: made with other settings \({named}\)"):
            make_dataset(tmp_path / "raw", **{**call, **other})
    (tmp_path / "raw/dataset.json").write_text("{")
    with pytest.raises(UserError, match="other settings"):
        make_dataset(tmp_path / "raw", **call)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/photo.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"mine: holds other files and no dataset\.json"):
        make_dataset(tmp_path / "mine", **call)
    assert tree(tmp_path / "mine").keys() == {"photo.png"}
    assert tree(tmp_path / "raw").keys() == before.keys()


@pytest.mark.parametrize(
    "wrong",
    [
        {"subjects": 0},
        {"images_per_session": SESSION_SIZE + 1},
        {"seed": -1},
        {"knobs": Knobs(size=8)},
        {"knobs": Knobs(depth_pixel=3)},
    ],
)
def test_numbers_that_make_no_data_set_are_refused_before_anything_is_written(tmp_path, wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        make_dataset(tmp_path / "raw", **{"subjects": 1, "images_per_session": 1, **wrong})
    assert not (tmp_path / "raw").exists()


# ---- a face detector's opinion ---------------------------------------------------------------------------


def test_mtcnn_finds_frontal_faces_where_they_are():
    from facenet_pytorch import MTCNN

    knobs = dataclasses.replace(Knobs(), yaw=5, occlusion=0)
    detector, found, errors = MTCNN(), 0, []
    for subject in range(24):
        made = pair(11, subject, 0, knobs)
        boxes, _, points = detector.detect(Image.fromarray(made.rgb), landmarks=True)
        if boxes is None:
            continue
        found += 1
        eyes = np.linalg.norm(made.landmarks[1] - made.landmarks[0])
        errors.append(np.linalg.norm(points[0].astype(float) - made.landmarks, axis=1) / eyes)
    assert found >= 23
    assert np.median(errors) < 0.09
