"""Embeddings and protocols of other projects: normalised, or refused with the pair or the line that is wrong."""

import zipfile

import numpy as np
import pytest

from face3d_lib.base.errors import UserError
from face3d_lib.evaluate.embedding_files import read_embeddings, read_protocol

PAIRS = ["Ann_Lee/Ann_Lee_0001", "Ann_Lee/Ann_Lee_0002", "Bob/Bob_0001", "Bob/Bob_0002", "Cy/Cy_0001", "Cy/Cy_0010"]


def arrays(**changes):
    vectors = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    made = {"pair_ids": np.array(PAIRS), "subject_ids": np.array([p.split("/")[0] for p in PAIRS]), "vectors": vectors}
    return {key: value for key, value in (made | changes).items() if value is not None}


def saved(tmp_path, **changes):
    path = tmp_path / "other.npz"
    np.savez(path, **arrays(**changes))
    return path


def test_vectors_of_any_length_become_unit_length_with_a_note(tmp_path):
    found, notes = read_embeddings(saved(tmp_path, age=np.arange(6), model=np.array("net")))
    expected = arrays()["vectors"].astype(np.float64)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(found.vectors, expected, atol=1e-15)
    assert found.vectors.dtype == np.float64
    assert "made unit length" in notes[0]
    for scale in (1e300, 1e-300):
        again, _ = read_embeddings(saved(tmp_path, vectors=expected * scale))
        np.testing.assert_allclose(again.vectors, expected, atol=1e-15)
    assert read_embeddings(saved(tmp_path, vectors=expected.astype(np.float32)))[1] == []
    whole, _ = read_embeddings(saved(tmp_path, vectors=np.arange(24).reshape(6, 4)))
    np.testing.assert_allclose(np.linalg.norm(whole.vectors, axis=1), 1)


def test_names_may_be_bytes_or_whole_numbers(tmp_path):
    found, _ = read_embeddings(
        saved(tmp_path, subject_ids=np.array([0, 0, 1, 1, 2, 2]), pair_ids=np.char.encode(PAIRS))
    )
    assert list(found.subject_ids) == ["0", "0", "1", "1", "2", "2"]
    assert list(found.pair_ids) == PAIRS


def test_a_vector_of_zeros_is_a_failure(tmp_path):
    vectors = arrays()["vectors"]
    vectors[3] = 0
    found, notes = read_embeddings(saved(tmp_path, vectors=vectors))
    assert not found.vectors[3].any()
    assert "1 of 6 vectors are zeros, the first that of Bob/Bob_0002" in notes[-1]


def with_nan():
    vectors = arrays()["vectors"]
    vectors[2, 1] = np.nan
    return vectors


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vectors": with_nan()}, "the vector of Bob/Bob_0001 holds NaN"),
        ({"vectors": np.ones(6)}, r"vectors are \(6,\)"),
        ({"vectors": np.ones((6, 1, 4))}, r"vectors are \(6, 1, 4\)"),
        ({"vectors": np.ones((6, 0))}, "vectors are"),
        ({"vectors": np.ones((5, 4))}, "there are 5 vectors"),
        ({"vectors": np.ones((6, 4), complex)}, "complex"),
        ({"vectors": np.array([[{}]] * 6, object)}, r"no embeddings that can be read \(it holds objects"),
        ({"vectors": None, "vector": np.ones((6, 4))}, "no array vectors: rename vector"),
        ({"subject_ids": None, "labels": np.arange(6)}, "no array subject_ids: it has labels"),
        ({"pair_ids": np.array([*PAIRS[:5], PAIRS[0]])}, "pair Ann_Lee/Ann_Lee_0001 occurs twice"),
        ({"subject_ids": np.array(["a", "a", "", "b", "c", "c"])}, "subject_ids, row 2"),
        ({"subject_ids": np.array(["a", "a", "b\n", "b", "c", "c"])}, "subject_ids, row 2"),
        ({"subject_ids": np.arange(6.0)}, "save the names as text"),
        ({"model": np.array(["x"] * 4 + ["y"] * 2)}, "two models mixed: Ann_Lee/Ann_Lee_0001 is of x, Cy/Cy_0001 of y"),
        ({"model_sha256": np.array(["x", "y"])}, "model_sha256 names 2 models"),
    ],
)
def test_what_is_no_set_of_embeddings_is_refused(tmp_path, changes, message):
    with pytest.raises(UserError, match=message) as error:
        read_embeddings(saved(tmp_path, **changes))
    assert "other.npz" in str(error.value)


def test_files_that_are_no_npz_are_refused(tmp_path):
    path = saved(tmp_path)
    path.write_bytes(path.read_bytes()[:-30])
    for damaged in (path, tmp_path):
        with pytest.raises(UserError, match="no embeddings that can be read"):
            read_embeddings(damaged)
    with pytest.raises(UserError, match=r"none\.npz: not there: correct the path"):
        read_embeddings(tmp_path / "none.npz")
    with open(path, "wb") as file:
        np.save(file, np.ones((3, 3)))
    with pytest.raises(UserError, match="one array without names"):
        read_embeddings(path)


