"""Models come whole or not at all: from a folder, from a server that cuts, alters or answers with a page, and from a hub."""

import base64
import errno
import hashlib
import http.server
import json
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from face3d_lib import cli
from face3d_lib.base.errors import UserError
from face3d_lib.data.warp import AlignSettings
from face3d_lib.serve import zoo
from face3d_lib.serve.models import folder_of, load_named
from face3d_lib.serve.shelf import at_hand
from face3d_lib.train import model_files
from face3d_lib.train.embedder import Architecture, Embedder
from face3d_lib.train.losses import SoftmaxLoss
from face3d_lib.train.model_files import About

ABOUT = About(data="noise", protocol="none", licence="CC0-1.0", command="make demo")
WEIGHTS = f"lab-rgb/{zoo.WEIGHTS}"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(zoo, "FOLDER", tmp_path / "cache")
    monkeypatch.setattr("face3d_lib.serve.shelf.FETCHED", tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def model(tmp_path):
    """A small untrained model in a folder."""
    torch.manual_seed(0)
    network, settings = Embedder(Architecture("rgb", embedding_size=8)), AlignSettings()
    source = {"settings_hash": settings.hash(), "alignment": vars(settings), "depth_unit": "mm"}
    card = model_files.make_card(network, SimpleNamespace(info={"source": source, "sha256": {}}), [], {}, {"eer": 0.1})
    model_files.save_model(tmp_path / "trained", network, card)
    return tmp_path / "trained"


@pytest.fixture
def shelf(model, tmp_path):
    """A folder into which the model was pushed as lab-rgb."""
    zoo.push_model(model, model_files.read_card(model), str(tmp_path / "shelf"), "lab-rgb", ABOUT)
    return tmp_path / "shelf"


@pytest.fixture
def server(shelf):
    """Serves the shelf; `faults` changes what it does, `asked` lists (path, Range) of all requests."""
    state = SimpleNamespace(faults={}, asked=[])

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            path, span = self.path.removeprefix("/models/"), self.headers.get("Range")
            state.asked.append((path, span))
            data = (shelf / path).read_bytes() if (shelf / path).is_file() else None
            if data is None:
                self.send_error(404)
                return
            fault = state.faults.get(path)
            start = int(span.removeprefix("bytes=").rstrip("-")) if span and fault != "no ranges" else 0
            if fault == "page":
                data = b"<html>log in</html>"
            if fault == "altered":
                data = data[:-1] + bytes([data[-1] ^ 1])
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.send_header("Content-Type", "text/html" if fault == "page" else "application/octet-stream")
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            end = start + (len(data) - start) // 2 if fault == "cut" else len(data)
            self.wfile.write(data[start:end])

        def log_message(self, *_):
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    state.url = f"http://127.0.0.1:{httpd.server_port}/models"
    yield state
    httpd.shutdown()
    httpd.server_close()


def same_weights(a, b):
    one, two = (load_named(str(folder))[0].state_dict() for folder in (a, b))
    return all(torch.equal(one[key], two[key]) for key in one) and one.keys() == two.keys()


def test_a_model_comes_back_from_a_folder_with_what_must_be_known(model, shelf, cache):
    folder = zoo.get_model("lab-rgb", str(shelf))
    assert folder == cache / "models" / "lab-rgb"
    assert same_weights(folder, model)
    assert model_files.read_card(folder).about == ABOUT
    assert folder_of("lab-rgb") == folder
    for path in shelf.rglob("*"):
        path.unlink() if path.is_file() else None
    assert zoo.get_model("lab-rgb") == folder, "the cache needs no source"
    assert at_hand()["lab-rgb"][0] == "in the cache"


def test_a_model_comes_over_the_network_once(model, server):
    folder = zoo.get_model("lab-rgb", server.url)
    assert same_weights(folder, model)
    assert [path for path, _ in server.asked] == [zoo.INDEX, f"lab-rgb/{zoo.CARD}", WEIGHTS]
    zoo.get_model("lab-rgb", server.url)
    assert [path for path, _ in server.asked[3:]] == [zoo.INDEX]
    assert sorted(p.name for p in folder.parent.iterdir()) == ["lab-rgb"], "nothing is left beside it"


def test_a_download_that_was_cut_goes_on_where_it_stopped(model, shelf, server):
    whole = (shelf / WEIGHTS).stat().st_size
    server.faults[WEIGHTS] = "cut"
    with pytest.raises(UserError, match=rf"cut after {whole // 2} of {whole} bytes: the same command goes on"):
        zoo.get_model("lab-rgb", server.url)
    with pytest.raises(UserError, match="not in the cache"):
        zoo.get_model("lab-rgb")
    server.faults.clear()
    server.asked.clear()
    assert same_weights(zoo.get_model("lab-rgb", server.url), model)
    assert server.asked[-1] == (WEIGHTS, f"bytes={whole // 2}-")


def test_a_server_that_knows_no_ranges_sends_all_of_it_again(model, server):
    server.faults[WEIGHTS] = "cut"
    with pytest.raises(UserError, match="cut after"):
        zoo.get_model("lab-rgb", server.url)
    server.faults[WEIGHTS] = "no ranges"
    assert same_weights(zoo.get_model("lab-rgb", server.url), model)


@pytest.mark.parametrize(
    ("file", "fault", "message"),
    [
        (WEIGHTS, "altered", r"altered \(SHA-256 differs\)"),
        (WEIGHTS, "page", "a web page came instead"),
        (f"lab-rgb/{zoo.CARD}", "altered", "not the card that the index names"),
        (f"lab-rgb/{zoo.CARD}", "page", "a web page came instead"),
        (zoo.INDEX, "page", "a web page came instead"),
        (zoo.INDEX, "cut", "no list of models|no download"),
    ],
)
def test_what_is_altered_or_a_page_is_refused_and_never_used(server, file, fault, message):
    server.faults[file] = fault
    with pytest.raises(UserError, match=message):
        zoo.get_model("lab-rgb", server.url)
    with pytest.raises(UserError, match="not in the cache"):
        zoo.get_model("lab-rgb")
    server.faults.clear()
    zoo.get_model("lab-rgb", server.url)  # and it does not stand in the way


def test_a_model_in_the_cache_that_was_damaged_is_fetched_again(model, server, cache):
    folder = zoo.get_model("lab-rgb", server.url)
    (folder / zoo.WEIGHTS).write_bytes(b"damaged")
    with pytest.raises(UserError, match="SHA-256 differs"):
        load_named("lab-rgb")
    assert same_weights(zoo.get_model("lab-rgb", server.url), model)


def test_sources_that_are_not_there(server, tmp_path):
    with pytest.raises(UserError, match="404"):
        zoo.read_index(f"{server.url}/elsewhere")
    with pytest.raises(UserError, match="no download"):
        zoo.read_index("http://127.0.0.1:9/models")
    with pytest.raises(UserError, match="there is no such file"):
        zoo.read_index(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="it has lab-rgb"):
        zoo.get_model("lab-rgbd", server.url)


@pytest.mark.parametrize("name", ["../evil", "a/b", "", "A", ".hidden", "x" * 65, "name\n"])
def test_names_that_would_leave_the_folder_are_refused(shelf, model, name):
    with pytest.raises(UserError, match="a name has"):
        zoo.get_model(name, str(shelf))
    with pytest.raises(UserError, match="a name has"):
        zoo.push_model(model, model_files.read_card(model), str(shelf), name, ABOUT)
    index = json.loads((shelf / zoo.INDEX).read_text())
    index["models"][name] = index["models"]["lab-rgb"]
    (shelf / zoo.INDEX).write_text(json.dumps(index))
    with pytest.raises(UserError, match="a name has"):
        zoo.read_index(str(shelf))


def test_nothing_is_pushed_over_another_model(model, shelf, tmp_path):
    zoo.push_model(model, model_files.read_card(model), str(shelf), "lab-rgb", ABOUT)  # the same again is allowed
    torch.manual_seed(1)
    card = model_files.save_model(model, Embedder(Architecture("rgb", embedding_size=8)), model_files.read_card(model))
    with pytest.raises(UserError, match="another model called lab-rgb"):
        zoo.push_model(model, card, str(shelf), "lab-rgb", ABOUT)
    zoo.push_model(model, card, str(shelf), "second", ABOUT)
    assert list(zoo.read_index(str(shelf)).models) == ["lab-rgb", "second"]
    (model / zoo.WEIGHTS).write_bytes(b"other")
    with pytest.raises(UserError, match="not the weights that the card describes"):
        zoo.push_model(model, card, str(shelf), "third", ABOUT)
    with pytest.raises(UserError, match="cannot be written to"):
        zoo.push_model(model, card, "https://example.org", "third", ABOUT)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A server on this machine that answers the client of the Hugging Face hub as the hub does; `files` is what it holds."""
    from huggingface_hub import constants

    state = SimpleNamespace(files={}, commits=[])

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self, status, data, headers=()):
            self.send_response(status)
            for name, value in (("Content-Length", len(data)), *headers):
                self.send_header(name, str(value))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def do_GET(self):
            repository, _, file = self.path.partition("/resolve/main/")
            if repository != "/lab/faces":
                self.answer(401, b"", [("X-Error-Code", "RepoNotFound")])
            elif file not in state.files:
                self.answer(404, b"", [("X-Error-Code", "EntryNotFound"), ("X-Repo-Commit", "1" * 40)])
            else:
                data = state.files[file]
                etag = hashlib.sha256(data).hexdigest()
                self.answer(200, data, [("ETag", f'"{etag}"'), ("X-Repo-Commit", etag[:40])])

        do_HEAD = do_GET

        def do_POST(self):
            sent = self.rfile.read(int(self.headers["Content-Length"])).decode()
            if self.path == "/api/models/lab/faces/preupload/main":
                modes = [
                    {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for file in json.loads(sent)["files"]
                ]
                self.answer(200, json.dumps({"files": modes}).encode())
            elif self.path == "/api/models/lab/faces/commit/main":
                lines = [json.loads(line) for line in sent.splitlines()]
                state.commits.append(lines[0]["value"]["summary"])
                added = [line["value"] for line in lines if line["key"] == "file"]
                state.files |= {file["path"]: base64.b64decode(file["content"]) for file in added}
                url = f"{state.url}/lab/faces/commit/{'2' * 40}"
                self.answer(200, json.dumps({"commitUrl": url, "commitOid": "2" * 40}).encode())
            else:
                self.answer(401, b"", [("X-Error-Code", "RepoNotFound")])

        def log_message(self, *_):
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    state.url = f"http://127.0.0.1:{httpd.server_port}"

    def stop():
        httpd.shutdown()
        httpd.server_close()

    state.stop = stop
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, state.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", state.url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    yield state
    stop()


def test_a_hub_is_a_source_like_any_other(model, hub, cache):
    """Through the released client, down to the requests."""
    card = model_files.read_card(model)
    with pytest.raises(UserError, match=r"hf:lab/faces: has no such file .*models.json"):
        zoo.get_model("lab-rgb", "hf:lab/faces")
    zoo.push_model(model, card, "hf:lab/faces", "lab-rgb", ABOUT)
    assert hub.commits == ["Add lab-rgb"], "index, card and weights are one commit"
    assert same_weights(zoo.get_model("lab-rgb", "hf:lab/faces"), model)
    zoo.push_model(model, card, "hf:lab/faces", "second", ABOUT)
    assert list(zoo.read_index("hf:lab/faces").models) == ["lab-rgb", "second"], "a push adds to what is there"
    hub.files[f"second/{zoo.WEIGHTS}"] = b"altered"
    with pytest.raises(UserError, match=r"altered \(SHA-256 differs\)"):
        zoo.get_model("second", "hf:lab/faces")
    with pytest.raises(UserError, match="the hub refuses or is out of reach"):
        zoo.read_index("hf:lab/nothing")
    with pytest.raises(UserError, match="the hub refuses or is out of reach"):
        zoo.push_model(model, card, "hf:lab/nothing", "lab-rgb", ABOUT)


def test_what_came_from_the_hub_needs_it_no_more(model, hub):
    zoo.push_model(model, model_files.read_card(model), "hf:lab/faces", "lab-rgb", ABOUT)
    zoo.get_model("lab-rgb", "hf:lab/faces")
    hub.stop()
    assert same_weights(zoo.get_model("lab-rgb", "hf:lab/faces"), model)
    with pytest.raises(UserError, match="the hub refuses or is out of reach"):
        zoo.read_index("hf:lab/others")


def test_the_commands(model, shelf):
    def face3d(*words):
        return CliRunner().invoke(cli.app, ["models", *map(str, words)])

    listed = json.loads(face3d("list", "--from", shelf, "--json").output)
    assert {row["model"] for row in listed} == {"dlib", "depth_synthetic", "rgbd_synthetic", "lab-rgb"}
    got = json.loads(face3d("get", "lab-rgb", "--from", shelf, "--json").output)
    assert got["licence"] == "CC0-1.0"
    assert got["metrics"] == {"eer": 0.1}
    words = ["--to", shelf, "--name", "second", "--data", "noise", "--protocol", "none", "--command", "make demo"]
    assert face3d("push", model, *words).exit_code == 2, "a licence is asked for"
    done = face3d("push", model, *words, "--licence", "CC0-1.0")
    assert done.exit_code == 0, done.output
    assert "second" in zoo.read_index(str(shelf)).models
    half = face3d("push", model, *[w if w != "second" else "half" for w in words], "--licence", "CC0-1.0", "--half")
    assert half.exit_code == 0, half.output
    there = zoo.read_index(str(shelf)).models
    assert there["half"].n_bytes < 0.6 * there["second"].n_bytes
    small, large = (load_named(str(shelf / name))[0].state_dict() for name in ("half", "second"))
    assert all(torch.allclose(small[key].float(), large[key].float(), rtol=1e-3, atol=1e-6) for key in large)
    assert "lab-rgb" in face3d("list").output


@pytest.mark.parametrize("half", [[], ["--half"]])
def test_the_people_whom_a_model_was_trained_on_are_not_published(model, tmp_path, half):
    network, card = model_files.load_model(model)
    named = card.model_copy(update={"classes": ["anna", "bob"]})
    model_files.save_model(model, network, named, SoftmaxLoss(8, 2))
    assert any(key.startswith("loss.") for key in load_file(model / zoo.WEIGHTS))
    words = ["--data", "faces", "--protocol", "none", "--licence", "CC0-1.0", "--command", "make demo", *half]
    done = CliRunner().invoke(
        cli.app, ["models", "push", str(model), "--to", str(tmp_path / "s"), "--name", "m", *words]
    )
    assert done.exit_code == 0, done.output
    assert not [path for path in (tmp_path / "s").rglob("*") if path.is_file() and b"anna" in path.read_bytes()]
    assert model_files.read_card(tmp_path / "s" / "m").classes == []
    assert not [key for key in load_file(tmp_path / "s" / "m" / zoo.WEIGHTS) if key.startswith("loss.")]


def test_every_way_to_name_a_model(model):
    assert folder_of(str(model)) == model
    assert folder_of(str(model.parent / "trained")) == model
    assert folder_of("depth_synthetic").name == "depth_synthetic"
    names = ("dlib", "depth_synthetic", "rgbd_synthetic", str(model))
    assert len({load_named(name)[1].weights_sha256 for name in names}) == 4
    with pytest.raises(UserError, match="no such model"):
        load_named("nobody")


def test_a_full_disk_is_said_with_the_file_that_was_written(tmp_path, monkeypatch):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model.safetensors").write_bytes(b"x" * 100)

    def full(source, target):
        Path(target).write_bytes(b"x")
        raise OSError(errno.ENOSPC, "No space left on device", str(source))

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(OSError, match=r"there\.part"):
        zoo._fetch_large(str(tmp_path), "m/model.safetensors", tmp_path / "there.part", 100)
    assert not (tmp_path / "there.part").exists()
