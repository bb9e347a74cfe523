"""How to train: the settings of the training loop, and the rule that suits them to a network and to a number of pairs."""

import math
from dataclasses import dataclass, fields, replace
from typing import Literal, cast

from .augment import Augmentation
from .dlib_network import DlibNetwork
from .embedder import Branch, Embedder

LARGEST_BATCH, SMALLEST_BATCH = 32, 16  # pairs in one step
LEAST_STEPS = 80  # with fewer steps in all epochs, batches are smaller
LR = 6e-3  # of the network "small" and batches of 32, for which it was tuned
WIDTH = 256  # channels of the last feature map of "small"
FIRST, WHOLE = 5, 10  # epochs up to which a pair is only mirrored, and from which on it is changed as by default
LR_WITHOUT_NORMALISATION = 3e-4  # of dlib's network: nothing keeps its features at their size


@dataclass(frozen=True)
class FitSettings:
    """How to train. The defaults are the recipe of the notebooks; `LEGACY_RECIPE` is that of the legacy project.

    batch_size 0 and lr 0 stand for the numbers that `suited` chooses by the number of pairs and by the network.
    """

    epochs: int = 12
    batch_size: int = 0  # pairs in one step, summed over all processes; 0: `suited` chooses
    per_person: int = 0  # pictures of each person in a batch (P x K batches); 0: pairs in random order
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = 0.0  # the highest learning rate, which is reached at the end of the warm-up; 0: `suited` chooses
    schedule: Literal["cosine", "step"] = "cosine"  # step: the learning rate falls to a tenth every 7 epochs
    warmup: float = 0.2  # share of all steps in which the learning rate rises linearly from 0
    weight_decay: float = 0.05  # of matrices and filters; biases and normalisation layers are not decayed
    clip_norm: float = 5.0  # longer gradients are scaled down to this norm; 0: no clipping
    branch_weight: float = 0.5  # weight of the losses on single branches, where the embedder has several
    seed: int = 0
    precision: Literal["auto", "float32", "bf16"] = "auto"  # auto: bf16 where the processor computes in it
    compile: bool = False  # torch.compile of the branches: minutes at the start, faster steps on a GPU
    save_seconds: float = 60.0  # time between checkpoints within an epoch; one is written after every epoch anyway


# The legacy project used SGD with momentum 0.9, a learning rate of 1e-3 divided by 10 every 7 epochs, batches of 16
LEGACY_RECIPE = FitSettings(
    epochs=25, batch_size=16, optimizer="sgd", lr=1e-3, schedule="step", warmup=0, weight_decay=0, clip_norm=0,
    precision="float32",
)  # fmt: skip


def suited(settings: FitSettings, pairs: int, embedder: Embedder) -> FitSettings:
    """`settings` with a batch size and a learning rate in place of those that are 0.

    The batch has 32 pairs where all epochs together then have LEAST_STEPS steps, and 16 where they have fewer; with
    P x K batches it has 32, because their pairs need many people. The learning rate falls with the square root of the
    number of features: AdamW takes a step of one length for every weight, and in a wider network such steps change the
    features more. It falls with the square root of the batch, too, whose gradient is noisier when it is small (for Adam:
    Malladi et al. 2022, arXiv 2205.10287).
    """
    size, lr = settings.batch_size, settings.lr
    if not size:
        few = math.ceil(pairs / LARGEST_BATCH) * settings.epochs < LEAST_STEPS
        size = SMALLEST_BATCH if few and not settings.per_person else LARGEST_BATCH
    if not lr:
        backbone = cast(Branch, embedder.branch[0]).backbone
        wide = math.sqrt(WIDTH / backbone.num_features)
        lr = LR_WITHOUT_NORMALISATION if isinstance(backbone, DlibNetwork) else LR * wide
        lr *= math.sqrt(size / LARGEST_BATCH)
    return replace(settings, batch_size=size, lr=lr)


def suited_augmentation(epochs: int) -> Augmentation:
    """How far training pairs are changed in a training of so many epochs.

    A network that sees each picture five times has not learnt it yet, and changes make it harder: up to FIRST epochs
    pairs are only mirrored. From there to WHOLE epochs all other changes grow evenly to the default ones.
    """
    share = min(1.0, max(0.0, (epochs - FIRST) / (WHOLE - FIRST)))
    kept = ("flip", "blur_px", "erase_size")  # the last two only say how large a blur or a patch is where there is one
    whole = {field.name: getattr(Augmentation(), field.name) for field in fields(Augmentation)}
    return Augmentation(**{name: value if name in kept else share * value for name, value in whole.items()})
