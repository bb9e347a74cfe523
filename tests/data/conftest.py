"""The detector, loaded once for all tests of the data room."""

import pytest
import torch

from face3d_lib.data.faces import load_detector


@pytest.fixture(scope="session")
def detector():
    torch.set_num_threads(1)
    return load_detector()
