"""Knobs that make a recording worse, one at a time, with their levels and units: the stress test turns them.

There are three kinds of knobs. A *scene* knob changes what stands before the camera, so only a synthetic person can be
recorded again (`synthetic.scenes`). A *pair* knob changes the raw picture or its depth map (`degrade`). A *crop* knob
withholds or covers colour or depth after the face was found (`degrade_crop`).

Pairs are degraded before they are aligned, for two reasons. A coarse or compressed picture also moves the points that
the detector finds, and this is part of the damage. And a shift by some pixels means pixels of the sensor, whose size
in the crop differs from face to face. Random numbers depend on (seed, knob, pair) alone and never on the level: at
twice the level the noise is twice as large and the holes contain those of the level before, so a curve over levels
shows the effect of the level and no new draw.
"""

import io
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from PIL import Image, ImageFilter
from scipy import ndimage

from ..base.errors import UserError
from ..data.pairs import RGBDPair

FULL_WELL, READ_NOISE = 10_000, 10  # electrons of a white pixel, and the noise of reading one: a small colour sensor
STRAY = 0.01  # of the light of a bright surround, how much the lens spreads over the whole picture
REACH_MM = 400.0  # how far behind its nearest part a person reaches; in "pixel" it is the width of the picture
BLOBS = 12  # cells of the lattice of `holes`: a hole is about a twelfth of the picture wide
SIDES = ((0, 1), (0, -1), (1, 0), (-1, 0))  # (row, column): the directions of `misregistration`


@dataclass(frozen=True)
class Knob:
    """One way to make a recording worse."""

    label: str  # of an axis, with the unit
    levels: tuple[float, ...]  # the worst comes last; the level that changes nothing is not among them
    kind: Literal["scene", "pair", "crop"]
    touches: tuple[str, ...] = ("rgb", "depth")  # what of a pair it changes
    clean: float = 0  # the level that changes nothing


KNOBS = {
    "yaw": Knob("head turned aside, degrees", (15, 30, 45, 60), "scene"),
    "pitch": Knob("head raised or lowered, degrees", (10, 20, 30), "scene"),
    "light": Knob("main light aside, degrees", (30, 60, 90), "scene"),
    "expression": Knob("expression, 1 = full", (0.5, 1, 1.5), "scene"),
    "occlusion": Knob("object before the face, 1 = a hand", (0.5, 1, 1.5), "scene"),
    "glasses": Knob("glasses, 1 = worn", (1,), "scene"),
    "resolution": Knob("pixels coarser by a factor of", (2, 3, 4, 6), "pair", clean=1),
    "jpeg": Knob("JPEG quality, 0 = no JPEG", (50, 20, 10, 5), "pair", ("rgb",)),
    "dark": Knob("colour darker, stops", (2, 4, 6, 7), "pair", ("rgb",)),
    "backlit": Knob("face darker before a white surround, stops", (2, 4, 5, 6), "pair", ("rgb",)),
    "overexposed": Knob("colour over-exposed, stops", (1, 2, 3, 4), "pair", ("rgb",)),
    "small": Knob("colour alone coarser by a factor of", (2, 3, 4, 6), "pair", ("rgb",), clean=1),
    "blur": Knob("colour blurred, sd in px", (1, 2, 3, 4), "pair", ("rgb",)),
    "cover": Knob("share of the colour crop covered", (0.1, 0.2, 0.4, 0.6), "crop", ("rgb",)),
    "depth_noise": Knob("depth noise, {unit}", (2, 5, 10, 20), "pair", ("depth",)),
    "holes": Knob("share of depth readings lost", (0.1, 0.25, 0.5, 0.75), "pair", ("depth",)),
    "coarse_depth": Knob("depth alone coarser by a factor of", (2, 4, 8, 16), "pair", ("depth",), clean=1),
    "quantisation": Knob("step of the depth readings, {unit}", (2, 5, 10, 20), "pair", ("depth",)),
    "misregistration": Knob("depth shifted against colour, px", (2, 4, 8, 16), "pair", ("depth",)),
    "no_depth": Knob("share of probes without depth", (0.25, 0.5, 1), "crop", ("depth",)),
    "no_colour": Knob("share of probes without colour", (0.25, 0.5, 1), "crop", ("rgb",)),
}


