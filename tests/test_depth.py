"""Depth encodings: exact on surfaces whose normals are known, the same in mm and in pixels, holes filled."""

import numpy as np
import pytest
import torch

from face3d_lib.depth import (
    CLIP,
    REACH,
    UNIT,
    encode_depth,
    encode_normals_depth,
    fill_holes,
    normals,
    relative_depth,
)

SIDE = 112
Y, X = torch.meshgrid(torch.arange(SIDE) - 55.5, torch.arange(SIDE) - 55.5, indexing="ij")
INSIDE = (slice(None), slice(None), slice(20, 92), slice(20, 92))


def canonical(height_px, mm_per_px=1.8, distance_mm=800.0):
    """A surface of known height in crop pixels (nearer = larger), as depth in mm, and its scale."""
    return (distance_mm - height_px * mm_per_px)[None, None].float(), torch.tensor([mm_per_px])


@pytest.mark.parametrize("slope", [(0.0, 0.0), (0.5, 0.0), (0.0, -0.3), (0.4, 0.2)])
def test_normals_of_planes_and_slopes(slope):
    a, b = slope
    code = encode_normals_depth(*canonical(a * X + b * Y))[INSIDE]
    length = np.sqrt(a**2 + b**2 + 1)
    assert torch.allclose(code[:, 0], torch.tensor(-a / length, dtype=torch.float32), atol=1e-4)
    assert torch.allclose(code[:, 1], torch.tensor(-b / length, dtype=torch.float32), atol=1e-4)


def test_normals_of_a_sphere_point_away_from_its_centre():
    radius = 70.0
    ball = torch.sqrt((radius**2 - X**2 - Y**2).clamp_min(0))
    code = encode_normals_depth(*canonical(ball))
    near = (X**2 + Y**2 < 40**2)[None]
    assert (code[:, 0] - X / radius)[near].abs().max() < 0.005
    assert (code[:, 1] - Y / radius)[near].abs().max() < 0.005
    assert code[0, 0, 55, 90] > 0.4  # the right side faces right
    assert code[0, 1, 90, 55] > 0.4  # the lower side faces down


def test_relative_depth_by_hand():
    depth = torch.full((1, 1, 8, 8), 1000.0)
    depth[0, 0, 3, 3], depth[0, 0, 0, 0], depth[0, 0, 7, 7] = 994.0, 0.0, 1000 + 8 * REACH * 2 + 1
    relative, valid = relative_depth(depth, torch.tensor([2.0]))
    assert relative[0, 0, 3, 3] == 3.0  # 6 mm nearer at 2 mm per pixel
    assert valid.sum() == 62
    assert not valid[0, 0, 0, 0]  # a hole
    assert not valid[0, 0, 7, 7]  # background
    near = torch.full((1, 1, 8, 8), 2.0)
    near[0, 0, 4, 4] = 0
    assert relative_depth(near, torch.tensor([1.0]))[1].sum() == 63  # no reading is no reading at any distance
    depth = encode_depth(*canonical(torch.where(X.abs() < 8, 20.0, 0.0)))
    assert depth[0, 0, 55, 55].item() == pytest.approx(20 / (UNIT * SIDE), abs=1e-4)


def test_a_surface_in_mm_and_in_pixels_is_one_surface():
    ball = torch.sqrt((90.0**2 - X**2 - Y**2).clamp_min(0))
    in_mm, in_px = canonical(ball, 1.788), canonical(ball, 1.0, 4096.0)
    for encode in (encode_depth, encode_normals_depth):
        assert torch.allclose(encode(*in_mm), encode(*in_px), atol=2e-3)
    wrong = encode_normals_depth(in_mm[0], torch.tensor([1.0]))
    assert not torch.allclose(wrong, encode_normals_depth(*in_mm), atol=0.05)


def test_each_pair_of_a_batch_has_its_own_reference():
    depth = torch.cat([canonical(0.3 * X)[0], canonical(0.3 * X, distance_mm=650.0)[0]])
    codes = encode_normals_depth(depth, torch.tensor([1.8, 1.8]))
    assert torch.allclose(codes[0], codes[1], atol=1e-3)


def test_small_holes_are_filled_and_large_ones_are_background():
    slope = 0.3 * X + 0.1 * Y
    depth, scale = canonical(slope)
    whole = encode_normals_depth(depth, scale)
    holed = depth.clone()
    holed[torch.rand(depth.shape, generator=torch.Generator().manual_seed(0)) < 0.2] = 0
    assert (encode_normals_depth(holed, scale) - whole)[INSIDE].abs().mean() < 0.03
    holed = depth.clone()
    holed[..., 40:44, 40:44] = 0
    change = (encode_depth(holed, scale) - encode_depth(depth, scale)).abs()
    assert change[..., 36:48, 36:48].max() < 0.08
    holed[..., :, 60:] = 0
    assert (encode_depth(holed, scale)[..., 90:] == -CLIP).all()


def test_filling_keeps_every_reading():
    surface = torch.rand(2, 1, 37, 51)  # odd sizes too
    valid = torch.rand(2, 1, 37, 51) < 0.5
    filled = fill_holes(surface, valid, -9.0)
    assert torch.equal(filled[valid], surface[valid])
    assert (filled[~valid] <= 1).all()
    assert torch.allclose(fill_holes(surface, torch.zeros_like(valid), -9.0), torch.tensor(-9.0))


def test_a_pair_without_depth_gives_finite_numbers():
    for depth in (torch.zeros(1, 1, 112, 112), torch.full((1, 1, 112, 112), 700.0)):
        code = encode_normals_depth(depth, torch.tensor([1.8]))
        assert torch.isfinite(code).all()
        assert (code[:, :2] == 0).all()


def test_normals_have_no_direction_at_a_flat_border():
    assert (normals(torch.zeros(1, 1, 5, 5)) == 0).all()
