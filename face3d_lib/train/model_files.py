"""A trained model on disk: its weights (model.safetensors) and a card (card.json) that describes them.

The card has one schema, `ModelCard`, and is checked when it is written and when it is read. A model is therefore never
used on crops that were prepared in another way, and nobody has to remember how a network was made.
"""

import hashlib
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, JsonValue, StringConstraints, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from ..base.atomic import plain, write_bytes, write_text
from ..base.errors import UserError
from ..data.pack import Pack
from ..data.warp import AlignSettings
from .embedder import Architecture, Embedder
from .encodings import require_meaning

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class About(BaseModel):
    """What a reader must know before using somebody else's model."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    data: str  # what the network was trained on
    protocol: str  # how the metrics of the card were measured
    licence: str  # under which the weights may be used
    command: str  # that trained it


class ModelCard(BaseModel):
    """All facts that are needed to use a model's weights; unknown, missing or mistyped fields are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    format: Literal["face3d model 1"]
    architecture: Architecture  # the network, with the encoding of depth
    weights_sha256: Sha256 | None  # of model.safetensors; None until `save_model` has written the weights
    classes: list[str]  # the people of the closed set, in the order of the classifier's outputs
    alignment: AlignSettings  # the settings with which the training crops were made
    settings_hash: str  # of `alignment` and the detector: AlignSettings.hash
    depth_unit: Literal["mm", "pixel"]  # of the training pairs
    pack_sha256: dict[str, Sha256]  # the files of the pack that the network was trained on
    git: dict[str, str | bool] | None  # commit of the code, and whether tracked files differed; None outside git
    parameters: dict[str, JsonValue]  # of the training notebook
    metrics: dict[str, JsonValue]  # the rates of the training notebook; null for a rate that could not be measured
    about: About | None = None  # of a model that was published

    @model_validator(mode="after")
    def _agrees(self) -> "ModelCard":
        if self.settings_hash != self.alignment.hash():
            raise ValueError("settings_hash is not the hash of the alignment settings")
        return self


def make_card(embedder: Embedder, pack: Pack, classes: list[str], parameters: dict, metrics: dict) -> ModelCard:
    """The card of a network that was trained on `pack`.

    classes: the people of the closed set in the order of the classifier's outputs. parameters: those of the run
    (`this.parameters`). metrics: numbers to keep with the model; NaN becomes null.
    """
    from ..runs.record import git_state  # it starts a subprocess, which reading a model does not need

    source = pack.info["source"]
    return ModelCard(
        format="face3d model 1",
        architecture=embedder.architecture,
        weights_sha256=None,
        classes=[str(name) for name in classes],
        alignment=AlignSettings(**source["alignment"]),
        settings_hash=source["settings_hash"],
        depth_unit=source["depth_unit"],
        pack_sha256=pack.info["sha256"],
        git=git_state(),
        parameters=plain(parameters),
        metrics=plain(metrics),
    )


def save_model(
    folder: Path, embedder: Embedder, card: ModelCard, loss: nn.Module | None = None, half: bool = False
) -> ModelCard:
    """Write model.safetensors and card.json into `folder`, each whole or not at all; the card is written last.

    The returned card, which is also the one on disk, holds the SHA-256 of the weights. If `loss` is given, its weights
    (the classifier) are kept beside those of the embedder. half: store float32 weights as float16, in half the space;
    `load_model` computes in float32 all the same.
    """
    modules = nn.ModuleDict({"embedder": embedder} | ({} if loss is None else {"loss": loss}))
    state = {key: value.detach().cpu().contiguous() for key, value in modules.state_dict().items()}
    if half:
        state = {key: value.half() if value.dtype == torch.float32 else value for key, value in state.items()}
    weights = save(state)
    card = card.model_copy(update={"weights_sha256": hashlib.sha256(weights).hexdigest()})
    (Path(folder) / "card.json").unlink(missing_ok=True)  # an old card must not describe new weights
    write_bytes(Path(folder) / "model.safetensors", weights)
    write_text(Path(folder) / "card.json", card.model_dump_json(indent=2) + "\n")
    return card


def read_card(folder: Path) -> ModelCard:
    """The card of the model in `folder`; UserError names the file and the first field that is wrong."""
    path = Path(folder) / "card.json"
    try:
        return ModelCard.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: no model that can be used ({error.strerror}): train it first") from None
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the file"
        reason = f"{field}: {first['msg']}"
    except UserError as error:  # a value that the architecture or the alignment settings refuse
        reason = str(error)
    raise UserError(f"{path}: no card of the present format ({reason}): train the model again")


def load_model(
    folder: Path, pack: Pack | None = None, loss: nn.Module | None = None, device: str = "cpu"
) -> tuple[Embedder, ModelCard]:
    """The embedder of `folder`, in evaluation mode on `device`, and its card; `loss` is filled if given.

    UserError when files are missing, altered or of another architecture. With `pack`, also when its crops were
    aligned with other settings than the model's, or when the model's encoding needs another depth unit.
    """
    folder = Path(folder)
    path, card = folder / "model.safetensors", read_card(folder)
    try:
        weights = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}): train or fetch the model again") from None
    if hashlib.sha256(weights).hexdigest() != card.weights_sha256:
        raise UserError(
            f"{path}: not the weights that card.json describes (SHA-256 differs): train or fetch the model again"
        )
    if pack is not None:
        _require_fit(folder, card, pack.info["source"])
    try:
        state = load(weights)
        embedder = Embedder(card.architecture)
        modules = nn.ModuleDict({"embedder": embedder} | ({} if loss is None else {"loss": loss}))
        wanted = modules.state_dict().keys()
        modules.load_state_dict({k: v for k, v in state.items() if k in wanted or not k.startswith("loss.")})
    except (ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{folder}: the weights do not fit the architecture of the card ({reason}): train again"
        ) from None
    return embedder.to(device).eval(), card


def _require_fit(folder: Path, card: ModelCard, source: dict) -> None:
    if card.settings_hash != source["settings_hash"]:
        raise UserError(
            f"{folder}: trained on crops of alignment settings {card.settings_hash}, these have "
            f"{source['settings_hash']}: align with the model's settings or train again"
        )
    if card.architecture.modality != "rgb":
        require_meaning(card.architecture.encoding, source["depth_unit"])
