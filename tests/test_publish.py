"""No figure of a real face reaches figures/, whatever a run or a parameter is called; those of synthetic faces do."""

import json
import re
import shutil

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from PIL import Image

from face3d_lib import publish
from face3d_lib.base import paths
from face3d_lib.base.errors import UserError
from face3d_lib.runs import record
from face3d_lib.runs.parameters import find_notebook, parameter_model
from face3d_lib.runs.plan import PLAN
from face3d_lib.synthetic import dataset
from face3d_lib.synthetic.people import Knobs

PARAMETERS = """run: str = "default"  # run
epochs: int = 3  # numbers show nobody
device: str = "cpu"  # or cuda
gallery: str = ""  # whatever it is called
choice: Literal["own"] | str = "own"  # a known name or a folder
models: list[str] = ["rgb/30_train"]  # what is read"""
FACES = ["00_faces", "10_align", "40_evaluate"]


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    root = tmp_path_factory.mktemp("synthetic") / "raw"
    dataset.make_dataset(root, 2, 2, seed=3, knobs=Knobs(size=64, occlusion=0), workers=1)
    return root


@pytest.fixture
def desk(tmp_path, monkeypatch, raw):
    """Three stages of the run "default", each with a figure: raw pairs, and two that read on from there."""
    for name in ("RUNS", "FIGURES", "NOTEBOOKS"):
        monkeypatch.setattr(paths, name, tmp_path / name.lower())
    (tmp_path / "notebooks").mkdir()
    for stage in FACES:
        cell = new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})
        nbformat.write(new_notebook(cells=[cell]), tmp_path / "notebooks" / f"{stage}.ipynb")
    make(tmp_path, "default", "00_faces")
    shutil.copytree(raw, tmp_path / "runs/default/00_faces/raw")
    make(tmp_path, "default", "10_align", reads=["00_faces"])
    make(tmp_path, "default/rgb", "40_evaluate", reads=["10_align"])
    return tmp_path


def make(desk, run, stage, reads=(), status="done", **parameters):
    folder = desk / "runs" / run / stage
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    (folder / "figures" / "picture.png").write_bytes(stage.encode())
    (folder / "figures" / "picture.json").write_text("{}")
    values = {
        "run": run,
        "epochs": 3,
        "device": "cpu",
        "gallery": "",
        "choice": "own",
        "models": ["rgb/30_train"],
    } | parameters
    this = record.new_record(stage, run, values, desk / "notebooks" / f"{stage}.ipynb")
    for name in reads:
        upstream = record.read_record(desk / "runs/default" / name)
        this["upstream"][name] = {"folder": f"default/{name}", "result_sha256": upstream["result_sha256"]}
    record.close_record(folder, this, status)


def published(desk) -> set[str]:
    return {path.relative_to(desk / "figures").as_posix() for path in (desk / "figures").rglob("*.png")}


def test_figures_of_synthetic_faces_are_copied(desk):
    (desk / "figures/10_align").mkdir(parents=True)
    (desk / "figures/10_align/of_old.png").touch()
    assert publish.publish("default") == 3
    assert published(desk) == {"00_faces/picture.png", "10_align/picture.png", "40_evaluate/rgb/picture.png"}
    assert (desk / "figures/10_align/picture.json").exists()


def test_those_of_another_run_lie_below_its_name(desk):
    (desk / "runs/default").rename(desk / "runs/demo")
    for path in (desk / "runs/demo").rglob("run.json"):
        path.write_text(path.read_text().replace('"default/', '"demo/'))
    assert publish.publish("demo") == 3
    assert "demo/40_evaluate/rgb/picture.png" in published(desk)


@pytest.mark.parametrize("stage", FACES)
@pytest.mark.parametrize(
    "parameters",
    [
        {"gallery": "/home/me/faces"},
        {"gallery": "faces"},
        {"gallery": "cpu"},
        {"choice": "faces"},
        {"models": ["/faces"]},
        {"models": ["rgb/30_train", "x"]},
    ],
)
def test_a_folder_through_any_parameter_of_any_stage_is_refused(desk, stage, parameters):
    """Also where the stage itself shows no figure of it, but one that reads it does."""
    reads = {"00_faces": [], "10_align": ["00_faces"], "40_evaluate": ["10_align"]}
    for name in FACES[FACES.index(stage) :]:
        run = "default/rgb" if name == "40_evaluate" else "default"
        make(desk, run, name, reads[name], **(parameters if name == stage else {}))
    with pytest.raises(UserError, match=r"may name a folder of real faces"):
        publish.publish("default")
    assert published(desk) == set()


