"""Rates against values worked by hand, against scikit-learn, and against swaps and shuffles."""

import time
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_curve

from face3d_lib.base.errors import UserError
from face3d_lib.evaluate import intervals
from face3d_lib.evaluate.metrics import curves, failures, identification, thresholds
from face3d_lib.evaluate.scores import Trials

# Ten impostors .0 ... .9 and four genuine, so that every rate can be counted on the fingers.
IMPOSTOR = np.arange(10) / 10
GENUINE = np.array([0.55, 0.75, 0.85, 0.95])


def make_trials(n_subjects=20, per_subject=3, seed=0, noise=0.6, person=0.0, direction=None):
    """All-vs-all trials with normal scores; `person` is the spread of what each person adds to its trials."""
    rng = np.random.default_rng(seed)
    subjects = np.repeat(np.arange(n_subjects), per_subject)
    a, b = np.triu_indices(len(subjects), 1)
    same = subjects[a] == subjects[b]
    own = rng.normal(scale=person, size=n_subjects)
    score = same * 1.0 + noise * rng.normal(size=len(a)) + own[subjects[a]] + own[subjects[b]]
    names = np.array([f"p{s:03d}" for s in subjects])
    ids = np.array([f"{name}/{i}" for i, name in enumerate(names)])
    return Trials(score.astype(np.float32), a, b, ids, names)


def random_scores(seed, n_genuine=40, n_impostor=300, decimals=None):
    rng = np.random.default_rng(seed)
    genuine, impostor = rng.normal(1, 1, n_genuine), rng.normal(0, 1, n_impostor)
    return (genuine, impostor) if decimals is None else (genuine.round(decimals), impostor.round(decimals))


def at_threshold(roc, threshold):
    """FAR and TAR that a curve shows at a threshold."""
    place = np.searchsorted(-roc.threshold, -threshold, side="right") - 1
    return roc.far[place], roc.tar[place]


def share_first(scores, probes, enrolled):
    """The share of probes that are found at rank 1."""
    return (identification.ranks(scores, probes, enrolled) == 1).mean()


# -- verification


def test_rates_at_a_threshold_accept_iff_score_is_not_below_it():
    point = thresholds.rates_at(GENUINE, IMPOSTOR, 0.8)
    assert (point.false_accepts, point.n_impostor) == (2, 10)  # .8 itself and .9
    assert (point.false_rejects, point.n_genuine) == (2, 4)
    assert (point.achieved_far, point.tar) == (0.2, 0.5)
    assert thresholds.rates_at([0.8], [0.0], 0.8).tar == 1


@pytest.mark.parametrize(
    ("far", "accepts", "tar"),
    [(0.1, 1, 2 / 4), (0.15, 1, 2 / 4), (0.2, 2, 3 / 4), (0.3, 3, 3 / 4), (0.4, 4, 1), (0.5, 5, 1)],
)
def test_tar_at_far_by_hand(far, accepts, tar):
    """far .1: one impostor (.9) may pass, so the threshold lies just above .8: .85 and .95 pass."""
    point = thresholds.tar_at_far(GENUINE, IMPOSTOR, far)
    assert (point.false_accepts, point.achieved_far, point.tar) == (accepts, accepts / 10, tar)
    assert (point.asked_far, point.reason) == (far, "")


def test_far_below_one_impostor_is_nan_with_the_count():
    point = thresholds.tar_at_far(GENUINE, IMPOSTOR, 0.099)
    assert np.isnan([point.tar, point.achieved_far, point.threshold]).all()
    assert point.n_impostor == 10
    assert "FAR 0.099 cannot be measured with 10 impostor comparisons" in point.reason
    assert np.isnan(thresholds.threshold_at_far(IMPOSTOR, 0.099))
    assert np.isnan(curves.roc(GENUINE, IMPOSTOR).tar_at_far([0.099, 0.1])).tolist() == [True, False]


def test_far_is_read_as_a_decimal():
    """.29 * 100 is 28.999999999999996 in binary; twenty-nine impostors may pass."""
    impostor = np.arange(100) / 100
    for far in np.arange(1, 100) / 100:
        point = thresholds.tar_at_far([2.0], impostor, float(far))
        assert point.false_accepts == round(far * 100)


