"""`make results` writes figures/README.md, the results page, and the table of results in README.md.

Every number on the page is read from a JSON file below figures/. Notebooks write those beside the pictures, and
`make bench` writes those in bench/. The files in recorded/ hold measurements that no command of the Makefile repeats,
with the command that made them. The text between the tables comes from results.md, where {{name}} is replaced by a
table, by the pictures, or by a number; {{name:.0%}} gives the number in that format.
"""

import json
import re
from pathlib import Path
from typing import Any

from face3d_lib.evaluate.words import LABELS
from face3d_lib.train import pretrained
from face3d_lib.train.weights import SOURCES

FIGURES = Path(__file__).resolve().parent
ROOT = FIGURES.parent
MODELS_TABLE = re.compile(r"(<!-- models: written by make results -->\n).*?(<!-- end of models -->)", re.DOTALL)
README_TABLE = re.compile(r"(<!-- results: written by make results -->\n).*?(<!-- end of results -->)", re.DOTALL)
PLACEHOLDER = re.compile(r"\{\{([\w.]+)(?::([^}]+))?\}\}")

SEES = {"rgb": "colour", "depth": "depth", "rgbd": "colour and depth"}
WEIGHTS = "model.safetensors"

TRANSFER = {  # the rows and columns of notebook 45
    "rgb": "RGB",
    "rgbd": "RGB-D, parallel branches",
    "rgb + depth": "RGB and depth networks, embeddings concatenated",
    "unchanged": "unchanged",
    "whitened": "whitened",
    "turned, whitened": "turned and whitened",
}
ENCODINGS = {key.split()[1]: text.split(": ")[1] for key, text in LABELS.items() if key.startswith("depth ")}

# columns of tables: heading -> key in the JSON files
ACCURACY = {"closed-set accuracy": "accuracy"}
VERIFICATION = {"EER": "eer", "TAR@FAR=0.01": "tar"}
DEV_THRESHOLD = {"TAR at the dev threshold": "tar_at_dev_threshold", "FAR at the dev threshold": "far_at_dev_threshold"}
RANK1 = {"rank-1": "rank1"}
EVERYBODY = {"leave-one-out rank-1": "loo", "one-shot rank-1": "one_shot"}
OPEN_SET = {"DIR at the dev threshold": "dir", "FAR at the dev threshold": "far"}
BEST = {"closed-set accuracy": max, "EER": min, "TAR@FAR=0.01": max, "rank-1": max} | dict.fromkeys(EVERYBODY, max)
DEMO = ("demo/40_evaluate_verification/roc.json", "demo/43_compare_modalities/designs.json")

