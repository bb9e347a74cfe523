"""Alignment: the warp by hand, faces alone and in company, folders that survive kills and faults."""

import dataclasses
import errno
import hashlib
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from PIL import Image
from skimage.transform import warp as skimage_warp

from face3d_lib.base.atomic import sha256_of
from face3d_lib.base.errors import UserError
from face3d_lib.base.processes import only_writer
from face3d_lib.base.tables import POINTS, read_table, write_table
from face3d_lib.data import alignment, journal, warp
from face3d_lib.data.alignment import align_folder
from face3d_lib.data.alignment_table import ALIGNMENT_COLUMNS, DEPTH_MARKS, MATRIX, landmark_error
from face3d_lib.data.convention import DepthConvention
from face3d_lib.data.crops import align_pair
from face3d_lib.data.depth_check import check_depth, face_relief, nose_peak
from face3d_lib.data.faces import Detection, Faces, choose_face, find_faces, load_detector
from face3d_lib.data.journal import chunks_of
from face3d_lib.data.pairs import BadPair, RGBDPair
from face3d_lib.data.warp import EYES_MM, TEMPLATE_112, AlignSettings, warp_matrix, warp_pair
from face3d_lib.synthetic import camera

from bad_inputs import bad_depths, bad_pictures, declare, depth_of, face, texture, write_pair  # isort: skip

torch.set_num_threads(1)
TEMPLATE = AlignSettings()


@pytest.fixture(scope="module")
def detector():
    return load_detector()


def similarity(degrees, scale, shift):
    angle = np.radians(degrees)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.c_[turn, shift]


def apply(matrix, points):
    return points @ matrix[:, :2].T + matrix[:, 2]


def face_at(matrix):
    """A face whose points are the template's, moved by a similarity from crop to source."""
    points = apply(matrix, TEMPLATE_112)
    return Detection(np.r_[points.min(0) - 20, points.max(0) + 20], points, 0.99)


# ---- the warp


def test_a_marked_pixel_lands_where_the_matrix_says():
    rgb, depth = np.zeros((60, 50, 3), np.uint8), np.zeros((60, 50), np.float32)
    rgb[20, 30], depth[20, 30] = (255, 128, 7), 812.5
    crop, crop_depth = warp_pair(rgb, depth, np.array([[1, 0, -10], [0, 1, -5.0]]), 40)
    assert np.argwhere(crop[..., 0]).tolist() == [[15, 20]]  # 20 - 5, 30 - 10
    assert crop[15, 20].tolist() == [255, 128, 7]
    assert np.argwhere(crop_depth).tolist() == [[15, 20]]
    assert crop_depth[15, 20] == 812.5
    doubled, doubled_depth = warp_pair(rgb, depth, np.array([[2, 0, -40.5], [0, 2, -30.5]]), 40)
    assert np.argwhere(doubled_depth).tolist() == [
        [9, 19],
        [9, 20],
        [10, 19],
        [10, 20],
    ]  # centre at 19.5, 9.5
    assert doubled[9, 19].tolist() == [143, 72, 4]  # 0.75 * 0.75 of the pixel


def test_the_template_receives_the_five_points():
    """A warp shifted by two pixels fails here."""
    back = similarity(17, 1.4, [35, 22])
    matrix = warp_matrix(TEMPLATE, (300, 300), face_at(back))
    assert np.allclose(apply(matrix, face_at(back).points), TEMPLATE_112, atol=1e-6)
    rgb = np.zeros((300, 300, 3), np.uint8)
    for x, y in np.round(face_at(back).points).astype(int):
        rgb[y - 2 : y + 3, x - 2 : x + 3] = 255
    crop, _ = warp_pair(rgb, np.ones((300, 300), np.float32), matrix, 112)
    for x, y in TEMPLATE_112:
        rows, columns = np.mgrid[:112, :112]
        near = crop[..., 0] * (np.hypot(columns - x, rows - y) < 8.0)
        centre = np.array([(columns * near).sum(), (rows * near).sum()]) / near.sum()
        assert np.hypot(*(centre - (x, y))) < 0.6


def test_the_template_is_the_one_of_the_field():
    """Literally, so that crops meet models trained elsewhere; eyes level within .2 px, 35.24 px apart."""
    assert TEMPLATE_112.ravel().tolist() == [
        38.2946, 51.6963, 73.5318, 51.5014, 56.0252, 71.7366, 41.5493, 92.3655, 70.7299, 92.2041,
    ]  # fmt: skip


def test_a_larger_crop_is_the_same_crop_resized():
    back = similarity(-9, 2.0, [10, 12])
    matrix = warp_matrix(AlignSettings(image_size=224), (300, 300), face_at(back))
    assert np.allclose((apply(matrix, face_at(back).points) + 0.5) / 2 - 0.5, TEMPLATE_112, atol=1e-6)


def test_facenet_mode_cuts_the_box_with_its_margin():
    rgb, depth = texture(120, 100), depth_of((120, 100)).astype(np.float32)
    found = Detection(np.array([30.7, 40.2, 80.9, 100.3]), TEMPLATE_112, 0.99)
    settings = AlignSettings("facenet", image_size=66, margin=44)
    # 30.7 - 22 -> 8, 40.2 - 22 -> 18, 80.9 + 22 -> 100 (the edge), 100.3 + 22 -> 120 (the edge)
    matrix = warp_matrix(settings, rgb.shape, found)
    assert np.allclose(apply(matrix, np.array([[7.5, 17.5], [99.5, 119.5]])), [[-0.5, -0.5], [65.5, 65.5]])
    crop, crop_depth = warp_pair(rgb, depth, matrix, 66)
    expected = Image.fromarray(rgb[18:120, 8:100]).resize((66, 66), Image.BILINEAR)
    assert abs(crop.astype(float) - np.asarray(expected)).mean() < 3
    assert set(crop_depth.ravel()) <= set(depth.ravel())


