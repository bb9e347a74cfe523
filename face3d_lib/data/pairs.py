"""The pairs of a data set: which files belong together, and why other files cannot be used.

A data set is a folder with one folder for each person: `<root>/<person>/<name>.png|jpg|jpeg|bmp` is a picture and
`<name>.npy` or `<name>.depth.png` (16 bit) beside it is its depth. Deeper folders are not read, and no link that
leaves the root is followed. Every picture and every depth file belongs to exactly one row of `find_pairs`. Files
that are no data (hidden files, texts, the folders that operating systems and network drives make) have no row.
"""

import os
import stat
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..base.errors import UserError
from ..base.paths import UNPRINTED, unsafe_name

STATUSES = (
    "ok", "decode_error", "too_large", "unsupported_mode", "no_face", "missing_depth", "missing_rgb",
    "bad_depth", "shape_mismatch", "ambiguous_name", "refused_path", "internal_error",
)  # fmt: skip
NO_SHOT = ("refused_path",)  # statuses of rows that show nobody, so they are no failures to acquire
PICTURES = (".png", ".jpg", ".jpeg", ".bmp")
OTHER_PICTURES = (".gif", ".tif", ".tiff", ".webp", ".avif", ".heic", ".ppm", ".pgm")  # refused with a row
NOT_DATA = frozenset(  # folders that operating systems and network drives make; case does not matter
    name.casefold()
    for name in (
        *(
            "__MACOSX",
            "Network Trash Folder",
            "Temporary Items",
            "TheVolumeSettingsFolder",
        ),  # macOS, archives made on it
        *("$RECYCLE.BIN", "RECYCLER", "RECYCLED", "System Volume Information", "FOUND.000"),  # Windows
        *("lost+found", "__pycache__"),  # Linux, Python
        *("@eaDir", "@tmp", "#recycle", "#snapshot", "@Recycle", "@Recently-Snapshot", "~snapshot"),  # network drives
    )
)


class BadPair(UserError):
    """A pair cannot be used; `status` is one of STATUSES and the message says why, on one line."""

    def __init__(self, status: str, message: str):
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class PairFiles:
    """The files of one pair. If `status` is not "ok", the pair cannot be read and `detail` says why."""

    pair_id: str  # "<subject>/<name without extension>"
    subject_id: str
    rgb_path: Path | None
    depth_path: Path | None
    status: str = "ok"
    detail: str = ""


@dataclass(frozen=True)
class RGBDPair:
    """A picture and its depth map, registered pixel by pixel."""

    pair_id: str
    subject_id: str
    rgb: np.ndarray  # (H, W, 3) uint8
    depth: np.ndarray  # (H, W) float32, larger = farther, 0 = no reading
    depth_unit: str  # "mm" or "pixel"
    rgb_sha256: str  # of the files' bytes
    depth_sha256: str


