"""Who trains and who is tested: the closed-set split of the legacy project and, beside it, the open-set protocol.

People are split first, by the rules of `shares`. The pictures of *train* people make the closed set (train, eval
and test pictures of the same people). *Dev* and *test* people are never seen in training: thresholds are chosen on
dev people, and rates are reported on test people. Some dev and test people are enrolled (gallery) and probed with
their other pictures (probe); the others are never enrolled (unknown).

Every input pair is in exactly one of train, eval, test, gallery, probe, unknown and dirty. A table may be empty
when there are few people; `unmeasured` then says what cannot be measured and why.

**Sessions** (from manifest.csv). A person with two known sessions or more is enrolled with the pictures of the first
session and probed with all others; only comparisons of pictures from two different known sessions are genuine pairs
of that person. A person with one known session, or none, is enrolled with half of the pictures. A picture whose
session is not known belongs to no session.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass, fields
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd

from ..base.errors import UserError
from ..base.paths import inside
from ..base.tables import read_table, write_table
from .copies import COPIED, REASONS, mark_copies
from .manifest import Manifest, session_keys
from .pairs import NO_SHOT
from .shares import deal, divide, enrolled_and_unknown, exact_ratios, hashed_order, people_counts

FIRST_COLUMNS = ["rgb_image_path", "dep_image_path", "cls_name"]  # as in the legacy project, for its loaders
COLUMNS = [*FIRST_COLUMNS, "pair_id", "session", "condition", "sha256"]
DEPTH_HASH = "depth_sha256"  # a further column of all tables; missing in tables of other programs
PAIR_COLUMNS = ["pair_id_a", "pair_id_b", "same", "group"]
SET_ASIDE = (*NO_SHOT, *REASONS, "ambiguous_name", "too_few_images")  # reasons that are no failure to acquire
CLOSED, OPENED = ("train", "eval", "test"), ("gallery", "probe", "unknown")


@dataclass(frozen=True)
class SplitSettings:
    """How people and images are split. Ratios are exact fractions given as text or numbers; each triple sums to 1."""

    train_eval_test: tuple[float | str, ...] = ("0.7", "0.2", "0.1")  # of the images of each person of the closed set
    train_dev_test_people: tuple[float | str, ...] = (
        "0.6",
        "0.15",
        "0.25",
    )  # of the people; ("1", "0", "0") is the legacy split
    unknown_people: str = "0.3"  # share of the dev people and of the test people who are never enrolled
    min_images: int = 3  # a person with fewer usable images is set aside
    max_impostor_pairs: int = 20_000  # in each group; drawn at random if there are more
    seed: int = 0


@dataclass(frozen=True)
class Splits:
    """Tables of text: closed set (train, eval, test), set aside (dirty), open set (gallery, probe, unknown, pairs)."""

    train: pd.DataFrame
    eval: pd.DataFrame
    test: pd.DataFrame
    dirty: pd.DataFrame  # COLUMNS + role of the person (train, dev, test; "": no person) + reason
    gallery: pd.DataFrame  # COLUMNS + group (dev, test); also probe and unknown
    probe: pd.DataFrame
    unknown: pd.DataFrame
    pairs: pd.DataFrame  # PAIR_COLUMNS: every genuine pair, impostor pairs up to the limit


def reasons(table: pd.DataFrame, min_images: int) -> pd.Series:
    """Why each row of `table` is set aside ("": it is usable): its failure, an exact copy, or too few images."""
    failed = table["status"].where(table["status"] != "ok", "").astype(object)
    reason = mark_copies(table, failed)
    usable = table[reason == ""]
    counts = usable.groupby("subject_id")["pair_id"].transform("size")
    reason[usable.index[counts < min_images]] = "too_few_images"
    return reason


def make_splits(table: pd.DataFrame, settings: SplitSettings) -> Splits:
    """Split the rows of `table`, which has COLUMNS, subject_id, status and rgb_sha256, and a row for every input pair.

    Copies of depth maps are set aside too, if the table has depth_map_sha256. Raises UserError where the settings
    are no ratios.
    """
    table = table.sort_values("pair_id", ignore_index=True)
    table = table.assign(**{column: "" for column in COPIED if column not in table})
    table = table.assign(reason=reasons(table, settings.min_images), **{DEPTH_HASH: table["depth_map_sha256"]})
    table["role"] = table["subject_id"].map(_roles(table, settings)).fillna("")  # "": no person
    clean, dirty = table[table["reason"] == ""], table[table["reason"] != ""]
    order = session_keys(set(table["session"]) - {""})
    placed = _closed_set(clean, settings) | _open_set(clean, settings, order)

    def rows_of(name: str) -> pd.DataFrame:
        rows = clean[clean["pair_id"].isin(placed[name])].rename(columns={"role": "group"})
        return rows[[*COLUMNS, DEPTH_HASH, *(["group"] if name in OPENED else [])]].reset_index(drop=True)

    pairs = [verification_pairs(clean[clean["role"] == group], group, settings) for group in ("dev", "test")]
    splits = Splits(
        **{name: rows_of(name) for name in CLOSED + OPENED},
        dirty=dirty[[*COLUMNS, DEPTH_HASH, "role", "reason"]].reset_index(drop=True),
        pairs=pd.concat(pairs, ignore_index=True),
    )
    check_splits(splits, len(table))
    return splits


def _roles(table: pd.DataFrame, settings: SplitSettings) -> dict[str, str]:
    """train, dev or test for each person of `table`.

    People without a usable picture are split separately: they count as failures to acquire of their part, and must
    not take the place of people who can be tested.
    """
    usable = set(table.loc[table["reason"] == "", "subject_id"])
    shares = exact_ratios(settings.train_dev_test_people)
    useless = set(table.loc[~table["status"].isin(NO_SHOT), "subject_id"]) - usable
    parts = deal(usable, people_counts(len(usable), shares), settings.seed, "people")
    others = divide(useless, settings.train_dev_test_people, settings.seed, "people")
    return {
        person: role
        for role, both in zip(("train", "dev", "test"), zip(parts, others, strict=True), strict=True)
        for names in both
        for person in names
    }


def _closed_set(clean: pd.DataFrame, settings: SplitSettings) -> dict[str, list[str]]:
    """train, eval, test -> pair_ids of the people who train."""
    closed: dict[str, list[str]] = {name: [] for name in CLOSED}
    for _, rows in clean[clean["role"] == "train"].groupby("subject_id"):
        parts = divide(rows["pair_id"], settings.train_eval_test, settings.seed, "images")
        for name, ids in zip(CLOSED, parts, strict=True):
            closed[name] += ids
    return closed


def _open_set(clean: pd.DataFrame, settings: SplitSettings, order: dict[str, tuple]) -> dict[str, list[str]]:
    """gallery, probe, unknown -> pair_ids of the dev and test people; `order`: sort keys of the sessions."""
    opened: dict[str, list[str]] = {name: [] for name in OPENED}
    share = _unknown_share(settings)
    for group in ("dev", "test"):
        people = clean[clean["role"] == group]
        names = list(people["subject_id"].unique())
        _, unknown = deal(names, enrolled_and_unknown(len(names), share), settings.seed, "unknown")
        for subject, rows in people.groupby("subject_id"):
            if subject in unknown:
                opened["unknown"] += list(rows["pair_id"])
            else:
                enrolled = enrol_rows(rows, settings.seed, order)
                opened["gallery"] += enrolled
                opened["probe"] += sorted(set(rows["pair_id"]) - set(enrolled))
    return opened


def _unknown_share(settings: SplitSettings) -> Fraction:
    """The share of dev and test people who are never enrolled; UserError unless it is from 0 to 1."""
    try:
        share = Fraction(str(settings.unknown_people))
    except (ValueError, ZeroDivisionError):
        share = Fraction(-1)
    if not 0 <= share <= 1:
        raise UserError(f"unknown_people {settings.unknown_people!r}: must be a share from 0 to 1, such as 0.3")
    return share


def enrol_rows(rows: pd.DataFrame, seed: int, order: dict[str, tuple]) -> list[str]:
    """The pair_ids with which one person is enrolled: those of the first session, else half the images.

    `order` is the sort key of each session, from `manifest.session_keys`.
    """
    sessions = sorted(set(rows["session"]) - {""}, key=order.__getitem__)
    if len(sessions) > 1:
        return list(rows.loc[rows["session"] == sessions[0], "pair_id"])
    return hashed_order(rows["pair_id"], seed, "enrol")[: max(1, len(rows) // 2)]


def verification_pairs(people: pd.DataFrame, group: str, settings: SplitSettings) -> pd.DataFrame:
    """Pairs of images to compare (PAIR_COLUMNS): every genuine pair, and impostor pairs up to the limit.

    Genuine pairs of a person with two known sessions or more are of two different known sessions; those of other
    people are any two pictures. `people`: the clean rows of one group.
    """
    ids = people["pair_id"].to_numpy(dtype=object)
    subject = pd.factorize(people["subject_id"])[0]
    known = people["session"].where(people["session"] != "")
    session = pd.factorize(known)[0]  # -1 = not known
    several = known.groupby(people["subject_id"]).transform("nunique").to_numpy() > 1
    a: list[int] = []
    b: list[int] = []
    for code in np.unique(subject):
        of_one = np.flatnonzero(subject == code)
        i, j = (of_one[k] for k in np.triu_indices(len(of_one), 1))
        keep = ~several[i] | ((session[i] != session[j]) & (np.minimum(session[i], session[j]) >= 0))
        a, b = [*a, *i[keep]], [*b, *j[keep]]
    genuine = len(a)
    i, j = impostor_indices(subject, settings.max_impostor_pairs, settings.seed)
    return pd.DataFrame(
        {
            "pair_id_a": ids[np.r_[a, i].astype(int)],
            "pair_id_b": ids[np.r_[b, j].astype(int)],
            "same": ["1"] * genuine + ["0"] * len(i),
            "group": group,
        },
        columns=PAIR_COLUMNS,
        dtype=str,
    )


def impostor_indices(subject: np.ndarray, most: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Index pairs i < j of different people, each once: all of them, or `most` that are drawn at random.

    `subject` is (N,) int, the person of each picture.
    """
    n = len(subject)
    if n * (n - 1) // 2 <= 4 * most:
        i, j = np.triu_indices(n, 1)
    else:  # drawn and not listed, because 100,000 images have 5e9 pairs
        drawn = np.random.default_rng([seed, n]).integers(0, n, (8 * most, 2))
        i, j = np.unique(np.sort(drawn[drawn[:, 0] != drawn[:, 1]], axis=1), axis=0).T
    different = subject[i] != subject[j]
    i, j = i[different], j[different]
    if len(i) > most:
        keep = np.sort(np.random.default_rng([seed, n, 1]).permutation(len(i))[:most])
        i, j = i[keep], j[keep]
    return i, j


