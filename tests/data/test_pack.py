"""The pack gives back exactly the aligned pairs, notices every change, and survives being killed or out of
room.
"""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from face3d_lib.base.atomic import sha256_of
from face3d_lib.base.errors import UserError
from face3d_lib.data.pack import CODES, Pack, encode_codes, join, make_batch, make_pack, verify


def write_aligned(folder, names=("001/a", "001/b", "NA/é x,1"), bad=("x/none",), size=12, seed=0):
    rng = np.random.default_rng(seed)
    rows = []
    for name in [*names, *bad]:
        subject = name.split("/")[0]
        rows.append({"pair_id": name, "subject_id": subject, "status": "no_face" if name in bad else "ok"})
        rows[-1]["depth_per_px"] = "" if name in bad else 1.5
        if name not in bad:
            (folder / subject).mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(folder / f"{name}.png")
            depth = rng.uniform(500, 900, (size, size)).astype(np.float32)
            depth[rng.random(depth.shape) < 0.2] = 0
            np.save(folder / f"{name}.npy", depth)
    seal(folder, pd.DataFrame(rows))
    (folder / "dataset.json").write_text(
        json.dumps({"depth_unit": "mm", "larger_is": "farther", "settings_hash": "h", "aligned": {"m": 1}})
    )
    return folder


def seal(folder, table):
    """alignment.csv of the files that are there."""
    for kind, suffix in (("rgb", ".png"), ("depth", ".npy")):
        paths = [folder / f"{pair_id}{suffix}" for pair_id in table["pair_id"]]
        table[f"aligned_{kind}_sha256"] = [sha256_of(p) if p.exists() else "" for p in paths]
    table.to_csv(folder / "alignment.csv", index=False)


@pytest.fixture
def aligned(tmp_path):
    return write_aligned(tmp_path / "aligned")


def test_the_pack_gives_back_the_aligned_pairs(aligned, tmp_path):
    pack = make_pack(aligned, tmp_path / "pack", progress=False)
    assert list(pack.index["subject_id"]) == ["001", "001", "NA"]
    assert pack.info["pairs"] == 3
    assert pack.info["subjects"] == 2
    assert pack.info["source"]["alignment"] == {"m": 1}
    found = verify(pack, aligned, progress=False)
    assert found.pop("worst_error") < 0.01
    assert found == {
        "pairs": 3,
        "colour_differs": 0,
        "holes_differ": 0,
        "depth_differs": 0,
        "saturated_readings": 0,
    }
    rows = pack.rows(["NA/é x,1", "001/a"])
    batch = pack.batch(rows)
    assert batch.rgb.shape == (2, 3, 12, 12)
    assert batch.depth.dtype == torch.float32
    rgb = np.asarray(Image.open(aligned / "NA/é x,1.png"))
    assert np.array_equal(batch.rgb[0].permute(1, 2, 0).numpy(), rgb)
    assert batch.depth_per_px.tolist() == [1.5, 1.5]
    pack.check_hashes()


def test_a_batch_of_one_pair_is_what_the_pack_gives(aligned, tmp_path):
    pack = make_pack(aligned, tmp_path / "pack", progress=False)
    batch = make_batch(np.asarray(Image.open(aligned / "001/b.png")), np.load(aligned / "001/b.npy"), 1.5)
    packed = pack.batch([1])
    assert torch.equal(batch.rgb, packed.rgb)
    assert torch.allclose(batch.depth, packed.depth, atol=0.005)
    assert torch.equal(batch.depth_per_px, packed.depth_per_px)
    assert torch.equal(batch.mirrored().depth[..., 0], batch.depth[..., -1])
    assert torch.equal(batch.mirrored().rgb[..., 0], batch.rgb[..., -1])


def test_verify_sees_a_swapped_channel_a_shifted_depth_and_a_filled_hole(aligned, tmp_path):
    pack = make_pack(aligned, tmp_path / "pack", progress=False)
    image = np.asarray(Image.open(aligned / "001/a.png"))
    Image.fromarray(image[..., ::-1].copy()).save(aligned / "001/a.png")
    depth = np.load(aligned / "001/b.npy")
    np.save(aligned / "001/b.npy", np.roll(depth, 1, 1))
    found = verify(pack, aligned, progress=False)
    assert (found["colour_differs"], found["depth_differs"], found["holes_differ"]) == (1, 1, 1)


def test_codes_by_hand():
    depth = np.array([[0, 800], [800.25, 900]], np.float32)
    codes, near, step, saturated = encode_codes(depth)
    assert (near, saturated) == (800, 0)
    assert step == pytest.approx(100 / CODES)
    assert codes.tolist() == [[0, 1], [round(0.25 / step) + 1, CODES + 1]]
    flat = encode_codes(np.full((2, 2), 700, np.float32))
    assert (flat[0] == 1).all()
    assert flat[2] == 0.1
    empty = encode_codes(np.zeros((2, 2), np.float32))
    assert (empty[0] == 0).all()
    far = encode_codes(np.array([[500, 500 + 0.1 * CODES + 40]], np.float32))
    assert far[0].tolist() == [[1, CODES + 1]]
    assert far[3] == 1


