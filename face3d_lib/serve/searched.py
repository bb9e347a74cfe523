"""How a gallery in use is searched: in memory, by FAISS, or by a Qdrant server; the index follows the gallery.

`memory` and `faiss` compare all templates and give the same answers, as does a server at http://host:6333. `faiss-pq` compares short
codes first and is faster in very large galleries (see `faiss_index`).

The first search by a server copies the templates to it, and gallery.json then holds the address of the copy. Later searches send
what changed. A gallery that cannot be written, as on read-only media, is not copied; the copy that it names is searched if
it is up to date.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..base.errors import UserError
from . import gallery as store
from .faiss_index import Faiss
from .gallery import Gallery, Match
from .qdrant import Collection, OutOfDate, new_address
from .search import Indexed

TRIES = 5  # of a search whose gallery is being changed by others


def version(folder: Path) -> str:
    """What tells the gallery in a folder from any other, read without reading all of it: the end of gallery.json, which is a
    SHA-256 over everything else. "" where there is no gallery, or one that ends otherwise."""
    try:
        with open(Path(folder) / "gallery.json", "rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - 90, 0))
            end = file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    return end if '"sha256": "' in end else ""


class Searched:
    """The gallery of a folder with a way to search it; `search` as in `People.open`.

    UserError where `search` is another word, or a package is missing.
    """

    def __init__(self, folder: Path, search: str) -> None:
        self._folder, self._search = folder, search
        self._known: tuple[Gallery, Indexed] | None = None
        self._faiss: Faiss | None = None
        if search in ("faiss", "faiss-pq"):
            self._faiss = Faiss(approximate=search == "faiss-pq")
        elif search.startswith(("http://", "https://")):
            Collection(new_address(search))
        elif search != "memory":
            raise UserError(
                f"--search {search}: expected memory, faiss, faiss-pq or the address of a Qdrant server, "
                "such as http://localhost:6333"
            )

    def identify(self, read: Callable[[], Gallery], vector: np.ndarray, k: int) -> Match:
        """`Gallery.identify` in the gallery that `read` returns, as it is on disk."""
        for _ in range(TRIES):
            gallery, index = self.ready(read)
            try:
                return gallery.identify(vector, k, index)
            except OutOfDate:
                self._known = None
        raise UserError(f"{self._folder}: somebody keeps changing the gallery or its copy on the server: try again")

    def ready(self, read: Callable[[], Gallery]) -> tuple[Gallery, Indexed | None]:
        """The gallery and the index that holds its templates; None where all of them are compared in memory."""
        gallery = read()
        if self._search == "memory":
            return gallery, None
        if self._known is None or self._known[0] is not gallery:
            self._known = self._on_server(read) if self._faiss is None else (gallery, self._by_faiss(gallery))
        return self._known

    def _by_faiss(self, gallery: Gallery) -> Indexed:
        assert self._faiss is not None
        index = Indexed(gallery.templates, self._faiss)
        index.follow(gallery.model_id)
        return index

    def _on_server(self, read: Callable[[], Gallery]) -> tuple[Gallery, Indexed]:
        gallery = read()
        if gallery.server:
            _require_same(self._folder, gallery.server, self._search)
            collection = Collection(gallery.server)
            index = Indexed(gallery.templates, collection)
            collection.expect(index.ids, gallery.model_id)
            if collection.is_current():
                return gallery, index
        copy_to(self._folder, self._search)
        gallery = read()
        collection = Collection(gallery.server)
        index = Indexed(gallery.templates, collection)
        collection.expect(index.ids, gallery.model_id)
        return gallery, index


def copy_to(folder: Path, server: str = "") -> Gallery:
    """Make a server hold exactly the templates of the gallery in `folder`; by default the server that has a copy.

    The address of the copy is written into gallery.json before anything is sent. Nobody else changes the gallery meanwhile.
    UserError where the server is out of reach, another server has a copy, or none is known; or the folder cannot be written.
    """

    def named(gallery: Gallery) -> Gallery:
        if gallery.server:
            _require_same(folder, gallery.server, server)
            return gallery
        if not server:
            raise UserError(f"{folder}: no server has a copy of this gallery: face3d identify --search makes one")
        address = new_address(server)
        Collection(address).reach()
        return replace(gallery, server=address)

    def sent(gallery: Gallery) -> Gallery:
        Indexed(gallery.templates, Collection(gallery.server)).follow(gallery.model_id)
        return gallery

    if store.exists(folder) and not os.access(folder, os.W_OK):
        raise UserError(f"{folder}: cannot be written, so no copy on a server can be renewed: search in memory")
    store.change(folder, named)
    return store.change(folder, sent)


def drop_copy(folder: Path, gone: bool = False) -> str:
    """Delete the copy from its server, and its address from gallery.json; returns the address.

    gone: the server no longer exists, so only the address is deleted. UserError where there is no copy, or the server is out
    of reach.
    """
    dropped = ""

    def without(gallery: Gallery) -> Gallery:
        nonlocal dropped
        dropped = gallery.server
        if not dropped:
            raise UserError(f"{folder}: no server has a copy of this gallery")
        if not gone:
            Collection(dropped).drop()
        return replace(gallery, server="")

    store.change(folder, without)
    return dropped


def _require_same(folder: Path, address: str, server: str) -> None:
    if server and not address.startswith(server.rstrip("/") + "/collections/"):
        held = address.partition("/collections/")[0]
        raise UserError(
            f"{folder}: its copy is at {held}: search there, or first face3d gallery sync --gallery {folder} --drop"
        )
