"""Embedder and loss as one module; among several processes, its loss sees the embeddings of all of them."""

import copy

import torch
import torch.distributed
from torch import nn
from torch.distributed.nn.functional import all_gather

from ..data.pack import Batch
from .embedder import Embedder


class Objective(nn.Module):
    """Embedder and loss as one module: (batch, labels) -> (loss, embeddings (B, D) float32, labels (B,) int64).

    Where the embedder has two branches, a copy of the loss with weights of its own is applied to each branch's
    embedding as well. Losses run outside autocast, because pytorch-metric-learning would convert their weights to bf16
    permanently (its issues 293 and 710).

    Among several processes every process computes the loss of the whole batch, so that pairs and triplets are taken
    from all of it; B is the size of the whole batch. The mean of the gradients over the processes, which follows, is
    then exactly the gradient of a single process. (DistributedLossWrapper of pytorch-metric-learning covers only some
    losses, and with efficient=True it computes another gradient.)
    """

    def __init__(self, embedder: Embedder, loss: nn.Module, branch_weight: float):
        super().__init__()
        self.embedder, self.loss, self.branch_weight = embedder, loss, branch_weight
        extra = len(embedder.branch) if len(embedder.branch) > 1 else 0
        self.branch_losses = nn.ModuleList(copy.deepcopy(loss) for _ in range(extra))
        self.branches_train_alone = extra > 0 and not embedder.fusion.trains_branches

    def forward(self, batch: Batch, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        shares = shares_of(len(labels), labels.device)  # asked once per step, because the answer waits for the GPU
        together, *single = (of_all_processes(vectors.float(), shares) for vectors in self.embedder.branches(batch))
        labels = of_all_processes(labels, shares)
        with torch.autocast(together.device.type, enabled=False):
            total = self.loss(together, labels)
            for loss, embeddings in zip(self.branch_losses, single[: len(self.branch_losses)], strict=True):
                total = total + self.branch_weight * loss(embeddings, labels)
        return total, together.detach(), labels

    def watch(self) -> dict[str, float]:
        """The means of the loss's watched values since the last call.

        If the branches learn only from their own losses, these are the means over the branches' losses.
        """
        found = [loss.watch() for loss in [self.loss, *self.branch_losses] if hasattr(loss, "watch")]
        found = found[1:] if self.branches_train_alone else found[:1]
        return {name: sum(row[name] for row in found) / len(found) for name in (found[0] if found else ())}


def shares_of(n: int, device: torch.device) -> list[int]:
    """How many pairs of this step each process has, in the order of ranks; they may differ by a pair or a person."""
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return [n]
    counts = torch.empty(torch.distributed.get_world_size(), dtype=torch.int64, device=device)
    torch.distributed.all_gather(list(counts.split(1)), torch.tensor([n], device=device))
    return counts.tolist()


def of_all_processes(values: torch.Tensor, shares: list[int]) -> torch.Tensor:
    """`values` (b, ...) of all processes concatenated in the order of ranks; gradients flow back to each process."""
    if len(shares) == 1:
        return values
    padded = torch.cat([values, values.new_zeros(max(shares) - len(values), *values.shape[1:])])
    if values.is_floating_point():
        parts = all_gather(padded)
    else:
        parts = [torch.zeros_like(padded) for _ in shares]
        torch.distributed.all_gather(parts, padded)
    return torch.cat([part[:n] for part, n in zip(parts, shares, strict=True)])
