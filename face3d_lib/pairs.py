"""Raw RGB-D pairs: finding them, reading them, and saying in one word why one cannot be used.

Layout: `<root>/<subject>/<name>.png|jpg|jpeg|bmp` beside `<name>.npy` or `<name>.depth.png` (16 bit). Nothing
deeper is read and no link that leaves the root is followed. Every picture and depth file ends in exactly one
row of `find_pairs`.

Depth leaves this file in one form: float32, larger = farther, 0 = no reading, every reading finite and above
0.
"""

import hashlib
import io
import json
import os
import stat
import unicodedata
import warnings
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from .atomic import UserError

STATUSES = (
    "ok", "decode_error", "too_large", "unsupported_mode", "no_face", "missing_depth", "missing_rgb",
    "bad_depth", "shape_mismatch", "ambiguous_name", "refused_path", "internal_error",
)  # fmt: skip
PICTURES = (".png", ".jpg", ".jpeg", ".bmp")
OTHER_PICTURES = (".gif", ".tif", ".tiff", ".webp", ".avif", ".heic", ".ppm", ".pgm")  # refused with a row
FORMATS = ("PNG", "JPEG", "BMP")  # by content, not by name; JPEG brings MPO, of which the first picture is read
MAX_PIXELS = 50_000_000  # a picture of 12 kB can unpack to gigabytes
MAX_FILE_BYTES = 400_000_000  # 50 Mpx of float64
MIN_READINGS = 0.001  # share of the pixels with a reading below which a depth map counts as empty
LARGEST_READING = 2.0**19  # mm or px; above it float32 no longer holds a tenth of the unit: no reading
OFFSET = 4096.0  # far = OFFSET - near where larger means nearer; a larger power of two where readings reach it
PLAUSIBLE_MM = (10.0, 20_000.0)  # a median outside is a unit declared wrongly
UNPRINTED = ("Cc", "Zl", "Zp")  # Unicode categories of control characters and line breaks


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
        raise UserError(f"{path}: cannot be read as JSON ({_line(error)}): correct it or delete it") from None
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


def unsafe_name(name: str) -> str:
    """Why a file or folder name cannot stand in a csv and be found again by it; "" where it can."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return "its name is not valid UTF-8"
    if any(unicodedata.category(letter) in UNPRINTED for letter in name):
        return "its name holds a line break or a control character"
    if "\\" in name:
        return "its name holds a backslash"
    if name.startswith("~"):
        return "its name starts with ~"
    return ""


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


def read_pair(files: PairFiles, convention: DepthConvention) -> RGBDPair:
    """The pair's pixels. Raises BadPair with one of STATUSES and a line that names the file and the fix.

    A picture is turned upright by its EXIF orientation. Depth of the upright shape is taken as upright (also
    where the stored shape is the same: half turns, mirrorings, squares); depth of the stored shape only is
    turned alike.
    """
    if files.status != "ok":
        raise BadPair(files.status, f"{files.pair_id}: {files.detail}")
    rgb_bytes = _bytes_of(files.rgb_path, "decode_error", "too_large")
    depth_bytes = _bytes_of(files.depth_path, "bad_depth", "bad_depth")
    rgb, orientation = _decode_rgb(rgb_bytes, files.rgb_path)
    return RGBDPair(
        files.pair_id,
        files.subject_id,
        rgb,
        _decode_depth(depth_bytes, files.depth_path, convention, rgb.shape[:2], orientation),
        "pixel" if convention.unit == "pixel" else "mm",
        hashlib.sha256(rgb_bytes).hexdigest(),
        hashlib.sha256(depth_bytes).hexdigest(),
    )


def single_pair(rgb_path: Path, depth_path: Path) -> PairFiles:
    """Two named files as one pair, for `read_pair`; they may lie anywhere."""
    rgb_path = Path(rgb_path)
    return PairFiles(f"{rgb_path.parent.name}/{rgb_path.stem}", rgb_path.parent.name, rgb_path, Path(depth_path))


def read_rgb(path: Path) -> np.ndarray:
    """The picture (H, W, 3) uint8 in RGB order, upright. Raises BadPair."""
    return _decode_rgb(_bytes_of(path, "decode_error", "too_large"), path)[0]


def read_depth(path: Path, convention: DepthConvention, shape: tuple, orientation: int = 1) -> np.ndarray:
    """Depth (H, W) float32 of a picture with this upright `shape` and EXIF orientation. Raises BadPair."""
    return _decode_depth(_bytes_of(path, "bad_depth", "bad_depth"), path, convention, tuple(shape[:2]), orientation)


# ---- finding


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


# ---- reading


def _bytes_of(path: Path, unreadable: str, oversized: str) -> bytes:
    """The file's bytes, read once: what is hashed is what is decoded, and no header sizes memory."""
    try:
        facts = os.stat(path)
        if not stat.S_ISREG(facts.st_mode):
            raise BadPair("refused_path", f"{path}: not a plain file")
        if facts.st_size > MAX_FILE_BYTES:
            size = f"{facts.st_size / 1e6:.0f} MB, at most {MAX_FILE_BYTES / 1e6:.0f} are read"
            raise BadPair(oversized, f"{path}: {size}: make it smaller")
        return Path(path).read_bytes()
    except OSError as error:
        fix = "check its name and permissions"
        raise BadPair(unreadable, f"{path}: cannot be read ({error.strerror}): {fix}") from None


