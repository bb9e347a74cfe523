"""Tables and pictures of a report: one form for HTML, csv and LaTeX, in which a missing number keeps its reason."""

import base64
import math
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from ..intervals import Interval

Value = str | int | float | None | Interval


@dataclass(frozen=True)
class Table:
    """Rows of values under headings; a value is text, a number, or an `Interval`, whose reason becomes a footnote."""

    key: str  # name of its csv and tex file
    title: str
    columns: list[str]
    rows: list[list[Value]]
    note: str = ""
    short: int = 0  # rows that HTML shows; 0: all. The csv has them all

    @property
    def footnotes(self) -> list[str]:
        """The reasons of missing numbers, each once, in the order in which they occur."""
        reasons = [value.reason for row in self.shown for value in row if isinstance(value, Interval)]
        return list(dict.fromkeys(filter(None, reasons)))

    @property
    def shown(self) -> list[list[Value]]:
        """The rows that are shown to readers."""
        return self.rows[: self.short or None]

    @property
    def cells(self) -> list[list[tuple[str, str]]]:
        """(text, mark of its footnote or "") of each value that is shown."""
        marks = {reason: letter(number) for number, reason in enumerate(self.footnotes)}
        return [[(text_of(value), marks.get(getattr(value, "reason", ""), "")) for value in row] for row in self.shown]

    @property
    def numeric(self) -> list[bool]:
        """Whether each column holds numbers, which are set to the right."""
        return [all(not isinstance(row[k], str) for row in self.rows) for k in range(len(self.columns))]

    def frame(self) -> pd.DataFrame:
        """All rows in full precision: an interval gives the columns name, name_low, name_high and name_reason."""
        rows = []
        spread = [any(isinstance(row[k], Interval) for row in self.rows) for k in range(len(self.columns))]
        for row in self.rows:
            found: dict[str, object] = {}
            for name, value, wide in zip(self.columns, row, spread, strict=True):
                if isinstance(value, Interval):
                    found |= value.named(name) | {f"{name}_reason": value.reason}
                else:
                    found[name] = value
                    found |= dict.fromkeys((f"{name}_low", f"{name}_high", f"{name}_reason")) if wide else {}
            rows.append(found)
        return pd.DataFrame(rows, columns=None if rows else self.columns)


@dataclass(frozen=True)
class Picture:
    """A PNG with its caption."""

    caption: str
    png: bytes

    @property
    def uri(self) -> str:
        """The picture as text that a page can hold."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")


@dataclass(frozen=True)
class Section:
    """A part of the report; `missing` says which command makes what is not there."""

    title: str
    text: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def text_of(value: Value) -> str:
    """A value as readers see it: rates with three decimals, intervals in brackets, "-" for what is not known."""
    if isinstance(value, Interval):
        if math.isnan(value.value):
            return "-"
        both = "" if math.isnan(value.low) else f" [{number(value.low)}, {number(value.high)}]"
        return number(value.value) + both
    if isinstance(value, str):
        return value
    return "-" if value is None else number(value)


def number(value: float) -> str:
    """Integers with separators, other numbers with three decimals, smaller ones with two significant digits."""
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return f"{value:,}"
    if math.isnan(value):
        return "-"
    if 0 < abs(value) < 0.0095:
        return np.format_float_positional(float(f"{value:.1e}"), trim="-")
    return f"{value:.3f}"


def letter(number: int) -> str:
    """a, b, ..., z, aa, ab, ... for 0, 1, ..."""
    return (letter(number // 26 - 1) if number >= 26 else "") + "abcdefghijklmnopqrstuvwxyz"[number % 26]