def test_none_mode_is_the_centred_square():
    matrix = warp_matrix(AlignSettings("none", image_size=50), (120, 100, 3), None)
    assert np.allclose(apply(matrix, np.array([[-0.5, 9.5], [99.5, 109.5]])), [[-0.5, -0.5], [49.5, 49.5]])


def test_colour_and_depth_land_together():
    """The depth is painted into the colour; after any warp they still say the same."""
    rows, columns = np.mgrid[:200, :180]
    depth = (40 + 0.6 * rows + 0.4 * columns).astype(np.float32)
    rgb = np.repeat(np.round(depth).astype(np.uint8)[..., None], 3, 2)
    for degrees, scale in ((0, 1.0), (25, 1.3), (-40, 0.7), (10, 2.9)):
        matrix = warp_matrix(TEMPLATE, rgb.shape, face_at(similarity(degrees, scale, [20, 15])))
        crop, crop_depth = warp_pair(rgb, depth, matrix, 112)
        rows_c, columns_c = np.mgrid[:112, :112]
        back = np.linalg.inv(np.r_[matrix, [[0, 0, 1]]])[:2]
        source = apply(back, np.stack([columns_c, rows_c], -1).reshape(-1, 2)).reshape(112, 112, 2)
        within = ((source > 3) & (source < [176, 196])).all(-1)
        assert within.sum() > 1000
        difference = crop[..., 0].astype(float)[within] - crop_depth[within]
        assert abs(difference).max() < 2.5  # a pixel of depth is 0.6, colour is rounded
        assert abs(difference.mean()) < 0.15  # shifted by one source pixel it would be 0.4 or more


def test_depth_is_never_blended():
    rng = np.random.default_rng(0)
    depth = np.where(rng.random((90, 90)) < 0.4, 0, rng.integers(500, 4000, (90, 90))).astype(np.float32)
    rgb = texture(90, 90)
    for degrees, scale in ((0, 0.8), (33, 1.1), (5, 0.31)):
        _, crop = warp_pair(
            rgb, depth, warp_matrix(TEMPLATE, rgb.shape, face_at(similarity(degrees, scale, [5, 5]))), 112
        )
        assert set(crop.ravel()) <= set(depth.ravel())
        assert 0.2 < (crop == 0).mean() < 0.95


def test_colour_agrees_with_scikit_image():
    rgb = texture(100, 120, seed=4)
    matrix = similarity(12, 1.4, [-20, 8])
    crop, _ = warp_pair(rgb, np.ones((100, 120), np.float32), matrix, 112)
    back = np.linalg.inv(np.r_[matrix, [[0, 0, 1]]])
    expected = skimage_warp(rgb.astype(np.float64), back, output_shape=(112, 112), order=1, cval=0, preserve_range=True)
    assert abs(crop - expected).max() <= 0.51


def test_shrinking_does_not_alias():
    """Stripes of one pixel become grey; sampled they would be black or white."""
    rgb = np.zeros((400, 400, 3), np.uint8)
    rgb[:, ::2] = 255
    crop, _ = warp_pair(rgb, np.ones((400, 400), np.float32), np.array([[0.25, 0, 0.1], [0, 0.25, 0.2]]), 99)
    assert abs(crop[2:-2, 2:-2].astype(int) - 127).max() <= 1
    wide = np.array([[0.25, 0, 0.1], [0, 1, 0.2]])  # one axis only, as facenet mode may
    assert abs(warp_pair(rgb, np.ones((400, 400), np.float32), wide, 99)[0][2:-2, 2:-2].astype(int) - 127).max() <= 1


def test_outside_the_picture_is_black_and_without_reading():
    rgb, depth = np.full((40, 40, 3), 200, np.uint8), np.full((40, 40), 800, np.float32)
    crop, crop_depth = warp_pair(rgb, depth, np.array([[1, 0, 30], [0, 1, 0.0]]), 112)
    assert crop[:40, 31:69].min() == 200
    assert crop[:, :29].max() == crop[:, 71:].max() == crop[41:].max() == 0
    assert (crop_depth > 0).sum() == 40 * 40
    nowhere = warp_pair(rgb, depth, np.array([[1, 0, 500], [0, 1, 0.0]]), 112)
    assert nowhere[0].max() == nowhere[1].max() == 0


def test_depth_scale_of_each_mode():
    """A face that is the template itself, 1.6 times as large, has eyes 63 mm apart in every mode's crop."""
    found = Faces([face_at(similarity(0, 1.6, [30, 30]))], "native")
    eyes = found.faces[0].points[1] - found.faces[0].points[0]
    for settings in (TEMPLATE, AlignSettings(image_size=224), AlignSettings("facenet", image_size=182)):
        for unit in ("mm", "pixel"):
            pair = RGBDPair("p/a", "p", texture(260, 260), depth_of((260, 260)).astype(np.float32), unit, "", "")
            row = {}
            _, depth = align_pair(pair, found, settings, row)
            matrix = np.array([row[name] for name in MATRIX]).reshape(2, 3)
            scale = np.sqrt(np.linalg.det(matrix[:, :2]))
            if unit == "mm":
                assert np.isclose(row["depth_per_px"] * scale * np.hypot(*eyes), EYES_MM, rtol=1e-3)
                assert set(depth.ravel()) <= set(pair.depth.ravel()) | {0}
            else:
                assert row["depth_per_px"] == 1
                back = (depth / np.float32(scale)).round(2)
                assert set(back.ravel()) <= set(pair.depth.ravel()) | {0}
    assert np.isclose(warp.MM_PER_TEMPLATE_PX, 63 / 35.2377, rtol=1e-4)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((40, 40, 3), np.float32),
        np.full((40, 40, 3), np.nan),
        np.zeros((40, 40, 3), np.uint16),
        np.zeros((40, 40), np.uint8),
        np.zeros((40, 40, 4), np.uint8),
        np.zeros((3, 40, 40), np.uint8),
        np.zeros((0, 40, 3), np.uint8),
        Image.new("RGB", (40, 40)),
        None,
    ],
    ids=lambda image: f"{getattr(image, 'dtype', type(image).__name__)} {getattr(image, 'shape', '')}",
)
def test_wrong_arrays_are_named_before_the_network(image):
    with pytest.raises(ValueError, match="rgb must be"):
        find_faces([image], detector=None)
    with pytest.raises(ValueError, match="rgb must be"):
        warp_pair(image, np.ones((40, 40), np.float32), np.eye(3)[:2], 20)


