"""Synthetic RGB-D faces: the data set that needs no download, no licence and no person's consent.

An image is a point z-buffer of a lit head (heads.py) before a room, seen by a colour camera and a depth camera. Its
random stream is a function of (seed, subject, image), so it is the same whichever process makes it.
"""

import io
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image
from scipy.sparse import csc_array

from .people import (
    EXPRESSIONS,
    F,
    Knobs,
    blurred,
    identity_seed,
    person,
    ramp,
    sitting,
    smooth,
    smooth_square,
    template,
    white,
)

VERSION = 1  # raise when the same seed no longer gives the same pixels
CONDITIONS = ["pose", "expression", "light", "occlusion", "glasses"]
ANGLES = ["yaw_deg", "pitch_deg", "roll_deg"]
SESSION_SIZE = 1000  # image numbers 0-999 belong to sitting 1, 1000-1999 to sitting 2, and so on
POINTS = [f"{axis}{k}" for k in range(1, 6) for axis in "xy"]


@dataclass(frozen=True)
class SyntheticPair:
    """One picture, its sensor depth and the truth behind both."""

    rgb: np.ndarray  # (H, W, 3) uint8
    depth: np.ndarray  # (H, W) uint16 mm, larger = farther, 0 = no reading
    true_depth: np.ndarray  # (H, W) float32 mm, before the sensor
    mask: np.ndarray  # (H, W) bool, head and shoulders
    landmarks: np.ndarray  # (5, 2) float32 px: left eye, right eye, nose tip, mouth corners, in image order
    row: dict  # this pair's row of the manifest: COLUMNS


@dataclass(frozen=True)
class Shot:
    """What is drawn for one image before anything is rendered: enough for its row of the manifest."""

    angles: tuple  # degrees: yaw, pitch, roll
    moves: np.ndarray  # (5,) strengths: smile, brows, frown, pucker (1 = full), jaw (mm)
    distance: float  # mm from the camera to the origin of the head
    focal: float  # px
    centre: tuple  # px: where the origin of the head lies
    key: tuple  # degrees: azimuth and elevation of the key light
    glasses: bool
    occluded: bool
    mimic: np.ndarray | None = None  # (3, 16, 20) lattice of movements beyond `moves`, mm; None: there are none


def draw_shot(rng, knobs):
    """A Shot from the image's stream."""

    def normal(sd):
        return float(np.clip(rng.standard_normal(), -2, 2)) * sd

    angles = (normal(knobs.yaw), normal(knobs.pitch), normal(knobs.roll))
    smile = normal(0.6) + 0.7 * (rng.random() < 0.3)
    moves = np.maximum(0, [smile, normal(0.5), normal(0.5), normal(0.3), normal(7) - 3])
    distance = rng.uniform(650, 950)
    return Shot(
        angles=angles,
        moves=moves.astype(F) * F(knobs.expression),
        distance=distance,
        focal=knobs.face * knobs.size * distance / 150 * float(np.exp(normal(0.07))),
        centre=(knobs.size * (0.5 + normal(0.03)), knobs.size * (0.48 + normal(0.03))),
        key=(rng.uniform(-75, 75) * knobs.light, 35 + normal(20) * knobs.light),
        glasses=bool(rng.random() < knobs.glasses),
        occluded=bool(rng.random() < knobs.occlusion),
        mimic=knobs.mimic * rng.standard_normal((3, 16, 20)) if knobs.mimic else None,
    )


def mimicry(shot, head, rows, cols):
    """The displacement (3, rows, cols) mm by shot.mimic of the head's grid at these rows and columns."""
    soft = head.front * ramp(-112, -95, head.height) * ramp(70, 45, head.height)
    places = head.row_place[rows], head.col_place[cols]
    return soft[rows][:, cols] * np.stack([smooth(lattice, *places) for lattice in shot.mimic])


def rotation(yaw, pitch, roll):
    """The matrix (3, 3) that turns a head: yaw about y, then pitch about x, then roll about z (degrees)."""
    a, b, c = np.radians([yaw, pitch, roll])
    about_y = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return (about_z @ about_x @ about_y).astype(F)


def turned(matrix, points):
    """matrix (3, 3) times points (3, ...), written out: the same rounding on every number of threads."""
    return np.stack([facing(row, points) for row in matrix])


