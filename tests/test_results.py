"""The README and the results page show the numbers of the JSON files, cell by cell, and every picture once."""

import copy
import importlib.util
import json
import re
import statistics

import nbformat
import pytest

from face3d_lib.base.paths import ROOT
from face3d_lib.evaluate import intervals

FIGURES = ROOT / "figures"
spec = importlib.util.spec_from_file_location("results", FIGURES / "results.py")
results = importlib.util.module_from_spec(spec)
spec.loader.exec_module(results)

PAGE, README = (FIGURES / "README.md").read_text(), (ROOT / "README.md").read_text()
MOST_WORDS = 1200  # of README.md
RATE = re.compile(r"[+-]?(?:\d+)?\.\d{3}\b")
SYSTEMS = {  # heading of a column -> key in the JSON files; for rows of systems, designs and losses
    "closed-set accuracy": "accuracy",
    "EER": "eer",
    "TAR@FAR=0.01": "tar",
    "rank-1": "rank1",
    "leave-one-out rank-1": "loo",
    "one-shot rank-1": "one_shot",
    "TAR at the dev threshold": "tar_at_dev_threshold",
    "DIR at the dev threshold": "dir",
}
FAR = {"40": "far_at_dev_threshold", "41": "far"}  # one heading, by notebook


def tables(text: str) -> list[tuple[str, list[dict[str, str]]]]:
    """Every Markdown table of `text`: the JSON file named below it, and its rows as heading -> cell without bold."""
    found = []
    for block, source in re.findall(
        r"((?:^\|.*\|\n)+)(?:\nNumbers: \[([^\]]+))?", text.replace("**", ""), re.MULTILINE
    ):
        head, _, *rows = ([cell.strip() for cell in line.strip("|").split(" |")] for line in block.splitlines())
        found.append((source, [dict(zip(head, row, strict=True)) for row in rows]))
    return found


def shows(cell: str, values: list[float]) -> bool:
    """Whether `cell` holds just these values, each rounded to three decimals."""
    shown = [float(text) for text in RATE.findall(cell)]
    return len(shown) == len(values) and all(abs(a - b) < 0.000501 for a, b in zip(shown, values, strict=True))


def with_spread(row: dict, key: str) -> list[float]:
    """The rate `key` of a row, and its interval or its standard deviation over seeds where there is one."""
    ends = [row.get(f"{key}{end}") for end in ("_low", "_high", "_sd")]
    return [value for value in (row.get(key), *ends) if value is not None]


def check_systems(shown: list[dict], rows: list[dict], notebook: str = "") -> None:
    """Rows of systems in any order; cells of one heading each."""
    by_label = {results.name_of(row): row for row in rows}
    assert [*by_label] == [next(iter(cells.values())) for cells in shown] or len(by_label) == len(shown)
    for cells in shown:
        label, *_ = cells.values()
        for heading, cell in [*cells.items()][1:]:
            key = FAR[notebook] if heading == "FAR at the dev threshold" else SYSTEMS.get(heading)
            if key is not None:
                assert shows(cell, with_spread(by_label[label], key)), f"{label}, {heading}: {cell}"


def check_demo(shown: list[dict]) -> None:
    """The table of the demo against what notebooks 40 and 43 wrote about the same systems."""
    curves = results.load("demo/40_evaluate_verification/roc.json")
    designs = results.load("demo/43_compare_modalities/designs.json")["summary"]
    designs = {results.name_of(row): {key: row[key] for key in ("accuracy", "rank1")} for row in designs}
    check_systems(shown, [curve | designs[results.name_of(curve)] for curve in curves])


def check_comparison(shown: list[dict], found: dict) -> None:
    """Settings with their differences to the baseline, which is the first row."""
    check_systems(shown, found["summary"])
    baseline = next(iter(shown[0].values()))
    labels = [results.name_of(row) for row in found["summary"]]
    labels.remove(baseline)
    minus = dict(zip(labels, found["minus_baseline"], strict=True))
    for cells in shown:
        for heading in (heading for heading in cells if " minus " in heading):
            difference = minus.get(next(iter(cells.values())))
            key = heading.split()[0].lower()
            assert shows(cells[heading], with_spread(difference, key) if difference else []), cells


def check_nested(shown: list[dict], found: dict, names: dict[str, str]) -> None:
    """A table of a nested JSON object, whose rows and columns have other names on the page."""
    original = {text: key for key, text in names.items()}
    for cells in shown:
        (_, label), *rest = cells.items()
        for heading, cell in rest:
            row, column = original.get(label, label), original.get(heading, heading)
            value = found[row][column] if row in found else found[column][row]
            assert shows(cell, value if isinstance(value, list) else [value]), (label, heading)