def test_wrong_depth_and_matrix_are_named():
    rgb, plane, identity = texture(40, 40), np.ones((40, 40), np.float32), np.eye(3)[:2]
    for depth in (plane.astype(np.float64), plane[:-1], plane * np.nan, -plane, None):
        with pytest.raises(ValueError, match="depth must be"):
            warp_pair(rgb, depth, identity, 20)
    for matrix in (np.eye(3), identity + np.inf):
        with pytest.raises(ValueError, match="matrix must be"):
            warp_pair(rgb, plane, matrix, 20)


# ---- finding faces


def scene(*faces, size=(240, 320)):
    """Grey with faces pasted in: (size of face, left, top) each."""
    canvas = np.full((*size, 3), 120, np.uint8)
    for side, left, top in faces:
        canvas[top : top + side, left : left + side] = face(side)
    return canvas


def test_a_face_is_found_with_its_points(detector):
    (found,) = find_faces([face(160)], detector)
    assert (len(found.faces), found.found_at, found.error) == (1, "native", "")
    one = found.faces[0]
    assert one.probability > 0.99
    left, right, nose, mouth_left, mouth_right = one.points
    assert left[0] < nose[0] < right[0]
    assert max(left[1], right[1]) < nose[1] < min(mouth_left[1], mouth_right[1])
    assert (one.box >= 0).all()
    assert (one.box <= 159).all()


def test_the_mirror_image_has_the_mirrored_points(detector):
    """MTCNN itself is off by a pixel in one direction; see POINT_OFFSET."""
    shots = [face(side) for side in (120, 160, 200, 240)]
    found = find_faces(shots + [np.ascontiguousarray(shot[:, ::-1]) for shot in shots], detector)
    off = []
    for shot, plain, mirrored in zip(shots, found[:4], found[4:], strict=True):
        swapped = mirrored.faces[0].points[[1, 0, 2, 4, 3]]
        off.append((plain.faces[0].points[:, 0] + swapped[:, 0] - (shot.shape[1] - 1)) / 2)
    assert abs(np.mean(off)) < 0.6  # without the correction 1.2


def test_each_picture_is_as_if_it_were_alone(detector):
    pictures = [
        face(160),
        texture(160, 160),
        face(96),
        texture(1, 1),
        face(160)[:, ::-1].copy(),
        texture(17, 400),
    ]
    pictures += [scene((90, 20, 30), (60, 230, 120)), face(160) // 2]
    alone = [find_faces([picture], detector)[0] for picture in pictures]
    assert [len(one.faces) for one in alone] == [1, 0, 1, 0, 1, 0, 2, 1]
    for seed in range(3):
        order = random.Random(seed).sample(range(8), 8)
        for k, found in zip(order, find_faces([pictures[k] for k in order], detector), strict=True):
            assert (len(found.faces), found.found_at) == (len(alone[k].faces), alone[k].found_at)
            for one, other in zip(found.faces, alone[k].faces, strict=True):
                assert np.allclose(one.points, other.points, atol=1e-4)
                assert np.allclose(one.box, other.box, atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 1), (5, 5), (19, 19), (20, 20), (1, 4000), (24, 24), (4000, 30)])
def test_edge_sizes_are_no_face_and_no_error(detector, shape):
    assert find_faces([np.full((*shape, 3), 90, np.uint8)], detector) == [Faces()]


def test_a_huge_picture_is_bounded_and_its_face_found(detector):
    canvas = np.full((8000, 8000, 3), 120, np.uint8)
    canvas[3000:5000, 2000:4000] = face(2000)
    start = time.process_time()
    (found,) = find_faces([canvas], detector)
    assert time.process_time() - start < 5
    (native,) = find_faces([face(400)], detector)
    expected = (native.faces[0].points + 0.5) * 5 - 0.5 + [2000, 3000]
    assert abs(found.faces[0].points - expected).max() < 25  # of 2000 px


def test_a_small_face_is_found_at_twice_the_size(detector):
    small = scene((36, 50, 40), size=(120, 140))
    (found,) = find_faces([small], detector, min_face_size=40)
    assert (found.found_at, len(found.faces)) == ("2x", 1)
    x, y = found.faces[0].points.mean(0)
    assert 50 < x < 86
    assert 40 < y < 76


def test_the_coarse_pass_changes_no_point(detector, monkeypatch):
    pictures = [face(side) for side in (64, 100, 160, 250)] + [scene((120, 20, 60), (50, 240, 20))]
    quick = find_faces(pictures, detector)
    monkeypatch.setattr("face3d_lib.data.faces._coarse_size", lambda pixels, min_face_size: float(min_face_size))
    for picture, one, other in zip(pictures, quick, find_faces(pictures, detector), strict=True):
        first = one.faces[choose_face(one.faces, picture.shape)[0]]
        second = other.faces[choose_face(other.faces, picture.shape)[0]]
        assert np.allclose(first.points, second.points, atol=1e-3)


