"""The hash of a stage's code follows imports: what is imported counts, at any depth, and nothing else."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from face3d_lib.base import paths
from face3d_lib.runs import code
from face3d_lib.runs.record import without_drawing

FILES = {
    "__init__": "",
    "base/__init__": "",
    "base/errors": "class E(Exception): pass",
    "base/deep/__init__": "",
    "base/deep/inner": "X = 1",
    "base/unused": "Y = 2",
    "train/__init__": "",
    "train/fit": "from ..base.errors import E\nfrom . import losses\n",
    "train/losses": "def f():\n    from ..base.deep import inner\n    return inner.X\n",
    "train/lazy": "def g():\n    import face3d_lib.train.losses as l\n    return l\n",
    "train/other": "from .lazy import g\n",
}


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A small library with packages in packages, and a notebook that imports from it."""
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    for name, source in FILES.items():
        path = tmp_path / "face3d_lib" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
    return tmp_path


def write(library, *cells):
    path = library / "90_specimen.ipynb"
    body = [new_markdown_cell("# Title"), *(new_code_cell(cell) for cell in cells)]
    nbformat.write(new_notebook(cells=body), path)
    return path


def reached(library, *cells):
    names = code.notebook_code(write(library, *cells)).keys() - {"notebook"}
    names = {name.removeprefix("face3d_lib/").removesuffix(".py") for name in names}
    return {name for name in names if not name.endswith("__init__")}


@pytest.mark.parametrize(
    ("cell", "files"),
    [
        ("from face3d_lib.train import fit", {"train/fit", "train/losses", "base/errors", "base/deep/inner"}),
        ("from face3d_lib.train.fit import x", {"train/fit", "train/losses", "base/errors", "base/deep/inner"}),
        ("import face3d_lib.train.losses", {"train/losses", "base/deep/inner"}),
        ("if True:\n    from face3d_lib.base.errors import E", {"base/errors"}),
        ("from face3d_lib.train.other import g", {"train/other", "train/lazy", "train/losses", "base/deep/inner"}),
        ("%matplotlib inline\nfrom face3d_lib.base import errors", {"base/errors"}),
        ("import numpy", set()),
        ("this is no Python", set()),
    ],
)
def test_imports_are_followed_wherever_they_stand(library, cell, files):
    assert reached(library, "x = 1", cell) == files


@pytest.mark.parametrize("changed", sorted(FILES))
def test_changed_code_counts_where_it_is_imported_and_not_where_it_is_not(library, changed):
    notebook, fit = write(library, "from face3d_lib.train import fit"), library / "face3d_lib/train/fit.py"
    before = code.notebook_code(notebook), code.code_digest(fit)
    (library / "face3d_lib" / f"{changed}.py").write_text(FILES[changed] + "\n# changed\n", encoding="utf-8")
    counts = changed not in ("base/unused", "train/lazy", "train/other")
    assert (code.notebook_code(notebook) != before[0]) == counts
    assert (code.code_digest(fit) != before[1]) == counts


def test_the_cells_count_and_their_outputs_do_not(library):
    path = write(library, "x = 1")
    before = code.notebook_code(path)
    notebook = nbformat.read(path, 4)
    notebook.cells[1].outputs = [nbformat.v4.new_output("stream", name="stdout", text="1")]
    nbformat.write(notebook, path)
    assert code.notebook_code(path) == before
    notebook.cells[0].source = "# Another title"
    nbformat.write(notebook, path)
    assert code.notebook_code(path) != before


def test_of_this_library():
    """A training depends on the figures for its picture alone, and what a step does not even for that."""
    found = code.notebook_code(paths.NOTEBOOKS / "30_train_softmax.ipynb")
    assert {"face3d_lib/train/fit.py", "face3d_lib/train/fusion.py", "face3d_lib/base/atomic.py"} <= found.keys()
    kept = without_drawing(found).keys()
    drawing = {path.removeprefix("face3d_lib/evaluate/") for path in found.keys() - kept}
    assert drawing >= {"figures.py", "pictures.py", "live.py"}
    every = {path.relative_to(paths.ROOT).as_posix(): "" for path in (paths.ROOT / "face3d_lib/evaluate").glob("*.py")}
    assert not [path for path in without_drawing(every) if "/figures" in path or "/widgets" in path]
    assert "face3d_lib/serve/gallery.py" not in found
    below = code._hashes({paths.ROOT / "face3d_lib/train/fit.py"})
    assert without_drawing(below) == below


def test_no_module_of_the_library_is_imported_by_a_name_made_at_run_time():
    for path in (paths.ROOT / "face3d_lib").rglob("*.py"):
        assert "import_module" not in path.read_text(encoding="utf-8"), path
        assert "__import__" not in path.read_text(encoding="utf-8"), path
