"""Fusion that knows when to trust depth: the scores of a colour and of a depth network become one log-likelihood ratio.

For each comparison and each of the two systems, LLR = slope * (cosine - centre) + offset, where slope and offset depend on what can be seen of the
two pictures: how far their poses differ, how dark they are, how many readings depth has (FLAWS). A flaw makes a slope
flatter, never steeper, so that a system counts for less where it is blind; and it raises the offset, never lowers it,
because two pictures of one person that differ in pose are less alike, and the same cosine then says more for one person.
The fused LLR is the sum of both, which are learnt together, so that what both see is not counted twice. (Quality-dependent
fusion: Poh and Kittler 2012, "A unified framework for biometric expert fusion incorporating quality measures".)

A system without a score for a comparison adds nothing. It is never given a low score, as if it had seen two people.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..base import paths
from ..base.atomic import write_json
from ..base.errors import UserError

SHIPPED = paths.SHIPPED / "trust.json"
NOTHING = -100.0  # the LLR of a comparison for which neither system has a score: it is never accepted
MIRRORED = 12.0  # degrees by which two poses may differ before a score tells little of the other pose
QUALITIES = ["yaw_deg", "pitch_deg", "brightness", "eye_px", "holes", "noise_mm"]  # columns of `quality.measure_folder`
FLAWS = {  # flaw of a comparison -> the system whose slope and offset it may change, 0 where there is none
    "apart": (
        "colour",
        "depth",
    ),  # 0 to 1: poses differ, left and right being alike, as vectors are of both mirror images
    "turned": ("colour", "depth"),  # of 30 degrees, the yaw of the picture that is turned more
    "dark": ("colour",),  # factors of 2 below a mean grey level of 100, of the darker picture
    "unlike": ("colour",),  # factors of 2 between the brightness of both
    "holes": ("depth",),  # share of the face without a reading, of the worse picture
    "noise": ("depth",),  # factors of 2 above 1 mm, of the noisier picture
    "small": ("depth",),  # factors of 2 below 32 px between the eyes, of the smaller picture
}


def flaws_of(a: pd.DataFrame, b: pd.DataFrame) -> dict[str, np.ndarray]:
    """For each name of FLAWS the (P, G) flaw of each picture of `a` with each of `b`; NaN where it was not measured.

    a, b: tables with the columns QUALITIES, a row a picture.
    """
    left, right = ({name: table[name].to_numpy(np.float64) for name in QUALITIES} for table in (a, b))
    sides = {name: (left[name][:, None], right[name][None]) for name in QUALITIES}
    yaw = [np.minimum(np.abs(side), 60) for side in sides["yaw_deg"]]
    pitch = [np.clip(side, -30, 30) for side in sides["pitch_deg"]]
    light = [np.log2(np.maximum(side, 4)) for side in sides["brightness"]]
    eyes = [np.log2(np.maximum(side, 8)) for side in sides["eye_px"]]
    noise = [np.log2(np.maximum(side, 1)) for side in sides["noise_mm"]]
    apart = np.hypot(yaw[0] - yaw[1], pitch[0] - pitch[1])
    return {
        "apart": 1 - np.exp(-((apart / MIRRORED) ** 2)),
        "turned": np.maximum(*yaw) / 30,
        "dark": np.maximum(np.log2(100) - np.minimum(*light), 0),
        "unlike": np.abs(light[0] - light[1]),
        "holes": np.maximum(*sides["holes"]),
        "noise": np.maximum(*noise),
        "small": np.maximum(5 - np.minimum(*eyes), 0),
    }


@dataclass(frozen=True)
class System:
    """How the cosines of one system become LLRs."""

    centre: float  # the mean cosine of two people
    slope: float  # LLR per unit of cosine where there is no flaw
    offset: float
    flatter: dict[str, float]  # flaw -> change of the slope per unit of it, <= 0
    higher: dict[str, float]  # flaw -> change of the offset per unit of it, >= 0


@dataclass(frozen=True)
class Trust:
    """A fusion that was learnt: two systems, and what flaws the comparisons had that it was learnt from."""

    systems: dict[str, System]  # "colour", "depth"
    typical: dict[str, float]  # flaw -> its median, which stands in where it was not measured
    most: dict[str, float]  # flaw -> the most that was seen; more counts as that
    source: dict[str, Any]  # people, comparisons and the command it was learnt with

    def slopes(self, name: str, a: pd.DataFrame, b: pd.DataFrame) -> np.ndarray:
        """(P, G) the LLR per unit of cosine of the system `name` for each comparison; >= 0."""
        system = self.systems[name]
        flaws = self._within(flaws_of(a, b))
        slope = system.slope + sum(change * flaws[flaw] for flaw, change in system.flatter.items())
        return np.maximum(slope, 0)

    def llr(self, scores: dict[str, np.ndarray], a: pd.DataFrame, b: pd.DataFrame) -> np.ndarray:
        """(P, G) float64 LLRs of comparisons of pictures with the qualities `a` (P) and `b` (G), as of `flaws_of`.

        scores: "colour" and "depth" -> (P, G) cosines, NaN where the modality of either picture is missing; a system
        that is left out is missing everywhere. A comparison without any score gets NOTHING.
        """
        total, known = np.zeros((len(a), len(b))), np.zeros((len(a), len(b)), bool)
        flaws = self._within(flaws_of(a, b))
        for name, cosines in scores.items():
            system = self.systems[name]
            offset = system.offset + sum(change * flaws[flaw] for flaw, change in system.higher.items())
            llr = self.slopes(name, a, b) * (cosines - system.centre) + offset
            total += np.nan_to_num(llr)
            known |= ~np.isnan(cosines)
        return np.where(known, total, NOTHING)

    def save(self, path: Path) -> None:
        """Write to `path` (.json), whole or not at all."""
        write_json(Path(path), asdict(self))

    @classmethod
    def load(cls, path: Path = SHIPPED) -> "Trust":
        """The fusion in a file of `save`, by default the one that comes with the library. UserError where it is damaged."""
        try:
            found = json.loads(Path(path).read_text(encoding="utf-8"))
            return cls(**found | {"systems": {name: System(**system) for name, system in found["systems"].items()}})
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(f"{path}: no fusion that can be read ({error}): install face3d again") from None

    def _within(self, flaws: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The flaws that were not measured set to the typical, those beyond what was learnt from to the most."""
        return {flaw: _known(found, self.typical[flaw], self.most[flaw]) for flaw, found in flaws.items()}


