"""The demo: the whole plan, from raw pairs to names, on synthetic faces or on the user's; it ends with a table."""

import json
import re
import sys
from pathlib import Path

from .base.errors import UserError
from .base.paths import relative
from .data import convention, manifest, pairs, prospects, splits
from .evaluate.trained import results
from .runs.folders import find_stage, run_folder
from .runs.parameters import find_notebook, parameter_model, parameters_for
from .runs.plan import DATA, TRAINED, Job, demo_waves
from .runs.record import refuse_other_data, up_to_date
from .runs.runner import run_notebook
from .runs.workers import side_by_side

TABLE = (  # the stages of which the closing table tells
    "00_look_at_pairs",
    "10_align_faces",
    "29_try_pretrained",
    "40_evaluate_verification",
    "41_evaluate_identification",
)


def run_demo(data: Path | None, name: str, source: dict, chosen: dict) -> int:
    """Run the demo's notebooks in order into runs/<name>, print the closing table and return the exit code.

    data: folder of raw pairs; None makes synthetic faces. name: the run; "" stands for the data folder's name, or
    "demo". source: depth_unit, larger_is and depth_scale of the data; "" and 0.0 leave them to dataset.json. chosen:
    mode, epochs (0: the demo's own) and seed. Stages that are done are not repeated. UserError, before anything runs
    or is written, for a name, a folder or a parameter that cannot be used.
    """
    name = name or (_run_name_of(data) if data else "demo")
    run_folder(name)
    if data:
        check_data(data, **source)
    own = {"data": str(data.resolve())} | source if data else {}
    waves = [[_with_choices(job, own, chosen) for job in wave] for wave in demo_waves(name)]
    jobs = [job for wave in waves for job in wave]
    checked = [parameters_for(find_notebook(job.notebook), job.run, job.parameters) for job in jobs]
    refuse_other_data(run_folder(name) / jobs[0].notebook, find_notebook(jobs[0].notebook), checked[0])
    for number, wave in enumerate(waves):
        due = [job for job in wave if not up_to_date(job.notebook, job.run, job.parameters)]
        for job in wave:
            if job not in due:
                print(f"{job.notebook} ({job.run}): done before", flush=True)
        # A job that the plan runs beside others always gets the threads that it would get beside them, so that a demo
        # that was killed and started again ends with the same numbers.
        if len(wave) > 1:
            code = side_by_side(due) if due else 0
        else:
            code = run_notebook(due[0].notebook, due[0].run, due[0].parameters) if due else 0
        if code:
            left = [job for job in jobs if not up_to_date(job.notebook, job.run, job.parameters)]
            if not any(job.notebook in TABLE for job in left):
                print(summary(name))
            later = [job for wave in waves[number + 1 :] for job in wave]
            print(stopped([job for job in left if job not in later], later), file=sys.stderr)
            return code
    print(summary(name))
    return 0


def stopped(at: list[Job], later: list[Job]) -> str:
    """The last line of a demo that could not go on: the jobs that did not end well, and those that it did not begin."""
    lists = [", ".join(f"{job.notebook} ({job.run})" for job in jobs) for jobs in (at, later)]
    not_run = f"; not run: {lists[1]}" if later else ""
    return f"stopped at {lists[0]}{not_run}; the same command resumes there"


def check_data(data: Path, depth_unit: str, larger_is: str, depth_scale: float) -> None:
    """Print, before the long work, what a user's folder does not allow; UserError if the demo could not finish."""
    files = pairs.find_pairs(data)
    pairs.require_usable(data, ((row.status, row.detail) for row in files))
    convention.read_convention(data, depth_unit or None, larger_is or None, depth_scale or None)
    settings = splits.SplitSettings()
    people = prospects.expected_people(files, settings)
    prospects.require_training(people, settings)
    notes = manifest.read_manifest(data, [row.pair_id for row in files]).notes
    for line in (*notes, *prospects.unmeasured(people).values()):
        print(f"note: {line}", file=sys.stderr)


def _run_name_of(data: Path) -> str:
    """A run's name from a folder's name: "my faces" gives my_faces; UserError if no letter or digit is left."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", data.resolve().name).strip("._-")[:100]
    if not name:
        raise UserError(f"{data}: no run can be named after this folder: choose a name with --name NAME")
    return name


def _with_choices(job: Job, source: dict, chosen: dict) -> Job:
    """A job of the demo with the choices of the command line; source: parameters of the user's data, else {}."""
    parameters = dict(job.parameters)
    if job.notebook == DATA[0].notebook and source:
        parameters = dict(source)  # in place of the numbers of synthetic people
    if job.notebook == "10_align_faces":
        parameters["mode"] = chosen["mode"]
    if job.notebook in ("20_split_subjects", *TRAINED):
        parameters["seed"] = chosen["seed"]
    if job.notebook in TRAINED and chosen["epochs"]:
        parameters["epochs"] = chosen["epochs"]
    if chosen["epochs"] and not source:  # the expectations hold for the unchanged demo; on own data they only note
        parameters |= no_expectations(job.notebook)
    return Job(job.notebook, job.run, parameters)


def no_expectations(notebook: str) -> dict[str, float]:
    """The parameters expect_... of a notebook, set to values that every result meets."""
    names = [name for name in parameter_model(find_notebook(notebook)).model_fields if name.startswith("expect_")]
    return {name: 1e9 if name.endswith("_below") else -1e9 for name in names}


def summary(name: str) -> str:
    """The closing table of a demo, from the metrics.json of its stages; "-" stands for what could not be measured."""
    pairs, faces = _metrics(name, "00_look_at_pairs"), _metrics(name, "10_align_faces")
    verification, identification = (
        _metrics(name, "40_evaluate_verification"),
        _metrics(name, "41_evaluate_identification"),
    )
    found = _share(faces.get("aligned"), faces.get("pairs"))
    rows = results(verification, identification, _metrics(name, "29_try_pretrained"))
    width = max(14, *(len(row[0]) + 2 for row in rows))
    lines = [
        "",
        f"people {pairs.get('people', '-')}   pairs {pairs.get('pairs', '-')}   faces found {faces.get('aligned', '-')} ({found})",
        *(f"{row[0]:{width}s}{row[1]:>21s}{row[2]:>8s}{row[3]:>14s}{row[4]:>9s}" for row in rows),
        "closed set: people the network was trained on; EER, TAR and rank-1: people never seen in training",
    ]
    if any(row[0].endswith(" *") for row in rows):
        lines.append(
            "*: nobody here took part in training, so all people are tested, each picture with each (rank-1: leave-one-out)"
        )
    if any("-" in row[1:] for row in rows):
        lines.append(
            "-: could not be measured: a fusion of scores names nobody by itself, and too few people leave nothing to compare"
        )
    overview = run_folder(name) / "40_evaluate_verification" / "figures" / "overview.png"
    lines += [
        f"look next: {relative(overview)}, and the executed",
        f"notebooks in {relative(run_folder(name))}/; make lab opens JupyterLab",
    ]
    return "\n".join(lines)


def _metrics(run: str, stage: str) -> dict:
    """The metrics.json of a stage that `run` has or reads; {} where there is none."""
    folder = find_stage(run, stage)
    path = folder / "metrics.json" if folder else None
    return json.loads(path.read_text(encoding="utf-8")) if path and path.exists() else {}


def _share(part: int | None, whole: int | None) -> str:
    return f"{part / whole:.1%}" if part is not None and whole else "-"
