"""Faces in colour pictures: detection by MTCNN, and the choice of one face in a picture.

MTCNN (Zhang et al. 2016, arXiv 1604.02878) is that of the package facenet-pytorch, with the weights in it.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from ..base.errors import UserError

PYRAMID = 0.709  # MTCNN's step from one scale to the next
MAX_SIDE = 1600  # px; larger pictures are shrunk for detection, since 8000 x 8000 would take 34 s and 3.7 GB
SURE = 0.9  # probability from which a face of the coarse pass needs no second pass
# MTCNN's points lie about 1 px too far right and below, whatever the picture's size: half a pixel because edges
# are taken for pixel centres, half a pixel because boxes are truncated. On photographs and their mirror images
# the offset was 1.2 px at one, two and three times the size.
POINT_OFFSET = 1.0
DARK = 64  # grey level of 255; what is darker MTCNN sees badly or not at all
SHADE = 0.25  # share of dark pixels, not counting black ones, from which a picture without a face is searched once more
BATCH = 16  # pictures in one call of MTCNN; more is not faster on a CPU
BATCH_PIXELS = 16_000_000  # pixels of the pictures held in memory at a time, unless one alone is larger
Views = dict[int, tuple[np.ndarray, float]]  # number of a picture -> its pixels for the detector, and their scale


@dataclass(frozen=True)
class Detection:
    """One face in source pixels, pixel centres at whole numbers."""

    box: np.ndarray  # (4,) float64: left, top, right, bottom, within the picture
    points: np.ndarray  # (5, 2) float64: left eye, right eye, nose tip, mouth corners, in image order
    probability: float


@dataclass(frozen=True)
class Faces:
    """The faces of one picture. `error` says why the detector failed on the picture; "" if it did not."""

    faces: list[Detection] = field(default_factory=list)
    found_at: str = ""  # "native", or "2x" if found only in the enlarged picture; "lit" or "lit 2x" if in other light
    error: str = ""


def load_detector(device: str = "cpu") -> Any:
    """MTCNN with the weights of its package, on `device` (cpu or cuda). Raises UserError where it is not usable."""
    import torch  # imported here, because reading pairs and mode "none" do without torch
    from facenet_pytorch import MTCNN

    if str(device).split(":")[0] not in ("cpu", "cuda"):
        raise UserError(f"device {device!r}: cpu or cuda expected")
    if str(device).startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"device {device}: no GPU is usable here: use device cpu")
    detector = MTCNN(select_largest=False, device=torch.device(device)).eval()
    return detector.to(memory_format=torch.channels_last)  # max pooling is several times faster in this layout


def find_faces(images: list[np.ndarray], detector: Any, min_face_size: int = 20) -> list[Faces]:
    """The faces in each of the pictures, (H, W, 3) uint8 RGB, at least `min_face_size` px large.

    A picture of which 99 % is dark is brightened for the detector. A picture whose chosen face is dark, as against the
    light, or in which there is no face but much shade, is searched again with its grey levels evened out. Both bring out
    noise, too, in which MTCNN sees faces of low probability, so only sure ones count; without any, the result is that of
    the picture as it is. Pictures in ordinary light are searched as they are alone.
    Raises ValueError for other arrays, before the network sees any.
    """
    for image in images:
        check_rgb(image)
    brightest = [_brightest(image, 0.99) for image in images]
    dark = {k: _brightened(image, brightest[k]) for k, image in enumerate(images) if brightest[k] < DARK}
    found = _sure(_search(dark, detector, min_face_size))
    found |= _search({k: image for k, image in enumerate(images) if k not in found}, detector, min_face_size)
    shaded = {k: _evened(image) for k, image in enumerate(images) if k not in dark and _in_shade(image, found[k])}
    found |= _sure(_search(shaded, detector, min_face_size))
    return [found[k] for k in range(len(images))]


def _search(images: dict[int, np.ndarray], detector: Any, min_face_size: int) -> dict[int, Faces]:
    """The faces in each of the pictures as they are, by the pictures' numbers.

    Most pictures are portraits, so a first, coarse pass looks only for faces of a quarter of the shorter side and
    more. Its result is kept if no smaller face could be chosen instead (see `choose_face`). Its scales are among
    those of the full pass, so both passes give the same points. A second pass looks for faces of all sizes in the
    other pictures. Where the second pass finds none, a third pass searches the picture enlarged to twice its size.
    """
    views = {k: _view(image, min(1.0, MAX_SIDE / max(image.shape[:2]))) for k, image in images.items()}
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
    return {k: found.get(k, Faces()) for k in images}


def _levels(image: np.ndarray) -> np.ndarray:
    """(256,) int64 the number of pixels of each grey level (luma of ITU-R 601)."""
    return np.array(Image.fromarray(image).convert("L").histogram())


def _brightest(image: np.ndarray, share: float) -> int:
    """The grey level that this share of the pixels does not exceed."""
    levels = _levels(image).cumsum()
    return int(np.searchsorted(levels, share * levels[-1]))


def _brightened(image: np.ndarray, brightest: int) -> np.ndarray:
    """The picture with the 1st to 99th percentile of its grey levels stretched to 0 to 255.

    The more it is stretched, the more its noise shows, so it is blurred by up to 1 px.
    """
    stretched = ImageOps.autocontrast(Image.fromarray(image), cutoff=1, preserve_tone=True)
    return np.asarray(stretched.filter(ImageFilter.GaussianBlur(min(1.0, 16 / max(brightest, 1)))))


def _in_shade(image: np.ndarray, found: Faces) -> bool:
    """Whether 90 % of the chosen face is dark or, where there is none, the share SHADE of the picture is dark, not black."""
    if found.error:
        return False
    if not found.faces:
        levels = _levels(image)
        return bool(levels[1:DARK].sum() >= SHADE * levels.sum())
    left, top, right, bottom = found.faces[choose_face(found.faces, image.shape)[0]].box.astype(int).tolist()
    return _brightest(np.ascontiguousarray(image[top : bottom + 1, left : right + 1]), 0.9) < DARK


def _evened(image: np.ndarray) -> np.ndarray:
    """The picture with the histogram of each colour equalised, which brings out what lies in the shade, and less noise."""
    return np.asarray(ImageOps.equalize(Image.fromarray(image)).filter(ImageFilter.GaussianBlur(0.7)))


def _sure(found: dict[int, Faces]) -> dict[int, Faces]:
    """The pictures with sure faces, and these alone, found in other light than the picture's own."""
    kept = {k: [face for face in faces.faces if face.probability >= SURE] for k, faces in found.items()}
    names = {"native": "lit", "2x": "lit 2x"}
    return {k: Faces(faces, names[found[k].found_at]) for k, faces in kept.items() if faces}


