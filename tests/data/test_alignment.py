"""Folders aligned: every input is a row, and kills, faults and other settings do no harm."""

import errno
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import threading
import time

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from aligning import TEMPLATE, apply, run, scene, small_set, tree
from bad_inputs import bad_depths, bad_pictures, declare, depth_of, face, texture, write_pair
from PIL import Image

from face3d_lib.base.atomic import sha256_of
from face3d_lib.base.errors import UserError
from face3d_lib.base.processes import only_writer
from face3d_lib.base.tables import POINTS, read_table, write_table
from face3d_lib.data import alignment, journal, warp
from face3d_lib.data.alignment import align_folder
from face3d_lib.data.alignment_table import ALIGNMENT_COLUMNS, DEPTH_MARKS, MATRIX, landmark_error
from face3d_lib.data.convention import DepthConvention
from face3d_lib.data.depth_check import check_depth
from face3d_lib.data.journal import chunks_of
from face3d_lib.data.warp import TEMPLATE_112, AlignSettings, warp_pair

torch.set_num_threads(1)


def test_every_bad_input_of_a_folder_is_a_row_and_the_rest_goes_on(tmp_path):
    root = declare(tmp_path / "in")
    expected = {}
    for name, (data, status) in bad_pictures(tmp_path).items():
        stem, suffix = os.path.splitext(name)
        write_pair(root, f"pictures/{stem}{suffix[1:]}", texture())
        (root / f"pictures/{stem}{suffix[1:]}.png").write_bytes(data)
        expected[f"pictures/{stem}{suffix[1:]}"] = status
    for name, (data, status) in bad_depths(tmp_path).items():
        write_pair(root, f"depths/{name}", texture())
        (root / f"depths/{name}.npy").write_bytes(data)
        expected[f"depths/{name}"] = status
    write_pair(root, "Ünal, Ömer/good face", face(96))
    write_pair(root, "Ünal, Ömer/one by one", texture(1, 1))
    write_pair(root, "Ünal, Ömer/nobody", texture(96, 96))
    write_pair(root, "Ünal, Ömer/two faces", scene((70, 10, 20), (130, 150, 60)))
    holes = depth_of((96, 96))
    holes[15:] = 0
    write_pair(root, "Ünal, Ömer/no depth on the face", face(96), holes)
    shutil.copy(root / "Ünal, Ömer/good face.png", root / "Ünal, Ömer/missing.png")
    shutil.copy(root / "Ünal, Ömer/good face.npy", root / "Ünal, Ömer/alone.npy")
    (root / "stray.jpg").write_bytes(b"")
    expected |= {f"Ünal, Ömer/{name}": "ok" for name in ("good face", "two faces")}
    expected |= {f"Ünal, Ömer/{name}": "no_face" for name in ("one by one", "nobody")}
    expected |= {"Ünal, Ömer/no depth on the face": "bad_depth", "./stray.jpg": "refused_path"}
    expected |= {"Ünal, Ömer/missing": "missing_depth", "Ünal, Ömer/alone": "missing_rgb"}
    before = tree(root)
    frame = run(root, tmp_path / "out")
    assert dict(zip(frame["pair_id"], frame["status"], strict=True)) == expected
    assert list(frame["pair_id"]) == sorted(expected)
    assert tree(root) == before
    assert not (tmp_path / "opened_by_pickle").exists()
    crops = {f"Ünal, Ömer/{name}{suffix}" for name in ("good face", "two faces") for suffix in (".png", ".npy")}
    assert set(tree(tmp_path / "out")) == crops | {"Ünal, Ömer", "dataset.json", "alignment.csv"}
    two = frame.set_index("pair_id").loc["Ünal, Ömer/two faces"]
    assert (two["n_faces"], two["choice"], two["found_at"]) == ("2", "largest", "native")
    assert (frame["status"] != "ok").sum() == len(expected) - 2