def test_tied_impostors_pass_together_or_not_at_all():
    impostor = [0.1, 0.5, 0.5, 0.5, 0.5]
    assert thresholds.tar_at_far([0.5, 0.6], impostor, 0.4).achieved_far == 0  # two may pass, four are tied
    assert thresholds.tar_at_far([0.5, 0.6], impostor, 0.4).tar == 0.5
    assert thresholds.tar_at_far([0.5, 0.6], impostor, 0.8).achieved_far == 0.8
    assert thresholds.tar_at_far([0.5, 0.6], impostor, 0.8).tar == 1


def test_threshold_of_development_is_applied_to_others():
    threshold = thresholds.threshold_at_far(IMPOSTOR, 0.1)
    assert 0.8 < threshold < 0.8 + 1e-9
    point = thresholds.rates_at([0.7, 0.9], [0.85, 0.95, 0.1, 0.2], threshold)
    assert (point.tar, point.achieved_far) == (0.5, 0.5)  # not the FAR that was asked for
    missing = thresholds.rates_at([0.7], [0.1], np.nan)
    assert np.isnan(missing.tar)
    assert missing.reason


def test_eer_by_hand():
    """At .75 FAR is 2/10 and FRR 1/4 (gap .05); at .7 FAR is 3/10 and FRR 1/4 (gap .05 again)."""
    value, threshold = curves.eer(GENUINE, IMPOSTOR)
    assert (value, threshold) == (pytest.approx(0.275), 0.7)  # of the two means .225 and .275 the larger
    assert curves.eer([1.0], [0.0]) == (0, 1)
    assert curves.eer([0.0], [1.0])[0] == 1
    assert curves.eer([0.5], [0.5])[0] == 0.5
    assert curves.eer([0.3, 0.7, 0.8, 0.9], [0.1, 0.2, 0.4, 0.6])[0] == 0.25


def test_eer_of_two_normals():
    """Normals about 0 and 1, deviation .5: they cross at .5, where both errors are Phi(-1) = .1587."""
    rng = np.random.default_rng(1)
    value, threshold = curves.eer(rng.normal(1, 0.5, 200_000), rng.normal(0, 0.5, 200_000))
    assert value == pytest.approx(0.15866, abs=0.002)
    assert threshold == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("decimals", [None, 1, 0])
@pytest.mark.parametrize("seed", range(5))
def test_roc_equals_scikit_learn(seed, decimals):
    genuine, impostor = random_scores(seed, decimals=decimals)
    ours = curves.roc(genuine, impostor)
    truth, score = np.r_[np.ones(len(genuine)), np.zeros(len(impostor))], np.r_[genuine, impostor]
    far, tar, threshold = roc_curve(truth, score, drop_intermediate=False)
    np.testing.assert_allclose(ours.far, far)
    np.testing.assert_allclose(ours.tar, tar)
    np.testing.assert_array_equal(ours.threshold, threshold)
    for asked in (0.01, 0.03, 0.1, 0.5):
        expected = tar[far <= asked].max()
        assert thresholds.tar_at_far(genuine, impostor, asked).tar == pytest.approx(expected)
        assert ours.tar_at_far(asked) == pytest.approx(expected)
    for at in (-1.0, 0.0, 0.5, threshold[3], 99.0):
        point = thresholds.rates_at(genuine, impostor, at)
        assert (point.achieved_far, point.tar) == pytest.approx(at_threshold(ours, at))


def test_swapping_genuine_and_impostor_shows():
    genuine, impostor = random_scores(0)
    value = curves.eer(genuine, impostor)[0]
    assert value < 0.4
    assert curves.eer(impostor, genuine)[0] == pytest.approx(1 - value, abs=0.05)
    assert thresholds.tar_at_far(genuine, impostor, 0.1).tar > 0.3
    assert thresholds.tar_at_far(impostor, genuine, 0.1).tar < 0.05


def test_shuffled_labels_show():
    trials = make_trials()
    shuffled = replace(trials, subject_ids=np.random.default_rng(3).permutation(trials.subject_ids))
    assert curves.eer(trials.genuine, trials.impostor)[0] < 0.25
    assert curves.eer(shuffled.genuine, shuffled.impostor)[0] == pytest.approx(0.5, abs=0.12)


