"""Trained models by the names that people give on the command line."""

from pathlib import Path
from typing import TYPE_CHECKING, get_args

from ..base.errors import UserError

if TYPE_CHECKING:
    from ..train.embedder import Embedder
    from ..train.model_files import ModelCard


def load_named(name: str) -> "tuple[Embedder, ModelCard]":
    """The network of a name, in evaluation mode on the CPU, and its card.

    A name is a folder with card.json and model.safetensors (or with such a folder `model`), a model of a run such as
    demo:rgbd/30_train_softmax, or a pretrained network: dlib, depth_synthetic. UserError: there is no such model, or it
    is damaged.
    """
    from ..train import pretrained
    from ..train.model_files import load_model

    folder = next((place for place in (Path(name), Path(name) / "model") if (place / "card.json").is_file()), None)
    if folder is not None:
        return load_model(folder)
    if name in get_args(pretrained.Name):
        return pretrained.load_pretrained(name), pretrained.card_of(name)  # type: ignore[arg-type]
    run, colon, model = name.partition(":")
    if colon:
        from ..evaluate.trained import find_models

        (found,) = find_models(run, [model])
        return found.load(), found.card
    raise UserError(
        f"model {name}: no such model: give a folder that holds card.json, RUN:MODEL such as "
        f"demo:rgbd/30_train_softmax, or {' or '.join(get_args(pretrained.Name))}"
    )
