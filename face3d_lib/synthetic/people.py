"""Synthetic people: the shape of a head, as a surface in millimetres, and the ways in which people differ.

A head is one surface grid of R rows and C columns. Rows run from the top of the head over forehead and chin to the
shoulders, columns run around the head. x points to the image's right, y up, z towards the camera. Every shape is a sum:
the mean head, plus bumps (BUMPS) whose heights differ between people, plus a smooth random field.

A person depends on the numbers (seed, subject) alone, so a finer grid shows the same people.
"""

from dataclasses import dataclass
from functools import lru_cache, reduce

import numpy as np

from .fields import f32, gauss, smooth_field, smoothstep


@dataclass(frozen=True)
class Knobs:
    """Settings of how difficult the pictures are. 0 switches an effect off, except for size, face and depth_pixel."""

    size: int = 160  # px, width and height of a picture; above 160 px the surface grid becomes finer
    face: float = 0.5  # width of the head / width of the picture, on average
    yaw: float = 25.0  # degrees, standard deviation, cut at 2 sd; > 0 turns the nose to the image's right
    pitch: float = 8.0  # degrees, drawn in the same way; > 0 looks down
    roll: float = 6.0  # degrees, drawn in the same way; > 0 is counter-clockwise in the image
    shape: float = 1.0  # how much people differ in shape, in standard deviations of the table BUMPS
    albedo: float = 1.0  # factor on the differences in colour, brows, lips and eyes; 1: as in the formulas
    drift: float = 1.0  # factor on a person's changes between sessions: tan, make-up, dye, beard, shirt, room
    light: float = 1.0  # 0: soft light from the front; 1: key light up to 75 degrees aside, with cast shadow
    expression: float = 1.0  # strength of smile, brows, frown, pucker and opened jaw
    glasses: float = 0.15  # probability that an image shows glasses
    occlusion: float = 0.10  # probability that a hand-sized object hides part of the face
    blur: float = 0.6  # px, standard deviation of the lens blur, up to 0.8
    noise: float = 3.0  # grey levels of 255, standard deviation of the colour camera's noise
    jpeg: int = 60  # lowest JPEG quality; each picture's quality is drawn from here to 95; 0: no JPEG
    depth_noise: float = 3.0  # mm, standard deviation at 800 mm; grows with the square of the distance
    depth_warp: float = 3.0  # mm, standard deviation of the smooth error (calibration, multipath)
    depth_step: float = 2.0  # mm, quantisation
    depth_holes: float = 1.0  # 1: 70 % of readings at steep edges and 1 % elsewhere are lost, also patches, lenses
    depth_pixel: int = 2  # px of the picture, width of one pixel of the depth camera: 1 or 2
    relief: float = 1.0  # factor on the depth of common features (nose, sockets, lips); 1: as in BUMPS
    variety: float = 0.0  # mm, smooth differences between people beyond BUMPS; also % of the head's proportions
    mimic: float = 0.0  # mm, smooth movements of the face beyond EXPRESSIONS, drawn for each image


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
# bumps that move together: centre x y, width x y, displacement x y z (mm at strength 1)
EXPRESSIONS: dict[str, list[tuple[float, ...]]] = {
    "smile": [(23, -65, 10, 10, 4, 5, -2), (38, -30, 16, 14, 1, 2, 4), (27, -52, 7, 12, 0, 0, -1.5)],
    "brows": [(28, 30, 24, 12, 0, 5, 0)],
    "frown": [(14, 26, 10, 10, -3, -4, 1), (23, -66, 10, 9, 0, -3, 0)],
    "pucker": [(18, -65, 13, 13, -5, 0, 3), (0, -65, 12, 10, 0, 0, 3)]}
LANDMARKS = [(-32, 12), (32, 12), (0, -31), (-24, -65), (24, -65)]  # mm on the mean head, in image order
TONES = ["skin", "redness", "flush", "bags", "lips", "lip_red", "lip_wide", "upper_lip", "lower_lip", "iris",
         "eye_long", "eye_high", "eye_low", "eye_tilt", "hair", "brow_arch", "brow_thick", "brow_low",
         "brow_dense", "hairline", "widow", "ear", "moles", "beard"]
# fmt: on
NECK_TOP, NECK_END = -112, -165  # mm; between these heights the rotation of the head fades to that of the shoulders


