"""Embedder and loss as one module, whose loss sees the embeddings of all processes."""

import copy

import torch
import torch.distributed
from torch import nn
from torch.distributed.nn.functional import all_gather

from .embedder import Embedder


class Objective(nn.Module):
    """Embedder and loss as one module, (batch, labels) -> (loss, embeddings (B, D) float32, labels (B,)).

    An embedder of several branches gets a copy of the loss, with weights of its own, on each branch's
    embedding. Losses run outside autocast: pytorch-metric-learning would turn their weights to bf16 for good
    (its issues 293 and 710). Among several processes the loss, on each of them, is that of the whole batch, so
    pairs and triplets reach over all of it and B is its size; the mean over processes that follows makes the gradient
    exactly that of one process. (DistributedLossWrapper of that library covers some losses, and with
    efficient=True another gradient.)
    """

    def __init__(self, embedder: Embedder, loss: nn.Module, branch_weight: float):
        super().__init__()
        self.embedder, self.loss, self.branch_weight = embedder, loss, branch_weight
        extra = len(embedder.branch) if len(embedder.branch) > 1 else 0
        self.branch_losses = nn.ModuleList(copy.deepcopy(loss) for _ in range(extra))
        self.branches_train_alone = extra > 0 and not embedder.join.trains_branches

    def forward(self, batch, labels):
        shares = shares_of(len(labels), labels.device)  # asked once: the answer waits for a GPU
        together, *single = (of_all_processes(vectors.float(), shares) for vectors in self.embedder.branches(batch))
        labels = of_all_processes(labels, shares)
        with torch.autocast(together.device.type, enabled=False):
            total = self.loss(together, labels)
            for loss, embeddings in zip(self.branch_losses, single[: len(self.branch_losses)], strict=True):
                total = total + self.branch_weight * loss(embeddings, labels)
        return total, together.detach(), labels

    def watch(self) -> dict[str, float]:
        """What the loss watches since the last call: of the branches' losses, averaged, where these alone train them."""
        found = [loss.watch() for loss in [self.loss, *self.branch_losses] if hasattr(loss, "watch")]
        found = found[1:] if self.branches_train_alone else found[:1]
        return {name: sum(row[name] for row in found) / len(found) for name in (found[0] if found else ())}


def shares_of(n: int, device) -> list[int]:
    """How many pairs of this step each process has, by rank; they may differ by a pair or a person."""
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return [n]
    counts = torch.empty(torch.distributed.get_world_size(), dtype=torch.int64, device=device)
    torch.distributed.all_gather(list(counts.split(1)), torch.tensor([n], device=device))
    return counts.tolist()


def of_all_processes(values: torch.Tensor, shares: list[int]) -> torch.Tensor:
    """`values` (b, ...) of all processes, joined in the order of their ranks; gradients flow back to each."""
    if len(shares) == 1:
        return values
    padded = torch.cat([values, values.new_zeros(max(shares) - len(values), *values.shape[1:])])
    if values.is_floating_point():
        parts = all_gather(padded)
    else:
        parts = [torch.zeros_like(padded) for _ in shares]
        torch.distributed.all_gather(parts, padded)
    return torch.cat([part[:n] for part, n in zip(parts, shares, strict=True)])