CAPTIONS = {  # number of the notebook and name of the figure: what the picture shows
    "00 pairs": "Synthetic pairs: colour above, depth below. White pixels have no depth reading.",
    "00 holes": "Share of pixels without a reading, and the range of the readings.",
    "10 aligned": "Aligned crops with lines of equal depth drawn over the colour: the lines circle the nose.",
    "10 mean": "The mean of many pictures before and after the alignment, and the median of their aligned depth.",
    "10 failures": "Share of faces that were not found, by condition, with 95 % intervals.",
    "10 worst_registration": "The pairs whose depth lies farthest from the nose that is seen in colour.",
    "10 integrity": "The worst pair by each of four measures of quality, and how often the depth of each pair goes to and fro.",
    "10 landmark_error": "Distance between the landmarks that MTCNN finds and the true ones, by the yaw of the head.",
    "20 division": "The number of pairs that each person has in each part of the split.",
    "21 augmentation": "One training pair under several draws of the augmentation.",
    "21 pose": "One training pair, rendered from its own depth as if the head had turned.",
    "22 encodings": "The encodings of depth that a network can be given, for a few faces.",
    "22 errors": "Change of each encoding under sensor errors, relative to the distance between two people.",
    "29 rates": "Left: ROC of pretrained networks and their fusion, each picture with each. Right: rank-1 with 95 % intervals.",
    "29 changed": "Pictures that colour gives to another person and the fusion to the right one (mended), and the reverse.",
    "30 training": "Loss and accuracies by epoch, softmax.",
    "30 floor": "The lowest loss that normalised softmax can reach, by scale; with too small a scale it stays high.",
    "31 training": "Loss, accuracies and angles by epoch, ArcFace.",
    "35 stall": "A margin of 60 degrees stalls the training when it is applied at once, and less so when it is eased in.",
    "32 training": "Loss and accuracies by epoch, semi-hard triplets.",
    "35 collapse": "Training on batch-hard triplets collapses: cosines of one person's and of two people's pictures go to 1.",
    "33 training": "Loss and accuracies by epoch, multi-similarity.",
    "33 partners": "Share of pictures with a partner of the same person in their batch, by the number of people.",
    "34 training": "Loss and accuracies by epoch, AdaFace.",
    "34 quality": "Length of the embedding and accuracy when pictures get blurred and depth gets holes.",
    "36 tuning": "Accuracy on the people tuned on, and EER of strangers, by the number of pictures and the layers tuned.",
    "37 starts": "Accuracy, and EER of people never seen, by the weights at the start and the first layer, with 95 % intervals.",
    "38 recipes": "Accuracy by epoch of the legacy recipe and of ours on the same pictures.",
    "39 losses": "EER and accuracy of the losses of the default run. With one seed each, the order is no ranking.",
    "40 overview": "People never seen in training, in colour and depth, with the ROC curves and rates of the systems.",
    "40 scores": "Scores of two pictures of one person and of two people, none of whom was seen in training.",
    "40 roc": "ROC curves on people never seen in training.",
    "40 det": "Left: DET, the false non-match over the false match rate. Right: the error of test people at thresholds "
    "that were chosen on dev people, by the weight of false accepts.",
    "41 cmc": "CMC curves: share of probes whose person is among the best k of the gallery.",
    "41 open_set": "Scores of probes with their own person's template, and of unknown people with the most similar one.",
    "41 dir": "DIR over FAR: probes of enrolled people that get the right name and are accepted, at rank 1 and at rank 5.",
    "41 gallery_sizes": "Rank-1 and DIR of random galleries, by the number of people who are enrolled.",
    "41 template_sizes": "Rank-1, DIR and EER by the number of pictures with which each person is enrolled, with intervals.",
    "42 tsne": "Embeddings of people never seen in training, projected by t-SNE.",
    "43 designs": "EER and accuracy by modality and design, with one seed.",
    "44 examples": "One probe along the levels of each knob of the stress test, in colour and depth.",
    "44 eer": "EER of the systems when probes get worse, with 95 % bands; bars are faces not found, rings are crossings.",
    "44 rank1": "Rank-1 of the systems when probes get worse, with 95 % bands over people; bars are faces not found.",
    "44 differences": "Rank-1 of RGB-D minus that of RGB when probes get worse, corrected for the number of comparisons.",
    "45 surfaces": "Surface normals of synthetic training people, and of test people before another sensor.",
    "45 training": "Angles to the right and to the nearest wrong class by epoch, for each modality.",
    "45 rank1": "Leave-one-out rank-1 on the other sensor, with and without whitening and a turn of the head.",
    "46 protocols": "One network under every protocol: EER and rank-1 with 95 % intervals over people.",
    "47 zoo": "Mean genuine and impostor score of each person; goats and wolves differ by more than chance.",
    "47 rejected": "The worst comparisons of two pictures of one person, in colour and depth.",
    "47 accepted": "The worst comparisons of two people, in colour and depth.",
    "47 groups": "Error rates by the columns of the manifest, with 95 % intervals over people.",
    "48 llr": "Log-likelihood ratios of test people's comparisons, by a map that was learnt on dev people.",
    "48 reliability": "The likelihood ratios that the data give over those that are stated: on the diagonal they agree.",
    "48 discard": "FNMR when comparisons of low quality are discarded, for four qualities, beside 95 % of random orders.",
    "49 threshold": "Scores and ROC of the first network, and the threshold that was chosen for it on dev people.",
    "49 worst": "Two people taken for one with the highest scores, and one person taken for two with the lowest.",
    "50 check": "What a gallery says about itself: scores of its pictures and of strangers, beside thresholds.",
    "50 matches": "Probes beside their best match in the gallery, with score and threshold.",
    "51 int8": "Scores of people never seen by the int8 file and by the float32 file of one network.",
}


