"""Trained models by name: where a run keeps them, their cards, and what they are called in tables and pictures.

A model's name is its place below a run: "rgb/30_train_softmax", "arcface/31_train_arcface", or with a last part where
a notebook trains several, "45_transfer_depth/depth_0". A part is enough if it is unambiguous: "rgb" if the run
"rgb" holds one model only. Models are looked for in the run itself, then in the runs around it.

"pretrained/dlib" and "pretrained/depth_synthetic" are networks that no run trains (`train.pretrained`). They stand beside
trained ones wherever the run's crops are of alignment mode dlib.
"""

import json
import re
from collections import Counter
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ..base.errors import UserError
from ..runs.folders import outward, run_folder
from ..runs.record import read_record
from .words import words

if TYPE_CHECKING:
    from ..data.pack import Pack
    from ..runs.notebook import Run
    from ..train.embedder import Embedder
    from ..train.model_files import ModelCard

LEGENDS = {"rgb": "RGB", "depth": "depth", "rgbd": "RGB-D"}  # name of a run -> its label in legends
STAGE = re.compile(r"\d\d_\w+")  # the name of a notebook
PRETRAINED = "pretrained"  # before the name of a network that no run trains


@dataclass(frozen=True)
class Trained:
    """One trained model with its card and the record of the notebook that made it."""

    model: str  # its whole name, such as "rgb/30_train_softmax"
    folder: Path  # holds model/ (weights and card); of a pretrained network its name alone
    record: dict  # run.json of the training notebook; {} of a pretrained network
    name: str  # short, for tables and files; no two models that were found together share one

    @cached_property
    def card(self) -> "ModelCard":
        """The model's card; UserError if it is missing or not valid."""
        if self.is_pretrained:
            from ..train.pretrained import card_of

            return card_of(self.folder.name)  # type: ignore[arg-type]
        from ..train.model_files import read_card

        return read_card(self.folder / "model")

    @property
    def is_pretrained(self) -> bool:
        """Whether the network comes with the environment or this package, so that it has seen no people of the run."""
        return self.model.startswith(f"{PRETRAINED}/")

    @property
    def label(self) -> str:
        """The name as legends and titles show it."""
        if self.is_pretrained:
            return words(f"{PRETRAINED} {self.folder.name}")
        return LEGENDS.get(self.name, self.name)

    @property
    def parameters(self) -> dict:
        """The parameters of the training notebook; of a pretrained network those that its architecture has."""
        if self.is_pretrained:
            return asdict(self.card.architecture) | {"seed": 0, PRETRAINED: self.folder.name}
        return self.record["parameters"]

    @property
    def stage(self) -> str:
        """The stage that made the model, such as "rgb/30_train_softmax", as `Run.need` takes it."""
        return stage_of(self.model)

    def load(self, pack: "Pack | None" = None, device: str = "cpu") -> "Embedder":
        """The network in evaluation mode; UserError where it does not fit the pack (see `load_model`)."""
        if self.is_pretrained:
            from ..train.pretrained import load_pretrained

            return load_pretrained(self.folder.name, pack, device)  # type: ignore[arg-type]
        from ..train.model_files import load_model

        return load_model(self.folder / "model", pack, device=device)[0]


def stage_of(name: str) -> str:
    """The part of a model's name up to its notebook: "45_transfer_depth/depth_0" gives "45_transfer_depth"."""
    parts = name.split("/")
    place = max((k for k, part in enumerate(parts) if STAGE.fullmatch(part)), default=len(parts) - 1)
    return "/".join(parts[: place + 1])


def find_models(run: str, names: list[str]) -> list[Trained]:
    """The models of these names in a run, in their order. UserError where one is missing, unfinished or ambiguous."""
    found = [_find(run, name) for name in names]
    if twice := [model for model, count in Counter(one.model for one in found).items() if count > 1]:
        raise UserError(f"models: {twice[0]} is named twice: leave one out")
    short = Counter(_short(one.model) for one in found)
    return [replace(one, name=_short(one.model) if short[_short(one.model)] == 1 else one.model) for one in found]


def need_models(this: "Run", names: list[str]) -> list[Trained]:
    """`find_models` for an open run, which records what it reads; a missing model is made as `Run.need` makes a stage.

    Without names, all models of the run's sweep are returned.
    """
    names = names or sweep_models(this.run)
    for name in names:
        stage = stage_of(name)
        if name.startswith(f"{PRETRAINED}/"):
            continue
        if not _candidates(this.run, name) and STAGE.fullmatch(stage.rpartition("/")[2]):  # a run alone makes no stage
            this.need(stage)
    found = find_models(this.run, names)
    for stage in dict.fromkeys(one.stage for one in found if not one.is_pretrained):
        this.need(stage)
    return found


