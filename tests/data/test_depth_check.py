"""Does the depth belong to the face? The marks by hand, and each wrong depth told by its own line."""

import dataclasses
import hashlib
import re

import numpy as np
import pandas as pd
import pytest
import torch
from aligning import TEMPLATE, apply, face_at, run, similarity
from bad_inputs import declare, depth_of, texture, write_pair
from PIL import Image

from face3d_lib.data.alignment_table import ALIGNMENT_COLUMNS, DEPTH_MARKS
from face3d_lib.data.crops import align_pair
from face3d_lib.data.depth_check import check_depth, face_relief, nose_peak
from face3d_lib.data.faces import Faces, find_faces
from face3d_lib.data.pairs import RGBDPair
from face3d_lib.data.warp import EYES_MM, TEMPLATE_112, AlignSettings
from face3d_lib.synthetic import camera

torch.set_num_threads(1)


def test_the_same_map_in_two_files_has_one_hash(tmp_path):
    root = declare(tmp_path / "in")
    write_pair(root, "p/a", texture(), depth_of((48, 40)).astype(np.float64))
    write_pair(root, "p/b", texture(seed=1))
    (root / "p/b.npy").unlink()
    Image.fromarray(depth_of((48, 40))).save(root / "p/b.depth.png")
    frame = run(root, tmp_path / "out", AlignSettings("none"))
    assert frame["depth_sha256"].nunique() == 2
    assert frame["depth_map_sha256"].nunique() == 1


def surface(nose=(56.0, 72.0), height=20.0, tilt=(0.0, 0.0)):
    """Depth (112, 112): round as a face, tilted, 900 at the template's nose, with a bump of 5 px and `height`."""
    y, x = np.mgrid[:112, :112]
    bump = height * np.exp(-((x - nose[0]) ** 2 + (y - nose[1]) ** 2) / (2 * 5.0**2))
    round_ = ((x - 56) ** 2 + (y - 72) ** 2) / 80
    return (900 + round_ + tilt[0] * (x - 56) + tilt[1] * (y - 72) - bump).astype(np.float32)


def test_relief_by_hand():
    depth = np.full((112, 112), 830, np.float32)
    depth[65:80, 50:63] = 800  # the nose
    assert face_relief(depth, TEMPLATE_112) == 30
    assert face_relief(1000 - depth, TEMPLATE_112) == -30
    depth[48:56, 30:45] = 2000  # one eye lies beside the head: a median of four bears one
    assert face_relief(depth, TEMPLATE_112) == 30
    depth[60:85, 45:68] = 0
    assert np.isnan(face_relief(depth, TEMPLATE_112))
    assert np.isnan(face_relief(depth, TEMPLATE_112 + 500))
    holes = np.full((112, 112), 830, np.float32)
    holes[::2] = 0  # no reading is no depth of nought
    assert face_relief(holes, TEMPLATE_112) == 0


def test_the_nose_is_found_where_it_stands_out():
    for nose in ((56, 72), (64, 78), (48, 62)):
        for tilt in ((0, 0), (0.5, 0.3), (-0.3, 0.6)):
            assert np.hypot(*(nose_peak(surface(nose, tilt=tilt)) - nose)) < 3
    holes = surface((62, 70))
    holes[np.random.default_rng(0).random((112, 112)) < 0.3] = 0
    assert np.hypot(*(nose_peak(holes) - (62, 70))) < 4
    assert nose_peak(np.zeros((112, 112), np.float32)) is None
    wall = surface((60, 75))
    wall[:, 80:] = 3000  # behind a turned head: its edge is no nose
    assert np.hypot(*(nose_peak(wall) - (60, 75))) < 3
    assert np.array_equal(nose_peak(8 * wall), nose_peak(wall))  # whatever the unit


def test_marks_are_in_eye_distances_in_every_mode():
    """The template itself, 1.6 times as large: eyes 56.4 px apart, a nose of 20 mm, 4 template px to the right."""
    back = similarity(8, 1.6, [40, 25])
    there = np.linalg.inv(np.r_[back, [[0, 0, 1]]])[:2]
    rgb = texture(280, 280)
    for unit, eyes in (("mm", EYES_MM), ("pixel", 1.6 * 35.2377)):
        y, x = np.mgrid[:280, :280]
        place = apply(there, np.stack([x, y], -1).reshape(-1, 2)).reshape(280, 280, 2)
        away = ((place - (60, 71.7)) ** 2).sum(-1)
        depth = (900 + away / 80 - 20 * np.exp(-away / (2 * 6.0**2))).astype(np.float32)
        pair, found = RGBDPair("p/a", "p", rgb, depth, unit, "", ""), Faces([face_at(back)], "native")
        for settings in (TEMPLATE, AlignSettings(image_size=160), AlignSettings("facenet", image_size=182)):
            row = {}
            align_pair(pair, found, settings, row)
            around = np.median(((TEMPLATE_112[[0, 1, 3, 4]] - (60, 71.7)) ** 2).sum(1)) / 80
            tip = 16 / 80 - 20 * np.exp(-16 / 72)  # at the point that colour gives, 4 px beside
            assert abs(row["relief"] - (around - tip) / eyes) < 3 / eyes  # of 24; patches blunt the tip
            assert abs(row["nose_dx"] - 4 / 35.24) < 0.06
            assert abs(row["nose_dy"]) < 0.06
            assert np.isclose(row["registration"], np.hypot(row["nose_dx"], row["nose_dy"]), atol=1e-3)
    row = {}
    align_pair(pair, None, AlignSettings("none"), row)
    assert set(row).isdisjoint(DEPTH_MARKS)


