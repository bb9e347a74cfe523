"""The stress test: people who were never trained on are enrolled with clean pictures and probed with worse ones.

Each probe is recorded once as it is and once at each level of each knob (`degradations.KNOBS`); then the whole system
works as always, from the detector to the score. A face that it does not find is a failure to acquire of that level.
Enrolment pictures are never made worse, because a gallery is made once, with care.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from ..base.errors import UserError
from ..base.processes import cores, run_tasks
from ..data.convention import DepthConvention
from ..data.crops import align_pair
from ..data.decoding import read_pair
from ..data.faces import find_faces, load_detector
from ..data.pack import Batch
from ..data.pairs import BadPair, PairFiles, RGBDPair, failure
from ..data.quality import measure_pair, points_of
from ..data.splits import Splits
from ..data.warp import AlignSettings
from ..synthetic.camera import SESSION_SIZE
from ..synthetic.people import identity_seed
from ..synthetic.scenes import scene
from ..train.embedder import Embedder
from ..train.encodings import require_meaning
from .conditions import Probes, compare_probes, fuse_probes
from .degradations import KNOBS, degrade, degrade_crop, is_lost, require_knobs
from .embed import embed_batch
from .embeddings import Embeddings
from .metrics.curves import best_weight
from .scores import FAILED, templates
from .trained import Trained
from .trust import NOTHING, QUALITIES, Trust

BOTH = ("rgb", "depth")
ROWS = ["pair_id", "subject_id", "role", "knob", "level", "status", "detail"]
Levels = dict[str, list[float]]  # knob -> its levels, without the clean one


@dataclass(frozen=True)
class Drawn:
    """A picture of a synthetic person in a calm scene (`synthetic.scenes`)."""

    seed: int
    subject: int
    image: int

    @property
    def pair_id(self) -> str:
        session, number = divmod(self.image, SESSION_SIZE)
        return f"p{self.subject:04d}/s{session + 1}_{number:03d}"

    def pair(self, change: str = "", level: float = 0) -> RGBDPair:
        """The raw pair, with one thing in the scene changed."""
        made = scene(self.seed, self.subject, self.image, change, level)
        person = self.pair_id.partition("/")[0]
        return RGBDPair(self.pair_id, person, made.rgb, made.depth.astype(np.float32), "mm", "", "")


@dataclass(frozen=True)
class Recorded:
    """A pair of files."""

    files: PairFiles
    convention: DepthConvention

    @property
    def pair_id(self) -> str:
        return self.files.pair_id

    def pair(self, change: str = "", level: float = 0) -> RGBDPair:
        """The raw pair. Raises BadPair."""
        return read_pair(self.files, self.convention)


@dataclass(frozen=True)
class Person:
    """Somebody who was never trained on."""

    subject_id: str
    enrolment: tuple[Drawn | Recorded, ...]
    probes: tuple[Drawn | Recorded, ...]


def new_people(
    count: int, enrolled: int, probes: int, seed: int, first: int = 5000, known: Sequence[str] = ()
) -> list[Person]:
    """Synthetic people with `enrolled` pictures of a first and `probes` of a second session, numbers from `first` on.

    `known` are the identity seeds, as text, of all people of the run; UserError if one of the new people is among them.
    """
    people = []
    for subject in range(first, first + count):
        if str(identity_seed(seed, subject)) in set(known):
            raise UserError(f"person {subject} of seed {seed} is in the run's data: choose another seed")
        sessions = [
            tuple(Drawn(seed, subject, start + k) for k in range(n))
            for start, n in ((0, enrolled), (SESSION_SIZE, probes))
        ]
        people.append(Person(f"p{subject:04d}", *sessions))
    return people


def people_of_run(
    division: Splits, files: Sequence[PairFiles], convention: DepthConvention, group: str = "test"
) -> list[Person]:
    """The enrolled people of one group of a run's split, with the raw pairs of their gallery and their probes.

    Raises UserError where the group has no probe.
    """
    by_id = {row.pair_id: Recorded(row, convention) for row in files}
    parts = []
    for table in (division.gallery, division.probe):
        chosen = table[table["group"] == group]
        parts.append(
            {name: tuple(by_id[pair_id] for pair_id in rows) for name, rows in chosen.groupby("cls_name")["pair_id"]}
        )
    enrolment, probes = parts
    if not probes:
        raise UserError(f"the split has no probes of {group} people: add people or pictures, or test new people")
    return [Person(str(name), enrolment[name], probes.get(name, ())) for name in sorted(enrolment)]


def everybody_of_run(
    pair_ids: Sequence[str], files: Sequence[PairFiles], convention: DepthConvention, enrolled: str = ""
) -> list[Person]:
    """All people of a run, for networks that have seen none of them: `pair_ids` are the usable pairs.

    A person is enrolled with one pair, the first whose name contains `enrolled`, and probed with all others; who has no
    such pair is left out, which a printed line says. UserError where nobody has one and a second pair.
    """
    by_id = {row.pair_id: Recorded(row, convention) for row in files}
    pairs: dict[str, list[str]] = {}
    for pair_id in sorted(pair_ids):
        pairs.setdefault(by_id[pair_id].files.subject_id, []).append(pair_id)
    people, without = [], []
    for name, own in sorted(pairs.items()):
        if first := next((pair_id for pair_id in own if enrolled in pair_id.removeprefix(f"{name}/")), None):
            probes = tuple(by_id[pair_id] for pair_id in own if pair_id != first)
            people.append(Person(name, (by_id[first],), probes))
        else:
            without.append(name)
    if not any(person.probes for person in people):
        raise UserError(
            f"enrolled = {enrolled!r}: nobody has such a pair and another one: give a part of the pairs' names"
        )
    if without:
        print(f"note: {len(without)} people have no pair named {enrolled!r} and are left out: {', '.join(without[:5])}")
    return people


def levels_of(knobs: Sequence[str], count: int, kinds: tuple[str, ...] = ("scene", "pair", "crop")) -> Levels:
    """At most `count` levels of each knob, spread from its mildest to its worst; of one, the worst. UserError as usual."""
    require_knobs(list(knobs), kinds)
    if count < 1:
        raise UserError(f"levels = {count}: give 1 or more")
    chosen: Levels = {}
    for name in knobs:
        given = KNOBS[name].levels
        places = np.linspace(len(given) - 1, 0, min(count, len(given))).round().astype(int)
        chosen[name] = [given[place] for place in sorted(set(places.tolist()))]
    return chosen


@dataclass(frozen=True)
class Plan:
    """What is the same for all people of a stress test."""

    networks: tuple[Trained, ...]
    settings: AlignSettings
    levels: Levels
    seed: int
    device: str
    measured: bool = False  # whether the quality of each recording is measured, which takes as long as finding its face


@dataclass
class Shot:
    """One recording: its row of the table, its raw pair, and the crop that the network sees (None: failed)."""

    row: dict[str, Any]
    pair: RGBDPair | None
    changed: tuple[str, ...]  # what may differ from the clean recording of the same pair once it is aligned
    after: tuple[str, float, int] | None = None  # a crop knob, its level and seed: applied after alignment
    crop: tuple[np.ndarray, np.ndarray, float] | None = field(default=None)  # colour, depth, depth per px
    quality: dict[str, float] = field(default_factory=dict)  # QUALITIES, and 1 where there is colour, depth


def shots_of(person: Person, plan: Plan) -> list[Shot]:
    """All recordings of a person: enrolment, clean probes (knob ""), and the probes at each level."""
    shots = [_shot(source, person, "enrolment", "", 0, BOTH, plan.seed) for source in person.enrolment]
    for source in person.probes:
        clean = _shot(source, person, "probe", "", 0, BOTH, plan.seed)
        shots.append(clean)
        for name, levels in plan.levels.items():
            shots += [_worse(clean, source, person, name, level, plan.seed) for level in levels]
    return shots


def _shot(
    source: Drawn | Recorded, person: Person, role: str, name: str, level: float, changed: tuple[str, ...], seed: int
) -> Shot:
    row = {
        "pair_id": source.pair_id,
        "subject_id": person.subject_id,
        "role": role,
        "knob": name,
        "level": float(level),
    }
    try:
        return Shot(row | {"status": "ok", "detail": ""}, source.pair(name, level), changed)
    except Exception as error:  # one pair never stops the test
        status, detail = failure(error)
        return Shot(row | {"status": status, "detail": detail}, None, changed)


def _worse(clean: Shot, source: Drawn | Recorded, person: Person, name: str, level: float, seed: int) -> Shot:
    """The recording of a probe at one level. Colour that is kept is the same array, so its face is found once."""
    knob = KNOBS[name]
    if knob.kind == "scene":
        return _shot(source, person, "probe", name, level, BOTH, seed)
    row = clean.row | {"knob": name, "level": float(level)}
    if clean.pair is None:
        return Shot(row, None, ())
    if knob.kind == "pair":  # other colour moves the points, and with them the crop of the depth
        return Shot(row, degrade(clean.pair, name, level, seed), BOTH if "rgb" in knob.touches else knob.touches)
    changed = knob.touches if is_lost(clean.pair.pair_id, name, level, seed) else ()
    return Shot(row, clean.pair, changed, (name, level, seed))


def align_shots(shots: list[Shot], settings: AlignSettings, detector: Any, measured: bool = False) -> None:
    """Fill in the crops of `shots`, and their quality if `measured`; a face that is not found, or a crop without depth, is a
    failure in its row.
    """
    pictures = {id(shot.pair.rgb): shot.pair.rgb for shot in shots if shot.pair is not None}
    faces = dict.fromkeys(pictures)
    if detector is not None:
        found = find_faces(list(pictures.values()), detector, settings.min_face_size)
        faces = dict(zip(pictures, found, strict=True))
    for shot in shots:
        if shot.pair is None:
            continue
        about: dict[str, Any] = {}
        try:
            rgb, depth = align_pair(shot.pair, faces[id(shot.pair.rgb)], settings, about)
        except Exception as error:
            shot.row["status"], shot.row["detail"] = failure(error)
            continue
        if shot.after:
            rgb, depth = degrade_crop(shot.pair.pair_id, rgb, depth, *shot.after)
        shot.crop = rgb, depth, about["depth_per_px"]
        if measured:
            shot.quality = quality_of(shot.pair, about) | {"colour": float(rgb.any()), "depth": float(depth.any())}


def quality_of(pair: RGBDPair, about: dict[str, Any]) -> dict[str, float]:
    """QUALITIES of a raw pair, by the points that `align_pair` wrote into `about`; {} where it cannot be measured."""
    try:
        found, _ = measure_pair(pair, points_of(about, aligned=False), DepthConvention(pair.depth_unit, "farther"))
    except (BadPair, ValueError, np.linalg.LinAlgError):
        return {}
    return {name: found.get(name, np.nan) for name in QUALITIES}


def embed_shots(shots: list[Shot], network: Embedder, device: str = "cpu", batch: int = 64) -> np.ndarray:
    """(N, D) float32 the unit vectors of the shots; zeros where one failed.

    A probe in which nothing changed that the network sees has the vector of its clean recording.
    """
    seen = {"rgb": ("rgb",), "depth": ("depth",)}.get(network.architecture.modality, BOTH)
    clean = {shot.row["pair_id"]: k for k, shot in enumerate(shots) if not shot.row["knob"] and shot.crop is not None}
    source = [k if set(shot.changed) & set(seen) else clean.get(shot.row["pair_id"], k) for k, shot in enumerate(shots)]
    vectors = np.zeros((len(shots), network.architecture.embedding_size), np.float32)
    fresh = [k for k, shot in enumerate(shots) if source[k] == k and shot.crop is not None]
    for start in range(0, len(fresh), batch):
        part = fresh[start : start + batch]
        rgb, depth, per_px = zip(*(crop for k in part if (crop := shots[k].crop) is not None), strict=True)
        tensors = (torch.from_numpy(np.stack(rgb)).permute(0, 3, 1, 2), torch.from_numpy(np.stack(depth))[:, None])
        of = Batch(*(x.to(device) for x in (*tensors, torch.tensor(per_px, dtype=torch.float32))))
        vectors[part] = embed_batch(network, of).cpu().numpy()
    vectors = vectors[source]
    vectors[[k for k, shot in enumerate(shots) if shot.crop is None]] = 0
    return vectors


def test_person(person: Person, plan: Plan, detector: Any, networks: dict[str, Embedder]) -> tuple[list, dict, list]:
    """The rows of all recordings of a person, their vectors by the name of the network, and their qualities."""
    shots = shots_of(person, plan)
    align_shots(shots, plan.settings, detector, plan.measured)
    vectors = {name: embed_shots(shots, network, plan.device) for name, network in networks.items()}
    return [shot.row for shot in shots], vectors, [shot.quality for shot in shots]


@contextmanager
def _tester(plan: Plan) -> Iterator[Callable[[Person], tuple[list, dict, list]]]:
    """`test_person` for this process, with torch on one thread: the same results for any number of processes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        detector = None if plan.settings.mode == "none" else load_detector(plan.device)
        networks = {network.name: network.load(device=plan.device) for network in plan.networks}
        yield partial(test_person, plan=plan, detector=detector, networks=networks)
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class Stressed:
    """The result of a stress test."""

    rows: pd.DataFrame  # ROWS, one row for each recording, sorted by pair, knob and level
    vectors: dict[str, np.ndarray]  # by network: (N, D), zeros where a recording failed
    # two networks and the weight of the first, for all probes or by the person whom they show: one more system
    fused: "tuple[str, str, float | Mapping[str, Mixed]] | None" = None
    levels: Levels = field(default_factory=dict)
    quality: pd.DataFrame | None = None  # by row, if measured: QUALITIES, and 1 where there is colour, depth
    trusted: tuple[str, str, Trust] | None = None  # a colour and a depth network, and their fusion: one more system

    def probes(self, knob: str = "", level: float = 0) -> dict[str, Probes]:
        """By system, the comparisons of the probes at one level of a knob with all enrolled people."""
        if knob and level == KNOBS[knob].clean:
            knob, level = "", 0
        enrolment = (self.rows["role"] == "enrolment").to_numpy()
        chosen = ~enrolment & (self.rows["knob"] == knob).to_numpy() & (self.rows["level"] == level).to_numpy()
        found = {
            name: compare_probes(self._embeddings(vectors, chosen), templates(self._embeddings(vectors, enrolment)))
            for name, vectors in self.vectors.items()
        }
        if self.fused:
            first, second, weight = self.fused
            found[f"{first} + {second}"] = _fused(found[first], found[second], weight)
        if self.trusted and self.quality is not None:
            colour, depth, trust = self.trusted
            of = [self.quality[part] for part in (chosen, enrolment)]
            enrolled = (
                of[1].groupby(self.rows.loc[enrolment, "subject_id"].to_numpy()).median()
            )  # as the gallery is sorted
            found[f"{colour} + {depth}, trusted"] = _trusted(found[colour], found[depth], trust, of[0], enrolled)
        return found

    def _embeddings(self, vectors: np.ndarray, chosen: np.ndarray) -> Embeddings:
        rows = self.rows[chosen]
        return Embeddings(rows["pair_id"].to_numpy(str), rows["subject_id"].to_numpy(str), vectors[chosen])


