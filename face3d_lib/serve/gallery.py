"""The enrolled people: the vectors of their pictures, kept with the threshold and the model that they belong to.

A face can be reconstructed from such a vector, so a gallery is protected like pictures of faces. Only its owner can
enter the folder (0700, files 0600, whatever the umask). A person can be deleted, and nothing of that person then stays
in the folder. (The disk may keep old blocks, against which disk encryption helps; nothing is encrypted here.) There is
no pickle, and there are two kinds of files: templates-<sha256>.safetensors holds the vectors, and gallery.json holds everything else
and names the first. If it was asked for, crops-<sha256>.safetensors keeps the pixels of a picture's face (see `kept`). A change
happens when gallery.json is renamed: before that the old gallery is valid, afterwards the new one. A vector that is
not finite or not of unit length is refused when it is enrolled and when it is read: one NaN would win every search.
"""

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ..base.atomic import write_bytes
from ..base.errors import UserError
from ..base.processes import Busy, only_writer
from ..evaluate.metrics.thresholds import threshold_at_far_or_above
from ..evaluate.scores import FAILED, alarm_scores, check_vectors, cosine, templates
from . import names as naming
from .qdrant import follow_deletion
from .records import Match, Picture
from .search import Indexed, top_k
from .strangers import Strangers

if TYPE_CHECKING:
    from ..evaluate.embeddings import Embeddings

FORMAT, WITHOUT_PICTURES = "face3d gallery 3", "face3d gallery 2"  # the second kept one template a person, and is read
UNWRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT)  # such a gallery can still be asked
READ_AGAIN = 20  # times, where no lock can be taken and a writer replaces files between two reads
HELD = ("templates-*.safetensors", "crops-*.safetensors")  # files that gallery.json names


