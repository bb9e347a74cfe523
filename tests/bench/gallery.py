"""A gallery on somebody's own pairs: who is named, and how many strangers are accepted; and the search in a large one.

    python tests/bench/gallery.py FOLDER...            galleries of drawn people, the others as strangers
    python tests/bench/gallery.py search               one million templates of 512 numbers, beside FAISS if it is installed

Prints JSON. The pictures of each folder of raw pairs are embedded by the recogniser "pretrained". A gallery enrols one
picture of each of 10 people (or 5, or 20), all drawn anew DRAWS times; the other pictures of these people, and all pictures
of everybody else, are then asked for, at the threshold that a gallery of that size gets.
"""

import importlib.util
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


def search(size: int = 1_000_000, length: int = 512) -> dict[str, Any]:
    """Seconds of a query among so many templates, by the clock and of the processor; beside FAISS where it is installed.

    Both are exact in float32 (FAISS: IndexFlatIP), take turns, and must name the same five people.
    """
    random = np.random.default_rng(0)
    templates = np.empty((size, length), np.float32)
    for start in range(0, size, 50_000):
        block = random.standard_normal((min(50_000, size - start), length), dtype=np.float32)
        templates[start : start + 50_000] = block / np.linalg.norm(block, axis=1, keepdims=True)
    ways: dict[str, Callable[[np.ndarray], np.ndarray]] = {"face3d": lambda probe: top_k(templates, probe, 5)[0]}
    if importlib.util.find_spec("faiss"):
        import faiss

        index = faiss.IndexFlatIP(length)
        index.add(templates)
        ways["faiss"] = lambda probe: index.search(probe[None], 5)[1][0]
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for k in range(9):
        probe = templates[size // 2 + k]
        answers = []
        for name, ask in ways.items():
            begun, used = time.perf_counter(), time.process_time()
            answers.append(ask(probe).tolist())
            spent[name].append((time.perf_counter() - begun, time.process_time() - used))
        assert answers[0][0] == size // 2 + k
        assert all(answer == answers[0] for answer in answers), answers
    found = {
        name: dict(zip(("clock_s", "processor_s"), np.median(times, 0).tolist(), strict=True))
        for name, times in spent.items()
    }
    return {"templates": size, "numbers": length, **found}


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
