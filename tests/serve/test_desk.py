"""The desk behind the application: look, enrol, forget, undo; every mistake is one line, and leaves the gallery as it was."""

import os
import shutil
from datetime import datetime

import nbformat
import numpy as np
import pytest
from typer.testing import CliRunner

from face3d_lib.base.errors import UserError
from face3d_lib.cli import app
from face3d_lib.data.convention import DepthConvention
from face3d_lib.data.pairs import find_pairs
from face3d_lib.evaluate.embeddings import Embeddings
from face3d_lib.serve.desk import Desk
from face3d_lib.serve.desk_page import DeskPage, page_of_gallery, page_of_run, write_page
from face3d_lib.serve.gallery import open_gallery
from face3d_lib.serve.people import People
from face3d_lib.serve.strangers import shipped

MM = DepthConvention("mm", "farther")
DECLARED = ("mm", "farther", None)


@pytest.fixture
def desk(tmp_path, faces, recogniser):
    return Desk(People.open(tmp_path / "people", recogniser), find_pairs(faces), MM)


def files(faces, pair_id):
    """The picture and the depth map of a pair as they are uploaded."""
    return [(f"face{ending}", (faces / f"{pair_id}{ending}").read_bytes()) for ending in (".png", ".npy")]


def held(folder) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_look_enrol_forget_undo(desk, faces):
    view = desk.pick("p0000/s1_000")
    assert view.answer == "Nobody is enrolled yet."
    assert view.liveness.startswith("depth shows a face")
    assert desk.enrol("anna") == "Enrolled as anna."
    assert desk.view.answer.startswith("This is anna: the score 1.000 reaches the threshold 0.")
    assert "anna" not in desk.pick("p0001/s1_000").answer
    assert desk.view.match.candidates[0][0] == "anna"
    desk.enrol("bob")
    before = desk.people.gallery
    assert desk.forget("anna") == "Forgotten: nothing of anna is in any file of the gallery."
    assert b"anna" not in held(desk.people.folder)
    assert b"p0000" not in held(desk.people.folder)
    assert desk.undo() == "Taken back: forget anna."
    after = desk.people.gallery
    assert sorted(after.names) == sorted(before.names)
    for name in before.names:
        assert np.array_equal(after.of(name)[0], before.of(name)[0])
        assert after.of(name)[1] == before.of(name)[1]
    assert after.threshold == before.threshold
    assert desk.undo() == "Taken back: enrol bob."
    assert desk.names == ("anna",)
    desk.undo()
    assert desk.names == ()
    assert desk.view.answer == "Nobody is enrolled yet."
    with pytest.raises(UserError, match="nothing to undo"):
        desk.undo()


def test_whoever_comes_back_raises_the_threshold_for_all_who_came_meanwhile(desk, faces, recogniser):
    desk.pick("p0000/s1_000")
    desk.enrol("anna")
    desk.forget("anna")
    for name, person in (("bob", "p0001"), ("carl", "p0002")):  # another process, which has no part in what is undone
        desk.people.enrol(name, *(faces / person / f"s1_000{ending}" for ending in (".png", ".npy")))
    desk.undo()
    assert desk.names == ("bob", "carl", "anna")
    assert desk.people.gallery.threshold == shipped(recogniser.model_id).threshold(0.01, 3)[0]


def test_undo_takes_one_picture_away_from_a_person_who_has_another(desk):
    desk.pick("p0000/s1_000")
    desk.enrol("anna")
    first = desk.people.gallery.of("anna")[1]
    desk.pick("p0000/s2_000")
    desk.enrol("anna")
    assert len(desk.people.gallery.of("anna")[1]) == 2
    desk.undo()
    assert desk.people.gallery.of("anna")[1] == first


def test_two_uploads_of_one_file_name_are_two_pictures(desk, faces):
    for pair_id in ("p0000/s1_000", "p0000/s2_000"):
        desk.upload(*files(faces, pair_id), DECLARED)
        desk.enrol("anna")
    desk.undo()
    (picture,) = desk.people.gallery.of("anna")[1]
    assert picture.pair_id.startswith("face ")
    assert desk.upload(*files(faces, "p0000/s1_000"), DECLARED).match.score == pytest.approx(1, abs=1e-6)


def test_what_is_shown(desk, faces):
    view = desk.pick("p0002/s1_001")
    size = desk.people.recogniser.alignment.image_size
    assert [crop.shape for crop in view.crops] == [(size, size, 3)] * 2
    raw = desk._looked_at[0].pair.rgb
    assert view.picture.shape[:2] == raw.shape[:2]  # 256 px: not made smaller
    marked = (view.picture != raw).any(2)
    box = [round(desk._looked_at[0].row[f"box_{side}"]) for side in ("left", "top", "right", "bottom")]
    rows, columns = np.nonzero(marked)
    assert np.abs(np.array([columns.min(), rows.min(), columns.max(), rows.max()]) - box).max() <= 3
    assert list(view.milliseconds) == ["decode", "detect", "align", "embed", "judge", "search"]
    assert min(view.milliseconds.values()) > 0


