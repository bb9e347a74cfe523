"""The report of small runs on disk: complete, true to the numbers, escaped, small, and without a network."""

import csv
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from small_run import make_run, record
from test_widgets_in_browser import CHROMIUM
from typer.testing import CliRunner

from face3d_lib.base.errors import UserError
from face3d_lib.cli import app
from face3d_lib.evaluate.evaluation import evaluate
from face3d_lib.evaluate.report import page as report
from face3d_lib.evaluate.report import rates as report_rates
from face3d_lib.evaluate.report.tables import text_of
from face3d_lib.evaluate.systems import compared_systems

EVIL = "<script>alert(1)<_script> & 100%_{$x}~^#"
PEOPLE = {f"d{k}": "dev" for k in range(4)} | {f"e{k}": "test" for k in range(4)} | {EVIL: "test", "x": "stranger"}
PEOPLE |= {"t0": "train", "t1": "train"}


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch, request):
    monkeypatch.setattr("face3d_lib.base.paths.RUNS", tmp_path)
    monkeypatch.setattr(report_rates, "REPLICATES", 50)
    if not request.node.get_closest_marker("drawn"):  # drawing takes longer than all the rest
        monkeypatch.setattr(report_rates, "_curves", lambda rated: [])
    return tmp_path


class Page(HTMLParser):
    """The tables of a page by their key, the tags with all that they load, and the text."""

    def __init__(self, path):
        super().__init__()
        self.tables, self.loads, self.tags, self.text, self.stack = {}, [], set(), "", []
        self.feed(path.read_text(encoding="utf-8"))
        assert self.stack == [], "a tag is not closed"

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.add(tag)
        self.loads += [found[name] for name in ("src", "href", "action", "data") if name in found]
        if tag not in ("meta", "img", "link", "br"):
            self.stack.append(tag)
        if tag == "table":
            self.rows = self.tables.setdefault(found["data-key"], [])
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        self.text += data if "style" not in self.stack else ""
        if self.stack and self.stack[-1] in ("td", "th"):  # a footnote's mark stands in <sup>
            self.rows[-1][-1] += data.replace("\xa0", " ")


def written(run="small", faces=False):
    path = report.run_folder(run) / "report.html"
    found = report.make_report(run, faces)
    report.write_report(found, path)
    return found, Page(path)


def add_failures(runs, person=EVIL):
    folder = record(runs, "small", "47_find_failures", {})
    (folder / "figures").mkdir()
    head = "person,genuine,false_rejects,fnmr,genuine_mean,impostor,false_accepts,fmr,impostor_mean,animal,system\n"
    with open(folder / "people.csv", "w", encoding="utf-8", newline="") as file:
        file.write(head)
        csv.writer(file, lineterminator="\n").writerow([person, 6, 3, 0.5, 0.25, 16, 0, 0.0, -0.125, "goat", "RGB"])
    groups = "group,people,pictures,failed,genuine,impostor,fta,fta_low,fta_high,fnmr,fnmr_low,fnmr_high,fmr,fmr_low,"
    groups += "fmr_high,eer,eer_low,eer_high,rank1,rank1_low,rank1_high,reason,system,column\n"
    groups += "old,3,9,1,6,16,0.1,0.02,0.4,0.5,0.2,0.8,0.25,0.1,0.6,,,,,,,eer: 2 people; an interval needs 3 | rank1: no probe,RGB,age\n"
    groups += "young,0,0,0,0,0,,,,,,,,,,,,,,,,no data,RGB,age\n"
    (folder / "groups.csv").write_text(groups, encoding="utf-8")
    rows = "column,group,rate,difference,low,high,p,system,p_holm,shown\n"
    rows += "age,old,fnmr,0.5,0.2,0.8,0.001,RGB,0.004,True\nage,old,fmr,0.1,-0.2,0.3,0.5,RGB,0.9,False\n"
    (folder / "differences.csv").write_text(rows, encoding="utf-8")
    return folder


