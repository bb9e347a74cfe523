"""Crops cut again: equal to those of a fresh alignment, and a pair that is gone stays as a row."""

import numpy as np
import pytest

from face3d_lib.base.errors import UserError
from face3d_lib.data import alignment, pack, recrop
from face3d_lib.data.convention import read_convention
from face3d_lib.data.warp import AlignSettings
from face3d_lib.synthetic.dataset import make_dataset

DLIB = AlignSettings("dlib")


@pytest.fixture(scope="module")
def aligned(tmp_path_factory):
    """(raw folder, alignment.csv of mode template, pack of mode dlib from the same pictures)."""
    root = tmp_path_factory.mktemp("recrop")
    make_dataset(root / "raw", 2, 2, sessions=1, workers=1)
    table = alignment.align_folder(root / "raw", root / "template", AlignSettings(), workers=1, progress=False)
    alignment.align_folder(root / "raw", root / "dlib", DLIB, workers=1, progress=False)
    return root / "raw", table, pack.make_pack(root / "dlib", root / "fresh", progress=False)


def test_crops_cut_again_are_those_of_a_fresh_alignment(aligned, tmp_path):
    raw, table, fresh = aligned
    again = recrop.cut_again(raw, table, DLIB, tmp_path / "pack", read_convention(raw))
    assert again.index["pair_id"].tolist() == fresh.index["pair_id"].tolist()
    assert again.info["source"]["settings_hash"] == fresh.info["source"]["settings_hash"] == DLIB.hash()
    np.testing.assert_array_equal(again.rgb, fresh.rgb)
    np.testing.assert_array_equal(np.asarray(again.depth) > 0, np.asarray(fresh.depth) > 0)
    np.testing.assert_allclose(again.scales, fresh.scales, rtol=1e-6)
    made = (tmp_path / "pack" / "rgb.npy").stat().st_mtime_ns
    recrop.cut_again(raw, table, DLIB, tmp_path / "pack", read_convention(raw))
    assert (tmp_path / "pack" / "rgb.npy").stat().st_mtime_ns == made  # nothing is made twice


def test_without_points_the_face_is_looked_for(aligned, tmp_path):
    raw, _, fresh = aligned
    table = alignment.align_folder(raw, tmp_path / "none", AlignSettings("none"), workers=1, progress=False)
    again = recrop.cut_again(raw, table, DLIB, tmp_path / "pack", read_convention(raw))
    np.testing.assert_allclose(
        again.rgb.astype(int), fresh.rgb, atol=1
    )  # points of full precision, not those of the table


def test_a_pair_that_cannot_be_read_any_more_has_neither_modality(aligned, tmp_path):
    _, table, _ = aligned
    make_dataset(tmp_path / "raw", 2, 2, sessions=1, workers=1)
    lost = table["pair_id"].iloc[1]
    (tmp_path / "raw" / f"{lost}.npy").write_bytes(b"no depth")
    again = recrop.cut_again(tmp_path / "raw", table, DLIB, tmp_path / "pack", read_convention(tmp_path / "raw"))
    empty = [not np.any(again.rgb[row]) and not np.any(again.depth[row]) for row in range(len(again))]
    assert empty == (again.index["pair_id"] == lost).tolist()
    with pytest.raises(UserError, match="holds none of the aligned pairs"):
        recrop.cut_again(
            tmp_path / "raw", table.assign(pair_id="x/y"), DLIB, tmp_path / "p", read_convention(tmp_path / "raw")
        )
