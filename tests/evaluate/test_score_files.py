"""Score files of other projects: read exactly, written back exactly, refused where their meaning would be a guess."""

import gzip

import numpy as np
import pytest

from face3d_lib.base.errors import UserError
from face3d_lib.evaluate.score_files import read_scores, write_trials
from face3d_lib.evaluate.scores import Trials

FOUR = "ann ann p1 0.9\nann bob p2 0.2\nbob bob p2 0.8\nbob ann p1 0.1\n"


def wrote(path, text):
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def read(tmp_path, text, **options):
    return read_scores(wrote(tmp_path / "scores.txt", text), **options)


def scores_of(found):
    return sorted(found.genuine.tolist()), sorted(found.impostor.tolist())


@pytest.mark.parametrize(
    "text",
    [
        FOUR,
        FOUR.replace(" ", "\t"),
        FOUR.replace(" ", ","),
        FOUR.replace("\n", "\r\n"),
        "\ufeff" + FOUR,
        "# claimed real label score\n\n" + FOUR,
        FOUR.rstrip("\n"),
        "claimed real label score\n" + FOUR,
        "claimed_id,real_id,test_label,score\n" + FOUR.replace(" ", ","),
        "ann m1 ann p1 0.9\nann m1 bob p2 0.2\nbob m2 bob p2 0.8\nbob m2 ann p1 0.1\n",
        "bio_ref_subject_id,probe_subject_id,probe_key,probe_attack_type,score\n"
        "ann,ann,p1,,0.9\nann,bob,p2,,0.2\nbob,bob,p2,,0.8\nbob,ann,p1,,0.1\n",
        "probe_template_id,probe_subject_id,bio_ref_template_id,bio_ref_subject_id,score,age\n"
        "p1,ann,m1,ann,0.9,7\np2,bob,m1,ann,0.2,7\np2,bob,m2,bob,0.8,7\np1,ann,m2,bob,0.1,7\n",
        'subject_id_a;subject_id_b;score;same\n"ann";ann;0.9;1\nann;bob;0.2;0\nbob;bob;0.8;1\nbob;ann;0.1;0\n',
    ],
)
def test_files_that_name_people_are_read_with_their_people(tmp_path, text):
    found = read(tmp_path, text)
    assert scores_of(found) == ([0.8, 0.9], [0.1, 0.2])
    assert set(found.trials.subject_ids) == {"ann", "bob"}
    assert list(found.trials.same) == [True, False, True, False]
    assert list(found.trials.score) == [0.9, 0.2, 0.8, 0.1]
    assert found.notes == ()


