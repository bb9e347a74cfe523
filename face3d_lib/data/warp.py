"""One warp for colour and depth: from source pixels to the aligned crop."""

import hashlib
import json
from dataclasses import asdict, dataclass

import numpy as np
from PIL import Image
from skimage.transform import SimilarityTransform

from ..base.errors import UserError
from .faces import MAX_SIDE, Detection, check_rgb
from .pairs import BadPair

# Eyes, nose tip and mouth corners in a 112 x 112 crop (pixel centres at whole numbers): the reference points
# of InsightFace (python-package/insightface/utils/face_align.py, arcface_dst), used by ArcFace and its
# successors.
TEMPLATE_112 = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
# The same five points in dlib's face chips of 150 x 150 px (padding .25). dlib places the corners of the eyes and the base
# of the nose, and does not see these points: they are medians over 240 photographs of Labeled Faces in the Wild, where
# the detector of this project found them in chips that dlib 20.0.1 had cut. Two Kinect sensors differ by 2 px or less.
DLIB_150 = np.array([[47.28, 45.4], [101.07, 45.48], [74.31, 77.74], [51.26, 104.68], [97.38, 105.12]])
CHIP = 150  # px, side of dlib's face chips
DLIB_SIZE = 224  # px, side of the crops of mode "dlib" by default: the chip, and what lies around it
EYES_MM = 63.0  # mean distance between the pupils of adults (Dodgson 2004, doi 10.1117/12.529999)
MM_PER_TEMPLATE_PX = EYES_MM / float(np.linalg.norm(TEMPLATE_112[1] - TEMPLATE_112[0]))  # 1.788
EYES_TEMPLATE_PX = EYES_MM / MM_PER_TEMPLATE_PX  # 35.2

MODES = ("template", "dlib", "facenet", "none")  # of alignment
MATRIX = ["m00", "m01", "m02", "m10", "m11", "m12"]  # columns of alignment.csv that hold `warp_matrix`


