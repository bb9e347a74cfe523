"""The gallery: nobody wins by NaN, nobody but its owner reads it, whom it forgets leaves no byte."""

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save

from face3d_lib.base import atomic
from face3d_lib.base.errors import UserError
from face3d_lib.base.paths import ROOT
from face3d_lib.base.processes import only_writer
from face3d_lib.evaluate.embeddings import Embeddings
from face3d_lib.serve import gallery as gallery_module
from face3d_lib.serve.gallery import (
    Gallery,
    Picture,
    change,
    enrol_everybody,
    forget,
    open_gallery,
)
from face3d_lib.serve.kept import crops_name, kept_crops

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


def vector_of(gallery, name):
    """The vector of the person's first picture, as the file holds it."""
    return gallery.of(name)[0][0]


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
    smuggled = gallery.vectors.copy()
    smuggled[0] = np.nan
    object.__setattr__(gallery, "vectors", smuggled)
    gallery.save(tmp_path / "g")
    with pytest.raises(UserError, match="rows hold NaN"):
        Gallery.load(tmp_path / "g", MODEL)


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '{"sha256": 1}', "\x00", '{"names": ', "[" * 100_000])
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
    template = vector_of(gallery, name).tobytes()
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
    template = vector_of(gallery, "Ann").tobytes()
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
    traces = [vector_of(gallery, "Ann").tobytes(), b"Ann"]
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
    with pytest.raises(UserError, match=r"another format.*enrol again"):
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
            assert (vector_of(gallery, name).tobytes() in left) == (name in again.names)


def test_kill_minus_nine_leaves_a_whole_gallery(tmp_path):
    check_kills(tmp_path, [20_000, 90_000])


@pytest.mark.slow
def test_kill_minus_nine_a_hundred_times(tmp_path):
    check_kills(tmp_path, np.random.default_rng(0).integers(0, 500_000, 100))


def test_no_pickle_in_the_file():
    text = (ROOT / "face3d_lib" / "serve" / "gallery.py").read_text()
    assert "import pickle" not in text
    assert "torch.load" not in text


def test_the_template_is_the_weighted_mean_of_the_pictures():
    pictures = ((Picture("a/1", weight=3.0), Picture("a/2", weight=4.0)), (Picture("b/1"),))
    gallery = Gallery(("a", "b"), np.eye(3, dtype=np.float32), MODEL, 0.5, 0.01, pictures=pictures)
    np.testing.assert_allclose(gallery.templates, [[0.6, 0.8, 0], [0, 0, 1]], atol=1e-7)
    assert gallery.references == ("a/2", "b/1")
    with pytest.raises(UserError, match="cancel out"):
        Gallery(("a",), np.array([[1, 0], [-1, 0]], np.float32), MODEL, 0.5, 0.01, pictures=((Picture(), Picture()),))


def test_pictures_are_added_and_removed():
    gallery = enrolled(["Ann", "Bob"])
    more = gallery.add("Ann", unit(9, 1), [Picture("Ann/new")]).add("Cy", unit(8, 2), [Picture("1"), Picture("2")])
    assert more.names == ("Ann", "Bob", "Cy")
    assert [len(shown) for shown in more.pictures] == [3, 2, 2]
    np.testing.assert_array_equal(more.of("Ann")[0][-1], unit(9, 1)[0])
    np.testing.assert_array_equal(more.of("Bob")[0], gallery.of("Bob")[0])
    assert not np.array_equal(template_of(more, "Ann"), template_of(gallery, "Ann"))
    less = more.remove("Ann", "Ann/new").forget("Cy")
    np.testing.assert_array_equal(less.templates, gallery.templates)
    assert less.pictures == gallery.pictures
    with pytest.raises(UserError, match="no picture 'none'"):
        gallery.remove("Ann", "none")
    with pytest.raises(UserError, match="only picture"):
        more.remove("Cy", "1").remove("Cy", "2")
    with pytest.raises(UserError, match="another model"):
        gallery.add("Dee", unit(0, 1, 16), [Picture()])


def test_two_unicode_forms_of_one_name_are_one_person():
    gallery = (
        enrolled(["Ann"]).add("Jos\u00e9", unit(5, 1), [Picture("1")]).add("Jose\u0301", unit(6, 1), [Picture("2")])
    )
    assert gallery.names == ("Ann", "Jos\u00e9")
    assert len(gallery.of("Jose\u0301")[0]) == 2


@pytest.mark.parametrize("name", ["", "x" * 10_000, "a\nb"])
def test_a_name_that_cannot_be_used_is_not_added(name):
    with pytest.raises(UserError):
        enrolled(["Ann"]).add(name, unit(5, 1), [Picture()])
    with pytest.raises(UserError):
        enrolled(["Ann"]).rename("Ann", name)


