"""Ranks, CMC, open set, its curve and leave-one-out: by hand, and under shuffles and transforms of scores."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from face3d_lib.evaluate.metrics import identification
from face3d_lib.evaluate.metrics.identification import dir_at, dir_curve, identified

SCORES = np.array(
    [  # gallery: a    b    c
        [0.9, 0.2, 0.1],  # a: rank 1
        [0.6, 0.5, 0.1],  # b: rank 2
        [0.7, 0.6, 0.5],  # c: rank 3
        [0.4, 0.4, 0.1],  # a, tied with b: rank 2
    ]
)
PROBES, ENROLLED = ["a", "b", "c", "a"], ["a", "b", "c"]


def share_first(scores, probes, enrolled):
    """The share of probes that are found at rank 1."""
    return (identification.ranks(scores, probes, enrolled) == 1).mean()


def test_cmc_by_hand_with_ties_against_the_probe():
    assert identification.ranks(SCORES, PROBES, ENROLLED).tolist() == [1, 2, 3, 2]
    np.testing.assert_array_equal(identification.cmc(SCORES, PROBES, ENROLLED), [0.25, 0.75, 1])
    np.testing.assert_array_equal(identification.cmc(SCORES, PROBES, ENROLLED, n_ranks=2), [0.25, 0.75])
    assert share_first(SCORES, PROBES, ENROLLED) == 0.25


def test_a_constant_score_identifies_nobody():
    assert share_first(np.full((4, 3), -1.0), PROBES, ENROLLED) == 0
    np.testing.assert_array_equal(identification.cmc(np.zeros((4, 3)), PROBES, ENROLLED), [0, 0, 1])


def test_cmc_does_not_depend_on_the_order_of_the_gallery():
    order = [2, 0, 1]
    ranks = identification.ranks(SCORES[:, order], PROBES, np.array(ENROLLED)[order])
    assert ranks.tolist() == [1, 2, 3, 2]


def test_several_templates_count_by_the_best():
    scores = np.array([[0.1, 0.3, 0.9]])
    assert identification.ranks(scores, ["a"], ["a", "b", "a"]).tolist() == [1]
    assert len(identification.cmc(scores, ["a"], ["a", "b", "a"])) == 2  # people, not templates


def test_rank1_agrees_with_argmax_where_nothing_is_tied():
    rng = np.random.default_rng(2)
    scores, names = rng.normal(size=(200, 30)), np.array([f"p{i}" for i in range(30)])
    probes = rng.choice(names, 200)
    assert share_first(scores, probes, names) == (names[scores.argmax(axis=1)] == probes).mean()
    assert identification.cmc(scores, probes, names)[-1] == 1


@pytest.mark.parametrize(
    ("scores", "probes", "match"),
    [
        (SCORES, ["a", "b", "c", "d"], "nobody enrolled, the first: d"),
        (SCORES, ["a", "b", "c"], "3 probe subjects"),
        (SCORES[:, :2], PROBES, "gallery of 3"),
        (SCORES * np.nan, PROBES, "infinite"),
    ],
)
def test_identification_that_does_not_fit_is_refused(scores, probes, match):
    with pytest.raises(ValueError, match=match):
        identification.ranks(scores, probes, ENROLLED)


def test_open_set_by_hand():
    """Best scores of five unknown probes: .8 .5 .3 .2 .1; of the known, only the first is right, at .9."""
    unknown = np.array([[0.8, 0, 0], [0, 0.5, 0], [0.3, 0, 0], [0, 0, 0.2], [0.1, 0, 0]])
    point = identification.dir_at(SCORES, PROBES, ENROLLED, unknown, 0.5)
    assert (point.dir, point.achieved_far) == (0.25, 0.4)
    assert (point.n_known, point.n_unknown) == (4, 5)
    # rank 2 admits the probe of b (its own score .5) but not the tied one of a (.4 is below the threshold)
    assert identification.dir_at(SCORES, PROBES, ENROLLED, unknown, 0.5, rank=2).dir == 0.5
    assert identification.dir_at(SCORES, PROBES, ENROLLED, unknown, 0.95).dir == 0
    assert np.isnan(identification.dir_at(SCORES, PROBES, ENROLLED, unknown, np.nan).dir)


def test_open_set_without_known_or_unknown_probes_or_without_a_gallery():
    unknown = identification.dir_at(SCORES, PROBES, ENROLLED, np.empty((0, 3)), 0.5)
    assert (unknown.dir, unknown.reason) == (0.25, "no unknown probe")
    assert np.isnan(unknown.achieved_far)
    known = identification.dir_at(np.empty((0, 3)), [], ENROLLED, [[0.1, 0.2, 0.9]], 0.5)
    assert (known.achieved_far, known.reason) == (1, "no known probe")
    assert np.isnan(known.dir)
    nobody = identification.dir_at(np.empty((0, 0)), [], [], np.empty((2, 0)), 0.5)
    assert nobody.achieved_far == 0  # nobody is enrolled, so nobody is taken for somebody
    assert np.isnan(nobody.dir)
    assert identification.ranks(np.empty((0, 3)), [], ENROLLED).tolist() == []
    assert np.isnan(identification.cmc(np.empty((0, 3)), [], ENROLLED)).tolist() == [True] * 3
    assert len(identification.cmc(np.empty((0, 0)), [], [])) == 0


def test_nearest_neighbours_by_hand():
    """The first two are each other's nearest; the third is nearest to the first, and alone of its label."""
    scores = np.array([[1, 0.9, 0.5], [0.9, 1, 0.1], [0.5, 0.1, 1]])
    share, chance = identification.nearest_share(scores, ["a", "a", "b"])
    assert (share, chance) == (pytest.approx(2 / 3), pytest.approx(1 / 3))
    assert scores[0, 0] == 1  # the input is not changed
    assert np.isnan(identification.nearest_share([[1.0]], ["a"])).all()


