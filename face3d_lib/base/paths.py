"""The project's folders, and the check of paths that a table names.

The folders are found from the place of this file and never from the working directory. JupyterLab and nbval run a
notebook in the notebook's folder, papermill runs it in the caller's folder, and all of them must find the same runs.
"""

import errno
import os
import unicodedata
from pathlib import Path

from .environment import setting
from .errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def folder_setting(name: str, default: str) -> Path:
    """The folder that an environment variable names, or `default`; a relative one lies below the project."""
    return (ROOT / os.path.expanduser(setting(name, default))).resolve()


NOTEBOOKS = ROOT / "notebooks"
RUNS = folder_setting("FACE3D_RUNS", "runs")
FIGURES = folder_setting("FACE3D_FIGURES", "figures")
FETCHED = folder_setting("FACE3D_WEIGHTS", "runs/weights")  # weights that were downloaded
SHIPPED = (
    Path(__file__).resolve().parents[1] / "weights"
)  # what comes with the library: a folder for each network, and tables


def relative(path: Path) -> str:
    """`path` as text, relative to the project where it lies there, so that records do not name a machine's folders."""
    path = Path(path).resolve()
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.as_posix()


def child_environment(**more: str) -> dict[str, str]:
    """The environment for a Python that this process starts: the same folders, UTF-8, assertions, and `more`."""
    ours = {"FACE3D_RUNS": str(RUNS), "FACE3D_FIGURES": str(FIGURES), "PYTHONUTF8": "1", "PYTHONOPTIMIZE": ""}
    return os.environ | ours | more


UNPRINTED = ("Cc", "Zl", "Zp")  # Unicode categories of control characters and line breaks


def unsafe_name(name: str) -> str:
    """The reason why a table cannot hold the name of this file or folder unchanged; "" where a table can."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return "its name is not valid UTF-8"
    if any(unicodedata.category(letter) in UNPRINTED for letter in name):
        return "its name holds a line break or a control character"
    if "\\" in name:
        return "its name holds a backslash"
    if name.startswith("~"):
        return "its name starts with ~"
    return ""


def inside(root: Path, relative: str, base: Path | None = None, where: str = "") -> Path:
    """The path below `root` that a cell of a table names. Nothing is opened.

    relative: the text of the cell. base: the folder that the cell is relative to, if not `root`. where: file and line
    of the cell, for the message. Raises UserError for absolute paths, `~`, URLs, backslashes, control characters,
    links that leave `root`, and `..`, which only a cell with a `base` may use to come back into `root`.
    """
    text, label = str(relative), f"{where}: " if where else ""
    parts = text.split("/")
    problem = next(filter(None, map(unsafe_name, parts)), "")
    if not problem and (not text or text.startswith("/") or "://" in text or text.startswith("file:")):
        problem = "an absolute path, a URL or nothing at all"
    if not problem and ".." in parts and base is None:
        problem = "it climbs with .."
    if not problem:
        root, path = Path(os.path.abspath(root)), Path(os.path.abspath(Path(base or root) / text))
        if not path.is_relative_to(root) or path == root:
            problem = f"it leaves {root}"
        elif not _resolved(path).is_relative_to(_resolved(root)):
            problem = "a link leads out of the folder"
    if problem:
        raise UserError(f"{label}path {text!a} is refused ({problem}): name a file inside the data folder")
    return path


def _resolved(path: Path) -> Path:
    try:
        return path.resolve(strict=True)
    except RuntimeError:  # Python 3.11 and 3.12 raise this for a link to itself
        return Path("/")
    except OSError as error:  # Python 3.13 gives ELOOP; a missing file is resolved as far as its path exists
        return Path("/") if error.errno == errno.ELOOP else path.resolve()
