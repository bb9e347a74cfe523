"""The network that turns pairs into embeddings, and its files: a safetensors file with a card that says what
it is.

Backbones are timm's, and InceptionResnetV1 of facenet-pytorch. Colour, depth, or both enter; resizing,
normalisation of colours and encoding of depth are part of the network, so a model is never fed with pixels
prepared another way.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..base.errors import UserError
from ..data.pack import Batch
from .backbones import Facenet, grid_of, make_backbone
from .encodings import ENCODINGS
from .fusion import JOINS, make_neck, only

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and deviation, as the networks of timm expect
FACENET = (0.5, 0.5, 0.5), (128 / 255, 128 / 255, 128 / 255)  # (x - 127.5) / 128, as facenet-pytorch does


@dataclass(frozen=True)
class Architecture:
    """What has to be known to build the network again; UserError where a value does not exist or fit."""

    modality: Literal["rgb", "depth", "rgbd"] = "rgb"
    backbone: Literal["small", "resnet18", "resnet50", "facenet"] = "small"
    encoding: str = "normals_depth"  # of depth: a name in depth.ENCODINGS
    # of rgbd; others have one branch anyway. early: channels stacked in one branch; the rest: fusion.py
    fusion: Literal["parallel", "two_branch", "early", "gated", "attention", "depth_attention"] = "parallel"
    embedding_size: int = 128  # in parallel, half of it for each branch
    depth_stem: Literal["mean", "zero", "fresh"] = "mean"  # first filters of depth in early fusion: `widen_stem`
    modality_dropout: float = 0.0  # share of training pairs that lack colour or, as often, depth
    input_size: int = 0  # px, to which crops are resized; 0: as they are

    def __post_init__(self):
        for field in fields(self):
            value, known = getattr(self, field.name), get_args(field.type)
            known = tuple(ENCODINGS) if field.name == "encoding" else known
            if known and value not in known:
                raise UserError(f"{field.name} = {value!r}: one of {', '.join(known)} expected")
        if not 0 <= self.modality_dropout <= 1 or self.input_size < 0 or self.embedding_size < 1:
            raise UserError("modality_dropout from 0 to 1, input_size >= 0 and embedding_size >= 1 expected")
        if self.modality == "rgbd" and self.fusion == "parallel" and self.embedding_size % 2:
            raise UserError(f"embedding_size = {self.embedding_size}: an even number expected for fusion = parallel")
        if self.modality_dropout and (self.modality != "rgbd" or self.fusion in ("depth_attention", "parallel")):
            raise UserError(
                "modality_dropout: only for modality rgbd, and neither where depth merely guides colour nor where "
                "parallel branches learn alone anyway: use 0, or another fusion"
            )


class Branch(nn.Module):
    """A backbone and its neck: (B, channels, H, W) -> feature map (B, C, h, w) and embedding (B, D)."""

    def __init__(self, backbone: nn.Module, embedding_size: int):
        super().__init__()
        self.backbone = backbone
        own = backbone.take_neck() if isinstance(backbone, Facenet) else None
        fits = own is not None and own[-1].num_features == embedding_size
        self.neck = own if fits else make_neck(backbone.num_features, embedding_size, grid_of(backbone))

    def forward(self, image):
        features = self.backbone.forward_features(image)
        return features, self.neck(features)


class Embedder(nn.Module):
    """Pairs -> embeddings (B, D), not normalised.

    Where there are two branches, `branches` also gives each alone, so that a loss on each keeps the stronger
    modality from silencing the weaker one. A pair whose colour, or whose depth, is all 0 lacks it: the joint
    embedding then depends on the other modality alone. A network serves such pairs well if its branches are
    parallel, or if it was trained with modality dropout, which hides one modality of some pairs, by torch's global
    generator, when training.
    init: "scratch"; "imagenet" (resnet18, resnet50) or "vggface2" (facenet), see weights.py; or a local state
    dict (.safetensors, .pth) of the three-channel backbone. Every branch starts from it. UserError lists what
    does not fit.
    """

    def __init__(self, architecture: Architecture, init: str | Path = "scratch"):
        super().__init__()
        self.architecture = a = architecture
        mean, deviation = FACENET if a.backbone == "facenet" else IMAGENET
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1) * 255, persistent=False)
        self.register_buffer("deviation", torch.tensor(deviation).view(3, 1, 1) * 255, persistent=False)
        n = ENCODINGS[a.encoding].channels
        early = a.modality == "rgbd" and a.fusion == "early"
        channels = {"rgb": [3], "depth": [n], "rgbd": [3 + n] if early else [3, n]}[a.modality]
        stem = a.depth_stem if early else None
        backbones = (make_backbone(a.backbone, c, init, stem) for c in channels)
        size = a.embedding_size // (JOINS[a.fusion].parts if len(channels) > 1 else 1)
        self.branch = nn.ModuleList(Branch(backbone, size) for backbone in backbones)
        if len(channels) > 1:
            backbone = self.branch[0].backbone
            self.join = JOINS[a.fusion](backbone.num_features, a.embedding_size, grid_of(backbone))

    def inputs(self, batch: Batch, here: torch.Tensor | None = None) -> list[torch.Tensor]:
        """One image (B, channels, H, W) float32 for each branch; where channels are stacked, 0 for what is not `here`.

        here: what `present` gave.
        """
        parts = []
        if self.architecture.modality != "depth":
            parts.append((self.resize(batch.rgb.float()) - self.mean) / self.deviation)
        if self.architecture.modality != "rgb":
            encode = ENCODINGS[self.architecture.encoding].function
            parts.append(self.resize(encode(batch.depth, batch.depth_per_px)))
        if len(self.branch) < len(parts):
            parts = [torch.cat([only(part, here[:, i]) for i, part in enumerate(parts)], 1)]
        return [part.contiguous(memory_format=torch.channels_last) for part in parts]

    def resize(self, image: torch.Tensor) -> torch.Tensor:
        """To input_size px, bilinear, smoothed where it shrinks. Depth is encoded before: holes do not blend."""
        size = self.architecture.input_size
        if size in (0, image.shape[-1]) and size in (0, image.shape[-2]):
            return image
        return F.interpolate(image, (size, size), mode="bilinear", antialias=True)

    def present(self, batch: Batch) -> torch.Tensor:
        """(B, 2) bool: which pairs have colour, which have depth, less what modality dropout hides in training."""
        here = torch.stack([batch.rgb.amax((1, 2, 3)) > 0, batch.depth.amax((1, 2, 3)) > 0], 1)
        share = self.architecture.modality_dropout
        if not (self.training and share):
            return here
        draw = torch.rand(len(batch), 1, device=here.device)
        left = here & torch.cat([draw >= share / 2, (draw < share / 2) | (draw >= share)], 1)
        return torch.where(left.any(1, keepdim=True), left, here)  # nothing is taken from a pair that has no more

    def branches(self, batch: Batch) -> list[torch.Tensor]:
        """The embedding (B, D), then the embedding of each branch alone where there are several."""
        here = self.present(batch) if self.architecture.modality == "rgbd" else None
        found = [branch(image) for branch, image in zip(self.branch, self.inputs(batch, here), strict=True)]
        maps, single = zip(*found, strict=True)
        return [*single] if len(single) == 1 else [self.join(maps, single, here), *self.join.alone(single)]

    def forward(self, batch: Batch) -> torch.Tensor:
        """(B, D) embeddings."""
        return self.branches(batch)[0]


def count(embedder: Embedder, size: int = 112) -> tuple[int, int]:
    """Parameters, and floating point operations for one pair of size x size px.

    Two for each multiply-add of convolutions and matrix products, which are nearly all there are.
    """
    device, training = embedder.mean.device, embedder.training
    rgb = torch.ones(1, 3, size, size, dtype=torch.uint8, device=device)
    batch = Batch(rgb, torch.ones(1, 1, size, size, device=device), torch.ones(1, device=device))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        embedder.eval()(batch)
    embedder.train(training)
    return sum(parameter.numel() for parameter in embedder.parameters()), counter.get_total_flops()
