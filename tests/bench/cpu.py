"""Speed on a CPU, job by job beside the plain way to do the same: `make bench`.

    python tests/bench/cpu.py [faces] [data] [step] [network] [rates]        all parts, or those that are named

Prints tables and writes figures/bench/<part>.json and .png. This is no test, because machines differ and are noisy.
The jobs of a part take turns in one run, so that the ratios between them hold whatever else the machine does.
"""

import os
import platform
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import face3d_lib  # noqa: F401 (before torch, whose waiting threads it keeps from spinning)

# isort: split
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from facenet_pytorch import MTCNN
from PIL import Image
from skimage.io import imread
from skimage.transform import resize
from sklearn.metrics import auc, roc_curve
from torch import nn
from torch.utils.data import DataLoader, Dataset

from face3d_lib.base.paths import FIGURES
from face3d_lib.data.alignment import align_folder
from face3d_lib.data.decoding import read_rgb
from face3d_lib.data.faces import find_faces, load_detector
from face3d_lib.data.pack import Batch, Pack, make_pack
from face3d_lib.data.warp import AlignSettings
from face3d_lib.evaluate import figures, pictures
from face3d_lib.evaluate.metrics import curves
from face3d_lib.synthetic import camera, dataset
from face3d_lib.train import fit
from face3d_lib.train.augment import Augmentation
from face3d_lib.train.batches import train_batches
from face3d_lib.train.embedder import Architecture, Embedder
from face3d_lib.train.losses import SoftmaxLoss
from face3d_lib.train.pretrained import load_pretrained
from face3d_lib.train.weights import locate

ROUNDS = 3


