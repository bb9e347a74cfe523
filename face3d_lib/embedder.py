"""The network that turns pairs into embeddings, and its files: a safetensors file with a card that says what
it is.

Backbones are timm's. Colour, depth, or both enter; normalisation of colours and encoding of depth are part of
the network, so a model is never fed with pixels prepared another way.
"""

import hashlib
import json
import pickle
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save
from timm.models.resnet import BasicBlock, ResNet
from torch import nn

from .atomic import UserError, write_bytes, write_json
from .depth import encode_depth, encode_normals_depth
from .pack import Batch

MEAN = (0.485, 0.456, 0.406)  # of ImageNet, as the pretrained networks of timm expect
DEVIATION = (0.229, 0.224, 0.225)
ENCODINGS = {"normals_depth": (encode_normals_depth, 3), "depth": (encode_depth, 1)}
# A ResNet-10 of half width with a stem of three small convolutions: 1.2 M parameters, and 0.5 M in the neck
SMALL = {"layers": (1, 1, 1, 1), "channels": (32, 64, 128, 256), "stem_type": "deep", "stem_width": 16}
GRID = 4  # the last feature map is averaged to 4 x 4 places: aligned faces have each part at its own place


@dataclass(frozen=True)
class Architecture:
    """What has to be known to build the network again."""

    modality: Literal["rgb", "depth", "rgbd"] = "rgb"
    backbone: Literal["small", "resnet18", "resnet50"] = "small"
    encoding: Literal["normals_depth", "depth"] = "normals_depth"
    fusion: Literal["two_branch", "early"] = "two_branch"  # of rgbd; others have one branch anyway
    embedding_size: int = 128


class Branch(nn.Module):
    """A backbone and its neck: (B, channels, H, W) -> (B, D)."""

    def __init__(self, backbone: nn.Module, embedding_size: int):
        super().__init__()
        self.backbone = backbone
        self.neck = nn.Sequential(
            nn.AdaptiveAvgPool2d(GRID),
            nn.Flatten(),
            nn.Linear(backbone.num_features * GRID**2, embedding_size, bias=False),
            nn.BatchNorm1d(embedding_size),
        )

    def forward(self, image):
        return self.neck(self.backbone.forward_features(image))


class Embedder(nn.Module):
    """Pairs -> embeddings (B, D), not normalised.

    Two branches are joined by a linear layer over both embeddings; `branches` also gives each alone, so that
    a loss on each keeps the stronger modality from silencing the weaker one.
    init: "scratch", or a local state dict (.safetensors, .pth) of the three-channel backbone, from which
    every branch starts. UserError lists what does not fit.
    """

    def __init__(self, architecture: Architecture, init: str | Path = "scratch"):
        super().__init__()
        self.architecture = a = architecture
        self.encode, n = ENCODINGS[a.encoding]
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1) * 255, persistent=False)
        self.register_buffer("deviation", torch.tensor(DEVIATION).view(3, 1, 1) * 255, persistent=False)
        both = [3, n] if a.fusion == "two_branch" else [3 + n]
        channels = {"rgb": [3], "depth": [n], "rgbd": both}[a.modality]
        size = a.embedding_size
        self.branch = nn.ModuleList(Branch(make_backbone(a.backbone, c, init), size) for c in channels)
        if len(channels) > 1:
            linear = nn.Linear(len(channels) * size, size, bias=False)
            self.join = nn.Sequential(linear, nn.BatchNorm1d(size))

    def inputs(self, batch: Batch) -> list[torch.Tensor]:
        """One image (B, channels, H, W) float32 for each branch."""
        parts = []
        if self.architecture.modality != "depth":
            parts.append((batch.rgb - self.mean) / self.deviation)
        if self.architecture.modality != "rgb":
            parts.append(self.encode(batch.depth, batch.depth_per_px))
        if len(self.branch) < len(parts):
            parts = [torch.cat(parts, 1)]
        return [part.contiguous(memory_format=torch.channels_last) for part in parts]

    def branches(self, batch: Batch) -> list[torch.Tensor]:
        """The embedding (B, D), then the embedding of each branch alone where there are several."""
        single = [branch(image) for branch, image in zip(self.branch, self.inputs(batch), strict=True)]
        return single if len(single) == 1 else [self.join(torch.cat(single, 1)), *single]

    def forward(self, batch: Batch) -> torch.Tensor:
        """(B, D) embeddings."""
        return self.branches(batch)[0]


def make_backbone(name: str, channels: int, init: str | Path = "scratch") -> nn.Module:
    """A timm network without its classifier for images of `channels` channels.

    From scratch, every stem is drawn for its channels. From a file, the three-channel network is loaded and
    its stem widened (colour filters kept, see `widen_stem`), or reduced to the mean colour filter for a
    single channel.
    """
    if init == "scratch":
        return _new_backbone(name, channels)
    backbone = _new_backbone(name, 3)
    load_backbone(backbone, Path(init))
    if channels != 3:
        widen_stem(backbone, channels, kept=3 if channels > 3 else 0)
    return backbone


def _new_backbone(name: str, channels: int) -> nn.Module:
    if name == "small":
        return ResNet(BasicBlock, num_classes=0, in_chans=channels, **SMALL)
    return timm.create_model(name, pretrained=False, in_chans=channels, num_classes=0)


def widen_stem(backbone: nn.Module, channels: int, kept: int = 3) -> None:
    """Let a timm ResNet take `channels` channels: `kept` keep their filters, new ones get the mean filter.

    timm instead repeats R, G, B, R and scales all of them by 3/4, which changes what colour alone gives.
    """
    conv = backbone.conv1 if isinstance(backbone.conv1, nn.Conv2d) else backbone.conv1[0]
    weight = conv.weight.detach()
    new = weight.mean(1, keepdim=True).expand(-1, channels - kept, -1, -1)
    conv.weight = nn.Parameter(torch.cat([weight[:, :kept], new], 1).contiguous())
    conv.in_channels = channels


def load_backbone(backbone: nn.Module, path: Path) -> None:
    """Fill a three-channel backbone from a local state dict; a classifier is left out, all else must fit."""
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
        state = {key: value for key, value in state.items() if not key.startswith("fc.")}
        expected = backbone.state_dict()
        wrong = [key for key in expected if key not in state or state[key].shape != expected[key].shape]
    except FileNotFoundError:
        raise UserError(f"{path}: not there: put the weights there, or use init = 'scratch'") from None
    except (
        OSError,
        RuntimeError,
        ValueError,
        AttributeError,
        SafetensorError,
        pickle.UnpicklingError,
    ) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: no state dict that can be read safely ({reason}): use a .safetensors file") from None
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
        embedder = Embedder(Architecture(**card["architecture"]))
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
