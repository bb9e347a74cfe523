"""Augmentation on the device: colour and depth are warped by one map, and each pair has its own draws."""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import ndtri

from ..data.pack import Batch
from .draws import (
    BLUR,
    COLOUR,
    DEPTH_PATCH,
    FILL,
    FLIP,
    MISREGISTRATION,
    PATCH,
    POSE,
    QUANTISATION,
    RELIEF,
    SIMILARITY,
    TILT,
    normal,
    pixel_words,
    uniform,
)
from .encodings import relative_depth, smooth_surface

POSE_STEPS = 3  # of the fixed-point iteration; at 15 degrees each leaves a quarter of the error on a slope of 1
LOOSE = 0.04  # of the crop's width (8 mm): a reading farther off the surface is not seen where the surface says


@dataclass(frozen=True)
class Augmentation:
    """How far a training pair may be changed; 0 switches a change off, and it costs nothing. sd: of a normal draw.

    The geometry, from flip to pose_deg, is one for colour and depth.
    """

    flip: float = 0.5  # probability
    rotation_deg: float = 3.0  # sd
    zoom: float = 0.03  # sd of the logarithm
    shift: float = 0.015  # sd, share of the crop's width
    pose_deg: float = 0.0  # sd of yaw and of pitch by which the pair is rendered anew from its depth
    brightness: float = 0.15  # sd of the logarithm of exposure
    contrast: float = 0.15  # sd of the logarithm
    saturation: float = 0.2  # sd of the logarithm
    white_balance: float = 0.05  # sd of the logarithm, each channel
    blur: float = 0.1  # probability that the colour is blurred
    blur_px: float = 1.5  # largest sd of the Gaussian that blurs, crop pixels; drawn evenly
    misregistration_px: float = 0.3  # sd, across and down, crop pixels: depth lies beside the colour
    depth_noise_px: float = 0.3  # sd, crop pixels, each reading
    relief: float = 0.0  # sd of the logarithm of a factor on the relief: a unit of depth that cannot be relied on
    depth_tilt: float = 0.05  # sd of the slope of an added plane: a head turned by as many radians
    quantisation_px: float = 0.0  # largest step to whose multiples depth is rounded, crop pixels; drawn evenly
    hole_share: float = 0.02  # share of readings lost
    erase: float = 0.3  # probability of a patch without colour, and independently of one without depth
    erase_size: float = 0.3  # largest side of the patch, share of the crop's width


@cache
def _normal_table(device: torch.device) -> torch.Tensor:
    """(65536,) float32: the quantiles of the normal distribution, so that 16 bits are a normal draw."""
    return torch.from_numpy(ndtri((np.arange(65536) + 0.5) / 65536).astype(np.float32)).to(device)


def augment(batch: Batch, how: Augmentation, keys: np.ndarray) -> Batch:
    """The batch changed as `how` allows, each pair by draws of its own, from keys (B,) int64: see `sample_keys`.

    What a pair becomes depends on its key and on nothing else. Holes stay holes; changes of colour spare the
    depth. Draws are the same on every device; what is computed from them on a CPU and on a GPU differs by
    rounding.
    """
    batch = warp(batch, how, keys)
    rgb = shift_colour(blur(batch.rgb, how, keys), how, keys)
    depth = disturb_depth(batch.depth, batch.depth_per_px, how, keys)
    if how.erase and how.erase_size:
        rgb = erase(rgb, np.rint(uniform(keys, FILL, 3) * 255), how, keys, PATCH)
        depth = erase(depth, np.zeros((len(keys), 1)), how, keys, DEPTH_PATCH)
    if rgb.is_floating_point():
        rgb = rgb.round().clamp_(0, 255).to(torch.uint8)
    per_px = batch.depth_per_px
    if how.relief:  # a larger unit, not another depth: holes and distance stay
        per_px = per_px / _numbers(np.exp(normal(keys, RELIEF, 1) * how.relief), per_px.device)[0, :, 0, 0]
    return replace(batch, rgb=rgb, depth=depth, depth_per_px=per_px)


def warp(batch: Batch, how: Augmentation, keys: np.ndarray) -> Batch:
    """Pose, flip, rotation, zoom and shift by one map for both: colour (float32 then) bilinear, depth nearest.

    What comes from outside the crop is the border's colour, and no reading. A zoomed pixel measures less of
    the face: depth_per_px changes with it, so that the relief in crop pixels grows as the picture does.
    """
    if not any((how.flip, how.rotation_deg, how.zoom, how.shift, how.pose_deg, how.misregistration_px)):
        return batch
    (x, y), zoom = similarity(batch, how, keys)
    right, down = _numbers(normal(keys, MISREGISTRATION, 2) * how.misregistration_px, batch.depth.device)
    if how.pose_deg:
        (x, y), depth = render(batch, (x, y), (right, down), np.radians(normal(keys, POSE, 2) * how.pose_deg))
    else:
        depth = _sample(batch.depth, x + right, y + down, "nearest")
    return Batch(_sample(batch.rgb.float(), x, y, "bilinear"), depth, batch.depth_per_px / zoom)


