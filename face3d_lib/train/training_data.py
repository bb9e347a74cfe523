"""The data of a training notebook: the packed crops, the split into training and test, and the list of people."""

from dataclasses import dataclass

from ..data.pack import Pack
from ..data.splits import Splits, read_splits
from ..runs.notebook import Run
from .batches import labelled
from .closed_set import LabelledRows


@dataclass(frozen=True)
class TrainingData:
    """The closed set: pictures of the people whom a network learns to name; and the pack in which all pictures are."""

    pack: Pack
    splits: Splits  # the tables of all parts, those of the open set as well
    classes: list[str]  # the people of the closed set; a label is a position in this list
    train: LabelledRows
    evaluation: LabelledRows  # pictures of the same people, by which the best epoch is chosen
    test: LabelledRows  # pictures of the same people, which are used once, at the end


def open_training_data(this: Run) -> TrainingData:
    """The data of a training notebook, from the stages 20_split_subjects and 21_pack_dataset that its run sees.

    Prints how many people and pictures there are. UserError: a stage is missing or not done, or the split names a
    picture that the pack does not hold.
    """
    pack = Pack.open(this.need("21_pack_dataset") / "pack")
    splits = read_splits(this.need("20_split_subjects"))
    classes = sorted(set(splits.train["cls_name"]))
    parts = [labelled(pack, table, classes) for table in (splits.train, splits.eval, splits.test)]
    train, evaluation, test = (len(rows) for rows, _ in parts)
    print(f"{len(classes)} people: {train} pairs to train, {evaluation} to choose the best epoch, {test} to test")
    return TrainingData(pack, splits, classes, *parts)
