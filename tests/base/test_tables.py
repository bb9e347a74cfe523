"""Tables: what is written comes back byte for byte; what is not plain csv is refused with its line."""

import os
import sys

import numpy as np
import pandas as pd
import pytest

from face3d_lib.base.atomic import sha256_of
from face3d_lib.base.errors import UserError
from face3d_lib.base.paths import inside
from face3d_lib.base.tables import read_table, write_table
from face3d_lib.data.alignment_table import ALIGNMENT_COLUMNS, check_alignment

LABELS = ["001", "NA", "null", "None", "nan", "1e5", "True", "9007199254740993", "", " padded ", "José, Ö",
          'say "hi"', "=1+1", "-x", "'", "\u200b", "名前"]  # fmt: skip


def test_labels_come_back_byte_for_byte(tmp_path):
    frame = pd.DataFrame({"cls_name": LABELS, "n": [str(k) for k in range(len(LABELS))]}, dtype=str)
    write_table(tmp_path / "t.csv", frame)
    back = read_table(tmp_path / "t.csv", ["cls_name"])
    assert back["cls_name"].tolist() == LABELS
    assert back["n"].tolist() == frame["n"].tolist()
    assert (tmp_path / "t.csv").read_bytes().count(b"\r") == 0
    write_table(tmp_path / "again.csv", back)
    assert sha256_of(tmp_path / "again.csv") == sha256_of(tmp_path / "t.csv")


def test_random_text_comes_back(tmp_path):
    rng = np.random.default_rng(0)
    letters = [chr(c) for c in [*range(32, 127), 0xE9, 0x301, 0x4E2D, 0x1F600]]
    cells = [["".join(rng.choice(letters, rng.integers(0, 9))) for _ in range(3)] for _ in range(300)]
    write_table(tmp_path / "t.csv", pd.DataFrame(cells, columns=["a", "b", "c"], dtype=str))
    assert read_table(tmp_path / "t.csv", ["a"]).to_numpy().tolist() == cells


def test_missing_values_become_empty_text(tmp_path):
    write_table(tmp_path / "t.csv", pd.DataFrame({"a": ["x", None, np.nan], "b": [1, 2, 3]}))
    assert read_table(tmp_path / "t.csv", ["a", "b"]).to_numpy().tolist() == [
        ["x", "1"],
        ["", "2"],
        ["", "3"],
    ]


def test_an_undecodable_name_leaves_the_old_table_whole(tmp_path):
    path = tmp_path / "t.csv"
    write_table(path, pd.DataFrame({"a": ["old"]}))
    for cell in ("caf\udce9", "two\nlines", "zero\0byte"):
        with pytest.raises(UserError, match="line 3"):
            write_table(path, pd.DataFrame({"a": ["x", cell]}))
    assert read_table(path, ["a"])["a"].tolist() == ["old"]
    assert os.listdir(tmp_path) == ["t.csv"]


GOOD = b"pair_id,cls_name\np/a,1\np/b,2\n"


@pytest.mark.parametrize(
    "data",
    [GOOD, b"\xef\xbb\xbf" + GOOD, GOOD.replace(b"\n", b"\r\n"), b"pair_id,more,cls_name\np/a,,1\np/b,x,2\n"],
    ids=["plain", "byte order mark", "carriage returns", "more columns"],
)
def test_lawful_forms_are_read(tmp_path, data):
    (tmp_path / "t.csv").write_bytes(data)
    assert read_table(tmp_path / "t.csv", ["pair_id", "cls_name"])["cls_name"].tolist() == ["1", "2"]


def test_a_header_alone_is_an_empty_table(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"pair_id,cls_name\n")
    table = read_table(tmp_path / "t.csv", ["pair_id"])
    assert (len(table), list(table)) == (0, ["pair_id", "cls_name"])


