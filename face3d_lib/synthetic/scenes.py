"""The same synthetic person in a calm scene, and in that scene with one thing changed by a given amount.

A calm scene is almost frontal and evenly lit, without expression, object or glasses, and still differs a little from
picture to picture, as portraits do. A change replaces one value of the Shot before rendering, so person, sitting, room
and noise stay the same.
"""

import dataclasses

import numpy as np

from ..base.errors import UserError
from .camera import Shot, SyntheticPair, pair, shot_of
from .people import EXPRESSIONS, Knobs

CALM = Knobs(yaw=4, pitch=3, roll=3, expression=0.25, light=0.2, glasses=0, occlusion=0)
CHANGES = ("yaw", "pitch", "light", "expression", "occlusion", "glasses")
JAW = 10.0  # mm, the opening of a fully opened mouth


def scene(seed: int, subject: int, image: int, change: str = "", level: float = 0) -> SyntheticPair:
    """Image number `image` of person `subject` in a calm scene, with one of CHANGES at `level`; 0 changes nothing.

    The person is the one whom `camera.pair` shows with the same numbers and default knobs.
    """
    shot = shot_of(seed, subject, image, CALM)
    return pair(seed, subject, image, Knobs(), changed(shot, change, level, subject + image))


def changed(shot: Shot, change: str, level: float, number: int) -> Shot:
    """`shot` with one of CHANGES at `level`; at level 0 `shot` itself.

    yaw, pitch: degrees; light: azimuth of the key light, degrees; expression: strength, 1 = full; occlusion: size, 1 =
    a hand; glasses: worn. `number` of the picture decides on the side (even: left, up) and on the expression.
    """
    if not level:
        return shot
    if change not in CHANGES:
        raise UserError(f"scene: there is no change {change!r}; there are {', '.join(CHANGES)}")
    side = -1 if number % 2 == 0 else 1
    yaw, pitch, roll = shot.angles
    if change == "expression":
        moves = np.zeros_like(shot.moves)
        kind = number % len(moves)
        moves[kind] = level * (1.0 if kind < len(EXPRESSIONS) else JAW)
        return dataclasses.replace(shot, moves=moves)
    values: dict[str, dict] = {
        "yaw": {"angles": (side * level, pitch, roll)},
        "pitch": {"angles": (yaw, side * level, roll)},
        "light": {"key": (side * level, shot.key[1])},
        "occlusion": {"occluded": float(level)},
        "glasses": {"glasses": True},
    }
    return dataclasses.replace(shot, **values[change])
