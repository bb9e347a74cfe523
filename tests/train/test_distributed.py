"""Two processes compute what one would: the same batches, losses and gradients; a process that dies ends the run."""

import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import nbformat
import pytest
import torch

from face3d_lib.base.paths import ROOT

TESTS = str(Path(__file__).parent)
PRELUDE = f"""
import os, sys, dataclasses
import numpy as np, torch
sys.path[:0] = [{TESTS!r}, {str(ROOT)!r}]
import test_fit as t
from face3d_lib.train import closed_set, fit
from face3d_lib.train.augment import Augmentation
from face3d_lib.train.batches import train_batches
from face3d_lib.train.objective import Objective
torch.set_num_threads(1)
t.backbones.SMALL = {{**t.backbones.SMALL, "channels": (8, 16, 16, 32)}}
pack, subject = t.toy_pack()
train, evaluation = t.halves(subject)
rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
"""
GRADIENTS = """
found = {}
accelerator = fit.make_accelerator("float32", "cpu")
settings = [(name, head, k, "joined") for name, head in t.HEADS.items() for k in (0, 4)]
settings += [("arcface", t.HEADS["arcface"], 0, "parallel")]
for name, head, per_person, fusion in settings:
    embedder, _ = t.build("rgbd", fusion=fusion)
    torch.manual_seed(1)
    objective = Objective(embedder, head(), 0.5)
    model = accelerator.prepare(objective)
    model.train()
    for module in objective.modules():  # the statistics of a batch are those of its process: see fit, SyncBatchNorm
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
    torch.manual_seed(2)
    stream = train_batches(pack, *train, 16, 0, 0, "cpu", Augmentation(), per_person=per_person, rank=rank, world=world)
    batch, labels = next(stream)
    loss, embeddings, labels = model(batch, labels)
    accelerator.backward(loss)
    name = f"{name} {per_person} {fusion}"
    found[name] = {"loss": loss.detach(), "embeddings": embeddings, "labels": labels}
    found[name] |= {key: p.grad for key, p in objective.named_parameters() if p.grad is not None}
torch.save(found, f"{sys.argv[1]}.{rank}.{world}")
"""


def torchrun(tmp_path, script: str, *words: str, processes: int = 2) -> subprocess.CompletedProcess:
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(script))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    return subprocess.run([*command, path, *words], cwd=ROOT, env=clean(), capture_output=True, text=True, timeout=300)


def clean() -> dict:
    return {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE")} | {
        "OMP_NUM_THREADS": "1"
    }


def test_two_processes_have_the_loss_and_the_gradient_of_one(tmp_path):
    script = PRELUDE + GRADIENTS
    for processes in (1, 2):
        done = torchrun(tmp_path, script, str(tmp_path / "g"), processes=processes)
        assert done.returncode == 0, done.stderr[-3000:]
    (alone, *both) = (torch.load(tmp_path / f"g.{name}", weights_only=True) for name in ("0.1", "0.2", "1.2"))
    for name, expected in alone.items():
        for found in (part[name] for part in both):
            assert found.keys() == expected.keys()
            assert torch.equal(found["labels"], expected["labels"])
            differences = torch.cat([(found[key] - value).flatten() for key, value in expected.items()])
            everything = torch.cat([value.flatten().float() for value in expected.values()])
            assert differences.norm() <= 1e-6 * everything.norm(), name


FIT = """
embedder, loss = t.build("rgb")
history = fit.fit(embedder, loss, pack, train, evaluation, sys.argv[1], t.ENOUGH, t.GENTLE, "cpu", False)
if rank == 0:
    right = (closed_set.predict(embedder, loss, pack, evaluation[0]) == evaluation[1]).mean()
    assert right == history["eval_accuracy"].max() > 0.6, (right, history)
torch.save({"weights": t.weights(embedder, loss), "accuracy": history["eval_accuracy"].tolist()}, f"{sys.argv[1]}.{rank}")
"""


