"""Many networks side by side: what differs is shown, what does not is not, and seeds are averaged."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from face3d_lib.data.splits import PAIR_COLUMNS, Splits
from face3d_lib.data.warp import AlignSettings
from face3d_lib.evaluate.compare import compare, late_fusion, outcome, people_intervals, spread, table_of
from face3d_lib.evaluate.embeddings import Embeddings
from face3d_lib.evaluate.intervals import paired_bootstrap
from face3d_lib.evaluate.metrics import curves
from face3d_lib.evaluate.protocol import trials_of
from face3d_lib.evaluate.trained import Trained, find_models, sweep_models
from face3d_lib.train.embedder import Architecture
from face3d_lib.train.model_files import make_card

PEOPLE, IMAGES = 30, 6
IDS = [f"p{person:02d}/{image}" for person in range(PEOPLE) for image in range(IMAGES)]
WHO = [pair_id.partition("/")[0] for pair_id in IDS]


def division() -> Splits:
    sides = [(a, b) for k, a in enumerate(IDS) for b in IDS[k + 1 :]]
    pairs = pd.DataFrame([(a, b, str(int(a[:3] == b[:3])), "test") for a, b in sides], columns=PAIR_COLUMNS, dtype=str)
    return Splits(*[pd.DataFrame()] * 7, pairs)


def vectors(noise: float, seed: int) -> Embeddings:
    rng = np.random.default_rng(seed)
    people = np.random.default_rng(99).normal(size=(PEOPLE, 16))
    found = np.repeat(people, IMAGES, 0) + noise * rng.normal(size=(len(IDS), 16))
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return Embeddings(np.array(IDS), np.array(WHO), found.astype(np.float32))


def write_card(folder, metrics):
    """The card of a model; its weights are not read here."""
    pack = {"settings_hash": AlignSettings().hash(), "alignment": vars(AlignSettings()), "depth_unit": "mm"}
    embedder, packed = (
        SimpleNamespace(architecture=Architecture("rgb")),
        SimpleNamespace(info={"source": pack, "sha256": {}}),
    )
    folder.mkdir(parents=True)
    card = make_card(embedder, packed, [], {}, metrics)
    (folder / "card.json").write_text(card.model_copy(update={"weights_sha256": "0" * 64}).model_dump_json())


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """runs/s with three seeds of a good and of a bad network and one run that failed."""
    monkeypatch.setattr("face3d_lib.base.paths.RUNS", tmp_path)
    rows = []
    for name, noise, right in (("good", 0.9, 0.9), ("bad", 2.0, 0.6), ("same", 2.0, 0.6)):
        for seed in range(3):
            folder = tmp_path / "s" / f"{name}-{seed}" / "31_train_arcface"
            folder.mkdir(parents=True)
            record = {"status": "done", "parameters": {"loss": name, "seed": seed}}
            (folder / "run.json").write_text(json.dumps(record))
            write_card(folder / "model", {"eer": noise / 10 + seed / 100, "accuracy": right})
            vectors(noise, seed if name != "same" else seed + 10).save(folder / "unseen.npz")
            rng = np.random.default_rng(seed)
            named = [who if rng.random() < right else "nobody" for who in WHO]
            table = pd.DataFrame({"pair_id": IDS, "cls_name": WHO, "predicted": named})
            table.to_csv(folder / "predictions.csv", index=False)
            rows.append({"notebook": "31_train_arcface", "run": f"s/{name}-{seed}", "status": "done"})
    rows.append({"notebook": "31_train_arcface", "run": "s/broken-0", "status": "failed"})
    (tmp_path / "s" / "sweep.json").write_text(json.dumps(rows))
    return tmp_path


def test_a_sweep_is_read_without_what_failed_and_it_is_said(sweep, capsys):
    networks = find_models("s", sweep_models("s"))
    assert len(networks) == 9
    assert "1 runs of the sweep are not done: s/broken-0" in capsys.readouterr().out
    table = table_of(networks, lambda parameters: parameters["loss"])
    summary = spread(table, ["eer"])
    assert list(summary.index) == ["good", "bad", "same"]
    assert summary.loc["good", "eer"] == pytest.approx(0.1)
    assert summary.loc["good", "eer_sd"] == pytest.approx(0.01)
    assert (summary["seeds"] == 3).all()


def test_a_difference_is_shown_and_chance_is_not(sweep):
    of = {name: [] for name in ("good", "bad", "same")}
    for network in find_models("s", sweep_models("s")):
        of[network.parameters["loss"]].append(outcome(network, division()))
    table = compare(of, "bad", 200)
    assert list(table.index) == ["good", "same"]
    better, alike = table.loc["good"], table.loc["same"]
    assert better["eer"] < 0
    assert better["eer_shown"]
    assert better["eer_p"] == pytest.approx(1 / 201)  # no replicate came near, and a p-value is never 0
    assert better["eer_p_holm"] == pytest.approx(2 / 201)
    assert better["accuracy"] == pytest.approx(0.3, abs=0.05)
    assert better["accuracy_shown"]
    assert not alike["eer_shown"]
    assert abs(alike["eer"]) < 0.02
    worse = compare({name: of[name] for name in ("bad", "good")}, "good", 100).loc["bad"]
    assert worse["eer"] == pytest.approx(-better["eer"])
    people = people_intervals(of, 100)
    for name, group in of.items():
        mean = np.mean([curves.eer(system.trials.genuine, system.trials.impostor)[0] for system in group])
        assert people.loc[name, "eer_low"] < mean < people.loc[name, "eer_high"]
        right = np.mean([system.right.mean() for system in group])
        assert people.loc[name, "accuracy_low"] < right < people.loc[name, "accuracy_high"]


def test_shown_follows_the_corrected_value(monkeypatch):
    """Four p-values below 0.05; of many such, Holm leaves one."""
    p_values = iter([0.01, 0.04, 0.03, 0.04])
    monkeypatch.setattr(
        "face3d_lib.evaluate.compare._difference",
        lambda *_: [0.1, 0.05, 0.15, (p := next(p_values)), -0.1, -0.2, 0.1, p / 10],
    )
    table = compare({name: [] for name in "abcde"}, "a")
    assert table["eer_p_holm"].tolist() == pytest.approx([0.04, 0.09, 0.09, 0.09])
    assert table["eer_shown"].tolist() == [True, False, False, False]
    assert table["accuracy_shown"].all()  # each rate is corrected for itself
    alone = compare({"a": []}, "a")
    assert len(alone) == 0
    assert "eer_shown" in alone


def test_seeds_are_averaged_within_a_draw_of_people():
    trials = [trials_of(vectors(1.5, seed), division()) for seed in range(4)]

    def rate(roc):
        return roc.eer()[0]

    found = paired_bootstrap(trials[:2], trials[2:], rate, 50)
    by_hand = [paired_bootstrap(trials[a], trials[b], rate, 50).value for a, b in ((0, 2), (1, 3))]
    assert found.value == pytest.approx(np.mean(by_hand))
    assert found.low < found.value < found.high


@pytest.fixture
def pair(tmp_path, monkeypatch):
    """Arguments of `late_fusion`: two networks that are only their vectors, each with a noise on dev and one on test people."""

    def make(*noises):
        frame = pd.DataFrame({"pair_id": IDS, "cls_name": WHO})
        frame["group"] = np.where(frame["cls_name"] < "p15", "dev", "test")
        image, group = frame["pair_id"].str[-1].astype(int), dict(zip(frame["pair_id"], frame["group"], strict=True))
        pairs = division().pairs
        sides = pairs["pair_id_a"].map(group), pairs["pair_id_b"].map(group)
        parts = {"gallery": image == 0, "probe": image > 0, "unknown": image < 0, "train": image < 3, "test": image > 2}
        split = dataclasses.replace(
            division(),
            pairs=pairs.assign(group=sides[0])[sides[0] == sides[1]],
            **{name: frame[rows] for name, rows in parts.items()},
        )
        networks, found = [], {}
        for number, (on_dev, on_test) in enumerate(noises):
            folder = tmp_path / str(number)
            folder.mkdir()
            noise = np.where(frame["group"] == "dev", on_dev, on_test)[:, None]
            found[folder] = vectors(noise, seed=number)
            found[folder].save(folder / "unseen.npz")
            networks.append(Trained(str(number), folder, {}, str(number)))

        def closed(network, packed, split):  # embedding pictures with a network is tested elsewhere
            return tuple(found[network.folder].select(part["pair_id"]) for part in (split.train, split.test))

        monkeypatch.setattr("face3d_lib.evaluate.compare._closed_set", closed)
        return *networks, None, split

    return make


def test_two_networks_that_err_on_different_pictures_err_less_together(pair):
    first, second, packed, split = pair((1.5, 1.5), (1.5, 1.5))
    together, rates = late_fusion(first, second, packed, split)
    unseen = [Embeddings.load(network.folder / "unseen.npz") for network in (first, second)]
    alone = [curves.eer(t.genuine, t.impostor)[0] for t in (trials_of(vectors, split) for vectors in unseen)]
    assert rates["eer"] < 0.9 * min(alone)
    assert 0.2 < rates["weight"] < 0.8
    assert rates["accuracy"] == together.right.mean() > max(rates["accuracies"]) > 0.2
    assert together.right.index.get_level_values("pair_id").tolist() == [name for name in IDS if int(name[-1]) > 2]
    # rank-1 by hand: test people alone, one picture enrolled, both scores weighted
    probes, gallery = ([k for k, name in enumerate(IDS) if name >= "p15" and (name[-1] == "0") == first_picture]
                       for first_picture in (False, True))  # fmt: skip
    weights = rates["weight"], 1 - rates["weight"]
    scores = sum(w * v.vectors[probes] @ v.vectors[gallery].T for w, v in zip(weights, unseen, strict=True))
    right = [WHO[probes[p]] == WHO[gallery[g]] for p, g in enumerate(scores.argmax(1))]
    assert rates["rank1"] == pytest.approx(np.mean(right))
    assert 0 < rates["tar"] < 1


def test_the_weight_is_chosen_on_dev_people_whatever_it_does_to_the_test_people(pair):
    first, second, packed, split = pair((0.5, 1e6), (1e6, 0.5))  # each sees only dev, or only test people
    _, rates = late_fusion(first, second, packed, split)
    assert rates["weight"] > 0.8
    assert rates["eer"] > 0.3
    _, rates = late_fusion(second, first, packed, split)
    assert rates["weight"] < 0.2


def test_a_network_that_sees_nothing_gets_no_weight(pair):
    first, second, packed, split = pair((0.5, 0.5), (1e6, 1e6))
    _, rates = late_fusion(first, second, packed, split)
    alone = trials_of(Embeddings.load(first.folder / "unseen.npz"), split)
    assert rates["weight"] > 0.9
    assert rates["eer"] <= curves.eer(alone.genuine, alone.impostor)[0] + 0.005
    assert rates["accuracy"] > 0.9 > rates["accuracies"][1]
