"""Encodings of depth: what a network sees of a depth map. They are listed in ENCODINGS.

All functions take batches (B, 1, H, W) float32 and work on the device that the batch is on. They are given canonical
depth (larger = farther, 0 = no reading) and `depth_per_px` (B,), the length of one crop pixel across the face in the
unit of the depth. Most divide depth by `depth_per_px` first: a face in millimetres and the same face in pixels then
have the same surface and the same normals.

Lengths are given as shares of the crop's width W, so that a crop of 224 px is encoded like one of 112 px.
In the 112 px template, the reference points of the alignment, W is about 200 mm: the eyes are 35 px apart in the
template, and on average 63 mm in adults (Dodgson 2004, Proc. SPIE 5291).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F

from ..base.errors import UserError

REACH = 0.55  # share of W (110 mm): a reading farther than this before or behind the reference is not the face
UNIT = 0.3  # share of W (60 mm): the length that becomes 1 in an encoding
CLIP = 1.5  # encoded depth is clipped to -CLIP ... CLIP; a place without any surface gets -CLIP
FILL_STEPS = 3  # a hole is filled from blocks of 2, 4 and 8 px; a place without a reading in these is background
NOSE_RANGE = 100.0  # mm behind the nose at which nose_depth reaches 0: about where the ears are
NOSE_SHARE = 0.01  # share of the central pixels that may be nearer than the nose, because of noise and stray points


def block_means(depth: torch.Tensor, block: int) -> torch.Tensor:
    """(B, 1, ceil(H / block), ceil(W / block)): the mean of the readings in each square of block x block px.

    depth: (B, 1, H, W) canonical; a square without a reading has none. A crop that is larger than the picture of its
    face repeats each reading, so its surface has steps; means of such squares have fewer. Multiply depth_per_px by
    `block`.
    """
    if block == 1:
        return depth
    total, share = (F.avg_pool2d(x, block, ceil_mode=True) for x in (depth, (depth > 0).to(depth.dtype)))
    return torch.where(share > 0, total / share.clamp_min(1e-6), 0)


def relative_depth(depth: torch.Tensor, depth_per_px: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Depth relative to the face, in crop pixels, nearer = larger; and a bool mask of the readings of the face.

    Both are (B, 1, H, W); where the mask is False, relative depth is 0. The reference, which gets 0, is the median of
    the readings in the central half of the crop. A pair without readings there has an empty mask. depth: (B, 1, H, W)
    canonical; depth_per_px: (B,).
    """
    centre = central(depth)
    # The median of an empty centre is NaN, and every comparison with NaN is False.
    reference = torch.where(centre > 0, centre, torch.nan).nanmedian(1).values[:, None, None, None]
    relative = (reference - depth) / depth_per_px[:, None, None, None]
    valid = (depth > 0) & (relative.abs() < REACH * depth.shape[-1])
    return torch.where(valid, relative, 0), valid


def central(image: torch.Tensor) -> torch.Tensor:
    """The central half of the rows and of the columns, where the nose is: (B, 1, H, W) -> (B, n)."""
    height, width = image.shape[2:]
    top, left = height // 4, width // 4
    return image[:, 0, top : height - top, left : width - left].flatten(1)


def fill_holes(surface: torch.Tensor, valid: torch.Tensor, background: float) -> torch.Tensor:
    """`surface` (B, 1, H, W) in which places that are not `valid` are filled from readings near by.

    A place without a reading near by gets the value `background`; readings are unchanged. The method is push-pull
    (Gortler et al. 1996, The Lumigraph, section 3.4): means over blocks of 2, 4 and 8 px form a pyramid, and on the
    way down each level is interpolated into the places of the next finer one that have no reading.
    """
    total, share = torch.where(valid, surface, 0), valid.to(surface.dtype)  # sum and count of readings, per pixel
    levels = [(surface, valid)]  # the mean of the readings in each block, and whether there are any
    for _ in range(FILL_STEPS):
        total, share = (F.avg_pool2d(x, 2, ceil_mode=True) for x in (total, share))
        levels.append((total / share.clamp_min(1e-6), share > 0))
    filled = torch.where(levels[-1][1], levels[-1][0], background)
    for mean, measured in reversed(levels[:-1]):
        coarse = F.interpolate(filled, size=mean.shape[2:], mode="bilinear")
        filled = torch.where(measured, mean, coarse)
    return filled