@pytest.fixture(scope="module")
def shots(detector):
    """24 synthetic pairs with the faces found in them."""
    made = [camera.pair(5, subject, image) for subject in range(6) for image in range(4)]
    pairs = [RGBDPair(m.row["pair_id"], "p", m.rgb, m.depth.astype(np.float32), "mm", "", "") for m in made]
    found = find_faces([pair.rgb for pair in pairs], detector)
    return [(pair, faces) for pair, faces in zip(pairs, found, strict=True) if faces.faces]


def told(shots, change=lambda depth: depth):
    """What `check_depth` says where the depths (a list of arrays) of these pairs were changed."""
    rows = []
    for (pair, found), depth in zip(shots, change([pair.depth for pair, _ in shots]), strict=True):
        row = dict.fromkeys(ALIGNMENT_COLUMNS, "") | {"status": "ok", "pair_id": pair.pair_id}
        row |= {"rgb_sha256": pair.pair_id, "depth_map_sha256": hashlib.sha256(depth).hexdigest()}
        align_pair(dataclasses.replace(pair, depth=depth.astype(np.float32)), found, TEMPLATE, row)
        rows.append(row)
    return check_depth(pd.DataFrame(rows).astype(str))


def shifted(depths, px):
    return [np.roll(depth, px, axis=1) for depth in depths]


def test_depth_as_it_was_recorded_raises_no_alarm(shots):
    assert len(shots) >= 22
    assert told(shots) == []
    assert told(shots[:4], lambda depths: [10 * depth for depth in depths]) == []  # too few to judge
    nobody = dict.fromkeys(ALIGNMENT_COLUMNS, "") | {"status": "no_face"}
    assert check_depth(pd.DataFrame([nobody] * 3, dtype=str)) == []


def test_faces_that_were_found_in_brightened_pictures_are_told(shots):
    row = dict.fromkeys([*ALIGNMENT_COLUMNS, *DEPTH_MARKS], "") | {"status": "ok"}
    rows = [
        row | {"pair_id": f"p/{k}", "rgb_sha256": str(k), "found_at": at}
        for k, at in enumerate(("native", "lit", "lit 2x"))
    ]
    (line,) = check_depth(pd.DataFrame(rows, dtype=str))
    assert line.startswith(
        "colour: 2 of 3 faces are so dark that they were found in a brightened picture only, such as p/1: "
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda depths: [10 * depth for depth in depths], "about 10 times what it says"),
        (lambda depths: [depth / 10 for depth in depths], "about 0.1 times what it says"),
        (lambda depths: [1000 * depth for depth in depths], "about 1000 times what it says"),
        (lambda depths: [np.where(depth > 0, 4096 - depth, 0) for depth in depths], "the wrong way round"),
        (lambda depths: depths[7:] + depths[:7], "belongs to other pictures"),
        (lambda depths: [np.ascontiguousarray(d[:, ::-1]) for d in depths], "likely mirrored left to right"),
        (lambda depths: [np.ascontiguousarray(d[::-1]) for d in depths], "likely upside down"),
        (lambda depths: [np.ascontiguousarray(d[::-1, ::-1]) for d in depths], "likely turned by 180 degrees"),
        (lambda depths: shifted(depths, 7), r"noses lie \(\+0\.[12]"),
        (lambda depths: shifted(depths, -7), r"noses lie \(-0\.[12]"),
    ],
    ids=["x10", "/10", "x1000", "reversed", "swapped", "mirrored", "flipped", "half turn", "right", "left"],
)
def test_depth_that_cannot_be_is_told(shots, change, said):
    (line,) = told(shots, change)
    assert "\n" not in line
    assert re.search(said, line)


def test_a_wrong_unit_names_the_factor_and_the_entry(shots):
    (line,) = told(shots, lambda depths: [10 * depth for depth in depths])
    assert "multiply depth_scale in dataset.json by 0.1" in line
    assert "a RealSense D405 needs 0.1" in line
    (line,) = told(shots, lambda depths: [depth / 100 for depth in depths])
    assert "multiply depth_scale in dataset.json by 100" in line


def test_a_frozen_depth_stream_is_told_beside_the_rest(shots):
    first, *_ = told(shots, lambda depths: [*depths[:-3], *[depths[-4]] * 3])
    assert f"4 of {len(shots)} pairs share their depth map" in first
    copied = [(pair, found) for pair, found in shots for _ in range(2)]  # the pictures are copies as well
    assert told(copied) == []


def test_everybody_in_true_sensor_depth_is_found(shared_data, tmp_path):
    frame = run(shared_data / "kinect_rgbd", tmp_path / "out")
    ok = frame[frame["status"] == "ok"]
    assert (len(frame), frame["subject_id"].nunique()) == (132, 31)
    assert ok["subject_id"].nunique() == 31
    assert len(ok) >= 129
    assert np.median(ok["valid_depth"].astype(float)) > 0.6
    assert check_depth(frame) == []
    assert 0.2 < ok["relief"].astype(float).median() < 0.4