@pytest.mark.parametrize("bad", [[np.nan], [0.5, np.inf], [[0.5]]])
def test_scores_that_are_none_are_refused(bad):
    calls = (
        lambda: curves.roc(bad, IMPOSTOR),
        lambda: curves.roc(GENUINE, bad),
        lambda: thresholds.rates_at(bad, IMPOSTOR, 0.5),
        lambda: thresholds.tar_at_far(GENUINE, bad, 0.5),
        lambda: thresholds.threshold_at_far(bad, 0.5),
    )
    for call in calls:
        with pytest.raises(ValueError, match=r"infinite|flat"):
            call()


def test_what_no_comparison_shows_is_nan_with_the_reason():
    nobody = curves.roc([], IMPOSTOR)
    for curve in (nobody, curves.roc(GENUINE, []), curves.roc([], [])):
        assert not curve.measurable
        assert np.isnan([*curve.eer(), curve.tar_at_far(0.1)]).all()
    assert np.isnan(nobody.tar_at_far([0.1, 0.2])).tolist() == [True, True]
    assert curves.roc(GENUINE, IMPOSTOR).measurable
    for genuine, impostor, kind in (([], IMPOSTOR, "genuine"), (GENUINE, [], "impostor")):
        point = thresholds.rates_at(genuine, impostor, 0.5)
        assert np.isnan([point.tar, point.achieved_far]).tolist() == [kind == "genuine", kind == "impostor"]
        assert point.reason == f"no {kind} comparison"
    assert "no impostor comparisons" in thresholds.tar_at_far(GENUINE, [], 0.1).reason
    assert thresholds.rates_at([], [], 0.5).reason == "no genuine and no impostor comparison"


def test_no_development_score_gives_no_threshold_and_few_give_one_that_accepts_none():
    threshold, reason = thresholds.threshold_at_far_or_above([], 0.1)
    assert np.isnan(threshold)  # not -1, which would accept everybody
    assert "there are no development scores" in reason
    threshold, reason = thresholds.threshold_at_far_or_above([0.3, 0.6], 0.1)
    assert 0.6 < threshold < 0.61
    assert "2 development scores" in reason
    assert "accepts none" in reason
    assert thresholds.threshold_at_far_or_above(IMPOSTOR, 0.1) == (thresholds.threshold_at_far(IMPOSTOR, 0.1), "")


@pytest.mark.parametrize("far", [0, 1, -0.1, 2, np.nan])
def test_far_must_be_a_share(far):
    with pytest.raises(UserError, match="between 0 and 1"):
        thresholds.threshold_at_far(IMPOSTOR, far)


# -- identification

SCORES = np.array(
    [  # gallery: a    b    c
        [0.9, 0.2, 0.1],  # a: rank 1
        [0.6, 0.5, 0.1],  # b: rank 2
        [0.7, 0.6, 0.5],  # c: rank 3
        [0.4, 0.4, 0.1],  # a, tied with b: rank 2
    ]
)
PROBES, ENROLLED = ["a", "b", "c", "a"], ["a", "b", "c"]


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


# -- failures and counts


def test_failures_to_acquire_enter_the_rates():
    """8 % without a face: an FNMR of 10.65 % is an FRR of 17.8 %."""
    assert failures.frr_with_fta(0.1065, 0.08) == pytest.approx(0.178, abs=1e-4)
    assert failures.frr_with_fta(0.0, 1.0) == 1


def test_failed_templates_in_the_scores_give_the_same_frr():
    genuine = np.r_[np.full(8, -1.0), np.linspace(0, 1, 92)]
    without = thresholds.rates_at(genuine[8:], IMPOSTOR, 0.25)
    assert 1 - thresholds.rates_at(genuine, IMPOSTOR, 0.25).tar == pytest.approx(
        failures.frr_with_fta(1 - without.tar, 0.08)
    )


def test_wilson_against_published_values():
    """Newcombe (Statistics in Medicine 17, 1998), table I, method 3: 81/263, 15/148, 0/20, 1/29."""
    published = {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }
    for (count, n), expected in published.items():
        assert failures.wilson(count, n) == pytest.approx(expected, abs=1e-4)
    assert failures.wilson(20, 20) == pytest.approx((1 - 0.1611, 1), abs=1e-4)
    with pytest.raises(ValueError, match="not a share"):
        failures.wilson(1, 0)


