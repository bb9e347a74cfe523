"""The order of the packages: imports run one way, nothing unsafe is loaded, and the documents name what exists."""

import ast
import re

import pytest

from face3d_lib.base.paths import ROOT
from face3d_lib.runs.plan import PLAN, TRAINED

ROOMS = {  # a package imports only packages above it, a file only files above it in its package
    "base": ["errors", "environment", "paths", "atomic", "tables", "processes"],
    "runs": ["folders", "plan", "parameters", "code", "record", "notebook", "runner", "workers", "sweep", "lab"],
    "synthetic": [
        *["fields", "people", "sittings", "camera", "scenes", "dataset"],
        *["attacks", "targets", "surface", "parametric", "parametric_camera"],
    ],
    "data": [
        *["convention", "pairs", "decoding", "faces", "warp", "depth_check", "alignment_table", "crops", "journal"],
        *["alignment", "depth_measures", "quality", "integrity", "manifest", "copies", "shares", "splits"],
        *["prospects", "pack", "recrop", "drawn"],
    ],
    "train": [
        *[
            "encodings",
            "draws",
            "augment",
            "batches",
            "weights",
            "dlib_network",
            "legacy_network",
            "backbones",
            "fusion",
            "embedder",
        ],
        *["losses", "objective", "closed_set", "training_data", "model_files", "pretrained", "checkpoint"],
        *["recipe", "fit", "tuning", "distillation"],
    ],
    "evaluate": [
        *["embeddings", "embed", "scores", "metrics.checks", "metrics.curves", "metrics.thresholds"],
        *["metrics.pairs_protocol", "metrics.identification", "metrics.failures", "metrics.calibration"],
        *["metrics.normalisation", "metrics.discard", "metrics.presentation", "intervals", "metrics.all_pairs"],
        *["trust", "everybody", "audit", "protocol", "enrolment", "trial_lists", "words", "trained", "compare"],
        *["rating", "few_pictures"],
        *["score_files", "embedding_files", "evaluation", "other_systems", "systems", "people", "groups"],
        *["degradations", "conditions", "stress", "stress_rates", "crossings"],
        *["pictures", "figures", "figures_identification", "figures_rates", "figures_calibration", "figures_stress"],
        *["figures_people", "live", "explore", "plot", "widgets"],
        *["report.tables", "report.provenance", "report.studies", "report.rates", "report.page"],
    ],
    "serve": [
        *["liveness", "names", "search", "faiss_index", "qdrant", "strangers", "records", "gallery", "threshold"],
        *["reading", "shelf", "zoo", "models", "recogniser", "kept", "gate", "searched", "people", "batches"],
        *["check", "check_shown", "identify"],
        *["desk", "desk_page", "onnx_page", "export"],
    ],
}
FLOW = [f"{room}.{name}" for room, names in ROOMS.items() for name in names]
FLOW += ["publish", "demo", "cli_said", "cli_serve", "cli_models", "cli"]
LIBRARY = ROOT / "face3d_lib"
LONGEST_FILE, LONGEST_FUNCTION = 500, 60  # lines
UNSAFE = {
    "allow_pickle=True": r"allow_pickle\s*=\s*True",
    "torch.load without weights_only=True": r"torch\.load\((?![^\n]*weights_only=True)",
    "unpickling": r"pickle\.loads?\(|read_pickle|joblib\.load|yaml\.load\(",
    "unpacking archives": r"\btarfile\b|\bzipfile\.(?!BadZipFile)|from zipfile|unpack_archive|\.extract(all)?\(",
    "eval or exec": r"(?<![.\w])(eval|exec)\(",
}


def sources() -> dict[str, str]:
    """The source of every file of the library by its dotted name below face3d_lib, whatever folder it is in."""
    paths = sorted(path for path in LIBRARY.rglob("*.py") if path.name != "__init__.py")
    return {
        ".".join(path.relative_to(LIBRARY).with_suffix("").parts): path.read_text(encoding="utf-8") for path in paths
    }


def imported(source: str, name: str) -> set[str]:
    """The library's own modules that the file `name` ("data.pairs") imports: nested, absolute or relative imports."""
    package, found = ["face3d_lib", *name.split(".")[:-1]], set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    inner = {module.removeprefix("face3d_lib.") for module in found if module.startswith("face3d_lib.")}
    return {module for module in FLOW if any(f"{other}.".startswith(f"{module}.") for other in inner)}


def test_every_file_of_the_library_stands_in_the_flow():
    assert set(sources()) == set(FLOW)


@pytest.mark.parametrize("name", FLOW)
def test_a_file_imports_only_files_above_it(name):
    assert imported(sources()[name], name) <= set(FLOW[: FLOW.index(name)])


@pytest.mark.parametrize("name", FLOW)
def test_files_and_functions_are_of_a_length_that_can_be_read(name):
    source = sources()[name]
    assert len(source.splitlines()) <= LONGEST_FILE
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    assert [f.name for f in functions if f.end_lineno - f.lineno + 1 > LONGEST_FUNCTION] == []