@dataclass(frozen=True)
class AlignSettings:
    """How a face is cropped. A model may only be used on crops that were made with equal settings."""

    mode: str = "template"  # or "dlib" (its chips, a border), "facenet" (box, margin; legacy), "none" (the square)
    image_size: int = 0  # px, crops are square; 0 becomes 224 in mode "dlib" and else 112
    margin: int = 44  # source px added to the width and height of the box, half at each side; mode "facenet" only
    min_face_size: int = 20  # px, the smallest face that is looked for

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UserError(f"mode {self.mode!r}: one of {', '.join(MODES)} expected")
        if self.image_size == 0:
            object.__setattr__(self, "image_size", DLIB_SIZE if self.mode == "dlib" else 112)
        limits = {"image_size": (16, 2048), "margin": (0, 10_000), "min_face_size": (12, MAX_SIDE)}
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise UserError(f"{name} {value!r} must be a whole number from {low} to {high}")
        if self.mode == "dlib" and (self.image_size < CHIP or self.image_size % 2):
            raise UserError(f"image_size {self.image_size}: mode dlib needs an even number, {CHIP} or more")

    def hash(self) -> str:
        """Sixteen hexadecimal digits that differ where crops may differ."""
        text = json.dumps(asdict(self) | {"detector": "facenet-pytorch 2.5.3", "version": 1}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def reference_of(settings: AlignSettings) -> np.ndarray | None:
    """(5, 2) where the five points lie in a crop, px with pixel centres at whole numbers; None for modes without points.

    In mode "template" a larger crop shows the same at a finer scale: it is resized about its edge, not about a pixel's
    centre. In mode "dlib" it shows more at the same scale, with dlib's chip in its middle.
    """
    if settings.mode == "template":
        ratio = settings.image_size / 112
        return TEMPLATE_112 * ratio + (ratio - 1) / 2
    return DLIB_150 + (settings.image_size - CHIP) / 2 if settings.mode == "dlib" else None


def template_transform(points: np.ndarray, reference: np.ndarray = TEMPLATE_112) -> np.ndarray:
    """(2, 3) float64: the least-squares similarity (Umeyama 1991) from five source points to those of `reference`.

    Raises BadPair with the status no_face where the points lie in one spot.
    """
    transform = SimilarityTransform.from_estimate(np.asarray(points, np.float64), reference)
    if not transform or not np.isfinite(transform.params).all() or not 1e-6 < transform.scale < 1e6:
        raise BadPair("no_face", "the five points lie in one spot: no face to align")
    return transform.params[:2]


def warp_matrix(settings: AlignSettings, shape: tuple[int, ...], face: Detection | None) -> np.ndarray:
    """(2, 3) float64 from source to crop pixels, whose centres are at whole numbers; rounded as it is recorded.

    Modes "template" and "dlib" take the similarity of the five points to those of `reference_of`. Mode "facenet" widens
    the box by margin / 2 source pixels at each side, cuts it to the picture, truncates it to whole pixels and stretches
    it to the square. Mode "none", or a `face` of None, takes the largest centred square. `shape` is that of the picture, (H, W, ...).
    """
    size, (height, width) = settings.image_size, shape[:2]
    reference = reference_of(settings)
    if reference is not None and face is not None:
        return np.round(template_transform(face.points, reference), 9)
    if settings.mode == "facenet" and face is not None:
        half = settings.margin / 2
        low = np.maximum(face.box[:2] - half, 0).astype(int)
        high = np.minimum(face.box[2:] + half, [width, height]).astype(int)
        high = np.maximum(high, low + 1)
    else:
        side = min(height, width)
        low = np.array([(width - side) // 2, (height - side) // 2])
        high = low + side
    scale = size / (high - low)
    offset = (0.5 - low) * scale - 0.5
    return np.round([[scale[0], 0, offset[0]], [0, scale[1], offset[1]]], 9)


def warp_pair(rgb: np.ndarray, depth: np.ndarray, matrix: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """`rgb` and `depth` warped by one `matrix` (2, 3): crops (size, size, 3) uint8 and (size, size) float32.

    Colour is interpolated linearly, after averaging whole blocks where the crop is smaller than its source. Depth is
    taken from the nearest pixel, so that every reading was measured. Outside the picture the crops are black and
    without a reading. Raises ValueError, which names the argument, if one is not of the form that `decoding.read_pair`
    returns.
    """
    check_rgb(rgb)
    if getattr(depth, "dtype", None) != np.float32 or depth.shape != rgb.shape[:2]:
        raise ValueError("depth must be a float32 array (H, W) of the size of rgb")
    if not np.isfinite(depth).all() or depth.min() < 0:
        raise ValueError("depth must be finite and 0 or more (0 = no reading); read it with decoding.read_depth")
    matrix = np.asarray(matrix, np.float64)
    if matrix.shape != (2, 3) or not np.isfinite(matrix).all():
        raise ValueError("matrix must be (2, 3) and finite")
    x, y = source_of(matrix, size)
    warped_depth, within = nearest(depth, x, y)
    if not within.any():
        return np.zeros((size, size, 3), np.uint8), warped_depth

    per_crop_px = 1 / np.linalg.norm(matrix[:, :2], axis=0)  # source px, along x and along y
    block = np.maximum(1, np.round(per_crop_px)).astype(int)
    low = np.maximum(np.floor([x.min(), y.min()]).astype(int) - block, 0)
    high = np.minimum(np.ceil([x.max(), y.max()]).astype(int) + block + 1, rgb.shape[1::-1])
    region = rgb[low[1] : high[1], low[0] : high[0]]
    if block.max() > 1:
        region = np.asarray(Image.fromarray(np.ascontiguousarray(region)).reduce(tuple(block.tolist())))
    x, y = (x - low[0] + 0.5) / block[0] - 0.5, (y - low[1] + 0.5) / block[1] - 0.5
    return _bilinear(region, x, y), warped_depth


def source_of(matrix: np.ndarray, size: int) -> np.ndarray:
    """(2, size, size) float64: x and y in the source of every pixel of a crop of `size` px; `matrix` is (2, 3)."""
    rows, columns = np.mgrid[:size, :size]
    offsets = np.stack([columns - matrix[0, 2], rows - matrix[1, 2]])
    return np.tensordot(np.linalg.inv(matrix[:, :2]), offsets, 1)


def nearest(depth: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(`depth` (H, W) at the pixels nearest to the points x, y, 0 outside; bool: which points lie within)."""
    column, row = np.floor(x + 0.5).astype(np.int64), np.floor(y + 0.5).astype(np.int64)
    within = (column >= 0) & (column < depth.shape[1]) & (row >= 0) & (row < depth.shape[0])
    taken = np.zeros(x.shape, np.float32)
    taken[within] = depth[row[within], column[within]]
    return taken, within


def _bilinear(image: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """`image` (H, W, 3) uint8 at the points x, y; black outside."""
    height, width = image.shape[:2]
    framed = np.zeros((height + 2, width + 2, 3), np.float32)
    framed[1:-1, 1:-1] = image
    x, y = np.clip(x + 1, 0, width + 1 - 1e-6), np.clip(y + 1, 0, height + 1 - 1e-6)
    left, top = x.astype(np.int64), y.astype(np.int64)
    right, down = (x - left)[..., None].astype(np.float32), (y - top)[..., None].astype(np.float32)
    flat, at = framed.reshape(-1, 3), top * (width + 2) + left

    def pixels(step: int) -> np.ndarray:  # np.take needs half the time of an index
        return np.take(flat, at + step, axis=0)

    upper = pixels(0) * (1 - right) + pixels(1) * right
    lower = pixels(width + 2) * (1 - right) + pixels(width + 3) * right
    return (upper * (1 - down) + lower * down + 0.5).astype(np.uint8)
