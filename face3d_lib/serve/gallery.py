"""The enrolled people: one template for each, kept with the threshold and the model that they belong to.

A face can be reconstructed from its template, so a gallery is protected like pictures of faces. Only its owner can
enter the folder (0700, files 0600, whatever the umask). A person can be deleted, and nothing of that person then stays
in the folder. (The disk may keep old blocks, against which disk encryption helps.) There are two files, and no pickle:
templates-<sha256>.safetensors holds the vectors, and gallery.json holds everything else and names the first. A change
happens when gallery.json is renamed: before that the old gallery is valid, afterwards the new one. A template that is
not finite or not of unit length is refused when it is enrolled and when it is read: one NaN would win every search.
"""

import difflib
import hashlib
import json
import os
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ..base.atomic import write_bytes
from ..base.errors import UserError
from ..base.processes import only_writer
from ..evaluate.metrics.thresholds import threshold_at_far_or_above
from ..evaluate.scores import FAILED, alarm_scores, check_vectors, cosine, templates

if TYPE_CHECKING:
    from ..evaluate.embeddings import Embeddings

FORMAT = "face3d gallery 2"


@dataclass(frozen=True)
class Match:
    """The result of comparing a probe with a gallery."""

    known: bool  # score >= threshold
    name: str | None  # of the person as whom the probe is accepted; None if it is rejected
    score: float  # of the best candidate, in [-1, 1]; -1 where nobody is enrolled
    threshold: float
    candidates: tuple[tuple[str, float], ...]  # the best k as (name, score), best first, accepted or not


