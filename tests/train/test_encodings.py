"""Depth encodings: exact on surfaces whose normals are known, the same in mm and in pixels, holes filled."""

import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter

from face3d_lib.base.errors import UserError
from face3d_lib.train.encodings import (
    CLIP,
    ENCODINGS,
    NOSE_RANGE,
    REACH,
    UNIT,
    block_means,
    encode_depth,
    encode_normals_depth,
    fill_holes,
    normals,
    relative_depth,
    require_meaning,
)

SIDE = 112
Y, X = torch.meshgrid(torch.arange(SIDE) - 55.5, torch.arange(SIDE) - 55.5, indexing="ij")
INSIDE = (slice(None), slice(None), slice(20, 92), slice(20, 92))
BALL = torch.sqrt((90.0**2 - X**2 - Y**2).clamp_min(0))
SIDEWAYS = {"normals": 0, "normals_depth": 0, "depth_angles": 1, "xyz": 0}  # the channel a mirror negates
SCALE = {name for name, encoding in ENCODINGS.items() if encoding.unit == "any"}


def canonical(height_px, mm_per_px=1.8, distance_mm=800.0):
    """A surface of known height in crop pixels (nearer = larger), as depth in mm, and its scale."""
    return (distance_mm - height_px * mm_per_px)[None, None].float(), torch.tensor([mm_per_px])


def encode(name, depth, depth_per_px):
    return ENCODINGS[name].function(depth, depth_per_px)


def faces():
    """Two bumpy surfaces with a background, holes and noise: depth in mm (2, 1, 112, 112), and its scale."""
    random = torch.Generator().manual_seed(3)
    bumps = BALL + 4 * torch.sin(X / 5) + 3 * torch.cos(Y / 7 + X / 11)
    depth = torch.cat([canonical(bumps)[0], canonical(bumps.T + 0.2 * X, distance_mm=650.0)[0]])
    depth += torch.randn(depth.shape, generator=random)
    depth[torch.rand(depth.shape, generator=random) < 0.1] = 0
    depth[:, :, :9] = 3000.0
    depth[0, :, 70:80, 30:44] = 0
    return depth, torch.tensor([1.8, 1.8])


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
    in_mm, in_px = canonical(BALL, 1.788), canonical(BALL, 1.0, 4096.0)
    for name in SCALE:
        assert torch.allclose(encode(name, *in_mm), encode(name, *in_px), atol=2e-3), name
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
    assert (normals(torch.zeros(1, 1, 5, 5)) == torch.tensor([0.0, 0, 1])[:, None, None]).all()


# -- every encoding


def test_the_table_tells_what_the_functions_give():
    depth, scale = torch.rand(3, 1, 38, 51) * 40 + 700, torch.full((3,), 1.8)
    for name, encoding in ENCODINGS.items():
        code = encode(name, depth, scale)
        assert code.shape == (3, encoding.channels, 38, 51), name
        assert code.dtype == torch.float32, name
        assert ((code >= -2) & (code <= 2)).all(), name


@pytest.mark.parametrize("name", ENCODINGS)
def test_a_mirrored_batch_gives_a_mirrored_encoding(name):
    depth, scale = faces()
    expected = encode(name, depth, scale).flip(3)
    if name in SIDEWAYS:
        expected[:, SIDEWAYS[name]] *= -1
        assert expected[:, SIDEWAYS[name]].abs().max() > 0.3
    assert torch.allclose(encode(name, depth.flip(3), scale), expected, atol=1e-4)


@pytest.mark.parametrize("name", ENCODINGS)
def test_no_pair_sees_its_neighbour_in_the_batch(name):
    depth, scale = faces()
    scale = torch.tensor([1.8, 1.2])
    alone = torch.cat([encode(name, depth[k : k + 1], scale[k : k + 1]) for k in range(2)])
    assert torch.allclose(encode(name, depth, scale), alone, atol=1e-5)


@pytest.mark.parametrize("name", ENCODINGS)
def test_a_large_crop_gives_what_a_small_one_gives(name):
    small = encode(name, *canonical(BALL))
    large = torch.nn.functional.interpolate(BALL[None, None], scale_factor=2, mode="bilinear")[0, 0]
    large = encode(name, *canonical(large * 2, 0.9))
    assert (torch.nn.functional.avg_pool2d(large, 2) - small)[INSIDE].abs().max() < 0.01


@pytest.mark.parametrize("name", ENCODINGS)
def test_crops_without_a_face_give_finite_numbers(name):
    empty = torch.zeros(5, 1, 112, 112)
    empty[1] = 700.0  # a wall
    empty[2, 0, 0, 0] = 700.0  # one reading, at the border
    empty[3, 0, 56, 56] = 700.0  # one reading, in the middle
    empty[4, 0, :, :56] = torch.rand(112, 56) * 5000
    code = encode(name, empty, torch.full((5,), 1.8))
    assert torch.isfinite(code).all()
    without = {"depth": [-CLIP], "depth_mask": [0, 0], "nose_depth": [0], "minmax": [0], "normals": [0, 0, 1]}
    without |= {"normals_depth": [0, 0, -CLIP], "depth_angles": [-CLIP, 0, 0]}
    if name in without:
        assert torch.allclose(code[0], torch.tensor(without[name])[:, None, None].expand_as(code[0]).float())


