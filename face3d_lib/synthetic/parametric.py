"""People of a second kind: heads from MakeHuman's targets (targets.py), made in another way than those of people.py.

A head is the mesh plus a weighted sum of targets, plus smooth waves. Its hair and beard lift the surface. Everything
depends on the numbers (seed, subject, session) alone. Networks that learnt from heads made in another way err on other
faces, so this kind serves beside the first one and not in its place.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.sparse import csr_array

from .fields import f32, field_at, smoothstep
from .surface import loop_subdivision, splat_depth, spread_points
from .targets import ANCESTRIES, MUSCLES, SEXES, WEIGHTS, Targets, read_targets

EYES_MM = 63.0  # mm, between the eyes of the mean head (Dodgson 2004, doi 10.1117/12.529999)
EYE_HEIGHT, NOSE_DEPTH = 12.0, 105.0  # mm, where eyes and nose tip of every head lie, as in people.py
POINT_AREA = 1.9  # mm^2 of the surface for each point
OPPOSITES = [("incr", "decr"), ("up", "down"), ("out", "in"), ("forward", "backward"), ("convex", "concave"),
             ("uncompress", "compress")]  # fmt: skip
# how much of a feature's range is used, where the whole of it gives heads unlike people's
DAMPED = {"forehead-nubian": 0.1, "forehead-scale": 0.25, "forehead-trans": 0.6, "head-scale": 0.5, "head-back": 0.6,
          "head-trans": 0.0, "head-angle": 0.3, "ear-shape-pointed": 0.1, "ear-shape-triangle": 0.3, "ear-trans": 0.5,
          "neck": 0.4, "eye-epicanthus": 0.7, "head-age": 0.7, "nose-point-down": 0.5, "chin-height-incr": 0.6}  # fmt: skip
WAVES = [(8, 10, (1.0, 1.0, 1.2)), (16, 20, (0.3, 0.3, 0.6)), (32, 40, (0.0, 0.0, 0.2))]  # as people.vary


@dataclass(frozen=True)
class Look:
    """How different people and pictures are. 0 switches an effect off, except for `eyes_px`."""

    features: float = 0.35  # sd of the weights of the targets that change a feature, cut at 1
    uneven: float = 0.3  # sd of the weights of the targets that make a face uneven, cut at 1
    variety: float = 1.0  # mm, smooth waves between people, as Knobs.variety
    mimic: float = 1.2  # mm, smooth movements of the face, drawn for each image, as Knobs.mimic
    action: float = 1.0  # strength of the facial actions
    hair: float = 1.0  # factor on the thickness of hair and beard
    glasses: float = 0.15  # probability that an image shows glasses
    yaw: float = 24.0  # degrees, standard deviation, cut at 2 sd
    pitch: float = 16.0  # degrees, drawn in the same way
    roll: float = 6.0  # degrees, drawn in the same way
    eyes_px: tuple[float, float] = (18.0, 36.0)  # px between the eyes, drawn for each image
    jitter: float = 1.0  # factor on the errors of the points, which are those that a detector made


@dataclass(frozen=True)
class Places:
    """Where things lie on the mean head, n each: azimuth (degrees, 0 = front), height (mm), places for `field_at`."""

    x: np.ndarray
    y: np.ndarray
    azimuth: np.ndarray
    front: np.ndarray  # 1 on the front of the head, 0 behind
    rows: np.ndarray
    cols: np.ndarray

    @classmethod
    def of(cls, points: np.ndarray) -> "Places":
        """The places of points (n, 3)."""
        x, y, z = points.T
        azimuth = np.degrees(np.arctan2(x, z + 15))
        front = smoothstep(-0.1, 0.35, np.cos(np.radians(azimuth)))
        rows, cols = ((122 - y) / f32(337)).clip(0, 1), (azimuth / f32(344) + f32(0.5)).clip(0, 1)
        return cls(x, y, azimuth, front, rows, cols)


class ParametricHead:
    """The mean head with all that can change it: V vertices, N points on the surface that a camera can see."""

    def __init__(self, targets: Targets):
        self.targets = targets
        self.marks = [*self._eyes(), *self._nose_and_mouth()]
        mean = self.body({s: 0.5 for s in SEXES} | {"young": 1.0, "averagemuscle": 1.0, "averageweight": 1.0}
                         | {e: 1 / 3 for e in ANCESTRIES})  # fmt: skip
        eyes = self.landmarks(mean)[:2]
        self.scale = f32(EYES_MM / np.linalg.norm(eyes[1] - eyes[0]))
        self.mean = self.centred(mean * self.scale)
        self.places = Places.of(self.mean)
        self.actions = np.stack([*targets.actions.values()]) * self.scale  # (52, V, 3)
        self.points, self.normals = self._visible_points()
        self.at = Places.of(self.points @ self.mean)
        self.soft = (  # (V,) how much of the smooth movements of the face a vertex takes part in
            self.places.front * smoothstep(-112, -95, self.places.y) * smoothstep(70, 45, self.places.y)
        )
        self.shade = self.places.front * smoothstep(-112, -95, self.places.y)  # (V,) the same for waves
        moved = np.abs(self.actions).max((0, 2)) > 0.02
        self.moving = np.flatnonzero(moved | (self.soft > 0))  # vertices that expressions move
        of_moving = self.points[:, self.moving]
        self.moving_points = np.flatnonzero(np.diff(of_moving.tocsr().indptr))
        self.moving_part: csr_array = of_moving.tocsr()[self.moving_points]
        self.pairs = opposites([*targets.features])

    def body(self, shares: dict[str, float]) -> np.ndarray:
        """Vertices (V, 3) of a mixture: for each word of SEXES, AGES, MUSCLES, WEIGHTS, ANCESTRIES its share (or 0)."""
        v = self.targets.vertices.copy()
        for kind in (self.targets.bodies, self.targets.ancestries):
            for words, target in kind.items():
                weight = np.prod([shares.get(word, 0.0) for word in words])
                if weight:
                    v += f32(weight) * target
        return v

    def landmarks(self, v: np.ndarray) -> np.ndarray:
        """(5, 3): eyes, nose tip and mouth corners of vertices (V, 3), in image order."""
        return np.stack([v[mark].mean(0) for mark in self.marks])

    def centred(self, v: np.ndarray) -> np.ndarray:
        """Vertices (V, 3), moved so that the eyes lie at EYE_HEIGHT in the middle and the nose tip at NOSE_DEPTH."""
        points = self.landmarks(v)
        return v - f32([points[:2, 0].mean(), points[:2, 1].mean() - EYE_HEIGHT, points[2, 2] - NOSE_DEPTH])

    def _eyes(self) -> list[np.ndarray]:
        v = self.targets.vertices
        return [ball[np.argsort(-v[ball, 2])[:6]] for ball in self.targets.eyeballs]

    def _nose_and_mouth(self) -> list[np.ndarray]:
        """The vertex of the nose tip, and those that move most where the corners of the mouth are lifted."""
        v = self.targets.vertices
        middle = np.flatnonzero(np.abs(v[:, 0]) < 3)
        lift = np.linalg.norm(self.targets.features["mouth-angles-up"], axis=1)
        sides = [np.flatnonzero(np.sign(v[:, 0]) == side) for side in (-1, 1)]
        return [middle[np.argsort(-v[middle, 2])[:1]], *(side[np.argsort(-lift[side])[:3]] for side in sides)]

    def _visible_points(self) -> tuple[csr_array, np.ndarray]:
        """(matrix from vertices to points (N, V), unit normals (N, 3)) of the points that are in front in some pose."""
        from .camera import rotation

        smooth, faces = loop_subdivision(self.targets.faces, len(self.mean))
        spread, normals = spread_points(smooth @ self.mean, faces, POINT_AREA)
        points = (spread @ smooth).tocsr()
        opened = 0.6 * self.actions[[*self.targets.actions].index("jawOpen")]
        seen = np.zeros(points.shape[0], bool)
        for shape in (points @ self.mean, points @ (self.mean + opened)):
            for yaw in (-48, -24, 0, 24, 48):
                for pitch in (-32, 0, 32):
                    x, y, z = rotation(yaw, pitch, 0) @ shape.T
                    column, row = ((q + 256) / 2 for q in (x, y))
                    front = splat_depth(column, row, 400 - z, 256)
                    seen |= 400 - z < front[row.astype(int), column.astype(int)] + 6
        return points[np.flatnonzero(seen)].astype(f32), normals[seen]


@lru_cache(maxsize=1)
def parametric_head() -> ParametricHead:
    """The head, made once per process. Raises UserError where the package of the targets is missing or altered."""
    return ParametricHead(read_targets())


def opposites(names: list[str]) -> list[tuple[str, str | None]]:
    """Pairs of targets that undo one another, and with None those that have no opposite."""
    known, used, pairs = set(names), set(), []
    for name in names:
        for up, down in OPPOSITES:
            if name.endswith("-" + up) and (other := name[: -len(up)] + down) in known:
                pairs.append((name, other))
                used |= {name, other}
    return pairs + [(name, None) for name in names if name not in used]


@dataclass(frozen=True)
class Person:
    """What stays the same in all pictures of a person."""

    vertices: np.ndarray  # (V, 3) float32 mm, without hair
    length: int  # of the hair: 0 bald, 1 short, 2 over the ears, 3 long
    deep: float  # mm, thickness of the hair
    beard: float  # mm, its thickness
    line: np.ndarray  # (2,) of the hair: its height and its widow's peak, standard deviations
    lumps: np.ndarray  # (14, 40) lattice of the hair
    part: float  # degrees of azimuth at which long hair begins
    low: float  # mm, the height at which it ends


def traits(rng: np.random.Generator) -> dict[str, float]:
    """The shares of sexes, ages, muscles, weights and ancestries of an adult, each kind with the sum 1."""
    male = float(np.clip(rng.normal(rng.integers(0, 2), 0.2), 0, 1))
    old, muscle, weight = rng.uniform(0, 1), rng.uniform(0.15, 0.85), rng.uniform(0.15, 0.95)
    shares = {"male": male, "female": 1 - male, "young": 1 - old, "old": old}
    for words, value in ((MUSCLES, muscle), (WEIGHTS, weight)):
        shares |= dict(zip(words, (max(0, 1 - abs(2 * value - k)) for k in range(3)), strict=True))
    return shares | dict(zip(ANCESTRIES, rng.dirichlet([0.6] * 3), strict=True))


def draw_features(rng: np.random.Generator, head: ParametricHead, look: Look) -> np.ndarray:
    """The displacement (V, 3) of all features: both sides of a face draw nearly the same weight."""
    drawn: dict[str, float] = {}
    total = np.zeros_like(head.mean)
    for positive, negative in head.pairs:
        both = positive[2:] if positive[:2] in ("l-", "r-") else positive
        if both not in drawn:
            drawn[both] = float(np.clip(rng.standard_normal(), -2.5, 2.5))
        weight = drawn[both] + (0.3 * rng.standard_normal() if both != positive else 0)
        weight = float(np.clip(weight * look.features, -1, 1))
        if negative is None:  # a shape of the whole head or of the ears, for some people
            weight = max(0.0, weight - 0.15)
        name = positive if weight >= 0 or negative is None else negative
        weight = abs(weight) * next((share for key, share in DAMPED.items() if key in name), 1.0)
        if weight > 0.01:
            total += f32(weight) * head.targets.features[name]
    names = [*head.targets.uneven]
    for left, right in zip(names[::2], names[1::2], strict=True):
        weight = float(np.clip(rng.normal(0, look.uneven), -1, 1))
        total += f32(abs(weight)) * head.targets.uneven[left if weight >= 0 else right]
    return total


def add_waves(v: np.ndarray, rng: np.random.Generator, head: ParametricHead, mm: float) -> None:
    """Add waves of 60, 25 and 12 mm length to vertices (V, 3) in place, mostly symmetric, as people.vary does."""
    for rows, cols, heights in WAVES:
        for axis, height in enumerate(heights):
            if height:
                lattice = rng.standard_normal((rows, cols))
                wave = field_at(lattice, head.places.rows, head.places.cols)
                mirrored = field_at(lattice, head.places.rows, 1 - head.places.cols) * f32(-1 if axis == 0 else 1)
                v[:, axis] += f32(height * mm) * head.shade * (f32(0.8) * wave + f32(0.6) * mirrored)


@lru_cache(maxsize=4)
def parametric_person(seed: int, subject: int, look: Look) -> Person:
    """The Person with these numbers."""
    rng, head = np.random.default_rng([seed, 101, subject]), parametric_head()
    shares = traits(rng)
    size = head.scale * f32(1 + 0.03 * np.clip(rng.standard_normal(), -2, 2))
    v = head.centred((head.body(shares) + draw_features(rng, head, look)) * size)
    if look.variety:
        add_waves(v, rng, head, look.variety)
    male = shares["male"] > 0.5
    length = int(rng.choice(4, p=[0.15, 0.55, 0.25, 0.05] if male else [0.01, 0.14, 0.35, 0.5]))
    deep = (0.0, rng.uniform(2, 10), rng.uniform(6, 25), rng.uniform(5, 22))[length] * look.hair
    beard = float(male and rng.random() < 0.35) * rng.uniform(1, 9) * look.hair
    return Person(
        v, length if look.hair else 0, deep, beard, rng.standard_normal(2), rng.standard_normal((14, 40)),
        part=rng.uniform(50, 90), low=rng.uniform(-165, -70),
    )  # fmt: skip


@dataclass(frozen=True)
class Coiffed:
    """A person in one session, with hair and beard."""

    surface: np.ndarray  # (N, 3) float32 mm, the points of the head with hair
    curtain: np.ndarray  # (M, 3) float32 mm, long hair beside the head and in front of the shoulders


@lru_cache(maxsize=4)
def coiffed(seed: int, subject: int, session: int, look: Look) -> Coiffed:
    """The person in a session: hair grows, is combed anew, and the beard is trimmed."""
    head, who = parametric_head(), parametric_person(seed, subject, look)
    rng = np.random.default_rng([seed, 102, subject, session])
    grown, deep = rng.normal(0, 3), who.deep * np.exp(rng.normal(0, 0.15))
    lumps = field_at(who.lumps + 0.5 * rng.standard_normal(who.lumps.shape), head.at.rows, head.at.cols)
    out = hair_depth(head.at, who, deep, grown, lumps)
    if who.beard:
        trimmed = who.beard * np.exp(rng.normal(0, 0.4))
        out += beard_share(head.at) * trimmed * np.maximum(0.3, 1 + 0.25 * lumps)
    surface = head.points @ who.vertices
    away = surface - f32([0, 25, -15])
    away *= (out / np.linalg.norm(away, axis=1))[:, None].astype(f32)
    curtain = curtain_of(who, deep, grown, rng) if who.length == 3 else np.zeros((0, 3), f32)
    return Coiffed(surface + away, curtain)


def hair_depth(at: Places, who: Person, deep: float, grown: float, lumps: np.ndarray) -> np.ndarray:
    """(N,) mm: how far hair of the thickness `deep`, `grown` mm longer than usual, lifts the surface."""
    if not deep:
        return np.zeros_like(at.x)
    side = np.abs(at.azimuth)
    top = 72 + 5 * who.line[0] - 0.5 * grown
    nape = (-75, -60, -95, -185)[who.length] - grown
    temple = (8, 8, -55, -150)[who.length] - 0.5 * grown
    line = top - 5 * max(0, who.line[1]) * np.exp(-((side / 10) ** 2)) + 7 * np.exp(-(((side - 42) / 14) ** 2))
    line = line + (temple - top) * smoothstep(52, 70, side) + (nape - temple) * smoothstep(108, 124, side)
    return smoothstep(-2, 4 + 0.8 * deep, at.y - line + 2 * lumps) * deep * np.maximum(0.3, 1 + 0.2 * lumps)


def beard_share(at: Places) -> np.ndarray:
    """(N,) from 0 to 1: where a beard grows."""
    x, y = np.abs(at.x), at.y
    lips = smoothstep(4, 12, np.abs(y + 62) + x / 3)
    return smoothstep(-36, -58, y + 0.25 * x) * smoothstep(-135, -110, y) * at.front * lips


def curtain_of(who: Person, deep: float, grown: float, rng: np.random.Generator) -> np.ndarray:
    """(M, 3) mm: long hair as a curtain from the temples to the shoulders, one point for each 2 x 2 mm."""
    half = np.arange(who.part, 150, 1.5)
    azimuth, y = np.radians(np.concatenate([half, -half])), np.arange(who.low + grown, 45, 2.0)
    rows, cols = ((122 - y) / 337).clip(0, 1), azimuth / np.radians(344) + 0.5
    lump = field_at(rng.standard_normal((12, 40)), np.repeat(rows, len(cols)), np.tile(cols, len(rows)))
    wide = 1 + 0.0006 * (45 - y)[:, None] + 0.03 * lump.reshape(len(y), -1)
    x, z = (76 + 0.7 * deep) * wide * np.sin(azimuth), (92 + 0.6 * deep) * wide * np.cos(azimuth) - 15
    return np.stack([x, y[:, None] + 0 * x, z], -1).reshape(-1, 3).astype(f32)