@dataclass(frozen=True, eq=False)
class Gallery:
    """Templates of G people, and the threshold on the score from which a probe is accepted."""

    names: tuple[str, ...]  # G, each once; any text
    templates: np.ndarray  # (G, D) float32, unit length, read-only
    model_id: str  # SHA-256 of the weights that made them
    threshold: float
    development_far: float  # the FAR on development data for which the threshold was chosen
    model: str = ""  # the model's name in its run, such as "rgbd/30_train_softmax"
    references: tuple[str, ...] = ()  # G, the pair_id of a picture of each person, to show; "" where there is none
    note: str = ""  # how the threshold was chosen, in a sentence

    def __post_init__(self) -> None:
        stored = np.array(self.templates, np.float32)
        stored.flags.writeable = False
        object.__setattr__(self, "templates", stored)
        object.__setattr__(self, "names", tuple(str(name) for name in self.names))
        object.__setattr__(self, "references", tuple(self.references) or ("",) * len(self.names))
        try:
            acquired = check_vectors(stored, "templates")
        except ValueError as error:
            raise UserError(f"gallery: {error}; enrol again from valid embeddings") from None
        if not len(self.names) == len(stored) == len(self.references):
            raise UserError(f"gallery: {len(self.names)} names for {len(stored)} templates: enrol again")
        if not acquired.all():
            raise UserError(f"gallery: no usable image of {self.names[acquired.argmin()]!r}: leave this person out")
        if len(set(self.names)) < len(self.names) or "" in self.names:
            raise UserError("gallery: each person needs a name, and no two the same: rename, then enrol again")
        if not FAILED < self.threshold < np.inf or not 0 <= self.development_far <= 1:
            raise UserError(
                f"gallery: threshold {self.threshold} at FAR {self.development_far} cannot be used: "
                "choose it on more development data"
            )

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
        """A gallery of everybody in `embeddings`: one template from all pictures of each (scores.templates).

        The first picture of each person is kept as the picture to show. UserError where an embedding is not finite, not
        of unit length, or a person has no usable picture.
        """
        try:
            people = templates(embeddings)
        except ValueError as error:
            raise UserError(f"gallery: {error}; embed again") from None
        first = dict(
            zip(reversed(embeddings.subject_ids.tolist()), reversed(embeddings.pair_ids.tolist()), strict=True)
        )
        shown = tuple(first[name] for name in people.subject_ids.tolist())
        names = tuple(people.subject_ids.tolist())
        return cls(names, people.vectors, model_id, float(threshold), float(development_far), model, shown, note)

    def identify(self, vector: np.ndarray, k: int = 5) -> Match:
        """The person whom the unit vector (D,) shows: the best candidate if the score is >= threshold, else nobody.

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
        sound = np.isfinite(self.templates).all(axis=1)  # checked before, but an error here would accept a stranger
        scores = np.full(len(self.names), FAILED)
        scores[sound] = cosine(np.asarray(vector)[None], self.templates[sound])[0]
        best = np.argsort(-scores, kind="stable")[:k]
        candidates = tuple((self.names[row], float(scores[row])) for row in best)
        score = candidates[0][1] if candidates else FAILED
        known = bool(score >= self.threshold)  # not `not score < threshold`, which NaN would pass
        return Match(known, candidates[0][0] if known else None, score, self.threshold, candidates)

    def find(self, name: str) -> str:
        """The enrolled name that `name` means: the same text, else the same letters in another Unicode form.

        In a folder copied from a Mac an accented letter is two characters, where a keyboard gives one. UserError if
        nobody has this name, or two people have it.
        """
        found = [name] if name in self.names else [other for other in self.names if _letters(other) == _letters(name)]
        if len(found) == 1:
            return found[0]
        if found:
            raise UserError(
                f"gallery: {name!r} may be {' or '.join(map(ascii, found))}: give the name in one of these forms"
            )
        near = difflib.get_close_matches(name, self.names, n=3)
        hint = f"; the nearest names are {', '.join(near)}" if near else ""
        raise UserError(f"gallery: nobody is called {name!r}; {len(self.names)} people are enrolled{hint}")

    def reference(self, name: str) -> str:
        """The pair_id of the picture that shows this enrolled person."""
        return self.references[self.names.index(name)]

    def forget(self, name: str) -> "Gallery":
        """The gallery without one person (see `find`). On disk: the function `forget`."""
        name = self.find(name)
        kept = [row for row, other in enumerate(self.names) if other != name]
        names, references = (tuple(values[row] for row in kept) for values in (self.names, self.references))
        return replace(self, names=names, references=references, templates=self.templates[kept])

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
                "vectors of two models cannot be compared: enrol again"
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


def open_gallery(folder: Path) -> Gallery:
    """The gallery of a folder, whatever its model; a change that a kill interrupted is finished if possible."""
    folder = Path(folder)
    _require_gallery(folder)
    if not os.access(folder, os.W_OK):  # read-only media: nobody writes, so there is nothing to finish or to wait for
        return _read(folder)
    with _owned(folder):
        gallery = _read(folder)
        _sweep(folder)
        return gallery


def forget(folder: Path, name: str) -> str:
    """Delete a person from the gallery in `folder`; returns the name as it was enrolled.

    Neither the template, nor the name, nor the file names of the person's pictures stay in any file of the folder.
    If this is killed, the person is either deleted or not; the next reader or writer, such as the same command again,
    removes leftover files. UserError as of `Gallery.find`, and where the gallery is missing or damaged.
    """
    folder = Path(folder)
    _require_gallery(folder)
    with _owned(folder):
        gallery = _read(folder)
        _sweep(folder)
        enrolled_as = gallery.find(name)
        _write(gallery.forget(enrolled_as), folder)
    return enrolled_as


def _letters(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _require_gallery(folder: Path) -> None:
    if not (folder / "gallery.json").is_file():
        raise UserError(f"{folder}: no gallery there: 50_predict_identity enrols people")


def _write(gallery: Gallery, folder: Path) -> None:
    """Write the templates first, then gallery.json, whose renaming is the change; then delete the old templates."""
    tensors = save({"templates": gallery.templates})
    digest = hashlib.sha256(tensors).hexdigest()
    file = f"templates-{digest[:16]}.safetensors"
    body = {
        "format": FORMAT,
        "people": [
            {"name": name, "reference": shown} for name, shown in zip(gallery.names, gallery.references, strict=True)
        ],
        "templates": file,
        "templates_sha256": digest,
        "model": gallery.model,
        "model_id": gallery.model_id,
        "threshold": gallery.threshold,
        "development_far": gallery.development_far,
        "note": gallery.note,
    }
    write_bytes(folder / file, tensors)
    write_bytes(folder / "gallery.json", json.dumps({**body, "sha256": _digest(body)}, indent=1).encode())  # ASCII
    _sweep(folder)


def _read(folder: Path) -> Gallery:
    path = folder / "gallery.json"
    try:
        body = json.loads(path.read_bytes())
        claimed = body.pop("sha256")
        if claimed != _digest(body):
            raise ValueError("its SHA-256 differs")
        if body["format"] != FORMAT:
            raise ValueError(f"it is of another format, {body['format']!r}")
        path = folder / Path(body["templates"]).name
        tensors = path.read_bytes()
        if hashlib.sha256(tensors).hexdigest() != body["templates_sha256"]:
            raise ValueError("its SHA-256 differs")
        names, shown = ([person[key] for person in body["people"]] for key in ("name", "reference"))
        facts = {key: body[key] for key in ("model_id", "threshold", "development_far", "model", "note")}
        return Gallery(tuple(names), load(tensors)["templates"], references=tuple(shown), **facts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise UserError(f"{path}: the gallery cannot be used ({error}): enrol again with 50_predict_identity") from None


def _digest(body: dict) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _sweep(folder: Path) -> None:
    """Delete the templates that gallery.json does not name: those of an old gallery, or of a killed writer."""
    current = json.loads((folder / "gallery.json").read_bytes())["templates"]
    for old in folder.glob("templates-*.safetensors"):
        if old.name != current:
            old.unlink()


@contextmanager
def _owned(folder: Path) -> Iterator[None]:
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
