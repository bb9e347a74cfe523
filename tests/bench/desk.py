"""How long the application of notebook 50 takes for a pair of 640 x 480 pixels, step by step.

    python tests/bench/desk.py

Each of 24 pairs is a synthetic face in the middle of an empty picture of that size, and is looked at after the first has loaded
everything. The recogniser is "pretrained", and ten people are enrolled. Printed are medians and the least in milliseconds; on a machine
with other work the least is nearer to what the steps themselves take.
"""

import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from face3d_lib.data.convention import DepthConvention
from face3d_lib.data.pairs import find_pairs
from face3d_lib.serve import People
from face3d_lib.serve.desk import Desk
from face3d_lib.synthetic import dataset

WIDTH, HEIGHT, SIDE = 640, 480, 400


def enlarge(files) -> None:
    """Put the face of a pair, SIDE px wide, into an empty picture of WIDTH x HEIGHT px."""
    x, y = (WIDTH - SIDE) // 2, (HEIGHT - SIDE) // 2
    picture = Image.new("RGB", (WIDTH, HEIGHT), (120, 120, 120))
    picture.paste(Image.open(files.rgb_path).resize((SIDE, SIDE)), (x, y))
    depth, raw = np.zeros((HEIGHT, WIDTH), np.float32), np.load(files.depth_path, allow_pickle=False)
    rows = np.arange(SIDE) * len(raw) // SIDE, np.arange(SIDE) * raw.shape[1] // SIDE
    depth[y : y + SIDE, x : x + SIDE] = raw[np.ix_(*rows)]
    picture.save(files.rgb_path)
    np.save(files.depth_path, depth)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        dataset.make_dataset(Path(folder, "raw"), 12, 1, seed=5, workers=1)
        files = find_pairs(Path(folder, "raw"))
        for row in files:
            enlarge(row)
        desk = Desk(People.open(Path(folder, "people")), files, DepthConvention("mm", "farther"))
        names = [row.pair_id for row in files]
        for pair_id in names[::2][:10]:
            desk.pick(pair_id)
            desk.enrol(pair_id.partition("/")[0], anyway=True)
        taken = [desk.pick(pair_id).milliseconds for pair_id in names]
    table = {step: np.array([each[step] for each in taken]) for step in taken[0]}
    table["all"] = sum(table.values())
    print(f"{len(taken)} pairs of {WIDTH} x {HEIGHT}, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}")
    for step, values in table.items():
        print(f"{step:<8} {np.median(values):7.1f} ms   least {values.min():7.1f} ms")


if __name__ == "__main__":
    main()
