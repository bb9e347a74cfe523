"""Reading the pixels of a pair: the bytes of two files become one picture and one depth map.

For every sensor, the functions of this file return depth in one form, which is called canonical: (H, W) float32 in
millimetres (or in "pixel" where the data set has no unit), larger = farther, 0 = no reading, and every reading is
finite and above 0.

In a file of any dtype, these numbers mean that nothing was measured:
- 0, negative numbers (-1 in VAP RGB-D, -999999 in FRGC, -1e9 in Bosphorus), NaN (ROS), infinity (Open3D);
- 65535, the largest 16-bit number, also as 65.535 in metres: librealsense stores it where the distance is
  beyond the range (librealsense issues 3508 and 12918), and no face is 65 metres away;
- the largest number of a sensor with fewer bits (2047 of a Kinect v1, FREENECT_DEPTH_RAW_NO_VALUE in
  libfreenect.h; 1023, 4095, 8191, 16383, 32767 alike), and 65535 in a unit of 0.25, 0.1 or 0.01 mm after
  conversion. A distance may truly have such a value, so it counts as a mark only where it is the map's largest
  number, at least one pixel in a thousand has it, and no other number lies in the quarter below it, because
  surfaces are continuous and marks are isolated;
- the numbers that dataset.json lists under `no_reading`, such as 10000;
- numbers above LARGEST_READING.
"""

import hashlib
import io
import os
import stat
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from .convention import DepthConvention
from .pairs import BadPair, PairFiles, RGBDPair, failure, require_usable

FORMATS = ("PNG", "JPEG", "BMP")  # by content, not by name; JPEG includes MPO, of which the first picture is read
MAX_PIXELS = 50_000_000  # a picture of 12 kB can unpack to gigabytes
MAX_FILE_BYTES = 400_000_000  # 50 Mpx of float64
MIN_READINGS = 0.001  # share of the pixels with a reading below which a depth map counts as empty
LARGEST_READING = 2.0**19  # mm or px; larger numbers are no readings: float32 cannot hold a tenth of the unit
OFFSET = 4096.0  # far = OFFSET - near where larger means nearer; a larger power of two where readings reach it
PLAUSIBLE_MM = (10.0, 20_000.0)  # a median outside means that the unit is declared wrongly
PORTRAIT_MM = (150.0, 3_000.0)  # distances at which faces are usually recorded; only the hint uses them
LIKELY_FLOATS = (1e-3, 1e6)  # depths as floats lie between these in every unit
FULL_SCALE = 65535  # the largest 16-bit number
# Numbers that may be a mark for "too far": the largest of 10 to 16 bits, and 65535 counts of 0.25, 0.1 and 0.01 mm.
MARKS = (*(2**bits - 1 for bits in range(10, 17)), *(FULL_SCALE * mm for mm in (0.25, 0.1, 0.01)))
MARK_SHARE = 0.001  # of the pixels: at least this share must hold a mark
MARK_GAP = 0.75  # of the mark: no reading lies between this and the mark itself


def read_pair(files: PairFiles, convention: DepthConvention) -> RGBDPair:
    """The pair's pixels. Raises BadPair with one of STATUSES and a line that names the file and the fix.

    A picture is turned upright by its EXIF orientation. Depth that has the shape of the upright picture is
    taken to be upright already, as is always the case for half turns, mirror images and squares. Depth that has only
    the shape of the stored picture is turned in the same way as the picture.
    """
    if files.status != "ok" or files.rgb_path is None or files.depth_path is None:
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


def read_pairs(files: Iterable[PairFiles], convention: DepthConvention) -> Iterator[tuple[PairFiles, RGBDPair | None]]:
    """Yield (row, pair) for each of `files`; a pair that cannot be read never stops the reading of the others.

    `pair` is None where the pair cannot be read; `row` then says why in its status and detail.
    """
    for row in files:
        try:
            pair = read_pair(row, convention)
        except Exception as error:  # any error of one pair becomes the row of that pair
            status, detail = failure(error)
            yield replace(row, status=status, detail=detail if row.status == "ok" else row.detail), None
        else:
            yield row, pair


