"""The face network of dlib in PyTorch: a residual network of 29 convolutions with embeddings of 128 dimensions.

Architecture: Davis King, dlib, examples/dnn_face_recognition_ex.cpp (Boost Software License). It has no batch
normalisation: each convolution is followed by a fixed scale and shift, which are merged into its weights here.
"""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..base.errors import UserError
from ..data.warp import CHIP

STAGES = ((32, 3, False), (64, 4, True), (128, 3, True), (256, 3, True), (256, 1, True))  # channels, blocks, halved
SIZE = 128  # dimensions of the embedding
MEAN = (122.782, 117.001, 104.298)  # of R, G and B, which the network subtracts before it divides by 256
RANGE = 256.0
MARK = re.compile(rb"\x01[\x04-\x07](con_4|affine_|fc_2)")  # name of a layer, after its length in dlib's notation


class Residual(nn.Module):
    """Two convolutions of 3 x 3 px added to the input, which is averaged over 2 x 2 px where the size is halved.

    Where the two sums differ in size or in channels, both are extended by zeros below, to the right, and in channels.
    """

    def __init__(self, before: int, channels: int, halved: bool):
        super().__init__()
        self.halved = halved
        self.first = nn.Conv2d(before, channels, 3, stride=2 if halved else 1, padding=0 if halved else 1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        found = self.second(F.relu(self.first(image)))
        kept = F.avg_pool2d(image, 2) if self.halved else image
        if kept.shape != found.shape:
            shape = [max(sizes) for sizes in zip(kept.shape, found.shape, strict=True)]
            kept, found = extended(kept, shape), extended(found, shape)
        return F.relu(found + kept)


def extended(image: torch.Tensor, shape: list[int]) -> torch.Tensor:
    """`image` (B, C, H, W) with zeros after the last channel, row and column, so that it has `shape`."""
    more = [wanted - size for wanted, size in zip(shape, image.shape, strict=True)]
    return F.pad(image, (0, more[3], 0, more[2], 0, more[1]))


class DlibNetwork(nn.Sequential):
    """dlib's network without its linear layer: `forward_features` gives the last feature map (B, 256, 2, 2).

    Crops must be those of alignment mode "dlib": the network sees the CHIP x CHIP px in their middle, which are dlib's own
    chip, and what lies around serves networks of depth. The linear layer becomes the neck of a branch with
    embeddings of 128 dimensions.
    """

    num_features = STAGES[-1][0]
    own_size = SIZE  # dimensions of the embedding that its own neck gives

    def __init__(self) -> None:
        blocks: list[Residual] = []
        before = STAGES[0][0]
        for channels, count, halved in STAGES:
            for k in range(count):
                blocks.append(Residual(before, channels, halved and k == 0))
                before = channels
        super().__init__(nn.Conv2d(3, STAGES[0][0], 7, stride=2), nn.ReLU(), nn.MaxPool2d(3, 2), *blocks)
        self.linear = nn.Linear(self.num_features, SIZE, bias=False)

    def take_neck(self) -> nn.Sequential:
        """Remove the linear layer from this module, and return it after the mean over all places."""
        linear = self.linear
        del self.linear
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear)

    def forward_features(self, image: torch.Tensor) -> torch.Tensor:
        border, odd = divmod(image.shape[2] - CHIP, 2)
        if border < 0 or odd or image.shape[2] != image.shape[3]:
            size = " x ".join(map(str, image.shape[:1:-1]))
            raise UserError(f"dlib's network takes crops of {CHIP} x {CHIP} px, not {size}: align with mode = dlib")
        image = image[:, :, border : border + CHIP, border : border + CHIP]
        for name, layer in self.named_children():
            image = image if name == "linear" else layer(image)
        return image


class Layer(NamedTuple):
    """A layer in a file of dlib: its kind (b"con_4", b"affine_" or b"fc_2") and its numbers, in one row."""

    kind: bytes
    numbers: np.ndarray  # float32


def read_dlib(path: Path) -> dict[str, torch.Tensor]:
    """The state dict of `DlibNetwork` from dlib_face_recognition_resnet_model_v1.dat.

    dlib's serialisation writes a layer's name and settings, then its numbers as one tensor: a version, four sizes and
    little-endian float32 (dlib/serialize.h, dlib/cuda/tensor_tools.cpp). Layers follow each other from the input on.
    Nothing in the file is run. UserError: the file holds other layers, or ends early.
    """
    try:
        layers = list(_layers(Path(path).read_bytes()))
        return _state_of(layers)
    except (ValueError, IndexError, StopIteration) as error:
        raise UserError(
            f"{path}: not the weights of dlib's face network ({error}): install the package again"
        ) from None


def _layers(data: bytes) -> list[Layer]:
    """All layers with weights in `data`. ValueError or IndexError: a tensor is cut short."""
    found: list[Layer] = []
    end = 0
    while (mark := MARK.search(data, end)) is not None:
        kind, place = mark.group(1), mark.end()
        if kind == b"fc_2":  # the numbers of outputs and of inputs
            for _ in range(2):
                _, place = _integer(data, place)
        _, place = _integer(data, place)
        sizes = []
        for _ in range(4):
            size, place = _integer(data, place)
            sizes.append(size)
        count = int(np.prod(sizes))
        found.append(Layer(kind, np.frombuffer(data, "<f4", count, place)))
        end = place + 4 * count
    return found


def _integer(data: bytes, place: int) -> tuple[int, int]:
    """(a number in dlib's notation, the place after it): the count of bytes, then the bytes, lowest first."""
    length = data[place] & 0x0F
    return int.from_bytes(data[place + 1 : place + 1 + length], "little"), place + 1 + length


def _state_of(layers: list[Layer]) -> dict[str, torch.Tensor]:
    """Each convolution with the scale and the shift that follow it, and the linear layer. ValueError: they differ."""
    state = DlibNetwork().state_dict()
    weights = [name for name in state if name.endswith("weight")]
    kinds = [b"con_4", b"affine_"] * (len(weights) - 1) + [b"fc_2"]
    if [layer.kind for layer in layers] != kinds:
        raise ValueError(f"{len(layers)} layers, {len(kinds)} expected")
    numbers = [layer.numbers for layer in layers]
    for name, convolution, affine in zip(weights[:-1], numbers[:-1:2], numbers[1::2], strict=True):
        shape = state[name].shape
        scale, shift = np.split(affine, 2)
        kernel, bias = np.split(convolution, [convolution.size - shape[0]])
        state[name] = torch.from_numpy(kernel.reshape(shape) * scale[:, None, None, None])
        state[name.replace("weight", "bias")] = torch.from_numpy(bias * scale + shift)
    state[weights[-1]] = torch.from_numpy(numbers[-1].reshape(state[weights[-1]].shape[::-1]).T.copy())
    return state
