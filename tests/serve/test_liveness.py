"""Depth of a face is told from that of a sheet, in any unit, and the two measures are what they say."""

import numpy as np
import pytest

from face3d_lib.data.warp import MM_PER_TEMPLATE_PX, TEMPLATE_112
from face3d_lib.serve import liveness
from face3d_lib.serve.liveness import check_liveness, face_cells, nose_height, off_cylinder
from face3d_lib.synthetic.attacks import attacked
from face3d_lib.synthetic.camera import pair

PLACES = face_cells(np.full((112, 112), 600, np.float32), TEMPLATE_112, "mm")[0]
X, Y = PLACES.T
TIP = (TEMPLATE_112[2] - liveness.FACE_CENTRE) / liveness.EYES_TEMPLATE_PX


def bump(height, shift=(0, 0)):
    away = (PLACES - TIP - shift) / liveness.NOSE_WIDTH
    return height * np.exp(-(away**2).sum(1) / 2)


def checked(made, points=None):
    return check_liveness(made.depth.astype(np.float32), made.landmarks if points is None else points, "mm")


@pytest.mark.parametrize("angle", range(0, 180, 15))
def test_planes_and_cylinders_have_nothing_left(angle):
    across = X * np.cos(np.radians(angle)) + Y * np.sin(np.radians(angle))
    assert off_cylinder(PLACES, 0.3 * X - 0.2 * Y + 5) < 1e-9
    assert off_cylinder(PLACES, 0.3 * X + 0.4 * across**2) < 1e-9
    assert nose_height(PLACES, 0.3 * X + 0.4 * across**2) < 1e-9


def test_the_measures_of_known_shapes():
    saddle = 0.3 * X * Y  # two cylinders: half of it is left at best
    assert 0.01 < off_cylinder(PLACES, saddle) < saddle.std()
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.02, len(X))
    assert off_cylinder(PLACES, noise) == pytest.approx(0.02, rel=0.2)
    for shift in ((0, -0.1), (0.3, 0.05), (-0.2, -0.25)):
        found = nose_height(PLACES, bump(0.25, shift) + 0.1 * X**2 - 0.2 * X * Y)
        assert found == pytest.approx(0.25, rel=1e-6)
    assert nose_height(PLACES, -bump(0.25, (0, -0.1))) < 0.1, "a dent is not a nose"


def test_eyes_and_mouth_are_left_out():
    depth = np.full((112, 112), 600, np.float32)
    for point in (TEMPLATE_112[0], TEMPLATE_112[1], TEMPLATE_112[3:].mean(0)):
        x, y = point.astype(int)
        depth[y - 3 : y + 4, x - 7 : x + 8] = 640
    places, heights, share = face_cells(depth, TEMPLATE_112, "mm")
    assert share == 1
    assert np.allclose(heights, 0)
    assert len(places) == len(PLACES)


@pytest.mark.parametrize("subject", range(6))
def test_faces_are_told_from_sheets(subject):
    made = pair(21, subject, 0)
    found = checked(made)
    assert found.live
    assert found.score > 0.07
    for species in ("flat", "tilted", "bent", "screen"):
        other = checked(attacked(made, species, subject))
        assert not other.live, species
    assert "hold a depth" in checked(attacked(made, "screen", subject)).reason


def test_the_unit_does_not_matter():
    made = pair(21, 0, 0)
    in_mm = checked(made)
    scale = np.sqrt(np.linalg.det(liveness.template_transform(made.landmarks)[:, :2]))
    pixels = made.depth.astype(np.float32) / np.float32(MM_PER_TEMPLATE_PX * scale)
    in_pixels = check_liveness(pixels, made.landmarks, "pixel")
    assert in_pixels.score == pytest.approx(in_mm.score, rel=1e-4)
    assert in_pixels.live


def test_wrong_depth_is_not_live():
    made = pair(21, 0, 0)
    depth = made.depth.astype(np.float32)
    assert not check_liveness(depth / 1000, made.landmarks, "mm").live, "metres"
    assert not check_liveness(np.full_like(depth, 700), made.landmarks, "mm").live
    nothing = check_liveness(np.zeros_like(depth), made.landmarks, "mm")
    assert not nothing.live
    assert np.isnan(nothing.score)
    assert nothing.reason.startswith("0% of the face hold a depth")
    outside = check_liveness(depth, made.landmarks + 5000, "mm")
    assert not outside.live


def test_what_is_nearer_is_higher():
    rows, columns = np.mgrid[:112, :112]
    away = ((columns - TEMPLATE_112[2, 0]) / 6) ** 2 + ((rows - TEMPLATE_112[2, 1]) / 10) ** 2
    depth = (600 - 20 * np.exp(-away / 2)).astype(np.float32)
    places, heights, _ = face_cells(depth, TEMPLATE_112, "mm")
    at_nose = heights[np.hypot(*(places - TIP).T).argmin()]
    assert at_nose == pytest.approx(20 / 63, abs=0.05)
    assert nose_height(places, heights) > 3 * nose_height(places, -heights)


@pytest.mark.parametrize("subject", range(6))
def test_a_face_turned_inside_out_is_told(subject):
    made = pair(21, subject, 0)
    depth = made.depth.astype(np.float32)
    turned = np.where(depth > 0, 2 * np.median(depth[depth > 0]) - depth, 0)
    found = check_liveness(turned, made.landmarks, "mm")
    assert not found.live
    assert found.score < 0
    assert found.reason.endswith("declare larger_is the other way")
    hidden = turned.copy()  # no reading at the tip of the nose: what is around it still tells
    x, y = made.landmarks[2].astype(int)
    hidden[y - 3 : y + 4, x - 3 : x + 4] = 0
    assert not check_liveness(hidden, made.landmarks, "mm").live
