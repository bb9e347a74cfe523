"""The gallery: nobody wins by NaN, nobody but its owner reads it, whom it forgets leaves no byte."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from face3d_lib.base import atomic
from face3d_lib.base.errors import UserError
from face3d_lib.base.paths import ROOT
from face3d_lib.evaluate.embeddings import Embeddings
from face3d_lib.serve import gallery as gallery_module
from face3d_lib.serve.gallery import Gallery, enrol_everybody, forget, open_gallery

MODEL = "a" * 64
NAMES = ["Ann", "Zoë, the 2nd", "=1+1\n../x", "名前", "\udcff", "unknown"]


def unit(seed, n, size=32):
    vectors = np.random.default_rng(seed).normal(size=(n, size))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def enrolled(names=NAMES, threshold=0.5):
    """Each person from two images close to each other."""
    base = unit(0, len(names))
    near = base + 0.1 * unit(1, len(names))
    near /= np.linalg.norm(near, axis=1, keepdims=True)
    ids = np.array([f"{name}/picture {k}" for k in range(2) for name in names])
    embeddings = Embeddings(ids, np.array([*names, *names]), np.concatenate([base, near]))
    return Gallery.enrol(embeddings, MODEL, threshold, 0.01, "rgb/30_train_softmax", "chosen by hand")


def template_of(gallery, name):
    return gallery.templates[gallery.names.index(name)]


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_enrol_makes_one_template_per_person():
    embeddings = Embeddings(np.array(list("xyz")), np.array(["b", "a", "a"]), np.eye(3, dtype=np.float32))
    gallery = Gallery.enrol(embeddings, MODEL, 0.5, 0.01)
    assert gallery.names == ("a", "b")
    np.testing.assert_allclose(gallery.templates, [[0, 0.5**0.5, 0.5**0.5], [1, 0, 0]], atol=1e-7)


def test_identify_names_the_best_with_the_runners_up():
    gallery = enrolled()
    match = gallery.identify(template_of(gallery, "名前"), k=3)
    assert (match.name, match.known, match.threshold) == ("名前", True, 0.5)
    assert match.score == pytest.approx(1)
    assert match.candidates[0] == ("名前", match.score)
    scores = [score for _, score in match.candidates]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)


def test_stranger_gets_no_name_and_the_best_candidate_is_still_told():
    gallery = enrolled()
    match = gallery.identify(unit(7, 1)[0])
    assert (match.name, match.known) == (None, False)
    assert match.candidates[0][1] == match.score < 0.5


def test_a_person_called_unknown_is_a_person():
    """Who is accepted is called "unknown", and nobody who is turned away is."""
    gallery = enrolled()
    match = gallery.identify(template_of(gallery, "unknown"))
    assert (match.name, match.known) == ("unknown", True)
    assert gallery.identify(unit(7, 1)[0]).name != "unknown"


def test_accepted_at_the_threshold_exactly():
    probe = np.array([0.6, 0.8], np.float32)
    score = float(np.float32(0.6))
    for threshold, known in ((score, True), (np.nextafter(score, 1), False)):
        gallery = Gallery(("a",), np.array([[1, 0]], np.float32), MODEL, threshold, 0.01)
        assert gallery.identify(probe).known is known


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0, 2.0])
def test_what_is_no_template_is_not_enrolled(bad):
    vectors = unit(0, 3)
    vectors[1] *= bad
    names = np.array(["a", "b", "c"])
    with pytest.raises(UserError):
        Gallery.enrol(Embeddings(names, names, vectors), MODEL, 0.5, 0.01)
    with pytest.raises(UserError):
        Gallery(tuple(names), vectors, MODEL, 0.5, 0.01)


@pytest.mark.parametrize("names", [("a", "a"), ("a", ""), ("a",)])
def test_names_are_one_each(names):
    with pytest.raises(UserError, match="name"):
        Gallery(names, unit(0, 2), MODEL, 0.5, 0.01)


@pytest.mark.parametrize(("threshold", "far"), [(np.nan, 0.01), (-1, 0.01), (np.inf, 0.01), (0.5, np.nan)])
def test_threshold_that_decides_nothing_is_refused(threshold, far):
    with pytest.raises(UserError, match="development"):
        Gallery(("a",), unit(0, 1), MODEL, threshold, far)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_bad_template_never_wins_even_past_the_checks(bad):
    """A NaN wins every argmax. Smuggled in behind the checks, it gets 0 of 1000 probes."""
    gallery = enrolled(["bad", "good", "other"], threshold=-0.999)
    smuggled = gallery.templates.copy()
    smuggled[gallery.names.index("bad")] = bad
    object.__setattr__(gallery, "templates", smuggled)
    matches = [gallery.identify(probe) for probe in unit(3, 1000)]
    assert not [match for match in matches if match.name == "bad"]
    assert all(np.isfinite(match.score) for match in matches)


def test_bad_probe_is_refused_and_a_failed_one_is_unknown():
    gallery = enrolled(threshold=-0.999)
    for probe in (np.full(32, np.nan, np.float32), unit(0, 1)[0] * 2, unit(0, 1, 16)[0]):
        with pytest.raises(UserError, match="model of the gallery"):
            gallery.identify(probe)
    match = gallery.identify(np.zeros(32, np.float32))
    assert (match.known, match.score) == (False, -1)


def test_save_and_load_give_the_same_gallery(tmp_path):
    gallery = enrolled(threshold=0.1 + 0.2)
    gallery.save(tmp_path / "gallery")
    again = Gallery.load(tmp_path / "gallery", MODEL)
    assert again.names == gallery.names
    np.testing.assert_array_equal(again.templates, gallery.templates)
    assert (again.model_id, again.threshold, again.development_far) == (MODEL, 0.1 + 0.2, 0.01)
    assert (again.model, again.note) == ("rgb/30_train_softmax", "chosen by hand")
    assert again.references == gallery.references
    assert [again.reference(name) for name in again.names] == [f"{name}/picture 0" for name in again.names]
    assert sorted(path.suffix for path in (tmp_path / "gallery").iterdir()) == [".json", ".safetensors"]


def test_empty_gallery_knows_nobody(tmp_path):
    alone = enrolled(["Ann"])
    probe = template_of(alone, "Ann")
    alone.save(tmp_path / "g")
    forget(tmp_path / "g", "Ann")
    match = Gallery.load(tmp_path / "g", MODEL).identify(probe)
    assert (match.name, match.known, match.score, match.candidates) == (None, False, -1, ())


def test_another_model_is_refused(tmp_path):
    enrolled().save(tmp_path / "g")
    with pytest.raises(UserError, match="enrol again"):
        Gallery.load(tmp_path / "g", "b" * 64)
    assert len(open_gallery(tmp_path / "g").names) == len(NAMES)


def test_missing_gallery_is_one_line(tmp_path):
    for call in (lambda: Gallery.load(tmp_path, MODEL), lambda: forget(tmp_path, "Ann")):
        with pytest.raises(UserError, match="no gallery there"):
            call()


def test_every_flipped_byte_is_noticed(tmp_path):
    enrolled(["a", "b"]).save(tmp_path / "g")
    for path in list((tmp_path / "g").iterdir()):
        data = path.read_bytes()
        for place in range(len(data)):
            path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
            try:
                Gallery.load(tmp_path / "g", MODEL)
            except UserError:
                continue
            finally:
                path.write_bytes(data)
            assert not data[place : place + 1].strip(), "only white space of the JSON may differ unseen"


def test_templates_broken_with_a_right_hash_are_refused_on_load(tmp_path, monkeypatch):
    """Somebody else's writer, honest about the hash, with a NaN inside."""
    gallery = enrolled()
    smuggled = gallery.templates.copy()
    smuggled[0] = np.nan
    object.__setattr__(gallery, "templates", smuggled)
    gallery.save(tmp_path / "g")
    with pytest.raises(UserError, match="rows hold NaN"):
        Gallery.load(tmp_path / "g", MODEL)


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '{"sha256": 1}', "\x00", '{"names": '])
def test_any_json_is_refused_with_one_line(tmp_path, text):
    enrolled().save(tmp_path / "g")
    (tmp_path / "g" / "gallery.json").write_text(text)
    with pytest.raises(UserError, match=r"gallery\.json: the gallery cannot be used"):
        Gallery.load(tmp_path / "g", MODEL)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_only_the_owner_can_read_it(tmp_path, umask):
    before = os.umask(umask)
    try:
        (tmp_path / "g").mkdir()
        enrolled().save(tmp_path / "g")
        forget(tmp_path / "g", "Ann")
        assert os.umask(umask) == umask  # put back
    finally:
        os.umask(before)
    assert (tmp_path / "g").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "g").iterdir()} == {0o600}


