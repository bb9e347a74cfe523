"""Copies: pictures and depth maps that occur twice in a data set, and pictures that are nearly alike.

If copies are both in the training and in the test set, the result looks better than it is. Exact copies are therefore
set aside:

- the same picture of one person twice: the first stays, the others get the reason "duplicate";
- the same picture in two people's folders: it is unknown whose face it is, so all of them get
  "duplicate_of_other_subject";
- the same depth map with another picture of the person, as when the depth stream of a camera froze while colour
  went on: the first stays, the others get "duplicate_depth", because their depth was not measured with them;
- the same depth map in two people's folders: all of them get "depth_of_other_subject".

Pictures are compared by the bytes of their files, depth maps by their numbers once read, so that a map saved as
.npy and as .png is found, too. Names are taken in alphabetical order to say which one is first.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from ..base.errors import UserError
from .decoding import read_pictures
from .pairs import find_pairs

COPIED = {  # column that is equal in copies -> (reason within a person, reason across people)
    "rgb_sha256": ("duplicate", "duplicate_of_other_subject"),
    "depth_map_sha256": ("duplicate_depth", "depth_of_other_subject"),
}
REASONS = tuple(reason for both in COPIED.values() for reason in both)
SIDE = 24  # px of the thumbnails by which near copies are found


def mark_copies(table: pd.DataFrame, reason: pd.Series) -> pd.Series:
    """`reason` with a reason for each copy among the rows that have none ("") yet; see the top of this file.

    `table` has pair_id, subject_id and the columns of COPIED; an empty cell is equal to no other.
    """
    reason = reason.copy()
    for column, (own, other) in COPIED.items():
        usable = table[(reason == "") & (table[column] != "")].sort_values("pair_id")
        groups = usable.groupby(column)["subject_id"]
        several_people = groups.transform("nunique") > 1
        reason[usable.index[several_people]] = other
        reason[usable.index[~several_people & usable.duplicated(column)]] = own
    return reason


def near_duplicates(root: Path, pair_ids: list[str], threshold: float = 0.995) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Pictures that look like one picture saved twice, resized or mirrored, and pictures that cannot be read.

    Returns two tables: pair_id_a, pair_id_b and likeness; and pair_id and detail of the pictures that could not
    be compared. `root` is the folder that was aligned: whole pictures are compared, not crops, because MTCNN's
    points move by a pixel or two when a picture is saved again, and two crops of one picture then differ more
    than two pictures do. Likeness is the correlation of grey thumbnails of 24 x 24 px, mirrored or not. The
    pictures of the first table are suspects to look at; they are not set aside. Raises UserError where `root` has none
    of the pictures.
    """
    files = {pair.pair_id: pair.rgb_path for pair in find_pairs(root)}
    if len(pair_ids) and not any(files.get(pair_id) for pair_id in pair_ids):
        raise UserError(f"{root}: no picture {pair_ids[0]}: name the folder that was aligned")
    names, thumbs, unread = [], [np.zeros((0, SIDE, SIDE), np.float32)], []
    for pair_id, picture, problem in read_pictures({pair_id: files.get(pair_id) for pair_id in pair_ids}):
        if picture is None:
            unread.append((pair_id, problem))
        else:
            names.append(pair_id)
            thumbs.append(_thumbnail(picture)[None])
    stack = np.concatenate(thumbs)
    flat, mirrored = (t.reshape(len(t), SIDE * SIDE) for t in (stack, stack[:, :, ::-1]))
    rows = []
    for start in range(0, len(flat), 2048):  # in blocks: the whole table of 403,067 pictures would take 600 GB
        block = np.maximum(flat[start : start + 2048] @ flat.T, flat[start : start + 2048] @ mirrored.T)
        for i, j in zip(*np.nonzero(block > threshold), strict=True):
            if start + i < j:
                rows.append((names[start + i], names[j], round(float(block[i, j]), 4)))
    return (
        pd.DataFrame(rows, columns=["pair_id_a", "pair_id_b", "likeness"]),
        pd.DataFrame(unread, columns=["pair_id", "detail"]),
    )


def _thumbnail(rgb: np.ndarray) -> np.ndarray:
    """Grey (SIDE, SIDE) float32 of mean 0 and length 1; zeros of a picture of one colour."""
    grey = np.asarray(Image.fromarray(rgb).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX), np.float32)
    grey = grey - grey.mean()
    return grey / max(np.linalg.norm(grey), 1e-6)
