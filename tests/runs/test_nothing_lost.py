"""A refused or failed attempt changes nothing that was done, a copy takes nothing over, and a run keeps its data."""

import json

import pytest
from specimens import OPEN, PARAMETERS, make_stage, write_notebook

from face3d_lib.base import paths
from face3d_lib.base.errors import UserError
from face3d_lib.runs import folders, notebook, parameters, record, runner

WITH_DATA = PARAMETERS + '\ndata: str = ""  # folder of raw pairs'
RESULT = "(this.folder / 'result').write_text(str(epochs))"
REFUSE = "from face3d_lib.base.errors import UserError\nif epochs > 90:\n    raise UserError('too many')"
FAIL = "assert epochs <= 90"


def everything(folder) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def own_notebooks(desk, monkeypatch):
    """The desk's notebooks are the project's."""
    monkeypatch.setattr(paths, "NOTEBOOKS", desk / "notebooks")
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    return desk / "notebooks"


# -------------------------------------------------------------------------------------------------- in batch


def test_a_refused_attempt_leaves_a_finished_stage_byte_for_byte(desk, capfd):
    path = write_notebook(desk, "90_specimen", *OPEN, REFUSE, RESULT, "this.done({'n': epochs})")
    assert runner.run_notebook(path, "trial") == 0
    before = everything(desk / "runs")
    assert runner.run_notebook(path, "trial", {"epochs": 99}) == 1
    assert everything(desk / "runs") == before
    assert "UserError: too many; what was done before stays as it is" in capfd.readouterr().err
    for wrong in ({"epochs": "many"}, {"epoch": 3}, {"modality": "x"}):
        with pytest.raises(UserError):
            runner.run_notebook(path, "trial", wrong)
    assert everything(desk / "runs") == before


def test_a_failure_before_the_first_change_leaves_the_stage_done_and_its_log_beside(desk):
    path = write_notebook(desk, "90_specimen", *OPEN, FAIL, RESULT, "this.done({'n': epochs})")
    assert runner.run_notebook(path, "trial") == 0
    before = everything(desk / "runs")
    assert runner.run_notebook(path, "trial", {"epochs": 99}) == 1
    after = everything(desk / "runs")
    assert after.pop("trial/90_specimen/90_specimen.failed.ipynb")
    assert after == before


def test_a_failure_after_a_change_is_a_failed_stage(desk):
    path = write_notebook(desk, "90_specimen", *OPEN, RESULT, FAIL, "this.done({'n': epochs})")
    assert runner.run_notebook(path, "trial") == 0
    assert runner.run_notebook(path, "trial", {"epochs": 99}) == 1
    assert record.read_record(desk / "runs/trial/90_specimen")["status"] == "failed"


def test_a_copy_does_not_write_into_the_stage_of_the_original(desk, own_notebooks):
    path = write_notebook(desk, "90_specimen", *OPEN, RESULT, "this.done()")
    assert runner.run_notebook(path, "trial") == 0
    before = everything(desk / "runs")
    copy = own_notebooks / "90_specimen-Copy1.ipynb"
    copy.write_bytes(path.read_bytes())
    assert runner.run_notebook(copy, "trial") == 1  # its own cell opens the other stage
    assert {k: v for k, v in everything(desk / "runs").items() if "Copy1" not in k} == before
    elsewhere = desk / "elsewhere" / path.name
    elsewhere.parent.mkdir()
    elsewhere.write_bytes(path.read_bytes())
    (desk / "runs/trial/90_specimen/run.json").write_text(
        json.dumps(record.read_record(desk / "runs/trial/90_specimen") | {"notebook": "notebooks/90_specimen.ipynb"})
    )
    with pytest.raises(UserError, match=r"belongs to notebooks/90_specimen\.ipynb"):
        runner.run_notebook(elsewhere, "trial")
    assert runner.run_notebook(elsewhere, "another") == 0