@dataclass(frozen=True)
class Lesson:
    """Pictures of known people to learn a fusion from: N pictures, each with each."""

    scores: dict[str, np.ndarray]  # "colour", "depth" -> (N, N) cosines; one may be left out, as colour that was drawn
    quality: pd.DataFrame  # (N) with the columns QUALITIES
    subject_ids: np.ndarray  # (N,) str
    weight: float = 1.0  # of each of its people


def learn(lessons: list[Lesson], source: dict[str, Any], ridge: float = 0.3) -> Trust:
    """The fusion that makes the lessons' people most probable.

    Two losses are added: that of telling one person from two (logistic, genuine and impostor comparisons weigh the same),
    and that of naming a picture's person among all (the softmax over everybody). Signs are held as in `System`. `ridge`
    is the weight of the squares of the coefficients, in units of the root mean square of what they multiply.
    """
    flaws = [flaws_of(lesson.quality, lesson.quality) for lesson in lessons]
    pooled = {name: np.concatenate([one[name].ravel() for one in flaws]) for name in FLAWS}
    typical = {name: float(np.nanmedian(values)) for name, values in pooled.items()}
    most = {name: float(np.nanquantile(values, 0.99)) for name, values in pooled.items()}
    names = ("colour", "depth")
    centre = {n: float(np.mean([_impostors(one, n).mean() for one in lessons if n in one.scores])) for n in names}
    own = {name: [flaw for flaw, whose in FLAWS.items() if name in whose] for name in names}
    parts = []
    for lesson, found in zip(lessons, flaws, strict=True):
        known = {flaw: _known(found[flaw], typical[flaw], most[flaw]) for flaw in FLAWS}
        nothing = np.full((len(lesson.quality),) * 2, np.nan)
        scores = {name: lesson.scores.get(name, nothing) - centre[name] for name in names}
        terms = [_terms(scores[name], [known[flaw] for flaw in own[name]]) for name in names]
        parts.append((np.concatenate(terms, axis=-1), lesson))
    signs = [sign for name in names for sign in (1, *[-1] * len(own[name]), *[1] * len(own[name]), 0)]
    fitted, systems, start = _fitted(parts, signs, ridge).tolist(), {}, 0
    for name in names:
        k = len(own[name])
        slope, *changes, offset = fitted[start : start + 2 * k + 2]
        pairs = (dict(zip(own[name], values, strict=True)) for values in (changes[:k], changes[k:]))
        systems[name] = System(centre[name], slope, offset, *pairs)
        start += 2 * k + 2
    return Trust(systems, typical, most, source)


