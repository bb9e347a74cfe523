"""Speed on a GPU in under eight minutes, as one table: `make bench-gpu`. On a bare machine it uses the kit of kit.py.

    python tests/bench/gpu.py             every part, into figures/bench/gpu.json and gpu.md
    python tests/bench/gpu.py --tiny      the same parts with tiny sizes on a CPU, to see that they run

Every part runs in a process of its own and is stopped when its time is up, so that a part that fails or hangs leaves
a row with the reason and the other parts still run. Pixels are random, in the shapes of the legacy data set (403,067
pairs of 112 px), because their values do not change the speed of a training.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from kit import unpack  # noqa: E402

LEGACY_PAIRS, LEGACY_CLASSES = 403_067, 1_208
CROP = 112  # px
TOTAL_SECONDS = 450  # of all parts; the goal is eight minutes with everything
# part -> seconds that it may take; a part may also use what the parts before it left over
PARTS = {"matrix": 45, "resident": 60, "training": 80, "streamed": 80, "detection": 55, "compiled": 130}
# dense bf16 FLOP/s of the data sheets, by a part of the name that CUDA gives the card
PEAKS = {"H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12}


class Sizes:
    """How much a part does: the real sizes on a GPU, or tiny ones that only show that everything runs."""

    def __init__(self, tiny: bool):
        import torch

        self.device = "cpu" if tiny else "cuda"
        self.backbone = "small" if tiny else "resnet50"
        self.pairs, self.batch_size, self.matrix = (48, 8, 256) if tiny else (LEGACY_PAIRS, 512, 8192)
        self.streamed_pairs = 48 if tiny else 60_000  # 3.8 GB of host memory
        self.pictures, self.detection_rounds = (4, 1) if tiny else (64, 1000)
        self.most_steps, self.epoch_seconds = (2, 1.0) if tiny else (200, 15.0)
        if not tiny and not torch.cuda.is_available():
            sys.exit("PyTorch sees no GPU here; --tiny tries the script on the CPU")


def main() -> None:
    """Run one part for a parent process, or all parts and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="tiny sizes on the CPU")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--kit", default="", help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.part:
        if asked.kit:
            sys.path.append(asked.kit)  # last, so that what the machine has already is what counts
        rows = globals()[f"measure_{asked.part}"](Sizes(asked.tiny))
        asked.result.write_text(json.dumps(rows), encoding="utf-8")
        return
    begun, rows = time.monotonic(), []
    Sizes(asked.tiny)  # ends here where there is no GPU
    with tempfile.TemporaryDirectory() as folder:
        wheels = unpack(Path(folder))
        print(f"{wheels} wheels of the kit are at hand" if wheels else "no kit (make gpu-kit): using what is installed")
        for part, seconds in PARTS.items():
            reserved = sum(list(PARTS.values())[list(PARTS).index(part) + 1 :])
            left = TOTAL_SECONDS - (time.monotonic() - begun) - reserved
            print(f"-- {part}: at most {max(seconds, left):.0f} s", flush=True)
            rows += run_part(part, max(seconds, left), asked.tiny, folder)
    machine = next((row["value"] for row in rows if row["what"] == "machine"), platform.machine())
    rows.append({"what": "the whole of make bench-gpu", "value": time.monotonic() - begun, "unit": "s", "note": ""})
    text = as_markdown(rows)
    print(text)
    if asked.tiny:
        print("nothing is written: these are tiny sizes")
    else:
        save(rows, machine, text)
    if any(row["unit"] == "failed" for row in rows):
        sys.exit(1)