def test_every_number_of_the_systems_is_that_of_the_evaluation(runs):
    division = make_run(runs, PEOPLE, ("rgb", "depth"), fused=True)
    found, page = written()
    rows = {row[0]: row for row in page.tables["systems"][1:]}
    assert list(rows) == ["RGB", "depth", "RGB + depth, fused"]
    for one in compared_systems(runs / "small/40_evaluate_verification", division):
        alone = evaluate(one.trials["test"], replicates=50)
        expected = [alone.genuine, alone.impostor, alone.eer, alone.auc, alone.d_prime]
        assert rows[one.label][1:6] == [text_of(value) for value in expected]
        tar = next(row for row in page.tables["tar"][1:] if row[0] == one.label)
        assert tar[1:] == [text_of(alone.tar[far]) for far in (0.1, 0.01, 0.001, 0.0001)]
        assert rows[one.label][6].split()[0] == text_of(float(one.identified().mean()))
    assert rows["RGB"][7] == "0.750 [0.500, 0.875]"  # of the card
    assert rows["RGB + depth, fused"][7] == "-"
    assert page.tables["data"][1:] == [["pairs", "9"], ["aligned", "8"], ["not aligned: no_face", "1"]]
    assert page.tables["fta"][1][:2] == ["25", "1"]  # 6 test people with 4 pictures, and one that was not found
    for row, limit in zip(page.tables["frr"][1:], page.tables["dev_threshold"][1:], strict=True):
        fnmr = int(limit[5]) / alone.genuine  # false rejects at the dev threshold
        assert row[1:] == [text_of(fnmr), text_of(1 / 25 + fnmr * 24 / 25)]
    assert page.tables["parts"][1] == ["train", "2", "8"]
    for table in found.tables:  # nothing is lost between the tables and the page
        assert page.tables[table.key][1:] == [[text for text, _ in row] for row in table.cells]


@pytest.mark.drawn
def test_the_page_needs_no_network_is_small_and_names_no_machine(runs):
    make_run(runs, PEOPLE)
    add_failures(runs)
    _, page = written()
    assert page.loads
    assert all(load.startswith(("data:image/png;base64,", "#")) for load in page.loads)
    assert not page.tags & {"script", "link", "iframe", "object", "embed", "base"}
    path = runs / "small/report.html"
    source = re.sub(r"base64,[^\"]+", "", path.read_text(encoding="utf-8"))
    assert path.stat().st_size < 5e6
    assert not re.search(r"https?://|url\(|@import", source)
    assert not re.search(r"/home/|/root/|/tmp/", source)
    assert "(folder or file) weights.pt" in page.text
    assert str(runs) not in source
    assert list(runs.glob("small/.new-*")) == []


def test_names_are_escaped_in_html_and_in_tex(runs, tmp_path):
    make_run(runs, PEOPLE)
    add_failures(runs)
    found, page = written()
    assert page.tables["people"][1][:2] == ["RGB", EVIL]
    assert "<script>" not in (runs / "small/report.html").read_text(encoding="utf-8")
    report.write_tex(found, tmp_path / "tex")
    line = next(row for row in (tmp_path / "tex/people.tex").read_text().splitlines() if "script" in row)
    assert r"<script>alert(1)<\_script> \& 100\%\_\{\$x\}\textasciitilde{}\textasciicircum{}\#" in line


def test_a_report_never_replaces_what_is_no_page(runs, tmp_path):
    make_run(runs, PEOPLE, ("rgb", "depth"))
    (tmp_path / "data.npz").write_bytes(b"scores")
    answer = CliRunner().invoke(app, ["report", "small", "--output", str(tmp_path / "data.npz")])
    assert answer.exit_code
    assert "ends in .html" in str(answer.exception)
    assert (tmp_path / "data.npz").read_bytes() == b"scores"