def test_the_choice_among_faces():
    def box(left, top, side):
        return Detection(np.array([left, top, left + side, top + side]), TEMPLATE_112, 0.9)

    assert choose_face([box(30, 30, 40)], (100, 100)) == (0, "only")
    assert choose_face([box(45, 45, 10), box(30, 30, 40)], (100, 100)) == (1, "largest")
    # 40 x 40 at the corner: 1600 - 2 * (30**2 + 30**2) < 0; 20 x 20 in the centre: 400
    assert choose_face([box(0, 0, 40), box(40, 40, 20)], (100, 100)) == (1, "centred")


def test_boxes_end_where_the_picture_ends(detector):
    """The face alone, without hair and chin: left to itself MTCNN goes 12 px beyond each side."""
    (found,) = find_faces([np.ascontiguousarray(face(200)[47:133, 69:136])], detector)
    assert found.faces[0].box.tolist() == [0, 0, 66, 85]


def test_two_faces_keep_their_own_points(detector):
    (found,) = find_faces([scene((70, 10, 20), (130, 150, 60))], detector)
    assert len(found.faces) == 2
    chosen = found.faces[choose_face(found.faces, (240, 320))[0]]
    assert chosen.box[0] > 150
    left, top, right, bottom = chosen.box
    assert ((chosen.points >= [left, top]) & (chosen.points <= [right, bottom])).all()


class Spoilt:
    """A detector that fails on every batch in which a picture's first pixel is 13."""

    def __init__(self, detector):
        self.detector = detector

    def detect(self, pixels, landmarks):
        if (pixels[:, 0, 0, 0] == 13).any():
            raise IndexError("shape mismatch:\nmask")
        self.detector.min_face_size = self.min_face_size
        return self.detector.detect(pixels, landmarks=landmarks)


def test_a_picture_that_breaks_the_detector_breaks_alone(detector):
    bad = face(160).copy()
    bad[0, 0, 0] = 13
    found = find_faces([face(160), bad, face(160), texture(160, 160)], Spoilt(detector))
    assert [len(one.faces) for one in found] == [1, 0, 1, 0]
    assert found[1].error == "the detector failed: IndexError shape mismatch: mask"
    pair = RGBDPair("p/a", "p", bad, depth_of((160, 160)).astype(np.float32), "mm", "", "")
    with pytest.raises(BadPair) as caught:
        align_pair(pair, found[1], TEMPLATE, {})
    assert caught.value.status == "internal_error"


def test_points_on_one_spot_are_no_face():
    one = Detection(np.array([1.0, 1, 9, 9]), np.ones((5, 2)), 0.9)
    with pytest.raises(BadPair, match="one spot"):
        warp_matrix(TEMPLATE, (20, 20), one)


# ---- folders


def tree(folder):
    """relative path -> SHA-256 of every file below `folder`, empty folders too."""
    return {
        str(path.relative_to(folder)): sha256_of(path) if path.is_file() else "folder"
        for path in sorted(Path(folder).rglob("*"))
    }


def small_set(root, people=3, images=12, size=72):
    declare(root)
    for k in range(people * images):
        rgb = np.roll(face(size), k % 5, axis=1) if k % 7 else texture(size, size, seed=k)
        write_pair(root, f"p{k // images}/{k % images:02d}", rgb)
    return root


def run(source, target, settings=TEMPLATE, workers=1, **options):
    return align_folder(source, target, settings, workers=workers, progress=False, **options)


def test_every_bad_input_of_a_folder_is_a_row_and_the_rest_goes_on(tmp_path):
    root = declare(tmp_path / "in")
    expected = {}
    for name, (data, status) in bad_pictures(tmp_path).items():
        stem, suffix = os.path.splitext(name)
        write_pair(root, f"pictures/{stem}{suffix[1:]}", texture())
        (root / f"pictures/{stem}{suffix[1:]}.png").write_bytes(data)
        expected[f"pictures/{stem}{suffix[1:]}"] = status
    for name, (data, status) in bad_depths(tmp_path).items():
        write_pair(root, f"depths/{name}", texture())
        (root / f"depths/{name}.npy").write_bytes(data)
        expected[f"depths/{name}"] = status
    write_pair(root, "Ünal, Ömer/good face", face(96))
    write_pair(root, "Ünal, Ömer/one by one", texture(1, 1))
    write_pair(root, "Ünal, Ömer/nobody", texture(96, 96))
    write_pair(root, "Ünal, Ömer/two faces", scene((70, 10, 20), (130, 150, 60)))
    holes = depth_of((96, 96))
    holes[15:] = 0
    write_pair(root, "Ünal, Ömer/no depth on the face", face(96), holes)
    shutil.copy(root / "Ünal, Ömer/good face.png", root / "Ünal, Ömer/missing.png")
    shutil.copy(root / "Ünal, Ömer/good face.npy", root / "Ünal, Ömer/alone.npy")
    (root / "stray.jpg").write_bytes(b"")
    expected |= {f"Ünal, Ömer/{name}": "ok" for name in ("good face", "two faces")}
    expected |= {f"Ünal, Ömer/{name}": "no_face" for name in ("one by one", "nobody")}
    expected |= {"Ünal, Ömer/no depth on the face": "bad_depth", "./stray.jpg": "refused_path"}
    expected |= {"Ünal, Ömer/missing": "missing_depth", "Ünal, Ömer/alone": "missing_rgb"}
    before = tree(root)
    frame = run(root, tmp_path / "out")
    assert dict(zip(frame["pair_id"], frame["status"], strict=True)) == expected
    assert list(frame["pair_id"]) == sorted(expected)
    assert tree(root) == before
    assert not (tmp_path / "opened_by_pickle").exists()
    crops = {f"Ünal, Ömer/{name}{suffix}" for name in ("good face", "two faces") for suffix in (".png", ".npy")}
    assert set(tree(tmp_path / "out")) == crops | {"Ünal, Ömer", "dataset.json", "alignment.csv"}
    two = frame.set_index("pair_id").loc["Ünal, Ömer/two faces"]
    assert (two["n_faces"], two["choice"], two["found_at"]) == ("2", "largest", "native")
    assert (frame["status"] != "ok").sum() == len(expected) - 2


