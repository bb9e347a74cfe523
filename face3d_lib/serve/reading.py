"""One pair from two files that somebody names, wherever they lie."""

import hashlib
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ..base.errors import UserError
from ..data.convention import DepthConvention, read_convention
from ..data.pairs import BadPair, RGBDPair, single_pair

Declared = tuple[str | None, str | None, float | None]  # depth_unit, larger_is, depth_scale; None: by dataset.json
UNDECLARED: Declared = (None, None, None)


def open_pair(rgb: Path, depth: Path, declared: Declared = UNDECLARED) -> tuple[RGBDPair, DepthConvention]:
    """The pair of two files, and what its depth means, by `declared` or by the dataset.json near the picture.

    UserError where a file is missing or cannot be used, or where nothing says what depth means.
    """
    from ..data.decoding import read_pair

    rgb, depth = existing(rgb, "picture"), existing(depth, "depth")
    convention = read_convention(declaring_folder(rgb), *declared)
    return read_pair(single_pair(rgb, depth), convention), convention


def open_picture(rgb: Path) -> RGBDPair:
    """The pair of a picture that has no depth map: its depth holds no reading. UserError as of `open_pair`."""
    from ..data.decoding import read_rgb

    rgb = existing(rgb, "picture")
    picture, names = read_rgb(rgb), single_pair(rgb, rgb)
    nothing = np.zeros(picture.shape[:2], np.float32)
    return RGBDPair(
        names.pair_id, names.subject_id, picture, nothing, "mm", hashlib.sha256(rgb.read_bytes()).hexdigest(), ""
    )


@contextmanager
def naming(rgb: str | Path) -> Iterator[None]:
    """Within the block, what is wrong with a pair is said with the name of its picture."""
    try:
        yield
    except BadPair as error:
        raise BadPair(error.status, f"{rgb}: {error}") from None


def existing(path: Path, what: str) -> Path:
    """`path`, or the file that is there under the same name in another Unicode form; UserError where there is none."""
    path = Path(path)
    if path.is_file():
        return path
    here = Path(path.anchor or ".")
    for part in path.parts[1 if path.anchor else 0 :]:
        exact = here / part
        names = [] if exact.exists() or not here.is_dir() else [other.name for other in here.iterdir()]
        same = [name for name in names if unicodedata.normalize("NFC", name) == unicodedata.normalize("NFC", part)]
        here = here / same[0] if same else exact
    if not here.is_file():
        raise UserError(f"{what} {path}: there is no such file: correct the path")
    return here


def declaring_folder(rgb: Path) -> Path:
    """The folder whose dataset.json applies to the picture: its own folder, else the one above the person's folder."""
    parents = Path(rgb).resolve().parents[:2]
    return next((folder for folder in parents if (folder / "dataset.json").exists()), parents[0])