FAULTS = {
    "latin-1": ("pair_id,cls_name\np/a,1\np/é,2\n".encode("latin-1"), "line 3: not UTF-8"),
    "utf-16": (GOOD.decode().encode("utf-16"), "line 1: not UTF-8"),
    "zero byte": (GOOD.replace(b"p/b", b"p\0b"), "line 3: holds a zero byte"),
    "semicolons": (GOOD.replace(b",", b";"), "line 1: no column pair_id.*commas"),
    "extra cell in one row": (GOOD.replace(b"p/b,2", b"p/b,2,3"), "line 3: 3 cells under 2 columns"),
    "extra cell in all rows": (b"pair_id,cls_name\nx,p/a,1\nx,p/b,2\n", "line 2: 3 cells"),
    "missing cell": (GOOD.replace(b"p/b,2", b"p/b"), "line 3: 1 cells"),
    "blank line": (GOOD.replace(b"p/b", b"\np/b"), "line 3: an empty line"),
    "no header": (b"p/a,1\np/b,2\n", "line 1: no column pair_id, cls_name"),
    "missing column": (b"pair_id\np/a\n", "line 1: no column cls_name"),
    "column twice": (b"pair_id,cls_name,cls_name\np/a,1,2\n", "line 1: column 'cls_name' occurs twice"),
    "last line cut": (GOOD[:-1], "line 3: no line end"),
    "last line cut in a cell": (b"pair_id,cls_name\np/a,15\np/b,1", "line 3: no line end"),
    "unclosed quote": (b'pair_id,cls_name\np/a,"1\np/b,2\n', "line 3: not plain csv|line break inside"),
    "quote in a cell": (b'pair_id,cls_name\np/a,"1"x\n', "line 2: not plain csv"),
    "line break in a cell": (b'pair_id,cls_name\np/a,"1\n2"\n', "line 3: a line break inside a cell"),
    "giant cell": (b"pair_id,cls_name\np/a," + b"x" * 200_000 + b"\n", "line 2: not plain csv"),
    "empty": (b"", "empty"),
    "byte order mark only": (b"\xef\xbb\xbf", "empty"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faulty_tables_are_refused_with_their_line(tmp_path, fault):
    data, message = FAULTS[fault]
    (tmp_path / "t.csv").write_bytes(data)
    with pytest.raises(UserError, match=message) as caught:
        read_table(tmp_path / "t.csv", ["pair_id", "cls_name"])
    assert "t.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_or_altered_table_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"t\.csv: cannot be read"):
        read_table(tmp_path / "t.csv", [])
    (tmp_path / "t.csv").write_bytes(GOOD)
    digest = sha256_of(tmp_path / "t.csv")
    assert len(read_table(tmp_path / "t.csv", [], digest)) == 2
    (tmp_path / "t.csv").write_bytes(GOOD.replace(b"p/b,2", b"p/b,3"))
    with pytest.raises(UserError, match="altered"):
        read_table(tmp_path / "t.csv", [], digest)


ESCAPES = ["../secret", "a/../../secret", "..", "/etc/passwd", "//etc/passwd", "~/x", "~root/x", "a/~/x",
           "http://h/x", "file:///etc/passwd", "file:/etc/passwd", "s3://b/x", "a\0b", "a\\..\\b", "\\\\h\\x",
           "line\nbreak", "", ".", "caf\udce9", "out/secret", "loop/x"]  # fmt: skip
opened = []
sys.addaudithook(lambda event, arguments: opened.append(arguments[0]) if event == "open" else None)


@pytest.mark.parametrize("text", ESCAPES)
def test_paths_that_leave_the_root_are_refused_and_nothing_is_opened(tmp_path, text):
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (tmp_path / "secret").write_text("x")
    (root / "out").symlink_to(tmp_path)
    (root / "loop").symlink_to(root / "loop")
    opened.clear()
    with pytest.raises(UserError, match=r"train\.csv line 7"):
        inside(root, text, where="train.csv line 7")
    assert opened == []


def test_paths_inside_are_given_back(tmp_path):
    root, csv = tmp_path / "root", tmp_path / "root" / "20_split"
    assert inside(root, "p 1/é, x.png") == root / "p 1" / "é, x.png"
    assert inside(root, "a/./b..c/x.png") == root / "a" / "b..c" / "x.png"
    with pytest.raises(UserError):
        inside(root, "a/../b.png")
    assert inside(root, "../10_align/p/a.png", base=csv) == root / "10_align" / "p" / "a.png"
    with pytest.raises(UserError, match="leaves"):
        inside(root, "../../secret", base=csv)


def row(**changes):
    good = dict.fromkeys(ALIGNMENT_COLUMNS, "") | dict.fromkeys(["m00", "m11", "depth_per_px"], "1.5")
    good |= dict.fromkeys(["m01", "m02", "m10", "m12", "valid_depth"], "0.0")
    hashes = {"rgb_sha256": "a", "depth_sha256": "b", "aligned_rgb_sha256": "c", "aligned_depth_sha256": "d"}
    return good | hashes | {"pair_id": "p1/a", "subject_id": "p1", "status": "ok"} | changes


def test_alignment_tables_are_checked():
    good = pd.DataFrame([row(), row(pair_id="p1/b", status="no_face", detail="none", m00="")], dtype=str)
    assert check_alignment(good) is good
    for changes in (
        {"status": "fine"},
        {"status": "no_face"},  # without a reason
        {"pair_id": "p2/a"},
        {"subject_id": ""},
        {"m01": ""},
        {"m01": "nan"},
        {"valid_depth": "1.5"},
        {"probability": "high"},
        {"depth_per_px": "0"},
        {"relief": "flat"},
        {"registration": "nan"},
        {"aligned_rgb_sha256": ""},
    ):
        with pytest.raises(UserError, match=r"alignment\.csv"):
            check_alignment(pd.DataFrame([row(**changes)], dtype=str))
    with pytest.raises(UserError, match="p1/a"):
        check_alignment(pd.DataFrame([row(), row()], dtype=str))
    with pytest.raises(UserError, match="no rows"):
        check_alignment(good.iloc[:0])
    with pytest.raises(UserError, match="no column status"):
        check_alignment(good.drop(columns="status"))
