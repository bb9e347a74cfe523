"""Losses that pytorch-metric-learning lacks, and wrappers that add a warm-up or a miner to those that it has.

All follow its interface: loss(embeddings (B, D) float32, not normalised; labels (B,) int64) -> scalar. Losses with
class weights also have get_logits(embeddings) -> (B, C).

Every loss here also reports values that tell whether training goes well, such as the angle to the own class: `watches`
holds their names, and `watch()` returns their means over the batches since its last call. The sums are part of the
state_dict, so that a resumed run reports the same means.

Margins of the losses in this file are angles in degrees. Those of pytorch-metric-learning are degrees (ArcFace), a
cosine (CosFace, triplets, pairs) or a whole factor of the angle (SphereFace).
"""

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

if TYPE_CHECKING:  # importing it takes a second, and a softmax does without it
    from pytorch_metric_learning.losses import LargeMarginSoftmaxLoss

NEAR_ONE = 1 - 1e-6  # the largest cosine, of an angle of 0.08 degrees: at 1 the slope of the arc cosine is infinite


class WatchedLoss(nn.Module):
    """A loss that averages diagnostic values over batches; subclasses name them in `watches`."""

    watches: tuple[str, ...] = ()
    watched: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("watched", torch.zeros(2, len(self.watches), dtype=torch.float64))  # sums and counts

    def record(self, *values: torch.Tensor) -> None:
        """Add one value for each name in `watches`; a value that is not finite (a mean of nothing) is skipped."""
        if len(values) != len(self.watches):
            raise ValueError(f"{len(values)} values for {self.watches}")
        value = torch.stack([value.detach().to(self.watched) for value in values])
        found = torch.isfinite(value)
        self.watched += torch.stack([torch.where(found, value, 0), found.to(value)])

    def watch(self) -> dict[str, float]:
        """The mean of each value since the last call, by name; NaN where there was no value. Sums start again at 0."""
        sums, counts = self.watched.tolist()
        self.watched.zero_()
        return {name: total / n if n else math.nan for name, total, n in zip(self.watches, sums, counts, strict=True)}


class SoftmaxLoss(nn.Module):
    """The cross-entropy of a linear classifier: logits = W x + b over C classes.

    label_smoothing: the share of the target that is spread evenly over all classes (Szegedy et al. 2016, section 7).
    """

    def __init__(self, embedding_size: int, classes: int, label_smoothing: float = 0.0):
        super().__init__()
        self.linear = nn.Linear(embedding_size, classes)
        self.label_smoothing = label_smoothing

    def get_logits(self, embeddings: torch.Tensor) -> torch.Tensor:
        """(B, C) logits; losses of pytorch-metric-learning have a method of this name, too."""
        return self.linear(embeddings.to(self.linear.weight.dtype))

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(self.get_logits(embeddings), labels, label_smoothing=self.label_smoothing)

    def extra_repr(self) -> str:
        return f"label_smoothing={self.label_smoothing}"


class CentreLoss(WatchedLoss):
    """Softmax plus centre_weight / 2 times the mean squared distance of an embedding to the centre of its class.

    Wen et al. 2016, equations 2 and 5, with the mean over the batch in place of the sum. In the paper, centres move by
    a rule with a learning rate of its own (equation 4). In this class the centres are parameters, and the optimizer
    moves them along the gradient of the same term.

    Watches `centre_distance`, the mean distance, and `centre_spread`, the mean length of the centres. When both fall
    towards 0, centre_weight is too large.
    """

    watches = ("centre_distance", "centre_spread")

    def __init__(self, embedding_size: int, classes: int, centre_weight: float = 0.01, label_smoothing: float = 0.0):
        super().__init__()
        self.softmax = SoftmaxLoss(embedding_size, classes, label_smoothing)
        self.centres = nn.Parameter(torch.zeros(classes, embedding_size))
        self.centre_weight = centre_weight

    def get_logits(self, embeddings: torch.Tensor) -> torch.Tensor:
        """(B, C) logits of the softmax."""
        return self.softmax.get_logits(embeddings)

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        embeddings = embeddings.to(self.centres.dtype)
        squared = (embeddings - self.centres[labels]).square().sum(1)
        self.record(squared.sqrt().mean(), self.centres.norm(dim=1).mean())
        return self.softmax(embeddings, labels) + self.centre_weight / 2 * squared.mean()

    def extra_repr(self) -> str:
        return f"centre_weight={self.centre_weight}"


