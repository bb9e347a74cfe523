"""The one exception that a user can mend."""


class UserError(Exception):
    """A mistake that the user can mend: one line that names the file and the fix. The command line shows no traceback."""

    def _render_traceback_(self) -> list[str]:
        """What Jupyter shows: the line, for the frames above it are not where the mistake is."""
        return [f"{type(self).__name__}: {self}"]


def first_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[0]
