"""A desk at which people come to a gallery: look at a pair, enrol it, forget a person, undo. There are no widgets here.

`Desk` holds the pair that is looked at and what was done to the gallery, and `View` is what a page shows of the pair. Nothing of a
pair is written to disk but what the gallery keeps. What can be undone is held in memory alone, so a person who was
forgotten can come back until the page is closed, and is in no file meanwhile.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ..base.errors import UserError
from ..data.convention import DepthConvention
from ..data.decoding import read_pair
from ..data.pairs import PICTURES, PairFiles, RGBDPair
from ..evaluate.embeddings import Embeddings
from ..evaluate.pictures import depth_picture
from . import gallery as store
from . import gate
from .check import Check, check, embeddings
from .gallery import Gallery, Match
from .kept import kept_crops
from .names import letters
from .people import People
from .reading import UNDECLARED, Declared, declaring_folder, open_pair
from .recogniser import Seen
from .threshold import with_threshold

SHOWN = 480  # px: the longer side of a picture on the page
DEPTHS = (".npy", ".depth.png")


@dataclass(frozen=True, eq=False)
class View:
    """What is to be shown of one pair."""

    picture: np.ndarray  # (H, W, 3) uint8: the whole picture with the box and the points of the face
    crops: tuple[np.ndarray, ...]  # (S, S, 3) uint8 each: the aligned colour, and the aligned depth in colours
    match: Match
    liveness: str  # one line: whether depth shows a face
    findings: tuple[gate.Finding, ...]  # what speaks against enrolling the picture
    milliseconds: dict[str, float] = field(default_factory=dict)  # decode, detect, align, embed, judge, search

    @property
    def answer(self) -> str:
        """Whom the pair shows, in one sentence."""
        match = self.match
        if match.refused:
            return f"Nobody is accepted: {match.refused}."
        if not match.candidates:
            return "Nobody is enrolled yet."
        than = f"the score {match.score:.3f} reaches the threshold {match.threshold:.3f}"
        if match.known:
            return f"This is {match.name}: {than}."
        return f"Nobody who is enrolled: {than.replace('reaches', 'is below')}."


class Desk:
    """A gallery with the pair that is looked at.

    view: of the pair, None before the first one and where the last one could not be used. Each method raises UserError, in
    one line, for what the user can mend; the gallery is then as it was.
    """

    def __init__(
        self,
        people: People,
        files: Sequence[PairFiles] = (),
        meaning: DepthConvention | None = None,
        strangers: Embeddings | None = None,
    ):
        """files: pairs which can be picked, and what their depth means. strangers: whom `check` asks as well, by the
        model of `people`.
        """
        self.people, self.meaning, self.strangers = people, meaning, strangers
        self.files = {row.pair_id: row for row in files}
        self.view: View | None = None
        self._looked_at: tuple[Seen, DepthConvention] | None = None
        self._undo: list[tuple[str, Callable[[], object]]] = []
        self._last: tuple[object, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the enrolled people."""
        return self.people.names

    @property
    def undoes(self) -> str:
        """What `undo` would take back, in words; "" where there is nothing."""
        return self._undo[-1][0] if self._undo else ""

    def pick(self, pair_id: str) -> View:
        """Look at one of the pairs that can be picked."""
        self.view, meaning = None, self.meaning
        if pair_id not in self.files or meaning is None:
            raise UserError(f"{pair_id}: no pair of this list: pick another one")
        return self._look(lambda: (read_pair(self.files[pair_id], meaning), meaning))

    def upload(self, rgb: tuple[str, bytes], depth: tuple[str, bytes], declared: Declared) -> View:
        """Look at two files, each given by its name and its bytes; `declared` says what the depth means.

        The bytes lie in a folder of the owner's own while they are read.
        """
        self.view = None
        for what, (name, _), endings in (("picture", rgb, PICTURES), ("depth map", depth, DEPTHS)):
            if not name.lower().endswith(endings) or (what == "picture" and name.lower().endswith(DEPTHS)):
                raise UserError(f"{name or what}: no {what} by its name: give a file that ends in {', '.join(endings)}")

        def read() -> tuple[RGBDPair, DepthConvention]:
            with tempfile.TemporaryDirectory() as folder:
                below = Path(folder, "upload")  # so that no dataset.json beside the temporary folders is read
                below.mkdir()
                paths = [below / Path(name).name for name, _ in (rgb, depth)]
                for path, (_, data) in zip(paths, (rgb, depth), strict=True):
                    path.write_bytes(data)
                try:
                    pair, meaning = open_pair(paths[0], paths[1], declared)
                except UserError as error:
                    raise UserError(str(error).replace(f"{below}/", "")) from None
            return _named(pair, paths[0].stem), meaning

        return self._look(read)

    def newest(self, folder: str | Path, declared: Declared = UNDECLARED) -> View | None:
        """Look at the newest pair of a folder, <name>.png beside <name>.npy; None where it is the one of the last call.

        What depth means is said by a dataset.json in the folder or above it, else by `declared`.
        """
        if not str(folder).strip():
            raise UserError("name the folder into which the camera writes")
        pairs = _complete(Path(folder).expanduser())
        rgb, depth = pairs[-1]
        state = (rgb, *((path.stat().st_mtime_ns, path.stat().st_size) for path in (rgb, depth)))
        if state == self._last:
            return None
        self._last = state
        told = UNDECLARED if (declaring_folder(rgb) / "dataset.json").exists() else declared

        def read() -> tuple[RGBDPair, DepthConvention]:
            pair, meaning = open_pair(rgb, depth, told)
            return _named(pair, rgb.stem), meaning

        return self._look(read)

    def enrol(self, name: str, anyway: bool = False) -> str:
        """Add the pair that is looked at to a person's pictures; what was done, in a sentence.

        anyway: also where the gate refuses the picture; otherwise that is a UserError that gives its reasons.
        """
        if self.view is None or self._looked_at is None:
            raise UserError("there is no picture to enrol: pick or upload one")
        (outcome,) = self.people.enrol_seen(name, [self._looked_at], anyway)
        if outcome.status == "refused":
            raise UserError("not enrolled: " + "; ".join(f.message for f in outcome.findings if f.refused))
        if outcome.status == "known":
            raise UserError(f"this photograph of {outcome.name} is enrolled already: pick another one")
        self._undo.append((f"enrol {outcome.name}", lambda: self._take_away(outcome.name, outcome.pair_id)))
        self._search_again()
        warned = [finding.message for finding in outcome.findings]
        return f"Enrolled as {outcome.name}" + (f", although: {'; '.join(warned)}." if warned else ".")

    def forget(self, name: str) -> str:
        """Delete a person from every file; what was done, in a sentence."""
        before = self.people.gallery
        name = before.find(name)
        vectors, pictures = before.of(name)
        crops = {p.crops: kept_crops(self.people.folder, p) for p in pictures if p.crops}
        self.people.forget(name)

        def back(gallery: Gallery) -> Gallery:
            gallery.require_model(self.people.recogniser.model_id, self.people.folder)
            return with_threshold(gallery.add(name, vectors, pictures))

        undo = (f"forget {name}", lambda: store.change(self.people.folder, back, self.people.fresh, crops))
        self._undo.append(undo)
        self._search_again()
        return f"Forgotten: nothing of {name} is in any file of the gallery."

    def undo(self) -> str:
        """Take back the last `enrol` or `forget` of this desk; what was done, in a sentence."""
        if not self._undo:
            raise UserError("there is nothing to undo: enrol or forget somebody first")
        said, back = self._undo.pop()
        back()
        self._search_again()
        return f"Taken back: {said}."

    def check(self) -> Check:
        """Does it work on the gallery as it is now? Strangers who have been enrolled meanwhile are not asked."""
        gallery, strangers = self.people.gallery, self.strangers
        if strangers is not None:
            held, taken = embeddings(gallery), {letters(name) for name in gallery.names}
            shown = np.isin(strangers.pair_ids, held.pair_ids)
            taken |= {letters(name) for name in strangers.subject_ids[shown].tolist()}
            rows = [letters(name) not in taken for name in strangers.subject_ids.tolist()]
            strangers = strangers.select(strangers.pair_ids[rows].tolist())
        return check(gallery, strangers)

    def _take_away(self, name: str, pair_id: str) -> None:
        if len(self.people.gallery.of(name)[1]) == 1:
            self.people.forget(name)
        else:
            self.people.remove(name, pair_id)

    def _look(self, read: Callable[[], tuple[RGBDPair, DepthConvention]]) -> View:
        self.view = None
        begun = time.perf_counter()
        pair, meaning = read()
        decoded = time.perf_counter()
        seen = self.people.recogniser.see(pair)
        seen_at = time.perf_counter()
        findings, _ = gate.judge(seen, meaning)
        said = seen.liveness.reason if seen.liveness else "not asked, because the model takes whole pictures"
        judged = time.perf_counter()
        match = self.people.answer(seen)
        taken = {"decode": decoded - begun, "judge": judged - seen_at, "search": time.perf_counter() - judged}
        taken = {name: 1000 * seconds for name, seconds in taken.items()} | seen.milliseconds
        crops = (seen.crops[0], depth_picture(seen.crops[1]))
        order = ("decode", "detect", "align", "embed", "judge", "search")
        view = View(_marked(seen), crops, match, said, tuple(findings), {name: taken[name] for name in order})
        self.view, self._looked_at = view, (seen, meaning)
        return view

    def _search_again(self) -> None:
        """The answer of the gallery as it is now."""
        if self.view is not None and self._looked_at is not None:
            self.view = replace(self.view, match=self.people.answer(self._looked_at[0]))