def similarity(batch: Batch, how: Augmentation, keys: np.ndarray) -> tuple[tuple, torch.Tensor]:
    """Where in the picture each pixel comes from, (right, down) (B, H, W) crop pixels from its middle; the zoom (B,)."""
    height, width = batch.rgb.shape[2:]
    draw, mirror = normal(keys, SIMILARITY, 4), np.where(uniform(keys, FLIP, 1)[:, 0] < how.flip, -1, 1)
    angle, zoom = draw[:, 0] * np.radians(how.rotation_deg), np.exp(draw[:, 1] * how.zoom)
    cos, sin = np.cos(angle) / zoom, np.sin(angle) / zoom
    shift = draw[:, 2:] * how.shift * [width, height]
    numbers = np.stack([mirror * cos, -sin, shift[:, 0], mirror * sin, cos, shift[:, 1], zoom], 1)
    a, b, right, c, d, down, zoom = _numbers(numbers, batch.rgb.device)
    x, y = _axes(height, width, batch.rgb.device)
    return (a * x + (b * y + right), c * x + (d * y + down)), zoom[:, 0, 0]


def render(batch: Batch, places: tuple, aside: tuple, angles: np.ndarray) -> tuple[tuple, torch.Tensor]:
    """The pair seen after a turn of the head: where in the picture lies what is then seen at `places`, and its depth.

    places, and those that come back: (right, down), (B, H, W) crop pixels from the middle; aside: as much
    again (B, 1, 1) for depth alone. angles: (B, 2) radians, yaw (what is near moves right) and pitch (it
    moves down) about the point of median depth in the middle, seen orthographically. Depth: (B, 1, H, W)
    canonical, the nearest reading, carried along the surface to the place itself, and turned.

    The way back from the turned picture is a fixed point on the surface with its holes filled. Where it
    leads to what was hidden, or to a reading off the surface, there is no reading; colour is stretched over
    it from beside. Readings out of the face's reach (`relative_depth`) keep their depth.
    """
    relative, valid = relative_depth(batch.depth, batch.depth_per_px)
    surface = smooth_surface(relative, valid)
    surface = torch.where(valid.any(3, keepdim=True).any(2, keepdim=True), surface, 0)  # no face: a board is turned
    sin, sin_pitch = _numbers(np.sin(angles), surface.device)
    cos, cos_pitch = _numbers(np.cos(angles), surface.device)
    (u, v), (x, y), z = places, places, 0
    for _ in range(POSE_STEPS):
        z = _sample(surface, x, y, "bilinear")[:, 0]
        x = (u - sin * z) / cos
        y = (v - sin_pitch * (cos * z - sin * x)) / cos_pitch
    here = (x + aside[0], y + aside[1])
    readings = torch.cat([batch.depth, torch.where(valid, relative, torch.nan), surface], 1)
    depth, found, beside = _sample(readings, *here, "nearest").unbind(1)
    height = _sample(surface, *here, "bilinear")[:, 0]
    moved = (height - z).abs() * (sin.abs() + sin_pitch.abs())  # pixels, by one more step
    seen = (depth > 0) & (moved < 1) & ((found - beside).abs() < LOOSE * depth.shape[-1])
    carried = found + (height - beside).clamp(-1, 1)  # half a pixel's way; more is an edge
    turned = cos_pitch * (cos * carried - sin * here[0]) - sin_pitch * here[1]
    new = (depth + (found - turned) * batch.depth_per_px[:, None, None]).clamp_min(1e-3)
    return (x, y), torch.where(found.isnan(), depth, torch.where(seen, new, 0))[:, None]


def blur(rgb: torch.Tensor, how: Augmentation, keys: np.ndarray) -> torch.Tensor:
    """(B, 3, H, W), `how.blur` of the images smoothed by a Gaussian, which ends at 2 of the largest sd."""
    if not (how.blur and how.blur_px):
        return rgb
    draw = uniform(keys, BLUR, 2)
    chosen = np.flatnonzero(draw[:, 0] < how.blur)
    if not len(chosen):
        return rgb
    reach = int(np.ceil(2 * how.blur_px))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / (draw[chosen, 1:] * how.blur_px)) ** 2)
    weights = _numbers(weights / weights.sum(1, keepdims=True), rgb.device)[:, :, None]  # of (B, 1, 1, 1) each
    index = torch.from_numpy(chosen).to(rgb.device, non_blocking=True)
    image = rgb[index].float()
    for axis, margins in ((2, (0, 0, reach, reach)), (3, (reach, reach, 0, 0))):
        padded, size = F.pad(image, margins, mode="replicate"), image.shape[axis]
        image = sum(weight * padded.narrow(axis, k, size) for k, weight in enumerate(weights))
    return rgb.float().index_copy(0, index, image)