def check_rgb(image: np.ndarray) -> None:
    """Raise ValueError unless `image` is (H, W, 3) uint8; MTCNN finds no face in floats and fails on four channels."""
    kind, shape = getattr(image, "dtype", type(image).__name__), getattr(image, "shape", ())
    if not isinstance(image, np.ndarray) or kind != np.uint8 or image.size == 0 or shape[2:] != (3,):
        raise ValueError(f"rgb must be a uint8 array (H, W, 3) in RGB order, not {kind} {shape}")


def choose_face(faces: list[Detection], shape: tuple[int, ...]) -> tuple[int, str]:
    """(index, reason) of the face that is used: the face with the highest value.

    A face's value is the area of its box minus twice the squared distance between the centres of box and picture,
    in square pixels; this is the rule of David Sandberg's align_dataset_mtcnn.py, as in the legacy project. The
    reason is "only", "largest", or "centred" where a larger face lies farther from the centre. `shape`: (H, W, ...).
    """
    values = [_value(face, shape) for face in faces]
    best = int(np.argmax(values))
    if len(faces) == 1:
        return best, "only"
    return best, "largest" if _area(faces[best]) >= max(_area(face) for face in faces) else "centred"


def _area(face: Detection) -> float:
    return float((face.box[2] - face.box[0]) * (face.box[3] - face.box[1]))


def _value(face: Detection, shape: tuple[int, ...]) -> float:
    offset = (face.box[:2] + face.box[2:]) / 2 - np.array([shape[1], shape[0]]) / 2
    return _area(face) - 2.0 * float(offset @ offset)


