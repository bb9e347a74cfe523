"""How a training notebook ends: test pictures get names, rates get intervals, and what cannot be measured is NaN."""

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from face3d_lib.base.tables import read_table
from face3d_lib.data.splits import Splits
from face3d_lib.evaluate import rating
from face3d_lib.train.training_data import TrainingData, open_training_data

NAMES = ["anna", "bo", "007"]


def training_data(test: list[str]) -> TrainingData:
    """A closed set of three people whose test pictures show `test`."""
    classes = sorted(NAMES)
    table = pd.DataFrame({"pair_id": [f"{name}/{k}" for k, name in enumerate(test)], "cls_name": test}, dtype=str)
    empty = pd.DataFrame({"pair_id": [], "cls_name": []}, dtype=str)
    splits = Splits(table, table, table, *[empty] * 5)
    labels = np.array([classes.index(name) for name in test], np.int64)
    rows = np.arange(len(test))
    return TrainingData(None, splits, classes, (rows, labels), (rows[:1], labels[:1]), (rows, labels))


@pytest.fixture
def rated(tmp_path, monkeypatch):
    """`rate(test, named)`: the rates when the network calls the test pictures `named`."""
    this = SimpleNamespace(folder=tmp_path, parameters={"loss": "arcface", "modality": "depth", "lr": 1})
    monkeypatch.setattr(rating, "unseen", lambda *arguments: {"eer": 0.25, "eer_low": 0.2, "eer_high": math.nan})

    def rate(test, named):
        data = training_data(test)
        monkeypatch.setattr(
            rating, "predict", lambda *arguments: np.array([data.classes.index(name) for name in named], np.int64)
        )
        return rating.rate_training(this, data, None, None)

    return rate


def test_accuracy_is_the_share_of_right_names_and_every_name_is_kept(rated, tmp_path):
    rates = rated(["anna", "bo", "007", "anna"], ["anna", "bo", "bo", "007"])
    assert rates["accuracy"] == 0.5
    assert 0 <= rates["accuracy_low"] <= 0.5 <= rates["accuracy_high"] <= 1
    assert {name: rates[name] for name in ("loss", "modality", "people", "train", "eval", "test")} == {
        "loss": "arcface", "modality": "depth", "people": 3, "train": 4, "eval": 1, "test": 4,
    }  # fmt: skip
    table = read_table(tmp_path / "predictions.csv", ["pair_id", "cls_name", "predicted"])
    assert table["predicted"].tolist() == ["anna", "bo", "bo", "007"]
    assert table["cls_name"].tolist() == ["anna", "bo", "007", "anna"]
    assert rating.counts_text(rates) == "people=3 train=4 eval=1 test=4\nchance accuracy 0.333"
    assert rating.rates_text(rates).splitlines()[1] == "people never seen: EER 0.250 [0.200, nan]"


def test_without_test_pictures_the_accuracy_is_nan(rated):
    rates = rated([], [])
    assert math.isnan(rates["accuracy"])
    assert math.isnan(rates["accuracy_high"])
    assert rates["eer"] == 0.25


def test_the_data_of_a_training_is_the_division_by_number(monkeypatch, capsys, tmp_path):
    table = pd.DataFrame({"pair_id": ["b/1", "a/1", "a/2"], "cls_name": ["b", "a", "a"]})
    empty = table[:0]
    monkeypatch.setattr(
        "face3d_lib.train.training_data.read_splits", lambda folder: Splits(table, table[1:2], empty, *[empty] * 5)
    )
    pack = SimpleNamespace(rows=lambda ids: np.array([{"a/1": 5, "a/2": 6, "b/1": 7}[name] for name in ids], int))
    monkeypatch.setattr("face3d_lib.train.training_data.Pack", SimpleNamespace(open=lambda folder: pack))
    data = open_training_data(SimpleNamespace(need=lambda name: tmp_path / name))
    assert data.classes == ["a", "b"]
    assert [part.tolist() for part in data.train] == [[7, 5, 6], [1, 0, 0]]
    assert [part.tolist() for part in data.evaluation] == [[5], [0]]
    assert len(data.test[0]) == len(data.test[1]) == 0
    assert capsys.readouterr().out == "2 people: 3 pairs to train, 1 to choose the best epoch, 0 to test\n"
