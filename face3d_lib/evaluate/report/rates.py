"""The rates of a report: every system with intervals, curves, comparisons of systems, people, and groups of people."""

from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ...base.tables import read_table
from ...data.splits import Splits, failures_to_acquire
from ...train.model_files import ModelCard
from ..evaluation import FARS, Evaluation, evaluate
from ..figures import plot_cmc, plot_roc, plot_score_histogram
from ..figures_identification import plot_dir
from ..figures_rates import plot_det
from ..intervals import Interval, holm, mean_bootstrap, paired_bootstrap
from ..metrics.curves import eer_of
from ..metrics.failures import frr_with_fta, wilson
from ..metrics.identification import cmc, dir_at, dir_curve, identified
from ..metrics.thresholds import OperatingPoint, rates_at, threshold_at_far_or_above
from ..pictures import literal, png_of
from ..protocol import unseen_people
from ..score_files import ScoreSet
from ..systems import System
from .provenance import accuracy_of, makes
from .studies import pictures_of
from .tables import Picture, Section, Table, Value

REPLICATES = 500  # of the bootstrap over people
MOST_ROWS = 20  # of a table of people that HTML shows
NO_SCORES = "only scores of comparisons are known"


@dataclass(frozen=True)
class Rated:
    """One system with all its rates; `system` is None for other people's files of scores."""

    label: str
    found: Evaluation
    system: System | None
    card: ModelCard | None  # of a network that this run trained
    threshold: float  # at the FAR asked for, chosen on dev people
    at_dev: OperatingPoint | None
    caution: str
    rank1: Interval


def rate_systems(
    systems: list[System], cards: dict[str, ModelCard], others: dict[str, ScoreSet], far: float
) -> list[Rated]:
    """The rates of every system. `cards`: by name of the system; `others`: files of scores; `far`: of the threshold."""
    rated = []
    for one in systems:
        test, dev = one.trials["test"], one.trials["dev"]
        threshold, caution = threshold_at_far_or_above(dev.impostor, far)
        point = rates_at(test.genuine, test.impostor, threshold)
        right = one.identified()
        rank1 = mean_bootstrap(right.to_numpy(float), right.index.get_level_values(1), REPLICATES)
        found = evaluate(test, FARS, REPLICATES)
        rated.append(Rated(one.label, found, one, cards.get(one.name), threshold, point, caution, rank1))
    nothing = Interval(np.nan, np.nan, np.nan, 0.95, 0, 0, NO_SCORES)
    for name, scores in others.items():
        rated.append(Rated(name, evaluate(scores, FARS, REPLICATES), None, None, np.nan, None, NO_SCORES, nothing))
    return rated


def rates_section(rated: list[Rated], far: float, far_open: float) -> Section:
    """Tables of verification, thresholds and identification, one row for each system, with curves."""
    columns = ["system", "genuine", "impostor", "EER", "AUC", "d'", "rank-1", "closed-set accuracy"]
    rows: list[list[Value]] = []
    for one in rated:
        rows.append([one.label, one.found.genuine, one.found.impostor, one.found.eer, one.found.auc, one.found.d_prime])
        rows[-1] += [one.rank1, accuracy_of(one.card)]
    note = "Brackets hold 95 % intervals from a bootstrap over people. A letter says why a number is missing."
    tables = [Table("systems", "Every system on people never seen in training", columns, rows, note)]
    columns = ["system", *(f"TAR@FAR={asked:g}" for asked in FARS)]
    rows = [[one.label, *(one.found.tar[asked] for asked in FARS)] for one in rated]
    tables.append(Table("tar", "True accept rate at false accept rates of the test people", columns, rows))
    tables.append(_threshold_table(rated))
    columns = ["system", "threshold", "FAR", "TAR", "false accepts", "false rejects"]
    rows = []
    for one in rated:
        if point := one.at_dev:
            counts = [None, None] if np.isnan(point.threshold) else [point.false_accepts, point.false_rejects]
            rows.append([one.label, one.threshold, point.achieved_far, point.tar, *counts])
    note = " ".join(dict.fromkeys(f"{one.label}: {one.caution}." for one in rated if one.caution))
    title = f"At the threshold that gives FAR={far:g} on dev people"
    tables.append(Table("dev_threshold", title, columns, rows, note))
    tables.append(_open_set_table(rated, far_open))
    return Section("Rates", tables=tables, pictures=_curves(rated))


