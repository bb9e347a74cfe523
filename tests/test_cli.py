"""The command line: the two commands of 2019, prediction without a notebook, and mistakes that end in one line."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from face3d_lib import cli, demo
from face3d_lib.data.convention import DepthConvention
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


def test_the_two_commands_of_2019(raw, tmp_path):
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


def test_expectations_of_synthetic_faces_do_not_bind_other_data():
    assert demo.no_expectations("40_evaluate_verification") == {"expect_eer_below": 1.01}
    assert demo.no_expectations("30_train_softmax") == {"expect_accuracy_above": -0.01}
