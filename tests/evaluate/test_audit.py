"""What must be apart is apart, or it is refused with the names."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from face3d_lib.base.errors import UserError
from face3d_lib.data.splits import Splits, SplitSettings, make_splits
from face3d_lib.evaluate.audit import audit_embeddings, audit_split
from face3d_lib.evaluate.embeddings import Embeddings


def division(people: int = 14) -> Splits:
    rows = [(f"p{k:02d}/{i}", f"p{k:02d}", f"s{1 + i // 2}") for k in range(people) for i in range(4)]
    table = pd.DataFrame(rows, columns=["pair_id", "subject_id", "session"]).assign(status="ok", condition="")
    table = table.assign(cls_name=table["subject_id"], sha256=table["pair_id"], rgb_sha256=table["pair_id"])
    table["depth_map_sha256"] = "depth of " + table["pair_id"]
    return make_splits(table.assign(rgb_image_path="", dep_image_path=""), SplitSettings())


def card(classes, pack="one"):
    return SimpleNamespace(classes=classes, pack_sha256={"index.csv": pack})


PACKED = SimpleNamespace(info={"sha256": {"index.csv": "one"}})


def test_a_sound_split_is_described():
    split = division()
    people = sorted(set(split.train["cls_name"]))
    (line,) = audit_split(split, {"rgb": card(people)}, PACKED)
    unseen = {*split.gallery["cls_name"], *split.unknown["cls_name"]}
    assert f"{len(unseen)} people never seen in training, {len(people)} training people" in line
    assert f"{len(split.pairs)} comparisons" in line


def test_a_network_that_was_trained_on_a_test_person_is_refused_with_the_names():
    split = division()
    seen = sorted(split.probe["cls_name"])[0]
    with pytest.raises(UserError, match=f"rgb was trained on people.*{seen}"):
        audit_split(split, {"rgb": card([*split.train["cls_name"], seen])}, PACKED)
    (_, note) = audit_split(split, {"rgb": card([seen], "two")}, PACKED)  # another data set, another person
    assert "not audited: rgb was trained on another pack" in note


def first_of(split, name):
    return getattr(split, name).iloc[[0]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {"train": pd.concat([s.train, first_of(s, "probe").assign(pair_id="x", sha256="", depth_sha256="")])},
         r"^p\d\d: among the people trained and unseen"),
        (lambda s: {"unknown": pd.concat([s.unknown, s.gallery.assign(pair_id="u" + s.gallery["pair_id"], sha256="",
         depth_sha256="")])}, r"p\d\d, p\d\d.*: among the people enrolled and unknown"),
        (lambda s: {"probe": pd.concat([s.probe, first_of(s, "gallery").assign(pair_id="z/again", depth_sha256="")])},
         r"one picture \(exact copies\) is in two places: .*'z/again'"),
        (lambda s: {"probe": pd.concat([s.probe, first_of(s, "gallery").assign(pair_id="z/again", sha256="")])},
         r"one depth map \(exact copies\) is in two places: .*'z/again'"),
        (lambda s: {"pairs": s.pairs.assign(same="1")}, r"wrong in column same in \d+ rows: p\d\d/"),
        (lambda s: {"pairs": s.pairs.assign(pair_id_a=first_of(s, "train")["pair_id"].iloc[0])},
         r"not in the open set: p\d\d/"),
        (lambda s: {"pairs": s.pairs.assign(group="test")}, r"pictures of the other group: p\d\d/"),
    ],
)  # fmt: skip
def test_who_or_what_is_in_two_places_is_refused_with_the_names(change, message):
    split = division()
    with pytest.raises(UserError, match=message):
        audit_split(dataclasses.replace(split, **change(split)), {}, PACKED)


def embeddings(people=4, pictures=3):
    rng = np.random.default_rng(0)
    found = rng.normal(size=(people * pictures, 16)).astype(np.float32)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    who = np.repeat([f"p{k}" for k in range(people)], pictures)
    return Embeddings(np.array([f"{name}/{i}" for i, name in enumerate(who)]), who, found)


def test_roles_of_one_person_that_must_be_apart_are_refused_with_the_names():
    vectors = embeddings()
    roles = np.array(["train"] * 3 + ["gallery", "probe", "probe"] + ["unknown"] * 3 + ["test"] * 3)
    assert audit_embeddings(vectors, roles) == []
    for place, role, message in ((2, "test", "train and test: p0"), (5, "unknown", "gallery and unknown: p1")):
        with pytest.raises(UserError, match=message):
            audit_embeddings(vectors, np.where(np.arange(12) == place, role, roles))
    with pytest.raises(UserError, match="11 roles for 12"):
        audit_embeddings(vectors, roles[1:])
    assert audit_embeddings(vectors, np.where(np.arange(12) < 6, "mine", "yours"), [("mine", "yours")]) == []


def test_one_picture_under_two_names_is_refused_or_told():
    vectors = embeddings()
    copied = vectors.vectors.copy()
    copied[10] = copied[1] + 1e-6  # embedded in another batch
    copied[5] = copied[4]
    copied[[0, 3]] = 0  # failures are no copies of each other
    found = dataclasses.replace(vectors, vectors=copied)
    with pytest.raises(
        UserError, match=r"2 pairs of embeddings are equal \(1 of two people\): p0/1 = p3/10, p1/4 = p1/5"
    ):
        audit_embeddings(found)
    (note,) = audit_embeddings(found, refuse_copies=False)
    assert "rated like all others" in note
    with pytest.raises(UserError, match="occur twice: p0/0:"):
        audit_embeddings(dataclasses.replace(vectors, pair_ids=np.array(["p0/0"] * 2 + [str(k) for k in range(10)])))


def test_every_copy_is_found_among_many_and_a_collapsed_network_ends():
    rng = np.random.default_rng(1)
    many = rng.normal(size=(3000, 64)).astype(np.float32)
    many[1500:1600] = many[:100]
    many /= np.linalg.norm(many, axis=1, keepdims=True)
    names = np.arange(3000).astype(str)
    with pytest.raises(UserError, match=r"^100 pairs of embeddings are equal"):
        audit_embeddings(Embeddings(names, names, many))
    with pytest.raises(UserError, match="collapsed network"):
        audit_embeddings(Embeddings(names, names, np.repeat(many[:1], 3000, axis=0)))