def find_pairs(root: Path) -> list[PairFiles]:
    """Every pair below `root` in the order of pair_id, and a row for every picture or depth file that is in no pair.

    The status is "refused_path" for names that a csv cannot hold, links that leave the root or lead to folders,
    anything that is not a plain file, folders with pictures inside a person's folder, and pictures that lie in the
    root itself (their subject_id is "."). An empty folder counts as no person. Raises UserError where `root` cannot
    be listed.
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


def people_of(files: Iterable[PairFiles]) -> list[str]:
    """The names of the people with at least one pair, usable or not, in alphabetical order."""
    return sorted({row.subject_id for row in files if row.status not in NO_SHOT})


def failure(error: Exception) -> tuple[str, str]:
    """(status, detail) of the row for a pair whose reading raised `error`; the detail is one line."""
    if isinstance(error, BadPair):
        return error.status, " ".join(str(error).split())
    return "internal_error", " ".join(f"{type(error).__name__}: {error}".split())[:300]


def tally(rows: Iterable[tuple[str, str]]) -> list[tuple[str, int, str]]:
    """(status, how many, the commonest detail) of rows given as (status, detail), the commonest status first."""
    details: dict[str, Counter] = defaultdict(Counter)
    for status, detail in rows:
        details[status][detail] += 1
    counted = [(status, counter.total(), counter.most_common(1)[0][0]) for status, counter in details.items()]
    return sorted(counted, key=lambda row: (-row[1], row[0]))


def require_usable(root: Path, rows: Iterable[tuple[str, str]]) -> None:
    """Raise UserError unless a row (status, detail) is "ok"; the message says what is wrong with most of them."""
    counted = tally(rows)
    if not counted:
        raise UserError(f"{root}: no pairs: it should hold <person>/<name>.png beside <person>/<name>.npy")
    if "ok" not in [status for status, _, _ in counted]:
        status, count, detail = counted[0]
        total = sum(count for _, count, _ in counted)
        raise UserError(
            f"{root}: none of {total} pairs can be used; {count} have the status {status}, such as: {detail}"
        )


def single_pair(rgb_path: Path, depth_path: Path) -> PairFiles:
    """Two named files, wherever they lie, as one pair that `decoding.read_pair` reads."""
    rgb_path = Path(rgb_path)
    return PairFiles(f"{rgb_path.parent.name}/{rgb_path.stem}", rgb_path.parent.name, rgb_path, Path(depth_path))


def _kind(name: str) -> tuple[str, str]:
    """(name without extension, kind) of a file name; the kind is "rgb" or "depth", or "" for any other file."""
    stem, extension = os.path.splitext(name)
    if name.startswith("."):
        return name, ""
    if name.lower().endswith(".depth.png"):
        return name[: -len(".depth.png")], "depth"
    kinds = {".npy": "depth"} | dict.fromkeys(PICTURES + OTHER_PICTURES, "rgb")
    return stem, kinds.get(extension.lower(), "")


def _entries(folder: Path | str) -> list[os.DirEntry]:
    """The entries of a folder, by name, without those that are hidden or no data."""
    with os.scandir(folder) as entries:
        kept = [entry for entry in entries if not entry.name.startswith(".") and entry.name.casefold() not in NOT_DATA]
    return sorted(kept, key=lambda entry: entry.name)


def _holds_data(folder: str) -> bool:
    """Whether a picture or a depth file lies in `folder` or below it; True if the folder cannot be read."""
    try:
        entries = _entries(folder)
    except OSError:
        return True
    if any(_kind(entry.name)[1] and not entry.is_dir() for entry in entries):
        return True
    return any(entry.is_dir(follow_symlinks=False) and _holds_data(entry.path) for entry in entries)


def _pairs_of(root: Path, subject: str) -> list[PairFiles]:
    rows: list[PairFiles] = []
    files: dict[str, dict[str, list[Path]]] = defaultdict(lambda: {"rgb": [], "depth": []})
    for entry in _entries(root / subject):
        stem, kind = _kind(entry.name)
        if os.path.isdir(entry.path):
            if entry.is_symlink() or _holds_data(entry.path):
                reason = "a folder inside a person's folder: move its pictures up"
                rows.append(_refused(subject, entry.name + "/", reason))
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
    """The row of all files in a person's folder that are called `stem`."""
    status, detail = "ok", ""
    if len(rgb) > 1 or len(depth) > 1:
        status, looks_like_depth = "ambiguous_name", [path for path in rgb if _is_16_bit_grey(path)]
        if len(rgb) == 2 and len(looks_like_depth) == 1 and not depth:
            detail = f"{looks_like_depth[0].name}: holds 16-bit numbers; if it is the depth, name it {stem}.depth.png"
        else:
            names = ", ".join(path.name for path in [*rgb, *depth])
            detail = f"{names}: names that differ only in extension: keep one picture and one depth file"
    elif rgb and rgb[0].suffix.lower() not in PICTURES:
        status, detail = "unsupported_mode", f"{rgb[0].name}: this format is not read: save it as PNG or JPEG"
    elif not depth:
        status, detail = "missing_depth", f"no {stem}.npy or {stem}.depth.png beside {rgb[0].name}: add it or "
        if _is_16_bit_grey(rgb[0]):
            detail += "name this file, which holds 16-bit numbers, <name of its picture>.depth.png if it is depth"
        else:
            detail += "remove the picture"
    elif not rgb:
        status, detail = "missing_rgb", f"no {stem}.png, .jpg or .bmp beside {depth[0].name}: "
        marked = depth[0].suffix == ".npy" and stem.lower().endswith(".depth")
        detail += f"name it {stem[: -len('.depth')]}.npy" if marked else "add it or remove the depth"
    return PairFiles(f"{subject}/{stem}", subject, next(iter(rgb), None), next(iter(depth), None), status, detail)


def _is_16_bit_grey(path: Path) -> bool:
    """Whether `path` is a PNG of one channel with 16 bits, as depth is stored; only its header is read."""
    if path.suffix.lower() != ".png":
        return False
    try:
        with open(path, "rb") as file:
            header = file.read(26)  # signature (8), length and name of the first chunk (8), width, height, depth, type
    except OSError:
        return False
    return header[:8] == b"\x89PNG\r\n\x1a\n" and header[12:16] == b"IHDR" and header[24:26] == b"\x10\x00"


def _refused(subject: str, name: str, reason: str) -> PairFiles:
    subject, name = (_printable(text) for text in (subject, name))
    return PairFiles(f"{subject}/{name}", subject, None, None, "refused_path", f"{name or subject}: {reason}")


def _printable(text: str) -> str:
    """`text` in which undecodable bytes, control characters and line breaks are written as backslash escapes."""
    text = text.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return "".join(c if unicodedata.category(c) not in UNPRINTED else c.encode("unicode_escape").decode() for c in text)


def _link_problem(root: Path, path: str) -> str:
    """Why the file at `path` may not be opened, "" if it may: it is no plain file, or a link that leaves the root."""
    try:
        target = Path(path).resolve(strict=True)
        if not target.is_relative_to(root.resolve()):
            return "a link that leaves the data folder: copy the file instead"
        return "" if stat.S_ISREG(os.stat(target).st_mode) else "not a plain file"
    except (OSError, RuntimeError):  # RuntimeError: a link to itself
        return "a link that leads nowhere"


def _distinct(rows: list[PairFiles]) -> list[PairFiles]:
    """The rows by pair_id, each pair_id once. Names that look alike and differ in Unicode form become ambiguous.

    Unicode can write é as one letter (NFC) or as e and an accent (NFD); a person may have been copied both ways.
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
