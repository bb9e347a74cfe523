"""A sweep does every run once, goes on after a failure and after a signal, and refuses what cannot be meant."""

import json
import re
import signal
import subprocess
import sys
import textwrap
import time

import nbformat
import pytest

from face3d_lib.base import paths
from face3d_lib.base.errors import UserError
from face3d_lib.base.paths import ROOT
from face3d_lib.base.processes import only_writer
from face3d_lib.runs import plan, record, sweep
from face3d_lib.runs.parameters import find_notebook, parameters_for
from face3d_lib.runs.sweep import Job, read_sweep, run_sweep
from face3d_lib.runs.workers import Workers, side_by_side

GRID = """
parameters: {epochs: 3}
grid: {seed: [0, 1]}
settings:
  - notebook: 31_train_arcface
    grid: {loss: [arcface, cosface]}
  - {notebook: 30_train_softmax, name: rgb, parameters: {modality: rgb, epochs: 5}}
"""


def write(tmp_path, text):
    path = tmp_path / "sweep.yaml"
    path.write_text(textwrap.dedent(text))
    return path


def test_a_grid_becomes_runs(tmp_path):
    data, training = read_sweep(write(tmp_path, GRID), "s")
    assert [job.notebook for job in data] == [stage.notebook for stage in plan.DATA]
    assert [job.run for job in training] == [
        "s/arcface-0", "s/cosface-0", "s/rgb-0", "s/arcface-1", "s/cosface-1", "s/rgb-1",
    ]  # fmt: skip
    assert training[1].parameters == {"epochs": 3, "loss": "cosface", "seed": 0}
    assert training[5].parameters == {"epochs": 5, "modality": "rgb", "seed": 1}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("settings: []", "no settings"),
        ("- a", "no settings"),
        ("settings: [{notebook: 31_train_arcface}]\nsetings: 1", "unknown key 'setings'"),
        ("settings: [{notebok: 31_train_arcface}]", "a setting is a mapping"),
        ("settings: [{notebook: 31_train_arcfaec, grid: {seed: [0]}}]", "31_train_arcface"),
        ("settings: [{notebook: 31_train_arcface, grid: {los: [arcface]}}]", "did you mean loss"),
        ("settings: [{notebook: 31_train_arcface, grid: {loss: [arcfase]}}]", "arcfase"),
        ("settings: [{notebook: 31_train_arcface, grid: {seed: [0]}}, {notebook: 30_train_softmax, grid: {seed: [0]}}]", "two settings"),
        ("data: {50_predict_identity: {}}\nsettings: [{notebook: 31_train_arcface, grid: {seed: [0]}}]", "none of"),
        ("settings: [", "a YAML file is expected"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_before_anything_runs(tmp_path, text, says):
    with pytest.raises(UserError, match=says):
        read_sweep(write(tmp_path, text), "s")


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A notebook that takes a moment and fails for n = 2; runs and notebooks in a folder of their own."""
    notebooks = tmp_path / "notebooks"
    notebooks.mkdir()
    cells = [
        'run: str = "default"  # run\nn: int = 1  # 2 fails\npause: float = 0.0  # seconds',
        "import time\n\nfrom face3d_lib.runs.notebook import open_run\n\nthis = open_run('90_small', globals())",
        "time.sleep(pause)\nassert n != 2\nopen(this.folder / 'times', 'a').write('x')\nthis.done({'n': n})",
    ]
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nb.cells[0].metadata.tags = ["parameters"]
    nb.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nb, notebooks / "90_small.ipynb")
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(sweep, "DATA", [])
    monkeypatch.setenv("FACE3D_RUNS", str(tmp_path / "runs"))
    return notebooks / "90_small.ipynb"


def test_a_failure_stops_nobody_and_what_is_done_is_not_done_again(tmp_path, small):
    path = write(tmp_path, f"settings: [{{notebook: {small}, grid: {{n: [1, 2, 3]}}}}]")
    assert run_sweep(path, "s", jobs=2, progress=False) == 1
    rows = json.loads((tmp_path / "runs/s/sweep.json").read_text())
    assert [row["status"] for row in rows] == ["done", "failed", "done"]
    assert "AssertionError" in (tmp_path / "runs/s/2/90_small.log").read_text()
    assert run_sweep(path, "s", jobs=1, progress=False) == 1
    assert (tmp_path / "runs/s/1/90_small/times").read_text() == "x"


def test_a_signal_ends_the_run_at_work_and_begins_no_other(tmp_path, small):
    path = write(tmp_path, f"settings: [{{notebook: {small}, grid: {{n: [1, 3], pause: [60.0]}}}}]")
    script = f"""
        import sys
        from pathlib import Path
        from face3d_lib.runs import sweep
        sweep.DATA = []
        sys.exit(sweep.run_sweep(Path({str(path)!r}), "s", 1, False))
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], cwd=ROOT)
    record = tmp_path / "runs/s/1-60.0/90_small/run.json"
    while not (record.exists() and json.loads(record.read_text()).get("closed") is False):
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 75
    assert json.loads(record.read_text())["status"] == "preempted"
    assert not (tmp_path / "runs/s/3-60.0/90_small").exists()


