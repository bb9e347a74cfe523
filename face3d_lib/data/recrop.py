"""Crops of another alignment from points that were found before: nothing is detected twice."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..base.errors import UserError
from ..base.processes import only_writer
from ..base.tables import POINTS
from .convention import DepthConvention
from .crops import align_pair
from .decoding import read_pairs
from .faces import Detection, Faces, find_faces, load_detector
from .pack import Crop, Pack, find_pack, write_pack
from .pairs import BadPair, RGBDPair, find_pairs
from .warp import AlignSettings


def cut_again(
    raw: Path, table: pd.DataFrame, settings: AlignSettings, out_dir: Path, convention: DepthConvention
) -> Pack:
    """The pack in `out_dir` of the aligned pairs of `table`, cut from the raw folder `raw` with other settings.

    table: rows of alignment.csv as text; those with the status ok are cut, in their order, at the points that they
    hold. Where they hold none (mode "none"), the face is looked for. A pair that can no longer be cut has crops of
    zeros, in which both colour and depth are missing. A complete pack of the same pairs is returned as it is. UserError
    where no pair of the table is in `raw`.
    """
    raw, out_dir, ok = Path(raw), Path(out_dir), table[table["status"] == "ok"]
    files = {pair.pair_id: pair for pair in find_pairs(raw)}
    known = [files[pair_id] for pair_id in ok["pair_id"] if pair_id in files]
    if not known:
        raise UserError(f"{raw}: holds none of the aligned pairs: align again")
    told = ok[["pair_id", "rgb_sha256", "depth_sha256", *POINTS]].to_csv(index=False)
    source = {
        "recrop_sha256": hashlib.sha256((told + json.dumps(asdict(convention))).encode()).hexdigest(),
        "settings_hash": settings.hash(),
        "alignment": asdict(settings),
        "depth_unit": "pixel" if convention.unit == "pixel" else "mm",
    }
    with only_writer(out_dir):
        if pack := find_pack(out_dir, source):
            return pack
        rows = ok[ok["pair_id"].isin(set(files))].set_index("pair_id", drop=False)
        detector = None if (rows["x1"] != "").all() else load_detector()

        def crops() -> Iterator[Crop]:
            for read, pair in read_pairs(known, convention):
                yield _crop(read.pair_id, read.subject_id, pair, rows.loc[read.pair_id], settings, detector)

        return write_pack(out_dir, source, (settings.image_size, settings.image_size), len(known), crops())


def _crop(
    pair_id: str, subject_id: str, pair: RGBDPair | None, row: pd.Series, settings: AlignSettings, detector: object
) -> Crop:
    size = settings.image_size
    measured: dict[str, Any] = {}
    try:
        if pair is not None:
            found = _found(row) if row["x1"] else find_faces([pair.rgb], detector, settings.min_face_size)[0]
            rgb, depth = align_pair(pair, found, settings, measured)
            return pair_id, subject_id, rgb, depth, measured["depth_per_px"]
    except BadPair:
        pass
    return pair_id, subject_id, np.zeros((size, size, 3), np.uint8), np.zeros((size, size), np.float32), 1.0


def _found(row: pd.Series) -> Faces:
    """The face of a row of alignment.csv."""
    points = np.array([float(row[name]) for name in POINTS]).reshape(5, 2)
    box = np.array([float(row[name]) for name in ("box_left", "box_top", "box_right", "box_bottom")])
    return Faces([Detection(box, points, float(row["probability"]))], "native")