@dataclass(frozen=True, eq=False)
class Gallery:
    """G people with N pictures, and the threshold on the score from which a probe is accepted."""

    names: tuple[str, ...]  # G, each once; any text
    vectors: (
        np.ndarray
    )  # (N, D) float32, unit length, read-only; those of one person lie together, in the order of names
    model_id: str  # SHA-256 of the weights that made them, or that of a `Recogniser`
    threshold: float
    development_far: float  # the FAR on development data for which the threshold was chosen
    model: str = ""  # the model's name: in its run, such as "rgbd/30_train_softmax", or as `Recogniser.load` takes it
    pictures: tuple[tuple[Picture, ...], ...] = ()  # G, the pictures of each person; () for one of each
    note: str = ""  # how the threshold was chosen, in a sentence
    keep_crops: bool = False  # whether the pixels of the faces are kept
    fixed: bool = True  # whether the threshold stays when people are added; else it is chosen anew for their number
    strangers: Strangers | None = None  # how high other people score, if it was measured for this gallery
    server: str = ""  # address of the collection with a copy of the templates (see `qdrant`); "" if there is none
    templates: np.ndarray = field(init=False)  # (G, D) float32, unit length: the weighted mean of each person's vectors

    def __post_init__(self) -> None:
        stored = np.array(self.vectors, np.float32)
        stored.flags.writeable = False
        object.__setattr__(self, "vectors", stored)
        object.__setattr__(self, "names", tuple(str(name) for name in self.names))
        object.__setattr__(self, "pictures", tuple(self.pictures) or ((Picture(),),) * len(self.names))
        try:
            acquired = check_vectors(stored, "templates")
        except ValueError as error:
            raise UserError(f"gallery: {error}; enrol again from valid embeddings") from None
        if len(self.names) != len(self.pictures) or not all(self.pictures) or len(self.owner) != len(stored):
            raise UserError(f"gallery: {len(self.names)} names for {len(stored)} templates: enrol again")
        if not acquired.all():
            name = self.names[self.owner[acquired.argmin()]]
            raise UserError(f"gallery: no usable image of {name!r}: leave this person out")
        if len(set(self.names)) < len(self.names) or "" in self.names:
            raise UserError("gallery: each person needs a name, and no two the same: rename, then enrol again")
        if not FAILED < self.threshold < np.inf or not 0 <= self.development_far <= 1:
            raise UserError(
                f"gallery: threshold {self.threshold} at FAR {self.development_far} cannot be used: "
                "choose it on more development data"
            )
        weights = np.array([picture.weight for person in self.pictures for picture in person], np.float64)
        if not (np.isfinite(weights).all() and (weights > 0).all()):
            raise UserError("gallery: a picture's weight is no number above 0: enrol again")
        object.__setattr__(self, "templates", self._mean_of_each(weights))

    @property
    def owner(self) -> np.ndarray:
        """(N,) int: the place in `names` of the person whom each vector belongs to."""
        return np.repeat(np.arange(len(self.pictures)), [len(person) for person in self.pictures])

    @cached_property
    def of_depth(self) -> dict[str, tuple[Picture, ...]]:
        """The pictures of each depth map, by its SHA-256, so that asking a large gallery does not look at every picture."""
        found: dict[str, tuple[Picture, ...]] = {}
        for picture in (picture for person in self.pictures for picture in person if picture.depth_sha256):
            found[picture.depth_sha256] = (*found.get(picture.depth_sha256, ()), picture)
        return found

    def _mean_of_each(self, weights: np.ndarray) -> np.ndarray:
        if len(self.vectors) == len(self.names):
            return self.vectors
        starts = np.flatnonzero(np.diff(self.owner, prepend=-1))
        total = np.add.reduceat(self.vectors * weights[:, None], starts, axis=0)  # (G, D) float64
        length = np.linalg.norm(total, axis=1, keepdims=True)
        if (length < 1e-6).any():
            name = self.names[int(length.argmin())]
            raise UserError(f"gallery: the pictures of {name!r} cancel out: enrol other pictures")
        mean = (total / length).astype(np.float32)
        mean.flags.writeable = False
        return mean

    @classmethod
    def enrol(
        cls,
        embeddings: "Embeddings",
        model_id: str,
        threshold: float,
        development_far: float,
        model: str = "",
        note: str = "",
    ) -> "Gallery":
        """A gallery of everybody in `embeddings`, in the order of their names, with all pictures of each.

        A failed picture (a vector of zeros) is left out. UserError where an embedding is not finite, not of unit length, or a
        person has no usable picture.
        """
        try:
            acquired = check_vectors(embeddings.vectors)
        except ValueError as error:
            raise UserError(f"gallery: {error}; embed again") from None
        owners = embeddings.subject_ids.astype(str)
        if missing := sorted(set(owners.tolist()) - set(owners[acquired].tolist())):
            raise UserError(f"gallery: no usable image of {missing[0]!r}: leave this person out")
        names, owner = np.unique(owners[acquired], return_inverse=True)
        order = np.argsort(owner, kind="stable")
        pictures: list[list[Picture]] = [[] for _ in names]
        for row in order:
            pictures[owner[row]].append(Picture(str(embeddings.pair_ids[acquired][row])))
        vectors, shown = embeddings.vectors[acquired][order], tuple(map(tuple, pictures))
        return cls(
            tuple(names.tolist()), vectors, model_id, float(threshold), float(development_far), model, shown, note
        )

    def identify(self, vector: np.ndarray, k: int = 5, by: Indexed | None = None) -> Match:
        """The person whom the unit vector (D,) shows: the best candidate if the score is >= threshold, else nobody.

        by: an index of this gallery's templates; without one all of them are compared.
        A vector of zeros (no face was found) scores -1. Raises UserError where the vector is not finite or has
        another length than the templates. A template that is not finite scores -1 and can neither win
        nor be accepted.
        """
        try:
            check_vectors(np.asarray(vector)[None], "probe")
            if len(vector) != self.templates.shape[1]:
                raise ValueError(f"probe has {len(vector)} dimensions, the gallery {self.templates.shape[1]}")
        except ValueError as error:
            raise UserError(f"{error}: embed it with the model of the gallery") from None
        rows, scores = by.top_k(vector, k) if by else top_k(self.templates, vector, k)
        candidates = tuple((self.names[row], float(score)) for row, score in zip(rows, scores, strict=True))
        score = candidates[0][1] if candidates else FAILED
        known = bool(
            np.isfinite(score) and score >= self.threshold
        )  # not `not score < threshold`, which NaN would pass
        return Match(known, candidates[0][0] if known else None, score, self.threshold, candidates)

    def find(self, name: str) -> str:
        """The enrolled name that `name` means (see `names.find`). UserError if nobody has it, or two people have it."""
        return naming.find(name, self.names)

    def of(self, name: str) -> tuple[np.ndarray, tuple[Picture, ...]]:
        """(the vectors (n, D), the pictures) of an enrolled person (see `find`)."""
        place = self.names.index(self.find(name))
        return self.vectors[self.owner == place], self.pictures[place]

    @property
    def references(self) -> tuple[str, ...]:
        """G: the pair_id of the picture of each person that counts most, to show; "" where it is not known."""
        return tuple(max(person, key=lambda picture: picture.weight).pair_id for person in self.pictures)

    def reference(self, name: str) -> str:
        """The pair_id of the picture that shows this enrolled person."""
        return self.references[self.names.index(name)]

    def add(self, name: str, vectors: np.ndarray, pictures: Sequence[Picture]) -> "Gallery":
        """The gallery with more pictures (n) of a person, who may be enrolled already; `vectors` (n, D) of unit length.

        UserError where the name cannot be used (`names.checked`), or vectors have another length than the others.
        """
        if not len(pictures) == len(vectors) or not len(pictures):
            raise ValueError(f"{len(pictures)} pictures for {len(vectors)} vectors: one or more are needed")
        if len(self.names) and np.shape(vectors)[1] != self.vectors.shape[1]:
            raise UserError("gallery: the vectors are of another model: enrol with the model of the gallery")
        same = [other for other in self.names if naming.letters(other) == naming.letters(name).strip()]
        people = self._people()
        if same:
            before, shown = people[same[0]]
            people[same[0]] = np.concatenate([before, vectors]), (*shown, *pictures)
        else:
            people[naming.checked(name)] = np.asarray(vectors), tuple(pictures)
        return self._with(people)

    def rename(self, name: str, new: str) -> "Gallery":
        """The gallery in which a person has another name. UserError where it is taken, or cannot be used."""
        name, new = self.find(name), naming.checked(new)
        if taken := [other for other in self.names if naming.letters(other) == new and other != name]:
            raise UserError(f"gallery: {taken[0]!r} is enrolled already: give another name, or forget one of the two")
        return replace(self, names=tuple(new if other == name else other for other in self.names))

    def remove(self, name: str, pair_id: str) -> "Gallery":
        """The gallery without one picture of a person. UserError where there is none of that name, or no other one."""
        vectors, pictures = self.of(name)
        kept = [place for place, picture in enumerate(pictures) if picture.pair_id != pair_id]
        if len(kept) == len(pictures):
            known = ", ".join(picture.pair_id for picture in pictures)
            raise UserError(f"gallery: {name!r} has no picture {pair_id!r}; there are {known}")
        if not kept:
            raise UserError(f"gallery: {pair_id!r} is the only picture of {name!r}: forget the person instead")
        people = self._people()
        people[self.find(name)] = vectors[kept], tuple(pictures[place] for place in kept)
        return self._with(people)

    def forget(self, name: str) -> "Gallery":
        """The gallery without one person (see `find`). On disk: the function `forget`."""
        name = self.find(name)
        return self._with({other: held for other, held in self._people().items() if other != name})

    def _people(self) -> dict[str, tuple[np.ndarray, tuple[Picture, ...]]]:
        ends = np.cumsum([len(person) for person in self.pictures])[:-1]
        parts = np.split(self.vectors, ends) if self.names else []
        return dict(zip(self.names, zip(parts, self.pictures, strict=True), strict=True))

    def _with(self, people: dict[str, tuple[np.ndarray, tuple[Picture, ...]]]) -> "Gallery":
        vectors = [vectors for vectors, _ in people.values()]
        stacked = np.concatenate(vectors) if vectors else np.empty((0, self.vectors.shape[1]), np.float32)
        return replace(
            self, names=tuple(people), vectors=stacked, pictures=tuple(shown for _, shown in people.values())
        )

    def save(self, folder: Path) -> None:
        """Write the gallery to a folder of its own, replacing one there; a kill leaves the old or the new."""
        with _owned(Path(folder)):
            _write(self, Path(folder))

    @classmethod
    def load(cls, folder: Path, model_id: str) -> "Gallery":
        """The gallery of a folder; UserError where it is missing, damaged, or was made by another model."""
        gallery = open_gallery(folder)
        gallery.require_model(model_id, folder)
        return gallery

    def require_model(self, model_id: str, where: Path) -> None:
        """UserError unless the templates were made by the model with these weights (their SHA-256)."""
        if self.model_id != model_id:
            raise UserError(
                f"{where}: enrolled with model {self.model_id[:12]}, asked with {model_id[:12]}: "
                "vectors of two models cannot be compared: enrol again, or move the gallery by face3d gallery re-embed"
            )


