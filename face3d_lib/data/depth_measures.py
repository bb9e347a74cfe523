"""What the numbers of one depth map tell: noise, rounding, zigzag, shift against colour, pose, and marks of its parts.

A *frame* is the similarity transform (2, 3) from the pixels of a picture to the 112 px template of warp.py, in which
the eyes lie 35.2 px apart. All sizes below are in pixels of the template, so that a measure means the same in a
small and in a large picture. Depth is canonical (see decoding.py): larger = farther, 0 = no reading.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import gaussian_filter

from .warp import warp_pair

FACE_CENTRE, FACE_AXES = (56.0, 70.0), (26.0, 34.0)  # template px: the ellipse from the brows to the chin
HEAD = 40.0  # template px (72 mm): readings farther in front of or behind a face's middle are not the face
NOSE = 0.4  # how far the nose stands out, over the distance from the eyes to the mouth
WINDOW = 5  # side of the windows of `noise`, in template px, and at least in depth pixels
LINK_SIDE = 7  # side of the windows of `noise_link`, in depth pixels
WINDOWS, FEW_WINDOWS = 400, 8  # most windows that are measured, and the least number for a median
WINDOW_FULL = 0.6  # share of a window's pixels that must hold a reading
FEW_STEPS = 5  # distinct distances between values below which no quantisation step is told
MANY_STEPS = 20  # least number of these that may show that there is no step
ON_GRID = 0.95  # least mean cosine of 2 pi distance / step; 1 where every distance is a whole number of steps
FEW_TRIPLES = 100  # least number of triples of changes for `zigzag`
REACH = 6  # half-resolution template px that `shift_surface` searches to each side
BLOCKS = 8  # a depth map is cut into BLOCKS x BLOCKS parts for `block_marks`
LIVELY = 8  # different readings that a part must hold to count: an empty wall looks the same in every picture


@dataclass(frozen=True)
class FaceView:
    """The part of a depth map in which the face lies."""

    depth: np.ndarray  # (H, W) float32, canonical
    face: np.ndarray  # (H, W) bool, inside the ellipse of the face
    place: np.ndarray  # (2, H, W) x and y in the template
    scale: float  # px of the depth map per px of the template
    pixel: int  # px of the file per pixel of the sensor; the view holds one px for each sensor pixel


def scale_of(frame: np.ndarray) -> float:
    """Px of the picture per px of the template, for a `frame` (2, 3)."""
    return float(1 / np.sqrt(np.linalg.det(frame[:, :2])))


def face_view(depth: np.ndarray, frame: np.ndarray) -> FaceView:
    """The view of the face in `depth` (H, W) at `frame` (2, 3); its arrays are empty where the face lies outside.

    A sensor with fewer pixels than the picture leaves each reading in a square of equal pixels. The view holds one
    pixel for each of these squares, because measures of noise take neighbours for separate readings.
    """
    corners = np.array([[x, y] for x in (-1, 1) for y in (-1, 1)]) * FACE_AXES + FACE_CENTRE
    there = np.linalg.solve(frame[:, :2], (corners - frame[:, 2]).T)  # (2, 4) px of the picture
    high = np.minimum(np.ceil(there.max(1)).astype(int) + 1, depth.shape[::-1])
    low = np.minimum(np.maximum(np.floor(there.min(1)).astype(int), 0), high)
    part = depth[low[1] : high[1], low[0] : high[0]]
    pixel, x0, y0 = sensor_pixel(part)
    part = np.ascontiguousarray(part[y0::pixel, x0::pixel])
    rows, columns = np.mgrid[: part.shape[0], : part.shape[1]].astype(np.float64) * pixel
    middle = (pixel - 1) / 2 if pixel > 1 else 0.0
    at = np.stack([columns + low[0] + x0 + middle, rows + low[1] + y0 + middle])
    place = np.tensordot(frame[:, :2], at, 1) + frame[:, 2][:, None, None]
    away = [((place[k] - FACE_CENTRE[k]) / FACE_AXES[k]) ** 2 for k in (0, 1)]
    return FaceView(part, away[0] + away[1] < 1, place, scale_of(frame) / pixel, pixel)


def sensor_pixel(depth: np.ndarray) -> tuple[int, int, int]:
    """(side of the squares of equal readings, column and row of the first whole square); (1, 0, 0): no squares.

    Squares of 2 to 4 px are looked for: neighbouring columns, and rows, then differ at every second to fourth border
    alone.
    """
    across = (depth[:, 1:] != depth[:, :-1]).sum(0)
    down = (depth[1:] != depth[:-1]).sum(1)
    for side in (4, 3, 2):
        starts = []
        for changes in (across, down):
            phases = np.array([changes[k::side].sum() for k in range(side)])
            if changes.sum() < 50 or phases.max() < 0.98 * changes.sum():
                break
            starts.append((int(phases.argmax()) + 1) % side)
        if len(starts) == 2:
            return side, starts[0], starts[1]
    return 1, 0, 0


def head_only(view: FaceView, per_px: float) -> FaceView:
    """`view` without readings farther than HEAD from the nearer third of the face; per_px: units in a template px.

    Behind a turned head, the ellipse of the face holds wall.
    """
    read = view.face & (view.depth > 0)
    if not read.any():
        return view
    apart = np.abs(view.depth - np.quantile(view.depth[read], 1 / 3))
    return replace(view, depth=np.where(apart < HEAD * per_px, view.depth, np.float32(0)))


def noise(view: FaceView) -> float:
    """The noise of the readings of a face, in units of depth: what is left of them after a local surface.

    In each of up to WINDOWS square windows, a plane with curvature (six terms) is fitted to the readings by least
    squares. The result is the root of the median over the windows of the residual variance, corrected for the degrees
    of freedom and for the median of a chi-square distribution (Wilson and Hilferty 1931). A plane alone would
    take the curvature of the nose for noise. Rounding to a step counts as noise of step / sqrt(12). NaN for fewer than
    FEW_WINDOWS windows with readings in WINDOW_FULL of their pixels.
    """
    side = int(np.clip(round(WINDOW * view.scale), 5, 15))
    values, x, y = _windows(view, side)
    known = values > 0
    kept = known.mean(1) >= WINDOW_FULL
    if kept.sum() < FEW_WINDOWS:
        return np.nan
    values, known = values[kept], known[kept].astype(np.float64)
    values -= (values * known).sum(1, keepdims=True) / known.sum(1, keepdims=True)
    terms = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], 1)  # (px, 6)
    squares = (known @ (terms[:, :, None] * terms[:, None]).reshape(len(x), 36)).reshape(-1, 6, 6)
    wanted = (values * known) @ terms
    surface = np.linalg.solve(squares + 1e-9 * np.eye(6), wanted[..., None])[..., 0] @ terms.T
    freedom = known.sum(1) - 6
    variance = (known * (values - surface) ** 2).sum(1) / freedom
    middle = (1 - 2 / (9 * np.median(freedom))) ** 3  # median over mean of a chi-square variable
    return float(np.sqrt(np.median(variance) / middle))


def noise_link(view: FaceView) -> float:
    """How alike the noise of neighbouring readings along a row is: their correlation, -1 to 1.

    What is left of windows of LINK_SIDE x LINK_SIDE readings after a local surface, in the smoother 70 % of the windows
    without holes. White noise gives -0.1 instead of 0, because the surface takes a part of it. Noise that was drawn for
    each pixel by itself is white; a sensor's is not, because it matches or filters neighbourhoods. NaN for fewer
    than FEW_WINDOWS windows, and where nothing is left.
    """
    values, x, y = _windows(view, LINK_SIDE)
    values = values[(values > 0).all(1)]
    if len(values) < FEW_WINDOWS:
        return np.nan
    basis = np.linalg.qr(np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], 1))[0]
    values -= values.mean(1, keepdims=True)
    left = values - (values @ basis) @ basis.T
    power = (left**2).mean(1)
    left = left[power <= np.quantile(power, 0.7)].reshape(-1, LINK_SIDE, LINK_SIDE)
    total = float((left**2).mean())
    return float((left[:, :, :-1] * left[:, :, 1:]).mean()) / total if total > 1e-9 else np.nan


def _windows(view: FaceView, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(readings (W, px) float64 of up to WINDOWS square windows in the face; x and y (px,) of their pixels, -1 to 1)."""
    half, (height, width) = side // 2, view.depth.shape
    centres = np.argwhere(view.face)
    fits = (centres >= half).all(1) & (centres + side - half <= (height, width)).all(1)
    centres = centres[fits][:: max(1, int(fits.sum()) // WINDOWS)]
    rows, columns = (offsets.ravel() - half for offsets in np.mgrid[:side, :side])
    values = view.depth[centres[:, :1] + rows, centres[:, 1:] + columns].astype(np.float64)
    return values, columns / half, rows / half


def quantisation_step(readings: np.ndarray) -> float:
    """The step of which the distances between `readings` (N,) are whole multiples, in their unit; 0 for none.

    From the spectrum of the distances d between neighbouring values: the largest step c, not above the median
    distance, at which the mean of cos(2 pi d / c) is at least ON_GRID. It is 1 for readings on a grid of c and near 0
    otherwise. A distance counts as often as the rarer of its two values, so that a few strange readings change nothing.
    NaN for fewer than FEW_STEPS distances, or for no step in fewer than MANY_STEPS. Floats are on the grid of their own
    precision.
    """
    values, counts = np.unique(readings.astype(np.float64), return_counts=True)
    if len(values) <= FEW_STEPS:
        return np.nan
    distances, weights = np.diff(values), np.minimum(counts[1:], counts[:-1])
    kept = distances > 4 * np.spacing(np.float32(values[-1]))
    distances, weights = distances[kept], weights[kept]
    if len(distances) < FEW_STEPS:
        return np.nan
    tried = np.quantile(distances, [0, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5], method="nearest")
    candidates = (tried[:, None] / np.arange(1, 5)).ravel()
    for step in sorted(candidates[candidates <= 1.02 * np.median(distances)], reverse=True):
        if np.average(np.cos(2 * np.pi * distances / step), weights=weights) >= ON_GRID:
            whole = np.round(distances / step)
            return float((weights * distances * whole).sum() / (weights * whole * whole).sum())
    return 0.0 if len(distances) >= MANY_STEPS else np.nan


def zigzag(view: FaceView) -> float:
    """How often depth goes to and fro: the share of three successive changes that are up, down, up or the reverse.

    The changes are those along the rows and the columns of the face; pixels that do not change are skipped. White
    noise gives 5/12 (of four random numbers, 10 of 24 orders alternate). A smooth surface gives about 0 whether it is
    rounded or not, because rounding a rising line gives a rising line. So this tells measured depth from a network's
    or a renderer's, independent of the unit, of rounding and of holes. A sensor whose map was enlarged is
    smooth between neighbouring pixels, therefore the largest share over every, every second ... pixel counts, up to
    distances of 2 px of the template. NaN for fewer than FEW_TRIPLES triples.
    """
    shares = []
    for stride in range(1, max(1, min(4, int(2 * view.scale))) + 1):
        hits = total = 0
        for depth, face in ((view.depth, view.face), (view.depth.T, view.face.T)):
            for start in range(stride):
                line = np.where(face[:, start::stride], depth[:, start::stride], 0)
                line = np.pad(line, ((0, 0), (0, 1))).ravel()  # a 0 parts the rows
                line = line[np.r_[True, line[1:] != line[:-1]]] if len(line) else line
                read = line > 0
                whole = read[:-3] & read[1:-2] & read[2:-1] & read[3:]
                up = line[1:] > line[:-1]
                hits += int((whole & (up[:-2] != up[1:-1]) & (up[1:-1] != up[2:])).sum())
                total += int(whole.sum())
        shares.append(hits / total if total >= FEW_TRIPLES else np.nan)
    known = [share for share in shares if np.isfinite(share)]
    return float(max(known)) if known else np.nan


def face_yaw(points: np.ndarray) -> float:
    """The yaw of a head in degrees by its five points (5, 2) in the template; > 0: towards the right of the picture.

    The tip of the nose moves aside by about 0.4 of the distance from the eyes to the mouth times the tangent of the yaw.
    On synthetic faces of up to 90 degrees the median error is 3 degrees and 13 are not exceeded in 90 % of them. NaN where
    eyes and mouth lie at one height.
    """
    eyes, mouth = points[:2].mean(0), points[3:].mean(0)
    aside, tall = points[2, 0] - (0.55 * eyes[0] + 0.45 * mouth[0]), mouth[1] - eyes[1]
    return float(np.degrees(np.arctan(aside / (NOSE * tall)))) if tall > 0 else np.nan


def face_pitch(view: FaceView, per_px: float) -> float:
    """The pitch of a head in degrees by the plane through its readings; > 0: looks down. NaN below 30 readings.

    per_px: units of depth in one px of the template. The plane is fitted by least squares, then twice more without
    readings that lie off it by more than 2.5 times the median distance. The frame is upright, so the roll of the head
    is taken out before. On synthetic faces within 30 degrees the median error is 2 degrees, and 6 are not exceeded in
    90 % of them.
    """
    read = view.face & (view.depth > 0)
    if read.sum() < 30:
        return np.nan
    every = max(1, int(read.sum()) // 500)
    x, y = (axis[read][::every] for axis in view.place)
    z = view.depth[read][::every].astype(np.float64) / per_px
    terms, kept = np.stack([np.ones_like(x), x - FACE_CENTRE[0], y - FACE_CENTRE[1]], 1), np.ones(len(z), bool)
    for _ in range(3):
        plane = np.linalg.lstsq(terms[kept], z[kept], rcond=None)[0]
        off = np.abs(z - terms @ plane)
        kept = off <= max(2.5 * np.median(off), 1e-6)
    return float(np.degrees(np.arctan(plane[2])))


def upright_crops(rgb: np.ndarray, depth: np.ndarray, frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Colour (112, 112, 3) and depth (112, 112) around the face at the template's scale, not turned.

    They are not turned, so that a shift between them has the axes of the picture.
    """
    middle, scale = np.linalg.solve(frame[:, :2], np.array([56.0, 72.0]) - frame[:, 2]), scale_of(frame)
    matrix = np.array([[1 / scale, 0, 55.5 - middle[0] / scale], [0, 1 / scale, 62 - middle[1] / scale]])
    return warp_pair(rgb, depth, matrix, 112)


def shift_surface(rgb: np.ndarray, depth: np.ndarray, per_px: float) -> np.ndarray | None:
    """How well depth explains colour at each shift: (13, 13) of log(1 - R^2) by row and column; None: too few readings.

    rgb, depth: as of `upright_crops`. Light on skin depends on how the surface lies, so the brightness at a place and
    the size of its gradient are regressed on the slopes of depth there, their squares, the curvature and the height
    (shape from shading turned round). All are taken without their parts that are coarser than a nose, because light
    from one side would pass for a shift. Brightness is moved by -6 .. 6 px of half resolution, and depth stays. Where
    the two fit best, which is where the sum of log(1 - R^2) is lowest, depth lies on colour. The surfaces of many pairs
    may be added.
    """
    grey, lit, read = rgb.mean(2, dtype=np.float32), rgb.any(2), depth > 0
    if not read.any():
        return None
    height = np.where(read, np.clip((depth - np.median(depth[read])) / per_px, -HEAD, HEAD), 0)
    maps = [height, read, grey * lit, lit]  # black pixels are holes of the registration, so they are no brightness
    height, weight = (_smooth(part, 2)[::2, ::2] for part in maps[:2])
    bright, light = (_smooth(part, 1)[::2, ::2] for part in maps[2:])
    height, bright = height / np.maximum(weight, 1e-3), bright / np.maximum(light, 1e-3)
    rows, columns = np.mgrid[:56, :56]
    inside = (weight > 0.5) & (((columns - 27.5) / 20) ** 2 + ((rows - 31) / 24) ** 2 < 1)
    inside[: REACH + 1], inside[-REACH - 1 :] = False, False
    inside &= (rows + columns) % 2 == 0  # neighbours are alike after smoothing, so every other pixel is enough
    if inside.sum() < 100:
        return None
    down, across = (np.clip(slope, -4, 4) for slope in np.gradient(height))
    curve = np.clip(_smooth(height, 1) - _smooth(height, 3), -4, 4)
    terms = [part - _smooth(part, 6) for part in (across, down, across**2, down**2, across * down, curve, height)]
    basis = np.linalg.qr(np.stack([np.ones_like(height), *terms], 2)[inside].astype(np.float32))[0]
    row, column = np.nonzero(inside)
    steps = np.arange(-REACH, REACH + 1)
    places = 56 * row + column + (56 * steps[:, None] + steps).reshape(-1, 1)  # (169, px)
    surface = np.zeros(len(places))
    for part in (bright, np.hypot(*np.gradient(bright))):
        fine = part - _smooth(part, 6)
        moved = np.take((fine - fine[inside].mean()).ravel(), places)
        level = len(row) * moved.mean(1) ** 2  # the first term is constant, so this is among the explained part
        explained = ((moved @ basis) ** 2).sum(1) - level
        surface += np.log1p(
            -np.clip(explained / np.maximum(np.einsum("ij,ij->i", moved, moved) - level, 1e-3), 0, 0.999)
        )
    return surface.reshape(len(steps), len(steps))


def _smooth(part: np.ndarray, sigma: float) -> np.ndarray:
    return gaussian_filter(part.astype(np.float32), sigma, truncate=2.5)


def shift_of(surface: np.ndarray) -> np.ndarray:
    """(2,) x and y, in template px, by which depth lies right of and below colour, from a `shift_surface` or a mean of
    several; NaN where the best fit lies at the border of the search."""
    row, column = np.unravel_index(surface.argmin(), surface.shape)
    found = []
    for values, k in ((surface[row], column), (surface[:, column], row)):
        if not 0 < k < len(values) - 1:
            return np.full(2, np.nan)
        before, here, after = values[k - 1 : k + 2]
        bend = before - 2 * here + after
        found.append(k - REACH + (0.5 * (before - after) / bend if bend > 0 else 0.0))  # vertex of a parabola
    return -2.0 * np.array(found)  # half resolution; colour moved right means that depth lies to the left


def colour_share(rgb: np.ndarray, depth: np.ndarray) -> float:
    """R^2 (0 to 1) of the fine detail of depth explained by the fine detail of red, green and blue, in the face.

    rgb, depth: as of `upright_crops`. Detail is what a Gaussian of 2 px takes away. A sensor's noise has nothing to do
    with the picture; depth that was computed from brightness follows it. NaN for fewer than 200 readings.
    """
    read = depth > 0
    whole = _smooth(read, 2) > 0.999
    rows, columns = np.mgrid[:112, :112]
    inside = whole & (((columns - 55.5) / 30) ** 2 + ((rows - 60) / 38) ** 2 < 1)
    if inside.sum() < 200:
        return np.nan
    level = np.median(depth[read])
    maps = [np.where(read, depth - level, 0), *np.moveaxis(rgb, 2, 0)]
    details = [(part - _smooth(part, 2))[inside] for part in maps]
    target, parts = details[0] - details[0].mean(), np.stack([d - d.mean() for d in details[1:]], 1)
    total = float((target**2).sum())
    if total <= 1e-9:
        return np.nan
    along = parts.T @ target
    return float(along @ np.linalg.pinv(parts.T @ parts, rcond=1e-6, hermitian=True) @ along / total)


def block_marks(depth: np.ndarray) -> np.ndarray:
    """(64,) uint64: a mark of each of 8 x 8 parts of a depth map (H, W); equal parts have equal marks, 0: not lively.

    Two maps with many equal parts at the same places were not recorded separately. Parts with fewer than LIVELY
    different readings are not judged.
    """
    tall, wide = depth.shape[0] // BLOCKS, depth.shape[1] // BLOCKS
    if not tall or not wide:
        return np.zeros(BLOCKS**2, np.uint64)
    parts = depth[: tall * BLOCKS, : wide * BLOCKS].reshape(BLOCKS, tall, BLOCKS, wide).swapaxes(1, 2)
    flat = np.ascontiguousarray(parts, np.float32).reshape(BLOCKS**2, -1)
    keys = np.random.default_rng(0).integers(1, 2**63, flat.shape[1], np.uint64) | np.uint64(1)
    with np.errstate(over="ignore"):
        marks = (flat.view(np.uint32).astype(np.uint64) * keys).sum(1, dtype=np.uint64)
    ordered = np.sort(flat, 1)
    different = 1 + (ordered[:, 1:] != ordered[:, :-1]).sum(1) - (ordered[:, 0] == 0)
    return np.where(different >= LIVELY, marks, np.uint64(0))
