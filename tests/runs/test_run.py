"""The runner tells the truth about parameters, dead kernels, signals, kills and who owns a run folder."""

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from specimens import OPEN, PARAMETERS, make_stage, write_notebook

from face3d_lib.base import paths
from face3d_lib.base.errors import UserError
from face3d_lib.base.paths import ROOT
from face3d_lib.runs import folders, notebook, parameters, plan, record, runner
from face3d_lib.train.checkpoint import read_checkpoint


def environment(desk: Path, **more: str) -> dict:
    return os.environ | {"FACE3D_RUNS": str(desk / "runs"), "FACE3D_FIGURES": str(desk / "figures")} | more


def start(desk: Path, notebook: Path, run: str = "trial", *words: str, **more: str) -> subprocess.Popen:
    """The runner as a process of its own, in a session of its own (a terminal's Ctrl-C does not reach it)."""
    command = [sys.executable, "-m", "face3d_lib.cli", "run", notebook, run, *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
    return subprocess.Popen(command, cwd=desk, env=environment(desk, **more), preexec_fn=hear_signals, **pipes)


def hear_signals() -> None:
    """Whoever starts the tests in the background has them ignore SIGINT or SIGHUP; the runner in them must not."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def wait_for(path: Path, process: subprocess.Popen) -> None:
    patience = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < patience
        time.sleep(0.02)


def wait_until_gone(pid: int, seconds: float = 5) -> bool:
    patience = time.monotonic() + seconds
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > patience:
            return False
        time.sleep(0.05)
    return True


def record_of(desk: Path, stage: str, run: str = "trial") -> dict:
    return json.loads((desk / "runs" / run / stage / "run.json").read_text())


# ------------------------------------------------------------------------------------------------- parameters


@pytest.fixture
def model(desk):
    return parameters.parameter_model(write_notebook(desk, "90_specimen"))


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("augment", "false", False),  # papermill makes the true string "false" of it
        ("augment", "True", True),
        ("lr", "1e-4", 1e-4),  # yaml makes a string of it
        ("lr", "2", 2.0),
        ("epochs", "3", 3),
        ("modality", "depth", "depth"),
        ("sizes", "1,2.5", [1.0, 2.5]),
        ("sizes", "[1, 2.5]", [1.0, 2.5]),
        ("sizes", "", []),
        ("limit", "none", None),
        ("limit", "12", 12),
        ("run", "001", "001"),
        ("run", "none", "none"),
    ],
)
def test_text_becomes_what_was_declared(model, name, text, value):
    checked = parameters.check_parameters(model, {name: text})
    assert checked[name] == value
    assert type(checked[name]) is type(value)
    assert len(checked) == 8  # the others have their defaults
    assert checked["epochs" if name != "epochs" else "seed"] == (3 if name != "epochs" else 0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", "many"),
        ("epochs", "3.5"),
        ("epochs", 3.5),
        ("epochs", True),
        ("lr", "nan"),
        ("lr", "fast"),
        ("lr", False),
        ("augment", "maybe"),
        ("modality", "infrared"),
        ("sizes", "1,x"),
        ("run", 3),
        ("limit", "few"),
    ],
)
def test_a_mistyped_value_is_refused_by_name_type_and_value(model, name, value):
    with pytest.raises(UserError) as refusal:
        parameters.check_parameters(model, {name: value})
    message = str(refusal.value)
    assert "\n" not in message
    assert f"parameter {name} is" in message
    declared = re.search(rf"^{name}: (.+?) = ", PARAMETERS, re.M)[1].replace('"', "'")
    assert declared in message
    assert repr(value) in message or "'x'" in message


def test_an_unknown_parameter_is_refused_with_the_nearest_and_all_declared(model):
    with pytest.raises(UserError) as refusal:
        parameters.check_parameters(model, {"epoch": 3})
    message = str(refusal.value)
    assert "90_specimen has no parameter epoch (did you mean epochs?)" in message
    assert "lr: float = 0.001  # learning rate" in message
    assert message.count("\n") == 8


@pytest.mark.parametrize("value", ["3", 3.5, True, None])
def test_by_hand_a_text_is_no_number(model, value):
    with pytest.raises(UserError, match="epochs"):
        parameters.check_parameters(model, {"epochs": value}, strict=True)


@pytest.mark.parametrize(
    "line",
    ["epochs: int = 3 * 2", "import os", "epochs = 3", "epochs: tuple = 3", "print(1)", "epochs: int = f()"],
)
def test_nothing_is_computed_among_the_parameters(desk, line):
    notebook = write_notebook(desk, "90_specimen", parameters=f'run: str = "default"\n{line}')
    with pytest.raises(UserError, match=r"`name: type = literal`"):
        parameters.parameter_model(notebook)


def test_a_notebook_must_declare_its_run_and_tag_one_cell(desk):
    with pytest.raises(UserError, match="run: str"):
        parameters.parameter_model(write_notebook(desk, "90_specimen", parameters="seed: int = 0"))
    path = write_notebook(desk, "90_specimen")
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[2].metadata.tags = []
    nbformat.write(notebook, path)
    with pytest.raises(UserError, match="tagged `parameters`, 0 are"):
        parameters.parameter_model(path)


def test_a_crafted_name_is_refused_and_never_executed(desk):
    sentinel = desk / "executed"
    notebook = write_notebook(desk, "90_specimen")
    crafted = f"seed = open({str(sentinel)!r}, 'w') #"
    with pytest.raises(UserError, match="cannot be the name of a parameter"):
        runner.run_notebook(notebook, "trial", {crafted: 1})
    with pytest.raises(UserError, match="cannot be the name of a parameter"):
        runner.run_notebook(notebook, "trial", parameters.parse_parameters([f"{crafted.replace('=', '')}=1"]))
    with pytest.raises(UserError, match="cannot be the name"):
        parameters.check_parameters(parameters.parameter_model(notebook), {"lambda": 1})
    assert not sentinel.exists()
    assert not (desk / "runs").exists()


def test_the_command_line_says_name_and_value():
    assert parameters.parse_parameters(["lr=1e-3", "note=a=b"]) == {"lr": "1e-3", "note": "a=b"}
    for pairs in (["lr"], ["lr=1", "lr=2"], ["run=other"]):
        with pytest.raises(UserError):
            parameters.parse_parameters(pairs)


@pytest.mark.parametrize("name", ["../outside", "/tmp/x", "a//b", "", "a/../b", "a b", ".hidden", "a\n"])
def test_a_run_name_stays_below_runs(desk, name):
    with pytest.raises(UserError, match="run"):
        folders.run_folder(name)


# ------------------------------------------------------------------------------------------ a run, end to end


def test_a_run_from_command_line_to_record(desk):
    """Also: another "python3" kernel on this machine is not taken, and values as typed reach the cell."""
    bogus = desk / "jupyter/kernels/python3"
    bogus.mkdir(parents=True)
    (bogus / "kernel.json").write_text('{"argv": ["false"], "display_name": "x", "language": "python"}')
    tell = "print(repr((run, lr, augment, sizes, limit)))\nimport sys, os; print(sys.executable, os.getcwd())"
    close = 'this.done({"eer": float("nan"), "n": __import__("numpy").int64(7)})'
    notebook = write_notebook(desk, "90_specimen", *OPEN, tell, close)
    words = ["-p", "augment=false", "-p", "lr=1e-4", "-p", "sizes=2", "-p", "limit=5"]
    process = start(
        desk, notebook, "trial/one", *words, JUPYTER_PATH=str(desk / "jupyter"), JUPYTER_PREFER_ENV_PATH="0"
    )
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0, output
    assert re.fullmatch(r"90_specimen \(trial/one\): done in \d+ s -> \S+/90_specimen\.ipynb\n", output)

    folder = desk / "runs/trial/one/90_specimen"
    executed = nbformat.read(folder / "90_specimen.ipynb", as_version=4)
    nbformat.validate(executed)
    text = "".join(o.text for c in executed.cells if c.cell_type == "code" for o in c.outputs if o.name == "stdout")
    assert "('trial/one', 0.0001, False, [2.0], 5)" in text
    assert f"{sys.executable} {desk / 'notebooks'}" in text
    assert f"90_specimen, run trial/one: seed 0, device cpu, python {sys.version.split()[0]}" in text
    assert json.loads((folder / "metrics.json").read_text()) == {"eer": None, "n": 7}

    written = record_of(desk, "90_specimen", "trial/one")
    assert written["status"] == "done"
    assert written["parameters"] == {
        "run": "trial/one", "seed": 0, "epochs": 3, "lr": 1e-4, "augment": False, "modality": "rgb",
        "sizes": [2.0], "limit": 5,
    }  # fmt: skip
    assert written["error"] is None
    assert written["started"] < written["ended"]
    assert 0 < written["seconds"] < 120
    assert written["versions"]["numpy"]
    assert "pid" not in written
    assert not re.search(rf"/home/|/root|/tmp|{re.escape(socket.gethostname())}", json.dumps(written))
    assert sorted(path.name for path in folder.iterdir()) == [
        "90_specimen.ipynb",
        "metrics.json",
        "run.json",
    ]


def test_figures_of_a_stage_lie_in_its_own_folder(desk):
    """Not in figures/, which git tracks and which only `publish` fills."""
    this = notebook.open_run("90_specimen", {"run": "default"})
    assert this.figures == desk / "runs/default/90_specimen/figures"
    this.done()


def test_a_rank_above_zero_leaves_the_record_to_rank_zero(desk):
    notebook = write_notebook(desk, "90_specimen", *OPEN, "assert this.rank == 1", "this.done({'n': 1})")
    process = start(desk, notebook, RANK="1", WORLD_SIZE="2")
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0, output
    assert [path.name for path in (desk / "runs/trial/90_specimen").iterdir()] == ["90_specimen.rank1.ipynb"]


def test_what_a_shell_has_set_for_other_programs_does_no_harm(desk):
    """A rank without torchrun, a backend with windows, a locale without accents, no assertions: the stage is done and kept."""
    check = "import sys, matplotlib\nassert 'inline' in matplotlib.get_backend()\nassert sys.flags.utf8_mode"
    check += "\nif not __debug__:\n    raise RuntimeError('assertions are skipped')"
    notebook = write_notebook(desk, "90_specimen", *OPEN, check, "this.done({'n': 1})")
    shell = {"RANK": "1", "MPLBACKEND": "TkAgg", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    shell |= {"PYTHONOPTIMIZE": "1"}
    process = start(desk, notebook, **shell)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0, output
    assert record_of(desk, "90_specimen")["status"] == "done"
    assert (desk / "runs/trial/90_specimen/metrics.json").exists()


def test_a_grid_runs_in_sequence_and_answers_for_the_first_failure(desk, capfd):
    notebook = write_notebook(desk, "90_specimen", "assert epochs != 2", parameters=PARAMETERS)
    grid = desk / "grid.yaml"
    grid.write_text("- {run: sweep/a, epochs: 2}\n- {run: sweep/b, lr: 1e-4, epochs: 4}\n")
    assert runner.run_grid(notebook, "sweep", {"seed": "5"}, parameters.read_grid(grid)) == 1
    assert record_of(desk, "90_specimen", "sweep/a")["status"] == "failed"
    second = record_of(desk, "90_specimen", "sweep/b")
    assert second["status"] == "done"
    assert second["parameters"]["lr"] == 1e-4
    assert second["parameters"]["seed"] == 5


@pytest.mark.parametrize(
    "text",
    [
        "- {epochs: 1}\n- {epochs: 2}",
        "- {epochs: 1}\n- {run: b, epoch: 2}",
        "3",
        "- 3",
        "[]",
        "a: [",
        "run: ../x",
    ],
)
def test_a_faulty_grid_starts_nothing(desk, text):
    notebook = write_notebook(desk, "90_specimen", "1")
    grid = desk / "grid.yaml"
    grid.write_text(text)
    with pytest.raises(UserError):
        runner.run_grid(notebook, "sweep", {}, parameters.read_grid(grid))
    assert not (desk / "runs").exists()


# --------------------------------------------------------- what papermill would have called completed

DEATHS = {
    "sigkill": ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "kernel_died", 138),
    "os_exit": ("import os; os._exit(0)", "kernel_died", 138),
    "segv": ("import ctypes; ctypes.string_at(0)", "kernel_died", 138),
    "sys_exit": ("import sys; sys.exit(0)", "incomplete", 2),
    "quit": ("quit()", "incomplete", 2),
    "raise": ("raise ValueError('the reason\\nand more')", "failed", 1),
    "memory": ("raise MemoryError('too much')", "failed", 1),
    "thread": (
        "import threading, time\nt = threading.Thread(target=lambda: 1 / 0); t.start(); t.join(); time.sleep(0.2)",
        "failed",
        1,
    ),
}


@pytest.mark.parametrize("death", DEATHS)
def test_what_did_not_end_well_is_not_called_done(desk, death, capfd):
    cell, status, code = DEATHS[death]
    notebook = write_notebook(desk, "90_specimen", cell, "print('after')")
    assert runner.run_notebook(notebook, "trial") == code
    folder = desk / "runs/trial/90_specimen"
    written = record_of(desk, "90_specimen")
    assert written["status"] == status
    assert written["error"].startswith("In [4]: ")  # imports, parameters, injected parameters, the cell
    assert "\n" not in written["error"]
    assert sorted(path.name for path in folder.iterdir()) == ["90_specimen.failed.ipynb", "run.json"]
    failed = nbformat.read(folder / "90_specimen.failed.ipynb", as_version=4)
    last = failed.cells[-1]
    ran = last.execution_count is not None
    assert ran == (death == "thread")  # nobody else waits for a thread
    assert (last.metadata.papermill.status == "completed") == ran
    ending = capfd.readouterr().err.splitlines()[-1]
    assert ending.startswith(f"90_specimen (trial): {status} in ")
    assert ending.endswith(str(folder / "90_specimen.failed.ipynb"))
    if death == "raise":
        assert written["error"] == "In [4]: ValueError: the reason"


def test_sys_exit_in_the_last_cell_is_not_done_either(desk):
    notebook = write_notebook(desk, "90_specimen", "import sys; sys.exit()")
    assert runner.run_notebook(notebook, "trial") == 2
    assert record_of(desk, "90_specimen")["status"] == "incomplete"


def test_a_run_that_was_opened_must_be_closed(desk):
    late = "import threading\nthread = threading.Timer(0.1, lambda: 1 / 0); thread.start()"
    notebook = write_notebook(desk, "90_specimen", *OPEN)
    assert runner.run_notebook(notebook, "trial") == 2
    assert "never called done()" in record_of(desk, "90_specimen")["error"]
    notebook = write_notebook(desk, "90_specimen", *OPEN, late, "thread.join()", "this.done()")
    assert runner.run_notebook(notebook, "trial") == 1  # the thread fails when its cell is long over
    assert "ZeroDivisionError" in record_of(desk, "90_specimen")["error"]


def test_a_cell_that_takes_too_long(desk):
    notebook = write_notebook(desk, "90_specimen", "import time; time.sleep(60)")
    before = time.monotonic()
    assert runner.run_notebook(notebook, "trial", cell_timeout=2) == 1
    assert time.monotonic() - before < 30
    assert "Timeout" in record_of(desk, "90_specimen")["error"]


# -------------------------------------------------------------------------------------------- signals

TRAIN = """import os, time
(this.folder / "kernel.pid").write_text(str(os.getpid()))
saved, step = this.folder / "saved", 0
try:
    while step < 3000:
        time.sleep(0.02)
        step += 1
finally:
    time.sleep(0.5)
    saved.write_text(str(step))"""


def train(desk: Path) -> tuple[subprocess.Popen, int]:
    """A runner whose notebook trains, and its kernel's process id."""
    process = start(desk, write_notebook(desk, "90_specimen", *OPEN, TRAIN, "this.done()"))
    pid_file = desk / "runs/trial/90_specimen/kernel.pid"
    wait_for(pid_file, process)
    time.sleep(random.uniform(0.1, 0.6))
    return process, int(pid_file.read_text())


@pytest.mark.parametrize("target", ["SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP", "kernel", "both"])
def test_a_signal_lets_the_kernel_save(desk, target):
    process, kernel = train(desk)
    before = time.monotonic()
    if target in ("kernel", "both"):
        os.kill(kernel, signal.SIGTERM)
    if target != "kernel":
        process.send_signal(getattr(signal, target, signal.SIGTERM))
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 75, output
    assert time.monotonic() - before < 15
    folder = desk / "runs/trial/90_specimen"
    assert int((folder / "saved").read_text()) > 0
    assert record_of(desk, "90_specimen")["status"] == "preempted"
    assert (folder / "90_specimen.failed.ipynb").exists()
    assert wait_until_gone(kernel)


def test_ctrl_c_that_a_parent_passes_on_as_well_counts_once(desk):
    """A terminal sends SIGINT to the whole group, a sweep or torchrun then sends SIGTERM: the kernel still saves."""
    process, kernel = train(desk)
    process.send_signal(signal.SIGINT)
    time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 75, output
    assert int((desk / "runs/trial/90_specimen/saved").read_text()) > 0
    assert wait_until_gone(kernel)


def test_a_second_signal_ends_at_once(desk):
    stubborn = TRAIN.replace("time.sleep(0.5)", "time.sleep(60)")
    process = start(desk, write_notebook(desk, "90_specimen", *OPEN, stubborn, "this.done()"))
    wait_for(desk / "runs/trial/90_specimen/kernel.pid", process)
    kernel = int((desk / "runs/trial/90_specimen/kernel.pid").read_text())
    before = time.monotonic()
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 75
    assert time.monotonic() - before < 15
    assert record_of(desk, "90_specimen")["status"] == "preempted"
    assert wait_until_gone(kernel)


def test_a_signal_before_the_first_cell(desk):
    process = start(desk, write_notebook(desk, "90_specimen", *OPEN, TRAIN, "this.done()"))
    wait_for(desk / "runs/trial/90_specimen/run.json", process)
    time.sleep(random.uniform(0.1, 0.5))
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 75
    assert record_of(desk, "90_specimen")["status"] == "preempted"


FIT = f"""import sys, torch
sys.path[:0] = [{str(ROOT / "tests" / "train")!r}, {str(ROOT)!r}]
import test_fit as t
from face3d_lib.base.atomic import write_text
torch.set_num_threads(1)
t.backbones.SMALL = {{**t.backbones.SMALL, "channels": (8, 16, 16, 32)}}
show = t.fit_module._show
def note(bar, state):
    write_text(this.folder / "step", f"{{state.epoch}} {{state.step}}")
    show(bar, state)
t.fit_module._show = note
pack, subject = t.toy_pack()
settings = t.dataclasses.replace(t.SETTINGS, epochs=100_000, save_seconds=3600)
t.fit(*t.build("rgbd"), pack, *t.halves(subject), this.folder, settings, t.Augmentation(), "cpu")"""


@pytest.mark.slow
def test_twenty_signals_at_random_times_cost_no_step_of_a_training(desk):
    """What is saved is at least as far as the training was when the signal came, and it goes on from there."""
    notebook = write_notebook(desk, "90_specimen", *OPEN, FIT, "this.done()")
    folder, before = desk / "runs/trial/90_specimen", (-1, 0)
    for number in range(20):
        (folder / "step").unlink(missing_ok=True)
        process = start(desk, notebook)
        wait_for(folder / "step", process)
        kernel = next(p.pid for p in psutil.Process(process.pid).children() if "ipykernel" in " ".join(p.cmdline()))
        time.sleep(random.uniform(0.05, 3))
        reached = tuple(map(int, (folder / "step").read_text().split()))
        process.send_signal(random.choice([signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP]))
        asked = time.monotonic()
        output = process.communicate(timeout=60)[0]
        assert process.returncode == 75, output
        assert time.monotonic() - asked < 30
        assert record_of(desk, "90_specimen")["status"] == "preempted"
        assert wait_until_gone(kernel)
        state = read_checkpoint(folder / "last.pt")["state"]
        assert (state["epoch"], state["step"]) >= reached > before, number
        before = (state["epoch"], state["step"])


@pytest.mark.parametrize(("last", "code"), [("", 0), ("import os; os._exit(0)", 138)])
def test_no_process_stays_behind(desk, last, code):
    pid = f"open({str(desk / 'pid')!r}, 'w').write(str(child.pid))"
    child = f"import subprocess\nchild = subprocess.Popen(['sleep', '99'])\n{pid}"
    assert runner.run_notebook(write_notebook(desk, "90_specimen", child, last), "trial") == code
    assert wait_until_gone(int((desk / "pid").read_text()))


# ---------------------------------------------------------------- the runner is killed while it saves


def kill_at_random(desk: Path, times: int) -> None:
    chatty = "print('x' * 200_000)"  # papermill saves the notebook before and after every cell
    notebook = write_notebook(desk, "90_specimen", *[chatty] * 40)
    caught = 0
    for number in range(times):
        folder = desk / f"runs/trial{number}/90_specimen"
        process = start(desk, notebook, f"trial{number}")
        wait_for(folder / ".90_specimen.partial.ipynb", process)
        time.sleep(random.uniform(0, 1.0))
        process.kill()
        process.communicate()
        finished = (folder / "90_specimen.ipynb").exists()
        if finished:
            nbformat.validate(nbformat.read(folder / "90_specimen.ipynb", as_version=4))
        status = record_of(desk, "90_specimen", f"trial{number}")["status"]
        assert status == "running" or (finished and status == "done")
        caught += not finished
    assert caught > times / 4, "too few kills fell into the saving"
    process = start(desk, notebook, f"trial{times - 1}")  # neither a dead owner's lock nor its dying kernel matter
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0, output
    assert sorted(path.name for path in folder.iterdir()) == ["90_specimen.ipynb", "run.json"]


def test_a_killed_runner_leaves_no_half_notebook(desk):
    kill_at_random(desk, times=4)


@pytest.mark.slow
def test_a_killed_runner_leaves_no_half_notebook_full(desk):
    kill_at_random(desk, times=50)


# ----------------------------------------------------------------------------------------- one writer


def two_at_once(desk: Path, times: int) -> None:
    cell = "import time; (this.folder / 'who').open('a').write(f'{seed}\\n'); time.sleep(1.5)"
    notebook = write_notebook(desk, "90_specimen", *OPEN, cell, "this.done({'seed': seed})")
    for number in range(times):
        pair = [start(desk, notebook, f"trial{number}", "-p", f"seed={seed}") for seed in (1, 2)]
        outputs = [process.communicate(timeout=120)[0] for process in pair]
        codes = [process.returncode for process in pair]
        assert sorted(codes) == [0, 2], outputs
        winner = codes.index(0)
        assert f"process {pair[winner].pid} is writing here" in outputs[1 - winner]
        assert outputs[1 - winner].count("\n") == 1
        folder = desk / f"runs/trial{number}/90_specimen"
        assert (folder / "who").read_text() == f"{winner + 1}\n"
        assert json.loads((folder / "metrics.json").read_text()) == {"seed": winner + 1}
        assert record_of(desk, "90_specimen", f"trial{number}")["parameters"]["seed"] == winner + 1


def test_of_two_at_once_one_owns_the_folder(desk):
    two_at_once(desk, times=1)


@pytest.mark.slow
def test_of_two_at_once_one_owns_the_folder_full(desk):
    two_at_once(desk, times=20)


# --------------------------------------------------------------------------------------------- opened by hand


def by_hand(desk: Path, code: str, **more: str) -> subprocess.Popen:
    """Python that opens a run without the runner, as a notebook in JupyterLab does."""
    head = "import sys, time\nfrom face3d_lib.runs.notebook import open_run\n"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([sys.executable, "-c", head + code], env=environment(desk, **more), **pipes)


def test_by_hand_the_same_cell_may_run_again_and_the_record_is_the_same(desk):
    code = """
run = "mine"
first = open_run("90_by_hand", globals())
this = open_run("90_by_hand", globals())
this.done({"n": 1})
this = open_run("90_by_hand", globals())
this.done({"n": 2})
"""
    process = by_hand(desk, code)
    assert process.wait(timeout=60) == 0, process.stdout.read()
    written = record_of(desk, "90_by_hand", "mine")
    assert (written["status"], written["parameters"]) == ("done", {"run": "mine"})
    assert written["ended"]
    assert json.loads((desk / "runs/mine/90_by_hand/metrics.json").read_text()) == {"n": 2}


def test_by_hand_the_folder_is_locked_until_done(desk):
    open_and_wait = 'run = "mine"\nthis = open_run("90_by_hand", globals())\nprint("open", flush=True)\n'
    owner = by_hand(desk, open_and_wait + "time.sleep(60)")
    while owner.stdout.readline().strip() != "open":
        assert owner.poll() is None
    second = by_hand(desk, open_and_wait)
    output = second.communicate(timeout=60)[0]
    assert second.returncode == 1
    assert f"process {owner.pid} is writing here" in output
    assert record_of(desk, "90_by_hand", "mine")["pid"] == owner.pid
    owner.terminate()  # as a closing JupyterLab does; the script's line is interrupted
    assert owner.wait(timeout=60) != 0
    assert record_of(desk, "90_by_hand", "mine")["status"] == "preempted"
    third = by_hand(desk, open_and_wait)
    assert third.wait(timeout=60) == 0
    assert record_of(desk, "90_by_hand", "mine")["status"] == "incomplete"  # it ended without done()


def test_by_hand_the_parameters_are_checked_against_the_notebook(desk, monkeypatch):
    write_notebook(desk, "90_specimen")
    monkeypatch.setattr(paths, "NOTEBOOKS", desk / "notebooks")
    good = {"run": "mine", "seed": 0, "epochs": 3, "lr": 1, "modality": "rgb", "another_name": 3}
    this = notebook.open_run("90_specimen", good)
    this.done()
    assert this.parameters["lr"] == 1.0
    assert "another_name" not in this.parameters
    with pytest.raises(UserError, match="epochs is '3'"):
        notebook.open_run("90_specimen", good | {"epochs": "3"})


# ----------------------------------------------------------------------------------------- what a stage reads


def test_upstream_is_found_in_this_run_then_in_those_around_it(desk):
    outer = make_stage(desk, "21_pack", "trial")
    nested = make_stage(desk, "30_train", "trial/rgb")
    make_stage(desk, "21_pack", "elsewhere")
    this = notebook.open_run("40_evaluate", {"run": "trial/rgb"})
    assert this.need("21_pack") == outer
    assert this.need("30_train") == nested
    inner = make_stage(desk, "21_pack", "trial/rgb")
    assert this.need("21_pack") == inner
    this.done()
    that = notebook.open_run("41_compare", {"run": "trial"})
    assert that.need("rgb/30_train") == nested
    that.done()
    assert record_of(desk, "41_compare")["upstream"] == {
        "rgb/30_train": {
            "folder": "trial/rgb/30_train",
            "result_sha256": record.read_record(nested)["result_sha256"],
        }
    }


@pytest.mark.parametrize("status", [None, "failed", "preempted", "kernel_died", "incomplete", "running"])
def test_what_is_missing_or_not_done_is_named_with_its_command(desk, monkeypatch, status):
    train = plan.Stage("30_train", ("21_pack",), {"rgb": {"modality": "rgb"}}, {"epochs": 20})
    monkeypatch.setattr(plan, "PLAN", [plan.Stage("21_pack", ("10_align",)), train])
    if status:
        make_stage(desk, "30_train", "trial/rgb", status)
        make_stage(desk, "21_pack", "trial", status)
    this = notebook.open_run("40_evaluate", {"run": "trial"})
    with pytest.raises(UserError) as refusal:
        this.need("rgb/30_train")
    why = f"40_evaluate reads rgb/30_train, which is {status or 'missing'} in run trial: "
    assert str(refusal.value) == why + "face3d run 30_train trial/rgb -p modality=rgb -p epochs=20"
    this.done()
    this = notebook.open_run("40_evaluate", {"run": "trial/rgb"})
    with pytest.raises(UserError, match=r"face3d run 21_pack trial$"):
        this.need("21_pack")
    this.done()


def test_a_stage_older_than_what_it_read_is_noted(desk, capsys):
    make_stage(desk, "10_align", "trial")
    pack = notebook.open_run("21_pack", {"run": "trial"})
    pack.need("10_align")
    pack.done()
    this = notebook.open_run("30_train", {"run": "trial"})
    capsys.readouterr()
    this.need("21_pack")
    assert capsys.readouterr().out == ""
    make_stage(desk, "10_align", "trial")  # it ran again and came to the same
    this.need("21_pack")
    assert capsys.readouterr().out == ""
    make_stage(desk, "10_align", "trial", size=64)
    this.need("21_pack")
    assert "21_pack was made before the present 10_align" in capsys.readouterr().out
    this.done()


def test_what_is_done_already_is_known(desk):
    make_stage(desk, "10_align", "trial")
    notebook = write_notebook(desk, "90_specimen", *OPEN, "this.need('10_align')", "this.done()")
    assert not record.up_to_date(notebook, "trial")
    assert runner.run_notebook(notebook, "trial", {"lr": "1e-2"}) == 0
    assert record.up_to_date(notebook, "trial", {"lr": 0.01})
    assert not record.up_to_date(notebook, "trial")  # other parameters
    make_stage(desk, "10_align", "trial")  # upstream ran again and came to the same
    assert record.up_to_date(notebook, "trial", {"lr": 0.01})
    make_stage(desk, "10_align", "trial", size=64)  # upstream was made anew in another way
    assert not record.up_to_date(notebook, "trial", {"lr": 0.01})
    edited = write_notebook(desk, "90_specimen", *OPEN, "this.need('10_align')", "this.done({})")
    assert runner.run_notebook(edited, "trial") == 0
    assert record.up_to_date(edited, "trial")
    write_notebook(desk, "90_specimen", *OPEN, "this.need('10_align')", "this.done()")
    assert not record.up_to_date(edited, "trial")  # another notebook


@pytest.mark.parametrize("text", ["", "{", '{"cells": 3}'])
def test_a_damaged_notebook_is_named(desk, text):
    path = desk / "notebooks/90_specimen.ipynb"
    path.write_text(text)
    with pytest.raises(UserError, match="not a readable notebook"):
        runner.run_notebook(path, "trial")


def test_in_the_default_run_what_is_missing_is_made(desk):
    """Through two stages, each executed once, with the progress of both on the screen of the first."""
    write_notebook(desk, "10_first", *OPEN, "this.done({'seed': seed})")
    write_notebook(desk, "20_second", *OPEN, "this.need('10_first')", "this.done()")
    third = write_notebook(desk, "30_third", *OPEN, "folder = this.need('20_second')", "this.done()")
    process = start(desk, third, "default")
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0, output
    assert [record_of(desk, stage, "default")["status"] for stage in ("10_first", "20_second", "30_third")] == [
        "done"
    ] * 3
    executed = nbformat.read(desk / "runs/default/30_third/30_third.ipynb", as_version=4)
    shown = "".join(output.text for output in executed.cells[-2].outputs)
    assert "20_second is missing: making it from the defaults" in shown
    assert "20_second (default): done in" in shown


def test_a_mistyped_model_is_not_trained_under_its_wrong_name(desk, monkeypatch):
    train = plan.Stage("30_train", (), {"rgb": {"modality": "rgb"}}, {})
    monkeypatch.setattr(plan, "PLAN", [train])
    monkeypatch.setattr(notebook, "_run_visibly", lambda *_: pytest.fail("it was made"))
    this = notebook.open_run("40_evaluate", {"run": "default"})
    with pytest.raises(UserError, match=r"missing in run default: face3d run 30_train default/rbg$"):
        this.need("rbg/30_train")
    this.done()


def test_a_page_under_voila_does_not_wait_for_a_training(desk, monkeypatch):
    monkeypatch.setenv("SERVER_SOFTWARE", "voila/0.5.13")
    monkeypatch.setattr(notebook, "_run_visibly", lambda *_: pytest.fail("it was made"))
    this = notebook.open_run("90_page", {"run": "default"})
    with pytest.raises(UserError, match=r"missing in run default: face3d run 40_evaluate_verification default$"):
        this.need("40_evaluate_verification")
    this.done()


# ------------------------------------------------------------------------------- Jupyter stays closed


def relaxations(text: str) -> list[str]:
    loose = [
        r"0\.0\.0\.0",
        r"allow[_-]root",
        r"allow_origin|allow_remote_access",
        r"disable_check_xsrf",
        r"(token|password)\s*=\s*(''|\"\"|$|\s)",
    ]
    return [pattern for pattern in loose if re.search(pattern, text, re.M)]


def test_no_shipped_file_relaxes_jupyter():
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-co", "--exclude-standard"], capture_output=True, text=True
    )
    # the browser test starts a server of its own on this machine, and a container runs it as root
    apart = ("tests/runs/test_run.py", "tests/evaluate/test_widgets_in_browser.py")
    names = [name for name in listed.stdout.splitlines() if name not in apart]
    names = [name for name in names if not name.endswith((".png", ".lock", ".npy")) and ".venv/" not in name]
    texts = {name: (ROOT / name).read_text(errors="replace") for name in names if (ROOT / name).is_file()}
    assert "Makefile" in texts
    assert {name: found for name, text in texts.items() if (found := relaxations(text))} == {}
    for bad in (
        "jupyter lab --ip=0.0.0.0",
        "c.ServerApp.token = ''",
        "--allow-root",
        "--IdentityProvider.token=",
    ):
        assert relaxations(bad), bad
