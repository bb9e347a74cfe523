"""Who trains and who is tested: the closed-set split of 2019 and, beside it, the open-set protocol.

People are divided first: `train` people make the closed set (their images divide into train / eval / test), `dev` and
`test` people are never seen in training; thresholds are chosen on `dev` and reported on `test`. Every choice is a hash
of (seed, name), so it depends neither on the order of the file system nor on the machine, and an image added to one
person moves nobody else's.
"""

import hashlib
import os
from dataclasses import dataclass, fields
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from ..base.errors import UserError
from ..base.paths import inside
from ..base.tables import read_table, write_table
from .decoding import read_rgb
from .pairs import find_pairs

FIRST_COLUMNS = ["rgb_image_path", "dep_image_path", "cls_name"]  # as in 2019, so that other loaders read the files
COLUMNS = [*FIRST_COLUMNS, "pair_id", "session", "condition", "sha256"]
PAIR_COLUMNS = ["pair_id_a", "pair_id_b", "same", "group"]


@dataclass(frozen=True)
class SplitSettings:
    """How people and images divide. Ratios are exact fractions written as text or numbers; each triple sums to 1."""

    train_eval_test: tuple = ("0.7", "0.2", "0.1")  # of the images of each person of the closed set
    train_dev_test_people: tuple = ("0.6", "0.15", "0.25")  # of the people; ("1", "0", "0") is the 2019 split
    unknown_people: str = "0.3"  # of the dev and of the test people: never enrolled
    min_images: int = 3  # a person with fewer usable images is set aside
    max_impostor_pairs: int = 20_000  # per group; drawn at random where there are more
    seed: int = 0


@dataclass(frozen=True)
class Splits:
    """Tables of text: closed set (train, eval, test), set aside (dirty), open set (gallery, probe, unknown, pairs)."""

    train: pd.DataFrame
    eval: pd.DataFrame
    test: pd.DataFrame
    dirty: pd.DataFrame  # COLUMNS + role of the person (train, dev, test) + reason
    gallery: pd.DataFrame  # COLUMNS + group (dev, test), as probe and unknown
    probe: pd.DataFrame
    unknown: pd.DataFrame
    pairs: pd.DataFrame  # PAIR_COLUMNS: every genuine pair, impostor pairs up to the limit


def exact_ratios(ratios) -> list[Fraction]:
    """The ratios as exact fractions. Floats are read by their decimal text: .7 + .2 + .1 is 1 here, .9999 in binary."""
    try:
        exact = [Fraction(str(ratio)) for ratio in ratios]
    except (ValueError, ZeroDivisionError):
        raise UserError(f"ratios {list(ratios)}: each must be a number such as 0.7") from None
    if sum(exact) != 1 or min(exact) < 0:
        raise UserError(
            f"ratios {list(ratios)}: each must be 0 or more and their sum exactly 1, not {float(sum(exact))}"
        )
    return exact


def apportion(count: int, ratios: list[Fraction], least: int = 1) -> list[int]:
    """`count` things divided by `ratios` in integers (largest remainder; ties to the earlier part).

    Where there are things enough, each part with a ratio above 0 gets at least `least`, taken from the largest part: no
    person falls whole into test, and none is tested that was not trained.
    """
    quotas = [count * ratio for ratio in ratios]
    parts = [int(quota) for quota in quotas]
    by_remainder = sorted(range(len(parts)), key=lambda k: (parts[k] - quotas[k], k))
    for k in by_remainder[: count - sum(parts)]:
        parts[k] += 1
    wanted = [k for k, ratio in enumerate(ratios) if ratio > 0]
    if count >= len(wanted):
        for k in wanted:
            while parts[k] < min(least, count // len(wanted)):
                parts[max(wanted, key=lambda j: (parts[j], -j))] -= 1
                parts[k] += 1
    elif wanted and parts[wanted[0]] == 0 and count:
        parts[parts.index(max(parts))] -= 1
        parts[wanted[0]] = 1
    return parts


def hashed_order(names, seed: int, purpose: str) -> list[str]:
    """`names` in an order that is random, and the same for the same seed and purpose on every machine."""
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}\0{purpose}\0{name}".encode()).digest())


def divide(names, ratios, seed: int, purpose: str, least: int = 1) -> list[list[str]]:
    """`names` divided into one list for each ratio, by hashed order and exact integer counts."""
    ordered = hashed_order(names, seed, purpose)
    ends = np.cumsum(apportion(len(ordered), exact_ratios(ratios), least))
    return [ordered[end - size : end] for end, size in zip(ends, np.diff(ends, prepend=0), strict=True)]


