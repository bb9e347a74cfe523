"""The last steps of a training notebook: it rates the network, prints the rates, and saves the model with its card."""

import math

import numpy as np
from torch import nn

from ..base.tables import write_table
from ..runs.notebook import Run
from ..train.closed_set import predict
from ..train.embedder import Embedder
from ..train.model_files import make_card, save_model
from ..train.training_data import TrainingData
from .compare import unseen
from .intervals import mean_bootstrap


def rate_training(this: Run, data: TrainingData, network: Embedder, loss: nn.Module) -> dict:
    """Rate a trained network on the test pictures of the closed set and on people whom it has never seen.

    Writes predictions.csv (pair_id, cls_name, predicted: the name given to each test picture) and unseen.npz (the
    embeddings of the unseen people) into the folder of the run.

    Returns the values of the parameters `loss` and `modality`; the counts people, train, eval and test; accuracy, the
    share of test pictures that got the right name, with its 95 % interval accuracy_low and accuracy_high (bootstrap
    over people; all three are NaN without test pictures); and the rates of `compare.unseen`.
    """
    rows, labels = data.test
    table = data.splits.test[["pair_id", "cls_name"]]
    named = predict(network, loss, data.pack, rows, data.train)
    write_table(this.folder / "predictions.csv", table.assign(predicted=np.array(data.classes)[named]))
    rates = {name: this.parameters[name] for name in ("loss", "modality")} | {"people": len(data.classes)}
    rates |= {"train": len(data.train[0]), "eval": len(data.evaluation[0]), "test": len(rows)}
    rates |= dict.fromkeys(("accuracy", "accuracy_low", "accuracy_high"), math.nan)
    if len(rows):
        found = mean_bootstrap(named == labels, table["cls_name"])
        rates |= found.named("accuracy")
    return rates | unseen(network, data.pack, data.splits, this.folder)


def counts_text(rates: dict) -> str:
    """Two lines: the counts of `rate_training`, and the accuracy that guessing reaches."""
    counts = " ".join(f"{name}={rates[name]}" for name in ("people", "train", "eval", "test"))
    return f"{counts}\nchance accuracy {1 / rates['people']:.3f}"


def rates_text(rates: dict) -> str:
    """Two lines: closed-set accuracy, and equal error rate on unseen people, each with its 95 % interval."""

    def shown(name: str) -> str:
        return f"{rates[name]:.3f} [{rates[f'{name}_low']:.3f}, {rates[f'{name}_high']:.3f}]"

    what = f"{rates['modality']}, {rates['loss']}"
    return f"{what}: closed-set accuracy {shown('accuracy')}\npeople never seen: EER {shown('eer')}"


def save_training(this: Run, data: TrainingData, network: Embedder, loss: nn.Module, rates: dict) -> None:
    """Save the network and the weights of its loss, with a card, as model/ in the folder of the run."""
    card = make_card(network, data.pack, data.classes, this.parameters, rates)
    save_model(this.folder / "model", network, card, loss)
