"""The enrolled: one template per person, kept with the threshold and the model they are good for.

A face can be rebuilt from its template, so a gallery is kept as a face picture would be: its folder is for
its owner only (0700, files 0600, whatever the umask), it can forget a person, and nothing of that person
stays in the folder. (The disk below may keep old blocks; that is for disk encryption.) Two files, no pickle:
templates-<sha256>.safetensors, and gallery.json, which names it. A template that is not finite or not of unit
length is refused when it is enrolled and when it is read: one NaN would win every search.
"""

import hashlib
import json
import os
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ..base.atomic import write_bytes
from ..base.errors import UserError
from ..base.processes import only_writer
from ..evaluate.scores import FAILED, check_vectors, cosine, templates

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Match:
    """Whom a probe was taken for."""

    name: str  # UNKNOWN when not known; a person may be called so, therefore ask `known`
    known: bool  # score >= threshold
    score: float  # of the best candidate, in [-1, 1]; -1 where nobody is enrolled
    threshold: float
    candidates: tuple  # the best k as (name, score), best first, whether accepted or not


@dataclass(frozen=True, eq=False)
class Gallery:
    """Templates of G people and the rule to accept one: score >= threshold, chosen on development people."""

    names: tuple[str, ...]  # G, each once; any text
    templates: np.ndarray  # (G, D) float32, unit length, read-only
    model_id: str  # SHA-256 of the weights that made them
    threshold: float
    development_far: float  # the FAR on development data at which the threshold was chosen

    def __post_init__(self):
        stored = np.array(self.templates, np.float32)
        stored.flags.writeable = False
        object.__setattr__(self, "templates", stored)
        object.__setattr__(self, "names", tuple(str(name) for name in self.names))
        try:
            acquired = check_vectors(stored, "templates")
        except ValueError as error:
            raise UserError(f"gallery: {error}; enrol again from sound embeddings") from None
        if len(self.names) != len(stored):
            raise UserError(f"gallery: {len(self.names)} names for {len(stored)} templates: enrol again")
        if not acquired.all():
            raise UserError(f"gallery: no usable image of {self.names[acquired.argmin()]!r}: leave them out")
        if len(set(self.names)) < len(self.names) or "" in self.names:
            raise UserError("gallery: each person needs a name, and no two the same: rename, then enrol again")
        if not FAILED < self.threshold < np.inf or not 0 <= self.development_far <= 1:
            raise UserError(
                f"gallery: threshold {self.threshold} at FAR {self.development_far} decides nothing: "
                "choose it on more development data"
            )

    @classmethod
    def enrol(cls, embeddings, model_id: str, threshold: float, development_far: float) -> "Gallery":
        """A gallery of everybody in `embeddings`: one template from all images of each (scores.templates).

        UserError where an embedding is not finite, not of unit length, or a person has no usable image.
        """
        try:
            people = templates(embeddings)
        except ValueError as error:
            raise UserError(f"gallery: {error}; embed again") from None
        return cls(tuple(people.subject_ids), people.vectors, model_id, float(threshold), float(development_far))

    def identify(self, vector, k: int = 5) -> Match:
        """Whose the unit vector (D,) is: the best candidate if its score is >= threshold, else unknown.

        A probe without a template (zeros) scores -1. Raises UserError where the vector is not finite or of
        another length than the templates. Whatever is not finite in the gallery counts as -1 and can neither
        win nor be accepted.
        """
        try:
            check_vectors(np.asarray(vector)[None], "probe")
            if len(vector) != self.templates.shape[1]:
                raise ValueError(f"probe has {len(vector)} dimensions, the gallery {self.templates.shape[1]}")
        except ValueError as error:
            raise UserError(f"{error}: embed it with the model of the gallery") from None
        sound = np.isfinite(self.templates).all(axis=1)  # checked before, but this decides who opens the door
        scores = np.full(len(self.names), FAILED)
        scores[sound] = cosine(np.asarray(vector)[None], self.templates[sound])[0]
        best = np.argsort(-scores, kind="stable")[:k]
        candidates = tuple((self.names[row], float(scores[row])) for row in best)
        score = candidates[0][1] if candidates else FAILED
        known = bool(score >= self.threshold)  # never "not below": NaN would pass
        return Match(candidates[0][0] if known else UNKNOWN, known, score, self.threshold, candidates)

    def forget(self, name: str) -> "Gallery":
        """The gallery without one person; UserError where nobody is called so. On disk: function forget."""
        if name not in self.names:
            raise UserError(f"gallery: nobody is called {name!r}; {len(self.names)} people are enrolled")
        kept = [row for row, other in enumerate(self.names) if other != name]
        return replace(self, names=[self.names[row] for row in kept], templates=self.templates[kept])

    def save(self, folder: Path) -> None:
        """Write the gallery to a folder of its own, replacing one there; a kill leaves the old or the new."""
        with _owned(Path(folder)):
            _write(self, Path(folder))

    @classmethod
    def load(cls, folder: Path, model_id: str) -> "Gallery":
        """The gallery of a folder; UserError where it is missing, damaged, or was made by another model."""
        gallery = open_gallery(folder)
        if gallery.model_id != model_id:
            raise UserError(
                f"{folder}: enrolled with model {gallery.model_id[:12]}, asked with {model_id[:12]}: "
                "their vectors do not compare, enrol again"
            )
        return gallery