def run_part(part: str, seconds: float, tiny: bool, kit: str) -> list[dict]:
    """The rows that a part measured in a process of its own; one row with the reason where it failed or took too long."""
    with tempfile.TemporaryDirectory() as folder:
        result, log = Path(folder) / "rows.json", Path(folder) / "log.txt"
        command = [sys.executable, __file__, "--part", part, "--kit", kit, "--result", str(result)]
        command += ["--tiny"] if tiny else []
        with open(log, "wb") as output:
            # in a session of its own, so that the compiling helpers of torch.compile are stopped with it
            child = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output, start_new_session=True)
        try:
            code = child.wait(seconds)
            reason = f"exit code {code}: {last_line(log)}"
        except subprocess.TimeoutExpired:
            reason = f"stopped after {seconds:.0f} s: {last_line(log)}"
        finally:
            with suppress(ProcessLookupError):  # nothing of it is left
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        if result.exists():
            return json.loads(result.read_text(encoding="utf-8"))
        print(log.read_text(encoding="utf-8", errors="replace")[-3000:], file=sys.stderr)
        return [{"what": part, "value": None, "unit": "failed", "note": reason}]


def last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n").strip().splitlines()
    return lines[-1][:200] if lines else "no output"


def row(what: str, value: float | str, unit: str, note: str = "") -> dict:
    """One line of the table."""
    return {"what": what, "value": value, "unit": unit, "note": note}


def as_markdown(rows: list[dict]) -> str:
    """The table; a number has four significant digits."""
    lines = ["| what | value | unit | note |", "|---|---|---|---|"]
    for line in rows:
        value = line["value"]
        shown = "-" if value is None else f"{value:,.4g}" if isinstance(value, float) else str(value)
        shown = f"{value:,.0f}" if isinstance(value, float) and abs(value) >= 1000 else shown
        lines.append(f"| {line['what']} | {shown} | {line['unit']} | {line['note'].replace('|', '/')} |")
    return "\n".join(lines)