class MeanHead:
    """The average head on its grid of R rows and C columns, and every bump that can deform it.

    grain: number of grid lines, relative to the grid for pictures of 160 px.
    """

    def __init__(self, grain: float = 1.0):
        line = np.stack([np.interp(np.linspace(0, 18, 4000), np.arange(19), column) for column in PROFILE.T])
        kernel = np.hanning(361)
        line = np.stack([np.convolve(np.pad(q, 180, "edge"), kernel / kernel.sum(), "valid") for q in line])
        # rows are dense where there is detail, most of all between the lips, which can open
        high = line[0, 1:]
        dense = 0.42 + 0.25 * ((high < 45) & (high > -120)) + 0.2 * gauss(high, 0, 12, 0, 16, 1)
        dense += 7 * np.exp(-(((high + 65) / 1.0) ** 2))
        arc = np.r_[0, np.cumsum(dense * np.hypot(*np.diff(line[:2])))]
        marks = np.linspace(0, arc[-1], round(0.84 * arc[-1] * grain))
        y, front, wide, back = (np.interp(marks, arc, q).astype(f32)[:, None] for q in line)  # (R, 1) each
        s = np.linspace(-1, 1, round(172 * grain), dtype=f32)
        azimuth = np.radians(f32(172)) * (f32(0.7) * s + f32(0.3) * s**3)  # (C,), denser in front
        c = np.cos(azimuth)
        centre = np.clip(front - 85, -40, 0)
        rise = 38 * smoothstep(0.1, 1.1, 1 - c) * gauss(y, 0, -103, 0, 24, 1)  # the jaw line rises towards the ear
        self.x = wide * np.sin(azimuth)
        self.y = y + rise
        self.z = np.where(c > 0, centre + (front - centre) * c, centre + (centre - back) * c)
        self.base = np.stack([self.x, self.y, self.z])  # (3, R, C)
        self.height = y + 0 * self.x  # (R, C) mm, before the jaw line
        self.degrees = np.degrees(azimuth) + 0 * self.x  # (R, C) 0 = front, > 0 image right
        self.front = smoothstep(-0.1, 0.35, c) + 0 * self.x
        # Positions 0..1 for smooth_field. They are made of mm and degrees, so a finer grid reads the same field.
        self.row_place = ((122 - y[:, 0]) / f32(337)).clip(0, 1)
        self.col_place = (azimuth / np.radians(f32(344)) + f32(0.5)).clip(0, 1)
        self.means = np.array([b[8] for b in BUMPS], f32)
        self.sds = np.array([b[9] for b in BUMPS], f32)
        self.bumps = np.stack([self.bump(*b[1:8]) for b in BUMPS])  # (K, 3, R, C)
        self.moving = slice(*np.searchsorted(-y[:, 0], [-70, 155]))  # rows that expressions move
        moves = [reduce(np.add, (self.bump(*part) for part in parts)) for parts in EXPRESSIONS.values()]
        self.moves = np.stack([*moves, self.jaw()])[:, :, self.moving]  # (5, 3, rows, C)
        self.neck = int(np.searchsorted(-y[:, 0], -NECK_TOP))
        self.neck_share = smoothstep(NECK_TOP, NECK_END, y[self.neck :])  # (rows, 1)
        far = [(self.x - a) ** 2 + (self.y - b) ** 2 + 1e6 * (self.front < 0.5) for a, b in LANDMARKS]
        self.marks = np.array([int(q.argmin()) for q in far])  # (5,) flat index of the vertex nearest to each landmark
        places = np.array([(*p, 0) for p in LANDMARKS], f32).T
        self.mark_rest = places - self.base.reshape(3, -1)[:, self.marks] * f32([[1], [1], [0]])
        self.ears, self.cheek = (self.vertex(-86, -2), self.vertex(86, -2)), self.vertex(50, -20)
        self.ear = ear_patch(grain)

    def vertex(self, degrees: float, height: float) -> int:
        """The flat index of the vertex nearest to an azimuth (degrees) and a height (mm)."""
        return int(((self.degrees - degrees) ** 2 + (self.height - height) ** 2).argmin())

    def bump(self, cx: float, cy: float, sx: float, sy: float, dx: float, dy: float, dz: float) -> np.ndarray:
        """The displacement (3, R, C) of a bump at (cx, cy), widths sx, sy, towards (dx, dy, dz); mirrored if cx > 0."""
        right = gauss(self.x, self.y, cx, cy, sx, sy) * self.front
        left = gauss(self.x, self.y, -cx, cy, sx, sy) * self.front if cx > 0 else 0 * right
        return np.stack([(right - left) * f32(dx), (right + left) * f32(dy), (right + left) * f32(dz)])

    def jaw(self) -> np.ndarray:
        """The displacement (3, R, C) of a jaw that opens by 1 mm: abrupt between the lips, smooth beside them."""
        soft = f32(0.35) + 18 * smoothstep(7, 46, abs(self.x))
        low = 1 / (1 + np.exp(np.clip((self.y + 65) / soft, -30, 30)))
        low *= smoothstep(75, 25, abs(self.degrees)) * smoothstep(-150, -112, self.height)
        inner = gauss(self.x, self.y, 0, -65, 15, 1.1) * self.front
        return np.stack([0 * low, -low, f32(-0.25) * low - f32(0.7) * inner])


