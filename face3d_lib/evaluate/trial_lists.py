"""Protocols: which pictures are enrolled, which probe them, and which comparisons are made, by columns of the manifest.

A protocol gives one or several trial lists, each for one part of it (one condition, say). A list can be empty; its rates are
then NaN with the reason, and its row stays in the table. Probes whose person is not enrolled ("without a mate") make
impostor comparisons only; they are counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from ..base.errors import UserError, nearest
from ..data.manifest import Manifest, session_keys
from ..data.shares import hashed_order
from ..data.splits import CLOSED, OPENED, Splits, impostor_indices
from .embeddings import Embeddings
from .intervals import mean_bootstrap, subject_bootstrap
from .metrics.curves import eer_of
from .scores import cosine, genuine_impostor

COLUMNS = ["pair_id_a", "pair_id_b", "same", "protocol", "part"]
MOST_IMPOSTORS = 20_000  # in each list; drawn at random if there are more
NEUTRAL = {"pose": "frontal", "expression": "neutral", "light": "front", "occlusion": "none", "glasses": "no"}
STANDS_ALONE = ("parallel", "joined")  # fusions of RGB-D in which either branch is an embedding by itself


@dataclass(frozen=True, eq=False)
class TrialList:
    """The comparisons of one part of a protocol: each probe with enrolled pictures."""

    protocol: str
    part: str
    pairs: pd.DataFrame  # COLUMNS of text; a is the probe, b is enrolled; `scores.genuine_impostor` takes it
    probes: np.ndarray  # (P,) pair_ids
    gallery: np.ndarray  # (G,) pair_ids; the same as `probes` where all pictures are compared with each other
    without_mate: int  # probes whose person has no other picture among the enrolled ones

    @property
    def reason(self) -> str:
        """Why there are no rates; "" where there are."""
        if not len(self.probes) or not len(self.gallery):
            return f"no data: {len(self.probes)} probes, {len(self.gallery)} enrolled pictures"
        same = self.pairs["same"] == "1"
        if not same.any() or same.all():
            return f"no data: {same.sum()} genuine and {(~same).sum()} impostor comparisons"
        return ""


def picture_table(division: Splits, manifest: Manifest | None = None) -> pd.DataFrame:
    """A row for each picture of a split: pair_id, subject_id, use, people, session, condition, and all manifest columns.

    `use` is train, eval, test (closed set), gallery, probe or unknown; `people` is train, dev or test. A picture
    without a row in the manifest has empty cells there. Columns of the manifest that have one of the first four names are left
    out, because the split says who is who.
    """
    frames = {name: getattr(division, name) for name in CLOSED + OPENED}
    table = pd.concat(
        [frame.assign(use=name, people=frame.get("group", "train")) for name, frame in frames.items()],
        ignore_index=True,
    )
    table = table.rename(columns={"cls_name": "subject_id"})
    table = table[["pair_id", "subject_id", "use", "people", "session", "condition"]].astype(str)
    if manifest is None:
        return table
    more = [name for name in manifest.rows.columns if name not in table.columns]
    return table.merge(manifest.rows[["pair_id", *more]], on="pair_id", how="left", validate="one_to_one").fillna("")


def column(table: pd.DataFrame, name: str) -> pd.Series:
    """A column of the table of pictures; UserError, with the nearest names, where there is none or all of it is empty."""
    if name not in table:
        raise UserError(f"no column {name!r} in the table of pictures; did you mean {nearest(name, table.columns)}?")
    if (table[name] == "").all():
        raise UserError(f"column {name!r} is empty for all {len(table)} pictures: fill it in manifest.csv")
    return table[name]


def image_split(table: pd.DataFrame, people: int | None = None, seed: int = 0) -> list[TrialList]:
    """The legacy protocol: held-out pictures of the people who were trained on, against their training pictures.

    `people`: the number of people, drawn by `seed`; None: all. A rank-1 of few people is no rank-1 of many.
    """
    trained = table[table["people"] == "train"]
    chosen = hashed_order(trained["subject_id"].unique(), seed, "image split")[:people]
    trained = trained[trained["subject_id"].isin(chosen)]
    probes, gallery = trained[trained["use"] == "test"], trained[trained["use"] == "train"]
    return [_list("image split (legacy)", "people trained on", probes, gallery)]


def subject_disjoint(table: pd.DataFrame, people: str = "test") -> list[TrialList]:
    """All pictures of people who were never trained on, each with each other."""
    rows = _unseen(table, people)
    return [_list("subject-disjoint", "any two pictures", rows, rows)]


def sessions(table: pd.DataFrame, people: str = "test") -> list[TrialList]:
    """The pictures of the data set's first session are enrolled, and those of each later session probe them.

    Where no session is known, or one only, there is one list, without data.
    """
    known = set(table["session"]) - {""}
    first, *others = sorted(known, key=session_keys(known).__getitem__) or [""]
    rows, name = _unseen(table, people), "first session → later"
    enrolled = rows[(rows["session"] == first) & (rows["session"] != "")]
    if not others:
        return [_list(name, "no later session", rows.iloc[:0], enrolled)]
    return [_list(name, f"{first} → {later}", rows[rows["session"] == later], enrolled) for later in others]


def conditions(table: pd.DataFrame, name: str, neutral: str, people: str = "test") -> list[TrialList]:
    """Pictures whose column `name` holds `neutral` are enrolled, and those with each other value probe them.

    A list for each value that the column has anywhere in the table, so that a value which no test person has is a list
    without probes. UserError where nothing has the neutral value.
    """
    values = column(table, name)
    if neutral not in set(values):
        near = nearest(neutral, sorted(set(values) - {""}))
        raise UserError(f"column {name!r} never holds {neutral!r}; did you mean {near}?")
    rows = _unseen(table, people)
    enrolled = rows[rows[name] == neutral]
    others = sorted(set(values) - {"", neutral})
    return [_list(name, f"{neutral} → {value}", rows[rows[name] == value], enrolled) for value in others]


def known_conditions(table: pd.DataFrame) -> list[str]:
    """Those of NEUTRAL that the table of pictures can be divided by, as "column=neutral value"."""
    return [
        f"{name}={neutral}"
        for name, neutral in NEUTRAL.items()
        if name in table and neutral in set(table[name]) and table[name].replace("", neutral).nunique() > 1
    ]


def one_sample(table: pd.DataFrame, people: str = "test", seed: int = 0) -> list[TrialList]:
    """One picture of each person is enrolled, drawn by `seed`, and all other pictures probe."""
    rows = _unseen(table, people)
    drawn = hashed_order(rows["pair_id"], seed, "one sample")
    place = rows["pair_id"].map({pair_id: k for k, pair_id in enumerate(drawn)})
    first = place == place.groupby(rows["subject_id"]).transform("min")
    return [_list("one sample per person", "one picture → the others", rows[~first], rows[first])]


def open_set_lists(table: pd.DataFrame, people: str = "test") -> list[TrialList]:
    """The gallery of the split, probed by enrolled people and by people who are not enrolled, who have no mate."""
    rows = _unseen(table, people)
    probes = rows[rows["use"].isin(["probe", "unknown"])]
    return [_list("open set", "enrolled and unknown probes", probes, rows[rows["use"] == "gallery"])]


def cross_modality(lists: Sequence[TrialList], seen: str, side: str = "probe") -> list[TrialList]:
    """The same lists with one side seen in one modality only: `seen` is "RGB" or "depth", `side` "probe" or "gallery".

    The pictures of that side get the names of `add_seen`, so that a picture may be there with both modalities and with one.
    """
    sides = {"probe": "RGB-D", "gallery": "RGB-D"} | {side: seen}
    name = f"{sides['probe']} probe, {sides['gallery']} gallery"
    found = []
    for one in lists:
        a, b = one.pairs["pair_id_a"], one.pairs["pair_id_b"]
        if side == "probe":
            one = replace(one, probes=np.array(_marked(one.probes, seen), str))
            a = _marked(a, seen)
        else:
            one = replace(one, gallery=np.array(_marked(one.gallery, seen), str))
            b = _marked(b, seen)
        pairs = one.pairs.assign(pair_id_a=a, pair_id_b=b, protocol=name)
        found.append(replace(one, protocol=name, pairs=pairs))
    return found


def add_seen(vectors: Embeddings, withheld: Embeddings, seen: str) -> Embeddings:
    """`vectors` and those of pictures of which a modality was withheld (`embed.embed(..., without=)`), under own names."""
    parts = vectors, replace(withheld, pair_ids=np.array(_marked(withheld.pair_ids, seen), str))
    joined = [
        np.concatenate([getattr(part, name) for part in parts]) for name in ("pair_ids", "subject_ids", "vectors")
    ]
    return Embeddings(*joined)


def pictures_of(lists: Sequence[TrialList]) -> list[str]:
    """The pair_ids that the lists compare, each once, in order of their names."""
    return sorted({str(name) for one in lists for side in (one.probes, one.gallery) for name in side})


def rates(lists: Sequence[TrialList], vectors: Embeddings, far: float = 0.01, replicates: int = 500) -> pd.DataFrame:
    """A row for each list: protocol, part, counts, EER, TAR at `far` and rank-1 with 95 % intervals, and a note.

    Columns: people (of the probes), gallery and probes (pictures), without_mate, genuine and impostor (comparisons), eer,
    tar and rank1, each with _low and _high, and note. A rate that cannot be measured is NaN, and the note says why. Rank-1
    is the share of the probes with a mate whose most similar enrolled picture shows the same person.
    """
    return pd.DataFrame([_row(one, vectors, far, replicates) for one in lists])


def _row(one: TrialList, vectors: Embeddings, far: float, replicates: int) -> dict:
    row: dict = {"protocol": one.protocol, "part": one.part, "people": 0, "gallery": len(one.gallery)}
    row |= {"probes": len(one.probes), "without_mate": one.without_mate, "genuine": 0, "impostor": 0}
    row |= {f"{rate}{end}": np.nan for rate in ("eer", "tar", "rank1") for end in ("", "_low", "_high")}
    same = one.pairs["same"] == "1"
    row |= {"genuine": int(same.sum()), "impostor": int((~same).sum()), "note": one.reason}
    if len(one.probes):
        row["people"] = len(np.unique(vectors.select(one.probes).subject_ids))
    if one.reason:
        return row
    trials = genuine_impostor(vectors, one.pairs)
    statistics = {"eer": eer_of, "tar": lambda roc: roc.tar_at_far(far)}
    found = {name: subject_bootstrap(trials, rate, replicates) for name, rate in statistics.items()}
    hits, who = _first_hits(one, vectors)
    found["rank1"] = mean_bootstrap(hits, who, replicates)
    for name, interval in found.items():
        row |= interval.named(name)
    reasons = [f"{name}: {interval.reason}" for name, interval in found.items() if interval.reason]
    mates = f"{one.without_mate} probes without a mate" if one.without_mate else ""
    return row | {"note": "; ".join(filter(None, [mates, *reasons]))}


def _first_hits(one: TrialList, vectors: Embeddings) -> tuple[np.ndarray, np.ndarray]:
    """Whether the most similar enrolled picture shows the person of the probe, and that person, for probes with a mate.

    A probe is not compared with itself, and a tie between two people counts against it, as in `identification.ranks`.
    """
    probes, gallery = vectors.select(one.probes), vectors.select(one.gallery)
    person, picture = (
        np.split(np.unique(np.concatenate(both), return_inverse=True)[1], [len(probes)])
        for both in ((probes.subject_ids, gallery.subject_ids), (probes.pair_ids, gallery.pair_ids))
    )
    best = np.empty((2, len(probes)))  # the best score with the own person, and with another
    for start in range(0, len(probes), 1024):
        rows = slice(start, start + 1024)
        scores = cosine(probes.vectors[rows], gallery.vectors)
        scores[picture[0][rows, None] == picture[1]] = -np.inf
        own = person[0][rows, None] == person[1]
        best[:, rows] = [np.where(mask, scores, -np.inf).max(axis=1) for mask in (own, ~own)]
    mated = np.isfinite(best[0])
    return (best[0] > best[1])[mated], probes.subject_ids[mated]


def _list(protocol: str, part: str, probes: pd.DataFrame, gallery: pd.DataFrame) -> TrialList:
    """Every genuine comparison of the probes with the gallery, and impostor ones up to the limit; none twice."""
    ids, enrolled = probes["pair_id"].to_numpy(str), gallery["pair_id"].to_numpy(str)
    who = pd.factorize(pd.concat([probes["subject_id"], gallery["subject_id"]]))[0]
    who_a, who_b = who[: len(ids)], who[len(ids) :]
    if np.array_equal(ids, enrolled):
        a, b = np.triu_indices(len(ids), 1)
        genuine = who_a[a] == who_a[b]
        other = np.stack(impostor_indices(who_a, MOST_IMPOSTORS, 0)) if len(ids) > 1 else np.zeros((2, 0), int)
        mated = pd.Series(who_a).duplicated(keep=False).to_numpy()
    else:
        a, b = np.nonzero(who_a[:, None] == who_b) if len(ids) and len(enrolled) else np.zeros((2, 0), int)
        genuine = np.ones(len(a), bool)
        other = _impostors_across(who_a, who_b)
        mated = np.isin(who_a, who_b)
    a, b = np.r_[a[genuine], other[0]].astype(int), np.r_[b[genuine], other[1]].astype(int)
    same = np.repeat(["1", "0"], [genuine.sum(), len(other[0])])
    cells = {"pair_id_a": ids[a], "pair_id_b": enrolled[b], "same": same, "protocol": protocol, "part": part}
    pairs = pd.DataFrame(cells, columns=COLUMNS, dtype=str)
    return TrialList(protocol, part, pairs, ids, enrolled, int((~mated).sum()))


def _impostors_across(who_a: np.ndarray, who_b: np.ndarray) -> np.ndarray:
    """(2, T) the rows of impostor comparisons of probes with a gallery: all, or MOST_IMPOSTORS drawn at random."""
    n = len(who_a) * len(who_b)
    if n <= 4 * MOST_IMPOSTORS:
        flat = np.arange(n)
    else:  # drawn and not listed, because 10,000 probes of a gallery of 10,000 make 1e8
        flat = np.unique(np.random.default_rng(n).integers(0, n, 4 * MOST_IMPOSTORS))
    a, b = np.divmod(flat, max(1, len(who_b)))
    flat = flat[who_a[a] != who_b[b]]
    if len(flat) > MOST_IMPOSTORS:
        flat = np.sort(np.random.default_rng([n, 1]).permutation(flat)[:MOST_IMPOSTORS])
    return np.stack(np.divmod(flat, max(1, len(who_b))))


def _unseen(table: pd.DataFrame, people: str) -> pd.DataFrame:
    return table[table["people"] == people]


def _marked(pair_ids: Sequence[str] | np.ndarray | pd.Series, seen: str) -> list[str]:
    return [f"{pair_id} ({seen})" for pair_id in pair_ids]
