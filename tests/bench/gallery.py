"""A gallery on somebody's own pairs: who is named, and how many strangers are accepted; and the search in a large one.

    python tests/bench/gallery.py FOLDER...            galleries of drawn people, the others as strangers
    python tests/bench/gallery.py search               100 000 and a million templates of 512 numbers: in memory, by FAISS, by Qdrant

Prints JSON. The pictures of each folder of raw pairs are embedded by the recogniser "pretrained". A gallery enrols one
picture of each of 10 people (or 5, or 20), all drawn anew DRAWS times; the other pictures of these people, and all pictures
of everybody else, are then asked for, at the threshold that a gallery of that size gets.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from qdrant_client import QdrantClient

from face3d_lib.base.environment import setting
from face3d_lib.evaluate.embeddings import Embeddings
from face3d_lib.serve.batches import strangers_of
from face3d_lib.serve.faiss_index import Faiss
from face3d_lib.serve.qdrant import Collection, new_address
from face3d_lib.serve.reading import UNDECLARED
from face3d_lib.serve.recogniser import Recogniser
from face3d_lib.serve.search import Index, Indexed, top_k
from face3d_lib.serve.strangers import shipped

DRAWS, SIZES, FARS = 200, (5, 10, 20), (0.01, 0.1)
TEMPLATES, LOCAL, PROBES = (100_000, 1_000_000), 100_000, 60


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


def search(size: int, length: int = 512) -> list[dict[str, Any]]:
    """Milliseconds of a query by each way to search so many templates, and how often it finds what exact search finds.

    The ways take turns. A third of the probes shows nobody, and a third each somebody at a score of .5 and .9. The client of
    Qdrant is measured against the server at FACE3D_QDRANT; without one against its own local mode, which is written in Python
    and no measure of a server, and with few templates alone.
    """
    random = np.random.default_rng(0)
    templates = np.empty((size, length), np.float32)
    for start in range(0, size, 50_000):
        templates[start : start + 50_000] = unit(random, min(50_000, size - start), length)
    ways: dict[str, Index | None] = {"memory": None, "faiss": Faiss(), "faiss-pq": Faiss(approximate=True)}
    if server := setting("FACE3D_QDRANT"):
        ways["Qdrant server"] = Collection(new_address(server))
    elif size <= LOCAL:
        ways["Qdrant client, local mode"] = local = Collection(new_address("http://nowhere"))
        local._client = QdrantClient(":memory:")
    asks: dict[str, Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]] = {}
    built = {}
    for name, index in ways.items():
        begun = time.perf_counter()
        if index is None:
            asks[name] = lambda probe: top_k(templates, probe, 5)
        else:
            held = Indexed(templates, index)
            held.follow("bench")
            asks[name] = lambda probe, held=held: held.top_k(probe, 5)  # type: ignore[misc]
        built[name] = time.perf_counter() - begun
    print(f"{size}: built in {built}", file=sys.stderr, flush=True)
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    first, five = dict.fromkeys(ways, 0), dict.fromkeys(ways, 0)
    for probe in probes(random, templates):
        exact: list[int] = []
        for name, ask in asks.items():
            begun, used = time.perf_counter(), time.process_time()
            rows, _ = ask(probe)
            spent[name].append((time.perf_counter() - begun, time.process_time() - used))
            exact = exact or rows.tolist()
            first[name] += rows[:1].tolist() == exact[:1]
            five[name] += len(set(rows.tolist()) & set(exact))
    if isinstance(server_copy := ways.get("Qdrant server"), Collection):
        server_copy.drop()
    return [
        {
            "templates": size,
            "search": name,
            "ms": round(1000 * float(np.median(spent[name], 0)[0])),
            "ms, fastest": round(1000 * float(np.min(spent[name], 0)[0])),
            "ms of processor": round(1000 * float(np.median(spent[name], 0)[1])),
            "s to build": round(built[name]),
            "first found": first[name] / PROBES,
            "first five found": five[name] / PROBES / 5,
        }
        for name in ways
    ]


def unit(random: np.random.Generator, n: int, length: int) -> np.ndarray:
    """(n, length) float32 of unit length, in all directions alike."""
    block = random.standard_normal((n, length), dtype=np.float32)
    return block / np.linalg.norm(block, axis=1, keepdims=True)


def probes(random: np.random.Generator, templates: np.ndarray) -> Iterator[np.ndarray]:
    """PROBES unit vectors, which score about 0, .5 and .9 with a template drawn by chance."""
    for k in range(PROBES):
        score, row = (0, 0.5, 0.9)[k % 3], templates[random.integers(len(templates))]
        other = unit(random, 1, templates.shape[1])[0]
        other -= (other @ row) * row
        probe = score * row + (1 - score**2) ** 0.5 * other / np.linalg.norm(other)
        yield (probe / np.linalg.norm(probe)).astype(np.float32)


def main(words: list[str]) -> None:
    if words == ["search"]:
        print(json.dumps([row for size in TEMPLATES for row in search(size)], indent=2))
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
