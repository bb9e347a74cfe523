"""A gallery in use: enrol, identify, forget; each picture is judged, each threshold is that of the gallery's size."""

import ast
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest

from face3d_lib.base.errors import UserError
from face3d_lib.base.paths import ROOT
from face3d_lib.evaluate.embeddings import Embeddings
from face3d_lib.serve import people as module
from face3d_lib.serve.gallery import Gallery, open_gallery
from face3d_lib.serve.people import People, re_embed, verify
from face3d_lib.serve.recogniser import Recogniser
from face3d_lib.serve.strangers import Strangers, shipped
from face3d_lib.serve.threshold import NOBODY_YET, with_threshold


def pair(faces, person, picture="s1_000"):
    return faces / person / f"{picture}.png", faces / person / f"{picture}.npy"


@pytest.fixture
def people(tmp_path, recogniser):
    return People.open(tmp_path / "people", recogniser)


def test_enrol_identify_forget(faces, people):
    assert people.names == ()
    first = people.enrol("anna", *pair(faces, "p0000"))
    assert (first.status, first.pair_id) == ("enrolled", "p0000/s1_000")
    people.enrol("bob", *pair(faces, "p0001"))
    match = people.identify(*pair(faces, "p0000"))
    assert (match.name, match.known) == ("anna", True)
    assert match.score == pytest.approx(1, abs=1e-6)
    assert people.forget("anna") == "anna"
    assert people.identify(*pair(faces, "p0000")).candidates[0][0] == "bob"
    assert people.names == ("bob",)


def test_the_same_photograph_again_changes_nothing_and_under_another_name_is_refused(faces, people):
    people.enrol("anna", *pair(faces, "p0000"))
    before = (people.folder / "gallery.json").read_bytes()
    assert people.enrol("anna", *pair(faces, "p0000")).status == "known"
    refused = people.enrol("bob", *pair(faces, "p0000"))
    assert refused.status == "refused"
    assert "the same photograph is enrolled as 'anna'" in " ".join(refused.reasons)
    assert (people.folder / "gallery.json").read_bytes() == before
    assert people.enrol("bob", *pair(faces, "p0000"), anyway=True).status == "enrolled"


def test_the_threshold_grows_with_the_gallery(faces, people):
    table = shipped(people.recogniser.model_id)
    thresholds = []
    for count, person in enumerate(("p0000", "p0001", "p0002"), 1):
        people.enrol(person, *pair(faces, person))
        thresholds.append(people.gallery.threshold)
        assert people.gallery.threshold == table.threshold(0.01, count)[0]
    assert thresholds == sorted(set(thresholds))
    assert "for FAR 0.01 with 3 people" in people.gallery.note


def test_a_threshold_given_by_hand_stays(faces, tmp_path, recogniser):
    people = People.open(tmp_path / "g", recogniser, threshold=0.5)
    people.enrol("anna", *pair(faces, "p0000"))
    people.enrol("bob", *pair(faces, "p0001"))
    assert people.gallery.threshold == 0.5
    assert people.identify(*pair(faces, "p0002")).known


def small(model_id="b" * 64, names=("a", "b", "c"), **more):
    vectors = np.eye(3, dtype=np.float32)[: len(names)]
    return Gallery(names, vectors, model_id, 0.5, 0.3, fixed=False, **more)


def test_without_other_people_the_enrolled_are_strangers_to_one_another():
    found = with_threshold(small())
    assert found.threshold == np.nextafter(np.float32(0), 1)  # all scores are 0
    assert "as strangers to one another" in found.note
    alone = with_threshold(small(names=("a",)))
    assert alone.threshold == NOBODY_YET
    assert not alone.identify(np.eye(3, dtype=np.float32)[0]).known
    table = Strangers((0.5,), (0.7,), (0.4,), (0.6,), 0.75, 99, 9, "a folder")
    given = with_threshold(small(names=("a",), strangers=table))
    assert given.threshold > 0.75
    assert "of 9 other people" in given.note


def test_a_picture_can_be_taken_away_again(faces, people):
    people.enrol("anna", *pair(faces, "p0000"))
    before = people.gallery
    people.enrol("anna", *pair(faces, "p0000", "s2_000"), anyway=True)
    people.remove("anna", "p0000/s2_000")
    np.testing.assert_array_equal(people.gallery.templates, before.templates)
    people.rename("anna", "zoe")
    assert people.names == ("zoe",)


def test_what_cannot_be_used_leaves_the_gallery_as_it_was(faces, people, tmp_path):
    people.enrol("anna", *pair(faces, "p0000"))
    before = (people.folder / "gallery.json").read_bytes()
    rgb, depth = pair(faces, "p0001")
    blind = tmp_path / "blind.npy"
    np.save(blind, np.zeros_like(np.load(depth)))
    for name, files in (
        ("", (rgb, depth)),
        ("bob", (rgb, tmp_path / "no.npy")),
        ("bob", (rgb, blind)),
        ("bob", (rgb,)),
    ):
        with pytest.raises(UserError) as error:
            people.enrol(name, *files)
        assert "\n" not in str(error.value)
    assert (people.folder / "gallery.json").read_bytes() == before


def test_a_gallery_of_another_model_is_refused(faces, people):
    people.enrol("anna", *pair(faces, "p0000"))
    other = replace(people.recogniser, parts=people.recogniser.parts[:1])
    with pytest.raises(UserError, match="re-embed"):
        People.open(people.folder, other)
    stale = People(people.folder, other, people.fresh)
    with pytest.raises(UserError, match="vectors of two models"):
        stale.enrol("bob", *pair(faces, "p0001"))
    with pytest.raises(UserError, match="vectors of two models"):
        stale.identify(*pair(faces, "p0001"))


