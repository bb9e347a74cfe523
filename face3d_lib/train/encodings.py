"""Depth as a network can use it: relative, without holes, in crop pixels, as surface normals; see ENCODINGS.

Everything here works on batches (B, 1, H, W), float32, on the device that the batch is on. Canonical depth
comes in (larger = farther, 0 = no reading) and is divided by `depth_per_px`, the depth units that one crop
pixel measures across the face. A surface in mm and the same surface in pixels are then one surface, with one
set of normals.

Lengths are shares of the crop's width W, so a crop of 224 px gives what one of 112 px gives. In the 112 px
template W is about 200 mm: the eyes are 35 px apart, on average 63 mm in life (Dodgson 2004, Proc. SPIE
5291).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F

from ..base.errors import UserError

REACH = 0.55  # of W (110 mm): a reading farther from the reference, before or behind, is not the face
UNIT = 0.3  # of W (60 mm): the length that becomes 1 in an encoding
CLIP = 1.5  # encoded depth ends at +-CLIP; a place without any surface is -CLIP
FILL_STEPS = 3  # a hole is filled from blocks of 2, 4 and 8 px; what has no reading in them is background
NOSE_RANGE = 100.0  # mm behind the nose at which nose_depth ends: about where the ears are
NOSE_SHARE = 0.01  # of the central pixels may be nearer than what counts as the nose: noise, stray points


def relative_depth(depth: torch.Tensor, depth_per_px: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Depth relative to the face, in crop pixels, nearer = larger, and which of it is face (bool).

    The reference is the median of the readings in the central half of the crop (rows and columns); a pair
    without readings there has an empty mask. depth: (B, 1, H, W) canonical; depth_per_px: (B,). Both results:
    (B, 1, H, W).
    """
    centre = central(depth)
    # the median of an empty centre is NaN, and nothing compares as near to NaN
    reference = torch.where(centre > 0, centre, torch.nan).nanmedian(1).values[:, None, None, None]
    relative = (reference - depth) / depth_per_px[:, None, None, None]
    valid = (depth > 0) & (relative.abs() < REACH * depth.shape[-1])
    return torch.where(valid, relative, 0), valid


def central(image: torch.Tensor) -> torch.Tensor:
    """The central half (rows and columns) of one channel, (B, 1, H, W) -> (B, n): where the nose is."""
    height, width = image.shape[2:]
    top, left = height // 4, width // 4
    return image[:, 0, top : height - top, left : width - left].flatten(1)


def fill_holes(surface: torch.Tensor, valid: torch.Tensor, background: float) -> torch.Tensor:
    """`surface` (B, 1, H, W) with what is not `valid` filled: from readings near by, else `background`.

    Means over growing blocks go up a pyramid and are interpolated on the way down, for places without a
    reading only (push-pull: Gortler et al. 1996, The Lumigraph, section 3.4). Readings are unchanged.
    """
    weight = valid.to(surface.dtype)
    levels = [(surface * weight, weight)]  # sums of readings, shares of readings
    for _ in range(FILL_STEPS):
        total, share = (F.avg_pool2d(x, 2, ceil_mode=True) for x in levels[-1])
        levels.append((total, share))
    total, share = levels.pop()
    filled = torch.where(share > 0, total / share.clamp_min(1e-6), background)
    for total, share in reversed(levels):
        coarse = F.interpolate(filled, size=total.shape[2:], mode="bilinear")
        filled = torch.where(share > 0, total / share.clamp_min(1e-6), coarse)
    return filled


