"""What one depth map tells: noise, rounding, shift, zigzag, pose and frozen parts that were put there are found again."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from face3d_lib.data import depth_measures as measures
from face3d_lib.data.warp import MM_PER_TEMPLATE_PX, TEMPLATE_112, template_transform
from face3d_lib.synthetic import camera
from face3d_lib.synthetic.people import Knobs

STILL = np.eye(2, 3)  # a picture that is the template
CLEAN = Knobs(
    size=160, depth_noise=0, depth_warp=0, depth_step=0, depth_holes=0, depth_pixel=1, glasses=0, occlusion=0,
    yaw=8, pitch=5, roll=5,
)  # fmt: skip


def head(noise=0.0, seed=0, scale=1.0):
    """Depth (160, 160) float64 mm of a ball of 80 mm radius before no wall, with white noise (mm)."""
    y, x = (np.mgrid[: int(112 * scale), : int(112 * scale)] / scale - 60) * MM_PER_TEMPLATE_PX
    surface = 700 + 80 - np.sqrt(np.maximum(120.0**2 - x**2 - y**2, 1))
    return surface + noise * np.random.default_rng(seed).standard_normal(surface.shape)


def view(depth, scale=1.0):
    return measures.face_view(np.asarray(depth, np.float32), np.c_[np.eye(2) / scale, [0, 0]])


@pytest.fixture(scope="module")
def renders():
    """Twenty renders of five people without any sensor noise: (pair, frame)."""
    made = [camera.pair(7, subject, image, CLEAN) for subject in range(5) for image in range(4)]
    return [(pair, template_transform(pair.landmarks)) for pair in made]


# ----------------------------------------------------------------------------------------------------------- noise


@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("scale", [0.8, 1.0, 2.5])
def test_noise_is_recovered_within_a_tenth(sigma, scale):
    found = [measures.noise(view(head(sigma, seed, scale), scale)) for seed in range(4)]
    assert np.mean(found) == pytest.approx(sigma, rel=0.1)


def test_noise_of_a_plane_is_rounding_alone():
    y, x = np.mgrid[:112, :112]
    tilted = 700 + 0.713 * x + 0.391 * y
    assert measures.noise(view(tilted)) < 1e-3
    assert measures.noise(view(np.round(tilted / 2) * 2)) == pytest.approx(2 / np.sqrt(12), rel=0.15)
    assert measures.noise(view(np.full((112, 112), 700))) == 0


def test_noise_with_holes_and_without_readings():
    depth = head(2.0)
    depth[np.random.default_rng(1).random(depth.shape) < 0.2] = 0
    assert measures.noise(view(depth)) == pytest.approx(2.0, rel=0.15)
    assert np.isnan(measures.noise(view(np.zeros((112, 112)))))
    assert np.isnan(measures.noise(view(np.zeros((4, 4)))))


def test_noise_of_a_coarse_sensor_is_that_of_its_own_pixels():
    """Readings of 2 x 2 equal pixels: as separate readings they would give far less noise."""
    coarse = head(2.0, scale=0.5)
    doubled = np.kron(coarse, np.ones((2, 2)))
    assert measures.sensor_pixel(doubled.astype(np.float32))[0] == 2
    assert measures.noise(view(doubled)) == pytest.approx(2.0, rel=0.15)
    assert measures.sensor_pixel(head(2.0).astype(np.float32))[0] == 1
    assert measures.sensor_pixel(np.kron(coarse, np.ones((3, 3)))[1:, 2:].astype(np.float32)) == (3, 1, 2)
    assert view(np.kron(coarse, np.ones((2, 2)))[1:, 1:]).pixel == 2


def test_a_view_places_its_pixels_in_the_template():
    seen = view(head())
    assert seen.face.sum() == pytest.approx(np.pi * 26 * 34, rel=0.01)
    assert seen.place[:, seen.face].mean(1) == pytest.approx(measures.FACE_CENTRE, abs=0.1)
    doubled = view(np.kron(head(scale=0.5), np.ones((2, 2))))
    assert doubled.place[:, doubled.face].mean(1) == pytest.approx(measures.FACE_CENTRE, abs=0.3)


def test_white_noise_is_told_from_noise_that_was_filtered_along_rows():
    white = np.random.default_rng(0).standard_normal((112, 112))
    assert measures.noise_link(view(head() + 2 * white)) == pytest.approx(-0.1, abs=0.04)
    along = white + np.roll(white, 1, axis=1)  # neighbours in a row share half of their noise
    assert measures.noise_link(view(head() + 2 * along)) == pytest.approx(0.37, abs=0.08)
    assert measures.noise_link(view(head() + 2 * along.T)) < 0
    assert np.isnan(measures.noise_link(view(np.full((112, 112), 700))))
    assert np.isnan(measures.noise_link(view(np.zeros((112, 112)))))


# -------------------------------------------------------------------------------------------------------- rounding


@pytest.mark.parametrize("step", [0.03125, 0.25, 1.0, 2.0, 8.0])
def test_the_step_is_recovered(step):
    values = np.round(head(4.0) / step) * step
    assert measures.quantisation_step(values[40:100, 30:80].astype(np.float32)) == pytest.approx(step, rel=1e-3)


@settings(deadline=None, max_examples=40)
@given(st.sampled_from([0.1, 0.5, 1.0, 3.0, 10.0]), st.integers(0, 100), st.floats(0.02, 1))
def test_the_step_is_a_divisor_however_few_values_there_are(step, seed, kept):
    rng = np.random.default_rng(seed)
    values = 500 + step * np.unique(rng.integers(0, 60, 60))
    values = values[rng.random(len(values)) < kept]
    found = measures.quantisation_step(values) / step
    assert np.isnan(found) or (round(found) >= 1 and found == pytest.approx(round(found), abs=0.02))


def test_numbers_without_a_step():
    assert measures.quantisation_step(np.random.default_rng(0).uniform(500, 600, 3000)) < 1e-3
    assert np.isnan(measures.quantisation_step(np.full(50, 700.0)))
    values = np.round(head(3.0)[40:100, 30:80])
    values[:2, :2] += 0.4  # four strange numbers change nothing
    assert measures.quantisation_step(values) == pytest.approx(1.0, rel=1e-2)


def test_rounding_of_an_uneven_step_gives_the_common_divisor():
    """Steps of 2.5 mm, stored in whole millimetres: 2, 3, 2, 3."""
    values = np.round(np.round(head(6.0) / 2.5) * 2.5 + 1e-6)
    assert measures.quantisation_step(values) == pytest.approx(1.0, rel=1e-3)


# ---------------------------------------------------------------------------------------------------------- zigzag


def test_zigzag_by_hand():
    """Of three changes: up, down, up counts; up, up, down does not; pixels that do not change are skipped."""
    seen = measures.FaceView(np.zeros((0, 0)), np.zeros((0, 0), bool), np.zeros((2, 0, 0)), 0.5, 1)

    def share(row):
        depth = np.tile(np.array(row, np.float32), (200, 1))  # alike rows: nothing changes along the columns
        return measures.zigzag(measures.FaceView(depth, np.ones(depth.shape, bool), seen.place, 0.5, 1))

    assert share([5, 6, 5, 6]) == 1
    assert share([5, 5, 6, 6, 6, 5, 6, 6]) == 1
    assert share([5, 6, 7, 6]) == 0
    assert share([5, 6, 5, 6, 7]) == 0.5
    assert np.isnan(share([5, 6, 0, 5, 6]))  # a hole parts the row


def test_zigzag_of_noise_and_of_a_smooth_surface():
    flat = 700 + np.random.default_rng(0).standard_normal((112, 112))
    assert measures.zigzag(view(flat)) == pytest.approx(5 / 12, abs=0.02)
    for step in (0, 0.1, 1, 2):
        rounded = np.round(head() / step) * step if step else head()
        assert measures.zigzag(view(rounded)) < 0.02
        assert measures.zigzag(view(np.round(head(2.0) / step) * step if step else head(2.0))) > 0.2
    assert np.isnan(measures.zigzag(view(np.zeros((112, 112)))))


def test_zigzag_of_an_enlarged_map_is_found_over_two_pixels():
    small = head(2.0, scale=0.8)
    large = (np.kron(small, np.ones((2, 2))) + np.roll(np.kron(small, np.ones((2, 2))), 1, (0, 1))) / 2
    large = large[: int(112 * 1.6), : int(112 * 1.6)]
    assert measures.zigzag(view(large, 1.6)) > 0.1


# ----------------------------------------------------------------------------------------------------------- shift


@pytest.mark.parametrize(("right", "down"), [(0, 0), (4, 0), (-5, 0), (0, 4), (-3, -5), (6, 3)])
def test_a_shift_put_there_is_found_with_its_sign(renders, right, down):
    """Twenty renders together: within 1 px of the truth, to the right and below positive."""
    surfaces, scales = [], []
    for pair, frame in renders:
        depth = np.roll(pair.depth.astype(np.float32), (down, right), (0, 1))
        surfaces.append(measures.shift_surface(*measures.upright_crops(pair.rgb, depth, frame), MM_PER_TEMPLATE_PX))
        scales.append(measures.scale_of(frame))
    found = measures.shift_of(np.mean(surfaces, axis=0)) * np.median(scales)
    assert found == pytest.approx([right, down], abs=1.0)


def test_a_shift_beyond_the_search_is_not_told():
    surface = np.zeros((13, 13))
    surface[5, 0] = -1
    assert np.isnan(measures.shift_of(surface)).all()
    surface[5, 0], surface[5, 8] = (
        0,
        -1,
    )  # colour fits when moved 2 right and 1 up, in half px: depth lies to the left
    assert measures.shift_of(surface) == pytest.approx([-4, 2])
    assert measures.shift_surface(np.zeros((112, 112, 3), np.uint8), np.zeros((112, 112), np.float32), 1.0) is None


# --------------------------------------------------------------------------------------------- colour, pose, parts


def test_depth_computed_from_brightness_follows_colour(renders):
    pair, frame = renders[0]
    rgb, depth = measures.upright_crops(pair.rgb, pair.depth.astype(np.float32), frame)
    noise = np.random.default_rng(0).normal(0, 2, depth.shape).astype(np.float32)
    computed = 700 + rgb.mean(2, dtype=np.float32) / 4
    assert measures.colour_share(rgb, computed) > 0.85
    assert measures.colour_share(rgb, depth + noise) < 0.1
    assert np.isnan(measures.colour_share(rgb, np.zeros_like(depth)))
    assert np.isnan(measures.colour_share(rgb, np.full_like(depth, 700)))


def test_pose_has_the_sign_and_size_of_the_truth():
    for yaw, pitch in ((25, 0), (-25, 0), (0, 18), (0, -18)):
        for subject in range(2):
            _, shot, _ = camera.describe_pair(3, subject, 0, CLEAN)
            shot = dataclasses.replace(shot, angles=(float(yaw), float(pitch), 0.0))
            points, _ = camera.true_landmarks(camera.person(3, subject, CLEAN)[1], shot, CLEAN)
            frame = template_transform(points)
            assert abs(measures.face_yaw(points @ frame[:, :2].T + frame[:, 2]) - yaw) < 10
    y, x = np.mgrid[:112, :112]
    looking_down = 700 + np.tan(np.radians(20)) * (y - 70) * MM_PER_TEMPLATE_PX  # the chin is farther than the brow
    assert measures.face_pitch(view(looking_down), MM_PER_TEMPLATE_PX) == pytest.approx(20, abs=0.1)
    wall = np.where(np.abs(x - 56) < 20, looking_down, 2500)  # beside the head of a turned face
    alone = measures.head_only(view(wall), MM_PER_TEMPLATE_PX)
    assert (alone.depth[view(wall).depth == 2500] == 0).all()
    assert measures.face_pitch(alone, MM_PER_TEMPLATE_PX) == pytest.approx(20, abs=2)
    assert np.isnan(measures.face_pitch(view(np.zeros((112, 112))), MM_PER_TEMPLATE_PX))
    assert measures.face_yaw(TEMPLATE_112) == pytest.approx(0, abs=2)


def test_equal_parts_have_equal_marks_and_walls_have_none():
    first, second = head(2.0, 0).astype(np.float32), head(2.0, 1).astype(np.float32)
    assert (measures.block_marks(first) == measures.block_marks(first)).all()
    assert not (measures.block_marks(first) == measures.block_marks(second)).any()
    half = np.where(np.arange(112)[:, None] < 56, first, second)
    assert (measures.block_marks(first) == measures.block_marks(half)).sum() == 32
    assert not measures.block_marks(np.full((112, 112), 2000, np.float32)).any()
    assert not measures.block_marks(np.zeros((3, 3), np.float32)).any()