def _open_image(data: bytes, path: Path, formats: tuple) -> Image.Image:
    """The image with its header read and its size within bounds; nothing is unpacked yet."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is stricter
        try:
            image = Image.open(io.BytesIO(data), formats=formats)
        except Image.DecompressionBombError:
            image = None
        except UnidentifiedImageError:  # Pillow's own words hold an address in memory, another one in each run
            raise ValueError("no bytes" if not data else f"not {', '.join(formats)}") from None
    if image is None or image.width * image.height > MAX_PIXELS:
        limit = f"at most {MAX_PIXELS // 10**6} megapixels are read"
        raise BadPair("too_large", f"{path}: too large, {limit}: make it smaller")
    if image.format == "PNG" and b"IEND" not in data:
        raise ValueError("the end of the file is missing")  # Pillow alone would accept it
    return image


def _decode_rgb(data: bytes, path: Path) -> tuple[np.ndarray, int]:
    """Upright (H, W, 3) uint8 and the EXIF orientation (1-8) that was undone.

    On purpose: grey is copied to three channels, alpha is dropped (colours stay as stored), palettes and CMYK
    are converted, 16-bit grey is scaled from 0..65535 to 0..255. Animations and other modes are refused.
    """
    try:
        image = _open_image(data, path, FORMATS)
        if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
            raise BadPair("unsupported_mode", f"{path}: an animation: save one picture of it")
        orientation = image.getexif().get(0x0112, 1)
        if image.mode.startswith("I;16"):
            grey = (np.asarray(image).astype(np.uint32) * 255 + 32767) // 65535
            rgb = np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
        elif image.mode in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"):
            if image.mode == "P":  # by way of RGBA: a transparent colour is still a colour
                image = image.convert("RGBA")
            rgb = np.asarray(image.convert("RGB"))
        else:
            problem = f"pixel mode {image.mode} is not read"
            raise BadPair("unsupported_mode", f"{path}: {problem}: save it as 8-bit RGB")
    except BadPair:
        raise
    except Exception as error:  # whatever a parser raises: OSError, SyntaxError, struct.error, ...
        problem = f"not a readable picture ({_line(error)})"
        raise BadPair("decode_error", f"{path}: {problem}: replace it") from None
    orientation = orientation if orientation in range(1, 9) else 1
    return np.ascontiguousarray(_upright(rgb, orientation)), orientation


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """(H, W, ...) as stored -> as displayed, for an EXIF orientation 1-8 (Exif 2.32, tag 0x0112)."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def _decode_depth(data: bytes, path: Path, convention: DepthConvention, shape: tuple, orientation: int) -> np.ndarray:
    """Raw numbers -> canonical depth (H, W) float32, mm or pixel."""
    try:
        raw = _png_numbers(data, path) if str(path).lower().endswith(".png") else _npy_numbers(data)
    except BadPair as error:
        raise BadPair("bad_depth", str(error)) from None
    except Exception as error:
        problem = f"not a readable depth map ({_line(error)}): save it again with numpy.save"
        raise BadPair("bad_depth", f"{path}: {problem}") from None
    raw = raw[..., 0] if raw.ndim == 3 and raw.shape[2] == 1 else raw
    stored = shape if orientation < 5 else shape[::-1]
    if raw.shape != shape and raw.shape == stored:
        raw = _upright(raw, orientation)
    if raw.shape != shape:
        problem = f"depth has the shape {raw.shape}, the picture {shape}"
        raise BadPair("shape_mismatch", f"{path}: {problem}: register depth to the picture")
    return _canonical(raw, path, convention)


