"""What a score means: log-likelihood ratios, their cost Cllr, and thresholds that follow from a prior.

A log-likelihood ratio (LLR, natural logarithm) says how much more probable a score is for two pictures of one person
than for two of different people: 0 means that the score says nothing, and log(100) that it is a hundred times as
probable. Cllr is the mean cost of the LLRs in bits, whatever the prior: 0 is perfect, 1 is what LLRs of 0 cost
everywhere, and above 1 the LLRs do harm (Brümmer and du Preez 2006, "Application-independent evaluation of speaker
detection").
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from ...base.errors import UserError
from ..scores import Trials
from .checks import finite, flat
from .curves import Roc, roc


@dataclass(frozen=True)
class Calibration:
    """The map from scores to LLRs, slope * score + offset, and the development comparisons that it was learnt from."""

    slope: float  # never negative: a higher score never means a smaller LLR; NaN where nothing could be learnt
    offset: float
    n_genuine: int
    n_impostor: int
    reason: str = ""  # why it is NaN, or why it is not the plain logistic regression

    def llr(self, scores: ArrayLike) -> np.ndarray:
        """The LLRs of `scores`, float64 of the same shape."""
        return self.slope * finite(scores, "scores") + self.offset


@dataclass(frozen=True)
class LlrCost:
    """Cllr of LLRs, in bits, and the least that any map of these scores that keeps their order could reach."""

    cllr: float
    min_cllr: float
    n_genuine: int
    n_impostor: int
    reason: str = ""

    @property
    def loss(self) -> float:
        """The calibration loss in bits, Cllr - min-Cllr: what wrong LLRs cost beyond the scores' own confusion."""
        return self.cllr - self.min_cllr


def calibrate(genuine: np.ndarray, impostor: np.ndarray, prior: float = 0.5) -> Calibration:
    """The map to LLRs that costs the development scores least: logistic regression weighted to the `prior`.

    genuine, impostor: flat arrays of scores of development people. The weights give all genuine scores together the
    share `prior`, so their numbers do not matter (Brümmer and du Preez 2006, section 7; prior 0.5 minimises Cllr).
    Where no threshold errs on the development scores, no finite slope is the best; Platt's targets are taken then,
    (n + 1) / (n + 2) in place of 1 (Platt 1999, "Probabilistic outputs for support vector machines"). Where genuine
    scores are not the higher ones, every LLR is 0. Both are said in `reason`. NaN without genuine or impostor scores;
    UserError for a prior outside 0 to 1.
    """
    genuine, impostor = flat(genuine, "genuine"), flat(impostor, "impostor")
    counts = {"n_genuine": len(genuine), "n_impostor": len(impostor)}
    shift = -bayes_threshold(prior)  # log odds of the prior
    if reason := _one_class(len(genuine), len(impostor), "development comparisons"):
        return Calibration(np.nan, np.nan, reason=reason, **counts)
    useless = "genuine scores of development people are not the higher ones: every LLR is 0"
    if genuine.max() <= impostor.min():
        return Calibration(0.0, 0.0, reason=useless, **counts)
    separated = genuine.min() >= impostor.max()
    least = 1 / (np.array([len(genuine), len(impostor)]) + 2) if separated else np.zeros(2)
    slope, offset = _logistic(genuine, impostor, prior, least)
    if slope < 0:
        return Calibration(0.0, 0.0, reason=useless, **counts)
    reason = "development scores are separated: the slope is only as steep as their number allows" if separated else ""
    return Calibration(slope, offset - shift, reason=reason, **counts)


def calibrated(dev: Trials, test: Trials, prior: float = 0.5) -> tuple[Trials, Calibration]:
    """The test trials with LLRs in place of scores, and the map to them, which is learnt on the trials of dev people.

    No trials where nothing could be learnt; the map has the reason. UserError names a person of both.
    """
    sides = [set(part.subject_ids[np.r_[part.a, part.b]].tolist()) for part in (dev, test)]
    if both := sorted(sides[0] & sides[1]):
        raise UserError(f"calibration: {len(both)} people are in dev and in test, the first {both[0]}: split again")
    learnt = calibrate(dev.genuine, dev.impostor, prior)
    if np.isnan(learnt.slope):
        return test.select(np.empty(0, int)), learnt
    return replace(test, score=learnt.llr(test.score)), learnt