def test_saturated_readings_are_counted_and_stay_readings(tmp_path):
    aligned = write_aligned(tmp_path / "aligned", names=("p/a",))
    depth = np.load(aligned / "p/a.npy")
    depth[:2] = 40_000
    np.save(aligned / "p/a.npy", depth)
    seal(aligned, pd.read_csv(aligned / "alignment.csv", dtype=str, keep_default_na=False))
    pack = make_pack(aligned, tmp_path / "pack", progress=False)
    found = verify(pack, aligned, progress=False)
    assert found["saturated_readings"] == pack.info["saturated_readings"] == 24
    assert (found["depth_differs"], found["holes_differ"]) == (0, 0)


def test_a_pack_is_made_once_and_again_when_the_alignment_changed(aligned, tmp_path):
    made = make_pack(aligned, tmp_path / "pack", progress=False)
    before = (made.folder / "rgb.npy").stat().st_mtime_ns
    make_pack(aligned, tmp_path / "pack", progress=False)
    assert (made.folder / "rgb.npy").stat().st_mtime_ns == before
    write_aligned(aligned, names=("001/a", "002/c"), seed=1)
    again = make_pack(aligned, tmp_path / "pack", progress=False)
    assert list(again.index["pair_id"]) == ["001/a", "002/c"]
    assert verify(again, aligned, progress=False)["colour_differs"] == 0
    assert not list(again.folder.glob(".new-*"))


def test_a_killed_pack_is_no_pack_and_is_made_again(aligned, tmp_path, monkeypatch):
    make_pack(aligned, tmp_path / "pack", progress=False)
    write_aligned(aligned, seed=1)
    (aligned / "alignment.csv").write_text((aligned / "alignment.csv").read_text() + "y/y,y,no_face,,,\n")

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("face3d_lib.data.pack.write_table", killed)
    with pytest.raises(KeyboardInterrupt):
        make_pack(aligned, tmp_path / "pack", progress=False)
    with pytest.raises(UserError, match="not a complete pack"):
        Pack.open(tmp_path / "pack")
    monkeypatch.undo()
    assert verify(make_pack(aligned, tmp_path / "pack", progress=False), aligned, progress=False)["colour_differs"] == 0


def test_a_full_disk_is_one_line(aligned, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10})())
    with pytest.raises(UserError, match="free"):
        make_pack(aligned, tmp_path / "pack", progress=False)


@pytest.mark.parametrize("harm", ["truncated", "nan", "integer", "shape", "missing", "pickle"])
def test_a_bad_aligned_file_is_named(aligned, tmp_path, harm):
    depth, path = np.load(aligned / "001/b.npy"), aligned / "001/b.npy"
    if harm == "truncated":
        (aligned / "001/b.png").write_bytes((aligned / "001/b.png").read_bytes()[:60])
    elif harm == "missing":
        path.unlink()
    elif harm == "pickle":
        np.save(path, np.array([{}], object))
    else:
        changed = {"nan": depth * np.nan, "integer": depth.astype(np.int32), "shape": depth[:5]}
        np.save(path, changed[harm])
    with pytest.raises(UserError, match="001/b"):
        make_pack(aligned, tmp_path / "pack", progress=False)
    seal(aligned, pd.read_csv(aligned / "alignment.csv", dtype=str, keep_default_na=False))
    with pytest.raises(UserError, match="001/b"):
        make_pack(aligned, tmp_path / "pack", progress=False)
    assert not (tmp_path / "pack" / "pack.json").exists()


@pytest.mark.parametrize("name", ["rgb.npy", "depth.npy", "index.csv"])
def test_a_changed_pack_is_refused(aligned, tmp_path, name):
    folder = make_pack(aligned, tmp_path / "pack", progress=False).folder
    data = bytearray((folder / name).read_bytes())
    data[-3] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(UserError, match="changed after"):
        Pack.open(folder).check_hashes()
    (folder / name).write_bytes(data[:-9])
    with pytest.raises(UserError):
        Pack.open(folder)


def test_asking_for_what_is_not_there(aligned, tmp_path):
    with pytest.raises(UserError, match=r"alignment\.csv"):
        make_pack(tmp_path, tmp_path / "pack", progress=False)
    pack = make_pack(aligned, tmp_path / "pack", progress=False)
    with pytest.raises(UserError, match="x/none"):
        pack.rows(["001/a", "x/none"])


def test_packs_are_joined_in_order(aligned, tmp_path):
    made = make_pack(aligned, tmp_path / "pack", progress=False)
    both = join([made, made])
    assert len(both) == 2 * len(made)
    assert both.info["sha256"]["1/depth.npy"] == made.info["sha256"]["depth.npy"]
    n = len(made)
    for name in ("rgb", "depth", "depth_per_px"):
        assert torch.equal(getattr(both.batch([1, n + 1]), name), getattr(made.batch([1, 1]), name))
    other = replace(made, info={**made.info, "source": {**made.info["source"], "depth_unit": "other"}})
    with pytest.raises(UserError, match="depth_unit differs from that of"):
        join([made, other])
