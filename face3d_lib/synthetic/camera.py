"""Pictures of the synthetic people: RGB-D pairs that need no download, no licence and nobody's consent.

An image is a point z-buffer of a lit head (people.py, sittings.py) before a background, seen by a colour camera and by
a depth camera. Its random numbers depend on (seed, subject, image) alone, so the image is the same whichever process
makes it.
"""

import io
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image
from scipy.sparse import csc_array

from ..base.tables import POINTS
from .fields import blurred, f32, smooth_field, smooth_picture, smoothstep, white_noise
from .people import EXPRESSIONS, Knobs, MeanHead, identity_seed, mean_head, person
from .sittings import Sitting, sitting

VERSION = 1  # to be raised when the same seed no longer gives the same pixels
CONDITIONS = ["pose", "expression", "light", "occlusion", "glasses"]
ANGLES = ["yaw_deg", "pitch_deg", "roll_deg"]
SESSION_SIZE = 1000  # image numbers 0-999 belong to sitting 1, 1000-1999 to sitting 2, and so on


@dataclass(frozen=True)
class SyntheticPair:
    """A picture, the depth that the sensor read, and the true depth, mask and landmarks."""

    rgb: np.ndarray  # (H, W, 3) uint8
    depth: np.ndarray  # (H, W) uint16 mm, larger = farther, 0 = no reading
    true_depth: np.ndarray  # (H, W) float32 mm, before the sensor
    mask: np.ndarray  # (H, W) bool, head and shoulders
    landmarks: np.ndarray  # (5, 2) float32 px, in the order of POINTS
    row: dict  # of the manifest; its keys are dataset.COLUMNS


@dataclass(frozen=True)
class Shot:
    """The values that are drawn for one image before rendering; its row of the manifest follows from them."""

    angles: tuple[float, float, float]  # degrees: yaw, pitch, roll
    moves: np.ndarray  # (5,) strength of smile, brows, frown and pucker (1 = full), opening of the jaw (mm)
    distance: float  # mm from the camera to the origin of the head
    focal: float  # px
    centre: tuple[float, float]  # px, where the origin of the head lies
    key: tuple[float, float]  # degrees, azimuth and elevation of the key light
    glasses: bool
    occluded: float  # size of the object before the face, 1 = a hand; 0: none
    mimic: np.ndarray | None = None  # (3, 16, 20) lattice of movements beyond `moves`, mm; None: none


def draw_shot(rng: np.random.Generator, knobs: Knobs) -> Shot:
    """Draw a Shot from the random numbers of an image."""

    def normal(sd: float) -> float:
        return float(np.clip(rng.standard_normal(), -2, 2)) * sd

    angles = (normal(knobs.yaw), normal(knobs.pitch), normal(knobs.roll))
    smile = normal(0.6) + 0.7 * (rng.random() < 0.3)
    moves = np.maximum(0, [smile, normal(0.5), normal(0.5), normal(0.3), normal(7) - 3])
    distance = rng.uniform(650, 950)
    return Shot(
        angles=angles,
        moves=moves.astype(f32) * f32(knobs.expression),
        distance=distance,
        focal=knobs.face * knobs.size * distance / 150 * float(np.exp(normal(0.07))),
        centre=(knobs.size * (0.5 + normal(0.03)), knobs.size * (0.48 + normal(0.03))),
        key=(rng.uniform(-75, 75) * knobs.light, 35 + normal(20) * knobs.light),
        glasses=bool(rng.random() < knobs.glasses),
        occluded=float(rng.random() < knobs.occlusion),
        mimic=knobs.mimic * rng.standard_normal((3, 16, 20)) if knobs.mimic else None,
    )


def mimicry(lattices: np.ndarray, head: MeanHead, rows: Any, cols: Any) -> np.ndarray:
    """The displacement (3, rows, cols), mm, that Shot.mimic gives the grid of the head at these rows and columns."""
    soft = head.front * smoothstep(-112, -95, head.height) * smoothstep(70, 45, head.height)
    places = head.row_place[rows], head.col_place[cols]
    return soft[rows][:, cols] * np.stack([smooth_field(lattice, *places) for lattice in lattices])


def rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """The matrix (3, 3) that turns a head: yaw about y, then pitch about x, then roll about z (degrees)."""
    a, b, c = np.radians([yaw, pitch, roll])
    about_y = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return (about_z @ about_x @ about_y).astype(f32)


