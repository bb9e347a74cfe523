"""Training batches: which pairs, in which order, and how they are changed, all of it a function of numbers.

Order and augmentation depend on (seed, epoch, step) alone and never on a generator's state, so a run that was
stopped and resumed sees what an uninterrupted one sees. Colour and depth are warped by one grid; each pair
has its own draws.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

from .pack import Batch, Pack

ORDER, AUGMENT, STEP = 0, 1, 2  # purposes of a random stream; streams of different purposes are unrelated


@dataclass(frozen=True)
class Augmentation:
    """How far a training pair may be changed; 0 switches a change off. sd: of a normal draw."""

    flip: float = 0.5  # probability
    rotation_deg: float = 3.0  # sd
    zoom: float = 0.03  # sd of the logarithm
    shift: float = 0.015  # sd, share of the crop's width
    brightness: float = 0.15  # sd of the logarithm of exposure
    contrast: float = 0.15  # sd of the logarithm
    saturation: float = 0.2  # sd of the logarithm
    white_balance: float = 0.05  # sd of the logarithm, each channel
    depth_noise_px: float = 0.3  # sd, crop pixels, each reading
    depth_tilt: float = 0.05  # sd of the slope of an added plane: a head turned by as many radians
    hole_share: float = 0.02  # share of readings lost
    erase: float = 0.3  # probability of a patch without colour, and independently of one without depth
    erase_size: float = 0.3  # largest side of the patch, share of the crop's width


def random_stream(purpose: int, seed: int, epoch: int, step: int = 0) -> int:
    """A 63-bit seed for one use of randomness; unrelated for different arguments (numpy's SeedSequence)."""
    words = np.random.SeedSequence([purpose, seed, epoch, step]).generate_state(1, np.uint64)
    return int(words[0] >> np.uint64(1))


def labelled(pack: Pack, table, classes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the pack (n,) and labels (n,) int64, positions in `classes`, of a split table."""
    number = {name: label for label, name in enumerate(classes)}
    return pack.rows(table["pair_id"]), np.array([number[name] for name in table["cls_name"]], np.int64)


def epoch_order(n: int, seed: int, epoch: int) -> np.ndarray:
    """The order (n,) in which epoch number `epoch` visits n pairs."""
    return np.random.default_rng(random_stream(ORDER, seed, epoch)).permutation(n)


def epoch_batches(n: int, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """The positions of each batch of an epoch: all n, in ceil(n / batch_size) batches of nearly equal size.

    Nothing is dropped, and no batch of one pair is left over, which batch normalisation could not use.
    """
    return np.array_split(epoch_order(n, seed, epoch), max(1, -(-n // batch_size)))


def train_batches(
    pack: Pack,
    rows: np.ndarray,
    labels: np.ndarray,
    batch_size: int,
    seed: int,
    epoch: int,
    device="cpu",
    augmentation: Augmentation | None = None,
    first_step: int = 0,
) -> Iterator[tuple[Batch, torch.Tensor]]:
    """(batch, labels (B,) int64) of each step of an epoch from `first_step` on; augmentation None: none."""
    for step, chosen in enumerate(epoch_batches(len(rows), batch_size, seed, epoch)):
        if step < first_step:
            continue
        batch = pack.batch(rows[chosen], device)
        if augmentation is not None:
            batch = augment(batch, augmentation, seed, epoch, step)
        yield batch, torch.from_numpy(labels[chosen]).to(device)


def augment(batch: Batch, how: Augmentation, seed: int, epoch: int, step: int) -> Batch:
    """The batch changed as `how` allows, each pair by draws of its own.

    Holes stay holes; colour changes spare the depth.
    """
    device = batch.rgb.device
    random = torch.Generator(device).manual_seed(random_stream(AUGMENT, seed, epoch, step))
    batch = warp(batch, how, random)
    rgb = shift_colour(batch.rgb.float(), how, random)
    depth = disturb_depth(batch.depth, batch.depth_per_px, how, random)
    colour = torch.rand(len(rgb), 3, 1, 1, generator=random, device=device) * 255
    rgb = torch.where(patches(rgb, how, random), colour, rgb)
    depth = torch.where(patches(depth, how, random), 0, depth)
    return replace(batch, rgb=rgb.round_().clamp_(0, 255).to(torch.uint8), depth=depth)


def warp(batch: Batch, how: Augmentation, random: torch.Generator) -> Batch:
    """Flip, rotation, zoom and shift by one grid for both: colour bilinear, depth nearest.

    What comes from outside the crop is the border's colour, and no reading. A zoomed pixel measures less of
    the face: depth_per_px changes with it, so that the relief in crop pixels grows as the picture does.
    """
    n, height, width = len(batch), *batch.rgb.shape[2:]
    normal = torch.randn(n, 4, generator=random, device=batch.rgb.device)
    flip = torch.rand(n, generator=random, device=batch.rgb.device) < how.flip
    angle, zoom = normal[:, 0] * np.radians(how.rotation_deg), torch.exp(normal[:, 1] * how.zoom)
    shift = normal[:, 2:] * how.shift * 2  # the grid's coordinates run from -1 to 1
    cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    mirror = torch.where(flip, -1.0, 1.0)
    aspect = height / width
    rows = [mirror * cos, -sin * aspect, shift[:, 0], mirror * sin / aspect, cos, shift[:, 1]]
    matrix = torch.stack(rows, 1)
    grid = F.affine_grid(matrix.view(n, 2, 3), [n, 1, height, width], align_corners=False)
    rgb = F.grid_sample(batch.rgb.float(), grid, "bilinear", "border", align_corners=False)
    depth = F.grid_sample(batch.depth, grid, "nearest", "zeros", align_corners=False)
    return Batch(rgb, depth, batch.depth_per_px / zoom)


def shift_colour(rgb: torch.Tensor, how: Augmentation, random: torch.Generator) -> torch.Tensor:
    """Exposure, contrast about the mean, saturation and white balance of (B, 3, H, W) float32, 0 to 255."""
    draw = torch.randn(len(rgb), 6, generator=random, device=rgb.device)[..., None, None]  # (B, 6, 1, 1)
    gain = torch.exp(draw[:, :1] * how.brightness + draw[:, 3:] * how.white_balance)
    contrast, saturation = torch.exp(draw[:, 1:2] * how.contrast), torch.exp(draw[:, 2:3] * how.saturation)
    grey = rgb.mean(1, keepdim=True)
    mean = grey.mean((2, 3), keepdim=True)
    # gain * (mean + contrast * (grey + saturation * (rgb - grey) - mean)), with few passes over the pixels
    pale = (grey * (contrast * (1 - saturation)) + mean * (1 - contrast)) * gain
    return rgb * (gain * contrast * saturation) + pale


def disturb_depth(depth: torch.Tensor, depth_per_px: torch.Tensor, how: Augmentation, random: torch.Generator):
    """Noise, a tilted plane and lost readings added to depth (B, 1, H, W); what was no reading stays none."""
    n, height, width = len(depth), *depth.shape[2:]
    options = {"generator": random, "device": depth.device}
    scale = depth_per_px[:, None, None, None]
    slope = torch.randn(n, 2, 1, 1, **options) * how.depth_tilt
    x = torch.arange(width, device=depth.device) - (width - 1) / 2
    y = torch.arange(height, device=depth.device)[:, None] - (height - 1) / 2
    change = slope[:, :1] * x + slope[:, 1:] * y + torch.randn(depth.shape, **options) * how.depth_noise_px
    lost = torch.rand(depth.shape, **options) < how.hole_share
    # readings are > 0 by contract; a change can be larger than the depth itself only where depth is unit-less
    return torch.where((depth > 0) & ~lost, (depth + change * scale).clamp_min(1e-3), 0)


def patches(image: torch.Tensor, how: Augmentation, random: torch.Generator) -> torch.Tensor:
    """(B, 1, H, W) bool: a rectangle at a random place in `how.erase` of the images, none in the others."""
    n, height, width = len(image), *image.shape[2:]
    draw = torch.rand(n, 5, generator=random, device=image.device)[:, :, None, None]  # (B, 5, 1, 1)
    x = torch.arange(width, device=image.device) / width
    y = torch.arange(height, device=image.device)[:, None] / height
    half_width, half_height = ((0.3 + 0.7 * draw[:, k]) * how.erase_size / 2 for k in (1, 2))
    inside = ((x - draw[:, 3]).abs() < half_width) & ((y - draw[:, 4]).abs() < half_height)
    return (inside & (draw[:, 0] < how.erase))[:, None]