def check_splits(splits: Splits, n_rows: int | None = None) -> None:
    """Raise UserError where an image, an exact copy of it, or a person is in two parts that must be disjoint.

    `n_rows`: the number of input pairs; AssertionError unless each of them is in one part.
    """
    closed = {name: getattr(splits, name) for name in CLOSED}
    opened = {name: getattr(splits, name) for name in OPENED}
    kept = pd.concat({**closed, **opened}, names=["split"]).reset_index("split")
    for column, what in (
        ("pair_id", "image"),
        ("sha256", "picture (exact copies)"),
        (DEPTH_HASH, "depth map (exact copies)"),
    ):
        # tables from other programs may hold no hashes; copies cannot be found then
        double = kept[kept.duplicated(column, keep=False) & (kept[column] != "")]
        if len(double):
            where = double.sort_values(column).head(2)
            raise UserError(
                f"one {what} is in two places: {list(where['pair_id'])} in {list(where['split'])}; run the split again"
            )
    trained = set(pd.concat(closed.values())["cls_name"])
    unseen = pd.concat(opened.values())
    dev, test = (set(unseen.loc[unseen["group"] == group, "cls_name"]) for group in ("dev", "test"))
    enrolled = set(splits.gallery["cls_name"])
    walls = {
        "trained and unseen": (trained, set(unseen["cls_name"])),
        "enrolled and unknown": (enrolled, set(splits.unknown["cls_name"])),
        "tuned on and reported on": (dev, test),
    }
    for wall, (left, right) in walls.items():
        if left & right:
            raise UserError(f"{first_names(left & right)}: among the people {wall}: run the split again")
    if missing := set(splits.probe["cls_name"]) - enrolled:
        raise UserError(f"{first_names(missing)}: probed but not enrolled: run the split again")
    if missing := (set(splits.eval["cls_name"]) | set(splits.test["cls_name"])) - set(splits.train["cls_name"]):
        raise UserError(f"{first_names(missing)}: tested in the closed set but not trained: run the split again")
    if n_rows is not None and len(kept) + len(splits.dirty) != n_rows:
        raise AssertionError(f"{len(kept)} + {len(splits.dirty)} rows for {n_rows} inputs")


