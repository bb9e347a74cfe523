"""The plan says of every notebook what it reads, and everything that names stages follows the plan."""

import ast
import subprocess
import sys

import nbformat
import pytest

from face3d_lib.base.paths import NOTEBOOKS, ROOT
from face3d_lib.runs import plan
from face3d_lib.runs.parameters import check_parameters, find_notebook, parameter_model

NAMES = [stage.notebook for stage in plan.PLAN]
ANY_TRAINED = "any trained model"


def code_of(notebook: str) -> list[str]:
    return [c.source for c in nbformat.read(NOTEBOOKS / f"{notebook}.ipynb", 4).cells if c.cell_type == "code"]


def needed(sources: list[str]) -> set[str]:
    """The notebooks whose stages a notebook asks for, itself by `need(...)` or by a function that does.

    A computed name stands for any trained model.
    """
    found = set()
    for node in (node for source in sources for node in ast.walk(ast.parse(source))):
        called = getattr(node.func, "attr", getattr(node.func, "id", "")) if isinstance(node, ast.Call) else ""
        found |= NEEDED_BY_FUNCTIONS.get(called, set())
        if called == "need":
            argument = node.args[0]
            plain = isinstance(argument, ast.Constant)
            found.add(argument.value.rpartition("/")[2] if plain else ANY_TRAINED)
    return found


def needing_functions() -> dict[str, set[str]]:
    """Functions of the library that ask for stages, by name: what each asks for."""
    found = {"trained": {ANY_TRAINED}}  # evaluate.compare.trained looks for the models of a sweep
    for path in (ROOT / "face3d_lib").glob("[!r]*/*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and (asked := needed([ast.unparse(node)])):
                found[node.name] = found.get(node.name, set()) | asked
    return found


NEEDED_BY_FUNCTIONS: dict[str, set[str]] = {}
NEEDED_BY_FUNCTIONS = needing_functions()


def planned_reads(notebook: str) -> set[str]:
    reads = set(plan.stage_of(notebook).reads)
    trained = set(plan.TRAINED) <= reads
    return reads - set(plan.TRAINED) | ({ANY_TRAINED} if trained else set())


@pytest.mark.parametrize("notebook", NAMES)
def test_a_notebook_reads_what_the_plan_says_and_nothing_else(notebook):
    assert needed(code_of(notebook)) == planned_reads(notebook)


def test_what_a_notebook_needs_is_seen():
    assert needed(["a = this.need('20_split') / 'x'"]) == {"20_split"}
    assert needed(["this.need('rgb/30_train')\nfor name in names:\n    this.need(name)"]) == {"30_train", ANY_TRAINED}
    assert needed(["open_run('30_train', globals())"]) == set()
    assert needed(["data = training_data.open_training_data(this)"]) == {"20_split_subjects", "21_pack_dataset"}


def test_the_plan_lists_every_notebook_once_after_what_it_reads():
    assert sorted(NAMES) == sorted(path.stem for path in NOTEBOOKS.glob("[0-9]*.ipynb"))
    assert len(set(NAMES)) == len(NAMES)
    for place, stage in enumerate(plan.PLAN):
        assert set(stage.reads) <= set(NAMES[:place]), stage.notebook


@pytest.mark.parametrize("stage", plan.PLAN, ids=lambda stage: stage.notebook)
def test_the_parameters_of_the_plan_are_those_of_the_notebook(stage):
    model = parameter_model(find_notebook(stage.notebook))
    for parameters in stage.nested.values():
        check_parameters(model, parameters | (stage.demo or {}))
    root, _, nested = model.model_fields["run"].default.partition("/")
    assert root == "default"
    assert nested in stage.nested


def test_models_that_notebooks_name_by_default_are_planned():
    for stage in plan.PLAN:
        field = parameter_model(find_notebook(stage.notebook)).model_fields.get("models")
        for name in field.default if field and "/" in "".join(field.default) else []:
            nested, _, notebook = name.rpartition("/")
            assert nested in plan.stage_of(notebook).nested, name
            assert notebook in stage.reads


def test_a_wave_never_holds_a_stage_and_its_reader():
    done = set()
    for wave in plan.waves():
        assert all(set(plan.stage_of(name).reads) <= done for name in wave)
        done |= set(wave)
    assert sorted(done) == sorted(NAMES)
    with_trainings = next(wave for wave in plan.waves() if "30_train_softmax" in wave)
    assert set(plan.TRAINED) <= set(with_trainings)  # also the one that reads nothing


def test_the_makefile_asks_the_plan():
    def asked(word):
        command = [sys.executable, "-m", "face3d_lib.runs.plan", word]
        return subprocess.run(command, capture_output=True, encoding="utf-8", check=True, cwd=ROOT).stdout.split()

    assert asked("order") == [f"notebooks/{name}.ipynb" for name in NAMES]
    assert sorted(asked("waves")) == sorted(asked("order"))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "$(PLAN) waves" in makefile
    assert "$(PLAN) order" in makefile
    assert not any(name in makefile for name in NAMES)


def test_a_step_below_the_default_run_has_the_notebooks_own_parameters():
    assert plan.planned("default", "rgb/30_train_softmax").parameters == {"modality": "rgb"}
    demo = plan.planned("demo/rgb", "30_train_softmax")
    assert (demo.run, demo.parameters["epochs"]) == ("demo/rgb", 20)
    assert plan.planned("mine/rgb", "21_pack_dataset") == plan.Job("21_pack_dataset", "mine", {})
    assert plan.planned("mine", "60_own") == plan.Job("60_own", "mine", {})


def test_the_demo_runs_in_groups_whose_jobs_do_not_read_each_other():
    waves = plan.demo_waves("demo")
    done: set[str] = set()
    for wave in waves:
        names = {job.notebook for job in wave}
        for name in names:
            assert not names & set(plan.stage_of(name).reads)
            assert {stage for stage in plan.stage_of(name).reads if plan.stage_of(stage).demo is not None} <= done
        done |= names
    jobs = [job for wave in waves for job in wave]
    assert sorted(jobs, key=str) == sorted(plan.demo_jobs("demo"), key=str)
    trainings = next(
        [job.run for job in wave] for wave in waves if "30_train_softmax" in {job.notebook for job in wave}
    )
    assert trainings[:3] == ["demo/rgbd", "demo/depth", "demo/rgb"]  # the longest first