def test_leave_one_out_by_hand():
    """Angles on a circle: each looks for its nearest neighbour, which is never itself."""
    angles = np.radians([0, 10, 30, 35, 200, 300])
    vectors = np.stack([np.cos(angles), np.sin(angles)], 1) * [[1], [2], [3], [4], [5], [6]]  # lengths do not count
    found = identification.leave_one_out_rank1(vectors, ["a", "a", "b", "c", "c", "d"])
    np.testing.assert_array_equal(found, [1, 1, np.nan, 0, 0, np.nan])
    order = np.array([5, 2, 0, 4, 1, 3])
    swapped = identification.leave_one_out_rank1(vectors[order], np.array(["a", "a", "b", "c", "c", "d"])[order])
    np.testing.assert_array_equal(swapped, found[order])


def test_leave_one_out_with_other_probes():
    """Turned by 90 degrees the first probe lies on the second person, the last on the first."""
    vectors, probes = np.eye(4)[[0, 0, 1, 1]], np.eye(4)[[1, 0, 1, 0]]
    assert identification.leave_one_out_rank1(vectors, list("aabb"), probes).tolist() == [0, 1, 1, 0]
    alone = identification.leave_one_out_rank1(np.eye(3), list("aab"), np.eye(3))  # none finds itself
    np.testing.assert_array_equal(alone, [0, 0, np.nan])


def test_leave_one_out_through_a_space_learnt_from_the_others():
    """One axis that says nothing drowns the other; a map that hides it, made from the others alone, brings it back."""
    rng = np.random.default_rng(0)
    owner = np.repeat(np.arange(6), 4)
    vectors = np.stack([50 * rng.normal(size=24), owner + 0.05 * rng.normal(size=24), np.full(24, 3.0)], 1)
    given = []

    def hide_the_largest(reference):
        given.append(reference)
        return lambda x: x * (reference.std(axis=0) < 10)

    assert identification.leave_one_out_rank1(vectors, owner).mean() < 0.5
    assert identification.leave_one_out_rank1(vectors, owner, adapt=hide_the_largest).mean() == 1
    for subject, reference in enumerate(given):
        np.testing.assert_array_equal(reference, vectors[owner != subject])
    np.testing.assert_array_equal(
        identification.leave_one_out_rank1(vectors, owner, adapt=lambda _: np.asarray),
        identification.leave_one_out_rank1(vectors, owner),
    )


def test_leave_one_out_counts_a_tie_against():
    assert identification.leave_one_out_rank1(np.ones((4, 3)), ["a", "a", "b", "b"]).tolist() == [0, 0, 0, 0]


