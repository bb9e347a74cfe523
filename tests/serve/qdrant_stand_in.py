"""The few requests of Qdrant's REST interface that the library makes, answered from the local mode of its client.

So what the library sends passes through HTTP and JSON, as to a real server. It is a test double, and no server: the tests that
use it ask the server at FACE3D_QDRANT instead, where that variable is set.
"""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from qdrant_client import QdrantClient, models


class StandIn(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "null")
        path = self.path.partition("?")[0]
        _, name, *rest = (*path.strip("/").split("/"), "")
        rest = rest[:-1]
        self.server.asked.append((self.command, "/".join(rest), body))
        try:
            status, result = self.server.refuse or 200, None
            if status == 200:
                with self.server.one_at_a_time:
                    result = answer(self.server.local, self.command, "/".join(rest), name, body)
        except ValueError as error:  # the local mode's word for a collection that is not there
            status, result = 404, str(error)
        data = self.server.page or json.dumps({"result": result, "status": "ok", "time": 0.0}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = answer

    def log_message(self, *_):
        pass


def answer(local, method, what, name, body):
    done = {"operation_id": 0, "status": "completed"}
    match method, what:
        case "GET", "exists":
            return {"exists": local.collection_exists(name)}
        case "GET", "":
            return local.get_collection(name).model_dump(mode="json")
        case "PUT", "":
            asked = models.CreateCollection.model_validate(body)
            return local.create_collection(name, asked.vectors, metadata=asked.metadata)
        case "PATCH", "":
            return local.update_collection(name, metadata=body["metadata"])
        case "DELETE", "":
            return local.delete_collection(name)
        case "PUT", "points":
            local.upsert(name, models.Batch.model_validate(body["batch"]))
            return done
        case "POST", "points/delete":
            local.delete(name, models.PointIdsList.model_validate(body))
            return done
        case "POST", "points/count":
            return {"count": local.count(name).count}
        case "POST", "points/scroll":
            points, start = local.scroll(name, limit=body["limit"], offset=body.get("offset"), with_payload=False)
            return {"points": [{"id": point.id} for point in points], "next_page_offset": start}
        case "POST", "points/query":
            asked = models.QueryRequest.model_validate(body)
            if not asked.params.exact:
                raise ValueError("the search is not exact")
            found = local.query_points(name, asked.query, limit=asked.limit).points
            return {"points": [{"id": point.id, "version": 0, "score": point.score} for point in found]}
    raise ValueError(f"{method} {what}: the stand-in does not know this request")


@contextmanager
def stand_in(port=0):
    """(address, server): `server.asked` is a list of (method, what, body), `server.local` the client in its local mode."""
    server = ThreadingHTTPServer(("127.0.0.1", port), StandIn)
    server.daemon_threads = True
    server.local = QdrantClient(":memory:", force_disable_check_same_thread=True)
    server.asked, server.refuse, server.page, server.one_at_a_time = [], 0, b"", threading.Lock()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