def enrol_everybody(
    vectors: "Embeddings", development: Sequence[str], far: float, model_id: str, model: str = ""
) -> Gallery:
    """The gallery that is served: everybody in `vectors`, with a threshold chosen for this gallery.

    development: pair_ids of people who took no part in training. Each of these pictures is compared with everybody
    but its own person, as if it showed an unknown person, and the lowest threshold is taken at which at most the share
    `far` of them is accepted. Where there is no such picture, all pictures are used in this way. The network
    was trained on most of those people and tells them apart better than unknown people, so a larger share than `far` of
    unknown people will be accepted. The gallery's `note` says which pictures were used.
    """
    everybody = templates(vectors)
    pair_ids = list(development) or vectors.pair_ids.tolist()
    probes = vectors.select(pair_ids)
    likeness = alarm_scores(cosine(probes.vectors, everybody.vectors), probes.subject_ids, everybody.subject_ids)
    threshold, reason = threshold_at_far_or_above(likeness[: None if len(everybody) > 1 else 0], far)
    people = f"{len(probes)} pictures of {len(set(probes.subject_ids.tolist()))}"
    note = f"for FAR {far:g}, on {people} development people who took no part in training"
    if not len(development):
        note = f"for FAR {far:g}, on {people} people most of whom the network was trained on: strangers may be accepted more often"
    return Gallery.enrol(vectors, model_id, threshold, far, model, f"{note}; {reason}" if reason else note)


