"""The meaning of the numbers in the depth files of a data set, which is declared once for the set and never guessed.

A data set declares its convention in `dataset.json` in its root folder, for example

    {"depth_unit": "mm", "larger_is": "farther"}
    {"depth_unit": "mm", "depth_scale": 0.1, "larger_is": "farther", "no_reading": [10000]}

`depth_unit` is "mm", "m" or "pixel", and `larger_is` is "farther" or "nearer". Two entries may be left out. A
number in a file times `depth_scale` (default 1) is the depth in `depth_unit`: the factor is 0.1 for an Intel
RealSense D405 that records tenths of a millimetre, 0.25 for an L515, 0.2 for the TUM RGB-D benchmark (5000 per
metre). `no_reading` lists numbers that stand for "nothing was measured", besides those that always do (see
`decoding`). The file may be UTF-8 or UTF-16, with or without a byte order mark.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.atomic import write_json
from ..base.errors import UserError

UNITS = ("mm", "m", "pixel")
DIRECTIONS = ("farther", "nearer")


@dataclass(frozen=True)
class DepthConvention:
    """The meaning of the depth numbers of a data set; see the top of this file."""

    unit: str  # "mm", "m" or "pixel" (about one pixel of the picture, or no unit at all)
    larger_is: str  # "farther" or "nearer"
    scale: float = 1.0  # number in a file x scale = depth in `unit`
    no_reading: tuple[float, ...] = ()  # further numbers in the files that mean "nothing was measured"

    def described(self) -> dict[str, Any]:
        """The convention as the entries of a JSON object; entries that hold their default are left out."""
        entries: dict[str, Any] = {"unit": self.unit, "larger_is": self.larger_is}
        if self.scale != 1:
            entries["scale"] = self.scale
        if self.no_reading:
            entries["no_reading"] = list(self.no_reading)
        return entries


def read_convention(
    root: Path, depth_unit: str | None = None, larger_is: str | None = None, depth_scale: float | None = None
) -> DepthConvention:
    """The convention of the data set in `root`, from its dataset.json or else from the parameters.

    Raises UserError where neither declares the unit or the direction, where a value is not an allowed one, or where
    the file and a parameter contradict each other.
    """
    path = Path(root) / "dataset.json"
    declared = _declared(path)
    return DepthConvention(
        _chosen(path, "depth_unit", declared, depth_unit, UNITS),
        _chosen(path, "larger_is", declared, larger_is, DIRECTIONS),
        _scale(path, declared, depth_scale),
        _no_reading(path, declared),
    )


def write_source(folder: Path, root: Path, convention: DepthConvention) -> None:
    """Record in `folder`/source.json which data set a run reads and what its depth numbers mean."""
    entries = {f"depth_{name}" if name in ("unit", "scale") else name: v for name, v in convention.described().items()}
    write_json(folder / "source.json", {"root": str(root)} | entries)


def read_source(folder: Path) -> tuple[Path, DepthConvention]:
    """The root folder of a run's raw pairs and their convention, from the source.json that notebook 00 wrote.

    Raises UserError where the raw pairs are no longer there, or where their dataset.json now declares something
    else than it did then.
    """
    entries = _declared(folder / "source.json")
    root = Path(entries.get("root", ""))
    recorded = DepthConvention(
        entries.get("depth_unit", ""),
        entries.get("larger_is", ""),
        entries.get("depth_scale", 1.0),
        tuple(entries.get("no_reading", ())),
    )
    if not entries.get("root") or not root.is_dir():
        raise UserError(f"{root}: the folder of raw pairs is not there: run 00_look_at_pairs again with its new place")
    declared = _declared(root / "dataset.json")
    known = {"depth_unit": recorded.unit, "larger_is": recorded.larger_is, "depth_scale": recorded.scale}
    known["no_reading"] = list(recorded.no_reading)
    if changed := [name for name, value in known.items() if name in declared and declared[name] != value]:
        raise UserError(
            f"{root / 'dataset.json'}: {changed[0]} is {declared[changed[0]]!r} now and was {known[changed[0]]!r} "
            "when this run looked at it: run 00_look_at_pairs again"
        )
    return root, recorded


def _declared(path: Path) -> dict[str, Any]:
    """The JSON object in `path`, {} if there is no such file. Raises UserError if the file holds no JSON object."""
    try:
        entries = json.loads(path.read_bytes()) if path.exists() else {}  # bytes: UTF-8 and UTF-16 are told apart
    except (ValueError, OSError, RecursionError) as error:  # RecursionError: brackets within brackets within ...
        problem = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: cannot be read as JSON ({problem}): correct it or delete it") from None
    if not isinstance(entries, dict):
        raise UserError(f'{path}: must hold an object such as {{"depth_unit": "mm", "larger_is": "farther"}}')
    return entries


def _chosen(path: Path, name: str, declared: dict[str, Any], given: str | None, allowed: tuple[str, ...]) -> str:
    """The declared or given value of `name`; UserError where there is none or it is not one of `allowed`."""
    value = declared.get(name, given)
    if value is None:
        raise UserError(
            f"{path}: {name} is not declared: write it there, or give the parameter {name} "
            f"(--{name.replace('_', '-')} on the command line), "
            f'one of {", ".join(allowed)} (the data of the legacy project: "pixel", "nearer")'
        )
    if value not in allowed:
        where = path if name in declared else "parameter"
        raise UserError(f"{where}: {name} {value!r} must be one of {', '.join(allowed)}")
    _agree(path, name, value, given)
    return value


def _scale(path: Path, declared: dict[str, Any], given: float | None) -> float:
    value = declared.get("depth_scale", 1.0 if given is None else given)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value <= sys.float_info.max:
        where = path if "depth_scale" in declared else "parameter"
        raise UserError(f"{where}: depth_scale {value!r} must be a number above 0, such as 0.1")
    _agree(path, "depth_scale", value, given)
    return float(value)


def _no_reading(path: Path, declared: dict[str, Any]) -> tuple[float, ...]:
    values = declared.get("no_reading", [])
    numbers = isinstance(values, list) and all(
        isinstance(v, int | float) and not isinstance(v, bool) and abs(v) <= sys.float_info.max for v in values
    )
    if not numbers:
        raise UserError(f"{path}: no_reading {values!r} must be a list of numbers, such as [10000]")
    return tuple(float(value) for value in values)


def _agree(path: Path, name: str, value: str | float, given: str | float | None) -> None:
    if given is not None and given != value:
        fix = "drop the parameter or correct the file"
        raise UserError(f"{path}: says {name} {value!r}, the parameter says {given!r}: {fix}")
