"""Scores and trials that are small enough to be counted by hand, or drawn from normal distributions."""

import numpy as np

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


def eer_of(roc):
    return roc.eer()[0]
