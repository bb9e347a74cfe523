"""The whole evaluation of one system: rates with intervals, from comparisons or from embeddings, as text or as JSON.

Rates count over all comparisons given. A failed embedding (zeros) scores -1 with everybody, so its genuine comparisons
are rejected; `Failures` states the false reject rates with and without such failures.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..base.atomic import sha256_of
from ..base.errors import UserError
from .audit import audit_embeddings
from .embedding_files import read_embeddings, read_protocol
from .embeddings import Embeddings
from .intervals import Interval, mean_bootstrap, subject_bootstrap
from .metrics.all_pairs import all_pairs
from .metrics.checks import unreachable
from .metrics.curves import Roc, roc
from .metrics.failures import frr_with_fta
from .metrics.identification import leave_one_out_rank1
from .metrics.pairs_protocol import FoldAccuracy, fold_accuracy
from .metrics.thresholds import TABLE, checked_far, threshold_table
from .score_files import ScoreSet, read_scores
from .scores import Trials, genuine_impostor

FARS = (0.1, 0.01, 0.001, 0.0001)
MOST_DRAWN = 1e9  # comparisons times replicates, about a minute; beyond it, only 100 replicates are drawn or a few more
MANY = 1_500  # embeddings; more of them are compared in blocks, because a bootstrap over a list of trials is slow
NO_PEOPLE = "the file names no people, and a bootstrap over comparisons would be too narrow"
NO_VECTORS = "leave-one-out rank-1 needs embeddings"


@dataclass(frozen=True)
class Failures:
    """Failure to acquire: false reject rates of the comparisons that were made (FNMR), and with failures (FRR)."""

    fta: float  # share of pictures
    count: int | None  # pictures that failed; None where only the share is known
    pictures: int | None
    fnmr: dict[float, float]  # by FAR, of comparisons between pictures that did not fail
    frr: dict[float, float]  # by FAR: FTA + FNMR (1 - FTA)
    eer: float  # of comparisons between pictures that did not fail
    auc: float


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Counts, rates with intervals, the threshold table and the ROC of one system; a NaN rate has its reason."""

    genuine: int
    impostor: int
    people: int | None  # None where the scores name no people
    eer: Interval
    auc: Interval
    d_prime: Interval
    tar: dict[float, Interval]  # by FAR
    thresholds: pd.DataFrame
    rank1: Interval  # leave one out; NaN unless it comes from embeddings
    roc: Roc
    failures: Failures | None = None
    accuracy: FoldAccuracy | None = None  # where the protocol has folds
    notes: tuple[str, ...] = field(default=())

    def as_json(self) -> dict:
        """The numbers in the types of JSON, in full precision, NaN as null; the ROC is left out."""
        shown = {key: _json(getattr(self, key)) for key in ("genuine", "impostor", "people", "eer", "auc", "d_prime")}
        shown |= {"tar": _json(self.tar), "rank1": _json(self.rank1)}
        shown |= {"thresholds": _json(self.thresholds.to_dict("records")), "notes": list(self.notes)}
        if self.failures:
            shown["failures"] = {name: _json(value) for name, value in vars(self.failures).items()}
        if self.accuracy:
            shown["accuracy"] = {name: _json(value) for name, value in vars(self.accuracy).items()}
        return shown

    def as_text(self) -> str:
        """The numbers as a table for readers: counts first, then rates, thresholds and notes."""
        people = "unknown" if self.people is None else str(self.people)
        lines = [f"people {people}   genuine comparisons {self.genuine}   impostor comparisons {self.impostor}", ""]
        rates = {"EER": self.eer, "AUC": self.auc, "d'": self.d_prime}
        rates |= {f"TAR at FAR {far:g}": rate for far, rate in self.tar.items()} | {"rank-1": self.rank1}
        lines += [f"{name:<20}{_shown(rate)}" for name, rate in rates.items()]
        if self.accuracy:
            mean, error, folds = self.accuracy.mean, self.accuracy.standard_error, len(self.accuracy.accuracy)
            found = self.accuracy.reason or f"{mean:.4f} +- {error:.4f} (standard error of {folds} folds)"
            lines.append(f"{'accuracy':<20}{found}")
        lines += [
            "",
            f"{'FMR':<8}{'threshold':>11}{'false matches':>15}{'false non-matches':>19}   FNMR at this threshold",
        ]
        for row in self.thresholds.itertuples():
            if np.isnan(row.threshold):
                lines.append(f"{row.asked_fmr:<8g}{'-':>11}")
                continue
            rate = _shown(Interval(row.fnmr, row.fnmr_low, row.fnmr_high, 0.95, 0, 0))
            counts = f"{row.false_matches:>15.0f}{row.false_non_matches:>19.0f}"
            lines.append(f"{row.asked_fmr:<8g}{row.threshold:>11.6f}{counts}   {rate}")
        if self.failures:
            share, eer, auc = self.failures.fta, _share(self.failures.eer), _share(self.failures.auc)
            lines += ["", f"failures to acquire: {share:.2%} of the pictures; without them EER {eer}, AUC {auc}"]
            for far, fnmr in self.failures.fnmr.items():
                frr = self.failures.frr[far]
                lines.append(f"  FAR {far:<8g}FRR without failures {_share(fnmr)}, with failures {_share(frr)}")
        return "\n".join([*lines, *(["", *(f"note: {note}" for note in self.notes)] if self.notes else [])])