def measure(jobs: dict, rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Name of a job -> pairs (or images) per second in each round. The jobs take turns; a first round is not counted.

    A job returns how many pairs it worked through, or (pairs, seconds) where it measures the time itself.
    """
    rates = {name: [] for name in jobs}
    for turn in range(rounds + 1):
        for name, job in jobs.items():
            start = time.perf_counter()
            done = job()
            done, seconds = done if isinstance(done, tuple) else (done, time.perf_counter() - start)
            if turn:
                rates[name].append(done / seconds)
    return rates


def tell(part: str, rates: dict, notes: dict, unit: str) -> None:
    """Print the rates and write them to figures/bench: their medians, all rounds, and `notes`."""
    medians = {name: statistics.median(values) for name, values in rates.items()}
    for name, values in rates.items():
        print(f"{name:44s}{medians[name]:10.1f} {unit}/s   (of {len(values)}: {min(values):.1f} to {max(values):.1f})")
    for name, value in notes.items():
        print(f"  {name}: {value:.3g}" if isinstance(value, float) else f"  {name}: {value}")
    fig, ax = plt.subplots(figsize=(6.4, 0.9 + 0.4 * len(medians)), layout="constrained")
    for place, (name, values) in enumerate(rates.items()):
        ax.plot([min(values), max(values)], [place, place], color="0.4")
        ax.plot(medians[name], place, "o", color="0.1")
    low, high = min(medians.values()), max(medians.values())
    how = {"xscale": "log", "xlim": (low / 2, high * 2)} if high > 30 * low else {"xlim": (0, None)}
    ax.set(xlabel=f"{unit} per second: median, range of {len(next(iter(rates.values())))}\n{machine()}", **how)
    ax.set_yticks(range(len(medians)), medians)
    ax.set_ylim(len(medians) - 0.5, -0.5)
    numbers = {f"{unit}_per_second": medians, "all": rates, "notes": notes, "machine": machine()}
    pictures.save_figure(fig, FIGURES / "bench", part, numbers)


def machine() -> str:
    """What the numbers were measured on."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{os.cpu_count()} cores {platform.machine()}"


# ---- faces: detection, alignment, synthesis


def faces(folder: Path) -> None:
    """MTCNN picture by picture as its README shows it, against our batches; an alignment with all files; synthesis."""
    raw = folder / "raw"
    dataset.make_dataset(raw, 150, 10)  # 3,000 pairs in two sessions, because workers take seconds to start
    paths = sorted(raw.glob("*/*.png"))[:500]

    def one_at_a_time():  # detection alone, on all cores, as the README of facenet-pytorch shows it
        detector = MTCNN()
        for path in paths:
            detector.detect(Image.open(path), landmarks=True)
        return len(paths)

    def one_at_a_time_to_files():  # as the legacy project did: box, margin, crops of colour and depth, files not synced
        detector = MTCNN(select_largest=True)
        with tempfile.TemporaryDirectory() as target:
            for path in paths:
                image, depth = Image.open(path), np.load(path.with_suffix(".npy"))
                boxes, _ = detector.detect(image)
                if boxes is not None:
                    size = depth.shape[::-1]
                    left, top = (max(0, int(edge) - 22) for edge in boxes[0, :2])
                    right, low = (min(end, int(edge) + 22) for end, edge in zip(size, boxes[0, 2:], strict=True))
                    image.crop((left, top, right, low)).resize((112, 112)).save(Path(target) / path.name)
                    crop = resize(depth[top:low, left:right], (112, 112), order=0, preserve_range=True)
                    np.save(Path(target) / path.stem, crop)
        return len(paths)

    def in_batches():  # the same by `find_faces`, in the batches that an alignment uses
        detector = load_detector()
        for start in range(0, len(paths), 32):
            find_faces([read_rgb(path) for path in paths[start : start + 32]], detector)
        return len(paths)

    def whole_alignment():  # with hashes, both warps, files written and synced, and the table
        with tempfile.TemporaryDirectory() as target:
            return len(align_folder(raw, Path(target) / "aligned", AlignSettings(), progress=False))

    def synthesis():  # the pixels alone, in one process
        for image in range(60):
            camera.pair(0, image // 10, image % 10)
        return 60

    jobs = {
        "MTCNN one at a time": one_at_a_time,
        "find_faces, in batches": in_batches,
        "one at a time, to files": one_at_a_time_to_files,
        "align_folder, the whole": whole_alignment,
        "synthetic pairs, one core": synthesis,
    }
    rates = measure(jobs)
    plain, batches, files, whole, _ = (statistics.median(values) for values in rates.values())
    notes = {"detection, times": batches / plain, "whole alignment, times": whole / files}
    tell("faces", rates, notes | {"whole alignment against detection alone, times": whole / plain}, "pairs")


# ---- data: from disk to a batch


class LegacyLoader(Dataset):
    """One pair at a time, read as the legacy project (2019) read it: PNG and npy, skimage's resize, flip, float32."""

    def __init__(self, paths: list[Path], labels: np.ndarray, size: int):
        self.paths, self.labels, self.size = paths, labels, size

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, i):
        rgb = resize(imread(self.paths[i]), (self.size, self.size))
        depth = resize(np.load(self.paths[i].with_suffix(".npy")), (self.size, self.size), preserve_range=True)
        image = np.concatenate([rgb, depth[..., None]], axis=2)
        if torch.rand(()) < 0.5:
            image = image[:, ::-1]
        return torch.from_numpy(image.copy()).permute(2, 0, 1).float(), int(self.labels[i])


def aligned_pack(folder: Path) -> tuple[Pack, list[Path], np.ndarray]:
    raw, aligned = folder / "raw", folder / "aligned"
    if not raw.exists():
        dataset.make_dataset(raw, 40, 10)
    align_folder(raw, aligned, AlignSettings(), progress=False)
    pack = make_pack(aligned, folder / "pack", progress=False)
    paths = [aligned / f"{pair_id}.png" for pair_id in pack.index["pair_id"]]
    return pack, paths, pd.factorize(pack.index["subject_id"])[0].astype(np.int64)


def data(folder: Path) -> None:
    """Reading, decoding and augmenting pairs on one thread, so per core."""
    pack, paths, labels = aligned_pack(folder)
    torch.set_num_threads(1)
    rows = np.arange(len(pack))

    def legacy():
        for batch, _ in DataLoader(LegacyLoader(paths[:96], labels, 224), 16, shuffle=True):
            assert batch.shape[1:] == (4, 224, 224)
        return 96

    def packed(augmentation=None):
        for batch, _ in train_batches(pack, rows, labels, 32, 0, 0, "cpu", augmentation):
            assert batch.rgb.shape[1:] == (3, 112, 112)
        return len(rows)

    rates = measure(
        {
            "legacy loader (PNG + npy, resize to 224)": legacy,
            "pack, decoded": packed,
            "pack, decoded and augmented": lambda: packed(Augmentation()),
        }
    )
    old, new, augmented = (statistics.median(values) for values in rates.values())
    tell("data", rates, {"decoded, times": new / old, "augmented, times": augmented / old}, "pairs")
    torch.set_num_threads(os.cpu_count())


# ---- step: ResNet-50 on RGB-D


def step(folder: Path, size: int = 112, batch_size: int = 16, steps: int = 6) -> None:
    """ResNet-50 on RGB-D: `fit` against a plain loop on the same tensors, and against the legacy way from files."""
    pack, paths, labels = aligned_pack(folder)
    rows = np.arange(batch_size * steps)
    classes = int(labels.max()) + 1
    architecture = Architecture("rgbd", "resnet50", encoding="depth", fusion="early")
    settings = fit.FitSettings(epochs=1, batch_size=batch_size, lr=1e-3, save_seconds=1e9)
    where, bf16 = (rows, labels[: len(rows)]), fit.computes_bf16(on_cpu=True)

    def by_fit(settings=settings):
        network, loss = Embedder(architecture), SoftmaxLoss(128, classes)
        with tempfile.TemporaryDirectory() as target:
            history = fit.fit(
                network, loss, pack, where, (rows[:0], rows[:0]), Path(target), settings, None, "cpu", False
            )
        return len(rows), history["seconds"].sum()

    def plainly():  # the shortest correct loop, in the precision that `fit` chooses
        network, loss = Embedder(architecture), SoftmaxLoss(128, classes)
        network.to(memory_format=torch.channels_last).train()
        parameters = [*network.parameters(), *loss.parameters()]
        optimizer = torch.optim.AdamW(parameters, lr=settings.lr)
        start = time.perf_counter()
        for k in range(0, len(rows), batch_size):
            batch, target = pack.batch(rows[k : k + batch_size]), torch.from_numpy(labels[k : k + batch_size])
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                vectors = network(batch)
            loss(vectors.float(), target).backward()
            nn.utils.clip_grad_norm_(parameters, settings.clip_norm)
            optimizer.step()
            optimizer.zero_grad()
        return len(rows), time.perf_counter() - start

    def legacy():
        backbone = Embedder(architecture).branch[0].backbone
        network = nn.Sequential(backbone, nn.Linear(backbone.num_features, classes)).train()
        optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)
        start = time.perf_counter()
        for images, target in DataLoader(LegacyLoader(paths[: len(rows)], labels, size), batch_size, shuffle=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images), target).backward()
            optimizer.step()
        return len(rows), time.perf_counter() - start

    jobs = {"fit": by_fit, "plain loop, same tensors": plainly, "legacy way, from files": legacy}
    rates = measure(jobs | {"fit, float32": lambda: by_fit(replace(settings, precision="float32"))})
    pairs = zip(*rates.values(), strict=True)
    ratios = [(plain / ours - 1, ours / old, slower / old) for ours, plain, old, slower in pairs]
    overhead, times, in_float32 = (statistics.median(column) for column in zip(*ratios, strict=True))
    notes = {"overhead of fit": overhead, "fit against the legacy way, times": times, "in float32, times": in_float32}
    tell("step", rates, notes | {"size_px": size, "precision of fit": "bf16" if bf16 else "float32"}, "images")


