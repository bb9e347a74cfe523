"""Fine-tuning: the last layers of a pretrained network are trained, and the layers before them stay as they are.

`freeze` prepares an embedder for `fit`, which keeps checkpoints and changes each picture anew in every epoch. Many small
trainings are faster on what the frozen layers give: it is computed once for each picture and its mirror image
(`tail_inputs`), and only the layers behind it, the tail, are trained (`tune`) and asked for embeddings (`tail_vectors`).
"""

import copy
import math
from typing import Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from timm.models.efficientnet import EfficientNet
from timm.models.resnet import ResNet
from torch import nn

from ..base.errors import UserError
from ..data.pack import Batch, Pack
from .backbones import Backbone
from .batches import epoch_batches
from .draws import STEP, random_stream
from .embedder import Branch, Embedder
from .fit import FitSettings, learning_rate, make_optimizer

# head: the neck of each branch, and what joins two branches; last_block: the head and the last block before it
Tuned = Literal["head", "last_block", "all"]


def last_block(backbone: Backbone) -> list[nn.Module]:
    """The last block of the backbone and all layers after it, in the order in which an image passes them.

    It is the last residual block of resnet18, resnet50, small and dlib, the last Inception block of facenet, and the
    last block with the convolution behind it of efficientnet_lite0.
    """
    if isinstance(backbone, ResNet):
        return [list(cast(nn.Module, backbone.layer4).children())[-1]]
    if isinstance(backbone, EfficientNet):
        return [list(backbone.blocks.children())[-1], backbone.conv_head, backbone.bn2]
    return [list(backbone.children())[-1]]


def freeze(embedder: Embedder, tuned: Tuned) -> Embedder:
    """The same embedder, of which only the layers that `tuned` names are trained from now on.

    Frozen weights get no gradient and no state in an optimizer; frozen layers stay in evaluation mode, so that neither
    their statistics nor dropout change what they give (`Embedder.train` sees to it). "all" undoes any freezing.
    """
    embedder.requires_grad_(tuned == "all")
    trained: list[nn.Module] = [embedder.fusion] if len(embedder.branch) > 1 else []
    for branch in embedder.branch:
        trained += [] if tuned == "all" else _layers(cast(Branch, branch), tuned)
    for layer in trained:
        layer.requires_grad_(True)
    return embedder.train(embedder.training)


def _layers(branch: Branch, tuned: Tuned) -> list[nn.Module]:
    return [*(last_block(branch.backbone) if tuned == "last_block" else []), branch.neck]


class Whole(nn.Module):
    """A branch as a tail: image (B, channels, H, W) -> embedding (B, D)."""

    def __init__(self, branch: Branch):
        super().__init__()
        self.branch = branch

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.branch(image)[1]


def make_tail(embedder: Embedder, tuned: Tuned) -> nn.Module:
    """A copy of the layers that `tuned` names: what `tail_inputs` gives -> embeddings (B, D), which are not normalised.

    ValueError: the embedder has two branches.
    """
    branch = copy.deepcopy(_only_branch(embedder)).requires_grad_(True)
    return Whole(branch) if tuned == "all" else nn.Sequential(*_layers(branch, tuned))


def _only_branch(embedder: Embedder) -> Branch:
    if len(embedder.branch) != 1:
        raise ValueError("an embedder with one branch expected: tune the branches as networks of their own")
    return cast(Branch, embedder.branch[0])


def tail_inputs(embedder: Embedder, tuned: Tuned, pack: Pack, rows: np.ndarray, batch_size: int = 64) -> torch.Tensor:
    """(n, 2, ...) float32: what reaches the tail from each pair at `rows` and from its mirror image.

    It lies on the device of the embedder, which computes in evaluation mode. For "all" these are the images that the
    network sees: half a megabyte for each pair of 150 x 150 px in colour. ValueError: the embedder has two branches.
    """
    device, parts = embedder.mean.device, []
    embedder.eval()
    with torch.inference_mode():
        for i in range(0, len(rows), batch_size):
            batch = pack.batch(rows[i : i + batch_size], device)
            parts.append(torch.stack([_input(embedder, tuned, view) for view in (batch, batch.mirrored())], 1))
    return torch.cat(parts).clone()


def _input(embedder: Embedder, tuned: Tuned, batch: Batch) -> torch.Tensor:
    """What reaches the first layer of the tail, (B, ...)."""
    branch = _only_branch(embedder)
    present = embedder.present_modalities(batch) if embedder.architecture.modality == "rgbd" else None
    (image,) = embedder.inputs(batch, present)
    if tuned == "all":
        return image
    found: list[torch.Tensor] = []
    hook = _layers(branch, tuned)[0].register_forward_pre_hook(lambda layer, inputs: found.append(inputs[0]))
    try:
        branch(image)
    finally:
        hook.remove()
    return found[0]


def tune(
    tail: nn.Module, loss: nn.Module, inputs: torch.Tensor, labels: np.ndarray, settings: FitSettings
) -> list[float]:
    """Train `tail` and `loss` in place on `inputs` (n, 2, ...) of n pairs with labels (n,); the mean loss of each epoch.

    Order, schedule, optimizer and clipping are those of `fit`. In each epoch the picture or its mirror image is drawn
    for each pair. Every random number is a function of the seed, the epoch and the step. The computation is in float32 on
    the device of `inputs`. UserError: the loss is not finite. ValueError: batch_size or lr is 0; both must be given.
    """
    if not (settings.batch_size and settings.lr):
        raise ValueError("tune: give batch_size and lr")
    both = nn.ModuleList([tail, loss]).to(inputs.device).train()
    optimizer, targets = make_optimizer(both, settings), torch.from_numpy(labels).to(inputs.device)
    history = []
    for epoch in range(settings.epochs):
        batches, total = epoch_batches(len(inputs), settings.batch_size, settings.seed, epoch), 0.0
        for step, chosen in enumerate(batches):
            draw = np.random.default_rng(random_stream(STEP, settings.seed, epoch, step))
            steps = settings.epochs * len(batches), len(batches)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(epoch * len(batches) + step, *steps, settings)
            value = loss(tail(inputs[chosen, draw.integers(2, size=len(chosen))]), targets[chosen])
            if not math.isfinite(value.item()):
                raise UserError(f"epoch {epoch + 1}, step {step + 1}: the loss is not finite: lower lr")
            value.backward()
            nn.utils.clip_grad_norm_(both.parameters(), settings.clip_norm or math.inf)
            optimizer.step()
            optimizer.zero_grad()
            total += value.item() * len(chosen)
        history.append(total / len(inputs))
    return history


def tail_vectors(tail: nn.Module, inputs: torch.Tensor, batch_size: int = 128) -> np.ndarray:
    """(n, D) float32 of unit length: for each pair the mean of the two unit vectors of its inputs (n, 2, ...).

    These are the embeddings of `evaluate.embed.embed`, which also uses each pair and its mirror image.
    """
    tail.eval()
    with torch.inference_mode():
        unit = [F.normalize(tail(part)) for part in inputs.flatten(0, 1).split(batch_size)]
    return F.normalize(torch.cat(unit).unflatten(0, (len(inputs), 2)).sum(1)).cpu().numpy()
