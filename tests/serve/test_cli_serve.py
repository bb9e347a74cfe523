"""The commands that enrol and recognise: exit codes that tell the truth, JSON that is JSON, help that is quick."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from face3d_lib import cli
from face3d_lib.base.errors import UserError
from face3d_lib.base.paths import ROOT
from face3d_lib.serve.people import People


def face3d(*words):
    return CliRunner().invoke(cli.app, [str(word) for word in words], catch_exceptions=True)


def pair(faces, person, picture="s1_000"):
    return faces / person / f"{picture}.png", faces / person / f"{picture}.npy"


@pytest.fixture(scope="module")
def made(faces, recogniser, tmp_path_factory):
    """A gallery of two people with one picture each, and a threshold that only an enrolled picture itself reaches."""
    people = People.open(tmp_path_factory.mktemp("made") / "g", recogniser, threshold=0.999)
    for person in ("p0000", "p0001"):
        assert people.enrol(person, *pair(faces, person)).status == "enrolled"
    return people.folder


@pytest.fixture
def enrolled(made, tmp_path, one_load):
    return shutil.copytree(made, tmp_path / "g")


def test_enroll_identify_forget(faces, enrolled):
    yes = face3d("identify", *pair(faces, "p0000"), "--gallery", enrolled)
    assert (yes.exit_code, yes.output.split("   ")[0]) == (0, "accepted: p0000")
    no = face3d("identify", *pair(faces, "p0002"), "--gallery", enrolled)
    assert (no.exit_code, no.output.split("   ")[0]) == (3, "rejected: nobody who is enrolled")
    assert face3d("forget", "p0000", "--gallery", enrolled).exit_code == 0
    assert face3d("identify", *pair(faces, "p0000"), "--gallery", enrolled).exit_code == 3
    assert isinstance(face3d("forget", "p0000", "--gallery", enrolled).exception, UserError)


def test_json_is_all_that_is_printed(faces, enrolled, tmp_path):
    answer = json.loads(face3d("identify", *pair(faces, "p0001"), "--gallery", enrolled, "--json").output)
    assert (answer["known"], answer["name"], answer["threshold"]) == (True, "p0001", 0.999)
    assert answer["candidates"][0]["name"] == "p0001"
    stranger = json.loads(face3d("identify", *pair(faces, "p0002"), "--gallery", enrolled, "--json").output)
    assert (stranger["known"], stranger["name"]) == (False, None)
    people = json.loads(face3d("gallery", "list", "--gallery", enrolled, "--json").output)["people"]
    assert people == [{"name": name, "pictures": [f"{name}/s1_000"]} for name in ("p0000", "p0001")]
    done = face3d("enroll", faces, "--gallery", tmp_path / "all", "--json")
    found = json.loads(done.output)
    assert len(found["pictures"]) == 12
    assert done.exit_code == (3 if any(one["status"] == "refused" for one in found["pictures"]) else 0)
    assert {one["status"] for one in found["pictures"]} <= {"enrolled", "refused"}
    many = json.loads(face3d("identify", faces, "--gallery", enrolled, "--json").output)["answers"]
    assert sorted(one["name"] for one in many if one["known"]) == ["p0000", "p0001"]
    assert json.loads(face3d("verify", *pair(faces, "p0000"), *pair(faces, "p0000"), "--json").output)["same"] is True


def test_verify_answers_by_its_exit_code(faces, one_load):
    assert face3d("verify", *pair(faces, "p0000"), *pair(faces, "p0000")).exit_code == 0
    done = face3d("verify", *pair(faces, "p0000"), *pair(faces, "p0002"), "--threshold", 0.99)
    assert (done.exit_code, done.output.split("   ")[0]) == (3, "two people")


def test_a_refused_picture_is_said_with_what_to_do(faces, enrolled):
    done = face3d("enroll", *pair(faces, "p0000"), "--name", "somebody else", "--gallery", enrolled)
    assert done.exit_code == 3
    assert "refused: correct the name: the same photograph is enrolled as 'p0000'" in done.output
    assert "somebody else" not in (enrolled / "gallery.json").read_text()


def test_the_gallery_is_changed_by_its_commands(faces, enrolled):
    assert face3d("gallery", "rename", "p0000", "Anna Smith", "--gallery", enrolled).exit_code == 0
    face3d("enroll", *pair(faces, "p0000", "s1_001"), "--name", "Anna Smith", "--gallery", enrolled, "--anyway")
    assert "Anna Smith   2: p0000/s1_000, p0000/s1_001" in face3d("gallery", "list", "--gallery", enrolled).output
    assert face3d("forget", "Anna Smith", "--gallery", enrolled, "--picture", "p0000/s1_001").exit_code == 0
    assert "Anna Smith   1: p0000/s1_000" in face3d("gallery", "list", "--gallery", enrolled).output
    none = face3d("forget", "Anna Smith", "--gallery", enrolled, "--picture", "")
    assert "has no picture ''" in str(none.exception)
    assert face3d("gallery", "forget", "Anna Smith", "--gallery", enrolled).exit_code == 0
    assert "Anna" not in (enrolled / "gallery.json").read_text()


@pytest.mark.parametrize(
    "words",
    [
        ["enroll", "{faces}", "--name", "anna"],
        ["enroll", "{rgb}", "{depth}"],
        ["enroll", "{rgb}", "--name", "anna"],
        ["enroll", "{rgb}", "{depth}", "--name", "x\ny"],
        ["enroll", "{rgb}", "{depth}", "--name", "anna", "--far", "2"],
        ["enroll", "{rgb}", "{depth}", "--name", "anna", "--model", "nothing"],
        ["enroll", "{rgb}", "{rgb}", "--name", "anna"],
        ["enroll", "{nowhere}", "{depth}", "--name", "anna"],
        ["identify", "{rgb}", "{depth}"],
        ["identify", "{rgb}"],
    ],
)
def test_a_mistake_is_one_line_and_makes_no_gallery(faces, tmp_path, one_load, words):
    rgb, depth = pair(faces, "p0000")
    places = {"faces": faces, "rgb": rgb, "depth": depth, "nowhere": tmp_path / "no.png"}
    done = face3d(*[word.format(**places) for word in words], "--gallery", tmp_path / "g")
    assert isinstance(done.exception, UserError), done.output
    assert "\n" not in str(done.exception)
    assert not (tmp_path / "g").exists()


def run(*words):
    command = [sys.executable, "-m", "face3d_lib.cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def test_an_error_is_json_where_json_was_asked_for(tmp_path):
    done = run("gallery", "list", "--gallery", tmp_path / "none", "--json")
    assert done.returncode == 2
    assert "no gallery there" in json.loads(done.stdout)["error"]
    assert done.stderr == ""
    plain = run("gallery", "list", "--gallery", tmp_path / "none")
    assert (plain.returncode, plain.stdout) == (2, "")
    assert plain.stderr.startswith("error: ")


def said(monkeypatch, capsys, *words):
    """(exit code, stdout, stderr) of the command in this process, as `main` ends it."""
    monkeypatch.setattr(sys, "argv", ["face3d", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code, *capsys.readouterr()


@pytest.mark.parametrize(
    "words",
    [["identify"], ["identify", "--nope"], ["nope"], ["gallery", "nope"], ["verify", "a"], ["enroll", "a", "b"], ["identify", "a", "b", "--top", "x"]],
)  # fmt: skip
def test_words_that_no_command_understands_are_one_line(monkeypatch, capsys, words):
    code, out, err = said(monkeypatch, capsys, *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert re.match(r"error: .*: see face3d.* --help\n$", err)
    code, out, err = said(monkeypatch, capsys, *words, "--json")
    assert (code, err) == (2, "")
    assert json.loads(out)["error"].endswith("--help")


@pytest.mark.parametrize(
    ("number", "code", "fix"), [(errno.ENOSPC, 1, "make room"), (errno.EROFS, 1, "another place"), (errno.EACCES, 1, "its owner"), (errno.ENAMETOOLONG, 2, "correct the path")]
)  # fmt: skip
def test_an_error_of_the_machine_names_the_file_and_the_fix(monkeypatch, capsys, number, code, fix):
    def broken(folder):
        raise OSError(number, os.strerror(number), str(folder))

    monkeypatch.setattr("face3d_lib.serve.gallery.open_gallery", broken)
    found, _, err = said(monkeypatch, capsys, "gallery", "list", "--gallery", "people")
    assert (found, err) == (code, err)
    assert err.startswith(f"error: people: {os.strerror(number)}: ")
    assert fix in err
    assert "error" in json.loads(said(monkeypatch, capsys, "gallery", "list", "--gallery", "people", "--json")[1])


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_an_answer_that_could_not_be_written_is_no_answer(enrolled):
    command = [sys.executable, "-m", "face3d_lib.cli", "gallery", "list", "--gallery", str(enrolled)]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)


def test_json_does_not_change_the_exit_code(faces, enrolled, monkeypatch, capsys):
    for person, code in (("p0000", 0), ("p0002", 3)):
        for more in ([], ["--json"]):
            words = ["identify", *pair(faces, person), "--gallery", enrolled, *more]
            assert said(monkeypatch, capsys, *words)[0] == code


@pytest.mark.parametrize("words", [["enroll"], ["identify"], ["verify"], ["forget"], ["gallery", "list"]])
def test_help_shows_an_example(words):
    done = face3d(*words, "--help")
    assert f"face3d {' '.join(words)}" in " ".join(done.output.replace("│", " ").split())


def test_what_needs_no_network_loads_none(faces, enrolled):
    shutil.copytree(enrolled, enrolled.parent / "copy")
    program = (
        "import sys\nfrom face3d_lib import cli\ntry: cli.app()\nfinally: "
        "assert not {'torch', 'pandas', 'matplotlib', 'sklearn'} & set(sys.modules), sorted(sys.modules)"
    )
    folder = enrolled.parent / "copy"
    for words in (
        ["--help"],
        ["models", "list"],
        ["gallery", "list", "--gallery", folder],
        ["gallery", "threshold", "--far", "0.1", "--gallery", folder],
        ["gallery", "rename", "p0000", "b", "--gallery", folder],
        ["gallery", "forget", "b", "--gallery", folder],
    ):
        done = subprocess.run(
            [sys.executable, "-c", program, *map(str, words)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


def test_check_speaks_text_and_json(faces, enrolled):
    done = face3d("gallery", "check", "--gallery", enrolled)
    assert done.exit_code == 0, done.output
    assert done.output.startswith("enrolled: 2 people with 1 picture\nthreshold: 0.999 given by hand")
    found = json.loads(face3d("gallery", "check", "--gallery", enrolled, "--json").output)
    assert (found["people"], found["right"]["value"]) == (2, None)
    assert "a rate needs 5" in found["reasons"]["right"]
    refused = face3d("gallery", "check", "--gallery", enrolled, "--strangers", faces)
    assert "is enrolled" in str(refused.exception)


def test_the_threshold_of_a_gallery_can_be_chosen_again(faces, enrolled):
    words = ["enroll", *pair(faces, "p0000"), "--name", "p0000", "--gallery", enrolled]
    face3d(*words)
    assert json.loads(face3d("gallery", "list", "--gallery", enrolled, "--json").output)["threshold"] == 0.999
    face3d(*words, "--far", "0.1")
    found = json.loads(face3d("gallery", "list", "--gallery", enrolled, "--json").output)
    assert 0.8 < found["threshold"] < 0.95
    assert found["note"].startswith("for FAR 0.1 with 2 people")


def spoilt(folder, faces, case):
    """A picture and a depth file with a fault, in a folder of its own with the declaration of the others."""
    rgb, depth = (np.asarray(Image.open(pair(faces, "p0002")[0])), np.load(pair(faces, "p0002")[1]).astype(np.float64))
    width = depth.shape[1]
    changes = {
        "no face": lambda: (np.full_like(rgb, 128), depth),
        "several faces": lambda: (np.hstack([rgb, rgb]), np.hstack([depth, depth])),
        "half a face": lambda: (rgb[:, : width // 2 + 4], depth[:, : width // 2 + 4]),
        "another size": lambda: (rgb, depth[::2, ::2]),
        "metres": lambda: (rgb, depth / 1000),
        "empty in the face": lambda: (rgb, np.where(np.abs(np.arange(width) - width / 2) < width / 3, 0, depth)),
        "flat": lambda: (rgb, np.full_like(depth, 700.0)),
        "inside out": lambda: (rgb, np.where(depth > 0, 2 * np.median(depth[depth > 0]) - depth, 0)),
        "no depth": lambda: (rgb, None),
    }
    picture, numbers = changes[case]()
    (folder / "me").mkdir(parents=True)
    shutil.copy(faces / "dataset.json", folder)
    Image.fromarray(picture).save(folder / "me" / "a.png")
    if numbers is not None:
        np.save(folder / "me" / "a.npy", numbers)
    return folder / "me" / "a.png", folder / "me" / "a.npy"


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("no face", r"me.a\.png: no face of 20 px or more"),
        ("several faces", "crop the picture to one person"),
        ("half a face", "move into the middle of the picture|no face of 20 px"),
        ("another size", "size|shape"),
        ("metres", "the numbers look like metres"),
        ("empty in the face", "hold a depth|have a depth"),
        ("flat", "show a real face"),
        ("inside out", "declare larger_is the other way"),
        ("no depth", "there is no such file"),
    ],
)
def test_a_bad_pair_ends_in_one_clear_line_and_changes_nothing(faces, enrolled, tmp_path, case, said):
    rgb, depth = spoilt(tmp_path / "bad", faces, case)
    before = {path.name: path.read_bytes() for path in enrolled.iterdir()}
    done = face3d("enroll", rgb, depth, "--name", "me", "--gallery", enrolled)
    line = str(done.exception) if isinstance(done.exception, UserError) else done.output.splitlines()[0]
    assert isinstance(done.exception, UserError) or done.exit_code == 3
    assert re.search(said, line), line
    assert "\n" not in line
    assert {path.name: path.read_bytes() for path in enrolled.iterdir()} == before


def test_depth_that_stood_still_is_refused(faces, enrolled, tmp_path):
    (tmp_path / "me").mkdir()
    shutil.copy(faces / "dataset.json", tmp_path)
    shutil.copy(pair(faces, "p0000", "s1_001")[0], tmp_path / "me" / "a.png")
    shutil.copy(pair(faces, "p0000")[1], tmp_path / "me" / "a.npy")
    done = face3d("enroll", tmp_path / "me/a.png", tmp_path / "me/a.npy", "--name", "p0000", "--gallery", enrolled)
    assert done.exit_code == 3
    assert "its depth is that of 'p0000/s1_000', so the depth camera stood still" in done.output


def test_a_gallery_that_is_damaged_or_of_another_model_is_one_line(faces, enrolled, tmp_path):
    file = next(enrolled.glob("templates-*"))
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    cut = face3d("identify", *pair(faces, "p0000"), "--gallery", enrolled)
    assert "cannot be used" in str(cut.exception)
    assert file.read_bytes() == data[: len(data) // 2]
    file.write_bytes(data)
    other = face3d("enroll", *pair(faces, "p0002"), "--name", "me", "--gallery", enrolled, "--model", "dlib")
    assert "vectors of two models cannot be compared" in str(other.exception)


def test_a_photograph_before_the_camera_is_refused_unless_asked_otherwise(faces, enrolled, tmp_path):
    rgb, depth = spoilt(tmp_path / "bad", faces, "flat")
    shutil.copy(pair(faces, "p0000")[0], rgb)
    numbers = np.load(pair(faces, "p0000")[1])
    np.save(depth, np.full_like(numbers, 700))
    words = ["identify", rgb, depth, "--gallery", enrolled, "--json"]
    done = face3d(*words)
    assert done.exit_code == 3
    assert "flat" in json.loads(done.output)["refused"]
    assert json.loads(done.output)["name"] is None
    assert json.loads(face3d(*words, "--no-liveness").output)["refused"] is None


@pytest.mark.parametrize("case", ["no face", "half a face"])
def test_what_is_wrong_is_said_with_the_name_of_the_picture(faces, enrolled, tmp_path, case):
    files = spoilt(tmp_path / "bad", faces, case)
    for words in (["identify", *files, "--gallery", enrolled], ["verify", *pair(faces, "p0000"), *files]):
        assert str(face3d(*words).exception).startswith(f"{files[0]}: "), words


def test_depth_that_is_turned_inside_out_is_nobody(faces, enrolled, tmp_path):
    files = spoilt(tmp_path / "bad", faces, "inside out")
    for words in (["identify", *files, "--gallery", enrolled], ["verify", *files, *pair(faces, "p0002", "s1_001")]):
        done = face3d(*words)
        assert done.exit_code == 3
        assert "declare larger_is the other way" in done.output


def test_depth_of_another_picture_is_nobody(faces, enrolled, tmp_path):
    (tmp_path / "me").mkdir()
    shutil.copy(faces / "dataset.json", tmp_path)
    old, new = pair(faces, "p0000"), pair(faces, "p0000", "s1_001")
    for k, (rgb, depth) in enumerate([old, (new[0], old[1]), new]):
        shutil.copy(rgb, tmp_path / "me" / f"{k}.png")
        shutil.copy(depth, tmp_path / "me" / f"{k}.npy")
    frozen = [tmp_path / "me/1.png", tmp_path / "me/1.npy"]
    done = face3d("identify", *frozen, "--gallery", enrolled, "--json")
    assert "the depth camera stood still" in json.loads(done.output)["refused"]
    assert (
        json.loads(face3d("identify", *frozen, "--gallery", enrolled, "--no-liveness", "--json").output)["refused"]
        is None
    )
    assert "stood still" in face3d("verify", *old, *frozen).output
    face3d("forget", "p0000", "--gallery", enrolled)
    answers = json.loads(face3d("identify", tmp_path, "--gallery", enrolled, "--json").output)["answers"]
    assert ["stood still" in (one["refused"] or "") for one in answers] == [False, True, False]


def test_several_faces_are_said(faces, enrolled, tmp_path):
    files = spoilt(tmp_path / "bad", faces, "several faces")
    done = face3d("identify", *files, "--gallery", enrolled)
    assert "2 faces are in the picture" in done.output
    assert json.loads(face3d("identify", *files, "--gallery", enrolled, "--json").output)["faces"] == 2
    assert f"2 faces are in {files[0]}" in face3d("verify", *pair(faces, "p0002"), *files).output


@pytest.mark.parametrize(
    ("option", "value"), [("--threshold", "nan"), ("--threshold", "-2"), ("--threshold", "5"), ("--depth-scale", "0"), ("--far", "nan"), ("--far", "2")]
)  # fmt: skip
def test_a_number_that_means_nothing_is_refused(faces, enrolled, tmp_path, option, value):
    before = {path.name: path.read_bytes() for path in enrolled.iterdir()}
    two = [*pair(faces, "p0000"), *pair(faces, "p0000", "s1_001")]
    words = [
        ["verify", *two],
        *(["enroll", *two[2:], "--name", "a", "--gallery", place] for place in (enrolled, tmp_path / "new")),
    ]
    for line in words:
        done = face3d(*line, option, value)
        assert isinstance(done.exception, UserError), line
        assert value in str(done.exception)
    assert {path.name: path.read_bytes() for path in enrolled.iterdir()} == before
    assert not (tmp_path / "new").exists()


def test_a_choice_changes_nothing_where_the_picture_cannot_be_used(faces, enrolled, tmp_path):
    before = {path.name: path.read_bytes() for path in enrolled.iterdir()}
    (tmp_path / "empty").mkdir()
    one = [*spoilt(tmp_path / "bad", faces, "no face"), "--name", "me"]
    for words in (one, [*pair(faces, "p0000"), "--name", "x" * 300], [tmp_path / "empty"]):
        done = face3d("enroll", *words, "--gallery", enrolled, "--threshold", "0.2", "--keep-crops")
        assert isinstance(done.exception, UserError), words
    assert {path.name: path.read_bytes() for path in enrolled.iterdir()} == before
    face3d("enroll", *pair(faces, "p0000"), "--name", "p0000", "--gallery", enrolled, "--threshold", "0")
    assert json.loads(face3d("gallery", "list", "--gallery", enrolled, "--json").output)["threshold"] == 0


def test_many_pairs_name_their_depth_themselves(faces, enrolled, tmp_path):
    (tmp_path / "none.csv").write_text("rgb,depth\n")
    assert "names no pair" in str(face3d("identify", tmp_path / "none.csv", "--gallery", enrolled).exception)
    for many in (faces, tmp_path / "none.csv"):
        done = face3d("identify", many, pair(faces, "p0000")[1], "--gallery", enrolled)
        assert "leave out DEPTH" in str(done.exception)


def test_the_threshold_is_chosen_without_enrolling_again(faces, enrolled, recogniser):
    before = json.loads(face3d("gallery", "list", "--gallery", enrolled, "--json").output)["threshold"]
    done = json.loads(face3d("gallery", "threshold", "--gallery", enrolled, "--far", 0.2, "--json").output)
    assert done["threshold"] < before
    assert done["development_far"] == 0.2
    assert "for FAR 0.2 with 2 people" in done["note"]
    shown = json.loads(face3d("gallery", "list", "--gallery", enrolled, "--json").output)
    assert shown["threshold"] == done["threshold"]
    others = face3d("gallery", "threshold", "--gallery", enrolled, "--strangers", faces)
    assert "other people" in others.output
    for words, said in (
        (["--far", 0.1, "--threshold", 0.9], "leave one of them out"),
        (["--far", 1.5], "between 0 and 1"),
        ([], "nothing to choose by"),
    ):
        refused = face3d("gallery", "threshold", "--gallery", enrolled, *words)
        assert said in str(refused.exception), words
    both = face3d("verify", *pair(faces, "p0000"), *pair(faces, "p0001"), "--far", 0.1, "--threshold", 0.9)
    assert "leave one of them out" in str(both.exception)


def test_strangers_are_measured_by_the_model_of_the_gallery(faces, tmp_path, one_load):
    """Without --model they were measured by the default, and the gallery was refused."""
    first = face3d("enroll", faces, "--gallery", tmp_path / "g", "--model", "rgbd_synthetic", "--anyway")
    assert first.exception is None or isinstance(first.exception, SystemExit), first.output
    again = face3d("enroll", faces, "--gallery", tmp_path / "g", "--strangers", faces)
    assert "on 3 other people" in again.output or "of 3 other people" in again.output


def test_right_names_are_counted_where_the_folders_name_people(faces, enrolled):
    assert face3d("identify", faces, "--gallery", enrolled).output.splitlines()[-1] == (
        "of 8 pictures of enrolled people, by their folders: 2 got the right name, 0 another one, 6 none"
    )


def test_what_refuses_a_picture_comes_first():
    from face3d_lib.cli_said import _reasons
    from face3d_lib.serve.gate import Finding
    from face3d_lib.serve.people import Enrolment

    small, dark = Finding("eye_px", False, "come closer"), Finding("brightness", True, "add light")
    assert _reasons(Enrolment("a", "a/1", "refused", (small, dark))) == "add light (besides: come closer)"
    assert _reasons(Enrolment("a", "a/1", "enrolled", (small,))) == "come closer"
    assert _reasons(Enrolment("a", "a/1", "enrolled")) == ""


def test_a_picture_alone_is_answered_where_that_is_asked_for(faces, enrolled):
    rgb = pair(faces, "p0000")[0]
    words = ["identify", rgb, "--gallery", enrolled]
    assert "its depth is not named" in str(face3d(*words).exception)
    found = json.loads(face3d(*words, "--allow-missing-depth", "--json").output)
    assert found["candidates"][0]["name"] == "p0000"
    assert 0.9 < found["score"] < 0.999