def test_a_name_too_long_for_the_output_is_a_row(tmp_path, monkeypatch):
    """Escaped bytes of a GBK name make it four times as long; an encrypted home takes 143 bytes instead of 255."""
    root, none = small_set(tmp_path / "in", people=1, images=2), AlignSettings("none")
    gbk = os.fsencode(root / "p0") + b"/" + ("人脸照片" * 12).encode("gbk")
    for suffix in (".png", ".npy"):
        shutil.copy(root / f"p0/00{suffix}", gbk + suffix.encode())
    write_pair(root, "p0/" + "n" * 150, texture())
    replace = os.replace

    def encrypted(source, target):
        if len(os.path.basename(target)) > 143:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        replace(source, target)

    monkeypatch.setattr(os, "replace", encrypted)
    for _ in range(2):
        status = run(root, tmp_path / "out", none).set_index("pair_id")["status"]
        assert status["p0/" + "n" * 150] == "refused_path"
        assert status["p0/00"] == status["p0/01"] == "ok"
        assert (status == "refused_path").sum() == 3  # the picture and the depth of the GBK name
    assert not list((tmp_path / "out").rglob(".new-*"))


def test_numbers_beyond_all_limits_are_that_pair_s_row(tmp_path):
    """A picture of 1 x 300,000 px is moved by five million crop pixels, which no sound table holds."""
    root = declare(tmp_path / "in")
    write_pair(root, "p/good", texture(40, 40))
    write_pair(root, "p/strip", np.full((1, 300_000, 3), 90, np.uint8), np.full((1, 300_000), 800))
    frame = run(root, tmp_path / "out", AlignSettings("none", image_size=32)).set_index("pair_id")
    assert frame["status"].to_dict() == {"p/good": "ok", "p/strip": "internal_error"}
    assert "crop the picture around the face" in frame.loc["p/strip", "detail"]
    assert frame.loc["p/strip", "m02"] == ""
    assert not (tmp_path / "out/p/strip.png").exists()


def test_what_lies_in_the_folder_is_what_the_table_says(tmp_path):
    root, out = small_set(tmp_path / "in", people=1), tmp_path / "out"
    frame = run(root, out)
    assert read_table(out / "alignment.csv", ALIGNMENT_COLUMNS).equals(frame)
    described = json.loads((out / "dataset.json").read_text())
    assert (described["depth_unit"], described["larger_is"]) == ("mm", "farther")
    assert described["settings_hash"] == TEMPLATE.hash()
    ok = frame[frame["status"] == "ok"]
    assert len(ok) == 10
    for row in ok.itertuples():
        rgb, depth = np.asarray(Image.open(out / f"{row.pair_id}.png")), np.load(out / f"{row.pair_id}.npy")
        assert (rgb.shape, rgb.dtype, depth.shape, depth.dtype) == (
            (112, 112, 3),
            np.uint8,
            (112, 112),
            np.float32,
        )
        source = (
            np.asarray(Image.open(root / row.rgb_path)),
            np.load(root / row.depth_path).astype(np.float32),
        )
        matrix = np.array([float(getattr(row, name)) for name in MATRIX]).reshape(2, 3)
        again = warp_pair(*source, matrix, 112)  # the recorded matrix gives the recorded crop
        assert np.array_equal(again[0], rgb)
        assert np.array_equal(again[1], depth)
        assert row.aligned_rgb_sha256 == sha256_of(out / f"{row.pair_id}.png")
        assert row.aligned_depth_sha256 == sha256_of(out / f"{row.pair_id}.npy")
        assert row.rgb_sha256 == sha256_of(root / row.rgb_path)
        assert float(row.valid_depth) == round(float((depth > 0).mean()), 6)
        points = np.array([float(getattr(row, name)) for name in POINTS]).reshape(5, 2)
        assert np.hypot(*(apply(matrix, points) - TEMPLATE_112).T).mean() < 6


