"""A gallery in use that is searched by an index: never an answer of yesterday, and whoever is forgotten is forgotten everywhere."""

import json
import os
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from qdrant_stand_in import stand_in
from typer.testing import CliRunner

from face3d_lib.base.errors import UserError
from face3d_lib.cli import app
from face3d_lib.serve import people as people_module
from face3d_lib.serve.gallery import Gallery, Picture, change, forget, open_gallery
from face3d_lib.serve.people import People
from face3d_lib.serve.searched import copy_to, drop_copy, version

MODEL, NAMES = "a" * 64, [f"person {k}" for k in range(12)]
WAYS = ["memory", "faiss", "faiss-pq", "server"]


def unit(seed, n, size=32):
    vectors = np.random.default_rng(seed).normal(size=(n, size))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


VECTORS = unit(0, 12)


@pytest.fixture
def server():
    with stand_in() as (address, server):
        server.address = address
        yield server


@pytest.fixture
def folder(tmp_path):
    Gallery(NAMES, VECTORS, MODEL, 0.5, 0.01).save(tmp_path / "g")
    return tmp_path / "g"


def opened(folder, search, server=None):
    recogniser = SimpleNamespace(model_id=open_gallery(folder).model_id, size=32)
    return People(
        folder, recogniser, Gallery((), VECTORS[:0], MODEL, 0.5, 0.01), server.address if search == "server" else search
    )


def held(server):
    """All templates on the server, as tuples."""
    (collection,) = server.local.get_collections().collections
    points, _ = server.local.scroll(collection.name, limit=1000, with_vectors=True, with_payload=True)
    assert all(not point.payload for point in points)
    return {tuple(point.vector) for point in points}


def rows(vectors):
    return {tuple(row) for row in np.asarray(vectors).tolist()}


@pytest.mark.parametrize("search", WAYS)
def test_each_way_answers_like_memory_and_follows_every_change(folder, server, search):
    """The changes are made by others, in the folder alone."""
    people, memory = opened(folder, search, server), opened(folder, "memory")
    probes = np.concatenate([VECTORS, unit(1, 5)])

    def same():
        for probe in probes:
            assert people.match(probe, 4) == memory.match(probe, 4)

    same()
    forget(folder, "person 3")
    same()
    assert people.match(VECTORS[3]).name is None
    change(folder, lambda gallery: gallery.rename("person 4", "anna"))
    same()
    assert people.match(VECTORS[4]).name == "anna"
    change(folder, lambda gallery: gallery.add("bob", unit(1, 1), [Picture("b")]))
    same()
    assert people.match(unit(1, 1)[0]).name == "bob"
    change(folder, lambda gallery: gallery.add("anna", unit(2, 1), [Picture("a")]))  # her template is another one now
    same()
    change(folder, lambda gallery: replace(gallery, threshold=0.9999))
    same()
    change(folder, lambda gallery: replace(gallery, model_id="b" * 64, vectors=gallery.vectors[::-1]))
    with pytest.raises(UserError, match="two models"):
        people.match(VECTORS[0])
    people.recogniser.model_id = memory.recogniser.model_id = "b" * 64
    same()


def test_the_gallery_is_read_again_only_when_it_changed(folder, monkeypatch):
    people, loads = opened(folder, "memory"), []
    load = Gallery.load
    monkeypatch.setattr(Gallery, "load", lambda *words: loads.append(words) or load(*words))
    for _ in range(3):
        people.match(VECTORS[0])
    assert len(loads) == 1
    before = version(folder)
    change(folder, lambda gallery: gallery.rename("person 0", "person 99"))
    change(folder, lambda gallery: gallery.rename("person 99", "person 0"))
    assert version(folder) == before  # the same gallery again
    people.match(VECTORS[0])
    assert len(loads) == 1
    change(folder, lambda gallery: gallery.rename("person 0", "zoe"))
    assert people.match(VECTORS[0]).name == "zoe"
    assert len(loads) == 2


