"""The models at hand, by their cards alone: those that come with the library and those that were fetched.

Reading a card needs no torch, so that listing models takes no longer than reading their files.
"""

import json
from typing import Any

from ..base.paths import FETCHED, SHIPPED


def at_hand() -> dict[str, tuple[str, dict[str, Any]]]:
    """name -> (where it lies in words, its card); what cannot be read as JSON is left out."""
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for where, folder in (("in the cache", FETCHED / "models"), ("here", SHIPPED)):
        for path in sorted(folder.glob("*/card.json")):
            try:
                card = json.loads(path.read_bytes())
            except (OSError, ValueError):
                continue
            if isinstance(card, dict) and isinstance(card.get("architecture"), dict):
                found[path.parent.name] = where, card
    return found
