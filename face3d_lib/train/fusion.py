"""How two branches become one embedding.

Each design is built by (features, embedding_size, grid) and called with (maps, embeddings, here) -> (B, D):
maps, the last feature maps (B, C, h, w) of colour and of depth, C = features; embeddings, (B, D / parts) of each
branch alone; here, (B, 2) bool, which of the two a pair has. What a pair lacks has no influence, whatever its values.
"""

import torch
from torch import nn


def make_neck(features: int, embedding_size: int, grid: int) -> nn.Sequential:
    """(B, features, h, w) -> (B, D)."""
    linear = nn.Linear(features * grid**2, embedding_size, bias=False)
    return nn.Sequential(nn.AdaptiveAvgPool2d(grid), nn.Flatten(), linear, nn.BatchNorm1d(embedding_size))


def only(values: torch.Tensor, here: torch.Tensor) -> torch.Tensor:
    """`values` (B, ...) where `here` (B,), else 0, whatever was there."""
    return torch.where(here.view(-1, *[1] * (values.ndim - 1)), values, 0)


class Join(nn.Module):
    """What the designs share."""

    parts = 1  # of which a branch's own embedding is one
    trains_branches = True  # the joint loss does; else each branch has nothing but the loss of its own

    def alone(self, embeddings) -> list[torch.Tensor]:
        """(B, D) for the loss that each branch has of its own."""
        return [*embeddings]


class Parallel(Join):
    """Both embeddings, each of half the size, side by side: fused late, as two networks that never meet, yet one model.

    The joint loss trains its own weights alone: a branch learns from the loss on itself. The cosine of two pairs is the
    sum of the branches' cosines, weighted by the lengths of their embeddings. What a pair lacks is 0, and adds nothing:
    against a complete pair its cosine is lower, so such comparisons want a threshold of their own.
    """

    parts = 2
    trains_branches = False

    def __init__(self, features: int, embedding_size: int, grid: int):
        super().__init__()

    def alone(self, embeddings):
        """Each twice: of the joint size, with the same cosines, and no weight of a loss without its use."""
        return [torch.cat([embedding, embedding], 1) for embedding in embeddings]

    def forward(self, maps, embeddings, here):
        return torch.cat([only(e.detach(), here[:, i]) for i, e in enumerate(embeddings)], 1)


class Concatenation(Join, nn.Sequential):
    """A linear layer over both embeddings."""

    def __init__(self, features: int, embedding_size: int, grid: int):
        super().__init__(nn.Linear(2 * embedding_size, embedding_size, bias=False), nn.BatchNorm1d(embedding_size))

    def forward(self, maps, embeddings, here):
        return super().forward(torch.cat([only(e, here[:, i]) for i, e in enumerate(embeddings)], 1))


class GatedSum(Join):
    """w * colour + (1 - w) * depth, with weights in [0, 1] that both embeddings decide, dimension by dimension.

    The gated multimodal unit of Arevalo et al. 2017 (arXiv 1702.01992), section 3.1, without its tanh.
    """

    def __init__(self, features: int, embedding_size: int, grid: int):
        super().__init__()
        self.gate = nn.Linear(2 * embedding_size, embedding_size)

    def weights(self, embeddings, here) -> torch.Tensor:
        """(B, D) the share of colour: 1 where depth is missing, 0 where colour is."""
        share = torch.sigmoid(self.gate(torch.cat(embeddings, 1)))
        return torch.where(here.all(1, keepdim=True), share, here[:, :1].to(share.dtype))

    def forward(self, maps, embeddings, here):
        colour, depth = (only(e, here[:, i]) for i, e in enumerate(embeddings))
        share = self.weights((colour, depth), here)
        return share * colour + (1 - share) * depth


class Attention(nn.Module):
    """Weights in [0, 1] of a feature map's channels (B, C, 1, 1) and of its places (B, 1, h, w).

    CBAM: Woo et al. 2018 (ECCV, arXiv 1807.06521), equations 2 and 3.
    """

    def __init__(self, features: int):
        super().__init__()
        hidden = max(8, features // 16)
        self.channel = nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, features))
        self.place = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def of_channels(self, features):
        return torch.sigmoid(self.channel(features.mean((2, 3))) + self.channel(features.amax((2, 3))))[..., None, None]

    def of_places(self, features):
        return torch.sigmoid(self.place(torch.cat([features.mean(1, True), features.amax(1, True)], 1)))


class AttentionFusion(Join):
    """Both feature maps, stacked, weighted by channel and then by place, and a neck over all of it.

    Colour and depth decide together which channels of either count: first of feature maps, then of places, as
    in Uppal et al. 2021 (ICPR, arXiv 2003.00168), whose recurrent layer is the channel attention of CBAM here.
    """

    def __init__(self, features: int, embedding_size: int, grid: int):
        super().__init__()
        self.attention = Attention(2 * features)
        self.neck = make_neck(2 * features, embedding_size, grid)

    def forward(self, maps, embeddings, here):
        features = torch.cat([only(m, here[:, i]) for i, m in enumerate(maps)], 1)
        features = features * self.attention.of_channels(features)
        return self.neck(features * self.attention.of_places(features))


class DepthAttention(Join):
    """The feature map of colour, weighted by channel and place as that of depth says: depth guides, colour speaks.

    After Uppal et al. 2021 (IEEE Trans. Image Processing 30, arXiv 2101.00652), with the attention of CBAM.
    Without depth colour is not weighted; without colour nothing is left to recognise by.
    """

    def __init__(self, features: int, embedding_size: int, grid: int):
        super().__init__()
        self.attention = Attention(features)
        self.neck = make_neck(features, embedding_size, grid)

    def forward(self, maps, embeddings, here):
        colour, depth = maps
        weight = self.attention.of_channels(depth) * self.attention.of_places(depth)
        return self.neck(only(colour * torch.where(here[:, 1, None, None, None], weight, 1), here[:, 0]))


JOINS = {
    "two_branch": Concatenation,
    "parallel": Parallel,
    "gated": GatedSum,
    "attention": AttentionFusion,
    "depth_attention": DepthAttention,
}
