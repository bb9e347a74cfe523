"""Search by FAISS and by a Qdrant server: the answers of exact search, whatever ties, gaps and changes there are."""

import os
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qdrant_stand_in import stand_in

from face3d_lib.base.errors import UserError
from face3d_lib.serve import faiss_index, qdrant
from face3d_lib.serve.faiss_index import Faiss
from face3d_lib.serve.qdrant import Collection, OutOfDate, new_address
from face3d_lib.serve.search import SLACK, SPARE, Indexed, ids_of, top_k

MODEL = "a" * 64


def unit(seed, n, size=32):
    vectors = np.random.default_rng(seed).normal(size=(n, size))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def server():
    """The address of a Qdrant server: the real one at FACE3D_QDRANT, or the stand-in."""
    if address := os.environ.get("FACE3D_QDRANT"):
        yield address
    else:
        with stand_in() as (address, _):
            yield address


@pytest.fixture(params=["faiss", "qdrant"])
def index(request, server):
    if request.param == "faiss":
        yield Faiss()
    else:
        collection = Collection(new_address(server))
        yield collection
        collection.drop()


def ask(index, templates, vector, k):
    held = Indexed(templates, index)
    held.follow(MODEL)
    return held.top_k(vector, k)


def same(index, templates, vector, k):
    rows, scores = top_k(templates, vector, k)
    got = ask(index, templates, vector, k)
    assert got[0].tolist() == rows.tolist()
    np.testing.assert_array_equal(got[1], scores)


@pytest.mark.parametrize("n", [0, 1, 5, 30, 500])
@pytest.mark.parametrize("k", [1, 5, 40])
def test_the_answers_of_exact_search(index, n, k):
    same(index, unit(0, n), unit(1, 1)[0], k)


def near_ties():
    """300 templates whose scores differ by less than float32 tells apart, in no order; ten are better by 1e-7."""
    base, random = unit(3, 1)[0].astype(np.float64), np.random.default_rng(4)
    noise = random.normal(size=(300, 32)) * 1e-7
    noise[random.choice(300, 10, replace=False)] += 1e-7 * base
    return (base + noise).astype(np.float32), unit(5, 1)[0]


@pytest.mark.parametrize("k", [1, 5, 20])
def test_ties_near_ties_and_copies_come_in_the_order_of_the_gallery(index, k):
    templates, vector = near_ties()
    same(index, templates, vector, k)
    copies = np.concatenate([np.repeat(unit(0, 1), 200, axis=0), unit(1, 50), np.repeat(unit(0, 1), 3, axis=0)])
    same(index, copies, copies[0], k)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_template_that_is_not_finite_never_wins(index, bad):
    templates = unit(0, 40)
    templates[[1, 7], 3] = bad
    for k in (1, 5, 39, 40):
        same(index, templates, unit(2, 1)[0], k)
    templates[:, 3] = bad
    same(index, templates, unit(2, 1)[0], 2)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_small_gallery_by_faiss(data):
    """Few directions, so that ties are common; steps of 1e-6 and 1e-8 make near ties; some templates are broken."""
    n, k = data.draw(st.integers(0, 60)), data.draw(st.integers(1, 8))
    base = unit(data.draw(st.integers(0, 9)), 4, 8)
    steps = st.sampled_from([0.0, 1e-8, 1e-6, 1e-5, 1e-4])
    rows = [
        base[data.draw(st.integers(0, 3))] + np.float32(data.draw(steps)) * unit(data.draw(st.integers(0, 5)), 1, 8)[0]
        for _ in range(n)
    ]
    templates = np.array(rows, np.float32).reshape(n, 8)
    templates /= np.maximum(np.linalg.norm(templates, axis=1, keepdims=True), 1e-9)
    for row in data.draw(st.lists(st.integers(0, max(n - 1, 0)), max_size=3)) if n else []:
        templates[row, 0] = np.nan
    same(Faiss(), templates, base[0], k)


def test_the_index_follows_the_templates(index):
    """After people came, went and changed, the answers are those of the templates of now."""
    before, vector = unit(0, 60), unit(1, 1)[0]
    changed = before.copy()
    changed[3] = unit(9, 1)
    for templates in (before, before[5:], np.concatenate([unit(8, 4), before[5:]]), changed, before[:0], before):
        same(index, templates, vector, 5)


def test_an_index_of_another_size_is_made_anew(index):
    same(index, unit(0, 30), unit(1, 1)[0], 5)
    same(index, unit(0, 30, 16), unit(1, 1, 16)[0], 5)