def check_recorded(shown: list[dict], found: dict) -> None:
    """The rows of a recorded measurement: same headings, same cells."""
    assert len(shown) == len(found["rows"])
    for cells, row in zip(shown, found["rows"], strict=True):
        for heading, cell in cells.items():
            value = row.get(heading)
            if isinstance(value, float | list):
                assert shows(cell, value if isinstance(value, list) else [value]), (row, heading)
            else:
                assert cell == ("" if value is None else str(value))


def check_bench(shown: list[dict], found: dict) -> None:
    """Median, lowest and highest of the rounds, to the decimals that the page shows."""
    (medians,) = (rates for key, rates in found.items() if key.endswith("_per_second"))
    for cells in shown:
        what, *numbers = cells.values()
        shown_numbers = [float(text.replace(",", "")) for text in re.findall(r"[\d,]+\.\d+", " ".join(numbers))]
        rounds = sorted(found["all"][what])
        assert medians[what] == statistics.median(rounds)
        expected = [medians[what], rounds[0], rounds[-1]]
        for number, value in zip(shown_numbers, expected, strict=True):
            assert number == pytest.approx(value, abs=0.0501 if value >= 10 else 0.00501)


def check_coverage(shown: list[dict], found: dict) -> None:
    """Mean and lowest coverage, counted again from the rows of the simulation."""
    counted: dict = {"rates": {}, "differences": {}}
    for row in found["rows"]:
        of_kind = counted["differences" if row["rate"].startswith("difference") else "rates"]
        of_method = of_kind.setdefault(row["method"], {})
        of_method.setdefault(f"{row['people']} people", []).append(row["held"] / row["sets"])
    for kind, of_kind in found["summary"].items():
        for method, by_people in of_kind.items():
            for n, values in by_people.items():
                shares = counted[kind][method][f"{n} people"]
                assert values == pytest.approx([statistics.mean(shares), min(shares)], abs=1e-4), (kind, method, n)
    (kind,) = (kind for kind, of_kind in counted.items() if list(of_kind) == [cells["interval"] for cells in shown])
    for cells in shown:
        method, *by_people = cells.values()
        for heading, cell in zip([*cells][1:], by_people, strict=True):
            shares = counted[kind][method][heading]
            assert shows(cell, [statistics.mean(shares), min(shares)]), (method, heading)


def check_gpu(shown: list[dict], found: dict) -> None:
    """The rows measured on a GPU, to four digits; the rates that other programs read are among them."""
    assert [row["what"] for row in shown] == [row["what"] for row in found["rows"]]
    for cells, row in zip(shown, found["rows"], strict=True):
        if isinstance(row["value"], float):
            assert float(cells["value"].replace(",", "")) == pytest.approx(row["value"], rel=6e-4, abs=0)
        else:
            assert cells["value"] == ("-" if row["value"] is None else str(row["value"]))
    rates = {row["what"]: row["value"] for row in found["rows"] if row["unit"] == "images/s"}
    assert rates == found["images_per_second"] == {what: rounds[0] for what, rounds in found["all"].items()}


def check(source: str, shown: list[dict]) -> None:
    """A table of the page against the JSON file that it names."""
    found, parts = results.load(source), source.split("/")
    if parts[0] == "recorded":
        check_recorded(shown, found)
    elif parts[-1] == "coverage.json":
        check_coverage(shown, found)
    elif parts[0] == "bench":
        (check_gpu if "rows" in found else check_bench)(shown, found)
    elif "minus_baseline" in found:
        check_comparison(shown, found)
    elif parts[-1] == "recipes.json":
        assert {cells["recipe"] for cells in shown} == set(found["test"])
        for cells in shown:
            assert shows(
                cells["closed-set accuracy"], [found["test"][cells["recipe"]][k] for k in ("accuracy", "low", "high")]
            )
    elif parts[-1] == "errors.json":
        check_nested(shown, found, results.ENCODINGS)
    elif parts[-1] == "rank1.json":
        check_nested(shown, found, results.TRANSFER)
    elif "rank-1" in shown[0] and parts[-2].startswith("40_"):
        check_demo(shown)
    else:
        check_systems(shown, found, parts[-2][:2])


@pytest.mark.parametrize(("source", "shown"), tables(PAGE))
def test_a_table_of_the_page_shows_its_json(source, shown):
    check(source, shown)


def test_the_table_of_the_readme_shows_its_json():
    (shown,) = (shown for _, shown in tables(README) if "closed-set accuracy" in shown[0])
    check_demo(shown)