def project(points, shot):
    """Points (3, N) mm -> u, v in px (pixel centres at .5) and z mm, the distance along the camera's axis."""
    z = F(shot.distance) - points[2]
    scale = F(shot.focal) / z
    return points[0] * scale + F(shot.centre[0]), F(shot.centre[1]) - points[1] * scale, z


def in_picture(u, v, size):
    """Whether the four pixels around each point lie in the picture."""
    low, high = F(0.5), F(size - 0.5)
    return (u >= low) & (u < high) & (v >= low) & (v < high)


def true_landmarks(surface, shot, knobs):
    """The five points (5, 2) px of a surface (3, R, C) without hair, and their place on the head (3, 5)."""
    head = template(knobs.size)
    points = surface.reshape(3, -1)[:, head.marks] + head.mark_rest
    rows, cols = np.divmod(head.marks, surface.shape[2])
    for strength, move in zip(shot.moves, head.moves, strict=True):
        points = points + strength * move[:, rows - head.moving.start, cols]
    if shot.mimic is not None:
        points = points + mimicry(shot, head, rows, cols)[:, np.arange(5), np.arange(5)]
    u, v, _ = project(turned(rotation(*shot.angles), points), shot)
    return np.stack([u, v], 1) - F(0.5), points


def normals(surface):
    """Unit normals (3, R, C) of a surface by central differences; rows go down, columns right."""
    across, up = np.empty_like(surface), np.empty_like(surface)
    np.subtract(surface[:, :, 2:], surface[:, :, :-2], out=across[:, :, 1:-1])
    np.subtract(surface[:, :-2], surface[:, 2:], out=up[:, 1:-1])
    for edge, inner in ((0, 1), (-1, -2)):
        across[:, :, edge], up[:, edge] = across[:, :, inner], up[:, inner]
    (a, b, c), (d, e, f) = across, up
    n = np.stack([b * f - c * e, c * d - a * f, a * e - b * d])
    n /= np.sqrt(facing(n, n) + F(1e-12))
    return n


def direction(azimuth, elevation):
    """The unit vector (3,) towards a light at these degrees; azimuth > 0 is at the image's right."""
    a, b = np.radians([azimuth, elevation])
    return np.array([np.sin(a) * np.cos(b), np.sin(b), np.cos(a) * np.cos(b)], F)


