"""Augmentation of a batch on its device: one geometry for colour and depth, and draws of its own for every pair.

All draws are functions of numbers (see draws.py), so a pair is changed in the same way in any batch, in any process and
on any device; a CPU and a GPU differ by rounding only.
"""

from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

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

Modality = Literal["rgb", "depth", "rgbd"]
Places = tuple[torch.Tensor, torch.Tensor]  # x (right) and y (down), crop pixels from the middle of the crop

POSE_STEPS = 3  # steps of the fixed-point iteration; at 15 degrees each leaves a quarter of the error on a slope of 1
LOOSE = 0.04  # share of the crop's width (8 mm): a reading farther than this from the smooth surface is not on it


@dataclass(frozen=True)
class Augmentation:
    """How far a training pair may be changed. A value of 0 switches a change off, and the change then costs no time.

    "sd" is the standard deviation of a normal draw. The geometric changes, from flip to pose_deg, move colour and
    depth together.
    """

    flip: float = 0.5  # probability that the pair is mirrored
    rotation_deg: float = 3.0  # sd of the rotation in the image plane
    zoom: float = 0.03  # sd of the logarithm of the magnification
    shift: float = 0.015  # sd of the shift across and down, share of the crop's width
    pose_deg: float = 0.0  # sd of the yaw and of the pitch by which the pair is rendered anew from its depth
    brightness: float = 0.15  # sd of the logarithm of the exposure
    contrast: float = 0.15  # sd of the logarithm of the contrast
    saturation: float = 0.2  # sd of the logarithm of the saturation
    white_balance: float = 0.05  # sd of the logarithm of each channel's gain
    blur: float = 0.1  # probability that the colour is blurred
    blur_px: float = 1.5  # largest sd of the Gaussian that blurs, crop pixels; the sd is drawn uniformly from 0 up
    misregistration_px: float = 0.3  # sd of the shift of depth against colour, across and down, crop pixels
    depth_noise_px: float = 0.3  # sd of the noise on every reading, crop pixels
    relief: float = 0.0  # sd of the logarithm of a factor on the relief, for sensors whose depth unit is unreliable
    depth_tilt: float = 0.05  # sd of the slope of a plane added to depth; a head turned by s radians has slope s
    quantisation_px: float = 0.0  # largest step to which depth is rounded, crop pixels; the step is drawn uniformly
    hole_share: float = 0.02  # share of the readings that are lost
    erase: float = 0.3  # probability of a patch without colour, and independently of a patch without depth
    erase_size: float = 0.3  # largest side of such a patch, share of the crop's width


@cache
def _normal_table(device: torch.device) -> torch.Tensor:
    """(65536,) float32: the quantiles of the normal distribution, which turn 16 random bits into a normal draw."""
    return torch.from_numpy(ndtri((np.arange(65536) + 0.5) / 65536).astype(np.float32)).to(device)


def augment(batch: Batch, how: Augmentation, keys: np.ndarray, modality: Modality = "rgbd") -> Batch:
    """A changed copy of `batch`, in the same types: colour uint8, depth float32 with 0 for no reading.

    keys: (B,) int64 from `sample_keys`; the changes of a pair depend on its key and on nothing else. Holes in the
    depth stay holes, and changes of colour leave depth alone. modality: what the network sees. For "rgb" the
    depth, and for "depth" the colour, is returned unchanged, because changing it would waste up to half of the time.
    """
    batch = warp(batch, how, keys, modality)
    rgb, depth, per_px = batch.rgb, batch.depth, batch.depth_per_px
    if modality != "depth":
        rgb = shift_colour(blur(rgb, how, keys), how, keys)
        if rgb.is_floating_point():
            rgb = rgb.round().clamp_(0, 255).to(torch.uint8)
        rgb = erase(rgb, np.rint(uniform(keys, FILL, 3) * 255), how, keys, PATCH)
    if modality != "rgb":
        depth = disturb_depth(depth, per_px, how, keys)
        depth = erase(depth, np.zeros((len(keys), 1)), how, keys, DEPTH_PATCH)
    if how.relief:  # another unit gives another relief, while holes and the distance to the camera stay
        per_px = per_px / _numbers(np.exp(normal(keys, RELIEF, 1) * how.relief), per_px.device)[0, :, 0, 0]
    return replace(batch, rgb=rgb, depth=depth, depth_per_px=per_px)


