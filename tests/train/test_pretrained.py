"""Networks that come with the environment: they take the crops that they were made for, and nothing else."""

import numpy as np
import pytest
import torch

from face3d_lib.base.errors import UserError
from face3d_lib.data.pack import make_batch
from face3d_lib.data.warp import AlignSettings
from face3d_lib.train.pretrained import ALIGNMENT, load_pretrained


class Crops:
    """A pack, as far as the check of its alignment needs one."""

    def __init__(self, settings):
        self.info = {"source": {"settings_hash": settings.hash(), "depth_unit": "mm"}}


def test_dlib_takes_crops_of_its_own_alignment_only():
    network = load_pretrained("dlib", Crops(ALIGNMENT))
    size = ALIGNMENT.image_size
    rgb = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    with torch.inference_mode():
        assert network(make_batch(rgb, np.zeros((size, size), np.float32), 1.0)).shape == (1, 128)
    for settings in (AlignSettings(), AlignSettings(image_size=size), AlignSettings("dlib", image_size=150)):
        with pytest.raises(UserError, match="align with mode = dlib"):
            load_pretrained("dlib", Crops(settings))


def test_an_unknown_network_is_one_line():
    with pytest.raises(
        UserError, match="pretrained network 'arcface': one of dlib, depth_synthetic, rgbd_synthetic expected"
    ):
        load_pretrained("arcface")