def test_rename_keeps_everything_else(tmp_path):
    enrolled(["Ann", "Bob"]).save(tmp_path / "g")
    again = change(tmp_path / "g", lambda gallery: gallery.rename("Ann", "Zo\u00eb"))
    assert again.names == ("Zo\u00eb", "Bob")
    np.testing.assert_array_equal(again.templates, enrolled(["Ann", "Bob"]).templates)
    assert b'"name": "Ann"' not in b"".join(files(tmp_path / "g").values())
    before = files(tmp_path / "g")
    with pytest.raises(UserError, match="enrolled already"):
        change(tmp_path / "g", lambda gallery: gallery.rename("Bob", "Zoe\u0308"))
    assert files(tmp_path / "g") == before


def test_a_gallery_of_templates_alone_is_still_read(tmp_path):
    """Format 2, as notebook 50 wrote it, byte for byte in its structure."""
    folder, templates = tmp_path / "g", unit(0, 2)
    folder.mkdir()
    tensors = save({"templates": templates})
    digest = hashlib.sha256(tensors).hexdigest()
    (folder / "templates-1.safetensors").write_bytes(tensors)
    body = {"format": "face3d gallery 2", "people": [{"name": n, "reference": f"{n}/1"} for n in ("Ann", "Bob")]}
    body |= {"templates": "templates-1.safetensors", "templates_sha256": digest, "model": "rgb", "model_id": MODEL}
    body |= {"threshold": 0.5, "development_far": 0.01, "note": "old"}
    (folder / "gallery.json").write_text(json.dumps({**body, "sha256": gallery_module._digest(body)}))
    again = Gallery.load(folder, MODEL)
    assert (again.names, again.references) == (("Ann", "Bob"), ("Ann/1", "Bob/1"))
    np.testing.assert_array_equal(again.templates, templates)
    forget(folder, "Ann")
    assert open_gallery(folder).references == ("Bob/1",)


def test_a_gallery_of_a_newer_version_is_left_alone(tmp_path):
    enrolled().save(tmp_path / "g")
    body = json.loads((tmp_path / "g" / "gallery.json").read_text()) | {"format": "face3d gallery 4"}
    (tmp_path / "g" / "gallery.json").write_text(json.dumps(body))
    before = files(tmp_path / "g")
    for call in (open_gallery, lambda folder: forget(folder, "Ann")):
        with pytest.raises(UserError, match="newer version"):
            call(tmp_path / "g")
    assert files(tmp_path / "g") == before


def test_a_folder_of_other_files_does_not_become_a_gallery(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    mode = tmp_path.stat().st_mode
    with pytest.raises(UserError, match="a folder of its own"):
        change(tmp_path, lambda gallery: gallery, enrolled())
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    assert tmp_path.stat().st_mode == mode


def test_kept_pixels_go_with_the_person(tmp_path):
    folder, pixels = tmp_path / "g", {name: name.encode() * 50 for name in ("Ann", "Bob")}
    names = {name: crops_name(data) for name, data in pixels.items()}
    gallery = Gallery((), np.empty((0, 32), np.float32), MODEL, 0.5, 0.01, keep_crops=True)
    for name, data in pixels.items():
        change(
            folder,
            lambda before, name=name: before.add(name, unit(len(before.names), 1), [Picture(name, crops=names[name])]),
            gallery,
            {names[name]: data},
        )
    (picture,) = open_gallery(folder).of("Bob")[1]
    assert kept_crops(folder, picture) == pixels["Bob"]
    forget(folder, "Ann")
    left = files(folder)
    assert len(left) == 3
    assert pixels["Ann"] not in left.values()
    assert left[names["Bob"]] == pixels["Bob"]
    (folder / names["Bob"]).write_bytes(b"altered")
    with pytest.raises(UserError, match="were altered"):
        kept_crops(folder, picture)


@pytest.mark.parametrize("file", ["templates", "crops", "gallery"])
@pytest.mark.parametrize("there", [True, False])
def test_a_full_disk_leaves_the_gallery_as_it_was(tmp_path, monkeypatch, file, there):
    """Also what was written before the disk was full, such as the vectors of somebody new, is deleted."""
    if there:
        enrolled().save(tmp_path / "g")
    before = files(tmp_path / "g") if there else {}
    write = gallery_module.write_bytes

    def full(path, data):
        if path.name.startswith(file):
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, data)

    monkeypatch.setattr("face3d_lib.serve.gallery.write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        change(
            tmp_path / "g",
            lambda g: g.add("Eve", unit(9, 1), [Picture("e")]),
            enrolled(),
            {"crops-1.safetensors": b"e"},
        )
    assert files(tmp_path / "g") == before


