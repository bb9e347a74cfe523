"""What turns a pair into one vector: how the face is cropped, one or two networks, and the identity of all of it.

The default needs no training. It is called "pretrained" and consists of the two networks of `train.pretrained`: dlib's for
colour, and the depth network that has learnt from synthetic heads alone. Their unit vectors are scaled by the roots of a
weight and of one minus it and put side by side, so that the cosine of two such vectors is the weighted mean of both scores.
The weight is `fixed_weight` of weights/trust.json.

A pair without usable depth is refused, unless the caller allows it. Its vector then holds colour alone, scaled to length 1.
Against a vector with depth it scores the root of the weight (.985) times colour's cosine, and depth says nothing. A pair
without colour cannot be used, because the face is found in colour.
"""

import hashlib
import json
import time
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.faces import Faces, find_faces, load_detector
from ..data.pairs import BadPair, RGBDPair
from ..data.warp import AlignSettings
from .liveness import Liveness, check_liveness
from .models import load_named

if TYPE_CHECKING:
    from ..data.pack import Batch
    from ..train.embedder import Embedder
    from ..train.model_files import ModelCard

DEFAULT = "pretrained"


@dataclass(frozen=True)
class Part:
    """One network of a recogniser."""

    network: "Embedder"
    weights_sha256: str
    share: float  # of the score, 0 to 1

    @property
    def modality(self) -> str:
        """What the network sees: "rgb", "depth" or "rgbd"."""
        return self.network.architecture.modality


@dataclass(frozen=True, eq=False)
class Seen:
    """What a recogniser saw in one pair."""

    vector: np.ndarray  # (D,) float32 of unit length
    pair: RGBDPair
    faces: Faces  # all faces of the picture
    row: dict[str, Any]  # measurements of the chosen face, as in alignment.csv
    missing: str = ""  # "depth" where the vector holds colour alone
    crops: tuple[np.ndarray, ...] = ()  # what the networks were given: (S, S, 3) uint8 and (S, S) float32
    milliseconds: dict[str, float] = field(default_factory=dict)  # that each step took: detect, align, embed

    @property
    def points(self) -> np.ndarray:
        """(5, 2) the points of the chosen face in the picture: eyes, nose tip, corners of the mouth."""
        from ..base.tables import POINTS

        return np.array([self.row[name] for name in POINTS]).reshape(5, 2)

    @property
    def count(self) -> int:
        """How many faces are in the picture; 1 where none was looked for."""
        return len(self.faces.faces) or 1

    @cached_property
    def liveness(self) -> Liveness | None:
        """Whether depth shows a face where colour does. None where it cannot be asked: depth is missing and that was allowed, or
        the model takes whole pictures."""
        if self.missing or "x1" not in self.row:
            return None
        return check_liveness(self.pair.depth, self.points, self.pair.depth_unit)

    @property
    def not_live(self) -> str:
        """Why depth shows no face (see `liveness`); "" where it shows one or cannot be asked."""
        return "" if self.liveness is None or self.liveness.live else self.liveness.reason


