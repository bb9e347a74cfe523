"""Designs that make one embedding of two branches, one for colour and one for depth.

Each design is a `Fusion`: built by (features, embedding_size, grid) and called with (maps, embeddings, present), it
returns the joint embedding (B, D).

- features: channels C of a branch's last feature map; grid: places along a side to which a neck averages such a map.
- maps: the last feature maps of colour and of depth, each (B, C, h, w).
- embeddings: the embeddings of the two branches, each (B, D / parts).
- present: (B, 2) bool, which of colour and depth each pair has. A modality that a pair lacks has no influence on the
  result, whatever values its branch gave.
"""

from collections.abc import Sequence

import torch
from torch import nn

Tensors = Sequence[torch.Tensor]  # one of colour and one of depth


def make_neck(features: int, embedding_size: int, grid: int) -> nn.Sequential:
    """A module that maps a feature map (B, features, h, w) to embeddings (B, embedding_size)."""
    linear = nn.Linear(features * grid**2, embedding_size, bias=False)
    return nn.Sequential(nn.AdaptiveAvgPool2d(grid), nn.Flatten(), linear, nn.BatchNorm1d(embedding_size))


def zero_absent(values: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """`values` (B, ...) with the rows set to 0, NaN included, where `present` (B,) bool is False."""
    return torch.where(present.view(-1, *[1] * (values.ndim - 1)), values, 0)


class Fusion(nn.Module):
    """The base class of all designs."""

    parts = 1  # the joint embedding is this many times as long as that of a branch
    trains_branches = True  # whether gradients of the joint loss reach the branches

    def branch_embeddings(self, embeddings: Tensors) -> list[torch.Tensor]:
        """Each branch's embedding as (B, D), for the branch's own loss."""
        return [*embeddings]


class Parallel(Fusion):
    """Two branches that never meet: their embeddings, each of half the size, are concatenated.

    This is late fusion within one model. The joint loss updates only its own weights; gradients do not reach the
    branches, and each branch learns from a loss of its own. The cosine of two pairs is a sum of the branches'
    cosines, weighted by the lengths of their embeddings. A modality that a pair lacks contributes 0, so the pair's
    cosine to a complete pair is lower, and such comparisons need a threshold of their own.
    """

    parts = 2
    trains_branches = False

    def __init__(self, features: int, embedding_size: int, grid: int):
        super().__init__()

    def branch_embeddings(self, embeddings: Tensors) -> list[torch.Tensor]:
        """Each branch's embedding twice in a row.

        It then has the size that the loss expects, cosines stay the same, and every weight of the loss is used.
        """
        return [torch.cat([embedding, embedding], 1) for embedding in embeddings]

    def forward(self, maps: Tensors, embeddings: Tensors, present: torch.Tensor) -> torch.Tensor:
        return torch.cat([zero_absent(e.detach(), present[:, i]) for i, e in enumerate(embeddings)], 1)


class Joined(Fusion, nn.Sequential):
    """Two branches joined by a linear layer over both embeddings."""

    def __init__(self, features: int, embedding_size: int, grid: int):
        super().__init__(nn.Linear(2 * embedding_size, embedding_size, bias=False), nn.BatchNorm1d(embedding_size))

    def forward(  # type: ignore[override]  # a design takes three arguments, and its layers take one
        self, maps: Tensors, embeddings: Tensors, present: torch.Tensor
    ) -> torch.Tensor:
        return super().forward(torch.cat([zero_absent(e, present[:, i]) for i, e in enumerate(embeddings)], 1))


class GatedSum(Fusion):
    """w * colour + (1 - w) * depth, where both embeddings together decide the weight w of each dimension, from 0 to 1.

    The gated multimodal unit of Arevalo et al. 2017 (arXiv 1702.01992), section 3.1, without its tanh.
    """

    def __init__(self, features: int, embedding_size: int, grid: int):
        super().__init__()
        self.gate = nn.Linear(2 * embedding_size, embedding_size)

    def weights(self, embeddings: Tensors, present: torch.Tensor) -> torch.Tensor:
        """(B, D) the weight w of colour: 1 where depth is missing, 0 where colour is missing."""
        share = torch.sigmoid(self.gate(torch.cat([*embeddings], 1)))
        return torch.where(present.all(1, keepdim=True), share, present[:, :1].to(share.dtype))

    def forward(self, maps: Tensors, embeddings: Tensors, present: torch.Tensor) -> torch.Tensor:
        colour, depth = (zero_absent(e, present[:, i]) for i, e in enumerate(embeddings))
        share = self.weights((colour, depth), present)
        return share * colour + (1 - share) * depth


class Attention(nn.Module):
    """Weights from 0 to 1 for the channels (B, C, 1, 1) and for the places (B, 1, h, w) of a feature map (B, C, h, w).

    CBAM: Woo et al. 2018 (ECCV, arXiv 1807.06521), equations 2 and 3.
    """

    def __init__(self, features: int):
        super().__init__()
        hidden = max(8, features // 16)
        self.channel = nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, features))
        self.place = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def of_channels(self, features: torch.Tensor) -> torch.Tensor:
        """(B, C, 1, 1) the weights of the channels of a feature map."""
        return torch.sigmoid(self.channel(features.mean((2, 3))) + self.channel(features.amax((2, 3))))[..., None, None]

    def of_places(self, features: torch.Tensor) -> torch.Tensor:
        """(B, 1, h, w) the weights of the places of a feature map."""
        return torch.sigmoid(self.place(torch.cat([features.mean(1, True), features.amax(1, True)], 1)))


class AttentionFusion(Fusion):
    """Both feature maps, concatenated and weighted by channel and then by place, go through one neck.

    Colour and depth decide together which channels of either count: first by feature map, then by place, as in
    Uppal et al. 2021 (ICPR, arXiv 2003.00168). Where they have a recurrent layer, this design has the channel
    attention of CBAM.
    """

    def __init__(self, features: int, embedding_size: int, grid: int):
        super().__init__()
        self.attention = Attention(2 * features)
        self.neck = make_neck(2 * features, embedding_size, grid)

    def forward(self, maps: Tensors, embeddings: Tensors, present: torch.Tensor) -> torch.Tensor:
        features = torch.cat([zero_absent(m, present[:, i]) for i, m in enumerate(maps)], 1)
        features = features * self.attention.of_channels(features)
        return self.neck(features * self.attention.of_places(features))


class DepthAttention(Fusion):
    """The feature map of colour, weighted by channel and by place; the feature map of depth decides the weights.

    After Uppal et al. 2021 (IEEE Trans. Image Processing 30, arXiv 2101.00652), with the attention of CBAM. A pair
    without depth has its colour unweighted. For a pair without colour the embedding holds no information.
    """

    def __init__(self, features: int, embedding_size: int, grid: int):
        super().__init__()
        self.attention = Attention(features)
        self.neck = make_neck(features, embedding_size, grid)

    def forward(self, maps: Tensors, embeddings: Tensors, present: torch.Tensor) -> torch.Tensor:
        colour, depth = maps
        weight = self.attention.of_channels(depth) * self.attention.of_places(depth)
        weighted = colour * torch.where(present[:, 1, None, None, None], weight, 1)
        return self.neck(zero_absent(weighted, present[:, 0]))


FUSIONS: dict[str, type[Fusion]] = {
    "joined": Joined,
    "parallel": Parallel,
    "gated": GatedSum,
    "attention": AttentionFusion,
    "depth_attention": DepthAttention,
}
