"""Synthetic faces and the default recogniser, made once for all tests of this folder."""

import pytest

from face3d_lib.serve.recogniser import Recogniser
from face3d_lib.synthetic import dataset, people


@pytest.fixture(scope="session")
def faces(tmp_path_factory):
    """Three synthetic people with two easy pictures in each of two sessions, as raw data."""
    folder = tmp_path_factory.mktemp("faces") / "raw"
    easy = people.Knobs(yaw=5, occlusion=0, glasses=0)
    dataset.make_dataset(folder, 3, 2, seed=4, knobs=easy, workers=1)
    return folder


@pytest.fixture(scope="session")
def recogniser():
    return Recogniser.load()


@pytest.fixture
def one_load(recogniser, monkeypatch):
    """The default recogniser is loaded once for all tests, and not by each command."""
    load = Recogniser.load
    monkeypatch.setattr(
        Recogniser, "load", lambda name="pretrained": recogniser if name in ("", "pretrained") else load(name)
    )
