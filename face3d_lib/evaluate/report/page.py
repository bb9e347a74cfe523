"""The report of a run: one page of HTML that needs no network, and its tables as csv and LaTeX.

Everything is read from the files that notebooks left; rates are computed anew from scores by the functions that the
notebooks use. What is missing is named with the command that makes it.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from ...base.atomic import write_text
from ...base.errors import UserError
from ...base.paths import relative
from ...base.tables import write_table
from ...data.convention import read_source
from ...data.splits import Splits, read_splits
from ...runs.folders import run_folder
from ...runs.record import read_record, utc_now
from ...train.model_files import ModelCard
from ..other_systems import read_systems
from ..systems import compared_systems
from ..trained import Trained, find_models
from .provenance import (
    data_section,
    done,
    makes,
    metrics_of,
    protocol_section,
    provenance_section,
    records_of,
    training_section,
)
from .rates import comparison_section, failures_section, people_section, rate_systems, rates_section
from .studies import more_sections, pictures_of
from .tables import Section, Table, letter

VERIFICATION, IDENTIFICATION, FAILURES = "40_evaluate_verification", "41_evaluate_identification", "47_find_failures"
FACES = {  # figures that show people: notebook -> name -> caption
    "10_align_faces": {"aligned": "Aligned crops with lines of equal depth."},
    VERIFICATION: {"overview": "Test people in colour and depth, and the rates of the systems."},
    FAILURES: {
        "rejected": "The worst comparisons of two pictures of one person.",
        "accepted": "The worst comparisons of two people.",
    },
    "44_stress_systems": {"examples": "One probe made worse in each way and at each level of the stress test."},
}
TEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
TEX |= {letter: "\\" + letter for letter in "&%$#_{}"}


@dataclass(frozen=True)
class Report:
    """The content of a report, before it is written in any form."""

    title: str
    summary: list[str]
    sections: list[Section]

    @property
    def tables(self) -> list[Table]:
        """All tables, in order."""
        return [table for section in self.sections for table in section.tables]

    @property
    def missing(self) -> list[str]:
        """What is not there, and which command makes it."""
        return [line for section in self.sections for line in section.missing]


def make_report(run: str, faces: bool = False) -> Report:
    """The report of a run, whatever part of it is done; UserError where no stage of it is.

    faces: show pictures of people even if they may be real. Pictures of this project's synthetic people are always
    shown.
    """
    if not run_folder(run).is_dir() or not any(record["status"] == "done" for record in records_of(run)):
        raise UserError(f"run {run}: no stage of it is done, so there is nothing to report: face3d demo --name {run}")
    split, compared = done(run, "20_split_subjects"), done(run, VERIFICATION)
    sections, summary = [data_section(run)], [f"Run {run}, reported {utc_now()[:16].replace('T', ' ')} UTC."]
    division = read_splits(split) if split else None
    networks = _networks(compared)
    cards = {network.model: network.card for network in networks}
    if division is None:
        sections.append(
            Section("Protocol and audit", missing=[makes(run, "20_split_subjects", "The split of the people")])
        )
    else:
        sections.append(protocol_section(division, cards))
    if division is None or compared is None:
        sections.append(Section("Rates", missing=[makes(run, VERIFICATION, "The rates")]))
    else:
        found, line = _rated_sections(run, compared, division, networks)
        sections, summary = [*sections, *found], [*summary, line]
    sections.append(people_section(run, done(run, FAILURES)))
    sections += more_sections(run)
    sections.append(_faces_section(run, faces or is_synthetic(run)))
    sections.append(training_section([(network.label, network.card) for network in networks]))
    sections.append(provenance_section(run))
    return Report(f"Evaluation of {run}", summary, sections)


def write_report(report: Report, path: Path) -> None:
    """Write the report as one HTML file, whole or not at all."""
    page = _environment().get_template("report.html.j2")
    write_text(path, page.render(title=report.title, summary=report.summary, sections=report.sections))


def write_csv(report: Report, folder: Path) -> None:
    """Write each table to a csv file in `folder`, with all rows in full precision."""
    for table in report.tables:
        write_table(folder / f"{table.key}.csv", table.frame())


def write_tex(report: Report, folder: Path) -> None:
    """Write each table to a tex file in `folder`, a tabular in the style of the package booktabs."""
    page = _environment(tex_marks=True).get_template("table.tex.j2")
    for table in report.tables:
        write_text(folder / f"{table.key}.tex", page.render(table=table))


def tex(text: str) -> str:
    """Text for LaTeX: characters with a meaning are escaped, and line breaks become spaces."""
    return "".join(TEX.get(letter, letter) for letter in re.sub(r"\s", " ", text))


def is_synthetic(run: str) -> bool:
    """Whether the raw pairs of a run say that this project's generator drew them."""
    folder = done(run, "00_look_at_pairs")
    try:
        root, _ = read_source(folder) if folder else (None, None)
        mark = json.loads((root / "dataset.json").read_text(encoding="utf-8")) if root else {}
    except (UserError, OSError, ValueError):
        return False
    return isinstance(mark, dict) and mark.get("source") == "face3d synthetic faces"


