"""The steps of `face3d identify`, from two files to a name.

The cheap checks come first (files, gallery, where a picture may be written); torch and the network are imported and
loaded only when they have passed.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..base import paths
from ..base.atomic import write_bytes
from ..base.errors import UserError
from ..data.convention import read_convention, read_source
from ..data.pairs import BadPair, RGBDPair, single_pair
from ..runs.folders import find_stage
from .reading import UNDECLARED, Declared, declaring_folder, existing

if TYPE_CHECKING:
    from .gallery import Match

LOOK, STAGE = "00_look_at_pairs", "50_predict_identity"


@dataclass(frozen=True)
class Answer:
    """The match of a probe, and the pictures to show beside it."""

    match: "Match"
    probe: RGBDPair
    best: Path | None  # the aligned picture of the best candidate; None if nobody is enrolled or the file is missing
    note: str  # how the threshold was chosen


def gallery_folder(run: str) -> Path:
    """The folder of the run's gallery; UserError names the command that makes one."""
    stage = find_stage(run, STAGE)
    if stage is None or not (stage / "gallery" / "gallery.json").is_file():
        raise UserError(
            f"run {run} has no gallery: name one with --gallery, or face3d run {STAGE} {run} enrols the run's people"
        )
    return stage / "gallery"


def identify(
    run: str,
    rgb: Path,
    depth: Path,
    declared: Declared = UNDECLARED,
    liveness: bool = True,
) -> Answer:
    """Ask the gallery of a run whose face a pair of files shows.

    The meaning of the numbers in the depth file is declared by the dataset.json near it or by `declared`; a pair
    from the run's own raw folder is read as the run read it. Nobody is accepted where depth shows no face, unless `liveness` is
    False.

    UserError where a file is missing or cannot be used, no face is found, or the run has no gallery or another model
    than the gallery was made with.
    """
    rgb, depth = existing(rgb, "picture"), existing(depth, "depth")
    folder = gallery_folder(run)
    look, raw = find_stage(run, LOOK), _raw_folder(run)
    if look and raw and rgb.resolve().is_relative_to(raw) and not any(declared):
        _, convention = read_source(look)
    else:
        convention = read_convention(declaring_folder(rgb), *declared)

    from ..data.decoding import read_pair
    from .gallery import open_gallery

    probe = read_pair(single_pair(rgb, depth), convention)
    people = open_gallery(folder)

    from ..evaluate.trained import find_models
    from .recogniser import Recogniser

    (model,) = find_models(run, [people.model])
    people.require_model(str(model.card.weights_sha256), folder)
    try:
        seen = Recogniser.of(model.model, model.load(), model.card).see(probe)
        match = people.identify(seen.vector).unless(seen.not_live if liveness else "")
    except BadPair as error:
        raise UserError(f"{rgb}: {error}: give another picture of the face") from None
    aligned, best = find_stage(run, "10_align_faces"), None
    if aligned and match.candidates:
        best = aligned / "aligned" / f"{people.reference(match.candidates[0][0])}.png"
    return Answer(match, probe, best, people.note)


def check_target(path: Path, run: str, rgb: Path, depth: Path) -> Path:
    """`path`, if a picture may be written there: a new .png outside of all folders that are kept as they are.

    A new file among the raw pictures would be taken for a person's picture, and an existing one could be an input. In
    the gallery's folder it would outlive `forget`, and in figures/ git would track a face. UserError in such places.
    """
    from .gallery import exists

    path = Path(path)
    if path.suffix.lower() != ".png":
        raise UserError(f"--picture {path}: a name that ends in .png is expected")
    if path.exists() or path.is_symlink():
        raise UserError(f"--picture {path}: a file of that name is there and is not replaced: choose another name")
    raw = [folder] if (folder := _raw_folder(run)) else []
    raw += [folder for file in (rgb, depth) if ((folder := declaring_folder(file)) / "dataset.json").exists()]
    kept = dict.fromkeys(raw, "raw data") | {gallery_folder(run): "a gallery", paths.FIGURES: "published figures"}
    for folder, what in kept.items():
        if path.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"--picture {path}: lies in {folder}, which holds {what}: choose a place outside of it")
    if held := [folder for folder in path.resolve().parents if exists(folder)]:
        raise UserError(f"--picture {path}: lies in {held[0]}, which holds a gallery: choose a place outside of it")
    return path


def write_comparison(path: Path, answer: Answer) -> None:
    """Write probe and best candidate side by side to a new PNG at `path`."""
    import matplotlib.pyplot as plt
    import numpy as np
    from PIL import Image

    from ..evaluate.pictures import plot_match, png_of

    figure, axes = plt.subplots(1, 2, figsize=(6, 3.4), layout="constrained")
    best = np.asarray(Image.open(answer.best)) if answer.best else None
    plot_match(axes, answer.probe.rgb, best, answer.match)
    write_bytes(path, png_of(figure))
    plt.close(figure)


def _raw_folder(run: str) -> Path | None:
    """The folder of raw pairs that the run was made from, resolved; None if the run does not record it."""
    look = find_stage(run, LOOK)
    if look is None or not (look / "source.json").is_file():
        return None
    return Path(json.loads((look / "source.json").read_text(encoding="utf-8"))["root"]).resolve()
