"""How often a 95 % interval holds the truth, by simulation: `make coverage`.

    python tests/bench/interval_coverage.py [sets]        sets: data sets of each population and number of people; 1,000 if not given

Prints a table and writes figures/bench/coverage.json and .png. In the simulation the truth is known: people are drawn
from a population in which they differ in how alike their own pictures are and in how near they lie to others, so that
the comparisons of one person depend on each other. All methods see the same data sets and the same replicates of the
bootstrap over people.
"""

import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy import special, stats

from face3d_lib.base.paths import FIGURES
from face3d_lib.data.splits import impostor_indices
from face3d_lib.evaluate import intervals, pictures
from face3d_lib.evaluate.metrics.curves import Roc, curves_of
from face3d_lib.evaluate.scores import Trials

PEOPLE, PICTURES, DIMENSIONS = (10, 20, 50, 200), 4, 12
POPULATIONS = {"hard": 0.75, "easy": 0.4, "nearly perfect": 0.25}  # mean distance of pictures from their person's mean
RATES = ("EER", "TAR@FAR=0.1", "TAR@FAR=0.01", "rank-1", "accuracy")
DIFFERENCE = "difference of two EERs"
OURS = "score interval, Student's t (ours)"
OURS_DIFFERENCE = "symmetric, Student's t (ours)"
REPLICATES, LEVEL = 300, 0.95


def draw(n: int, population: str, rng: np.random.Generator) -> np.ndarray:
    """(2, n, PICTURES, D) unit vectors: two systems that are equally good see the same pictures of the same n people."""
    means = rng.normal(size=(n, 1, DIMENSIONS)) + 0.5 * np.eye(DIMENSIONS)[0]
    means /= np.linalg.norm(means, axis=2, keepdims=True)
    own = POPULATIONS[population] * np.exp(0.4 * rng.normal(size=(n, 1, 1)))  # some people's pictures differ more
    shared, *noises = rng.normal(size=(3, n, PICTURES, DIMENSIONS)) / np.sqrt(DIMENSIONS)
    vectors = np.stack([means + own * (0.8 * shared + 0.6 * noise) for noise in noises])
    return (vectors / np.linalg.norm(vectors, axis=3, keepdims=True)).astype(np.float32)


def named_right(vectors: np.ndarray) -> np.ndarray:
    """(n, PICTURES) bool: a classifier that names pictures which lie near enough to the mean of their person."""
    mean = vectors.mean(axis=1, keepdims=True)
    return (vectors * mean).sum(axis=2) > 0.72 * np.linalg.norm(mean, axis=2)


def trials_of(vectors: np.ndarray, seed: int) -> Trials:
    """All genuine comparisons and at most 20,000 impostor ones, as the splits have."""
    n = len(vectors)
    flat, who = vectors.reshape(n * PICTURES, -1), np.repeat(np.arange(n), PICTURES)
    one, other = np.triu_indices(PICTURES, 1)
    first = np.arange(n)[:, None] * PICTURES
    i, j = impostor_indices(who, 20_000, seed)
    a, b = np.r_[(first + one).ravel(), i], np.r_[(first + other).ravel(), j]
    names = np.array([f"{person:04d}" for person in who])
    return Trials((flat[a] * flat[b]).sum(axis=1), a, b, np.arange(len(who)).astype(str), names)


def found_first(vectors: np.ndarray) -> np.ndarray:
    """(n, 2) bool: two pictures of each person are enrolled as one template, and the other two probe it."""
    enrolled = vectors[:, :2].mean(axis=1)
    enrolled /= np.linalg.norm(enrolled, axis=1, keepdims=True)
    scores = vectors[:, 2:] @ enrolled.T  # (n, 2, n)
    own = np.diagonal(scores, axis1=0, axis2=2).T  # (n, 2)
    return (scores >= own[:, :, None]).sum(axis=2) == 1


def verification(roc: Roc) -> np.ndarray:
    """The first three of RATES."""
    return np.array([roc.eer()[0], *roc.tar_at_far(np.array([0.1, 0.01]))])


def one_set(seed: int, n: int, population: str, replicates: int = REPLICATES) -> tuple[np.ndarray, dict, dict]:
    """Of one data set: the values of RATES and DIFFERENCE, and the ends of every method, (2, rates)."""
    rng = np.random.default_rng([seed, n, list(POPULATIONS).index(population)])
    both = draw(n, population, rng)
    first, second = curves_of(*(trials_of(vectors, seed) for vectors in both))
    hits = np.stack([found_first(both[0]).mean(axis=1), named_right(both[0]).mean(axis=1)])  # (2, n)

    def rates(weight: np.ndarray) -> np.ndarray:
        found = verification(first.roc(weight))
        return np.array([*found, *(hits @ weight / weight.sum()), second.roc(weight).eer()[0] - found[0]])

    drawn = rng.multinomial(n, np.full(n, 1 / n), replicates).astype(float)
    value = rates(np.ones(n))
    replicated = np.array([rates(weight) for weight in drawn if first.usable(weight)])
    left_out = np.array([rates(1 - own) for own in np.eye(n)])
    return value, *methods(value, replicated, left_out)