def reasons(alignment: pd.DataFrame, min_images: int) -> pd.Series:
    """Why each row of alignment.csv is set aside ('' = usable): its failure, an exact duplicate, or too few images."""
    reason = alignment["status"].where(alignment["status"] != "ok", "").astype(object)
    usable = alignment[reason == ""]
    for _, same in usable.groupby("rgb_sha256", sort=False):
        if len(same) < 2:
            continue
        if same["subject_id"].nunique() > 1:  # whose face is it? nobody can say: all of them go
            reason[same.index] = "duplicate_of_other_subject"
        else:
            reason[same.sort_values("pair_id").index[1:]] = "duplicate"
    usable = alignment[reason == ""]
    counts = usable.groupby("subject_id")["pair_id"].transform("size")
    reason[usable.index[counts < min_images]] = "too_few_images"
    return reason


def make_splits(table: pd.DataFrame, settings: SplitSettings) -> Splits:
    """Divide the rows of `table` (COLUMNS + subject_id, status, rgb_sha256; one row for every input pair)."""
    table = table.sort_values("pair_id", ignore_index=True)
    table = table.assign(reason=reasons(table, settings.min_images))
    usable = set(table.loc[table["reason"] == "", "subject_id"])
    roles = {".": ""}  # pictures that lie beside the people's folders belong to nobody
    # people without a usable picture are divided apart: they count as failures, and must not thin out a part
    for people in (usable, set(table["subject_id"]) - usable - {"."}):
        parts = divide(people, settings.train_dev_test_people, settings.seed, "people", least=2)
        for role, names in zip(("train", "dev", "test"), parts, strict=True):
            roles |= dict.fromkeys(names, role)
    table = table.assign(role=table["subject_id"].map(roles))
    clean, dirty = table[table["reason"] == ""], table[table["reason"] != ""]

    closed = {"train": [], "eval": [], "test": []}
    for _, rows in clean[clean["role"] == "train"].groupby("subject_id"):
        for name, ids in zip(
            closed, divide(rows["pair_id"], settings.train_eval_test, settings.seed, "images"), strict=True
        ):
            closed[name] += ids
    opened = {"gallery": [], "probe": [], "unknown": []}
    for group in ("dev", "test"):
        people = clean[clean["role"] == group]
        unknown_share = Fraction(str(settings.unknown_people))
        _, unknown = divide(people["subject_id"].unique(), (1 - unknown_share, unknown_share), settings.seed, "unknown")
        for subject, rows in people.groupby("subject_id"):
            if subject in unknown:
                opened["unknown"] += list(rows["pair_id"])
            else:
                enrolled = enrol_rows(rows, settings.seed)
                opened["gallery"] += enrolled
                opened["probe"] += sorted(set(rows["pair_id"]) - set(enrolled))

    def rows_of(ids, *extra):
        return (
            clean[clean["pair_id"].isin(ids)]
            .rename(columns={"role": "group"})[[*COLUMNS, *extra]]
            .reset_index(drop=True)
        )

    splits = Splits(
        **{name: rows_of(ids) for name, ids in closed.items()},
        dirty=dirty[[*COLUMNS, "role", "reason"]].reset_index(drop=True),
        **{name: rows_of(ids, "group") for name, ids in opened.items()},
        pairs=pd.concat(
            [verification_pairs(clean[clean["role"] == group], group, settings) for group in ("dev", "test")],
            ignore_index=True,
        ),
    )
    check_splits(splits, len(table))
    return splits


