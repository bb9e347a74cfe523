"""Notebook 49 in a browser, as a page under Voila and in JupyterLab; without Chromium or Playwright this is skipped.

The run that it shows is made here in a moment: six people with four pictures each, and embeddings of noise.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
from toy_pack import PAIR_IDS, PEOPLE, make_toy_pack

from face3d_lib.base.atomic import write_json
from face3d_lib.base.paths import NOTEBOOKS, ROOT
from face3d_lib.base.tables import write_table
from face3d_lib.data.splits import COLUMNS, DEPTH_HASH, PAIR_COLUMNS
from face3d_lib.evaluate.embeddings import Embeddings

NAME = "49_explore_scores"
MODELS = ["rgb/30_train_softmax", "depth/30_train_softmax"]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SECONDS = 180  # to wait for anything, on a slow machine
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here, so no page can be opened")
playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed, so no page can be opened")


def make_run(runs):
    """runs/default with all that notebook 49 reads; p0 and p1 are dev people, the others test people."""
    group = ["dev" if who in ("p0", "p1") else "test" for who in PEOPLE]
    rows = pd.DataFrame({"pair_id": PAIR_IDS, "cls_name": PEOPLE, "group": group})
    rows = rows.reindex(columns=[*COLUMNS, DEPTH_HASH, "group"], fill_value="")
    first = rows["pair_id"].str.endswith("/0")
    tables = {"gallery": rows[first], "probe": rows[~first], "unknown": rows[:0]}
    tables |= {name: rows[:0].drop(columns="group") for name in ("train", "eval", "test")}
    tables["dirty"] = rows[:0].drop(columns="group").assign(role="", reason="")
    tables["pairs"] = pd.DataFrame(
        [
            (PAIR_IDS[i], PAIR_IDS[k], str(int(PEOPLE[i] == PEOPLE[k])), group[i])
            for i in range(len(PEOPLE))
            for k in range(i + 1, len(PEOPLE))
            if group[i] == group[k]
        ],
        columns=PAIR_COLUMNS,
    )
    stages = ["20_split_subjects", "21_pack_dataset", "40_evaluate_verification", *MODELS]
    for stage in stages:
        record = {"stage": stage, "run": "default", "status": "done", "parameters": {"models": MODELS}}
        (runs / "default" / stage).mkdir(parents=True)
        write_json(runs / "default" / stage / "run.json", record)
    for name, table in tables.items():
        write_table(runs / "default/20_split_subjects" / f"{name}.csv", table)
    make_toy_pack(runs / "default/21_pack_dataset/pack", size=48)
    systems = {"rgb": {"model": MODELS[0]}, "depth": {"model": MODELS[1]}, "rgb + depth": {}}
    metrics = {"systems": systems, "late_fusion_weight": 0.5}
    write_json(runs / "default/40_evaluate_verification/metrics.json", metrics)
    for seed, model in enumerate(MODELS):
        rng = np.random.default_rng(seed)
        person = np.repeat(rng.normal(size=(6, 16)), 4, 0)
        vectors = person + rng.normal(size=person.shape)
        vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
        path = runs / "default/40_evaluate_verification" / f"{model}.npz"
        path.parent.mkdir(parents=True)
        Embeddings(np.array(PAIR_IDS), np.array(PEOPLE), vectors).save(path)
        write_json(runs / "default" / model / "model/card.json", {})


@contextmanager
def server(folder, runs, *command):
    """The address of a Jupyter server that was started with `command`; its log is shown where the test fails."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {name: str(folder / name) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")}
    own |= {"JUPYTER_CONFIG_PATH": str(ROOT), "FACE3D_RUNS": str(runs), "IPYTHONDIR": str(folder / "ipython")}
    own |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with open(folder / "server.log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command, f"--port={port}"],
            cwd=ROOT, env=os.environ | own, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        address, begun = f"http://127.0.0.1:{port}", time.monotonic()
        while True:
            try:
                urllib.request.urlopen(f"{address}/api/status", timeout=5)
                break
            except urllib.error.HTTPError:  # an answer
                break
            except OSError:
                assert process.poll() is None, (folder / "server.log").read_text()
                assert time.monotonic() - begun < SECONDS, (folder / "server.log").read_text()
                time.sleep(0.2)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        print((folder / "server.log").read_text()[-3000:])


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser):
    opened = browser.new_page(viewport={"width": 1200, "height": 1000})
    opened.set_default_timeout(1000 * SECONDS)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("widgets") / "runs"
    make_run(folder)
    return folder


def rates(page) -> tuple[float, float]:
    """FAR and FRR as the page shows them, in percent."""
    far, frr = (page.inner_text(f".face3d-{name}") for name in ("far", "frr"))
    return float(re.match(r"FAR ([\d.]+) %", far)[1]), float(re.match(r"FRR ([\d.]+) %", frr)[1])


DRAWN = """([number, curves]) =>
    document.querySelectorAll(".js-plotly-plot")[number]?.querySelectorAll(".scatterlayer path.js-line").length === curves"""
LINE = "document.querySelectorAll('.js-plotly-plot .scatterlayer path.js-line')[2].getAttribute('d')"  # the threshold
MOVE = """async (key) => {
    const shown = () => document.querySelector(".face3d-far").parentElement.innerText
    const handle = document.querySelector(".noUi-handle"), before = shown(), begun = performance.now()
    handle.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}))
    while (shown() === before && performance.now() - begun < 20000) await new Promise(done => setTimeout(done, 1))
    return performance.now() - begun
}"""  # one step of the slider; returns the milliseconds until the page shows another threshold


