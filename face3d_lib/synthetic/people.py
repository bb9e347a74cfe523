"""Synthetic people: heads, skin, eyes and hair as surfaces in millimetres, and what changes between two sittings.

A head is one surface grid: x to the image's right, y up, z to the camera; rows run from the vertex over forehead
and chin to the shoulders, columns around the head. Everything is linear on it: a template, plus bumps whose heights
are the person's, plus a smooth field; colour is painted on the same undeformed grid, so that it follows shape and
expression.

Random streams are functions of numbers alone: the person (seed, subject), the sitting (seed, subject, session). So a
finer grid shows the same people. Sums are written out, not given to BLAS: its rounding may change with its threads.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

F = np.float32


@dataclass(frozen=True)
class Knobs:
    """How difficult the pictures are. 0 switches an effect off (but for size and face)."""

    size: int = 160  # px, width and height of a picture; above 160 the surface grid becomes finer
    face: float = 0.5  # width of the head / width of the picture, on average
    yaw: float = 25.0  # degrees, standard deviation, cut at 2 sd; > 0 turns the nose to the image's right
    pitch: float = 8.0  # degrees, the same; > 0 looks down
    roll: float = 6.0  # degrees, the same; > 0 is counter-clockwise in the image
    shape: float = 1.0  # how much people differ in shape, in standard deviations of the table BUMPS
    albedo: float = 1.0  # how much people differ in colour, brows, lips and eyes (1: as the formulas say)
    drift: float = 1.0  # how much a person changes between sittings: tan, make-up, dye, beard, shirt, room
    light: float = 1.0  # 0: soft light from the front; 1: key light up to 75 degrees aside, with cast shadow
    expression: float = 1.0  # strength of smile, brows, frown, pucker and opened jaw
    glasses: float = 0.15  # probability per image
    occlusion: float = 0.10  # probability per image of a hand-sized thing before the face
    blur: float = 0.6  # px, standard deviation of the lens blur, up to 0.8
    noise: float = 3.0  # grey levels of 255, standard deviation of the colour camera's noise
    jpeg: int = 60  # lowest JPEG quality (drawn from it to 95) that a picture went through; 0: none
    depth_noise: float = 3.0  # mm, standard deviation at 800 mm; grows with the square of the distance
    depth_warp: float = 3.0  # mm, standard deviation of the smooth error (calibration, multipath)
    depth_step: float = 2.0  # mm, quantisation
    depth_holes: float = 1.0  # 1: 70 % of the readings at steep edges lost, 1 % elsewhere, patches, lenses
    depth_pixel: int = 2  # px of the picture, width of one pixel of the depth camera: 1 or 2
    relief: float = 1.0  # how deep the average face is cut (nose, sockets, lips; 1: as the table BUMPS says)
    variety: float = 0.0  # mm, smooth differences between people beyond BUMPS, and % of their heads' proportions
    mimic: float = 0.0  # mm, smooth movements of the face beyond EXPRESSIONS, drawn for each image


def gauss(x, y, cx, cy, sx, sy):
    """A Gaussian bump of height 1 that falls to 1/e at sx, sy."""
    return np.exp(-(((x - cx) / F(sx)) ** 2) - ((y - cy) / F(sy)) ** 2)


def ramp(a, b, x):
    """0 at a, 1 at b (a may be the larger), a smooth cubic between."""
    t = np.clip((x - F(a)) / F(b - a), 0, 1)
    return t * t * (3 - 2 * t)


def between(stops, t):
    """The colour (3,) at t in 0..1 on a ramp through equally spaced colours."""
    stops = np.array(stops, F)
    return np.array([np.interp(t, np.linspace(0, 1, len(stops)), channel) for channel in stops.T], F)


def smooth(lattice, rows, cols):
    """A smooth field (rows, cols), about N(0, 1): normal draws on a lattice, read at positions 0..1."""

    def taps(position, n):
        place = np.asarray(position, F) * F(n - 2)
        cell = place.astype(np.intp)
        part = place - cell
        return cell, part * part * (3 - 2 * part)

    (i, a), (j, b) = taps(rows, lattice.shape[0]), taps(cols, lattice.shape[1])
    lattice = lattice.astype(F) * F(1.5)
    lines = (lattice[i] * (1 - a)[:, None] + lattice[i + 1] * a[:, None]).T
    return (lines[j] * (1 - b)[:, None] + lines[j + 1] * b[:, None]).T


def smooth_square(rng, size, cells):
    """`smooth` over a picture of size x size with cells x cells lattice cells."""
    place = np.linspace(0, 1, size, dtype=F)
    return smooth(rng.standard_normal((cells + 2, cells + 2)), place, place)


def blurred(a, side):
    """A 3-tap blur over the last two axes with side weight `side` (1/3: box), variance 2 * side px^2."""
    side = F(side)
    for cut in (lambda q, part: q[..., part], lambda q, part: q[..., part, :]):
        out, sides = a * (1 - 2 * side), a * side
        cut(out, slice(1, None))[...] += cut(sides, slice(None, -1))
        cut(out, slice(None, -1))[...] += cut(sides, slice(1, None))
        cut(out, 0)[...] += cut(sides, 0)
        cut(out, -1)[...] += cut(sides, -1)
        a = out
    return a


@lru_cache(maxsize=1)
def noise_table():
    """2^18 normal draws, always the same."""
    return np.random.default_rng(20190615).standard_normal(1 << 18, dtype=F)


def white(rng, shape):
    """Normal noise, read from a random place of a fixed table: six times cheaper than drawing it."""
    return np.resize(noise_table()[rng.integers(0, 1 << 17) :][: np.prod(shape)], shape)


# fmt: off
PROFILE = np.array([  # mm: height y, front z, half width, back z; an average adult head, drawn by hand
    (122, -8, 1, -11), (120, 8, 15, -28), (114, 34, 36, -58), (101, 59, 56, -85), (80, 76, 69, -99),
    (55, 84, 74, -102), (28, 86, 75, -98), (0, 84, 73, -90), (-25, 83, 71, -78), (-50, 83, 67, -68),
    (-75, 82, 60, -62), (-93, 79, 50, -58), (-106, 70, 41, -55), (-112, 50, 42, -53), (-118, 24, 48, -53),
    (-140, 14, 53, -56), (-160, 20, 72, -64), (-182, 34, 128, -74), (-215, 44, 185, -84)], float)
BUMPS = [  # name, centre x y, width x y, direction x y z, mean, sd of the height (mm); x > 0: a mirrored pair
    ("brow", 24, 27, 22, 8, 0, 0, 1, 4.0, 1.8), ("glabella", 0, 24, 12, 10, 0, 0, 1, 1.5, 1.5),
    ("socket", 31, 13, 16, 12, 0, 0, 1, -9.0, 1.8), ("eyeball", 32, 12, 12, 8, 0, 0, 1, 5.0, 0.8),
    ("bridge", 0, 4, 9, 17, 0, 0, 1, 9.0, 2.2), ("dorsum", 0, -15, 11, 13, 0, 0, 1, 9.0, 2.2),
    ("tip", 0, -31, 13, 9, 0, 0, 1, 15.0, 2.4), ("ala", 14, -36, 7.5, 7, 0, 0, 1, 8.0, 1.5),
    ("subnasal", 0, -46, 13, 4, 0, 0, 1, -3.0, 0.8), ("cheekbone", 44, -8, 19, 15, 0, 0, 1, 4.0, 2.4),
    ("cheek", 40, -45, 20, 22, 0, 0, 1, -2.0, 3.0), ("fold", 27, -52, 6, 13, 0, 0, 1, -1.5, 0.8),
    ("muzzle", 0, -60, 26, 20, 0, 0, 1, 4.0, 1.8), ("upperlip", 0, -60, 20, 4, 0, 0, 1, 3.5, 1.0),
    ("lowerlip", 0, -70, 18, 5, 0, 0, 1, 4.0, 1.0), ("seam", 0, -65, 15, 2, 0, 0, 1, -2.5, 0.3),
    ("sulcus", 0, -82, 18, 6, 0, 0, 1, -3.5, 1.3), ("chin", 0, -97, 17, 12, 0, 0, 1, 6.0, 2.4),
    ("temple", 62, 36, 14, 22, 0, 0, 1, -3.0, 2.0), ("forehead", 0, 60, 45, 22, 0, 0, 1, 0.0, 2.5),
    ("eyegap", 32, 14, 22, 18, 1, 0, 0, 0.0, 2.0), ("eyeheight", 32, 14, 26, 16, 0, 1, 0, 0.0, 2.0),
    ("browlift", 28, 29, 26, 9, 0, 1, 0, 0.0, 1.6), ("eyetilt", 44, 13, 10, 10, 0, 1, 0, 0.0, 1.2),
    ("nosewide", 11, -33, 9, 12, 1, 0, 0, 0.0, 1.4), ("noselong", 0, -33, 20, 14, 0, 1, 0, 3.0, 2.4),
    ("mouthwide", 20, -65, 14, 14, 1, 0, 0, 0.0, 2.0), ("mouthhigh", 0, -65, 30, 14, 0, 1, 0, 3.5, 2.0),
    ("chinlong", 0, -102, 40, 26, 0, 1, 0, 2.5, 4.0), ("lipfull", 0, -57, 22, 5, 0, 1, 0, 0.0, 0.9),
    ("jawwide", 58, -70, 26, 28, 1, 0, 0, 0.0, 4.0), ("facewide", 66, 0, 34, 50, 1, 0, 0, 0.0, 3.5),
    ("crownhigh", 0, 105, 80, 40, 0, 1, 0, 0.0, 4.0), ("jawback", 55, -75, 25, 22, 0, 0, 1, 0.0, 4.0),
    ("skewnose", 0, -28, 14, 16, 1, 0, 0, 0.0, 0.9), ("skewchin", 0, -95, 30, 20, 1, 0, 0, 0.0, 1.2)]
EXPRESSIONS = {  # bumps that move together: centre x y, width x y, displacement x y z (mm at strength 1)
    "smile": [(23, -65, 10, 10, 4, 5, -2), (38, -30, 16, 14, 1, 2, 4), (27, -52, 7, 12, 0, 0, -1.5)],
    "brows": [(28, 30, 24, 12, 0, 5, 0)],
    "frown": [(14, 26, 10, 10, -3, -4, 1), (23, -66, 10, 9, 0, -3, 0)],
    "pucker": [(18, -65, 13, 13, -5, 0, 3), (0, -65, 12, 10, 0, 0, 3)]}
LANDMARKS = [(-32, 12), (32, 12), (0, -31), (-24, -65), (24, -65)]  # mm on the template, in image order
SKIN = [(.94, .78, .69), (.87, .67, .55), (.72, .51, .39), (.43, .29, .22)]  # sRGB, light to dark
IRIS = [(.20, .11, .06), (.33, .20, .10), (.34, .38, .22), (.35, .47, .58)]
HAIR = [(.07, .05, .05), (.17, .11, .08), (.38, .25, .15), (.66, .50, .31)]
TONES = ["skin", "redness", "flush", "bags", "lips", "lip_red", "lip_wide", "upper_lip", "lower_lip", "iris",
         "eye_long", "eye_high", "eye_low", "eye_tilt", "hair", "brow_arch", "brow_thick", "brow_low",
         "brow_dense", "hairline", "widow", "ear", "moles", "beard"]
# fmt: on
NECK_TOP, NECK_END = -112, -165  # mm: between them the head's turn fades to that of the shoulders


class Template:
    """The mean head on its grid of R rows and C columns, and every bump that can deform it."""

    def __init__(self, grain=1.0):
        line = np.stack([np.interp(np.linspace(0, 18, 4000), np.arange(19), column) for column in PROFILE.T])
        kernel = np.hanning(361)
        line = np.stack([np.convolve(np.pad(q, 180, "edge"), kernel / kernel.sum(), "valid") for q in line])
        # rows are dense where there is much to see, most of all in the seam of the lips, which can open
        high = line[0, 1:]
        dense = 0.42 + 0.25 * ((high < 45) & (high > -120)) + 0.2 * gauss(high, 0, 12, 0, 16, 1)
        dense += 7 * np.exp(-(((high + 65) / 1.0) ** 2))
        arc = np.r_[0, np.cumsum(dense * np.hypot(*np.diff(line[:2])))]
        marks = np.linspace(0, arc[-1], round(0.84 * arc[-1] * grain))
        y, front, wide, back = (np.interp(marks, arc, q).astype(F)[:, None] for q in line)  # (R, 1) each
        s = np.linspace(-1, 1, round(172 * grain), dtype=F)
        azimuth = np.radians(F(172)) * (F(0.7) * s + F(0.3) * s**3)  # (C,), denser in front
        c = np.cos(azimuth)
        centre = np.clip(front - 85, -40, 0)
        rise = 38 * ramp(0.1, 1.1, 1 - c) * gauss(y, 0, -103, 0, 24, 1)  # the jaw line rises towards the ear
        self.x = wide * np.sin(azimuth)
        self.y = y + rise
        self.z = np.where(c > 0, centre + (front - centre) * c, centre + (centre - back) * c)
        self.base = np.stack([self.x, self.y, self.z])  # (3, R, C)
        self.height = y + 0 * self.x  # (R, C) mm, before the jaw line
        self.degrees = np.degrees(azimuth) + 0 * self.x  # (R, C) 0 = front, > 0 image right
        self.front = ramp(-0.1, 0.35, c) + 0 * self.x
        self.row_place = ((122 - y[:, 0]) / F(337)).clip(0, 1)  # positions 0..1 for smooth(): mm and degrees,
        self.col_place = (azimuth / np.radians(F(344)) + F(0.5)).clip(0, 1)  # so that fields ignore the grid
        self.means = np.array([b[8] for b in BUMPS], F)
        self.sds = np.array([b[9] for b in BUMPS], F)
        self.bumps = np.stack([self.bump(*b[1:8]) for b in BUMPS])  # (K, 3, R, C)
        self.moving = slice(*np.searchsorted(-y[:, 0], [-70, 155]))  # rows that expressions move
        moves = [sum(self.bump(*part) for part in parts) for parts in EXPRESSIONS.values()]
        self.moves = np.stack([*moves, self.jaw()])[:, :, self.moving]  # (5, 3, rows, C)
        self.neck = int(np.searchsorted(-y[:, 0], -NECK_TOP))
        self.neck_share = ramp(NECK_TOP, NECK_END, y[self.neck :])  # (rows, 1)
        far = [(self.x - a) ** 2 + (self.y - b) ** 2 + 1e6 * (self.front < 0.5) for a, b in LANDMARKS]
        self.marks = np.array([int(q.argmin()) for q in far])  # vertex next to each landmark, (5,)
        places = np.array([(*p, 0) for p in LANDMARKS], F).T
        self.mark_rest = places - self.base.reshape(3, -1)[:, self.marks] * F([[1], [1], [0]])
        self.ears, self.cheek = (self.vertex(-86, -2), self.vertex(86, -2)), self.vertex(50, -20)
        self.ear = ear_patch(grain)

    def vertex(self, degrees, height):
        """The flat index of the vertex nearest to an azimuth and height."""
        return int(((self.degrees - degrees) ** 2 + (self.height - height) ** 2).argmin())

    def bump(self, cx, cy, sx, sy, dx, dy, dz):
        """The displacement field (3, R, C) of one bump, or of a mirrored pair where cx > 0."""
        right = gauss(self.x, self.y, cx, cy, sx, sy) * self.front
        left = gauss(self.x, self.y, -cx, cy, sx, sy) * self.front if cx > 0 else 0 * right
        return np.stack([(right - left) * F(dx), (right + left) * F(dy), (right + left) * F(dz)])

    def jaw(self):
        """The displacement (3, R, C) of a jaw opened by 1 mm: a seam between the lips, smooth beside."""
        soft = F(0.35) + 18 * ramp(7, 46, abs(self.x))
        low = 1 / (1 + np.exp(np.clip((self.y + 65) / soft, -30, 30)))
        low *= ramp(75, 25, abs(self.degrees)) * ramp(-150, -112, self.height)
        inner = gauss(self.x, self.y, 0, -65, 15, 1.1) * self.front
        return np.stack([0 * low, -low, F(-0.25) * low - F(0.7) * inner])


def ear_patch(grain):
    """One ear of half height 1 on a polar grid: back, up, out and shading, (4, rings, spokes)."""
    r = np.linspace(0.06, 1, round(13 * grain), dtype=F)[:, None]
    t = np.linspace(0, 2 * np.pi, round(52 * grain), dtype=F)
    back, up = 0.40 + 0.5 * r * np.cos(t) * (1 + 0.22 * np.sin(t)), r * np.sin(t)
    behind = ramp(-0.9, 0.1, np.cos(t))
    rim = gauss(r, 0, 0.86, 0, 0.13, 1) * behind * 0.13 + gauss(r, 0, 0.5, 0, 0.14, 1) * behind * 0.06
    hollow = gauss(back, up, 0.30, -0.12, 0.2, 0.3)
    out = 0.13 + rim - 0.14 * hollow - 0.1 * ramp(0.9, 1, r)
    return np.stack([back, up, out, 0.98 - 0.45 * hollow + 0.2 * rim])


@lru_cache(maxsize=2)
def template(size=160):
    """The template head for pictures of `size` px, made once per process; above 160 px its grid is finer."""
    return Template(max(1.0, size / 160))


@dataclass(frozen=True)
class Identity:
    """What makes a person: every random number of it, drawn from the person's own stream."""

    shape: np.ndarray  # (K,) heights of BUMPS in standard deviations
    scale: float  # size of the head, 1 = average
    field: np.ndarray  # (16, 12) lattice of the smooth part of the shape
    tone: dict  # TONES -> standard deviations
    style: np.ndarray  # (6,) uniform: hair length, bald, grey, grey level, volume, beard
    moles: np.ndarray  # (8, 2) mm
    texture: np.ndarray  # (22, 18) lattice of the skin
    strands: np.ndarray  # (14, 122) lattice of the hair


