"""Kept faces: the same crop is cut from them as from the whole picture."""

import numpy as np
import pytest

from face3d_lib.base.errors import UserError
from face3d_lib.data.convention import DepthConvention
from face3d_lib.data.crops import align_pair
from face3d_lib.data.decoding import read_pair
from face3d_lib.data.pairs import single_pair
from face3d_lib.data.warp import AlignSettings
from face3d_lib.serve import kept


@pytest.mark.parametrize("mode", ["template", "dlib", "facenet"])
def test_the_same_crop_as_from_the_whole_picture(faces, recogniser, mode):
    file = faces / "p0001" / "s2_000.png"
    pair = read_pair(single_pair(file, file.with_suffix(".npy")), DepthConvention("mm", "farther"))
    wide = [np.pad(array, [(70, 110), (90, 130)] + [(0, 0)] * (array.ndim - 2)) for array in (pair.rgb, pair.depth)]
    pair = type(pair)(pair.pair_id, pair.subject_id, *wide, "mm", pair.rgb_sha256, pair.depth_sha256)
    seen = recogniser.see(pair)
    data = kept.pack(seen)
    part, found = kept.unpack(data, "crops")
    assert part.rgb.size < pair.rgb.size
    assert (part.pair_id, part.rgb_sha256, part.depth_unit) == (pair.pair_id, pair.rgb_sha256, "mm")
    rows = {}, {}
    whole = align_pair(pair, seen.faces, AlignSettings(mode), rows[0])
    again = align_pair(part, found, AlignSettings(mode), rows[1])
    np.testing.assert_array_equal(whole[1], again[1])
    assert np.abs(whole[0].astype(int) - again[0]).max() <= 1  # sums of other numbers
    assert rows[0]["depth_per_px"] == pytest.approx(rows[1]["depth_per_px"], rel=1e-6)


@pytest.mark.parametrize("data", [b"", b"\x00" * 20, b"not a file of this kind at all"])
def test_what_is_no_kept_face_is_one_line(data):
    with pytest.raises(UserError, match=r"crops-1.*enrol again"):
        kept.unpack(data, "crops-1")