@pytest.mark.parametrize("name", NAMES)
def test_forgotten_leaves_no_byte(tmp_path, name):
    folder = tmp_path / "g"
    gallery = enrolled()
    gallery.save(folder)
    template = template_of(gallery, name).tobytes()
    traces = [template, template[:16], json.dumps(name)[1:-1].encode(), json.dumps(f"{name}/picture 0").encode()]
    before = b"".join(files(folder).values())
    assert all(trace in before for trace in traces)
    (folder / ".new-left-by-a-kill").write_bytes(template)
    (folder / "templates-0000000000000000.safetensors").write_bytes(template)
    forget(folder, name)
    after = b"".join(files(folder).values())
    assert [trace for trace in traces if trace in after] == []
    assert len(files(folder)) == 2
    again = Gallery.load(folder, MODEL)
    assert again.names == tuple(other for other in gallery.names if other != name)
    np.testing.assert_array_equal(again.templates, gallery.forget(name).templates)
    assert not again.identify(np.frombuffer(template, np.float32)).known


def test_nobody_of_that_name_changes_nothing(tmp_path):
    enrolled().save(tmp_path / "g")
    before = files(tmp_path / "g")
    with pytest.raises(UserError, match="nobody is called 'Bob'"):
        forget(tmp_path / "g", "Bob")
    assert files(tmp_path / "g") == before