def test_a_photograph_is_named_by_nobody_and_refused(desk, faces, tmp_path):
    desk.pick("p0000/s1_000")
    desk.enrol("anna")
    (picture, depth), flat = files(faces, "p0000/s2_000"), tmp_path / "flat.npy"
    shape = np.load(faces / "p0000/s2_000.npy").shape
    np.save(flat, np.full(shape, 800, np.uint16))
    view = desk.upload(picture, (depth[0], flat.read_bytes()), DECLARED)
    assert view.answer.startswith("Nobody is accepted: depth is flat")
    assert "liveness" in [finding.what for finding in view.findings if finding.refused]
    with pytest.raises(UserError, match=r"^not enrolled: .*show a real face"):
        desk.enrol("anna")
    assert len(desk.people.gallery.of("anna")[1]) == 1


def test_a_depth_camera_that_stands_still_is_noticed_on_the_page(desk, faces):
    """The command line noticed it, and the page before the camera did not."""
    desk.pick("p0000/s1_000")
    desk.enrol("anna")
    (picture, _), (_, depth) = files(faces, "p0000/s1_001"), files(faces, "p0000/s1_000")
    view = desk.upload(picture, depth, DECLARED)
    assert view.match.name is None
    assert view.answer.startswith("Nobody is accepted: record it again: its depth is that of 'p0000/s1_000'")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rgb, depth: (("notes.txt", rgb[1]), depth), "notes.txt: no picture by its name"),
        (lambda rgb, depth: (rgb, ("depth.png", depth[1])), "depth.png: no depth map by its name"),
        (lambda rgb, depth: (("x.depth.png", rgb[1]), depth), "x.depth.png: no picture by its name"),
        (lambda rgb, depth: ((rgb[0], rgb[1][:3000]), depth), "^face.png: not a readable picture"),
        (lambda rgb, depth: (rgb, (depth[0], b"")), "^face.npy: not a readable depth map"),
    ],
)
def test_uploads_that_cannot_be_used_are_one_line_without_a_folder(desk, faces, change, said):
    desk.pick("p0000/s1_000")
    with pytest.raises(UserError, match=said) as raised:
        desk.upload(*change(*files(faces, "p0000/s1_000")), DECLARED)
    assert "\n" not in str(raised.value)
    assert "/tmp" not in str(raised.value)
    with pytest.raises(UserError, match="no picture to enrol"):  # and not the pair from before
        desk.enrol("anna")


def test_names_and_pictures_that_cannot_be_enrolled(desk):
    with pytest.raises(UserError, match="no picture to enrol"):
        desk.enrol("anna")
    desk.pick("p0000/s1_000")
    with pytest.raises(UserError):
        desk.enrol("")
    desk.enrol("anna")
    with pytest.raises(UserError, match="is enrolled already"):
        desk.enrol("anna")
    with pytest.raises(UserError, match="the same photograph is enrolled as 'anna'"):
        desk.enrol("bob")
    with pytest.raises(UserError):
        desk.forget("bob")
    with pytest.raises(UserError, match="no pair of this list"):
        desk.pick("p9/s1_000")
    assert desk.names == ("anna",)
    assert desk.undoes == "enrol anna"


def test_the_newest_pair_of_a_watched_folder(desk, faces, tmp_path):
    camera = tmp_path / "camera"
    with pytest.raises(UserError, match="name the folder"):
        desk.newest(" ")
    with pytest.raises(UserError, match="no such folder"):
        desk.newest(camera)
    camera.mkdir()
    with pytest.raises(UserError, match="no pair there yet"):
        desk.newest(camera)
    for place, pair_id in enumerate(("p0000/s1_000", "p0001/s1_000")):
        for ending in (".png", ".npy"):
            shutil.copy(faces / f"{pair_id}{ending}", camera / f"{1 - place}{ending}")
            os.utime(camera / f"{1 - place}{ending}", (1000 + place, 1000 + place))
        assert desk.newest(camera, DECLARED).match.candidates == ()
        assert desk.newest(camera, DECLARED) is None
    desk.enrol("bob")
    assert desk.people.gallery.of("bob")[1][0].pair_id.startswith("0 ")
    os.utime(camera / "1.npy", (2000, 2000))
    assert desk.newest(camera, DECLARED).match.name is None


