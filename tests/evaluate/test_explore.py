"""What a threshold gets wrong, by hand: which comparisons, in which order, and what is said about them."""

from types import SimpleNamespace

import numpy as np
import pytest

from face3d_lib.evaluate import explore
from face3d_lib.evaluate.embeddings import Embeddings
from face3d_lib.evaluate.metrics.curves import roc
from face3d_lib.evaluate.scores import Trials

PAIRS = np.array(["a/0", "a/1", "b/0", "b/1", "c/0"])
PEOPLE = np.array(["a", "a", "b", "b", "c"])
#          a0-a1  b0-b1  a0-b0  a1-b1  a0-c0  a1-c0  b0-c0
SIDES = [(0, 1), (2, 3), (0, 2), (1, 3), (0, 4), (1, 4), (2, 4)]
SCORES = [0.75, 0.25, 0.5, -0.5, 0.5, 0.0, 0.875]  # exact in float32


def system(scores=SCORES, sides=SIDES, chosen=0.5):
    a, b = np.array(sides, int).reshape(-1, 2).T
    return explore.Explored("RGB", None, Trials(np.array(scores, np.float32), a, b, PAIRS, PEOPLE), chosen)


def test_rates_at_a_threshold_by_hand():
    point = system().rates(0.5)  # 0.5, 0.5 and 0.875 of five impostors reach it; 0.25 of two genuine does not
    assert (point.false_accepts, point.n_impostor, point.false_rejects, point.n_genuine) == (3, 5, 1, 2)
    assert explore.far_and_frr(point) == (0.6, 0.5)


def test_wrong_comparisons_come_worst_first_or_nearest_first():
    one = system()
    assert one.false_accepts(0.5, 9, worst=True).tolist() == [6, 4, 2]
    assert one.false_accepts(0.5, 9, worst=False).tolist() == [2, 4, 6]
    assert one.false_accepts(0.5, 1, worst=True).tolist() == [6]
    assert one.false_rejects(0.8, 9, worst=True).tolist() == [1, 0]
    assert one.false_rejects(0.8, 9, worst=False).tolist() == [0, 1]


def test_a_score_equal_to_the_threshold_is_accepted():
    one = system()
    assert 2 in one.false_accepts(0.5, 9, worst=True)
    assert 0 not in one.false_rejects(0.75, 9, worst=True)
    assert 2 not in one.false_accepts(np.nextafter(0.5, 1), 9, worst=True)


@pytest.mark.parametrize("threshold", [-2, -0.5, 0.0, 0.3, 0.5, 0.75, 0.8751, 2, np.nan])
def test_there_are_as_many_examples_as_errors(threshold):
    one, everything = system(), len(SCORES)
    point = one.rates(threshold)
    for worst in (True, False):
        assert len(one.false_accepts(threshold, everything, worst)) == point.false_accepts
        assert len(one.false_rejects(threshold, everything, worst)) == point.false_rejects


def test_a_threshold_above_all_scores_makes_no_false_accepts():
    one = system()
    assert one.span[0] == -0.5
    assert one.rates(one.span[1]).false_accepts == 0
    assert one.false_accepts(one.span[1], 9, worst=True).tolist() == []


def test_the_first_threshold_is_the_chosen_one_or_the_equal_error_rate():
    assert system(chosen=0.5).start == 0.5
    assert system(chosen=9.0).start == system().span[1]  # the slider does not reach farther
    assert system(chosen=np.nan).start == roc([0.75, 0.25], [0.5, -0.5, 0.5, 0.0, 0.875]).eer()[1]
    assert system([], [], chosen=np.nan).start == 0.0
    only_genuine = system(SCORES[:2], SIDES[:2], chosen=np.nan)
    assert 0.25 < only_genuine.start < 0.75


def test_words_name_rates_and_counts():
    assert explore.counts_text(system().rates(0.5)) == (
        "FAR 60.00 % (3 of 5 impostor comparisons accepted)",
        "FRR 50.00 % (1 of 2 genuine comparisons rejected)",
    )
    far, frr = explore.counts_text(system(SCORES[:2], SIDES[:2]).rates(0.5))
    assert far == "FAR cannot be measured: no impostor comparisons"
    assert frr == "FRR 50.00 % (1 of 2 genuine comparisons rejected)"


def test_the_place_of_a_score_counts_what_is_on_its_wrong_side():
    said = explore.place_text(system().rates(0.5))
    assert said == "60.0 % of the impostor scores are as high or higher; 50.0 % of the genuine scores are lower"
    assert "there are no impostor scores" in explore.place_text(system(SCORES[:2], SIDES[:2]).rates(0.5))


def test_the_score_of_any_two_pairs_is_their_cosine():
    vectors = Embeddings(np.array(["a/0", "b/0"]), np.array(["a", "b"]), np.array([[1, 0], [0.6, 0.8]], np.float32))
    none = Trials(np.empty(0, np.float32), np.empty(0, int), np.empty(0, int), vectors.pair_ids, vectors.subject_ids)
    one = explore.Explored("RGB", vectors, none, np.nan)
    assert one.score("a/0", "b/0") == pytest.approx(0.6)
    assert one.score("b/0", "b/0") == pytest.approx(1.0)


def test_a_thinned_curve_keeps_its_ends_and_its_shape():
    rng = np.random.default_rng(0)
    curve = roc(rng.normal(2, 1, 3000), rng.normal(0, 1, 20000))
    far, tar = explore.thinned(curve, 100)
    assert len(far) <= 101
    assert (far[0], far[-1], tar[-1]) == (0, 1, 1)
    assert (np.diff(far) > 0).all()
    assert set(zip(far, tar, strict=True)) <= set(zip(curve.far, curve.tar, strict=True))
    short = roc([0.9, 0.2], [0.5, 0.1])
    assert explore.thinned(short)[0].tolist() == [0, 0.5, 1]


def test_the_threshold_is_chosen_on_dev_people():
    few = [
        Trials(np.array(found), np.array([0, 0]), np.array([2, 4]), PAIRS, PEOPLE) for found in ([0.3, 0.1], [0.9, 0.8])
    ]
    one = SimpleNamespace(label="RGB", vectors=None, trials=dict(zip(("dev", "test"), few, strict=True)))
    (found,) = explore.explored([one], 0.5)
    assert 0.1 < found.chosen <= 0.3
    assert found.trials is few[1]