def test_the_tables_as_csv_and_tex(runs, tmp_path):
    make_run(runs, PEOPLE, ("rgb", "depth"))
    answer = CliRunner().invoke(app, ["report", "small", "--csv", str(tmp_path / "c"), "--tex", str(tmp_path / "t")])
    assert answer.exit_code == 0, answer.output
    assert "missing: Rates by person and by group is not here: face3d run 47_find_failures small" in answer.output
    found = report.make_report("small")
    keys = [table.key for table in found.tables]
    assert len(set(keys)) == len(keys)
    assert (
        {path.stem for path in (tmp_path / "c").iterdir()} == set(keys) == {p.stem for p in (tmp_path / "t").iterdir()}
    )
    with open(tmp_path / "c/systems.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    (systems,) = [table for table in found.tables if table.key == "systems"]
    assert [float(row["EER"]) for row in rows] == [row[3].value for row in systems.rows]
    assert [float(row["EER_low"]) for row in rows] == [row[3].low for row in systems.rows]
    for table in found.tables:
        text = (tmp_path / "t" / f"{table.key}.tex").read_text(encoding="utf-8")
        body = text[text.index(r"\midrule") : text.index(r"\bottomrule")].splitlines()[1:]
        assert len(body) == len(table.shown)
        for line in body:
            assert line.endswith(r" \\")
            assert len(re.findall(r"(?<!\\)&", line)) == len(table.columns) - 1
        unescaped = re.sub(r"\\[&%$#_{}]", "", text)
        assert unescaped.count("{") == unescaped.count("}")
    if shutil.which("pdflatex"):
        names = "".join(rf"\input{{t/{key}}}\par " for key in keys)
        page = rf"\documentclass{{article}}\usepackage[T1]{{fontenc}}\usepackage{{booktabs}}\begin{{document}}{names}\end{{document}}"
        (tmp_path / "all.tex").write_text(page, encoding="utf-8")
        subprocess.run(["pdflatex", "-halt-on-error", "all.tex"], cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)


def test_people_and_groups_of_notebook_47(runs):
    make_run(runs, PEOPLE)
    add_failures(runs, "anna")
    _, page = written()
    assert page.tables["people"][1] == ["RGB", "anna", "6", "0.500", "0.250", "16", "0.000", "-0.125", "goat"]
    old, young = page.tables["groups"][1:]
    assert old[3:] == ["3", "9", "1", "0.100 [0.020, 0.400]", "0.500 [0.200, 0.800]", "0.250 [0.100, 0.600]", "-", "-"]
    assert young[3:] == ["0", "0", "0", *["-"] * 5]
    assert "no data" in page.text
    assert "2 people; an interval needs 3" in page.text
    assert "no probe" in page.text
    assert len(page.tables["differences"]) == 2
    assert "1 of 2 differences between groups are more than chance" in page.text


def test_what_other_notebooks_measured(runs):
    make_run(runs, PEOPLE)
    rates = [
        {
            "model": "rgb",
            "protocol": "sessions",
            "people": 3,
            "eer": 0.25,
            "eer_low": 0.125,
            "eer_high": 0.5,
            "note": "",
        }
    ]
    rates += [
        {"model": "x", "protocol": "poses", "people": 1, "eer": None, "eer_low": None, "eer_high": None, "note": "one"}
    ]
    record(runs, "small", "46_compare_protocols", {"rates": rates})
    costs = {"rgb + depth": {"cllr": 0.5, "cllr_low": 0.25, "cllr_high": 0.75, "slope": 5.0}}
    normed = [{"system": "rgb", "norm": "z", "eer": 0.25, "change": 0.125, "low": -0.125, "high": 0.25, "p": 0.5}]
    record(runs, "small", "48_calibrate_scores", {"systems": costs, "normalised": normed})
    by_pose = {
        "pose": [{"value": "half", "system": "rgbd", "probes": 4, "rank1": 0.5, "rank1_low": 0.25, "rank1_high": 0.75}]
    }
    record(
        runs,
        "small",
        "44_stress_systems",
        {"sentences": {"eer": "Depth pays & hurts."}, "clean": {}, "conditions": by_pose},
    )
    _, page = written()
    assert page.tables["protocols"][1:] == [["RGB", "sessions", "3", "0.250 [0.125, 0.500]"], ["x", "poses", "1", "-"]]
    assert page.tables["calibration"][1] == ["RGB + depth, fused", "0.500 [0.250, 0.750]", "5.000"]
    assert page.tables["normalised"][1] == ["RGB", "z", "0.250", "0.125 [-0.125, 0.250]", "0.500"]
    assert page.tables["condition_pose"][1] == ["half", "RGB-D", "4", "0.500 [0.250, 0.750]"]
    assert "Depth pays & hurts." in page.text
    assert "stress_clean" not in page.tables  # nothing was measured
    assert "face3d run 41_evaluate_identification small" in page.text


def test_the_integrity_of_the_depth(runs):
    make_run(runs, PEOPLE)
    rows = [{"measure": "noise", "value": 3.25, "unit": "mm", "note": "median", "warning": ""}]
    entries = {"origin": "sensor", "warnings": ["the depth jumps"], "rows": rows}
    (runs / "small/10_align_faces/integrity.json").write_text(json.dumps(entries), encoding="utf-8")
    found, page = written()
    assert page.tables["integrity"][1] == ["noise", "3.250", "mm", "median"]
    assert "the depth jumps" in page.text
    assert not any("integrity" in line for line in found.missing)


@pytest.mark.parametrize(
    "people",
    [{"d0": "dev", "e0": "test", "e1": "test", "t0": "train", "t1": "train", "t2": "train"}, {"e0": "test"}, {}],
)
def test_few_people_give_dashes_with_reasons(runs, people):
    make_run(runs, people)
    _, page = written()
    assert page.tables["systems"][1][0] == "RGB"
    assert "-" in page.tables["open_set"][1]
    assert page.tables["dev_threshold"][1][1:] == ["-"] * 5
    assert "nan" not in re.sub(r"\w+nan|nan\w+", "", page.text.lower())


def test_a_run_that_is_incomplete_says_what_is_missing(runs):
    record(runs, "small", "10_align_faces", {"pairs": 3, "aligned": 3, "statuses": {"ok": 3}})
    record(runs, "small", "21_pack_dataset", status="failed")
    found, page = written()
    for notebook in ("20_split_subjects", "40_evaluate_verification", "47_find_failures"):
        assert f"face3d run {notebook} small makes it" in page.text
    assert "21_pack_dataset of run small is failed" in page.text
    assert found.missing


def test_nothing_to_report_is_an_error_of_the_user(runs):
    with pytest.raises(UserError, match="nothing to report"):
        report.make_report("nobody")
    record(runs, "small", "10_align_faces", status="failed")
    with pytest.raises(UserError, match="no stage of it is done"):
        report.make_report("small")


def test_pictures_of_real_people_only_if_asked(runs):
    make_run(runs, PEOPLE)
    figures = add_failures(runs) / "figures"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(figures / "rejected.png")
    _, page = written()
    images = sum(load.startswith("data:") for load in page.loads)
    assert images == 0
    assert "left out, because they may be real; face3d report small --faces shows them" in page.text
    _, page = written(faces=True)
    assert sum(load.startswith("data:") for load in page.loads) == images + 1
    assert "The worst comparisons of two pictures of one person" in page.text
    raw = runs / "raw"
    raw.mkdir()
    marks = {"depth_unit": "mm", "larger_is": "farther", "source": "face3d synthetic faces"}
    (raw / "dataset.json").write_text(json.dumps(marks), encoding="utf-8")
    entries = {"root": str(raw), "depth_unit": "mm", "larger_is": "farther"}
    (record(runs, "small", "00_look_at_pairs") / "source.json").write_text(json.dumps(entries), encoding="utf-8")
    assert "left out" not in written()[1].text
    (raw / "dataset.json").write_text(json.dumps(marks | {"source": "a camera"}), encoding="utf-8")
    assert "left out" in written()[1].text


def test_how_to_make_it_again(runs):
    make_run(runs, PEOPLE)
    record(
        runs, "small", "00_look_at_pairs", parameters={"run": "small", "data": "/home/somebody/faces", "subjects": 7}
    )
    _, page = written()
    assert "git checkout " + "c" * 40 in page.text
    assert "face3d run 00_look_at_pairs small -p data=FOLDER -p subjects=7" in page.text
    assert page.text.rstrip().endswith("face3d report small")
    stages = {row[0]: row for row in page.tables["stages"][1:]}
    assert stages["20_split_subjects"][2:] == ["done", "2026-01-02 03:04:05", "7", "-", "c" * 10, "d" * 64]


def test_scores_of_other_people(runs, tmp_path):
    make_run(runs, PEOPLE)
    lines = [f"{'a' if k < 30 else 'b'} a x {k % 30 / 30}\n" for k in range(60)]
    (tmp_path / "theirs.txt").write_text("".join(lines), encoding="utf-8")
    path = runs / "small/40_evaluate_verification/metrics.json"
    metrics = json.loads(path.read_text())
    metrics["systems"]["theirs"] = {"eer": 0.5}
    metrics["files"] = {str(tmp_path / "theirs.txt"): "0" * 64}
    path.write_text(json.dumps(metrics))
    _, page = written()
    assert [row[:3] for row in page.tables["systems"][2:]] == [["theirs", "30", "30"]]
    (tmp_path / "theirs.txt").unlink()
    _, page = written()
    assert "The scores cannot be read" in page.text
    assert str(tmp_path) not in page.text


@pytest.mark.drawn
def test_in_a_browser_offline_on_screen_and_on_paper(runs):
    if CHROMIUM is None:
        pytest.skip("no Chromium here")
    playwright = pytest.importorskip("playwright.sync_api")
    make_run(runs, PEOPLE, ("rgb", "depth"), fused=True)
    add_failures(runs)
    written()
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_context(offline=True, viewport={"width": 1000, "height": 800}).new_page()
        problems, asked = [], []
        page.on("console", lambda message: problems.append(message.text))
        page.on("request", lambda request: asked.append(request.url))
        page.goto((runs / "small/report.html").as_uri())
        loaded = page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 100)")
        wide = page.evaluate("document.documentElement.scrollWidth")
        paper = page.pdf(prefer_css_page_size=True)
        browser.close()
    assert loaded
    assert wide <= 1000  # wide tables scroll by themselves
    assert problems == []
    assert all(url.startswith(("file:", "data:")) for url in asked)
    sizes = set(re.findall(rb"/MediaBox ?\[([^\]]+)\]", paper))
    assert len(sizes) == 1
    assert [round(float(x)) for x in sizes.pop().split()] == [0, 0, 595, 842]  # A4 in points
