"""Every loss that a training notebook offers trains on the smallest set there is: two people with two pictures each."""

import dataclasses
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import nbformat
import numpy as np
import pytest

from face3d_lib.base.paths import NOTEBOOKS
from face3d_lib.runs.parameters import parameter_model
from face3d_lib.train.fit import fit
from face3d_lib.train.losses import describe

sys.path.append(str(Path(__file__).parent))
from test_fit import GENTLE, NONE, SETTINGS, build, tiny_network, toy_pack  # noqa: F401 (a fixture)

TRAINING = [NOTEBOOKS / f"{name}.ipynb" for name in (
    "30_train_softmax", "31_train_arcface", "32_train_triplet", "33_train_multi_similarity", "34_train_adaface"
)]  # fmt: skip
OFFERED = [
    (path, name) for path in TRAINING for name in get_args(parameter_model(path).model_fields["loss"].annotation)
]


def loss_of(path: Path, name: str, people: int, size: int, n_train: int):
    """The loss that the notebook's own cells make for the parameter loss = name."""
    cells = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    (made,) = (source for source in cells if source.count("criterion = ") and "fit.fit" not in source)
    data = SimpleNamespace(train=(np.arange(n_train),))
    namespace = {"loss": name, "people": people, "size": size, "data": data, "batch_size": 32}
    exec(cells[0], namespace)  # the imports
    exec(made, namespace)
    return namespace["criterion"]


@pytest.mark.parametrize(("path", "name"), OFFERED, ids=[name for _, name in OFFERED])
def test_a_loss_trains_two_people_with_two_pictures_each(path, name, tmp_path):
    pack, subject = toy_pack(people=2, images=2)
    embedder, _ = build("rgbd", classes=2)
    criterion = loss_of(path, name, people=2, size=16, n_train=4)
    per_person = 4 if "per_person" in path.read_text() else 0
    settings = dataclasses.replace(SETTINGS, epochs=2, batch_size=8 if per_person else 32, per_person=per_person)
    rows = np.arange(4)
    history = fit(embedder, criterion, pack, (rows, subject), NONE, tmp_path, settings, GENTLE, "cpu", False)
    assert np.isfinite(history["loss"]).all()


def test_no_two_names_offer_the_same_loss():
    described = {name: describe(loss_of(path, name, 5, 16, 300)) for path, name in OFFERED}
    assert len(set(described.values())) == len(described)
