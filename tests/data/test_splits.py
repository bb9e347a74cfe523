"""Splits: exact integers, walls between people, nothing lost, the same files from any order on any machine."""

import dataclasses
import random

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from face3d_lib.base.atomic import sha256_of
from face3d_lib.base.errors import UserError
from face3d_lib.data.copies import near_duplicates
from face3d_lib.data.splits import (
    FIRST_COLUMNS,
    Splits,
    SplitSettings,
    check_splits,
    failures_to_acquire,
    impostor_indices,
    make_splits,
    paths_of,
    read_splits,
    split_folder,
)
from face3d_lib.synthetic import camera

NAMES = [field.name for field in dataclasses.fields(Splits)]


def table(people=20, images=10, sessions=2, **changes):
    rows = []
    for p in range(people):
        for k in range(images):
            pair_id = f"p{p:03d}/i{k:02d}"
            rows.append(
                {
                    "pair_id": pair_id,
                    "subject_id": f"p{p:03d}",
                    "cls_name": f"p{p:03d}",
                    "session": f"s{k * sessions // images}" if sessions else "",
                    "condition": "frontal",
                    "status": "ok",
                    "rgb_sha256": f"hash of {pair_id}",
                    "sha256": f"hash of {pair_id}",
                    "rgb_image_path": f"{pair_id}.png",
                    "dep_image_path": f"{pair_id}.npy",
                }
            )
    frame = pd.DataFrame(rows, dtype=str)
    for pair_id, (column, value) in changes.items():
        frame.loc[frame["pair_id"] == pair_id, [column] + (["sha256"] if column == "rgb_sha256" else [])] = value
    return frame


def test_people_without_a_usable_picture_do_not_thin_out_a_part():
    frame = table(people=60, images=4)
    frame.loc[frame["subject_id"] >= "p010", "status"] = "no_face"  # ten people are left
    for seed in range(6):
        splits = make_splits(frame, SplitSettings(seed=seed))
        groups = pd.concat([splits.gallery, splits.unknown]).groupby("group")["cls_name"].nunique()
        assert (splits.train["cls_name"].nunique(), groups["dev"], groups["test"]) == (6, 2, 2)


def test_every_input_is_in_one_place_and_people_keep_to_their_side():
    splits = make_splits(table(), SplitSettings())
    placed = [pair_id for name in NAMES if name != "pairs" for pair_id in getattr(splits, name)["pair_id"]]
    assert sorted(placed) == sorted(table()["pair_id"])
    trained, unseen = set(splits.train["cls_name"]), set(splits.probe["cls_name"]) | set(splits.unknown["cls_name"])
    assert len(trained) == 12
    assert len(unseen) == 8
    assert not trained & unseen
    assert splits.train.groupby("cls_name").size().eq(7).all()
    assert set(splits.gallery["session"]) == {"s0"}
    assert set(splits.probe["session"]) == {"s1"}


def test_the_legacy_split_has_everybody_in_the_closed_set():
    splits = make_splits(table(), SplitSettings(train_dev_test_people=("1", "0", "0")))
    assert [len(getattr(splits, name)) for name in NAMES] == [140, 40, 20, 0, 0, 0, 0, 0]


def test_row_order_does_not_matter_and_the_seed_does():
    rows = list(range(200))
    random.Random(3).shuffle(rows)
    one, other = make_splits(table(), SplitSettings()), make_splits(table().iloc[rows], SplitSettings())
    for name in NAMES:
        pd.testing.assert_frame_equal(getattr(one, name), getattr(other, name))
    assert set(make_splits(table(), SplitSettings(seed=1)).train["pair_id"]) != set(one.train["pair_id"])


def test_an_added_image_moves_no_other_person():
    before = make_splits(table(images=10), SplitSettings()).train
    frame = table(images=10)
    extra = frame[frame["pair_id"] == "p003/i09"].assign(pair_id="p003/i10", rgb_sha256="new", sha256="new")
    after = make_splits(pd.concat([frame, extra]), SplitSettings()).train
    others = before["cls_name"] != "p003"
    assert list(before[others]["pair_id"]) == list(after[after["cls_name"] != "p003"]["pair_id"])


