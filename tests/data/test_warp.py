"""The warp by hand: where points, colour and depth land."""

import numpy as np
import pytest
import torch
from aligning import TEMPLATE, apply, face_at, similarity
from bad_inputs import depth_of, texture
from PIL import Image
from skimage.transform import warp as skimage_warp

from face3d_lib.base.errors import UserError
from face3d_lib.data.faces import Detection
from face3d_lib.data.pairs import BadPair
from face3d_lib.data.warp import DLIB_150, TEMPLATE_112, AlignSettings, warp_matrix, warp_pair

torch.set_num_threads(1)


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


def test_mode_dlib_has_a_chip_of_dlib_in_its_middle():
    """The eyes are 53.8 px apart and higher than in the template; a mixed-up reference fails here."""
    settings = AlignSettings("dlib")
    assert settings.image_size == 224
    assert settings.hash() != AlignSettings(image_size=224).hash()
    back = similarity(-9, 0.8, [70, 41])
    points = apply(back, DLIB_150)
    face = Detection(np.array([0.0, 0, 1, 1]), points, 1.0)
    rgb, depth = texture(300, 300), depth_of((300, 300)).astype(np.float32)
    chip = warp_matrix(AlignSettings("dlib", image_size=150), (300, 300), face)
    assert np.allclose(apply(chip, points), DLIB_150, atol=1e-6)
    assert np.allclose(apply(warp_matrix(settings, (300, 300), face), points), DLIB_150 + 37, atol=1e-6)
    small = warp_pair(rgb, depth, chip, 150)
    large = warp_pair(rgb, depth, warp_matrix(settings, (300, 300), face), 224)
    for inner, outer in zip(small, large, strict=True):
        assert np.array_equal(outer[37:187, 37:187], inner)


@pytest.mark.parametrize("size", [149, 151, 112])
def test_mode_dlib_cannot_hold_a_chip_in_other_sizes(size):
    with pytest.raises(UserError, match=f"image_size {size}: mode dlib needs an even number, 150 or more"):
        AlignSettings("dlib", image_size=size)


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


def test_wrong_depth_and_matrix_are_named():
    rgb, plane, identity = texture(40, 40), np.ones((40, 40), np.float32), np.eye(3)[:2]
    for depth in (plane.astype(np.float64), plane[:-1], plane * np.nan, -plane, None):
        with pytest.raises(ValueError, match="depth must be"):
            warp_pair(rgb, depth, identity, 20)
    for matrix in (np.eye(3), identity + np.inf):
        with pytest.raises(ValueError, match="matrix must be"):
            warp_pair(rgb, plane, matrix, 20)


def test_points_on_one_spot_are_no_face():
    one = Detection(np.array([1.0, 1, 9, 9]), np.ones((5, 2)), 0.9)
    with pytest.raises(BadPair, match="one spot"):
        warp_matrix(TEMPLATE, (20, 20), one)


@pytest.mark.parametrize(
    "wrong",
    [{"mode": "best"}, {"image_size": 8}, {"image_size": 112.0}, {"margin": -1}, {"min_face_size": True}],
)
def test_settings_are_checked_and_hashed(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        AlignSettings(**wrong)
    hashes = {
        AlignSettings(*values).hash() for values in (("none",), ("facenet",), ("facenet", 182), ("facenet", 182, 32))
    }
    assert len(hashes | {TEMPLATE.hash()}) == 5
