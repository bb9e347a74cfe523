"""The house as drawn: imports run one way, nothing unsafe is loaded, the README names what exists."""

import ast
import re

import pytest

from face3d_lib.paths import ROOT

FLOW = [
    *[
        "paths",
        "atomic",
        "run",
        "sweep",
        "heads",
        "synthetic",
        "pairs",
        "manifest",
        "align",
        "splits",
        "depth",
        "pack",
        "batches",
        "weights",
        "fusion",
    ],
    *["embedder", "losses", "fit", "embed", "scores", "metrics", "report", "figures", "gallery", "cli"],
]
LIBRARY = ROOT / "face3d_lib"
UNSAFE = {
    "allow_pickle=True": r"allow_pickle\s*=\s*True",
    "torch.load without weights_only=True": r"torch\.load\((?![^\n]*weights_only=True)",
    "unpickling": r"pickle\.loads?\(|read_pickle|joblib\.load|yaml\.load\(",
    "unpacking archives": r"\btarfile\b|\bzipfile\.(?!BadZipFile)|from zipfile|unpack_archive|\.extract(all)?\(",
    "eval or exec": r"(?<![.\w])(eval|exec)\(",
}


def imported(source: str) -> set[str]:
    """The library's own modules that a source imports."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            found |= {node.module} if node.module else {name.name for name in node.names}
    return found


def test_every_file_of_the_library_stands_in_the_flow():
    assert {path.stem for path in LIBRARY.glob("*.py")} - {"__init__"} == set(FLOW)


@pytest.mark.parametrize("name", FLOW)
def test_a_file_imports_only_files_above_it(name):
    above = set(FLOW[: FLOW.index(name)])
    assert imported((LIBRARY / f"{name}.py").read_text()) <= above


@pytest.mark.parametrize("what", UNSAFE)
def test_nothing_unsafe_is_loaded(what):
    found = [path.name for path in LIBRARY.glob("*.py") if re.search(UNSAFE[what], path.read_text())]
    assert found == []


def test_the_guards_can_fail():
    assert imported("from .cli import main\nfrom . import fit") == {"cli", "fit"}
    assert re.search(UNSAFE["torch.load without weights_only=True"], "torch.load(path)")
    assert re.search(UNSAFE["allow_pickle=True"], "np.load(path, allow_pickle=True)")


def test_the_readme_names_files_and_targets_that_exist():
    readme, makefile = (ROOT / "README.md").read_text(), (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:`|^ {4})make ([a-z-]+)", readme, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"make {target}"
    for path in re.findall(r"\]\(([^)#:]+)\)", readme):
        assert (ROOT / path).exists(), path
    for notebook in ROOT.glob("notebooks/[0-9]*.ipynb"):
        assert f"(notebooks/{notebook.name})" in readme, notebook.name