@dataclass(frozen=True, eq=False)
class Recogniser:
    """A way to turn pairs into unit vectors. Vectors of recognisers with different `model_id` cannot be compared."""

    name: str  # as `load` takes it
    alignment: AlignSettings
    depth_unit: str  # "mm" or "pixel": of the pairs on which the networks were trained
    parts: tuple[Part, ...]

    @classmethod
    def load(cls, name: str | Path = DEFAULT) -> "Recogniser":
        """The recogniser of a name: "pretrained", or one network by any name that `models.load_named` knows, such as
        "demo:rgbd/30_train_softmax" or a folder with card.json and model.safetensors.

        UserError where it is missing or damaged.
        """
        text = str(name)
        if text == DEFAULT:
            return cls(DEFAULT, *_pretrained())
        network, card = load_named(text)
        if Path(text).exists():
            text = str(Path(text).resolve())
        return cls.of(text, network, card)

    @classmethod
    def of(cls, name: str, network: "Embedder", card: "ModelCard") -> "Recogniser":
        """The recogniser of one network and its card."""
        return cls(name, card.alignment, card.depth_unit, (Part(network, str(card.weights_sha256), 1.0),))

    @property
    def model_id(self) -> str:
        """SHA-256 over everything that a vector depends on: weights, architecture with encoding, shares and alignment."""
        parts = [
            {"weights": part.weights_sha256, "architecture": asdict(part.network.architecture), "share": part.share}
            for part in self.parts
        ]
        body = {"version": 1, "alignment": self.alignment.hash(), "parts": parts}
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()

    @property
    def size(self) -> int:
        """D, the length of a vector."""
        return sum(part.network.architecture.embedding_size for part in self.parts)

    @property
    def modality(self) -> str:
        """What the networks see together: "rgb", "depth" or "rgbd"."""
        seen = {part.modality for part in self.parts}
        return seen.pop() if len(seen) == 1 else "rgbd"

    def find(self, pair: RGBDPair) -> Faces:
        """The faces in the pair's picture; none are looked for where the model takes the whole picture."""
        if self.alignment.mode == "none":
            return Faces()
        return find_faces([pair.rgb], _detector(), self.alignment.min_face_size)[0]

    def see(self, pair: RGBDPair, faces: Faces | None = None, allow_missing_depth: bool = False) -> Seen:
        """The pair's vector and what was measured on the way. `faces`: those of `find`, if they are known.

        Raises BadPair (a UserError) where no face is found, and where the face has no depth, unless `allow_missing_depth` is
        set and one of the networks does without.
        """
        from ..data.crops import align_pair
        from ..train.encodings import require_meaning

        for part in self.parts:
            if part.modality != "rgb":
                require_meaning(part.network.architecture.encoding, pair.depth_unit)
        begun = time.perf_counter()
        faces = self.find(pair) if faces is None else faces
        found_at = time.perf_counter()
        row: dict[str, Any] = {}
        found = None if self.alignment.mode == "none" else faces
        missing = ""
        try:
            crops = align_pair(pair, found, self.alignment, row)
        except BadPair as error:
            colour = any(part.modality == "rgb" for part in self.parts)
            if error.status != "bad_depth" or not allow_missing_depth or not colour:
                raise
            missing, row = "depth", {}
            plane = replace(pair, depth=np.full(pair.depth.shape, 1000, np.float32))  # only to cut the colour
            crops = align_pair(plane, found, self.alignment, row)
            row |= {"valid_depth": 0.0, "relief": np.nan, "registration": np.nan}
        cut_at = time.perf_counter()
        vector = self._vector(*crops, row["depth_per_px"], missing)
        ends = np.array([begun, found_at, cut_at, time.perf_counter()])
        taken = dict(zip(("detect", "align", "embed"), (1000 * np.diff(ends)).tolist(), strict=True))
        return Seen(vector, pair, faces, row, missing, crops, taken)

    def _vector(self, rgb: np.ndarray, depth: np.ndarray, depth_per_px: float, missing: str) -> np.ndarray:
        from ..data.pack import make_batch

        return self.vectors(make_batch(rgb, depth, depth_per_px, "cpu"), missing)[0]

    def vectors(self, batch: "Batch", missing: str = "") -> np.ndarray:
        """(B, D) float32 vectors of unit length of aligned crops. missing: "depth" where they have none, and colour counts alone."""
        from ..evaluate.embed import embed_batch

        pieces = []
        for part in self.parts:
            if missing and part.modality != "rgb":
                pieces.append(np.zeros((len(batch), part.network.architecture.embedding_size)))
            else:
                pieces.append(np.sqrt(part.share) * embed_batch(part.network, batch).numpy().astype(np.float64))
        whole = np.concatenate(pieces, axis=1)
        return (whole / np.linalg.norm(whole, axis=1, keepdims=True)).astype(np.float32)


def _pretrained() -> tuple[AlignSettings, str, tuple[Part, ...]]:
    from ..evaluate.trust import Trust
    from ..train import pretrained

    weight = float(Trust.load().source["fixed_weight"])
    shares: dict[pretrained.Name, float] = {"dlib": weight, "depth_synthetic": round(1 - weight, 12)}
    parts = tuple(
        Part(pretrained.load_pretrained(name), str(pretrained.card_of(name).weights_sha256), share)
        for name, share in shares.items()
    )
    return pretrained.ALIGNMENT, "mm", parts


_loaded: list[Any] = []  # the detector, once it has been loaded


def _detector() -> Any:
    if not _loaded:
        _loaded.append(load_detector())
    return _loaded[0]