def load(path: str) -> Any:
    """The JSON file at `path` below figures/."""
    return json.loads((FIGURES / path).read_text(encoding="utf-8"))


def name_of(row: dict) -> str:
    """The system, design or loss of a row: its first text, as the page calls it."""
    name = next(value for value in row.values() if isinstance(value, str))
    return LABELS.get(name.removesuffix("/30_train_softmax"), name)


def rate(value: float | None, sign: str = "") -> str:
    """A rate with three decimals and without the leading zero: .863, or +.122 with sign="+"; "" for None."""
    if value is None:
        return ""
    text = f"{value:{sign}.3f}"
    return text.replace("0.", ".", 1) if abs(value) < 0.9995 else text


def cell(row: dict | None, key: str, sign: str = "") -> str:
    """The rate `key` of a row, with its 95 % interval over people and its standard deviation over seeds, where there."""
    if row is None or row.get(key) is None:
        return ""
    text = rate(row[key], sign)
    if row.get(f"{key}_low") is not None:
        text += f" [{rate(row[f'{key}_low'], sign)}, {rate(row[f'{key}_high'], sign)}]"
    return f"{text} ± {rate(row[f'{key}_sd'])}" if row.get(f"{key}_sd") is not None else text


def markdown(head: list[str], rows: list[list[str]], *sources: str) -> str:
    """A Markdown table and, below it, links to the JSON files that it was made from."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]
    if sources:
        lines += ["", "Numbers: " + ", ".join(f"[{path}]({path})" for path in sources)]
    return "\n".join(lines)


def rate_table(rows: list[dict], first: str, columns: dict[str, str], *sources: str) -> str:
    """A row for each system and a column for each rate, heading -> key; the best value of a column is bold."""
    cells = [[name_of(row), *(cell(row, key) for key in columns.values())] for row in rows]
    for column, (heading, key) in enumerate(columns.items(), start=1):
        values: list[Any] = [row.get(key) for row in rows]
        if heading not in BEST or None in values:
            continue
        for line, value in zip(cells, values, strict=True):
            if value == BEST[heading](values):
                number, *rest = line[column].split(" ", 1)
                line[column] = " ".join([f"**{number}**", *rest])
    return markdown([first, *columns], cells, *sources)


def demo_table(*sources: str) -> str:
    """The systems of the demo: one row for each, with 95 % intervals where the notebooks computed them."""
    curves, designs = load(f"{DEMO[0]}"), load(f"{DEMO[1]}")["summary"]
    by_name = {name_of(row): {key: row[key] for key in ("accuracy", "rank1")} for row in designs}
    rows = [curve | by_name[name_of(curve)] for curve in curves]
    return rate_table(rows, "system", ACCURACY | VERIFICATION | RANK1, *sources)


def verification_table(run: str) -> str:
    """Error rates of notebook 40, and what the thresholds that were chosen on dev people give on test people."""
    path = f"{run}40_evaluate_verification/roc.json"
    rows = load(path)
    accuracy = ACCURACY if any("accuracy" in row for row in rows) else {}  # scores that are fused have no classifier
    return rate_table(rows, "system", accuracy | VERIFICATION | DEV_THRESHOLD, path)


def identification_table(run: str) -> str:
    """Rates of notebook 41: closed set and open set."""
    path = f"{run}41_evaluate_identification/cmc.json"
    return rate_table(load(path), "system", RANK1 | OPEN_SET, path)


def comparison_table(path: str, first: str, baseline: str, differences: tuple[str, ...]) -> str:
    """Settings of a comparison, the baseline first, then by EER, with their differences to the baseline."""
    found = load(path)
    others = [row["setting"] for row in found["summary"] if row["setting"] != baseline]
    minus = dict(zip(others, found["minus_baseline"], strict=True))
    ordered = sorted(found["summary"], key=lambda row: (row["setting"] != baseline, row["eer"]))
    table = rate_table(ordered, first, ACCURACY | VERIFICATION | RANK1)
    head, rule, *rows = table.splitlines()
    for key in differences:
        head += f" {'EER' if key == 'eer' else key} minus {LABELS[baseline]}'s |"
        rule += " --- |"
        for place, row in enumerate(ordered):
            text = cell(minus.get(row["setting"]), key, "+")
            rows[place] += f" **{text}** |" if text and minus[row["setting"]][f"{key}_shown"] else f" {text} |"
    return "\n".join([head, rule, *rows, "", f"Numbers: [{path}]({path})"])


def nested_table(path: str, first: str, found: dict[str, dict], names: dict[str, str]) -> str:
    """A row for each key of `found` and a column for each of its values; a list of three is a rate with its interval."""
    keys = list(dict.fromkeys(key for row in found.values() for key in row))
    rows = [[names.get(name, name), *(value_text(row.get(key)) for key in keys)] for name, row in found.items()]
    return markdown([first, *(names.get(key, key) for key in keys)], rows, path)


def recorded_table(name: str) -> str:
    """The rows of recorded/<name>.json."""
    path = f"recorded/{name}.json"
    rows = load(path)["rows"]
    head = list(dict.fromkeys(key for row in rows for key in row))
    return markdown(head, [[value_text(row.get(key)) for key in head] for row in rows], path)


def value_text(value: list[float] | float | int | str | None) -> str:
    """A value of a JSON file as a cell: a list is a rate, with its interval when it has three numbers."""
    if isinstance(value, list):
        return rate(value[0]) if len(value) == 1 else f"{rate(value[0])} [{rate(value[1])}, {rate(value[2])}]"
    return rate(value) if isinstance(value, float) else "" if value is None else str(value)


def bench_table(name: str) -> str:
    """The rates of bench/<name>.json: median, lowest and highest of the rounds; on a GPU, the rows as they were measured."""
    path = f"bench/{name}.json"
    found = load(path)
    if "rows" in found:
        head = ["what", "value", "unit", "note"]
        rows = [[row["what"], measured_text(row["value"]), row["unit"], row["note"]] for row in found["rows"]]
        return markdown(head, [[cell.replace("|", "/") for cell in row] for row in rows], path)
    (unit,) = (key for key in found if key.endswith("_per_second"))
    rows = [
        [what, speed_text(value), f"{speed_text(min(found['all'][what]))} to {speed_text(max(found['all'][what]))}"]
        for what, value in found[unit].items()
    ]
    return markdown(["what", f"{unit.replace('_', ' ')}, median", "range of the rounds"], rows, path)


def speed_text(value: float) -> str:
    """A number per second with one digit after the point, or with two below 10."""
    return f"{value:,.1f}" if value >= 10 else f"{value:.2f}"


def coverage_table(kind: str) -> str:
    """How often 95 % intervals held the truth, by method and number of people: the mean of all cases, and the lowest."""
    path = "bench/coverage.json"
    found = load(path)["summary"][kind]
    people = list(next(iter(found.values())))
    rows = [[name, *(f"{rate(by[n][0])} ({rate(by[n][1])})" for n in people)] for name, by in found.items()]
    return markdown(["interval", *(f"{n} people" for n in people)], rows, path)


def measured_text(value: float | str | None) -> str:
    """A measured value with four significant digits, or with none after the point from 1,000 up; "-" for None."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return "-" if value is None else str(value)


