"""Many pairs at once: every pair is a row, one bad pair stops nothing, and a csv leads nowhere else."""

import shutil

import numpy as np
import pytest
from PIL import Image

from face3d_lib.base.errors import UserError
from face3d_lib.serve.batches import enrol_folder, identify_many, pairs_of, strangers_of
from face3d_lib.serve.people import People
from face3d_lib.serve.reading import UNDECLARED


@pytest.fixture
def mixed(faces, tmp_path):
    """Two people; a picture without a face, one without depth, and one whose depth is of another size."""
    root = tmp_path / "mixed"
    for person in ("p0000", "p0001"):
        (root / person).mkdir(parents=True)
        for suffix in (".png", ".npy"):
            shutil.copy(faces / person / f"s1_000{suffix}", root / person)
    shutil.copy(faces / "dataset.json", root)
    Image.new("RGB", (160, 160), "grey").save(root / "p0000" / "empty.png")
    np.save(root / "p0000" / "empty.npy", np.full((160, 160), 800.0))
    shutil.copy(faces / "p0000" / "s1_001.png", root / "p0000" / "alone.png")
    shutil.copy(faces / "p0001" / "s1_001.png", root / "p0001" / "size.png")
    np.save(root / "p0001" / "size.npy", np.full((20, 20), 800.0))
    return root


def test_every_picture_has_a_row_and_only_good_ones_are_enrolled(mixed, tmp_path, recogniser):
    people = People.open(tmp_path / "g", recogniser)
    done = {one.pair_id: one for one in enrol_folder(people, mixed, UNDECLARED)}
    assert {pair_id: one.status for pair_id, one in done.items()} == {
        "p0000/alone": "refused", "p0000/empty": "refused", "p0000/s1_000": "enrolled",
        "p0001/s1_000": "enrolled", "p0001/size": "refused",
    }  # fmt: skip
    assert "no face" in done["p0000/empty"].reasons[0]
    assert all(len(one.reasons) > 0 for one in done.values() if one.status == "refused")
    again = enrol_folder(people, mixed, UNDECLARED)
    assert sorted(one.status for one in again) == ["known", "known", "refused", "refused", "refused"]
    assert people.names == ("p0000", "p0001")


def test_a_folder_and_a_csv_give_the_same_answers(mixed, tmp_path, recogniser):
    people = People.open(tmp_path / "g", recogniser)
    enrol_folder(people, mixed, UNDECLARED)
    pairs = pairs_of(mixed)
    rows = identify_many(people, pairs, UNDECLARED)
    names = [row["match"].name if row["match"] else None for row in rows]
    assert names == [None, None, "p0000", "p0001", None]
    assert [row["error"] is None for row in rows] == [False, False, True, True, False]
    lines = [f"{rgb.relative_to(mixed)},{depth.relative_to(mixed)}" for rgb, depth, _ in pairs if depth]
    (mixed / "probes.csv").write_text("\n".join(["rgb,depth", *lines, ""]))
    listed = identify_many(people, pairs_of(mixed / "probes.csv"), UNDECLARED)
    assert [row["match"].name if row["match"] else None for row in listed] == [None, "p0000", "p0001", None]


@pytest.mark.parametrize("cell", ["../outside.png", "/etc/passwd", ""])
def test_a_csv_names_only_files_below_its_folder(tmp_path, cell):
    (tmp_path / "probes.csv").write_text(f"rgb,depth\n{cell},a.npy\n")
    with pytest.raises(UserError, match=r"probes\.csv, line 2"):
        pairs_of(tmp_path / "probes.csv")


def test_empty_folders_are_said(tmp_path, recogniser):
    with pytest.raises(UserError, match="no pairs"):
        pairs_of(tmp_path)
    with pytest.raises(UserError, match="no pairs"):
        enrol_folder(People.open(tmp_path / "g", recogniser), tmp_path, UNDECLARED)
    assert not (tmp_path / "g").exists()


def test_what_is_not_even_a_pair_has_a_row_too(mixed, tmp_path, recogniser, faces):
    """A link that leaves the folder, a picture in the root and a depth map alone were left out without a word."""
    (mixed / "p0000" / "link.png").symlink_to(faces / "p0000" / "s1_001.png")
    shutil.copy(faces / "p0000" / "s1_001.npy", mixed / "p0000" / "alone2.npy")
    shutil.copy(faces / "p0000" / "s1_001.png", mixed / "root.png")
    done = {one.pair_id: one for one in enrol_folder(People.open(tmp_path / "g", recogniser), mixed, UNDECLARED)}
    assert {done[name].status for name in ("p0000/link.png", "p0000/alone2", "./root.png")} == {"refused"}
    assert "leaves the data folder" in done["p0000/link.png"].reasons[0]
    rows = {row["rgb"]: row["error"] for row in identify_many(People.open(tmp_path / "g"), pairs_of(mixed), UNDECLARED)}
    assert "leaves the data folder" in rows[str(mixed / "p0000" / "link.png")]
    assert "move it into a folder" in rows[str(mixed / "root.png")]


def test_a_folder_of_links_is_said_to_be_one(tmp_path, recogniser, faces):
    (tmp_path / "links" / "anna").mkdir(parents=True)
    for suffix in (".png", ".npy"):
        (tmp_path / "links" / "anna" / f"01{suffix}").symlink_to(faces / "p0000" / f"s1_000{suffix}")
    for asked in (pairs_of, lambda root: enrol_folder(People.open(tmp_path / "g", recogniser), root, UNDECLARED)):
        with pytest.raises(UserError, match=r"none of 2 pairs .* a link that leaves the data folder"):
            asked(tmp_path / "links")


def test_strangers_are_all_faces_that_can_be_used(mixed, recogniser):
    found = strangers_of(mixed, recogniser, UNDECLARED)
    assert found.pair_ids.tolist() == ["p0000/s1_000", "p0001/s1_000"]
    assert found.subject_ids.tolist() == ["p0000", "p0001"]
    assert found.vectors.shape == (2, recogniser.size)


def test_a_picture_alone_is_answered_among_many_where_that_is_asked_for(mixed, tmp_path, recogniser):
    """`--allow-missing-depth` held for one pair and not for a folder of them."""
    people = People.open(tmp_path / "g", recogniser)
    enrol_folder(people, mixed, UNDECLARED)
    alone = str(mixed / "p0000" / "alone.png")
    for allowed in (False, True):
        rows = {row["rgb"]: row for row in identify_many(people, pairs_of(mixed), UNDECLARED, 5, allowed)}
        assert (rows[alone]["match"] is not None) == allowed
        assert (rows[alone]["error"] is None) == allowed
    assert "shape" in rows[str(mixed / "p0001" / "size.png")]["error"]
