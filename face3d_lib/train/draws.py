"""Random numbers that are functions of other numbers and not of a generator's state.

How a pair is changed depends only on the seed, the epoch and the pair's row in the pack. A run that was stopped and
resumed therefore sees the same data as a run that was never stopped, and a pair is changed in the same way in any
batch, in any process and on any device.
"""

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.special import ndtri

# The purposes of random streams; streams for different purposes are unrelated.
ORDER, AUGMENT, STEP, PICTURES = range(4)
# The purposes of the draws of one pair.
FLIP, SIMILARITY, POSE, MISREGISTRATION, BLUR, COLOUR, TILT, QUANTISATION, PIXELS, FILL, PATCH, DEPTH_PATCH, RELIEF = (
    range(13)
)


def random_stream(purpose: int, seed: int, epoch: int, step: int = 0) -> int:
    """A 63-bit seed for one use of randomness; seeds for different arguments are unrelated (numpy's SeedSequence)."""
    words = np.random.SeedSequence([purpose, seed, epoch, step]).generate_state(1, np.uint64)
    return int(words[0] >> np.uint64(1))


def sample_keys(seed: int, epoch: int, rows: ArrayLike, turns: ArrayLike = 0) -> np.ndarray:
    """(B,) int64 keys, from which all draws for the pairs at `rows` of the pack in this epoch are derived.

    turns: (B,) how often each pair came up before in this epoch; with it, two copies of a pair are changed differently.
    """
    rows = np.asarray(rows, np.int64).view(np.uint64)
    turns = np.broadcast_to(turns, rows.shape).astype(np.uint64)
    words = mix(mix(rows + np.uint64(random_stream(AUGMENT, seed, epoch))) + turns)
    return words.view(np.int64)


def uniform(keys: np.ndarray, purpose: int, n: int) -> np.ndarray:
    """(B, n) float64, uniform in (0, 1): n draws of each pair for one purpose."""
    return ((_words(keys, purpose, n) >> np.uint64(12)).astype(np.float64) + 0.5) / 2**52


def normal(keys: np.ndarray, purpose: int, n: int) -> np.ndarray:
    """(B, n) float64, standard normal: n draws of each pair for one purpose."""
    return ndtri(uniform(keys, purpose, n))


def pixel_words(keys: np.ndarray, height: int, width: int, device: torch.device | str) -> torch.Tensor:
    """(B, 1, H, W) int32: 32 random bits for every pixel, a hash of the pair's key and the pixel's position.

    Integer arithmetic that wraps around is exact, so the bits are the same on every device. The hash is lowbias32
    (Wellons 2018, Prospecting for Hash Functions, with the constants found since). A right shift of a signed integer
    copies the sign bit into the upper bits, which are therefore masked.
    """
    start = _words(keys, PIXELS, 1).astype(np.uint32).view(np.int32)
    place = torch.arange(height * width, dtype=torch.int32, device=device) * -0x61C88647  # 2^32 / golden ratio, signed
    words = torch.from_numpy(start).to(device, non_blocking=True) + place
    for shift, factor in ((16, 0x21F0AAAD), (15, 0xD35A2D97 - 2**32)):
        words ^= (words >> shift).bitwise_and_((1 << 32 - shift) - 1)
        words *= factor
    words ^= (words >> 15).bitwise_and_((1 << 17) - 1)
    return words.view(len(keys), 1, height, width)


def _words(keys: np.ndarray, purpose: int, n: int) -> np.ndarray:
    """(B, n) uint64: hashes of the key, the purpose and the numbers from 0 to n - 1."""
    counters = np.uint64(purpose << 32) + np.arange(n, dtype=np.uint64)
    return mix(keys.view(np.uint64)[:, None] + mix(counters))


def mix(words: np.ndarray) -> np.ndarray:
    """splitmix64 (Steele, Lea and Flood 2014): uint64 -> uint64, one to one; each bit depends on all bits."""
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