@pytest.mark.parametrize("step", ["first write", "second write", "sweep"])
def test_killed_while_forgetting(tmp_path, monkeypatch, step):
    """Wherever it ends, the next reader finds a whole gallery, old or new, and no leftovers."""
    folder = tmp_path / "g"
    gallery = enrolled()
    gallery.save(folder)
    template = template_of(gallery, "Ann").tobytes()
    real, calls = atomic.write_bytes, []

    def dies(path, data):
        calls.append(path)
        if len(calls) == {"first write": 1, "second write": 2}.get(step):
            raise KeyboardInterrupt
        real(path, data)

    def dies_sweeping(folder):
        if step == "sweep" and len(calls) == 2:
            raise KeyboardInterrupt
        real_sweep(folder)

    real_sweep = gallery_module._sweep
    monkeypatch.setattr("face3d_lib.serve.gallery.write_bytes", dies)
    monkeypatch.setattr("face3d_lib.serve.gallery._sweep", dies_sweeping)
    with pytest.raises(KeyboardInterrupt):
        forget(folder, "Ann")
    monkeypatch.undo()
    again = Gallery.load(folder, MODEL)
    assert len(files(folder)) == 2
    forgotten = template not in b"".join(files(folder).values())
    assert forgotten == ("Ann" not in again.names) == (step == "sweep")
    np.testing.assert_array_equal(again.templates[-1], gallery.templates[-1])


@pytest.mark.parametrize("step", ["first write", "second write", "sweep"])
def test_the_same_command_again_finishes_what_a_kill_interrupted(tmp_path, monkeypatch, step):
    folder = tmp_path / "g"
    gallery = enrolled()
    gallery.save(folder)
    traces = [template_of(gallery, "Ann").tobytes(), b"Ann"]
    with monkeypatch.context() as patch:
        calls = []

        def dies(path, data):
            calls.append(path)
            if len(calls) == {"first write": 1, "second write": 2}.get(step):
                raise KeyboardInterrupt
            atomic.write_bytes(path, data)

        def dies_sweeping(folder):
            if len(calls) == 2:
                raise KeyboardInterrupt

        patch.setattr("face3d_lib.serve.gallery.write_bytes", dies)
        patch.setattr("face3d_lib.serve.gallery._sweep", dies_sweeping)
        with pytest.raises(KeyboardInterrupt):
            forget(folder, "Ann")
    if step == "sweep":  # it had happened already, and the retry removes what was left of it
        with pytest.raises(UserError, match="nobody is called"):
            forget(folder, "Ann")
    else:
        assert forget(folder, "Ann") == "Ann"
    left = b"".join(files(folder).values())
    assert [trace for trace in traces if trace in left] == []
    assert len(files(folder)) == 2


def test_a_name_is_found_in_either_unicode_form(tmp_path):
    composed, split = "Jos\u00e9", "Jose\u0301"
    for stored, typed in ((composed, split), (split, composed)):
        enrolled([stored, "Ann"]).save(tmp_path / "g")
        assert forget(tmp_path / "g", typed) == stored
        assert open_gallery(tmp_path / "g").names == ("Ann",)
    both = enrolled([composed, split])
    assert both.find(split) == split  # the same text comes first
    three = enrolled(["\u00e9\u0323", "e\u0301\u0323", "Ann"])
    with pytest.raises(UserError, match="may be"):
        three.find("\u1eb9\u0301")  # two people, each in another form than the one that was typed


def test_a_name_that_nobody_has_brings_the_nearest_names():
    with pytest.raises(UserError, match="nearest names are Ann"):
        enrolled(["Ann", "Bob"]).find("Anna")