def protocol(tmp_path, text, name="pairs.txt"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return read_protocol(path, read_embeddings(saved(tmp_path))[0])


LFW = "2\t1\nAnn_Lee\t1\t2\nAnn_Lee\t1\tBob\t2\nBob\t1\t2\nBob\t2\tCy\t10\n"


def test_the_pairs_of_lfw(tmp_path):
    pairs, notes = protocol(tmp_path, LFW)
    assert pairs.to_numpy().tolist() == [
        [PAIRS[0], PAIRS[1], "1", 0],
        [PAIRS[0], PAIRS[3], "0", 0],
        [PAIRS[2], PAIRS[3], "1", 1],
        [PAIRS[3], PAIRS[5], "0", 1],
    ]
    assert notes == []
    single, _ = protocol(tmp_path, "1\nBob 1 2\nBob 2 Cy 10\n")
    assert list(single.columns) == ["pair_id_a", "pair_id_b", "same"]


def test_pictures_of_lfw_are_found_by_name_or_person(tmp_path):
    files = np.array([f"{name.split('/')[-1]}.jpg" for name in PAIRS])
    path = tmp_path / "pairs.txt"
    path.write_text(LFW, encoding="utf-8")
    pairs, _ = read_protocol(path, read_embeddings(saved(tmp_path, pair_ids=files))[0])
    assert pairs["pair_id_b"].tolist() == [files[1], files[3], files[3], files[5]]
    numbered = saved(tmp_path, subject_ids=np.array([0, 0, 1, 1, 2, 2]))
    assert len(read_protocol(path, read_embeddings(numbered)[0])[0]) == 4
    twice = saved(tmp_path, pair_ids=np.array(["x/Bob_1", "y/Bob_01", *PAIRS[2:]]), subject_ids=np.array(["Bob"] * 6))
    with pytest.raises(UserError, match="may both be picture 1 of Bob"):
        read_protocol(path, read_embeddings(twice)[0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2\t1\n" + LFW.split("\n", 2)[2], r"line 2: .*a pair of one person belongs here"),
        (LFW.rsplit("\n", 2)[0] + "\n", "3 pairs, but its first line says 4"),
        (LFW + "Cy\t1\t10\n", "5 pairs"),
        (LFW.replace("Cy\t10", "Cy\t11"), "line 5: no embedding of picture 11 of Cy"),
        (LFW.replace("Cy\t10", "Cy\tten"), "line 5: .* neither"),
        (LFW.replace("2\t1\n", "0\t1\n", 1), "line 1"),
        ("2\t1\n", "0 pairs, but its first line says 4"),
        ("", "empty"),
        ("pair_id_a,pair_id_b\nx,y\n", "no column same"),
        ("pair_id_a,pair_id_b,same\n", "a header and no pair"),
    ],
)
def test_protocols_that_are_not_whole_are_refused(tmp_path, text, message):
    with pytest.raises(UserError, match=message) as error:
        protocol(tmp_path, text)
    assert "pairs.txt" in str(error.value)


def test_the_project_s_own_pairs(tmp_path):
    rows = "group,pair_id_a,pair_id_b,same\ndev,x,y,1\ntest,Bob/Bob_0001,Cy/Cy_0001,0\n"
    pairs, notes = protocol(tmp_path, rows, "pairs.csv")
    assert pairs["pair_id_a"].tolist() == ["Bob/Bob_0001"]
    assert notes == ["pairs.csv: the 1 pairs of the group test, of 2 pairs"]
    pairs, notes = protocol(tmp_path, rows.replace("group,", "kind,"), "pairs.csv")
    assert (len(pairs), notes) == (2, [])


def test_an_archive_of_anything_is_refused_in_one_line(tmp_path):
    path, whole = tmp_path / "foreign.npz", saved(tmp_path).read_bytes()
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (100000000000000, 512), }".ljust(117) + b"\n"
    for inside in (b"words", b"\x93NUMPY\x01\x00\x10\x00{{{{((((", b"\x93NUMPY\x01\x00" + b"\x76\x00" + header):
        with zipfile.ZipFile(path, "w") as archive:
            for name in ("pair_ids", "subject_ids", "vectors"):
                archive.writestr(f"{name}.npy", inside)
        with pytest.raises(UserError, match=r"foreign\.npz.*numpy\.savez") as error:
            read_embeddings(path)
        assert "\n" not in str(error.value)
    for place, value in ((8, 1), (10, 99)):  # encrypted; a method of compression that Python lacks
        marked, at = bytearray(whole), whole.find(b"PK\x01\x02")
        while at >= 0:
            marked[at + place] = value
            at = whole.find(b"PK\x01\x02", at + 4)
        path.write_bytes(marked)
        with pytest.raises(UserError, match=r"foreign\.npz"):
            read_embeddings(path)