@pytest.mark.parametrize(("before", "now"), [("/faces", ""), ("", "/faces"), ("/faces", "/other")])
def test_a_run_keeps_its_data(desk, own_notebooks, before, now):
    path = write_notebook(desk, "90_specimen", *OPEN, "this.done()", parameters=WITH_DATA)
    assert runner.run_notebook(path, "trial", {"data": before}) == 0
    kept = everything(desk / "runs")
    with pytest.raises(UserError, match="choose another run"):
        runner.run_notebook(path, "trial", {"data": now})
    with pytest.raises(UserError, match="choose another run"):
        notebook.open_run("90_specimen", {"run": "trial", "epochs": 9, "data": now or "/x"})
    assert everything(desk / "runs") == kept
    assert runner.run_notebook(path, "trial", {"data": before, "epochs": 5}) == 0


# -------------------------------------------------------------------------------------------------- by hand


def hand(run: str, **values) -> dict:
    """What the cells of a specimen hold before the run is opened, in JupyterLab."""
    declared = {"seed": 0, "epochs": 3, "lr": 1e-3, "augment": True, "modality": "rgb", "sizes": [0.5, 1.0]}
    return {"run": run, "limit": None} | declared | values


def make_by_hand(run: str, **values) -> record.Path:
    """The folder of a specimen that ran by hand and is done."""
    this = notebook.open_run("90_specimen", hand(run, **values))
    this.done({"n": values.get("epochs", 3)})
    return this.folder


def test_by_hand_a_refused_parameter_changes_nothing(desk, own_notebooks):
    write_notebook(desk, "90_specimen", *OPEN, "this.done()")
    make_by_hand("trial")
    before = everything(desk / "runs")
    with pytest.raises(UserError, match="epochs"):
        notebook.open_run("90_specimen", hand("trial", epochs="many"))
    with pytest.raises(UserError, match="letters"):
        notebook.open_run("90_specimen", hand("../trial"))
    assert everything(desk / "runs") == before


@pytest.mark.parametrize("values", [{}, {"epochs": 9}])
def test_by_hand_a_stage_that_is_opened_and_left_stays_done(desk, own_notebooks, values):
    write_notebook(desk, "90_specimen", *OPEN, "this.done()")
    make_by_hand("trial", lr=0.5)
    before = everything(desk / "runs")
    this = notebook.open_run("90_specimen", hand("trial", **values))
    this.release()
    assert everything(desk / "runs") == before
    this = notebook.open_run("90_specimen", hand("trial", **values))
    this._on_exit()
    this.release()
    assert everything(desk / "runs") == before


def test_by_hand_a_stage_that_was_changed_and_left_is_not_done(desk, own_notebooks):
    write_notebook(desk, "90_specimen", *OPEN, RESULT, "this.done()")
    make_by_hand("trial")
    this = notebook.open_run("90_specimen", hand("trial", epochs=9))
    (this.folder / "result").write_text("halfway")
    this._on_exit()
    this.release()
    assert record.read_record(this.folder)["status"] == "incomplete"


def test_by_hand_the_values_of_the_run_are_adopted_where_nobody_chose_others(desk, own_notebooks, capsys):
    """The demo was made with other values than the notebook's own; looking at it must not make it anew."""
    write_notebook(desk, "90_specimen", *OPEN, "this.done({'n': epochs})")
    result = record.read_record(make_by_hand("demo/rgb", epochs=20, modality="depth"))["result_sha256"]
    capsys.readouterr()
    cells = hand("demo/rgb")
    this = notebook.open_run("90_specimen", cells)
    assert "as 90_specimen was made in run demo/rgb: epochs = 20, modality = 'depth'" in capsys.readouterr().out
    assert (cells["epochs"], cells["modality"], cells["lr"]) == (20, "depth", 1e-3)
    this.done({"n": 20})
    assert record.read_record(this.folder)["result_sha256"] == result  # its readers stay up to date
    this = notebook.open_run("90_specimen", hand("demo/rgb", epochs=5))  # chosen
    assert (this.parameters["epochs"], this.parameters["modality"]) == (5, "depth")
    this.release()
    make_by_hand("default", epochs=20)
    this = notebook.open_run("90_specimen", hand("default"))
    assert this.parameters["epochs"] == 3  # the run default is made of the notebook's own values
    this.release()