class CosineLoss(WatchedLoss):
    """The base of losses with a margin on the angle: a weight vector for each class, compared by cosine."""

    def __init__(self, embedding_size: int, classes: int, scale: float):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, embedding_size))
        nn.init.normal_(self.weight, std=0.01)  # only directions matter, and short vectors turn fast
        self.scale = scale

    def cosines(self, embeddings: torch.Tensor) -> torch.Tensor:
        """(B, C) cosines to the class weights, limited to +-NEAR_ONE so that every angle has a finite gradient."""
        unit = F.normalize(embeddings.to(self.weight.dtype))
        return F.linear(unit, F.normalize(self.weight)).clamp(-NEAR_ONE, NEAR_ONE)

    def get_logits(self, embeddings: torch.Tensor) -> torch.Tensor:
        """(B, C) logits: scale times cosine, without a margin."""
        return self.scale * self.cosines(embeddings)

    def entropy(self, cosines: torch.Tensor, target: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The cross-entropy (B,) when `target` (B,) replaces the cosine to the own class."""
        cosines = cosines.scatter(1, labels[:, None], target[:, None])
        return F.cross_entropy(self.scale * cosines, labels, reduction="none")


class AdaFaceLoss(CosineLoss):
    """AdaFace: a margin that depends on the embedding's length, which stands for the picture's quality.

    Kim et al. 2022, section 3.3. The quality q is the deviation of the length from its running mean, in running
    standard deviations, times h, limited to -1..1. The cosine to the own class becomes cos(theta - m q) - (m + m q). A
    picture of high quality (q = 1) gets CosFace's margin on an easier angle, which emphasises hard examples; one of low
    quality (q = -1) gets ArcFace's margin, which de-emphasises pictures that cannot be recognised.

    margin_deg is the paper's m in degrees: its default of 0.4 radians is 22.9 degrees; in the second term the same 0.4
    is subtracted from the cosine. momentum is the share of a new batch in the running statistics, which start with the
    first batch. No gradient reaches the length through q.

    Watches `angle_deg`, the mean angle to the own class in degrees; `norm`, the mean length; and `norm_sd`, the
    standard deviation of the lengths within a batch. When norm_sd is near 0, the quality is noise.
    """

    watches = ("angle_deg", "norm", "norm_sd")
    norm_mean: torch.Tensor
    norm_sd: torch.Tensor

    def __init__(
        self,
        embedding_size: int,
        classes: int,
        margin_deg: float = 22.9,
        h: float = 0.333,
        scale: float = 64.0,
        momentum: float = 0.01,
    ):
        super().__init__(embedding_size, classes, scale)
        self.margin_deg, self.h, self.momentum = margin_deg, h, momentum
        self.register_buffer("norm_mean", torch.tensor(0.0))
        self.register_buffer("norm_sd", torch.tensor(0.0))  # 0 means that no batch has been seen yet

    def quality(self, norms: torch.Tensor) -> torch.Tensor:
        """(B,) the quality, -1 to 1, of embeddings of length `norms` (B,); training updates the running statistics."""
        if self.training:
            share = torch.where(self.norm_sd > 0, self.momentum, 1.0)
            self.norm_mean.lerp_(norms.mean(), share)
            self.norm_sd.lerp_(norms.std(correction=0), share)
        return ((norms - self.norm_mean) / (self.norm_sd + 1e-3) * self.h).clamp(-1, 1)

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        norms = embeddings.detach().to(self.weight.dtype).norm(dim=1).clamp(1e-3, 100)
        q, m = self.quality(norms), math.radians(self.margin_deg)
        cosines = self.cosines(embeddings)
        angle = cosines.gather(1, labels[:, None])[:, 0].acos()
        target = (angle - m * q).clamp(1e-3, math.pi - 1e-3).cos() - m * (1 + q)
        self.record(angle.rad2deg().mean(), norms.mean(), norms.std(correction=0))
        return self.entropy(cosines, target, labels).mean()

    def extra_repr(self) -> str:
        return f"margin_deg={self.margin_deg}, h={self.h}, scale={self.scale}, momentum={self.momentum}"


class MagFaceLoss(CosineLoss):
    """MagFace: ArcFace with a margin that grows with the embedding's length, and a reward for length.

    Meng et al. 2021, section 3.2. The length a is limited to norms = (l_a, u_a), and the margin m(a) rises linearly
    over that range between margins_deg = (l_m, u_m); the paper's 0.45 and 0.8 radians are 25.8 and 45.8 degrees. The
    loss is the mean of ArcFace's with m(a), plus norm_weight times the mean of g(a) = a / u_a^2 + 1 / a. An easy
    picture can afford the larger margin and becomes long, a hard one stays short, so that the length measures quality.
    Where theta + m(a) exceeds 180 degrees, the cosine is replaced by cos(theta) - m sin(m), which keeps falling, as in
    ArcFace.

    Watches `angle_deg`, the mean angle to the own class in degrees; `norm`, the mean length; and `norm_outside`, the
    share of lengths outside the range, where the length gets no gradient. Choose the range so that this share stays
    small.
    """

    watches = ("angle_deg", "norm", "norm_outside")

    def __init__(
        self,
        embedding_size: int,
        classes: int,
        norms: tuple[float, float] = (10.0, 110.0),
        margins_deg: tuple[float, float] = (25.8, 45.8),
        norm_weight: float = 35.0,
        scale: float = 64.0,
    ):
        super().__init__(embedding_size, classes, scale)
        self.norms, self.margins_deg, self.norm_weight = norms, margins_deg, norm_weight

    def margin(self, norms: torch.Tensor) -> torch.Tensor:
        """(B,) the margins in radians of embeddings with the lengths `norms` (B,), which lie within the range."""
        (low, high), (least, most) = self.norms, map(math.radians, self.margins_deg)
        return least + (most - least) * (norms - low) / (high - low)

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        norms = embeddings.to(self.weight.dtype).norm(dim=1)
        a, (low, high) = norms.clamp(*self.norms), self.norms
        m = self.margin(a)
        cosines = self.cosines(embeddings)
        cosine = cosines.gather(1, labels[:, None])[:, 0]
        angle = cosine.acos()
        target = torch.where(angle + m <= math.pi, (angle + m).cos(), cosine - m * m.sin())
        reward = a / high**2 + 1 / a
        self.record(angle.rad2deg().mean(), norms.mean(), ((norms < low) | (norms > high)).float().mean())
        return (self.entropy(cosines, target, labels) + self.norm_weight * reward).mean()

    def extra_repr(self) -> str:
        return f"norms={self.norms}, margins_deg={self.margins_deg}, norm_weight={self.norm_weight}, scale={self.scale}"


class MarginLoss(WatchedLoss):
    """A loss of pytorch-metric-learning with a margin on the angle, whose margin is eased in.

    loss: ArcFaceLoss, SubCenterArcFaceLoss, CosFaceLoss or SphereFaceLoss. The result is t * loss + (1 - t) * the
    cross-entropy of its logits without the margin; t rises linearly from 0 to `most` over the first `warmup` batches,
    and with warmup 0 it is `most` at once. Liu et al. 2017 anneal SphereFace in this way, and end at lambda = 5, which
    is most = 1 / (1 + 5): with SphereFace's whole margin, shorter embeddings would lower the loss.

    Watches the mean angles in degrees to the own class, `angle_deg`, and to the nearest other class, `angle_other_deg`.
    When training stalls, the first stays near 90 degrees, or both are alike.
    """

    watches = ("angle_deg", "angle_other_deg")
    batches: torch.Tensor

    def __init__(self, loss: "LargeMarginSoftmaxLoss", warmup: int = 0, most: float = 1.0):
        super().__init__()
        self.loss, self.warmup, self.most = loss, warmup, most
        self.register_buffer("batches", torch.tensor(0))

    def get_logits(self, embeddings: torch.Tensor) -> torch.Tensor:
        """(B, C) logits without the margin."""
        return self.loss.get_logits(embeddings.to(self.loss.W.dtype))

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        embeddings = embeddings.to(self.loss.W.dtype)  # otherwise the loss would cast its weights permanently
        self._record_angles(embeddings, labels)
        total = self.loss(embeddings, labels)
        if self.warmup or self.most < 1:
            plain = F.cross_entropy(self.loss.get_logits(embeddings), labels)
            eased = (self.batches / self.warmup).clamp(max=1) if self.warmup else 1.0
            total = torch.lerp(plain, total, self.most * eased)
            self.batches += self.training
        return total

    @torch.no_grad()
    def _record_angles(self, embeddings: torch.Tensor, labels: torch.Tensor) -> None:
        cosines = self.loss.get_cosine(embeddings).clamp(-1, 1)
        other = cosines.scatter(1, labels[:, None], -1.0).amax(1)
        own = cosines.gather(1, labels[:, None])
        self.record(own.acos().rad2deg().mean(), other.acos().rad2deg().mean())

    def extra_repr(self) -> str:
        return f"warmup={self.warmup}, most={self.most}"


class MinedLoss(WatchedLoss):
    """A loss of pytorch-metric-learning on pairs or triplets, which a miner chooses from the batch.

    Without a miner the loss takes all pairs or triplets of the batch.

    Watches `left`, the share of the batch's triplets (or pairs, where the miner chooses pairs) that the miner chose,
    and the mean cosine of all pairs of one person, `cos_same`, and of two people, `cos_other`. When both cosines
    approach 1, all embeddings have collapsed to one point; once the loss equals its margin nothing pushes them apart
    again.
    """

    watches = ("left", "cos_same", "cos_other")

    def __init__(self, loss: nn.Module, miner: nn.Module | None = None):
        super().__init__()
        self.loss, self.miner = loss, miner

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        chosen = None if self.miner is None else self.miner(embeddings, labels)
        self._record(embeddings, labels, chosen)
        return self.loss(embeddings, labels, chosen)

    @torch.no_grad()
    def _record(self, embeddings: torch.Tensor, labels: torch.Tensor, chosen: tuple[torch.Tensor, ...] | None) -> None:
        unit = F.normalize(embeddings.float())
        cosines, same = unit @ unit.T, labels[:, None] == labels
        pair = ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        own, other = same & pair, ~same
        left = torch.tensor(1.0)
        if chosen is not None and len(chosen) == 3:
            left = len(chosen[0]) / (own.sum(1) * other.sum(1)).sum()
        elif chosen is not None:
            left = (len(chosen[0]) + len(chosen[2])) / pair.sum()
        self.record(left, cosines[own].mean(), cosines[other].mean())


def describe(loss: nn.Module) -> str:
    """The loss with all its settings as text: its repr, and the settings that the repr leaves out."""
    parts = [repr(loss)]
    for name, module in loss.named_modules():
        values = {key: getattr(module, key, None) for key in getattr(module, "_record_these", [])}
        parts += [f"{name}.{key}={value}".lstrip(".") for key, value in values.items()]
    return "\n".join(parts)
