"""The command line: the two commands of the legacy project, prediction without a notebook, and mistakes that end in one line."""

import json
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from face3d_lib import cli, demo
from face3d_lib.base.errors import UserError
from face3d_lib.base.paths import ROOT
from face3d_lib.data.convention import DepthConvention
from face3d_lib.runs import record
from face3d_lib.runs.parameters import find_notebook, parameters_for
from face3d_lib.runs.plan import Job
from face3d_lib.synthetic import dataset, people

MILLIMETRES = DepthConvention("mm", "farther")


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw") / "faces"
    easy = people.Knobs(yaw=5, occlusion=0, glasses=0)
    dataset.make_dataset(folder, 2, 3, seed=4, knobs=easy, workers=1)
    return folder


def face3d(*words):
    return CliRunner().invoke(cli.app, [str(word) for word in words], catch_exceptions=True)


def test_the_two_commands_of_the_legacy_project(raw, tmp_path):
    crops, tables = tmp_path / "crops", tmp_path / "csv"
    words = ["--image-size", "182", "--margin", "44", "--random-order", "--workers", "1", "--device", "cpu"]
    done = face3d("align", "--input-dir", raw, "--output-dir", crops, *words)
    assert done.exit_code == 0, done.output
    assert json.loads((crops / "dataset.json").read_text())["aligned"]["mode"] == "facenet"
    done = face3d("split", "--input-dir", crops, "--output-dir", tables)
    assert done.exit_code == 0, done.output
    frame = pd.concat(pd.read_csv(tables / f"{name}.csv") for name in ("train", "eval", "test", "dirty"))
    assert len(frame) == 12
    ok = pd.read_csv(tables / "train.csv")
    assert Image.open(tables / ok["rgb_image_path"][0]).size == (182, 182)
    assert np.load(tables / ok["dep_image_path"][0]).shape == (182, 182)


def test_a_mistake_is_one_line_and_exit_code_2(monkeypatch, capsys, tmp_path):
    (tmp_path / "anna").mkdir()
    Image.new("RGB", (50, 50)).save(tmp_path / "anna" / "1.png")
    np.save(tmp_path / "anna" / "1.npy", np.ones((50, 50)))
    words = ["face3d", "align", "--input-dir", str(tmp_path), "--output-dir", str(tmp_path) + "-out"]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert "dataset.json" in message


def test_expectations_hold_for_the_unchanged_demo_only():
    assert demo.no_expectations("40_evaluate_verification") == {"expect_eer_below": 1e9}
    assert demo.no_expectations("30_train_softmax") == {"expect_accuracy_above": -1e9}


@pytest.mark.parametrize(
    ("folder", "run"), [("my faces", "my_faces"), ("José", "Jos"), (".hidden", "hidden"), ("a.b-c_1", "a.b-c_1")]
)
def test_a_run_is_named_after_the_data_folder(folder, run):
    assert demo._run_name_of(Path("/data") / folder) == run


def test_a_folder_that_names_no_run_asks_for_a_name():
    with pytest.raises(UserError, match="--name NAME"):
        demo._run_name_of(Path("/data/人脸"))


def test_own_data_do_not_enter_the_run_of_other_data(raw, tmp_path, monkeypatch):
    """What is wrong is said before anything runs or is written."""
    monkeypatch.setattr("face3d_lib.base.paths.RUNS", tmp_path)
    monkeypatch.setattr(demo, "check_data", lambda *_, **__: None)
    stage, path = tmp_path / "demo" / "00_look_at_pairs", find_notebook("00_look_at_pairs")
    stage.mkdir(parents=True)
    made = record.new_record(stage.name, "demo", parameters_for(path, "demo", {"subjects": 120}), path)
    record.close_record(stage, made, "done")
    before = sorted(tmp_path.rglob("*"))
    done = face3d("demo", "--data", raw, "--name", "demo")
    assert isinstance(done.exception, UserError)
    assert "choose another run" in str(done.exception)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_closing_table_says_what_could_not_be_measured(tmp_path, monkeypatch):
    monkeypatch.setattr("face3d_lib.base.paths.RUNS", tmp_path)
    assert "people -   pairs -" in demo.summary("none")
    metrics = {
        "00_look_at_pairs": {"people": 6, "pairs": 24},
        "10_align_faces": {"aligned": 23, "pairs": 24},
        "40_evaluate_verification": {
            "far_target": 0.01,
            "systems": {"rgb": {"accuracy": 0.5, "eer": 0.25, "tar": None}},
        },
        "41_evaluate_identification": {"systems": {}},
        "29_try_pretrained": {"systems": {"both": {"eer": 0.125, "tar": 0.5, "loo": 0.75}}},
    }
    for name, values in metrics.items():
        folder = tmp_path / "few" / name
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(json.dumps(values))
        (folder / "run.json").write_text('{"status": "done"}')
    lines = demo.summary("few").splitlines()
    assert "faces found 23 (95.8%)" in lines[1]
    assert lines[3].split() == ["rgb", "0.500", "0.250", "-", "-"]
    assert lines[4].split() == ["both", "*", "-", "0.125", "0.500", "0.750"]
    assert any(line.startswith("*: nobody here took part in training") for line in lines)
    assert any(line.startswith("-: could not be measured") for line in lines)