def test_each_run_gets_its_share_of_the_cores(tmp_path, small, monkeypatch):
    seen = []

    class Child:
        def __init__(self, command, env, **_):
            seen.append(env["OMP_NUM_THREADS"])

        def wait(self):
            return 0

    monkeypatch.setattr("subprocess.Popen", Child)
    Workers(3).do(Job(str(small), "s/a", {"n": 1}))
    assert seen == ["3"]


def test_jobs_side_by_side_all_run_and_tell_their_end(tmp_path, small, capsys, monkeypatch):
    monkeypatch.setattr("face3d_lib.runs.workers.cores", lambda: 2)
    jobs = [Job(str(small), f"s/{n}", {"n": n}) for n in (1, 2, 3)]
    assert side_by_side(jobs) == 1
    said = capsys.readouterr()
    assert said.out.startswith("2 at a time")
    assert said.out.count("90_small (s/1): done in") == said.out.count("90_small (s/3): done in") == 1
    assert re.search(r"90_small \(s/2\): failed: In \[\d\]: AssertionError", said.out)
    assert side_by_side([jobs[0], jobs[2]]) == 0
    assert (tmp_path / "runs/s/3/90_small/times").read_text() == "x"


def test_a_run_that_is_busy_keeps_its_log(tmp_path, small, capsys):
    job = Job(str(small), "s/a", {"n": 1})
    log = tmp_path / "runs/s/a/90_small.log"
    with only_writer(tmp_path / "runs/s/a/90_small"):
        log.write_text("of the process at work")
        assert Workers(1).do(job) == record.EXIT_CODES["incomplete"]
    assert log.read_text() == "of the process at work"
    assert "is writing here" in capsys.readouterr().err
    assert Workers(1).do(job) == 0


def finished(folder, **parameters):
    """A finished data stage as it was made with these parameters on top of the notebook's own."""
    stage, run = folder.name, folder.parent.name
    path = find_notebook(stage)
    folder.mkdir(parents=True)
    this = record.new_record(stage, run, parameters_for(path, run, parameters), path)
    record.close_record(folder, this, "done")


@pytest.mark.parametrize("data", ["", "data: {00_look_at_pairs: {subjects: 80}, 10_align_faces: {image_size: 64}}"])
def test_a_run_of_own_pairs_keeps_them(tmp_path, monkeypatch, data, capsys):
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    faces = tmp_path / "faces"
    finished(tmp_path / "runs/mine/00_look_at_pairs", data=str(faces), depth_unit="mm")
    jobs, _ = read_sweep(write(tmp_path, f"{data}\n{GRID}"), "mine")
    assert jobs[0].parameters["data"] == str(faces)
    assert record.up_to_date(jobs[0].notebook, jobs[0].run, jobs[0].parameters)  # so it is left alone
    assert ("has pairs of its own" in capsys.readouterr().out) == bool(data)
    assert jobs[1].parameters == ({"image_size": 64} if data else {})
    other = "data: {00_look_at_pairs: {data: /elsewhere}}"
    with pytest.raises(UserError, match="choose another run"):
        read_sweep(write(tmp_path, f"{other}\n{GRID}"), "mine")


def test_without_data_the_stages_of_the_runs_around_are_used(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    finished(tmp_path / "runs/mine/00_look_at_pairs", subjects=33)
    jobs, training = read_sweep(write(tmp_path, GRID), "mine/sweep")
    assert (jobs[0].run, jobs[0].parameters["subjects"]) == ("mine", 33)
    assert jobs[1].run == "mine/sweep"
    assert training[0].run == "mine/sweep/arcface-0"
    jobs, _ = read_sweep(write(tmp_path, f"data: {{20_split_subjects: {{seed: 1}}}}\n{GRID}"), "mine/sweep")
    assert {job.run for job in jobs} == {"mine/sweep"}


def test_values_mean_what_is_written(tmp_path):
    """YAML takes 010 for 8 and 1e-3 for a text; a parameter decides what its value is."""
    grid = "settings: [{notebook: 30_train_softmax, parameters: {init: 010}, grid: {lr: [1e-3], seed: [010]}}]"
    _, (job,) = read_sweep(write(tmp_path, grid), "s")
    assert job.run == "s/1e_3-010"
    assert job.parameters == {"init": "010", "lr": 0.001, "seed": 10}


def test_changed_drawing_code_does_not_repeat_a_training(tmp_path, small, monkeypatch):
    path = write(tmp_path, f"settings: [{{notebook: {small}, grid: {{n: [1]}}}}]")
    assert run_sweep(path, "s", progress=False) == 0
    made = tmp_path / "runs/s/1/90_small/run.json"
    drawing, other = "face3d_lib/evaluate/figures.py", "face3d_lib/base/atomic.py"
    changed = json.loads(made.read_text())
    assert other in changed["code_sha256"]
    changed["code_sha256"][drawing] = "another"
    made.write_text(json.dumps(changed))
    assert not record.up_to_date(small, "s/1", {"n": 1})
    assert record.up_to_date(small, "s/1", {"n": 1}, pictures=False)
    assert run_sweep(path, "s", progress=False) == 0
    assert (made.parent / "times").read_text() == "x"
    changed["code_sha256"][other] = "another"
    made.write_text(json.dumps(changed))
    assert run_sweep(path, "s", progress=False) == 0
    assert (made.parent / "times").read_text() == "xx"
