"""The nearest templates: as a plain comparison with each of them finds, and never one that is not finite."""

import numpy as np
import pytest

from face3d_lib.serve.search import top_k


def unit(seed, n, size=32):
    vectors = np.random.default_rng(seed).normal(size=(n, size))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("n", [1, 4, 5, 6, 1000])
@pytest.mark.parametrize("k", [1, 5])
def test_the_same_as_sorting_all_scores(n, k):
    templates, probe = unit(0, n), unit(1, 1)[0]
    rows, scores = top_k(templates, probe, k)
    exact = np.float32(templates.astype(np.float64) @ probe.astype(np.float64))
    assert rows.tolist() == np.argsort(-exact, kind="stable")[:k].tolist()
    np.testing.assert_array_equal(scores, exact[rows])


def test_equal_scores_come_in_the_order_of_the_gallery():
    templates = np.repeat(unit(0, 1), 50, axis=0)
    assert top_k(templates, templates[0], 3)[0].tolist() == [0, 1, 2]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("n", [3, 300])
def test_a_template_that_is_not_finite_never_wins(bad, n):
    templates = unit(0, n)
    templates[1] = bad
    for probe in unit(2, 20):
        rows, scores = top_k(templates, probe, 1)
        assert rows[0] != 1
        assert np.isfinite(scores).all()
    templates[:, 3] = bad
    assert top_k(templates, unit(2, 1)[0], 2)[1].tolist() == [-1, -1]


def test_nobody_to_find():
    rows, scores = top_k(np.empty((0, 32), np.float32), unit(0, 1)[0], 5)
    assert len(rows) == len(scores) == 0
