"""Several networks in one: a student learns the embeddings that its teachers give together.

Networks that were trained from other seeds or on other heads err on other faces, and the concatenation of their unit
vectors errs less than each. A student of the size of one teacher can learn most of that (Hinton et al. 2015, arXiv
1503.02531; for embeddings, Duong et al. 2018, ShrinkTeaNet, arXiv 1905.10620).
"""

import hashlib

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


def taught(vectors: np.ndarray) -> np.ndarray:
    """(N, T) float32 unit vectors, what a student is to answer to N pairs.

    vectors: (N, T) the teachers' unit vectors, concatenated. Their mean, which all faces share, is taken away. Turning
    them to fewer directions, those that tell synthetic people apart best, was tried: it took away what whitening on a
    sensor needs.
    """
    centred = vectors - vectors.mean(0)
    return (centred / np.linalg.norm(centred, axis=1, keepdims=True)).astype(np.float32)


class Distillation(nn.Module):
    """1 - cosine between the embedding of a pair and its answer; the "label" of a pair is its row of the answers.

    answers: (N, D) float32 unit vectors. The result is a mean over the batch.
    """

    answers: torch.Tensor

    def __init__(self, answers: np.ndarray):
        super().__init__()
        self.register_buffer("answers", torch.from_numpy(answers), persistent=False)

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return (1 - F.cosine_similarity(embeddings.float(), self.answers[labels])).mean()

    def extra_repr(self) -> str:
        return f"answers={hashlib.sha256(self.answers.cpu().numpy().tobytes()).hexdigest()[:16]}"