def test_failure_rates_by_group():
    status = ["ok", "no_face", "ok", "ok", "bad_depth"]
    table = failures.failure_rates(status, ["frontal", "profile", "frontal", "profile", "profile"])
    assert table["group"].tolist() == ["frontal", "profile", "all"]
    assert table["n"].tolist() == [2, 3, 5]
    assert table["failed"].tolist() == [0, 2, 2]
    assert table["rate"].tolist() == [0, 2 / 3, 0.4]
    assert table["low"].iloc[2] == pytest.approx(failures.wilson(2, 5)[0])


# -- intervals


def eer_of(roc):
    return roc.eer()[0]


def test_bootstrap_is_the_plain_one_done_by_repeating_people():
    """One replicate by hand: the trials of the drawn people written out as often as they were drawn."""
    trials = make_trials(n_subjects=6)
    (curve,) = curves.curves_of(trials)
    weight = np.array([2.0, 0, 1, 1, 0, 2])
    codes = trials.subject_codes
    left, right = codes[trials.a], codes[trials.b]
    times = np.where(trials.same, weight[left], weight[left] * weight[right]).astype(int)
    expected = curves.roc(
        np.repeat(trials.genuine, times[trials.same]), np.repeat(trials.impostor, times[~trials.same])
    )
    ours = curve.roc(weight)
    assert ours.eer()[0] == pytest.approx(expected.eer()[0])
    for far in (0.05, 0.1, 0.3):
        assert ours.tar_at_far(far) == pytest.approx(expected.tar_at_far(far))


def test_bootstrap_repeats_itself_and_surrounds_the_value():
    trials = make_trials()
    first, again = (intervals.subject_bootstrap(trials, eer_of, 200, seed=1) for _ in range(2))
    assert first == again
    assert first != intervals.subject_bootstrap(trials, eer_of, 200, seed=2)
    assert first.low < first.value < first.high
    assert first.value == curves.eer(trials.genuine, trials.impostor)[0]
    assert (first.n_subjects, first.n_replicates) == (20, 200)
    tar = intervals.subject_bootstrap(trials, lambda roc: roc.tar_at_far(0.05), 200)
    assert tar.low < tar.value < tar.high
    assert tar.value == thresholds.tar_at_far(trials.genuine, trials.impostor, 0.05).tar


def test_people_who_differ_make_the_interval_wider_than_pairs_would():
    """Where people differ, drawing trials instead of people pretends to know several times too much."""
    trials = make_trials(n_subjects=25, per_subject=4, person=0.4)
    interval = intervals.subject_bootstrap(trials, lambda roc: at_threshold(roc, 0.5)[0], 300)
    assert interval.value == pytest.approx((trials.impostor >= 0.5).mean())
    naive = 2 * 1.96 * np.sqrt(interval.value * (1 - interval.value) / len(trials.impostor))
    assert interval.high - interval.low > 3 * naive


def test_interval_covers_the_truth_about_as_often_as_it_says():
    """FAR and FRR at .5 over 100 sets of 30 new people who differ; the truth from 400 people."""

    def frr_at_half(roc):
        return 1 - at_threshold(roc, 0.5)[1]

    many = make_trials(400, 3, seed=99, person=0.3)
    far, tar = at_threshold(curves.roc(many.genuine, many.impostor), 0.5)
    assert far > 0.1
    covered = 0
    for seed in range(100):
        interval = intervals.subject_bootstrap(make_trials(30, 3, seed=seed, person=0.3), frr_at_half, 150, seed)
        covered += interval.low <= 1 - tar <= interval.high
    assert covered >= 85


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