def enrol_rows(rows: pd.DataFrame, seed: int) -> list[str]:
    """The pair_ids of one person that are enrolled: the first session where sessions are known, else half the images."""
    sessions = sorted(set(rows["session"]))
    if len(sessions) > 1:
        return list(rows.loc[rows["session"] == sessions[0], "pair_id"])
    return hashed_order(rows["pair_id"], seed, "enrol")[: max(1, len(rows) // 2)]


def verification_pairs(people: pd.DataFrame, group: str, settings: SplitSettings) -> pd.DataFrame:
    """Pairs of images to compare: same person in different sessions (any two where there is one), and different people."""
    ids = people["pair_id"].to_numpy(dtype=object)
    subject, session = (pd.factorize(people[name])[0] for name in ("subject_id", "session"))
    several = people.groupby("subject_id")["session"].transform("nunique").to_numpy() > 1
    a, b = [], []
    for code in np.unique(subject):
        of_one = np.flatnonzero(subject == code)
        i, j = (of_one[k] for k in np.triu_indices(len(of_one), 1))
        keep = ~several[i] | (session[i] != session[j])
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
    """Index pairs i < j of different people, each once: all of them, or `most` drawn at random."""
    n = len(subject)
    if n * (n - 1) // 2 <= 4 * most:
        i, j = np.triu_indices(n, 1)
    else:  # drawing beats listing: 100,000 images have 5e9 pairs
        drawn = np.random.default_rng([seed, n]).integers(0, n, (8 * most, 2))
        i, j = np.unique(np.sort(drawn[drawn[:, 0] != drawn[:, 1]], axis=1), axis=0).T
    different = subject[i] != subject[j]
    i, j = i[different], j[different]
    if len(i) > most:
        keep = np.sort(np.random.default_rng([seed, n, 1]).permutation(len(i))[:most])
        i, j = i[keep], j[keep]
    return i, j


def check_splits(splits: Splits, n_rows: int | None = None) -> None:
    """Raise UserError where an image, its exact copy, or a person stands on both sides of a wall."""
    closed = {name: getattr(splits, name) for name in ("train", "eval", "test")}
    opened = {name: getattr(splits, name) for name in ("gallery", "probe", "unknown")}
    kept = pd.concat({**closed, **opened}, names=["split"]).reset_index("split")
    for column, what in (("pair_id", "image"), ("sha256", "picture (exact copies)")):
        # the hash of a file is missing from tables made elsewhere: nothing can be said then
        double = kept[kept.duplicated(column, keep=False) & (kept[column] != "")]
        if len(double):
            where = double.sort_values(column).head(2)
            raise UserError(
                f"one {what} is in two places: {list(where['pair_id'])} in {list(where['split'])}; run the split again"
            )
    trained = set().union(*(set(frame["cls_name"]) for frame in closed.values()))
    unseen = set().union(*(set(frame["cls_name"]) for frame in opened.values()))
    enrolled = set(splits.gallery["cls_name"])
    for wall, left, right in (
        ("trained and unseen", trained, unseen),
        ("enrolled and unknown", enrolled, set(splits.unknown["cls_name"])),
        (
            "tuned on and reported on",
            *(
                {person for frame in opened.values() for person in frame.loc[frame["group"] == group, "cls_name"]}
                for group in ("dev", "test")
            ),
        ),
    ):
        if left & right:
            raise UserError(f"{sorted(left & right)[0]} is among the people {wall}: run the split again")
    if missing := set(splits.probe["cls_name"]) - enrolled:
        raise UserError(f"{sorted(missing)[0]} is probed but not enrolled: run the split again")
    if missing := (set(splits.eval["cls_name"]) | set(splits.test["cls_name"])) - set(splits.train["cls_name"]):
        raise UserError(f"{sorted(missing)[0]} is tested in the closed set but not trained: run the split again")
    if n_rows is not None and len(kept) + len(splits.dirty) != n_rows:
        raise AssertionError(f"{len(kept)} + {len(splits.dirty)} rows for {n_rows} inputs")


def require_people(splits: Splits) -> None:
    """Raise UserError unless the open-set notebooks have somebody to work with: two who train, two in dev, two in test."""
    opened = pd.concat([splits.gallery, splits.probe, splits.unknown])
    found = {"train": splits.train["cls_name"].nunique()}
    found |= {group: opened.loc[opened["group"] == group, "cls_name"].nunique() for group in ("dev", "test")}
    if min(found.values()) < 2:
        counted = ", ".join(f"{role} {count}" for role, count in found.items())
        raise UserError(
            f"too few people with enough usable pictures (people: {counted}; at least 2 of each are needed): "
            "add people or pictures, or lower min_images"
        )


def split_folder(
    aligned: Path, folder: Path, settings: SplitSettings, metadata: pd.DataFrame | None = None, raw: Path | None = None
) -> Splits:
    """Split the aligned folder (its alignment.csv) into csv files in `folder`; paths in them are relative to `folder`.

    `metadata`: pair_id with `session` and `condition` where known. `raw`: the folder that was aligned, to name the
    pictures that could not be.
    """
    alignment = read_table(
        aligned / "alignment.csv", ["pair_id", "subject_id", "status", "rgb_sha256", "rgb_path", "depth_path"]
    )
    table = alignment.assign(cls_name=alignment["subject_id"], sha256=alignment["rgb_sha256"])
    known = {} if metadata is None else metadata.set_index("pair_id").to_dict("index")
    for name in ("session", "condition"):
        table[name] = [known.get(pair_id, {}).get(name, "") for pair_id in table["pair_id"]]
    ok = table["status"] == "ok"
    for column, suffix, source in (("rgb_image_path", ".png", "rgb_path"), ("dep_image_path", ".npy", "depth_path")):
        here = [os.path.relpath(aligned / f"{pair_id}{suffix}", folder) for pair_id in table["pair_id"]]
        there = [os.path.relpath(Path(raw) / path, folder) if raw and path else "" for path in table[source]]
        table[column] = np.where(ok, here, there)
    splits = make_splits(table, settings)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: a file of that name is there: choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    for field in fields(splits):
        write_table(folder / f"{field.name}.csv", getattr(splits, field.name))
    return splits


def read_metadata(raw: Path) -> pd.DataFrame | None:
    """pair_id, session and condition (the pose) from the data set's own manifest.csv; None where it has none."""
    if not (raw / "manifest.csv").is_file():
        return None
    table = read_table(raw / "manifest.csv", ["pair_id", "session"])
    return table.assign(condition=table.get("pose", ""))[["pair_id", "session", "condition"]]


def read_splits(folder: Path) -> Splits:
    """The tables that `split_folder` wrote, checked again. Raises UserError where one is missing or was altered badly."""
    extra = {"dirty": ["role", "reason"], "gallery": ["group"], "probe": ["group"], "unknown": ["group"]}
    tables = {
        field.name: read_table(
            folder / f"{field.name}.csv",
            PAIR_COLUMNS if field.name == "pairs" else [*COLUMNS, *extra.get(field.name, [])],
        )
        for field in fields(Splits)
    }
    splits = Splits(**tables)
    check_splits(splits)
    return splits


def paths_of(csv: Path, root: Path) -> list[tuple[Path, Path]]:
    """(rgb, depth) paths of every row of a split csv; UserError naming the row where one leaves `root` or is not there."""
    found = []
    for number, row in enumerate(read_table(csv, FIRST_COLUMNS).itertuples(), start=2):
        pair = []
        for text in (row.rgb_image_path, row.dep_image_path):
            path = inside(root, text, base=csv.parent, where=f"{csv.name} line {number}")
            if not path.is_file():
                raise UserError(f"{csv.name} line {number}: {text} is not there; align again or correct the line")
            pair.append(path)
        found.append(tuple(pair))
    return found


def near_duplicates(root: Path, pair_ids, threshold: float = 0.995) -> pd.DataFrame:
    """Pairs of pictures that look like one saved twice, resized or mirrored: pair_id_a, pair_id_b, likeness.

    `root`: the folder that was aligned. Whole pictures are compared, not crops: MTCNN's points move by a pixel or two
    when a picture is saved again, and two crops of one picture then differ more than two pictures do. Likeness is the
    correlation of 24 x 24 grey thumbnails, mirrored or not; a list to look at, not a verdict. Raises UserError where
    `root` has no such picture.
    """
    pair_ids, files = list(pair_ids), {pair.pair_id: pair.rgb_path for pair in find_pairs(root)}
    if missing := [pair_id for pair_id in pair_ids if files.get(pair_id) is None]:
        raise UserError(f"{root}: no picture {missing[0]}: name the folder that was aligned")
    thumbs = np.zeros((len(pair_ids), 24, 24), np.float32)
    for k, pair_id in enumerate(pair_ids):
        thumbs[k] = _thumbnail(read_rgb(files[pair_id]))
    flat, mirrored = (t.reshape(len(t), 24 * 24) for t in (thumbs, thumbs[:, :, ::-1]))
    rows = []
    for start in range(0, len(flat), 2048):  # in blocks: the whole table of 403,067 pictures would be 600 GB
        block = np.maximum(flat[start : start + 2048] @ flat.T, flat[start : start + 2048] @ mirrored.T)
        for i, j in zip(*np.nonzero(block > threshold), strict=True):
            if start + i < j:
                rows.append((pair_ids[start + i], pair_ids[j], round(float(block[i, j]), 4)))
    return pd.DataFrame(rows, columns=["pair_id_a", "pair_id_b", "likeness"])


def _thumbnail(rgb: np.ndarray) -> np.ndarray:
    grey = np.asarray(Image.fromarray(rgb).convert("L").resize((24, 24), Image.Resampling.BOX), np.float32)
    grey = grey - grey.mean()
    return grey / max(np.linalg.norm(grey), 1e-6)
