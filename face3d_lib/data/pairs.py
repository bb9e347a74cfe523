"""Raw RGB-D pairs: finding them, reading them, and saying in one word why one cannot be used.

Layout: `<root>/<subject>/<name>.png|jpg|jpeg|bmp` beside `<name>.npy` or `<name>.depth.png` (16 bit). Nothing
deeper is read and no link that leaves the root is followed. Every picture and depth file ends in exactly one
row of `find_pairs`.

Depth leaves this file in one form: float32, larger = farther, 0 = no reading, every reading finite and above
0.
"""

import json
import os
import stat
import unicodedata
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..base.errors import UserError
from ..base.paths import UNPRINTED, unsafe_name

STATUSES = (
    "ok", "decode_error", "too_large", "unsupported_mode", "no_face", "missing_depth", "missing_rgb",
    "bad_depth", "shape_mismatch", "ambiguous_name", "refused_path", "internal_error",
)  # fmt: skip
PICTURES = (".png", ".jpg", ".jpeg", ".bmp")
OTHER_PICTURES = (".gif", ".tif", ".tiff", ".webp", ".avif", ".heic", ".ppm", ".pgm")  # refused with a row


class BadPair(UserError):
    """A pair that cannot be used; `status` is one of STATUSES."""

    def __init__(self, status: str, message: str):
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class DepthConvention:
    """What the numbers of a data set mean; declared in its dataset.json or by parameters, never guessed."""

    unit: str  # "mm", "m" or "pixel" (about one pixel of the picture, or no unit at all)
    larger_is: str  # "farther" or "nearer"


@dataclass(frozen=True)
class PairFiles:
    """The files of one pair. Where `status` is not "ok" it cannot be read and `detail` says why."""

    pair_id: str  # "<subject>/<name without extension>"
    subject_id: str
    rgb_path: Path | None
    depth_path: Path | None
    status: str = "ok"
    detail: str = ""


@dataclass(frozen=True)
class RGBDPair:
    """One shot, registered pixel by pixel."""

    pair_id: str
    subject_id: str
    rgb: np.ndarray  # (H, W, 3) uint8
    depth: np.ndarray  # (H, W) float32, larger = farther, 0 = no reading
    depth_unit: str  # "mm" or "pixel"
    rgb_sha256: str  # of the files' bytes
    depth_sha256: str


def read_convention(root: Path, depth_unit: str | None = None, larger_is: str | None = None):
    """The DepthConvention of `root`: from dataset.json, else from the parameters.

    Raises UserError where neither declares it, or where they contradict each other.
    """
    path = Path(root) / "dataset.json"
    try:
        declared = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({one_line(error)}): correct it or delete it") from None
    if not isinstance(declared, dict):
        raise UserError(f'{path}: must hold an object such as {{"depth_unit": "mm", "larger_is": "farther"}}')
    values = []
    for name, given, allowed in (
        ("depth_unit", depth_unit, ("mm", "m", "pixel")),
        ("larger_is", larger_is, ("farther", "nearer")),
    ):
        value = declared.get(name, given)
        if value is None:
            raise UserError(
                f"{path}: {name} is not declared: write it there or pass it as a parameter, "
                f'one of {", ".join(allowed)} (data in the form of 2019: "pixel", "nearer")'
            )
        if value not in allowed:
            where = path if name in declared else "parameter"
            raise UserError(f"{where}: {name} {value!r} must be one of {', '.join(allowed)}")
        if given is not None and given != value:
            fix = "drop the parameter or correct the file"
            raise UserError(f"{path}: says {name} {value!r}, the parameter says {given!r}: {fix}")
        values.append(value)
    return DepthConvention(*values)


def find_pairs(root: Path) -> list[PairFiles]:
    """Every pair below `root` in the order of pair_id, and a row for every picture or depth file that is not
    part of one.

    Refused with a row: names that a csv cannot hold, links out of the root or to folders, what is no plain
    file, folders inside a subject's folder, pictures in the root itself (subject "."). Other files (texts,
    hidden ones) are not inputs. Raises UserError where `root` is no folder.
    """
    root = Path(root)
    try:
        entries = _entries(root)
    except OSError as error:
        raise UserError(
            f"{root}: cannot be read ({error.strerror}): name the folder that holds a folder per person"
        ) from None
    rows = []
    for entry in entries:
        if entry.is_dir(follow_symlinks=False) and not unsafe_name(entry.name):
            try:
                rows += _pairs_of(root, entry.name)
            except OSError as error:
                rows.append(_refused(entry.name, "", f"the folder cannot be read ({error.strerror})"))
        elif _kind(entry.name)[1]:
            rows.append(_refused(".", entry.name, "lies in the root: move it into a folder named after the person"))
        elif os.path.isdir(entry.path) or entry.is_symlink():
            reason = unsafe_name(entry.name) or "a link: copy the person's folder here instead"
            rows.append(_refused(entry.name, "", reason))
    return _distinct(rows)


