"""A run of a few people on disk, as the notebooks leave one, but without pictures and training."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch

from face3d_lib.base.atomic import plain
from face3d_lib.data.splits import COLUMNS, DEPTH_HASH, PAIR_COLUMNS, Splits, write_splits
from face3d_lib.data.warp import AlignSettings
from face3d_lib.evaluate.embeddings import Embeddings
from face3d_lib.train.embedder import Architecture, Embedder
from face3d_lib.train.model_files import make_card, save_model

PACK = SimpleNamespace(
    info={
        "source": {"settings_hash": AlignSettings().hash(), "alignment": vars(AlignSettings()), "depth_unit": "mm"},
        "sha256": {"rgb.npy": "ab" * 32},
    }
)
DONE = {"status": "done", "started": "2026-01-02T03:04:05.000+00:00", "seconds": 7.2, "versions": {"numpy": "2.0"}}
DONE |= {
    "git": {"commit": "c" * 40, "dirty": False},
    "result_sha256": "d" * 64,
    "python": "3.11",
    "platform": "Linux x",
}


def split_of(people, pictures=4):
    """A split of people {name: role}; "stranger" is a test person who is not enrolled. Half of the pictures enrol."""
    tables = {name: [] for name in ("train", "eval", "test", "gallery", "probe", "unknown")}
    for name, role in people.items():
        group = {"stranger": "test"}.get(role, role)
        for k in range(pictures):
            row = dict.fromkeys([*COLUMNS, DEPTH_HASH], "") | {
                "cls_name": name,
                "pair_id": f"{name}/{k}",
                "group": group,
            }
            row |= {"sha256": f"{name}{k}", DEPTH_HASH: f"d{name}{k}", "session": "s1" if k < pictures // 2 else "s2"}
            parts = {"stranger": "unknown", "train": ("train", "eval", "test")[min(k, 2)]}
            tables[parts.get(role, "gallery" if k < pictures // 2 else "probe")].append(row)
    pairs = []
    for group in ("dev", "test"):
        rows = [row for name in ("gallery", "probe", "unknown") for row in tables[name] if row["group"] == group]
        rows.sort(key=lambda row: row["pair_id"])
        for k, one in enumerate(rows):
            pairs += [
                (one["pair_id"], other["pair_id"], str(int(one["cls_name"] == other["cls_name"])), group)
                for other in rows[k + 1 :]
            ]
    columns = [*COLUMNS, DEPTH_HASH]
    frames = {
        name: pd.DataFrame(
            rows, columns=[*columns, *(["group"] if name in ("gallery", "probe", "unknown") else [])], dtype=str
        )
        for name, rows in tables.items()
    }
    columns_of_dirty = [*columns, "role", "reason"]
    lost = [
        dict.fromkeys(columns_of_dirty, "") | {"cls_name": name, "pair_id": f"{name}/lost", "role": "test"}
        for name, role in people.items()
        if role == "test"
    ][:1]
    dirty = pd.DataFrame([row | {"reason": "no_face"} for row in lost], columns=columns_of_dirty, dtype=str)
    return Splits(**frames, dirty=dirty, pairs=pd.DataFrame(pairs, columns=PAIR_COLUMNS, dtype=str))


def vectors_of(division, noise=0.5, seed=0):
    """Embeddings of the people never seen in training: a direction for each person, and noise."""
    unseen = pd.concat([division.gallery, division.probe, division.unknown])
    rng = np.random.default_rng(seed)
    base = {name: rng.normal(size=16) for name in sorted(set(unseen["cls_name"]))}
    found = np.array([base[name] + noise * rng.normal(size=16) for name in unseen["cls_name"]]).reshape(-1, 16)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return Embeddings(unseen["pair_id"].to_numpy(str), unseen["cls_name"].to_numpy(str), found.astype(np.float32))


def record(runs, run, stage, metrics=None, **more):
    folder = runs / run / stage
    folder.mkdir(parents=True, exist_ok=True)
    entries = {"stage": stage, "run": run, "parameters": {"run": run}} | DONE | more
    (folder / "run.json").write_text(json.dumps(entries), encoding="utf-8")
    if metrics is not None:
        (folder / "metrics.json").write_text(json.dumps(plain(metrics)), encoding="utf-8")
    return folder


def make_run(runs, people, systems=("rgb",), fused=False, pictures=4, run="small"):
    """runs/<run> with notebooks 10, 20, 30 and 40 done; returns the split."""
    counts = {"pairs": 9, "aligned": 8, "statuses": {"ok": 8, "no_face": 1}}
    record(runs, run, "10_align_faces", counts)
    division = split_of(people, pictures)
    write_splits(division, record(runs, run, "20_split_subjects", {}))
    folder, rates = record(runs, run, "40_evaluate_verification"), {}
    for number, name in enumerate(systems):
        torch.manual_seed(0)
        stage = record(runs, f"{run}/{name}", "30_train_softmax", parameters={"run": f"{run}/{name}", "seed": number})
        network = Embedder(Architecture("rgb", embedding_size=8))
        metrics = {
            "accuracy": 0.75,
            "accuracy_low": 0.5,
            "accuracy_high": 0.875,
            "people": 3,
            "train": 4,
            "eval": 1,
            "test": 2,
        }
        given = {"run": f"{run}/{name}", "lr": 0.01, "seed": number, "init": "/home/somebody/weights.pt"}
        save_model(stage / "model", network, make_card(network, PACK, ["t0", "t1"], given, metrics))
        vectors_of(division, 0.5 + 0.2 * number, number).save(folder / f"{name}/30_train_softmax.npz")
        rates[name] = {"model": f"{name}/30_train_softmax", "eer": None}
    if fused:
        rates[" + ".join(systems[:2])] = {"model": None}
    metrics = {"far_target": 0.01, "late_fusion_weight": 0.6 if fused else None, "systems": rates}
    record(runs, run, "40_evaluate_verification", metrics)
    return division