def require_knobs(names: list[str], kinds: tuple[str, ...] = ("scene", "pair", "crop")) -> None:
    """Raise UserError for a name that is no knob, that occurs twice, or that is not of these `kinds`."""
    for name in names:
        if name not in KNOBS:
            raise UserError(f"knobs: there is no knob {name!r}; there are {', '.join(KNOBS)}")
        if names.count(name) > 1:
            raise UserError(f"knobs: {name} is named twice: leave one out")
        if KNOBS[name].kind not in kinds:
            need = "; a scene changes only for new synthetic people" if KNOBS[name].kind == "scene" else ""
            raise UserError(f"knobs: {name} is a {KNOBS[name].kind} knob, which does not work here{need}")


def degrade(pair: RGBDPair, name: str, level: float, seed: int = 0) -> RGBDPair:
    """The raw pair at a level of the pair knob `name`; at its clean level the pair itself.

    The given arrays are not changed, and a pixel without a reading stays without one. Depth is canonical, so a level
    in mm is in "pixel" where that is the unit of the pair's depth. UserError for another knob or a level that is not
    possible (a factor or a quality that is no whole number above 0, a share above 1, a negative level).
    """
    require_knobs([name], ("pair",))
    if level == KNOBS[name].clean:
        return pair
    check, what = POSSIBLE[name]
    if not check(level):
        raise UserError(f"{name}: level {level:g} is not possible: give {what}")
    return DEGRADE[name](pair, level, random_of(seed, name, pair.pair_id))