def test_paired_difference_is_narrower_than_two_intervals():
    """The second system is the first, a little better: the pairing sees it, single intervals do not."""
    first = make_trials(n_subjects=30, person=0.4)
    second = replace(first, score=first.score + 0.2 * first.same.astype(np.float32))
    difference = intervals.paired_bootstrap(first, second, eer_of, 300)
    one, two = (intervals.subject_bootstrap(trials, eer_of, 300) for trials in (first, second))
    assert difference.value == two.value - one.value
    assert difference.high < 0  # better, shown
    assert two.high > one.low  # although the intervals overlap
    swapped = intervals.paired_bootstrap(second, first, eer_of, 300)
    assert (swapped.low, swapped.high) == pytest.approx((-difference.high, -difference.low))
    nothing = intervals.paired_bootstrap(first, first, eer_of, 50)
    assert (nothing.value, nothing.low, nothing.high) == (0, 0, 0)


def test_paired_bootstrap_refuses_other_trials():
    with pytest.raises(ValueError, match="different trials"):
        intervals.paired_bootstrap(make_trials(10), make_trials(11), eer_of)


def part_of(trials, chosen):
    return replace(trials, score=trials.score[chosen], a=trials.a[chosen], b=trials.b[chosen])


def test_trials_of_one_kind_or_none_give_nan_with_the_reason():
    trials = make_trials(4, 2)
    for chosen in (trials.same, ~trials.same, np.zeros(len(trials.same), bool)):
        some = part_of(trials, chosen)
        for interval in (
            intervals.subject_bootstrap(some, eer_of, 20),
            intervals.paired_bootstrap(some, some, eer_of, 20),
        ):
            assert np.isnan([interval.value, interval.low, interval.high]).all()
            assert "both are needed" in interval.reason
    nothing = intervals.mean_bootstrap([], [], 20)
    assert np.isnan([nothing.value, nothing.low, nothing.high]).all()
    assert nothing.reason == "no probe"


def test_an_interval_that_few_people_cannot_give_is_nan_and_the_value_stays():
    """Of two people every usable draw takes each once; of one person every draw is the same."""
    two = intervals.subject_bootstrap(make_trials(2, 3), eer_of, 50)
    assert np.isfinite(two.value)
    assert np.isnan([two.low, two.high]).all()
    assert "an interval needs 3" in two.reason
    one = intervals.mean_bootstrap([1, 0], ["a", "a"], 50)
    assert one.value == 0.5
    assert np.isnan([one.low, one.high]).all()
    assert intervals.subject_bootstrap(make_trials(3, 3), eer_of, 50).reason == ""


def test_a_weight_is_even_where_development_trials_show_nothing():
    trials = make_trials(4, 2)
    assert curves.best_weight(part_of(trials, trials.same), part_of(trials, trials.same)) == 0.5


def test_replicates_without_impostors_are_counted_out():
    interval = intervals.subject_bootstrap(make_trials(2, 2), eer_of, 400)
    assert 120 < interval.n_replicates < 280  # of two people, half of the draws take one twice


def test_mean_bootstrap_against_the_formula():
    """One value per person: the deviation of the mean is that of the values / sqrt(n)."""
    values = np.random.default_rng(5).normal(size=400)
    interval = intervals.mean_bootstrap(values, np.arange(400).astype(str), 4000)
    half = 1.96 * values.std() / 20
    assert interval.value == values.mean()
    assert (interval.low, interval.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.01)
    repeated = intervals.mean_bootstrap(np.repeat(values, 5), np.repeat(np.arange(400), 5), 4000)
    assert repeated.high - repeated.low == pytest.approx(interval.high - interval.low, rel=0.05)  # 5 copies add nothing


def test_bootstrap_is_fast():
    """20,000 impostor trials, 1000 replicates: seconds, not minutes."""
    trials = make_trials(70, 3)
    assert len(trials.score) > 20_000
    start = time.process_time()
    intervals.subject_bootstrap(trials, eer_of, 200)
    assert time.process_time() - start < 2


def test_best_weight_leaves_a_useless_system_out():
    good, noise = make_trials(noise=0.3), make_trials(noise=0.6, seed=1)
    noise = replace(noise, score=np.random.default_rng(0).normal(size=len(noise.score)).astype(np.float32))
    assert curves.best_weight(good, noise) > 0.7
    assert curves.best_weight(noise, good) < 0.3
    alike = make_trials(noise=0.6, seed=1), make_trials(noise=0.6, seed=2)
    assert 0.25 < curves.best_weight(*alike) < 0.75
