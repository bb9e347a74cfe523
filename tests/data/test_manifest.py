"""manifest.csv of a user: matched, or refused with a line; sessions in the order of people."""

import random
import unicodedata

import pytest

from face3d_lib.base.errors import UserError
from face3d_lib.data.manifest import read_manifest, session_keys

PAIRS = ["anna/01", "anna/02", "José/01", "x/a.png"]


def read(folder, text, pair_ids=PAIRS, encoding="utf-8"):
    (folder / "manifest.csv").write_text(text, encoding=encoding)
    return read_manifest(folder, pair_ids)


def sessions(manifest):
    return dict(zip(manifest.rows["pair_id"], manifest.rows["session"], strict=True))


def test_without_a_manifest_nothing_is_known(tmp_path):
    assert read_manifest(tmp_path, PAIRS).rows.empty
    assert read_manifest(tmp_path, PAIRS).notes == ()


@pytest.mark.parametrize(
    "form",
    [
        "{}", "{}.png", "{}.jpg", "{}.npy", "{}.depth.png", "./{}", " {} ",
        pytest.param("back", id="backslashes"), pytest.param("nfd", id="other Unicode form"),
    ],
)  # fmt: skip
def test_names_are_matched_in_every_spelling(tmp_path, form):
    def spelt(pair_id):
        if form == "back":
            return pair_id.replace("/", "\\")
        return unicodedata.normalize("NFD", pair_id) if form == "nfd" else form.format(pair_id)

    text = "pair_id,session\n" + "".join(f"{spelt(pair_id)},s{k}\n" for k, pair_id in enumerate(PAIRS))
    found = read(tmp_path, text)
    assert sessions(found) == {pair_id: f"s{k}" for k, pair_id in enumerate(PAIRS)}
    assert found.notes == ()


@pytest.mark.parametrize("header", ["Pair_ID,Session", "pair_id, session", " PAIR_ID ,SESSION "])
def test_capitals_and_spaces_in_the_header_do_not_lose_the_sessions(tmp_path, header):
    found = read(tmp_path, f"{header}\n" + "".join(f"{pair_id},s{k}\n" for k, pair_id in enumerate(PAIRS)))
    assert sessions(found) == {pair_id: f"s{k}" for k, pair_id in enumerate(PAIRS)}
    assert found.notes == ()


def test_a_manifest_without_a_session_says_so(tmp_path):
    for text in ("pair_id,date\nanna/01,2024-01-31\n", "pair_id,session\nanna/01,\n"):
        assert "no session is known" in read(tmp_path, text).notes[-1]


def test_a_manifest_that_is_no_file_is_not_passed_over(tmp_path):
    (tmp_path / "manifest.csv").symlink_to(tmp_path / "gone.csv")
    with pytest.raises(UserError, match="is no file that can be read"):
        read_manifest(tmp_path, PAIRS)


def test_other_columns_are_kept_and_pose_is_the_condition(tmp_path):
    rows = read(tmp_path, "pair_id,pose,light\nanna/01,half,side\n").rows
    assert rows.iloc[0].to_dict() == {
        "pair_id": "anna/01", "pose": "half", "light": "side", "session": "", "condition": "half",
    }  # fmt: skip


def test_rows_and_pairs_that_do_not_meet_are_said(tmp_path):
    found = read(tmp_path, "\ufeffpair_id,session\nanna/01,s1\nnobody/01,s1\n")
    assert sessions(found) == {"anna/01": "s1"}
    missed, absent = found.notes
    assert "1 of 2 rows fit no pair, such as 'nobody/01'" in missed
    assert "3 of 4 pairs have no row, such as 'anna/02'" in absent


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pair_id,session\nanna/01,s1\nanna/02,s1\nanna/01,s1\n", r"lines 2 and 4: 'anna/01' occurs twice"),
        ("pair_id,session\nanna/01,s1\nanna/01.png,s2\n", r"lines 2 and 3: 'anna/01' occurs twice"),
        ("pair_id;session\nanna/01;s1\n", r"line 1: no column pair_id .*separate cells by commas"),
        ("pair,session\nanna/01,s1\n", r"line 1: no column pair_id"),
        ("pair_id,session\nanna/01,s1,x\n", r"line 2: 3 cells under 2 columns"),
        ("pair_id,session\nanna/01,s1\n\n", r"line 3: an empty line: delete it"),
        ("pair_id,session,Session\nanna/01,s1,s2\n", r"column 'session' occurs twice"),
        ("pair_id,session\nwho/01,s1\n", r"no row fits a pair: its first pair_id is 'who/01', the first pair is"),
        ("pair_id,session\nanna/01,1/2/2024\nanna/02,2/1/2024\n", r"day and month cannot be told apart"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_a_line(tmp_path, text, message):
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path, text)
    assert "manifest.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_manifest_of_another_encoding_is_refused(tmp_path):
    for encoding in ("utf-16", "cp1252"):
        with pytest.raises(UserError, match="not UTF-8"):
            read(tmp_path, "pair_id,session\nJosé/01,s1\n", encoding=encoding)


@pytest.mark.parametrize("text", ["file;label\np0000/s1_000.png;anna\n", "", "name,url\na,b\n", "\x00\x01\n"])
def test_a_manifest_of_another_program_is_not_used_and_that_is_said(tmp_path, text):
    found = read(tmp_path, text)
    assert found.rows.empty
    assert "is not used" in found.notes[0]


def test_the_rows_of_both_files_of_a_pair_are_one(tmp_path):
    text = "pair_id,session\nanna/01.png,s1\nanna/01.npy,s1\n"
    assert sessions(read(tmp_path, text)) == {"anna/01": "s1"}


@pytest.mark.parametrize(
    "ordered",
    [
        ["1", "2", "10", "11"],
        ["s1", "s2", "S10"],
        ["session 2", "session 10"],
        ["2024-02-01", "2024-10-01", "2025-01-31"],
        ["2024-2-1", "2024-10-1"],
        ["20240201", "20241001"],
        ["31.12.2023", "01.01.2024", "02.01.2024"],
        ["1/31/2023", "2/1/2023", "1/2/2024"],
        ["31/1/2023", "1/2/2023", "2/1/2024"],
        ["03/04/2023", "03/04/2024"],  # in whatever way they are read
        ["2", "anna", "berta"],
        ["1.2", "1.10"],
    ],
)
def test_sessions_in_the_order_of_people(ordered):
    for seed in range(3):
        mixed = random.Random(seed).sample(ordered, len(ordered))
        assert sorted(mixed, key=session_keys(mixed).get) == ordered
