"""What depths mean: declared for a data set, checked, and remembered by a run."""

import pytest
from bad_inputs import (
    declare,
)

from face3d_lib.base.errors import UserError
from face3d_lib.data.convention import DepthConvention, read_convention, read_source, write_source

MM = DepthConvention("mm", "farther")
SHAPE = (48, 40)


def test_the_convention_is_declared_and_never_guessed(tmp_path):
    with pytest.raises(UserError, match=r"dataset.json: depth_unit is not declared"):
        read_convention(tmp_path)
    assert read_convention(tmp_path, "pixel", "nearer") == DepthConvention("pixel", "nearer")
    with pytest.raises(UserError, match="larger_is is not declared"):
        read_convention(tmp_path, depth_unit="mm")
    declare(tmp_path, "m")
    assert read_convention(tmp_path) == read_convention(tmp_path, "m", "farther") == DepthConvention("m", "farther")
    with pytest.raises(UserError, match="the parameter says 'mm'"):
        read_convention(tmp_path, depth_unit="mm")
    for text in (
        "{",
        "[]",
        '{"depth_unit": "inch", "larger_is": "farther"}',
        '{"depth_unit": ["mm"]}',
        "\xff",
    ):
        (tmp_path / "dataset.json").write_text(text, encoding="latin-1")
        with pytest.raises(UserError, match=r"dataset\.json"):
            read_convention(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_dataset_json_in_the_encodings_of_windows(tmp_path, encoding):
    (tmp_path / "dataset.json").write_text('{"depth_unit": "mm", "larger_is": "farther"}', encoding=encoding)
    assert read_convention(tmp_path) == MM


def test_scale_and_marks_are_checked(tmp_path):
    for entry in ('"depth_scale": 0', '"depth_scale": "0.1"', '"depth_scale": NaN', '"depth_scale": true'):
        (tmp_path / "dataset.json").write_text(f'{{"depth_unit": "mm", "larger_is": "farther", {entry}}}')
        with pytest.raises(UserError, match=r"depth_scale .* must be a number above 0"):
            read_convention(tmp_path)
    (tmp_path / "dataset.json").write_text('{"depth_unit": "mm", "larger_is": "farther", "no_reading": 10000}')
    with pytest.raises(UserError, match="no_reading 10000 must be a list"):
        read_convention(tmp_path)
    (tmp_path / "dataset.json").write_text('{"depth_unit": "mm", "larger_is": "farther", "depth_scale": 0.1}')
    with pytest.raises(UserError, match=r"the parameter says 0\.25"):
        read_convention(tmp_path, depth_scale=0.25)
    assert read_convention(tmp_path, depth_scale=0.1).scale == 0.1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "cannot be read as JSON"),
        ('{"depth_unit": "mm", "larger_is": "farther", "depth_scale": 1' + "0" * 400 + "}", "must be a number above 0"),
        (
            '{"depth_unit": "mm", "larger_is": "farther", "no_reading": [1' + "0" * 400 + "]}",
            "must be a list of numbers",
        ),
    ],
    ids=["brackets", "huge scale", "huge mark"],
)
def test_a_hostile_dataset_json_is_one_line(tmp_path, text, message):
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(UserError, match=message):
        read_convention(tmp_path)


def test_a_run_remembers_its_source(tmp_path):
    root = declare(tmp_path / "in")
    for meaning in (MM, DepthConvention("m", "farther", 0.0002, (7.0,))):
        (root / "dataset.json").unlink(missing_ok=True)
        write_source(tmp_path, root, meaning)
        assert read_source(tmp_path) == (root, meaning)
    (root / "dataset.json").write_text('{"depth_unit": "m", "larger_is": "farther", "depth_scale": 0.001}')
    with pytest.raises(UserError, match=r"depth_scale is 0.001 now and was 0.0002 .* run 00_look_at_pairs again"):
        read_source(tmp_path)
    (root / "dataset.json").unlink()
    root.rmdir()
    with pytest.raises(UserError, match="the folder of raw pairs is not there"):
        read_source(tmp_path)
