"""Checkpoints of the legacy project: the state dict of a ResNet-50 that sees red, green, blue and depth in one image.

The network is torchvision's ResNet-50 with a first layer of four channels and a classifier over people. Its embedding is the
mean of the last feature map, 2048 numbers, from which the classifier names people. Colour is normalised as for ImageNet
and depth is scaled to the range between the nearest and the farthest reading of the crop (encoding "minmax"); crops have 224 px.
"""

from pathlib import Path

import torch
from timm.models.resnet import Bottleneck, ResNet
from torch import nn

from ..base.errors import UserError
from .weights import read_state

SIZE = 2048  # dimensions of the embedding
CROP = 224  # px


class LegacyResNet(nn.Module):
    """ResNet-50 without its classifier; the mean over all places becomes the neck of a branch."""

    num_features = SIZE
    own_size = SIZE  # dimensions of the embedding that its own neck gives

    def __init__(self) -> None:
        super().__init__()
        # timm annotates the block as an instance but expects the class
        self.net = ResNet(Bottleneck, layers=(3, 4, 6, 3), num_classes=0)  # type: ignore[arg-type]

    def take_neck(self) -> nn.Sequential:
        """The mean over all places, which has no weights."""
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward_features(self, image: torch.Tensor) -> torch.Tensor:
        return self.net.forward_features(image)


def read_legacy(path: Path, classes: list[str]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """(state dict of `LegacyResNet`, that of its classifier: weight (C, 2048) and bias (C,)) from a checkpoint.

    The file holds a state dict, whose keys may begin with "module.", as nn.DataParallel writes them. It is read by torch.load with weights_only=True, so that nothing in it is run. classes: the people in the
    order of the classifier. UserError: the file holds something else, or another number of people.
    """
    state = {key.removeprefix("module."): value for key, value in read_state(path).items()}
    first, last = state.get("conv1.weight"), state.pop("fc.weight", None)
    bias = state.pop("fc.bias", None)
    if first is None or last is None or bias is None or first.shape != (64, 4, 7, 7):
        shape = "none" if first is None else " x ".join(map(str, first.shape))
        raise UserError(
            f"{path}: not a ResNet-50 of four channels with a classifier (first layer: {shape}): another file?"
        )
    if len(classes) != len(last) or len(set(classes)) != len(classes):
        raise UserError(
            f"{path}: the classifier knows {len(last)} people, and the list of classes names {len(set(classes))}: give the "
            "list that it was trained with, one name a line, in its order"
        )
    expected = {key: value.shape for key, value in LegacyResNet().net.state_dict().items()}
    expected["conv1.weight"] = first.shape
    state = {key: torch.zeros((), dtype=torch.long) for key in expected if key.endswith("num_batches_tracked")} | state
    wrong = [key for key in expected if key not in state or state[key].shape != expected[key]]
    if wrong := wrong + [key for key in state if key not in expected]:
        raise UserError(f"{path}: not a ResNet-50: {', '.join(wrong[:5])} differ: another file?")
    return {f"net.{key}": value for key, value in state.items()}, {"weight": last, "bias": bias}
