"""Notebooks and stages that the tests of this room put on their desk (the fixture in conftest.py)."""

from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from face3d_lib.runs import record

PARAMETERS = """run: str = "default"  # name of the run
seed: int = 0  # of everything random
epochs: int = 3  # passes over the data
lr: float = 1e-3  # learning rate
augment: bool = True  # flips and crops
modality: Literal["rgb", "depth"] = "rgb"  # what the network sees
sizes: list[float] = [0.5, 1.0]  # scales
limit: int | None = None  # images, None for all"""
OPEN = ["from face3d_lib.runs.notebook import open_run", "this = open_run(STAGE, globals())"]


def write_notebook(desk: Path, stage: str, *cells: str, parameters: str = PARAMETERS) -> Path:
    """A notebook on the desk whose cells follow a cell of imports and the tagged one of parameters."""
    tagged = new_code_cell(parameters, metadata={"tags": ["parameters"]})
    body = [new_code_cell(cell.replace("STAGE", repr(stage))) for cell in cells]
    imports = new_code_cell("from typing import Literal")
    notebook = new_notebook(cells=[new_markdown_cell("# A specimen"), imports, tagged, *body])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path = desk / "notebooks" / f"{stage}.ipynb"
    nbformat.write(notebook, path)
    return path


def make_stage(desk: Path, name: str, run: str, status: str = "done", **parameters) -> Path:
    """The folder of a stage that has ended, with nothing in it but its record."""
    folder = desk / "runs" / run / name
    folder.mkdir(parents=True, exist_ok=True)
    this = record.new_record(name, run, {"run": run} | parameters, desk / "notebooks" / f"{name}.ipynb")
    record.close_record(folder, this, status)
    return folder