def rotated(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """matrix (3, 3) times points (3, ...), written out: the rounding is the same for any number of threads."""
    return np.stack([dot(row, points) for row in matrix])


def project(points: np.ndarray, shot: Shot) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points (3, N) mm -> u, v in px (pixel centres at .5) and z mm, the distance along the camera's axis."""
    z = f32(shot.distance) - points[2]
    scale = f32(shot.focal) / z
    return points[0] * scale + f32(shot.centre[0]), f32(shot.centre[1]) - points[1] * scale, z


def in_picture(u: np.ndarray, v: np.ndarray, size: int) -> np.ndarray:
    """Whether the four pixels around each point lie in the picture."""
    low, high = f32(0.5), f32(size - 0.5)
    return (u >= low) & (u < high) & (v >= low) & (v < high)


def true_landmarks(surface: np.ndarray, shot: Shot, knobs: Knobs) -> tuple[np.ndarray, np.ndarray]:
    """The five points in the picture, (5, 2) px, and on the head, (3, 5) mm; `surface` (3, R, C) is without hair."""
    head = mean_head(knobs.size)
    points = surface.reshape(3, -1)[:, head.marks] + head.mark_rest
    rows, cols = np.divmod(head.marks, surface.shape[2])
    for strength, move in zip(shot.moves, head.moves, strict=True):
        points = points + strength * move[:, rows - head.moving.start, cols]
    if shot.mimic is not None:
        points = points + mimicry(shot.mimic, head, rows, cols)[:, np.arange(5), np.arange(5)]
    u, v, _ = project(rotated(rotation(*shot.angles), points), shot)
    return np.stack([u, v], 1) - f32(0.5), points


def surface_normals(surface: np.ndarray) -> np.ndarray:
    """Unit normals (3, R, C) of a surface by central differences; rows go down, columns right."""
    across, up = np.empty_like(surface), np.empty_like(surface)
    np.subtract(surface[:, :, 2:], surface[:, :, :-2], out=across[:, :, 1:-1])
    np.subtract(surface[:, :-2], surface[:, 2:], out=up[:, 1:-1])
    for edge, inner in ((0, 1), (-1, -2)):
        across[:, :, edge], up[:, edge] = across[:, :, inner], up[:, inner]
    (a, b, c), (d, e, f) = across, up
    n = np.stack([b * f - c * e, c * d - a * f, a * e - b * d])
    n /= np.sqrt(dot(n, n) + f32(1e-12))
    return n


def direction(azimuth: float, elevation: float) -> np.ndarray:
    """The unit vector (3,) towards a light at these degrees; azimuth > 0 is at the image's right."""
    a, b = np.radians([azimuth, elevation])
    return np.array([np.sin(a) * np.cos(b), np.sin(b), np.cos(a) * np.cos(b)], f32)


def dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The scalar product over the first axis (3, ...), written out as in `rotated`."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def ears(day: Sitting, head: MeanHead, matrix: np.ndarray, size: float) -> list[np.ndarray]:
    """Points, normals and albedo, (3, n) each, of both ears of half height `size` mm, turned by `matrix`."""
    parts = []
    colour = day.albedo.reshape(3, -1)[:, head.cheek] * f32([1.0, 0.86, 0.84])
    for side, anchor in zip((-1, 1), head.ears, strict=True):
        root = day.surface.reshape(3, -1)[:, anchor]
        axes = f32([[side * 0.5, 0, side * 0.86], [0, 0.97, 0], [-0.86, -0.25, 0.5]])  # columns: back, up, out
        points = rotated(matrix, rotated(axes, head.ear[:3] * f32(size)) + root[:, None, None])
        normal = surface_normals(points) * f32(side)
        parts.append((points, normal, colour[:, None, None] * head.ear[3]))
    return [np.concatenate([part[k].reshape(3, -1) for part in parts], 1) for k in range(3)]


def visible_surface(day: Sitting, shot: Shot, knobs: Knobs) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points, normals and albedo, (3, N) each, of what the camera can see of head, ears and shoulders."""
    head = mean_head(knobs.size)
    yaw, pitch, roll = shot.angles
    margin = 100 + 1.5 * abs(pitch)  # degrees of azimuth that can face the camera
    ends = [-margin - max(yaw, 0.35 * yaw), margin - min(yaw, 0.35 * yaw)]
    cols = slice(*np.searchsorted(head.degrees[0], ends))
    surface = day.surface[:, :, cols].copy()
    for strength, move in zip(shot.moves, head.moves, strict=True):
        if strength > 0:
            surface[:, head.moving] += strength * move[:, :, cols]
    if shot.mimic is not None:
        surface[:, head.moving] += mimicry(shot.mimic, head, head.moving, cols)
    matrix = rotation(*shot.angles)
    points = rotated(matrix, surface)
    shoulders = rotated(rotation(0.35 * yaw, 0.2 * pitch, 0.2 * roll), surface[:, head.neck :])
    points[:, head.neck :] += head.neck_share * (shoulders - points[:, head.neck :])
    parts = [q.reshape(3, -1) for q in (points, surface_normals(points), day.albedo[:, :, cols])]
    if day.ear_size:
        parts = [np.concatenate(q, 1) for q in zip(parts, ears(day, head, matrix, day.ear_size), strict=True)]
    points, normal, albedo = parts
    towards = normal[2] * f32(shot.distance)
    towards -= dot(points, normal)
    keep = np.flatnonzero((towards > 0) & in_picture(*project(points, shot)[:2], knobs.size))
    return points[:, keep], normal[:, keep], albedo[:, keep]


def front_most(cells: np.ndarray, z: np.ndarray, n: int) -> np.ndarray:
    """The smallest z in each of n cells, infinite in an empty one; `cells` are the cell numbers of the points."""
    front = np.full(n, np.inf, f32)
    np.minimum.at(front, cells, z)
    return front


def lit_colour(
    points: np.ndarray,
    normal: np.ndarray,
    albedo: np.ndarray,
    day: Sitting,
    shot: Shot,
    knobs: Knobs,
    rng: np.random.Generator,
) -> np.ndarray:
    """Linear colour (3, N) of points: key light with shadow, fill light, sky (Lambert), highlight (Blinn 1977)."""
    key = direction(*shot.key)
    lamb = np.maximum(0, (dot(key, normal) + f32(0.15)) / f32(1.15))  # skin spreads light past the edge
    if knobs.light:
        across = np.cross([0, 1, 0], key) / np.hypot(key[0], key[2])
        x, y, z = rotated(np.stack([across, np.cross(key, across), -key]).astype(f32), points)
        column, row = (np.clip((q + 240) * f32(0.25), 0, 119).astype(np.intp) for q in (x, y))
        cell = row * 120 + column  # 4 mm wide, seen from the light
        lamb *= 1 - f32(0.65) * smoothstep(13, 30, z - front_most(cell, z, 14400)[cell] - 25 * (1 - lamb))
    share = 0.5 + 0.3 * knobs.light * rng.random() * (1 - 0.5 * day.softness)
    side = direction(rng.uniform(-80, 80), 10)
    fill = np.maximum(0, dot(side, normal)) * f32(0.35 * knobs.light * rng.random())
    sky = (f32(0.72) + f32(0.25) * normal[1] + f32(0.15) * normal[2]) * f32(1 - share) + fill
    half = key + f32([0, 0, 1])
    half /= np.sqrt((half * half).sum())
    shine = np.maximum(0, dot(half, normal)) ** 2
    shine *= shine
    shine *= shine
    shine = shine * shine * lamb * f32(rng.uniform(0.01, 0.07))
    lamb *= f32(1.5 * share)
    return np.stack([a * (lamb * w + sky) + shine for a, w in zip(albedo, day.warmth, strict=True)])


def spectacles(rng: np.random.Generator, eye_depth: float) -> tuple[np.ndarray, tuple[float, float]]:
    """Points (3, n) of a frame on the head, and half the width and height of its lenses; all in mm."""
    wide, high, power = rng.uniform(19, 25), rng.uniform(13, 20), rng.uniform(2, 4)
    t = np.linspace(0, 2 * np.pi, 230)
    thick = np.linspace(-1, 1, 4)[:, None] * rng.uniform(0.8, 2.0)
    x = 33 + (wide + thick) * np.sign(np.cos(t)) * abs(np.cos(t)) ** (2 / power)
    y = 8 + (high + thick) * np.sign(np.sin(t)) * abs(np.sin(t)) ** (2 / power)
    rim = np.stack([x, y, 97 - 0.006 * x**2]).reshape(3, -1)
    q, r = np.linspace(0, 1, 110), np.linspace(-1.5, 1.5, 4)[:, None]
    arm = np.stack([58 + 22 * q**0.4 + 0 * r, 14 + r + 0 * q, 77 - 85 * q + 0 * r]).reshape(3, -1)
    q = np.linspace(-1, 1, 40) * (33 - wide)
    bar = np.stack([q + 0 * r, 13 + r + 0 * q, 98 + 0 * q + 0 * r]).reshape(3, -1)
    mirror = np.array([[-1], [1], [1]])
    points = np.concatenate([rim, rim * mirror, arm, arm * mirror, bar], 1)
    points[2] += eye_depth - 84
    return points.astype(f32), (wide, high)


def splat(
    u: np.ndarray, v: np.ndarray, z: np.ndarray, colour: np.ndarray, size: int, near: float = 6.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draw N points at u, v px, z mm with colours (3, N).

    Returns the mask of what they cover (H, W), the share of it in pixels at its edge (H, W), the depth (H, W) in mm
    and the colour (3, H, W). Each point reaches the four pixels around it with bilinear weights; a pixel is the
    weighted mean of its points within `near` mm of the front-most one. A sparse matrix (pixels x points) sums all
    channels at once.
    """
    u, v = u - f32(0.5), v - f32(0.5)
    a, b = u.astype(np.int32), v.astype(np.int32)
    p, q = u - a, v - b
    cells = ((b * size + a)[:, None] + np.array([0, 1, size, size + 1], np.int32)).ravel()  # (4 N,)
    weights = np.stack([(1 - p) * (1 - q), p * (1 - q), (1 - p) * q, p * q], 1).ravel() + f32(1e-3)
    each_z = np.repeat(z, 4)
    weights *= each_z < front_most(cells, each_z, size * size)[cells] + f32(near)
    each = np.arange(0, 4 * len(z) + 1, 4, dtype=np.int32)
    scatter = csc_array((weights, cells, each), shape=(size * size, len(z)))
    sums = np.ascontiguousarray((scatter @ np.stack([np.ones_like(z), z, *colour], 1)).T)
    sums = sums.reshape(5, size, size)
    mask = sums[0] > 0
    share = blurred(mask.astype(f32), 1 / 3)
    rows, cols = np.nonzero(~mask & (share > 0.6))  # gaps between the points are filled from their neighbours
    for r, c in zip(rows, cols, strict=True):
        sums[:, r, c] = sums[:, max(0, r - 1) : r + 2, max(0, c - 1) : c + 2].sum((1, 2))
    mask[rows, cols] = True
    sums[1:] /= np.maximum(sums[0], f32(1e-9))
    return mask, np.minimum(share * f32(1.2), 1), sums[1], sums[2:]


def background(day: Sitting, shot: Shot, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The room behind the person: linear colour (3, H, W) and depth (H, W) mm; the camera moves within a sitting."""
    left, top = rng.random(2)
    line = np.linspace(0, 0.5, size, dtype=f32)
    field = smooth_field(day.wall_field, line + f32(top / 2), line + f32(left / 2))
    colour = day.wall[:, None, None] * np.maximum(f32(0.3), 1 + f32(0.22) * field)
    depth = f32(shot.distance + day.behind) + 40 * field
    for x0, x1, y0, y1, nearer, *paint in day.boxes:
        x0, x1, y0, y1 = (int(np.clip(q, 0, 1) * size) for q in (x0 - left, x1 - left, y0 - top, y1 - top))
        colour[:, y0:y1, x0:x1] = f32(paint)[:, None, None] * (1 + f32(0.12) * field[y0:y1, x0:x1])
        depth[y0:y1, x0:x1] = shot.distance + day.behind - nearer
    return colour, depth


def occlude(colour: np.ndarray, depth: np.ndarray, shot: Shot, rng: np.random.Generator) -> None:
    """Put a rounded object of the size `shot.occluded` 10 cm in front of the face, in place."""
    size, scale = len(depth), shot.focal * 150 / shot.distance
    aside = rng.choice([-1, 1]) * 0.35 + 0.3 * np.clip(rng.standard_normal(), -2, 2)
    below = 0.32 + 0.15 * np.clip(rng.standard_normal(), -2, 2)
    angle, paint = rng.uniform(0, np.pi), rng.uniform(0.05, 0.6) * rng.uniform(0.6, 1, (3, 1))
    y, x = np.mgrid[:size, :size].astype(f32)
    x, y = (x - shot.centre[0]) / scale - aside, (y - shot.centre[1]) / scale - below
    x, y = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    out = abs(x / (0.15 * shot.occluded)) ** 3 + abs(y / (0.34 * shot.occluded)) ** 3
    inside = out < 1
    colour[:, inside] = (paint * (1 - 0.6 * out[inside] ** 2)).astype(f32)
    depth[inside] = shot.distance - 130 + 25 * out[inside]


@lru_cache(maxsize=1)
def tone_curve() -> np.ndarray:
    """(2048,) grey levels, by sqrt(light / 4): the shoulder of Reinhard et al. 2002 (eq. 4), then gamma 2.2."""
    x = 4 * np.linspace(0, 1, 2048) ** 2
    return (np.clip(x * (1 + x / 4) / (1 + x) * 1.25, 0, 1) ** (1 / 2.2) * 255).astype(f32)


def photograph(colour: np.ndarray, mask: np.ndarray, knobs: Knobs, rng: np.random.Generator) -> np.ndarray:
    """The colour camera's picture, (H, W, 3) uint8, of linear colour (3, H, W).

    The steps are exposure (for the person, `mask`), white balance, blur, tone curve, noise and JPEG, in this order.
    """
    exposed = (0.45 / max(0.02, float(colour[1][mask].mean()))) ** 0.75 if mask.any() else 1
    balance = np.exp(np.clip(rng.standard_normal(4), -2, 2) * (0.04, 0.01, 0.05, 0.18) * min(1, knobs.drift))
    colour = colour * f32(exposed * balance[3] * balance[:3])[:, None, None]
    side = min(1 / 3, 0.5 * (knobs.blur * rng.uniform(0.6, 1.4)) ** 2)
    if side:
        colour = blurred(colour, side)
    index = np.minimum(np.sqrt(colour) * f32(0.5 * 2047), 2047).astype(np.intp)
    grey = tone_curve()[index]
    if knobs.noise:
        grey += white_noise(rng, grey.shape) * f32(knobs.noise * rng.uniform(0.4, 1.6))
    rgb = np.ascontiguousarray(np.clip(grey + f32(0.5), 0, 255).astype(np.uint8).transpose(1, 2, 0))
    if knobs.jpeg:
        buffer = io.BytesIO()
        Image.fromarray(rgb).save(buffer, "JPEG", quality=int(rng.integers(knobs.jpeg, 96)))
        rgb = np.array(Image.open(buffer))
    return rgb


def depth_readings(true_depth: np.ndarray, knobs: Knobs, rng: np.random.Generator) -> np.ndarray:
    """The readings of a depth camera with pixels of knobs.depth_pixel px: (H, W) uint16 mm, 0 = no reading.

    Axial noise grows with z^2 (Khoshelham and Elberink 2012, for the Kinect); a reading at an edge mixes both
    sides, and most readings there are lost.
    """
    size, depth = len(true_depth), true_depth.astype(f32)
    if knobs.depth_pixel == 2:
        even = np.pad(true_depth, [(0, size % 2)] * 2, "edge")
        blocks = [even[i::2, j::2] for i in (0, 1) for j in (0, 1)]
        depth = (blocks[0] + blocks[1] + blocks[2] + blocks[3]) * f32(0.25)
    down, across = np.gradient(depth)
    steep = down * down + across * across > 18**2
    depth += f32(knobs.depth_noise) * white_noise(rng, depth.shape) * (depth / 800) ** 2
    depth += f32(knobs.depth_warp) * smooth_picture(rng, len(depth), 5)
    if knobs.depth_step:
        depth = np.round(depth / f32(knobs.depth_step)) * f32(knobs.depth_step)
    if knobs.depth_holes:
        chance = rng.random(depth.shape, dtype=f32)
        lost = chance < np.where(steep, f32(0.7 * knobs.depth_holes), f32(0.01 * knobs.depth_holes))
        lost |= smooth_picture(rng, len(depth), 9) > 3.4 - 0.7 * knobs.depth_holes
        depth[lost] = 0
    depth = np.clip(np.round(depth), 0, 65535).astype(np.uint16)
    return np.repeat(np.repeat(depth, knobs.depth_pixel, 0), knobs.depth_pixel, 1)[:size, :size]


def lens_holes(
    depth: np.ndarray, lens: tuple[float, float], points: np.ndarray, shot: Shot, knobs: Knobs, rng: np.random.Generator
) -> None:
    """Set readings behind the lenses, which reflect the infrared light of the sensor, to 0, in place."""
    size, scale = len(depth), shot.focal / shot.distance
    y, x = np.mgrid[:size, :size].astype(f32)
    wide, high = lens[0] * scale * max(0.3, np.cos(np.radians(shot.angles[0]))), lens[1] * scale
    for px, py in points[:2]:
        behind = ((x - px) / wide) ** 2 + ((y - py) / high) ** 2 < 0.8
        lost = rng.random((size // 2 + 1, size // 2 + 1)) < 0.55 * knobs.depth_holes
        depth[behind & np.repeat(np.repeat(lost, 2, 0), 2, 1)[:size, :size]] = 0


def shot_of(seed: int, subject: int, image: int, knobs: Knobs) -> Shot:
    """The Shot of an image; it depends on the arguments alone."""
    return draw_shot(np.random.default_rng([seed, 3, subject, image]), knobs)


def describe_pair(
    seed: int, subject: int, image: int, knobs: Knobs, shot: Shot | None = None
) -> tuple[dict, Shot, np.ndarray]:
    """The row of an image in the manifest, its Shot and its landmarks (5, 2) px, without drawing the image.

    `shot` replaces the Shot that the image would have.
    """
    shot = shot or shot_of(seed, subject, image, knobs)
    _, surface = person(seed, subject, knobs)
    points, _ = true_landmarks(surface, shot, knobs)
    session, number = divmod(image, SESSION_SIZE)
    yaw = abs(shot.angles[0])
    moves = dict(zip(EXPRESSIONS, shot.moves[:4], strict=True))
    strongest = max(moves, key=lambda name: moves[name])
    expression = "open" if shot.moves[4] > 3 else strongest if moves[strongest] > 0.4 else "neutral"
    row = {
        "pair_id": f"p{subject:04d}/s{session + 1}_{number:03d}",
        "subject_id": f"p{subject:04d}",
        "session": f"s{session + 1}",
        **dict(zip(ANGLES, (round(a, 2) for a in shot.angles), strict=True)),
        "pose": "frontal" if yaw < 15 else "half" if yaw < 45 else "profile",
        "expression": expression,
        "light": "front" if abs(shot.key[0]) < 25 else "side",
        "occlusion": "thing" if shot.occluded else "none",
        "glasses": "yes" if shot.glasses else "no",
        **dict(zip(POINTS, (round(float(p), 2) for p in points.ravel()), strict=True)),
        "identity_seed": identity_seed(seed, subject),
    }
    return row, shot, points


def pair(seed: int, subject: int, image: int, knobs: Knobs | None = None, shot: Shot | None = None) -> SyntheticPair:
    """Image number `image` of person `subject`; it depends on the arguments alone.

    The image belongs to sitting number image // SESSION_SIZE. `shot` replaces the Shot that the image would have;
    everything else (person, sitting, room, noise) stays the same.
    """
    knobs = knobs or Knobs()
    row, shot, points = describe_pair(seed, subject, image, knobs, shot)
    day = sitting(seed, subject, image // SESSION_SIZE, knobs)
    rng = np.random.default_rng([seed, 4, subject, image])
    surface, normal, albedo = visible_surface(day, shot, knobs)
    colour = lit_colour(surface, normal, albedo, day, shot, knobs, rng)
    lens = None
    if shot.glasses:
        _, head_points = true_landmarks(person(seed, subject, knobs)[1], shot, knobs)
        frame, lens = spectacles(rng, head_points[2, :2].mean())
        tint = (rng.uniform(0.01, 0.2) * rng.uniform(0.5, 1, (3, 1))).astype(f32)
        surface = np.concatenate([surface, rotated(rotation(*shot.angles), frame)], 1)
        colour = np.concatenate([colour, np.broadcast_to(tint, frame.shape)], 1)
    u, v, z = project(surface, shot)
    if shot.glasses:
        inside = in_picture(u, v, knobs.size)
        u, v, z, colour = u[inside], v[inside], z[inside], colour[:, inside]
    mask, share, depth, colour = splat(u, v, z, colour, knobs.size)
    behind, far = background(day, shot, knobs.size, rng)
    share = share * mask
    colour = behind + share * (colour - behind)
    depth = np.where(mask, depth, far)
    if shot.occluded:
        occlude(colour, depth, shot, rng)
    rgb = photograph(colour, mask, knobs, rng)
    rng = np.random.default_rng([seed, 5, subject, image])
    readings = depth_readings(depth, knobs, rng)
    if lens and knobs.depth_holes:
        lens_holes(readings, lens, points, shot, knobs, rng)
    return SyntheticPair(rgb, readings, depth, mask, points, row)
