"""The stress test changes the probes and nothing but the probes, and counts what it could not find."""

import pickle
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from face3d_lib.base.errors import UserError
from face3d_lib.data.convention import DepthConvention
from face3d_lib.data.faces import load_detector
from face3d_lib.data.pairs import PairFiles, RGBDPair
from face3d_lib.data.splits import Splits
from face3d_lib.data.warp import AlignSettings
from face3d_lib.evaluate import stress as stress_test
from face3d_lib.evaluate.conditions import rates
from face3d_lib.evaluate.degradations import KNOBS
from face3d_lib.evaluate.stress import (
    Drawn,
    Person,
    Plan,
    Recorded,
    fuse_systems,
    levels_of,
    new_people,
    stress,
    trust_systems,
)
from face3d_lib.evaluate.trained import Trained
from face3d_lib.evaluate.trust import FLAWS, System, Trust
from face3d_lib.serve.recogniser import Part, Recogniser
from face3d_lib.synthetic.people import identity_seed
from face3d_lib.train.embedder import Architecture, Embedder
from face3d_lib.train.model_files import make_card, save_model

LEVELS = {
    "yaw": [30.0],
    "jpeg": [5.0],
    "depth_noise": [20.0],
    "misregistration": [16.0],
    "dark": [4.0],
    "coarse_depth": [8.0],
    "cover": [0.4],
    "no_depth": [1.0],
    "no_colour": [1.0],
}


def untrained(folder, modality, settings=None):
    """A network that never learnt, with a card."""
    settings = settings or AlignSettings()
    torch.manual_seed(0)
    network = Embedder(Architecture(modality, input_size=32))
    source = {"settings_hash": settings.hash(), "alignment": vars(settings), "depth_unit": "mm"}
    card = make_card(network, SimpleNamespace(info={"source": source, "sha256": {}}), [], {}, {})
    save_model(folder / modality / "model", network, card)
    return Trained(f"{modality}/30_train_softmax", folder / modality, {"parameters": {}}, modality)


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return [untrained(folder, modality) for modality in ("rgb", "depth", "rgbd")]


PEOPLE = new_people(3, enrolled=1, probes=2, seed=0)


@pytest.fixture(scope="module")
def tested(networks):
    return stress(PEOPLE, networks, LEVELS, workers=1)


def vectors_at(tested, name, knob, level=None):
    rows = tested.rows
    chosen = (rows["role"] == "probe") & (rows["knob"] == knob)
    return tested.vectors[name][chosen.to_numpy()]


def test_every_probe_is_recorded_at_every_level_and_enrolment_at_none(tested):
    rows = tested.rows
    assert len(rows) == 3 + 6 * (1 + len(LEVELS))
    assert set(rows.loc[rows["role"] == "enrolment", "knob"]) == {""}
    counts = rows[rows["role"] == "probe"].groupby(["knob", "level"]).size()
    assert counts.to_dict() == {("", 0.0): 6} | {(name, levels[0]): 6 for name, levels in LEVELS.items()}
    assert rows["pair_id"].str.contains("/s1_").tolist() == (rows["role"] == "enrolment").tolist()
    assert (rows["status"] == "ok").all()


def test_without_a_change_the_vectors_are_those_of_the_system(tested, networks):
    """The clean recordings, each embedded alone by the function that predicts identities."""
    clean = (tested.rows["knob"] == "").to_numpy()
    sources = {s.pair_id: s for person in PEOPLE for s in (*person.enrolment, *person.probes)}
    pair_ids = tested.rows.loc[clean, "pair_id"].tolist()
    for network in networks[1:]:
        single = Recogniser(network.name, AlignSettings(), "mm", (Part(network.load(), "", 1.0),))
        alone = [single.see(sources[pair_id].pair()).vector for pair_id in pair_ids[:4]]
        assert np.allclose(tested.vectors[network.name][clean][:4], alone, atol=1e-5)


def test_the_gallery_does_not_depend_on_the_levels(tested, networks):
    bare = stress(PEOPLE[::-1], networks, {}, workers=1)  # and nothing depends on the order of the people
    for name, vectors in bare.vectors.items():
        clean = (tested.rows["knob"] == "").to_numpy()
        assert np.allclose(tested.vectors[name][clean], vectors, atol=1e-5)
    assert bare.rows.equals(tested.rows[clean].reset_index(drop=True))
    for name in bare.vectors:
        assert rates(bare.probes()[name]) == rates(tested.probes("depth_noise", 0)[name])


@pytest.mark.parametrize("knob", LEVELS)
def test_a_knob_reaches_the_networks_that_see_what_it_touches_and_no_other(tested, knob):
    detected = KNOBS[knob].kind == "scene" or knob in ("jpeg", "dark")  # the points move, and with them every crop
    for name, seen in (("rgb", {"rgb"}), ("depth", {"depth"}), ("rgbd", {"rgb", "depth"})):
        same = np.array_equal(vectors_at(tested, name, knob), vectors_at(tested, name, ""))
        assert same == (not detected and not seen & set(KNOBS[knob].touches)), name


