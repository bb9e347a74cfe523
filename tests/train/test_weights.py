"""Downloaded weights are the released file or none: everything else that can come is refused, in one line."""

import hashlib
import pickle
import re
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests
import torch
from safetensors.torch import save_file

from face3d_lib.base.errors import UserError
from face3d_lib.train import weights

PAGE = b"<html>captive portal: please log in</html>"


class Answers(BaseHTTPRequestHandler):
    """/good/, /wrong/, /page/ and /short/, whatever file is asked for; anything else is not found."""

    def do_GET(self):
        self.server.asked.append(self.path)
        good, kind = self.server.good, self.path.split("/")[1]
        bodies = {"good": good, "wrong": good[:-1] + b"!", "page": PAGE, "short": good[: len(good) // 2]}
        if kind not in bodies:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8" if kind == "page" else "application/octet-stream")
        self.send_header("Content-Length", str(len(PAGE) if kind == "page" else len(good)))
        self.end_headers()
        self.wfile.write(bodies[kind])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A running server; `server.path(kind)` asks for weights whose address is of that kind."""
    torch.save({"weight": torch.arange(1000.0)}, tmp_path / "source.pth")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.good, server.asked = (tmp_path / "source.pth").read_bytes(), []
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(weights, "FOLDER", tmp_path / "weights")
    monkeypatch.setattr(weights, "TIMEOUT_SECONDS", 5)

    def path(kind, port=server.server_port):
        sha256 = hashlib.sha256(server.good).hexdigest()
        source = weights.Source(f"http://127.0.0.1:{port}/{kind}/small.pth", sha256, "numbers")
        monkeypatch.setattr(weights, "SOURCES", {("imagenet", "resnet18"): source})
        return weights.locate("imagenet", "resnet18")

    server.path = path
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def refused(caught, folder):
    """The message is one line that names what to put where, and nothing is left in the folder."""
    message = str(caught.value)
    assert "\n" not in message
    assert "small.pth from http://127.0.0.1" in message
    assert str(folder) in message
    assert all(len(word) == 64 for word in message.split("SHA-256 ")[-1].split(")")[:1])
    assert not folder.exists() or list(folder.iterdir()) == []


def test_a_file_is_downloaded_once_and_hashed_each_time(server):
    path = server.path("good")
    assert path == weights.FOLDER / "small.pth"
    assert path.read_bytes() == server.good
    assert torch.equal(weights.read_state(path)["weight"], torch.arange(1000.0))
    assert server.path("good") == path
    assert server.asked == ["/good/small.pth"]
    data = bytearray(path.read_bytes())
    data[300] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"small\.pth: not the released file .*delete it") as caught:
        server.path("good")
    assert "\n" not in str(caught.value)
    assert server.asked == ["/good/small.pth"]  # not replaced in silence


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("wrong", r"\(SHA-256 "), ("page", "login page"), ("short", r"\d+ bytes read, \d+ more"), ("gone", "Not Found")],
)
def test_what_is_not_the_file_is_refused(server, kind, reason):
    with pytest.raises(UserError, match=reason) as caught:
        server.path(kind)
    refused(caught, weights.FOLDER)
    assert server.asked == [f"/{kind}/small.pth"]  # and not asked for again


def test_offline_the_error_comes_from_the_first_try(server, monkeypatch):
    tries, get = [], requests.get
    monkeypatch.setattr(requests, "get", lambda *a, **k: (tries.append(k["timeout"]), get(*a, **k))[1])
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(UserError, match="Connection refused") as caught:
            server.path("good", unused.getsockname()[1])
    refused(caught, weights.FOLDER)
    assert tries == [5]


def test_a_server_that_says_nothing_is_not_waited_for(server, monkeypatch):
    monkeypatch.setattr(weights, "TIMEOUT_SECONDS", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(UserError, match="timed out") as caught:
            server.path("good", silent.getsockname()[1])
    refused(caught, weights.FOLDER)


def test_a_name_means_released_weights_and_a_path_a_file(tmp_path):
    assert weights.locate(str(tmp_path / "mine.pth"), "small") == tmp_path / "mine.pth"
    for init, backbone in [("imagenet", "small"), ("imagenet", "facenet"), ("vggface2", "resnet50")]:
        with pytest.raises(UserError, match=rf"{init}.*no such weights.*{backbone}.*there are imagenet for resnet18"):
            weights.locate(init, backbone)


def test_the_table_of_sources_is_sound():
    for source in weights.SOURCES.values():
        assert len(bytes.fromhex(source.sha256)) == 32
        if isinstance(source, weights.Packaged):  # found without importing the package: such a name has no dot
            assert "." not in source.package
            assert re.fullmatch(r"[\w-]+==[\d.]+", source.distribution)
            continue
        assert source.url.startswith("https://")
        if source.url.startswith("https://download.pytorch.org/"):  # a name there ends with the start of the hash
            assert source.name.rsplit("-", 1)[1].removesuffix(".pth") == source.sha256[:8]


@pytest.fixture
def packaged(tmp_path, monkeypatch):
    """A package on the path whose code must not run, and which holds one file of weights."""
    folder = tmp_path / "packages" / "some_model"
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise SystemExit('code of the package was run')", encoding="utf-8")
    torch.save({"weight": torch.arange(1000.0)}, folder / "models" / "some.pth")
    monkeypatch.syspath_prepend(str(folder.parent))
    sha256 = hashlib.sha256((folder / "models" / "some.pth").read_bytes()).hexdigest()
    source = weights.Packaged("some_model", "some-model==0.1.0", "models/some.pth", sha256, "numbers")
    monkeypatch.setattr(weights, "SOURCES", {("imagenet", "resnet18"): source})
    return folder / "models" / "some.pth"


def test_a_file_of_a_package_is_found_without_running_the_package(packaged):
    assert weights.locate("imagenet", "resnet18") == packaged
    assert torch.equal(weights.read_state(packaged)["weight"], torch.arange(1000.0))
    assert "some_model" not in sys.modules


@pytest.mark.parametrize("harm", ["other", "truncated", "no file", "no package"])
def test_a_packaged_file_that_is_not_the_released_one_is_one_line(packaged, harm, monkeypatch):
    data = packaged.read_bytes()
    if harm == "no package":
        monkeypatch.undo()  # the folder is no longer on the path
        source = weights.Packaged("some_model", "some-model==0.1.0", "models/some.pth", "0" * 64, "numbers")
        monkeypatch.setattr(weights, "SOURCES", {("imagenet", "resnet18"): source})
    elif harm == "no file":
        packaged.unlink()
    else:
        packaged.write_bytes(data[:-100] if harm == "truncated" else data[:-1] + b"!")
    expected = r"some_model/models/some\.pth: not inst" if harm.startswith("no ") else r"some\.pth: not the file"
    with pytest.raises(UserError, match=expected) as caught:
        weights.locate("imagenet", "resnet18")
    message = str(caught.value)
    assert "some-model==0.1.0" in message  # which package to install
    assert "\n" not in message


@pytest.mark.parametrize("harm", ["missing", "truncated", "empty", "pickle", "no tensors", "text", "folder"])
def test_files_that_cannot_be_read_safely_are_one_line(tmp_path, harm):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "pwned"), "w"))

    path = tmp_path / ("weights.safetensors" if harm == "text" else "weights.pth")
    if harm == "truncated":
        torch.save({"weight": torch.zeros(5000)}, path)
        path.write_bytes(path.read_bytes()[:5000])
    elif harm == "pickle":
        path.write_bytes(pickle.dumps(Evil()))
    elif harm == "no tensors":
        torch.save({"model": {"weight": torch.zeros(3)}}, path)
    elif harm == "folder":
        path.mkdir()
    elif harm != "missing":
        path.write_bytes(PAGE if harm == "text" else b"")
    with pytest.raises(UserError, match=r"weights\.(pth|safetensors)") as caught:
        weights.read_state(path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "pwned").exists()


def test_both_formats_are_read(tmp_path):
    state = {"weight": torch.randn(3, 2)}
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "a.pt")
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)  # as files of 2018 are
    for name in ("a.safetensors", "a.pt", "old.pt"):
        assert torch.equal(weights.read_state(tmp_path / name)["weight"], state["weight"])