def read_one_of_each(
    root: Path, files: Iterable[PairFiles], convention: DepthConvention, people: int
) -> list[RGBDPair]:
    """The first readable pair of each person, of at most `people` people, in the order of `files`.

    Raises UserError with the commonest reason where no pair of `root` can be read.
    """
    found: dict[str, RGBDPair] = {}
    unread = []
    waiting = (row for row in files if row.subject_id not in found)  # checked again before each pair is read
    for row, pair in read_pairs(waiting, convention):
        if pair is not None:
            found[row.subject_id] = pair
        else:
            unread.append((row.status, row.detail))
        if len(found) >= people:
            break
    if not found:
        require_usable(root, unread)
    return list(found.values())


def read_rgb(path: Path) -> np.ndarray:
    """The picture in `path`, (H, W, 3) uint8 in RGB order, upright. Raises BadPair."""
    return _decode_rgb(_bytes_of(path, "decode_error", "too_large"), path)[0]


def read_pictures(paths: dict[str, Path | None]) -> Iterator[tuple[str, np.ndarray | None, str]]:
    """(pair_id, picture as of `read_rgb`, "") of each of `paths`; (pair_id, None, why) where it cannot be read."""
    for pair_id, path in paths.items():
        try:
            if path is None:
                raise BadPair("missing_rgb", f"{pair_id}: the picture is not there")
            picture = read_rgb(path)
        except Exception as error:
            yield pair_id, None, failure(error)[1]
        else:
            yield pair_id, picture, ""


def read_depth(path: Path, convention: DepthConvention, shape: tuple[int, ...], orientation: int = 1) -> np.ndarray:
    """The depth map in `path`, (H, W) float32, for a picture of this upright `shape` and EXIF `orientation`.

    Raises BadPair.
    """
    return _decode_depth(_bytes_of(path, "bad_depth", "bad_depth"), path, convention, tuple(shape[:2]), orientation)


def _bytes_of(path: Path, unreadable: str, oversized: str) -> bytes:
    """The file's bytes, read once, so that the hash is of the decoded bytes and no header sets the memory used."""
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


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _open_image(data: bytes, path: Path, formats: tuple[str, ...]) -> Image.Image:
    """The image with its header read and its size within bounds; its pixels are not unpacked yet."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is stricter
        try:
            image = Image.open(io.BytesIO(data), formats=formats)
        except Image.DecompressionBombError:
            image = None
        except UnidentifiedImageError:  # Pillow's own message holds a memory address, which differs in each run
            raise ValueError("no bytes" if not data else f"not {', '.join(formats)}") from None
    if image is None or image.width * image.height > MAX_PIXELS:
        limit = f"at most {MAX_PIXELS // 10**6} megapixels are read"
        raise BadPair("too_large", f"{path}: too large, {limit}: make it smaller")
    if image.format == "PNG" and b"IEND" not in data:
        raise ValueError("the end of the file is missing")  # Pillow alone would accept it
    return image


def _decode_rgb(data: bytes, path: Path) -> tuple[np.ndarray, int]:
    """The upright picture, (H, W, 3) uint8, and the EXIF orientation (1-8) that was undone.

    Grey is copied to three channels, alpha is dropped (colours stay as they are stored), palettes and CMYK are
    converted, and 16-bit grey is scaled from 0..65535 to 0..255. Animations and other modes are refused.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata, which does not matter here
            image = _open_image(data, path, FORMATS)
            if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
                raise BadPair("unsupported_mode", f"{path}: an animation: save one picture of it")
            rgb, orientation = _rgb_of(image, path), _orientation(image)
    except BadPair:
        raise
    except Exception as error:  # parsers raise OSError, SyntaxError, struct.error and others
        problem = f"not a readable picture ({_one_line(error)})"
        raise BadPair("decode_error", f"{path}: {problem}: replace it") from None
    return np.ascontiguousarray(_upright(rgb, orientation)), orientation