def test_a_name_too_long_for_the_output_is_a_row(tmp_path, monkeypatch):
    """Escaped bytes of a GBK name make it four times as long; an encrypted home takes 143 bytes instead of 255."""
    root, none = small_set(tmp_path / "in", people=1, images=2), AlignSettings("none")
    gbk = os.fsencode(root / "p0") + b"/" + ("人脸照片" * 12).encode("gbk")
    for suffix in (".png", ".npy"):
        shutil.copy(root / f"p0/00{suffix}", gbk + suffix.encode())
    write_pair(root, "p0/" + "n" * 150, texture())
    replace = os.replace

    def encrypted(source, target):
        if len(os.path.basename(target)) > 143:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        replace(source, target)

    monkeypatch.setattr(os, "replace", encrypted)
    for _ in range(2):
        status = run(root, tmp_path / "out", none).set_index("pair_id")["status"]
        assert status["p0/" + "n" * 150] == "refused_path"
        assert status["p0/00"] == status["p0/01"] == "ok"
        assert (status == "refused_path").sum() == 3  # the picture and the depth of the GBK name
    assert not list((tmp_path / "out").rglob(".new-*"))


def test_what_lies_in_the_folder_is_what_the_table_says(tmp_path):
    root, out = small_set(tmp_path / "in", people=1), tmp_path / "out"
    frame = run(root, out)
    assert read_table(out / "alignment.csv", ALIGNMENT_COLUMNS).equals(frame)
    described = json.loads((out / "dataset.json").read_text())
    assert (described["depth_unit"], described["larger_is"]) == ("mm", "farther")
    assert described["settings_hash"] == TEMPLATE.hash()
    ok = frame[frame["status"] == "ok"]
    assert len(ok) == 10
    for row in ok.itertuples():
        rgb, depth = np.asarray(Image.open(out / f"{row.pair_id}.png")), np.load(out / f"{row.pair_id}.npy")
        assert (rgb.shape, rgb.dtype, depth.shape, depth.dtype) == (
            (112, 112, 3),
            np.uint8,
            (112, 112),
            np.float32,
        )
        source = (
            np.asarray(Image.open(root / row.rgb_path)),
            np.load(root / row.depth_path).astype(np.float32),
        )
        matrix = np.array([float(getattr(row, name)) for name in MATRIX]).reshape(2, 3)
        again = warp_pair(*source, matrix, 112)  # the recorded matrix gives the recorded crop
        assert np.array_equal(again[0], rgb)
        assert np.array_equal(again[1], depth)
        assert row.aligned_rgb_sha256 == sha256_of(out / f"{row.pair_id}.png")
        assert row.aligned_depth_sha256 == sha256_of(out / f"{row.pair_id}.npy")
        assert row.rgb_sha256 == sha256_of(root / row.rgb_path)
        assert float(row.valid_depth) == round(float((depth > 0).mean()), 6)
        points = np.array([float(getattr(row, name)) for name in POINTS]).reshape(5, 2)
        assert np.hypot(*(apply(matrix, points) - TEMPLATE_112).T).mean() < 6