def exists(folder: Path) -> bool:
    """Whether there is a gallery in the folder, of whatever format."""
    return (Path(folder) / "gallery.json").is_file()


def open_gallery(folder: Path) -> Gallery:
    """The gallery of a folder, whatever its model; a change that a kill interrupted is finished if possible."""
    folder = Path(folder)
    _require_gallery(folder)
    if os.access(folder, os.W_OK):
        try:
            with _owned(folder, patience_seconds=0):
                gallery = _read(folder)
                _sweep(folder)
                return gallery
        except Busy:
            pass  # who asks need not wait for who writes
        except OSError as error:
            if error.errno not in UNWRITABLE:
                raise
    for _ in range(READ_AGAIN):
        before = (folder / "gallery.json").read_bytes()
        try:
            return _read(folder)
        except UserError:
            if (folder / "gallery.json").read_bytes() == before:
                raise
    return _read(folder)


def change(
    folder: Path,
    function: Callable[[Gallery], Gallery],
    new: Gallery | None = None,
    crops: Mapping[str, bytes] | None = None,
) -> Gallery:
    """Replace the gallery of a folder by `function` of it, and return the result.

    No other process changes the gallery between reading and writing. If this is killed, the gallery is the old one or the new
    one. new: the gallery to begin with where there is none; without it that is a UserError, as is a damaged gallery. crops:
    the files (name -> bytes) that pictures added by `function` name.

    Where something was taken away and a server holds a copy, it is deleted there, too. If that fails the folder is changed all the
    same, and a UserError says what the server still holds.
    """
    folder = Path(folder)
    if new is None or exists(folder):
        _require_gallery(folder)
    else:
        _require_room(folder)
    with _owned(folder):
        if exists(folder) or new is None:
            before = _read(folder)
            _sweep(folder)
        else:
            before = new
        after = function(before)
        left = ""  # on the server, which comes first: if this is killed in between, the same command does the rest
        if after.server and (len(after.vectors) < len(before.vectors) or after.model_id != before.model_id):
            left = follow_deletion(after.server, after.templates, after.model_id, folder)
        if after is not before or not exists(folder):
            _write(after, folder, crops or {})
    if left:
        raise UserError(left)
    return after


def forget(folder: Path, name: str, picture: str | None = None) -> str:
    """Delete a person, or only the picture of this pair_id, from the gallery in `folder`; returns the name as it was enrolled.

    Neither the vectors, nor the name, nor the file names or pixels of what is deleted stay in any file of the folder.
    If this is killed, the person is either deleted or not; the next reader or writer, such as the same command again,
    removes leftover files. UserError as of `Gallery.find` and `Gallery.remove`, and where the gallery is missing or damaged.
    """
    enrolled_as = ""

    def without(gallery: Gallery) -> Gallery:
        nonlocal enrolled_as
        enrolled_as = gallery.find(name)
        if picture is None:
            return gallery.forget(enrolled_as)
        return gallery.remove(enrolled_as, picture)  # an empty name is no picture, and not the person

    change(folder, without)
    return enrolled_as


