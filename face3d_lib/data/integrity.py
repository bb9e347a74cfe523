"""Can the depth of a data set be trusted? Its unit and range, holes, shift, rounding, noise, frozen frames and origin.

`check_integrity` measures every aligned pair of a folder (see quality.py) and sums the numbers up in a table with a row
for each measure. The warnings of `depth_check.check_depth`, about unit, direction, registration and copies, are among
those of the result.

**Sensor or not.** A network that estimates depth from a picture, and a renderer, draw a smooth surface. A sensor's
readings jitter from pixel to pixel. `depth_measures.zigzag` counts how often depth goes to and fro: near 0 for a
smooth surface, rounded or not. A pair whose zigzag is ZIGZAG_SENSOR or more holds sensor noise; a data set is called
"sensor" where at least SURE_SHARE of its pairs do. Everything else is "smooth": estimated from the picture, rendered, or
filtered until no noise was left, which the numbers alone cannot tell apart. Depth computed pixel by pixel from the
brightness is found by `colour_share`. Noise that somebody added to estimated depth is not found by these, but
`noise_link` tells noise that was drawn pixel by pixel, as in a simulated sensor, from that of real sensors, which match or
filter neighbourhoods.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..base.atomic import plain, write_json
from ..base.tables import write_table
from . import depth_measures as measures
from .convention import DepthConvention
from .depth_check import check_depth, frozen_depth
from .quality import QUALITY, Source, measure_folder, open_source, rounded
from .warp import EYES_TEMPLATE_PX

ZIGZAG_SENSOR = 0.075  # see the top of this file; set by samples of the sets in notebooks/README.md
WHITE_LINK = 0.055  # correlation below which noise counts as white; set by the same samples
SURE_SHARE = 0.75  # of the pairs that could be judged
COLOUR_SURE = 0.5  # R^2; 0.39 and less in single pairs of true, rendered and estimated depth
FROZEN_SHARE = 0.25  # of the lively parts of a depth map that equal another picture's
HOLES_LIMIT = 0.2  # median share of the face without a reading
SHIFT_LIMIT = 0.1  # eye distances between depth and colour
STEP_LIMIT = 5.0  # mm; a nose stands out by 20 mm
NOISE_LIMIT = 5.0  # mm
GROUPS = 10  # of people, left out in turn for the standard error of the shift (jackknife)
FEW_PAIRS = 20  # least number of pairs for a shift of the data set, and for how noise grows with distance
SPREAD = 1.15  # least ratio between the distances of the quarters of the pairs that lie nearest and farthest


@dataclass(frozen=True)
class Integrity:
    """What `check_integrity` found."""

    table: pd.DataFrame  # a row for each measure: measure, value, unit, note, warning ("" where all is well)
    pairs: pd.DataFrame  # a row for each pair, as of `quality.measure_folder`, and frozen_share and origin
    origin: str  # "sensor", "smooth", "mixed", "colour" or "unknown"
    warnings: list[str]  # one line for each thing that looks wrong


def check_integrity(
    root: Path, table: pd.DataFrame, convention: DepthConvention | None = None, workers: int | None = None
) -> Integrity:
    """Measure the depth of all aligned pairs of `table` (alignment.csv as text) in `root`.

    `root` is the raw folder that was aligned, or the aligned folder itself; the raw one is better, because crops repeat
    and skip readings, and partly frozen maps are found in raw maps alone. The table's `value` is a float, NaN
    with the reason in `note` where it cannot be measured. Raises UserError where `root` holds none of the pairs.
    """
    source = open_source(root, convention)
    pairs, arrays = measure_folder(root, table, convention, workers)
    ok = table[table["status"] == "ok"].reset_index(drop=True)
    frozen = frozen_depth(ok).to_numpy()
    shares = np.full(len(ok), np.nan) if source.aligned else _frozen_shares(ok, arrays)
    pairs["frozen_share"] = np.where(frozen, 1.0, shares)
    pairs["origin"] = _origins(pairs)
    rows = [*_ranges(pairs, source), *_shift(pairs, arrays), *_readings(pairs, source), *_frozen(pairs, source)]
    origin, row = _origin(pairs)
    summed = pd.DataFrame([*rows, row], columns=["measure", "value", "unit", "note", "warning"])
    warnings = [line for line in summed["warning"] if line]
    return Integrity(summed, pairs, origin, [*check_depth(table), *warnings])


def write_integrity(folder: Path, found: Integrity) -> None:
    """Write integrity.json (origin, warnings, and the table as `rows`) and quality.csv, a row a pair, into `folder`."""
    entries = {"origin": found.origin, "warnings": found.warnings, "rows": found.table}
    write_json(folder / "integrity.json", plain(entries))
    write_table(folder / "quality.csv", rounded(found.pairs))


def worst_pairs(pairs: pd.DataFrame, columns: list[str]) -> dict[str, tuple[str, float]]:
    """{column: (pair_id, value)} of the worst pair by each of `columns`, which are some of QUALITY; none where all are
    NaN."""
    worst = {}
    for name in columns:
        known = pairs.dropna(subset=name).sort_values(name, ascending=QUALITY[name] > 0)
        if len(known):
            worst[name] = (str(known["pair_id"].iloc[0]), float(known[name].iloc[0]))
    return worst


def _row(measure: str, value: float, unit: str, note: str, warning: str = "") -> dict[str, Any]:
    return {"measure": measure, "value": float(value), "unit": unit, "note": note, "warning": warning}


def _middle(values: pd.Series, what: str) -> tuple[float, str]:
    """(median, a note with the 5th and 95th percentile and the count) of `values`; NaN and the reason for none."""
    known = values.dropna()
    if not len(known):
        return np.nan, f"{what}; could not be measured in any pair"
    low, high = np.percentile(known, [5, 95])
    return float(known.median()), f"{what}; median of {len(known)} pairs, 5 to 95 %: {low:.3g} to {high:.3g}"


def _ranges(pairs: pd.DataFrame, source: Source) -> list[dict[str, Any]]:
    declared = source.convention
    scale = f", numbers x {declared.scale:g}" if declared.scale != 1 else ""
    per_unit, note = _middle(pairs["mm_per_unit"], f"declared: {declared.unit}, larger is {declared.larger_is}{scale}")
    if declared.unit == "pixel":
        note += "; one unit is taken to be one pixel, and eyes to be 63 mm apart"
    rows = [_row("pairs", len(pairs), "count", f"aligned pairs of {pairs['subject_id'].nunique()} people")]
    rows.append(_row("unit", per_unit, "mm in one unit of depth", note))
    distance, note = _middle(pairs["distance_mm"], "from the camera to the face")
    if np.isnan(distance):
        note = "depth is no distance from the camera: its unit is a pixel, or larger is nearer"
    rows.append(_row("distance", distance, "mm", note))
    spans = _middle(pairs["depth_range"] * pairs["mm_per_unit"], "between the 5th and 95th percentile inside a face")
    rows.append(_row("range", spans[0], "mm", spans[1]))
    holes, note = _middle(pairs["holes"], "pixels of the face without a reading")
    warning = f"depth: {holes:.0%} of the face has no reading (median)" if holes > HOLES_LIMIT else ""
    rows.append(_row("no reading", holes, "share", note, warning))
    return rows


def _shift(pairs: pd.DataFrame, arrays: dict[str, dict[str, np.ndarray]]) -> list[dict[str, Any]]:
    """The shift of all pairs together, in px of the picture, with its standard error; depth right of and below colour
    is positive."""
    known = pairs[[("surface" in arrays[pair_id]) for pair_id in pairs["pair_id"]]]
    if len(known) < FEW_PAIRS:
        reason = f"{len(known)} pairs could be measured, {FEW_PAIRS} are needed"
        return [_row(f"shift {axis}", np.nan, "px", reason) for axis in "xy"]
    surfaces = np.stack([arrays[pair_id]["surface"] for pair_id in known["pair_id"]])
    shift, scale = measures.shift_of(surfaces.mean(0)), known["scale"].median()
    group = known["subject_id"].astype("category").cat.codes.to_numpy() % GROUPS
    left_out = [measures.shift_of(surfaces[group != k].mean(0)) for k in np.unique(group) if (group != k).any()]
    several = len(left_out) > 1
    errors = np.sqrt((len(left_out) - 1) * np.var(left_out, axis=0)) if several else np.full(2, np.nan)
    off = float(np.hypot(*shift)) / EYES_TEMPLATE_PX
    warning = ""
    if off > SHIFT_LIMIT:
        warning = (
            f"depth: it lies ({shift[0] * scale:+.1f}, {shift[1] * scale:+.1f}) px right of and below colour, "
            f"{off:.2f} eye distances: register depth to colour"
        )
    rows = []
    for axis, k, side in (("x", 0, "right of"), ("y", 1, "below")):
        note = f"depth lies {side} colour; all {len(known)} pairs together, standard error {errors[k] * scale:.2g} px"
        if np.isnan(shift[k]):
            note = "colour does not tell where depth lies: the best fit is at the border of the search"
        rows.append(_row(f"shift {axis}", shift[k] * scale, "px", note, warning if axis == "x" else ""))
    return rows


def _readings(pairs: pd.DataFrame, source: Source) -> list[dict[str, Any]]:
    """Rows about rounding and noise."""
    to_file = source.convention.scale * (1000.0 if source.convention.unit == "m" else 1.0)
    step, note = _middle(pairs["step"] / to_file, "all readings are whole multiples of it; 0: no step")
    step_mm, _ = _middle(pairs["step"] * pairs["mm_per_unit"], "")
    warning = f"depth: it is rounded to {step_mm:.1f} mm" if step_mm > STEP_LIMIT else ""
    rows = [
        _row("quantisation step", step, "number in the file", note, warning),
        _row("quantisation step in mm", step_mm, "mm", "the same in mm"),
    ]
    noise, note = _middle(pairs["noise_mm"], "what is left after local surfaces")
    rounding = step_mm / np.sqrt(12)
    if noise > 0 and rounding > 0:
        note += f"; rounding alone gives {rounding:.2g}"
    warning = f"depth: its noise is {noise:.1f} mm" if noise > NOISE_LIMIT else ""
    rows.append(_row("noise", noise, "mm", note, warning))
    rows += [_growth(pairs), _link(pairs)]
    return rows


def _link(pairs: pd.DataFrame) -> dict[str, Any]:
    """Whether the noise was drawn for each pixel by itself, as in a simulation; only pairs with sensor noise count."""
    unit = "correlation"
    if (pairs["origin"] == "sensor").mean() < 0.5:
        return _row("noise between neighbours", np.nan, unit, "most pairs hold no sensor noise")
    known = pairs["noise_link"][pairs["origin"] == "sensor"]
    link, note = _middle(known, "correlation of the noise along a row")
    if not np.isnan(link):
        kind = "white, as a simulated sensor's" if link < WHITE_LINK else "linked, as a real sensor's"
        note += f"; {kind}: below {WHITE_LINK} in {(known.dropna() < WHITE_LINK).mean():.0%} of the pairs"
    return _row("noise between neighbours", link, unit, note)


def _growth(pairs: pd.DataFrame) -> dict[str, Any]:
    """How noise grows with distance: the exponent of a power law by least squares of logarithms."""
    unit, what = "exponent", "noise grows with this power of the distance; 2 for triangulating sensors"
    known = pairs[(pairs["noise_mm"] > 0) & (pairs["distance_mm"] > 0)]
    if len(known) < FEW_PAIRS:
        return _row("noise over distance", np.nan, unit, f"{len(known)} pairs have a distance, {FEW_PAIRS} are needed")
    near, far = np.percentile(known["distance_mm"], [25, 75])
    if far < SPREAD * near:
        return _row("noise over distance", np.nan, unit, f"the distances are too alike: {near:.0f} to {far:.0f} mm")
    x, y = np.log(known["distance_mm"].to_numpy()), np.log(known["noise_mm"].to_numpy())
    slope, start = np.polyfit(x, y, 1)
    error = np.sqrt(((y - slope * x - start) ** 2).sum() / (len(x) - 2) / ((x - x.mean()) ** 2).sum())
    return _row("noise over distance", slope, unit, f"{what}; {len(x)} pairs, standard error {error:.2g}")


def _frozen_shares(ok: pd.DataFrame, arrays: dict[str, dict[str, np.ndarray]]) -> np.ndarray:
    """(N,) share of the lively parts of each pair's depth map that equal the part there of one other picture.

    Each part is compared with the first pair that has it, so that the time is linear in the number of pairs. NaN where
    a map has no lively part.
    """
    marks = np.stack([arrays[name].get("marks", np.zeros(measures.BLOCKS**2, np.uint64)) for name in ok["pair_id"]])
    pair, place = np.nonzero(marks)
    parts = pd.DataFrame({"pair": pair, "place": place, "mark": marks[pair, place]})
    parts["picture"] = ok["rgb_sha256"].to_numpy()[pair]
    first = parts.groupby(["place", "mark"])[["pair", "picture"]].transform("first")
    equal = parts[(first["picture"] != parts["picture"])].assign(other=first["pair"])
    both = pd.concat([equal[["pair", "other"]], equal[["other", "pair"]].set_axis(["pair", "other"], axis=1)])
    most = both.groupby(["pair", "other"]).size().groupby("pair").max()
    lively = (marks != 0).sum(1)
    counts = most.reindex(range(len(ok)), fill_value=0).to_numpy()
    return np.where(lively > 0, counts / np.maximum(lively, 1), np.nan)


def _frozen(pairs: pd.DataFrame, source: Source) -> list[dict[str, Any]]:
    whole, known = pairs["frozen_share"] == 1, pairs["frozen_share"].notna()
    rows = [_row("frozen", whole.sum(), "pairs", "the same depth map as another picture's, whole")]
    if source.aligned:
        note = "crops of one map differ: name the raw folder"
        return [*rows, _row("partly frozen", np.nan, "pairs", note)]
    parts = pairs[(pairs["frozen_share"] >= FROZEN_SHARE) & ~whole]
    note = f"{FROZEN_SHARE:.0%} or more of the map equals another picture's, of {int(known.sum())} pairs"
    warning = ""
    if len(parts):
        warning = (
            f"depth: {len(parts)} of {len(pairs)} maps are partly the same as another picture's, such as "
            f"{parts['pair_id'].iloc[0]}: the depth stream froze while a frame was written"
        )
    return [*rows, _row("partly frozen", len(parts), "pairs", note, warning)]


def _origins(pairs: pd.DataFrame) -> np.ndarray:
    """(N,) "sensor", "smooth", "colour" (depth follows the picture's detail) or "" (too few readings) of each pair."""
    origin = np.where(pairs["zigzag"] >= ZIGZAG_SENSOR, "sensor", "smooth")
    origin = np.where(pairs["colour_share"] >= COLOUR_SURE, "colour", origin)
    return np.where(pairs["zigzag"].isna(), "", origin)


def _origin(pairs: pd.DataFrame) -> tuple[str, dict[str, Any]]:
    """(origin of the data set, its row): see the top of this file."""
    judged = pairs["origin"][pairs["origin"] != ""]
    what = "share of pairs with sensor noise"
    if not len(judged):
        return "unknown", _row("origin", np.nan, what, "unknown: no pair has enough readings in the face")
    sensor, colour = (judged == "sensor").mean(), (judged == "colour").mean()
    zigzag = (
        f"zigzag {pairs['zigzag'].median():.3f}, {ZIGZAG_SENSOR} or more is sensor noise; {len(judged)} pairs judged"
    )
    if colour >= 1 - SURE_SHARE:
        warning = f"depth: in {colour:.0%} of the pairs it follows the picture's detail: computed from colour"
        return "colour", _row("origin", sensor, what, f"depth is a function of colour; {zigzag}", warning)
    if sensor >= SURE_SHARE:
        return "sensor", _row("origin", sensor, what, f"sensor; {zigzag}")
    if sensor <= 1 - SURE_SHARE:
        warning = (
            "depth: no sensor noise: it was estimated from the picture, rendered, or smoothed; as a second source "
            "beside colour it may say nothing new"
        )
        return "smooth", _row("origin", sensor, what, f"estimated, rendered or smoothed; {zigzag}", warning)
    warning = f"depth: {sensor:.0%} of the pairs hold sensor noise, the others do not: are two sources mixed?"
    return "mixed", _row("origin", sensor, what, f"mixed; {zigzag}", warning)
