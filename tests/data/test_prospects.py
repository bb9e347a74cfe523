"""What can be measured with few people: said before the work as after it."""

from pathlib import Path

import pytest
from test_splits import table

from face3d_lib.base.errors import UserError
from face3d_lib.data.pairs import PairFiles
from face3d_lib.data.prospects import expected_people, people_of_splits, require_training, unmeasured
from face3d_lib.data.splits import SplitSettings, make_splits


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
