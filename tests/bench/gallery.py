"""A gallery on somebody's own pairs: who is named, and how many strangers are accepted; and the search in a large one.

    python tests/bench/gallery.py FOLDER...            galleries of drawn people, the others as strangers
    python tests/bench/gallery.py search               one million templates of 512 numbers

Prints JSON. The pictures of each folder of raw pairs are embedded by the recogniser "pretrained". A gallery enrols one
picture of each of 10 people (or 5, or 20), all drawn anew DRAWS times; the other pictures of these people, and all pictures
of everybody else, are then asked for, at the threshold that a gallery of that size gets.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np

from face3d_lib.evaluate.embeddings import Embeddings
from face3d_lib.serve.batches import strangers_of
from face3d_lib.serve.reading import UNDECLARED
from face3d_lib.serve.recogniser import Recogniser
from face3d_lib.serve.search import top_k
from face3d_lib.serve.strangers import shipped

DRAWS, SIZES, FARS = 200, (5, 10, 20), (0.01, 0.1)


def trial(found: Embeddings, size: int, far: float, threshold: float, seed: int = 0) -> dict[str, float | int]:
    """Shares of own pictures that get the right name or a wrong one, and of strangers' pictures that get one."""
    random, owner = np.random.default_rng(seed), np.asarray(found.subject_ids)
    vectors, people = found.vectors.astype(np.float64), np.unique(found.subject_ids)
    right, wrong, alarms = [], [], []
    for _ in range(DRAWS):
        names = random.choice(people, size, replace=False)
        rows = np.array([random.choice(np.flatnonzero(owner == name)) for name in names])
        scores = vectors @ vectors[rows].T
        known, given = scores.max(axis=1) >= threshold, names[scores.argmax(axis=1)] == owner
        inside = np.isin(owner, names)
        alarms.append(known[~inside])
        inside[rows] = False
        right.append((known & given)[inside])
        wrong.append((known & ~given)[inside])
    shares = {"right name": right, "wrong name": wrong, "strangers accepted": alarms}
    rates = {name: round(float(np.concatenate(values).mean()), 4) for name, values in shares.items()}
    return {"people": size, "wanted": far, "threshold": round(threshold, 4), **rates}


def search(size: int = 1_000_000, length: int = 512) -> dict[str, float | int]:
    """Seconds of a query among so many templates: by the clock, and of the processor."""
    random = np.random.default_rng(0)
    templates = np.empty((size, length), np.float32)
    for start in range(0, size, 50_000):
        block = random.standard_normal((min(50_000, size - start), length), dtype=np.float32)
        templates[start : start + 50_000] = block / np.linalg.norm(block, axis=1, keepdims=True)
    clock, processor = [], []
    for _ in range(9):
        begun, used = time.perf_counter(), time.process_time()
        assert top_k(templates, templates[size // 2], 5)[0][0] == size // 2
        clock.append(time.perf_counter() - begun)
        processor.append(time.process_time() - used)
    return {"templates": size, "numbers": length, "clock_s": np.median(clock), "processor_s": np.median(processor)}


def main(words: list[str]) -> None:
    if words == ["search"]:
        print(json.dumps(search(), indent=2))
        return
    recogniser, rows = Recogniser.load(), []
    table = shipped(recogniser.model_id)
    assert table is not None
    for folder in words:
        found = strangers_of(Path(folder), recogniser, UNDECLARED)
        for size in SIZES:
            for far in FARS:
                rows.append({"folder": Path(folder).name, **trial(found, size, far, table.threshold(far, size)[0])})
    print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