def evaluate(
    trials: Trials | ScoreSet,
    fars: Sequence[float] = FARS,
    replicates: int = 1000,
    seed: int = 0,
    fta: float | None = None,
) -> Evaluation:
    """The evaluation of comparisons, with 95 % intervals from a bootstrap over people where these are known.

    fta: share of pictures in which no face was found, which the scores do not show. Scores that name no people get no
    intervals. UserError where a FAR is no share between 0 and 1.
    """
    given = ScoreSet(trials.genuine, trials.impostor, trials) if isinstance(trials, Trials) else trials
    curve, notes = roc(given.genuine, given.impostor), list(given.notes)
    known = given.trials
    if known is None:
        return _evaluation(curve, None, lambda rates: _unmeasured(NO_PEOPLE, rates(curve)), fars, fta, notes)
    if len(known.score) * replicates > MOST_DRAWN:
        replicates = max(100, int(MOST_DRAWN / len(known.score)))
        notes.append(f"intervals from {replicates} replicates, because there are {len(known.score)} comparisons")
    people = len(np.union1d(known.subject_codes[known.a], known.subject_codes[known.b]))
    return _evaluation(
        *(curve, people, lambda rates: subject_bootstrap(known, rates, replicates, seed), fars, fta, notes)
    )


def _evaluation(
    curve: Roc,
    people: int | None,
    interval: Callable[[Callable[[Roc], Any]], Interval],
    fars: Sequence[float],
    fta: float | None,
    notes: Sequence[str],
) -> Evaluation:
    """The evaluation of a curve; `interval(statistic)` gives the interval of one rate of it, or of several at once."""
    for far in fars:
        checked_far(far)
    table = threshold_table(curve)

    def rates(drawn: Roc) -> np.ndarray:
        fnmr = [drawn.fnmr_at_far(far) for far in TABLE]  # each draw of people chooses its own thresholds
        return np.concatenate([[drawn.eer()[0], drawn.auc()], drawn.tar_at_far(np.array(fars)), fnmr])

    if not curve.measurable:
        reason = f"{curve.n_genuine} genuine and {curve.n_impostor} impostor comparisons; both are needed"
        found: dict[str | float, Interval] = dict.fromkeys(["eer", "auc", "d_prime", *fars], _unmeasured(reason))
    else:
        every: Any = interval(rates)  # with arrays for value, low and high
        rows = np.array([np.broadcast_to(part, every.value.shape) for part in (every.value, every.low, every.high)])
        names: tuple[str | float, ...] = ("eer", "auc", *fars)
        found = {name: replace(every, **_ends(rows[:, k])) for k, name in enumerate(names)}
        for far in fars:
            if np.isnan(found[far].value):
                found[far] = _unmeasured(unreachable(far, curve.n_impostor, "impostor comparisons"))
        found["d_prime"] = interval(Roc.d_prime)
        table["fnmr_low"], table["fnmr_high"] = rows[1:, len(names) :]
    tar = {far: found[far] for far in fars}
    return Evaluation(
        *(curve.n_genuine, curve.n_impostor, people, found["eer"], found["auc"], found["d_prime"]),
        tar=tar,
        thresholds=table,
        rank1=_unmeasured(NO_VECTORS),
        roc=curve,
        failures=None if fta is None else _failures(fta, found["eer"], found["auc"], tar),
        notes=tuple(notes),
    )