def fusion_of(networks: list[Trained], names: list[str]) -> list[Trained]:
    """The two networks whose scores are to be added, by their short or whole names; [] if one is not among `networks`.

    A line is then printed, because the usual two need not be there. UserError unless none or two are named.
    """
    if len(names) not in (0, 2):
        raise UserError(f"late_fusion = {names}: name two of the models, or none: []")
    known = {key: network for network in networks for key in (network.name, network.model)}
    if missing := [name for name in names if name not in known]:
        print(f"note: no late fusion, because {missing[0]} is not among the models")
        return []
    return [known[name] for name in names]


def sweep_models(run: str) -> list[str]:
    """The names of the models that the run's sweep has trained. Failed runs are left out, which a printed line says."""
    path = run_folder(run) / "sweep.json"
    if not path.is_file():
        raise UserError(f"{path}: not there: face3d sweep FILE {run} makes it")
    rows = json.loads(path.read_text(encoding="utf-8"))
    if failed := [row["run"] for row in rows if row["status"] != "done"]:
        print(f"note: {len(failed)} runs of the sweep are not done: {', '.join(failed[:5])}")
    return [f"{row['run'].removeprefix(run + '/')}/{row['notebook']}" for row in rows if row["status"] == "done"]


def results(verification: dict, identification: dict, pretrained: dict | None = None) -> list[list[str]]:
    """The table that closes a demo: a row of headings, then a row for each system.

    verification, identification, pretrained: the metrics of notebooks 40, 41 and 29, {} where one did not run. Pretrained
    systems were measured on all people, by leave-one-out, and are marked by a star. A rate that was not measured is "-".
    """
    far = verification.get("far_target")
    keys = {
        "closed-set accuracy": "accuracy",
        "EER": "eer",
        f"TAR@FAR={far:g}" if far else "TAR": "tar",
        "rank-1": "rank1",
    }
    rows = [["", *keys]]
    named = identification.get("systems", {})
    systems = {name: rates | named.get(name, {}) for name, rates in verification.get("systems", {}).items()}
    for name, rates in (pretrained or {}).get("systems", {}).items():
        systems[f"{name} *"] = rates | {"rank1": rates["loo"]}
    for name, found in systems.items():
        values = [found.get(key) for key in keys.values()]
        rows.append([name, *("-" if value is None else f"{value:.3f}" for value in values)])
    return rows


def _find(run: str, name: str) -> Trained:
    if name.startswith(f"{PRETRAINED}/"):
        from ..train.pretrained import require_name

        require_name(name.removeprefix(f"{PRETRAINED}/"))
        return Trained(name, Path(name), {}, name)
    found = _candidates(run, name)
    if not found:
        raise UserError(f"run {run} has no model {name}: train it, or name another one")
    if len(found) > 1:
        raise UserError(f"run {run}: {name} may be any of {', '.join(model for model, _ in found)}: name one of them")
    ((model, folder),) = found
    depth = len(model.split("/")) - len(stage_of(model).split("/"))
    record = read_record([folder, *folder.parents][depth])
    if record["status"] != "done":
        raise UserError(f"model {model} is {record['status']} in run {run}: train it first")
    return Trained(model, folder, record, name=model)


def _candidates(run: str, name: str) -> list[tuple[str, Path]]:
    """(whole name, folder) of the models that `name` may mean, in the innermost run that has any."""
    for outer in outward(run):
        root, place = run_folder(outer), run_folder(f"{outer}/{name}")
        for pattern in ("model/card.json", "*/model/card.json", "*/*/model/card.json"):
            folders = sorted(card.parents[1] for card in place.glob(pattern))
            if folders:
                return [(folder.relative_to(root).as_posix(), folder) for folder in folders]
    return []


def _short(model: str) -> str:
    """The model's nested run, and its part of the notebook where that trains several; else the whole name."""
    if model.startswith(f"{PRETRAINED}/"):
        return model.removeprefix(f"{PRETRAINED}/")
    stage = stage_of(model)
    nested, part = stage.rpartition("/")[0], model[len(stage) + 1 :]
    return "/".join(word for word in (nested, part) if word) if nested else model
