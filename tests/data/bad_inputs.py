"""Files that go wrong, made when they are needed: no bad file and no face is kept in the repository."""

import io
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

from face3d_lib.data.pairs import STATUSES, BadPair

SENTINEL = "opened_by_pickle"


def face(size: int = 128) -> np.ndarray:
    """A real face from scikit-image's wheel (public domain), (size, size, 3) uint8."""
    return np.asarray(Image.fromarray(data.astronaut()[:260, 90:350]).resize((size, size), Image.BICUBIC))


def texture(height: int = 48, width: int = 40, seed: int = 0) -> np.ndarray:
    """A picture of smooth noise without a face."""
    noise = np.random.default_rng(seed).integers(0, 255, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).resize((width, height), Image.BICUBIC))


def depth_of(shape, mm=800) -> np.ndarray:
    """A tilted plane in mm, (H, W) uint16, every reading different from its neighbours."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return (mm + rows + 2 * columns).astype(np.uint16)


def write_pair(root: Path, pair_id: str, rgb: np.ndarray, depth=None) -> None:
    path = root / f"{pair_id}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rgb).save(path)
    np.save(root / f"{pair_id}.npy", depth_of(rgb.shape) if depth is None else depth)


def declare(root: Path, unit: str = "mm", larger_is: str = "farther") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset.json").write_text(f'{{"depth_unit": "{unit}", "larger_is": "{larger_is}"}}')
    return root


def image_bytes(rgb: np.ndarray, form: str, **options) -> bytes:
    out = io.BytesIO()
    Image.fromarray(rgb).save(out, form, **options)
    return out.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def bomb(width: int, height: int) -> bytes:
    """A 1-bit PNG of a few kB that says and holds width x height pixels."""
    packer, body = zlib.compressobj(9), b""
    for _ in range(height):
        body += packer.compress(bytes(1 + (width + 7) // 8))
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    pixels = chunk(b"IDAT", body + packer.flush())
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


class Evil:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, folder):
        self.path = str(folder / SENTINEL)

    def __reduce__(self):
        return open, (self.path, "w")


def npy_bytes(array, version=(1, 0), allow_pickle=False) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, array, version, allow_pickle=allow_pickle)
    return out.getvalue()


def npy_header(shape, descr="<f4") -> bytes:
    """The header of a .npy file that promises `shape`, with no data behind it."""
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": descr, "fortran_order": False, "shape": shape})
    return out.getvalue()


def bad_pictures(folder: Path) -> dict[str, tuple[bytes, str]]:
    """name -> (bytes, status) of pictures that cannot be used."""
    rgb = texture()
    png, jpeg = image_bytes(rgb, "PNG"), image_bytes(rgb, "JPEG", quality=90)
    frames = [Image.fromarray(texture(seed=k)) for k in range(3)]
    animation = io.BytesIO()
    frames[0].save(animation, "PNG", save_all=True, append_images=frames[1:])
    gif, tiff = image_bytes(rgb, "GIF"), image_bytes(rgb, "TIFF")
    metres = image_bytes(rgb[..., 0].astype(np.float32), "TIFF")
    flipped = bytearray(png)
    flipped[len(png) // 2] ^= 1
    broken = {f"png_cut_at_{share}.png": png[: len(png) * share // 100] for share in range(5, 100, 5)}
    broken |= {f"jpeg_cut_at_{share}.jpg": jpeg[: len(jpeg) * share // 100] for share in range(5, 100, 5)}
    broken |= {
        "png_without_its_end.png": png[:-8],
        "png_with_a_flipped_bit.png": bytes(flipped),
        "empty.png": b"",
        "empty.jpg": b"",
        "page.jpg": b"<html><body>404</body></html>",
        "postscript.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n",
        "gif.png": gif,
        "tiff.jpg": tiff,
        "metres_as_floats.png": metres,
        "pickle.png": pickle.dumps(Evil(folder)),
    }
    return {name: (data, "decode_error") for name, data in broken.items()} | {
        "animation.png": (animation.getvalue(), "unsupported_mode"),
        "bomb_100_mpx.png": (bomb(10_000, 10_000), "too_large"),
        "bomb_144_mpx.png": (bomb(12_000, 12_000), "too_large"),
        "bomb_header_64k.png": (bomb_header(65_500, 65_500), "too_large"),
    }


def bomb_header(width: int, height: int) -> bytes:
    """A PNG whose header promises much and that holds nothing."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", bytes(8)) + chunk(b"IEND", b"")


def bad_depths(folder: Path, shape=(48, 40)) -> dict[str, tuple[bytes, str]]:
    """name -> (bytes of a .npy file, status) of depth maps that cannot be used with a picture of `shape`."""
    plane = depth_of(shape)
    good = npy_bytes(plane)
    objects = np.empty(shape, object)
    objects[:] = Evil(folder)
    pairs = np.zeros(shape, [("a", "f4"), ("b", "f4")])
    broken = {
        "objects": npy_bytes(objects, allow_pickle=True),
        "pickle": pickle.dumps(Evil(folder)),
        "cut": good[: len(good) // 2],
        "header_only": npy_header(shape),
        "four_terabytes": npy_header((1_000_000, 1_000_000)) + bytes(64),
        "overflowing": npy_header((2**32, 2**32)) + bytes(64),
        "negative_size": npy_header((-48, -40)) + bytes(48 * 40 * 4),
        "trailing_bytes": good + b"\0",
        "empty": b"",
        "text": b"1,2,3\n",
        "zip": b"PK\x03\x04" + bytes(40),
        "complex": npy_bytes(plane.astype(np.complex64)),
        "booleans": npy_bytes(plane > 0),
        "strings": npy_bytes(plane.astype("U4")),
        "structured": npy_bytes(pairs),
        "all_zero": npy_bytes(np.zeros(shape)),
        "all_nan": npy_bytes(np.full(shape, np.nan)),
        "all_infinite": npy_bytes(np.full(shape, np.inf)),
        "all_negative": npy_bytes(np.full(shape, -800.0)),
        "all_65535": npy_bytes(np.full(shape, 65535, np.uint16)),
        "one_reading": npy_bytes(np.where(plane == plane[0, 0], plane, 0)),
        "metres_called_mm": npy_bytes(plane / 1000.0),
        "micrometres_called_mm": npy_bytes(plane * 1000.0),
    }
    mismatched = {
        "smaller": npy_bytes(plane[:-1]),
        "turned": npy_bytes(plane.T),
        "three_channels": npy_bytes(np.repeat(plane[..., None], 3, 2)),
        "flat": npy_bytes(plane.ravel()),
        "two_maps": npy_bytes(np.stack([plane, plane])),
    }
    return {name: (data, "bad_depth") for name, data in broken.items()} | {
        name: (data, "shape_mismatch") for name, data in mismatched.items()
    }


def status_of(function, *arguments):
    """The status of the BadPair that a call raises; its message is one line that names a file and a fix."""
    with pytest.raises(BadPair) as caught:
        function(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    assert ": " in message
    assert caught.value.status in STATUSES
    return caught.value.status
