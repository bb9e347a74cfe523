"""Weights that others have trained: where they are from, what they must hash to, and how they are read.

A file is downloaded once, when a network is asked to start from it, and only gets its name when its SHA-256 is
the one written here; it is hashed again each time it is used. Nothing is retried: offline, the error says at
once which file to put where.
"""

import hashlib
import pickle
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from tqdm.auto import tqdm

from ..base.atomic import replacing, sha256_of
from ..base.errors import UserError
from ..base.paths import folder_setting

FOLDER = folder_setting("FACE3D_WEIGHTS", "runs/weights")
TIMEOUT = 10  # seconds for a connection, and for each part of an answer


@dataclass(frozen=True)
class Source:
    """A released file; its name is the last part of the address."""

    url: str
    sha256: str  # of the whole file, in hexadecimal
    about: str  # trained on what, licence

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[-1]


# (init, backbone). torchvision writes the first 8 digits of the hash into the name; timm calls these tv_in1k
SOURCES = {
    ("imagenet", "resnet18"): Source(
        "https://download.pytorch.org/models/resnet18-f37072fd.pth",
        "f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec",
        "ImageNet-1k, torchvision, BSD-3-Clause",
    ),
    ("imagenet", "resnet50"): Source(
        "https://download.pytorch.org/models/resnet50-0676ba61.pth",
        "0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a",
        "ImageNet-1k, torchvision, BSD-3-Clause",
    ),
    ("vggface2", "facenet"): Source(
        "https://github.com/timesler/facenet-pytorch/releases/download/v2.2.9/20180402-114759-vggface2.pt",
        "281cebca8662831adb987a874bdcb36e73f5b1c6dc5ee5878f305e985625d99b",
        "VGGFace2, facenet-pytorch; its code is MIT, for the weights no licence is stated",
    ),
}


def locate(init: str | Path, backbone: str) -> Path:
    """The file that `init` means: a released one by its name ("imagenet", "vggface2"), else a local path as it is.

    A released file lies in FOLDER, and is downloaded if it is not there. UserError: there are no such weights
    for this backbone, the file is not the released one, or it cannot be downloaded.
    """
    if init not in {name for name, _ in SOURCES}:
        return Path(init)
    if (source := SOURCES.get((init, backbone))) is None:
        known = ", ".join(f"{name} for {of}" for name, of in SOURCES)
        raise UserError(f"init = {init!r}: no such weights for backbone {backbone!r}: there are {known}")
    path = FOLDER / source.name
    if not path.exists():
        download(source, path)
    elif (found := sha256_of(path)) != source.sha256:
        raise UserError(f"{path}: not the released file (SHA-256 {found[:12]}...): delete it; {_by_hand(source, path)}")
    return path


def download(source: Source, path: Path) -> None:
    """Fetch `source` to `path`; nothing is left there unless it came whole and hashes right (UserError)."""
    try:
        with replacing(path) as sibling:
            kind, expected, size, sha256 = _receive(source, sibling)
            if sha256 != source.sha256:
                what = f"SHA-256 {sha256[:12]}..., {source.sha256[:12]}... expected"
                what = f"{size} of {expected} bytes" if expected not in (None, size) else what
                what = "a web page" if kind == "text/html" else what
                raise UserError(f"{source.url}: what came is not the file ({what}): {_by_hand(source, path)}")
    except (OSError, ValueError, HTTPException) as error:
        reason = " ".join(str(getattr(error, "reason", error)).split())
        raise UserError(f"{source.url}: no download ({reason}): {_by_hand(source, path)}") from None


def _receive(source: Source, target: Path) -> tuple[str, int | None, int, str]:
    """Write what the address answers to `target`: its media type, size announced, size written and SHA-256."""
    digest, written = hashlib.sha256(), 0
    with urllib.request.urlopen(source.url, timeout=TIMEOUT) as answer, open(target, "wb") as file:
        announced = int(answer.headers["Content-Length"]) if answer.headers["Content-Length"] else None
        with tqdm(total=announced, desc=f"download {source.name}", unit="B", unit_scale=True) as bar:
            while block := answer.read(1 << 20):
                file.write(block)
                digest.update(block)
                written += len(block)
                bar.update(len(block))
        return answer.headers.get_content_type(), announced, written, digest.hexdigest()


def _by_hand(source: Source, path: Path) -> str:
    return f"put {source.name} from {source.url} (SHA-256 {source.sha256}) into {path.parent}, or use init = 'scratch'"


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """The state dict in a local .safetensors file or PyTorch file, on the CPU; code in it is never run (UserError)."""
    path = Path(path)
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
        if not all(isinstance(value, torch.Tensor) for value in state.values()):
            raise ValueError("not all entries are tensors")
    except FileNotFoundError:
        raise UserError(
            f"{path}: not there: put the weights there, or use init = 'scratch', 'imagenet' or 'vggface2'"
        ) from None
    except (
        OSError,
        RuntimeError,
        ValueError,
        AttributeError,
        EOFError,
        SafetensorError,
        pickle.UnpicklingError,
    ) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{path}: no state dict that can be read safely ({reason}): use a .safetensors file") from None
    return state