def stress(
    people: Sequence[Person],
    networks: Sequence[Trained],
    levels: Levels,
    seed: int = 0,
    device: str = "cpu",
    workers: int | None = None,
    measured: bool = False,
) -> Stressed:
    """Record, align and embed all people at all levels; `workers` processes share them (None: one per core).

    measured: the quality of each recording is measured, too, for `trust_systems`.

    UserError where networks were trained on crops of different settings, or need another unit of depth.
    """
    if not people:
        raise UserError("stress: nobody to test: set people to 3 or more")
    settings = networks[0].card.alignment
    units = {source.convention.unit if isinstance(source, Recorded) else "mm" for source in people[0].enrolment}
    for network in networks:
        if network.card.alignment != settings:
            raise UserError(
                f"{network.model} and {networks[0].model} need crops of different settings: test them apart"
            )
        if network.card.architecture.modality != "rgb":
            for unit in units:
                require_meaning(network.card.architecture.encoding, "pixel" if unit == "pixel" else "mm")
    plan = Plan(tuple(networks), settings, levels, seed, device, measured)
    rows: list[dict[str, Any]] = []
    vectors: dict[str, list[np.ndarray]] = {network.name: [] for network in networks}
    quality: list[dict[str, float]] = []
    with tqdm(total=len(people), desc="stress", unit="person") as bar:
        for found, made, seen in run_tasks(partial(_tester, plan), list(people), workers or cores()):
            rows += found
            quality += seen
            for name, array in made.items():
                vectors[name].append(array)
            bar.update()
    table = pd.DataFrame(rows, columns=ROWS)
    order = table.sort_values(["pair_id", "role", "knob", "level"], kind="stable").index.to_numpy()
    stacked = {name: np.concatenate(parts)[order] for name, parts in vectors.items()}
    measures = pd.DataFrame(quality, columns=[*QUALITIES, "colour", "depth"], dtype=float).loc[order]
    found_quality = measures.reset_index(drop=True) if measured else None
    return Stressed(table.loc[order].reset_index(drop=True), stacked, levels=levels, quality=found_quality)


