"""A trained model on disk: weights in safetensors and, beside them, a card that says what they are."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from ..base.atomic import write_bytes, write_json
from ..base.errors import UserError
from .embedder import Architecture, Embedder


def save_model(folder: Path, embedder: Embedder, card: dict, loss: nn.Module | None = None) -> None:
    """model.safetensors and card.json in `folder`, each whole or not at all; the card is written last.

    card: JSON values to keep with the model; `classes` (list of subjects), `settings_hash` (of the
    alignment), parameters, metrics, hash of the pack. The architecture and the SHA-256 of the weights are
    added. loss: kept too when given.
    """
    modules = nn.ModuleDict({"embedder": embedder} | ({} if loss is None else {"loss": loss}))
    weights = save({key: value.detach().cpu().contiguous() for key, value in modules.state_dict().items()})
    card = {
        "architecture": asdict(embedder.architecture),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        **card,
    }
    (Path(folder) / "card.json").unlink(missing_ok=True)  # an old card must not vouch for new weights
    write_bytes(Path(folder) / "model.safetensors", weights)
    write_json(Path(folder) / "card.json", card)


def _architecture(card: dict) -> Architecture:
    try:
        return Architecture(**card["architecture"])
    except UserError as error:  # the caller says whose architecture it is
        raise ValueError(error) from None


def load_model(
    folder: Path, settings_hash: str | None = None, loss: nn.Module | None = None, device="cpu"
) -> tuple[Embedder, dict]:
    """The embedder of `folder`, in evaluation mode on `device`, and its card; `loss` is filled when given.

    UserError when files are missing, altered or of another architecture, or when `settings_hash` is given and
    the model was trained on crops aligned with other settings.
    """
    folder = Path(folder)
    path = folder / "model.safetensors"
    try:
        card = json.loads((folder / "card.json").read_text())
        weights = path.read_bytes()
        if hashlib.sha256(weights).hexdigest() != card["weights_sha256"]:
            raise UserError(f"{path}: not the weights that card.json describes (SHA-256 differs): train again")
        state = load(weights)
        embedder = Embedder(_architecture(card))
        modules = nn.ModuleDict({"embedder": embedder} | ({} if loss is None else {"loss": loss}))
        wanted = modules.state_dict().keys()
        modules.load_state_dict({k: v for k, v in state.items() if k in wanted or not k.startswith("loss.")})
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{folder}: no model that can be used ({reason}): train again") from None
    trained_on = card.get("settings_hash")
    if settings_hash is not None and trained_on != settings_hash:
        reason = f"trained on crops of alignment settings {trained_on}, these have {settings_hash}"
        raise UserError(f"{folder}: {reason}: align with the model's settings or train again")
    return embedder.to(device).eval(), card
