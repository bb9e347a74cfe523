"""What other notebooks measured, for a report: enrolment (41), stress (44), protocols (46), likelihood ratios (48)."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..intervals import Interval
from ..trained import LEGENDS
from .provenance import done, metrics_of
from .tables import Picture, Section, Table, Value

NAMES = {  # key in the metrics -> heading
    "eer": "EER",
    "eer_with_fta": "EER with failures",
    "tar": "TAR",
    "dir": "DIR",
    "far": "FAR",
    "fta": "FTA",
    "rank1": "rank-1",
    "rank1_with_fta": "rank-1 with failures",
    "cllr": "Cllr, bits",
    "min_cllr": "min-Cllr, bits",
    "before": "Cllr of the cosine",
    "p": "p, corrected",
}
LEFT_OUT = ("reason", "note", "low", "high")


def table_of(key: str, title: str, records: list[dict], note: str = "") -> Table:
    """A table of records from metrics.json, in which x, x_low and x_high become one interval and null is NaN.

    A record's own reason or note becomes the footnote of its missing numbers; `low` and `high` belong to `change`.
    """
    records = [
        record | {f"change_{end}": record.get(end) for end in ("low", "high") if "change" in record}
        for record in records
    ]
    columns = list(dict.fromkeys(name for record in records for name in record))
    columns = [name for name in columns if name not in LEFT_OUT and not name.endswith(("_low", "_high", "_reason"))]
    rated = {name for name in columns if any(f"{name}_low" in record for record in records)}
    rows: list[list[Value]] = []
    for record in records:
        why = str(record.get("reason") or record.get("note") or "not measured")
        row: list[Value] = []
        for name in columns:
            value = record.get(name)
            if name in rated:
                value, low, high = (_float(record.get(f"{name}{end}")) for end in ("", "_low", "_high"))
                row.append(Interval(value, low, high, 0.95, 0, 0, why if np.isnan(value) else ""))
            elif name in ("system", "model"):
                row.append(label_of(str(record.get(name))))
            else:
                row.append(", ".join(map(str, value)) if isinstance(value, list) else value)
        rows.append(row)
    return Table(key, title, [NAMES.get(name, name.replace("_", " ")) for name in columns], rows, note)


def label_of(name: str) -> str:
    """The label of a system that a file calls by a short name, such as "rgb + depth"."""
    parts = name.split(" + ")
    return " + ".join(LEGENDS.get(part, part) for part in parts) + (", fused" if len(parts) > 1 else "")


def _float(value: float | None) -> float:
    return np.nan if value is None else float(value)


def named(found: dict[str, dict]) -> list[dict]:
    """The records of a dict by system, each with its system."""
    return [{"system": name} | record for name, record in found.items()]


def _enrolment(found: dict) -> tuple[list[str], list[Table]]:
    rows = [{"system": name} | row for name, part in found.get("templates", {}).items() for row in part]
    title = "How many pictures to enrol: templates of 1, 2, 4, ... pictures"
    return [], [table_of("templates", title, rows)] if rows else []


def _stress(found: dict) -> tuple[list[str], list[Table]]:
    tables = [table_of("stress_clean", "Probes as they are, before the stress", named(found.get("clean", {})))]
    for column, rows in found.get("conditions", {}).items():
        if rows:
            tables.append(table_of(f"condition_{column}", f"By the manifest's column {column}", rows))
    return [str(line) for line in found.get("sentences", {}).values()], tables


def _protocols(found: dict) -> tuple[list[str], list[Table]]:
    return [], [table_of("protocols", "One network under every protocol", found.get("rates", []))]


def _calibration(found: dict) -> tuple[list[str], list[Table]]:
    tables = [table_of("calibration", "Log-likelihood ratios, learnt on dev people", named(found.get("systems", {})))]
    if found.get("normalised"):
        tables.append(table_of("normalised", "Normalised scores; change is that of the EER", found["normalised"]))
    return [], tables


Content = Callable[[dict], tuple[list[str], list[Table]]]
PARTS: dict[str, tuple[str, Content, dict[str, str]]] = {  # notebook -> title, tables, figures without faces
    "41_evaluate_identification": (
        "Enrolment",
        _enrolment,
        {
            "gallery_sizes": "Rank-1 and DIR by the number of enrolled people: mean and standard deviation of random galleries.",
            "template_sizes": "Rank-1, DIR and EER by the number of pictures with which each person is enrolled.",
        },
    ),
    "44_stress_systems": (
        "Stress",
        _stress,
        {
            "eer": "EER when probes get worse, with 95 % bands over people; bars are faces that were not found.",
            "rank1": "Rank-1 when probes get worse, with 95 % bands over people; bars are faces that were not found.",
            "differences": "Rank-1 of RGB-D minus that of RGB when probes get worse, with 95 % intervals.",
        },
    ),
    "46_compare_protocols": (
        "Protocols",
        _protocols,
        {"protocols": "EER and rank-1 of the same network under every protocol, with 95 % intervals."},
    ),
    "48_calibrate_scores": (
        "Likelihood ratios and quality",
        _calibration,
        {
            "reliability": "Likelihood ratios that the data give over those that are stated, before and after calibration.",
            "discard": "FNMR when the comparisons of the lowest quality are discarded.",
        },
    ),
}


def more_sections(run: str) -> list[Section]:
    """A section for each of these notebooks that is done, and a last one that says how the others are made."""
    found, left = [], []
    for notebook, (title, content, figures) in PARTS.items():
        folder = done(run, notebook)
        if folder is None:
            left.append(f"face3d run {notebook} {run}")
            continue
        text, tables = content(metrics_of(folder))
        section = Section(title, text, [table for table in tables if table.rows], pictures_of(folder, figures))
        found += [section] if section.tables or section.pictures else []
    if left:
        text = ["These notebooks were not run, and the report shows their results when they were:"]
        found.append(Section("Further measurements", text, commands=left))
    return found


def pictures_of(folder: Path, captions: dict[str, str]) -> list[Picture]:
    """The figures of a stage that are there, by the name of the file."""
    paths = {caption: folder / "figures" / f"{name}.png" for name, caption in captions.items()}
    return [Picture(caption, path.read_bytes()) for caption, path in paths.items() if path.is_file()]