def test_dirty_rows_carry_their_reason():
    frame = table(
        people=6,
        **{
            "p000/i00": ("status", "no_face"),
            "p001/i03": ("rgb_sha256", "hash of p001/i02"),  # copy within a person: the later one goes
            "p002/i00": ("rgb_sha256", "hash of p003/i00"),  # copy across people: nobody can say whose face it is
        },
    )
    single = frame[frame["pair_id"] == "p005/i00"].assign(
        pair_id="solo/i00", subject_id="solo", cls_name="solo", rgb_sha256="solo", sha256="solo"
    )
    stray = single.assign(
        pair_id="./stray", subject_id=".", cls_name=".", rgb_sha256="", sha256="", status="refused_path"
    )
    dirty = make_splits(pd.concat([frame, single, stray]), SplitSettings()).dirty
    assert dict(zip(dirty["pair_id"], dirty["reason"], strict=True)) == {
        "p000/i00": "no_face",
        "p001/i03": "duplicate",
        "p002/i00": "duplicate_of_other_subject",
        "p003/i00": "duplicate_of_other_subject",
        "solo/i00": "too_few_images",
        "./stray": "refused_path",
    }
    assert set(dirty["role"]) <= {"train", "dev", "test", ""}


@pytest.mark.parametrize("wall", ["copy", "depth", "trained", "enrolled", "not enrolled", "group"])
def test_a_leak_is_refused(wall):
    splits = make_splits(table(), SplitSettings())
    first = splits.train.iloc[[0]]
    leak = {
        "copy": {"test": pd.concat([splits.test, first.assign(pair_id="other name")])},
        "depth": {
            "train": splits.train.assign(depth_sha256=splits.train["pair_id"]),
            "test": splits.test.assign(depth_sha256=first["pair_id"].iloc[0]).iloc[:1],
        },
        "trained": {"probe": pd.concat([splits.probe, first.assign(group="test", sha256="x", pair_id="x")])},
        "enrolled": {"unknown": splits.gallery.assign(pair_id="u" + splits.gallery["pair_id"], sha256="")},
        "not enrolled": {"gallery": splits.gallery.iloc[5:]},
        "group": {"probe": splits.probe.assign(group=["test", "dev"] * (len(splits.probe) // 2))},
    }[wall]
    with pytest.raises(UserError):
        check_splits(dataclasses.replace(splits, **leak))


def test_pairs_are_genuine_across_sessions_and_impostor_across_people():
    splits = make_splits(table(), SplitSettings())
    info = table().set_index("pair_id")
    a, b = (info.loc[splits.pairs[column]] for column in ("pair_id_a", "pair_id_b"))
    same = splits.pairs["same"].to_numpy() == "1"
    assert ((a["subject_id"].to_numpy() == b["subject_id"].to_numpy()) == same).all()
    assert (a["session"].to_numpy() != b["session"].to_numpy())[same].all()
    in_test = splits.pairs["group"] == "test"
    assert (same & in_test).sum() == 5 * 5 * 5  # 5 test people, 5 x 5 images across two sessions
    assert (~same & in_test).sum() == 5 * 4 // 2 * 10 * 10  # all that are of different people
    assert not splits.pairs.duplicated(["pair_id_a", "pair_id_b"]).any()


def test_impostor_draw_is_bounded_unique_and_of_different_people():
    subject = np.repeat(np.arange(500), 10)
    i, j = impostor_indices(subject, 2000, seed=0)
    assert len(i) == 2000
    assert (subject[i] != subject[j]).all()
    assert len(set(zip(i, j, strict=True))) == 2000
    assert (i < j).all()


def make_aligned(folder, frame):
    rng = np.random.default_rng(0)
    for row in frame.itertuples():
        (folder / row.subject_id).mkdir(parents=True, exist_ok=True)
        small = rng.integers(0, 255, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(small).resize((112, 112), Image.BICUBIC).save(folder / f"{row.pair_id}.png")
        np.save(folder / f"{row.pair_id}.npy", np.full((112, 112), 700, np.float32))
    frame.assign(rgb_path=frame["pair_id"] + ".png", depth_path=frame["pair_id"] + ".npy").to_csv(
        folder / "alignment.csv", index=False
    )


def test_copies_of_a_depth_map_are_set_aside():
    """The map is that of the first picture of p000, or stands in two people's folders."""
    frame = table(people=8, images=6)
    frame["depth_map_sha256"] = "depth of " + frame["pair_id"]
    frozen = frame["pair_id"].isin(["p000/i02", "p000/i03", "p000/i05"])
    frame.loc[frozen, "depth_map_sha256"] = "frozen"
    frame.loc[frame["pair_id"].isin(["p001/i00", "p002/i05"]), "depth_map_sha256"] = "two people"
    frame.loc[frame["subject_id"] == "p003", "depth_map_sha256"] = ""  # of tables made elsewhere: equal to nothing
    splits = make_splits(frame, SplitSettings())
    assert dict(zip(splits.dirty["pair_id"], splits.dirty["reason"], strict=True)) == {
        "p000/i03": "duplicate_depth",
        "p000/i05": "duplicate_depth",
        "p001/i00": "depth_of_other_subject",
        "p002/i05": "depth_of_other_subject",
    }
    assert [failures_to_acquire(splits.dirty, role) for role in ("train", "dev", "test")] == [0, 0, 0]


def test_sessions_are_ordered_as_people_order_them_and_an_empty_one_is_none():
    frame = table(people=6, images=6, sessions=3).replace({"session": {"s0": "2", "s1": "10", "s2": ""}})
    settings = SplitSettings(train_dev_test_people=("0", "0.5", "0.5"))
    splits = make_splits(frame, settings)
    assert set(splits.gallery["session"]) == {"2"}
    assert set(splits.probe["session"]) == {"10", ""}
    session = frame.set_index("pair_id")["session"]
    genuine = splits.pairs[splits.pairs["same"] == "1"]
    assert {frozenset(session[list(two)]) for two in zip(genuine["pair_id_a"], genuine["pair_id_b"], strict=True)} == {
        frozenset({"2", "10"})
    }
    one = make_splits(frame.replace({"session": {"10": ""}}), settings)  # one known session: half of the pictures
    assert one.gallery.groupby("cls_name").size().eq(3).all()
    assert (one.pairs["same"] == "1").sum() == 6 * 15  # any two pictures


def test_only_shots_of_people_are_failures_to_acquire():
    frame = table(people=10, images=4)
    stray = frame.iloc[[0, 1, 2]].assign(
        pair_id=["./cover.png", "p001/notes/", "backup/"], subject_id=[".", "p001", "backup"], status="refused_path"
    )
    frame.loc[frame["pair_id"].isin(["p001/i00", "p002/i01"]), "status"] = "no_face"
    splits = make_splits(pd.concat([frame, stray.assign(cls_name=stray["subject_id"])]), SplitSettings())
    roles = splits.dirty.set_index("pair_id")["role"]
    assert roles["./cover.png"] == roles["backup/"] == ""
    assert sum(failures_to_acquire(splits.dirty, role) for role in ("train", "dev", "test")) == 2


@pytest.mark.parametrize("people", range(1, 12))
def test_few_people_leave_legal_tables(tmp_path, people):
    make_aligned(tmp_path / "aligned", table(people=people, images=4))
    made = split_folder(tmp_path / "aligned", tmp_path / "csv", SplitSettings())
    read = read_splits(tmp_path / "csv")
    for name in NAMES:
        pd.testing.assert_frame_equal(getattr(read, name), getattr(made, name), check_dtype=False)
    assert sum(len(getattr(read, name)) for name in NAMES if name != "pairs") == 4 * people


def test_a_legacy_loader_reads_the_csv_files(tmp_path):
    make_aligned(tmp_path / "aligned", table(people=5, images=6))
    split_folder(tmp_path / "aligned", tmp_path / "csv", SplitSettings(train_dev_test_people=("1", "0", "0")))
    frame = pd.read_csv(tmp_path / "csv" / "train.csv")  # as such a loader does, with nothing of ours
    assert list(frame.columns[:3]) == FIRST_COLUMNS
    for row in frame.itertuples():
        rgb = np.asarray(Image.open(tmp_path / "csv" / row.rgb_image_path))
        depth = np.load(tmp_path / "csv" / row.dep_image_path)
        assert rgb.shape == (112, 112, 3)
        assert depth.shape == (112, 112)
        assert (depth > 0).all()
    again = {p.name: sha256_of(p) for p in (tmp_path / "csv").iterdir()}
    split_folder(tmp_path / "aligned", tmp_path / "csv", SplitSettings(train_dev_test_people=("1", "0", "0")))
    assert {p.name: sha256_of(p) for p in (tmp_path / "csv").iterdir()} == again
    assert read_splits(tmp_path / "csv").train["pair_id"].tolist() == frame["pair_id"].tolist()
    assert len(paths_of(tmp_path / "csv" / "train.csv", tmp_path)) == len(frame)


def test_a_csv_that_names_a_file_outside_its_root_is_refused(tmp_path):
    make_aligned(tmp_path / "run" / "aligned", table(people=3, images=4))
    split_folder(tmp_path / "run" / "aligned", tmp_path / "run" / "csv", SplitSettings())
    csv = tmp_path / "run" / "csv" / "train.csv"
    for evil in ("../../../etc/passwd", "/etc/passwd", "~/x.png", "http://example.org/x.png", "..\\x.png"):
        lines = csv.read_text().splitlines()
        lines[1] = ",".join([evil, *lines[1].split(",")[1:]])
        csv.write_text("\n".join(lines) + "\n")
        with pytest.raises(UserError, match="line 2"):
            paths_of(csv, tmp_path / "run")


def planted(root, count):
    """`count` synthetic pictures, each saved again in four ways in other people's folders: copy -> original."""
    copies = {}
    for k in range(count):
        original = Image.fromarray(camera.pair(3, k // 4, k % 4).rgb)
        again = {
            "exact": original,
            "resized": original.resize((113, 113), Image.Resampling.BICUBIC),
            "mirrored": original.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
            "reencoded": original,
        }
        (root / f"p{k // 4}").mkdir(parents=True, exist_ok=True)
        original.save(root / f"p{k // 4}/{k:02d}.png")
        for kind, picture in again.items():
            (root / kind).mkdir(exist_ok=True)
            picture.save(root / kind / (f"{k:02d}.jpg" if kind == "reencoded" else f"{k:02d}.png"), quality=75)
            copies[f"{kind}/{k:02d}"] = f"p{k // 4}/{k:02d}"
    return copies


@pytest.mark.parametrize("count", [8, pytest.param(50, marks=pytest.mark.slow)])
def test_near_duplicates_are_listed(tmp_path, count):
    copies = planted(tmp_path, count)
    originals = sorted(set(copies.values()))
    found, unread = near_duplicates(tmp_path, [*originals, *copies])
    assert not len(unread)
    listed = {frozenset(two) for two in zip(found["pair_id_a"], found["pair_id_b"], strict=True)}
    for kind, least in (("exact", 1.0), ("reencoded", 0.95), ("resized", 0.95), ("mirrored", 0.95)):
        recall = np.mean([frozenset(two) in listed for two in copies.items() if two[0].startswith(kind)])
        assert recall >= least, f"{kind}: {recall:.0%} of {count}"
    sources = copies | {name: name for name in originals}
    assert all(len({sources[name] for name in two}) == 1 for two in listed)  # and no two different pictures
    assert len(near_duplicates(tmp_path, [])[0]) == len(near_duplicates(tmp_path, originals)[0]) == 0
    (tmp_path / f"{originals[0]}.png").write_bytes(b"cut")
    found, unread = near_duplicates(tmp_path, [*originals, "exact/00", "exact/gone"])
    assert list(unread["pair_id"]) == [originals[0], "exact/gone"]  # rows; the others are compared
    assert unread["detail"].str.len().min() > 10
    with pytest.raises(UserError, match="no picture p0/99"):
        near_duplicates(tmp_path, ["p0/99"])
