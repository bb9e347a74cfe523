"""Variables of the environment: set, empty, with ~, left behind by others; and what is set before torch is loaded."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from face3d_lib.base.environment import data_folder, rank_and_world, setting
from face3d_lib.base.errors import UserError
from face3d_lib.base.paths import NOTEBOOKS, ROOT, child_environment


def output_of(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], env=child_environment(**environment), capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("value", ["", " "])
def test_what_is_set_to_nothing_is_not_set(value):
    code = "from face3d_lib.base.paths import FIGURES, RUNS; from face3d_lib.train.weights import FOLDER\n"
    names = ("FACE3D_RUNS", "FACE3D_FIGURES", "FACE3D_WEIGHTS")
    found = output_of(code + "print(RUNS, FIGURES, FOLDER, sep='\\n')", **dict.fromkeys(names, value))
    assert found.split("\n") == [str(ROOT / name) for name in ("runs", "figures", "runs/weights")]


def test_a_tilde_is_the_home_and_a_relative_folder_lies_below_the_project():
    code = "from face3d_lib.base.paths import FIGURES, RUNS; print(RUNS, FIGURES, sep='\\n')"
    found = output_of(code, FACE3D_RUNS="~/my runs", FACE3D_FIGURES="a/b", HOME="/home/anna")
    assert found.split("\n") == ["/home/anna/my runs", str(ROOT / "a/b")]


@pytest.mark.parametrize(
    ("rank", "world", "meant"),
    [(None, None, (0, 1)), ("1", None, (0, 1)), ("", "", (0, 1)), ("0", "1", (0, 1)), ("3", "1", (0, 1)),
     ("1", "2", (1, 2)), ("0", "8", (0, 8))],
)  # fmt: skip
def test_a_rank_counts_only_beside_the_number_of_processes(monkeypatch, rank, world, meant):
    for name, value in (("RANK", rank), ("WORLD_SIZE", world)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert rank_and_world() == meant


@pytest.mark.parametrize(("rank", "world"), [("2", "2"), ("", "2"), ("-1", "2"), ("0", "two"), ("x", "4")])
def test_a_rank_that_cannot_be_is_refused(monkeypatch, rank, world):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", world)
    with pytest.raises(UserError, match=r"RANK=.* WORLD_SIZE=.*torchrun"):
        rank_and_world()


@pytest.mark.parametrize(
    ("value", "folder"), [(None, None), ("", None), ("~/faces", "/home/anna/faces"), ("faces", "faces")]
)
def test_the_data_folder_is_found_from_home_and_working_directory(monkeypatch, value, folder):
    monkeypatch.setenv("HOME", "/home/anna")
    monkeypatch.delenv("FACE3D_DATA", raising=False)
    if value is not None:
        monkeypatch.setenv("FACE3D_DATA", value)
    assert data_folder() == (Path(folder) if folder else None)


def test_the_demo_takes_the_data_folder_from_the_environment():
    words = [sys.executable, "-m", "face3d_lib.cli", "demo"]
    environment = os.environ | {"FACE3D_DATA": "~/faces", "HOME": "/home/anna"}
    done = subprocess.run(words, env=environment, cwd=ROOT, capture_output=True, encoding="utf-8")
    assert done.returncode == 2
    assert "/home/anna/faces" in done.stderr


def test_a_setting_is_stripped(monkeypatch):
    monkeypatch.setenv("FACE3D_TRIED", " x ")
    assert setting("FACE3D_TRIED") == "x"


# ------------------------------------------------------------------------------- before torch is loaded

WATCH = """
import os, sys
class Watch:  # sees the first import of torch, before it happens
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print("torch", os.environ.get("GOMP_SPINCOUNT"))
            raise SystemExit
sys.meta_path.insert(0, Watch())
"""


def imports_of(notebook) -> str:
    cells = nbformat.read(notebook, as_version=4).cells
    return next(cell.source for cell in cells if cell.cell_type == "code")


@pytest.mark.parametrize(("given", "found"), [(None, "2000"), ("77", "77")])
@pytest.mark.parametrize("way", ["library", "command", "notebook"])
def test_threads_are_told_not_to_spin_before_torch_is_loaded(way, given, found):
    code = {
        "library": "from face3d_lib.train import fit",
        "command": "import face3d_lib.cli, face3d_lib.data.faces, torch",
        "notebook": imports_of(NOTEBOOKS / "45_transfer_depth.ipynb"),
    }[way]
    environment = {key: value for key, value in os.environ.items() if key != "GOMP_SPINCOUNT"}
    environment |= {"GOMP_SPINCOUNT": given} if given else {}
    words = [sys.executable, "-c", WATCH + code]
    done = subprocess.run(words, env=environment, cwd=ROOT, capture_output=True, encoding="utf-8")
    assert done.stdout == f"torch {found}\n", done.stderr


@pytest.mark.parametrize("notebook", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_import_the_library_before_what_others_wrote(notebook):
    names = []
    for node in ast.parse(imports_of(notebook)).body:
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module]
        names += [module.partition(".")[0] for module in modules]
    others = [name for name in names if name not in sys.stdlib_module_names]
    assert others[0] == "face3d_lib"


# -------------------------------------------------------------------------------------- names with accents


def test_a_kernel_that_would_lose_accents_is_refused():
    old = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    code = "from face3d_lib.runs.notebook import open_run; open_run('00_look_at_pairs', {})"
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | old, cwd=ROOT, capture_output=True)
    assert b"UserError: this Python reads file names as ascii" in done.stderr
    assert b"set PYTHONUTF8=1" in done.stderr


def test_a_kernel_that_skips_assertions_is_refused():
    code = "from face3d_lib.runs.notebook import open_run; open_run('00_look_at_pairs', {})"
    done = subprocess.run([sys.executable, "-O", "-c", code], cwd=ROOT, capture_output=True)
    assert b"UserError: this Python skips assertions" in done.stderr


def test_commands_read_names_as_utf8_in_any_locale(tmp_path):
    """Nothing but the message about a notebook that is not there, whose name has to come back as it was given."""
    old = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    words = [sys.executable, "-m", "face3d_lib.cli", "run", "Ångström", "x"]
    done = subprocess.run(words, env=os.environ | old, cwd=ROOT, capture_output=True)
    assert "there is no notebook Ångström" in done.stderr.decode("utf-8")
    assert done.returncode == 2
