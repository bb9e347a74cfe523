"""Networks that turn an image into a feature map, and how their first layer takes other channels than colour."""

from pathlib import Path

import timm
import torch
from facenet_pytorch import InceptionResnetV1
from timm.models.resnet import BasicBlock, ResNet
from torch import nn

from ..base.errors import UserError
from .weights import locate, read_state

# A ResNet-10 of half width with a stem of three small convolutions: 1.2 M parameters, and 0.5 M in the neck
SMALL = {"layers": (1, 1, 1, 1), "channels": (32, 64, 128, 256), "stem_type": "deep", "stem_width": 16}
GRID = 4  # the last feature map is averaged to 4 x 4 places: aligned faces have each part at its own place


class Facenet(nn.Sequential):
    """InceptionResnetV1 of facenet-pytorch: `forward_features` gives its last feature map (B, 1792, h, w).

    Its own pooling, linear layer and normalisation (512 dimensions) become the neck of a branch of that size.
    """

    num_features, smallest = 1792, 75  # px: below, no place is left of the feature map
    own_neck = ("avgpool_1a", "last_linear", "last_bn")

    def __init__(self):
        super().__init__()
        for name, layer in InceptionResnetV1().named_children():
            self.add_module(name, layer)
        del self.dropout  # .6 before the linear layer when it was trained; it has no weights

    def take_neck(self) -> nn.Sequential:
        """Pooling, linear layer and normalisation, which are no longer part of this module then."""
        pool, linear, norm = (getattr(self, name) for name in self.own_neck)
        for name in self.own_neck:
            delattr(self, name)
        return nn.Sequential(pool, nn.Flatten(), linear, norm)

    def forward_features(self, image):
        if min(image.shape[2:]) < self.smallest:
            raise UserError(f"facenet needs crops of {self.smallest} px or more: set input_size = 160")
        for name, layer in self.named_children():
            image = image if name in self.own_neck else layer(image)
        return image


def grid_of(backbone: nn.Module) -> int:
    """Places along a side to which a neck averages: facenet was trained with the mean of all places."""
    return 1 if isinstance(backbone, Facenet) else GRID


def make_backbone(name: str, channels: int, init: str | Path = "scratch", depth_stem: str | None = None) -> nn.Module:
    """A network without its classifier for images of `channels` channels; init: as for an `Embedder`.

    depth_stem: channels are colour and then depth, and the three-channel network's stem is widened so (see
    `widen_stem`). None: there is one modality. From scratch the stem is then drawn for its channels; else the
    colour filters are taken as they are for three channels, and their mean for each of another number.
    """
    if init == "scratch" and depth_stem is None:
        return _new_backbone(name, channels)
    backbone = _new_backbone(name, 3)
    if init != "scratch":
        load_backbone(backbone, locate(init, name))
    if depth_stem is not None:
        widen_stem(backbone, channels, depth_stem)
    elif channels != 3:
        widen_stem(backbone, channels, "mean", kept=0)
    return backbone


def _new_backbone(name: str, channels: int) -> nn.Module:
    if name == "small":
        return ResNet(BasicBlock, num_classes=0, in_chans=channels, **SMALL)
    if name == "facenet":
        backbone = Facenet()
        if channels != 3:
            widen_stem(backbone, channels, "fresh", kept=0)
        return backbone
    return timm.create_model(name, pretrained=False, in_chans=channels, num_classes=0)


def widen_stem(backbone: nn.Module, channels: int, start: str = "mean", kept: int = 3) -> None:
    """Let a three-channel network take `channels` channels; the first `kept` keep their filters.

    start, of the others: "mean" of the colour filters; "zero", with which the network begins as the colour
    network; "fresh", as in 2019: the whole first layer is drawn anew, colour too, and what it had learnt is
    lost. timm instead repeats R, G, B, R and scales all by 3/4, which changes what colour alone gives.
    """
    conv = next(module for module in backbone.modules() if isinstance(module, nn.Conv2d))
    weight = conv.weight.detach()
    conv.in_channels = channels
    if start == "fresh":
        conv.weight = nn.Parameter(weight.new_empty(len(weight), channels, *weight.shape[2:]))
        conv.reset_parameters()
        return
    new = weight.mean(1, keepdim=True).expand(-1, channels - kept, -1, -1)
    new = torch.zeros_like(new) if start == "zero" else new
    conv.weight = nn.Parameter(torch.cat([weight[:, :kept], new], 1).contiguous())


def load_backbone(backbone: nn.Module, path: Path) -> None:
    """Fill a three-channel backbone from a local state dict; a classifier is left out, all else must fit.

    Counts of batches, which old files lack and nothing here reads, are not asked for.
    """
    state = {key: value for key, value in read_state(path).items() if not key.startswith(("fc.", "logits."))}
    expected = backbone.state_dict()
    state = {key: value for key, value in expected.items() if key.endswith("num_batches_tracked")} | state
    wrong = [key for key in expected if key not in state or state[key].shape != expected[key].shape]
    if wrong := wrong + [key for key in state if key not in expected]:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise UserError(
            f"{path}: does not fit this backbone: {', '.join(wrong[:5])}{more}: choose the backbone it is of"
        )
    backbone.load_state_dict(state)
