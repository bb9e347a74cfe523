"""Losses that pytorch-metric-learning lacks, in its form: loss(embeddings (B, D), labels (B,)) -> scalar."""

import torch
import torch.nn.functional as F
from torch import nn


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
        return self.linear(embeddings)

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(self.get_logits(embeddings), labels, label_smoothing=self.label_smoothing)
