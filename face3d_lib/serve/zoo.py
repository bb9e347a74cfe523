"""Models to get and to give: a folder, a web address or a repository of the Hugging Face hub that holds them.

A *source* has models.json, the index, and a folder for each model with card.json and model.safetensors. The index holds
the SHA-256 of each card, and the card that of its weights, so that a model is used as it was published or not at all. This
protects from cut and altered downloads; whom you trust with the index is your choice. A download that was cut goes on
where it stopped. What was fetched stays in a cache (FACE3D_WEIGHTS) and needs no network again. Files are never unpickled.
"""

import hashlib
import re
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from tqdm.auto import tqdm

from ..base.atomic import replacing, sha256_of, write_bytes
from ..base.errors import UserError, nearest
from ..train.model_files import About, ModelCard, Sha256, load_model, read_card, save_model
from ..train.weights import FOLDER, TIMEOUT_SECONDS

INDEX, CARD, WEIGHTS = "models.json", "card.json", "model.safetensors"
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
MOST_BYTES = 1 << 20  # of an index or a card
HUB = "hf:"  # before USER/REPOSITORY


class Entry(BaseModel):
    """One model of an index."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    card_sha256: Sha256
    weights_sha256: Sha256
    n_bytes: Annotated[int, Field(gt=0)]  # of the weights


class Index(BaseModel):
    """models.json of a source."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    format: Literal["face3d models 1"] = "face3d models 1"
    models: dict[str, Entry] = {}


def cached(name: str) -> Path:
    """The folder in the cache that a model of this name has, or would have. UserError: no name of a model."""
    return FOLDER / "models" / checked_name(name)


def checked_name(name: str) -> str:
    """`name`, if a model can be called so: it becomes a folder here and part of an address there."""
    if not NAME.fullmatch(name):
        raise UserError(f"model {name!r}: a name has 1 to 64 of a-z, 0-9, point, dash and underscore, a letter first")
    return name


def read_index(source: str) -> Index:
    """The models of a source. UserError: it cannot be reached, or has no index that can be read."""
    data = _fetch(source, INDEX)
    try:
        index = Index.model_validate_json(data)
    except ValidationError as error:
        page = "a web page came instead: " if data.lstrip()[:1] == b"<" else ""
        reason = error.errors()[0]["msg"]
        raise UserError(f"{source}/{INDEX}: {page}no list of models ({reason}): correct the address") from None
    for name in index.models:
        checked_name(name)
    return index


def get_model(name: str, source: str = "") -> Path:
    """The folder of a model in the cache; it is fetched from `source` if it is not there as the source has it.

    Without a source only the cache is looked at. UserError: there is no such model, the source cannot be reached, or what
    came is cut (the same call then goes on where it stopped), altered, or a web page.
    """
    folder = cached(name)
    if not source:
        if not (folder / CARD).is_file():
            raise UserError(f"model {name}: not in the cache: say with --from where it is")
        return folder
    index = read_index(source)
    if name not in index.models:
        raise UserError(f"{source}: has no model {name!r}: it has {nearest(name, index.models)}")
    entry = index.models[name]
    if _is_whole(folder, entry):
        return folder
    data = _fetch(source, f"{name}/{CARD}")
    if hashlib.sha256(data).hexdigest() != entry.card_sha256:
        raise UserError(f"{source}/{name}/{CARD}: not the card that the index names (SHA-256 differs): ask its owner")
    part = FOLDER / "models" / f".{entry.weights_sha256[:16]}.part"
    part.parent.mkdir(parents=True, exist_ok=True)
    _fetch_large(source, f"{name}/{WEIGHTS}", part, entry.n_bytes)
    if sha256_of(part) != entry.weights_sha256:
        part.unlink()
        raise UserError(
            f"{source}/{name}/{WEIGHTS}: altered (SHA-256 differs): deleted; get it again, or ask its owner"
        )
    (folder / CARD).unlink(missing_ok=True)  # an old card must not describe new weights
    with replacing(folder / WEIGHTS) as sibling:
        shutil.move(part, sibling)
    write_bytes(folder / CARD, data)
    if read_card(folder).weights_sha256 != entry.weights_sha256:
        raise UserError(f"{source}/{name}: card and index name different weights: ask its owner")
    return folder


def push_model(folder: Path, card: ModelCard, source: str, name: str, about: About) -> None:
    """Publish the model in `folder` as `name`: into a folder, or into a repository of the hub (hf:USER/REPOSITORY).

    All that is in `folder` is published (see `for_others`). The index is written last, so that a reader never finds a model that is not whole. UserError: the name is taken by
    another model, an address cannot be written to, or the hub refuses.
    """
    checked_name(name)
    if _is_web(source):
        raise UserError(f"{source}: a web address cannot be written to: push into a folder and upload that folder")
    text = card.model_copy(update={"about": about}).model_dump_json(indent=2) + "\n"
    weights = (Path(folder) / WEIGHTS).read_bytes()
    if hashlib.sha256(weights).hexdigest() != card.weights_sha256:
        raise UserError(f"{folder}/{WEIGHTS}: not the weights that the card describes: train or fetch the model again")
    entry = Entry(
        card_sha256=hashlib.sha256(text.encode()).hexdigest(),
        weights_sha256=str(card.weights_sha256),
        n_bytes=len(weights),
    )
    index = _index_or_new(source)
    if (there := index.models.get(name)) and there.weights_sha256 != entry.weights_sha256:
        raise UserError(f"{source}: has another model called {name}: choose another name, such as {name}-2")
    index = index.model_copy(update={"models": index.models | {name: entry}})
    listed = index.model_dump_json(indent=2) + "\n"
    files = {f"{name}/{WEIGHTS}": weights, f"{name}/{CARD}": text.encode(), INDEX: listed.encode()}
    if source.startswith(HUB):
        _upload(source, files, name)
        return
    for file, data in files.items():
        write_bytes(Path(source) / file, data)


