"""Reading the pixels of a pair: the bytes of two files become one picture and one depth map.

Depth leaves this file in one form: float32, larger = farther, 0 = no reading, every reading finite and above
0.
"""

import hashlib
import io
import os
import stat
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from .pairs import BadPair, DepthConvention, PairFiles, RGBDPair, one_line

FORMATS = ("PNG", "JPEG", "BMP")  # by content, not by name; JPEG brings MPO, of which the first picture is read
MAX_PIXELS = 50_000_000  # a picture of 12 kB can unpack to gigabytes
MAX_FILE_BYTES = 400_000_000  # 50 Mpx of float64
MIN_READINGS = 0.001  # share of the pixels with a reading below which a depth map counts as empty
LARGEST_READING = 2.0**19  # mm or px; above it float32 no longer holds a tenth of the unit: no reading
OFFSET = 4096.0  # far = OFFSET - near where larger means nearer; a larger power of two where readings reach it
PLAUSIBLE_MM = (10.0, 20_000.0)  # a median outside is a unit declared wrongly


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


def read_rgb(path: Path) -> np.ndarray:
    """The picture (H, W, 3) uint8 in RGB order, upright. Raises BadPair."""
    return _decode_rgb(_bytes_of(path, "decode_error", "too_large"), path)[0]


def read_depth(path: Path, convention: DepthConvention, shape: tuple, orientation: int = 1) -> np.ndarray:
    """Depth (H, W) float32 of a picture with this upright `shape` and EXIF orientation. Raises BadPair."""
    return _decode_depth(_bytes_of(path, "bad_depth", "bad_depth"), path, convention, tuple(shape[:2]), orientation)


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
        problem = f"not a readable picture ({one_line(error)})"
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
        problem = f"not a readable depth map ({one_line(error)}): save it again with numpy.save"
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
