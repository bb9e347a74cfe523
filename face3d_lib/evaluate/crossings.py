"""Where one system overtakes another when probes get worse: the level at which the curves of their EER cross.

Between two levels the curves are taken as straight, so a crossing is known no better than the levels are close. Its
interval comes from drawing people again, the same for both systems and all levels.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from .conditions import Probes
from .degradations import KNOBS
from .intervals import multiplicities
from .metrics.curves import Curve, curves_of
from .stress import Stressed

BEGINS = {"jpeg": 100.0}  # a picture without JPEG is no level of quality, and counts as the highest
COLUMNS = ["knob", "first", "second", "level", "level_low", "level_high", "eer", "place", "place_low", "place_high"]
COLUMNS += ["share", "reason"]


def crossing(difference: np.ndarray, leader: float = 0) -> np.ndarray:
    """(R,) where the sign of `difference` (R, K) turns against `leader`, as a place from 0 to K - 1; inf where it never does.

    Places between two of the K levels are interpolated. leader: the sign before the crossing, which is that of the first
    value that is not 0 in the first row by default. A row that begins on the other side has crossed at place 0.
    """
    rows = np.atleast_2d(np.asarray(difference, float))
    if not leader:
        leader = next((float(np.sign(value)) for value in rows[0] if value), 1.0)
    ahead = rows * leader
    over = ahead < 0
    after = np.where(over.any(axis=1), over.argmax(axis=1), 0)
    every = np.arange(len(rows))
    before, behind = ahead[every, np.maximum(after - 1, 0)], ahead[every, after]
    with np.errstate(invalid="ignore", divide="ignore"):
        place = np.where(after > 0, after - 1 + before / (before - behind), 0)
    return np.where(over.any(axis=1), place, np.inf)


def crossings(stressed: Stressed, pairs: Sequence[tuple[str, str]], replicates: int = 100) -> pd.DataFrame:
    """A row for each knob and each of `pairs` of systems (first, second), with the columns COLUMNS; pairs with a system
    that the test does not have are left out.

    level: where the EER of one crosses that of the other for the first time, interpolated; eer: their EER there; _low
    and _high: 95 % of the draws of people. An end is NaN where more than 2.5 % of the draws lie beyond the worst level.
    place: the same as a place among the levels, the clean one at 0. share: of the draws in which the one that is ahead on
    clean probes is overtaken. Where it is not overtaken, level is NaN and `reason` says so.
    """
    found = stressed.probes()
    pairs = [pair for pair in pairs if set(pair) <= set(found)]
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    drawn = multiplicities(len(next(iter(found.values())).gallery), replicates, 0)
    clean = _rates(found, names, drawn) if names else {}
    rows = []
    for knob, levels in stressed.levels.items():
        rates = [clean, *(_rates(stressed.probes(knob, level), names, drawn) for level in levels if names)]
        axis = np.array([BEGINS.get(knob, KNOBS[knob].clean), *levels])
        for first, second in pairs:
            one, other = (np.stack([rate[name] for rate in rates], axis=1) for name in (first, second))
            rows.append({"knob": knob, "first": first, "second": second} | _crossed(axis, one, other, (first, second)))
            if len(KNOBS[knob].levels) == 1:  # worn or not: nothing lies between
                rows[-1] |= dict.fromkeys(COLUMNS[3:10], np.nan) | {"reason": "there is no level between the two"}
    return pd.DataFrame(rows, columns=COLUMNS)


def _crossed(axis: np.ndarray, first: np.ndarray, second: np.ndarray, names: tuple[str, str]) -> dict:
    """The columns of a row from the EER (1 + R, K) of two systems, of all people and then of each draw of people."""
    found: dict = dict.fromkeys(COLUMNS[3:10], np.nan) | {"share": np.nan, "reason": ""}
    known = np.isfinite(first[0]) & np.isfinite(second[0])
    if known.sum() < 2 or not known[0]:
        return found | {"reason": "no rates to compare"}
    axis, first, second, where = axis[known], first[:, known], second[:, known], np.flatnonzero(known)
    difference = second - first
    if not difference[0].any():
        return found | {"reason": "the two are equal at every level"}
    (place,) = crossing(difference[:1])
    leader = float(np.sign(difference[0][np.flatnonzero(difference[0])[0]]))
    usable = difference[1:][np.isfinite(difference[1:]).all(axis=1)]
    places = crossing(usable, leader)
    found["share"] = float(np.isfinite(places).mean()) if len(places) else np.nan
    if not np.isfinite(place):
        ahead = names[0] if leader > 0 else names[1]
        return found | {"reason": f"{ahead} is not overtaken"}
    steps = np.arange(len(axis), dtype=float)
    for end, value in zip(("", "_low", "_high"), [float(place), *_ends(places)], strict=False):
        if np.isfinite(value):
            found[f"level{end}"] = float(np.interp(value, steps, axis))
            found[f"place{end}"] = float(np.interp(value, steps, where))
    found["eer"] = float(np.interp(place, steps, first[0]))
    if np.isnan(found["level_high"]):
        found["reason"] = "more people are needed for the upper end"
    return found


def _ends(places: np.ndarray) -> list[float]:
    """The ends of the 95 % of `places` (R,), of which some may be infinite; [] without any."""
    outside = int(0.025 * (len(places) - 1)) if len(places) else 0
    return np.sort(places)[[outside, -1 - outside]].tolist() if len(places) else []


def _rates(systems: dict[str, Probes], names: Sequence[str], drawn: np.ndarray) -> dict[str, np.ndarray]:
    """By system, (1 + R,) the EER of all people and of each draw (R, G) of the people in the gallery; NaN without data."""
    kept = {name: systems[name].without_failures() for name in names}
    some = kept[names[0]]
    if not len(some.subjects) or len(some.gallery) < 2:
        return {name: np.full(1 + len(drawn), np.nan) for name in names}
    own = np.searchsorted(systems[names[0]].gallery, some.gallery)
    curves = dict(zip(names, curves_of(*(kept[name].trials() for name in names)), strict=True))
    return {name: np.array([_eer(curve), *(_eer(curve, row[own]) for row in drawn)]) for name, curve in curves.items()}


def _eer(curve: Curve, weight: np.ndarray | None = None) -> float:
    return curve.roc(weight).eer()[0]
