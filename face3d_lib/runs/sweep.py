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
parameters, code and data is not done again; one that fails does not stop the others.
"""

import itertools
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import yaml
from tqdm.auto import tqdm

from ..base.atomic import write_json
from ..base.errors import UserError
from ..base.paths import ROOT, child_environment
from ..base.processes import cores, stopping_signals
from .folders import run_folder
from .parameters import check_parameters, find_notebook, parameter_model
from .plan import PLAN
from .record import EXIT_CODES, up_to_date

DATA_STAGES = ["00_look_at_pairs", "10_align_faces", "20_split_subjects", "21_pack_dataset"]
STATUSES = {code: status for status, code in EXIT_CODES.items()}
KEYS = {"data", "parameters", "grid", "settings"}


@dataclass(frozen=True)
class Job:
    """One run of a sweep."""

    notebook: str
    run: str
    parameters: dict


def read_sweep(path: Path, name: str) -> tuple[list[Job], list[Job]]:
    """(data stages in order, training runs) of a sweep file; UserError names what is wrong, before anything runs."""
    try:
        plan = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: {' '.join(str(error).split())[:160]}: a sweep file is expected") from None
    if not isinstance(plan, dict) or not plan.get("settings") or (unknown := plan.keys() - KEYS):
        wrong = (
            f"unknown key {sorted(unknown)[0]!r}" if isinstance(plan, dict) and plan.get("settings") else "no settings"
        )
        raise UserError(f"{path}: {wrong}: a mapping with settings and, as needed, data, parameters, grid is expected")
    common, shared = plan.get("parameters") or {}, plan.get("grid") or {}
    given = plan.get("data") or {}
    if unknown := given.keys() - set(DATA_STAGES):
        raise UserError(f"{path}: data: {sorted(unknown)[0]!r} is none of {', '.join(DATA_STAGES)}")
    defaults = {step.notebook: step.demo_parameters for step in PLAN}
    data = [_job(stage, name, defaults[stage] | (given.get(stage) or {})) for stage in DATA_STAGES]
    jobs = []
    for setting in plan["settings"]:
        if not isinstance(setting, dict) or "notebook" not in setting or setting.keys() - {"notebook", "name", *KEYS}:
            raise UserError(f"{path}: a setting is a mapping of notebook, name, parameters, grid; not {setting!r}")
        notebook, own = setting["notebook"], setting.get("grid") or {}
        declared = parameter_model(find_notebook(notebook)).model_fields
        fixed = {key: value for key, value in common.items() if key in declared} | (setting.get("parameters") or {})
        axes = own | shared
        for values in itertools.product(*axes.values()):
            cell = dict(zip(axes, values, strict=True))
            words = ([setting["name"]] if "name" in setting else []) + [str(value) for value in cell.values()]
            label = "-".join(re.sub(r"[^A-Za-z0-9._]+", "_", word) for word in words)
            jobs.append(_job(notebook, f"{name}/{label}", fixed | cell))
    if double := {job.run for job in jobs if sum(job.run == other.run for other in jobs) > 1}:
        raise UserError(f"{path}: two settings would write into run {sorted(double)[0]}: give each a `name`")
    # stopped early, a sweep has every setting with the first seeds
    return data, sorted(jobs, key=lambda job: [values.index(job.parameters[axis]) for axis, values in shared.items()])


def _job(notebook: str, run: str, parameters: dict) -> Job:
    run_folder(run)
    check_parameters(parameter_model(find_notebook(notebook)), parameters | {"run": run})
    return Job(notebook, run, parameters)


def run_sweep(path: Path, name: str, jobs: int = 1, progress: bool = True) -> int:
    """Do all runs of the sweep file below runs/<name>, `jobs` at a time; 0 when every one is done, else its code.

    Writes runs/<name>/sweep.json: a row for each run with its parameters and status. A signal is passed on to the
    runs at work, which save; the same command goes on from there.
    """
    data, training = read_sweep(path, name)
    work = _Work(name, max(1, cores() // jobs))
    with stopping_signals(work.stop):
        for stage in data:  # one after the other: each reads the one before, and each uses all cores
            if code := work.do(stage, threads=cores()):
                print(f"{stage.notebook} ({stage.run}) did not end well: see runs/{stage.run}", file=sys.stderr)
                return code
        with (
            ThreadPoolExecutor(jobs) as pool,
            tqdm(desc=f"sweep {name}", total=len(training), unit="run", disable=not progress) as bar,
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
    failed = [row["run"] for row in rows if row["status"] != "done"]
    print(f"{len(rows) - len(failed)} of {len(rows)} runs done" + (f"; not: {', '.join(failed)}" if failed else ""))
    return next((code for code in codes if code), 0)


class _Work:
    """Runs as processes of their own; a stopping signal reaches those at work, and no other begins."""

    def __init__(self, name: str, threads: int):
        self.name, self.threads = name, threads
        self.stopped, self.children, self.lock = 0, set(), threading.Lock()

    def do(self, job: Job, threads: int | None = None) -> int:
        if self.stopped:
            return EXIT_CODES["preempted"]
        if up_to_date(job.notebook, job.run, job.parameters):
            return 0
        words = [word for key, value in job.parameters.items() for word in ("-p", f"{key}={value}")]
        command = [sys.executable, "-m", "face3d_lib.runs.runner", job.notebook, job.run, *words]
        # two busy processes with a thread for each core each would be many times slower than one
        environment = child_environment(OMP_NUM_THREADS=str(threads or self.threads))
        folder = run_folder(job.run)
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / f"{Path(job.notebook).stem}.log", "wb") as log, self.lock:
            child = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
            self.children.add(child)
        if self.stopped:
            child.terminate()
        code = child.wait()
        with self.lock:
            self.children.discard(child)
        return code if code >= 0 else EXIT_CODES["preempted"]

    def stop(self, number: int, frame) -> None:
        """Signal handler: end the runs at work, which save, and let no other begin."""
        self.stopped = number
        for child in list(self.children):
            child.terminate()
