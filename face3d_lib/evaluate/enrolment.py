"""How many people can be enrolled, and with how many pictures each: identification rates by gallery and template size.

Galleries and the pictures of templates are drawn at random with a seed, several times. A rate that cannot be measured
is NaN, with the reason.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..base.errors import UserError
from ..data.splits import Splits
from .embeddings import Embeddings
from .intervals import mean_bootstrap, subject_bootstrap
from .metrics import identification
from .metrics.curves import eer_of
from .metrics.thresholds import threshold_at_far_or_above
from .protocol import OpenSet
from .scores import Trials, cosine, templates


def gallery_sizes(
    people: OpenSet,
    sizes: Sequence[int],
    far: float = 0.1,
    at_ranks: Sequence[int] = (1, 5, 20),
    draws: int = 20,
    seed: int = 0,
) -> pd.DataFrame:
    """Rank-k and DIR@FAR when only some of the enrolled people are enrolled: a row for each size and measure.

    Columns: size, measure ("rank 1", ..., "DIR"), mean and sd over `draws` random galleries of `size` people, draws,
    reason. The probes of a gallery are those of its people; unknown probes are always all of them. DIR is that of rank
    1 at the threshold where these unknown probes have at most the FAR `far`, because a larger gallery gives more
    false alarms at the same threshold (Grother and Phillips 2004, "Models of large population recognition
    performance"). sd is the spread of the galleries, not an interval over people, and NaN where only one gallery can
    be drawn. A size or a rank above what is enrolled is NaN with the reason.
    """
    names, rng = people.enrolled.subject_ids, np.random.default_rng(seed)
    measures = [*[f"rank {rank}" for rank in at_ranks], "DIR"]
    rows = []
    for size in sizes:
        if not 0 < size <= len(names):
            reason = f"{len(names)} people are enrolled, a gallery of {size} cannot be drawn"
            rows += [(size, measure, np.nan, np.nan, 0, reason) for measure in measures]
            continue
        times = draws if size < len(names) else 1
        drawn = [np.sort(rng.choice(len(names), size, replace=False)) for _ in range(times)]
        found, reasons = zip(*(_rates_of_gallery(people, columns, far, at_ranks) for columns in drawn), strict=True)
        for k, measure in enumerate(measures):
            values = np.array([rates[k] for rates in found])
            values, why = values[~np.isnan(values)], next(filter(None, (reason[k] for reason in reasons)), "")
            mean = float(values.mean()) if len(values) else np.nan
            sd = float(values.std(ddof=1)) if len(values) > 1 else np.nan
            rows.append((size, measure, mean, sd, len(values), why))
    return pd.DataFrame(rows, columns=["size", "measure", "mean", "sd", "draws", "reason"])


def _rates_of_gallery(
    people: OpenSet, columns: np.ndarray, far: float, at_ranks: Sequence[int]
) -> tuple[list[float], list[str]]:
    """The rates of `gallery_sizes` and why each is NaN, when only the templates at `columns` are enrolled."""
    names = people.enrolled.subject_ids[columns]
    of_them = np.isin(people.probes.subject_ids, names)
    known, who, unknown = people.known[of_them][:, columns], people.probes.subject_ids[of_them], people.unknown
    place = identification.ranks(known, who, names)
    rates, reasons = [], []
    for rank in at_ranks:
        reason = f"rank {rank} needs {rank} enrolled people" if rank > len(names) else "" if len(who) else "no probe"
        rates.append(np.nan if reason else float((place <= rank).mean()))
        reasons.append(reason)
    point = identification.dir_curve(known, who, names, unknown[:, columns], [1]).at_far(far)
    return [*rates, point.dir], [*reasons, point.reason]


def template_sizes(
    vectors: Embeddings,
    division: Splits,
    sizes: Sequence[int] = (1, 2, 4, 8),
    far: float = 0.1,
    draws: int = 5,
    replicates: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """How many pictures must I enrol? Rates of test people whose templates are means of 1, 2, ... pictures: a row each.

    Columns: pictures; people (enrolled) and probes of test people; rank1, dir (at the threshold that gives dev people,
    enrolled with as many pictures, at most the FAR `far`) and eer of the comparisons of probes with templates, each
    with _low and _high over people; far, the one that dev people's threshold has on test people; reason.

    The pictures are drawn from the enrolled ones, so an enrolled picture is never a probe, `draws` times; those of a
    smaller template are among those of the larger. Rates are means over the draws; the comparisons of all draws give
    one EER. The same people count at every size that at least half of the enrolled people can fill; at larger
    sizes only those with enough pictures count. Others are neither enrolled nor probed.
    """
    rng = np.random.default_rng(seed)
    groups = {group: _Enrollable(vectors, division, group, draws, rng) for group in ("dev", "test")}
    counted = {group: _people_by_size(part.counts, sizes) for group, part in groups.items()}
    rows = []
    for size in sizes:
        names = {group: counted[group][size] for group in groups}
        row: dict[str, float | str] = {"pictures": size, "people": len(names["test"]), "probes": 0}
        if len(names["test"]) < 2:
            most = max(groups["test"].counts.values(), default=0)
            reason = f"{len(names['test'])} of the enrolled people have {size} pictures to enrol, two are needed"
            rows.append(row | {"reason": f"{reason}; the most is {most}"})
            continue
        sets = {
            group: [part.open_set(names[group], size, draw) for draw in range(draws)] for group, part in groups.items()
        }
        unknown = groups["test"].unknown
        rows.append(row | _rates_of_templates(sets["dev"], sets["test"], unknown, far, replicates, seed))
    columns = ["pictures", "people", "probes", *(n + e for n in ("rank1", "dir", "eer") for e in ("", "_low", "_high"))]
    return pd.DataFrame(rows, columns=[*columns, "far", "reason"])


def _people_by_size(counts: dict[str, int], sizes: Sequence[int]) -> dict[int, list[str]]:
    """Who counts at each size: everybody with pictures enough for it and for every size that half can fill."""
    common = [size for size in sizes if 2 * sum(n >= size for n in counts.values()) >= len(counts)]
    least = max(common, default=min(sizes))
    return {size: sorted(name for name, n in counts.items() if n >= max(size, least)) for size in sizes}


class _Enrollable:
    """One group of people with their pictures to enrol, in `draws` random orders, their probes and unknown probes."""

    def __init__(self, vectors: Embeddings, division: Splits, group: str, draws: int, rng: np.random.Generator) -> None:
        parts = (division.gallery, division.probe, division.unknown)
        gallery, probe, unknown = (table.loc[table["group"] == group, "pair_id"] for table in parts)
        if both := sorted(set(gallery) & (set(probe) | set(unknown))):
            raise UserError(f"split: {both[0]} is enrolled and probed: split again")
        self.vectors, self.probes, self.unknown = vectors, vectors.select(probe), vectors.select(unknown)
        own: dict[str, list[str]] = {}
        for pair_id, name in zip(gallery, vectors.select(gallery).subject_ids.tolist(), strict=True):
            own.setdefault(name, []).append(pair_id)
        self.counts = {name: len(ids) for name, ids in own.items()}
        self.orders = [
            {name: rng.permutation(sorted(own[name])).tolist() for name in sorted(own)} for _ in range(draws)
        ]

    def open_set(self, names: list[str], size: int, draw: int) -> OpenSet:
        """`names` enrolled with the first `size` pictures of the order `draw`, and probed; the unknown probes."""
        chosen = [pair_id for name in names for pair_id in self.orders[draw][name][:size]]
        enrolled = templates(self.vectors.select(chosen))
        probes = self.probes.select(self.probes.pair_ids[np.isin(self.probes.subject_ids, names)])
        scores = (cosine(part.vectors, enrolled.vectors) for part in (probes, self.unknown))
        return OpenSet(enrolled, probes, *scores)


def _rates_of_templates(
    dev: list[OpenSet], test: list[OpenSet], unknown: Embeddings, far: float, replicates: int, seed: int
) -> dict[str, float | str]:
    """Columns of `template_sizes` for one size; `dev` and `test` have an item for each draw."""
    names, who = test[0].enrolled.subject_ids, test[0].probes.subject_ids
    limits, cautions = zip(*(threshold_at_far_or_above(part.alarms, far) for part in dev), strict=True)
    right = [identification.ranks(part.known, who, names) == 1 for part in test]
    rates = {"rank1": mean_bootstrap(np.mean(right, axis=0), who, replicates, seed)}
    if not np.isnan(limits).any():
        hits = [identification.identified(part.known, who, names, at) for part, at in zip(test, limits, strict=True)]
        rates["dir"] = mean_bootstrap(np.mean(hits, axis=0), who, replicates, seed)
    rates["eer"] = subject_bootstrap(_trials(test, unknown), eer_of, replicates, seed)
    points = [
        identification.dir_at(part.known, who, names, part.unknown, at) for part, at in zip(test, limits, strict=True)
    ]
    reasons = [*cautions, *(point.reason for point in points), *(found.reason for found in rates.values())]
    row: dict[str, float | str] = {"probes": len(who), "far": float(np.mean([point.achieved_far for point in points]))}
    for name, found in rates.items():
        row |= found.named(name)
    return row | {"reason": next(filter(None, reasons), "")}


def _trials(sets: list[OpenSet], unknown: Embeddings) -> Trials:
    """Every probe, known or unknown, against every template; the draws one after the other."""
    probes, enrolled = sets[0].probes, sets[0].enrolled
    n_probes = len(probes) + len(unknown)
    score = np.concatenate([np.concatenate([part.known, part.unknown]).ravel() for part in sets])
    a, b = np.tile(np.indices((n_probes, len(enrolled))).reshape(2, -1), len(sets))
    parts = (probes, unknown, enrolled)
    return Trials(
        score,
        a,
        b + n_probes,
        np.concatenate([part.pair_ids for part in parts]),
        np.concatenate([part.subject_ids for part in parts]),
    )