def single_pair(rgb_path: Path, depth_path: Path) -> PairFiles:
    """Two named files as one pair, for `read_pair`; they may lie anywhere."""
    rgb_path = Path(rgb_path)
    return PairFiles(f"{rgb_path.parent.name}/{rgb_path.stem}", rgb_path.parent.name, rgb_path, Path(depth_path))


def _kind(name: str) -> tuple[str, str]:
    """(name without extension, "rgb" | "depth" | "" = no input) of a file name."""
    stem, extension = os.path.splitext(name)
    if name.startswith("."):
        return name, ""
    if name.lower().endswith(".depth.png"):
        return name[: -len(".depth.png")], "depth"
    kinds = {".npy": "depth"} | dict.fromkeys(PICTURES + OTHER_PICTURES, "rgb")
    return stem, kinds.get(extension.lower(), "")


def _entries(folder: Path) -> list[os.DirEntry]:
    """What lies in a folder, by name; hidden entries are nobody's input."""
    with os.scandir(folder) as entries:
        return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)


def _pairs_of(root: Path, subject: str) -> list[PairFiles]:
    rows, files = [], defaultdict(lambda: {"rgb": [], "depth": []})
    for entry in _entries(root / subject):
        stem, kind = _kind(entry.name)
        if os.path.isdir(entry.path):
            rows.append(_refused(subject, entry.name + "/", "a folder inside a person's folder: move its pictures up"))
        elif not kind:
            continue
        elif problem := unsafe_name(entry.name) or _link_problem(root, entry.path):
            rows.append(_refused(subject, entry.name, problem))
        elif kind == "rgb" and stem.lower().endswith(".depth"):
            rows.append(_refused(subject, entry.name, "a picture's name may not end in .depth, the mark of depth"))
        else:
            files[stem][kind].append(Path(entry.path))
    return rows + [_pair(subject, stem, found["rgb"], found["depth"]) for stem, found in files.items()]


def _pair(subject: str, stem: str, rgb: list[Path], depth: list[Path]) -> PairFiles:
    status, detail = "ok", ""
    if len(rgb) > 1 or len(depth) > 1:
        names = ", ".join(path.name for path in [*rgb, *depth])
        status, detail = (
            "ambiguous_name",
            f"{names}: names that differ only in extension: keep one picture and one depth file",
        )
    elif rgb and rgb[0].suffix.lower() not in PICTURES:
        status, detail = "unsupported_mode", f"{rgb[0].name}: this format is not read: save it as PNG or JPEG"
    elif not depth:
        status, detail = (
            "missing_depth",
            f"no {stem}.npy or {stem}.depth.png beside {rgb[0].name}: add it or remove the picture",
        )
    elif not rgb:
        status, detail = (
            "missing_rgb",
            f"no {stem}.png, .jpg or .bmp beside {depth[0].name}: add it or remove the depth",
        )
    return PairFiles(f"{subject}/{stem}", subject, next(iter(rgb), None), next(iter(depth), None), status, detail)


def _refused(subject: str, name: str, reason: str) -> PairFiles:
    subject, name = (_printable(text) for text in (subject, name))
    return PairFiles(f"{subject}/{name}", subject, None, None, "refused_path", f"{name or subject}: {reason}")


def _printable(text: str) -> str:
    """`text` with undecodable bytes, control characters and line breaks as backslash escapes."""
    text = text.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return "".join(c if unicodedata.category(c) not in UNPRINTED else c.encode("unicode_escape").decode() for c in text)


def _link_problem(root: Path, path: str) -> str:
    """Why the file at `path` may not be opened: not plain, or a link that leaves the root or leads
    nowhere.
    """
    try:
        target = Path(path).resolve(strict=True)
        if not target.is_relative_to(root.resolve()):
            return "a link that leaves the data folder: copy the file instead"
        return "" if stat.S_ISREG(os.stat(target).st_mode) else "not a plain file"
    except (OSError, RuntimeError):  # RuntimeError: a link to itself
        return "a link that leads nowhere"


def _distinct(rows: list[PairFiles]) -> list[PairFiles]:
    """Rows by pair_id, each once. Names that look alike and differ in Unicode form (NFC, NFD) become
    ambiguous.
    """
    forms, by_id = defaultdict(set), {}
    for row in rows:
        for name in (row.pair_id, row.subject_id):
            forms[unicodedata.normalize("NFC", name)].add(name)
    for row in rows:
        if any(len(forms[unicodedata.normalize("NFC", name)]) > 1 for name in (row.pair_id, row.subject_id)):
            detail = f"{row.pair_id}: another name looks the same and differs in Unicode form only: rename one"
            row = replace(row, status="ambiguous_name", detail=detail)
        elif row.pair_id in by_id:  # a refused x.png beside the picture x.png.jpg
            row = replace(row, status="ambiguous_name", detail=f"{row.pair_id}: names two things: rename one")
        by_id[row.pair_id] = row
    return [by_id[pair_id] for pair_id in sorted(by_id)]


def one_line(error: Exception) -> str:
    """An error's message on one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
