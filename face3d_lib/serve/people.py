"""A gallery in use: a folder, and the recogniser that it was made with. Enrol, identify, compare, forget.

    from face3d_lib.serve import People

    people = People.open("people")                                   # a folder; made when somebody is enrolled
    people.enrol("anna", "faces/anna/01.jpg", "faces/anna/01.npy")
    print(people.identify("faces/anna/02.jpg", "faces/anna/02.npy"))  # Match(known=True, name='anna', ...)
    people.forget("anna")

Every call reads the folder as it then is, so that several processes may use one gallery.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..base.errors import UserError
from ..data.convention import DepthConvention
from ..data.pairs import RGBDPair
from ..evaluate.metrics.thresholds import checked_far
from ..evaluate.scores import cosine
from . import gallery as store
from . import gate, kept
from .gallery import Gallery, Match, Picture
from .names import checked, letters
from .reading import UNDECLARED, Declared, naming, open_pair, open_picture
from .recogniser import DEFAULT, Recogniser, Seen
from .searched import Searched, version
from .strangers import Strangers, shipped
from .threshold import FAR, NOBODY_YET, checked_threshold, choose, note_of, with_threshold


@dataclass(frozen=True)
class Enrolment:
    """What became of one picture."""

    name: str
    pair_id: str
    status: str  # "enrolled", "refused", or "known": the photograph was enrolled before, under this name
    findings: tuple[gate.Finding, ...] = ()
    weight: float = np.nan  # in the template

    @property
    def reasons(self) -> list[str]:
        """What was found, one line each."""
        return [finding.message for finding in self.findings]


@dataclass(frozen=True)
class Verdict:
    """Whether two pictures show one person."""

    same: bool  # score >= threshold
    score: float
    threshold: float
    note: str  # how the threshold was chosen
    refused: str = ""  # why the answer is no whatever the score: the depth of a picture shows no face
    faces: tuple[int, int] = (1, 1)  # in each picture; one of them was compared


@dataclass
class People:
    """The people of a gallery's folder, with the recogniser that the gallery is bound to."""

    folder: Path
    recogniser: Recogniser
    fresh: Gallery  # without people: what a gallery that does not exist yet begins as
    search: str = "memory"  # how `identify` looks for the nearest (see `searched`)
    _known: tuple[str, Gallery] | None = field(default=None, init=False, repr=False)  # as it was read last

    def __post_init__(self) -> None:
        self._searched = Searched(self.folder, self.search)

    @classmethod
    def open(
        cls,
        folder: str | Path,
        model: Recogniser | str | None = None,
        far: float = FAR,
        threshold: float | None = None,
        keep_crops: bool = False,
        strangers: Strangers | None = None,
        search: str = "memory",
    ) -> "People":
        """The gallery of a folder, which need not exist yet. far, threshold, keep_crops and strangers hold for a new gallery alone;
        `choose` changes them later.

        model: a recogniser or its name; by default that of the gallery, and "pretrained" for a new one. far: the share of
        strangers who may be accepted, for which a threshold is chosen anew whenever people are added. threshold: a fixed one
        instead. keep_crops: keep the pixels of faces, not encrypted, so that the gallery can move to another model. strangers:
        scores of other people, where none come with the model. search: "memory", "faiss", "faiss-pq", or the address of a Qdrant
        server (see `searched`).

        UserError where the folder holds a gallery of another model, or something else; where a package for `search` is missing.
        """
        folder = Path(folder)
        Searched(folder, search)  # a package that is missing is said before networks are loaded
        now = version(folder)
        there = store.open_gallery(folder) if store.exists(folder) else None
        if model is None:
            model = there.model if there else DEFAULT
        try:
            recogniser = model if isinstance(model, Recogniser) else Recogniser.load(model)
        except UserError as error:
            if there and model == there.model:
                raise UserError(
                    f"{folder}: the gallery's model: {error}; ask the gallery of a run with --run"
                ) from None
            raise
        if there:
            there.require_model(recogniser.model_id, folder)
        empty = np.empty((0, recogniser.size), np.float32)
        fixed = threshold is not None
        if threshold is not None:
            checked_threshold(threshold)
        checked_far(far)
        fresh = Gallery(
            (), empty, recogniser.model_id, NOBODY_YET if threshold is None else threshold, far, recogniser.name,
            note="given by hand" if fixed else "", keep_crops=keep_crops, fixed=fixed, strangers=strangers,
        )  # fmt: skip
        people = cls(folder, recogniser, with_threshold(fresh), search)
        people._known = (now, there) if there else None
        return people

    @property
    def gallery(self) -> Gallery:
        """The gallery as it is on disk; one without people where there is none yet. It is read again if it changed."""
        if not store.exists(self.folder):
            return self.fresh
        now = version(self.folder)  # before it is read: a change in between is seen the next time
        if not now or self._known is None or self._known[0] != now:
            self._known = now, Gallery.load(self.folder, self.recogniser.model_id)
        return self._known[1]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all enrolled people."""
        return self.gallery.names

    def see(
        self, rgb: str | Path | RGBDPair, depth: str | Path | None = None, declared: Declared = UNDECLARED,
        allow_missing_depth: bool = False,
    ) -> tuple[Seen, DepthConvention]:  # fmt: skip
        """What the recogniser sees in a pair, given by two files or as arrays, and what its depth means.

        UserError where the pair cannot be used: no face, no depth in it, a file that is missing or damaged. depth may be None where
        it may be missing.
        """
        if isinstance(rgb, RGBDPair):
            pair, convention = rgb, DepthConvention(rgb.depth_unit, "farther")
            return self.recogniser.see(pair, allow_missing_depth=allow_missing_depth), convention
        if depth is None and allow_missing_depth:
            pair, convention = open_picture(Path(rgb)), DepthConvention("mm", "farther")
        elif depth is None:
            raise UserError(f"{rgb}: its depth is not named: give the file beside it")
        else:
            pair, convention = open_pair(Path(rgb), Path(depth), declared)
        with naming(rgb):
            return self.recogniser.see(pair, allow_missing_depth=allow_missing_depth), convention

    def enrol(
        self, name: str, rgb: str | Path | RGBDPair, depth: str | Path | None = None, declared: Declared = UNDECLARED,
        anyway: bool = False,
    ) -> Enrolment:  # fmt: skip
        """Judge one pair and, unless it is refused, add it to a person's pictures. A new name is a new person.

        The picture's weight in the template is `gate.weight_of`. anyway: enrol what the gate refuses. UserError where the pair
        cannot be used at all, or the name cannot (`names.checked`).
        """
        checked(name)
        return self.enrol_seen(name, [self.see(rgb, depth, declared)], anyway)[0]

    def enrol_seen(
        self, name: str, pictures: Iterable[tuple[Seen, DepthConvention]], anyway: bool = False
    ) -> list[Enrolment]:
        """`enrol` for several pictures of one person, which were looked at (`see`); all of them are one change."""
        name, judged = checked(name), [(seen, *gate.judge(seen, meaning)) for seen, meaning in pictures]
        outcomes: list[Enrolment] = []
        crops: dict[str, bytes] = {}

        def added(gallery: Gallery) -> Gallery:
            gallery.require_model(self.recogniser.model_id, self.folder)
            outcomes.clear()
            crops.clear()
            for seen, findings, measured in judged:
                data = kept.pack(seen) if gallery.keep_crops else b""
                file = kept.crops_name(data) if data else ""
                picture = Picture(
                    seen.pair.pair_id, seen.pair.rgb_sha256, seen.pair.depth_sha256, gate.weight_of(measured), file
                )
                outcome = _outcome(gallery, name, seen, picture, findings, anyway)
                outcomes.append(outcome)
                if outcome.status == "enrolled":
                    gallery = with_threshold(gallery.add(name, seen.vector[None], [picture]))
                    crops.update({file: data} if data else {})
            return gallery

        store.change(self.folder, added, self.fresh, crops)
        return outcomes

    def identify(
        self, rgb: str | Path | RGBDPair, depth: str | Path | None = None, declared: Declared = UNDECLARED,
        k: int = 5, allow_missing_depth: bool = False, liveness: bool = True,
    ) -> Match:  # fmt: skip
        """Whom a pair shows: the best of the enrolled if the score reaches the threshold, else nobody.

        Nobody either where depth shows a sheet instead of a face or is that of an enrolled picture (`Match.refused` says so), unless
        `liveness` is False.

        UserError as of `see`, and where the folder holds no gallery.
        """
        self.ready()
        seen, _ = self.see(rgb, depth, declared, allow_missing_depth)
        return self.answer(seen, k, liveness)

    def answer(self, seen: Seen, k: int = 5, liveness: bool = True) -> Match:
        """`identify` for a pair that was looked at (see `see`)."""
        refused = gate.not_live(seen, self.gallery) if liveness else ""
        return replace(self.match(seen.vector, k).unless(refused), faces=seen.count)

    def ready(self) -> None:
        """UserError where the folder holds no gallery, or it cannot be searched as asked for."""
        if not store.exists(self.folder):
            store.open_gallery(self.folder)
        self._searched.ready(lambda: self.gallery)

    def match(self, vector: np.ndarray, k: int = 5) -> Match:
        """Whose template is most like a unit vector (D,), in the gallery as it now is. UserError as of `ready`."""
        return self._searched.identify(lambda: self.gallery, vector, k)

    def choose(
        self,
        far: float | None = None,
        threshold: float | None = None,
        strangers: Strangers | None = None,
        keep_crops: bool | None = None,
    ) -> None:
        """Change how the gallery chooses its threshold (see `open`), or whether it keeps pixels from now on."""
        choose(self.folder, far, threshold, strangers, keep_crops)

    def rename(self, name: str, new: str) -> None:
        """Give a person another name. UserError where nobody has the old one, or somebody the new one."""
        store.change(self.folder, lambda gallery: gallery.rename(name, new))

    def remove(self, name: str, pair_id: str) -> None:
        """Take one picture away from a person, as after a mistake. UserError where it is the only one, or is not there."""
        store.change(self.folder, lambda gallery: with_threshold(gallery.remove(name, pair_id)))

    def forget(self, name: str) -> str:
        """Delete a person: nothing of the person stays in any file of the folder. Returns the name as it was enrolled."""
        return store.forget(self.folder, name)


def verify(
    recogniser: Recogniser, a: Seen, b: Seen, far: float = FAR, threshold: float | None = None, liveness: bool = True
) -> Verdict:
    """Whether two pictures show one person, at the threshold at which the share `far` of comparisons of two people passes.

    The answer is no where the depth of either shows a sheet instead of a face, or where two pictures have one depth map, unless
    `liveness` is False.

    UserError where the threshold is no score, and where the recogniser comes without scores of strangers and no threshold is given.
    """
    note = "given by hand"
    if threshold is not None:
        checked_threshold(threshold)
    else:
        table = shipped(recogniser.model_id)
        if table is None:
            raise UserError(f"model {recogniser.name}: no threshold is known for it: give one with --threshold")
        threshold, reason = table.threshold(far, 1)
        note = note_of(far, 1, table, reason)
    score = float(cosine(a.vector[None], b.vector[None])[0, 0])
    refused = (a.not_live or b.not_live or gate.frozen(a.pair, b.pair)) if liveness else ""
    same = bool(np.isfinite(score) and score >= threshold and not refused)
    return Verdict(same, score, threshold, note, refused, (a.count, b.count))


def re_embed(folder: Path, recogniser: Recogniser, progress: Callable[[Sequence], Iterable] = iter) -> Gallery:
    """Move a gallery to another model, from the pixels that it keeps. Nobody has to be photographed again.

    The threshold is chosen anew. UserError where a picture's pixels were not kept; the gallery then stays as it is.
    """
    before = store.open_gallery(folder)
    lacking = [
        name for name, shown in zip(before.names, before.pictures, strict=True) if not all(p.crops for p in shown)
    ]
    if lacking:
        raise UserError(
            f"{folder}: the pixels of {len(lacking)} people, such as {lacking[0]!r}, were not kept (--keep-crops): enrol them again"
        )
    if recogniser.alignment.mode == "none":
        raise UserError(f"model {recogniser.name} takes whole pictures, which are not kept: enrol again")
    rows = [picture for shown in before.pictures for picture in shown]
    vectors = []
    for picture in progress(rows):
        pair, faces = kept.unpack(kept.kept_crops(folder, picture), picture.crops)
        vectors.append(recogniser.see(pair, faces, allow_missing_depth=True).vector)

    def moved(gallery: Gallery) -> Gallery:
        if gallery.pictures != before.pictures or gallery.names != before.names:
            raise UserError(f"{folder}: somebody changed the gallery meanwhile: start again")
        stacked = np.stack(vectors) if vectors else np.empty((0, recogniser.size), np.float32)
        return with_threshold(
            replace(
                gallery,
                vectors=stacked,
                model_id=recogniser.model_id,
                model=recogniser.name,
                fixed=False,
                strangers=None,
            )
        )

    return store.change(folder, moved)


def _outcome(
    gallery: Gallery, name: str, seen: Seen, picture: Picture, findings: list[gate.Finding], anyway: bool
) -> Enrolment:
    """What becomes of a picture that is to be added to this gallery."""
    held = [
        p for other, shown in zip(gallery.names, gallery.pictures, strict=True) for p in shown if letters(other) == name
    ]
    if picture.rgb_sha256 and picture.rgb_sha256 in {p.rgb_sha256 for p in held}:
        return Enrolment(name, picture.pair_id, "known")
    found = (*findings, *gate.compare(gallery, name, seen.vector, picture))
    if any(finding.refused for finding in found) and not anyway:
        return Enrolment(name, picture.pair_id, "refused", found)
    return Enrolment(name, picture.pair_id, "enrolled", found, picture.weight)
