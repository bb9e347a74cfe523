"""The exception for mistakes that the user can mend, and words for its messages."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake that the user can mend. Its message is one line that names the file and the fix.

    The command line and Jupyter show only this line, without a traceback.
    """

    def _render_traceback_(self) -> list[str]:
        """The lines that Jupyter shows instead of a traceback, whose frames would not show where the mistake is."""
        return [f"{type(self).__name__}: {self}"]


def nearest(name: str, known: Iterable[str]) -> str:
    """The one or two of the `known` names that are most like a misspelt `name`, "a or b"; all of them if none is."""
    names = list(known)
    near = difflib.get_close_matches(name.strip().casefold(), names, n=2, cutoff=0.3) or names
    return " or ".join(near) or "nothing"


def first_line(text: str) -> str:
    """The first line of `text` that is not blank at its start; "" where there is none."""
    return (text.strip().splitlines() or [""])[0]
