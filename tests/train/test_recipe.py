"""The rule that chooses batch size, learning rate and augmentation, worked by hand."""

from dataclasses import replace

import pytest
import torch

from face3d_lib.train.augment import Augmentation
from face3d_lib.train.embedder import Architecture, Embedder
from face3d_lib.train.recipe import LEGACY_RECIPE, FitSettings, suited, suited_augmentation


def network(name="small"):
    with torch.device("meta"):  # no weights are needed
        return Embedder(Architecture("rgb", name, embedding_size=8))


@pytest.mark.parametrize(
    ("pairs", "epochs", "batch"),
    [
        (256, 10, 32),  # 8 steps in 10 epochs are 80
        (256, 9, 16),  # 8 in 9 are 72
        (257, 9, 32),  # the last batch is not dropped: 9 in 9 are 81
        (269, 5, 16),
        (4, 1, 16),  # never fewer
        (100_000, 1, 32),  # never more
    ],
)
def test_the_batch_is_smaller_where_steps_are_few(pairs, epochs, batch):
    assert suited(FitSettings(epochs=epochs), pairs, network()).batch_size == batch


def test_the_learning_rate_falls_with_the_width_and_with_the_batch():
    long = FitSettings(epochs=1000)
    assert suited(long, 1000, network()).lr == pytest.approx(6e-3)  # 256 features, batches of 32
    assert suited(long, 1000, network("resnet18")).lr == pytest.approx(6e-3 / 2**0.5)  # 512
    assert suited(long, 1000, network("resnet50")).lr == pytest.approx(6e-3 / 8**0.5)  # 2048
    assert suited(long, 1000, network("efficientnet_lite0")).lr == pytest.approx(6e-3 / 5**0.5)  # 1280
    short = FitSettings(epochs=5)  # of 269 pairs: batches of 16
    assert suited(short, 269, network()).lr == pytest.approx(6e-3 / 2**0.5)
    assert suited(short, 269, network("resnet50")).lr == pytest.approx(6e-3 / 16**0.5)


def test_the_network_without_normalisation_takes_small_steps():
    assert suited(FitSettings(epochs=1000), 1000, network("dlib")).lr == pytest.approx(3e-4)


def test_what_is_given_stays():
    given = FitSettings(epochs=1, batch_size=20, lr=0.5)
    assert suited(given, 10, network()) == given
    assert suited(LEGACY_RECIPE, 10, network("resnet50")) == LEGACY_RECIPE
    persons = suited(FitSettings(epochs=1, per_person=4), 10, network())
    assert persons.batch_size == 32
    half = suited(replace(given, lr=0.0), 10, network())
    assert (half.batch_size, half.lr) == (20, pytest.approx(6e-3 * (20 / 32) ** 0.5))


def test_pairs_are_changed_more_in_longer_trainings():
    for few in (1, 5):
        still = suited_augmentation(few)
        assert (still.flip, still.rotation_deg, still.erase, still.hole_share, still.depth_noise_px) == (
            0.5,
            0,
            0,
            0,
            0,
        )
    between = suited_augmentation(8)  # three of the five epochs from 5 to 10
    assert between.rotation_deg == pytest.approx(0.6 * 3)
    assert between.erase == pytest.approx(0.6 * 0.3)
    assert (between.flip, between.erase_size, between.blur_px) == (0.5, 0.3, 1.5)
    assert suited_augmentation(10) == suited_augmentation(99) == Augmentation()
