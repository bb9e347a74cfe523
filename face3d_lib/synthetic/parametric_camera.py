"""Depth pictures of the parametric heads, and the five points that a detector would find in them.

There is no colour: MakeHuman's targets bring no skin, eyes or hair. The random numbers of an image depend on
(seed, subject, image) alone.
"""

import dataclasses
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from .camera import SESSION_SIZE, depth_readings, draw_shot, in_picture, lens_holes, project, rotation, spectacles
from .fields import f32, field_at
from .parametric import EYES_MM, POINT_AREA, Look, ParametricHead, coiffed, parametric_head, parametric_person
from .people import Knobs
from .surface import splat_depth

SIZE = 144  # px, width and height of a picture
POINTS_PER_PIXEL = 1.6  # of the surface, where it faces the camera; more points take time and change nothing
ERRORS = Path(__file__).with_name("detector_errors.npz")


@dataclass(frozen=True)
class DepthPicture:
    """What a depth camera reads of a person, and the truth."""

    depth: np.ndarray  # (H, W) uint16 mm, larger = farther, 0 = no reading
    true_depth: np.ndarray  # (H, W) float32 mm, before the sensor; 0 behind the person
    landmarks: np.ndarray  # (5, 2) float32 px, pixel centres at whole numbers: the true points
    found: np.ndarray  # (5, 2) float32 px: the points as a detector would find them
    angles: tuple[float, float, float]  # degrees: yaw, pitch, roll


def draw_actions(rng: np.random.Generator, names: list[str]) -> np.ndarray:
    """(52,) weights from 0 to 1 of the facial actions of one image, in the order of `names`."""
    weight = dict.fromkeys(names, 0.0)

    def some(mean: float, sd: float) -> float:
        return max(0.0, float(rng.normal(mean, sd)))

    def both(name: str, value: float) -> None:
        for side in ("Left", "Right"):
            weight[name + side] += value * (1 + 0.15 * rng.standard_normal())

    smile = some(0, 0.35) + 0.6 * (rng.random() < 0.3) * rng.random()
    both("mouthSmile", smile)
    both("cheekSquint", 0.5 * smile)
    both("eyeBlink", float(np.clip(rng.normal(0.1, 0.15), 0, 1)) + 0.8 * (rng.random() < 0.05))
    for name, mean, sd in [
        ("mouthFrown", -0.1, 0.25), ("browDown", 0, 0.3), ("browOuterUp", 0, 0.3), ("eyeSquint", 0, 0.3),
        ("mouthPress", 0, 0.25), ("mouthStretch", -0.1, 0.2), ("mouthUpperUp", -0.1, 0.2),
        ("mouthLowerDown", -0.1, 0.2), ("noseSneer", -0.1, 0.2), ("mouthDimple", 0, 0.2),
    ]:  # fmt: skip
        both(name, some(mean, sd))
    for name, mean, sd in [
        ("jawOpen", -0.1, 0.25), ("mouthPucker", -0.2, 0.3), ("mouthFunnel", -0.2, 0.2), ("browInnerUp", 0, 0.3),
        ("cheekPuff", -0.2, 0.25), ("mouthRollLower", -0.05, 0.2), ("mouthRollUpper", -0.05, 0.2),
        ("mouthLeft", -0.2, 0.2), ("mouthRight", -0.2, 0.2), ("jawLeft", -0.2, 0.2), ("jawRight", -0.2, 0.2),
        ("jawForward", -0.2, 0.2),
    ]:  # fmt: skip
        weight[name] += some(mean, sd)
    return np.clip([weight[name] for name in names], 0, 1).astype(f32)


