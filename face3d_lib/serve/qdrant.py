"""A copy of a gallery's templates on a Qdrant server, which searches them. The gallery's folder stays what counts.

A gallery has a collection of its own, named by chance, whose address stands in gallery.json, so that whoever is forgotten is
deleted from the server, too. The server gets templates and ids made of their bytes, and no names. What the collection holds
is said in its metadata: the model, and a digest over all ids. A writer takes the digest away before it changes points and writes
it again afterwards, and a search counts only if the right digest stood there before and after it.
"""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from ..base.environment import setting
from ..base.errors import UserError
from .search import SLACK, SPARE, Indexed

BATCH = 1000  # points in a request: 10 MB of JSON for templates of 512 numbers
SECONDS, PATIENCE = 60, 600  # that a request may take; one that may have to wait for the server to tidy up


class OutOfDate(Exception):
    """The collection does not hold what it is asked for."""


def new_address(server: str) -> str:
    """The address of a collection that does not exist yet on the server at http://host:port."""
    return f"{server.rstrip('/')}/collections/face3d-{uuid.uuid4().hex}"


def digest_of(ids: np.ndarray, model_id: str) -> str:
    """SHA-256 over a model and sorted ids, which are made of the templates' bytes."""
    return sha256(model_id.encode() + np.sort(ids).astype("<i8").tobytes()).hexdigest()


def follow_deletion(address: str, templates: np.ndarray, model_id: str, folder: Path) -> str:
    """Delete from the copy what is no longer among the templates (G, D) of the gallery in `folder`.

    Returns "", or where that fails a line that says what is deleted in the folder alone.
    """
    try:
        Indexed(templates, Collection(address)).follow(model_id)
        return ""
    except UserError as error:
        return (
            f"{folder}: deleted here, but not from the server, which still holds the templates: {error}; "
            f"then face3d gallery sync --gallery {folder}"
        )


class Collection:
    """The collection of one gallery at an address as of `new_address`: an `Index` that is exact.

    UserError where the package is missing, and from every call where the server is out of reach or refuses.
    """

    spare, slack = SPARE, SLACK

    def __init__(self, address: str) -> None:
        try:
            import qdrant_client
        except ImportError:
            raise UserError("--search needs qdrant-client: pip install 'face3d[search]', or make env") from None
        self._server, _, self._name = address.rpartition("/collections/")
        self._models, self._client = qdrant_client.models, None
        self._expected, self._count = "", 0
        with self._asking():
            self._client = qdrant_client.QdrantClient(
                url=self._server,
                api_key=setting("FACE3D_QDRANT_KEY") or None,
                timeout=SECONDS,
                check_compatibility=False,  # it would warn where a later call fails in one line
            )

    def hold(self, ids: np.ndarray, templates: np.ndarray, model_id: str) -> None:
        """As `Index.hold`: sends what the server lacks, and deletes what it holds beyond that."""
        self.expect(ids, model_id)
        if self.is_current():
            return
        with self._asking() as client:
            facts = self._facts()
            if facts is not None and (facts.get("model_id"), facts.get("size")) != (model_id, templates.shape[1]):
                client.delete_collection(self._name)
                facts = None
            if facts is None:
                self._create(templates.shape[1], model_id)
                held = np.empty(0, np.int64)
            else:
                client.update_collection(self._name, metadata={"digest": ""}, timeout=PATIENCE)
                held = self._ids()
            gone, new = np.setdiff1d(held, ids), np.flatnonzero(~np.isin(ids, held))
            for start in range(0, len(gone), BATCH):
                points = self._models.PointIdsList(points=gone[start : start + BATCH].tolist())
                client.delete(self._name, points, wait=True)
            for start in range(0, len(new), BATCH):
                rows = new[start : start + BATCH]
                batch = self._models.Batch(ids=ids[rows].tolist(), vectors=templates[rows].tolist())
                client.upsert(self._name, batch, wait=True)
            client.update_collection(self._name, metadata={"digest": self._expected}, timeout=PATIENCE)
        if not self.is_current():
            raise UserError(f"{self._server}: the server does not keep what it is sent: Qdrant 1.16 or newer is needed")

    def expect(self, ids: np.ndarray, model_id: str) -> None:
        """From now on searches are meant for a collection that holds these templates."""
        self._expected, self._count = digest_of(ids, model_id), len(ids)

    def is_current(self) -> bool:
        """Whether the collection holds what is expected, by its digest and the number of its points."""
        with self._asking() as client:
            facts = self._facts()
            if facts is None or facts.get("digest") != self._expected:
                return False
            return bool(client.count(self._name, exact=True).count == self._count)

    def nearest(self, vector: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        """As `Index.nearest`. OutOfDate where the collection did not hold the expected templates all the time."""
        with self._asking() as client:
            self._require()
            exact = self._models.SearchParams(exact=True)
            points = client.query_points(
                self._name, query=vector.tolist(), limit=n, search_params=exact, with_payload=False
            ).points
            self._require()
        return np.array([point.id for point in points], np.int64), np.array([point.score for point in points])

    def drop(self) -> None:
        """Delete the collection."""
        with self._asking() as client:
            client.delete_collection(self._name)

    def reach(self) -> None:
        """UserError where the server is out of reach or refuses."""
        with self._asking() as client:
            client.collection_exists(self._name)

    def _require(self) -> None:
        facts = self._facts()
        if facts is None or facts.get("digest") != self._expected:
            raise OutOfDate

    def _facts(self) -> dict[str, Any] | None:
        """What the collection says of itself; None where there is none."""
        client: Any = self._client
        if not client.collection_exists(self._name):
            return None
        return dict(client.get_collection(self._name).config.metadata or {})

    def _create(self, size: int, model_id: str) -> None:
        client: Any = self._client
        client.create_collection(
            self._name,
            vectors_config=self._models.VectorParams(size=size, distance=self._models.Distance.DOT),
            hnsw_config=self._models.HnswConfigDiff(m=0),  # every template is compared, so no graph is built
            metadata={"format": "face3d 1", "model_id": model_id, "size": size, "digest": ""},
        )

    def _ids(self) -> np.ndarray:
        client: Any = self._client
        found: list[int] = []
        start = None
        while True:
            points, start = client.scroll(
                self._name, limit=10 * BATCH, offset=start, with_payload=False, with_vectors=False
            )
            found += [point.id for point in points]
            if start is None:
                return np.array(found, np.int64)

    @contextmanager
    def _asking(self) -> Iterator[Any]:
        """The client; its errors become UserError of one line."""
        from qdrant_client.common.client_exceptions import QdrantException
        from qdrant_client.http.exceptions import ApiException, UnexpectedResponse

        try:
            yield self._client
        except UnexpectedResponse as error:
            fix = "set FACE3D_QDRANT_KEY to its key" if error.status_code in (401, 403) else "look into its log"
            said = f"{error.status_code} {error.reason_phrase}".strip()
            raise UserError(f"{self._server}: the Qdrant server refuses ({said}): {fix}") from None
        except (ApiException, QdrantException, OSError, ValueError, AssertionError) as error:
            reason = " ".join(str(getattr(error, "source", error)).split())[:100]
            raise UserError(
                f"{self._server}: no Qdrant server answers there ({reason}): start it (docker run -p 6333:6333 "
                "qdrant/qdrant), or correct the address"
            ) from None