def test_more_is_asked_for_until_the_best_are_sure():
    """An index that is off by less than SLACK, in the worst order, is asked again; one that is far behind is not."""

    class Shuffled:
        spare, slack = SPARE, SLACK

        def __init__(self, off):
            self.off, self.asked = off, []

        def hold(self, ids, templates, model_id):
            self.ids, self.templates = ids, templates

        def nearest(self, vector, n):
            self.asked.append(n)
            rough = self.templates @ vector
            rough = np.sign(-rough + np.median(rough)) * self.off + rough
            order = np.argsort(-rough)[:n]
            return self.ids[order], rough[order]

    templates, vector = near_ties()
    worst = Shuffled(4e-6)
    same(worst, templates, vector, 3)
    assert worst.asked == [3 + SPARE, 4 * (3 + SPARE), len(np.unique(templates, axis=0))]
    easy = Shuffled(4e-6)
    same(easy, unit(0, 300), vector, 3)
    assert easy.asked == [3 + SPARE]


def test_ids_are_made_of_the_bytes():
    templates = unit(0, 50)
    ids = ids_of(templates)
    assert (ids >= 0).all()
    assert len(set(ids.tolist())) == 50
    assert ids_of(templates[::-1])[::-1].tolist() == ids.tolist()


# ------------------------------------------------------------------------------------------------ FAISS


def test_only_what_changed_is_given_to_faiss():
    templates, faiss = unit(0, 100), Faiss()
    Indexed(templates, faiss).follow(MODEL)
    inner, added = faiss._index, []
    add = inner.add_with_ids
    inner.add_with_ids = lambda vectors, ids: (added.append(len(ids)), add(vectors, ids))
    Indexed(np.concatenate([templates[1:], unit(1, 2)]), faiss).follow(MODEL)
    assert faiss._index is inner
    assert added == [2]
    assert inner.ntotal == 101


@pytest.fixture
def coded(monkeypatch):
    """4000 templates of 128 numbers, and an approximate index of them that begins with 50 proposals."""
    monkeypatch.setattr(faiss_index, "SMALL", 1000)
    monkeypatch.setattr(faiss_index, "PROPOSED", 50)
    return unit(0, 4000, 128), Faiss(approximate=True)


def test_the_approximate_index_finds_who_is_there(coded):
    """At a score of .5 everybody is found; of the five best of a stranger, nearly all; every score is exact."""
    templates, index = coded
    held = Indexed(templates, index)
    held.follow(MODEL)
    assert held.index.slack > 0.05
    noise, right = unit(1, 50, 128), 0
    for row, stranger in enumerate(noise):
        probe = stranger - (stranger @ templates[row]) * templates[row]
        probe = np.float32(0.5) * templates[row] + np.float32(0.75**0.5) * probe / np.linalg.norm(probe)
        assert held.top_k(probe, 1)[0].tolist() == [row]
        rows, scores = held.top_k(stranger, 5)
        exact, all_scores = top_k(templates, stranger, 4000)
        assert scores.tolist() == [all_scores[exact.tolist().index(row)] for row in rows]
        right += len(set(rows) & set(exact[:5]))
    assert right >= 0.99 * 250


def test_the_approximate_index_follows_without_making_all_codes_anew(coded, monkeypatch):
    """Codes that cannot be removed are left out of the answers, and come back with their template."""
    templates, index = coded
    ask(index, templates, templates[0], 1)
    first = index._index
    shorter = np.concatenate([templates[30:], unit(2, 5, 128)])
    assert ask(index, shorter, templates[0], 5)[1].max() < 0.9
    assert ask(index, shorter, shorter[-1], 1)[0].tolist() == [len(shorter) - 1]
    assert (index._index is first, first.ntotal) == (True, 4005)
    assert ask(index, templates, templates[0], 1)[0].tolist() == [0]
    assert (index._index is first, first.ntotal) == (True, 4005)
    monkeypatch.setattr(faiss_index, "WASTE", 0.001)
    assert ask(index, shorter, templates[0], 1)[1].max() < 0.9
    assert index._index is not first
    assert index._index.ntotal == 3975


def test_few_templates_and_odd_ones_are_compared_exactly_by_the_approximate_index(coded):
    for n, size in ((300, 32), (1200, 33)):
        index = Faiss(approximate=True)
        same(index, unit(0, n, size), unit(1, 1, size)[0], 5)
        assert not index._coded


# ------------------------------------------------------------------------------------------------ Qdrant


@pytest.fixture
def watched():
    with stand_in() as (address, server):
        yield new_address(address), server


def sent(server):
    """Numbers of points that were sent and deleted."""
    up = [len(body["batch"]["ids"]) for method, what, body in server.asked if (method, what) == ("PUT", "points")]
    down = [len(body["points"]) for method, what, body in server.asked if what == "points/delete"]
    return sum(up), sum(down)


