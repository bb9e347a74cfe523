"""What can be measured with few people: said before the work as after it."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from test_splits import make_aligned, table

from face3d_lib.base import tables
from face3d_lib.base.errors import UserError
from face3d_lib.data import manifest, prospects, splits
from face3d_lib.data.pairs import PairFiles
from face3d_lib.data.prospects import expected_people, people_of_splits, require_training, unmeasured
from face3d_lib.data.splits import SplitSettings, make_splits
from face3d_lib.runs.parameters import find_notebook, read_cells


def files(people, images, status="ok"):
    made = [(f"p{p}", f"p{p}/{k}") for p in range(people) for k in range(images)]
    return [PairFiles(pair_id, person, Path(pair_id), Path(pair_id), status) for person, pair_id in made]


@pytest.mark.parametrize(
    ("people", "missing"),
    [
        (1, {"closed_set", "verification", "identification", "threshold", "strangers"}),
        (3, {"verification", "identification", "threshold", "strangers"}),
        (4, {"threshold", "strangers"}),
        (6, {"threshold", "strangers"}),
        (7, {"threshold"}),
        (9, {"strangers"}),
        (12, set()),
        (120, set()),
    ],
)
def test_what_is_said_before_is_what_comes(people, missing):
    expected = expected_people(files(people, 4), SplitSettings())
    made = people_of_splits(make_splits(table(people=people, images=4), SplitSettings()))
    assert {role: expected[role] for role in made} == made
    assert set(unmeasured(made)) == missing
    assert all("needed" in reason for reason in unmeasured(made).values())


def test_too_few_people_are_refused_before_anything_slow():
    settings = SplitSettings()
    require_training(expected_people(files(2, 3), settings), settings)
    for too_few, counted in (
        (files(6, 2), "0 of 6 people"),
        (files(1, 50), "1 of 1 people"),
        (files(3, 4, "no_face"), "0 of 3"),
        ([], "0 of 0"),
    ):
        with pytest.raises(UserError, match=f"too few people: {counted}"):
            require_training(expected_people(too_few, settings), settings)
    tested_only = SplitSettings(train_dev_test_people=("0", "0", "1"))
    require_training(expected_people(files(1, 3), tested_only), tested_only)


def test_what_is_no_shot_is_nobody():
    strays = [PairFiles("./a.png", ".", None, None, "refused_path", "why")]
    assert expected_people([*files(3, 4), *strays], SplitSettings())["all"] == 3


def test_notebook_20_writes_no_table_where_too_few_people_are_left(tmp_path):
    """A finished division stays as it is when the notebook is run again with a min_images that nobody meets."""
    make_aligned(tmp_path / "aligned", table(people=6, images=4))
    (cell,) = [
        cell.source for cell in read_cells(find_notebook("20_split_subjects")) if "SplitSettings(" in cell.source
    ]
    names = {
        "tables": tables, "manifest": manifest, "prospects": prospects, "splits": splits, "raw": tmp_path,
        "aligned": tmp_path / "aligned", "this": SimpleNamespace(folder=tmp_path / "stage"),
        "train_eval_test": ["0.7", "0.2", "0.1"], "train_dev_test_people": ["0.6", "0.15", "0.25"],
        "unknown_people": "0.3", "min_images": 1000, "seed": 0,
    }  # fmt: skip
    with pytest.raises(UserError, match="too few people"):
        exec(cell, dict(names))
    assert not (tmp_path / "stage").exists()
    exec(cell, names | {"min_images": 3})
    assert (tmp_path / "stage/train.csv").is_file()
