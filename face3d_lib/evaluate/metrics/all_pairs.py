"""All pairs of very many embeddings, each compared with each, counted in blocks and never held in memory.

30,000 embeddings make 4.5e8 comparisons. The genuine ones are few and are kept and sorted. The impostor scores come from
matrix products of blocks of embeddings; each is counted in one of 2 million cells between -1 and 1. Scores in a cell that
also holds a genuine score are compared with it at once, so all counts at genuine scores are exact, and with them AUC,
TAR@FAR and the least error. Scores near the EER and near the thresholds of `fars` are kept, so these are exact as well.
The cost is linear in the comparisons. Scores are rounded to multiples of 2**-40 (1e-12), so that comparisons of equal
vectors tie whatever the order of a sum; neither the number of threads nor the machine changes a count.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from ...base.errors import UserError
from ...base.processes import cores
from ..intervals import Interval, interval_of, multiplicities
from ..scores import FAILED, ONE, check_vectors
from .curves import Roc, Steps

CELL_BITS = 20  # a cell is 2**20 units wide
LOWEST = -ONE  # a score of -1
CELLS = 2 * ONE // 2**CELL_BITS + 1
NONE = -2 * ONE  # in place of scores that are no impostor comparison
BLOCK = 2048  # embeddings on each side of a block
SAMPLE = 2000  # embeddings from which the places of thresholds are foreseen
MOST_GENUINE = 50_000_000
GRID = np.concatenate([np.geomspace(1e-6, 0.01, 13), np.geomspace(0.01, 1, 18)[1:-1], [0.9, 0.97]])  # FARs
STEPS_PER_GRID = 400
PLAIN, RESOLVED, KEPT = 0, 1, 2


@dataclass(frozen=True, eq=False)
class AllPairs:
    """All comparisons of N embeddings of C people: the curve, leave-one-out rank-1, and the curves of people drawn again."""

    roc: Roc  # exact at every genuine score, at the EER and at the thresholds of `fars`; elsewhere to 1e-6 in score
    right: np.ndarray  # (N,) as leave_one_out_rank1: 1.0, 0.0, or NaN for a person with one picture; failures are 0.0
    people: int
    replicates: "_Replicates"

    def interval(self, statistic: Callable[[Roc], float], level: float = 0.95) -> Interval:
        """The interval of `statistic(Roc)` when people are drawn again, as `intervals.subject_bootstrap` gives it.

        A genuine comparison of a person drawn w times has the weight w, an impostor comparison of people drawn v and w
        times the weight v * w. The weights are summed exactly at 31 thresholds; what lies between two of them is spread
        over the scores there as it is without drawing. The statistic of all people is exact.
        """
        value = statistic(self.roc)
        drawn = np.array([statistic(roc) for roc in self.replicates.curves(self.replicates.weights)], float)
        if len(drawn):
            rate = ((drawn >= 0) & (drawn <= 1)).all(axis=0)
            drawn += value - statistic(next(self.replicates.curves(np.ones((1, self.people)))))
            drawn = np.where(rate, np.clip(drawn, 0, 1), drawn)  # a shifted rate stays a rate, so gets its interval
        return interval_of(value, drawn, self.people, self.replicates.with_genuine, level)


def all_pairs(
    vectors: np.ndarray,
    subjects: np.ndarray,
    fars: Sequence[float] = (0.1, 0.05, 0.01, 0.001, 0.0001),
    n_replicates: int = 0,
    seed: int = 0,
    threads: int | None = None,
) -> AllPairs:
    """Each of N embeddings compared with each other one, as `genuine_impostor` without a table does it for few.

    `vectors` (N, D) float of unit length, or zeros where no template was made: these score -1 with everybody.
    `subjects` (N,) str. `fars`: rates whose thresholds shall be exact. `n_replicates` draws of people, for `interval`.
    Peak memory is about 1 GB for N = 30,000 and D = 512 at two threads. ValueError as in `check_vectors`; UserError where
    so many pictures are of one person that the genuine comparisons do not fit into memory.
    """
    given = _Given.of(vectors, subjects)
    sample = np.sort(np.random.default_rng(0).permutation(len(vectors))[:SAMPLE])
    some = given if len(sample) == len(vectors) else _Given.of(vectors[sample], np.asarray(subjects)[sample])
    threads = threads or cores()
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(threads) as pool:
        foreseen = _count(some, np.zeros(CELLS, bool), pool)
        edges = _grid_edges(foreseen.count)
        drawn = multiplicities(given.people, n_replicates, seed) if n_replicates else np.ones((0, given.people))
        keep = _windows(foreseen, some, fars)
        counted = _count(given, keep, pool, edges, drawn)
        missing = _needed(counted, given, fars) & ~keep & (counted.count > 0)
        if missing.any():  # the sample foresaw wrongly: once more, with the exact places
            counted = _count(given, missing | _needed(counted, given, fars), pool, edges, drawn)
    roc = Roc(given.genuine_steps(), counted.steps(given), len(given.genuine), int(counted.count.sum()))
    right = np.where(given.mate == NONE, np.nan, given.mate > counted.nearest)[np.argsort(given.order)]
    return AllPairs(roc, right, given.people, _Replicates(given, roc, counted.count, edges, drawn, counted.weights))


@dataclass(frozen=True, eq=False)
class _Given:
    """The embeddings in order of people, and their genuine scores in units of 2**-40."""

    unit: np.ndarray  # (N, D) float64
    failed: np.ndarray  # (N,) bool
    code: np.ndarray  # (N,) int, ascending
    order: np.ndarray  # (N,) the place of each in what was given
    genuine: np.ndarray  # (n,) int64, ascending
    genuine_code: np.ndarray  # (n,) the person of each
    mate: np.ndarray  # (N,) int64: the best score with another picture of the person; NONE where there is none

    @property
    def people(self) -> int:
        return int(self.code[-1]) + 1 if len(self.code) else 0

    @classmethod
    def of(cls, vectors: np.ndarray, subjects: np.ndarray) -> "_Given":
        acquired = check_vectors(vectors)
        code = np.unique(np.asarray(subjects), return_inverse=True)[1]
        order = np.argsort(code, kind="stable")
        count = np.bincount(code) if len(code) else np.zeros(0, int)
        if (count.astype(float) ** 2).sum() > 2 * MOST_GENUINE:
            raise UserError(
                f"{len(code)} embeddings of {len(count)} people make more than {MOST_GENUINE:.0e} genuine comparisons: "
                "give a table of pairs (pairs.csv)"
            )
        unit = np.asarray(vectors)[order].astype(np.float64)
        length = np.linalg.norm(unit, axis=1, keepdims=True)
        unit /= np.where(length > 0, length, 1)
        failed, mate, parts = ~acquired[order], np.full(len(unit), NONE), []
        for start, n in zip(np.cumsum(count) - count, count, strict=True):
            mine = slice(start, start + n)
            scores = _rounded(unit[mine] @ unit[mine].T, failed[mine], failed[mine])
            parts.append(scores[np.triu_indices(n, 1)])
            np.fill_diagonal(scores, NONE)
            mate[mine] = scores.max(axis=1)
        genuine = np.concatenate(parts) if parts else np.empty(0, np.int64)
        place = np.argsort(genuine, kind="stable")
        owner = np.repeat(np.arange(len(count)), count * (count - 1) // 2)
        return cls(unit, failed, code[order], order, genuine[place], owner[place], mate)

    def genuine_steps(self) -> Steps:
        return Steps(self.genuine / ONE, np.arange(len(self.genuine) + 1))

    def impostor_moments(self, n: int) -> tuple[float, float]:
        """Mean and variance of the n impostor scores, from sums of the embeddings and of their products.

        The sum of all products u v of two sets of vectors is the product of their sums, and the sum of the squares is
        the inner product of their matrices of products.
        """
        unit, genuine = self.unit[~self.failed], self.genuine / ONE
        lost = self.failed.sum() * (len(self.code) - len(unit)) - self.failed.sum()  # pairs of two failures, twice
        lost = lost // 2 + self.failed.sum() * len(unit)  # pairs with a failure score FAILED, genuine ones among them
        first = ((unit.sum(0) ** 2).sum() - len(unit)) / 2 + FAILED * lost - genuine.sum()
        second = (((unit.T @ unit) ** 2).sum() - len(unit)) / 2 + FAILED**2 * lost - (genuine**2).sum()
        mean = first / n
        variance = second / n - mean**2
        return float(mean), float(variance if variance > 1e-12 else 0.0)  # less is the rounding of the sums


@dataclass(eq=False)
class _Counted:
    """The impostor scores of all blocks."""

    count: np.ndarray  # (CELLS,) of each cell
    slots: (
        np.ndarray
    )  # (2 G + 1,) of cells with genuine scores: below the first of G distinct ones, at it, above it, ...
    kept: list[np.ndarray]  # the scores in cells that were to be kept
    nearest: np.ndarray  # (N,) int64: the best score with another person; NONE where there is none
    weights: np.ndarray  # (R, S) the weight of comparisons in each interval of the grid, for each draw of people
    keep: np.ndarray  # (CELLS,) bool

    def steps(self, given: _Given) -> Steps:
        """The impostor scores as far as they are known, ascending, and how many lie below each."""
        distinct = np.unique(given.genuine)
        plain = self.count > 0
        plain[self.keep] = False
        plain[_cell(distinct)] = False
        kept = np.sort(np.concatenate([*self.kept, np.empty(0, np.int64)]))
        around = np.stack([distinct, distinct + 1], 1).ravel()  # at each genuine score, and just above it
        if len(distinct):
            around = np.concatenate([[distinct[0] - 1], around])
        cells = np.flatnonzero(plain)
        score = np.concatenate([LOWEST + (cells << CELL_BITS), around, kept])
        weight = np.concatenate([self.count[cells], self.slots[: len(around)], np.ones(len(kept), np.int64)])
        order = np.argsort(score, kind="stable")
        order = order[weight[order] > 0]
        below = np.concatenate([[0], np.cumsum(weight[order])])
        total = int(below[-1])
        return Steps(score[order] / ONE, below, given.impostor_moments(total) if total else None)


def _rounded(products: np.ndarray, failed_rows: np.ndarray, failed_columns: np.ndarray) -> np.ndarray:
    """Scores in units of 2**-40, int64; `products` is overwritten."""
    products *= ONE
    np.rint(products, out=products)
    np.clip(products, -ONE, ONE, out=products)
    if failed_rows.any():
        products[failed_rows] = FAILED * ONE
    if failed_columns.any():
        products[:, failed_columns] = FAILED * ONE
    return products.astype(np.int64)


def _cell(scores: np.ndarray) -> np.ndarray:
    return (scores - LOWEST) >> CELL_BITS


def _count(
    given: _Given,
    keep: np.ndarray,
    pool: ThreadPoolExecutor,
    edges: np.ndarray | None = None,
    drawn: np.ndarray | None = None,
) -> _Counted:
    """Count all impostor comparisons, block by block; `keep` (CELLS,) bool are the cells whose scores are listed.

    `edges` are the cells at which the intervals of the grid begin; `drawn` (R, C) how often each person is drawn.
    """
    distinct = np.unique(given.genuine)
    kind = np.full(CELLS, PLAIN, np.uint8)
    kind[_cell(distinct)] = RESOLVED
    kind[keep] = KEPT
    starts = range(0, len(given.code), BLOCK)
    blocks = [(i, j) for i in starts for j in starts if i <= j]
    bucket = np.searchsorted(edges, np.arange(CELLS), side="right").astype(np.uint8) if edges is not None else None
    draws = drawn.astype(np.float32) if drawn is not None else np.empty((0, given.people), np.float32)
    found = _Counted(
        np.zeros(CELLS, np.int64),
        np.zeros(2 * len(distinct) + 1, np.int64),
        [],
        np.full(len(given.code), NONE),
        np.zeros((len(draws), 1 if edges is None else len(edges) + 1)),
        keep,
    )

    def work(block: tuple[int, int]) -> Callable[[], None]:
        return _block(
            given,
            slice(block[0], block[0] + BLOCK),
            slice(block[1], block[1] + BLOCK),
            distinct,
            kind,
            bucket,
            draws,
            found,
        )

    for add in pool.map(work, blocks):  # in order, so that sums do not depend on the threads
        add()
    return found


def _block(
    given: _Given,
    rows: slice,
    columns: slice,
    distinct: np.ndarray,
    kind: np.ndarray,
    bucket: np.ndarray | None,
    draws: np.ndarray,
    found: _Counted,
) -> Callable[[], None]:
    """Count one block; returns what adds it to `found`."""
    scores = _rounded(given.unit[rows] @ given.unit[columns].T, given.failed[rows], given.failed[columns])
    left, right = given.code[rows], given.code[columns]
    if left[-1] >= right[0]:
        scores[left[:, None] == right] = NONE
    nearest = scores.max(axis=1), scores.max(axis=0)
    if rows == columns:
        scores[np.tril_indices(len(scores))] = NONE
    cells = _cell(scores)
    valid = cells.ravel() if left[-1] < right[0] else cells[cells >= 0]
    count = np.bincount(valid, minlength=CELLS)
    which = kind[np.maximum(cells, 0)] if left[-1] >= right[0] else kind[cells]
    if left[-1] >= right[0]:
        which[cells < 0] = PLAIN
    resolved = np.sort(scores[which == RESOLVED])
    kept = scores[which == KEPT]
    slots = np.bincount(
        np.searchsorted(distinct, resolved) + np.searchsorted(distinct, resolved, side="right"),
        minlength=len(found.slots),
    )
    weights = _weights(cells, left, right, bucket, draws) if bucket is not None and len(draws) else 0

    def add() -> None:
        found.count += count
        found.slots += slots
        found.kept.append(kept)
        for side, best in zip((rows, columns), nearest, strict=True):
            np.maximum(found.nearest[side], best, out=found.nearest[side])
        found.weights += weights

    return add


def _weights(
    cells: np.ndarray, left: np.ndarray, right: np.ndarray, bucket: np.ndarray, draws: np.ndarray
) -> np.ndarray:
    """(R, S) the weight of the block's comparisons in each interval of the grid, for each draw of people."""
    first, second = left[0], right[0]
    n, m, parts = left[-1] - first + 1, right[-1] - second + 1, int(bucket[-1]) + 1
    key = (left - first)[:, None] * m + (right - second)
    key = key * parts + bucket[np.maximum(cells, 0)]
    key = key[cells >= 0] if left[-1] >= second else key.ravel()
    people = np.bincount(key, minlength=n * m * parts).reshape(n, m * parts).astype(np.float32)
    total = np.empty((len(draws), parts))
    step = max(1, 4_000_000 // (m * parts))  # 16 MB at a time
    for start in range(0, len(draws), step):
        some = draws[start : start + step]
        product = (some[:, first : first + n] @ people).reshape(len(some), m, parts)
        total[start : start + step] = np.matmul(some[:, None, second : second + m], product)[:, 0]
    return total


def _crossing(count: np.ndarray, given: _Given) -> np.ndarray:
    """The cells that hold the two scores around the crossing of FAR and FRR; none where there is no curve."""
    n, genuine = int(count.sum()), len(given.genuine)
    if not n or not genuine:
        return np.empty(0, int)
    own = np.bincount(_cell(given.genuine), minlength=CELLS)
    far, frr = (n - (np.cumsum(count) - count)) / n, (np.cumsum(own) - own) / genuine
    last = np.flatnonzero(far >= frr)[-1]
    after = last + 1 + np.flatnonzero((count + own)[last + 1 :])[:1]
    return np.append(after, last)


def _needed(counted: _Counted, given: _Given, fars: Sequence[float]) -> np.ndarray:
    """(CELLS,) bool: the cells with the highest score, the scores at the thresholds of `fars`, and the crossing."""
    needed = np.zeros(CELLS, bool)
    above = np.cumsum(counted.count[::-1])[::-1]  # at least the cell's lower edge
    n = int(above[0])
    if n:
        for far in (0, *fars):
            for allowed in (int(far * n), int(far * n) + 1):  # the last that passes, and the first that does not
                needed[np.flatnonzero(above >= min(max(allowed, 1), n))[-1]] = True
    needed[_crossing(counted.count, given)] = True
    return needed


def _windows(foreseen: _Counted, some: _Given, fars: Sequence[float]) -> np.ndarray:
    """(CELLS,) bool: where the cells of `_needed` will probably lie in all pairs, judged by some of them."""
    keep = _needed(foreseen, some, fars)
    above = np.cumsum(foreseen.count[::-1])[::-1]
    n = int(above[0])
    if not n:
        return keep
    rates = list(fars)
    crossing = _crossing(foreseen.count, some)
    if len(crossing):
        rates.append(float(above[crossing[-1]] / n))
    for rate in rates:
        part = 0.08 * max(1.0, 0.1 / max(rate, 1e-9)) ** 0.25  # the rarer, the less certain
        keep |= (above >= rate * (1 - part) * n) & (above <= rate * (1 + part) * n)
    return keep | (above <= 20)


def _grid_edges(count: np.ndarray) -> np.ndarray:
    """Ascending cells at which FAR is about that of GRID; failures, which score -1, are below the first."""
    above = np.cumsum(count[::-1])[::-1]
    places = [np.flatnonzero(above >= far * above[0])[-1] for far in GRID if above[0]]
    return np.unique(np.array([1, *places], int))


class _Replicates:
    """The curves of people drawn again; see AllPairs.interval."""

    def __init__(
        self, given: _Given, roc: Roc, count: np.ndarray, edges: np.ndarray, weights: np.ndarray, sums: np.ndarray
    ):
        self.given, self.weights, self.sums = given, weights, sums
        self.with_genuine = len(np.unique(given.genuine_code))
        self.genuine = given.genuine_steps().score
        self.base = roc.impostor
        self.at_edges = np.concatenate([[0], (np.cumsum(count) - count)[edges], [count.sum()]])
        places = [
            np.linspace(low, high, STEPS_PER_GRID, endpoint=False).astype(np.int64)
            for low, high in zip(self.at_edges[:-1], self.at_edges[1:], strict=True)
        ]
        place = np.unique(np.searchsorted(self.base.below, np.concatenate(places)))
        place = place[place < len(self.base.score)]
        self.score, self.below = self.base.score[place], self.base.below[place]

    def curves(self, weights: np.ndarray) -> Iterator[Roc]:
        """The curve for each row of `weights` (R, C) that leaves genuine and impostor comparisons."""
        plain = np.diff(self.at_edges)[None] if len(weights) == 1 and (weights == 1).all() else self.sums
        counts = len(self.genuine), int(self.base.below[-1])
        for weight, sums in zip(weights, plain, strict=True):
            own = np.concatenate([[0], np.cumsum(weight[self.given.genuine_code])])
            upto = np.concatenate([[0], np.cumsum(sums)])
            below = np.append(np.interp(self.below, self.at_edges, upto), upto[-1])
            if own[-1] and upto[-1]:
                yield Roc(Steps(self.genuine, own), Steps(self.score, below), *counts)
