"""The code that a result depends on: the files of this library that a notebook or a file imports, and their hashes.

Imports are followed wherever they stand: at the top of a file or inside a function, absolute or relative, to any
depth. Files that nothing imports do not count, so that a change in them does not make a result out of date.
Modules that are named only at run time (importlib) are not seen; a test keeps the library free of them.
"""

import ast
import hashlib
from functools import cache
from pathlib import Path

from ..base import paths
from .parameters import read_cells

LIBRARY = "face3d_lib"


def notebook_code(notebook: Path) -> dict[str, str]:
    """SHA-256 of the notebook's cells (key "notebook", outputs left out) and of each library file that they reach.

    Keys of files are paths below the project folder. Where the notebook does not exist the result is empty.
    """
    if not notebook.exists():
        return {}
    cells = [cell for cell in read_cells(notebook) if cell.cell_type == "code"]
    sources = ["\n".join(line for line in cell.source.splitlines() if line[:1] not in ("%", "!")) for cell in cells]
    whole = "\0".join(cell.source for cell in read_cells(notebook))
    files = set().union(*(imported_files(source) for source in sources))
    return {"notebook": hashlib.sha256(whole.encode()).hexdigest()} | _hashes(files)


def code_digest(file: Path) -> str:
    """One SHA-256 of a library file and of all library files that it reaches."""
    lines = [f"{name} {sha256}\n" for name, sha256 in _hashes({file.resolve()}).items()]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def imported_files(source: str, package: str = "") -> set[Path]:
    """The library's files that `source` imports itself, with the __init__.py of the packages above them.

    package: dotted name of the package that holds the source, from which relative imports start.
    """
    return {file for name in _imported_names(source, package) for file in _files_of(name)}


def _hashes(start: set[Path]) -> dict[str, str]:
    """Path below the project -> SHA-256, of the files in `start` and of all that they reach; in order of the paths."""
    waiting, found = list(start), {}
    while waiting:
        file = waiting.pop()
        name = file.relative_to(paths.ROOT).as_posix()
        if name not in found:
            text = file.read_text(encoding="utf-8")
            found[name] = hashlib.sha256(text.encode()).hexdigest()
            waiting += imported_files(text, ".".join(file.relative_to(paths.ROOT).parent.parts))
    return dict(sorted(found.items()))


@cache
def _imported_names(source: str, package: str) -> frozenset[str]:
    """Dotted names of all that a source imports from this library; none where the source is not Python."""
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except SyntaxError:
        return frozenset()
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            outer = package.split(".") if node.level else []
            module = ".".join([*outer[: len(outer) + 1 - node.level], *([node.module] if node.module else [])])
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return frozenset(name for name in names if name.split(".")[0] == LIBRARY)


def _files_of(name: str) -> list[Path]:
    """The files that `import name` reads: the package files on the way, and the module's own."""
    parts = name.split(".")
    folders = [paths.ROOT.joinpath(*parts[:depth]) for depth in range(1, len(parts) + 1)]
    candidates = [folder / "__init__.py" for folder in folders] + [folder.with_suffix(".py") for folder in folders]
    return [path for path in candidates if path.is_file()]