def _settled(found: Faces, smallest: float, shape: tuple[int, ...]) -> bool:
    """True when no face smaller than `smallest` pixels can win, because a face's value never exceeds its area."""
    if not found.faces:
        return False
    chosen = found.faces[choose_face(found.faces, shape)[0]]
    return chosen.probability >= SURE and _value(chosen, shape) >= smallest**2


def _coarse_size(pixels: np.ndarray, min_face_size: int) -> float:
    """The smallest face of the coarse pass in px: min_face_size / PYRAMID**k, at most a quarter of the shorter side.

    k is the largest whole number for which that holds.
    """
    steps = np.log(max(min(pixels.shape[:2]) / 4, min_face_size) / min_face_size) / -np.log(PYRAMID)
    return min_face_size / PYRAMID ** int(steps)


def _view(image: np.ndarray, scale: float) -> tuple[np.ndarray, float]:
    """(pixels for the detector, their size as a fraction of the picture's size)."""
    if scale == 1.0:
        return image, 1.0
    size = [max(1, round(length * scale)) for length in image.shape[1::-1]]
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)), scale


def _look(views: Views, min_sizes: dict[int, float], detector: Any) -> dict[int, Faces]:
    """The faces in every view; views of one size go through the network together."""
    groups: dict[tuple, list[int]] = {}
    for k, (pixels, _) in views.items():
        groups.setdefault((pixels.shape, min_sizes[k]), []).append(k)
    found: dict[int, Faces] = {}
    for (shape, min_size), members in groups.items():
        most = max(1, min(BATCH, BATCH_PIXELS // (shape[0] * shape[1])))
        for start in range(0, len(members), most):
            batch = members[start : start + most]
            try:
                found |= _detect(views, batch, min_size, detector)
            except Exception:  # one bad picture fails its whole batch, so each is then tried alone
                for k in batch:
                    try:
                        found |= _detect(views, [k], min_size, detector)
                    except Exception as error:
                        text = " ".join(f"{type(error).__name__} {error}".split())[:200]
                        found[k] = Faces(error=f"the detector failed: {text}")
    return found


def _detect(views: Views, batch: list[int], min_size: float, detector: Any) -> dict[int, Faces]:
    """Call MTCNN: returns the faces, in source pixels, of the views in `batch`, which all have the same size.

    This guards against facenet-pytorch 2.5.3, which raises where a side is below min_face_size, returns object
    arrays, None for no face and boxes beyond the picture, and whose own choice among several faces can mix the box
    of one with the points of another.
    """
    import torch

    pixels = np.stack([views[k][0] for k in batch])
    if min(pixels.shape[1:3]) < min_size:
        return {k: Faces() for k in batch}
    detector.min_face_size = min_size
    # The planes are laid out one after the other under the shape (B, H, W, 3): MTCNN's resizing is faster then,
    # and its results are the same.
    planes = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()).permute(0, 2, 3, 1)
    found: dict[int, Faces] = {}
    for k, boxes, probabilities, points in zip(batch, *detector.detect(planes, landmarks=True), strict=True):
        parts = [] if boxes is None else [np.asarray(part, np.float64) for part in (boxes, probabilities, points)]
        pixels, scale = views[k]
        faces = [_in_source(box, sure, five, pixels.shape, scale) for box, sure, five in zip(*parts, strict=True)]
        faces = [face for face in faces if np.isfinite([*face.box, face.probability, *face.points.flat]).all()]
        found[k] = Faces(faces, "native" if faces else "")
    return found


def _in_source(
    box: np.ndarray, probability: float, points: np.ndarray, shape: tuple[int, ...], scale: float
) -> Detection:
    """A face of a view in pixels of the source, its box within the picture, rounded as it is recorded.

    `shape` and `scale` are those of the view, as of `_view`.
    """
    high = np.array([shape[1], shape[0]] * 2) - 1
    box = np.maximum((np.clip(box, 0, high) + 0.5) / scale - 0.5, 0)
    points = (points - POINT_OFFSET + 0.5) / scale - 0.5
    return Detection(np.round(box, 5), np.round(points, 5), round(min(float(probability), 1.0), 6))