def test_a_second_run_does_nothing_and_a_changed_input_only_its_part(tmp_path):
    root, out = small_set(tmp_path / "in"), tmp_path / "out"
    run(root, out)
    first, written = tree(out), {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    run(root, out)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == written
    assert tree(out) == first

    write_pair(root, "p9/new", face(72))  # added
    write_pair(root, "p0/01", texture(72, 72))  # altered: no face any more
    write_pair(root, "p1/01", face(80))  # altered: another size
    for suffix in (".png", ".npy"):  # removed
        (root / f"p2/03{suffix}").unlink()
    (out / "p1" / "02.png").write_bytes(b"")  # damaged by somebody
    (out / "p1" / "03.npy").unlink()
    run(root, out)
    run(root, tmp_path / "fresh")
    assert tree(out) == tree(tmp_path / "fresh")
    for path in list((root / "p9").iterdir()):
        path.unlink()
    (root / "p9").rmdir()
    run(root, out)
    assert "p9" not in tree(out)


def test_chunks_change_near_a_new_name_only():
    names = sorted(f"p{k:03d}/i" for k in range(400))
    before = chunks_of(names)
    assert [name for chunk in before for name in chunk] == names
    assert max(map(len, before)) <= journal.CHUNK
    after = chunks_of(sorted([*names, "p200/new"]))
    assert len([chunk for chunk in after if chunk not in before]) <= 2
    assert 10 < len(names) / len(before) < 25


def test_order_and_number_of_processes_do_not_matter_and_a_killed_worker_is_one_line(tmp_path, monkeypatch):
    root = small_set(tmp_path / "in", people=4)
    run(root, tmp_path / "one")
    killed, align_chunk = threading.Event(), alignment.align_chunk

    def kill_the_worker():
        while not killed.is_set():
            for child in psutil.Process().children(recursive=True):
                if "spawn_main" in " ".join(child.cmdline()):
                    child.kill()
                    killed.set()
            time.sleep(0.05)

    def wait_and_align(*arguments, **named):  # or this process, which aligns too, might be done before
        assert killed.wait(60)
        return align_chunk(*arguments, **named)

    killer = threading.Thread(target=kill_the_worker)
    killer.start()
    with monkeypatch.context() as patch:
        patch.setattr("face3d_lib.data.alignment.align_chunk", wait_and_align)
        with pytest.raises(UserError, match=r"a worker was killed.*run the same command again"):
            run(root, tmp_path / "two", workers=2)
    killer.join()
    assert not (tmp_path / "two" / "alignment.csv").exists()
    run(root, tmp_path / "two", workers=2, random_order=True)
    assert tree(tmp_path / "two") == tree(tmp_path / "one")


def _forked(source, target, settings):
    align_folder(source, target, settings, workers=1, progress=False)
    os._exit(0)


def kill_and_rerun(root, out, settings, kills, seconds, seed):
    """SIGKILL the run `kills` times at random moments, then let it finish; how many were cut short."""
    rng, context, cut = random.Random(seed), multiprocessing.get_context("fork"), 0
    for k in range(kills):
        if k % 3 == 0:  # from the start again, or all later kills would come after the end
            shutil.rmtree(out, ignore_errors=True)
        child = context.Process(target=_forked, args=(root, out, settings))
        child.start()
        child.join(rng.uniform(0, seconds))
        if child.is_alive():
            os.kill(child.pid, signal.SIGKILL)
            cut += 1
        child.join()
        table = out / "alignment.csv"
        assert not table.exists() or len(read_table(table, ALIGNMENT_COLUMNS)) == 36
    align_folder(root, out, settings, workers=1, progress=False)
    return cut


def check_kills(tmp_path, settings, kills, seed):
    root = small_set(tmp_path / "in")
    start = time.monotonic()
    run(root, tmp_path / "whole", settings)
    seconds = time.monotonic() - start
    cut = kill_and_rerun(root, tmp_path / "cut", settings, kills, 1.2 * seconds, seed)
    assert cut >= kills // 4  # fewer than half where the machine became less busy meanwhile
    assert tree(tmp_path / "cut") == tree(tmp_path / "whole")


def test_killed_at_random_moments_it_gives_the_same_bytes(tmp_path, detector):
    check_kills(tmp_path, TEMPLATE, kills=10, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["template", "none"])
def test_killed_a_hundred_times_it_gives_the_same_bytes(tmp_path, detector, mode):
    check_kills(tmp_path, AlignSettings(mode), kills=100, seed=2)


def test_a_torn_journal_and_left_files_are_mended(tmp_path):
    root, settings = small_set(tmp_path / "in"), AlignSettings("none")
    run(root, tmp_path / "whole", settings)
    whole = tree(tmp_path / "whole")
    chunks = journal.read_table_chunks(tmp_path / "whole" / "alignment.csv").values()
    lines = "".join(map(journal.journal_line, chunks)).encode()
    for end in (
        0,
        1,
        lines.index(b"\n"),
        lines.index(b"\n") + 1,
        len(lines) // 2,
        len(lines) - 1,
        len(lines),
    ):
        out = tmp_path / "torn"
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(tmp_path / "whole", out)
        (out / "alignment.csv").unlink()
        (out / "journal.jsonl").write_bytes(lines[:end])
        (out / "p0" / ".new-123").write_bytes(b"half")
        (out / "p0" / "00.png").write_bytes(b"")  # an empty file that power loss left
        run(root, out, settings)
        assert tree(out) == whole
    shutil.copytree(tmp_path / "whole", tmp_path / "both")  # killed between the table and the end
    (tmp_path / "both" / "journal.jsonl").write_bytes(lines)
    run(root, tmp_path / "both", settings)
    assert tree(tmp_path / "both") == whole


def test_other_settings_and_wrong_folders_are_one_line(tmp_path):
    root, out, none = small_set(tmp_path / "in", people=1), tmp_path / "out", AlignSettings("none")
    run(root, out, none)
    before = tree(out)
    other = small_set(tmp_path / "other", people=1)
    (other / "p0").rename(other / "q0")
    busy = tmp_path / "busy"
    (busy / "my_thesis").mkdir(parents=True)
    (tmp_path / "file").write_text("x")
    for source, target, settings, message in (
        (root, out, AlignSettings("none", image_size=160), "other settings"),
        (root, out, TEMPLATE, "other settings"),
        (other, out, none, "another input"),
        (root, root, none, "inside or around"),
        (root, root / "aligned", none, "inside or around"),
        (root, tmp_path, none, "inside or around"),
        (root, busy, none, "holds other folders"),
        (root, tmp_path / "file", none, "is a file"),
        (declare(tmp_path / "empty"), tmp_path / "new", none, "no pairs"),
        (tmp_path / "not_there", tmp_path / "new", none, "not_there"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            run(source, target, settings)
        assert "\n" not in str(caught.value)
        assert str(target) in str(caught.value) or str(source) in str(caught.value)
    (root / "dataset.json").write_text('{"depth_unit": "mm", "larger_is": "nearer"}')
    with pytest.raises(UserError, match="other settings"):
        run(root, out, none)
    assert tree(out) == before
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "wrong",
    [{"mode": "best"}, {"image_size": 0}, {"image_size": 112.0}, {"margin": -1}, {"min_face_size": True}],
)
def test_settings_are_checked_and_hashed(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        AlignSettings(**wrong)
    hashes = {
        AlignSettings(*values).hash() for values in (("none",), ("facenet",), ("facenet", 182), ("facenet", 182, 32))
    }
    assert len(hashes | {TEMPLATE.hash()}) == 5


def test_one_writer_at_a_time(tmp_path):
    root, out = small_set(tmp_path / "in", people=1), tmp_path / "out"
    with only_writer(out), pytest.raises(UserError, match=rf"out: process {os.getpid()} is writing here"):
        run(root, out, AlignSettings("none"))
    run(root, out, AlignSettings("none"))


def test_a_full_disk_is_one_line_and_is_taken_up_again(tmp_path, monkeypatch):
    root, none = small_set(tmp_path / "in", people=1), AlignSettings("none")
    run(root, tmp_path / "whole", none)
    replace = os.replace
    for n in range(0, 27, 4):  # the n-th of 27 writes fails
        left = iter(range(n))

        def failing(*arguments, left=left):
            if next(left, None) is None:
                raise OSError(28, "No space left on device")
            replace(*arguments)

        monkeypatch.setattr(os, "replace", failing)
        with pytest.raises(UserError, match="No space left on device"):
            run(root, tmp_path / f"full_{n}", none)
        monkeypatch.setattr(os, "replace", replace)
        assert not (tmp_path / f"full_{n}" / "alignment.csv").exists()
        run(root, tmp_path / f"full_{n}", none)
        assert tree(tmp_path / f"full_{n}") == tree(tmp_path / "whole")


def test_an_accident_with_one_pair_is_a_row_and_is_tried_again(tmp_path, monkeypatch):
    root, none = small_set(tmp_path / "in", people=1), AlignSettings("none")
    run(root, tmp_path / "whole", none)
    plain = warp.warp_pair

    def failing(rgb, *arguments):
        if hashlib.sha256(rgb.tobytes()).hexdigest()[0] in "0123":
            raise MemoryError("no memory\nleft")
        return plain(rgb, *arguments)

    monkeypatch.setattr("face3d_lib.data.crops.warp_pair", failing)
    frame = run(root, tmp_path / "out", none)
    failed = frame[frame["status"] == "internal_error"]
    assert 0 < len(failed) < len(frame) == 12
    assert set(failed["detail"]) == {"MemoryError: no memory left"}
    monkeypatch.setattr("face3d_lib.data.crops.warp_pair", plain)
    run(root, tmp_path / "out", none)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_a_crafted_table_deletes_nothing_outside(tmp_path):
    root, out = small_set(tmp_path / "in", people=1), tmp_path / "out"
    frame = run(root, out, AlignSettings("none"))
    (tmp_path / "precious.png").write_text("x")
    evil = frame.iloc[:1].assign(pair_id="../precious", subject_id="..")
    write_table(out / "alignment.csv", pd.concat([frame, evil]))
    with pytest.raises(UserError, match="refused"):
        run(root, out, AlignSettings("none"))
    assert (tmp_path / "precious.png").exists()


def test_a_set_without_a_face_says_what_its_pictures_are_like(tmp_path, detector):
    root = declare(tmp_path / "in")
    infrared = (face(96).mean(2) * 16).astype(np.uint16)  # 12 bits in a file of 16
    write_pair(root, "ir/a", infrared, depth_of((96, 96)))
    write_pair(root, "small/a", texture(24, 24))
    write_pair(root, "nobody/a", texture(96, 96))
    details = run(root, tmp_path / "out").set_index("pair_id")["detail"]
    assert "the picture is dark, 99 % of its pixels are at 14 of 255 or below (infrared" in details["ir/a"]
    assert "only 24 x 24 px" in details["small/a"]
    assert "upright" in details["nobody/a"]


def test_the_same_map_in_two_files_has_one_hash(tmp_path):
    root = declare(tmp_path / "in")
    write_pair(root, "p/a", texture(), depth_of((48, 40)).astype(np.float64))
    write_pair(root, "p/b", texture(seed=1))
    (root / "p/b.npy").unlink()
    Image.fromarray(depth_of((48, 40))).save(root / "p/b.depth.png")
    frame = run(root, tmp_path / "out", AlignSettings("none"))
    assert frame["depth_sha256"].nunique() == 2
    assert frame["depth_map_sha256"].nunique() == 1


def test_names_that_are_refused_come_and_go(tmp_path):
    """Escaped, a name of 96 bytes that is no UTF-8 is longer than a file's name may be, and full of backslashes."""
    root, out = small_set(tmp_path / "in", people=1), tmp_path / "out"
    run(root, tmp_path / "whole", AlignSettings("none"))
    odd = os.fsencode(root / "p0") + b"/" + "\u4eba\u8138".encode("gbk") * 24 + b".png"
    shutil.copy(os.fsencode(root / "p0/00.png"), odd)
    frame = run(root, out, AlignSettings("none"))
    assert frame["status"].value_counts().to_dict() == {"ok": 12, "refused_path": 1}
    os.unlink(odd)
    run(root, out, AlignSettings("none"))
    assert tree(out) == tree(tmp_path / "whole")


def test_a_scale_is_part_of_what_was_aligned(tmp_path):
    root = small_set(tmp_path / "in", people=1)
    scaled = DepthConvention("mm", "farther", 0.5)
    run(root, tmp_path / "out", AlignSettings("none"), convention=scaled)
    half, whole = np.load(tmp_path / "out/p0/01.npy"), run(root, tmp_path / "plain", AlignSettings("none"))
    assert np.array_equal(2 * half, np.load(tmp_path / "plain/p0/01.npy"))
    assert len(whole) == 12
    with pytest.raises(UserError, match="other settings"):
        run(root, tmp_path / "out", AlignSettings("none"))


def test_exif_orientations_give_the_same_crop(tmp_path, detector):
    root = declare(tmp_path / "in")
    rgb, back = face(120)[:, 5:], {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    for orientation in range(1, 9):
        write_pair(root, f"p/{orientation}", rgb)
        exif = Image.Exif()
        exif[0x0112] = orientation
        picture = Image.fromarray(rgb)
        if orientation > 1:
            picture = picture.transpose(Image.Transpose(back[orientation]))
        picture.save(root / f"p/{orientation}.png", exif=exif)
    frame = run(root, tmp_path / "out")
    assert set(frame["status"]) == {"ok"}
    crops = [np.asarray(Image.open(tmp_path / f"out/p/{k}.png")).astype(int) for k in range(1, 9)]
    depths = [np.load(tmp_path / f"out/p/{k}.npy") for k in range(1, 9)]
    for crop, depth in zip(crops, depths, strict=True):
        assert abs(crop - crops[0]).max() <= 1
        assert (depth != depths[0]).mean() < 0.01


def test_depth_in_pixels_nearer_is_turned_and_rescaled(tmp_path, detector):
    root = declare(tmp_path / "in", "pixel", "nearer")
    near = np.where(depth_of((160, 160), 0) % 11 == 0, 0, depth_of((160, 160), 10) / 10.0)
    write_pair(root, "p/a", face(160), near)
    row = run(root, tmp_path / "out").iloc[0]
    assert row["status"] == "ok"
    scale = np.hypot(float(row["m00"]), float(row["m10"]))
    depth = np.load(tmp_path / "out/p/a.npy")
    assert 0 < (depth == 0).mean() < 0.5
    given = set(np.round(near[near > 0], 1))
    assert set(np.round(4096 - depth[depth > 0] / scale, 1)) <= given
    assert (row["depth_per_px"], json.loads((tmp_path / "out/dataset.json").read_text())["depth_unit"]) == (
        "1.0",
        "pixel",
    )


def test_landmark_error_is_in_eye_distances(tmp_path):
    points = np.array([[0.0, 0], [20, 0], [10, 10], [3, 20], [17, 20]])
    truth = pd.DataFrame([dict(zip(POINTS, points.ravel(), strict=True)) | {"pair_id": name} for name in "abc"])
    found = truth.astype(str)
    found.loc[0, POINTS] = [str(v) for v in (points + np.array([3, 4])).ravel()]  # 5 px of 20
    found.loc[2, POINTS] = ""
    error = landmark_error(found, truth)
    assert error.to_dict() == {"a": 0.25, "b": 0.0}


def test_synthetic_faces_are_found_where_they_are(detector):
    shots = [camera.pair(0, subject, image) for subject in range(12) for image in range(3)]
    found = find_faces([shot.rgb for shot in shots], detector)
    errors = []
    for shot, one in zip(shots, found, strict=True):
        if one.faces and abs(shot.row["yaw_deg"]) < 30:
            points = one.faces[choose_face(one.faces, shot.rgb.shape)[0]].points
            eyes = np.linalg.norm(shot.landmarks[1] - shot.landmarks[0])
            errors.append(np.linalg.norm(points - shot.landmarks, axis=1).mean() / eyes)
    assert sum(bool(one.faces) for one in found) >= 34
    assert np.median(errors) < 0.12


# ---- does the depth belong to the face?


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


def test_a_table_from_before_the_marks_is_aligned_anew(tmp_path):
    root, out = small_set(tmp_path / "in", people=1), tmp_path / "out"
    frame = run(root, out)
    assert (frame.loc[frame["status"] == "ok", "relief"] != "").all()
    whole = tree(out)
    write_table(out / "alignment.csv", frame.drop(columns=DEPTH_MARKS))
    assert run(root, out).equals(frame)
    assert tree(out) == whole
    assert check_depth(frame.drop(columns=DEPTH_MARKS)) == []


# ---- real photos, where they are


def test_everybody_in_true_sensor_depth_is_found(shared_data, tmp_path):
    frame = run(shared_data / "kinect_rgbd", tmp_path / "out")
    ok = frame[frame["status"] == "ok"]
    assert (len(frame), frame["subject_id"].nunique()) == (132, 31)
    assert ok["subject_id"].nunique() == 31
    assert len(ok) >= 129
    assert np.median(ok["valid_depth"].astype(float)) > 0.6
    assert check_depth(frame) == []
    assert 0.2 < ok["relief"].astype(float).median() < 0.4


def test_roll_is_taken_out_of_rotated_photos(shared_data, tmp_path, detector):
    frame = run(shared_data / "lfw_rgbd_rotated", tmp_path / "out")
    ok = frame[frame["status"] == "ok"]
    assert len(ok) >= 118

    def roll(points):
        eyes = points[1] - points[0]
        return abs(np.degrees(np.arctan2(eyes[1], eyes[0])))

    before = [roll(points) for points in ok[POINTS].astype(float).to_numpy().reshape(-1, 5, 2)]
    crops = [np.asarray(Image.open(tmp_path / f"out/{name}.png")) for name in ok["pair_id"]]
    found = [one for one in find_faces(crops, detector) if one.faces]
    after = [roll(one.faces[0].points) for one in found]
    assert len(found) >= 0.95 * len(crops)
    assert np.median(before) > 12
    assert np.median(after) < 3


def test_what_lies_at_the_points_lands_on_the_template():
    """The whole way of one pair, against marks: a shift of one pixel in warp or template is seen here."""
    turn = np.radians(12)
    similarity = 1.6 * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    points = warp.TEMPLATE_112 @ similarity.T + [70, 40]
    y, x = np.mgrid[:300, :300]
    rgb, depth = np.zeros((300, 300, 3)), np.full((300, 300), 900, np.float32)
    for px, py in points:
        away = np.hypot(x - px, y - py)
        rgb += (255 * np.exp(-((away / 3) ** 2)))[..., None]
        depth[away < 4] = 700
    pair = RGBDPair("p/a", "p", rgb.clip(0, 255).astype(np.uint8), depth, "mm", "", "")
    found = Faces([Detection(np.array([70.0, 40, 260, 260]), points, 0.99)], "native")
    colour, distance = align_pair(pair, found, AlignSettings(), {})
    v, u = np.mgrid[:112, :112]
    for place in warp.TEMPLATE_112:
        near = np.hypot(u - place[0], v - place[1]) < 8
        for weight in (colour[..., 0].astype(float), (distance == 700).astype(float)):
            mass = weight * near
            centre = [(mass * u).sum() / mass.sum(), (mass * v).sum() / mass.sum()]
            assert np.abs(centre - place).max() < 0.5