def _rgb_of(image: Image.Image, path: Path) -> np.ndarray:
    if image.mode.startswith("I;16"):
        grey = (np.asarray(image).astype(np.uint32) * 255 + 32767) // 65535
        return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
    if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"):
        raise BadPair("unsupported_mode", f"{path}: pixel mode {image.mode} is not read: save it as 8-bit RGB")
    if image.mode == "P":  # through RGBA, so that transparent pixels keep their colour
        image = image.convert("RGBA")
    return np.asarray(image.convert("RGB"))


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation (1-8); 1 where there is none, or where the metadata cannot be read."""
    try:
        orientation = image.getexif().get(0x0112, 1)
    except Exception:  # damaged metadata does not spoil the picture
        return 1
    return orientation if orientation in range(1, 9) else 1


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels (H, W, ...) as they are stored, turned as they are displayed at an EXIF orientation 1-8.

    The meaning of the orientations is that of Exif 2.32, tag 0x0112.
    """
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def _decode_depth(
    data: bytes, path: Path, convention: DepthConvention, shape: tuple[int, ...], orientation: int
) -> np.ndarray:
    """The bytes of a depth file as depth (H, W) float32 in the form that the top of this file describes."""
    try:
        raw = _png_numbers(data, path) if str(path).lower().endswith(".png") else _npy_numbers(data)
    except BadPair as error:
        raise BadPair("bad_depth", str(error)) from None
    except Exception as error:
        problem = (
            f"not a readable depth map ({_one_line(error) if data else 'no bytes'}): save it again with numpy.save"
        )
        raise BadPair("bad_depth", f"{path}: {problem}") from None
    if raw.ndim == 3 and 1 in (raw.shape[0], raw.shape[2]):  # (H, W, 1), or (1, H, W) as PyTorch orders the axes
        raw = raw[..., 0] if raw.shape[2] == 1 else raw[0]
    stored = shape if orientation < 5 else shape[::-1]
    if raw.shape != shape and raw.shape == stored:
        raw = _upright(raw, orientation)
    if raw.shape != shape:
        problem = f"depth has the shape {raw.shape}, the picture {shape}"
        raise BadPair("shape_mismatch", f"{path}: {problem}: register depth to the picture")
    return _canonical(raw, path, convention)


def _npy_numbers(data: bytes) -> np.ndarray:
    """The array of a .npy file of real numbers; nothing is unpickled, and no size in the header is trusted."""
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
    """The numbers of a file as depth (H, W) float32 in the form that the top of this file describes."""
    if _bytes_swapped(raw):
        problem = "its bytes look swapped (big-endian numbers written as little-endian, or the other way round)"
        raise BadPair("bad_depth", f"{path}: {problem}: save it again from the sensor's numbers")
    reading = _readings(raw, convention)
    depth = np.where(reading, raw, 0).astype(np.float64) * convention.scale
    if convention.unit != "pixel" and reading.any():
        _require_metric(depth[reading], path, convention)
    depth *= 1000.0 if convention.unit == "m" else 1.0
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