def first_names(names: Iterable[str]) -> str:
    """The first five of `names` in order, each once, and how many more there are."""
    ordered = sorted({str(name) for name in names})
    return ", ".join(ordered[:5]) + (f" and {len(ordered) - 5} more" if len(ordered) > 5 else "")


def failures_to_acquire(dirty: pd.DataFrame, role: str) -> int:
    """The number of `lost_pairs`."""
    return len(lost_pairs(dirty, role))


def lost_pairs(dirty: pd.DataFrame, role: str) -> list[str]:
    """The pair_ids of people with this role (train, dev, test) that cannot be used.

    Copies, people with too few images and entries that show nobody (SET_ASIDE) are not among them.
    """
    return dirty.loc[(dirty["role"] == role) & ~dirty["reason"].isin(SET_ASIDE), "pair_id"].tolist()


def split_folder(
    aligned: Path, folder: Path, settings: SplitSettings, manifest: Manifest | None = None, raw: Path | None = None
) -> Splits:
    """`splits_of` an aligned folder, written to csv files in `folder`; raises the UserErrors of both."""
    splits = splits_of(aligned, folder, settings, manifest, raw)
    write_splits(splits, folder)
    return splits


def splits_of(
    aligned: Path, folder: Path, settings: SplitSettings, manifest: Manifest | None = None, raw: Path | None = None
) -> Splits:
    """The split of an aligned folder (its alignment.csv); paths in it are relative to `folder`. Nothing is written.

    `manifest`: the sessions and conditions, from `manifest.read_manifest`. `raw`: the folder of raw pairs, to
    name the pictures that could not be aligned. Raises UserError where alignment.csv cannot be used.
    """
    path = aligned / "alignment.csv"
    table = read_table(path, ["pair_id", "subject_id", "status", "rgb_sha256", "rgb_path", "depth_path"])
    table = table.assign(cls_name=table["subject_id"], sha256=table["rgb_sha256"])
    for name in ("session", "condition"):
        known = dict(zip(manifest.rows["pair_id"], manifest.rows[name], strict=True)) if manifest else {}
        table[name] = [known.get(pair_id, "") for pair_id in table["pair_id"]]
    ok = table["status"] == "ok"
    for column, suffix, source in (("rgb_image_path", ".png", "rgb_path"), ("dep_image_path", ".npy", "depth_path")):
        here = [os.path.relpath(aligned / f"{pair_id}{suffix}", folder) for pair_id in table["pair_id"]]
        there = [os.path.relpath(Path(raw) / path, folder) if raw and path else "" for path in table[source]]
        table[column] = np.where(ok, here, there)
    return make_splits(table, settings)


