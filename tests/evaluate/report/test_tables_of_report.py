"""Tables of a report: numbers as readers see them, reasons as footnotes, everything in the csv."""

import math

import numpy as np
import pytest

from face3d_lib.evaluate.intervals import Interval
from face3d_lib.evaluate.report.tables import Table, letter, number, text_of

NAN = math.nan


def rate(value, low=NAN, high=NAN, reason=""):
    return Interval(value, low, high, 0.95, 9, 100, reason)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *[
            (0.1, "0.100"),
            (0.0995, "0.100"),
            (0.0094, "0.0094"),
            (0.0, "0.000"),
            (1e-5, "0.00001"),
            (-0.00123, "-0.0012"),
            (-0.25, "-0.250"),
        ],
        *[(12345, "12,345"), (np.int64(7), "7"), (NAN, "-"), (None, "-"), ("<b>", "<b>")],
        (rate(0.5, 0.25, 0.75), "0.500 [0.250, 0.750]"),
        (rate(0.5, reason="one person"), "0.500"),
        (rate(NAN, reason="nobody"), "-"),
    ],
)
def test_a_value_as_readers_see_it(value, text):
    assert text_of(value) == text


def test_a_missing_number_has_its_reason_as_a_footnote():
    rows = [["x", rate(NAN, reason="nobody")], ["y", rate(0.5, reason="one person")], ["z", rate(NAN, reason="nobody")]]
    table = Table("t", "T", ["system", "EER"], rows)
    assert table.footnotes == ["nobody", "one person"]
    assert table.cells == [[("x", ""), ("-", "a")], [("y", ""), ("0.500", "b")], [("z", ""), ("-", "a")]]
    assert table.numeric == [False, True]


def test_the_csv_has_all_rows_and_full_precision():
    table = Table(
        "t", "T", ["system", "EER"], [["x", rate(1 / 3, 0.1, 0.9)], ["y", rate(NAN, reason="nobody")]], short=1
    )
    assert len(table.shown) == 1
    assert table.footnotes == []  # of the rows that are shown
    frame = table.frame()
    assert frame.columns.tolist() == ["system", "EER", "EER_low", "EER_high", "EER_reason"]
    assert frame["EER"][0] == 1 / 3
    assert frame["EER_reason"].tolist() == ["", "nobody"]
    assert Table("t", "T", ["a", "b"], []).frame().columns.tolist() == ["a", "b"]


def test_footnotes_beyond_z():
    assert [letter(k) for k in (0, 25, 26, 27, 52)] == ["a", "z", "aa", "ab", "ba"]


def test_numbers_keep_their_kind():
    assert number(1000) == "1,000"
    assert number(1000.0) == "1000.000"