def gpu_section() -> str:
    """The measurement on a GPU, where one has been kept; "" where none has."""
    if not (FIGURES / "bench" / "gpu.json").exists():
        return ""
    return f"### On a GPU\n\n    make gpu-kit bench-gpu\n\n{bench_table('gpu')}"


def pictures() -> str:
    """Every picture of the default run and of the demo, by notebook, with its caption."""
    found: dict[str, dict[str, list[Path]]] = {}
    for path in sorted(FIGURES.rglob("*.png")):
        parts = path.relative_to(FIGURES).parts
        notebook = parts[1] if parts[0] == "demo" else parts[0]
        if notebook[0].isdigit():
            found.setdefault(notebook, {}).setdefault(path.stem, []).append(path)
    lines = []
    for notebook, figures in sorted(found.items()):
        lines += [f"### {notebook}", ""]
        for name, paths in figures.items():
            lines += [CAPTIONS[f"{notebook[:2]} {name}"], ""]
            lines += [" ".join(_image(path) for path in paths), ""]
    return "\n".join(lines).rstrip()


def _image(path: Path) -> str:
    where = path.relative_to(FIGURES)
    run = "demo" if where.parts[0] == "demo" else "default run"
    nested = "/".join(where.parent.parts[2 if run == "demo" else 1 :])
    return f'<img src="{where.as_posix()}" width="49%" alt="{path.stem}, {" ".join([run, nested]).strip()}">'


