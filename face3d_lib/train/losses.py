"""Losses that pytorch-metric-learning lacks, and what it takes to watch and ease in those that it has.

All in its form: loss(embeddings (B, D) float32 not normalised, labels (B,) int64) -> scalar; those with class weights
also give get_logits(embeddings) -> (B, C). Every `watch()` gives the means, over the batches since the last call, of
what tells whether training is well; its sums are in the state_dict, so that a resumed run reports the same.

Margins are angles in degrees here; pytorch-metric-learning counts its own in degrees (ArcFace), in cosine (CosFace,
triplets, pairs) or as a whole factor of the angle (SphereFace).
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

NEAR_ONE = 1 - 1e-6  # the largest cosine, 0.08 degrees: beyond it the slope of the arc cosine is infinite


class Watching(nn.Module):
    """A loss that keeps the sums of what its `watches` names, one value per batch."""

    watches: tuple[str, ...] = ()

    def __init__(self):
        super().__init__()
        self.register_buffer("watched", torch.zeros(2, len(self.watches), dtype=torch.float64))  # sums, counts

    def note(self, *values: torch.Tensor) -> None:
        """Add one value for each name; what is not finite (a mean of nothing) is left out."""
        if len(values) != len(self.watches):
            raise ValueError(f"{len(values)} values for {self.watches}")
        value = torch.stack([value.detach().to(self.watched) for value in values])
        found = torch.isfinite(value)
        self.watched += torch.stack([torch.where(found, value, 0), found.to(value)])

    def watch(self) -> dict[str, float]:
        """name -> mean since the last call (NaN where nothing came); begins anew."""
        sums, counts = self.watched.tolist()
        self.watched.zero_()
        return {name: total / n if n else math.nan for name, total, n in zip(self.watches, sums, counts, strict=True)}


class SoftmaxLoss(nn.Module):
    """The cross-entropy of a linear classifier: logits = W x + b over C classes.

    label_smoothing: share of the target spread evenly over all classes (Szegedy et al. 2016, section 7).
    """

    def __init__(self, embedding_size: int, classes: int, label_smoothing: float = 0.0):
        super().__init__()
        self.linear = nn.Linear(embedding_size, classes)
        self.label_smoothing = label_smoothing

    def get_logits(self, embeddings: torch.Tensor) -> torch.Tensor:
        """(B, C); the name is that of pytorch-metric-learning's losses, so `fit` asks all of them alike."""
        return self.linear(embeddings.to(self.linear.weight.dtype))

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(self.get_logits(embeddings), labels, label_smoothing=self.label_smoothing)

    def extra_repr(self) -> str:
        return f"label_smoothing={self.label_smoothing}"


class CentreLoss(Watching):
    """Softmax plus centre_weight / 2 times the mean squared distance of an embedding to its person's centre.

    Wen et al. 2016, equations 2 and 5, with the mean over the batch where they have the sum. Their centres move by a
    rule with a rate of its own (equation 4); here they are parameters, which the optimizer moves along the gradient of
    the same term. Watches `centre_distance`, the mean distance, and `centre_spread`, the mean length of the centres:
    when both fall towards 0 the term is too strong.
    """

    watches = ("centre_distance", "centre_spread")

    def __init__(self, embedding_size: int, classes: int, centre_weight: float = 0.01, label_smoothing: float = 0.0):
        super().__init__()
        self.softmax = SoftmaxLoss(embedding_size, classes, label_smoothing)
        self.centres = nn.Parameter(torch.zeros(classes, embedding_size))
        self.centre_weight = centre_weight

    def get_logits(self, embeddings: torch.Tensor) -> torch.Tensor:
        """(B, C), of the softmax."""
        return self.softmax.get_logits(embeddings)

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        embeddings = embeddings.to(self.centres.dtype)
        squared = (embeddings - self.centres[labels]).square().sum(1)
        self.note(squared.sqrt().mean(), self.centres.norm(dim=1).mean())
        return self.softmax(embeddings, labels) + self.centre_weight / 2 * squared.mean()

    def extra_repr(self) -> str:
        return f"centre_weight={self.centre_weight}"