def smooth_surface(relative: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """(B, 1, H, W): the two results of `relative_depth` as a surface without holes, smoothed twice over 3 x 3 px.

    Holes near a reading are filled from it; a place without a reading near by is background.
    """
    surface = fill_holes(relative, valid, background=-CLIP * UNIT * relative.shape[-1])
    surface = F.pad(surface, (2, 2, 2, 2), mode="replicate")
    for _ in range(2):  # sums of slices take a third of the time of avg_pool2d on a CPU
        surface = surface[..., :-2] + surface[..., 1:-1] + surface[..., 2:]
        surface = surface[..., :-2, :] + surface[..., 1:-1, :] + surface[..., 2:, :]
    return surface / 81


def face_surface(depth: torch.Tensor, depth_per_px: torch.Tensor) -> torch.Tensor:
    """The face as a smooth surface without holes: (B, 1, H, W) in crop pixels, nearer = larger."""
    return smooth_surface(*relative_depth(depth, depth_per_px))


def normals(surface: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W): the unit normal that points out of the face; x is image right, y image down, z to the camera.

    surface: (B, 1, H, W) crop pixels, nearer = larger, seen orthographically. The normal is (-dz/dx, -dz/dy, 1)
    divided by its length, with central differences as derivatives. In the outermost rows and columns, which have only
    one neighbour, the slope across the border is set to 0.
    """
    slope_x = F.pad((surface[..., 2:] - surface[..., :-2]) / 2, (1, 1))
    slope_y = F.pad((surface[..., 2:, :] - surface[..., :-2, :]) / 2, (0, 0, 1, 1))
    length = torch.rsqrt(slope_x**2 + slope_y**2 + 1)
    return torch.cat([-slope_x * length, -slope_y * length, length], 1)


def scaled(surface: torch.Tensor) -> torch.Tensor:
    """`surface` in crop pixels -> in units of UNIT * W, clipped to -CLIP ... CLIP; the same shape."""
    return (surface / (UNIT * surface.shape[-1])).clamp(-CLIP, CLIP)


def encode_depth(depth: torch.Tensor, depth_per_px: torch.Tensor) -> torch.Tensor:
    """(B, 1, H, W): relative depth with filled holes; 1 is UNIT * W before the face's median; clipped to +-CLIP."""
    return scaled(face_surface(depth, depth_per_px))


def encode_depth_mask(depth: torch.Tensor, depth_per_px: torch.Tensor) -> torch.Tensor:
    """(B, 2, H, W): relative depth as measured, in the unit of `encode_depth`, and the mask of the face's readings.

    The mask is 1 for a reading and 0 for a hole. Depth in a hole is 0, which is also the face's median, so only the
    mask tells the two apart. The surface is not smoothed. Uhrig et al. 2017 (Sparsity Invariant CNNs) stack such a
    mask in their baseline.
    """
    relative, valid = relative_depth(depth, depth_per_px)
    return torch.cat([scaled(relative), valid.to(relative.dtype)], 1)


def encode_nose_depth(depth: torch.Tensor, depth_per_px: torch.Tensor) -> torch.Tensor:
    """(B, 1, H, W): depth in millimetres behind the nose, holes filled; 1 at the nose, 0 at NOSE_RANGE mm behind it.

    The nose is the nearest reading in the central half of the crop after the nearest NOSE_SHARE of its pixels are
    left out. If fewer pixels than that hold a reading, everything is 0. This encoding tells a large head from a small
    one, which `encode_depth` does not. Mian, Bennamoun and Owens 2007 (IEEE PAMI 29(11)) measure from the tip of the
    nose, too, and keep 80 mm around it.
    """
    relative, valid = relative_depth(depth, depth_per_px)
    centre = central(torch.where(valid, relative, -torch.inf))
    nose = centre.topk(math.ceil(NOSE_SHARE * centre.shape[1])).values[:, -1, None, None, None]
    nose = torch.where(nose.isfinite(), nose, torch.inf)  # without a nose everything is infinitely far behind it
    surface = smooth_surface(relative, valid)
    return (1 - (nose - surface) * depth_per_px[:, None, None, None] / NOSE_RANGE).clamp(0, 1)


def encode_minmax(depth: torch.Tensor, depth_per_px: torch.Tensor) -> torch.Tensor:
    """(B, 1, H, W): 0 for the farthest reading of the crop and for holes, 1 for the nearest reading.

    The legacy project encoded depth in this way. A single stray reading moves the values of all others.
    """
    reading = depth > 0
    near = torch.where(reading, depth, torch.inf).amin((1, 2, 3), keepdim=True)
    far = depth.amax((1, 2, 3), keepdim=True)
    span = torch.where(far > near, far - near, 1)  # a flat plane, or no reading at all, becomes 0 everywhere
    return torch.where(reading, (far - depth) / span, 0)


def encode_normals(depth: torch.Tensor, depth_per_px: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W): the unit normals of the smooth surface without holes (normal maps: Abate et al. 2005, ICIP)."""
    return normals(face_surface(depth, depth_per_px))


def encode_normals_depth(depth: torch.Tensor, depth_per_px: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W): x and y of the unit normal, from which z follows, and the relative depth of `encode_depth`."""
    surface = face_surface(depth, depth_per_px)
    return torch.cat([normals(surface)[:, :2], scaled(surface)], 1)


def encode_depth_angles(depth: torch.Tensor, depth_per_px: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W): the relative depth of `encode_depth`, and azimuth and elevation of the normal from -1 to 1.

    Both angles are measured in right angles: azimuth is 1 where the skin faces image right, elevation is 1 where it
    faces up, and both are 0 where it faces the camera. Gilani and Mian 2018 (FR3DNet, CVPR) use depth, azimuth and
    elevation as three channels. Their azimuth turns about the line of sight and jumps where the skin faces the
    camera; this one turns about the vertical and is continuous there.
    """
    surface = face_surface(depth, depth_per_px)
    x, y, z = normals(surface).split(1, 1)
    angles = torch.cat([torch.atan2(x, z), torch.atan2(-y, torch.hypot(x, z))], 1) / (math.pi / 2)
    return torch.cat([scaled(surface), angles], 1)


def encode_xyz(depth: torch.Tensor, depth_per_px: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W): the position of each pixel in space, in units of UNIT * W.

    x (right) and y (down) are measured from the crop's middle, z is the relative depth of `encode_depth`. In an
    orthographic view x and y are the same in every crop; they tell a filter where on the face it is applied
    (coordinate channels: Liu et al. 2018, CoordConv; position maps: Feng et al. 2018, PRNet, ECCV).
    """
    z = encode_depth(depth, depth_per_px)
    height, width = z.shape[2:]
    x = (torch.arange(width, device=z.device) - (width - 1) / 2) / (UNIT * width)
    y = (torch.arange(height, device=z.device) - (height - 1) / 2) / (UNIT * width)
    return torch.cat([x.expand_as(z), y[:, None].expand_as(z), z], 1)


@dataclass(frozen=True)
class Encoding:
    """A way in which depth enters a network."""

    function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # depth, depth_per_px -> (B, channels, H, W)
    channels: int
    unit: Literal["any", "mm"]  # the unit of depth that the encoding needs


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
    """UserError unless `encoding` exists and fits depth in `depth_unit`, "mm" or "pixel"; it lists those that fit."""
    fitting = [name for name, e in ENCODINGS.items() if e.unit in ("any", depth_unit)]
    if encoding not in ENCODINGS:
        raise UserError(f"encoding {encoding!r}: there is no encoding of this name: use one of {', '.join(fitting)}")
    if encoding not in fitting:
        raise UserError(
            f"encoding {encoding!r} needs depth in mm, and depth in {depth_unit!r} has no known length: "
            f"use one of {', '.join(fitting)}"
        )