# ---- rates: the ROC of very many scores


def rates(folder: Path) -> None:
    """ROC, AUC and EER of up to 2e7 scores, one in a hundred genuine, beside scikit-learn's `roc_curve` and `auc`."""
    rng, sizes = np.random.default_rng(0), (20_000, 200_000, 2_000_000, 20_000_000)
    seconds: dict[str, dict[str, float]] = {}
    found: dict[str, list[float]] = {}
    for kind in (np.float64, np.float32):
        ours, others = f"curves.roc, {kind.__name__}", f"roc_curve, {kind.__name__}"
        for size in sizes:
            same = np.arange(size) < size // 100
            score = (rng.normal(size=size) + 2 * same).astype(kind)
            genuine, impostor = score[same], score[~same]

            def our_rates(genuine=genuine, impostor=impostor):
                curve = curves.roc(genuine, impostor)
                return len(curve.far), curve.auc(), curve.eer()

            def other_rates(same=same, score=score):
                far, tar, _ = roc_curve(same, score)
                return auc(far, tar), np.abs(far - 1 + tar).argmin()

            assert abs(our_rates()[1] - other_rates()[0]) < 1e-12
            jobs = {ours: our_rates, others: other_rates}
            measured = measure({name: lambda job=job, n=size: job() and n for name, job in jobs.items()}, rounds=3)
            for name, values in measured.items():
                seconds.setdefault(name, {})[f"{size}"] = size / statistics.median(values)
            found |= measured  # of the most scores
    last = f"{sizes[-1]}"
    notes = {
        f"{kind}, times faster on {last} scores": seconds[f"roc_curve, {kind}"][last]
        / seconds[f"curves.roc, {kind}"][last]
        for kind in ("float64", "float32")
    }
    tell("rates", found, notes | {"seconds by number of scores": seconds}, "scores")
    fig, ax = plt.subplots(figsize=(6.4, 4.2))
    for number, (name, by_size) in enumerate(seconds.items()):
        ax.loglog(list(map(int, by_size)), list(by_size.values()), marker="o", label=name, **figures.style(number))
    ax.set(xlabel=f"scores, one in a hundred genuine\n{machine()}", ylabel="seconds for ROC, AUC and EER")
    ax.legend()
    pictures.save_figure(fig, FIGURES / "bench", "rates_over_scores", {"seconds": seconds, "machine": machine()})


