"""The rates of a stress test as tables: each system at each level, what depth adds to colour there, and the words for it."""

import numpy as np
import pandas as pd

from .conditions import rates
from .degradations import KNOBS
from .intervals import holm, mean_bootstrap, paired_bootstrap
from .metrics.curves import eer_of
from .stress import Stressed

ALPHA = 0.05  # a difference is shown when its corrected p-value is below
BETTER = {"eer": -1, "rank1": 1}  # the sign of an improvement
WORDS = {"eer": ("EER", "lower", "higher"), "rank1": ("rank-1", "higher", "lower")}


def rates_by_level(stressed: Stressed, replicates: int = 200) -> pd.DataFrame:
    """A row for each knob, each of its levels (the clean one first) and each system, with the columns of `rates`."""
    rows = []
    clean = {name: rates(probes, replicates) for name, probes in stressed.probes().items()}
    for knob, levels in stressed.levels.items():
        rows += [{"knob": knob, "level": float(KNOBS[knob].clean), "system": name} | row for name, row in clean.items()]
        for level in levels:
            for name, probes in stressed.probes(knob, level).items():
                rows.append({"knob": knob, "level": float(level), "system": name} | rates(probes, replicates))
    return pd.DataFrame(rows)


def differences(stressed: Stressed, first: str, second: str, replicates: int = 1000) -> pd.DataFrame:
    """The rates of system `second` minus those of `first` on the same acquired probes, the same people drawn for both.

    A row for the clean probes (knob "") and for each level of each knob. Columns: knob, level, and for eer and rank1 the
    difference, _low and _high (95 %), _p, _p_holm (corrected for the number of rows) and _verdict: "pays" where `second`
    is better and the corrected p-value below ALPHA, "hurts" where it is worse, else "not shown", and "no data" without a
    rate. At least 20 replicates for each row are needed: a p-value is never below 1 / (replicates + 1).
    """
    rows = []
    for knob, levels in {"": [0.0], **stressed.levels}.items():
        for level in levels:
            found = stressed.probes(knob, level)
            one, other = (found[name].without_failures() for name in (first, second))
            changed = other.hits() - one.hits()
            row: dict[str, float | str] = {"knob": knob, "level": float(level)}
            for name, interval in (
                ("eer", paired_bootstrap(one.trials(), other.trials(), eer_of, replicates)),
                ("rank1", mean_bootstrap(changed, one.subjects, replicates, difference=True)),
            ):
                row |= interval.named(name)
                row[f"{name}_p"] = np.nan if interval.p_value is None else interval.p_value
            rows.append(row)
    table = pd.DataFrame(rows)
    for name, better in BETTER.items():
        table[f"{name}_p_holm"] = holm(table[f"{name}_p"])
        shown, gain = table[f"{name}_p_holm"] < ALPHA, better * table[name]
        cases = [table[name].isna(), shown & (gain > 0), shown & (gain < 0)]
        table[f"{name}_verdict"] = np.select(cases, ["no data", "pays", "hurts"], "not shown")
    return table


def where_depth_pays(table: pd.DataFrame, rate: str = "eer", unit: str = "mm") -> str:
    """The sentences that a table of `differences` supports: where depth pays, where it hurts, and where neither shows.

    Each knob is named by its label, before its levels; `unit` is that of the depth.
    """
    places: dict[str, dict[str, list[float]]] = {"pays": {}, "hurts": {}, "not shown": {}, "no data": {}}
    for knob, level, verdict in table[["knob", "level", f"{rate}_verdict"]].itertuples(index=False):
        places[verdict].setdefault(knob, []).append(level)
    n, (name, good, bad) = int(table[rate].notna().sum()), WORDS[rate]
    parts = [
        f"By {name}, depth pays (RGB-D has a {good} {name} than RGB; p < {ALPHA:g} after Holm's correction for {n} "
        f"comparisons) {_listed(places['pays'], unit)}.",
        f"It hurts (a {bad} {name}) {_listed(places['hurts'], unit)}.",
        f"No difference is shown {_listed(places['not shown'], unit)}.",
    ]
    if places["no data"]:
        parts.append(f"Nothing could be measured {_listed(places['no data'], unit)}.")
    return " ".join(parts)


def _listed(found: dict[str, list[float]], unit: str) -> str:
    """Knobs with their levels in words, "nowhere" where there is none."""
    texts = []
    for knob, levels in found.items():
        if knob:
            texts.append(f"{KNOBS[knob].label.format(unit=unit)}: {', '.join(f'{level:g}' for level in levels)}")
        else:
            texts.append("clean probes")
    return "with " + "; ".join(texts) if texts else "nowhere"