def _threshold_table(rated: list[Rated]) -> Table:
    """The threshold table of each system: thresholds at several false match rates, counts, rates and intervals."""
    rows: list[list[Value]] = []
    for one in rated:
        for row in one.found.thresholds.to_dict("records"):
            fnmr = Interval(row["fnmr"], row["fnmr_low"], row["fnmr_high"], 0.95, 0, 0, row["reason"])
            counts = [None if pd.isna(row[name]) else int(row[name]) for name in ("false_matches", "false_non_matches")]
            asked = f"{row['asked_fmr']:g}" if row["asked_fmr"] else "0 (no impostor)"
            rows.append([one.label, asked, row["threshold"], row["fmr"], counts[0], fnmr, counts[1]])
    columns = ["system", "FMR asked for", "threshold", "FMR", "false matches", "FNMR", "false non-matches"]
    return Table("thresholds", "Thresholds on the test people's own scores", columns, rows)


def _open_set_table(rated: list[Rated], far: float) -> Table:
    rows: list[list[Value]] = []
    for one in rated:
        if one.system is None:
            continue
        dev, test = (one.system.opened[group] for group in ("dev", "test"))
        threshold, caution = threshold_at_far_or_above(dev.alarms, far)
        point = dir_at(test.known, test.probes.subject_ids, test.enrolled.subject_ids, test.unknown, threshold)
        rate = Interval(point.dir, np.nan, np.nan, 0.95, 0, 0, point.reason or caution)
        if not np.isnan(point.dir):
            right = identified(test.known, test.probes.subject_ids, test.enrolled.subject_ids, threshold)
            rate = mean_bootstrap(right, test.probes.subject_ids, REPLICATES)
        rows.append([one.label, len(test.enrolled), point.n_known, point.n_unknown, point.threshold])
        rows[-1] += [rate, point.achieved_far]
    columns = ["system", "enrolled", "known probes", "unknown probes", "threshold", "DIR", "FAR"]
    title = f"Open set: names at the threshold that gives FAR={far:g} on dev people"
    return Table("open_set", title, columns, rows)


