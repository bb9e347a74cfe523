"""Raw pairs -> aligned pairs: faces found in colour, then one warp for colour and depth.

`align_folder` writes the raw layout again plus alignment.csv with a row for every input. The folder is a
function of the inputs and the settings alone: not of the number of processes, the order, or how often the run
was killed.
"""

import fcntl
import hashlib
import io
import json
import multiprocessing
import multiprocessing.connection
import os
import random
import signal
import threading
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage.transform import SimilarityTransform
from tqdm.auto import tqdm

from .atomic import UserError, sha256_of, sweep, write_json, write_text
from .manifest import ALIGNMENT_COLUMNS, DEPTH_MARKS, MATRIX, POINTS, check_alignment, inside, read_table, write_table
from .pairs import BadPair, DepthConvention, PairFiles, RGBDPair, find_pairs, read_convention, read_pair

# Eyes, nose tip and mouth corners in a 112 x 112 crop (pixel centres at whole numbers): the reference points
# of InsightFace (python-package/insightface/utils/face_align.py, arcface_dst), used by ArcFace and its
# successors.
TEMPLATE_112 = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
EYES_MM = 63.0  # mean distance between the pupils of adults (Dodgson 2004, doi 10.1117/12.529999)
MM_PER_TEMPLATE_PX = EYES_MM / float(np.linalg.norm(TEMPLATE_112[1] - TEMPLATE_112[0]))  # 1.788
EYES_TEMPLATE_PX = EYES_MM / MM_PER_TEMPLATE_PX  # 35.2
UNALIGNED_WIDTH_MM = 250.0  # what a portrait photo shows from side to side; mode "none" knows no points
PYRAMID = 0.709  # MTCNN's step from one scale to the next
MAX_SIDE = 1600  # px; larger pictures are shrunk for detection: 8000 x 8000 would take 34 s and 3.7 GB
SURE = 0.9  # probability from which a face of the coarse pass needs no second look
# MTCNN's points lie about 1 px right and below in whatever picture it sees: half a pixel because edges are
# taken for pixel centres, half because boxes are truncated. On photos and their mirror images: 1.2 px at 1x,
# 2x and 3x alike.
POINT_OFFSET = 1.0
BATCH = 16  # pictures in one call of MTCNN; more is not faster on a CPU
BATCH_PIXELS = 16_000_000  # pictures held in memory at a time, unless one alone is larger
CHUNK = 32  # most pairs in one line of the journal
CROPS = (("rgb", ".png"), ("depth", ".npy"))  # the files of an aligned pair
MIN_CROP_READINGS = 0.02  # share of crop pixels with a depth below which the face counts as not measured
FACE_RELIEF = 0.4  # eye distances from eyes and mouth forward to the nose: 0.28 to 0.53 in the sets that were measured
DIRECTION_SURE = 0.1  # eye distances; a median relief below minus this is depth the other way round
REGISTRATION_LIMIT = 0.28  # eye distances; medians were 0.07 to 0.13 as recorded, 0.35 to 0.5 with depths swapped
OFFSET_LIMIT = 0.12  # eye distances; the common offset of the noses was 0.07 and less as recorded


@dataclass(frozen=True)
class AlignSettings:
    """How a face becomes a crop; two crops may meet in one model only where all of this is equal."""

    mode: str = "template"  # or "facenet" (box and margin, as in 2019) or "none" (centred square)
    image_size: int = 112  # px, crops are square
    margin: int = 44  # source px added to the box in all (half at each side); mode "facenet" only
    min_face_size: int = 20  # px, the smallest face that is looked for

    def __post_init__(self):
        if self.mode not in ("template", "facenet", "none"):
            raise UserError(f"mode {self.mode!r} must be template, facenet or none")
        limits = {"image_size": (16, 2048), "margin": (0, 10_000), "min_face_size": (12, MAX_SIDE)}
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise UserError(f"{name} {value!r} must be a whole number from {low} to {high}")

    def hash(self) -> str:
        """Sixteen hexadecimal digits that differ where crops may differ."""
        text = json.dumps(asdict(self) | {"detector": "facenet-pytorch 2.5.3", "version": 1}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


# ---- finding faces


@dataclass(frozen=True)
class Detection:
    """One face in source pixels, pixel centres at whole numbers."""

    box: np.ndarray  # (4,) float64: left, top, right, bottom, within the picture
    points: np.ndarray  # (5, 2) float64: left eye, right eye, nose tip, mouth corners, in image order
    probability: float


@dataclass(frozen=True)
class Faces:
    """What was found in one picture. `error`: why the detector failed on it, "" where it did not."""

    faces: list[Detection] = field(default_factory=list)
    found_at: str = ""  # "native", or "2x" where only the enlarged picture showed a face
    error: str = ""


def load_detector(device: str = "cpu"):
    """MTCNN with the weights of its package, on `device`; UserError where there is no such device."""
    import torch  # here, because reading and mode "none" do not need seconds of imports
    from facenet_pytorch import MTCNN

    if str(device).split(":")[0] not in ("cpu", "cuda"):
        raise UserError(f"device {device!r}: cpu or cuda expected")
    if str(device).startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"device {device}: no GPU is usable here: use device cpu")
    detector = MTCNN(select_largest=False, device=torch.device(device)).eval()
    return detector.to(memory_format=torch.channels_last)  # max pooling is several times faster so