def _readings(raw: np.ndarray, convention: DepthConvention) -> np.ndarray:
    """(H, W) bool: the pixels with a reading; the top of this file lists the numbers that are none."""
    reading = np.isfinite(raw) & (raw > 0)
    metre = 0.001 if convention.unit == "m" else 1.0
    tolerance = 2 * float(np.finfo(raw.dtype).eps) if raw.dtype.kind == "f" else 0.0

    def equal(number: float) -> np.ndarray:
        return np.abs(raw - np.float64(number)) <= tolerance * number

    with np.errstate(invalid="ignore", over="ignore"):
        for number in convention.no_reading:
            reading &= ~equal(number)
        for number in {FULL_SCALE, FULL_SCALE * metre}:
            if raw.max(where=reading, initial=0) >= number * (1 - tolerance):  # most maps lie below
                reading &= ~equal(number)
        top = float(raw.max(where=reading, initial=0))
        for mark in (number * metre for number in MARKS):
            if abs(top - mark) <= tolerance * mark:
                marked = equal(mark)
                below = reading & ~marked & (raw >= MARK_GAP * mark)
                if marked.sum() >= max(2, MARK_SHARE * raw.size) and not below.any():
                    reading &= ~marked
    return reading


def _bytes_swapped(raw: np.ndarray) -> bool:
    """Whether the numbers of a map make sense only with the bytes of each in the other order.

    A true map of integers changes by a few units from pixel to pixel; with its bytes swapped it changes by multiples
    of 256 and more. Integers whose lower bytes are all 0 (8-bit grey times 256) are not judged. Floats with their
    bytes swapped are nearly 0 or huge.
    """
    if raw.dtype.itemsize == 1 or raw.shape[1] < 2:
        return False
    rows = np.ascontiguousarray(raw[:: max(1, len(raw) // 64)])
    with np.errstate(all="ignore"):
        swapped = rows.byteswap().astype(np.float64)
        rows = rows.astype(np.float64)
        known = (rows != 0) & np.isfinite(rows) & np.isfinite(swapped)
        both = known[:, 1:] & known[:, :-1]
        if both.sum() < 16:
            return False
        if raw.dtype.kind == "f":
            low, high = LIKELY_FLOATS
            level, level_swapped = np.median(np.abs(rows[known])), np.median(swapped[known])
            return bool(not low <= level <= high and low <= level_swapped <= high)
        if swapped[known].max() < 256:
            return False
        change, change_swapped = (np.abs(np.diff(numbers, axis=1))[both].mean() for numbers in (rows, swapped))
        return bool(change_swapped < 0.1 * np.abs(swapped[known]).mean() and change_swapped * 20 < change)


def _require_metric(depth: np.ndarray, path: Path, convention: DepthConvention) -> None:
    """Raise BadPair unless readings `depth` (N,), in the declared unit, can be distances of a face."""
    hint = "declare depth_unit in dataset.json"
    if convention.scale == 1 and depth.max() <= 255 and (depth == np.round(depth)).all():
        problem = (
            f"numbers from {depth.min():g} to {depth.max():g} are 8-bit grey and no distances in {convention.unit}"
        )
        fix = 'declare "depth_unit": "pixel", or save the 16-bit numbers of the sensor'
        raise BadPair("bad_depth", f"{path}: {problem}: {fix}")
    per_unit = 1000.0 if convention.unit == "m" else 1.0
    median = float(np.median(depth)) * per_unit
    if convention.larger_is == "nearer" or PLAUSIBLE_MM[0] <= median <= PLAUSIBLE_MM[1]:
        return
    other = "another unit"
    number = float(np.median(depth)) / convention.scale
    for unit, scale, name in (
        ("m", 1.0, "metres"),
        ("mm", 1.0, "millimetres"),
        *(("mm", scale, f"units of {scale:g} mm") for scale in (0.1, 0.01, 0.001)),
        ("mm", 10.0, "centimetres"),
    ):
        if PORTRAIT_MM[0] <= number * scale * (1000.0 if unit == "m" else 1.0) <= PORTRAIT_MM[1]:
            other = name
            hint = f'declare "depth_unit": "{unit}"' + (f', "depth_scale": {scale:g}' if scale != 1 else "")
            hint += " in dataset.json, on the command line or on the page"
            break
    problem = f"a median depth of {median:g} mm is no distance of a face; the numbers look like {other}"
    raise BadPair("bad_depth", f"{path}: {problem}: {hint}")
