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

SHRINKAGE = 0.1  # share of the mean variance in the covariance within people: few pairs do not fix every direction


def taught(vectors: np.ndarray, people: np.ndarray, size: int, share: float = 0.5) -> np.ndarray:
    """(N, size) float32 unit vectors, what a student is to answer to N pairs.

    vectors: (N, T) the teachers' concatenated unit vectors. people: (N,) whom each pair shows. The vectors are turned
    to the `size` directions that tell people apart best, by linear discriminant analysis: scatter within a person is
    made equal in all directions. The answer to a pair is a mean of its own vector and of the person's mean, which has
    the weight `share`.
    """
    centred = np.asarray(vectors, np.float64) - vectors.mean(0)
    _, label = np.unique(people, return_inverse=True)
    counts = np.bincount(label)[:, None]
    sums = np.zeros((len(counts), centred.shape[1]))
    np.add.at(sums, label, centred)
    means = sums / counts
    within = np.cov((centred - means[label]).T)
    within += SHRINKAGE * np.trace(within) / len(within) * np.eye(len(within))
    variances, axes = np.linalg.eigh(within)
    white = axes / np.sqrt(variances)
    _, turn = np.linalg.eigh(np.cov((means @ white).T))
    project = white @ turn[:, ::-1][:, :size]
    own, of_person = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (centred @ project, means @ project))
    mixed = (1 - share) * own + share * of_person[label]
    return (mixed / np.linalg.norm(mixed, axis=1, keepdims=True)).astype(np.float32)


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
