"""Finding pairs: every file of a data set ends in one row, and what is no data in none."""

import os
import time
import unicodedata

import numpy as np
import pytest
from bad_inputs import (
    declare,
    depth_of,
    status_of,
    texture,
    write_pair,
)
from PIL import Image

from face3d_lib.base.errors import UserError
from face3d_lib.data.convention import DepthConvention
from face3d_lib.data.decoding import read_depth, read_pair, read_rgb
from face3d_lib.data.pairs import (
    find_pairs,
    people_of,
)

MM = DepthConvention("mm", "farther")
SHAPE = (48, 40)


def rows_of(root):
    return {row.pair_id: row.status for row in find_pairs(root)}


def test_every_file_ends_in_exactly_one_row(tmp_path):
    root = declare(tmp_path)
    write_pair(root, "p1/good", texture())
    write_pair(root, "Ångström, José/with space, comma", texture())
    write_pair(root, "=p2/-1", texture())
    Image.fromarray(texture()).save(root / "p1" / "no_depth.jpg")
    np.save(root / "p1" / "no_rgb.npy", depth_of(SHAPE))
    write_pair(root, "p1/double", texture())
    Image.fromarray(texture()).save(root / "p1" / "double.JPG")
    write_pair(root, "p1/two_depths", texture())
    Image.fromarray(depth_of(SHAPE)).save(root / "p1" / "two_depths.depth.png")
    Image.fromarray(texture()).save(root / "p1" / "old.gif")
    Image.fromarray(texture()).save(root / "p1" / "x.depth.jpg")
    (root / "p1" / "notes.txt").write_text("not an input")
    (root / "p1" / ".hidden.png").write_text("not an input")
    write_pair(root, "p1/deeper/a", texture())
    Image.fromarray(texture()).save(root / "stray.png")
    (root / "p3").mkdir()
    assert rows_of(root) == {
        "./stray.png": "refused_path",
        "=p2/-1": "ok",
        "p1/deeper/": "refused_path",
        "p1/double": "ambiguous_name",
        "p1/good": "ok",
        "p1/no_depth": "missing_depth",
        "p1/no_rgb": "missing_rgb",
        "p1/old": "unsupported_mode",
        "p1/two_depths": "ambiguous_name",
        "p1/x.depth.jpg": "refused_path",
        "Ångström, José/with space, comma": "ok",
    }
    for row in find_pairs(root):
        assert bool(row.detail) == (row.status != "ok")
        if row.status == "ok":
            assert np.array_equal(read_pair(row, MM).rgb, texture())
        else:
            assert status_of(read_pair, row, MM) == row.status


def test_names_that_no_csv_can_hold_are_refused_with_a_printable_row(tmp_path):
    root = declare(tmp_path)
    write_pair(root, "p1/line\nbreak", texture())
    write_pair(root, "p1/back\\slash", texture())
    write_pair(root, "~p2/a", texture())
    raw = os.fsencode(root / "p1") + b"/caf\xe9"
    Image.fromarray(texture()).save(os.fsdecode(raw + b".png"))
    os.mkdir(os.fsencode(root) + b"/\xff")
    rows = find_pairs(root)
    assert {row.status for row in rows} == {"refused_path"}
    names = ["back\\slash.npy", "back\\slash.png", "caf\\xe9.png", "line\\nbreak.npy", "line\\nbreak.png"]
    assert [row.pair_id for row in rows] == ["\\xff/", *(f"p1/{name}" for name in names), "~p2/"]
    for row in rows:
        assert row.pair_id.encode().decode().isprintable()
        assert row.subject_id


def test_a_name_of_255_bytes_is_read(tmp_path):
    root = declare(tmp_path)
    write_pair(root, "p1/" + "n" * 251, texture())
    assert list(rows_of(root).values()) == ["ok"]
    assert read_pair(find_pairs(root)[0], MM).rgb.shape == (*SHAPE, 3)