def _failures(fta: float, eer: Interval, auc: Interval, tar: dict[float, Interval]) -> Failures:
    fnmr = {far: 1 - rate.value for far, rate in tar.items()}
    frr = {far: frr_with_fta(rate, fta) for far, rate in fnmr.items()}
    return Failures(fta, None, None, fnmr, frr, eer.value, auc.value)


def evaluate_embeddings(
    embeddings: Embeddings,
    pairs: pd.DataFrame | None = None,
    fars: Sequence[float] = FARS,
    replicates: int = 1000,
    seed: int = 0,
) -> Evaluation:
    """The evaluation of embeddings: each with each, or the `pairs` of a protocol (see `read_protocol`).

    Rank-1 compares each embedding with all others, whatever the protocol. Vectors of zeros count as failures. Where
    `pairs` have the column fold, the accuracy of the folds is added.
    """
    audited = audit_embeddings(embeddings, refuse_copies=False)  # published data sets hold some pictures twice
    if pairs is None and len(embeddings) > MANY:
        found, right = _all_of_many(embeddings, fars, replicates, seed)
    else:
        trials = genuine_impostor(embeddings) if pairs is None else _trials_of_pairs(embeddings, pairs)
        found = evaluate(trials, fars, replicates, seed)
        vectors, who = embeddings.vectors, embeddings.subject_ids
        right = all_pairs(vectors, who).right if len(who) > MANY else leave_one_out_rank1(vectors, who)
    mated, notes = ~np.isnan(right), [*audited, *found.notes]
    if not mated.all() and len(mated):
        alone = embeddings.pair_ids[~mated]
        notes.append(f"rank-1 leaves out {len(alone)} pictures of people with one picture, the first {alone[0]}")
    rank1 = mean_bootstrap(right[mated], embeddings.subject_ids[mated], replicates, seed)
    accuracy = (
        None
        if pairs is None or "fold" not in pairs
        else fold_accuracy(trials.score, trials.same, pd.factorize(pairs["fold"])[0])
    )
    found = replace(found, rank1=rank1, accuracy=accuracy, notes=tuple(notes))
    acquired = (embeddings.vectors != 0).any(axis=1)
    if acquired.all():
        return found
    rest, chosen = embeddings.select(embeddings.pair_ids[acquired]), pairs
    if pairs is not None:
        names = set(rest.pair_ids.tolist())
        chosen = pairs[pairs["pair_id_a"].isin(names) & pairs["pair_id_b"].isin(names)]
    return _with_failures(
        found, evaluate_embeddings(rest, chosen, fars, replicates, seed), (~acquired).sum(), acquired.size
    )


def _all_of_many(
    embeddings: Embeddings, fars: Sequence[float], replicates: int, seed: int
) -> tuple[Evaluation, np.ndarray]:
    """(evaluation, rank-1 of each embedding) of each with each, counted in blocks: exact, without a list of comparisons."""
    exact = (*fars, *(far for far in TABLE if far))
    pairs = all_pairs(embeddings.vectors, embeddings.subject_ids, exact, replicates, seed)
    return _evaluation(pairs.roc, pairs.people, pairs.interval, fars, None, ()), pairs.right