def test_a_network_without_its_only_modality_cannot_tell_people_apart(tested):
    """The floor: every probe has the same vector, so it is never nearer to its own person than chance."""
    for name, knob in (("depth", "no_depth"), ("rgb", "no_colour")):
        vectors = vectors_at(tested, name, knob)
        assert np.allclose(vectors, vectors[0], atol=1e-6)
        assert rates(tested.probes(knob, 1.0)[name])["rank1"] == pytest.approx(1 / 3)
    assert rates(tested.probes("no_depth", 1.0)["rgb"]) == rates(tested.probes()["rgb"])


def test_late_fusion_is_one_more_system(tested):
    fused = fuse_systems(tested, "rgb", "depth", 0.25).probes("yaw", 30.0)
    expected = 0.25 * fused["rgb"].scores + 0.75 * fused["depth"].scores
    assert np.allclose(fused["rgb + depth"].scores, expected, atol=1e-6)
    assert set(tested.probes()) == {"rgb", "depth", "rgbd"}


EVEN = {name: 0.0 for name in FLAWS}


def by_hand(depth_slope=0.0):
    """A fusion whose colour counts less in the dark, 10 LLR per unit of cosine and 2 less per factor of 2."""
    colour = System(0.5, 10.0, 1.0, {"dark": -2.0}, {})
    depth = System(0.5, depth_slope, 0.0, {}, {})
    return Trust({"colour": colour, "depth": depth}, EVEN, dict.fromkeys(FLAWS, 10.0), {})


def test_a_fusion_by_quality_takes_the_qualities_of_each_recording(networks):
    levels = {"dark": [6.0], "no_depth": [1.0], "depth_noise": [20.0]}
    bare = stress(PEOPLE, networks[:2], levels, workers=1)
    with pytest.raises(UserError, match="measured=True"):
        trust_systems(bare, "rgb", "depth", by_hand())
    measured = stress(PEOPLE, networks[:2], levels, workers=1, measured=True)
    assert all(np.array_equal(bare.vectors[name], measured.vectors[name]) for name in bare.vectors)
    quality, rows = measured.quality, measured.rows
    assert len(quality) == len(rows)

    def mean(name, knob):
        return quality.loc[(rows["role"] == "probe") & (rows["knob"] == knob), name].mean()

    assert mean("brightness", "dark") < 0.5 * mean("brightness", "")
    assert mean("brightness", "depth_noise") == mean("brightness", "")
    assert mean("noise_mm", "depth_noise") > 5 * mean("noise_mm", "")
    assert (mean("depth", "no_depth"), mean("colour", "no_depth"), mean("depth", "dark")) == (0, 1, 1)

    fused = trust_systems(measured, "rgb", "depth", by_hand())
    clean, dark = fused.probes(), fused.probes("dark", 6.0)
    assert set(clean) == {"rgb", "depth", "rgb + depth, trusted"}
    for found, knob in ((clean, ""), (dark, "dark")):
        scores = found["rgb + depth, trusted"].scores
        bright = quality["brightness"].to_numpy()
        probe = bright[((rows["role"] == "probe") & (rows["knob"] == knob)).to_numpy()]
        gallery = bright[(rows["role"] == "enrolment").to_numpy()]  # one picture each, in the order of the people
        lacking = np.maximum(np.log2(100) - np.log2(np.minimum(probe[:, None], gallery[None])), 0)
        expected = np.maximum(10 - 2 * lacking, 0) * (found["rgb"].scores - 0.5) + 1
        assert np.allclose(scores, expected, atol=1e-4)
    without = trust_systems(measured, "rgb", "depth", by_hand(7.0)).probes("no_depth", 1.0)
    assert np.allclose(without["rgb + depth, trusted"].scores, clean["rgb + depth, trusted"].scores)


class Blank:
    """A picture without a face."""

    pair_id = "eve/2"

    def pair(self, change="", level=0):
        grey, depth = np.full((120, 120, 3), 128, np.uint8), np.full((120, 120), 800, np.float32)
        return RGBDPair(self.pair_id, "eve", grey, depth, "mm", "", "")


class Broken(Blank):
    pair_id = "eve/3"

    def pair(self, change="", level=0):
        raise OSError("the disk is gone")


def test_faces_that_are_not_found_and_pairs_that_cannot_be_read_are_rows(networks):
    eve = Person("eve", PEOPLE[0].enrolment, (PEOPLE[0].probes[0], Blank(), Broken()))
    plan = Plan(tuple(networks), AlignSettings(), {"holes": [0.5], "yaw": [15.0]}, 0, "cpu")
    loaded = {network.name: network.load() for network in networks[:1]}
    rows, vectors, _ = stress_test.test_person(eve, plan, load_detector(), loaded)
    status = pd.DataFrame(rows).groupby("pair_id")["status"].agg(set)
    assert status["eve/2"] == {"no_face"}
    assert status["eve/3"] == {"internal_error"}
    failed = np.array([row["status"] != "ok" for row in rows])
    assert failed.sum() == 2 * 3
    assert np.array_equal(vectors["rgb"].any(axis=1), ~failed)


