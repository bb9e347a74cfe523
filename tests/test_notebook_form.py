"""The form every notebook keeps, so that its numbers are checked, its figures seen and its story can be read.

Each check is a function of a notebook; at the end mutations of a good specimen show that each can turn red.
"""

import ast
import copy
import json
import re
from collections import Counter
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from face3d_lib.base.paths import NOTEBOOKS
from face3d_lib.runs.parameters import trailing_comments

PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
CHECKED, KEPT = "nbval-check-output", "keep_output"
BANNED = {"nbval-skip", "nbval-ignore-output", "nbval-test-listed", "raises-exception", "injected-parameters"}
WITHOUT_FIGURE: dict[str, str] = {}  # name of a notebook: the reason why nothing can be shown
MACHINE = re.compile(r"/home/|/root/|/tmp/|/Users/|\b[A-Z]:\\\w+\\")
EXPECTS = re.compile(r'this\.expect\(\s*"(\w+)",')
LARGEST_BYTES = 700_000


def tags(cell) -> set[str]:
    return set(cell.metadata.get("tags", []))


def code_cells(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tagged(notebook, tag: str) -> list:
    return [cell for cell in code_cells(notebook) if tag in tags(cell)]


def tree(source: str) -> ast.Module:
    """The syntax tree of a cell, magics left out."""
    return ast.parse("\n".join(line for line in source.splitlines() if line[:1] not in ("%", "!")))


def definitions(notebook) -> list:
    nodes = [node for cell in code_cells(notebook) for node in ast.walk(tree(cell.source))]
    return [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)]


# ------------------------------------------------------------------------------------------------- the checks


def begins_with_question_reads_and_writes(notebook, name):
    first = notebook.cells[0]
    assert first.cell_type == "markdown"
    assert re.match(r"# .+\n\n\*\*Question\.\*\* .+\?", first.source)
    assert re.search(r"\bReads\b.+\bWrites\b.+", first.source, re.S)


def ends_with_a_conclusion(notebook, name):
    last = notebook.cells[-1]
    assert last.cell_type == "markdown"
    assert last.source.startswith("## Conclusion\n")
    assert len(re.findall(r"\w[.!?](?:\s|$)", last.source)) >= 2, "two to four sentences"


def is_short(notebook, name):
    assert len(notebook.cells) <= 25
    assert all(len(c.source.splitlines()) <= 20 for c in code_cells(notebook) if "parameters" not in tags(c))
    assert all(cell.source.strip() for cell in notebook.cells)
    size = len(nbformat.writes(notebook).encode())
    assert size < LARGEST_BYTES, f"{size} bytes: fewer or smaller pictures"


def begins_with_imports_only(notebook, name):
    nodes = tree(code_cells(notebook)[0].source).body
    assert nodes
    assert all(isinstance(node, ast.Import | ast.ImportFrom) for node in nodes)


def declares_its_parameters(notebook, name):
    """One tagged cell, after the imports: 4-17 annotated literals, each with a comment, `run` among them."""
    (cell,) = tagged(notebook, "parameters")
    assert code_cells(notebook)[1] is cell
    body, comments = ast.parse(cell.source).body, trailing_comments(cell.source)
    assert all(isinstance(node, ast.AnnAssign) and node.value is not None for node in body)
    assert all(comments.get(node.end_lineno) for node in body), "every parameter has a comment at the end of its line"
    for node in body:
        ast.literal_eval(node.value)
    names = [node.target.id for node in body]
    assert len(set(names)) == len(names)
    assert 4 <= len(names) <= 17
    assert "run" in names


def opens_and_closes_its_run(notebook, name):
    sources = [cell.source for cell in code_cells(notebook)]
    assert sum(f'open_run("{name}", globals())' in source for source in sources) == 1
    assert sum(".done(" in source for source in sources) == 1


def ran_once_from_top_to_bottom(notebook, name):
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not any(BANNED & tags(cell) for cell in cells)
    assert not any(output.output_type == "error" for cell in cells for output in cell.outputs)


def checked_cells_hold_numbers(notebook, name):
    checked = tagged(notebook, CHECKED)
    assert checked, "without a checked cell nbval compares nothing"
    for cell in checked:
        assert KEPT in tags(cell), "nbstripout would empty it"
        assert all(output.get("name") == "stdout" for output in cell.outputs), "plain text from print"
        assert re.search(r"\d", "".join(output.text for output in cell.outputs))


def shows_a_figure(notebook, name):
    pictures = [out for cell in tagged(notebook, KEPT) for out in cell.outputs if "image/png" in out.get("data", {})]
    assert pictures or name in WITHOUT_FIGURE


def keeps_only_what_is_tagged(notebook, name):
    assert not any(cell.outputs for cell in code_cells(notebook) if KEPT not in tags(cell)), "run make format"


