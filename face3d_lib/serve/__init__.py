"""Enrolling people and recognising them. `People` and `Recogniser` are loaded when they are first used.

Importing this package alone stays fast: torch is loaded with the first model.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .people import People
    from .recogniser import Recogniser

__all__ = ["People", "Recogniser"]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{name.lower()}", __name__), name)