def _impostors(lesson: Lesson, name: str) -> np.ndarray:
    return lesson.scores[name][lesson.subject_ids[:, None] != lesson.subject_ids]


def _known(found: np.ndarray, typical: float, most: float) -> np.ndarray:
    return np.minimum(np.where(np.isnan(found), typical, found), most)


def _terms(scores: np.ndarray, flaws: list[np.ndarray]) -> np.ndarray:
    """(N, N, K) what the coefficients of a system multiply: slope, changes of the slope, changes of the offset, offset; 0 without a score."""
    terms = np.stack([scores, *(scores * flaw for flaw in flaws), *flaws, np.ones_like(scores)], axis=-1)
    return np.where(np.isnan(scores)[..., None], 0, terms)


def _fitted(parts: list[tuple[np.ndarray, Lesson]], signs: list[int], ridge: float) -> np.ndarray:
    """(K,) the coefficients of (N, N, K) terms that cost least; signs: 1 for >= 0, -1 for <= 0, 0 for any."""
    from scipy.optimize import minimize  # takes half a second, and only this function needs it

    size = np.sqrt(np.mean([(terms**2).mean(axis=(0, 1)) for terms, _ in parts], axis=0)) + 1e-9
    costs = [_cost_of(terms / size, lesson) for terms, lesson in parts]
    held = np.where(np.array(signs) == 0, 0.01, 1)  # the constants are hardly held

    def cost(values: np.ndarray) -> tuple[float, np.ndarray]:
        each = [one(values) for one in costs]
        total = sum(value for value, _ in each) + ridge / 2 * (held * values**2).sum()
        return float(total), np.sum([slope for _, slope in each], axis=0) + ridge * held * values

    limits = [(0, None) if sign > 0 else (None, 0) if sign < 0 else (None, None) for sign in signs]
    return minimize(cost, np.zeros(len(size)), jac=True, method="L-BFGS-B", bounds=limits).x / size


def _cost_of(terms: np.ndarray, lesson: Lesson) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
    """Both losses of a lesson, in nats times its people, and their slope, as a function of the (K,) coefficients."""
    from scipy.special import expit, logsumexp

    _, person, count = np.unique(lesson.subject_ids, return_inverse=True, return_counts=True)
    same, scale = person[:, None] == person, lesson.weight * len(count)
    one, other = np.nonzero(same & ~np.eye(len(person), dtype=bool))
    genuine, impostor = terms[one, other], terms[~same]
    probe = 1 / (count[person] * (count[person] - 1).clip(1))[one]
    probe *= scale / probe.sum()  # every person weighs the same
    others = np.where(same, -np.inf, -np.log(count[person])[None])  # a picture of each other person

    def cost(values: np.ndarray) -> tuple[float, np.ndarray]:
        llr = terms @ values
        own, rest = llr[one, other], logsumexp(llr + others, axis=1)
        wrong = expit(rest[one] - own)  # probability that another person is named
        among = np.exp(llr + others - rest[:, None])  # (N, N) the probabilities of the others among themselves
        mean = np.matmul(among[:, None], terms)[:, 0]  # (N, K)
        total = probe @ np.logaddexp(0, rest[one] - own)
        slope = (probe * wrong) @ (mean[one] - genuine)
        false = impostor @ values
        total += scale * (np.logaddexp(0, -own).mean() + np.logaddexp(0, false).mean())
        slope += scale * (expit(false) @ impostor / len(false) - expit(-own) @ genuine / len(own))
        return float(total), slope

    return cost