def warp(batch: Batch, how: Augmentation, keys: np.ndarray, modality: Modality = "rgbd") -> Batch:
    """The batch after pose, flip, rotation, zoom and shift, by one map for colour and depth.

    Colour is read bilinearly and comes back as float32, 0 to 255; depth is read from the nearest pixel, so that no
    reading is a mixture. Outside the crop the colour is that of the border, and depth has no reading. depth_per_px
    is divided by the zoom, because a pixel of a magnified crop measures less of the face; the relief in crop
    pixels therefore grows like the picture. modality: as for `augment`.
    """
    if not any((how.flip, how.rotation_deg, how.zoom, how.shift, how.pose_deg, how.misregistration_px)):
        return batch
    places, zoom = similarity(batch, how, keys)
    right, down = _numbers(normal(keys, MISREGISTRATION, 2) * how.misregistration_px, batch.depth.device)
    rgb, depth = batch.rgb, batch.depth
    if how.pose_deg:
        places, depth = render(batch, places, (right, down), np.radians(normal(keys, POSE, 2) * how.pose_deg))
    elif modality != "rgb":
        depth = _sample(depth, places, "nearest", (right, down))
    if modality != "depth":
        rgb = _sample(rgb.float(), places, "bilinear")
    return Batch(rgb, depth, batch.depth_per_px / zoom)


def similarity(batch: Batch, how: Augmentation, keys: np.ndarray) -> tuple[Places, torch.Tensor]:
    """Where in the picture each pixel of the changed picture is read, two tensors (B, H, W); and the zoom (B,)."""
    height, width = batch.rgb.shape[2:]
    draw, mirror = normal(keys, SIMILARITY, 4), np.where(uniform(keys, FLIP, 1)[:, 0] < how.flip, -1, 1)
    angle, zoom = draw[:, 0] * np.radians(how.rotation_deg), np.exp(draw[:, 1] * how.zoom)
    cos, sin = np.cos(angle) / zoom, np.sin(angle) / zoom
    shift = draw[:, 2:] * how.shift * [width, height]
    numbers = np.stack([mirror * cos, -sin, shift[:, 0], mirror * sin, cos, shift[:, 1], zoom], 1)
    a, b, right, c, d, down, zoom = _numbers(numbers, batch.rgb.device)
    x, y = _axes(height, width, batch.rgb.device)
    return (a * x + (b * y + right), c * x + (d * y + down)), zoom[:, 0, 0]