def facing(a, b):
    """The scalar product over the first axis (3, ...), written out."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def ears(day, head, matrix, size):
    """Points, normals and albedo (3, n) of both ears, turned by `matrix`."""
    parts = []
    colour = day.albedo.reshape(3, -1)[:, head.cheek] * F([1.0, 0.86, 0.84])
    for side, anchor in zip((-1, 1), head.ears, strict=True):
        root = day.surface.reshape(3, -1)[:, anchor]
        axes = F([[side * 0.5, 0, side * 0.86], [0, 0.97, 0], [-0.86, -0.25, 0.5]])  # columns: back, up, out
        points = turned(matrix, turned(axes, head.ear[:3] * F(size)) + root[:, None, None])
        normal = normals(points) * F(side)
        parts.append((points, normal, colour[:, None, None] * head.ear[3]))
    return [np.concatenate([part[k].reshape(3, -1) for part in parts], 1) for k in range(3)]


def visible(day, shot, knobs):
    """Points, normals and albedo, (3, N) each, of what the camera can see of head, ears and shoulders."""
    head = template(knobs.size)
    yaw, pitch, roll = shot.angles
    margin = 100 + 1.5 * abs(pitch)  # degrees of azimuth that can face the camera
    ends = [-margin - max(yaw, 0.35 * yaw), margin - min(yaw, 0.35 * yaw)]
    cols = slice(*np.searchsorted(head.degrees[0], ends))
    surface = day.surface[:, :, cols].copy()
    for strength, move in zip(shot.moves, head.moves, strict=True):
        if strength > 0:
            surface[:, head.moving] += strength * move[:, :, cols]
    if shot.mimic is not None:
        surface[:, head.moving] += mimicry(shot, head, head.moving, cols)
    matrix = rotation(*shot.angles)
    points = turned(matrix, surface)
    shoulders = turned(rotation(0.35 * yaw, 0.2 * pitch, 0.2 * roll), surface[:, head.neck :])
    points[:, head.neck :] += head.neck_share * (shoulders - points[:, head.neck :])
    parts = [q.reshape(3, -1) for q in (points, normals(points), day.albedo[:, :, cols])]
    if day.ear_size:
        parts = [np.concatenate(q, 1) for q in zip(parts, ears(day, head, matrix, day.ear_size), strict=True)]
    points, normal, albedo = parts
    towards = normal[2] * F(shot.distance)
    towards -= facing(points, normal)
    keep = np.flatnonzero((towards > 0) & in_picture(*project(points, shot)[:2], knobs.size))
    return points[:, keep], normal[:, keep], albedo[:, keep]


def nearest(cells, z, n):
    """The smallest z of each of n cells (infinite where none), for points with cell numbers `cells`."""
    front = np.full(n, np.inf, F)
    np.minimum.at(front, cells, z)
    return front


def lit(points, normal, albedo, day, shot, knobs, rng):
    """Linear colour (3, N): key light with shadow, fill light, sky (Lambert) and highlight (Blinn 1977)."""
    key = direction(*shot.key)
    lamb = np.maximum(0, (facing(key, normal) + F(0.15)) / F(1.15))  # light seeps a little round the edge, as in skin
    if knobs.light:
        across = np.cross([0, 1, 0], key) / np.hypot(key[0], key[2])
        x, y, z = turned(np.stack([across, np.cross(key, across), -key]).astype(F), points)
        column, row = (np.clip((q + 240) * F(0.25), 0, 119).astype(np.intp) for q in (x, y))
        cell = row * 120 + column  # 4 mm wide, seen from the light
        lamb *= 1 - F(0.65) * ramp(13, 30, z - nearest(cell, z, 14400)[cell] - 25 * (1 - lamb))
    share = 0.5 + 0.3 * knobs.light * rng.random() * (1 - 0.5 * day.softness)
    side = direction(rng.uniform(-80, 80), 10)
    fill = np.maximum(0, facing(side, normal)) * F(0.35 * knobs.light * rng.random())
    sky = (F(0.72) + F(0.25) * normal[1] + F(0.15) * normal[2]) * F(1 - share) + fill
    half = key + F([0, 0, 1])
    half /= np.sqrt((half * half).sum())
    shine = np.maximum(0, facing(half, normal)) ** 2
    shine *= shine
    shine *= shine
    shine = shine * shine * lamb * F(rng.uniform(0.01, 0.07))
    lamb *= F(1.5 * share)
    return np.stack([a * (lamb * w + sky) + shine for a, w in zip(albedo, day.warmth, strict=True)])


def spectacles(rng, eye_depth):
    """Points (3, n) of a frame in head coordinates and the half width and half height of its lenses (mm)."""
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
    return points.astype(F), (wide, high)


def splat(u, v, z, colour, size, near=6.0):
    """Points -> (mask, share of head at its edge, depth mm (H, W), colour (3, H, W)).

    Each point reaches the four pixels around it with bilinear weights; a pixel is the weighted mean of the
    points within `near` mm of its front-most. A sparse matrix (pixels x points) sums all channels at once.
    """
    u, v = u - F(0.5), v - F(0.5)
    a, b = u.astype(np.int32), v.astype(np.int32)
    p, q = u - a, v - b
    cells = ((b * size + a)[:, None] + np.array([0, 1, size, size + 1], np.int32)).ravel()  # (4 N,)
    weights = np.stack([(1 - p) * (1 - q), p * (1 - q), (1 - p) * q, p * q], 1).ravel() + F(1e-3)
    each_z = np.repeat(z, 4)
    weights *= each_z < nearest(cells, each_z, size * size)[cells] + F(near)
    each = np.arange(0, 4 * len(z) + 1, 4, dtype=np.int32)
    scatter = csc_array((weights, cells, each), shape=(size * size, len(z)))
    sums = np.ascontiguousarray((scatter @ np.stack([np.ones_like(z), z, *colour], 1)).T)
    sums = sums.reshape(5, size, size)
    mask = sums[0] > 0
    share = blurred(mask.astype(F), 1 / 3)
    rows, cols = np.nonzero(~mask & (share > 0.6))  # gaps between the points take what is around them
    for r, c in zip(rows, cols, strict=True):
        sums[:, r, c] = sums[:, max(0, r - 1) : r + 2, max(0, c - 1) : c + 2].sum((1, 2))
    mask[rows, cols] = True
    sums[1:] /= np.maximum(sums[0], F(1e-9))
    return mask, np.minimum(share * F(1.2), 1), sums[1], sums[2:]


def room(day, shot, size, rng):
    """The background: linear colour (3, H, W) and depth (H, W) mm; the camera moves within a sitting."""
    left, top = rng.random(2)
    line = np.linspace(0, 0.5, size, dtype=F)
    field = smooth(day.wall_field, line + F(top / 2), line + F(left / 2))
    colour = day.wall[:, None, None] * np.maximum(F(0.3), 1 + F(0.22) * field)
    depth = F(shot.distance + day.behind) + 40 * field
    for x0, x1, y0, y1, nearer, *paint in day.boxes:
        x0, x1, y0, y1 = (int(np.clip(q, 0, 1) * size) for q in (x0 - left, x1 - left, y0 - top, y1 - top))
        colour[:, y0:y1, x0:x1] = F(paint)[:, None, None] * (1 + F(0.12) * field[y0:y1, x0:x1])
        depth[y0:y1, x0:x1] = shot.distance + day.behind - nearer
    return colour, depth


def occlude(colour, depth, shot, rng):
    """Put a rounded, hand-sized thing 10 cm before the face, in place."""
    size, scale = len(depth), shot.focal * 150 / shot.distance
    aside = rng.choice([-1, 1]) * 0.35 + 0.3 * np.clip(rng.standard_normal(), -2, 2)
    below = 0.32 + 0.15 * np.clip(rng.standard_normal(), -2, 2)
    angle, paint = rng.uniform(0, np.pi), rng.uniform(0.05, 0.6) * rng.uniform(0.6, 1, (3, 1))
    y, x = np.mgrid[:size, :size].astype(F)
    x, y = (x - shot.centre[0]) / scale - aside, (y - shot.centre[1]) / scale - below
    x, y = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    out = abs(x / 0.15) ** 3 + abs(y / 0.34) ** 3
    inside = out < 1
    colour[:, inside] = (paint * (1 - 0.6 * out[inside] ** 2)).astype(F)
    depth[inside] = shot.distance - 130 + 25 * out[inside]


@lru_cache(maxsize=1)
def tone_curve():
    """Grey level of sqrt(light / 4) in 2048 steps: shoulder of Reinhard et al. 2002 (eq. 4), gamma 2.2."""
    x = 4 * np.linspace(0, 1, 2048) ** 2
    return (np.clip(x * (1 + x / 4) / (1 + x) * 1.25, 0, 1) ** (1 / 2.2) * 255).astype(F)


def photographed(colour, mask, knobs, rng):
    """Linear colour (3, H, W) -> uint8 (H, W, 3): exposure and white balance, blur, tone, noise, JPEG."""
    exposed = (0.45 / max(0.02, float(colour[1][mask].mean()))) ** 0.75 if mask.any() else 1
    balance = np.exp(np.clip(rng.standard_normal(4), -2, 2) * (0.04, 0.01, 0.05, 0.18) * min(1, knobs.drift))
    colour = colour * F(exposed * balance[3] * balance[:3])[:, None, None]
    side = min(1 / 3, 0.5 * (knobs.blur * rng.uniform(0.6, 1.4)) ** 2)
    if side:
        colour = blurred(colour, side)
    index = np.minimum(np.sqrt(colour) * F(0.5 * 2047), 2047).astype(np.intp)
    grey = tone_curve()[index]
    if knobs.noise:
        grey += white(rng, grey.shape) * F(knobs.noise * rng.uniform(0.4, 1.6))
    rgb = np.ascontiguousarray(np.clip(grey + F(0.5), 0, 255).astype(np.uint8).transpose(1, 2, 0))
    if knobs.jpeg:
        buffer = io.BytesIO()
        Image.fromarray(rgb).save(buffer, "JPEG", quality=int(rng.integers(knobs.jpeg, 96)))
        rgb = np.array(Image.open(buffer))
    return rgb


def sensed(true_depth, knobs, rng):
    """What a depth camera with pixels of knobs.depth_pixel px reads: (H, W) uint16 mm, 0 = no reading.

    Axial noise grows with z^2 (Khoshelham and Elberink 2012, for the Kinect); a reading at an edge mixes both
    sides, and most of those are lost.
    """
    size, depth = len(true_depth), true_depth.astype(F)
    if knobs.depth_pixel == 2:
        even = np.pad(true_depth, [(0, size % 2)] * 2, "edge")
        blocks = [even[i::2, j::2] for i in (0, 1) for j in (0, 1)]
        depth = (blocks[0] + blocks[1] + blocks[2] + blocks[3]) * F(0.25)
    down, across = np.gradient(depth)
    steep = down * down + across * across > 18**2
    depth += F(knobs.depth_noise) * white(rng, depth.shape) * (depth / 800) ** 2
    depth += F(knobs.depth_warp) * smooth_square(rng, len(depth), 5)
    if knobs.depth_step:
        depth = np.round(depth / F(knobs.depth_step)) * F(knobs.depth_step)
    if knobs.depth_holes:
        chance = rng.random(depth.shape, dtype=F)
        lost = chance < np.where(steep, F(0.7 * knobs.depth_holes), F(0.01 * knobs.depth_holes))
        lost |= smooth_square(rng, len(depth), 9) > 3.4 - 0.7 * knobs.depth_holes
        depth[lost] = 0
    depth = np.clip(np.round(depth), 0, 65535).astype(np.uint16)
    return np.repeat(np.repeat(depth, knobs.depth_pixel, 0), knobs.depth_pixel, 1)[:size, :size]


def lens_holes(depth, lens, points, shot, knobs, rng):
    """Lose readings behind the lenses, which reflect the sensor's infrared light; in place."""
    size, scale = len(depth), shot.focal / shot.distance
    y, x = np.mgrid[:size, :size].astype(F)
    wide, high = lens[0] * scale * max(0.3, np.cos(np.radians(shot.angles[0]))), lens[1] * scale
    for px, py in points[:2]:
        behind = ((x - px) / wide) ** 2 + ((y - py) / high) ** 2 < 0.8
        lost = rng.random((size // 2 + 1, size // 2 + 1)) < 0.55 * knobs.depth_holes
        depth[behind & np.repeat(np.repeat(lost, 2, 0), 2, 1)[:size, :size]] = 0


def describe(seed, subject, image, knobs):
    """(row of the manifest, Shot, landmarks (5, 2)) of an image, without rendering it."""
    shot = draw_shot(np.random.default_rng([seed, 3, subject, image]), knobs)
    _, surface = person(seed, subject, knobs)
    points, _ = true_landmarks(surface, shot, knobs)
    session, number = divmod(image, SESSION_SIZE)
    yaw = abs(shot.angles[0])
    moves = dict(zip(EXPRESSIONS, shot.moves[:4], strict=True))
    strongest = max(moves, key=moves.get)
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


def pair(seed, subject, image, knobs=None) -> SyntheticPair:
    """Image number `image` of person `subject` (SESSION_SIZE: of which sitting); a pure function."""
    knobs = knobs or Knobs()
    row, shot, points = describe(seed, subject, image, knobs)
    day = sitting(seed, subject, image // SESSION_SIZE, knobs)
    rng = np.random.default_rng([seed, 4, subject, image])
    surface, normal, albedo = visible(day, shot, knobs)
    colour = lit(surface, normal, albedo, day, shot, knobs, rng)
    lens = None
    if shot.glasses:
        _, head_points = true_landmarks(person(seed, subject, knobs)[1], shot, knobs)
        frame, lens = spectacles(rng, head_points[2, :2].mean())
        tint = (rng.uniform(0.01, 0.2) * rng.uniform(0.5, 1, (3, 1))).astype(F)
        surface = np.concatenate([surface, turned(rotation(*shot.angles), frame)], 1)
        colour = np.concatenate([colour, np.broadcast_to(tint, frame.shape)], 1)
    u, v, z = project(surface, shot)
    if shot.glasses:
        inside = in_picture(u, v, knobs.size)
        u, v, z, colour = u[inside], v[inside], z[inside], colour[:, inside]
    mask, share, depth, colour = splat(u, v, z, colour, knobs.size)
    behind, far = room(day, shot, knobs.size, rng)
    share = share * mask
    colour = behind + share * (colour - behind)
    depth = np.where(mask, depth, far)
    if shot.occluded:
        occlude(colour, depth, shot, rng)
    rgb = photographed(colour, mask, knobs, rng)
    rng = np.random.default_rng([seed, 5, subject, image])
    readings = sensed(depth, knobs, rng)
    if lens and knobs.depth_holes:
        lens_holes(readings, lens, points, shot, knobs, rng)
    return SyntheticPair(rgb, readings, depth, mask, points, row)