@pytest.mark.parametrize("what", UNSAFE)
def test_nothing_unsafe_is_loaded(what):
    found = [name for name, source in sources().items() if re.search(UNSAFE[what], source)]
    assert found == []


def without_encoding(source: str) -> list[int]:
    """Lines that open text, or read that of a child process, in the encoding of whatever locale."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        arguments = {keyword.arg: keyword.value for keyword in node.keywords}
        mode = node.args[1] if len(node.args) > 1 else arguments.get("mode", ast.Constant("r"))
        text = name in ("read_text", "write_text") and isinstance(node.func, ast.Attribute)
        text |= name == "open" and isinstance(node.func, ast.Name) and "b" not in getattr(mode, "value", "")
        text |= any(getattr(arguments.get(key), "value", False) for key in ("text", "universal_newlines"))
        if text and "encoding" not in arguments:
            lines.append(node.lineno)
    return lines


@pytest.mark.parametrize("name", FLOW)
def test_text_has_an_encoding(name):
    assert without_encoding(sources()[name]) == []


def test_the_guards_can_fail():
    for text in ("open(p)", "open(p, 'w')", "p.read_text()", "p.write_text(x)", "subprocess.run(w, text=True)"):
        assert without_encoding(text) == [1]
    for text in ("open(p, 'rb')", "write_text(p, x)", "Image.open(p)", "p.read_text(encoding='utf-8')"):
        assert without_encoding(text) == []
    nested = "def f():\n    from ..evaluate.metrics.curves import eer\n    from .fit import fit"
    assert imported(nested, "train.losses") == {"evaluate.metrics.curves", "train.fit"}
    assert imported("from ..train import fit, batches", "data.pack") == {"train.fit", "train.batches"}
    assert imported("from . import fit\nfrom .. import cli", "train.losses") == {"train.fit", "cli"}
    absolute = (
        "import face3d_lib.train.fit\nfrom face3d_lib.evaluate.metrics import curves\nfrom face3d_lib.cli import app"
    )
    assert imported(absolute, "base.paths") == {"train.fit", "evaluate.metrics.curves", "cli"}
    assert re.search(UNSAFE["torch.load without weights_only=True"], "torch.load(path)")
    assert re.search(UNSAFE["allow_pickle=True"], "np.load(path, allow_pickle=True)")


DOCUMENTS = ["README.md", "CONTRIBUTING.md", "WEIGHTS.md", "notebooks/README.md", "figures/README.md", "runs/README.md"]


def linked(text: str) -> list[str]:
    """The paths in the repository that a document links to or shows as a picture."""
    links = re.findall(r"\]\(([^)#]+)[^)]*\)|src=\"([^\"]+)\"", text)
    return [path for pair in links for path in pair if path and ":" not in path]


def named(text: str) -> list[str]:
    """The files of the repository that a document names between backquotes; a name with <...> stands for many."""
    return re.findall(r"`((?:face3d_lib|tests|figures|notebooks|\.ci|\.github)/[\w./-]+)`", text)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents_name_files_and_targets_that_exist(name):
    text, makefile = (ROOT / name).read_text(encoding="utf-8"), (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"(?:`|^ {4})make ([a-z-]+)", text, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"make {target}"
    for path in linked(text):
        assert ((ROOT / name).parent / path).exists(), path
    for path in named(text):
        assert (ROOT / path).exists() or path in EXAMPLES, path


EXAMPLES = {"notebooks/46_where_depth_pays.ipynb"}  # the notebook that CONTRIBUTING.md adds


def numbers_of(text: str) -> set[str]:
    """The numbers of notebooks in a cell such as "20, 30 to 34, or a sweep"; "a model" stands for all that train."""
    found = set(re.findall(r"\d\d", text))
    for first, last in re.findall(r"(\d\d) to (\d\d)", text):
        found |= {f"{number:02d}" for number in range(int(first), int(last) + 1)}
    trained = {name[:2] for name in TRAINED}
    return found & {stage.notebook[:2] for stage in PLAN} | (trained if "model" in text else set())


@pytest.mark.parametrize("name", DOCUMENTS)
def test_modules_that_documents_start_are_programs(name):
    for module in re.findall(r"-m (face3d_lib[.\w]*)", (ROOT / name).read_text(encoding="utf-8")):
        source = (ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
        assert 'if __name__ == "__main__":' in source, module


def test_the_lists_of_notebooks_follow_the_plan():
    named = {}
    for path in ("README.md", "notebooks/README.md"):
        text = (ROOT / path).read_text(encoding="utf-8")
        named[path] = re.findall(r"^\| \[(\d\d_\w+)\]", text, re.MULTILINE)
        assert named[path] == sorted(stage.notebook for stage in PLAN), path
    rows = re.findall(r"^\| \[(\d\d_\w+)\][^|]*\|[^|]*\|([^|]*)\|", text, re.MULTILINE)
    reads = {stage.notebook: {name[:2] for name in stage.reads} for stage in PLAN}
    assert {name: numbers_of(cell) for name, cell in rows} == reads