def test_page_and_readme_are_what_the_generator_writes():
    assert results.page() == PAGE, "run make results"
    assert results.readme(README) == README, "run make results"
    weights = (results.ROOT / "WEIGHTS.md").read_text(encoding="utf-8")
    assert results.weights_page(weights) == weights, "run make results"
    for path in (results.ROOT / "face3d_lib" / "weights").glob("*/card.json"):
        card = json.loads(path.read_text(encoding="utf-8"))
        about, parameters = card["about"], card["parameters"]
        assert about["command"] == parameters.get("command", about["command"]), path
        if "run" in parameters:  # a training notebook wrote them
            for name, value in re.findall(r" -p (\w+)=(\S+)", about["command"].partition(", after ")[0]):
                assert str(parameters[name]) == value, (path, name)


def test_every_picture_is_on_the_page_once():
    shown = re.findall(r'src="([^"]+)"', PAGE)
    assert sorted(shown) == sorted(p.relative_to(FIGURES).as_posix() for p in FIGURES.rglob("*.png"))


def test_every_recorded_measurement_says_how_it_was_made_and_is_on_the_page():
    template = (FIGURES / "results.md").read_text()
    for path in FIGURES.glob("recorded/*.json"):
        found = results.load(f"recorded/{path.name}")
        assert found["command"].startswith(("face3d ", "make "))
        assert found["measured_on"]
        assert [name for name in found.get("facts", {}) if f"{{{{{path.stem}.{name}" not in template] == []


def test_the_docstring_of_the_intervals_states_the_coverage_that_was_measured():
    found = results.load("bench/coverage.json")["summary"]
    ours = [next(by for name, by in found[kind].items() if "(ours)" in name) for kind in ("rates", "differences")]
    measured = [by[n][0] for by in (ours[0], found["rates"]["percentile"], ours[1]) for n in ("10", "20", "50", "200")]
    stated = intervals.__doc__.partition("**Achieved coverage.**")[2]
    assert shows(stated, measured), "after make coverage, state the new numbers in face3d_lib/evaluate/intervals.py"


def test_the_readme_is_short():
    assert len(README.split()) <= MOST_WORDS


# ------------------------------------------------------------------------------------- the checks can fail


def check_all(text: str) -> None:
    for source, shown in tables(text):
        check(source, shown)


def digits_changed(text: str) -> list[str]:
    """Copies of a page: in each, the last digit of one number in one table cell is another."""
    rows = [match for match in re.finditer(r"^\|.*\|$", text, re.MULTILINE) if RATE.search(match[0])]
    copies = []
    for row in rows:
        for number in RATE.finditer(text, row.start(), row.end()):
            end = number.end() - 1
            copies.append(text[:end] + str((int(text[end]) + 5) % 10) + text[end + 1 :])
    return copies


def test_every_changed_digit_of_a_table_is_seen():
    copies = digits_changed(PAGE)
    assert len(copies) > 200
    for changed in copies:
        with pytest.raises(AssertionError):
            check_all(changed)


NOT_IN_A_TABLE = {
    "params_m",
    "gflop",
    "threshold",
    "facts",
    "notes",
    "truth",
    "width",
    "level",
    *("eer_p", "eer_p_holm", "accuracy_p", "accuracy_p_holm"),  # what they decide is shown: the bold differences
    "hter_at_dev_eer",
}  # by design; some stand in the text, and the notebooks print the others


def numbers_in(value, path=()) -> list[tuple]:
    """The paths of all fractions of a JSON value that a table shows."""
    if isinstance(value, dict | list):
        inner = value.items() if isinstance(value, dict) else enumerate(value)
        return [place for key, v in inner if key not in NOT_IN_A_TABLE for place in numbers_in(v, (*path, key))]
    return [path] if isinstance(value, float) else []


def changed(value, path: tuple):
    """A copy of a JSON value with one number changed."""
    value = copy.deepcopy(value)
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] += max(0.005, abs(inner[path[-1]]) * 0.01)
    return value


@pytest.mark.parametrize("source", sorted({source for source, _ in tables(PAGE)}))
def test_a_changed_number_of_a_json_is_seen(source, monkeypatch):
    load, whole = results.load, results.load(source)
    places = numbers_in(whole)
    assert places
    for place in places:
        monkeypatch.setattr(results, "load", lambda path, p=place: changed(whole, p) if path == source else load(path))
        with pytest.raises(AssertionError):
            check_all(PAGE)


def test_every_figure_of_a_notebook_has_a_caption():
    saved, named = set(), set()
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):
        text = "".join(cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code")
        found = re.findall(r"save_figure\(\s*\w+[\w.]*,\s*[\w.]+,\s*\"(\w+)\"", text)
        saved |= {f"{path.name[:2]} {name}" for name in found}
        named |= {f"{path.name[:2]} {name}" for name in re.findall(r"\"(\w+)\"", text)}
    assert saved <= set(results.CAPTIONS)
    assert set(results.CAPTIONS) <= named, "47 saves its two strips in a loop over their names"