def render(batch: Batch, places: Places, aside: Places, angles: np.ndarray) -> tuple[Places, torch.Tensor]:
    """The pair seen after a turn of the head: where its colour is read, and its new depth.

    places: two tensors (B, H, W), the places of the turned picture that are asked for. The places of the unturned
    picture that show the same points are returned in the same form. aside: two tensors (B, 1, 1), the shift of depth
    against colour. angles: (B, 2) yaw and pitch in radians; a positive yaw moves near points to the right, a positive
    pitch moves them down. The head turns about the point of median depth in the middle of the crop and is seen
    orthographically. Depth: (B, 1, H, W) canonical; it is the nearest reading, carried along the surface to the place
    asked for, and turned.

    The map from the turned picture to the unturned one is the fixed point of an iteration on the surface with its
    holes filled. Where the map leads to a hidden point, or to a reading off the surface, the new depth has no reading,
    and the colour is stretched from its neighbours. Readings out of the face's reach (`relative_depth`)
    keep their depth.
    """
    relative, valid = relative_depth(batch.depth, batch.depth_per_px)
    surface = smooth_surface(relative, valid)
    surface = torch.where(valid.any(3, keepdim=True).any(2, keepdim=True), surface, 0)  # without a face: a flat surface
    sin, sin_pitch = _numbers(np.sin(angles), surface.device)
    cos, cos_pitch = _numbers(np.cos(angles), surface.device)
    (u, v), (x, y), z = places, places, torch.zeros(())
    for _ in range(POSE_STEPS):
        z = _sample(surface, (x, y), "bilinear")[:, 0]
        x = (u - sin * z) / cos
        y = (v - sin_pitch * (cos * z - sin * x)) / cos_pitch
    here = (x + aside[0], y + aside[1])
    readings = torch.cat([batch.depth, torch.where(valid, relative, torch.nan), surface], 1)
    depth, found, beside = _sample(readings, here, "nearest").unbind(1)
    height = _sample(surface, here, "bilinear")[:, 0]
    moved = (height - z).abs() * (sin.abs() + sin_pitch.abs())  # by how many pixels one more step would move the place
    seen = (depth > 0) & (moved < 1) & ((found - beside).abs() < LOOSE * depth.shape[-1])
    carried = found + (height - beside).clamp(-1, 1)  # from the reading half a pixel along the surface; more is an edge
    turned = cos_pitch * (cos * carried - sin * here[0]) - sin_pitch * here[1]
    new = (depth + (found - turned) * batch.depth_per_px[:, None, None]).clamp_min(1e-3)
    return (x, y), torch.where(found.isnan(), depth, torch.where(seen, new, 0))[:, None]


def blur(rgb: torch.Tensor, how: Augmentation, keys: np.ndarray) -> torch.Tensor:
    """(B, 3, H, W) with a share `how.blur` of the images smoothed by a Gaussian, cut off at twice the largest sd.

    float32 comes back, 0 to 255, or `rgb` itself where no image was chosen.
    """
    if not (how.blur and how.blur_px):
        return rgb
    draw = uniform(keys, BLUR, 2)
    chosen = np.flatnonzero(draw[:, 0] < how.blur)
    if not len(chosen):
        return rgb
    reach = int(np.ceil(2 * how.blur_px))
    bell = np.exp(-0.5 * (np.arange(-reach, reach + 1) / (draw[chosen, 1:] * how.blur_px)) ** 2)
    weights = _numbers(bell / bell.sum(1, keepdims=True), rgb.device)[:, :, None]  # each of shape (B, 1, 1, 1)
    index = torch.from_numpy(chosen).to(rgb.device, non_blocking=True)
    image = rgb[index].float()
    for axis, margins in ((2, (0, 0, reach, reach)), (3, (reach, reach, 0, 0))):
        padded, size = F.pad(image, margins, mode="replicate"), image.shape[axis]
        image = sum(weight * padded.narrow(axis, k, size) for k, weight in enumerate(weights))
    return rgb.float().index_copy(0, index, image)


def shift_colour(rgb: torch.Tensor, how: Augmentation, keys: np.ndarray) -> torch.Tensor:
    """(B, 3, H, W) with other exposure, contrast about its mean, saturation and white balance.

    float32 comes back, and it may leave 0 to 255; or `rgb` itself where all four changes are switched off.
    """
    if not any((how.brightness, how.contrast, how.saturation, how.white_balance)):
        return rgb
    rgb, draw = rgb.float(), normal(keys, COLOUR, 6)
    gain = np.exp(draw[:, :1] * how.brightness + draw[:, 3:] * how.white_balance)
    contrast, saturation = np.exp(draw[:, 1:2] * how.contrast), np.exp(draw[:, 2:3] * how.saturation)
    own, of_grey, of_mean = gain * contrast * saturation, gain * contrast * (1 - saturation), gain * (1 - contrast)
    numbers = _numbers(np.concatenate([own, of_grey, of_mean], 1), rgb.device)
    own, of_grey, of_mean = numbers.view(3, 3, len(rgb), 1, 1).transpose(1, 2)
    grey = (rgb[:, :1] + rgb[:, 1:2] + rgb[:, 2:]) / 3
    # Whole numbers below 2^24, as up to 256 x 256 pixels give: their sum is exact in any order, so on any device.
    mean = grey.round().sum((2, 3), keepdim=True) / grey[0].numel()
    # This is gain * (mean + contrast * (grey + saturation * (rgb - grey) - mean)), in fewer passes over the pixels.
    return (rgb * own).addcmul_(grey, of_grey).add_(mean * of_mean)