def shift_colour(rgb: torch.Tensor, how: Augmentation, keys: np.ndarray) -> torch.Tensor:
    """Exposure, contrast about the mean, saturation and white balance of (B, 3, H, W), 0 to 255; float32 comes back."""
    if not any((how.brightness, how.contrast, how.saturation, how.white_balance)):
        return rgb
    rgb, draw = rgb.float(), normal(keys, COLOUR, 6)
    gain = np.exp(draw[:, :1] * how.brightness + draw[:, 3:] * how.white_balance)
    contrast, saturation = np.exp(draw[:, 1:2] * how.contrast), np.exp(draw[:, 2:3] * how.saturation)
    own, of_grey, of_mean = gain * contrast * saturation, gain * contrast * (1 - saturation), gain * (1 - contrast)
    numbers = _numbers(np.concatenate([own, of_grey, of_mean], 1), rgb.device)
    own, of_grey, of_mean = numbers.view(3, 3, len(rgb), 1, 1).transpose(1, 2)
    grey = (rgb[:, :1] + rgb[:, 1:2] + rgb[:, 2:]) / 3
    # whole numbers below 2^24, as long as a picture has at most 256 x 256: exact in whatever order they are summed
    mean = grey.round().sum((2, 3), keepdim=True) / grey[0].numel()
    # gain * (mean + contrast * (grey + saturation * (rgb - grey) - mean)), with few passes over the pixels
    return (rgb * own).addcmul_(grey, of_grey).add_(mean * of_mean)


def disturb_depth(depth: torch.Tensor, depth_per_px: torch.Tensor, how: Augmentation, keys: np.ndarray) -> torch.Tensor:
    """Tilt, noise, rounding and lost readings for depth (B, 1, H, W); what was no reading stays none."""
    if not any((how.depth_tilt, how.depth_noise_px, how.quantisation_px, how.hole_share)):
        return depth
    (height, width), device = depth.shape[2:], depth.device
    reading, unit = depth > 0, depth_per_px[:, None, None, None]
    if how.depth_tilt:
        x, y = _axes(height, width, device)
        across, down = _numbers(normal(keys, TILT, 2) * how.depth_tilt, device)
        depth = depth + (across * x + down * y)[:, None] * unit
    if how.depth_noise_px or how.hole_share:  # 16 bits of each word for noise, 16 for holes
        words = pixel_words(keys, height, width, device)
    if how.depth_noise_px:
        noise = _normal_table(device).index_select(0, ((words >> 16) & 0xFFFF).flatten()).view_as(depth)
        depth = depth.addcmul(noise, unit * how.depth_noise_px)
    if how.quantisation_px:
        step = _numbers(uniform(keys, QUANTISATION, 1) * how.quantisation_px, device)[0][:, None] * unit
        depth = (depth / step).round_() * step
    if how.hole_share:
        reading = reading & ((words & 0xFFFF) >= round(how.hole_share * 65536))
    # readings are > 0 by contract; a change can be larger than the depth itself only where depth is unit-less
    return torch.where(reading, depth.clamp_min(1e-3), 0)


def erase(image: torch.Tensor, fill: np.ndarray, how: Augmentation, keys: np.ndarray, purpose: int) -> torch.Tensor:
    """(B, C, H, W) with a rectangle of colour fill (B, C) at a random place in `how.erase` of the images."""
    draw, (height, width) = uniform(keys, purpose, 5), image.shape[2:]
    chosen = np.flatnonzero(draw[:, 0] < how.erase)
    if not len(chosen):
        return image
    index = torch.from_numpy(chosen).to(image.device, non_blocking=True)
    sizes, middle = (0.3 + 0.7 * draw[chosen, 1:3]) * how.erase_size / 2, draw[chosen, 3:] - 0.5
    numbers = np.concatenate([sizes * [width, height], middle * [width, height]], 1)
    half_width, half_height, right, down = _numbers(numbers, image.device)
    x, y = _axes(height, width, image.device)
    inside = ((x - right).abs() < half_width) & ((y - down).abs() < half_height)
    colour = _numbers(fill[chosen], image.device).transpose(0, 1).to(image.dtype)
    return image.index_copy(0, index, torch.where(inside[:, None], colour, image[index]))


def _numbers(values: np.ndarray, device) -> torch.Tensor:
    """(B, n) numbers of pairs as (n, B, 1, 1) float32: unpacked, each number goes with (B, H, W)."""
    values = torch.from_numpy(np.ascontiguousarray(values.T, np.float32))
    return values.to(device, non_blocking=True)[:, :, None, None]


def _axes(height: int, width: int, device) -> tuple[torch.Tensor, torch.Tensor]:
    """(W,) and (H, 1) float32: right and down of the middle of the picture, pixels."""
    x, y = (torch.arange(n, dtype=torch.float32, device=device) - (n - 1) / 2 for n in (width, height))
    return x, y[:, None]


def _sample(image: torch.Tensor, x: torch.Tensor, y: torch.Tensor, mode: str) -> torch.Tensor:
    """(B, C, H, W) read at x, y (B, H, W) pixels from the middle: from beyond the border its value if bilinear, else 0."""
    height, width = image.shape[2:]
    grid = torch.stack([x * (2 / width), y * (2 / height)], 3)
    return F.grid_sample(image, grid, mode, "border" if mode == "bilinear" else "zeros", align_corners=False)