@pytest.mark.parametrize("name", ENCODINGS)
def test_everything_is_made_where_the_batch_is(name):
    depth, scale = torch.zeros(2, 1, 112, 112, device="meta"), torch.zeros(2, device="meta")
    assert encode(name, depth, scale).device.type == "meta"


@pytest.mark.parametrize("name", ENCODINGS)
def test_the_unit_is_as_declared(name):
    """Depth times a factor, its scale too: the same code, unless lengths in mm are meant."""
    depth, scale = faces()
    same = torch.allclose(encode(name, depth * 1.5, scale * 1.5), encode(name, depth, scale), atol=1e-3)
    assert same == (name in SCALE)


# -- each encoding


def test_normals_depth_is_what_an_independent_formula_gives():
    height = 40 - (X**2 + Y**2) / 120 + 5 * torch.sin(X / 9) * torch.cos(Y / 6)
    surface = height.double().numpy() - height.double()[28:84, 28:84].median().item()
    for _ in range(2):
        surface = uniform_filter(surface, 3, mode="nearest")
    down, right = np.gradient(surface)
    expected = np.stack([-right, -down, surface / (0.3 * 112) * np.sqrt(right**2 + down**2 + 1)])
    expected /= np.sqrt(right**2 + down**2 + 1)
    code = encode("normals_depth", *canonical(height))[0].numpy()
    assert np.abs(code - expected)[:, 5:-5, 5:-5].max() < 1e-3  # float32 at 800 mm is 6e-5 mm


@pytest.mark.parametrize("slope", [(0.0, 0.0), (0.5, 0.0), (0.0, -0.3), (0.4, 0.2), (-2.0, 1.0)])
def test_normals_and_angles_of_planes(slope):
    a, b = slope
    surface = canonical(a * X + b * Y)
    middle = (..., slice(48, 64), slice(48, 64))  # a steep plane leaves the reach of the face farther out
    code, angles = (encode(name, *surface)[middle].numpy() for name in ("normals", "depth_angles"))
    length = np.sqrt(a**2 + b**2 + 1)
    assert np.abs(code - np.array([-a, -b, 1])[:, None, None] / length).max() < 1e-4
    assert np.abs(angles[:, 1] * 90 - np.degrees(np.arctan(-a))).max() < 0.02  # degrees
    assert np.abs(angles[:, 2] * 90 - np.degrees(np.arcsin(b / length))).max() < 0.02


def test_normals_and_angles_of_a_sphere():
    code, angles = encode("normals", *canonical(BALL))[0], encode("depth_angles", *canonical(BALL))[0]
    near = X**2 + Y**2 < 50**2
    expected = torch.stack([X, Y, BALL]) / 90
    assert (code - expected)[:, near].abs().max() < 0.005
    assert (code.norm(dim=0) - 1).abs().max() < 1e-5
    assert (angles[1] * 90 - torch.rad2deg(torch.atan(X / BALL)))[near].abs().max() < 0.3
    assert (angles[2] * 90 - torch.rad2deg(torch.asin(-Y / 90)))[near].abs().max() < 0.3
    assert angles[1, 55, 90] > 0.2  # the right side faces right
    assert angles[2, 20, 55] > 0.2  # the upper side faces up


def test_encodings_share_their_parts():
    depth, scale = faces()
    both = encode("normals_depth", depth, scale)
    assert torch.equal(both[:, :2], encode("normals", depth, scale)[:, :2])
    for name, channel in (("depth", 0), ("depth_angles", 0), ("xyz", 2)):
        assert torch.equal(both[:, 2], encode(name, depth, scale)[:, channel])


def test_xyz_has_one_unit_for_all_three():
    x, y, z = encode("xyz", *canonical(X + 0.0 * Y))[0]  # a plane at 45 degrees
    assert torch.allclose(torch.diff(x[:, 40:70]), torch.diff(z[:, 40:70]), atol=1e-3)
    assert torch.allclose(x[7], X[0] / (0.3 * 112))
    assert torch.equal(y, x.T)
    wide = encode("xyz", torch.full((1, 1, 40, 60), 700.0), torch.ones(1))[0]
    assert wide[:2, 39, 59].tolist() == pytest.approx([29.5 / 18, 19.5 / 18])
    assert x[0, 0] < 0 < x[0, -1]  # to the right