def test_fit_among_two_processes_learns_and_both_end_with_the_same_weights(tmp_path):
    done = torchrun(tmp_path, PRELUDE + FIT, str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr[-3000:]
    one, other = (torch.load(tmp_path / f"run.{rank}", weights_only=True) for rank in (0, 1))
    assert one["accuracy"] == other["accuracy"]  # every evaluation picture counted once, by one of them
    assert all(torch.equal(value, other["weights"][key]) for key, value in one["weights"].items())
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == list(range(1, 9))


@pytest.mark.slow
def test_two_processes_killed_and_started_again_end_as_if_never_killed(tmp_path):
    """One rank dies by kill -9, the job ends, and the same command resumes."""
    mark = "open(sys.argv[1] + f'.{rank}.pid', 'w').write(str(os.getpid()))\n"
    script = PRELUDE + mark + FIT.replace("t.ENOUGH", "dataclasses.replace(t.ENOUGH, save_seconds=0)")
    assert torchrun(tmp_path, script, str(tmp_path / "whole")).returncode == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    job = subprocess.Popen([*command, tmp_path / "script.py", tmp_path / "killed"], cwd=ROOT, env=clean())
    while not (tmp_path / "killed" / "last.pt").exists():
        assert job.poll() is None
        time.sleep(0.01)
    os.kill(int((tmp_path / "killed.1.pid").read_text()), 9)
    assert job.wait(timeout=60) != 0
    assert not (tmp_path / "killed.0").exists(), "killed too late"
    assert torchrun(tmp_path, script, str(tmp_path / "killed")).returncode == 0
    for rank in (0, 1):
        one, other = (torch.load(tmp_path / f"{name}.{rank}", weights_only=True) for name in ("whole", "killed"))
        assert all(torch.equal(value, other["weights"][key]) for key, value in one["weights"].items())
        assert one["accuracy"] == other["accuracy"]


def test_fewer_people_in_a_batch_than_processes_is_refused(tmp_path):
    script = PRELUDE + FIT.replace("t.ENOUGH", "dataclasses.replace(t.ENOUGH, batch_size=8, per_person=8)")
    done = torchrun(tmp_path, script, str(tmp_path / "run"))
    assert done.returncode
    assert "asks for 1 people in a batch" in done.stderr


NOTEBOOK = [
    'run: str = "default"  # run\ndevice: str = "cpu"  # or cuda',
    "from face3d_lib.runs.notebook import open_run\n\nthis = open_run('90_ranks', globals())",
    "import os\n\nimport torch\n\nfrom face3d_lib.train import fit\n\naccelerator = fit.make_accelerator('float32', 'cpu')",
    "together = accelerator.gather(torch.tensor([float(this.rank)])).tolist()\n(this.folder / 'mine').write_text('x')",
    "BODY",
    "this.done({'ranks': together})",
]


def run_notebook(tmp_path, body: str):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c.replace("BODY", body)) for c in NOTEBOOK])
    notebook.cells[0].metadata.tags = ["parameters"]
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, tmp_path / "90_ranks.ipynb")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m"]
    command += ["face3d_lib.cli", "run", str(tmp_path / "90_ranks.ipynb"), "r"]
    environment = clean() | {"FACE3D_RUNS": str(tmp_path / "runs"), "FACE3D_FIGURES": str(tmp_path / "figures")}
    process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    return process, tmp_path / "runs" / "r" / "90_ranks"


def test_a_notebook_runs_once_for_every_process_and_is_recorded_once(tmp_path):
    process, folder = run_notebook(tmp_path, "print(together)")
    assert process.returncode == 0, process.stderr
    assert json.loads((folder / "metrics.json").read_text()) == {"ranks": [0.0, 1.0]}
    assert json.loads((folder / "run.json").read_text())["status"] == "done"
    assert sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) == [
        "90_ranks.ipynb", "90_ranks.rank1.ipynb", "metrics.json", "mine", "run.json",
    ]  # fmt: skip


def test_a_process_that_dies_ends_the_run_and_leaves_none_behind(tmp_path):
    pids = tmp_path / "pids"
    body = (
        f"open({str(pids)!r}, 'a').write(str(os.getpid()) + ' ')\n"
        "if this.rank == 1:\n    os.kill(os.getpid(), 9)\n"
        "accelerator.gather(torch.ones(1))"
    )
    process, folder = run_notebook(tmp_path, body)
    assert process.returncode != 0
    assert "90_ranks.rank1 (r): kernel_died" in process.stderr
    assert json.loads((folder / "run.json").read_text())["status"] in ("failed", "preempted", "kernel_died")
    patience = time.monotonic() + 20
    kernels = [int(pid) for pid in pids.read_text().split()]
    while any(Path(f"/proc/{pid}").exists() for pid in kernels):
        assert time.monotonic() < patience
        time.sleep(0.2)
