"""Splitting people and pictures into parts: exact integer counts, and an order that is the same everywhere.

A hash of the seed and a name decides to which part a person or a picture goes. The split therefore depends neither on
the order of the file system nor on the machine, and a picture that is added to one person moves no picture of another.

**How many people train, tune and test** (`people_counts`). With many people the shares decide. With few, these rules
take precedence, in this order:

1. Training keeps its share (rounded, at least 2 people, because a network must have somebody to tell apart).
2. The other people are for dev and test, at least 2 people each, because an impostor comparison needs two.
3. Where fewer than 4 people remain, all of them are test people and there are no dev people. Rates that need no
   threshold (EER, rank-1) can then be measured; those at a threshold cannot, since thresholds are chosen on dev people.
4. Where fewer than 2 people remain, everybody trains: only the closed set can be measured.

With the shares 0.6, 0.15, 0.25:

    people   2    3    4    5    6    7    8    9    10   12   20   50   120
    train    2    3    2    3    4    4    5    5    6    7    12   30   72
    dev      0    0    0    0    0    0    0    2    2    2    3    8    18
    test     0    0    2    2    2    3    3    2    2    3    5    12   30
"""

import hashlib
from collections.abc import Iterable
from fractions import Fraction

import numpy as np

from ..base.errors import UserError

LEAST_PEOPLE = 2  # of a part, so that two different people can be compared


def exact_ratios(ratios: Iterable[float | str]) -> list[Fraction]:
    """The ratios as exact fractions, read from their decimal text: 0.7 + 0.2 + 0.1 is 1 here and not in binary.

    Raises UserError unless each is 0 or more and their sum is 1.
    """
    ratios = list(ratios)
    try:
        exact = [Fraction(str(ratio)) for ratio in ratios]
    except (ValueError, ZeroDivisionError):
        raise UserError(f"ratios {ratios}: each must be a number such as 0.7") from None
    if sum(exact) != 1 or min(exact) < 0:
        raise UserError(f"ratios {ratios}: each must be 0 or more and their sum exactly 1, not {float(sum(exact))}")
    return exact


def apportion(count: int, ratios: list[Fraction], least: int = 1) -> list[int]:
    """How many of `count` things each part gets, by the largest remainder; ties go to the earlier part.

    If there are enough things, each part with a ratio above 0 gets at least `least`, taken from the largest part. If
    there are fewer things than parts, earlier parts get theirs first.
    """
    quotas = [count * ratio for ratio in ratios]
    parts = [int(quota) for quota in quotas]
    by_remainder = sorted(range(len(parts)), key=lambda k: (parts[k] - quotas[k], k))
    for k in by_remainder[: count - sum(parts)]:
        parts[k] += 1
    wanted = [k for k, ratio in enumerate(ratios) if ratio > 0]
    if count >= len(wanted):
        for k in wanted:
            while parts[k] < min(least, count // len(wanted)):
                parts[max(wanted, key=lambda j: (parts[j], -j))] -= 1
                parts[k] += 1
    elif wanted and parts[wanted[0]] == 0 and count:
        parts[parts.index(max(parts))] -= 1
        parts[wanted[0]] = 1
    return parts


def people_counts(count: int, shares: list[Fraction]) -> list[int]:
    """[train, dev, test]: how many of `count` people get each role; the rules are at the top of this file.

    `shares` are those of train, dev and test, as of `exact_ratios`. A role whose share is 0 gets nobody.
    """
    parts = apportion(count, shares, LEAST_PEOPLE)
    if all(part >= LEAST_PEOPLE for part, share in zip(parts, shares, strict=True) if share) and (
        parts[0] >= round(count * shares[0])
    ):
        return parts
    train_share, dev_share, test_share = shares
    train = min(count, max(LEAST_PEOPLE, round(count * train_share))) if train_share else 0
    rest = count - train
    if dev_share and test_share and rest >= 2 * LEAST_PEOPLE:
        dev, test = apportion(rest, [dev_share / (1 - train_share), test_share / (1 - train_share)], LEAST_PEOPLE)
    elif rest >= LEAST_PEOPLE:
        dev, test = (0, rest) if test_share else (rest, 0)
    else:
        train, dev, test = (count, 0, 0) if train_share else (0, 0, count)
    return [train, dev, test]


def enrolled_and_unknown(count: int, unknown_share: Fraction) -> list[int]:
    """[enrolled, unknown]: how many of `count` people of dev or test are enrolled, and how many never are.

    At least two are enrolled before anybody stays unknown, because with one enrolled person every guess is right.
    """
    enrolled, unknown = apportion(count, [1 - unknown_share, unknown_share])
    moved = min(unknown, max(0, LEAST_PEOPLE - enrolled))
    return [enrolled + moved, unknown - moved]


def hashed_order(names: Iterable[str], seed: int, purpose: str) -> list[str]:
    """`names` in an order that is random, and the same for the same seed and purpose on every machine."""
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}\0{purpose}\0{name}".encode()).digest())


def deal(names: Iterable[str], counts: list[int], seed: int, purpose: str) -> list[list[str]]:
    """`names` in hashed order, dealt into one list for each of `counts`, which sum to the number of names."""
    ordered = hashed_order(names, seed, purpose)
    ends = np.cumsum(counts)
    return [ordered[end - size : end] for end, size in zip(ends, counts, strict=True)]


def divide(names: Iterable[str], ratios: Iterable[float | str], seed: int, purpose: str) -> list[list[str]]:
    """`names` split into one list for each ratio, by hashed order and exact integer counts."""
    names = list(names)
    return deal(names, apportion(len(names), exact_ratios(ratios)), seed, purpose)