def _with_failures(found: Evaluation, without: Evaluation, count: int, pictures: int) -> Evaluation:
    """The evaluation with the rates `without` the comparisons of failed pictures beside its own."""
    note = "d' leaves failures out, because their score of -1 is a mark and no distance"
    failures = _failures(count / pictures, without.eer, without.auc, without.tar)
    failures = replace(failures, count=int(count), pictures=pictures)
    return replace(found, failures=failures, d_prime=without.d_prime, notes=(*found.notes, note))


def evaluate_file(
    file: Path,
    impostor: Path | None = None,
    protocol: Path | None = None,
    distances: bool = False,
    fars: Sequence[float] = FARS,
    fta: float | None = None,
    replicates: int = 1000,
    seed: int = 0,
) -> tuple[Evaluation, dict[str, str]]:
    """(evaluation, SHA-256 by path) of embeddings (.npz) or scores; see `read_embeddings` and `read_scores`.

    UserError where a file cannot be read for certain, or where an argument does not fit the kind of file.
    """
    fars = list(dict.fromkeys(float(far) for far in fars))
    if file.suffix.lower() in (".npz", ".npy"):  # the latter only to be told what is missing in it
        if impostor or distances or fta is not None:
            wrong = "a second file" if impostor else "--distances" if distances else "--fta"
            raise UserError(
                f"{file}: {wrong} belongs to scores, and these are embeddings (a failure is a vector of zeros)"
            )
        vectors, notes = read_embeddings(file)
        pairs, more = (None, []) if protocol is None else read_protocol(protocol, vectors)
        try:
            found = evaluate_embeddings(vectors, pairs, fars, replicates, seed)
        except UserError as error:
            raise UserError(f"{protocol or file}: {error}") from None
        found = replace(found, notes=(*notes, *more, *found.notes))
    else:
        if protocol:
            raise UserError(f"{protocol}: a protocol names pairs of embeddings, but {file} has scores: leave it out")
        found = evaluate(read_scores(file, impostor, distances), fars, replicates, seed, fta)
    return found, {str(path): sha256_of(path) for path in (file, impostor, protocol) if path}


def _trials_of_pairs(embeddings: Embeddings, pairs: pd.DataFrame) -> Trials:
    """The trials of a protocol, one for each row: a pair that a list repeats is scored once and counted as often."""
    first, second = pairs["pair_id_a"].to_numpy(str), pairs["pair_id_b"].to_numpy(str)
    sides = pd.DataFrame({"a": np.where(first < second, first, second), "b": np.where(first < second, second, first)})
    number = sides.groupby(["a", "b"], sort=False).ngroup().to_numpy()
    two = sides.assign(same=pairs["same"].to_numpy()).groupby(["a", "b"])["same"].nunique() > 1
    if two.any():
        raise UserError(f"pairs table: {' with '.join(two.idxmax())} has both 1 and 0 in column same: correct one")
    return genuine_impostor(embeddings, pairs[~sides.duplicated().to_numpy()]).select(number)


def _unmeasured(reason: str, value: Any = np.nan) -> Interval:
    return Interval(value, np.nan, np.nan, 0.95, 0, 0, reason)


def _ends(row: np.ndarray) -> dict[str, float]:
    return dict(zip(("value", "low", "high"), row.tolist(), strict=True))


def _json(value: object) -> object:
    """A value in the types of JSON, with every digit: an interval is an object, NaN is null."""
    if isinstance(value, Interval):
        shown = {"value": value.value, "low": value.low, "high": value.high}
        return _json(shown | ({"reason": value.reason} if value.reason else {}))
    if isinstance(value, dict):
        return {f"{key:g}" if isinstance(key, float) else str(key): _json(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_json(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _shown(rate: Interval) -> str:
    ends = "" if np.isnan(rate.low) else f"   [{rate.low:.4f}, {rate.high:.4f}]"
    return f"{_share(rate.value)}{ends}{f'   ({rate.reason})' if rate.reason else ''}"


def _share(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.4f}"