def test_leave_one_out_refuses_vectors_that_are_not_finite():
    with pytest.raises(ValueError, match="cosines"):
        identification.leave_one_out_rank1([[1, 0], [np.nan, 1]], ["a", "a"])


# -- the curve DIR over FAR

# Two people enrolled, three probes of them, four unknown probes with the best scores .1 .4 .6 .6
NAMES = np.array(["ann", "bob"])
WHO = np.array(["ann", "bob", "bob"])
KNOWN = np.array([[0.9, 0.2], [0.7, 0.5], [0.3, 0.6]])  # the second probe gets the wrong name
UNKNOWN = np.array([[0.1, 0.0], [0.4, 0.3], [0.2, 0.6], [0.6, 0.1]])


def test_the_curve_by_hand():
    curve = dir_curve(KNOWN, WHO, NAMES, UNKNOWN, [1, 2])
    assert curve.threshold.tolist() == [np.inf, 0.9, 0.6, 0.5, 0.4, 0.1]
    assert curve.far.tolist() == [0, 0, 0.5, 0.5, 0.75, 1]
    np.testing.assert_allclose(curve.dir[1], np.array([0, 1, 2, 2, 2, 2]) / 3)
    np.testing.assert_allclose(curve.dir[2], np.array([0, 1, 2, 3, 3, 3]) / 3)


def test_a_point_of_the_curve_is_the_best_that_the_far_allows():
    curve = dir_curve(KNOWN, WHO, NAMES, UNKNOWN, [1, 2])
    point = curve.at_far(0.5, 2)
    assert (point.dir, point.achieved_far, point.threshold) == (1, 0.5, 0.5)
    assert point.fnir == 0
    point = curve.at_far(0.25)  # tied alarms come together, so no alarm at all is allowed
    assert (point.dir, point.achieved_far, point.threshold) == (1 / 3, 0, 0.9)
    assert point.fnir == pytest.approx(2 / 3)


def test_a_score_equal_to_the_threshold_is_accepted():
    assert identified(KNOWN, WHO, NAMES, 0.6).tolist() == [True, False, True]
    assert dir_at(KNOWN, WHO, NAMES, UNKNOWN, 0.6).achieved_far == 0.5
    curve = dir_curve(np.array([[0.5, 0.1]]), NAMES[:1], NAMES, np.array([[0.5, 0.0]]))
    assert curve.dir[1].tolist() == [0, 1]
    assert curve.far.tolist() == [0, 1]


def test_a_tie_with_another_person_is_not_rank_1():
    curve = dir_curve(np.array([[0.5, 0.5]]), NAMES[:1], NAMES, UNKNOWN, [1, 2])
    assert curve.at_far(1.0, 1).dir == 0
    assert curve.at_far(1.0, 2).dir == 1


def test_below_one_unknown_probe_nothing_is_measured():
    curve = dir_curve(KNOWN, WHO, NAMES, UNKNOWN)
    point = curve.at_far(0.2)
    assert np.isnan([point.dir, point.achieved_far, point.threshold]).all()
    assert point.reason == "FAR 0.2 cannot be measured with 4 unknown probes: one of them is already 0.25"
    assert not np.isnan(curve.at_far(0.25).dir)


def test_a_rank_beyond_the_gallery_is_left_out_with_the_reason():
    curve = dir_curve(KNOWN, WHO, NAMES, UNKNOWN, [1, 2, 5])
    assert sorted(curve.dir) == [1, 2]
    assert curve.left_out == {5: "rank 5 needs 5 enrolled people, there are 2"}
    assert curve.at_far(0.5, 5).reason == curve.left_out[5]
    twice = dir_curve(KNOWN[:, [0, 0, 1]], WHO, NAMES[[0, 0, 1]], UNKNOWN[:, [0, 0, 1]], [2, 3])
    assert sorted(twice.dir) == [2]  # two templates of one person make no further person


