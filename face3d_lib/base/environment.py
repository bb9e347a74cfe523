"""What the environment says. Every variable that the project reads is read through this file."""

import os
import sys

from .errors import UserError


def setting(name: str, default: str = "") -> str:
    """The value of an environment variable; `default` where it is not set, or set to nothing or to spaces."""
    return os.environ.get(name, "").strip() or default


def rank_and_world() -> tuple[int, int]:
    """(rank of this process, number of processes) as torchrun says them; (0, 1) without torchrun.

    Schedulers and earlier sessions leave RANK behind; without WORLD_SIZE it means nothing, and this process is the
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


def require_utf8() -> None:
    """Raise UserError where this Python reads file names in another encoding than UTF-8, as old locales ask for."""
    if (encoding := sys.getfilesystemencoding()) != "utf-8":
        raise UserError(
            f"this Python reads file names as {encoding}, so names with accents would be lost: "
            "set PYTHONUTF8=1 in the environment and start again"
        )
