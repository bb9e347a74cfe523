"""z-, t- and s-norm against the formulas written out, and whose pictures may be in a cohort."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from face3d_lib.base.errors import UserError
from face3d_lib.evaluate.metrics.normalisation import normalise
from face3d_lib.evaluate.scores import FAILED, Trials


def comparisons(seed=0, people=4, pictures=3, cohort_people=5):
    """All comparisons of some people, their scores with a cohort, and the cohort's names."""
    rng = np.random.default_rng(seed)
    who = np.repeat([f"p{k}" for k in range(people)], pictures)
    a, b = np.triu_indices(len(who), 1)
    names = np.repeat([f"c{k}" for k in range(cohort_people)], 2)
    trials = Trials(rng.uniform(-1, 1, len(a)), a, b, np.array([f"{w}/{k}" for k, w in enumerate(who)]), who)
    return trials, rng.uniform(-1, 1, (len(who), len(names))), names


def written_out(trials, scores, names, kind):
    """The same, one comparison after the other."""
    found = []
    for score, a, b in zip(trials.score, trials.a, trials.b, strict=True):
        strangers = ~np.isin(names, [trials.subject_ids[a], trials.subject_ids[b]])
        z, t = ((score - scores[side][strangers].mean()) / scores[side][strangers].std() for side in (a, b))
        found.append({"z": z, "t": t, "s": (z + t) / 2}[kind])
    return np.array(found)


@pytest.mark.parametrize("kind", ["z", "t", "s"])
def test_the_formulas_for_test_people(kind):
    trials, scores, names = comparisons()
    found = normalise(trials, scores, names, kind)
    np.testing.assert_allclose(found.score, written_out(trials, scores, names, kind), rtol=1e-9)
    assert found.pair_ids is trials.pair_ids


@pytest.mark.parametrize("kind", ["z", "t", "s"])
def test_both_people_of_a_development_comparison_are_strangers_to_their_cohort(kind):
    trials, scores, _ = comparisons(people=5, pictures=2)
    names = trials.subject_ids  # every development person is also in the cohort
    assert scores.shape == (10, 10)
    found = normalise(trials, scores, names, kind, leave_out=True)
    np.testing.assert_allclose(found.score, written_out(trials, scores, names, kind), rtol=1e-9)
    own = trials.subject_ids[:, None] == names
    changed = normalise(trials, np.where(own, 0.9, scores), names, kind, leave_out=True)
    np.testing.assert_allclose(changed.score, found.score, rtol=1e-9)  # a person's own pictures never count


def test_a_cohort_of_test_people_is_refused_by_name():
    trials, scores, names = comparisons()
    names[-1] = "p2"
    with pytest.raises(UserError, match="1 of its people are compared too, the first p2"):
        normalise(trials, scores, names)


def test_s_norm_does_not_depend_on_the_sides_and_z_norm_is_t_norm_with_sides_swapped():
    trials, scores, names = comparisons()
    swapped = replace(trials, a=trials.b, b=trials.a)
    for kind, other in (("s", "s"), ("z", "t")):
        first, second = normalise(trials, scores, names, kind), normalise(swapped, scores, names, other)
        np.testing.assert_allclose(first.score, second.score, rtol=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.1, 10), st.floats(-3, 3))
def test_unit_and_origin_of_the_scores_and_the_order_of_the_cohort_do_not_matter(seed, unit, origin):
    trials, scores, names = comparisons(seed)
    order = np.random.default_rng(seed).permutation(len(names))
    moved = replace(trials, score=unit * trials.score + origin)
    first = normalise(trials, scores, names)
    again = normalise(moved, unit * scores[:, order] + origin, names[order])
    np.testing.assert_allclose(first.score, again.score, rtol=1e-6, atol=1e-6)


def test_a_failed_template_scores_below_all_others():
    trials, scores, names = comparisons()
    failed = (trials.a == 3) | (trials.b == 3)
    scores[3] = FAILED
    found = normalise(replace(trials, score=np.where(failed, FAILED, trials.score)), scores, names)
    assert np.isfinite(found.score).all()
    assert found.score[failed].max() < found.score[~failed].min()
    nobody = normalise(trials, np.full_like(scores, FAILED), names)
    assert (nobody.score == FAILED).all()


def test_what_cannot_be_normalised_is_refused():
    trials, scores, names = comparisons(cohort_people=1)
    with pytest.raises(UserError, match="choose one of z, t, s"):
        normalise(trials, scores, names, "x")
    with pytest.raises(ValueError, match="must be"):
        normalise(trials, scores[:, :1], names)
    with pytest.raises(UserError, match="fewer than two pictures"):
        normalise(trials, scores[:, :1], names[:1])
    few = replace(trials, subject_ids=np.where(trials.subject_ids == "p0", "c0", trials.subject_ids))
    with pytest.raises(UserError, match="fewer than two pictures"):
        normalise(few, scores, names, leave_out=True)
