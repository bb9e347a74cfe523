"""A pack of six people with four pictures each, made in a moment: noise in colour, a bump in depth."""

from pathlib import Path

import numpy as np
import pandas as pd

from face3d_lib.base.atomic import sha256_of, write_json
from face3d_lib.base.tables import write_table
from face3d_lib.data.pack import COLUMNS, encode_codes
from face3d_lib.data.warp import AlignSettings

PEOPLE = [f"p{person}" for person in range(6) for _ in range(4)]
PAIR_IDS = [f"{who}/{number % 4}" for number, who in enumerate(PEOPLE)]


def make_toy_pack(folder: Path, size: int = 32) -> Path:
    """The folder of a pack; its last pair has no depth reading."""
    rng = np.random.default_rng(0)
    rows, codes = [], []
    y, x = np.mgrid[:size, :size] / size - 0.5
    for pair_id, who in zip(PAIR_IDS, PEOPLE, strict=True):
        depth = (600 + 300 * (x**2 + y**2) + rng.normal(size=(size, size))).astype(np.float32)
        depth[:2] = 0
        if pair_id == PAIR_IDS[-1]:
            depth[:] = 0
        found, near, step, saturated = encode_codes(depth)
        codes.append(found)
        rows.append([pair_id, who, near, step, 2.0, saturated])
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "rgb.npy", rng.integers(0, 255, (len(rows), size, size, 3), dtype=np.uint8))
    np.save(folder / "depth.npy", np.stack(codes))
    write_table(folder / "index.csv", pd.DataFrame(rows, columns=COLUMNS))
    source = {"settings_hash": AlignSettings().hash(), "alignment": vars(AlignSettings()), "depth_unit": "mm"}
    sha256 = {name: sha256_of(folder / name) for name in ("rgb.npy", "depth.npy", "index.csv")}
    counts = {"pairs": len(rows), "subjects": 6, "size": [size, size], "saturated_readings": 0}
    write_json(folder / "pack.json", {**counts, "source": source, "sha256": sha256})
    return folder
