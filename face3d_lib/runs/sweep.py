"""Many runs of training notebooks over one data set: a YAML grid, side by side on one machine, resumable.

    data:                                   # the stages that all runs read; made once, in the run NAME
      00_look_at_pairs: {subjects: 120}
      10_align_faces: {image_size: 64}
    parameters: {epochs: 20}                # of every run that declares them
    grid: {seed: [0, 1, 2]}                 # crossed with every setting below
    settings:
      - notebook: 31_train_arcface
        grid: {loss: [arcface, cosface]}
      - notebook: 30_train_softmax
        parameters: {modality: rgb}

Each run is nested in NAME and named by its notebook's grid: NAME/arcface-0. A run that is done with the same
parameters, code and data is not done again (code that only draws does not count); one that fails does not stop the
others. Without `data`, or where the run NAME has pairs of its own, the data stages stay as they are.
"""

import itertools
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm.auto import tqdm

from ..base.atomic import write_json
from ..base.errors import UserError
from ..base.processes import cores, stopping_signals
from .folders import find_stage, run_folder
from .parameters import find_notebook, is_folder, parameter_model, parameters_for, read_yaml
from .plan import DATA, Job, Stage
from .record import EXIT_CODES, read_record, refuse_other_data
from .workers import Workers, failure

STATUSES = {code: status for status, code in EXIT_CODES.items()}
KEYS = {"data", "parameters", "grid", "settings"}


def read_sweep(path: Path, name: str) -> tuple[list[Job], list[Job]]:
    """(jobs of the data stages in order, jobs of the trainings) of a sweep file for the run `name`.

    A data stage that exists in `name`, or in a run around it, keeps the parameters with which it was made, except those
    that the file's `data` replaces. UserError names what is wrong, before anything runs.
    """
    content = _checked_content(path)
    data = [_data_job(stage, name, content) for stage in DATA]
    common = _crossed(
        content.get("grid")
    )  # the outer loop: a sweep that is stopped early has every setting with few seeds
    jobs = [job for cell in common for setting in content["settings"] for job in _jobs(setting, cell, content, name)]
    if double := {job.run for job in jobs if sum(job.run == other.run for other in jobs) > 1}:
        raise UserError(f"{path}: two settings would write into run {sorted(double)[0]}: give each a `name`")
    return data, jobs


def _checked_content(path: Path) -> dict:
    content = read_yaml(path)
    expected = "a mapping with settings and, as needed, data, parameters, grid is expected"
    if not isinstance(content, dict) or not content.get("settings"):
        raise UserError(f"{path}: no settings: {expected}")
    if unknown := content.keys() - KEYS:
        raise UserError(f"{path}: unknown key {sorted(unknown)[0]!r}: {expected}")
    for setting in content["settings"]:
        if not isinstance(setting, dict) or "notebook" not in setting or setting.keys() - {"notebook", "name", *KEYS}:
            raise UserError(f"{path}: a setting is a mapping of notebook, name, parameters, grid; not {setting!r}")
    names = [stage.notebook for stage in DATA]
    if unknown := (content.get("data") or {}).keys() - set(names):
        raise UserError(f"{path}: data: {sorted(unknown)[0]!r} is none of {', '.join(names)}")
    return content


def _data_job(stage: Stage, name: str, content: dict) -> Job:
    """The job of a data stage: with the parameters it was made with (else the demo's), replaced by those of the file.

    A run keeps its pairs: what the file says about synthetic people does not apply to a run of somebody's own pairs.
    """
    data, fields = content.get("data") or {}, parameter_model(find_notebook(stage.notebook)).model_fields
    given = data.get(stage.notebook) or {}
    # With data of its own a sweep leaves the runs around it alone, and makes all data stages in its own run.
    record = read_record(run_folder(name) / stage.notebook if data else find_stage(name, stage.notebook))
    made = {key: value for key, value in record.get("parameters", {}).items() if key in fields and key != "run"}
    sources = [key for key in made if is_folder(fields[key]) and made[key]]
    if given and sources and not given.keys() & set(sources):
        print(f"{stage.notebook}: run {record['run']} has pairs of its own; the sweep file's {given} does not apply")
        given = {}
    before = made if record.get("parameters") else stage.demo or {}
    job = _job(stage.notebook, record.get("run", name), before | given)
    refuse_other_data(run_folder(job.run) / stage.notebook, find_notebook(stage.notebook), job.parameters)
    return job


def _jobs(setting: dict, cell: dict, content: dict, name: str) -> list[Job]:
    """The jobs of one setting for one cell of the common grid: one for each cell of the setting's own grid."""
    declared = parameter_model(find_notebook(setting["notebook"])).model_fields
    common = {key: value for key, value in (content.get("parameters") or {}).items() if key in declared}
    jobs = []
    for own in _crossed(setting.get("grid")):
        words = [setting["name"]] if "name" in setting else []
        words += [str(value) for value in (own | cell).values()]
        label = "-".join(re.sub(r"[^A-Za-z0-9._]+", "_", word) for word in words)
        jobs.append(
            _job(setting["notebook"], f"{name}/{label}", common | (setting.get("parameters") or {}) | own | cell)
        )
    return jobs


def _crossed(grid: dict | None) -> list[dict]:
    """Every combination of a grid's values: {"seed": [0, 1]} gives [{"seed": 0}, {"seed": 1}]; no grid gives [{}]."""
    axes = grid or {}
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def _job(notebook: str, run: str, parameters: dict) -> Job:
    """A job with its parameters checked and of the declared types; UserError as `parameters_for`."""
    run_folder(run)
    values = parameters_for(find_notebook(notebook), run, parameters)
    return Job(notebook, run, {name: values[name] for name in parameters})


def run_sweep(path: Path, name: str, jobs: int = 1, progress: bool = True) -> int:
    """Do all runs of the sweep file below runs/<name>, `jobs` at a time.

    Returns 0 when every run is done, else the first exit code that is not 0.

    Writes runs/<name>/sweep.json: a row for each run with its parameters and status. A signal is passed on to the
    runs at work, which save; the same command then resumes.
    """
    data, training = read_sweep(path, name)
    work = Workers(max(1, cores() // jobs), pictures=False)
    with stopping_signals(work.stop):
        for stage in data:  # one after the other, because each reads the one before and uses all cores
            if code := work.do(stage, threads=cores()):
                print(failure(stage), file=sys.stderr)
                return code
        with (
            ThreadPoolExecutor(jobs) as pool,
            tqdm(desc=f"sweep {name}", total=len(training), unit="run", disable=None if progress else True) as bar,
        ):
            futures = [pool.submit(work.do, job) for job in training]
            for future in futures:
                future.add_done_callback(lambda _: bar.update())
            codes = [future.result() for future in futures]
    rows = [
        {"notebook": Path(job.notebook).stem, "run": job.run, "parameters": job.parameters, "status": STATUSES[code]}
        for job, code in zip(training, codes, strict=True)
    ]
    write_json(run_folder(name) / "sweep.json", rows)
    failed = [job for job, code in zip(training, codes, strict=True) if code]
    print("\n".join([f"{len(rows) - len(failed)} of {len(rows)} runs done", *map(failure, failed)]))
    return next((code for code in codes if code), 0)
