"""Depth as a network can use it: relative, without holes, in crop pixels, as surface normals.

Everything here works on batches (B, 1, H, W), float32, on the device that the batch is on. Canonical depth
comes in (larger = farther, 0 = no reading) and is divided by `depth_per_px`, the depth units that one crop
pixel measures across the face. A surface in mm and the same surface in pixels are then one surface, with one
set of normals.

Lengths are shares of the crop's width W, so a crop of 224 px gives what one of 112 px gives. In the 112 px
template W is about 200 mm: the eyes are 35 px apart, on average 63 mm in life (Dodgson 2004, Proc. SPIE
5291).
"""

import torch
import torch.nn.functional as F

REACH = 0.55  # of W (110 mm): a reading farther from the reference, before or behind, is not the face
UNIT = 0.3  # of W (60 mm): the length that becomes 1 in an encoding
CLIP = 1.5  # encoded depth ends at +-CLIP; a place without any surface is -CLIP
FILL_STEPS = 3  # a hole is filled from blocks of 2, 4 and 8 px; what has no reading in them is background


def relative_depth(depth: torch.Tensor, depth_per_px: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Depth relative to the face, in crop pixels, nearer = larger, and which of it is face (bool).

    The reference is the median of the readings in the central half of the crop (rows and columns); a pair
    without readings there has an empty mask. depth: (B, 1, H, W) canonical; depth_per_px: (B,). Both results: (B, 1, H, W).
    """
    height, width = depth.shape[2:]
    top, left = height // 4, width // 4
    centre = depth[:, 0, top : height - top, left : width - left].flatten(1)
    # the median of an empty centre is NaN, and nothing compares as near to NaN
    reference = torch.where(centre > 0, centre, torch.nan).nanmedian(1).values[:, None, None, None]
    relative = (reference - depth) / depth_per_px[:, None, None, None]
    valid = (depth > 0) & (relative.abs() < REACH * width)
    return torch.where(valid, relative, 0), valid


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


def normals(surface: torch.Tensor) -> torch.Tensor:
    """(B, 2, H, W): x (image right) and y (image down) of the unit normal that points out of the face.

    surface: (B, 1, H, W) crop pixels, nearer = larger. Central differences in orthographic view: (-dz/dx,
    -dz/dy, 1) over its length. The outermost rows and columns, which have one neighbour only, get slope 0
    across the border.
    """
    slope_x = F.pad((surface[..., 2:] - surface[..., :-2]) / 2, (1, 1))
    slope_y = F.pad((surface[..., 2:, :] - surface[..., :-2, :]) / 2, (0, 0, 1, 1))
    return torch.cat([-slope_x, -slope_y], 1) * torch.rsqrt(slope_x**2 + slope_y**2 + 1)


def face_surface(depth: torch.Tensor, depth_per_px: torch.Tensor) -> torch.Tensor:
    """The face as one surface without holes, (B, 1, H, W) crop pixels, nearer = larger, lightly smoothed (3 x
    3, twice).
    """
    relative, valid = relative_depth(depth, depth_per_px)
    surface = fill_holes(relative, valid, background=-CLIP * UNIT * depth.shape[-1])
    surface = F.pad(surface, (2, 2, 2, 2), mode="replicate")
    for _ in range(2):  # sums of slices: on a CPU a third of the time of avg_pool2d
        surface = surface[..., :-2] + surface[..., 1:-1] + surface[..., 2:]
        surface = surface[..., :-2, :] + surface[..., 1:-1, :] + surface[..., 2:, :]
    return surface / 81


def encode_depth(depth: torch.Tensor, depth_per_px: torch.Tensor) -> torch.Tensor:
    """(B, 1, H, W):

    relative depth, holes filled, 1 = UNIT of the crop's width nearer than the face's median, clipped.
    """
    return (face_surface(depth, depth_per_px) / (UNIT * depth.shape[-1])).clamp(-CLIP, CLIP)


def encode_normals_depth(depth: torch.Tensor, depth_per_px: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W):

    the normal's x and y, and the relative depth of `encode_depth`. For mm and for unit-less depth alike.
    """
    surface = face_surface(depth, depth_per_px)
    return torch.cat([normals(surface), (surface / (UNIT * depth.shape[-1])).clamp(-CLIP, CLIP)], 1)