def _curves(rated: list[Rated]) -> list[Picture]:
    """ROC, CMC, DIR and histograms of scores, drawn anew, so that they show exactly these systems."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.3))
    shown = [one for one in rated if one.system]
    for number, one in enumerate(rated):
        plot_roc(axes[0], one.found.roc, literal(one.label), number)
    for number, one in enumerate(shown):
        test = one.system.opened["test"]  # type: ignore[union-attr]
        rates = cmc(test.known, test.probes.subject_ids, test.enrolled.subject_ids)
        plot_cmc(axes[1], rates, literal(one.label), number)
    axes[0].set_title("verification")
    axes[1].set_title("identification, closed set")
    caption = "ROC: true over false accept rate. CMC: share of probes whose own person is among the best k."
    found = [_picture(figure, caption)]
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.3))
    for number, one in enumerate(rated):
        plot_det(axes[0], one.found.roc, literal(one.label), number)
    for number, one in enumerate(shown):
        test = one.system.opened["test"]  # type: ignore[union-attr]
        given = (test.known, test.probes.subject_ids, test.enrolled.subject_ids, test.unknown)
        plot_dir(axes[1], dir_curve(*given, [1]), 1, literal(one.label), number)
    axes[0].set_title("detection error tradeoff (DET)")
    axes[1].set_title("identification, open set, rank 1")
    caption = "DET: false non-match over false match rate. Right: right names (DIR) over unknown people accepted (FAR)."
    found.append(_picture(figure, caption))
    rows = -(-len(shown) // 2)
    if rows:
        figure, axes = plt.subplots(rows, 2, figsize=(11, 3.2 * rows), squeeze=False)
        for ax, one in zip(axes.flat, shown, strict=False):
            trials = one.system.trials["test"]  # type: ignore[union-attr]
            plot_score_histogram(ax, trials.genuine, trials.impostor, one.threshold)
            ax.set_title(literal(one.label))
        for ax in axes.flat[len(shown) :]:
            ax.axis("off")
        found.append(_picture(figure, "Scores of test people, and the threshold that was chosen on dev people."))
    return found


def _picture(figure: Figure, caption: str) -> Picture:
    made = Picture(caption, png_of(figure))
    plt.close(figure)
    return made


def comparison_section(rated: list[Rated]) -> Section:
    """The EER of each system minus that of the first one, with the correction for their number."""
    shown = [one for one in rated if one.system]
    if len(shown) < 2:
        return Section("Comparison of the systems", text=["There is one system only, so nothing is compared."])
    first = shown[0]
    pairs = [(first.system.trials["test"], one.system.trials["test"]) for one in shown[1:]]  # type: ignore[union-attr]
    found = [paired_bootstrap(*pair, eer_of, REPLICATES) for pair in pairs]
    corrected = holm([np.nan if d.p_value is None else d.p_value for d in found])
    rows: list[list[Value]] = []
    for one, d, p in zip(shown[1:], found, corrected, strict=True):
        verdict = "not measured" if np.isnan(p) else "more than chance" if p < 0.05 else "not shown"
        rows.append([one.label, d, d.p_value, float(p), verdict])
    columns = ["system", f"EER minus that of {first.label}", "p", "p, corrected (Holm)", "difference"]
    note = (
        "The same people are drawn for both systems. The correction allows for the number of comparisons in this table."
    )
    return Section("Comparison of the systems", tables=[Table("comparison", "Differences", columns, rows, note)])


def failures_section(rated: list[Rated], division: Splits) -> Section:
    """The false reject rate with and without the faces that were not found."""
    lost = failures_to_acquire(division.dirty, "test")
    taken = lost + int((unseen_people(division)["group"] == "test").sum())
    if not taken:
        return Section("Faces that were not found", text=["There is no picture of test people."])
    fta = Interval(lost / taken, *wilson(lost, taken), 0.95, 0, 0)
    rows: list[list[Value]] = []
    for one in rated:
        if one.at_dev is None:
            continue
        fnmr = 1 - one.at_dev.tar
        rates = [fnmr, frr_with_fta(fnmr, fta.value)]
        rows.append([one.label, *(Interval(rate, np.nan, np.nan, 0.95, 0, 0, one.at_dev.reason) for rate in rates)])
    columns = ["system", "FRR without failures (FNMR)", "FRR with failures"]
    tables = [
        Table("fta", "Failures to acquire among test people", ["pictures", "failed", "rate"], [[taken, lost, fta]]),
        Table(
            "frr", "False rejects at the dev threshold", columns, rows, "FRR = FTA + FNMR (1 - FTA), ISO/IEC 19795-1."
        ),
    ]
    return Section("Faces that were not found", tables=tables)


def people_section(run: str, folder: Path | None) -> Section:
    """Rates by person and by group, as notebook 47 wrote them."""
    title = "People and groups"
    if folder is None:
        return Section(title, missing=[makes(run, "47_find_failures", "Rates by person and by group")])
    people = read_table(folder / "people.csv", ["person", "system"])
    columns = ["system", "person", "genuine", "fnmr", "genuine_mean", "impostor", "fmr", "impostor_mean", "animal"]
    worst = people.assign(order=-pd.to_numeric(people["fnmr"], errors="coerce").fillna(-1)).sort_values(
        "order", kind="stable"
    )
    rows = [[_value(cell) for cell in row] for row in worst[columns].itertuples(index=False)]
    heads = [
        "system",
        "person",
        "genuine",
        "FNMR",
        "mean genuine",
        "impostor",
        "FMR",
        "mean impostor",
        "more than chance",
    ]
    note = "The people with the highest false non-match rates come first. Goats match themselves badly, wolves match others."
    tables = [Table("people", "Rates of each person", heads, rows, note, short=MOST_ROWS)]
    groups, text = read_table(folder / "groups.csv", ["group"]), []
    if len(groups):
        rows = []
        for row in groups.to_dict("records"):
            line = [
                row["column"],
                row["group"],
                row["system"],
                *(_value(row[k]) for k in ("people", "pictures", "failed")),
            ]
            rates = [_interval(row, rate) for rate in ("fta", "fnmr", "fmr", "eer", "rank1")]
            rows.append([*line, *rates])
        heads = ["column", "group", "system", "people", "pictures", "failed", "FTA", "FNMR", "FMR", "EER", "rank-1"]
        tables.append(Table("groups", "Rates by the columns of the manifest", heads, rows))
        apart = read_table(folder / "differences.csv", ["column"])
        shown = apart[apart["shown"] == "True"].drop(columns="shown")
        shown["rate"] = shown["rate"].str.upper()
        rows = [[_value(cell) for cell in row] for row in shown.itertuples(index=False)]
        note = f"{len(rows)} of {len(apart)} differences between groups are more than chance (Holm's correction)."
        if rows:
            heads = ["column", "group", "rate", "difference", "low", "high", "p", "system", "p, corrected"]
            tables.append(Table("differences", "Groups that differ from all others", heads, rows))
        text = [note]
    captions = {
        "zoo": "Mean genuine and impostor score of each person; goats and wolves differ by more than chance.",
        "groups": "Rates by group, with 95 % intervals; a line that reaches the right edge goes on beyond it.",
    }
    return Section(title, text, tables, pictures_of(folder, captions))


def _value(cell: str) -> Value:
    """A cell of a csv as a number where it is one."""
    try:
        return int(cell) if cell.lstrip("-").isdecimal() else float(cell)
    except ValueError:
        return cell or ("-" if cell == "" else None)


def _interval(row: dict, rate: str) -> Interval:
    value, low, high = (float(row.get(f"{rate}{end}") or "nan") for end in ("", "_low", "_high"))
    parts = [part.partition(": ")[2] for part in row["reason"].split(" | ") if part.startswith(f"{rate}: ")]
    reason = row["reason"] if row["reason"] == "no data" else "; ".join(parts)
    return Interval(value, low, high, 0.95, 0, 0, reason or ("not measured" if np.isnan(value) else ""))
