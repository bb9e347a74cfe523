"""The README and the results page show the numbers of the JSON files, cell by cell, and every picture once."""

import copy
import importlib.util
import re

import pytest

from face3d_lib.base.paths import ROOT

FIGURES = ROOT / "figures"
spec = importlib.util.spec_from_file_location("results", FIGURES / "results.py")
results = importlib.util.module_from_spec(spec)
spec.loader.exec_module(results)

PAGE, README = (FIGURES / "README.md").read_text(), (ROOT / "README.md").read_text()
MOST_WORDS = 1200  # of README.md
RATE = re.compile(r"[+-]?(?:\d+)?\.\d{3}\b")
RATES = {"closed-set accuracy": ["accuracy"], "rank-1": ["rank1"]}
WITH_INTERVAL = {"EER": ["eer", "eer_low", "eer_high"], "TAR@FAR=0.01": ["tar", "tar_low", "tar_high"]}


def tables(text: str) -> list[list[dict[str, str]]]:
    """Every Markdown table of `text` as rows: heading -> cell, without the marks of bold text."""
    found = []
    for block in re.findall(r"(?:^\|.*\|\n)+", text.replace("**", ""), re.MULTILINE):
        head, _, *rows = ([cell.strip() for cell in line.strip("|").split(" |")] for line in block.splitlines())
        found.append([dict(zip(head, row, strict=True)) for row in rows])
    return found


def shows(cell: str, values: list[float]) -> bool:
    """Whether `cell` holds just these values, each rounded to three decimals."""
    shown = [float(text) for text in RATE.findall(cell)]
    return len(shown) == len(values) and all(
        abs(number - value) < 0.000501 for number, value in zip(shown, values, strict=True)
    )


def table_with(text: str, first: str, *more: str) -> list[dict[str, str]]:
    """The one table of `text` that has these headings, `first` at its beginning."""
    (found,) = (t for t in tables(text) if next(iter(t[0])) == first and set(more) <= set(t[0]))
    return found


def check_demo(text: str) -> None:
    """The table of the demo in `text` against what notebooks 40 and 43 wrote."""
    curves = results.load("demo/40_evaluate_verification/roc.json")
    designs = results.load("demo/43_compare_modalities/designs.json")["summary"]
    shown = table_with(text, "system", "TAR@FAR=0.01")
    assert len(shown) == len(curves)
    for row, curve in zip(shown, curves, strict=True):
        assert row["system"] == results.LABELS[next(iter(curve.values()))]
        assert all(shows(row[name], [curve[key] for key in keys]) for name, keys in WITH_INTERVAL.items())
        (design,) = (design for design in designs if design["eer"] == curve["eer"])
        assert all(shows(row[name], [design[key] for key in keys]) for name, keys in RATES.items())


def check_sweep(text: str, name: str, first: str, baseline: str) -> None:
    """A table of differences to a baseline against sweeps/<name>.json."""
    found = results.load(f"sweeps/{name}.json")
    others = iter(found["minus_baseline"])
    expected = {row["setting"]: (row, None if row["setting"] == baseline else next(others)) for row in found["summary"]}
    shown = table_with(text, first, "rank-1")
    assert {row[first] for row in shown} == {results.LABELS[setting] for setting in expected}
    by_label = {results.LABELS[setting]: pair for setting, pair in expected.items()}
    for row in shown:
        rates, difference = by_label[row[first]]
        assert shows(row["EER"], [rates["eer"]])
        assert all(shows(row[heading], [rates[key] for key in keys]) for heading, keys in RATES.items())
        for heading in (heading for heading in row if " minus " in heading):
            what = heading.split()[0].lower()
            ends = [difference[f"{what}{end}"] for end in ("", "_low", "_high")] if difference else []
            assert shows(row[heading], ends)


def check_recorded(text: str, name: str) -> None:
    """A table against the rows of recorded/<name>.json: same headings, same cells."""
    rows = results.load(f"recorded/{name}.json")["rows"]
    shown = table_with(text, *dict.fromkeys(key for row in rows for key in row))
    assert len(shown) == len(rows)
    for cells, row in zip(shown, rows, strict=True):
        for heading, cell in cells.items():
            value = row.get(heading)
            if isinstance(value, float | list):
                assert shows(cell, value if isinstance(value, list) else [value])
            else:
                assert cell == ("" if value is None else str(value))