def find_faces(images: list[np.ndarray], detector, min_face_size: int = 20) -> list[Faces]:
    """The faces in each picture (H, W, 3) uint8 RGB; ValueError for other arrays, before the network.

    Portraits are the rule: first only faces of a quarter of the short side and more are looked for, and what
    is found stands where no smaller face could be chosen (see `choose_face`). The scales of that pass are
    scales of the full pass, so points come out alike. Then all sizes; then, where nothing was found, the
    picture at twice its size.
    """
    for image in images:
        check_rgb(image)
    views = {k: _view(image, min(1.0, MAX_SIDE / max(image.shape[:2]))) for k, image in enumerate(images)}
    coarse = {k: _coarse_size(view[0], min_face_size) for k, view in views.items()}
    found: dict[int, Faces] = {}
    for k, faces in _look(views, coarse, detector).items():
        if _settled(faces, coarse[k] / views[k][1], images[k].shape):
            found[k] = faces
    full = dict.fromkeys(views, float(min_face_size))
    for k, faces in _look({k: views[k] for k in views if k not in found}, full, detector).items():
        if faces.faces or faces.error:
            found[k] = faces
    small = [k for k in views if k not in found and 2 * max(images[k].shape[:2]) <= MAX_SIDE]
    for k, faces in _look({k: _view(images[k], 2.0) for k in small}, full, detector).items():
        found[k] = replace(faces, found_at="2x" if faces.faces else "")
    return [found.get(k, Faces()) for k in range(len(images))]


def check_rgb(image: np.ndarray) -> None:
    """Raise ValueError unless (H, W, 3) uint8: on floats or four channels MTCNN is silent or breaks."""
    kind, shape = getattr(image, "dtype", type(image).__name__), getattr(image, "shape", ())
    if not isinstance(image, np.ndarray) or kind != np.uint8 or image.size == 0 or shape[2:] != (3,):
        raise ValueError(f"rgb must be a uint8 array (H, W, 3) in RGB order, not {kind} {shape}")


def choose_face(faces: list[Detection], shape: tuple) -> tuple[int, str]:
    """(index, why) of the face that counts: by area less twice its squared distance from the centre.

    The rule of 2019 (David Sandberg's align_dataset_mtcnn.py). Why: "only", "largest", or "centred" where a
    larger face lies farther from the centre.
    """
    values = [_value(face, shape) for face in faces]
    best = int(np.argmax(values))
    if len(faces) == 1:
        return best, "only"
    return best, "largest" if _area(faces[best]) >= max(_area(face) for face in faces) else "centred"


def _area(face: Detection) -> float:
    return float((face.box[2] - face.box[0]) * (face.box[3] - face.box[1]))


def _value(face: Detection, shape: tuple) -> float:
    offset = (face.box[:2] + face.box[2:]) / 2 - np.array([shape[1], shape[0]]) / 2
    return _area(face) - 2.0 * float(offset @ offset)


def _settled(found: Faces, smallest: float, shape: tuple) -> bool:
    """Whether no face smaller than `smallest` px could be chosen instead: its value is at most its area."""
    if not found.faces:
        return False
    chosen = found.faces[choose_face(found.faces, shape)[0]]
    return chosen.probability >= SURE and _value(chosen, shape) >= smallest**2


def _coarse_size(pixels: np.ndarray, min_face_size: int) -> float:
    """The largest min_face_size / PYRAMID**k, k a whole number, up to a quarter of the short side."""
    steps = np.log(max(min(pixels.shape[:2]) / 4, min_face_size) / min_face_size) / -np.log(PYRAMID)
    return min_face_size / PYRAMID ** int(steps)


def _view(image: np.ndarray, scale: float) -> tuple[np.ndarray, float]:
    """(pixels for the detector, their size / the picture's size)."""
    if scale == 1.0:
        return image, 1.0
    size = [max(1, round(length * scale)) for length in image.shape[1::-1]]
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)), scale


