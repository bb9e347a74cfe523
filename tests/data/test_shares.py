"""Shares: exact integers, and people enough for each part before anybody is left over."""

from fractions import Fraction

import pytest

from face3d_lib.base.errors import UserError
from face3d_lib.data.shares import apportion, deal, divide, enrolled_and_unknown, exact_ratios, people_counts

SHARES = exact_ratios(["0.6", "0.15", "0.25"])


def test_ratios_are_exact():
    assert sum(exact_ratios([0.7, 0.2, 0.1])) == 1  # in binary floating point the sum is 0.9999999999999999
    for wrong in ([0.7, 0.2, 0.2], [1.1, -0.1, 0], ["a", "0", "1"], ["1/0", "0", "1"]):
        with pytest.raises(UserError):
            exact_ratios(wrong)


@pytest.mark.parametrize(
    ("count", "parts"),
    [(10, [7, 2, 1]), (13, [9, 3, 1]), (4, [2, 1, 1]), (3, [1, 1, 1]), (2, [2, 0, 0]), (1, [1, 0, 0]), (0, [0, 0, 0])],
)
def test_apportion_by_hand(count, parts):
    assert apportion(count, exact_ratios(["0.7", "0.2", "0.1"])) == parts


def test_apportion_never_puts_a_person_whole_into_test():
    for ratios in (["0.1", "0.1", "0.8"], ["0.34", "0.33", "0.33"]):
        for count in range(1, 60):
            parts = apportion(count, exact_ratios(ratios))
            assert sum(parts) == count
            assert parts[0] >= 1


def test_apportion_gives_nothing_to_a_part_of_ratio_zero():
    assert apportion(31, exact_ratios(["1", "0", "0"])) == [31, 0, 0]


@pytest.mark.parametrize(
    ("count", "parts"),
    [
        *[(0, [0, 0, 0]), (1, [1, 0, 0]), (2, [2, 0, 0]), (3, [3, 0, 0]), (4, [2, 0, 2]), (5, [3, 0, 2])],
        *[(6, [4, 0, 2]), (7, [4, 0, 3]), (8, [5, 0, 3]), (9, [5, 2, 2]), (10, [6, 2, 2]), (12, [7, 2, 3])],
        *[(20, [12, 3, 5]), (50, [30, 8, 12]), (120, [72, 18, 30])],
    ],
)
def test_people_as_the_table_says(count, parts):
    """The table at the top of shares.py."""
    assert people_counts(count, SHARES) == parts


def test_no_part_has_a_single_person_and_training_keeps_its_share():
    for ratios in (SHARES, exact_ratios(["0.5", "0", "0.5"]), exact_ratios(["0.5", "0.4", "0.1"])):
        for count in range(2, 200):
            parts = people_counts(count, ratios)
            assert sum(parts) == count
            assert 1 not in parts
            assert parts[0] >= min(count, count * ratios[0] - Fraction(1, 2))
            assert all(part == 0 for part, ratio in zip(parts, ratios, strict=True) if ratio == 0)


def test_shares_of_nobody():
    assert people_counts(6, exact_ratios(["1", "0", "0"])) == [6, 0, 0]
    assert people_counts(6, exact_ratios(["0", "0.5", "0.5"])) == [0, 3, 3]
    assert people_counts(3, exact_ratios(["0", "0.5", "0.5"])) == [0, 0, 3]
    assert people_counts(3, exact_ratios(["0", "1", "0"])) == [0, 3, 0]


def test_two_are_enrolled_before_anybody_stays_unknown():
    share = Fraction("0.3")
    assert [enrolled_and_unknown(n, share) for n in (0, 1, 2, 3, 4, 12)] == [
        *[[0, 0], [1, 0], [2, 0], [2, 1], [3, 1], [8, 4]]
    ]
    assert enrolled_and_unknown(5, Fraction(0)) == [5, 0]


def test_dealing_gives_each_name_once_and_the_same_everywhere():
    names = [f"p{k}" for k in range(11)]
    parts = deal(names, [4, 0, 7], 3, "people")
    assert [len(part) for part in parts] == [4, 0, 7]
    assert sorted(name for part in parts for name in part) == sorted(names)
    assert parts == deal(reversed(names), [4, 0, 7], 3, "people")
    assert parts != deal(names, [4, 0, 7], 4, "people")
    assert [len(part) for part in divide(names, ("0.7", "0.2", "0.1"), 0, "images")] == [8, 2, 1]