def check_bench(text: str, name: str) -> None:
    """A table of rates against bench/<name>.json, to the one decimal that it shows."""
    rounds = results.load(f"bench/{name}.json")["all"]
    (shown,) = (t for t in tables(text) if {row.get("what") for row in t} == set(rounds))
    for row in shown:
        median, low, high = (
            float(n.replace(",", "")) for n in re.findall(r"[\d,]+\.\d", " ".join([*row.values()][1:]))
        )
        values = sorted(rounds[row["what"]])
        expected = [values[len(values) // 2], values[0], values[-1]]
        assert [median, low, high] == pytest.approx(expected, abs=0.0501)


RECORDED = sorted(p.stem for p in FIGURES.glob("recorded/*.json") if "rows" in results.load(f"recorded/{p.name}"))
BENCH = sorted(p.stem for p in FIGURES.glob("bench/*.json"))
CHECKS = {
    "demo": check_demo,
    "designs": lambda text: check_sweep(text, "designs", "design", "rgb"),
    "losses": lambda text: check_sweep(text, "losses", "loss", "softmax"),
    **{name: lambda text, name=name: check_recorded(text, name) for name in RECORDED},
    **{f"bench {name}": lambda text, name=name: check_bench(text, name) for name in BENCH},
}


@pytest.mark.parametrize("name", CHECKS)
def test_a_table_of_the_page_shows_its_json(name):
    CHECKS[name](PAGE)


def test_the_table_of_the_readme_shows_its_json():
    check_demo(README)


def test_every_table_is_checked():
    assert len(tables(PAGE)) == len(CHECKS)
    assert sum("EER" in table[0] for table in tables(README)) == 1


def test_page_and_readme_are_what_the_generator_writes():
    assert results.page() == PAGE, "run make results"
    assert results.readme(README) == README, "run make results"


def test_every_picture_is_on_the_page_once_and_every_caption_is_used():
    shown = re.findall(r'src="([^"]+)"', PAGE)
    assert sorted(shown) == sorted(p.relative_to(FIGURES).as_posix() for p in FIGURES.rglob("*.png"))
    assert [key for key, caption in results.CAPTIONS.items() if caption not in PAGE] == []


def test_every_recorded_measurement_says_how_it_was_made_and_is_on_the_page():
    template = (FIGURES / "results.md").read_text()
    for path in FIGURES.glob("recorded/*.json"):
        found = results.load(f"recorded/{path.name}")
        assert found["command"].startswith(("face3d ", "make "))
        assert found["measured_on"]
        assert [name for name in found.get("facts", {}) if f"{{{{{path.stem}.{name}" not in template] == []


def test_the_readme_is_short():
    assert len(README.split()) <= MOST_WORDS


# ------------------------------------------------------------------------------------- the checks can fail


def check_all(text: str) -> None:
    for check in CHECKS.values():
        check(text)


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


def numbers_in(value, path=()) -> list[tuple]:
    """The paths of all fractions in a JSON value that are shown with three decimals."""
    if isinstance(value, dict):
        return [place for key, inner in value.items() for place in numbers_in(inner, (*path, key))]
    if isinstance(value, list):
        return [place for key, inner in enumerate(value) for place in numbers_in(inner, (*path, key))]
    return [path] if isinstance(value, float) else []


@pytest.mark.parametrize("name", RECORDED)
def test_every_changed_number_of_a_recorded_json_is_seen(name, monkeypatch):
    path, load = f"recorded/{name}.json", results.load
    for place in numbers_in(load(path)["rows"]):
        changed = copy.deepcopy(load(path))
        inner = changed["rows"]
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] += 0.005
        monkeypatch.setattr(results, "load", lambda asked, changed=changed: changed if asked == path else load(asked))
        with pytest.raises(AssertionError):
            CHECKS[name](PAGE)
        assert results.page() != PAGE
        monkeypatch.setattr(results, "load", load)