def movement(head: ParametricHead, rng: np.random.Generator, mimic: np.ndarray | None, look: Look) -> np.ndarray:
    """The displacement (V, 3) mm of the vertices by the expression of one image."""
    moved = np.zeros_like(head.mean)
    weights = draw_actions(rng, [*head.targets.actions]) * f32(look.action)
    for weight, action in zip(weights, head.actions, strict=True):
        if weight > 0.01:
            moved += weight * action
    if mimic is not None:
        rows, cols = head.places.rows[head.moving], head.places.cols[head.moving]
        waves = np.stack([field_at(lattice, rows, cols) for lattice in mimic], 1)
        moved[head.moving] += head.soft[head.moving, None] * waves
    return moved


@lru_cache(maxsize=1)
def detector_errors() -> tuple[np.ndarray, np.ndarray]:
    """Of pictures of the first kind of heads in which a face was found: yaw and pitch (n, 2) degrees, and the errors
    of the five points (n, 5, 2) in distances between the eyes. Gross misses are not among them."""
    with np.load(ERRORS, allow_pickle=False) as stored:
        return stored["angles"].astype(f32), stored["errors"].astype(f32)


def found_points(true: np.ndarray, angles: tuple[float, float, float], rng: np.random.Generator) -> np.ndarray:
    """The points (5, 2), moved as the detector moved those of a picture in nearly the same pose."""
    poses, errors = detector_errors()
    near = np.argpartition(((poses - f32(angles[:2])) ** 2).sum(1), 30)[:30]
    return true + errors[rng.choice(near)] * np.linalg.norm(true[1] - true[0])


def picture(seed: int, subject: int, image: int, look: Look | None = None) -> DepthPicture:
    """Image number `image` of parametric person `subject`; it belongs to session image // SESSION_SIZE.

    Raises UserError where the package of the targets is missing or altered.
    """
    look, head = look or Look(), parametric_head()
    who = parametric_person(seed, subject, look)
    day = coiffed(seed, subject, image // SESSION_SIZE, look)
    rng = np.random.default_rng([seed, 103, subject, image])
    knobs = Knobs(size=SIZE, yaw=look.yaw, pitch=look.pitch, roll=look.roll, mimic=look.mimic, glasses=look.glasses,
                  occlusion=0, depth_noise=1, depth_warp=1, depth_step=1, depth_pixel=1)  # fmt: skip
    shot = draw_shot(rng, knobs)
    eyes_px = np.exp(rng.uniform(*np.log(look.eyes_px)))
    shot = dataclasses.replace(shot, focal=eyes_px * shot.distance / EYES_MM)

    moved = movement(head, rng, shot.mimic, look)
    count = round(len(day.surface) * min(1, POINTS_PER_PIXEL * POINT_AREA * (eyes_px / EYES_MM) ** 2))
    surface = day.surface[:count].copy()
    last = np.searchsorted(head.moving_points, count)
    surface[head.moving_points[:last]] += head.moving_part[:last] @ moved[head.moving]
    marks = head.landmarks(who.vertices + moved)
    matrix = rotation(*shot.angles)
    faces_camera = head.normals[:count] @ matrix[2] > -0.3
    parts, lens = [surface[faces_camera], day.curtain], None
    if shot.glasses:
        frame, lens = spectacles(rng, float(marks[:2, 2].mean()) + 2)
        parts.append(frame.T)
    cloud = matrix @ np.concatenate(parts).T
    u, v, z = project(cloud, shot)
    keep = in_picture(u, v, SIZE)
    true_depth = splat_depth(u[keep], v[keep], z[keep], SIZE)
    behind = f32(shot.distance + rng.uniform(300, 1600))
    depth = depth_readings(np.where(true_depth > 0, true_depth, behind), knobs, rng)
    u, v, _ = project(matrix @ marks.T, shot)
    true = np.stack([u, v], 1) - f32(0.5)
    if lens:
        lens_holes(depth, lens, true, shot, knobs, rng)
    found = true + f32(look.jitter) * (found_points(true, shot.angles, rng) - true)
    return DepthPicture(depth, true_depth, true.astype(f32), found.astype(f32), shot.angles)