def test_only_what_changed_is_sent_and_nothing_but_numbers(watched, monkeypatch):
    address, server = watched
    monkeypatch.setattr(qdrant, "BATCH", 30)
    templates = unit(0, 100)
    Indexed(templates, Collection(address)).follow(MODEL)
    assert sent(server) == (100, 0)
    assert max(len(body["batch"]["ids"]) for _, what, body in server.asked if what == "points") == 30
    server.asked.clear()
    Indexed(templates[::-1], Collection(address)).follow(MODEL)  # by another process, in another order
    assert sent(server) == (0, 0)
    Indexed(np.concatenate([templates[2:], unit(1, 1)]), Collection(address)).follow(MODEL)
    assert sent(server) == (1, 2)
    (batch,) = [body["batch"] for method, what, body in server.asked if (method, what) == ("PUT", "points")]
    assert set(batch) == {"ids", "vectors"}
    name = address.rpartition("/")[2]
    points, _ = server.local.scroll(name, limit=1000, with_vectors=True)
    held = {tuple(point.vector) for point in points}
    assert held == {tuple(row) for row in np.concatenate([templates[2:], unit(1, 1)]).tolist()}
    assert all(not point.payload for point in points)


def test_a_collection_of_another_model_is_not_asked_and_made_anew(watched):
    address, server = watched
    templates = unit(0, 20)
    Indexed(templates, Collection(address)).follow(MODEL)
    collection = Collection(address)
    held = Indexed(templates, collection)
    collection.expect(held.ids, "b" * 64)
    with pytest.raises(OutOfDate):
        held.top_k(templates[0], 1)
    held.follow("b" * 64)
    assert sent(server) == (40, 0)
    assert held.top_k(templates[0], 1)[0].tolist() == [0]


@pytest.mark.parametrize("what", ["delete a point", "delete the collection", "a killed writer"])
def test_a_copy_that_was_damaged_is_noticed_and_mended(watched, what):
    address, server = watched
    templates, name = unit(0, 20), address.rpartition("/")[2]
    collection = Collection(address)
    held = Indexed(templates, collection)
    held.follow(MODEL)
    if what == "delete a point":
        server.local.delete(name, qdrant_points(held.ids[:1]))
    elif what == "delete the collection":
        server.local.delete_collection(name)
    else:
        server.local.update_collection(name, metadata={"digest": ""})
    assert not collection.is_current()
    if what != "delete a point":
        with pytest.raises(OutOfDate):
            held.top_k(templates[0], 1)
    same(collection, templates, templates[0], 5)
    assert collection.is_current()


def qdrant_points(ids):
    from qdrant_client import models

    return models.PointIdsList(points=ids.tolist())


def test_a_change_during_the_search_is_noticed(watched):
    address, server = watched
    templates = unit(0, 20)
    collection = Collection(address)
    held = Indexed(templates, collection)
    held.follow(MODEL)
    query = server.local.query_points

    def meanwhile(*args, **more):
        server.local.update_collection(address.rpartition("/")[2], metadata={"digest": "another"})
        return query(*args, **more)

    server.local.query_points = meanwhile
    with pytest.raises(OutOfDate):
        held.top_k(templates[0], 1)


def one_line(call):
    with pytest.raises(UserError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_server_that_does_not_answer_or_refuses_is_said_in_one_line(watched, monkeypatch):
    address, server = watched
    reach = Collection(address).reach
    for status, fix in ((403, "FACE3D_QDRANT_KEY"), (401, "FACE3D_QDRANT_KEY"), (500, "log")):
        server.refuse = status
        assert f"refuses ({status}" in one_line(reach)
        assert fix in one_line(reach)
    server.refuse = 0
    for page in (b"<html>a web page</html>", b"{}", b"[1]"):
        server.page = page
        assert "no Qdrant server answers there" in one_line(reach)
    assert "no Qdrant server answers there" in one_line(Collection(new_address("http://127.0.0.1:9")).reach)
    assert "docker run" in one_line(Collection(new_address("http://127.0.0.1:9")).reach)
    assert "no Qdrant server" in one_line(lambda: Collection(new_address("http://[half")).reach())


@pytest.mark.parametrize("package", ["faiss", "qdrant_client"])
def test_a_missing_package_is_said_with_what_installs_it(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    make = Faiss if package == "faiss" else lambda: Collection(new_address("http://localhost:6333"))
    assert "pip install 'face3d[search]'" in one_line(make)


@pytest.mark.skipif(not os.environ.get("FACE3D_QDRANT"), reason="no real Qdrant server: set FACE3D_QDRANT=http://...")
def test_a_real_server_holds_and_forgets():
    """Ten thousand templates of 512 numbers: equal answers, differences alone are sent, and nothing is left."""
    collection, templates = Collection(new_address(os.environ["FACE3D_QDRANT"])), unit(0, 10_000, 512)
    try:
        for part in (templates, templates[1:]):
            for row in range(5):
                same(collection, part, templates[row], 5)
        assert len(collection._ids()) == 9_999
        assert ids_of(templates[:1])[0] not in collection._ids()
    finally:
        collection.drop()
    assert not collection.is_current()
