"""Names of enrolled people: any text that one line can show; two Unicode forms of one name are one name.

In a folder copied from a Mac an accented letter is two characters, where a keyboard gives one. A name is never used as the
name of a file, so it may hold any character of a path.
"""

import difflib
import unicodedata
from collections.abc import Sequence

from ..base.errors import UserError
from ..base.paths import UNPRINTED

LONGEST = 200  # characters
# Blanks of no width, and marks that turn the direction of writing: with them two people look as if they had one name. The
# joiners U+200C and U+200D belong to Persian, to scripts of India and to emoji, and are letters here.
UNSEEN = frozenset(
    "\u00ad\u061c\u180e\u200b\u200e\u200f\u2060\ufeff\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)


def letters(name: str) -> str:
    """The name in the Unicode form in which names are compared (NFC)."""
    return unicodedata.normalize("NFC", name)


def checked(name: str) -> str:
    """The name as it is enrolled: in NFC, without blanks around it.

    UserError where it is empty, longer than LONGEST, holds a control character, a line break or one of UNSEEN, or is no text.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        raise UserError(f"name {name!a}: not valid UTF-8: give another name") from None
    short = shown(name)
    if any(unicodedata.category(letter) in UNPRINTED for letter in name):
        raise UserError(f"name {short}: holds a control character or a line break: give another name")
    if unseen := sorted(UNSEEN & set(name)):
        raise UserError(f"name {short}: holds U+{ord(unseen[0]):04X}, which nobody sees: give the name without it")
    name = letters(name).strip()
    if not name:
        raise UserError("a name is empty: give each person a name")
    if len(name) > LONGEST:
        raise UserError(f"name {short}: {len(name)} characters, {LONGEST} are allowed: give a shorter name")
    return name


def shown(name: str) -> str:
    """The name in quotes for a message, its first 40 characters where it is longer."""
    return repr(name if len(name) <= 40 else f"{name[:40]}...")


def find(name: str, known: Sequence[str]) -> str:
    """The known name that `name` means: the same text, else the same letters in another Unicode form.

    UserError if nobody has this name, or two people have it.
    """
    found = [name] if name in known else [other for other in known if letters(other) == letters(name)]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(
            f"gallery: {shown(name)} may be {' or '.join(map(ascii, found))}: give the name in one of these forms"
        )
    near = difflib.get_close_matches(name, known, n=3)
    hint = f"; the nearest names are {', '.join(near)}" if near else ""
    raise UserError(f"gallery: nobody is called {shown(name)}; {len(known)} people are enrolled{hint}")