@pytest.fixture
def staged(tmp_path, monkeypatch):
    """A demo whose notebooks only note that they ran; `staged.fails` names the one that fails."""
    this = types.SimpleNamespace(fails="", done=[])
    monkeypatch.setattr("face3d_lib.base.paths.RUNS", tmp_path)

    def run(notebook, run, parameters):
        this.done += [] if notebook == this.fails else [(notebook, run)]
        return int(notebook == this.fails)

    def side_by_side(jobs):
        return max(run(job.notebook, job.run, job.parameters) for job in jobs)

    monkeypatch.setattr(demo, "run_notebook", run)
    monkeypatch.setattr(demo, "side_by_side", side_by_side)
    monkeypatch.setattr(demo, "up_to_date", lambda notebook, run, parameters: (notebook, run) in this.done)
    return this


CHOSEN = {"mode": "template", "epochs": 0, "seed": 0}


def test_a_late_failure_names_itself_alone_and_leaves_the_closing_table(staged, capsys):
    staged.fails = "48_calibrate_scores"
    assert demo.run_demo(None, "few", {}, CHOSEN) == 1
    said = capsys.readouterr()
    assert said.err == "stopped at 48_calibrate_scores (few); the same command resumes there\n"
    assert "closed set: people the network was trained on" in said.out
    staged.fails = ""
    assert demo.run_demo(None, "few", {}, CHOSEN) == 0
    assert staged.done.count(("50_predict_identity", "few")) == 1


def test_an_early_failure_names_what_was_not_run_and_prints_no_table(staged, capsys):
    staged.fails = "40_evaluate_verification"
    assert demo.run_demo(None, "few", {}, CHOSEN) == 1
    said = capsys.readouterr()
    at, later, _ = said.err.split("; ")
    assert at == "stopped at 40_evaluate_verification (few)"
    assert later.startswith("not run: ")
    assert "48_calibrate_scores (few)" in later
    assert "30_train_softmax" not in later
    assert "closed set" not in said.out


def test_on_own_data_no_expectation_is_given_so_that_a_poor_rate_is_noted():
    given = demo._with_choices(Job("48_calibrate_scores", "few", {}), {"data": "/somebody/faces"}, CHOSEN)
    assert given.parameters == {}
    given = demo._with_choices(Job("48_calibrate_scores", "few", {}), {}, CHOSEN | {"epochs": 1})
    assert given.parameters == {"expect_cllr_below": 1e9}


def test_who_has_stopped_reading_is_no_error(tmp_path):
    command = f"{sys.executable} -m face3d_lib.cli --help | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, encoding="utf-8", check=False)
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


@pytest.fixture
def other_people(tmp_path):
    """Embeddings of nobody's network, six people with four pictures each."""
    rng, path = np.random.default_rng(0), tmp_path / "other.npz"
    vectors = np.repeat(rng.normal(size=(6, 8)), 4, axis=0) + rng.normal(size=(24, 8))
    names = np.repeat(list("abcdef"), 4)
    np.savez(path, pair_ids=[f"{name}/{k}" for k, name in enumerate(names)], subject_ids=names, vectors=vectors)
    return path


def test_evaluate_prints_json_alone_or_a_table(other_people):
    done = face3d("evaluate", other_people, "--json", "--replicates", 50, "--far", 0.1, "--far", 0.001)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["genuine"], found["impostor"], found["people"]) == (36, 240, 6)
    for rate in (found["eer"], found["auc"], found["rank1"], found["tar"]["0.1"]):
        assert rate["low"] <= rate["value"] <= rate["high"]
    assert list(found["tar"]) == ["0.1", "0.001"]
    assert found["tar"]["0.001"]["value"] is None
    assert "cannot be measured with 240" in found["tar"]["0.001"]["reason"]
    assert found["thresholds"]
    assert (found["seed"], len(found["sha256"][str(other_people)])) == (0, 64)
    assert found["versions"]["numpy"]
    table = face3d("evaluate", other_people, "--replicates", 50).output
    assert table.index("genuine comparisons 36") < table.index("EER") < table.index("note: vectors of lengths")


def test_evaluate_refuses_in_one_line_and_needs_no_torch(other_people, tmp_path):
    scores = tmp_path / "scores.csv"
    scores.write_text("score,label\n0.9,1\n0.1,maybe\n", encoding="utf-8")
    code = (
        "import sys; from face3d_lib import cli\ntry:\n    cli.main()\nfinally:\n    assert 'torch' not in sys.modules"
    )
    for file, status in ((scores, 2), (tmp_path / "none.npz", 2), (other_people, 0)):
        words = [sys.executable, "-c", code, "evaluate", str(file), "--replicates", "10"]
        done = subprocess.run(words, capture_output=True, text=True, encoding="utf-8", timeout=120)
        assert done.returncode == status, done.stderr
        assert status == 0 or (done.stderr.startswith("error: ") and done.stderr.count("\n") == 1)
        assert (done.stdout == "") == bool(status)
    assert "face3d evaluate embeddings.npz --protocol pairs.csv --json" in face3d("evaluate", "--help").output
