"""Faces alone and in company: what the detector finds, and which face counts."""

import random
import time

import numpy as np
import pytest
import torch
from aligning import TEMPLATE, scene
from bad_inputs import depth_of, face, texture
from PIL import Image

from face3d_lib.data.crops import align_pair
from face3d_lib.data.faces import Detection, Faces, _brightened, _search, _sure, choose_face, find_faces
from face3d_lib.data.pairs import BadPair, RGBDPair
from face3d_lib.data.warp import TEMPLATE_112, warp_pair
from face3d_lib.evaluate.degradations import degrade
from face3d_lib.synthetic import camera

torch.set_num_threads(1)


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


def in_light(rgb, name, level, depth=1000):
    """The picture at this level of a knob; `depth` in mm, one number or (H, W)."""
    distances = np.broadcast_to(np.float32(depth), rgb.shape[:2]).copy()
    return degrade(RGBDPair("p/a", "p", rgb, distances, "mm", "", ""), name, level).rgb


def against_the_light(rgb, stops):
    """The picture with its border, which is farther away, in white light."""
    far = np.pad(np.full(np.subtract(rgb.shape[:2], 24), 1000), 12, constant_values=3000)
    return in_light(rgb, "backlit", stops, far)


def eye_distances(found, other):
    """The mean distance of the five points of the first faces, in units of the distance between the eyes."""
    points, wanted = found.faces[0].points, other.faces[0].points
    return np.linalg.norm(points - wanted, axis=1).mean() / np.linalg.norm(wanted[1] - wanted[0])


def test_a_face_in_the_dark_is_found_where_it_is(detector):
    (wanted,) = find_faces([face(160)], detector)
    found = find_faces([in_light(face(160), "dark", stops) for stops in (5, 6, 7)], detector)
    assert [one.found_at for one in found] == ["lit"] * 3
    assert max(eye_distances(one, wanted) for one in found) < 0.1


def test_a_face_against_the_light_is_found_where_it_is(detector):
    (wanted,) = find_faces([face(160)], detector)
    found = find_faces([against_the_light(face(160), stops) for stops in (5, 6, 7)], detector)
    assert [one.found_at for one in found] == ["lit"] * 3
    assert max(eye_distances(one, wanted) for one in found) < 0.1


def test_a_picture_in_ordinary_light_is_searched_as_it_is(detector, monkeypatch):
    pictures = [
        face(160),
        face(160) // 2,
        texture(160, 160),
        scene((36, 50, 40)),
        in_light(face(160), "overexposed", 1),
    ]
    found = find_faces(pictures, detector)
    seen = _search(dict(enumerate(pictures)), detector, 20)
    for name in ("_brightened", "_evened"):
        monkeypatch.setattr(f"face3d_lib.data.faces.{name}", None)  # a call would fail
    for one, other, plain in zip(found, find_faces(pictures, detector), seen.values(), strict=True):
        assert [face.points.tolist() for face in one.faces] == [face.points.tolist() for face in other.faces]
        assert [face.points.tolist() for face in one.faces] == [face.points.tolist() for face in plain.faces]


def test_the_caller_keeps_the_dark_pixels(detector):
    dark, shaded = in_light(face(160), "dark", 6), against_the_light(face(160), 6)
    before = dark.copy(), shaded.copy()
    find_faces([dark, shaded], detector)
    assert (dark == before[0]).all()
    assert (shaded == before[1]).all()


def test_there_are_no_more_faces_in_dark_noise_than_in_light():
    """MTCNN sees faces of low probability in noise that is stretched; only sure ones may count."""
    detections = [Detection(np.array([0.0, 0, 9, 9]), TEMPLATE_112, probability) for probability in (0.88, 0.95)]
    found = _sure({0: Faces(detections[:1], "native"), 1: Faces(detections, "2x"), 2: Faces()})
    assert found == {1: Faces(detections[1:], "lit 2x")}


def test_a_dark_picture_is_stretched_to_the_full_range():
    ramp = np.repeat(np.arange(10, 30, dtype=np.uint8)[:, None], 20, 1)[..., None].repeat(3, 2)
    stretched = _brightened(np.pad(ramp, ((0, 0), (9, 9), (0, 0)), "edge"), 29).astype(int)
    assert stretched[0].max() < 20
    assert stretched[-1].min() > 235
    assert (np.diff(stretched[:, 15, 0]) > 0).all()


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