def test_a_gallery_of_an_older_format_says_how_to_make_it_again(tmp_path):
    enrolled().save(tmp_path / "g")
    body = json.loads((tmp_path / "g" / "gallery.json").read_text())
    body["format"] = "face3d gallery 1"
    del body["sha256"]
    body["sha256"] = gallery_module._digest(body)
    (tmp_path / "g" / "gallery.json").write_text(json.dumps(body))
    with pytest.raises(UserError, match="50_predict_identity"):
        open_gallery(tmp_path / "g")


def everybody(n=12, size=32):
    """Two pictures of each of n people; the last three people are development people."""
    base, noise = unit(0, n, size), unit(1, n, size)
    vectors = np.concatenate([base, base + 0.4 * noise])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    names = np.array([f"p{k:02d}" for k in range(n)] * 2)
    ids = np.array([f"{name}/{k}" for k in range(2) for name in names[:n]])
    return Embeddings(ids, names, vectors.astype(np.float32)), [i for i in ids if i.startswith(("p09", "p10", "p11"))]


def test_everybody_is_enrolled_and_the_threshold_is_that_of_the_development_people():
    vectors, development = everybody()
    gallery = enrol_everybody(vectors, development, 0.2, MODEL, "rgb/30_train_softmax")
    assert gallery.names == tuple(f"p{k:02d}" for k in range(12))
    # by hand: each development picture against the templates of all others
    probes = vectors.select(development)
    best = []
    for vector, name in zip(probes.vectors, probes.subject_ids, strict=True):
        others = [row for row, other in enumerate(gallery.names) if other != name]
        best.append((gallery.templates[others].astype(np.float64) @ vector).astype(np.float32).max())
    accepted = np.array(best, float) >= gallery.threshold
    assert accepted.sum() == 1  # a fifth of six, rounded down
    assert gallery.threshold == pytest.approx(sorted(best)[-2], abs=1e-6)
    assert "6 pictures of 3 development people" in gallery.note


def test_without_development_people_the_threshold_comes_from_everybody_and_that_is_said():
    vectors, _ = everybody()
    gallery = enrol_everybody(vectors, [], 0.2, MODEL)
    assert np.isfinite(gallery.threshold)
    assert gallery.threshold > -0.5
    assert "trained on" in gallery.note


def test_one_person_alone_gives_no_threshold_that_would_accept_everybody():
    vectors, _ = everybody()
    alone = vectors.select(["p00/0", "p00/1"])
    with pytest.raises(UserError, match="development"):
        enrol_everybody(alone, [], 0.2, MODEL)


def test_a_gallery_on_a_read_only_disk_can_be_asked(tmp_path, monkeypatch):
    enrolled().save(tmp_path / "g")
    monkeypatch.setattr("os.access", lambda path, mode: False)
    monkeypatch.setattr("face3d_lib.serve.gallery._owned", lambda folder: pytest.fail("tried to write"))
    assert len(open_gallery(tmp_path / "g").names) == len(NAMES)


FORGETTER = """
import sys
sys.path.insert(0, sys.argv[1])
from face3d_lib.serve import gallery as gallery_module
from face3d_lib.serve.gallery import forget, open_gallery
print("ready", flush=True)
for name in open_gallery(sys.argv[2]).names[:-1]:
    forget(sys.argv[2], name)
"""


def kill_a_forgetter(folder, microseconds):
    """Start a process that forgets people one by one, kill it after a while, and give back what is left."""
    root = str(ROOT)
    with subprocess.Popen([sys.executable, "-c", FORGETTER, root, str(folder)], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        try:
            process.wait(microseconds / 1e6)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
    return Gallery.load(folder, MODEL)


def check_kills(tmp_path, times):
    names = [f"person {i}" for i in range(200)]
    gallery = enrolled(names)
    for number, microseconds in enumerate(times):
        folder = tmp_path / str(number)
        gallery.save(folder)
        again = kill_a_forgetter(folder, microseconds)
        assert len(files(folder)) == 2
        left = b"".join(files(folder).values())
        for name in names:
            assert (template_of(gallery, name).tobytes() in left) == (name in again.names)


def test_kill_minus_nine_leaves_a_whole_gallery(tmp_path):
    check_kills(tmp_path, [20_000, 90_000])


@pytest.mark.slow
def test_kill_minus_nine_a_hundred_times(tmp_path):
    check_kills(tmp_path, np.random.default_rng(0).integers(0, 500_000, 100))


def test_no_pickle_in_the_file():
    text = (ROOT / "face3d_lib" / "serve" / "gallery.py").read_text()
    assert "import pickle" not in text
    assert "torch.load" not in text