def numbers() -> dict[str, float]:
    """The numbers that the text of the page names, by placeholder."""
    named: dict[str, Any] = {}
    for path in sorted((FIGURES / "recorded").glob("*.json")):
        facts = load(f"recorded/{path.name}").get("facts", {})
        named |= {f"{path.stem}.{name}": value for name, value in facts.items()}
    division = load("demo/20_split_subjects/division.json")
    named |= {f"demo.{part}": division[part] for part in ("train", "test", "dirty")}
    simulated = load("bench/coverage.json")
    named |= {f"coverage.{key}": simulated[key] for key in ("sets", "replicates")}
    of_ten = [
        row["held"] / row["sets"]
        for row in simulated["rows"]
        if (row["population"], row["people"], row["method"]) == ("hard", 10, "percentile")
        and not row["rate"].startswith("difference")
    ]
    named["coverage.percentile_of_ten"] = sum(of_ten) / len(of_ten)
    eers = {row["population"]: row["truth"] for row in simulated["rows"] if row["rate"] == "EER"}
    named |= {f"coverage.{population.split()[-1]}": eer for population, eer in eers.items()}
    named["demo.pairs"] = load("demo/10_align_faces/landmark_error.json")["count"] + division["dirty"]
    named["demo.dirty_share"] = division["dirty"] / named["demo.pairs"]
    found = load(DEMO[1])
    demo = {row["setting"]: row for row in found["summary"]}
    named |= {"demo.rgb_params_m": demo["rgb"]["params_m"], "demo.rgbd_params_m": demo["rgbd parallel"]["params_m"]}
    others = [row["setting"] for row in found["summary"] if row["setting"] != "rgb"]
    rgbd = dict(zip(others, found["minus_baseline"], strict=True))["rgbd parallel"]
    named |= {f"demo.rgbd_minus_rgb{end}": rgbd[f"eer{end}"] for end in ("", "_low", "_high")}
    designs = {row["setting"]: row for row in load("sweeps/designs.json")["summary"]}
    saved = {name: 1 - row["eer"] / designs["rgb"]["eer"] for name, row in designs.items()}
    joined = [saved[f"rgbd {join}"] for join in ("joined", "gated", "attention")]
    named |= {"designs.late_saved": saved["late fusion"], "designs.parallel_saved": saved["rgbd parallel"]}
    named |= {"designs.joined_saved_least": min(joined), "designs.joined_saved_most": max(joined)}
    named |= {
        "designs.rgb_gflop": designs["rgb"]["gflop"],
        "designs.dropout_eer": designs["rgbd joined dropout"]["eer"],
    }
    return named


def tables() -> dict[str, str]:
    """Every table of the page, by placeholder."""
    made = {"demo_table": demo_table(*DEMO), "pictures": pictures()}
    for name, run in (("demo", "demo/"), ("default", "")):
        made[f"{name}_verification"], made[f"{name}_identification"] = (
            verification_table(run),
            identification_table(run),
        )
    made["designs_table"] = comparison_table("sweeps/designs.json", "design", "rgb", ("eer", "accuracy"))
    made["losses_table"] = comparison_table("sweeps/losses.json", "loss", "softmax", ("eer", "accuracy"))
    made["default_losses"] = comparison_table("39_compare_losses/losses.json", "loss", "softmax", ("eer", "accuracy"))
    path = "38_train_legacy/legacy/recipes.json"
    recipes = {
        name: {"closed-set accuracy": [found["accuracy"], found["low"], found["high"]]}
        for name, found in load(path)["test"].items()
    }
    made["default_recipes"] = nested_table(path, "recipe", recipes, {})
    path = "29_try_pretrained/rates.json"
    made["default_pretrained"] = rate_table(load(path), "system", EVERYBODY | VERIFICATION, path)
    path = "45_transfer_depth/rank1.json"
    made["default_transfer"] = nested_table(path, "system", load(path), TRANSFER)
    path = "22_encode_depth/errors.json"
    errors = load(path)
    by_encoding = {
        name: {error: moves[name] for error, moves in errors.items()} for name in next(iter(errors.values()))
    }
    made["default_errors"] = nested_table(path, "encoding", by_encoding, ENCODINGS)
    for file in sorted((FIGURES / "recorded").glob("*.json")):
        recorded = load(f"recorded/{file.name}")
        if "rows" in recorded:
            made[f"{file.stem}_table"] = recorded_table(file.stem)
        made[f"{file.stem}.command"] = recorded["command"]
    made["gpu_section"] = gpu_section()
    made |= {f"coverage_{kind}": coverage_table(kind) for kind in ("rates", "differences")}
    return made | {f"{name}_bench": bench_table(name) for name in ("faces", "data", "step", "network", "rates")}


