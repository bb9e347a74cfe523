"""JupyterLab on this project: what is run in a notebook is kept in its run's folder, and notebooks/ stays clean.

The notebooks of the plan are tracked by git with the outputs of the run "default". Saving one in JupyterLab writes the
notebook as it stands on the screen, with its outputs, into the folder of the stage that it ran as, which git ignores.
In notebooks/ only what was edited changes: the text of cells. Outputs and execution counts stay those that `make
notebooks` made, and the parameters stay the defaults where the notebook was pointed at another run. So no picture of a
real face can be committed by an autosave, and `git status` shows nothing but true edits.
"""

import copy
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
from nbformat import NotebookNode

from ..base import paths
from ..base.atomic import write_text
from ..base.errors import UserError
from .folders import run_folder
from .parameters import model_of_cells
from .plan import PLAN
from .record import read_record

if TYPE_CHECKING:
    from jupyter_server.services.contents.filemanager import FileContentsManager


def before_save(model: dict, path: str, contents_manager: "FileContentsManager", **_: object) -> None:
    """The pre_save_hook of Jupyter's contents manager: `model["content"]` becomes what is written to `path`."""
    file = Path(contents_manager.root_dir).resolve() / path
    ours = file.parent == paths.NOTEBOOKS and file.stem in {stage.notebook for stage in PLAN}
    if model["type"] != "notebook" or not model.get("content") or not ours or not file.exists():
        return
    shown, kept = nbformat.from_dict(copy.deepcopy(model["content"])), nbformat.read(file, as_version=4)
    run = run_of(shown)
    if run:
        _keep_in_run(shown, run, file.stem)
    model["content"] = merged(shown, kept, other_run=run != run_of(kept))


def run_of(notebook: NotebookNode) -> str:
    """The run that a notebook's cell of parameters names; "" where that cell cannot be read."""
    try:
        return model_of_cells(notebook.cells, "the notebook").model_fields["run"].default
    except UserError:
        return ""


def merged(shown: NotebookNode, kept: NotebookNode, other_run: bool) -> NotebookNode:
    """The notebook to write: the cells of `shown` with the outputs and execution counts of `kept`.

    With `other_run` the parameters are those of `kept`, too.
    """
    before, result = {cell.get("id"): cell for cell in kept.cells}, copy.deepcopy(kept)
    result.cells = [copy.deepcopy(cell) for cell in shown.cells]
    for cell in result.cells:
        old = before.get(cell.get("id"))
        cell.metadata = copy.deepcopy(old.metadata) if old else cell.metadata
        if cell.cell_type == "code":
            code = old if old is not None and old.cell_type == "code" else None
            cell.outputs, cell.execution_count = (code.outputs, code.execution_count) if code else ([], None)
        if other_run and old is not None and "parameters" in old.metadata.get("tags", []):
            cell.source = old.source
    return result


def _keep_in_run(shown: NotebookNode, run: str, stage: str) -> None:
    """Write the notebook with its outputs to runs/<run>/<stage>/<stage>.ipynb, if it ran by hand as that stage."""
    try:
        folder = run_folder(run) / stage
    except UserError:  # a name that is being typed
        return
    if read_record(folder).get("by_hand"):
        write_text(folder / f"{stage}.ipynb", nbformat.writes(shown))
