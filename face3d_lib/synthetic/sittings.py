"""A sitting: a person on one day, with skin, eyes, brows and hair painted on the head, and the room around.

Colours are sRGB in 0..1 until the last step, in which the albedo becomes linear. All masks are (R, C) arrays on the
grid of the mean head (people.py), so paint follows shape and expression.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from .fields import blurred, f32, gauss, smooth_field, smoothstep
from .people import Identity, Knobs, MeanHead, mean_head, person

# fmt: off
SKIN = [(.94, .78, .69), (.87, .67, .55), (.72, .51, .39), (.43, .29, .22)]  # sRGB, light to dark
IRIS = [(.20, .11, .06), (.33, .20, .10), (.34, .38, .22), (.35, .47, .58)]
HAIR = [(.07, .05, .05), (.17, .11, .08), (.38, .25, .15), (.66, .50, .31)]
# fmt: on


def colour_between(colours: list[tuple[float, float, float]], t: float) -> np.ndarray:
    """The colour (3,) at t in 0..1 on a line through equally spaced colours."""
    stops = np.array(colours, f32)
    return np.array([np.interp(t, np.linspace(0, 1, len(stops)), channel) for channel in stops.T], f32)


@dataclass(frozen=True)
class Sitting:
    """A person in one session: the surface with hair, the albedo, the room and its light."""

    surface: np.ndarray  # (3, R, C) float32 mm
    albedo: np.ndarray  # (3, R, C) float32, linear
    ear_size: float  # mm, half the height of an ear; 0: the ears are under the hair
    wall: np.ndarray  # (3,) linear colour behind the person
    wall_field: np.ndarray  # (5, 5) lattice of the light on the wall
    behind: float  # mm from the head's origin to the wall
    boxes: np.ndarray  # (n, 8): left, right, top, bottom (picture widths), mm before the wall, colour
    warmth: np.ndarray  # (3,) colour of the key light
    softness: float  # share of the light that has no direction, 0..1


class Paint:
    """An sRGB image (3, R, C) on the grid of the head, with the two operations that painting needs."""

    def __init__(self, colour: np.ndarray, shape: tuple[int, int]):
        self.image = np.empty((3, *shape), f32)
        self.image[:] = np.asarray(colour, f32)[:, None, None]

    def cover(self, mask: np.ndarray, colour: Any, strength: float = 1.0) -> None:
        """Blend `colour` (3,) over the image where the mask (R, C) is set; the mask is clipped to 0..1."""
        share = np.clip(mask, 0, 1) * f32(strength)
        for channel, value in zip(self.image, colour, strict=True):
            channel += share * (f32(value) - channel)

    def shade(self, mask: np.ndarray, factor: Any) -> None:
        """Multiply the image by `factor` (3,) where the mask (R, C), clipped to 0..1, is 1."""
        mask = np.clip(mask, 0, 1)
        for channel, value in zip(self.image, factor, strict=True):
            channel *= 1 - mask * f32(1 - value)


def paint_skin(paint: Paint, head: MeanHead, who: Identity, beard: float, rouge: np.ndarray) -> None:
    """Paint the skin, the shadows of folds that are finer than the grid, and the lips.

    beard: 0..1, how dark the stubble is. rouge: (2,) make-up of the lips and of the cheeks on this day.
    """
    # t: the person's tones; x, y: mm; ax: mm from the middle; f: 1 on the front of the head, 0 behind
    x, y, t, ax, f = head.x, head.y, who.tone, abs(head.x), head.front
    paint.image *= 1 + f32(0.03) * smooth_field(who.texture, head.row_place, head.col_place)
    paint.shade(gauss(ax, y, 42, -22, 20, 18) * f * (0.45 + 0.2 * t["flush"] + rouge[1]), (1.0, 0.82, 0.82))
    stubble = smoothstep(-36, -58, y + 0.25 * ax) * smoothstep(-116, -106, head.height)
    paint.shade(stubble * smoothstep(0, 12, abs(y + 65) + ax / 3) * f * beard, (0.50, 0.50, 0.53))
    for k in range(min(8, round(abs(2 * t["moles"])))):
        paint.shade(gauss(x, y, who.moles[k, 0], who.moles[k, 1], 1.4, 1.4) * f, (0.45, 0.38, 0.35))
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
    lip = skin * f32([0.90, 0.60, 0.60]) * (1 + 0.08 * t["lips"]) + f32([0.05, 0, 0.01]) * t["lip_red"]
    e = np.clip(1 - (x / (23.5 + t["lip_wide"])) ** 2, 0, 1)
    upper = (6.0 + 0.9 * t["upper_lip"]) * e**0.7 - 1.6 * gauss(x, 0, 0, 0, 4, 1)
    lower = (7.5 + 1.1 * t["lower_lip"]) * e**0.6
    lips = smoothstep(1, -1, y + 65 - upper) * smoothstep(-1, 1, y + 65 + lower) * (e > 0) * f
    paint.cover(lips, lip * np.exp(f32([0.3, 1, 1]) * f32(rouge[0])), 0.75)
    seam = (y + 65) / f32(1.1)
    paint.cover(gauss(0, seam, 0, 0, 1, 1) * smoothstep(25, 20, ax) * f * 1.3, (0.22, 0.08, 0.08))
    teeth = gauss(0, seam, 0, 0.55, 1, 0.4) * smoothstep(17, 13, ax) * f
    paint.cover(teeth, (0.78, 0.75, 0.69), 0.75)


def paint_eyes(paint: Paint, head: MeanHead, who: Identity) -> None:
    """Paint sclera, iris, pupil, glint, lashes and the crease of the lid of both eyes."""
    # d, v: mm from the eye's centre outwards and upwards; long, up, low: its half length and the height of its lids
    y, t, f = head.y, who.tone, head.front
    d = abs(head.x) - 32
    long, up, low = 14.3 + 0.8 * t["eye_long"], 5.4 + 0.7 * t["eye_high"], 4.4 + 0.4 * t["eye_low"]
    v = y - 12 - (0.05 + 0.05 * t["eye_tilt"]) * d
    e = np.clip(1 - (d / long) ** 2, 0, 1)
    upper, lower, inside = up * e**0.8, -low * e**0.8, (abs(d) < long + 1) * (e > 0) * f
    opened = smoothstep(0.6, -0.6, v - upper) * smoothstep(-0.6, 0.6, v - lower) * inside
    paint.cover(opened, (0.80, 0.77, 0.75))
    paint.shade(opened * smoothstep(6, 14, abs(d)), (0.86, 0.76, 0.74))
    r = np.hypot(d, v - 0.3)
    paint.cover(opened * smoothstep(6.3, 5.4, r), colour_between(IRIS, 0.33 + 0.33 * t["iris"] - 0.12 * t["skin"]))
    paint.shade(opened * gauss(r, 0, 5.8, 0, 0.9, 1), (0.45, 0.45, 0.45))
    paint.cover(opened * smoothstep(3.0, 2.0, r), (0.03, 0.03, 0.03))
    paint.shade(opened * smoothstep(0, 5.5, v), (0.62, 0.60, 0.60))  # the lid's shadow
    paint.cover(opened * gauss(d * np.sign(head.x), v, 1.8, 2.2, 1.2, 1.2), (1, 1, 1), 0.9)
    paint.cover(gauss(v, 0, upper + f32(0.2), 0, 1.15, 1) * inside, (0.09, 0.06, 0.05), 0.95)
    paint.shade(gauss(v, 0, lower - f32(0.3), 0, 0.8, 1) * inside * 0.6, (0.55, 0.45, 0.43))
    paint.shade(gauss(v, 0, up * e**0.5 + f32(3.6), 0, 1.1, 1) * inside * 0.6, (0.62, 0.52, 0.50))


def paint_brows(paint: Paint, head: MeanHead, who: Identity, hair: np.ndarray) -> None:
    """Paint the eyebrows, a little darker than the colour `hair` (3,)."""
    t, ax = who.tone, abs(head.x)
    u = np.clip((ax - 12) / 37, 0, 1)
    arch = np.sin(f32(np.pi) * np.minimum(u * f32(1.15), 1) ** 1.2)
    mid = 27.5 + 0.8 * t["brow_low"] + (3.2 + 1.6 * t["brow_arch"]) * arch - 3 * u**2
    thick = (3.2 + 0.8 * t["brow_thick"]) * (1 - f32(0.65) * u * u)
    fall = (head.y - mid) / thick
    band = np.exp(-(np.minimum(fall * fall, 9) ** 2)) * smoothstep(9, 16, ax) * smoothstep(52, 43, ax) * head.front
    strands = smooth_field(who.strands[:, ::-1], head.row_place, head.col_place)
    density = 0.78 + 0.10 * t["brow_dense"] + 0.10 * strands
    paint.cover(band * density, np.minimum(hair * 0.65, 0.36))


def paint_hair(paint: Paint, head: MeanHead, who: Identity, hair: np.ndarray, grown: float) -> tuple[np.ndarray, int]:
    """Paint hair of colour `hair` (3,), `grown` mm longer than usual.

    Returns the mask (R, C) of the hair and its length: 0 bald, 1 short, 2 over the ears, 3 long.
    """
    t, side = who.tone, abs(head.degrees)
    bald, length = who.style[1] < 0.08, 1 + int(who.style[0] * 2.999)
    top = 72 + 5 * t["hairline"] - 0.5 * grown
    nape = (-75, -60, -95, -185)[0 if bald else length] - grown
    temple = (8, 8, -55, -150)[0 if bald else length] - 0.5 * grown
    line = top - 5 * max(0, t["widow"]) * gauss(side, 0, 0, 0, 10, 1) + 7 * gauss(side, 0, 42, 0, 14, 1)
    line = line + (temple - top) * smoothstep(52, 70, side) + (nape - temple) * smoothstep(108, 124, side)
    ragged = smooth_field(who.strands, head.row_place, head.col_place)
    mask = smoothstep(-3.5, 3.5, head.height - line + 2 * ragged) * smoothstep(-190, -165, head.height)
    if bald:
        mask = mask * smoothstep(62, 84, side) * smoothstep(75, 55, head.height)
    paint.cover(mask, (0, 0, 0))
    paint.image += mask * hair[:, None, None] * np.clip(1 + f32(0.16) * ragged, 0.5, 1.6)
    return mask, 0 if bald else length


def hair_volume(head: MeanHead, who: Identity, mask: np.ndarray, length: int) -> np.ndarray:
    """The thickness of the hair, (R, C) mm, which grows from 0 at the edge of the mask inwards."""
    volume, deep = mask, 3 + 2 * length * who.style[4]
    for _ in range(round(8 * (len(mask) / 209) ** 2)):
        volume = blurred(volume, 1 / 3)
    if length == 3:
        neck = 5 * gauss(head.height, 0, -125, 0, 35, 1) * smoothstep(60, 110, abs(head.degrees))
        deep = deep + 3 * smoothstep(40, -40, head.height) + neck
    return np.clip(2 * volume - 1, 0, 1) * deep


@lru_cache(maxsize=8)
def sitting(seed: int, subject: int, session: int, knobs: Knobs) -> Sitting:
    """The Sitting of a person in a session; it depends on these arguments alone."""
    who, surface = person(seed, subject, knobs)
    head, t, drift = mean_head(knobs.size), who.tone, knobs.drift
    rng = np.random.default_rng([seed, 2, subject, session])
    tan = np.clip(rng.standard_normal(4), -2, 2) * (0.09, 0.03, 0.03, 0.03) * drift
    rouge = np.clip(rng.standard_normal(2), -2, 2) * (-0.12, 0.15) * drift
    dye, grown = np.clip(rng.standard_normal(2), -2, 2) * (0.25, 4) * drift
    patches = smooth_field(rng.standard_normal((9, 8)), head.row_place, head.col_place) * f32(0.05 * drift)
    stubble = 0.7 * max(0, t["beard"]) * (who.style[5] < 0.5) * np.exp(0.6 * drift * rng.uniform(-1, 1))
    shirt = 0.3 * np.exp(drift * (np.log(rng.uniform(0.02, 0.6, 3)) - np.log(0.3)))
    wall = 0.3 * np.exp(drift * (np.log(rng.uniform(0.05, 0.4) * rng.uniform(0.8, 1, 3)) - np.log(0.3)))

    skin = colour_between(SKIN, 0.42 + 0.32 * t["skin"]) * (1 + f32([0.02, -0.01, -0.03]) * t["redness"])
    paint = Paint(skin * np.exp(f32(tan[0] + tan[1:])), head.x.shape)
    paint.image *= 1 + patches
    hair = colour_between(HAIR, 0.30 + 0.30 * t["hair"] - 0.15 * t["skin"])
    if who.style[2] < 0.12:
        hair = np.full(3, 0.4 + 0.35 * who.style[3], f32)
    hair = np.minimum(hair * f32(np.exp(dye)), f32(0.85))
    paint_skin(paint, head, who, min(1.0, stubble), rouge)
    paint_eyes(paint, head, who)
    paint_brows(paint, head, who, hair)
    mask, length = paint_hair(paint, head, who, hair, grown)
    volume = hair_volume(head, who, mask, length)
    out = np.stack([np.sin(np.radians(head.degrees)), 0 * mask + f32(0.3), np.cos(np.radians(head.degrees))])
    albedo = np.clip(paint.image, 0.02, 1) ** f32(2.2)
    cloth = smoothstep(-147, -150, head.height + 3 * smoothstep(40, 0, abs(head.degrees)))
    albedo += cloth * (shirt.astype(f32)[:, None, None] - albedo) * (mask < 0.5)

    n = 2 + rng.integers(0, 4) if drift else 0
    edges = np.sort(rng.uniform(0, 2, (n, 2, 2)), axis=2).reshape(n, 4)
    colours = rng.uniform(0.03, 0.45, (n, 1)) * rng.uniform(0.7, 1, (n, 3))
    boxes = np.concatenate([edges, rng.uniform(0, 200, (n, 1)), colours], 1)
    return Sitting(
        surface=(surface + out * volume).astype(f32),
        albedo=np.ascontiguousarray(albedo, f32),
        ear_size=0.0 if length >= 2 else 30.0 + 2.0 * t["ear"],
        wall=wall.astype(f32),
        wall_field=rng.standard_normal((5, 5)) * min(1, drift),
        behind=950 + 650 * min(1, drift) * float(rng.uniform(-1, 1)),
        boxes=boxes.astype(f32),
        warmth=np.exp(rng.standard_normal(3) * (0.08, 0.02, 0.08) * drift).astype(f32),
        softness=0.5 + (float(rng.random()) - 0.5) * min(1, drift),
    )