# ---- network: the face network that needs no training


def network(folder: Path) -> None:
    """dlib's face network in PyTorch, without mirror images, beside dlib itself, chip by chip and with its own batches."""
    import dlib  # the development environment has it on Linux alone

    chips = np.random.default_rng(0).integers(0, 256, (64, 150, 150, 3), dtype=np.uint8)
    ours = load_pretrained("dlib")
    theirs = dlib.face_recognition_model_v1(str(locate("dlib", "dlib")))
    rgb = torch.from_numpy(chips).permute(0, 3, 1, 2)
    batch = Batch(rgb, torch.zeros(len(chips), 1, 150, 150), torch.ones(len(chips)))

    def in_pytorch():
        with torch.inference_mode():
            return len(ours(batch))

    def one_at_a_time():
        return sum(len(theirs.compute_face_descriptor(chip)) == 128 for chip in chips)

    jobs = {
        "PyTorch, 64 chips": in_pytorch,
        "dlib, one chip": one_at_a_time,
        "dlib, 64 chips": lambda: len(theirs.compute_face_descriptor(list(chips))),
    }
    rates = measure(jobs)
    ours_rate, one, many = (statistics.median(values) for values in rates.values())
    tell("network", rates, {"against dlib, times": ours_rate / max(one, many)}, "chips")


PARTS = {"faces": faces, "data": data, "step": step, "network": network, "rates": rates}


def main():
    torch.set_num_threads(os.cpu_count())
    asked = sys.argv[1:] or list(PARTS)
    if unknown := set(asked) - set(PARTS):
        sys.exit(f"error: {', '.join(sorted(unknown))}: choose from {', '.join(PARTS)}")
    for name in asked:
        print(f"-- {name}")
        with tempfile.TemporaryDirectory() as folder:
            PARTS[name](Path(folder))


if __name__ == "__main__":
    main()
