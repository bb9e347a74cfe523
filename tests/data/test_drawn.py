"""A pack of parametric heads: the same crops as the alignment makes of the same points, the same bytes each time."""

import numpy as np
import pytest

from face3d_lib.base.errors import UserError
from face3d_lib.data.crops import align_pair
from face3d_lib.data.drawn import align_depth, pack_parametric
from face3d_lib.data.faces import Detection, Faces
from face3d_lib.data.pairs import RGBDPair
from face3d_lib.data.warp import AlignSettings
from face3d_lib.synthetic.parametric_camera import picture

DLIB = AlignSettings(mode="dlib")


@pytest.mark.parametrize("settings", [DLIB, AlignSettings(), AlignSettings(image_size=64)])
def test_a_drawn_face_is_aligned_like_a_found_one(settings):
    shown = picture(0, 1, 0)
    crop, per_px = align_depth(shown.depth, shown.found, settings)
    points = shown.found.astype(float)
    face = Detection(np.array([10.0, 10.0, 90.0, 90.0]), points, 1.0)
    rgb = np.zeros((*shown.depth.shape, 3), np.uint8)
    row = {}
    pair = RGBDPair("m/a", "m", rgb, shown.depth.astype(np.float32), "mm", "", "")
    _, expected = align_pair(pair, Faces([face]), settings, row)
    np.testing.assert_array_equal(crop, expected)
    assert per_px == pytest.approx(row["depth_per_px"], rel=1e-6)


def test_a_pack_is_made_once_and_again_for_other_settings(tmp_path):
    made = pack_parametric(tmp_path / "a", 2, 2, DLIB, seed=7, progress=False)
    assert len(made) == 8
    assert list(made.index["subject_id"].unique()) == ["m0000", "m0001"]
    assert made.index["pair_id"][2].startswith("m0000/s2_")
    assert not made.batch([0]).rgb.any()
    before = (tmp_path / "a" / "depth.npy").stat().st_mtime_ns
    assert pack_parametric(tmp_path / "a", 2, 2, DLIB, seed=7, progress=False).info == made.info
    assert (tmp_path / "a" / "depth.npy").stat().st_mtime_ns == before
    assert pack_parametric(tmp_path / "b", 2, 2, DLIB, seed=7, progress=False).info["sha256"] == made.info["sha256"]
    other = pack_parametric(tmp_path / "a", 2, 2, DLIB, seed=8, progress=False)
    assert other.info["sha256"]["depth.npy"] != made.info["sha256"]["depth.npy"]
    later = pack_parametric(tmp_path / "c", 1, 2, DLIB, seed=7, first_subject=1, progress=False)
    np.testing.assert_array_equal(later.depth, made.depth[4:])


def test_what_cannot_be_made_is_refused(tmp_path):
    with pytest.raises(UserError, match="'none' uses no points"):
        pack_parametric(tmp_path, 2, 2, AlignSettings(mode="none"))
    with pytest.raises(UserError, match="subjects is 0"):
        pack_parametric(tmp_path, 0, 2, DLIB)