def try_the_widgets(page) -> list[float]:
    """Move the slider, change the system, pick pairs and see what the page shows; returns the time of each move, ms."""
    page.wait_for_selector(".face3d-far, [data-mime-type='application/vnd.jupyter.error'], pre:has-text('Error')")
    assert page.locator(".face3d-far").count(), page.inner_text("body")[-2000:]
    page.wait_for_function(DRAWN, arg=[0, 6])  # two histograms, a line, and the ROC of three systems
    page.wait_for_function(DRAWN, arg=[1, 3])  # two histograms and a line, beside the surfaces
    far, frr = rates(page)
    before = page.evaluate(LINE)
    page.locator(".noUi-handle").first.press("Home")  # the lowest threshold
    page.wait_for_function("document.querySelector('.face3d-far').innerText.startsWith('FAR 100.00')")
    assert rates(page) == (100, 0)
    page.wait_for_function(f"{LINE} !== {before!r}")
    assert (far, frr) != (100, 0)
    examples = page.locator("img[alt^='p']")
    assert examples.count() >= 10  # five false accepts of two pictures each
    assert examples.first.evaluate("picture => picture.complete && picture.naturalWidth > 0")
    moves = [page.evaluate(MOVE, "ArrowRight") for _ in range(9)]
    page.locator(".noUi-handle").first.press("End")
    page.wait_for_function("document.querySelector('.face3d-far').innerText.startsWith('FAR 0.00')")
    assert rates(page) == (0, 100)
    page.locator("select:has(option:text('fused'))").first.select_option(label="RGB + depth, fused")
    page.wait_for_function("!document.querySelector('.face3d-frr').innerText.startsWith('FRR 100.00')")
    before = page.inner_text(".face3d-score")
    page.locator("select:has(option:text-is('p3'))").first.select_option(label="p3")
    page.locator("select:has(option:text-is('p3/2'))").first.select_option(label="p3/2")
    for view in ("colour", "depth", "normals", "relative depth"):
        page.wait_for_selector(f"img[alt='{view} of p3/2']")
    page.wait_for_function(f"document.querySelector('.face3d-score').innerText !== '{before}'")
    assert page.locator("img[alt='normals of p3/2']").evaluate("picture => picture.naturalWidth") == 48
    return moves


def test_under_voila_the_slider_and_the_picker_work(tmp_path, runs, page):
    with server(tmp_path, runs, "voila", "--no-browser", f"notebooks/{NAME}.ipynb") as address:
        outside = []
        page.on("request", lambda request: outside.append(request.url) if request.resource_type == "script" else None)
        page.goto(address)
        moves = try_the_widgets(page)
        assert "open_run" not in page.content()  # the code is hidden
        assert [url for url in outside if not url.removeprefix("blob:").startswith(address)] == []
        print("milliseconds of a move:", sorted(map(round, moves)))
        assert sorted(moves)[len(moves) // 2] < 1000  # 100 ms on a machine that does nothing else


def test_under_voila_a_run_without_models_is_said_in_one_line(tmp_path, page):
    with server(tmp_path, tmp_path / "runs", "voila", "--no-browser", f"notebooks/{NAME}.ipynb") as address:
        page.goto(address)
        said = page.wait_for_selector("text=UserError").inner_text()
    assert said.startswith("UserError: 49_explore_scores reads 40_evaluate_verification, which is missing")
    assert said.endswith("face3d run 40_evaluate_verification default")
    assert "\n" not in said


RUN_ALL = """async () => {
    const app = window.jupyterapp, panel = app.shell.currentWidget
    if (!panel?.sessionContext?.session?.kernel || panel.sessionContext.session.kernel.status !== "idle") return false
    panel.content.notebookConfig = {...panel.content.notebookConfig, windowingMode: "none"}
    await app.commands.execute("notebook:run-all-cells")
    return true
}"""


def test_in_jupyterlab_they_work_and_saving_leaves_the_notebook_as_it_was(tmp_path, runs, page):
    path = NOTEBOOKS / f"{NAME}.ipynb"
    kept = path.read_bytes()
    options = ["--no-browser", "--LabApp.expose_app_in_browser=True", "--IdentityProvider.token="]
    options += [f"--LabApp.workspaces_dir={tmp_path / 'workspaces'}", f"--LabApp.user_settings_dir={tmp_path / 'user'}"]
    with server(tmp_path, runs, "jupyterlab", "--allow-root", *options) as address:
        page.goto(f"{address}/lab/tree/notebooks/{NAME}.ipynb")
        page.wait_for_function("window.jupyterapp?.shell?.currentWidget?.content?.widgets?.length > 5")
        page.wait_for_timeout(3000)  # what is started earlier gets lost
        deadline = time.monotonic() + SECONDS
        while not page.evaluate(RUN_ALL):
            assert time.monotonic() < deadline, "the kernel does not start"
            page.wait_for_timeout(500)
        try_the_widgets(page)
        page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
        page.wait_for_function("!window.jupyterapp.shell.currentWidget.context.model.dirty")
    assert path.read_bytes() == kept
