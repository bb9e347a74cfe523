"""What a report says about a run beside its rates: data, depth, audit, protocol, training, and how it was made."""

import json
import shlex
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from ...base.errors import UserError
from ...base.processes import cores
from ...data.prospects import people_of_splits, unmeasured
from ...data.splits import Splits, failures_to_acquire
from ...runs.folders import find_stage, run_folder
from ...runs.parameters import as_words, find_notebook, is_folder, parameter_model
from ...runs.plan import PLAN
from ...runs.record import read_record
from ...train.model_files import ModelCard
from ..audit import audit_split
from ..intervals import Interval
from .tables import Section, Table, Value


def metrics_of(folder: Path | None) -> dict:
    """The metrics.json of a stage's folder; {} where there is none."""
    path = folder / "metrics.json" if folder else None
    return json.loads(path.read_text(encoding="utf-8")) if path and path.is_file() else {}


def done(run: str, name: str) -> Path | None:
    """The folder of a stage that the run has or reads, if it is done."""
    folder = find_stage(run, name)
    return folder if read_record(folder)["status"] == "done" else None


def makes(run: str, name: str, what: str) -> str:
    """The sentence that says how something that is missing is made."""
    return f"{what} is not here: face3d run {name} {run} makes it."


def data_section(run: str) -> Section:
    """Pairs, how many were aligned, and the integrity of the depth as notebook 10 measured it."""
    aligned = done(run, "10_align_faces")
    if aligned is None:
        return Section("Data and depth", missing=[makes(run, "10_align_faces", "The alignment of the pairs")])
    found = metrics_of(aligned)
    rows: list[list[Value]] = [["pairs", found.get("pairs")], ["aligned", found.get("aligned")]]
    rows += [[f"not aligned: {status}", n] for status, n in found.get("statuses", {}).items() if status != "ok"]
    tables = [Table("data", "Pairs", ["what", "count"], rows)]
    path = aligned / "integrity.json"
    if not path.is_file():
        return Section(
            "Data and depth", tables=tables, missing=[makes(run, "10_align_faces", "The integrity of the depth")]
        )
    trust = json.loads(path.read_text(encoding="utf-8"))
    columns = ["measure", "value", "unit", "note"]
    counts = ("count", "pairs")  # units of whole numbers
    for row in trust["rows"]:
        if row["unit"] in counts and row["value"] is not None:
            row["value"] = int(row["value"])
    lines = [[row.get(name) for name in columns] for row in trust["rows"]]
    tables.append(Table("integrity", "Integrity of the depth", columns, lines))
    text = trust.get("warnings") or ["Nothing looks wrong with this depth."]
    return Section("Data and depth", text=[str(line) for line in text], tables=tables)


def protocol_section(division: Splits, cards: dict[str, ModelCard]) -> Section:
    """The audit, who is trained, tuned and tested on, and what cannot be measured."""
    try:
        audited = audit_split(division, cards)
    except UserError as error:
        audited = [f"The audit failed: {error}"]
    people = people_of_splits(division)
    rows: list[list[Value]] = [
        ["train", people["train"], len(division.train) + len(division.eval) + len(division.test)]
    ]
    tables = [Table("parts", "People and pictures", ["part", "people", "pictures"], rows)]
    for group in ("dev", "test"):
        parts = [frame[frame["group"] == group] for frame in (division.gallery, division.probe, division.unknown)]
        rows.append([group, people[group], sum(map(len, parts))])
        names = ("gallery, enrolled people", "probes of them", "pictures of people never enrolled")
        rows += [
            [f"{group}: {name}", part["cls_name"].nunique(), len(part)] for name, part in zip(names, parts, strict=True)
        ]
    rows.append(["set aside", division.dirty["cls_name"].nunique(), len(division.dirty)])
    compared = division.pairs.groupby(["group", "same"]).size()
    counts: list[list[Value]] = [
        [
            group,
            *(int(compared.get((group, same), 0)) for same in ("1", "0")),
            failures_to_acquire(division.dirty, group),
        ]
        for group in ("dev", "test")
    ]
    columns = ["people", "genuine", "impostor", "faces not found"]
    tables.append(Table("comparisons", "Comparisons", columns, counts))
    text = [
        "Train people train the networks. Thresholds and weights are chosen on dev people, and rates are reported on test "
        "people; nobody is in two of these groups. A comparison is accepted exactly when its score is at least the threshold.",
        *(line[:1].upper() + line[1:] + "." * (not line.endswith(".")) for line in audited),
        *unmeasured(people).values(),
    ]
    return Section("Protocol and audit", text=text, tables=tables)