def test_twins_in_unicode_form_are_reported_and_not_mixed(tmp_path):
    root = declare(tmp_path)
    nfc, nfd = unicodedata.normalize("NFC", "José"), unicodedata.normalize("NFD", "José")
    write_pair(root, f"{nfc}/a", texture())
    write_pair(root, f"{nfd}/b", texture())
    write_pair(root, f"p1/{nfc}", texture())
    write_pair(root, f"p1/{nfd}", texture())
    write_pair(root, "p1/other", texture())
    rows = rows_of(root)
    assert sorted(rows.values()) == ["ambiguous_name"] * 4 + ["ok"]
    assert rows["p1/other"] == "ok"


def test_links_and_pipes_neither_leave_the_root_nor_block(tmp_path):
    root, outside = declare(tmp_path / "root"), tmp_path / "outside"
    write_pair(outside, "q/secret", texture())
    write_pair(root, "p1/good", texture())
    links = root / "p1"
    (links / "out.png").symlink_to(outside / "q" / "secret.png")
    (links / "itself.png").symlink_to(links / "itself.png")
    (links / "nothing.png").symlink_to(links / "not_there.png")
    (links / "inside.png").symlink_to(links / "good.png")
    (links / "loop").symlink_to(root)
    (root / "p2").symlink_to(outside / "q")
    (root / "p3").symlink_to(root)
    (root / "p4").symlink_to(root / "p4")
    os.mkfifo(links / "pipe.npy")
    start = time.monotonic()
    rows = rows_of(root)
    assert time.monotonic() - start < 5
    assert rows == {
        "p1/good": "ok",
        "p1/inside": "missing_depth",
        "p1/itself.png": "refused_path",
        "p1/loop/": "refused_path",
        "p1/nothing.png": "refused_path",
        "p1/out.png": "refused_path",
        "p1/pipe.npy": "refused_path",
        "p2/": "refused_path",
        "p3/": "refused_path",
        "p4/": "refused_path",
    }
    assert status_of(read_depth, links / "pipe.npy", MM, SHAPE) == "refused_path"


def test_a_folder_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(UserError, match="not_there"):
        find_pairs(tmp_path / "not_there")
    assert find_pairs(declare(tmp_path)) == []
    assert status_of(read_rgb, tmp_path / "not_there.png") == "decode_error"


@pytest.mark.parametrize(
    "folder",
    ["@eaDir", "__MACOSX", "lost+found", "$RECYCLE.BIN", "System Volume Information", "#recycle", ".Trash-1000"],
)
def test_what_systems_leave_behind_is_nobody(tmp_path, folder):
    root = declare(tmp_path)
    write_pair(root, "anna/01", texture())
    for place in (folder, folder.swapcase(), f"{folder}/anna", f"anna/{folder}/01.png/more"):
        write_pair(root, f"{place}/01", texture())
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "._01.png", ".01.npy"):
        (root / "anna" / name).write_bytes(bytes(100))
        (root / name).write_bytes(bytes(100))
    (root / "empty").mkdir()
    (root / "anna" / "notes" / "more").mkdir(parents=True)
    (root / "anna" / "notes" / "more" / "list.txt").write_text("not an input")
    assert rows_of(root) == {"anna/01": "ok"}
    assert people_of(find_pairs(root)) == ["anna"]


def test_depth_under_a_picture_s_name_is_told_how_it_should_be_called(tmp_path):
    root = declare(tmp_path)
    (root / "p").mkdir()
    for name in ("1.jpg", "2_color.png", "4.jpg"):
        Image.fromarray(texture()).save(root / "p" / name)
    for name in ("1.png", "2_depth.png"):
        Image.fromarray(depth_of(SHAPE)).save(root / "p" / name)
    np.save(root / "p" / "4.depth.npy", depth_of(SHAPE))
    details = {row.pair_id: row.detail for row in find_pairs(root)}
    assert "name it 1.depth.png" in details["p/1"]
    assert "which holds 16-bit numbers" in details["p/2_depth"]
    assert "remove the picture" in details["p/2_color"]
    assert "name it 4.npy" in details["p/4.depth"]