def _networks(compared: Path | None) -> list[Trained]:
    """The networks that notebook 40 compared."""
    if compared is None:
        return []
    names = [rates["model"] for rates in metrics_of(compared)["systems"].values() if rates.get("model")]
    return find_models(read_record(compared)["run"], names)


def _rated_sections(run: str, compared: Path, division: Splits, networks: list[Trained]) -> tuple[list[Section], str]:
    """The sections with rates, and a line for the summary."""
    metrics = metrics_of(compared)
    try:
        others = read_systems(metrics.get("files", {}), division)
        systems = compared_systems(compared, division)
    except UserError as error:
        why = re.sub(r"/(?:[^\s/:]+/)+", "", str(error))  # without the folders of a machine
        return [Section("Rates", missing=[f"The scores cannot be read: {why}."])], "The scores cannot be read."
    named = {rates.get("model"): name for name, rates in metrics["systems"].items()}
    cards: dict[str, ModelCard] = {named[network.model]: network.card for network in networks}
    far_open = metrics_of(done(run, IDENTIFICATION)).get("far_target", 0.1)
    rated = rate_systems(systems, cards, others.scores, metrics["far_target"])
    line = f"{len(rated)} systems, rated on people whom no network was trained on."
    return [
        rates_section(rated, metrics["far_target"], far_open),
        comparison_section(rated),
        failures_section(rated, division),
    ], line


def _faces_section(run: str, shown: bool) -> Section:
    """Figures that show people, unless they may be real and nobody asked for them."""
    if not shown:
        text = f"Pictures of people are left out, because they may be real; face3d report {run} --faces shows them."
        return Section("Pictures of people", text=[text])
    pictures = []
    for notebook, captions in FACES.items():
        folder = done(run, notebook)
        pictures += pictures_of(folder, captions) if folder else []
    return Section("Pictures of people", pictures=pictures)


def _environment(tex_marks: bool = False) -> Environment:
    """The environment of the HTML page, which escapes all text; with tex_marks that of LaTeX, whose braces are its own."""
    block, value = (("<%", "%>"), ("<<", ">>")) if tex_marks else (("{%", "%}"), ("{{", "}}"))
    made = Environment(
        block_start_string=block[0],
        block_end_string=block[1],
        variable_start_string=value[0],
        variable_end_string=value[1],
        loader=PackageLoader("face3d_lib.evaluate.report", "templates"),
        autoescape=not tex_marks,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= {"letter": letter, "tex": tex}
    return made


def report_run(run: str, output: Path | None, csv: Path | None, tables: Path | None, faces: bool) -> list[str]:
    """Write the report, and its tables where folders are given; returns the lines for the user.

    UserError where `output` has another ending than .html, because it would be replaced.
    """
    if output and output.suffix.lower() not in (".html", ".htm"):
        raise UserError(
            f"{output}: the report is a page, and a file there would be replaced: give a name that ends in .html"
        )
    report = make_report(run, faces)
    path = output or run_folder(run) / "report.html"
    write_report(report, path)
    lines = [f"-> {relative(path)} ({path.stat().st_size / 1e6:.1f} MB)"]
    for folder, write in ((csv, write_csv), (tables, write_tex)):
        if folder:
            write(report, folder)
            lines.append(f"-> {relative(folder)} ({len(report.tables)} tables)")
    return [*(f"missing: {line}" for line in report.missing), *lines]