def _require_room(folder: Path) -> None:
    """UserError unless a new gallery can be made in `folder`.

    What belongs to a gallery may be there: a killed writer left it, or another one is just making the gallery.
    """
    if (folder.exists() or folder.is_symlink()) and not folder.is_dir():
        raise UserError(f"{folder}: no folder: name a folder for the gallery")
    ours = {path for pattern in (*HELD, "gallery.json") for path in folder.glob(pattern)}
    if folder.is_dir() and any(not path.name.startswith(".") and path not in ours for path in folder.iterdir()):
        raise UserError(f"{folder}: holds other files and no gallery: name a folder of its own for the gallery")


def _require_gallery(folder: Path) -> None:
    if not exists(folder):
        raise UserError(f"{folder}: no gallery there: face3d enroll makes one, as does notebook 50_predict_identity")


def _write(gallery: Gallery, folder: Path, crops: Mapping[str, bytes] | None = None) -> None:
    """Write vectors and crops first, then gallery.json, whose renaming is the change; then delete the old files."""
    tensors = save({"vectors": gallery.vectors})
    digest = hashlib.sha256(tensors).hexdigest()
    file = f"templates-{digest[:16]}.safetensors"
    body = {
        "format": FORMAT,
        "people": [
            {"name": name, "pictures": [asdict(picture) for picture in shown]}
            for name, shown in zip(gallery.names, gallery.pictures, strict=True)
        ],
        "templates": file,
        "templates_sha256": digest,
        **{key: getattr(gallery, key) for key in (*FACTS, *NEWER)},
        "strangers": gallery.strangers.as_json() if gallery.strangers else None,
        "server": gallery.server,
    }
    try:
        write_bytes(folder / file, tensors)
        for name, data in (crops or {}).items():
            write_bytes(folder / name, data)
        write_bytes(folder / "gallery.json", json.dumps({**body, "sha256": _digest(body)}, indent=1).encode())  # ASCII
    finally:  # also where the disk is full: what was written for nothing is deleted
        _sweep(folder)


FACTS = ("model_id", "threshold", "development_far", "model", "note")
NEWER = ("keep_crops", "fixed")  # facts that galleries without pictures do not hold


def _read(folder: Path) -> Gallery:
    path = folder / "gallery.json"
    try:
        body = json.loads(path.read_bytes())
        claimed, kind = body.pop("sha256"), str(body["format"])
        if kind not in (FORMAT, WITHOUT_PICTURES):
            newer = kind.rpartition(" ")[2].isdigit() and int(kind.rpartition(" ")[2]) > int(FORMAT[-1])
            if newer and kind.startswith(FORMAT[:-1]):
                raise UserError(f"{path}: written by a newer version ({kind}): install the present version of face3d")
            raise ValueError(f"it is of another format, {kind!r}")
        if claimed != _digest(body):
            raise ValueError("its SHA-256 differs")
        path = folder / Path(body["templates"]).name
        tensors = path.read_bytes()
        if hashlib.sha256(tensors).hexdigest() != body["templates_sha256"]:
            raise ValueError("its SHA-256 differs")
        found = load(tensors)
        facts: dict[str, Any] = {key: body[key] for key in FACTS}
        names = tuple(person["name"] for person in body["people"])
        if kind == WITHOUT_PICTURES:
            shown: tuple = tuple((Picture(person["reference"]),) for person in body["people"])
            return Gallery(names, found["templates"], pictures=shown, **facts)
        facts |= {key: body[key] for key in NEWER}
        facts["server"] = str(body.get("server", ""))
        facts["strangers"] = Strangers.read(body["strangers"]) if body["strangers"] else None
        shown = tuple(tuple(Picture(**picture) for picture in person["pictures"]) for person in body["people"])
        return Gallery(names, found["vectors"], pictures=shown, **facts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError, RecursionError) as error:
        raise UserError(f"{path}: the gallery cannot be used ({error}): enrol again") from None


def _digest(body: dict) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _sweep(folder: Path) -> None:
    """Delete the files that gallery.json does not name: those of an old gallery, or of a killed writer."""
    current = set()
    if exists(folder):
        body = json.loads((folder / "gallery.json").read_bytes())
        current = {body["templates"]}
        current |= {picture["crops"] for person in body["people"] for picture in person.get("pictures", ())}
    for pattern in HELD:
        for old in folder.glob(pattern):
            if old.name not in current:
                old.unlink()


@contextmanager
def _owned(folder: Path, patience_seconds: float = 60) -> Iterator[None]:
    """One reader or writer at a time in a folder that only its owner can enter; its files are the owner's."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    before = os.umask(0o077)
    try:
        with only_writer(folder, patience_seconds):
            yield
    finally:
        os.umask(before)