def _named(pair: RGBDPair, stem: str) -> RGBDPair:
    """The pair under a name that no other photograph of the same file name has."""
    return replace(pair, pair_id=f"{stem} {pair.rgb_sha256[:8]}")


def _complete(folder: Path) -> list[tuple[Path, Path]]:
    """(picture, depth) of the pairs in a folder, the newest last. UserError where there is none."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder: give the one into which the camera writes")
    found = []
    for rgb in folder.iterdir():
        if rgb.suffix.lower() in PICTURES and not rgb.name.lower().endswith(DEPTHS) and not rgb.name.startswith("."):
            beside = [path for path in (rgb.with_suffix(ending) for ending in DEPTHS) if path.is_file()]
            found += [(max(rgb.stat().st_mtime_ns, path.stat().st_mtime_ns), rgb, path) for path in beside[:1]]
    if not found:
        raise UserError(f"{folder}: no pair there yet: it should hold <name>.png beside <name>.npy")
    return [(rgb, depth) for _, rgb, depth in sorted(found)]


def _marked(seen: Seen) -> np.ndarray:
    """The picture, at most SHOWN px large, with boxes around all faces; the chosen one has a thick box and its points."""
    image = Image.fromarray(seen.pair.rgb)
    scale = min(1.0, SHOWN / max(image.size))
    image = image.resize([max(1, round(scale * side)) for side in image.size])
    draw = ImageDraw.Draw(image)
    for face in seen.faces.faces:
        chosen = "x1" in seen.row and np.array_equal(face.points, seen.points)
        draw.rectangle(
            (scale * face.box).tolist(), outline="#0072B2" if chosen else "#888888", width=3 if chosen else 1
        )
        for x, y in scale * face.points if chosen else ():
            draw.ellipse([x - 3, y - 3, x + 3, y + 3], fill="#E69F00", outline="black")
    return np.asarray(image)