def _npy_numbers(data: bytes) -> np.ndarray:
    """The array of a .npy file of real numbers, without unpickling or believing a size in the header."""
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
    else:
        raise ValueError(f"npy version {version}")
    if dtype.kind not in "fiu":
        raise ValueError(f"{dtype} are no depths; real numbers are")
    count = 1
    for length in shape:
        count *= int(length)  # Python integers: no overflow
    if min(shape, default=0) <= 0 or file.tell() + count * dtype.itemsize != len(data):
        raise ValueError(f"{len(data)} bytes do not hold {shape} {dtype}")
    return np.frombuffer(data, dtype, count, file.tell()).reshape(shape, order="F" if fortran else "C")


def _png_numbers(data: bytes, path: Path) -> np.ndarray:
    image = _open_image(data, path, ("PNG",))
    if not image.mode.startswith("I;16"):
        raise ValueError(f"mode {image.mode}; depth needs 16-bit grey")
    return np.asarray(image)


def _canonical(raw: np.ndarray, path: Path, convention: DepthConvention) -> np.ndarray:
    """Numbers in the data set's convention -> (H, W) float32, larger = farther, 0 = no reading.

    No reading: 0, negative, NaN, infinite, 65535 in 16 bits (a sensor's mark for "too far"), above
    LARGEST_READING.
    """
    reading = np.isfinite(raw) & (raw > 0)
    if raw.dtype.kind == "u" and raw.dtype.itemsize == 2:
        reading &= raw < 65535
    depth = np.where(reading, raw, 0).astype(np.float64) * (1000.0 if convention.unit == "m" else 1.0)
    if convention.unit != "pixel" and convention.larger_is == "farther" and reading.any():
        low, high = PLAUSIBLE_MM
        median = float(np.median(depth[reading]))
        if not low <= median <= high:
            other = "metres" if low <= median * 1000 <= high else "millimetres" if median > high else "another unit"
            problem = f"a median depth of {median:g} mm is no distance of a face; it looks like {other}"
            raise BadPair("bad_depth", f"{path}: {problem}: declare depth_unit in dataset.json")
    depth[depth > LARGEST_READING] = 0
    depth = depth.astype(np.float32)
    readings = np.count_nonzero(depth)
    if readings < max(1, MIN_READINGS * depth.size):
        problem = f"{readings} of {depth.size} pixels hold a depth"
        raise BadPair("bad_depth", f"{path}: {problem}: the map is empty, record it again")
    if convention.larger_is == "nearer":
        offset = max(OFFSET, 2.0 ** (np.floor(np.log2(depth.max())) + 1))
        depth = np.where(depth > 0, np.float32(offset) - depth, np.float32(0))
    return np.ascontiguousarray(depth, np.float32)


def _line(error: Exception) -> str:
    """An error's message on one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