@pytest.mark.parametrize(("known", "unknown"), [(0, 4), (3, 0), (0, 0)])
def test_without_probes_the_reason_is_given(known, unknown):
    curve = dir_curve(KNOWN[:known], WHO[:known], NAMES, UNKNOWN[:unknown])
    assert np.isnan(curve.at_far(0.5).dir)
    assert curve.at_far(0.5).reason == f"{known} known and {unknown} unknown probes; both are needed"
    assert np.isnan(curve.far).all() == (unknown == 0)
    assert np.isnan(curve.dir[1]).all() == (known == 0)


def test_nan_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        dir_curve(KNOWN, WHO, NAMES, UNKNOWN * np.nan)


@st.composite
def searches(draw):
    """Scores on a grid of tenths, so that there are many ties: known (P, G), who (P,), names (G,), unknown (U, G)."""
    people, known, unknown = draw(st.integers(1, 6)), draw(st.integers(1, 8)), draw(st.integers(1, 8))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    names = np.array([f"p{k}" for k in range(people)])
    who = names[rng.integers(people, size=known)]
    return tuple(rng.integers(-9, 10, (n, people)) / 10 for n in (known, unknown)), who, names


@settings(max_examples=60, deadline=None)
@given(searches())
def test_the_curve_counts_what_dir_at_counts_and_is_monotone(search):
    (known, unknown), who, names = search
    curve = dir_curve(known, who, names, unknown, [1, 2, 3])
    for rank, rates in curve.dir.items():
        points = [dir_at(known, who, names, unknown, at, rank) for at in curve.threshold]
        np.testing.assert_array_equal(rates, [point.dir for point in points])
        np.testing.assert_array_equal(curve.far, [point.achieved_far for point in points])
        assert (np.diff(rates) >= 0).all()
    assert (np.diff(curve.far) >= 0).all()
    kept = sorted(curve.dir)
    assert all((curve.dir[b] >= curve.dir[a]).all() for a, b in itertools.pairwise(kept))


@settings(max_examples=60, deadline=None)
@given(searches(), st.integers(0, 10**6))
def test_order_names_and_monotone_transforms_change_nothing(search, seed):
    (known, unknown), who, names = search
    rng = np.random.default_rng(seed)
    first = dir_curve(known, who, names, unknown, [1, 2])
    rows, strangers, columns = (rng.permutation(n) for n in (len(known), len(unknown), len(names)))
    new = dict(zip(names.tolist(), rng.permutation([f"q{k}" for k in range(len(names))]).tolist(), strict=True))
    again = dir_curve(
        np.exp(3 * known[rows][:, columns]),
        np.array([new[name] for name in who[rows]]),
        np.array([new[name] for name in names[columns]]),
        np.exp(3 * unknown[strangers][:, columns]),
        [1, 2],
    )
    np.testing.assert_array_equal(first.far, again.far)
    for rank in first.dir:
        np.testing.assert_array_equal(first.dir[rank], again.dir[rank])
    before, after = (
        identification.cmc(scores, owners, gallery)
        for scores, owners, gallery in (
            (known, who, names),
            (np.exp(known[:, columns]), who, names[columns]),
        )
    )
    np.testing.assert_array_equal(before, after)


def test_one_shot_by_hand_and_by_all_draws():
    """a's pictures are alike, and b's second is nearer to a's: b's first is found when it asks for b's second alone."""
    scores = np.array([[1, 0.9, 0.1, 0.5], [0.9, 1, 0.2, 0.7], [0.1, 0.2, 1, 0.6], [0.5, 0.7, 0.6, 1]])
    people = np.array(["a", "a", "b", "b"])
    found = identification.one_shot_hits(scores, people, draws=4000)
    # probes, each with the two pictures of the other person enrolled equally often
    np.testing.assert_allclose(found, [1, 1, 1, 0.5], atol=0.03)
    assert np.isnan(identification.one_shot_hits(np.eye(2), np.array(["a", "b"]))).all()
    assert np.nanmax(identification.one_shot_hits(np.ones((4, 4)), people)) == 0  # a tie counts against the probe


def test_leave_one_out_of_scores_is_that_of_vectors():
    rng = np.random.default_rng(0)
    vectors, people = rng.normal(size=(30, 5)), rng.integers(0, 9, 30)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    of_scores = identification.leave_one_out_hits(unit @ unit.T, people)
    np.testing.assert_array_equal(of_scores, identification.leave_one_out_rank1(vectors, people))