def asserts_something(notebook, name):
    nodes = [node for cell in code_cells(notebook) for node in ast.walk(tree(cell.source))]
    expected = {name for cell in code_cells(notebook) for name in re.findall(EXPECTS, cell.source)}
    assert expected or any(isinstance(node, ast.Assert) for node in nodes)
    declared = [name for cell in tagged(notebook, "parameters") for name in re.findall(r"(?m)^expect_\w+", cell.source)]
    assert expected == set(declared), "this.expect checks what the parameters expect_... say"


def leaves_logic_to_the_library(notebook, name):
    assert all(node.end_lineno - node.lineno < 8 for node in definitions(notebook))
    assert not any(".backward(" in cell.source for cell in code_cells(notebook))


def names_no_machine(notebook, name):
    shown = [cell.source for cell in notebook.cells]
    for output in (output for cell in code_cells(notebook) for output in cell.outputs):
        data = output.get("data", {})
        shown.append(output.get("text", ""))
        shown += [json.dumps(data[kind]) for kind in data if not kind.startswith(("image/png", "image/jpeg"))]
    found = [match[0] for text in shown for match in MACHINE.finditer(text.replace("\\\\", "\\"))]
    assert found == []


def runs_on_any_python3(notebook, name):
    assert notebook.metadata.kernelspec.name == "python3"


CHECKS = [
    begins_with_question_reads_and_writes,
    ends_with_a_conclusion,
    is_short,
    begins_with_imports_only,
    declares_its_parameters,
    opens_and_closes_its_run,
    ran_once_from_top_to_bottom,
    checked_cells_hold_numbers,
    shows_a_figure,
    keeps_only_what_is_tagged,
    asserts_something,
    leaves_logic_to_the_library,
    names_no_machine,
    runs_on_any_python3,
]


def defined_twice(notebooks) -> list[str]:
    """Names that are defined more than once in all the notebooks together."""
    names = Counter(node.name for notebook in notebooks for node in definitions(notebook))
    return [name for name, count in names.items() if count > 1]


# ------------------------------------------------------------------------------------ the committed notebooks


def read(path: Path):
    return nbformat.read(path, as_version=4)


def test_workbook_is_not_empty():
    assert PATHS


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_form(path, check):
    check(read(path), path.stem)


def test_names_are_in_the_order_of_the_stages():
    assert all(re.fullmatch(r"\d\d_[a-z0-9_]+", path.stem) for path in PATHS)


def test_nothing_is_defined_twice():
    assert defined_twice([read(path) for path in PATHS]) == []


def test_every_exception_is_needed_and_has_a_reason():
    names = {path.stem for path in PATHS}
    assert all(name in names and len(reason) > 10 for name, reason in WITHOUT_FIGURE.items())


# ---------------------------------------------------------------------------------------------- the mutations

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
FIRST = (
    "# A specimen\n\n**Question.** How far apart are the scores?\n\nFar enough.\n\n"
    "Reads `40_scores`. Writes `metrics.json`."
)
PARAMETERS = """run: str = "default"  # name of the run
seed: int = 0  # of everything random
far: float = 1e-3  # false accept rate of the operating point
device: str = "cpu"  # or cuda"""


def specimen():
    def printed(text):
        return [new_output("stream", name="stdout", text=text)]

    figure = [new_output("display_data", data={"image/png": PIXEL, "text/plain": "<Figure size 640x480>"})]
    cells = [
        new_markdown_cell(FIRST),
        new_code_cell("import numpy as np\n\nfrom face3d_lib.runs.notebook import open_run"),
        new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        new_code_cell('this = open_run("90_specimen", globals())'),
        new_markdown_cell("## Scores\nGenuine scores lie above impostor scores."),
        new_code_cell("def spread(scores):\n    return scores.max() - scores.min()"),
        new_code_cell("plot(scores)", metadata={"tags": [KEPT]}, outputs=figure),
        new_code_cell("print(n, eer)", metadata={"tags": [CHECKED, KEPT]}, outputs=printed("genuine=528\nEER 0.031\n")),
        new_code_cell('assert eer < 0.1\nthis.done({"eer": eer})'),
        new_markdown_cell("## Conclusion\nThe scores are apart. More people would bring them closer."),
    ]
    notebook = new_notebook(cells=cells)
    for count, cell in enumerate(code_cells(notebook), start=1):
        cell.execution_count = count
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return notebook


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_specimen_is_good(check):
    check(specimen(), "90_specimen")


def outputs_stripped(notebook):
    for cell in code_cells(notebook):
        cell.outputs = []


def counts_dropped(notebook):
    for cell in code_cells(notebook):
        cell.execution_count = None


def source(number, old, new):
    """A mutation that replaces text in one cell."""

    def mutate(notebook):
        cell = notebook.cells[number]
        assert old in cell.source
        cell.source = cell.source.replace(old, new)

    return mutate


def retag(number, *new):
    return lambda notebook: notebook.cells[number].metadata.update(tags=list(new))


def output_of(number, *new):
    return lambda notebook: notebook.cells[number].update(outputs=list(new))


def stdout(text):
    return new_output("stream", name="stdout", text=text)