def ear_patch(grain: float) -> np.ndarray:
    """One ear of half height 1 on a polar grid (4, rings, spokes): offsets back, up and outwards, and its shading."""
    r = np.linspace(0.06, 1, round(13 * grain), dtype=f32)[:, None]
    t = np.linspace(0, 2 * np.pi, round(52 * grain), dtype=f32)
    back, up = 0.40 + 0.5 * r * np.cos(t) * (1 + 0.22 * np.sin(t)), r * np.sin(t)
    behind = smoothstep(-0.9, 0.1, np.cos(t))
    rim = gauss(r, 0, 0.86, 0, 0.13, 1) * behind * 0.13 + gauss(r, 0, 0.5, 0, 0.14, 1) * behind * 0.06
    hollow = gauss(back, up, 0.30, -0.12, 0.2, 0.3)
    out = 0.13 + rim - 0.14 * hollow - 0.1 * smoothstep(0.9, 1, r)
    return np.stack([back, up, out, 0.98 - 0.45 * hollow + 0.2 * rim])


@lru_cache(maxsize=2)
def mean_head(size: int = 160) -> MeanHead:
    """The mean head for pictures of `size` px, made once per process; above 160 px its grid is finer."""
    return MeanHead(max(1.0, size / 160))


@dataclass(frozen=True)
class Identity:
    """A person: every random number that stays the same in all pictures, drawn from the person's own stream."""

    shape: np.ndarray  # (K,) heights of BUMPS in standard deviations
    scale: float  # size of the head, 1 = average
    field: np.ndarray  # (16, 12) lattice of the smooth part of the shape
    tone: dict  # TONES -> standard deviations
    style: np.ndarray  # (6,) uniform in 0..1: hair length, bald, grey, grey level, volume, beard
    moles: np.ndarray  # (8, 2) mm, where they are on the face
    texture: np.ndarray  # (22, 18) lattice of the skin
    strands: np.ndarray  # (14, 122) lattice of the hair


def identity_seed(seed: int, subject: int) -> int:
    """The number of 63 bits that alone determines a person."""
    return int(np.random.SeedSequence([seed, 1, subject]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def draw_identity(number: int, knobs: Knobs) -> Identity:
    """The Identity of an identity_seed: normal draws, cut at 2.5 (shape) or 2 (tone) sd, times the knobs."""
    rng = np.random.default_rng(number)
    return Identity(
        shape=np.clip(rng.standard_normal(len(BUMPS)), -2.5, 2.5).astype(f32) * f32(knobs.shape),
        scale=float(1 + 0.03 * knobs.shape * np.clip(rng.standard_normal(), -2, 2)),
        field=rng.standard_normal((16, 12)) * knobs.shape,
        tone=dict(zip(TONES, np.clip(rng.standard_normal(len(TONES)), -2, 2) * knobs.albedo, strict=True)),
        style=0.5 + (rng.random(6) - 0.5) * min(1, knobs.albedo),
        moles=rng.uniform((-55, -95), (55, 60), (8, 2)),
        texture=rng.standard_normal((22, 18)) * knobs.albedo,
        strands=rng.standard_normal((14, 122)) * min(1, knobs.albedo),
    )


@lru_cache(maxsize=4)
def person(seed: int, subject: int, knobs: Knobs) -> tuple[Identity, np.ndarray]:
    """The Identity of a person and the surface of the head without hair, (3, R, C) float32 mm."""
    who = draw_identity(identity_seed(seed, subject), knobs)
    head = mean_head(knobs.size)
    surface = head.base.copy()
    for height, bump in zip(head.means * f32(knobs.relief) + head.sds * who.shape, head.bumps, strict=True):
        surface += height * bump
    soft = smooth_field(who.field, head.row_place, head.col_place)
    surface[2] += f32(0.9) * soft * head.front * smoothstep(-112, -95, head.height)
    if knobs.variety:
        vary(surface, head, np.random.default_rng([seed, 6, subject]), knobs.variety)
    return who, surface * f32(who.scale)


def vary(surface: np.ndarray, head: MeanHead, rng: np.random.Generator, mm: float) -> None:
    """Add waves of 60, 25 and 12 mm length to a surface (3, R, C), in place, for differences that no bump describes.

    Faces are mostly symmetric, so every wave is the sum of a symmetric wave and a weaker asymmetric one.
    """
    proportions = 1 + 0.01 * mm * np.clip(rng.standard_normal(3), -2, 2)
    shade = head.front * smoothstep(-112, -95, head.height)
    for rows, cols, heights in [(8, 10, (1.0, 1.0, 1.2)), (16, 20, (0.3, 0.3, 0.6)), (32, 40, (0, 0, 0.2))]:
        for axis, height in enumerate(heights):
            if height:
                wave = smooth_field(rng.standard_normal((rows, cols)), head.row_place, head.col_place)
                mirrored = wave[:, ::-1] * f32(-1 if axis == 0 else 1)
                surface[axis] += f32(height * mm) * shade * (f32(0.8) * wave + f32(0.6) * mirrored)
    surface *= proportions.astype(f32)[:, None, None]