def disturb_depth(depth: torch.Tensor, depth_per_px: torch.Tensor, how: Augmentation, keys: np.ndarray) -> torch.Tensor:
    """(B, 1, H, W) depth after tilt, noise, rounding and loss of readings; holes stay holes."""
    if not any((how.depth_tilt, how.depth_noise_px, how.quantisation_px, how.hole_share)):
        return depth
    (height, width), device = depth.shape[2:], depth.device
    reading, unit = depth > 0, depth_per_px[:, None, None, None]
    if how.depth_tilt:
        x, y = _axes(height, width, device)
        across, down = _numbers(normal(keys, TILT, 2) * how.depth_tilt, device)
        depth = torch.addcmul(depth, (across * x + down * y)[:, None], unit)
    if how.depth_noise_px or how.hole_share:  # of each 32-bit word 16 bits decide the noise, the other 16 the holes
        words = pixel_words(keys, height, width, device)
    if how.depth_noise_px:
        noise = _normal_table(device).index_select(0, ((words >> 16) & 0xFFFF).flatten()).view_as(depth)
        depth = depth.addcmul(noise, unit * how.depth_noise_px)
    if how.quantisation_px:
        step = _numbers(uniform(keys, QUANTISATION, 1) * how.quantisation_px, device)[0][:, None] * unit
        depth = (depth / step).round_() * step
    if how.hole_share:
        reading = reading & ((words & 0xFFFF) >= round(how.hole_share * 65536))
    # A reading is above 0 by contract; only where depth has no real unit can a change be larger than the depth itself.
    return torch.where(reading, depth.clamp_min(1e-3), 0)


def erase(image: torch.Tensor, fill: np.ndarray, how: Augmentation, keys: np.ndarray, purpose: int) -> torch.Tensor:
    """(B, C, H, W) in which a share `how.erase` of the images has a rectangle of the value fill (B, C).

    purpose: PATCH for colour, DEPTH_PATCH for depth, so that the two are drawn independently.
    """
    if not (how.erase and how.erase_size):
        return image
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
    value = _numbers(fill[chosen], image.device).transpose(0, 1).to(image.dtype)
    return image.index_copy(0, index, torch.where(inside[:, None], value, image[index]))


def _numbers(values: np.ndarray, device: torch.device) -> torch.Tensor:
    """(B, n) numbers of the pairs as (n, B, 1, 1) float32: each of the n broadcasts against (B, H, W)."""
    numbers = torch.from_numpy(np.ascontiguousarray(values.T, np.float32))
    return numbers.to(device, non_blocking=True)[:, :, None, None]


def _axes(height: int, width: int, device: torch.device) -> Places:
    """(W,) x and (H, 1) y of the pixels, float32, from the middle of the picture."""
    x, y = (torch.arange(n, dtype=torch.float32, device=device) - (n - 1) / 2 for n in (width, height))
    return x, y[:, None]


def _sample(image: torch.Tensor, places: Places, mode: str, aside: Places | None = None) -> torch.Tensor:
    """(B, C, H, W) float32: `image` read at `places`, (B, H, W) each, moved by `aside`, (B, 1, 1) each.

    Beyond the border the value is that of the border in mode "bilinear", and 0 in mode "nearest".
    """
    grid = torch.empty(*places[0].shape, 2, device=image.device)
    for i, (place, size) in enumerate(zip(places, (image.shape[3], image.shape[2]), strict=True)):
        # grid_sample wants -1 ... 1 from border to border; written in place: torch.stack takes four times as long
        torch.mul(place if aside is None else place + aside[i], 2 / size, out=grid[..., i])
    return F.grid_sample(image, grid, mode, "border" if mode == "bilinear" else "zeros", align_corners=False)