def _look(views: dict, min_sizes: dict, detector) -> dict[int, Faces]:
    """What is found in every view; pictures of one size go through the network together."""
    groups: dict[tuple, list[int]] = {}
    for k, (pixels, _) in views.items():
        groups.setdefault((pixels.shape, min_sizes[k]), []).append(k)
    found = {}
    for (shape, min_size), members in groups.items():
        most = max(1, min(BATCH, BATCH_PIXELS // (shape[0] * shape[1])))
        for start in range(0, len(members), most):
            batch = members[start : start + most]
            try:
                found |= _detect(views, batch, min_size, detector)
            except Exception:  # one picture may spoil a batch: then each alone, and only that one fails
                for k in batch:
                    try:
                        found |= _detect(views, [k], min_size, detector)
                    except Exception as error:
                        text = " ".join(f"{type(error).__name__} {error}".split())[:200]
                        found[k] = Faces(error=f"the detector failed: {text}")
    return found


def _detect(views: dict, batch: list[int], min_size: float, detector) -> dict[int, Faces]:
    """The one call of MTCNN: pictures of one size, as a batch (B, H, W, 3) uint8 -> faces in source pixels.

    Guards facenet-pytorch 2.5.3: sides below min_face_size make it raise; it returns object arrays, None for
    no face, and boxes beyond the picture; its own choice among faces can mix one's box with another's points.
    """
    import torch

    pixels = np.stack([views[k][0] for k in batch])
    if min(pixels.shape[1:3]) < min_size:
        return {k: Faces() for k in batch}
    detector.min_face_size = min_size
    # laid out by planes under that shape: its resizing is faster so, its results are the same
    planes = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()).permute(0, 2, 3, 1)
    found = {}
    for k, boxes, probabilities, points in zip(batch, *detector.detect(planes, landmarks=True), strict=True):
        parts = [] if boxes is None else [np.asarray(part, np.float64) for part in (boxes, probabilities, points)]
        faces = [_in_source(*one, *views[k]) for one in zip(*parts, strict=True)]
        faces = [face for face in faces if np.isfinite([*face.box, face.probability, *face.points.flat]).all()]
        found[k] = Faces(faces, "native" if faces else "")
    return found


def _in_source(box, probability, points, pixels: np.ndarray, scale: float) -> Detection:
    """A face of a view in pixels of the source, box within the picture; rounded as it is recorded."""
    high = np.array([pixels.shape[1], pixels.shape[0]] * 2) - 1
    box = np.maximum((np.clip(box, 0, high) + 0.5) / scale - 0.5, 0)
    points = (points - POINT_OFFSET + 0.5) / scale - 0.5
    return Detection(np.round(box, 5), np.round(points, 5), round(min(float(probability), 1.0), 6))


# ---- one warp for both


def template_transform(points: np.ndarray) -> np.ndarray:
    """(2, 3) similarity of least squares (Umeyama 1991) from five source points to TEMPLATE_112."""
    transform = SimilarityTransform.from_estimate(np.asarray(points, np.float64), TEMPLATE_112)
    if not transform or not np.isfinite(transform.params).all() or not 1e-6 < transform.scale < 1e6:
        raise BadPair("no_face", "the five points lie in one spot: no face to align")
    return transform.params[:2]


def warp_matrix(settings: AlignSettings, shape: tuple, face: Detection | None) -> np.ndarray:
    """(2, 3) float64 from source to crop pixels, pixel centres at whole numbers; rounded as recorded.

    "template": similarity of the five points. "facenet": the box widened by margin / 2 source pixels at each
    side, cut to the picture, truncated to whole pixels and stretched to the square. "none": the largest
    centred square.
    """
    size, (height, width) = settings.image_size, shape[:2]
    if settings.mode == "template":
        ratio = size / 112  # about pixel edges: the crop of 112 px, resized
        matrix = template_transform(face.points) * ratio + np.array([[0, 0, 1], [0, 0, 1]]) * (ratio - 1) / 2
        return np.round(matrix, 9)
    if settings.mode == "facenet":
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


def warp_pair(rgb: np.ndarray, depth: np.ndarray, matrix: np.ndarray, size: int) -> tuple:
    """`rgb` and `depth` warped by one `matrix` (2, 3): (size, size, 3) uint8, (size, size) float32.

    Colour is interpolated linearly, after averaging whole blocks where the crop is smaller than its source;
    depth is taken from the nearest pixel: no value that was not measured. Outside the picture: black, no
    reading. Raises ValueError naming the argument that is not as `pairs.read_pair` gives it.
    """
    check_rgb(rgb)
    if getattr(depth, "dtype", None) != np.float32 or depth.shape != rgb.shape[:2]:
        raise ValueError("depth must be a float32 array (H, W) of the size of rgb")
    if not np.isfinite(depth).all() or depth.min() < 0:
        raise ValueError("depth must be finite and 0 or more (0 = no reading); read it with pairs.read_depth")
    matrix = np.asarray(matrix, np.float64)
    if matrix.shape != (2, 3) or not np.isfinite(matrix).all():
        raise ValueError("matrix must be (2, 3) and finite")
    x, y = _source_of(matrix, size)
    warped_depth, within = _nearest(depth, x, y)
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


def _source_of(matrix: np.ndarray, size: int) -> np.ndarray:
    """(2, size, size): x and y in the source of every crop pixel."""
    rows, columns = np.mgrid[:size, :size]
    offsets = np.stack([columns - matrix[0, 2], rows - matrix[1, 2]])
    return np.tensordot(np.linalg.inv(matrix[:, :2]), offsets, 1)


def _nearest(depth: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`depth` (H, W) at the pixels nearest to the points x, y, 0 outside; and which of them lie within."""
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

    def pixels(step):  # take: half the time of an index
        return np.take(flat, at + step, axis=0)

    upper = pixels(0) * (1 - right) + pixels(1) * right
    lower = pixels(width + 2) * (1 - right) + pixels(width + 3) * right
    return (upper * (1 - down) + lower * down + 0.5).astype(np.uint8)


def align_pair(pair: RGBDPair, found: Faces | None, settings: AlignSettings, row: dict) -> tuple:
    """Crops (S, S, 3) uint8 and (S, S) float32 of a pair; what is learnt on the way is written into `row`.

    depth_per_px is how many units of depth one crop pixel is wide: for "mm", EYES_MM over the distance
    between the eyes that the template gives a face of this size (mode "none": UNALIGNED_WIDTH_MM over the
    crop); depth in "pixel" is rescaled to crop pixels, so 1. Raises BadPair: no_face, internal_error,
    bad_depth.
    """
    row |= {"height": pair.rgb.shape[0], "width": pair.rgb.shape[1]}
    face = None
    if settings.mode != "none":
        if found.error:
            raise BadPair("internal_error", found.error)
        row |= {"n_faces": len(found.faces), "found_at": found.found_at}
        if not found.faces:
            raise BadPair("no_face", f"no face of {settings.min_face_size} px or more was found")
        chosen, row["choice"] = choose_face(found.faces, pair.rgb.shape)
        face = found.faces[chosen]
        row["probability"] = face.probability
        row |= dict(zip(("box_left", "box_top", "box_right", "box_bottom"), face.box.tolist(), strict=True))
        row |= dict(zip(POINTS, face.points.ravel().tolist(), strict=True))
    matrix = warp_matrix(settings, pair.rgb.shape, face)
    row |= dict(zip(MATRIX, matrix.ravel().tolist(), strict=True))
    rgb, depth = warp_pair(pair.rgb, pair.depth, matrix, settings.image_size)
    valid = float((depth > 0).mean())
    row["valid_depth"] = round(valid, 6)
    if valid < MIN_CROP_READINGS:
        raise BadPair("bad_depth", f"{valid:.1%} of the crop's pixels hold a depth: record it again")
    scale = float(np.sqrt(np.linalg.det(matrix[:, :2])))  # crop px per source px
    if face is None:
        depth_per_px = UNALIGNED_WIDTH_MM / settings.image_size
    else:
        plain = settings.mode == "template" and settings.image_size == 112
        template = matrix if plain else template_transform(face.points)
        template_scale = float(np.sqrt(np.linalg.det(template[:, :2])))
        depth_per_px = MM_PER_TEMPLATE_PX * template_scale / scale
        upright = depth if plain else _nearest(pair.depth, *_source_of(template, 112))[0]
        per_px = 1 / template_scale if pair.depth_unit == "pixel" else MM_PER_TEMPLATE_PX
        row |= _depth_marks(upright, face.points @ template[:, :2].T + template[:, 2], per_px)
    if pair.depth_unit == "pixel":
        depth, depth_per_px = depth * np.float32(scale), 1.0
    row["depth_per_px"] = round(depth_per_px, 9)
    return rgb, depth


# ---- does the depth belong to the face?


def _depth_marks(depth: np.ndarray, points: np.ndarray, per_px: float) -> dict:
    """relief, nose_dx, nose_dy and registration of a pair, in eye distances; without those that cannot be measured.

    depth: (112, 112) in the template whatever the crop is, so that they mean the same in every mode; points: (5, 2)
    in it; per_px: depth units in one of its pixels. The distance between the eyes is the template's: the similarity
    of five points shrinks less in a turned head.
    """
    marks = {"relief": face_relief(depth, points) / (per_px * EYES_TEMPLATE_PX)}
    peak = nose_peak(depth)
    if peak is not None:
        offset = (peak - points[2]) / EYES_TEMPLATE_PX
        marks |= {"nose_dx": offset[0], "nose_dy": offset[1], "registration": np.hypot(*offset)}
    return {name: round(float(value), 4) for name, value in marks.items() if np.isfinite(value)}


def face_relief(depth: np.ndarray, points: np.ndarray) -> float:
    """How much farther the eyes and mouth corners are than the nose tip: median of the four, each the median of
    the readings within 4 px. NaN without readings. depth: (H, W), larger = farther; points: (5, 2) px in it.
    """
    levels = []
    for x, y in np.floor(points + 0.5).astype(int):
        patch = depth[max(0, y - 4) : max(0, y + 5), max(0, x - 4) : max(0, x + 5)]
        levels.append(_middle(patch[patch > 0]))
    around = np.array([levels[k] for k in (0, 1, 3, 4)])
    around = np.sort(around[np.isfinite(around)])
    return float(around[(len(around) - 1) // 2] + around[len(around) // 2]) / 2 - levels[2] if len(around) else np.nan


def _middle(values: np.ndarray) -> float:
    """The upper median, NaN of none; a tenth of the time of numpy.median on a few numbers."""
    return float(np.partition(values, len(values) // 2)[len(values) // 2]) if len(values) else np.nan


def nose_peak(depth: np.ndarray) -> np.ndarray | None:
    """(2,) x and y of the place that stands out most within 20 px of the template's nose; None without readings.

    A difference of Gaussians (2 and 6 px; Marr and Hildreth 1980) of the readings alone: the tilt of the head drops
    out. depth: (112, 112) in the template, larger = farther. Readings farther from the median than three times the
    distance between the quartiles are not the face; so the place does not depend on the unit.
    """
    centre = np.round(TEMPLATE_112[2]).astype(int)
    x0, y0 = centre - 36  # the search, 20 px, and 16 px around it; every other pixel is enough
    window = depth[y0 : y0 + 73 : 2, x0 : x0 + 73 : 2]
    readings = np.sort(window[window > 0])
    if not len(readings):
        return None
    low, middle, high = readings[[len(readings) * k // 4 for k in (1, 2, 3)]]
    weight = (window > 0) & (np.abs(window - middle) <= 3 * (high - low))
    both = np.stack([weight * (middle - window), weight]).astype(np.float32)
    fine, coarse = (gaussian_filter(both, (0, sigma, sigma), truncate=2.5) for sigma in (1, 3))
    rows, columns = np.mgrid[-36:37:2, -36:37:2]
    allowed = (rows**2 + columns**2 < 20**2) & (fine[1] > 0.3)
    if not allowed.any():
        return None
    bump = fine[0] / np.maximum(fine[1], 1e-3) - coarse[0] / np.maximum(coarse[1], 1e-3)
    row, column = np.unravel_index(np.where(allowed, bump, -np.inf).argmax(), window.shape)
    return np.array([x0 + 2 * column, y0 + 2 * row], float)


def check_depth(frame: pd.DataFrame) -> list[str]:
    """One line for each thing that looks wrong with the depth of an aligned folder; none where nothing does.

    `frame`: alignment.csv as text. From medians over the pairs: a unit wrong by about ten, the other direction (5
    pairs and more), depth that is shifted or of other pictures (20 and more). The first that is found is told alone:
    the later ones may be its consequence.
    """
    if "relief" not in frame or not (frame["status"] == "ok").any():
        return []
    numbers = frame.loc[frame["status"] == "ok", DEPTH_MARKS].apply(pd.to_numeric, errors="coerce")
    relief, count = numbers["relief"].median(), int(numbers["relief"].count())
    if count >= 5 and relief < -DIRECTION_SURE:
        return [
            f"depth: noses lie {-relief:.2f} eye distances behind the eyes (median of {count} pairs): "
            "larger_is is likely declared the wrong way round"
        ]
    measured, apart = int(numbers["registration"].count()), numbers["registration"].median()
    dx, dy = numbers["nose_dx"].median(), numbers["nose_dy"].median()
    spread = np.hypot(numbers["nose_dx"] - dx, numbers["nose_dy"] - dy).median()
    if measured >= 20 and np.hypot(dx, dy) > OFFSET_LIMIT and spread < REGISTRATION_LIMIT:
        return [
            f"depth: its noses lie ({dx:+.2f}, {dy:+.2f}) eye distances right of and below those in colour (median of "
            f"{measured} pairs): depth is likely shifted against colour"
        ]
    if measured >= 20 and apart > REGISTRATION_LIMIT:
        return [
            f"depth: its noses lie {apart:.2f} eye distances from those in colour (median of {measured} pairs): depth "
            "likely belongs to other pictures or is not registered to colour"
        ]
    ratio = max(relief, 1e-3) / FACE_RELIEF
    if count >= 5 and not 10**-0.5 < ratio < 10**0.5:
        return [
            f"depth: noses stand out {relief:.3g} eye distances (median of {count} pairs; about {FACE_RELIEF} in faces): "
            f"depth_unit is likely wrong, numbers are about {10.0 ** round(np.log10(ratio)):g} times what it says"
        ]
    return []


# ---- a whole folder


@dataclass(frozen=True)
class Job:
    """What every chunk of one run has in common."""

    input_dir: Path
    output_dir: Path
    settings: AlignSettings
    convention: DepthConvention
    device: str = "cpu"


def align_folder(
    input_dir: Path,
    output_dir: Path,
    settings: AlignSettings,
    workers: int | None = None,
    device: str = "cpu",
    random_order: bool = False,
    depth_unit: str | None = None,
    larger_is: str | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Align all pairs below `input_dir` into `output_dir`; returns alignment.csv as text, a row for each.

    Writes `<subject>/<name>.png` and `.npy` (float32, larger = farther, 0 = no reading), dataset.json,
    alignment.csv. Killed and started again it goes on; finished, it does nothing while the input files'
    hashes stay the same, and does anew only the chunks of pairs where something was added, altered or
    removed. While alignment.csv is there, the folder is finished. `workers`: processes (None: one per core,
    fewer for small folders; 1: this process). Raises UserError for other settings than the folder's, a second
    writer, or folders inside one another.
    """
    pairs = find_pairs(input_dir)
    if not pairs:
        raise UserError(f"{input_dir}: no pairs: it should hold <person>/<name>.png beside <person>/<name>.npy")
    convention = read_convention(input_dir, depth_unit, larger_is)
    job = _open_job(Path(input_dir), Path(output_dir), settings, convention, device)
    try:
        with _only_writer(job.output_dir):
            return _align_pairs(pairs, job, workers, random_order, progress)
    except OSError as error:  # the disk is full or gone; what a pair itself does wrong is a row
        fix = "mend that, then run the same command again"
        raise UserError(f"{output_dir}: cannot be written ({error.strerror or error}): {fix}") from error


def landmark_error(frame: pd.DataFrame, truth: pd.DataFrame) -> pd.Series:
    """Mean distance of five points from the true ones over the true distance between the eyes, by pair_id.

    Both tables have pair_id and x1, y1 .. x5, y5 in source pixels; rows of `frame` without points or truth
    are left out.
    """
    found = frame[(frame["x1"] != "") & frame["pair_id"].isin(truth["pair_id"])].set_index("pair_id")
    true = truth.set_index("pair_id").loc[found.index, POINTS].astype(float).to_numpy().reshape(-1, 5, 2)
    points = found[POINTS].astype(float).to_numpy().reshape(-1, 5, 2)
    eyes = np.linalg.norm(true[:, 1] - true[:, 0], axis=1)
    error = np.linalg.norm(points - true, axis=2).mean(1) / eyes
    return pd.Series(error, found.index, name="landmark_error")


def chunks_of(names: list[str]) -> list[list[str]]:
    """Sorted pair_ids in pieces that are aligned together: MTCNN's points differ by 3e-5 px with its batch.

    A piece ends where a hash of the pair_id says so, and after CHUNK pairs: so a pair that comes or goes
    alters the pieces near it and no others.
    """
    chunks: list[list[str]] = []
    for name in names:
        begins = hashlib.sha256(name.encode()).digest()[0] < 2 * 256 // CHUNK
        if begins or not chunks or len(chunks[-1]) == CHUNK:
            chunks.append([])
        chunks[-1].append(name)
    return chunks


def align_chunk(pairs: list[PairFiles], job: Job, detector) -> list[dict]:
    """Align these pairs and write their crops; a row of text (ALIGNMENT_COLUMNS) for each, in their order."""
    rows, held = [], []

    def flush():
        found = [None] * len(held)
        if detector is not None and held:
            found = find_faces([pair.rgb for pair, _ in held], detector, job.settings.min_face_size)
        for (pair, row), faces in zip(held, found, strict=True):
            crops = _or_status(row, align_pair, pair, faces, job.settings, row)
            if crops is not None:
                row |= _write_crops(job.output_dir, pair.pair_id, *crops)
        held.clear()

    for files in pairs:
        row = {"pair_id": files.pair_id, "subject_id": files.subject_id, "status": "ok"}
        for kind, path in (("rgb", files.rgb_path), ("depth", files.depth_path)):
            row[f"{kind}_path"] = path.relative_to(job.input_dir).as_posix() if path else ""
        rows.append(row)
        pair = _or_status(row, read_pair, files, job.convention)
        if pair is None:
            row |= _hashes(files)
            continue
        row |= {"rgb_sha256": pair.rgb_sha256, "depth_sha256": pair.depth_sha256}
        if held and sum(p.depth.size for p, _ in held) + pair.depth.size > BATCH_PIXELS:
            flush()
        held.append((pair, row))
    flush()
    for row in rows:
        if row["status"] != "ok":
            _remove_crops(job.output_dir, row["pair_id"])
    return [{name: str(row.get(name, "")) for name in ALIGNMENT_COLUMNS} for row in rows]


def _or_status(row: dict, function, *arguments):
    """`function(*arguments)`; None where it fails, and why in `row`: one pair never ends the run."""
    try:
        return function(*arguments)
    except BadPair as error:
        row |= {"status": error.status, "detail": " ".join(str(error).split())}
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        row |= {"status": "internal_error", "detail": text}
    return None


def _write_crops(folder: Path, pair_id: str, rgb: np.ndarray, depth: np.ndarray) -> dict:
    """Write both crops, each whole or not at all, and return their hashes.

    Without fsync, which takes longer than finding the face: a folder is taken up again only where the hashes
    agree, and one sync of the disk stands before alignment.csv.
    """
    picture, numbers = io.BytesIO(), io.BytesIO()
    Image.fromarray(rgb).save(picture, "PNG", compress_level=1)
    np.save(numbers, depth, allow_pickle=False)
    hashes = {}
    for (kind, suffix), data in zip(CROPS, (picture.getvalue(), numbers.getvalue()), strict=True):
        path = folder / f"{pair_id}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        sibling = path.with_name(f".new-{os.getpid()}")
        sibling.write_bytes(data)
        os.replace(sibling, path)
        hashes[f"aligned_{kind}_sha256"] = hashlib.sha256(data).hexdigest()
    return hashes


def _remove_crops(folder: Path, pair_id: str) -> None:
    """Take away the crops of an input that is no more, or that can no longer be aligned."""
    for _, suffix in CROPS:
        (folder / f"{pair_id}{suffix}").unlink(missing_ok=True)


def _hashes(files: PairFiles) -> dict:
    """rgb_sha256 and depth_sha256 of the input files, "" where there is none that can be read."""
    hashes = {}
    for kind, path in (("rgb", files.rgb_path), ("depth", files.depth_path)):
        try:
            hashes[f"{kind}_sha256"] = sha256_of(path) if path else ""
        except OSError:
            hashes[f"{kind}_sha256"] = ""
    return hashes


def _open_job(
    input_dir: Path, output_dir: Path, settings: AlignSettings, convention: DepthConvention, device: str
) -> Job:
    """Check the two folders and the settings against what lies in the output folder; nothing is written."""
    job = Job(input_dir, output_dir, settings, convention, str(device))
    source, target = input_dir.resolve(), output_dir.resolve()
    if source.is_relative_to(target) or target.is_relative_to(source):
        raise UserError(f"{output_dir}: inside or around the input folder: choose one beside {input_dir}")
    if output_dir.exists() and not output_dir.is_dir():
        raise UserError(f"{output_dir}: is a file: choose a folder for the aligned pairs")
    written = output_dir / "dataset.json"
    if written.exists():
        try:
            before = json.loads(written.read_text(encoding="utf-8"))
        except ValueError:
            before = None
        if before != _description(job):
            raise UserError(f"{output_dir}: holds pairs of other settings: choose another folder or delete this one")
    elif output_dir.is_dir() and any(path.is_dir() for path in output_dir.glob("[!.]*")):
        raise UserError(f"{output_dir}: holds other folders: choose an empty folder for the aligned pairs")
    return job


def _description(job: Job) -> dict:
    """dataset.json of an aligned folder; also the mark by which it is known."""
    return {
        "depth_unit": "pixel" if job.convention.unit == "pixel" else "mm",
        "larger_is": "farther",
        "source_depth": asdict(job.convention),
        "aligned": asdict(job.settings),
        "settings_hash": job.settings.hash(),
    }


@contextmanager
def _only_writer(folder: Path):
    """Hold the lock on `folder` itself: however the process ends it is let go of, and no file is left."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder}: another process writes here: wait for it or choose another") from None
        yield
    finally:
        os.close(handle)


def _align_pairs(
    pairs: list[PairFiles], job: Job, workers: int | None, random_order: bool, progress: bool
) -> pd.DataFrame:
    table, journal = job.output_dir / "alignment.csv", job.output_dir / "journal.jsonl"
    sweep(job.output_dir)
    finished = table.exists()
    before = _chunks_of_table(table) if finished else _read_journal(journal)
    files = {pair.pair_id: pair for pair in pairs}
    chunks = chunks_of(list(files))
    done, waiting = [], []
    for names in chunks:
        rows = before.get(names[0], [])
        same = names == [row["pair_id"] for row in rows] and all(row.keys() >= set(ALIGNMENT_COLUMNS) for row in rows)
        if same and all(_unchanged(files[row["pair_id"]], row, job.output_dir) for row in rows):
            done.append(rows)
        else:
            waiting.append([files[name] for name in names])
    old = {row["pair_id"] for rows in before.values() for row in rows}
    if old and old.isdisjoint(files):
        raise UserError(f"{job.output_dir}: holds pairs of another input: choose another folder or delete this one")
    if finished and not waiting and old <= set(files):
        journal.unlink(missing_ok=True)
        return _table_of(done, files)

    for pair_id in old - set(files):
        inside(job.output_dir, pair_id, where=table.name)  # a table that somebody wrote deletes nothing else
        _remove_crops(job.output_dir, pair_id)
        with suppress(OSError):  # other pairs are there
            (job.output_dir / pair_id).parent.rmdir()
    write_json(job.output_dir / "dataset.json", _description(job))
    write_text(journal, "".join(map(_journal_line, done)))
    table.unlink(missing_ok=True)
    if random_order:
        random.shuffle(waiting)
    with (
        open(journal, "a", encoding="utf-8") as lines,
        tqdm(desc="align", unit="pair", total=len(pairs), disable=not progress) as bar,
    ):
        bar.update(sum(map(len, done)))
        for rows in _run(waiting, job, workers):
            lines.write(_journal_line(rows))
            lines.flush()
            os.fsync(lines.fileno())
            done.append(rows)
            bar.update(len(rows))
    frame = _table_of(done, files)
    os.sync()  # the crops reach the disk before the table that vouches for them
    write_table(table, frame)
    journal.unlink()
    return frame


def _table_of(done: list[list[dict]], files: dict[str, PairFiles]) -> pd.DataFrame:
    """The rows of all chunks as one checked table in the order of the inputs, each in exactly one row."""
    rows = sorted((row for rows in done for row in rows), key=lambda row: row["pair_id"])
    frame = check_alignment(pd.DataFrame(rows, columns=ALIGNMENT_COLUMNS, dtype=str))
    if list(frame["pair_id"]) != list(files) or frame["status"].value_counts().sum() != len(files):
        raise AssertionError(f"{len(frame)} rows for {len(files)} inputs")
    return frame


def _chunks_of_table(path: Path) -> dict[str, list[dict]]:
    """first pair_id -> rows, for each chunk of a finished folder."""
    rows = {row["pair_id"]: row for row in read_table(path, ["pair_id"]).to_dict("records")}
    return {names[0]: [rows[name] for name in names] for names in chunks_of(list(rows))}


def _read_journal(path: Path) -> dict[str, list[dict]]:
    """first pair_id -> rows, for each whole line; a line that a kill tore is done again."""
    chunks = {}
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else []:
        text, _, digest = line.partition(b"\t")
        if digest != hashlib.sha256(text).hexdigest()[:16].encode() + b"\n":
            break
        rows = json.loads(text)
        chunks[rows[0]["pair_id"]] = rows
    return chunks


def _journal_line(rows: list[dict]) -> str:
    text = json.dumps(rows)
    return f"{text}\t{hashlib.sha256(text.encode()).hexdigest()[:16]}\n"


def _unchanged(pair: PairFiles, row: dict, output_dir: Path) -> bool:
    """Whether `row` still holds: the input's files have the same bytes and its crops are whole."""
    if any(row[name] != value for name, value in _hashes(pair).items()):
        return False
    if row["status"] != "ok":  # what went wrong by accident is tried again
        return row["status"] != "internal_error" and (pair.status in ("ok", row["status"]))
    for kind, suffix in CROPS:
        path = output_dir / f"{pair.pair_id}{suffix}"
        if not path.is_file() or sha256_of(path) != row[f"aligned_{kind}_sha256"]:
            return False
    return pair.status == "ok"


# ---- processes


def _run(chunks: list[list[PairFiles]], job: Job, workers: int | None):
    """Rows of each chunk as it is done, in whatever order."""
    if not chunks:
        return
    if workers is None:  # a process of its own takes seconds to import torch
        workers = min(_cores(), sum(map(len, chunks)) // 400)
    with _detector_on_one_thread(job) as detector:  # this process works, too
        if workers <= 1 or len(chunks) == 1:
            for chunk in chunks:
                yield align_chunk(chunk, job, detector)
            return
        # spawn: forked children of a process that used torch or a GPU can hang; Jupyter kernels can spawn
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(min(workers, len(chunks)) - 1, context, _start_worker, (job,))
        try:
            waiting = {pool.submit(_run_in_worker, chunk): chunk for chunk in chunks}
            while waiting:
                last = next(reversed(waiting))
                if last.cancel():
                    yield align_chunk(waiting.pop(last), job, detector)
                else:
                    wait(waiting, return_when=FIRST_COMPLETED)
                for future in [future for future in waiting if future.done()]:
                    del waiting[future]
                    yield future.result()
        except BrokenProcessPool:
            fix = "run the same command again, it goes on; with fewer workers if it happens again"
            raise UserError(f"{job.output_dir}: a worker was killed (too little memory?): {fix}") from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _detector_on_one_thread(job: Job):
    """The detector (None where the mode needs none), torch on one thread: the same for any `workers`."""
    if job.settings.mode == "none":
        yield None
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield load_detector(job.device)
    finally:
        torch.set_num_threads(before)


_worker = {}  # of a worker process: its job and detector


def _start_worker(job: Job) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's affair
    threading.Thread(target=_end_with_parent, daemon=True).start()
    context = _detector_on_one_thread(job)
    _worker.update(job=job, detector=context.__enter__(), context=context)  # entered until the process ends


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever."""
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _run_in_worker(chunk: list[PairFiles]) -> list[dict]:
    return align_chunk(chunk, _worker["job"], _worker["detector"])