def test_a_second_run_does_nothing_and_a_changed_input_only_its_part(tmp_path):
    root, out = small_set(tmp_path / "in"), tmp_path / "out"
    run(root, out)
    first, written = tree(out), {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    run(root, out)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == written
    assert tree(out) == first

    write_pair(root, "p9/new", face(72))  # added
    write_pair(root, "p0/01", texture(72, 72))  # altered: no face any more
    write_pair(root, "p1/01", face(80))  # altered: another size
    for suffix in (".png", ".npy"):  # removed
        (root / f"p2/03{suffix}").unlink()
    (out / "p1" / "02.png").write_bytes(b"")  # damaged by somebody
    (out / "p1" / "03.npy").unlink()
    run(root, out)
    run(root, tmp_path / "fresh")
    assert tree(out) == tree(tmp_path / "fresh")
    for path in list((root / "p9").iterdir()):
        path.unlink()
    (root / "p9").rmdir()
    run(root, out)
    assert "p9" not in tree(out)


def test_chunks_change_near_a_new_name_only():
    names = sorted(f"p{k:03d}/i" for k in range(400))
    before = chunks_of(names)
    assert [name for chunk in before for name in chunk] == names
    assert max(map(len, before)) <= journal.CHUNK
    after = chunks_of(sorted([*names, "p200/new"]))
    assert len([chunk for chunk in after if chunk not in before]) <= 2
    assert 10 < len(names) / len(before) < 25


def test_order_and_number_of_processes_do_not_matter_and_a_killed_worker_is_one_line(tmp_path, monkeypatch):
    root = small_set(tmp_path / "in", people=4)
    run(root, tmp_path / "one")
    killed, align_chunk = threading.Event(), alignment.align_chunk

    def kill_the_worker():
        while not killed.is_set():
            for child in psutil.Process().children(recursive=True):
                if "spawn_main" in " ".join(child.cmdline()):
                    child.kill()
                    killed.set()
            time.sleep(0.05)

    def wait_and_align(*arguments, **named):  # or this process, which aligns too, might be done before
        assert killed.wait(60)
        return align_chunk(*arguments, **named)

    killer = threading.Thread(target=kill_the_worker)
    killer.start()
    with monkeypatch.context() as patch:
        patch.setattr("face3d_lib.data.alignment.align_chunk", wait_and_align)
        with pytest.raises(UserError, match=r"a worker was killed.*run the same command again"):
            run(root, tmp_path / "two", workers=2)
    killer.join()
    assert not (tmp_path / "two" / "alignment.csv").exists()
    run(root, tmp_path / "two", workers=2, random_order=True)
    assert tree(tmp_path / "two") == tree(tmp_path / "one")


def _forked(source, target, settings):
    align_folder(source, target, settings, workers=1, progress=False)
    os._exit(0)


def kill_and_rerun(root, out, settings, kills, seconds, seed):
    """SIGKILL the run `kills` times at random moments, then let it finish; how many were cut short."""
    rng, context, cut = random.Random(seed), multiprocessing.get_context("fork"), 0
    for k in range(kills):
        if k % 3 == 0:  # from the start again, or all later kills would come after the end
            shutil.rmtree(out, ignore_errors=True)
        child = context.Process(target=_forked, args=(root, out, settings))
        child.start()
        child.join(rng.uniform(0, seconds))
        if child.is_alive():
            os.kill(child.pid, signal.SIGKILL)
            cut += 1
        child.join()
        table = out / "alignment.csv"
        assert not table.exists() or len(read_table(table, ALIGNMENT_COLUMNS)) == 36
    align_folder(root, out, settings, workers=1, progress=False)
    return cut


def check_kills(tmp_path, settings, kills, seed):
    root = small_set(tmp_path / "in")
    start = time.monotonic()
    run(root, tmp_path / "whole", settings)
    seconds = time.monotonic() - start
    cut = kill_and_rerun(root, tmp_path / "cut", settings, kills, 1.2 * seconds, seed)
    assert cut >= kills // 4  # fewer than half where the machine became less busy meanwhile
    assert tree(tmp_path / "cut") == tree(tmp_path / "whole")


def test_killed_at_random_moments_it_gives_the_same_bytes(tmp_path, detector):
    check_kills(tmp_path, TEMPLATE, kills=10, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["template", "none"])
def test_killed_a_hundred_times_it_gives_the_same_bytes(tmp_path, detector, mode):
    check_kills(tmp_path, AlignSettings(mode), kills=100, seed=2)


def test_a_torn_journal_and_left_files_are_mended(tmp_path):
    root, settings = small_set(tmp_path / "in"), AlignSettings("none")
    run(root, tmp_path / "whole", settings)
    whole = tree(tmp_path / "whole")
    chunks = journal.read_table_chunks(tmp_path / "whole" / "alignment.csv").values()
    lines = "".join(map(journal.journal_line, chunks)).encode()
    for end in (
        0,
        1,
        lines.index(b"\n"),
        lines.index(b"\n") + 1,
        len(lines) // 2,
        len(lines) - 1,
        len(lines),
    ):
        out = tmp_path / "torn"
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(tmp_path / "whole", out)
        (out / "alignment.csv").unlink()
        (out / "journal.jsonl").write_bytes(lines[:end])
        (out / "p0" / ".new-123").write_bytes(b"half")
        (out / "p0" / "00.png").write_bytes(b"")  # an empty file that power loss left
        run(root, out, settings)
        assert tree(out) == whole
    shutil.copytree(tmp_path / "whole", tmp_path / "both")  # killed between the table and the end
    (tmp_path / "both" / "journal.jsonl").write_bytes(lines)
    run(root, tmp_path / "both", settings)
    assert tree(tmp_path / "both") == whole


def test_other_settings_and_wrong_folders_are_one_line(tmp_path):
    root, out, none = small_set(tmp_path / "in", people=1), tmp_path / "out", AlignSettings("none")
    run(root, out, none)
    before = tree(out)
    other = small_set(tmp_path / "other", people=1)
    (other / "p0").rename(other / "q0")
    busy = tmp_path / "busy"
    (busy / "my_thesis").mkdir(parents=True)
    (tmp_path / "file").write_text("x")
    for source, target, settings, message in (
        (root, out, AlignSettings("none", image_size=160), "other settings"),
        (root, out, TEMPLATE, "other settings"),
        (other, out, none, "another input"),
        (root, root, none, "inside or around"),
        (root, root / "aligned", none, "inside or around"),
        (root, tmp_path, none, "inside or around"),
        (root, busy, none, "holds other folders"),
        (root, tmp_path / "file", none, "is a file"),
        (declare(tmp_path / "empty"), tmp_path / "new", none, "no pairs"),
        (tmp_path / "not_there", tmp_path / "new", none, "not_there"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            run(source, target, settings)
        assert "\n" not in str(caught.value)
        assert str(target) in str(caught.value) or str(source) in str(caught.value)
    (root / "dataset.json").write_text('{"depth_unit": "mm", "larger_is": "nearer"}')
    with pytest.raises(UserError, match="other settings"):
        run(root, out, none)
    assert tree(out) == before
    assert not (tmp_path / "new").exists()


def test_one_writer_at_a_time(tmp_path):
    root, out = small_set(tmp_path / "in", people=1), tmp_path / "out"
    with only_writer(out), pytest.raises(UserError, match=rf"out: process {os.getpid()} is writing here"):
        run(root, out, AlignSettings("none"))
    run(root, out, AlignSettings("none"))


def test_a_full_disk_is_one_line_and_is_taken_up_again(tmp_path, monkeypatch):
    root, none = small_set(tmp_path / "in", people=1), AlignSettings("none")
    run(root, tmp_path / "whole", none)
    replace = os.replace
    for n in range(0, 27, 4):  # the n-th of 27 writes fails
        left = iter(range(n))

        def failing(*arguments, left=left):
            if next(left, None) is None:
                raise OSError(28, "No space left on device")
            replace(*arguments)

        monkeypatch.setattr(os, "replace", failing)
        with pytest.raises(UserError, match="No space left on device"):
            run(root, tmp_path / f"full_{n}", none)
        monkeypatch.setattr(os, "replace", replace)
        assert not (tmp_path / f"full_{n}" / "alignment.csv").exists()
        run(root, tmp_path / f"full_{n}", none)
        assert tree(tmp_path / f"full_{n}") == tree(tmp_path / "whole")


def test_an_accident_with_one_pair_is_a_row_and_is_tried_again(tmp_path, monkeypatch):
    root, none = small_set(tmp_path / "in", people=1), AlignSettings("none")
    run(root, tmp_path / "whole", none)
    plain = warp.warp_pair

    def failing(rgb, *arguments):
        if hashlib.sha256(rgb.tobytes()).hexdigest()[0] in "0123":
            raise MemoryError("no memory\nleft")
        return plain(rgb, *arguments)

    monkeypatch.setattr("face3d_lib.data.crops.warp_pair", failing)
    frame = run(root, tmp_path / "out", none)
    failed = frame[frame["status"] == "internal_error"]
    assert 0 < len(failed) < len(frame) == 12
    assert set(failed["detail"]) == {"MemoryError: no memory left"}
    monkeypatch.setattr("face3d_lib.data.crops.warp_pair", plain)
    run(root, tmp_path / "out", none)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_a_crafted_table_deletes_nothing_outside(tmp_path):
    root, out = small_set(tmp_path / "in", people=1), tmp_path / "out"
    frame = run(root, out, AlignSettings("none"))
    (tmp_path / "precious.png").write_text("x")
    evil = frame.iloc[:1].assign(pair_id="../precious", subject_id="..")
    write_table(out / "alignment.csv", pd.concat([frame, evil]))
    with pytest.raises(UserError, match="refused"):
        run(root, out, AlignSettings("none"))
    assert (tmp_path / "precious.png").exists()


def test_names_that_are_refused_come_and_go(tmp_path):
    """Escaped, a name of 96 bytes that is no UTF-8 is longer than a file's name may be, and full of backslashes."""
    root, out = small_set(tmp_path / "in", people=1), tmp_path / "out"
    run(root, tmp_path / "whole", AlignSettings("none"))
    odd = os.fsencode(root / "p0") + b"/" + "\u4eba\u8138".encode("gbk") * 24 + b".png"
    shutil.copy(os.fsencode(root / "p0/00.png"), odd)
    frame = run(root, out, AlignSettings("none"))
    assert frame["status"].value_counts().to_dict() == {"ok": 12, "refused_path": 1}
    os.unlink(odd)
    run(root, out, AlignSettings("none"))
    assert tree(out) == tree(tmp_path / "whole")


def test_a_scale_is_part_of_what_was_aligned(tmp_path):
    root = small_set(tmp_path / "in", people=1)
    scaled = DepthConvention("mm", "farther", 0.5)
    run(root, tmp_path / "out", AlignSettings("none"), convention=scaled)
    half, whole = np.load(tmp_path / "out/p0/01.npy"), run(root, tmp_path / "plain", AlignSettings("none"))
    assert np.array_equal(2 * half, np.load(tmp_path / "plain/p0/01.npy"))
    assert len(whole) == 12
    with pytest.raises(UserError, match="other settings"):
        run(root, tmp_path / "out", AlignSettings("none"))


def test_landmark_error_is_in_eye_distances(tmp_path):
    points = np.array([[0.0, 0], [20, 0], [10, 10], [3, 20], [17, 20]])
    truth = pd.DataFrame([dict(zip(POINTS, points.ravel(), strict=True)) | {"pair_id": name} for name in "abc"])
    found = truth.astype(str)
    found.loc[0, POINTS] = [str(v) for v in (points + np.array([3, 4])).ravel()]  # 5 px of 20
    found.loc[2, POINTS] = ""
    error = landmark_error(found, truth)
    assert error.to_dict() == {"a": 0.25, "b": 0.0}
    found.loc[0, POINTS] = [str(v) for v in (points + np.array([[0, 0]] * 4 + [[12, 0]])).ravel()]
    assert landmark_error(found, truth).loc["a"] == pytest.approx(0.12)  # one point of five is 12 px off
    assert landmark_error(found, truth, worst=True).loc["a"] == pytest.approx(0.6)


def test_a_table_from_before_the_marks_is_aligned_anew(tmp_path):
    root, out = small_set(tmp_path / "in", people=1), tmp_path / "out"
    frame = run(root, out)
    assert (frame.loc[frame["status"] == "ok", "relief"] != "").all()
    whole = tree(out)
    write_table(out / "alignment.csv", frame.drop(columns=DEPTH_MARKS))
    assert run(root, out).equals(frame)
    assert tree(out) == whole
    assert check_depth(frame.drop(columns=DEPTH_MARKS)) == []