@pytest.mark.parametrize("call", ["os.pwrite", "os.chmod", "os.open"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_gallery_where_nothing_can_be_written_can_be_asked(tmp_path, monkeypatch, call, number):
    enrolled().save(tmp_path / "g")
    true = {"os.pwrite": os.pwrite, "os.chmod": os.chmod, "os.open": os.open}[call]

    def refused(path, *more, **named):
        if call != "os.pwrite" and "/g" not in str(path):
            return true(path, *more, **named)
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(call, refused)
    assert len(open_gallery(tmp_path / "g").names) == len(NAMES)


def test_a_reader_without_a_lock_reads_again_when_somebody_writes(tmp_path, monkeypatch):
    folder, read = tmp_path / "g", gallery_module._read
    enrolled().save(folder)
    monkeypatch.setattr("os.access", lambda path, mode: False)

    def raced(place):
        monkeypatch.setattr(gallery_module, "_read", read)
        enrolled(["Bob"]).save(folder)
        raise UserError("the file of the old templates is gone")

    monkeypatch.setattr(gallery_module, "_read", raced)
    assert open_gallery(folder).names == ("Bob",)


def test_who_asks_does_not_wait_for_who_writes(tmp_path):
    enrolled().save(tmp_path / "g")
    with only_writer(tmp_path / "g"):
        assert len(open_gallery(tmp_path / "g").names) == len(NAMES)


def test_a_first_enrolment_that_was_killed_can_be_made_again(tmp_path):
    folder = tmp_path / "g"
    folder.mkdir()
    for name in ("templates-0123456789abcdef.safetensors", "crops-0.safetensors", ".lock"):
        (folder / name).write_bytes(b"left by a kill")
    change(folder, lambda gallery: gallery, enrolled())
    assert len(open_gallery(folder).names) == len(NAMES)
    assert b"left by a kill" not in files(folder).values()


def test_a_gallery_that_another_process_is_just_making_is_joined(tmp_path, monkeypatch):
    folder, look = tmp_path / "g", gallery_module.exists

    def looked(place):
        found = look(place)
        monkeypatch.setattr(gallery_module, "exists", look)
        enrolled(["Bob"]).save(folder)
        return found

    monkeypatch.setattr(gallery_module, "exists", looked)
    change(folder, lambda gallery: gallery.add("Eve", unit(9, 1), [Picture("e")]), enrolled(["Ann"]))
    assert open_gallery(folder).names == ("Bob", "Eve")


def test_a_gallery_is_a_folder(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for place in ("file", "link"):
        with pytest.raises(UserError, match="no folder: name a folder"):
            change(tmp_path / place, lambda gallery: gallery, enrolled())
    assert (tmp_path / "file").read_text() == "mine"


WRITER = """
import sys
import numpy as np
sys.path.insert(0, sys.argv[1])
from face3d_lib.serve.gallery import Gallery, Picture, change
fresh = Gallery((), np.empty((0, 8), np.float32), "a" * 64, 0.5, 0.01)
print("ready", flush=True)
sys.stdin.readline()
for number in range(int(sys.argv[4])):
    vector = np.eye(8, dtype=np.float32)[number % 8][None]
    change(sys.argv[2], lambda g: g.add(f"{sys.argv[3]}{number}", vector, [Picture(str(number))]), fresh)
    print(number, flush=True)
"""


def start_writer(folder, name, count):
    command = [sys.executable, "-c", WRITER, str(ROOT), str(folder), name, str(count)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    return process


def test_two_writers_at_once_lose_nobody(tmp_path):
    writers = [start_writer(tmp_path / "g", name, 15) for name in "ab"]
    for process in writers:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in writers:
        process.communicate()
        assert process.returncode == 0
    assert set(open_gallery(tmp_path / "g").names) == {f"{name}{k}" for name in "ab" for k in range(15)}
    assert len(files(tmp_path / "g")) == 2


def kill_writers(folder, rounds, seed):
    """Kill a process that enrols people, again and again: what it said is done is there, and the gallery is whole."""
    random, done = np.random.default_rng(seed), set()
    for number in range(rounds):
        process = start_writer(folder, f"r{number}-", 1000)
        process.stdin.write("go\n")
        process.stdin.flush()
        try:
            process.wait(random.uniform(0.01, 0.15))
        except subprocess.TimeoutExpired:
            process.kill()
        said = {f"r{number}-{line.strip()}" for line in process.communicate()[0].splitlines()}
        names = set(open_gallery(folder).names) if (folder / "gallery.json").is_file() else set()
        assert done | said <= names
        assert len({name for name in names if name.startswith(f"r{number}-")} - said) <= 1
        assert len([path for path in folder.glob("*") if path.name != ".lock"]) in (0, 2)
        done |= names


def test_a_killed_writer_loses_nothing_that_it_said_is_done(tmp_path):
    kill_writers(tmp_path / "g", 3, seed=0)


@pytest.mark.slow
def test_two_hundred_killed_writers(tmp_path):
    kill_writers(tmp_path / "g", 200, seed=1)