@pytest.mark.parametrize("parameters", [{"epochs": 9}, {"device": "cuda:1"}, {"models": []}, {"models": ["00_faces"]}])
def test_a_value_that_can_name_no_folder_is_no_obstacle(desk, parameters):
    make(desk, "default/rgb", "40_evaluate", ["10_align", "00_faces"], **parameters)
    assert publish.publish("default") == 3


def real_face_added(root):
    Image.new("RGB", (64, 64), "pink").save(root / "p0000" / "me.jpg")


def real_person_added(root):
    (root / "anna").mkdir()
    np.save(root / "anna" / "s1_000.npy", np.ones((64, 64)))


def real_face_under_our_name(root):
    Image.new("RGB", (64, 64), "pink").save(root / "p0001" / "s1_000.png")


def real_face_among_ours(root):
    Image.new("RGB", (64, 64), "pink").save(root / "p0001" / "s2_001.png")


def real_depth_under_our_picture(root):
    path = root / "p0000" / "s2_000.npy"
    np.save(path, np.load(path) + np.uint16(20))


def ours_is_gone(root):
    (root / "p0000" / "s1_001.npy").unlink()


def no_mark(root):
    (root / "dataset.json").write_text('{"depth_unit": "mm", "larger_is": "farther"}')


def forged_mark(root):
    (root / "dataset.json").write_text('{"source": "face3d synthetic faces"}')


def mark_of_other_people(root):
    mark = json.loads((root / "dataset.json").read_text())
    (root / "dataset.json").write_text(json.dumps(mark | {"seed": 4}))


def nothing_there(root):
    shutil.rmtree(root)


SPOILED = [
    *[real_face_added, real_person_added, real_face_under_our_name, real_face_among_ours],
    *[real_depth_under_our_picture, ours_is_gone, no_mark, forged_mark, mark_of_other_people, nothing_there],
]


@pytest.mark.parametrize("spoil", SPOILED, ids=lambda spoil: spoil.__name__)
def test_raw_pairs_that_are_not_ours_are_refused(desk, spoil):
    spoil(desk / "runs/default/00_faces/raw")
    with pytest.raises(UserError, match="nothing was copied"):
        publish.publish("default")
    assert published(desk) == set()


def test_a_nested_run_is_proved_back_to_the_raw_pairs_of_the_runs_around(desk):
    """The stage that holds the pairs is none of those whose figures are copied, and decides all the same."""
    assert publish.publish("default/rgb") == 1
    shutil.rmtree(desk / "figures")
    real_face_under_our_name(desk / "runs/default/00_faces/raw")
    with pytest.raises(UserError, match=r"it read 10_align: it read 00_faces: .* is not what our generator draws"):
        publish.publish("default/rgb")
    assert published(desk) == set()


def test_a_stage_that_is_not_done_or_not_the_projects_own_is_refused(desk):
    make(desk, "default", "10_align", ["00_faces"], status="failed")
    with pytest.raises(UserError, match="the stage is failed"):
        publish.publish("default")
    make(desk, "default", "10_align", ["00_faces"], epochs=4)  # 40 read another
    with pytest.raises(UserError, match="10_align ran again since"):
        publish.publish("default")
    make(desk, "default/rgb", "40_evaluate", ["10_align"])
    assert publish.publish("default") == 3
    notebook = desk / "notebooks/40_evaluate.ipynb"
    notebook.write_text(re.sub("numbers show nobody", "edited", notebook.read_text()))
    with pytest.raises(UserError, match="made by other code"):
        publish.publish("default")


def test_a_run_without_figures_is_named(desk):
    with pytest.raises(UserError, match="run mine has no figures"):
        publish.publish("mine")


def text_parameters() -> list[tuple[str, str]]:
    """Every parameter of every notebook of the project that can hold the name of a folder or a file."""
    found = []
    for stage in PLAN:
        for name, field in parameter_model(find_notebook(stage.notebook)).model_fields.items():
            if name != "run" and "str" in field.title.partition("Literal")[0]:
                found.append((stage.notebook, name))
    return found


def test_no_parameter_of_a_notebook_of_the_project_carries_a_folder():
    assert {("00_look_at_pairs", "data"), ("45_transfer_depth", "sensor")} <= set(text_parameters())
    for notebook, name in text_parameters():
        path = find_notebook(notebook)
        fields = parameter_model(path).model_fields
        values = {key: field.default for key, field in fields.items()}
        made = {"run": "default", "stage": notebook, "upstream": {}, "parameters": values}
        assert publish._doubt_about_parameters(made, path) == ""
        values[name] = ["/faces"] if "list" in fields[name].title else "/faces"
        assert "may name a folder" in publish._doubt_about_parameters(made, path), (notebook, name)