@pytest.mark.parametrize(
    ("yes", "no"),
    [
        ("1", "0"),
        ("1.0", "0.0"),
        ("1", "-1"),
        ("genuine", "impostor"),
        ("Genuine", "IMPOSTOR"),
        ("true", "false"),
        ("True", "False"),
        ("mated", "nonmated"),
        ("mated", "non-mated"),
        ("target", "nontarget"),
    ],
)
def test_labels_of_one_vocabulary_are_read(tmp_path, yes, no):
    found = read(tmp_path, f"score,label\n0.9,{yes}\n0.2,{no}\n0.8,{yes}\n")
    assert scores_of(found) == ([0.8, 0.9], [0.2])
    assert found.trials is None
    assert read(tmp_path, f"same\tscore\n{no}\t0.9\n").impostor.tolist() == [0.9]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("score,label\n0.9,1\n0.2,impostor\n", r"scores.txt line 3: label 'impostor' belongs to another"),
        ("score,label\n0.9,0\n0.2,-1\n", "line 3: label '-1' belongs to another"),
        ("score,label\n0.9,genuine\n0.2,nonmated\n", "line 3"),
        ("score,label\n0.9,1\n0.2,2\n", "line 3: label '2' is no known label"),
        ("score,label\n0.9,ann\n", "line 2: label 'ann' is no known label"),
        ("score,label\n0.9,\n", "line 2: label '' is no known"),
        ("score,impostor\n0.9,1\n", "line 1: neither people nor labels"),
        ("score,label,same\n0.9,1,1\n", "columns label and same"),
        ("score,similarity,label\n0.9,0.9,1\n", "columns score and similarity"),
        ("score,score,label\n0.9,0.9,1\n", "occurs twice"),
        ("score,lable\n0.9,1\n", "line 1"),
        ("scroe,label\n0.9,1\n", "line 1: no header with a column score"),
        ("distance,label\n0.9,1\n", "--distances"),
        ("score;label\n0,9;1\n", "line 2: the score '0,9' .* point, not a comma"),
        ("ann ann p1 0,9\n", "line 1: the score '0,9' .* point, not a comma"),
        ("ann ann p1 0.9\nann ann p2\n", "line 2: 3 columns, 4 in the first line"),
        ("score,label\n0.9,1,7\n", "line 2: 3 columns"),
        ("ann ann p1 nan\n", "line 1: the score 'nan' is not a finite number"),
        ("ann ann p1 0.9\nann bob p2 inf\n", "line 2: the score 'inf'"),
        ("ann ann p1 1e999\n", "not a finite number"),
        ("ann ann p1 1_0\n", "not a finite number"),
        ("ann ann p1 -1e200\n", "too large"),
        ("0.9\n0.8\n", "line 1"),
        ("0 0.9\n1 0.8\n", "line 1"),
        ("1 0.9\n0 0.8\n", "line 2: label '0'"),
        ("a b 0.8\n", "line 1"),
        ("", "empty"),
        ("\n\n", "empty"),
        ("score,label\n", "a header and no comparison"),
        (
            "subject_id_a,subject_id_b,score,same\nann,bob,0.9,1\n",
            "line 2: the label says '1', the people say otherwise",
        ),
        ("subject_id_a,subject_id_b,score\n,bob,0.9\n", "line 2: a person without a name"),
        ("bio_ref_subject_id,probe_subject_id,probe_attack_type,score\na,a,print,1\n", "line 2: a presentation attack"),
        ("score,label\n0.9,1\n".encode("utf-16"), "not UTF-8"),
        (b"score,label\n0.9,1\n0.8,\xff\n", "not UTF-8"),
        ("score,label\n0.9,1\0\n", "line 2: holds a zero byte"),
        ('score,label\n"' + "x" * 200_000 + '",1\n', "line 2: not plain csv"),
    ],
)
def test_what_would_be_a_guess_is_refused_with_its_line(tmp_path, text, message):
    with pytest.raises(UserError, match=message) as error:
        read(tmp_path, text)
    assert "\n" not in str(error.value)
    assert "scores.txt" in str(error.value)


def test_two_columns_of_bob_measure(tmp_path):
    assert scores_of(read(tmp_path, "1 0.9\n-1 0.2\n-1 1\n")) == ([0.9], [0.2, 1.0])


def test_two_lists(tmp_path):
    genuine = wrote(tmp_path / "g.txt", "a b 0.9\na c 0.8\nb c 0.7\n")
    impostor = wrote(tmp_path / "i.txt", "0.1\n\n0.2")
    found = read_scores(genuine, impostor)
    assert scores_of(found) == ([0.7, 0.8, 0.9], [0.1, 0.2])
    assert found.trials is None
    assert found.notes == ()
    with pytest.raises(UserError, match="genuine scores first"):
        read_scores(wrote(tmp_path / "Impostor.txt", "0.1\n"), wrote(tmp_path / "Genuine.txt", "0.1\n"))
    with pytest.raises(UserError, match=r"g.txt line 2: 2 columns, 3 in the lines before"):
        read_scores(wrote(genuine, "a b 0.9\na 0.8\n"), impostor)
    with pytest.raises(UserError, match=r"g.txt line 1: the score 'score'"):
        read_scores(wrote(genuine, "score\n0.8\n"), impostor)
    with pytest.raises(UserError, match=r"g.txt: no score"):
        read_scores(wrote(genuine, "\n"), impostor)
    with pytest.raises(UserError, match=r"none.txt: .*not there"):
        read_scores(tmp_path / "none.txt", impostor)


