"""What can be measured with the people of a data set; notebooks report it before the long work and again after it.

With the default settings each person needs at least 3 usable pairs, and the rates need:

    closed-set accuracy (30-38)                      2 people, who then all train
    EER and rank-1 of people never seen (40, 41)     4 people, of whom 2 train and 2 are tested
    rates at a threshold, names or "unknown" (50)    9 people, of whom 2 are dev people
    false alarms by people never enrolled (41, 50)   11 people and more, so that 3 are test people

Which pictures cannot be aligned is not known before the alignment, so the counts before it are upper bounds. Notebooks
00, 10, 21 and 22, which only look at data, work with any number of people and pictures.
"""

from collections import Counter
from collections.abc import Iterable
from fractions import Fraction

from ..base.errors import UserError
from .pairs import PairFiles, people_of
from .shares import LEAST_PEOPLE, enrolled_and_unknown, exact_ratios, people_counts
from .splits import Splits, SplitSettings


def people_of_splits(splits: Splits) -> dict[str, int]:
    """How many people train, are dev and test people; and of the test people how many are enrolled and unknown."""
    opened = {"enrolled": splits.gallery, "unknown": splits.unknown}
    names = {
        (kind, group): set(frame.loc[frame["group"] == group, "cls_name"])
        for kind, frame in opened.items()
        for group in ("dev", "test")
    }
    return {
        "train": splits.train["cls_name"].nunique(),
        "dev": len(names["enrolled", "dev"] | names["unknown", "dev"]),
        "test": len(names["enrolled", "test"] | names["unknown", "test"]),
        "enrolled": len(names["enrolled", "test"]),
        "unknown": len(names["unknown", "test"]),
    }


def expected_people(files: Iterable[PairFiles], settings: SplitSettings) -> dict[str, int]:
    """As `people_of_splits`, if every pair of `files` that can be read can be aligned, too; also "enough" and "all".

    "enough" counts the people with at least `settings.min_images` pairs, "all" those with at least one pair.
    """
    files = list(files)
    counts = Counter(row.subject_id for row in files if row.status == "ok")
    enough = sum(count >= settings.min_images for count in counts.values())
    train, dev, test = people_counts(enough, exact_ratios(settings.train_dev_test_people))
    enrolled, unknown = enrolled_and_unknown(test, Fraction(str(settings.unknown_people)))
    people = {"train": train, "dev": dev, "test": test, "enrolled": enrolled, "unknown": unknown}
    return people | {"enough": enough, "all": len(people_of(files))}


def unmeasured(people: dict[str, int]) -> dict[str, str]:
    """What cannot be measured with these people, and why; {} if everything can be measured.

    The keys are "closed_set" (accuracy on people who train), "verification" (EER of people never seen),
    "identification" (rank-1), "threshold" (every rate at a threshold, and the answer "unknown") and "strangers"
    (false alarms by people who are not enrolled). `people` is of `people_of_splits` or `expected_people`.
    """
    needs = {
        "closed_set": ("train", LEAST_PEOPLE, "people who train", "no network can be trained"),
        "verification": (
            "test",
            LEAST_PEOPLE,
            "test people",
            "no two people whom the network never saw can be compared",
        ),
        "identification": ("enrolled", LEAST_PEOPLE, "enrolled test people", "nobody can be taken for somebody else"),
        "threshold": ("dev", LEAST_PEOPLE, "dev people", "no threshold can be chosen, and no rate at one is measured"),
        "strangers": ("unknown", 1, "test people who are not enrolled", "false alarms by strangers are not measured"),
    }
    return {
        what: f"{who}: {people[role]}, and at least {least} needed, so {therefore}"
        for what, (role, least, who, therefore) in needs.items()
        if people[role] < least
    }


def require_training(people: dict[str, int], settings: SplitSettings) -> None:
    """Raise UserError unless two people or more train: with fewer no notebook from 30 on has anything to do.

    If the share for training is 0 (people of a sensor who are only tested), nobody needs to train.
    """
    if exact_ratios(settings.train_dev_test_people)[0] and people["train"] < LEAST_PEOPLE:
        counted = (
            f"{people['enough']} of {people['all']}"
            if "enough" in people
            else str(people["train"] + people["dev"] + people["test"])
        )
        raise UserError(
            f"too few people: {counted} people have at least {settings.min_images} usable pairs, and "
            f"{LEAST_PEOPLE} are needed: add people or pictures, or lower min_images of notebook 20"
        )
