"""The whole evaluation against scikit-learn, hand-worked sets, and what cannot be measured."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from face3d_lib.base.errors import UserError
from face3d_lib.evaluate import evaluation
from face3d_lib.evaluate.embedding_files import read_embeddings, read_protocol
from face3d_lib.evaluate.embeddings import Embeddings
from face3d_lib.evaluate.evaluation import evaluate, evaluate_embeddings, evaluate_file
from face3d_lib.evaluate.score_files import ScoreSet, read_scores, write_trials
from face3d_lib.evaluate.scores import genuine_impostor

ENDS = ["fnmr_low", "fnmr_high"]


def people(n=12, images=5, noise=0.8, seed=0, size=16):
    rng = np.random.default_rng(seed)
    names = np.repeat([f"p{k:02d}" for k in range(n)], images)
    vectors = np.repeat(rng.normal(size=(n, size)), images, axis=0) + noise * rng.normal(size=(n * images, size))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return Embeddings(np.array([f"{name}/{k}" for k, name in enumerate(names)]), names, vectors)


@pytest.fixture(scope="module")
def faces():
    return people()


@pytest.fixture(scope="module")
def found(faces):
    return evaluate_embeddings(faces, replicates=200)


def oracle(embeddings):
    """(labels, scores) of each with each, in float64."""
    a, b = np.triu_indices(len(embeddings.pair_ids), 1)
    scores = np.clip((embeddings.vectors @ embeddings.vectors.T)[a, b], -1, 1)
    return embeddings.subject_ids[a] == embeddings.subject_ids[b], scores


def test_rates_are_those_of_scikit_learn(faces, found):
    labels, scores = oracle(faces)
    fpr, tpr, limits = roc_curve(labels, scores)
    assert (found.genuine, found.impostor, found.people) == (labels.sum(), (~labels).sum(), 12)
    assert found.auc.value == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    np.testing.assert_allclose(found.roc.far, fpr, atol=1e-15)
    np.testing.assert_allclose(found.roc.tar, tpr, atol=1e-15)
    np.testing.assert_allclose(found.roc.threshold, limits, atol=1e-15)
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    gap = np.abs(fpr - (1 - tpr))
    assert found.eer.value == pytest.approx(((fpr + 1 - tpr) / 2)[gap.argmin()], abs=1e-12)
    for far in (0.1, 0.01, 0.001):
        assert found.tar[far].value == pytest.approx(tpr[fpr <= far + 1e-12].max(), abs=1e-12)
    genuine, impostor = scores[labels], scores[~labels]
    expected = (genuine.mean() - impostor.mean()) / np.sqrt((genuine.var() + impostor.var()) / 2)
    assert found.d_prime.value == pytest.approx(expected, rel=1e-12)


def test_every_rate_has_an_interval_that_holds_it(found):
    for rate in (found.eer, found.auc, found.d_prime, found.rank1, found.tar[0.1], found.tar[0.01]):
        assert rate.low <= rate.value <= rate.high
        assert rate.low < rate.high
        assert rate.reason == ""
    assert np.isnan(found.tar[0.0001].value)
    assert "0.0001 cannot be measured with 1650 impostor comparisons" in found.tar[0.0001].reason


def test_the_intervals_are_over_people_and_seeded(faces, found):
    assert (found.thresholds["fnmr_low"] <= found.thresholds["fnmr"]).iloc[[0, 1, 4]].all()
    again = evaluate_embeddings(faces, replicates=200)
    assert again.as_json() == found.as_json()
    other = evaluate_embeddings(faces, replicates=200, seed=1)
    assert other.eer.value == found.eer.value
    assert other.eer.low != found.eer.low
    thrice = ScoreSet(
        found.roc.threshold[1:], found.roc.threshold[1:], None
    )  # no people: no bootstrap over comparisons
    unknown = evaluate(thrice, replicates=5)
    assert unknown.people is None
    assert np.isnan(unknown.eer.low)
    assert not np.isnan(unknown.eer.value)
    assert "names no people" in unknown.eer.reason


def test_rank1_counts_a_tie_against_the_probe_and_leaves_out_who_is_alone():
    tied = np.array([[1.0, 0], [1, 0], [1, 0], [0, 1], [0, 1]])
    found = evaluate_embeddings(Embeddings(np.array(list("01234")), np.array(list("aabcc")), tied), replicates=20)
    assert found.rank1.value == 0.5  # of a and a, c and c
    assert "leaves out 1 pictures of people with one picture, the first 2" in found.notes[-1]


def test_failures_are_counted_and_shown_with_and_without(faces):
    vectors = faces.vectors.copy()
    vectors[::12] = 0
    found = evaluate_embeddings(Embeddings(faces.pair_ids, faces.subject_ids, vectors), replicates=20)
    kept = np.flatnonzero(vectors.any(axis=1))
    whole = evaluate_embeddings(faces.select(faces.pair_ids[kept]), replicates=20)
    failures = found.failures
    assert (failures.count, failures.pictures, failures.fta) == (5, 60, 5 / 60)
    assert failures.fnmr[0.1] == pytest.approx(1 - whole.tar[0.1].value)
    assert failures.frr[0.1] == pytest.approx(5 / 60 + failures.fnmr[0.1] * 55 / 60)
    assert (failures.eer, failures.auc) == (whole.eer.value, whole.auc.value)
    assert found.d_prime == whole.d_prime
    assert found.genuine == 120  # nothing is dropped
    assert found.tar[0.1].value < whole.tar[0.1].value
    assert found.rank1.value == pytest.approx(whole.rank1.value * 55 / 60)
    assert "failures to acquire: 8.33%" in found.as_text()


def test_the_table_of_thresholds_worked_by_hand():
    impostor = np.arange(100) / 100
    found = evaluate(ScoreSet(np.array([0.5, 0.945, 0.955, 0.985, 0.995]), impostor, None)).thresholds.set_index(
        "asked_fmr"
    )
    assert found["false_matches"].tolist()[:2] == [5, 1]
    assert found.loc[0.05, "fmr"] == pytest.approx(0.05)
    assert 0.94 < found.loc[0.05, "threshold"] < 0.940001
    assert found.loc[0.05, "fnmr"] == pytest.approx(1 / 5)
    assert found.loc[0.01, "false_non_matches"] == 3  # of scores 0.5, 0.945 and 0.955; the threshold is above 0.98
    assert np.isnan(found.loc[0.001, "threshold"])
    assert pd.isna(found.loc[0.001, "false_matches"])
    assert 0.99 < found.loc[0.0, "threshold"] < 0.990001  # zero FMR
    assert (found.loc[0.0, "false_matches"], found.loc[0.0, "fnmr"]) == (0, pytest.approx(4 / 5))


def test_a_share_of_failures_turns_1065_into_1780():
    genuine = np.concatenate([np.zeros(1065), np.ones(8935)])
    found = evaluate(ScoreSet(genuine, np.linspace(-1, 0.5, 1000), None), fta=0.08)
    assert found.failures.fnmr[0.1] == pytest.approx(0.1065)
    assert found.failures.frr[0.1] == pytest.approx(0.08 + 0.1065 * 0.92)
    assert "FRR without failures 0.1065, with failures 0.1780" in found.as_text()


def test_what_cannot_be_measured_is_nan_with_its_reason(faces):
    one = faces.select(faces.pair_ids[:5])
    alone = faces.select(faces.pair_ids[::5])
    for part, reason in ((one, "10 genuine and 0 impostor"), (alone, "0 genuine and 66 impostor")):
        found = evaluate_embeddings(part, replicates=10)
        for rate in (found.eer, found.auc, found.d_prime, *found.tar.values()):
            assert np.isnan([rate.value, rate.low, rate.high]).all()
            assert rate.reason
        assert reason in found.eer.reason
        assert json.loads(json.dumps(found.as_json(), allow_nan=False))["eer"]["value"] is None
        assert found.as_text()
    assert "leaves out 12 pictures of people with one picture, the first p00/0" in found.notes[-1]
    assert found.rank1.reason == "no probe"
    two = evaluate_embeddings(faces.select(faces.pair_ids[:10]), replicates=10)
    assert not np.isnan(two.eer.value)
    assert np.isnan(two.eer.low)
    assert two.eer.reason


def test_a_large_set_gets_fewer_replicates_and_says_so(monkeypatch, faces, found):
    monkeypatch.setattr(evaluation, "MOST_DRAWN", 0)
    few = evaluate_embeddings(faces, replicates=200)
    assert few.eer.value == found.eer.value
    assert few.eer.n_replicates == 100
    assert "100 replicates, because there are 1770 comparisons" in few.notes[0]


def test_many_embeddings_get_the_same_numbers_in_blocks(monkeypatch):
    faces = people(30, 6, seed=3)
    faces.vectors[7] = 0
    faces.vectors[8] = faces.vectors[9]
    listed = evaluate_embeddings(faces, replicates=400)
    monkeypatch.setattr(evaluation, "MANY", 0)
    found = evaluate_embeddings(faces, replicates=400)
    assert (found.genuine, found.impostor, found.people) == (listed.genuine, listed.impostor, listed.people)
    assert found.notes == listed.notes
    assert found.failures.frr == pytest.approx(listed.failures.frr, abs=1e-12, nan_ok=True)
    pd.testing.assert_frame_equal(
        found.thresholds.drop(columns=ENDS), listed.thresholds.drop(columns=ENDS), atol=1e-9, rtol=0
    )
    for one, other in (
        *((listed.eer, found.eer), (listed.auc, found.auc), (listed.d_prime, found.d_prime)),
        *((listed.rank1, found.rank1), *zip(listed.tar.values(), found.tar.values(), strict=True)),
    ):
        assert one.value == pytest.approx(other.value, abs=1e-9, nan_ok=True)
        assert one.reason == other.reason
        np.testing.assert_allclose([one.low, one.high], [other.low, other.high], atol=0.02)


def test_rates_of_perfect_embeddings_stay_rates(monkeypatch):
    monkeypatch.setattr(evaluation, "MANY", 0)
    found = evaluate_embeddings(people(12, 4, noise=0.01), replicates=50)
    assert found.eer.value == 0
    assert 0 <= found.eer.low < found.eer.high < 0.5
    assert found.auc.value == 1
    assert 0.5 < found.auc.low < found.auc.high <= 1


def test_a_list_of_all_pairs_in_any_order_gives_the_rates_of_all_pairs(faces, found):
    rng = np.random.default_rng(0)
    order = rng.permutation(60 * 59 // 2)
    a, b = (side[order] for side in np.triu_indices(60, 1))
    turned = rng.random(len(a)) < 0.5
    a, b = np.where(turned, b, a), np.where(turned, a, b)
    same = np.where(faces.subject_ids[a] == faces.subject_ids[b], "1", "0")
    pairs = pd.DataFrame({"pair_id_a": faces.pair_ids[a], "pair_id_b": faces.pair_ids[b], "same": same})
    listed = evaluate_embeddings(faces, pairs, replicates=10)
    for one, other in ((listed.eer, found.eer), (listed.auc, found.auc), (listed.rank1, found.rank1)):
        assert one.value == pytest.approx(other.value, abs=1e-12)


def test_a_protocol_chooses_the_comparisons_and_its_folds(tmp_path, faces):
    names = np.array([f"{person}_{k % 5 + 1:04d}" for k, person in enumerate(faces.subject_ids)])
    np.savez(tmp_path / "f.npz", pair_ids=names, subject_ids=faces.subject_ids, vectors=faces.vectors)
    lines = ["3\t2"]
    for fold in range(3):
        lines += [f"p0{fold}\t{i}\t{j}" for i, j in ((1, 2), (3, 4))]
        lines += [f"p0{fold}\t1\tp0{fold + 3}\t1", f"p0{fold}\t2\tp0{fold + 3}\t2"]
    (tmp_path / "pairs.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    found, hashes = evaluate_file(tmp_path / "f.npz", protocol=tmp_path / "pairs.txt", replicates=10)
    assert (found.genuine, found.impostor) == (6, 6)
    assert len(found.accuracy.accuracy) == 3
    assert len(hashes) == 2
    shown = found.as_json()["accuracy"]
    assert 0.5 <= shown["mean"] <= 1
    assert shown["mean"] == pytest.approx(np.mean(shown["accuracy"]))
    assert "standard error of 3 folds" in found.as_text()
    rows = [
        f"{a},{b},{same},{fold}" for fold in "xyz" for a, b, same in ((names[0], names[1], 1), (names[0], names[5], 0))
    ]
    (tmp_path / "pairs.csv").write_text("pair_id_a,pair_id_b,same,fold\n" + "\n".join(rows) + "\n", encoding="utf-8")
    found, _ = evaluate_file(tmp_path / "f.npz", protocol=tmp_path / "pairs.csv", replicates=10)
    assert len(found.accuracy.accuracy) == 3
    (tmp_path / "pairs.csv").write_text("pair_id_a,pair_id_b,same\nzz,yy,1\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"pairs.csv: pairs table: 2 pairs have no embedding, first 'yy'"):
        evaluate_file(tmp_path / "f.npz", protocol=tmp_path / "pairs.csv", replicates=10)
    vectors, _ = read_embeddings(tmp_path / "f.npz")
    pairs, _ = read_protocol(tmp_path / "pairs.txt", vectors)
    twice = pd.concat([pairs, pairs.iloc[:1].rename(columns={"pair_id_a": "pair_id_b", "pair_id_b": "pair_id_a"})])
    assert evaluate_embeddings(vectors, twice, replicates=10).genuine == 7  # a repeated pair is counted as often


def test_files_give_what_the_embeddings_gave(tmp_path, faces, found):
    trials = genuine_impostor(faces)
    write_trials(tmp_path, trials)
    direct = evaluate(trials, replicates=50)
    for name in ("scores.csv", "four_columns.txt"):
        again, _ = evaluate_file(tmp_path / name, replicates=50)
        for one, other in (
            (direct.eer, again.eer),
            (direct.tar[0.01], again.tar[0.01]),
            (direct.d_prime, again.d_prime),
        ):
            assert (one.value, one.low, one.high) == (other.value, other.low, other.high)
    lists = evaluate(read_scores(tmp_path / "genuine.txt", tmp_path / "impostor.txt"))
    assert (lists.eer.value, lists.auc.value) == (found.eer.value, found.auc.value)
    turned = "score,label\n" + "".join(
        f"{-score!r},{int(same)}\n" for score, same in zip(trials.score.tolist(), trials.same, strict=True)
    )
    (tmp_path / "distances.csv").write_text(turned, encoding="utf-8")
    assert evaluate_file(tmp_path / "distances.csv", distances=True)[0].eer.value == found.eer.value


def test_arguments_that_do_not_fit_the_file_are_refused(tmp_path, faces):
    faces.save(tmp_path / "f.npz")
    (tmp_path / "s.csv").write_text("score,label\n0.9,1\n0.1,0\n", encoding="utf-8")
    for options, message in (
        ({"impostor": tmp_path / "s.csv"}, "a second file belongs to scores"),
        ({"distances": True}, "--distances belongs to scores"),
        ({"fta": 0.1}, "--fta belongs to scores"),
        ({"fars": [0.0]}, "false accept rate"),
    ):
        with pytest.raises(UserError, match=message):
            evaluate_file(tmp_path / "f.npz", **options)
    with pytest.raises(UserError, match="a protocol names pairs of embeddings"):
        evaluate_file(tmp_path / "s.csv", protocol=tmp_path / "s.csv")


def test_a_pair_that_is_listed_as_same_and_as_different_is_refused(faces):
    one, mate, other = faces.pair_ids[[0, *np.flatnonzero(faces.subject_ids == faces.subject_ids[0])[1:2], -1]]
    rows = [(one, mate, "1"), (mate, one, "0"), (one, other, "0")]
    with pytest.raises(UserError, match="both 1 and 0"):
        evaluate_embeddings(faces, pd.DataFrame(rows, columns=["pair_id_a", "pair_id_b", "same"]), replicates=10)


def test_equal_comparisons_tie_in_blocks_and_in_lists(monkeypatch):
    rng = np.random.default_rng(0)
    subjects = np.repeat(np.arange(40), 6).astype(str)
    corners = rng.choice([-1, 1], size=(240, 6))  # whole numbers: the products are known without any rounding
    product = (corners @ corners.T)[np.triu_indices(240, 1)]
    same = (subjects[:, None] == subjects)[np.triu_indices(240, 1)]
    made = Embeddings(np.arange(240).astype(str), subjects, corners / np.sqrt(6))
    exact = evaluate(ScoreSet(product[same] / 6, product[~same] / 6, None))
    pairs = pd.DataFrame(np.transpose(np.triu_indices(240, 1)).astype(str), columns=["pair_id_a", "pair_id_b"])
    listed = evaluate_embeddings(made, pairs.assign(same=same), replicates=2)
    whole = evaluate_embeddings(made, replicates=2)
    monkeypatch.setattr(evaluation, "MANY", 0)
    blocks = evaluate_embeddings(made, replicates=2)
    for found in (listed, whole, blocks):
        assert found.auc.value == pytest.approx(exact.auc.value, abs=1e-12)
        assert found.eer.value == pytest.approx(exact.eer.value, abs=1e-12)
        assert found.rank1.value == pytest.approx(whole.rank1.value, abs=1e-12)
