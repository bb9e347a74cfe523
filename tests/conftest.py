"""Shared by all tests: one thread for torch where tests run side by side, slow tests only when asked for."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two pytest workers on two cores
os.environ.setdefault("MPLBACKEND", "Agg")

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_collection_modifyitems(items):
    if os.environ.get("FACE3D_SLOW"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="full counts: make test-full"))


@pytest.fixture
def shared_data():
    """The folder of real photos with depth that lies beside the project on some machines; the test skips elsewhere."""
    if not SHARED_DATA.is_dir():
        pytest.skip("real photos are not here (../shared/data)")
    return SHARED_DATA