def long_function(length):
    return "def long():\n" + "\n".join(f"    x{i} = {i}" for i in range(length - 1))


MUTATIONS = [
    (outputs_stripped, checked_cells_hold_numbers),
    (outputs_stripped, shows_a_figure),
    (counts_dropped, ran_once_from_top_to_bottom),
    (lambda notebook: notebook.cells[5].update(execution_count=9), ran_once_from_top_to_bottom),
    (output_of(3, new_output("error", ename="E", evalue="", traceback=[])), ran_once_from_top_to_bottom),
    *[(retag(7, CHECKED, KEPT, tag), ran_once_from_top_to_bottom) for tag in sorted(BANNED)],
    (retag(7, KEPT), checked_cells_hold_numbers),
    (retag(7, CHECKED), checked_cells_hold_numbers),
    (retag(6, CHECKED, KEPT), checked_cells_hold_numbers),  # nbval does not compare pictures
    (output_of(7, stdout("no numbers")), checked_cells_hold_numbers),
    (
        output_of(7, stdout("EER 0.03"), new_output("execute_result", data={"text/html": "3"})),
        checked_cells_hold_numbers,
    ),
    (retag(6), shows_a_figure),
    (output_of(6, stdout("3")), shows_a_figure),
    (retag(6), keeps_only_what_is_tagged),
    (output_of(3, stdout("90_specimen, run default: seed 0")), keeps_only_what_is_tagged),
    (retag(2), declares_its_parameters),
    (retag(3, "parameters"), declares_its_parameters),
    (source(2, "1e-3", "10 ** -3"), declares_its_parameters),
    (source(2, "seed: int = 0", "seed = 0"), declares_its_parameters),
    (source(2, "  # or cuda", ""), declares_its_parameters),
    (source(2, "run: str", "name: str"), declares_its_parameters),
    (source(2, 'device: str = "cpu"  # or cuda', ""), declares_its_parameters),
    (source(2, "far: float", "seed: float"), declares_its_parameters),
    (lambda notebook: notebook.cells.insert(2, notebook.cells.pop(3)), declares_its_parameters),
    (
        source(0, "**Question.** How far apart are the scores?", "Scores."),
        begins_with_question_reads_and_writes,
    ),
    (source(0, "Writes", "and makes"), begins_with_question_reads_and_writes),
    (lambda notebook: notebook.cells.pop(), ends_with_a_conclusion),
    (source(9, " More people would bring them closer.", ""), ends_with_a_conclusion),
    (lambda notebook: notebook.cells.extend(notebook.cells[4:5] * 16), is_short),
    (source(8, "assert", "\n" * 20 + "assert"), is_short),
    (lambda notebook: notebook.cells[6].outputs[0].data.update({"image/png": "A" * LARGEST_BYTES}), is_short),
    (source(4, "## Scores\nGenuine scores lie above impostor scores.", " "), is_short),
    (source(1, "import numpy as np", "import numpy as np\nnp.random.seed(0)"), begins_with_imports_only),
    (source(3, "90_specimen", "91_other"), opens_and_closes_its_run),
    (source(8, "this.done", "print"), opens_and_closes_its_run),
    (source(8, "assert eer < 0.1", "eer < 0.1"), asserts_something),
    (source(2, "far: float = 1e-3", "expect_eer_below: float = 0.1"), asserts_something),
    (source(8, "assert eer < 0.1", 'this.expect("expect_eer_below", eer < 0.1, "EER")'), asserts_something),
    (source(5, "def spread", long_function(9) + "\n\ndef spread"), leaves_logic_to_the_library),
    (source(6, "plot(scores)", "loss.backward()"), leaves_logic_to_the_library),
    (output_of(7, stdout("3 files in /home/somebody/runs")), names_no_machine),
    (output_of(7, stdout("3 files in C:\\Users\\somebody")), names_no_machine),
    (
        output_of(7, new_output("execute_result", data={"text/plain": "PosixPath('/tmp/x')"})),
        names_no_machine,
    ),
    (source(6, "plot(scores)", 'plot("/root/scores")'), names_no_machine),
    (lambda notebook: notebook.metadata.kernelspec.update(name="myenv"), runs_on_any_python3),
]


@pytest.mark.parametrize("number", range(len(MUTATIONS)))
def test_a_mutation_turns_its_check_red(number):
    mutate, check = MUTATIONS[number]
    notebook = copy.deepcopy(specimen())
    mutate(notebook)
    with pytest.raises((AssertionError, ValueError)):
        check(notebook, "90_specimen")


def test_every_check_has_a_mutation():
    assert {check for _, check in MUTATIONS} == set(CHECKS)


def test_a_function_of_eight_lines_is_still_good():
    notebook = specimen()
    source(5, "def spread", long_function(8) + "\n\ndef spread")(notebook)
    leaves_logic_to_the_library(notebook, "90_specimen")


def test_the_same_function_in_two_notebooks_is_seen():
    assert defined_twice([specimen()]) == []
    assert defined_twice([specimen(), specimen()]) == ["spread"]