def test_depth_that_is_lost_altogether_is_a_failure_of_the_whole_system(networks):
    plan = Plan(tuple(networks), AlignSettings(), {"holes": [1.0]}, 0, "cpu")
    rows, vectors, _ = stress_test.test_person(PEOPLE[0], plan, load_detector(), {"rgb": networks[0].load()})
    lost = np.array([row["knob"] == "holes" for row in rows])
    assert {row["status"] for row in rows if row["knob"] == "holes"} == {"bad_depth"}
    assert not vectors["rgb"][lost].any()


def test_what_goes_to_the_workers_can_be_sent(networks):
    plan = Plan(tuple(networks), AlignSettings(), LEVELS, 0, "cpu")
    assert pickle.loads(pickle.dumps((plan, PEOPLE))) == (plan, PEOPLE)


def test_new_people_are_nobody_of_the_run():
    with pytest.raises(UserError, match="person 5001 of seed 3 is in the run's data"):
        new_people(3, 1, 1, seed=3, known=[str(identity_seed(3, 5001))])
    person = new_people(1, 2, 3, seed=3)[0]
    assert [source.pair_id for source in person.enrolment] == ["p5000/s1_000", "p5000/s1_001"]
    assert [source.pair_id for source in person.probes] == ["p5000/s2_000", "p5000/s2_001", "p5000/s2_002"]
    assert person.probes[0].pair().subject_id == "p5000"


def test_the_people_of_a_run_keep_their_gallery_and_their_probes():
    def table(*rows):
        return pd.DataFrame(rows, columns=["pair_id", "cls_name", "group"], dtype=str)

    gallery = table(["bo/0", "bo", "test"], ["ada/0", "ada", "test"], ["di/0", "di", "dev"])
    probe = table(["bo/1", "bo", "test"], ["bo/2", "bo", "test"], ["di/1", "di", "dev"])
    empty = pd.DataFrame()
    division = Splits(empty, empty, empty, empty, gallery, probe, empty, empty)
    files = [PairFiles(name, name.partition("/")[0], None, None) for name in (*gallery["pair_id"], *probe["pair_id"])]
    people = stress_test.people_of_run(division, files, DepthConvention("mm", "farther"))
    found = [(p.subject_id, [s.pair_id for s in p.enrolment], [s.pair_id for s in p.probes]) for p in people]
    assert found == [("ada", ["ada/0"], []), ("bo", ["bo/0"], ["bo/1", "bo/2"])]
    assert isinstance(people[1].probes[0], Recorded)
    with pytest.raises(UserError, match="no probes of train people"):
        stress_test.people_of_run(division, files, DepthConvention("mm", "farther"), "train")


def test_all_people_of_a_run_are_enrolled_with_the_picture_asked_for(capsys):
    names = ["ada/burned", "ada/front", "ada/up", "bo/front", "cy/left", "cy/up", "di/left"]
    files = [PairFiles(name, name.partition("/")[0], None, None) for name in names]
    meaning = DepthConvention("mm", "farther")

    def found(pair_ids, enrolled=""):
        people = stress_test.everybody_of_run(pair_ids, files, meaning, enrolled)
        return [(p.subject_id, [s.pair_id for s in p.enrolment], [s.pair_id for s in p.probes]) for p in people]

    assert found(names[::-1])[:2] == [("ada", ["ada/burned"], ["ada/front", "ada/up"]), ("bo", ["bo/front"], [])]
    assert found(names, "front") == [("ada", ["ada/front"], ["ada/burned", "ada/up"]), ("bo", ["bo/front"], [])]
    assert "2 people have no pair named 'front' and are left out: cy, di" in capsys.readouterr().out
    assert found(names[1:3]) == [("ada", ["ada/front"], ["ada/up"])]  # the unusable pair is not there
    with pytest.raises(UserError, match="nobody has such a pair"):
        found(names, "cy")  # the person's name is no part of the pair's


def test_levels_are_spread_and_hold_the_worst():
    assert levels_of(["yaw", "glasses"], 4) == {"yaw": [15, 30, 45, 60], "glasses": [1]}
    assert levels_of(["yaw"], 2) == {"yaw": [15, 60]}
    assert levels_of(["yaw"], 1) == {"yaw": [60]}
    assert levels_of(["jpeg"], 3)["jpeg"][-1] == 5
    for knobs, count, kinds in ([["yawn"], 1, ("scene",)], [["yaw"], 0, ("scene",)], [["yaw"], 1, ("pair",)]):
        with pytest.raises(UserError):
            levels_of(knobs, count, kinds)


def test_networks_that_need_different_crops_are_refused(networks, tmp_path):
    other = untrained(tmp_path, "rgb", AlignSettings(image_size=96))
    with pytest.raises(UserError, match="different settings"):
        stress(PEOPLE, [networks[1], other], LEVELS, workers=1)
    with pytest.raises(UserError, match="nobody to test"):
        stress([], networks, LEVELS, workers=1)


def test_a_drawn_pair_is_canonical():
    pair = Drawn(0, 5000, 1000).pair()
    assert pair.depth.dtype == np.float32
    assert (pair.depth == 0).any()
    assert pair.depth.max() > 500
