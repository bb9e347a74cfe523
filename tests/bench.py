"""Throughput, each against the plain way, in turn and in one run: `make bench`. No test: machines differ and are noisy.

Prints a table and writes figures/bench/throughput.json and .png.
"""

import os
import statistics
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from facenet_pytorch import MTCNN
from PIL import Image

from face3d_lib import figures, synthetic
from face3d_lib.align import AlignSettings, align_folder, find_faces, load_detector
from face3d_lib.pairs import read_rgb
from face3d_lib.paths import FIGURES

ROUNDS = 3
PEOPLE, IMAGES = 150, 10  # 3,000 pairs in two sessions: workers take seconds to start
SAMPLE = 500  # of them for what has no start to pay for


def one_at_a_time(raw: Path) -> int:
    """facenet-pytorch as its README shows it: one MTCNN, all cores, one picture after the other; detection alone."""
    detector = MTCNN()
    paths = sorted(raw.glob("*/*.png"))[:SAMPLE]
    for path in paths:
        detector.detect(Image.open(path), landmarks=True)
    return len(paths)


def in_batches(raw: Path) -> int:
    """The same detection, by our guarded function: pictures read and given to it in the chunks of an alignment."""
    detector = load_detector()
    paths = sorted(raw.glob("*/*.png"))[:SAMPLE]
    for start in range(0, len(paths), 32):
        find_faces([read_rgb(path) for path in paths[start : start + 32]], detector)
    return len(paths)


def whole_alignment(raw: Path) -> int:
    """Our alignment with everything it does: hashes, detection, both warps, files written and synced, the table."""
    with tempfile.TemporaryDirectory() as folder:
        return len(align_folder(raw, Path(folder) / "aligned", AlignSettings(), progress=False))


def synthesis(raw: Path) -> int:
    """Synthetic pairs, one process, pixels alone."""
    for image in range(60):
        synthetic.pair(0, image // 10, image % 10)
    return 60


def rate(job, raw: Path) -> float:
    start = time.perf_counter()
    return job(raw) / (time.perf_counter() - start)


def main():
    torch.set_num_threads(os.cpu_count())
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw"
        synthetic.make_dataset(raw, PEOPLE, IMAGES)
        rate(synthesis, raw)  # warm up
        jobs = {
            "MTCNN one at a time": one_at_a_time,
            "find_faces, in batches": in_batches,
            "align_folder": whole_alignment,
            "synthetic pairs, one core": synthesis,
        }
        rates = {name: [] for name in jobs}
        for _ in range(ROUNDS):
            for name, job in jobs.items():
                rates[name].append(rate(job, raw))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    for name, values in rates.items():
        print(f"{name:28s}{medians[name]:8.1f} pairs/s   (of {ROUNDS}: {min(values):.1f} to {max(values):.1f})")
    ratio = medians["align_folder"] / medians["MTCNN one at a time"]
    print(f"whole alignment is {ratio:.1f} x one-at-a-time detection on {os.cpu_count()} cores")
    ratio = medians["find_faces, in batches"] / medians["MTCNN one at a time"]
    print(f"detection alone, both in one process with all cores: {ratio:.1f} x")
    fig, ax = plt.subplots(figsize=(6.4, 2.2), layout="constrained")
    ax.barh(list(medians), list(medians.values()), color="0.4")
    ax.set(xlabel=f"pairs per second, median of {ROUNDS}, {os.cpu_count()} cores")
    ax.invert_yaxis()
    figures.save_figure(
        fig, FIGURES / "bench", "throughput", {"pairs_per_second": medians, "all": rates, "cores": os.cpu_count()}
    )


if __name__ == "__main__":
    main()