def write_splits(splits: Splits, folder: Path) -> None:
    """Write each table of a split to a csv file in `folder`; UserError where a file has the folder's name."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: a file of that name is there: choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    for field in fields(splits):
        write_table(folder / f"{field.name}.csv", getattr(splits, field.name))


def read_splits(folder: Path) -> Splits:
    """The tables that `split_folder` wrote, checked again.

    Raises UserError where one is missing, or was altered so that parts that must be disjoint share a person.
    """
    extra = {"dirty": ["role", "reason"], **{name: ["group"] for name in OPENED}}
    tables = {}
    for field in fields(Splits):
        needed = PAIR_COLUMNS if field.name == "pairs" else [*COLUMNS, *extra.get(field.name, [])]
        tables[field.name] = read_table(folder / f"{field.name}.csv", needed)
        if field.name != "pairs" and DEPTH_HASH not in tables[field.name]:  # from another program
            tables[field.name][DEPTH_HASH] = ""
    splits = Splits(**tables)
    check_splits(splits)
    return splits


def paths_of(csv: Path, root: Path) -> list[tuple[Path, Path]]:
    """(rgb, depth) paths of every row of a split csv, as a loader of the legacy project finds them.

    Raises UserError with the line number where a path leaves `root` or its file is not there.
    """
    found = []
    for number, row in enumerate(read_table(csv, FIRST_COLUMNS).itertuples(), start=2):
        both = []
        for text in (row.rgb_image_path, row.dep_image_path):
            path = inside(root, text, base=csv.parent, where=f"{csv.name} line {number}")
            if not path.is_file():
                raise UserError(f"{csv.name} line {number}: {text} is not there; align again or correct the line")
            both.append(path)
        found.append((both[0], both[1]))
    return found