def smooth_surface(relative: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """What `relative_depth` gives, filled where near a reading, background elsewhere, smoothed (3 x 3, twice)."""
    surface = fill_holes(relative, valid, background=-CLIP * UNIT * relative.shape[-1])
    surface = F.pad(surface, (2, 2, 2, 2), mode="replicate")
    for _ in range(2):  # sums of slices: on a CPU a third of the time of avg_pool2d
        surface = surface[..., :-2] + surface[..., 1:-1] + surface[..., 2:]
        surface = surface[..., :-2, :] + surface[..., 1:-1, :] + surface[..., 2:, :]
    return surface / 81


def face_surface(depth: torch.Tensor, depth_per_px: torch.Tensor) -> torch.Tensor:
    """The face as one smooth surface without holes, (B, 1, H, W) crop pixels, nearer = larger."""
    return smooth_surface(*relative_depth(depth, depth_per_px))


def normals(surface: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W): x (image right), y (image down), z (to the camera) of the unit normal out of the face.

    surface: (B, 1, H, W) crop pixels, nearer = larger. Central differences in orthographic view: (-dz/dx,
    -dz/dy, 1) over its length. The outermost rows and columns, which have one neighbour only, get slope 0
    across the border.
    """
    slope_x = F.pad((surface[..., 2:] - surface[..., :-2]) / 2, (1, 1))
    slope_y = F.pad((surface[..., 2:, :] - surface[..., :-2, :]) / 2, (0, 0, 1, 1))
    length = torch.rsqrt(slope_x**2 + slope_y**2 + 1)
    return torch.cat([-slope_x * length, -slope_y * length, length], 1)


def scaled(surface: torch.Tensor) -> torch.Tensor:
    """Crop pixels -> UNIT of the crop's width, clipped to +-CLIP; the same shape."""
    return (surface / (UNIT * surface.shape[-1])).clamp(-CLIP, CLIP)


def encode_depth(depth: torch.Tensor, depth_per_px: torch.Tensor) -> torch.Tensor:
    """Relative depth, holes filled: 1 is UNIT of the crop's width nearer than the face's median, ends at +-CLIP."""
    return scaled(face_surface(depth, depth_per_px))


def encode_depth_mask(depth: torch.Tensor, depth_per_px: torch.Tensor) -> torch.Tensor:
    """Relative depth as measured, in the unit of `encode_depth`, and 1 where there is a reading of the face, else 0.

    Depth is 0 in a hole, which is the face's median: the mask alone tells the two apart. A network can weigh
    by such a mask (Uhrig et al. 2017, Sparsity Invariant CNNs, whose baseline stacks it). Not smoothed.
    """
    relative, valid = relative_depth(depth, depth_per_px)
    return torch.cat([scaled(relative), valid.to(relative.dtype)], 1)


def encode_nose_depth(depth: torch.Tensor, depth_per_px: torch.Tensor) -> torch.Tensor:
    """Metric depth from the nose back, holes filled: 1 at the nose or nearer, 0 at NOSE_RANGE mm behind it.

    The nose is the nearest reading in the central half of the crop, NOSE_SHARE of its pixels left out. Where
    fewer than these hold a reading all is 0. Unlike `encode_depth` it tells a large head from a small one.
    Measuring from the nose tip: Mian, Bennamoun and Owens 2007, IEEE PAMI 29(11), who keep 80 mm around it.
    """
    relative, valid = relative_depth(depth, depth_per_px)
    centre = central(torch.where(valid, relative, -torch.inf))
    nose = centre.topk(math.ceil(NOSE_SHARE * centre.shape[1])).values[:, -1, None, None, None]
    nose = torch.where(nose.isfinite(), nose, torch.inf)  # from a nose that is not there all is infinitely far
    surface = smooth_surface(relative, valid)
    return (1 - (nose - surface) * depth_per_px[:, None, None, None] / NOSE_RANGE).clamp(0, 1)


def encode_minmax(depth: torch.Tensor, depth_per_px: torch.Tensor) -> torch.Tensor:
    """The crop's farthest reading 0, its nearest 1, holes 0, as in 2019. One stray reading moves all others."""
    reading = depth > 0
    near = torch.where(reading, depth, torch.inf).amin((1, 2, 3), keepdim=True)
    far = depth.amax((1, 2, 3), keepdim=True)
    span = torch.where(far > near, far - near, 1)  # a plane, or no reading: 0 everywhere
    return torch.where(reading, (far - depth) / span, 0)


def encode_normals(depth: torch.Tensor, depth_per_px: torch.Tensor) -> torch.Tensor:
    """The unit normal's x, y and z, of the filled surface (normal maps: Abate et al. 2005, ICIP)."""
    return normals(face_surface(depth, depth_per_px))


def encode_normals_depth(depth: torch.Tensor, depth_per_px: torch.Tensor) -> torch.Tensor:
    """The normal's x and y (z follows from them), and the relative depth of `encode_depth`."""
    surface = face_surface(depth, depth_per_px)
    return torch.cat([normals(surface)[:, :2], scaled(surface)], 1)


def encode_depth_angles(depth: torch.Tensor, depth_per_px: torch.Tensor) -> torch.Tensor:
    """The relative depth of `encode_depth`, and azimuth and elevation of the normal in right angles, -1 ... 1.

    Azimuth is 1 where the skin faces image right, elevation 1 where it faces up, both 0 where it faces the
    camera. Depth, azimuth and elevation as three channels: Gilani and Mian 2018 (FR3DNet, CVPR). They turn
    about the line of sight, where azimuth jumps as soon as the skin faces the camera; ours turns about the
    vertical, which never jumps.
    """
    surface = face_surface(depth, depth_per_px)
    x, y, z = normals(surface).split(1, 1)
    angles = torch.cat([torch.atan2(x, z), torch.atan2(-y, torch.hypot(x, z))], 1) / (math.pi / 2)
    return torch.cat([scaled(surface), angles], 1)


def encode_xyz(depth: torch.Tensor, depth_per_px: torch.Tensor) -> torch.Tensor:
    """The place in space of each pixel: x (right) and y (down) from the crop's middle, and z, that of `encode_depth`.

    All in UNIT of the crop's width. Seen orthographically x and y are the same in every crop: what they add is
    where on the face a filter stands (coordinate channels: Liu et al. 2018, CoordConv; map of positions: Feng
    et al. 2018, PRNet, ECCV).
    """
    z = encode_depth(depth, depth_per_px)
    height, width = z.shape[2:]
    x = (torch.arange(width, device=z.device) - (width - 1) / 2) / (UNIT * width)
    y = (torch.arange(height, device=z.device) - (height - 1) / 2) / (UNIT * width)
    return torch.cat([x.expand_as(z), y[:, None].expand_as(z), z], 1)


@dataclass(frozen=True)
class Encoding:
    """How depth enters a network."""

    function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # depth, depth_per_px -> (B, channels, H, W)
    channels: int
    unit: Literal["any", "mm"]  # the unit of depth that it needs to mean something


ENCODINGS = {
    "depth": Encoding(encode_depth, 1, "any"),
    "depth_mask": Encoding(encode_depth_mask, 2, "any"),
    "nose_depth": Encoding(encode_nose_depth, 1, "mm"),
    "minmax": Encoding(encode_minmax, 1, "any"),
    "normals": Encoding(encode_normals, 3, "any"),
    "normals_depth": Encoding(encode_normals_depth, 3, "any"),
    "depth_angles": Encoding(encode_depth_angles, 3, "any"),
    "xyz": Encoding(encode_xyz, 3, "any"),
}


def require_meaning(encoding: str, depth_unit: str) -> None:
    """UserError unless `encoding` means something for depth in `depth_unit` ("mm" or "pixel"); it names those that do."""
    fitting = [name for name, e in ENCODINGS.items() if e.unit in ("any", depth_unit)]
    if encoding not in ENCODINGS:
        raise UserError(f"encoding {encoding!r}: there is none of this name: use one of {', '.join(fitting)}")
    if encoding not in fitting:
        raise UserError(
            f"encoding {encoding!r} measures in mm, and depth in {depth_unit!r} has no length in life: "
            f"use one of {', '.join(fitting)}"
        )