def test_any_change_of_gallery_json_gives_another_version(folder):
    seen = {version(folder)}
    for function in (
        lambda g: g.rename("person 1", "x"),
        lambda g: g.forget("x"),
        lambda g: replace(g, threshold=0.6),
        lambda g: replace(g, note="another"),
    ):
        change(folder, function)
        seen.add(version(folder))
    assert len(seen) == 5
    assert version(folder.parent) == ""
    (folder / "gallery.json").write_text("{}")
    assert version(folder) == ""


# ------------------------------------------------------------------------------------------------ the copy


def test_the_server_gets_templates_and_no_name(folder, server):
    opened(folder, "server", server).match(VECTORS[0])
    assert held(server) == rows(VECTORS)
    said = json.dumps(server.asked)
    assert "person" not in said
    address = open_gallery(folder).server
    assert address.startswith(f"{server.address}/collections/face3d-")
    opened(folder, "server", server).match(VECTORS[0])
    assert open_gallery(folder).server == address
    other = folder.parent / "h"
    open_gallery(folder).save(other)
    change(other, lambda gallery: replace(gallery, server=""))
    opened(other, "server", server).match(VECTORS[0])
    assert open_gallery(other).server != address


@pytest.mark.parametrize("how", ["forget", "remove", "re-embed"])
def test_what_is_taken_away_is_deleted_on_the_server_at_once(folder, server, how):
    change(folder, lambda gallery: gallery.add("person 0", unit(1, 1), [Picture("second")]))
    opened(folder, "server", server).match(VECTORS[0])
    before = held(server)
    if how == "forget":
        forget(folder, "person 0")
    elif how == "remove":
        change(folder, lambda gallery: gallery.remove("person 0", "second"))
    else:
        change(folder, lambda gallery: replace(gallery, model_id="b" * 64, vectors=unit(5, 13, 16)))
    after = open_gallery(folder)
    assert held(server) == rows(after.templates)
    assert before - held(server)


def test_a_renamed_person_costs_the_server_nothing(folder, server):
    people = opened(folder, "server", server)
    people.match(VECTORS[0])
    server.asked.clear()
    change(folder, lambda gallery: gallery.rename("person 0", "zoe"))
    assert people.match(VECTORS[0]).name == "zoe"
    assert {method for method, _, _ in server.asked} == {"GET", "POST"}


def test_a_server_out_of_reach_is_said_and_nothing_is_pretended(folder):
    with stand_in() as (address, server):
        server.address = address
        people = opened(folder, "server", server)
        people.match(VECTORS[0])
        local, port = server.local, server.server_address[1]
    with pytest.raises(UserError) as error:
        forget(folder, "person 0")
    said = str(error.value)
    assert "deleted here, but not from the server" in said
    assert f"face3d gallery sync --gallery {folder}" in said
    assert "\n" not in said
    assert "person 0" not in open_gallery(folder).names
    with pytest.raises(UserError, match="no Qdrant server answers"):
        people.match(VECTORS[1])
    assert opened(folder, "memory").match(VECTORS[1]).name == "person 1"
    with pytest.raises(UserError, match="no Qdrant server answers"):
        copy_to(folder)
    change(folder, lambda gallery: gallery.add("new", unit(1, 1), [Picture()]))  # the copy follows when it is searched
    with stand_in(port) as (again, server):
        assert again == address
        server.local = local
        assert tuple(VECTORS[0].tolist()) in held(server)
        copy_to(folder)
        assert held(server) == rows(open_gallery(folder).templates)
        assert people.match(unit(1, 1)[0]).name == "new"


def test_the_same_command_again_finishes_what_a_kill_interrupted(folder, server, monkeypatch):
    opened(folder, "server", server).match(VECTORS[0])

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("face3d_lib.serve.gallery._write", killed)
        with pytest.raises(KeyboardInterrupt):
            forget(folder, "person 0")
    assert forget(folder, "person 0") == "person 0"
    assert held(server) == rows(VECTORS[1:])


