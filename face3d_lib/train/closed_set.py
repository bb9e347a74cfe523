"""Closed-set recognition: which of the people in training a picture shows, and how often the answer is right."""

import math

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from ..data.pack import Pack
from .embedder import Embedder

LabelledRows = tuple[np.ndarray, np.ndarray]  # rows of a pack (n,), and the class of each (n,) int64 from 0 to C-1


def classify(loss: nn.Module, embeddings: torch.Tensor) -> torch.Tensor:
    """(B,) int64: the class to which the loss's weights give the highest logit; -1 for a loss without `get_logits`."""
    get_logits = getattr(loss, "get_logits", None)
    if get_logits is None:
        return torch.full((len(embeddings),), -1, device=embeddings.device)
    with torch.no_grad(), torch.autocast(embeddings.device.type, enabled=False):
        return get_logits(embeddings.float()).argmax(1)


def vectors_of(embedder: Embedder, pack: Pack, rows: np.ndarray, batch_size: int = 128) -> torch.Tensor:
    """(n, D) float32 embeddings of the pairs at `rows`, computed in evaluation mode, on the embedder's device."""
    device = next(embedder.parameters()).device
    embedder.eval()
    with torch.inference_mode():
        parts = [
            embedder(pack.batch(rows[i : i + batch_size], device)).float() for i in range(0, len(rows), batch_size)
        ]
    return torch.cat(parts) if parts else torch.empty(0, embedder.architecture.embedding_size, device=device)


def predict(
    embedder: Embedder, loss: nn.Module, pack: Pack, rows: np.ndarray, train: LabelledRows | None = None
) -> np.ndarray:
    """(n,) int64: the closed-set class 0..C-1 of the pairs at `rows`.

    A loss with `get_logits` decides by its own weights. For any other loss the class is the one whose mean direction,
    over the embeddings of `train`, has the highest cosine to the pair's embedding.
    """
    vectors = vectors_of(embedder, pack, rows)
    if hasattr(loss, "get_logits"):
        return classify(loss, vectors).cpu().numpy()
    if train is None:
        raise ValueError("a loss without get_logits names people by the means of `train`: give it")
    means = class_means(vectors_of(embedder, pack, train[0]), torch.from_numpy(train[1]))
    return (nn.functional.normalize(vectors) @ means.T).argmax(1).cpu().numpy()


def class_means(vectors: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(C, D) of unit length: the mean direction of each class's vectors (n, D); labels (n,) int64 from 0 to C-1."""
    labels = labels.to(vectors.device)
    sums = vectors.new_zeros(int(labels.max()) + 1, vectors.shape[1])
    return nn.functional.normalize(sums.index_add(0, labels, nn.functional.normalize(vectors)))


def closed_set_accuracy(
    embedder: Embedder,
    loss: nn.Module,
    pack: Pack,
    rows: np.ndarray,
    labels: np.ndarray,
    train: LabelledRows | None = None,
    accelerator: Accelerator | None = None,
) -> float:
    """Share of `rows` whose class is found; NaN where there are no rows.

    Among several processes each row is counted once, by one of them.
    """
    if len(rows) == 0:
        return math.nan
    rank, world = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    mine = slice(rank, None, world)
    right = int((predict(embedder, loss, pack, rows[mine], train) == labels[mine]).sum()) if len(rows[mine]) else 0
    if accelerator and world > 1:
        right = int(accelerator.gather(torch.tensor([right], device=accelerator.device)).sum())
    return right / len(rows)