def test_a_page_that_cannot_be_opened_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("face3d_lib.base.paths.RUNS", tmp_path)
    write_page(tmp_path / "desk.ipynb", "it's", "rgbd/30_train_softmax", "", 0.1)
    (_, cell) = nbformat.read(tmp_path / "desk.ipynb", 4).cells
    assert cell.source.endswith("""page_of_run("it's", 'rgbd/30_train_softmax', '', 0.1)""")
    said = page_of_run("none", "rgbd/30_train_softmax").value
    assert "run none is not complete: face3d run 50_predict_identity none makes it" in said


def test_the_page_of_a_gallery_made_by_enroll_knows_its_people(tmp_path, faces, one_load):
    gallery, pair = tmp_path / "people", [str(faces / f"p0000/s1_000{ending}") for ending in (".png", ".npy")]
    assert CliRunner().invoke(app, ["enroll", *pair, "--name", "anna", "--gallery", str(gallery)]).exit_code == 0
    page = page_of_gallery(gallery)
    assert "1 enrolled: anna" in page.enrolled.value
    assert str(gallery) in page.enrolled.value
    assert page.desk.upload(*files(faces, "p0000/s2_000"), DECLARED).match.name == "anna"
    assert page.choice.options == (("choose one", None),)
    assert page_of_gallery(gallery, faces).desk.pick("p0000/s1_000").match.name == "anna"


def test_the_page_of_a_new_gallery_makes_it_when_somebody_is_enrolled(tmp_path, faces, one_load):
    page = page_of_gallery(str(tmp_path / "new"), faces)
    assert "Nobody is enrolled." in page.enrolled.value
    assert not (tmp_path / "new").exists()
    page.choice.value, page.name.value = "p0000/s1_000", "anna"
    page.buttons["enrol"].click()
    assert open_gallery(tmp_path / "new").names == ("anna",)


def test_a_gallery_or_a_folder_of_pairs_that_cannot_be_opened_is_one_line(tmp_path, one_load):
    (tmp_path / "gallery.json").write_text("{}")
    assert "gallery.json" in page_of_gallery(tmp_path).value
    assert "none" in page_of_gallery(tmp_path / "new", tmp_path / "none").value


def test_the_page_says_what_went_wrong_and_shows_names_as_text(desk):
    page = DeskPage(desk)
    page.choice.value = "p0000/s1_000"
    page.name.value = "<b>anna"
    page.buttons["enrol"].click()
    assert "Enrolled as &lt;b&gt;anna." in page.said.value
    assert "&lt;b&gt;anna 1.000" in page.shown.value
    assert "<b>anna" not in page.shown.value + page.enrolled.value + page.said.value
    page.buttons["enrol"].click()
    assert "is enrolled already" in page.said.value
    desk.pick = lambda _: 1 / 0  # a fault of the program
    page.choice.value = "p0001/s1_000"
    assert "ZeroDivisionError: division by zero" in page.said.value


def test_a_check_asks_the_strangers_who_are_not_enrolled(desk, faces, recogniser):
    """A stranger who was enrolled meanwhile, under the own name or another one, is none."""
    pair_ids = [f"p000{k}/s1_000" for k in range(3)]
    vectors = [desk.pick(pair_id) and desk._looked_at[0].vector for pair_id in pair_ids]
    owners = np.array(["p0000", "P0001", "p0002"])
    desk.strangers = Embeddings(np.array(pair_ids), owners, np.stack(vectors))
    assert desk.check().people == 0
    desk.pick(pair_ids[0])
    desk.enrol("anna")
    assert desk.check().highest_stranger[1] in pair_ids[1:]
    assert len(desk.check().scores["strangers"]) == 2
    desk.pick("p0001/s2_000")  # another picture of the second stranger, under the own name
    desk.enrol("P0001", anyway=True)
    assert len(desk.check().scores["strangers"]) == 1


def test_the_check_goes_when_the_gallery_is_another_one(desk):
    page = DeskPage(desk)
    page.choice.value = "p0000/s1_000"
    page.name.value = "anna"
    page.buttons["enrol"].click()
    page.check.value = True
    assert "1 person with 1 picture" in page.checked.value
    page.choice.value = "p0001/s1_000"  # the same gallery
    assert page.checked.value
    page.buttons["undo"].click()
    assert (page.check.value, page.checked.value) == (False, "")


def test_one_file_alone_is_answered_by_what_is_missing(desk, faces):
    page = DeskPage(desk)
    for widget, ending in ((page.rgb, ".png"), (page.depth, ".npy")):
        content = (faces / f"p0000/s1_000{ending}").read_bytes()
        described = {"name": f"face{ending}", "type": "", "size": len(content), "last_modified": datetime.now()}
        widget.value = (described | {"content": content},)
        if widget is page.rgb:
            assert "face.png is here. Now choose its depth map." in page.said.value
    assert "Done in" in page.said.value  # though both files were taken back meanwhile
    assert (page.rgb.value, page.depth.value, page.choice.value) == ((), (), None)
    assert page.choice.label == "choose one"
