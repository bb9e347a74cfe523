"""Backbones turn an image into a feature map; their first layer can take more than three channels."""

from pathlib import Path
from typing import Any, cast

import timm
import torch
from facenet_pytorch import InceptionResnetV1
from timm.models.efficientnet import EfficientNet
from timm.models.resnet import BasicBlock, ResNet
from torch import nn

from ..base.errors import UserError
from .dlib_network import DlibNetwork, read_dlib
from .legacy_network import LegacyResNet
from .weights import locate, read_state

# A ResNet-10 of half width with a stem of three small convolutions: 1.2 million parameters, and 0.5 in the neck
SMALL: dict[str, Any] = {"layers": (1, 1, 1, 1), "channels": (32, 64, 128, 256), "stem_type": "deep", "stem_width": 16}
GRID = 4  # a neck averages the last feature map to 4 x 4 places, because eyes, nose and mouth lie at fixed places


class Facenet(nn.Sequential):
    """InceptionResnetV1 of facenet-pytorch: `forward_features` gives its last feature map (B, 1792, h, w).

    Its own pooling, linear layer and normalisation become the neck of a branch with embeddings of 512 dimensions.
    """

    num_features = 1792
    smallest = 75  # px: the feature map of a smaller image would be empty
    own_neck = ("avgpool_1a", "last_linear", "last_bn")
    own_size = 512  # dimensions of the embedding that its own neck gives

    def __init__(self) -> None:
        super().__init__()
        for name, layer in InceptionResnetV1().named_children():
            self.add_module(name, layer)
        del self.dropout  # it stands before the linear layer (0.6 for the released weights) and has no weights

    def take_neck(self) -> nn.Sequential:
        """Remove pooling, linear layer and normalisation from this module, and return them."""
        pool, linear, norm = (getattr(self, name) for name in self.own_neck)
        for name in self.own_neck:
            delattr(self, name)
        return nn.Sequential(pool, nn.Flatten(), linear, norm)

    def forward_features(self, image: torch.Tensor) -> torch.Tensor:
        if min(image.shape[2:]) < self.smallest:
            raise UserError(f"facenet needs crops of {self.smallest} px or more: set input_size = 160")
        for name, layer in self.named_children():
            image = image if name in self.own_neck else layer(image)
        return image


# Names of networks in timm, where they are not our own. tf_ pads as TensorFlow does, for which the weights were learnt
TIMM_NAMES = {"efficientnet_lite0": "tf_efficientnet_lite0"}
CLASSIFIERS = ("fc.", "_fc.", "classifier.", "logits.")  # how the names of a classifier's weights begin
WithNeck = Facenet | DlibNetwork | LegacyResNet  # networks with a neck of their own, after a mean over all places
Backbone = ResNet | EfficientNet | WithNeck
WITH_NECK: dict[str, type[WithNeck]] = {"facenet": Facenet, "dlib": DlibNetwork, "legacy_resnet50": LegacyResNet}


def grid_of(backbone: Backbone) -> int:
    """Places along a side to which a neck averages: 1 for networks that were trained with global pooling, else GRID."""
    return 1 if isinstance(backbone, WithNeck) else GRID


def make_backbone(name: str, channels: int, init: str | Path = "scratch", depth_stem: str | None = None) -> Backbone:
    """A network without its classifier for images of `channels` channels.

    init: the weights to start from, as for `Embedder`. depth_stem: given where the channels are those of colour and
    then those of depth; the first layer of the three-channel network is then widened as `widen_stem` says. With None
    the image shows one modality: from scratch the first layer is drawn for `channels` channels; released weights keep
    their colour filters for three channels, and for any other number each channel gets the mean of the colour filters.
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


def _new_backbone(name: str, channels: int) -> Backbone:
    if name == "small":
        # timm annotates the block as an instance but expects the class
        return ResNet(BasicBlock, num_classes=0, in_chans=channels, **SMALL)  # type: ignore[arg-type]
    if name in WITH_NECK:
        backbone = WITH_NECK[name]()
        if channels != 3:
            widen_stem(backbone, channels, "fresh", kept=0)
        return backbone
    name = TIMM_NAMES.get(name, name)
    return cast(ResNet | EfficientNet, timm.create_model(name, pretrained=False, in_chans=channels, num_classes=0))


def widen_stem(backbone: nn.Module, channels: int, start: str = "mean", kept: int = 3) -> None:
    """Make a three-channel network take `channels` channels, of which the first `kept` keep their filters.

    start, the filters of the other channels: "mean" is the mean of the colour filters. "zero" is 0, so that the network
    starts as the colour network. "fresh", as in the legacy recipe, draws the whole first layer anew, colour included,
    which loses what it had learnt. (timm repeats R, G, B, R and scales all by 3/4, which changes the network's answer
    to colour.)
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
    """Fill a three-channel backbone from the state dict in `path`. UserError: names or shapes do not fit.

    The weights of a classifier are ignored. The counters of batches (num_batches_tracked) may be missing, because old
    files lack them and nothing here reads them. The names of the first port of EfficientNet to PyTorch are understood.
    """
    read = read_dlib(path) if path.suffix == ".dat" else read_state(path)
    state = {key: value for key, value in read.items() if not key.startswith(CLASSIFIERS)}
    expected = backbone.state_dict()
    if "_conv_stem.weight" in state:
        state = _timm_names(state, list(expected))
    state = {key: value for key, value in expected.items() if key.endswith("num_batches_tracked")} | state
    wrong = [key for key in expected if key not in state or state[key].shape != expected[key].shape]
    if wrong := wrong + [key for key in state if key not in expected]:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise UserError(
            f"{path}: does not fit this backbone: {', '.join(wrong[:5])}{more}: choose the backbone it is of"
        )
    backbone.load_state_dict(state)


def _timm_names(state: dict[str, torch.Tensor], names: list[str]) -> dict[str, torch.Tensor]:
    """`state`, from the first port of EfficientNet to PyTorch, with timm's `names`; unchanged where they do not fit.

    Both list the same layers in the same order: timm says blocks.1.0.conv_dw where the port says
    _blocks.1._depthwise_conv. What follows the last point, such as running_var, is equal in both.
    """
    if [name.rsplit(".", 1)[-1] for name in names] != [key.rsplit(".", 1)[-1] for key in state]:
        return state
    return dict(zip(names, state.values(), strict=True))