@contextmanager
def for_others(folder: Path, half: bool = False) -> Iterator[Path]:
    """A temporary folder with the model of `folder` as it may be given away: without its classifier, and without the names of
    the people whom it was trained on.

    half: in float16; it is computed in float32 still, and embeddings change by less than 0.01. UserError as of `load_model`.
    """
    network, card = load_model(folder)
    with tempfile.TemporaryDirectory() as place:
        save_model(Path(place), network, card.model_copy(update={"classes": []}), half=half)
        yield Path(place)


class _Missing(UserError):
    """A source has no such file."""


def _index_or_new(source: str) -> Index:
    try:
        return read_index(source)
    except _Missing:
        return Index()


def _upload(source: str, files: dict[str, bytes], name: str) -> None:
    """One commit with all files."""
    with _hub(source) as (hub, repository):
        changes = [hub.CommitOperationAdd(file, data) for file, data in files.items()]
        hub.HfApi().create_commit(repository, changes, commit_message=f"Add {name}")


@contextmanager
def _hub(source: str) -> Iterator[tuple]:
    """(huggingface_hub, the repository); its errors become UserError, that of a file that is not there _Missing."""
    try:
        import huggingface_hub as hub
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
    except ImportError:
        raise UserError(f"{source}: needs the package huggingface_hub: pip install huggingface_hub") from None
    try:
        yield hub, source.removeprefix(HUB)
    except UserError:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            raise _Missing(f"{source}: has no such file ({reason}): correct the name") from None
        raise UserError(
            f"{source}: the hub refuses or is out of reach ({reason}): check the name, then log in"
        ) from None


def _is_web(source: str) -> bool:
    return source.startswith(("http://", "https://"))


def _is_whole(folder: Path, entry: Entry) -> bool:
    hashes = {CARD: entry.card_sha256, WEIGHTS: entry.weights_sha256}
    return all((folder / file).is_file() and sha256_of(folder / file) == sha for file, sha in hashes.items())


def _fetch(source: str, file: str) -> bytes:
    """A small file of a source. UserError: it is not there, too large, or out of reach."""
    if _is_web(source):
        with _opened(f"{source.rstrip('/')}/{file}") as answer:
            data = answer.read(MOST_BYTES + 1)
    else:
        path = _local(source, file)
        data = path.read_bytes() if path.stat().st_size <= MOST_BYTES else b" " * (MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise UserError(f"{source}/{file}: larger than {MOST_BYTES} bytes: not a file of a model")
    return data


def _local(source: str, file: str) -> Path:
    """A file of a folder, or of the hub after it was fetched into the hub's own cache."""
    if source.startswith(HUB):
        with _hub(source) as (hub, repository):
            return Path(hub.hf_hub_download(repository, file))
    path = Path(source) / file
    if not path.is_file():
        raise _Missing(f"{path}: there is no such file: correct the folder")
    return path


def _fetch_large(source: str, file: str, part: Path, n_bytes: int) -> None:
    """`part` as the whole file of a source; what it holds already is not fetched again. UserError as of `get_model`."""
    if not _is_web(source):
        whole = _local(source, file)
        try:
            shutil.copyfile(whole, part)
        except OSError as error:  # of a full disk it would name the source
            part.unlink(missing_ok=True)
            raise OSError(error.errno, error.strerror, str(part)) from None
        return
    there = part.stat().st_size if part.exists() else 0
    if there > n_bytes:
        part.unlink()
        there = 0
    url = f"{source.rstrip('/')}/{file}"
    if there < n_bytes:
        with _opened(url, there) as answer:
            resumed = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {there}-")
            there = there if resumed else 0
            with (
                part.open("ab" if resumed else "wb") as out,
                tqdm(total=n_bytes, initial=there, desc=file, unit="B", unit_scale=True) as bar,
            ):
                while there < n_bytes and (chunk := answer.read(min(1 << 18, n_bytes - there))):
                    out.write(chunk)
                    there += len(chunk)
                    bar.update(len(chunk))
    if there < n_bytes:
        raise UserError(f"{url}: cut after {there} of {n_bytes} bytes: the same command goes on from there")


@contextmanager
def _opened(url: str, start: int = 0) -> Iterator:
    """The answer to a request for `url` from byte `start` on; errors of the network become UserError."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
            if answer.headers.get_content_type() == "text/html":
                raise UserError(
                    f"{url}: a web page came instead of the file: correct the address, or log in to the network"
                )
            yield answer
    except urllib.error.HTTPError as error:
        raise UserError(f"{url}: {error.code} {error.reason}: correct the address, or ask its owner") from None
    except (OSError, HTTPException, ValueError) as error:
        reason = " ".join(str(getattr(error, "reason", error)).split()) or type(error).__name__
        raise UserError(f"{url}: no download ({reason}): the same command goes on where it stopped") from None