class CosineHead(Watching):
    """A weight (C, D) per class, compared by cosine: the common part of the losses with a margin on the angle."""

    def __init__(self, embedding_size: int, classes: int, scale: float):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, embedding_size))
        nn.init.normal_(self.weight, std=0.01)  # only directions count, and short vectors turn fast
        self.scale = scale

    def cosines(self, embeddings: torch.Tensor) -> torch.Tensor:
        """(B, C) cosines to the class weights, at most NEAR_ONE, so that every angle has a finite gradient."""
        unit = F.normalize(embeddings.to(self.weight.dtype))
        return F.linear(unit, F.normalize(self.weight)).clamp(-NEAR_ONE, NEAR_ONE)

    def get_logits(self, embeddings: torch.Tensor) -> torch.Tensor:
        """(B, C): scale times cosine, without a margin."""
        return self.scale * self.cosines(embeddings)

    def entropy(self, cosines: torch.Tensor, target: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The cross-entropy (B,) with `target` (B,) in the place of the cosine to the own class."""
        cosines = cosines.scatter(1, labels[:, None], target[:, None])
        return F.cross_entropy(self.scale * cosines, labels, reduction="none")


class AdaFaceLoss(CosineHead):
    """A margin that goes by the embedding's length, taken for the picture's quality (Kim et al. 2022, section 3.3).

    With q = the length's deviation from the running mean in running standard deviations, times h, within -1..1:
    target = cos(theta - m q) - (m + m q). A picture of high quality (q = 1) gets CosFace's margin on an easier angle,
    which weighs the hard ones; one of low quality (q = -1) ArcFace's, which passes over the hopeless. margin_deg is
    the paper's m: its default 0.4 is 22.9 degrees, in the additive part 0.4 of cosine. momentum: share of a new batch
    in the running statistics, buffers that begin with the first batch. No gradient reaches the length through q.

    Watches `angle_deg` to the own class, `norm`, and `norm_sd` within a batch: when it is near 0, quality is noise.
    """

    watches = ("angle_deg", "norm", "norm_sd")

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
        self.register_buffer("norm_sd", torch.tensor(0.0))  # 0: no batch seen yet

    def quality(self, norms: torch.Tensor) -> torch.Tensor:
        """(B,) in -1..1: how far the lengths (B,) lie from the running mean, which training moves on."""
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
        self.note(angle.rad2deg().mean(), norms.mean(), norms.std(correction=0))
        return self.entropy(cosines, target, labels).mean()

    def extra_repr(self) -> str:
        return f"margin_deg={self.margin_deg}, h={self.h}, scale={self.scale}, momentum={self.momentum}"


class MagFaceLoss(CosineHead):
    """ArcFace whose margin grows with the embedding's length, and a reward for length (Meng et al. 2021, section 3.2).

    The length a is held within norms = (l_a, u_a); the margin m(a) rises linearly over that range between
    margins_deg = (l_m, u_m) (the paper's .45 and .8 radians are 25.8 and 45.8 degrees);
    loss = mean of ArcFace's with m(a), plus norm_weight * mean of g(a) = a / u_a^2 + 1 / a. An easy picture can afford
    the larger margin and grows long, a hard one stays short: the length becomes its quality. Beyond 180 degrees the
    target goes on falling as cos(theta) - m sin(m), as in ArcFace.

    Watches `angle_deg` to the own class, `norm`, and `norm_outside`, the share of lengths outside the range, where the
    length has no gradient: choose the range so that it stays small.
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
        """(B,) radians, of lengths (B,) within the range."""
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
        self.note(angle.rad2deg().mean(), norms.mean(), ((norms < low) | (norms > high)).float().mean())
        return (self.entropy(cosines, target, labels) + self.norm_weight * reward).mean()

    def extra_repr(self) -> str:
        return f"norms={self.norms}, margins_deg={self.margins_deg}, norm_weight={self.norm_weight}, scale={self.scale}"


class MarginLoss(Watching):
    """A loss of pytorch-metric-learning with a margin on the angle, watched, and eased in.

    loss: ArcFaceLoss, SubCenterArcFaceLoss, CosFaceLoss or SphereFaceLoss; what is called is
    t * loss + (1 - t) * the cross-entropy of its logits without the margin, and t rises linearly from 0 to `most` over
    the first `warmup` batches (0: at once). The annealing of Liu et al. 2017, for all of them; their own SphereFace ends
    at lambda = 5, which is most = 1 / (1 + 5): with the whole margin it pays to shorten the embeddings.

    Watches `angle_deg` to the own class and `angle_other_deg` to the nearest other one: training that stalls leaves
    the first near 90, or both alike.
    """

    watches = ("angle_deg", "angle_other_deg")

    def __init__(self, loss: nn.Module, warmup: int = 0, most: float = 1.0):
        super().__init__()
        self.loss, self.warmup, self.most = loss, warmup, most
        self.register_buffer("batches", torch.tensor(0))

    def get_logits(self, embeddings: torch.Tensor) -> torch.Tensor:
        """(B, C), without the margin."""
        return self.loss.get_logits(embeddings.to(self.loss.W.dtype))

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        embeddings = embeddings.to(self.loss.W.dtype)  # else the weights would be cast to the embeddings' for good
        self._note_angles(embeddings, labels)
        total = self.loss(embeddings, labels)
        if self.warmup or self.most < 1:
            plain = F.cross_entropy(self.loss.get_logits(embeddings), labels)
            eased = (self.batches / self.warmup).clamp(max=1) if self.warmup else 1.0
            total = torch.lerp(plain, total, self.most * eased)
            self.batches += self.training
        return total

    @torch.no_grad()
    def _note_angles(self, embeddings, labels):
        cosines = self.loss.get_cosine(embeddings).clamp(-1, 1)
        other = cosines.scatter(1, labels[:, None], -1.0).amax(1)
        own = cosines.gather(1, labels[:, None])
        self.note(own.acos().rad2deg().mean(), other.acos().rad2deg().mean())

    def extra_repr(self) -> str:
        return f"warmup={self.warmup}, most={self.most}"


class Mined(Watching):
    """A loss on pairs or triplets, of those that a miner of pytorch-metric-learning chooses; without one, of all.

    Watches `left`, the share of the batch's triplets (or pairs, where the miner gives pairs) that the miner chose,
    `cos_same` and `cos_other`, the mean cosines of all pairs of one person and of two: when both go to 1 the
    embeddings have collapsed to a point, which nothing repels once the loss is as large as its margin.
    """

    watches = ("left", "cos_same", "cos_other")

    def __init__(self, loss: nn.Module, miner: nn.Module | None = None):
        super().__init__()
        self.loss, self.miner = loss, miner

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        chosen = None if self.miner is None else self.miner(embeddings, labels)
        self._note(embeddings, labels, chosen)
        return self.loss(embeddings, labels, chosen)

    @torch.no_grad()
    def _note(self, embeddings, labels, chosen):
        unit = F.normalize(embeddings.float())
        cosines, same = unit @ unit.T, labels[:, None] == labels
        pair = ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        own, other = same & pair, ~same
        left = torch.tensor(1.0)
        if chosen is not None and len(chosen) == 3:
            left = len(chosen[0]) / (own.sum(1) * other.sum(1)).sum()
        elif chosen is not None:
            left = (len(chosen[0]) + len(chosen[2])) / pair.sum()
        self.note(left, cosines[own].mean(), cosines[other].mean())


def describe(loss: nn.Module) -> str:
    """The loss with all its numbers: its repr, and those that pytorch-metric-learning's modules leave out of theirs."""
    parts = [repr(loss)]
    for name, module in loss.named_modules():
        values = {key: getattr(module, key, None) for key in getattr(module, "_record_these", [])}
        parts += [f"{name}.{key}={value}".lstrip(".") for key, value in values.items()]
    return "\n".join(parts)