def identity_seed(seed, subject):
    """The number (63 bit) that alone determines a person."""
    return int(np.random.SeedSequence([seed, 1, subject]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def draw_identity(number, knobs):
    """The Identity of an identity_seed: N(0, 1) cut at 2.5 (shape) or 2 (tone) sd, times the knobs."""
    rng = np.random.default_rng(number)
    return Identity(
        shape=np.clip(rng.standard_normal(len(BUMPS)), -2.5, 2.5).astype(F) * F(knobs.shape),
        scale=float(1 + 0.03 * knobs.shape * np.clip(rng.standard_normal(), -2, 2)),
        field=rng.standard_normal((16, 12)) * knobs.shape,
        tone=dict(zip(TONES, np.clip(rng.standard_normal(len(TONES)), -2, 2) * knobs.albedo, strict=True)),
        style=0.5 + (rng.random(6) - 0.5) * min(1, knobs.albedo),
        moles=rng.uniform((-55, -95), (55, 60), (8, 2)),
        texture=rng.standard_normal((22, 18)) * knobs.albedo,
        strands=rng.standard_normal((14, 122)) * min(1, knobs.albedo),
    )


@lru_cache(maxsize=4)
def person(seed, subject, knobs):
    """(Identity, its surface without hair (3, R, C) float32 mm)."""
    who = draw_identity(identity_seed(seed, subject), knobs)
    head = template(knobs.size)
    surface = head.base.copy()
    for height, bump in zip(head.means * F(knobs.relief) + head.sds * who.shape, head.bumps, strict=True):
        surface += height * bump
    soft = smooth(who.field, head.row_place, head.col_place)
    surface[2] += F(0.9) * soft * head.front * ramp(-112, -95, head.height)
    if knobs.variety:
        vary(surface, head, np.random.default_rng([seed, 6, subject]), knobs.variety)
    return who, surface * F(who.scale)


def vary(surface, head, rng, mm):
    """Give a surface (3, R, C) differences that no bump names, in place: waves 60, 25 and 12 mm long.

    Faces are mostly, not wholly, symmetric: every wave is a symmetric one and a weaker one without symmetry.
    """
    proportions = 1 + 0.01 * mm * np.clip(rng.standard_normal(3), -2, 2)
    shade = head.front * ramp(-112, -95, head.height)
    for rows, cols, heights in [(8, 10, (1.0, 1.0, 1.2)), (16, 20, (0.3, 0.3, 0.6)), (32, 40, (0, 0, 0.2))]:
        for axis, height in enumerate(heights):
            if height:
                wave = smooth(rng.standard_normal((rows, cols)), head.row_place, head.col_place)
                mirrored = wave[:, ::-1] * F(-1 if axis == 0 else 1)
                surface[axis] += F(height * mm) * shade * (F(0.8) * wave + F(0.6) * mirrored)
    surface *= proportions.astype(F)[:, None, None]


@dataclass(frozen=True)
class Sitting:
    """A person on one day: surface with hair, linear albedo, the room and its light."""

    surface: np.ndarray  # (3, R, C) float32 mm
    albedo: np.ndarray  # (3, R, C) float32, linear
    ear_size: float  # mm, half the height; 0: under the hair
    wall: np.ndarray  # (3,) linear colour behind the person
    wall_field: np.ndarray  # lattice of the wall's light
    behind: float  # mm from the head's origin to the wall
    boxes: np.ndarray  # (n, 8): left, right, top, bottom (pictures), nearer (mm), colour
    warmth: np.ndarray  # (3,) colour of the key light
    softness: float  # 0..1, how much of the light has no direction


class Paint:
    """An sRGB image (3, R, C) on the grid, with the two strokes that painting needs."""

    def __init__(self, colour, shape):
        self.image = np.empty((3, *shape), F)
        self.image[:] = np.asarray(colour, F)[:, None, None]

    def cover(self, mask, colour, strength=1.0):
        """Lay `colour` over the mask."""
        share = np.clip(mask, 0, 1) * F(strength)
        for channel, value in zip(self.image, colour, strict=True):
            channel += share * (F(value) - channel)

    def shade(self, mask, factor):
        """Multiply by `factor` (3,) under the mask."""
        mask = np.clip(mask, 0, 1)
        for channel, value in zip(self.image, factor, strict=True):
            channel *= 1 - mask * F(1 - value)


def paint_skin(paint, head, who, beard, rouge):
    """Skin, its shadows in folds that the grid is too coarse for, and lips."""
    x, y, t, ax, f = head.x, head.y, who.tone, abs(head.x), head.front
    paint.image *= 1 + F(0.03) * smooth(who.texture, head.row_place, head.col_place)
    paint.shade(gauss(ax, y, 42, -22, 20, 18) * f * (0.45 + 0.2 * t["flush"] + rouge[1]), (1.0, 0.82, 0.82))
    stubble = ramp(-36, -58, y + 0.25 * ax) * ramp(-116, -106, head.height)
    paint.shade(stubble * ramp(0, 12, abs(y + 65) + ax / 3) * f * beard, (0.50, 0.50, 0.53))
    for k in range(min(8, round(abs(2 * t["moles"])))):
        paint.shade(gauss(x, y, *who.moles[k], 1.4, 1.4) * f, (0.45, 0.38, 0.35))
    for mask, factor in [
        (gauss(ax, y, 30, 18, 17, 9) * 0.5, (0.74, 0.64, 0.62)),  # sockets
        (gauss(ax, y, 31, 1, 13, 5) * (0.35 + 0.12 * t["bags"]), (0.78, 0.68, 0.70)),  # bags
        (gauss(ax, y, 17, -36, 2.5, 6) * 0.5, (0.65, 0.55, 0.52)),  # beside the nose
        (gauss(ax, y, 26, -52, 3, 11) * 0.25, (0.70, 0.60, 0.58)),  # nasolabial fold
        (gauss(ax, y, 7.0, -41.5, 3.4, 1.8) * 1.1, (0.30, 0.19, 0.16)),  # nostrils
        (gauss(x, y, 0, -79, 16, 3.5) * 0.35, (0.75, 0.66, 0.64)),  # under the lip
        (gauss(x, y, 0, -110, 60, 9) * 0.5, (0.60, 0.54, 0.54)),  # under the chin
    ]:
        paint.shade(mask * f, factor)
    skin = paint.image[:, head.moving.start, head.x.shape[1] // 2]
    lip = skin * F([0.90, 0.60, 0.60]) * (1 + 0.08 * t["lips"]) + F([0.05, 0, 0.01]) * t["lip_red"]
    e = np.clip(1 - (x / (23.5 + t["lip_wide"])) ** 2, 0, 1)
    upper = (6.0 + 0.9 * t["upper_lip"]) * e**0.7 - 1.6 * gauss(x, 0, 0, 0, 4, 1)
    lower = (7.5 + 1.1 * t["lower_lip"]) * e**0.6
    lips = ramp(1, -1, y + 65 - upper) * ramp(-1, 1, y + 65 + lower) * (e > 0) * f
    paint.cover(lips, lip * np.exp(F([0.3, 1, 1]) * F(rouge[0])), 0.75)
    seam = (y + 65) / F(1.1)
    paint.cover(gauss(0, seam, 0, 0, 1, 1) * ramp(25, 20, ax) * f * 1.3, (0.22, 0.08, 0.08))
    teeth = gauss(0, seam, 0, 0.55, 1, 0.4) * ramp(17, 13, ax) * f
    paint.cover(teeth, (0.78, 0.75, 0.69), 0.75)


def paint_eyes(paint, head, who):
    """Sclera, iris, pupil, glint, lashes and lid crease of both eyes."""
    y, t, f = head.y, who.tone, head.front
    d = abs(head.x) - 32
    long, up, low = 14.3 + 0.8 * t["eye_long"], 5.4 + 0.7 * t["eye_high"], 4.4 + 0.4 * t["eye_low"]
    v = y - 12 - (0.05 + 0.05 * t["eye_tilt"]) * d
    e = np.clip(1 - (d / long) ** 2, 0, 1)
    upper, lower, inside = up * e**0.8, -low * e**0.8, (abs(d) < long + 1) * (e > 0) * f
    opened = ramp(0.6, -0.6, v - upper) * ramp(-0.6, 0.6, v - lower) * inside
    paint.cover(opened, (0.80, 0.77, 0.75))
    paint.shade(opened * ramp(6, 14, abs(d)), (0.86, 0.76, 0.74))
    r = np.hypot(d, v - 0.3)
    paint.cover(opened * ramp(6.3, 5.4, r), between(IRIS, 0.33 + 0.33 * t["iris"] - 0.12 * t["skin"]))
    paint.shade(opened * gauss(r, 0, 5.8, 0, 0.9, 1), (0.45, 0.45, 0.45))
    paint.cover(opened * ramp(3.0, 2.0, r), (0.03, 0.03, 0.03))
    paint.shade(opened * ramp(0, 5.5, v), (0.62, 0.60, 0.60))  # the lid's shadow
    paint.cover(opened * gauss(d * np.sign(head.x), v, 1.8, 2.2, 1.2, 1.2), (1, 1, 1), 0.9)
    paint.cover(gauss(v, 0, upper + F(0.2), 0, 1.15, 1) * inside, (0.09, 0.06, 0.05), 0.95)
    paint.shade(gauss(v, 0, lower - F(0.3), 0, 0.8, 1) * inside * 0.6, (0.55, 0.45, 0.43))
    paint.shade(gauss(v, 0, up * e**0.5 + F(3.6), 0, 1.1, 1) * inside * 0.6, (0.62, 0.52, 0.50))


def paint_brows(paint, head, who, hair):
    """Eyebrows, a little darker than the hair."""
    t, ax = who.tone, abs(head.x)
    u = np.clip((ax - 12) / 37, 0, 1)
    arch = np.sin(F(np.pi) * np.minimum(u * F(1.15), 1) ** 1.2)
    mid = 27.5 + 0.8 * t["brow_low"] + (3.2 + 1.6 * t["brow_arch"]) * arch - 3 * u**2
    thick = (3.2 + 0.8 * t["brow_thick"]) * (1 - F(0.65) * u * u)
    fall = (head.y - mid) / thick
    band = np.exp(-(np.minimum(fall * fall, 9) ** 2)) * ramp(9, 16, ax) * ramp(52, 43, ax) * head.front
    strands = smooth(who.strands[:, ::-1], head.row_place, head.col_place)
    density = 0.78 + 0.10 * t["brow_dense"] + 0.10 * strands
    paint.cover(band * density, np.minimum(hair * 0.65, 0.36))


def paint_hair(paint, head, who, hair, grown):
    """Hair, `grown` mm longer than usual; returns its mask (R, C) and length: 0 bald, 1 short .. 3 long."""
    t, side = who.tone, abs(head.degrees)
    bald, length = who.style[1] < 0.08, 1 + int(who.style[0] * 2.999)
    top = 72 + 5 * t["hairline"] - 0.5 * grown
    nape = (-75, -60, -95, -185)[0 if bald else length] - grown
    temple = (8, 8, -55, -150)[0 if bald else length] - 0.5 * grown
    line = top - 5 * max(0, t["widow"]) * gauss(side, 0, 0, 0, 10, 1) + 7 * gauss(side, 0, 42, 0, 14, 1)
    line = line + (temple - top) * ramp(52, 70, side) + (nape - temple) * ramp(108, 124, side)
    ragged = smooth(who.strands, head.row_place, head.col_place)
    mask = ramp(-3.5, 3.5, head.height - line + 2 * ragged) * ramp(-190, -165, head.height)
    if bald:
        mask = mask * ramp(62, 84, side) * ramp(75, 55, head.height)
    paint.cover(mask, (0, 0, 0))
    paint.image += mask * hair[:, None, None] * np.clip(1 + F(0.16) * ragged, 0.5, 1.6)
    return mask, 0 if bald else length


def hair_volume(head, who, mask, length):
    """How far (R, C) mm the hair stands off; it begins to within its own edge."""
    volume, deep = mask, 3 + 2 * length * who.style[4]
    for _ in range(round(8 * (len(mask) / 209) ** 2)):
        volume = blurred(volume, 1 / 3)
    if length == 3:
        neck = 5 * gauss(head.height, 0, -125, 0, 35, 1) * ramp(60, 110, abs(head.degrees))
        deep = deep + 3 * ramp(40, -40, head.height) + neck
    return np.clip(2 * volume - 1, 0, 1) * deep


@lru_cache(maxsize=8)
def sitting(seed, subject, session, knobs):
    """The Sitting of a person; the stream (seed, subject, session) decides what lasts through it."""
    who, surface = person(seed, subject, knobs)
    head, t, drift = template(knobs.size), who.tone, knobs.drift
    rng = np.random.default_rng([seed, 2, subject, session])
    tan = np.clip(rng.standard_normal(4), -2, 2) * (0.09, 0.03, 0.03, 0.03) * drift
    rouge = np.clip(rng.standard_normal(2), -2, 2) * (-0.12, 0.15) * drift
    dye, grown = np.clip(rng.standard_normal(2), -2, 2) * (0.25, 4) * drift
    patches = smooth(rng.standard_normal((9, 8)), head.row_place, head.col_place) * F(0.05 * drift)
    stubble = 0.7 * max(0, t["beard"]) * (who.style[5] < 0.5) * np.exp(0.6 * drift * rng.uniform(-1, 1))
    shirt = 0.3 * np.exp(drift * (np.log(rng.uniform(0.02, 0.6, 3)) - np.log(0.3)))
    wall = 0.3 * np.exp(drift * (np.log(rng.uniform(0.05, 0.4) * rng.uniform(0.8, 1, 3)) - np.log(0.3)))

    skin = between(SKIN, 0.42 + 0.32 * t["skin"]) * (1 + F([0.02, -0.01, -0.03]) * t["redness"])
    paint = Paint(skin * np.exp(F(tan[0] + tan[1:])), head.x.shape)
    paint.image *= 1 + patches
    hair = between(HAIR, 0.30 + 0.30 * t["hair"] - 0.15 * t["skin"])
    if who.style[2] < 0.12:
        hair = np.full(3, 0.4 + 0.35 * who.style[3], F)
    hair = np.minimum(hair * F(np.exp(dye)), F(0.85))
    paint_skin(paint, head, who, min(1.0, stubble), rouge)
    paint_eyes(paint, head, who)
    paint_brows(paint, head, who, hair)
    mask, length = paint_hair(paint, head, who, hair, grown)
    volume = hair_volume(head, who, mask, length)
    out = np.stack([np.sin(np.radians(head.degrees)), 0 * mask + F(0.3), np.cos(np.radians(head.degrees))])
    albedo = np.clip(paint.image, 0.02, 1) ** F(2.2)
    cloth = ramp(-147, -150, head.height + 3 * ramp(40, 0, abs(head.degrees)))
    albedo += cloth * (shirt.astype(F)[:, None, None] - albedo) * (mask < 0.5)

    n = 2 + rng.integers(0, 4) if drift else 0
    edges = np.sort(rng.uniform(0, 2, (n, 2, 2)), axis=2).reshape(n, 4)
    colours = rng.uniform(0.03, 0.45, (n, 1)) * rng.uniform(0.7, 1, (n, 3))
    boxes = np.concatenate([edges, rng.uniform(0, 200, (n, 1)), colours], 1)
    return Sitting(
        surface=(surface + out * volume).astype(F),
        albedo=np.ascontiguousarray(albedo, F),
        ear_size=0.0 if length >= 2 else 30.0 + 2.0 * t["ear"],
        wall=wall.astype(F),
        wall_field=rng.standard_normal((5, 5)) * min(1, drift),
        behind=950 + 650 * min(1, drift) * float(rng.uniform(-1, 1)),
        boxes=boxes.astype(F),
        warmth=np.exp(rng.standard_normal(3) * (0.08, 0.02, 0.08) * drift).astype(F),
        softness=0.5 + (float(rng.random()) - 0.5) * min(1, drift),
    )