def test_by_hand_a_copy_is_refused_before_it_writes(desk, own_notebooks, monkeypatch):
    path = write_notebook(desk, "90_specimen", *OPEN, "this.done()")
    for copy in ("notebooks/90_specimen-Copy1.ipynb", "elsewhere/90_specimen.ipynb"):
        (desk / copy).parent.mkdir(exist_ok=True)
        (desk / copy).write_bytes(path.read_bytes())
        monkeypatch.setenv("JPY_SESSION_NAME", str(desk / copy))
        monkeypatch.setattr(record, "recorded_name", lambda path: str(path))
        monkeypatch.setattr(record, "relative", str)
        with pytest.raises(UserError, match="open_run"):
            notebook.open_run("90_specimen", hand("default"))
        assert not (desk / "runs").exists()
    monkeypatch.setenv("JPY_SESSION_NAME", str(path))
    notebook.open_run("90_specimen", hand("default")).release()
    executed = desk / "runs/default/90_specimen/90_specimen.ipynb"  # the stage's own, opened again
    monkeypatch.setenv("JPY_SESSION_NAME", str(executed))
    notebook.open_run("90_specimen", hand("default")).release()


# ------------------------------------------------------------------------------------- folders of the shell


def test_a_relative_folder_is_one_of_the_shell(desk, monkeypatch):
    declared = (
        'run: str = "x"  # run\ndata: str = ""  # folder of raw pairs\ninit: str = "scratch"  # or a file with weights'
    )
    path = write_notebook(desk, "90_specimen", parameters=declared + '\nunit: str = ""  # for a folder without a unit')
    monkeypatch.chdir(desk)
    (desk / "faces").mkdir()
    (desk / "scratch").mkdir()  # a folder is no file with weights
    (desk / "w.safetensors").touch()
    for given, found in (("faces", desk / "faces"), ("~", None), ("nowhere", desk / "nowhere"), ("", "")):
        values = parameters.parameters_for(path, "r", {"data": given})
        assert values["data"] == (str(found) if found is not None else str(paths.Path.home()))
    values = parameters.parameters_for(path, "r", {"init": "w.safetensors", "unit": "faces"})
    assert (values["init"], values["unit"]) == (str(desk / "w.safetensors"), "faces")
    assert parameters.parameters_for(path, "r", {"init": "scratch"})["init"] == "scratch"


def test_which_parameters_of_the_project_hold_a_folder_or_a_file():
    found = set()
    for path in paths.NOTEBOOKS.glob("[0-9]*.ipynb"):
        for name, field in parameters.parameter_model(path).model_fields.items():
            if parameters.is_folder(field) or "file with " in field.description:
                found.add(name)
    assert found == {"data", "sensor", "init"}


def test_the_advice_after_a_failed_stage_is_the_users_own_command(desk, own_notebooks):
    write_notebook(desk, "00_look_at_pairs", *OPEN, "raise ValueError('no such face')", parameters=WITH_DATA)
    assert runner.run_notebook("00_look_at_pairs", "mine", {"data": "/my faces", "epochs": 5}) == 1
    this = notebook.open_run("10_align_faces", {"run": "mine"})
    with pytest.raises(UserError) as refusal:
        this.need("00_look_at_pairs")
    this.release()
    message = str(refusal.value)
    assert "failed in run mine (In [6]: ValueError: no such face; see " in message
    assert message.partition("see ")[2].startswith(
        str(desk / "runs/mine/00_look_at_pairs/00_look_at_pairs.failed.ipynb")
    )
    assert message.endswith("face3d run 00_look_at_pairs mine -p epochs=5 -p 'data=/my faces'")


def test_the_advice_for_a_run_of_own_data_names_no_synthetic_people(desk, own_notebooks):
    this = notebook.open_run("10_align_faces", {"run": "mine"})
    with pytest.raises(UserError, match=r"face3d run 00_look_at_pairs mine -p data=FOLDER$"):
        this.need("00_look_at_pairs")
    this.release()
    make_stage(desk, "00_look_at_pairs", "mine")
    this = notebook.open_run("10_align_faces", {"run": "mine"})
    assert this.need("00_look_at_pairs") == desk / "runs/mine/00_look_at_pairs"
    this.release()


@pytest.mark.parametrize("runs", ["figures", "figures/mine"])
def test_runs_do_not_lie_among_the_published_figures(desk, monkeypatch, runs):
    """Otherwise the pictures of a run of real faces would lie in figures/ without having been proved synthetic."""
    monkeypatch.setattr(paths, "RUNS", desk / runs)
    with pytest.raises(UserError, match="lies in the folder of published figures"):
        folders.run_folder("trial")