def fuse_systems(stressed: Stressed, first: str, second: str, weight: "float | Mapping[str, Mixed]") -> Stressed:
    """The same test with late fusion as one more system: `weight` times the scores of `first`, the rest of `second`.

    weight: for all probes, or by subject_id for the probes of each person (`weights_of_halves`).
    """
    return replace(stressed, fused=(first, second, weight))


def trust_systems(stressed: Stressed, colour: str, depth: str, trust: Trust) -> Stressed:
    """The same test with the fusion of a colour and a depth network by the quality of each comparison as one more system.

    A template has the median qualities of its pictures. Colour or depth that is missing is left out of a comparison. A
    failure to acquire is never accepted. UserError where the test did not measure the quality.
    """
    if stressed.quality is None:
        raise UserError("trusted fusion needs the quality of each recording: call stress with measured=True")
    return replace(stressed, trusted=(colour, depth, trust))


class Mixed(NamedTuple):
    """How the scores of two systems are added for one person's probes: scale * (weighted mean) + shift."""

    weight: float  # of the first system
    scale: float
    shift: float


def weights_of_halves(stressed: Stressed, first: str, second: str, n_steps: int = 21) -> dict[str, Mixed]:
    """By subject_id, the weight of `first` that is best for the clean probes of other people.

    Every second person, in the order of names, is in the one half and the others in the other. The weight of a half was
    chosen on the comparisons within the other half, so that no person's own comparisons decide about it. Two weights make
    scores of two scales, so those of the second half are scaled and shifted: the impostor scores, from which a half's
    weight was chosen, have one mean and one standard deviation. Where both weights are the same, nothing is scaled.
    """
    found = stressed.probes()
    names = found[first].gallery
    halves: list[tuple[list[str], float, float, float]] = []  # people, weight, mean and deviation of impostor scores
    for own in (np.arange(len(names)) % 2 == 0, np.arange(len(names)) % 2 == 1):
        one, other = (_among(found[name], ~own).without_failures().trials() for name in (first, second))
        weight = best_weight(one, other, n_steps)
        impostor = weight * one.impostor + (1 - weight) * other.impostor
        halves.append((names[own].tolist(), weight, float(impostor.mean()), float(impostor.std())))
    (ours, weight, mean, deviation), (theirs, another, level, spread) = halves
    scale, shift = (deviation / spread, mean - level * deviation / spread) if weight != another else (1.0, 0.0)
    mixed = dict.fromkeys(ours, Mixed(weight, 1.0, 0.0))
    return mixed | dict.fromkeys(theirs, Mixed(another, scale, shift))