def filled(text: str) -> str:
    """`text` with every placeholder replaced; KeyError where one names nothing."""
    made, named = tables(), numbers()

    def replacement(match: re.Match) -> str:
        name, spec = match.groups()
        if name in made:
            return made[name]
        value = named[name]
        if spec == "+":
            return rate(value, "+")
        if spec:
            return format(value, spec).replace("%", " %")
        return f"{value:,}" if isinstance(value, int) or abs(value) > 1 else rate(value)

    return PLACEHOLDER.sub(replacement, text)


def page() -> str:
    """The text of figures/README.md."""
    notice = "<!-- Written by `make results` from results.md and the JSON files; edit those. -->\n\n"
    return notice + re.sub(r"\n{3,}", "\n\n", filled((FIGURES / "results.md").read_text(encoding="utf-8")))


def readme(text: str) -> str:
    """README.md with its tables of results and of models as the JSON files and the cards have them."""
    for marks, table in ((README_TABLE, demo_table()), (MODELS_TABLE, models_table(short=True))):
        text = between(marks, table, text, "README.md")
    return text


def between(marks: re.Pattern, table: str, text: str, file: str) -> str:
    """`text` with `table` between the marks. ValueError: they are not there."""
    if not marks.search(text):
        raise ValueError(f"{file}: the marks {marks.pattern} are not there")
    return marks.sub(lambda found: f"{found[1]}\n{table}\n\n{found[2]}", text)


def models_table(short: bool = False) -> str:
    """A row for each model that needs no training, from its card; `short` leaves out what a first reader does not need."""
    rows = []
    for name in pretrained.NAMES:
        card = pretrained.card_of(name)
        network, about = card.architecture, card.about
        packaged = SOURCES[name, name].find() if (name, name) in SOURCES else pretrained.SHIPPED / name / WEIGHTS
        shown = [cell(card.metrics, "kinect_eer"), cell(card.metrics, "kinect_loo")]
        row = [f"`{name}`", SEES[network.modality], *shown]
        if not short:
            encoding = "" if network.modality == "rgb" else network.encoding
            size = f"{packaged.stat().st_size / 1e6:.1f} MB"
            facts = [about.data, about.protocol, about.licence, f"`{card.weights_sha256[:16]}`", f"`{about.command}`"]
            row += [size, encoding, card.alignment.mode, *facts]
        rows.append(row)
    head = ["model", "sees", "EER", "rank-1"]
    head += (
        [] if short else ["size", "encoding", "alignment", "learnt from", "measured", "licence", "SHA-256", "command"]
    )
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def weights_page(text: str) -> str:
    """WEIGHTS.md with its table of models as their cards have it."""
    return between(MODELS_TABLE, models_table(), text, "WEIGHTS.md")


if __name__ == "__main__":
    weights = ROOT / "WEIGHTS.md"
    weights.write_text(weights_page(weights.read_text(encoding="utf-8")), encoding="utf-8")
    (FIGURES / "README.md").write_text(page(), encoding="utf-8")
    path = ROOT / "README.md"
    path.write_text(readme(path.read_text(encoding="utf-8")), encoding="utf-8")
