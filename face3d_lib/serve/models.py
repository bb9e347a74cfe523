"""Trained models by the names that people give on the command line."""

from pathlib import Path
from typing import TYPE_CHECKING

from ..base.atomic import sha256_of
from ..base.errors import UserError

if TYPE_CHECKING:
    from ..train.embedder import Embedder
    from ..train.model_files import ModelCard


def folder_of(name: str) -> Path:
    """The folder with card.json and model.safetensors that a name means.

    A name is such a folder (or one that holds it as `model`), a model of a run such as demo:rgbd/30_train_softmax, the
    pretrained network depth_synthetic, or a model that `face3d models get` fetched. UserError: there is no such model.
    """
    from ..train.pretrained import SHIPPED
    from .zoo import NAME, cached

    places = [Path(name), Path(name) / "model"]
    if NAME.fullmatch(name):
        places += [SHIPPED / name, cached(name)]
    run, colon, model = name.partition(":")
    if colon and not Path(name).exists():
        from ..evaluate.trained import find_models

        (found,) = find_models(run, [model])
        places.append(found.folder / "model")
    for place in places:
        if (place / "card.json").is_file():
            return place
    raise UserError(
        f"model {name}: no such model: give one that `face3d models list` names, RUN:MODEL such as "
        "demo:rgbd/30_train_softmax, or a folder that holds card.json; or fetch it: face3d models get"
    )


def load_named(name: str) -> "tuple[Embedder, ModelCard]":
    """The network of a name, in evaluation mode on the CPU, and its card; a name is as for `folder_of`, or dlib.

    UserError: there is no such model, or it is damaged.
    """
    from ..train import pretrained
    from ..train.model_files import load_model

    if name == "dlib" and not Path(name).exists():
        return pretrained.load_pretrained("dlib"), pretrained.card_of("dlib")
    return load_model(folder_of(name))


def import_legacy(path: Path, classes: list[str], folder: Path) -> "ModelCard":
    """A checkpoint of the legacy project as a model of this library, written into `folder`; its card.

    path: a .pkl or .pth file with the state dict of a ResNet-50 of four channels; nothing in it is run. classes: the people in
    the order of the classifier. The crops are those of the legacy project: by box with a margin of 44 px, 182 px wide, resized
    to 224. UserError: the folder holds something, or the checkpoint is another one (`read_legacy`).
    """
    from ..data.warp import AlignSettings
    from ..train.embedder import Architecture, Embedder
    from ..train.legacy_network import CROP, SIZE, read_legacy
    from ..train.losses import SoftmaxLoss
    from ..train.model_files import ModelCard, save_model

    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder}: holds files already: give a new folder")
    backbone, classifier = read_legacy(path, classes)
    architecture = Architecture(
        "rgbd", "legacy_resnet50", "minmax", "early", embedding_size=SIZE, depth_stem="fresh", input_size=CROP
    )
    network, loss = Embedder(architecture), SoftmaxLoss(SIZE, len(classes))
    network.branch[0].backbone.load_state_dict(backbone)  # type: ignore[union-attr]
    loss.linear.load_state_dict(classifier)
    settings = AlignSettings("facenet", 182)
    card = ModelCard(
        format="face3d model 1",
        architecture=architecture,
        weights_sha256=None,
        classes=classes,
        alignment=settings,
        settings_hash=settings.hash(),
        depth_unit="pixel",
        pack_sha256={},
        git=None,
        parameters={"imported": path.name, "sha256": sha256_of(path)},
        metrics={},
    )
    return save_model(folder, network.eval(), card, loss)