def _among(probes: Probes, chosen: np.ndarray) -> Probes:
    """The probes of the people `chosen` (G,) bool against these people alone."""
    kept = probes.select(np.isin(probes.subjects, probes.gallery[chosen]))
    return replace(kept, scores=kept.scores[:, chosen], gallery=kept.gallery[chosen], enrolled=kept.enrolled[chosen])


def _fused(first: Probes, second: Probes, weight: float | Mapping[str, Mixed]) -> Probes:
    if not isinstance(weight, Mapping):
        return fuse_probes([first, second], [weight, 1 - weight])
    of_probe = np.array([weight[name] for name in first.subjects.tolist()])[:, :, None]  # (P, 3, 1)
    scores = of_probe[:, 0] * first.scores + (1 - of_probe[:, 0]) * second.scores
    failed = ~first.acquired[:, None] | ~first.enrolled[None]
    return replace(first, scores=np.where(failed, FAILED, of_probe[:, 1] * scores + of_probe[:, 2]))


def _trusted(colour: Probes, depth: Probes, trust: Trust, probes: pd.DataFrame, enrolled: pd.DataFrame) -> Probes:
    scores = {}
    for name, system in (("colour", colour), ("depth", depth)):
        there = (probes[name].to_numpy()[:, None] > 0) & (enrolled[name].to_numpy()[None] > 0)
        scores[name] = np.where(there, system.scores, np.nan)
    failed = ~colour.acquired[:, None] | ~colour.enrolled[None]
    return replace(colour, scores=np.where(failed, NOTHING, trust.llr(scores, probes, enrolled)))
