"""Attacks are the surfaces that their names say, in any unit, and leave colour as it is."""

import numpy as np
import pytest

from face3d_lib.data.warp import TEMPLATE_112
from face3d_lib.synthetic.attacks import SPECIES, SPREAD, _eyes_px, attack_surface, attacked, held_before
from face3d_lib.synthetic.camera import pair

POINTS = 2 * TEMPLATE_112 + 20
ROWS, COLUMNS = np.mgrid[:260, :260].astype(float)
FACE = 700 - 30 * np.exp(-(((COLUMNS - POINTS[2, 0]) / 20) ** 2) - ((ROWS - POINTS[2, 1]) / 25) ** 2)  # mm, with a nose


def surface(species, seed=0, scale=1.0):
    per_px = scale * 63 / _eyes_px(POINTS)
    return attack_surface(species, scale * FACE, POINTS, per_px, np.random.default_rng(seed))


def curvatures(z):
    """(smallest, largest) second derivative by direction, by the eigenvalues of the Hessian in the middle, mm per px^2."""
    down, across = np.gradient(z)
    (yy, yx), (_, xx) = np.gradient(down), np.gradient(across)
    middle = slice(100, 160)
    hessians = np.stack([xx, yx, yx, yy], -1)[middle, middle].reshape(-1, 2, 2)
    values = np.abs(np.linalg.eigvalsh(hessians))
    return values.min(1).max(), values.max(1)


def test_the_distance_between_the_eyes_is_that_of_the_template():
    assert _eyes_px(TEMPLATE_112) == pytest.approx(np.linalg.norm(TEMPLATE_112[1] - TEMPLATE_112[0]), rel=1e-3)
    assert pytest.approx(1.4752, abs=1e-4) == SPREAD


@pytest.mark.parametrize("seed", range(4))
def test_photographs_are_planes_and_cylinders(seed):
    per_px = 63 / _eyes_px(POINTS)
    for species, least, most in (("flat", 0, 5), ("tilted", 15, 45)):
        z, lost = surface(species, seed)
        down, across = np.gradient(z)
        assert np.ptp(down) < 1e-6
        assert np.ptp(across) < 1e-6
        angle = np.degrees(np.arctan(np.hypot(down[0, 0], across[0, 0]) / per_px))
        assert least <= angle <= most + 1e-6
        assert not lost.any()
    z, _ = surface("bent", seed)
    flat_way, bent_way = curvatures(z)
    assert flat_way < 1e-6  # along its axis a cylinder is straight
    radius = per_px**2 / bent_way[len(bent_way) // 2]  # near the top of the bow
    assert 50 < radius < 340


@pytest.mark.parametrize("species", SPECIES)
def test_an_attack_does_not_depend_on_the_unit(species):
    (mm, lost), (pixels, same) = surface(species, 3), surface(species, 3, scale=0.25)
    assert np.allclose(0.25 * mm, pixels)
    assert np.array_equal(lost, same)


def test_holes_show_what_is_behind():
    distance = np.median(FACE[_eyes_px(POINTS) > np.hypot(*(np.stack([COLUMNS, ROWS], -1) - POINTS.mean(0)).T).T])
    z, _ = surface("cut_out", 1)
    x, y = POINTS[0].astype(int)
    paper, _ = surface("bent", 1)  # the same draws make the same sheet
    behind = z - (FACE - distance) - distance
    gap = behind[y, x]
    assert 0.05 * 63 <= gap <= 0.4 * 63
    assert z[y + 25, x] == pytest.approx(paper[y + 25, x])  # below the hole
    nose, _ = surface("nose", 1)
    x, y = POINTS[2].astype(int)
    assert nose[y, x] == pytest.approx(FACE[y, x])
    assert z[y, x] == pytest.approx(paper[y, x])


def test_a_screen_returns_little():
    shares = [1 - surface("screen", seed)[1].mean() for seed in range(20)]
    assert max(shares) < 0.22
    assert len(set(shares)) > 10


def test_an_attack_on_a_pair_changes_depth_alone_and_is_drawn_by_its_arguments():
    made = pair(1, 0, 0)
    first, again, other = (attacked(made, "bent", seed) for seed in (4, 4, 5))
    assert np.array_equal(first.depth, again.depth)
    assert not np.array_equal(first.depth, other.depth)
    assert np.array_equal(first.rgb, made.rgb)
    assert first.depth.dtype == made.depth.dtype
    off = first.depth.astype(float) - first.true_depth
    assert 1 < off[first.depth > 0].std() < 12  # the noise of the sensor
    with pytest.raises(ValueError, match="one of flat"):
        attacked(made, "silicone", 0)


def test_a_measured_map_gives_its_holes_and_its_noise():
    rng = np.random.default_rng(0)
    depth = 500 + rng.normal(0, 2, (80, 80))
    depth[20:30, 20:40] = 0
    depth[:, 60:] += 200  # a step is not noise
    held = held_before(depth, np.full((80, 80), 900.0), np.zeros((80, 80), bool))
    assert np.array_equal(held == 0, depth == 0)
    assert 1.2 < held[40:, :50].std() < 2.2
    assert np.abs(held[held > 0] - 900).max() < 15