def open_gallery(folder: Path) -> Gallery:
    """The gallery of a folder whatever its model, to list people; it ends what a kill interrupted."""
    folder = Path(folder)
    if not (folder / "gallery.json").is_file():
        raise UserError(f"{folder}: no gallery there: enrol first")
    with _owned(folder):
        return _read(folder)


def forget(folder: Path, name: str) -> None:
    """Delete a person from the gallery in `folder`: neither template nor name stays in any of its files.

    Killed midway, it has happened or not; the next reader or writer removes what was left. UserError as of
    forget, load.
    """
    folder = Path(folder)
    if not (folder / "gallery.json").is_file():
        raise UserError(f"{folder}: no gallery there: nobody to forget")
    with _owned(folder):
        _write(_read(folder).forget(name), folder)


def _write(gallery: Gallery, folder: Path) -> None:
    """Templates first, then gallery.json, whose renaming is the change; then the old templates go."""
    tensors = save({"templates": gallery.templates})
    digest = hashlib.sha256(tensors).hexdigest()
    body = {
        "format": "face3d gallery 1",
        "names": list(gallery.names),
        "templates": f"templates-{digest[:16]}.safetensors",
        "templates_sha256": digest,
        "model_id": gallery.model_id,
        "threshold": gallery.threshold,
        "development_far": gallery.development_far,
    }
    write_bytes(folder / body["templates"], tensors)
    write_bytes(folder / "gallery.json", json.dumps({**body, "sha256": _digest(body)}, indent=1).encode())  # ASCII
    _sweep(folder, body["templates"])


def _read(folder: Path) -> Gallery:
    path = folder / "gallery.json"
    try:
        body = json.loads(path.read_bytes())
        claimed = body.pop("sha256")
        if claimed != _digest(body):
            raise ValueError("its SHA-256 differs")
        path = folder / Path(body["templates"]).name
        tensors = path.read_bytes()
        if hashlib.sha256(tensors).hexdigest() != body["templates_sha256"]:
            raise ValueError("its SHA-256 differs")
        vectors = load(tensors)["templates"]
        gallery = Gallery(tuple(body["names"]), vectors, body["model_id"], body["threshold"], body["development_far"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise UserError(f"{path}: the gallery is damaged ({error}): enrol again") from None
    _sweep(folder, path.name)
    return gallery


def _digest(body: dict) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _sweep(folder: Path, current: str) -> None:
    """Delete templates that gallery.json no longer names."""
    for old in folder.glob("templates-*.safetensors"):
        if old.name != current:
            old.unlink()


@contextmanager
def _owned(folder: Path):
    """One reader or writer at a time in a folder that only its owner can enter; its files are the owner's."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    before = os.umask(0o077)
    try:
        with only_writer(folder, patience_seconds=60):
            yield
    finally:
        os.umask(before)