def training_section(models: list[tuple[str, ModelCard]]) -> Section:
    """Parameters, seeds, closed-set accuracy and hashes of each network."""
    if not models:
        return Section("Training", text=["The systems of this report were trained elsewhere."])
    names = [name for name, _ in models]
    keys = list(dict.fromkeys(key for _, card in models for key in card.parameters))
    rows: list[list[Value]] = [[key, *(shown(card.parameters.get(key)) for _, card in models)] for key in keys]
    tables = [Table("training", "Parameters", ["parameter", *names], rows)]
    results: list[list[Value]] = [
        [name, accuracy_of(card), *(_count(card, key) for key in ("people", "train", "eval", "test"))]
        for name, card in models
    ]
    columns = ["network", "closed-set accuracy", "people", "train pictures", "eval pictures", "test pictures"]
    tables.append(Table("closed_set", "The people who were trained on", columns, results))
    hashes: list[list[Value]] = [[name, "weights", card.weights_sha256] for name, card in models]
    packs = {(file, sha) for _, card in models for file, sha in card.pack_sha256.items()}
    hashes += [["all networks", file, sha] for file, sha in sorted(packs)]
    tables.append(Table("hashes", "SHA-256 of weights and training data", ["of", "file", "SHA-256"], hashes))
    return Section("Training", tables=tables)


def accuracy_of(card: ModelCard | None) -> Interval:
    """The closed-set accuracy of a network as its training notebook measured it."""
    value, low, high = (_metric(card, f"accuracy{end}") for end in ("", "_low", "_high"))
    reason = "" if np.isfinite(value) else "no classifier of its own, or no test pictures"
    return Interval(value, low, high, 0.95, 0, 0, reason)


def _metric(card: ModelCard | None, key: str) -> float:
    """A number from the metrics of a card; NaN where it is not there."""
    found = card.metrics.get(key) if card else None
    return float(found) if isinstance(found, int | float) else np.nan


def _count(card: ModelCard, key: str) -> int | None:
    found = _metric(card, key)
    return None if np.isnan(found) else int(found)


def shown(value: Any) -> str:
    """A parameter as text, without the folders of a machine: of an absolute path only the name is left."""
    if isinstance(value, list):
        return ", ".join(shown(item) for item in value)
    if isinstance(value, str) and PurePath(value).is_absolute():
        return f"(folder or file) {PurePath(value).name}"
    return "-" if value is None else str(value)


def records_of(run: str) -> list[dict]:
    """The records of all stages of the run and of the runs nested in it, and of those that it reads from around it."""
    folders = [path.parent for path in run_folder(run).rglob("run.json")]
    folders += [folder for stage in PLAN if (folder := find_stage(run, stage.notebook)) and folder not in folders]
    order = {stage.notebook: number for number, stage in enumerate(PLAN)}
    records = [record for record in map(read_record, folders) if record.get("stage") and record.get("run")]
    return sorted(records, key=lambda record: (order.get(record["stage"], 99), record["run"]))


def commands(records: Iterable[dict], run: str) -> list[str]:
    """The commands that make the run again, in order, with every parameter that is not the notebook's own."""
    lines = []
    for record in records:
        if record["status"] != "done":
            continue
        try:
            fields = parameter_model(find_notebook(record["stage"])).model_fields
        except UserError:
            continue  # a notebook of the user's own
        chosen = {
            name: "FOLDER" if is_folder(fields[name]) else value
            for name, value in record["parameters"].items()
            if name in fields and name != "run" and value != fields[name].default
        }
        chosen = {name: shown(value) if isinstance(value, str) else value for name, value in chosen.items()}
        lines.append(shlex.join(["face3d", "run", record["stage"], record["run"], *as_words(chosen)]))
    return [*lines, shlex.join(["face3d", "report", run])]


def provenance_section(run: str) -> Section:
    """Stages with their times, seeds, versions and hashes, the machine, and the commands that make the run again."""
    records = records_of(run)
    rows: list[list[Value]] = []
    commits: dict[str, None] = {}
    for record in records:
        git = record.get("git") or {}
        commit = f"{git.get('commit', 'unknown')}{' with changes' if git.get('dirty') else ''}"
        commits[commit] = None
        seed = record.get("parameters", {}).get("seed")
        seconds = record.get("seconds")
        rows.append(
            [record["stage"], record["run"], record["status"], str(record.get("started", ""))[:19].replace("T", " ")]
        )
        rows[-1] += [None if seconds is None else round(seconds), None if seed is None else int(seed)]
        rows[-1] += [commit[:10] + commit[40:], str(record.get("result_sha256") or "-")]
    columns = ["stage", "run", "status", "started (UTC)", "seconds", "seed", "git commit", "SHA-256 of the result"]
    tables = [Table("stages", "Stages", columns, rows)]
    used: dict[str, dict[str, None]] = {}
    for record in records:
        named = (record.get("versions") or {}) | {"python": record.get("python"), "platform": record.get("platform")}
        for name, version in named.items():
            if version:
                used.setdefault(name, {})[str(version)] = None
    tables.append(
        Table("versions", "Versions", ["what", "version"], [[name, ", ".join(found)] for name, found in used.items()])
    )
    unfinished = [f"{r['stage']} of run {r['run']} is {r['status']}." for r in records if r["status"] != "done"]
    text = [
        f"Git commit: {', '.join(commits)}.",
        f"This report was written on a machine with {cores()} processor cores.",
    ]
    made = ["git checkout " + next(iter(commits)).split()[0]] if len(commits) == 1 and "unknown" not in commits else []
    title = "How this was made, and how to make it again"
    return Section(title, text, tables, commands=[*made, *commands(records, run)], missing=unfinished)