def save(rows: list[dict], machine: str, text: str) -> None:
    """Write gpu.json, in the form of the other files of figures/bench with the whole table beside it, and gpu.md."""
    folder = ROOT / "figures" / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    rates = {line["what"]: line["value"] for line in rows if line["unit"] == "images/s"}
    record = {"images_per_second": rates, "all": {what: [rate] for what, rate in rates.items()}}
    record |= {"rows": rows, "machine": machine}
    (folder / "gpu.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    (folder / "gpu.md").write_text(text + "\n", encoding="utf-8")
    print(f"-> {folder / 'gpu.json'}, {folder / 'gpu.md'}")


# ---- the parts; each returns rows and imports what it needs, so that a missing package spoils one part only


def measure_matrix(sizes: Sizes) -> list[dict]:
    """What the machine is, and the rate of a large matrix product in bf16."""
    import torch

    name = torch.cuda.get_device_name() if sizes.device == "cuda" else f"{os.cpu_count()} cores {platform.machine()}"
    memory = torch.cuda.get_device_properties(0).total_memory / 2**30 if sizes.device == "cuda" else 0.0
    rate = matrix_rate(sizes)
    return [
        row("machine", name, "", f"{memory:.0f} GiB of GPU memory, {os.cpu_count()} CPU cores"),
        row(
            "software",
            f"torch {torch.__version__}",
            "",
            f"Python {platform.python_version()}, CUDA {torch.version.cuda}",
        ),
        row(
            f"matrix product {sizes.matrix}^3, bf16",
            rate / 1e12,
            "TFLOP/s",
            "the best of ten; " + share(rate, sizes, rate),
        ),
    ]


def matrix_rate(sizes: Sizes) -> float:
    """FLOP/s of a bf16 matrix product, the best of ten."""
    import torch

    a = torch.randn(sizes.matrix, sizes.matrix, device=sizes.device, dtype=torch.bfloat16)
    wait = torch.cuda.synchronize if sizes.device == "cuda" else (lambda: None)
    times = []
    for _ in range(12):  # the first two warm up
        wait()
        start = time.perf_counter()
        a @ a
        wait()
        times.append(time.perf_counter() - start)
    return 2 * sizes.matrix**3 / min(times[2:])


def share(rate: float, sizes: Sizes, measured: float) -> str:
    """`rate` in FLOP/s as shares of the card's peak by its data sheet, and of the matrix rate that was measured."""
    import torch

    name = torch.cuda.get_device_name() if sizes.device == "cuda" else "CPU"
    peak = next((value for part, value in PEAKS.items() if part in name), None)
    of_peak = f"{rate / peak:.1%} of the data sheet's {peak / 1e12:.0f} TFLOP/s" if peak else "no data sheet known"
    return f"{of_peak}, {rate / measured:.1%} of the matrix product"


def measure_resident(sizes: Sizes) -> list[dict]:
    """Whether the whole pack fits into the GPU's memory, how long it takes to get there, and how fast it is read."""
    import numpy as np
    import torch

    start = time.perf_counter()
    streamed = random_pack(sizes.streamed_pairs, "cpu", stays=False)
    made = time.perf_counter() - start
    start = time.perf_counter()
    on_device = streamed.resident(sizes.device)
    seconds = time.perf_counter() - start
    n_bytes = streamed.rgb.nbytes + streamed.depth.nbytes
    whole = n_bytes / len(streamed) * LEGACY_PAIRS
    moved = not isinstance(on_device.rgb, np.ndarray)
    rows = [row("copy of a pack to the GPU", n_bytes / seconds / 1e9, "GB/s", f"made in {made:.0f} s")] if moved else []
    del streamed, on_device
    pack = random_pack(sizes.pairs, sizes.device)
    rng = np.random.default_rng(0)
    wait = torch.cuda.synchronize if sizes.device == "cuda" else (lambda: None)
    begun, done = time.perf_counter(), 0
    while done < 4 * sizes.batch_size or time.perf_counter() - begun < sizes.epoch_seconds / 5:
        pack.batch(rng.integers(0, len(pack), sizes.batch_size), sizes.device)
        wait()
        done += sizes.batch_size
    rate = done / (time.perf_counter() - begun)
    free = torch.cuda.mem_get_info()[0] / 1e9 if sizes.device == "cuda" else 0.0
    fits = "all" if len(pack) >= sizes.pairs else f"only {len(pack):,}"
    note = f"{whole / 1e9:.1f} GB for {LEGACY_PAIRS:,} pairs; {fits} are on the GPU, {free:.0f} GB of it are left free"
    return [row("batches decoded from the resident pack", rate, "images/s", note), *rows]


def measure_training(sizes: Sizes) -> list[dict]:
    """The training of ResNet-50 on RGB-D, all pairs on the GPU."""
    return train(sizes, "training, pack on the GPU", random_pack(sizes.pairs, sizes.device))


def measure_streamed(sizes: Sizes) -> list[dict]:
    """The same with the pairs in host memory, from where a thread feeds the GPU."""
    return train(sizes, "training, pack in host memory", random_pack(sizes.streamed_pairs, "cpu"))


def measure_compiled(sizes: Sizes) -> list[dict]:
    """The first of them with torch.compile."""
    return train(sizes, "training, torch.compile", random_pack(sizes.pairs, sizes.device), compiled=True)


def train(sizes: Sizes, what: str, pack, compiled: bool = False) -> list[dict]:
    """Rows about two epochs of `fit`, of which the first warms up; their length follows from a first look."""
    import numpy as np

    from face3d_lib.train import fit
    from face3d_lib.train.augment import Augmentation
    from face3d_lib.train.embedder import Architecture, Embedder, count
    from face3d_lib.train.losses import SoftmaxLoss

    labels = np.random.default_rng(0).integers(0, LEGACY_CLASSES, len(pack))
    architecture = Architecture("rgbd", sizes.backbone, fusion="early")

    def epochs(steps: int, compiled: bool):
        network = Embedder(architecture)
        rows = np.arange(min(sizes.batch_size * steps, len(pack)))
        settings = fit.FitSettings(
            epochs=2, batch_size=sizes.batch_size, precision="bf16", compile=compiled, save_seconds=1e9
        )
        with tempfile.TemporaryDirectory() as folder:
            history = fit.fit(
                network, SoftmaxLoss(architecture.embedding_size, LEGACY_CLASSES), pack, (rows, labels[: len(rows)]),
                (rows[:0], labels[:0]), Path(folder), settings, Augmentation(), sizes.device, progress=False,
            )  # fmt: skip
        return history

    first = epochs(min(10, sizes.most_steps), False)["images_per_second"].iloc[-1]
    steps = int(min(max(first * sizes.epoch_seconds / sizes.batch_size, 2), sizes.most_steps))
    history = epochs(steps, compiled)
    warm, last = history.iloc[0], history.iloc[-1]
    flops = 3 * count(Embedder(architecture), CROP)[1]  # a backward pass costs twice what a forward pass costs
    rate = float(last["images_per_second"])
    of_peak = share(flops * rate, sizes, matrix_rate(sizes))
    note = f"{sizes.backbone} RGB-D, {CROP} px, bf16, batches of {sizes.batch_size}, augmented; {steps} steps"
    rows = [
        row(what, rate, "images/s", note),
        row(f"{what}: arithmetic", flops * rate / 1e12, "TFLOP/s", of_peak),
        row(f"{what}: epoch of {LEGACY_PAIRS:,} pairs", LEGACY_PAIRS / rate, "s"),
        row(f"{what}: waiting for data", 100 * float(last["data_share"]), "% of the time"),
        row(f"{what}: first epoch", float(warm["seconds"]), "s", f"{float(last['seconds']):.1f} s when warm"),
    ]
    if sizes.device == "cuda":
        import torch

        rows.append(row(f"{what}: GPU memory", torch.cuda.max_memory_allocated() / 2**30, "GiB", "at most"))
    return rows


def measure_detection(sizes: Sizes) -> list[dict]:
    """Faces found by MTCNN per second, on synthetic pictures, in batches as the alignment uses them."""
    from face3d_lib.data.faces import find_faces, load_detector
    from face3d_lib.synthetic import camera

    pictures = [camera.pair(0, k // 4, k % 4).rgb for k in range(sizes.pictures)]
    detector, batch = load_detector(sizes.device), 32
    found = find_faces(pictures[:batch], detector)  # warms up
    begun, done, faces = time.perf_counter(), 0, 0
    for _ in range(sizes.detection_rounds):
        for k in range(0, len(pictures), batch):
            found = find_faces(pictures[k : k + batch], detector)
            done, faces = done + len(found), faces + sum(bool(each.faces) for each in found)
        if time.perf_counter() - begun > sizes.epoch_seconds:
            break
    seconds = time.perf_counter() - begun
    note = f"{pictures[0].shape[1]} x {pictures[0].shape[0]} px, faces found in {faces / done:.1%} of {done} pictures"
    return [row("MTCNN, pictures with a face", faces / seconds, "images/s", note)]


def random_pack(pairs: int, device: str, stays: bool = True):
    """A Pack of random pixels: tensors on the GPU, as many pairs as fit well, or arrays in host memory for "cpu".

    stays: `fit` leaves the pack where it is; else the pack is as one that was opened from files.
    """
    import numpy as np
    import pandas as pd
    import torch

    from face3d_lib.data.pack import Pack

    class Staying(Pack):
        def resident(self, device):
            return self

    if device == "cuda":
        pairs = min(pairs, int(0.4 * torch.cuda.mem_get_info()[0] / (5 * CROP * CROP)))
        rgb = torch.randint(0, 256, (pairs, CROP, CROP, 3), dtype=torch.uint8, device=device)
        depth = torch.randint(1, 32767, (pairs, CROP, CROP), dtype=torch.int16, device=device)
    else:
        rng = np.random.default_rng(0)
        rgb = np.frombuffer(rng.bytes(pairs * CROP * CROP * 3), np.uint8).reshape(pairs, CROP, CROP, 3)
        depth = np.frombuffer(rng.bytes(pairs * CROP * CROP * 2), np.int16).reshape(pairs, CROP, CROP)
    index = pd.DataFrame({"pair_id": np.arange(pairs).astype(str), "subject_id": "0"})
    scales = np.tile(np.float32([700, 0.002, 1.8]), (pairs, 1))
    return (Staying if stays else Pack)(Path("random"), {"sha256": {"index.csv": "random"}}, index, rgb, depth, scales)


if __name__ == "__main__":
    main()