def test_depth_mask_leaves_holes_and_says_where():
    depth, scale = canonical(torch.where(X.abs() < 8, 20.0, 0.0))
    depth[0, 0, 50:54, 60:64], depth[0, 0, :, 100:] = 0, 3000.0
    value, mask = encode("depth_mask", depth, scale)[0]
    assert set(mask.unique().tolist()) == {0, 1}
    lost = torch.zeros(112, 112, dtype=bool)
    lost[50:54, 60:64] = lost[:, 100:] = True
    assert torch.equal(mask == 0, lost)
    assert (value[lost] == 0).all()
    assert value[56, 55].item() == pytest.approx(20 / (0.3 * 112), abs=1e-5)
    far = encode("depth_mask", *canonical(torch.where(Y > 40, -60.0, 0.0)))[0]
    assert far[0, 110, 50] == -CLIP  # 60 px behind: the face's still, and clipped


def test_minmax_by_hand():
    depth = torch.tensor([[[[700.0, 0.0], [800.0, 750.0]]]])
    expected = torch.tensor([[[[1.0, 0.0], [0.0, 0.5]]]])
    assert torch.equal(encode("minmax", depth, torch.ones(1)), expected)
    shifted = torch.where(depth > 0, 3 * depth + 50, 0)
    assert torch.allclose(encode("minmax", shifted, torch.ones(1)), expected, atol=1e-5)
    depth, scale = faces()  # the background lies 2 m behind, so the face is left a small part of the range
    face = encode("minmax", depth, scale)[:, :, 20:100, 20:100]
    assert face[face > 0].std() < 0.02


def test_nose_depth_is_in_mm_behind_the_nose():
    code = encode("nose_depth", *canonical(BALL))[0, 0]
    behind = (90 - BALL) * 1.8
    assert (code - (1 - behind / NOSE_RANGE))[(behind < 95) & (X.abs() < 53) & (Y.abs() < 53)].abs().max() < 0.02
    assert code.max() == 1
    assert (code[behind > 105] == 0).all()
    depth, scale = canonical(BALL)
    stray = depth.clone()
    stray[0, 0, 40:44, 40:44] -= 60  # something near the camera
    change = (encode("nose_depth", stray, scale) - encode("nose_depth", depth, scale))[0, 0]
    assert change[60:80, 60:80].abs().max() < 0.01  # 1 mm
    large = encode("nose_depth", *canonical(BALL, 2.0))[0, 0]  # the same shape, a larger head
    assert (1 - large[80, 80]).item() == pytest.approx((1 - code[80, 80]).item() * 2 / 1.8, rel=0.01)


def test_nose_depth_begins_at_the_tip_of_a_small_nose():
    cone = (15 - torch.hypot(X, Y)).clamp_min(0)  # 27 mm, on a wall
    code = encode("nose_depth", *canonical(cone))[0, 0]
    assert (1 - code[20, 20]).item() * NOSE_RANGE == pytest.approx(27, abs=6)  # a hundredth of the middle: 3 px wide


def test_nose_depth_does_not_take_a_hole_for_the_nose():
    depth, scale = canonical(BALL)
    holed = depth.clone()
    holed[..., 46:66, 46:66] = 0
    change = encode("nose_depth", holed, scale) - encode("nose_depth", depth, scale)
    assert change[..., 80:90, 80:90].abs().max() < 0.05
    assert torch.isfinite(change).all()


# -- what does not fit


def test_an_encoding_in_mm_is_refused_for_depth_without_a_unit():
    for name in ENCODINGS:
        require_meaning(name, "mm")
    for name in SCALE:
        require_meaning(name, "pixel")
    with pytest.raises(UserError, match=r"^encoding 'nose_depth' needs depth in mm.*use one of depth, depth_m"):
        require_meaning("nose_depth", "pixel")
    with pytest.raises(UserError) as error:
        require_meaning("nose_depth", "pixel")
    assert "\n" not in str(error.value)
    assert "nose_depth" not in str(error.value).partition("use one of")[2]
    with pytest.raises(UserError, match=r"'normal': there is no encoding of this name.*normals"):
        require_meaning("normal", "mm")


def test_means_of_blocks_leave_holes_out():
    depth = torch.zeros(1, 1, 4, 6)
    depth[0, 0, 0, :3] = torch.tensor([10.0, 20.0, 7.0])
    means = block_means(depth, 2)
    assert means[0, 0].tolist() == [[15, 7, 0], [0, 0, 0]]
    assert block_means(depth, 1) is depth
    assert block_means(torch.full((1, 1, 5, 5), 3.0), 2).tolist() == torch.full((1, 1, 3, 3), 3.0).tolist()


def test_a_face_of_blocks_has_the_same_normals():
    depth, scale = canonical(0.3 * X - 0.2 * Y)
    fine, coarse = encode("normals", depth, scale), encode("normals", block_means(depth, 2), scale * 2)
    middle = slice(20, 36)
    torch.testing.assert_close(coarse[..., middle, middle], fine[..., 40:72:2, 40:72:2], atol=1e-3, rtol=0)