def test_a_gallery_of_a_run_says_how_it_is_asked(tmp_path):
    replace(small(), model="rgbd/30_train_softmax").save(tmp_path / "g")
    with pytest.raises(UserError, match="ask the gallery of a run with --run"):
        People.open(tmp_path / "g")


def test_nobody_is_asked_where_there_is_no_gallery(faces, people):
    with pytest.raises(UserError, match="no gallery there"):
        people.identify(*pair(faces, "p0000"))
    assert not people.folder.exists()


def test_verify_uses_the_threshold_of_one_comparison(faces, recogniser, people):
    a, b, c = (people.see(*pair(faces, *which))[0] for which in (("p0000",), ("p0000", "s1_001"), ("p0002",)))
    same = verify(recogniser, a, a)
    assert same.same
    assert same.score == pytest.approx(1, abs=1e-6)
    assert same.threshold == shipped(recogniser.model_id).threshold(0.01, 1)[0]
    score = verify(recogniser, a, b).score
    assert verify(recogniser, a, b, threshold=score).same
    assert not verify(recogniser, a, b, threshold=np.nextafter(score, 2)).same
    assert verify(recogniser, a, c).score < score
    with pytest.raises(UserError, match="--threshold"):
        verify(replace(recogniser, parts=recogniser.parts[:1]), a, b)


def test_a_gallery_moves_to_another_model_by_kept_pixels_alone(faces, tmp_path, recogniser):
    copy = tmp_path / "faces"
    shutil.copytree(faces, copy)
    people = People.open(tmp_path / "g", recogniser, keep_crops=True)
    for person in ("p0000", "p0001"):
        people.enrol(person, *pair(copy, person))
    shutil.rmtree(copy)
    other = replace(recogniser, name="colour", parts=(replace(recogniser.parts[0], share=1.0),))
    moved = re_embed(tmp_path / "g", other)
    assert (moved.model_id, moved.model) == (other.model_id, "colour")
    assert moved.vectors.shape == (2, 128)
    direct = other.see(People.open(tmp_path / "x", other).see(*pair(faces, "p0000"))[0].pair).vector
    np.testing.assert_allclose(moved.of("p0000")[0][0], direct, atol=1e-3)
    assert len(list((tmp_path / "g").glob("crops-*"))) == 2
    people = People.open(tmp_path / "h", recogniser)
    people.enrol("anna", *pair(faces, "p0000"))
    with pytest.raises(UserError, match="were not kept"):
        re_embed(tmp_path / "h", other)
    assert open_gallery(tmp_path / "h").model_id == recogniser.model_id


def test_two_processes_that_judge_one_photograph_enrol_it_once(faces, people):
    seen = people.see(*pair(faces, "p0000"))
    other = People(people.folder, people.recogniser, people.fresh)
    assert [one.status for one in other.enrol_seen("anna", [seen])] == ["enrolled"]
    assert [one.status for one in people.enrol_seen("anna", [seen])] == ["known"]


def test_the_lines_of_the_readme_run_as_they_are_written(faces, tmp_path, monkeypatch, one_load, capsys):
    for number, picture in enumerate(("s1_000", "s1_001"), 1):
        for source in pair(faces, "p0000", picture):
            target = tmp_path / "faces" / "anna" / f"{number:02d}{source.suffix}"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target.with_suffix(".jpg" if source.suffix == ".png" else source.suffix))
    shutil.copy(faces / "dataset.json", tmp_path / "faces")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(
        r"^    from face3d_lib\.serve.*\n(?:^(?:    .*)?\n)+", (ROOT / "README.md").read_text(encoding="utf-8"), re.M
    )
    assert len(blocks) == 1
    lines = [line.strip() for line in blocks[0].splitlines() if line.strip()]
    assert len(lines) == 5
    compiled = compile(ast.parse("\n".join(lines)), "README.md", "exec")
    names: dict = {}
    exec(compiled, names)
    assert "name='anna'" in capsys.readouterr().out
    assert names["people"].names == ()


def test_the_api_needs_no_torch_to_be_imported():
    import subprocess
    import sys

    program = "import sys, face3d_lib.serve as s\nassert 'torch' not in sys.modules\nassert s.People and s.Recogniser"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_measured_strangers_choose_the_threshold(faces, people, tmp_path, recogniser):
    vectors = [people.see(*pair(faces, person))[0].vector for person in ("p0001", "p0002")]
    table = Strangers.measure(Embeddings(np.array(["1", "2"]), np.array(["b", "c"]), np.stack(vectors)), "two people")
    chosen = People.open(tmp_path / "mine", recogniser, strangers=table)
    chosen.enrol("anna", *pair(faces, "p0000"))
    assert open_gallery(tmp_path / "mine").strangers == table
    assert chosen.gallery.threshold > table.highest
    assert module.FAR == 0.01
    assert isinstance(chosen.recogniser, Recogniser)


def test_a_photograph_that_is_held_up_is_nobody(faces, people, recogniser):
    people.enrol("anna", *pair(faces, "p0000"))
    seen, _ = people.see(*pair(faces, "p0000"))
    sheet = replace(seen.pair, depth=np.full_like(seen.pair.depth, 700))
    match = people.identify(sheet)
    assert (match.known, match.name) == (False, None)
    assert match.candidates[0][0] == "anna"
    assert match.score >= match.threshold
    assert "flat" in match.refused
    assert people.identify(sheet, liveness=False).name == "anna"
    held = recogniser.see(sheet)
    assert not verify(recogniser, seen, held).same
    assert verify(recogniser, held, seen).refused
    assert verify(recogniser, held, seen, liveness=False).same
    (refused,) = people.enrol_seen("bob", [people.see(sheet)])
    assert refused.status == "refused"
    assert "liveness" in {finding.what for finding in refused.findings}