def test_a_server_that_never_answered_is_not_remembered(folder):
    people = opened(folder, "http://127.0.0.1:9")
    with pytest.raises(UserError, match="no Qdrant server answers"):
        people.match(VECTORS[0])
    assert open_gallery(folder).server == ""
    forget(folder, "person 0")


def test_one_copy_at_a_time_and_it_can_be_dropped(folder, server):
    opened(folder, "server", server).match(VECTORS[0])
    with pytest.raises(UserError, match="--drop"):
        opened(folder, "http://127.0.0.1:9").match(VECTORS[0])
    assert drop_copy(folder).startswith(server.address)
    assert server.local.get_collections().collections == []
    assert open_gallery(folder).server == ""
    with pytest.raises(UserError, match="no server has a copy"):
        drop_copy(folder)
    with pytest.raises(UserError, match="no server has a copy"):
        copy_to(folder)
    opened(folder, "server", server).match(VECTORS[0])
    server.refuse = 500
    with pytest.raises(UserError, match="refuses"):
        drop_copy(folder)
    assert open_gallery(folder).server
    drop_copy(folder, gone=True)
    assert open_gallery(folder).server == ""


def test_a_gallery_that_cannot_be_written_is_asked_at_its_copy_and_never_sent(folder, server, monkeypatch):
    people = opened(folder, "server", server)
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and access(path, mode))
    with pytest.raises(UserError, match="search in memory"):
        people.match(VECTORS[0])
    monkeypatch.undo()
    people.match(VECTORS[0])
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and access(path, mode))
    assert opened(folder, "server", server).match(VECTORS[0]).name == "person 0"


def test_somebody_who_keeps_changing_the_copy_is_said(folder, server):
    people = opened(folder, "server", server)
    people.match(VECTORS[0])
    query = server.local.query_points

    def meanwhile(name, *args, **more):
        server.local.update_collection(name, metadata={"digest": "another"})
        return query(name, *args, **more)

    server.local.query_points = meanwhile
    with pytest.raises(UserError, match="try again"):
        people.match(VECTORS[0])


# ------------------------------------------------------------------------------------------------ the command line


@pytest.mark.parametrize("word", ["", "exact", "Faiss", "localhost:6333", "ftp://x"])
def test_another_word_is_refused_with_the_words_that_are_known(folder, word):
    with pytest.raises(UserError, match="expected memory, faiss, faiss-pq or the address"):
        People.open(folder, SimpleNamespace(model_id=MODEL, size=32), search=word)


def test_the_commands(faces, tmp_path, server, one_load, recogniser):
    run = CliRunner()
    people = people_module.People.open(tmp_path / "g", recogniser)
    for person in ("p0000", "p0001"):
        people.enrol(person, faces / person / "s1_000.png", faces / person / "s1_000.npy")
    pair = [str(faces / "p0000" / f"s1_000{end}") for end in (".png", ".npy")]
    there = ["--gallery", str(tmp_path / "g"), "--json"]
    answers = [
        json.loads(run.invoke(app, ["identify", *pair, *there, "--search", word]).stdout)
        for word in ("memory", "faiss", "faiss-pq", server.address)
    ]
    assert answers[0]["name"] == "p0000"
    assert answers == answers[:1] * 4
    many = run.invoke(app, ["identify", str(faces), *there, "--search", server.address])
    known = run.invoke(app, ["identify", str(faces), *there])
    assert json.loads(many.stdout) == json.loads(known.stdout)
    assert run.invoke(app, ["gallery", "sync", "--gallery", str(tmp_path / "g")]).stdout.endswith("is up to date\n")
    assert run.invoke(app, ["forget", "p0000", *there]).exit_code == 0
    assert held(server) == rows(open_gallery(tmp_path / "g").templates)
    assert run.invoke(app, ["gallery", "sync", "--gallery", str(tmp_path / "g"), "--drop"]).stdout.endswith(
        "is deleted\n"
    )
    assert server.local.get_collections().collections == []
    refused = run.invoke(app, ["identify", *pair, "--search", "faiss"])
    assert isinstance(refused.exception, UserError)
