"""The sanitiser may hide clocks and run folders; it may never hide a result."""

import re
from pathlib import Path

import pytest

CONFIG = Path(__file__).with_name("nbval_sanitize.cfg").read_text()
RULES = re.findall(r"^regex: (.*)$\n^replace: (.*)$", CONFIG, re.M)  # as nbval reads the file
RESULTS = [
    "EER 0.031",
    "TAR@FAR=1e-3  0.913  threshold 0.4127",
    "genuine=528 impostor=4032 people=12",
    "rank-1 0.875 (28 of 32)",
    "seed 0, session s1, 3 sessions, 40 subjects",
    "depth 612.5 mm, step 0.1 mm, pose 12.5 deg, 3 m",
    "failure to acquire 2/160 = 0.0125",
    "sha256 9f86d081884c7d65 of train.csv",
    "loss 2.31 -> 0.48 in 12 epochs, 8 steps each",
    "runs 3 of 3",
    "61.2 pairs/s",
    "0.5 same, 4 small",
]


def sanitised(line: str, rules=RULES) -> str:
    for regex, replacement in rules:
        line = re.sub(regex, replacement, line)
    return line


@pytest.mark.parametrize("line", RESULTS)
def test_results_survive(line):
    assert sanitised(line) == line


@pytest.mark.parametrize(
    ("line", "left"),
    [
        ("done in 12 s", "done in CLOCK"),
        ("took 3.21 s, n=4", "took CLOCK, n=4"),
        ("1m 02s for 160 pairs", "CLOCK for 160 pairs"),
        ("12.5 ms per pair", "CLOCK per pair"),
        ("-> runs/default/10_align_faces/alignment.csv", "-> RUN_FOLDER"),
        ("wrote /data/work/runs/.test/demo/x, EER 0.1", "wrote RUN_FOLDER, EER 0.1"),
    ],
)
def test_clocks_and_run_folders_are_hidden(line, left):
    assert sanitised(line) == left


def test_the_file_holds_these_rules_and_no_others():
    assert len(RULES) == CONFIG.count("regex") == 3


@pytest.mark.parametrize("blind", [r"\d+\.\d+", r"\d+", r"\b\d+\.\d+ s?", r"\d+ of \d+", r"\S+/\S+", ".*"])
def test_a_blinding_rule_would_be_noticed(blind):
    rules = [*RULES, (blind, "X")]
    assert any(sanitised(line, rules) != line for line in RESULTS)