def methods(value: np.ndarray, replicated: np.ndarray, left_out: np.ndarray) -> tuple[dict, dict]:
    """The ends (2, rates) of every method for the rates, and (2,) for the difference, which is last of the values."""
    n, tail = len(left_out), 0.5 - LEVEL / 2
    z, t = -stats.norm.ppf(tail), -stats.t.ppf(tail, n - 1)
    wide = stats.norm.cdf(-np.sqrt(n / (n - 1)) * t)
    found = {
        "percentile": np.quantile(replicated, [tail, 1 - tail], axis=0),
        "expanded percentile": np.quantile(replicated, [wide, 1 - wide], axis=0),
        "BCa": bca(value, replicated, left_out, z),
    }
    differences = {name: ends[:, -1] for name, ends in found.items()}
    ours = intervals._of_difference(value[-1], replicated[:, -1], (n, n), LEVEL)
    differences[OURS_DIFFERENCE] = np.array([ours.low, ours.high])
    p = value[:-1]
    found = {name: ends[:, :-1] for name, ends in found.items()}
    error = np.sqrt((n - 1) / n * ((left_out - left_out.mean(axis=0)) ** 2).sum(axis=0))[:-1]
    for name, there, back, slope in (
        ("logit, jackknife", special.logit, special.expit, lambda x: 1 / (x * (1 - x))),
        ("arcsine, jackknife", lambda x: np.arcsin(np.sqrt(x)), lambda y: np.sin(np.clip(y, 0, np.pi / 2)) ** 2,
         lambda x: 0.5 / np.sqrt(x * (1 - x))),
    ):  # fmt: skip
        inside = np.clip(p, 1e-6, 1 - 1e-6)
        ends = [back(there(inside) + sign * t * error * slope(inside)) for sign in (-1, 1)]
        found[name] = np.where((p > 0) & (p < 1), ends, p)
    ours = intervals._of_rate(p, replicated[:, :-1], (n, n), LEVEL)
    return found | {OURS: np.array([ours.low, ours.high])}, differences


def bca(value: np.ndarray, replicated: np.ndarray, left_out: np.ndarray, z: float) -> np.ndarray:
    """(2, rates): bias-corrected and accelerated (Efron 1987, "Better Bootstrap Confidence Intervals")."""
    below = (replicated < value).mean(axis=0) + (replicated == value).mean(axis=0) / 2
    shift = stats.norm.ppf(np.clip(below, 1 / len(replicated), 1 - 1 / len(replicated)))
    away = left_out.mean(axis=0) - left_out
    square = (away**2).sum(axis=0)
    skew = np.where(square > 0, (away**3).sum(axis=0) / (6 * np.maximum(square, 1e-12) ** 1.5), 0)
    at = [stats.norm.cdf(shift + (shift + side) / (1 - skew * (shift + side))) for side in (-z, z)]
    return np.array([[np.quantile(replicated[:, k], end[k]) for k in range(len(value))] for end in at])


def truth(population: str, people: int = 5000, rounds: int = 40) -> np.ndarray:
    """The first three of RATES and the accuracy of a population, from 200,000 people and 4,000,000 impostor comparisons."""
    rng, genuine, impostor, right = np.random.default_rng(1), [], [], []
    for _ in range(rounds):
        vectors = draw(people, population, rng)[0]
        right.append(named_right(vectors).mean())
        genuine += [(vectors[:, i] * vectors[:, j]).sum(axis=1) for i in range(PICTURES) for j in range(i)]
        impostor += [(vectors[:, 0] * np.roll(vectors[:, 1], k, axis=0)).sum(axis=1) for k in range(1, 21)]
    g, i = np.sort(np.concatenate(genuine)), np.sort(np.concatenate(impostor))
    thresholds = np.linspace(-1, 1, 20_001)
    far, frr = 1 - np.searchsorted(i, thresholds) / len(i), np.searchsorted(g, thresholds) / len(g)
    nearest = np.abs(far - frr).argmin()
    tar = [1 - frr[np.argmax(far <= limit)] for limit in (0.1, 0.01)]
    return np.array([(far[nearest] + frr[nearest]) / 2, *tar, np.mean(right)])