def degrade_crop(
    pair_id: str, rgb: np.ndarray, depth: np.ndarray, name: str, level: float, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """The crops (S, S, 3) and (S, S) of the pair at a level of the crop knob `name`; what does not change is the same array."""
    require_knobs([name], ("crop",))
    if name == "cover":
        return cover(rgb, level, random_of(seed, name, pair_id)), depth
    if not is_lost(pair_id, name, level, seed):
        return rgb, depth
    return (rgb, np.zeros_like(depth)) if name == "no_depth" else (np.zeros_like(rgb), depth)


def is_lost(pair_id: str, name: str, level: float, seed: int = 0) -> bool:
    """Whether the crop knob `name` changes the probe: no_depth and no_colour change the share `level` of all probes."""
    require_knobs([name], ("crop",))
    return bool(level > 0 if name == "cover" else random_of(seed, name, pair_id).random() < level)


def random_of(seed: int, name: str, pair_id: str) -> np.random.Generator:
    """The random numbers of one knob and one pair; neither the level nor the order of the work changes them."""
    return np.random.default_rng([seed, zlib.crc32(name.encode()), zlib.crc32(pair_id.encode())])


def resolution(pair: RGBDPair, factor: float, rng: np.random.Generator) -> RGBDPair:
    """A picture and a depth map with one pixel for `factor` x `factor`: the mean colour, the reading in the middle.

    Depth in "pixel" is divided by the factor, since each of the new pixels is as long as `factor` old ones.
    """
    k = int(factor)
    rgb = np.asarray(Image.fromarray(pair.rgb).reduce(k))
    rows, columns = (
        np.minimum(np.arange(new) * k + k // 2, old - 1)
        for new, old in zip(rgb.shape[:2], pair.depth.shape, strict=True)
    )
    depth = pair.depth[rows[:, None], columns]
    return replace(pair, rgb=rgb, depth=depth / np.float32(k) if pair.depth_unit == "pixel" else depth)


def jpeg(pair: RGBDPair, quality: float, rng: np.random.Generator) -> RGBDPair:
    """The picture after one more JPEG compression, with colour at half the resolution (4:2:0) as cameras store it."""
    buffer = io.BytesIO()
    Image.fromarray(pair.rgb).save(buffer, "JPEG", quality=int(quality), subsampling="4:2:0")
    return replace(pair, rgb=np.asarray(Image.open(buffer)))


def dark(pair: RGBDPair, stops: float, rng: np.random.Generator) -> RGBDPair:
    """The picture with 2 ** -stops of the light. Noise and rounding to 8 bits keep it from being brightened again."""
    return replace(pair, rgb=_exposed(_light(pair.rgb) * 2.0**-stops, rng))


def backlit(pair: RGBDPair, stops: float, rng: np.random.Generator) -> RGBDPair:
    """The person with 2 ** -stops of the light before a surround that is white, whose light the lens spreads a little.

    The person is what depth shows near the nearest reading, with its holes filled, and all else is the surround. Where
    everything is near, or nothing has a reading, the whole picture gets darker.
    """
    readings = pair.depth[pair.depth > 0]
    reach = pair.depth.shape[1] if pair.depth_unit == "pixel" else REACH_MM
    near = (pair.depth > 0) & (pair.depth <= np.percentile(readings, 1) + reach) if len(readings) else pair.depth == 0
    closed = ndimage.binary_closing(np.pad(near, 4), iterations=4)[4:-4, 4:-4]
    person = ndimage.binary_fill_holes(closed | near)[..., None]
    lost = 1 - 2.0**-stops
    return replace(pair, rgb=_exposed(np.where(person, _light(pair.rgb) * (1 - lost) + STRAY * lost, 1.0), rng))


def overexposed(pair: RGBDPair, stops: float, rng: np.random.Generator) -> RGBDPair:
    """The picture with 2 ** stops of the light: what was bright is white, and its detail is gone."""
    return replace(pair, rgb=_encoded(_light(pair.rgb) * 2.0**stops))


def small(pair: RGBDPair, factor: float, rng: np.random.Generator) -> RGBDPair:
    """The picture with one mean colour for `factor` x `factor` pixels, enlarged again smoothly; depth keeps its pixels."""
    height, width = pair.rgb.shape[:2]
    reduced = Image.fromarray(pair.rgb).reduce(int(factor))
    return replace(pair, rgb=np.asarray(reduced.resize((width, height), Image.Resampling.BILINEAR)))


def blur(pair: RGBDPair, sd: float, rng: np.random.Generator) -> RGBDPair:
    """The picture blurred by a Gaussian of this standard deviation, as out of focus or moving a little."""
    return replace(pair, rgb=np.asarray(Image.fromarray(pair.rgb).filter(ImageFilter.GaussianBlur(sd))))


def cover(rgb: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """The crop (S, S, 3) with a grey square over this share of it, about a point near its middle; larger squares
    contain smaller ones.
    """
    size = len(rgb)
    side = round(np.sqrt(share) * size)
    fraction = 0.25 + rng.random(2) / 2  # 0: the square touches the upper or left border, 1: the lower or right one
    top, left = (np.floor(fraction * (size - side) + 0.5)).astype(int)
    covered = rgb.copy()
    covered[top : top + side, left : left + side] = 128
    return covered


def _light(rgb: np.ndarray) -> np.ndarray:
    """Relative light (H, W, 3) from 0 to 1 of a picture in sRGB (IEC 61966-2-1)."""
    value = rgb / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def _encoded(light: np.ndarray) -> np.ndarray:
    """The picture (H, W, 3) uint8 in sRGB of relative light, which is cut to 0 and 1."""
    light = np.clip(light, 0, 1)
    value = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.round(255 * value).astype(np.uint8)


def _exposed(light: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The picture that a sensor of FULL_WELL and READ_NOISE takes of relative light, with the noise of photons."""
    sd = np.sqrt(light / FULL_WELL + (READ_NOISE / FULL_WELL) ** 2)
    return _encoded(light + sd * rng.standard_normal(light.shape))


def depth_noise(pair: RGBDPair, sd: float, rng: np.random.Generator) -> RGBDPair:
    """Readings with independent normal noise of this standard deviation; none falls to 0, which means no reading."""
    noisy = pair.depth + np.float32(sd) * rng.standard_normal(pair.depth.shape, dtype=np.float32)
    return _with_readings(pair, np.maximum(noisy, 1))


def holes(pair: RGBDPair, share: float, rng: np.random.Generator) -> RGBDPair:
    """Depth that lost this share of its readings, in blobs; the blobs of a small share lie within those of a larger."""
    lattice = Image.fromarray(rng.standard_normal((BLOBS, BLOBS)).astype(np.float32))
    height, width = pair.depth.shape
    order = np.asarray(lattice.resize((width, height), Image.Resampling.BICUBIC))[pair.depth > 0]
    kept = np.ones(len(order), bool)
    kept[np.argsort(order, kind="stable")[: round(share * len(order))]] = False
    depth = pair.depth.copy()
    depth[depth > 0] *= kept
    return replace(pair, depth=depth)


def quantisation(pair: RGBDPair, step: float, rng: np.random.Generator) -> RGBDPair:
    """Readings rounded to multiples of `step`, of which 0 is none."""
    return _with_readings(pair, np.maximum(np.round(pair.depth / np.float32(step)), 1) * np.float32(step))


def coarse_depth(pair: RGBDPair, factor: float, rng: np.random.Generator) -> RGBDPair:
    """Depth with one reading for `factor` x `factor` pixels, that of the middle one; where it has none, all lose theirs."""
    k = int(factor)
    rows, columns = (np.minimum(np.arange(n) // k * k + k // 2, n - 1) for n in pair.depth.shape)
    return _with_readings(pair, pair.depth[rows[:, None], columns])


def misregistration(pair: RGBDPair, shift: float, rng: np.random.Generator) -> RGBDPair:
    """Depth moved by `shift` px up, down, left or right; what enters at the border has no reading."""
    (height, width), k = pair.depth.shape, int(shift)
    down, right = SIDES[rng.integers(len(SIDES))]
    framed = np.pad(pair.depth, k)
    top, left = k - k * down, k - k * right
    return replace(pair, depth=framed[top : top + height, left : left + width].copy())


def _with_readings(pair: RGBDPair, depth: np.ndarray) -> RGBDPair:
    """The pair with the new depth where it had a reading."""
    return replace(pair, depth=np.where(pair.depth > 0, depth, 0).astype(np.float32))


DEGRADE: dict[str, Callable[[RGBDPair, float, np.random.Generator], RGBDPair]] = {
    "resolution": resolution,
    "jpeg": jpeg,
    "dark": dark,
    "backlit": backlit,
    "overexposed": overexposed,
    "small": small,
    "blur": blur,
    "depth_noise": depth_noise,
    "holes": holes,
    "coarse_depth": coarse_depth,
    "quantisation": quantisation,
    "misregistration": misregistration,
}
WHOLE = (lambda level: level >= 1 and level % 1 == 0, "a whole number of pixels")
POSITIVE = (lambda level: 0 < level < np.inf, "a positive number")
STOPS = (lambda level: 0 < level <= 16, "up to 16 stops")
POSSIBLE: dict[str, tuple[Callable[[float], bool], str]] = {
    "resolution": WHOLE,
    "jpeg": (lambda level: 1 <= level <= 95 and level % 1 == 0, "a quality from 1 to 95"),
    "dark": STOPS,
    "backlit": STOPS,
    "overexposed": STOPS,
    "small": WHOLE,
    "blur": POSITIVE,
    "depth_noise": POSITIVE,
    "holes": (lambda level: 0 < level <= 1, "a share up to 1"),
    "coarse_depth": WHOLE,
    "quantisation": POSITIVE,
    "misregistration": WHOLE,
}
