"""How soon the page of `make desk` answers, in a browser and step by step: `make bench-desk`.

Pairs of 640 x 480 pixels, each a synthetic face in the middle of an empty picture, are shown by the page under Voila in
Chromium. The recogniser is "pretrained", and ten people are enrolled. Measured in the page is the time from an action of the
user to the last change of what the page shows, its pictures decoded. The processor may have other work, so two more numbers are
given beside the median: the quickest answer, and the processor time that server, kernel and browser spend on an action, which is
about what an answer takes where one core has no other work. The steps are those that the page itself prints.

Prints the rows and writes figures/recorded/desk.json. This is no test, because machines differ and are noisy.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import psutil
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from face3d_lib.base.atomic import write_json
from face3d_lib.base.paths import FIGURES, ROOT
from face3d_lib.data.convention import DepthConvention
from face3d_lib.data.pairs import find_pairs
from face3d_lib.serve import People
from face3d_lib.serve.desk import Desk
from face3d_lib.synthetic import dataset

sys.path.insert(0, str(ROOT / "tests" / "evaluate"))
from test_widgets_in_browser import CHROMIUM, SECONDS, server

WIDTH, HEIGHT, SIDE = 640, 480, 400
ENROLLED, ACTIONS = 10, 24
STEPS = ("decode", "detect", "align", "embed", "judge", "search")
ACT = """async ([act, value]) => {
    const page = document.querySelector(".face3d-said").closest(".jupyter-widgets").parentElement
    let last = 0
    const watch = new MutationObserver(() => { last = performance.now() })
    watch.observe(page, {subtree: true, childList: true, characterData: true, attributes: true, attributeFilter: ["src"]})
    const begun = performance.now()
    if (act === "choose") {
        const option = [...page.querySelectorAll("option")].find(option => option.textContent === value)
        const list = option.closest("select")
        list.selectedIndex = option.index
        list.dispatchEvent(new Event("change", {bubbles: true}))
    } else [...page.querySelectorAll("button")].find(button => button.innerText.trim() === act).click()
    const wait = milliseconds => new Promise(done => setTimeout(done, milliseconds))
    while (!last || performance.now() - last < 400) {  // the answer comes in several messages
        if (performance.now() - begun > 30000) throw new Error(act + ": no answer: " + page.innerText)
        await wait(50)
    }
    watch.disconnect()
    const decoding = performance.now()
    await Promise.all([...page.querySelectorAll("img")].map(picture => picture.decode()))
    return last - begun + performance.now() - decoding
}"""  # milliseconds until the last change, and until its pictures are decoded


def enlarge(files) -> None:
    """Put the face of a pair, SIDE px wide, into an empty picture of WIDTH x HEIGHT px."""
    x, y = (WIDTH - SIDE) // 2, (HEIGHT - SIDE) // 2
    picture = Image.new("RGB", (WIDTH, HEIGHT), (120, 120, 120))
    picture.paste(Image.open(files.rgb_path).resize((SIDE, SIDE)), (x, y))
    depth, raw = np.zeros((HEIGHT, WIDTH), np.float32), np.load(files.depth_path, allow_pickle=False)
    rows = np.arange(SIDE) * len(raw) // SIDE, np.arange(SIDE) * raw.shape[1] // SIDE
    depth[y : y + SIDE, x : x + SIDE] = raw[np.ix_(*rows)]
    picture.save(files.rgb_path)
    np.save(files.depth_path, depth)


def enrol(faces: Path, gallery: Path) -> list[str]:
    """Enrol one picture of each of ENROLLED people; returns the pair_ids of all pairs."""
    desk = Desk(People.open(gallery), find_pairs(faces), DepthConvention("mm", "farther"))
    for pair_id in [*desk.files][::2][:ENROLLED]:
        desk.pick(pair_id)
        desk.enrol(pair_id.partition("/")[0], anyway=True)
    return [*desk.files]


def act(page: Page, action: str, value: str = "") -> tuple[float, float]:
    """(milliseconds until the page has answered, milliseconds of processor time of all programs that took part)."""
    others = psutil.Process().children(recursive=True)  # server, kernel and browser

    def spent() -> float:
        return sum(sum(each.cpu_times()[:2]) for each in others if each.is_running())

    before = spent()
    taken = page.evaluate(ACT, [action, value])
    return taken, 1000 * (spent() - before)


def use(page: Page, pair_ids: list[str]) -> tuple[dict[str, list[tuple[float, float]]], list[dict[str, float]]]:
    """(action -> `act` of each time, milliseconds of the steps of each pair that was chosen)."""
    page.locator("label:has-text('enrol even what is refused') input").check()
    act(page, "choose", pair_ids[0])  # loads what is loaded once
    taken = {what: [] for what in ("choose", "enrol", "forget", "undo", "check the gallery")}
    steps = []
    for turn in range(ACTIONS):
        taken["choose"].append(act(page, "choose", pair_ids[(turn + 1) % len(pair_ids)]))
        words = page.locator("small:has-text('milliseconds')").inner_text().split(": ")[1]
        steps.append({name: float(value) for name, value in (each.split() for each in words.split(", "))})
        page.get_by_placeholder("a name").fill("somebody new")
        for action in ("enrol", "forget", "undo", "undo", "check the gallery"):
            taken[action].append(act(page, action))
        act(page, "check the gallery")  # released
    return taken, steps


def main() -> None:
    with tempfile.TemporaryDirectory() as name, sync_playwright() as started:
        folder = Path(name)
        dataset.make_dataset(folder / "faces", ENROLLED + 2, 1, seed=5, workers=1)
        for row in find_pairs(folder / "faces"):
            enlarge(row)
        pair_ids = enrol(folder / "faces", folder / "people")
        os.environ |= {"FACE3D_GALLERY": str(folder / "people"), "FACE3D_DATA": str(folder / "faces")}
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.set_default_timeout(1000 * SECONDS)
        with server(folder, folder / "runs", "voila", "--no-browser", "notebooks/desk.py") as address:
            page.goto(address)
            page.wait_for_selector(".face3d-said")
            taken, steps = use(page, pair_ids)
        browser.close()
    words = {"choose": "another picture is chosen", "check the gallery": "the gallery is checked"}
    words |= {action: f"{action} is pressed" for action in ("enrol", "forget", "undo")}
    rows = [
        {"action": words[action], "median, ms": round(np.median(times, 0)[0]), "quickest, ms": round(min(times)[0]),
         "processor time, s": round(float(np.mean(times, 0)[1]) / 1000, 3), "times": len(times)}
        for action, times in taken.items()
    ]  # fmt: skip
    facts = {"enrolled": ENROLLED, "width": WIDTH, "height": HEIGHT, "load": round(os.getloadavg()[1], 1)}
    facts |= {step: round(float(np.median([each[step] for each in steps]))) for step in STEPS}
    facts |= {f"{step}_least": round(min(each[step] for each in steps)) for step in STEPS}
    cores = len(os.sched_getaffinity(0))
    measured_on = f"CPU, {cores} core(s) for server, kernel and browser; {ACTIONS} actions, seed 5"
    found = {"command": "make bench-desk", "measured_on": measured_on, "facts": facts, "rows": rows}
    print(json.dumps(found, indent=2))
    write_json(FIGURES / "recorded" / "desk.json", found)


if __name__ == "__main__":
    main()