def simulate(
    sets: int, workers: int = 2, people: tuple = PEOPLE, populations: tuple = tuple(POPULATIONS), rounds: int = 40
) -> pd.DataFrame:
    """A row for each case: population, people, rate, truth, method, held (number of sets), width (mean), sets."""
    rows = []
    for population in populations:
        eer, tar_10, tar_1, accuracy = truth(population, rounds=rounds)
        for n in people:
            count = sets if n < 200 else sets // 2
            with ProcessPoolExecutor(workers) as pool:
                job = partial(one_set, n=n, population=population)
                values, found, differences = zip(*pool.map(job, range(count), chunksize=10), strict=True)
            rank1 = np.mean([value[3] for value in values])  # the truth for a gallery of n people
            true = np.array([eer, tar_10, tar_1, rank1, accuracy])
            for kinds, rates, at in ((found, RATES, true), (differences, (DIFFERENCE,), np.zeros(1))):
                for method in kinds[0]:
                    low, high = np.array([one[method] for one in kinds]).reshape(count, 2, -1).transpose(1, 0, 2)
                    held = ((low <= at + 1e-9) & (at <= high + 1e-9)).sum(axis=0)
                    widths = (high - low).mean(axis=0)
                    rows += [(population, n, *one, method, count) for one in zip(rates, at, held, widths, strict=True)]
            print(f"{population}, {n} people: {count} data sets", flush=True)
    columns = ["population", "people", "rate", "truth", "held", "width", "method", "sets"]
    return pd.DataFrame(rows, columns=columns)


def summary(rows: pd.DataFrame) -> dict:
    """kind -> method -> number of people -> [mean coverage, lowest coverage] over populations and rates."""
    rows = rows.assign(coverage=rows["held"] / rows["sets"])
    kinds = {"rates": rows[rows["rate"] != DIFFERENCE], "differences": rows[rows["rate"] == DIFFERENCE]}
    found: dict = {}
    for kind, part in kinds.items():
        for (method, n), some in part.groupby(["method", "people"], sort=False)["coverage"]:
            found.setdefault(kind, {}).setdefault(method, {})[str(n)] = [float(some.mean()), float(some.min())]
    return found


def plot(rows: pd.DataFrame) -> plt.Figure:
    """Coverage by the number of people: a panel for each method, a dot for each population and rate."""
    names = list(dict.fromkeys(rows["method"]))
    fig, axes = plt.subplots(2, 4, figsize=(11, 5), sharex=True, sharey=True, layout="constrained")
    people = sorted(set(rows["people"]))
    colours = dict(zip([*RATES, DIFFERENCE], plt.get_cmap("viridis")(np.linspace(0, 0.9, 6)), strict=True))
    markers = dict(zip(POPULATIONS, "os^", strict=True))
    for ax, name in zip(axes.flat, names, strict=False):
        part = rows[rows["method"] == name]
        ax.axhline(LEVEL, color="0.5", linewidth=1)
        for (population, rate), some in part.groupby(["population", "rate"], sort=False):
            place = [people.index(n) for n in some["people"]]
            ax.plot(
                place, some["held"] / some["sets"], markers[population], color=colours[rate], alpha=0.8, markersize=5
            )
        ax.set_title(name, fontsize=10)
        ax.set_xticks(range(len(people)), people)
    handles = [
        plt.Line2D([], [], marker="o", linestyle="", color=colour, label=rate) for rate, colour in colours.items()
    ]
    handles += [plt.Line2D([], [], marker=m, linestyle="", color="0.3", label=name) for name, m in markers.items()]
    for ax in axes.flat[len(names) :]:
        ax.axis("off")
    axes.flat[-1].legend(handles=handles, fontsize=8, loc="center", frameon=False)
    fig.supxlabel("people", fontsize=11)
    fig.supylabel("share of 95 % intervals that hold the truth", fontsize=11)
    return fig


def tell(table: pd.DataFrame, sets: int) -> None:
    """Print the summary, and write it with all rows and the figure to figures/bench."""
    short = summary(table)
    for kind, of_kind in short.items():
        print(f"\n{kind}: mean coverage (lowest)")
        for method, by_people in of_kind.items():
            print(f"{method:36s}", *(f"{n}: {a:.3f} ({b:.3f})  " for n, (a, b) in by_people.items()))
    numbers = {"sets": sets, "replicates": REPLICATES, "level": LEVEL, "summary": short, "rows": table}
    pictures.save_figure(plot(table), FIGURES / "bench", "coverage", numbers)


if __name__ == "__main__":
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    tell(simulate(number), number)
