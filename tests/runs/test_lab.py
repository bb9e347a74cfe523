"""Saving in JupyterLab: what was run is kept in its run, and of a tracked notebook only true edits are written."""

import json

import nbformat
import pytest
from jupyter_server.services.contents.filemanager import FileContentsManager
from nbformat.v4 import new_code_cell, new_output
from specimens import OPEN, write_notebook

from face3d_lib.base import paths
from face3d_lib.base.paths import ROOT
from face3d_lib.runs import lab, plan


@pytest.fixture
def template(desk, monkeypatch):
    """A tracked notebook with the outputs of the run default, and the text of its file."""
    monkeypatch.setattr(paths, "NOTEBOOKS", desk / "notebooks")
    monkeypatch.setattr(plan, "PLAN", [plan.Stage("90_specimen")])
    monkeypatch.setattr(lab, "PLAN", plan.PLAN)
    path = write_notebook(desk, "90_specimen", *OPEN, "print(epochs)")
    notebook = nbformat.read(path, 4)
    for count, cell in enumerate((cell for cell in notebook.cells if cell.cell_type == "code"), 1):
        cell.execution_count = count
    notebook.cells[-1].outputs = [new_output("stream", name="stdout", text="3\n")]
    nbformat.write(notebook, path)
    return path


@pytest.fixture
def manager(desk):
    return FileContentsManager(root_dir=str(desk), pre_save_hook=lab.before_save)


def screen(path):
    """The notebook as JupyterLab would show it after everything ran again."""
    notebook = nbformat.read(path, 4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.execution_count += 20
            cell.metadata["execution"] = {"iopub.execute_input": "2026-01-01T00:00:00Z"}
    notebook.cells[-1].outputs = [new_output("display_data", data={"text/plain": "a real face"})]
    notebook.metadata["language_info"] = {"name": "python", "version": "3.11.99"}
    return notebook


def save(manager, notebook, path="notebooks/90_specimen.ipynb"):
    manager.save({"type": "notebook", "format": "json", "content": notebook}, path)


def ran_by_hand(desk, run):
    folder = desk / "runs" / run / "90_specimen"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"status": "done", "by_hand": True}))
    return folder / "90_specimen.ipynb"


def test_a_notebook_that_ran_and_is_saved_stays_as_it_was_byte_for_byte(manager, template):
    before = template.read_bytes()
    save(manager, screen(template))
    assert template.read_bytes() == before


def test_what_ran_is_kept_in_its_run(desk, manager, template):
    before, kept = template.read_bytes(), ran_by_hand(desk, "mine")
    shown = screen(template)
    shown.cells[2].source = shown.cells[2].source.replace('"default"', '"mine"').replace("= 3", "= 7")
    save(manager, shown)
    assert template.read_bytes() == before
    assert nbformat.read(kept, 4) == shown


def test_the_notebook_of_a_batch_is_not_replaced(desk, manager, template):
    kept = ran_by_hand(desk, "default")
    (kept.parent / "run.json").write_text(json.dumps({"status": "done"}))
    save(manager, screen(template))
    assert not kept.exists()


def test_an_edit_is_written_without_outputs(manager, template):
    shown = screen(template)
    shown.cells[-1].source = "print(epochs + 1)"
    shown.cells.append(new_code_cell("print('new')", outputs=[new_output("stream", name="stdout", text="new")]))
    save(manager, shown)
    found = nbformat.read(template, 4)
    assert [cell.source for cell in found.cells] == [cell.source for cell in shown.cells]
    assert "a real face" not in template.read_text()
    assert (found.cells[-1].outputs, found.cells[-1].execution_count) == ([], None)


def test_with_another_run_the_edited_code_is_written_and_the_parameters_are_not(manager, template):
    shown = screen(template)
    shown.cells[2].source = shown.cells[2].source.replace('"default"', '"mine"')
    shown.cells[-1].source = "print(epochs + 1)"
    save(manager, shown)
    found = nbformat.read(template, 4)
    assert 'run: str = "default"' in found.cells[2].source
    assert found.cells[-1].source == "print(epochs + 1)"


def test_a_default_can_be_edited(manager, template):
    shown = screen(template)
    shown.cells[2].source = shown.cells[2].source.replace("epochs: int = 3", "epochs: int = 4")
    save(manager, shown)
    assert "epochs: int = 4" in template.read_text()


@pytest.mark.parametrize("path", ["notebooks/91_mine.ipynb", "90_specimen.ipynb"])
def test_other_notebooks_are_saved_as_they_are(desk, manager, template, path):
    (desk / path).write_bytes(template.read_bytes())
    save(manager, screen(template), path)
    assert "a real face" in (desk / path).read_text()


@pytest.mark.parametrize("text", ["run = 3", 'run: str = "../x"', "run: str ="])
def test_parameters_that_cannot_be_read_stop_no_save(manager, template, text):
    shown = screen(template)
    shown.cells[2].source = text
    save(manager, shown)
    assert "a real face" not in template.read_text()


def test_jupyterlab_of_the_project_reads_the_setting():
    config = (ROOT / "jupyter_server_config.py").read_text(encoding="utf-8")
    assert "pre_save_hook = lab.before_save" in config
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert 'JUPYTER_CONFIG_PATH="$(CURDIR)" $(BIN)/jupyter lab' in makefile
    assert "ln -sf ../../../jupyter_server_config.py .venv/etc/jupyter/" in makefile