def cllr(genuine: np.ndarray, impostor: np.ndarray) -> LlrCost:
    """Cllr and min-Cllr of flat arrays of LLRs; NaN with the reason where one is empty."""
    genuine, impostor = flat(genuine, "genuine"), flat(impostor, "impostor")
    counts = {"n_genuine": len(genuine), "n_impostor": len(impostor)}
    if reason := _one_class(len(genuine), len(impostor)):
        return LlrCost(np.nan, np.nan, reason=reason, **counts)
    cost = (np.logaddexp(0, -genuine).mean() + np.logaddexp(0, impostor).mean()) / np.log(4)
    return LlrCost(float(cost), min_cllr_of(roc(genuine, impostor)), reason="", **counts)


def cllr_of(curve: Roc) -> float:
    """Cllr of the curve of LLRs, as a statistic for `subject_bootstrap`; NaN where the curve is not measurable.

    1/2 (mean of log2(1 + exp(-LLR)) over genuine + mean of log2(1 + exp(LLR)) over impostor comparisons).
    """
    if not curve.measurable:
        return np.nan
    llr, genuine, impostor = curve.at_every_score()
    return float((genuine @ np.logaddexp(0, -llr) + impostor @ np.logaddexp(0, llr)) / np.log(4))


def min_cllr_of(curve: Roc) -> float:
    """Cllr after the best map that keeps the order of the scores, found by `pav`; a statistic for `subject_bootstrap`.

    It depends on the order only: 0 where a threshold makes no error, 1 where the scores say nothing.
    """
    if not curve.measurable:
        return np.nan
    _, genuine, impostor, posterior = _pooled(curve)
    with np.errstate(divide="ignore"):
        bits = -np.log2([posterior, 1 - posterior])  # log2(1 + exp(-LLR)) is -log2 of the posterior
    return float((genuine[genuine > 0] @ bits[0][genuine > 0] + impostor[impostor > 0] @ bits[1][impostor > 0]) / 2)


def pav(curve: Roc) -> tuple[np.ndarray, np.ndarray]:
    """Each distinct score (K,), ascending, and the LLR (K,) that the data at hand give it, infinite at pure ends.

    Pool-adjacent-violators: the isotonic regression of the genuine share (Zadrozny and Elkan 2002; Brümmer and du
    Preez 2006, section 8). Where the points of calibrated LLRs leave the diagonal, they promise too much or too little.
    """
    score, _, _, posterior = _pooled(curve)
    with np.errstate(divide="ignore"):
        return score, np.log(posterior) - np.log1p(-posterior)


def bayes_threshold(prior: float) -> float:
    """-logit(prior): the LLR from which accepting errs least where the share `prior` of comparisons is genuine."""
    if not 0 < prior < 1:
        raise UserError(f"a prior of {prior} is no share between 0 and 1: set it to 0.01, for example")
    return float(np.log1p(-prior) - np.log(prior))


def _logistic(genuine: np.ndarray, impostor: np.ndarray, prior: float, least: np.ndarray) -> tuple[float, float]:
    """Slope and offset of the log odds; the targets are 1 - least[0] for genuine and least[1] for impostor scores."""
    from scipy.optimize import minimize  # takes half a second, and only this function needs it
    from scipy.special import expit

    scores = np.concatenate([genuine, impostor])
    numbers = [len(genuine), len(impostor)]
    target = np.repeat([1 - least[0], least[1]], numbers)
    weight = np.repeat([prior / len(genuine), (1 - prior) / len(impostor)], numbers)
    centre, scale = scores.mean(), scores.std()
    standard = (scores - centre) / scale

    def cost(line: np.ndarray) -> tuple[float, np.ndarray]:
        odds = line[0] * standard + line[1]
        error = weight * (expit(odds) - target)
        return float(weight @ (np.logaddexp(0, odds) - target * odds)), np.array([error @ standard, error.sum()])

    best = minimize(cost, np.zeros(2), jac=True, method="BFGS", options={"gtol": 1e-9}).x
    slope = float(best[0] / scale)
    return slope, float(best[1] - slope * centre)


def _pooled(curve: Roc) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Distinct scores, ascending, genuine and impostor weights, each 1 in all, and the pooled share of the genuine."""
    from sklearn.isotonic import isotonic_regression  # takes a second, and only these functions need it

    score, genuine, impostor = curve.at_every_score()
    weight = genuine + impostor
    share = np.divide(genuine, weight, out=np.zeros_like(weight), where=weight > 0)
    return score, genuine, impostor, isotonic_regression(share, sample_weight=np.maximum(weight, 1e-300))


def _one_class(n_genuine: int, n_impostor: int, kind: str = "comparisons") -> str:
    if n_genuine and n_impostor:
        return ""
    return f"{n_genuine} genuine and {n_impostor} impostor {kind}; both are needed"