def test_distances_are_turned_round_and_a_wrong_direction_is_said(tmp_path):
    found = read(tmp_path, "score,label\n0.1,1\n0.9,0\n", distances=True)
    assert scores_of(found) == ([-0.1], [-0.9])
    assert any("signs changed" in note for note in found.notes)
    assert not any("warning" in note for note in found.notes)
    (warning,) = read(tmp_path, "score,label\n0.1,1\n0.9,0\n").notes
    assert "give --distances" in warning
    notes = read(tmp_path, "score,label\n0.9,1\n0.1,0\n", distances=True).notes
    assert any("leave out --distances" in note for note in notes)
    assert read(tmp_path, "distance,label\n0.1,1\n", distances=True).genuine.tolist() == [-0.1]


def test_comparisons_that_occur_again_are_counted_and_said(tmp_path):
    found = read(tmp_path, FOUR + "ann ann p1 0.9\n")
    assert scores_of(found) == ([0.8, 0.9, 0.9], [0.1, 0.2])
    assert found.trials.score[-1] == 0.9
    found = read(tmp_path, "ann m ann p 0.9\nann m ann p 0.7\nann m bob q 0.2\n")
    assert len(found.genuine) == 2
    assert found.notes == ("1 comparisons occur again, the first of m with p; all are counted",)


def test_compressed_and_damaged_files(tmp_path):
    path = wrote(tmp_path / "scores.txt.gz", gzip.compress(FOUR.encode()))
    assert scores_of(read_scores(path)) == ([0.8, 0.9], [0.1, 0.2])
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(UserError, match="cannot be read"):
        read_scores(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_scores(wrote(path, FOUR))
    with pytest.raises(UserError, match="cannot be read"):
        read_scores(tmp_path)


def some_trials(dtype=np.float64, names=("ann", "bob", "cy")):
    rng = np.random.default_rng(1)
    people = np.array([names[k % 3] for k in range(9)])
    a, b = np.triu_indices(9, 1)
    score = rng.normal(size=len(a)).astype(dtype)
    score[3] = score[5]
    return Trials(score, a, b, np.array([f"{name}/{k}" for k, name in enumerate(people)]), people)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_is_written_is_read_back_exactly(tmp_path, dtype):
    trials = some_trials(dtype)
    write_trials(tmp_path, trials)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("four_columns.txt", "genuine.txt", "impostor.txt", "scores.csv")
    ]
    for name in ("scores.csv", "four_columns.txt"):
        found = read_scores(tmp_path / name)
        assert np.array_equal(found.trials.score, trials.score)
        assert np.array_equal(found.trials.same, trials.same)
        assert list(found.trials.subject_ids[found.trials.a]) == list(trials.subject_ids[trials.a])
        assert list(found.trials.pair_ids[found.trials.b]) == list(trials.pair_ids[trials.b])
    found = read_scores(tmp_path / "scores.csv")
    assert list(found.trials.pair_ids[found.trials.a]) == list(trials.pair_ids[trials.a])
    lists = read_scores(tmp_path / "genuine.txt", tmp_path / "impostor.txt")
    assert np.array_equal(lists.genuine, trials.genuine)
    assert np.array_equal(lists.impostor, trials.impostor)


def test_names_with_marks_are_kept_apart(tmp_path):
    trials = some_trials(names=("#ann lee", 'bob, "b"', "cy"))
    write_trials(tmp_path, trials)
    found = read_scores(tmp_path / "scores.csv").trials
    assert list(found.subject_ids[found.a]) == list(trials.subject_ids[trials.a])
    found = read_scores(tmp_path / "four_columns.txt").trials
    assert set(found.subject_ids) == {"_#ann_lee", 'bob,_"b"', "cy"}
    assert np.array_equal(found.score, trials.score)
    with pytest.raises(UserError, match="differ only in white space"):
        write_trials(tmp_path, some_trials(names=("a b", "a_b", "cy")))
