"""The network that turns pairs into embeddings, and its files: a safetensors file with a card that says what
it is.

Backbones are timm's, and InceptionResnetV1 of facenet-pytorch. Colour, depth, or both enter; resizing,
normalisation of colours and encoding of depth are part of the network, so a model is never fed with pixels
prepared another way.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal, get_args

import timm
import torch
import torch.nn.functional as F
from facenet_pytorch import InceptionResnetV1
from safetensors import SafetensorError
from safetensors.torch import load, save
from timm.models.resnet import BasicBlock, ResNet
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from .atomic import UserError, write_bytes, write_json
from .depth import ENCODINGS
from .fusion import JOINS, make_neck, only
from .pack import Batch
from .weights import locate, read_state

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and deviation, as the networks of timm expect
FACENET = (0.5, 0.5, 0.5), (128 / 255, 128 / 255, 128 / 255)  # (x - 127.5) / 128, as facenet-pytorch does
# A ResNet-10 of half width with a stem of three small convolutions: 1.2 M parameters, and 0.5 M in the neck
SMALL = {"layers": (1, 1, 1, 1), "channels": (32, 64, 128, 256), "stem_type": "deep", "stem_width": 16}
GRID = 4  # the last feature map is averaged to 4 x 4 places: aligned faces have each part at its own place


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


# ---------------------------------------------------------------- backbones


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


# ---------------------------------------------------------------- files


def save_model(folder: Path, embedder: Embedder, card: dict, loss: nn.Module | None = None) -> None:
    """model.safetensors and card.json in `folder`, each whole or not at all; the card is written last.

    card: JSON values to keep with the model; `classes` (list of subjects), `settings_hash` (of the
    alignment), parameters, metrics, hash of the pack. The architecture and the SHA-256 of the weights are
    added. loss: kept too when given.
    """
    modules = nn.ModuleDict({"embedder": embedder} | ({} if loss is None else {"loss": loss}))
    weights = save({key: value.detach().cpu().contiguous() for key, value in modules.state_dict().items()})
    card = {
        "architecture": asdict(embedder.architecture),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        **card,
    }
    (Path(folder) / "card.json").unlink(missing_ok=True)  # an old card must not vouch for new weights
    write_bytes(Path(folder) / "model.safetensors", weights)
    write_json(Path(folder) / "card.json", card)


def _architecture(card: dict) -> Architecture:
    try:
        return Architecture(**card["architecture"])
    except UserError as error:  # the caller says whose architecture it is
        raise ValueError(error) from None


def load_model(
    folder: Path, settings_hash: str | None = None, loss: nn.Module | None = None, device="cpu"
) -> tuple[Embedder, dict]:
    """The embedder of `folder`, in evaluation mode on `device`, and its card; `loss` is filled when given.

    UserError when files are missing, altered or of another architecture, or when `settings_hash` is given and
    the model was trained on crops aligned with other settings.
    """
    folder = Path(folder)
    path = folder / "model.safetensors"
    try:
        card = json.loads((folder / "card.json").read_text())
        weights = path.read_bytes()
        if hashlib.sha256(weights).hexdigest() != card["weights_sha256"]:
            raise UserError(f"{path}: not the weights that card.json describes (SHA-256 differs): train again")
        state = load(weights)
        embedder = Embedder(_architecture(card))
        modules = nn.ModuleDict({"embedder": embedder} | ({} if loss is None else {"loss": loss}))
        wanted = modules.state_dict().keys()
        modules.load_state_dict({k: v for k, v in state.items() if k in wanted or not k.startswith("loss.")})
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{folder}: no model that can be used ({reason}): train again") from None
    trained_on = card.get("settings_hash")
    if settings_hash is not None and trained_on != settings_hash:
        reason = f"trained on crops of alignment settings {trained_on}, these have {settings_hash}"
        raise UserError(f"{folder}: {reason}: align with the model's settings or train again")
    return embedder.to(device).eval(), card
