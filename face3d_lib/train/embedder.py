"""The network that turns RGB-D pairs into embeddings.

Its backbones are those of timm, and InceptionResnetV1 of facenet-pytorch. It takes colour, depth, or both. Resizing,
normalisation of colours and encoding of depth are part of the network, so that a trained model always sees pixels
prepared in the same way.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, Self, get_args

import torch
import torch.nn.functional as F
from torch import nn

from ..base.errors import UserError
from ..data.pack import Batch
from . import dlib_network
from .backbones import Backbone, WithNeck, grid_of, make_backbone
from .encodings import ENCODINGS, block_means
from .fusion import FUSIONS, Fusion, make_neck, zero_absent

IMAGENET = (
    (0.485, 0.456, 0.406),
    (0.229, 0.224, 0.225),
)  # mean and standard deviation of each colour, as networks of timm expect
FACENET = (0.5, 0.5, 0.5), (128 / 255, 128 / 255, 128 / 255)  # facenet-pytorch computes (x - 127.5) / 128
DLIB = tuple(mean / 255 for mean in dlib_network.MEAN), (dlib_network.RANGE / 255,) * 3
HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)  # as TensorFlow's networks expect
COLOURS = {"facenet": FACENET, "dlib": DLIB, "efficientnet_lite0": HALF}  # mean and deviation; IMAGENET for all others


@dataclass(frozen=True)
class Architecture:
    """All settings that are needed to build the network. UserError: a value is unknown or does not fit the others."""

    modality: Literal["rgb", "depth", "rgbd"] = "rgb"
    # dlib: the middle 150 px of crops of mode dlib; legacy_resnet50: imported checkpoints of the legacy project
    backbone: Literal["small", "resnet18", "resnet50", "facenet", "efficientnet_lite0", "dlib", "legacy_resnet50"] = (
        "small"
    )
    encoding: str = "normals_depth"  # how depth enters the network: a name in encodings.ENCODINGS
    # only for modality rgbd. early: colour and depth are channels of one branch; the other designs are in fusion.py
    fusion: Literal["parallel", "joined", "early", "gated", "attention", "depth_attention"] = "parallel"
    embedding_size: int = 128  # dimensions; with fusion parallel, half of them come from each branch
    depth_stem: Literal["mean", "zero", "fresh"] = "mean"  # first filters of depth with fusion early: see `widen_stem`
    modality_dropout: float = 0.0  # share of training pairs from which colour or, equally often, depth is withheld
    input_size: int = 0  # px to which crops are resized; 0: crops keep their size
    depth_block: int = 1  # px of a crop, side of the squares whose readings are averaged before depth is encoded

    def __post_init__(self) -> None:
        for field in fields(self):
            value, known = getattr(self, field.name), get_args(field.type)
            known = tuple(ENCODINGS) if field.name == "encoding" else known
            if known and value not in known:
                raise UserError(f"{field.name} = {value!r}: one of {', '.join(known)} expected")
        if not 0 <= self.modality_dropout <= 1 or self.input_size < 0 or min(self.embedding_size, self.depth_block) < 1:
            raise UserError(
                "modality_dropout from 0 to 1, input_size >= 0, embedding_size >= 1 and depth_block >= 1 expected"
            )
        if self.modality == "rgbd" and self.fusion == "parallel" and self.embedding_size % 2:
            raise UserError(f"embedding_size = {self.embedding_size}: an even number expected for fusion = parallel")
        if self.backbone == "dlib" and self.input_size:
            raise UserError(f"input_size = {self.input_size}: dlib's network takes crops as they are: use 0")
        if self.modality_dropout and (self.modality != "rgbd" or self.fusion in ("depth_attention", "parallel")):
            raise UserError(
                "modality_dropout is for modality rgbd, and neither for fusion depth_attention, which cannot recognise "
                "by depth alone, nor for fusion parallel, whose branches never meet: use 0, or another fusion"
            )


class Branch(nn.Module):
    """A backbone and its neck: image (B, channels, H, W) -> feature map (B, C, h, w) and embedding (B, D)."""

    def __init__(self, backbone: Backbone, embedding_size: int):
        super().__init__()
        self.backbone = backbone
        own = backbone.take_neck() if isinstance(backbone, WithNeck) else None
        if own is not None and embedding_size == backbone.own_size:
            self.neck = own
        else:
            self.neck = make_neck(backbone.num_features, embedding_size, grid_of(backbone))

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.backbone.forward_features(image)
        return features, self.neck(features)


class Embedder(nn.Module):
    """A network that maps a batch of B pairs to embeddings (B, D), which are not normalised.

    With two branches, `branches` also gives the embedding of each, so that a loss on each branch trains the weaker
    modality, too, which a joint loss alone would neglect.

    A pair whose colour or whose depth is 0 everywhere lacks that modality, and its embedding depends on the other one
    alone. A network serves such pairs well if its branches are parallel, or if it was trained with modality dropout,
    which withholds one modality from some training pairs (drawn by torch's global generator).

    init: the weights that every branch starts from. "scratch" draws them; "imagenet" (resnet18, resnet50,
    efficientnet_lite0), "vggface2" (facenet) and "dlib" (dlib) are released weights, see weights.py; anything else is a
    local file (.safetensors, .pth) with the state dict of the three-channel backbone. UserError: the weights do not fit
    the backbone.
    """

    mean: torch.Tensor
    deviation: torch.Tensor
    branch: nn.ModuleList
    fusion: Fusion  # only where there are two branches

    def __init__(self, architecture: Architecture, init: str | Path = "scratch"):
        super().__init__()
        self.architecture = a = architecture
        mean, deviation = COLOURS.get(a.backbone, IMAGENET)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1) * 255, persistent=False)
        self.register_buffer("deviation", torch.tensor(deviation).view(3, 1, 1) * 255, persistent=False)
        n = ENCODINGS[a.encoding].channels
        early = a.modality == "rgbd" and a.fusion == "early"
        channels = {"rgb": [3], "depth": [n], "rgbd": [3 + n] if early else [3, n]}[a.modality]
        stem = a.depth_stem if early else None
        backbones = (make_backbone(a.backbone, c, init, stem) for c in channels)
        size = a.embedding_size // (FUSIONS[a.fusion].parts if len(channels) > 1 else 1)
        branches = [Branch(backbone, size) for backbone in backbones]
        self.branch = nn.ModuleList(branches)
        if len(channels) > 1:
            backbone = branches[0].backbone
            self.fusion = FUSIONS[a.fusion](backbone.num_features, a.embedding_size, grid_of(backbone))

    def train(self, mode: bool = True) -> Self:
        """As in PyTorch, but layers all of whose weights are frozen (see tuning.py) stay in evaluation mode."""
        super().train(mode)
        for module in self.modules():
            weights = [] if module is self else list(module.parameters())
            if weights and not any(weight.requires_grad for weight in weights):
                module.train(False)
        return self

    def inputs(self, batch: Batch, present: torch.Tensor | None = None) -> list[torch.Tensor]:
        """One image (B, channels, H, W) float32 for each branch.

        present: (B, 2) bool, which of colour and depth each pair has; from `present_modalities`. It is used where
        colour and depth are channels of one branch: a channel that a pair lacks is 0. ValueError: it is missing there.
        """
        parts = []
        if self.architecture.modality != "depth":
            parts.append((self.resize(batch.rgb.float()) - self.mean) / self.deviation)
        if self.architecture.modality != "rgb":
            encode, block = ENCODINGS[self.architecture.encoding].function, self.architecture.depth_block
            parts.append(self.resize(encode(block_means(batch.depth, block), batch.depth_per_px * block)))
        if len(self.branch) < len(parts):
            if present is None:
                raise ValueError("fusion early needs `present`, which tells the modalities that each pair has")
            parts = [torch.cat([zero_absent(part, present[:, i]) for i, part in enumerate(parts)], 1)]
        return [part.contiguous(memory_format=torch.channels_last) for part in parts]

    def resize(self, image: torch.Tensor) -> torch.Tensor:
        """`image` (B, C, H, W) resized to input_size px, bilinear and antialiased.

        Depth is encoded before it is resized, so that holes do not blend with readings.
        """
        size = self.architecture.input_size
        if size in (0, image.shape[-1]) and size in (0, image.shape[-2]):
            return image
        return F.interpolate(image, (size, size), mode="bilinear", antialias=True)

    def present_modalities(self, batch: Batch) -> torch.Tensor:
        """(B, 2) bool: which of colour and depth each pair has, after modality dropout in training."""
        present = torch.stack([batch.rgb.amax((1, 2, 3)) > 0, batch.depth.amax((1, 2, 3)) > 0], 1)
        share = self.architecture.modality_dropout
        if not (self.training and share):
            return present
        draw = torch.rand(len(batch), 1, device=present.device)
        left = present & torch.cat([draw >= share / 2, (draw < share / 2) | (draw >= share)], 1)
        return torch.where(left.any(1, keepdim=True), left, present)  # a pair keeps the only modality that it has

    def branches(self, batch: Batch) -> list[torch.Tensor]:
        """The embedding (B, D) and then, where there are two branches, the embedding of each (B, D)."""
        present = self.present_modalities(batch) if self.architecture.modality == "rgbd" else None
        found = [branch(image) for branch, image in zip(self.branch, self.inputs(batch, present), strict=True)]
        maps, single = zip(*found, strict=True)
        if len(single) == 1:
            return [*single]
        return [self.fusion(maps, single, present), *self.fusion.branch_embeddings(single)]

    def forward(self, batch: Batch) -> torch.Tensor:
        """The embeddings (B, D)."""
        return self.branches(batch)[0]


def count(embedder: Embedder, size: int = 112) -> tuple[int, int]:
    """(number of parameters, floating point operations for one pair of size x size px).

    A multiply-add counts as two operations. Convolutions and matrix products are counted, which are nearly all.
    """
    device, training = embedder.mean.device, embedder.training
    rgb = torch.ones(1, 3, size, size, dtype=torch.uint8, device=device)
    batch = Batch(rgb, torch.ones(1, 1, size, size, device=device), torch.ones(1, device=device))
    from torch.utils.flop_counter import FlopCounterMode  # the import takes part of a second, and only this needs it

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        embedder.eval()(batch)
    embedder.train(training)
    return sum(parameter.numel() for parameter in embedder.parameters()), counter.get_total_flops()
