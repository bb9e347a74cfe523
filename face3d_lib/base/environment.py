"""Environment variables. Every variable that the project reads is read through this file."""

import os
import sys
from pathlib import Path

from .errors import UserError


def setting(name: str, default: str = "") -> str:
    """The value of an environment variable; `default` where it is not set, or set to nothing or to spaces."""
    return os.environ.get(name, "").strip() or default


def data_folder() -> Path | None:
    """The folder of raw pairs that FACE3D_DATA names, relative to the working directory; None where it names none."""
    name = setting("FACE3D_DATA")
    return Path(os.path.expanduser(name)) if name else None


def rank_and_world() -> tuple[int, int]:
    """(rank of this process, number of processes) as torchrun sets them; (0, 1) without torchrun.

    Schedulers and earlier sessions may leave RANK set. Without WORLD_SIZE it is ignored, and this process counts as the
    only one. Raises UserError where the two variables contradict each other.
    """
    world, rank = setting("WORLD_SIZE", "1"), setting("RANK")
    if world == "1":
        return 0, 1
    if not (world.isdecimal() and rank.isdecimal() and int(rank) < int(world)):
        raise UserError(
            f"the environment says RANK={rank!r} and WORLD_SIZE={world!r}, which is no rank of any number of "
            "processes: start with torchrun, or unset both"
        )
    return int(rank), int(world)


def speak_utf8(module: str) -> None:
    """Start `python -m module` anew with the same arguments in UTF-8 mode, where this Python has another encoding.

    In an old locale (C, or one of ISO-8859 or GBK) names of files with accents would be lost. The encoding cannot be
    changed in a running Python.
    """
    if sys.getfilesystemencoding() != "utf-8":
        command = [sys.executable, "-m", module, *sys.argv[1:]]
        os.execve(sys.executable, command, os.environ | {"PYTHONUTF8": "1"})


def require_utf8() -> None:
    """Raise UserError where this Python reads file names in another encoding than UTF-8, as old locales ask for."""
    if (encoding := sys.getfilesystemencoding()) != "utf-8":
        raise UserError(
            f"this Python reads file names as {encoding}, so names with accents would be lost: "
            "set PYTHONUTF8=1 in the environment and start again"
        )


def require_assertions() -> None:
    """Raise UserError where this Python skips assertions: a notebook that fails its checks would count as done."""
    if not __debug__:
        raise UserError(
            "this Python skips assertions, with which every notebook checks its result: "
            "unset PYTHONOPTIMIZE, leave out -O, and start again"
        )
