"""Enrolling people and recognising them. `People` and `Recogniser` are loaded when they are first used.

Importing this package alone stays fast: torch is loaded with the first model.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .people import People
    from .recogniser import Recogniser

__all__ = ["People", "Recogniser"]


def __getattr__(name: str) -> Any:
    if name == "People":
        from .people import People

        return People
    if name == "Recogniser":
        from .recogniser import Recogniser

        return Recogniser
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
