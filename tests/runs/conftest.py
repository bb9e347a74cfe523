"""The desk on which the tests of this room work."""

import pytest

from face3d_lib.base import paths


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A folder for notebooks, with run folders and figures of its own."""
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(paths, "FIGURES", tmp_path / "figures")
    monkeypatch.delenv("RANK", raising=False)
    (tmp_path / "notebooks").mkdir()
    return tmp_path
