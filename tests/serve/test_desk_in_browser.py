"""The application in a browser, as `make desk` shows it under Voila: pick, upload, identify, enrol, forget, undo.

Without Chromium or Playwright this is skipped.
"""

import json
import shutil

import numpy as np
import pytest
from test_widgets_in_browser import CHROMIUM, SECONDS, server

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here, so no page can be opened")
playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed, so no page can be opened")


@pytest.fixture
def page():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": 1200, "height": 900})
        opened.set_default_timeout(1000 * SECONDS)
        yield opened
        browser.close()


def says(page, text, where="said"):
    """Wait until a part of the page holds `text`."""
    page.wait_for_function(
        "([where, text]) => document.querySelector(`.face3d-${where}`)?.innerText.includes(text)", arg=[where, text]
    )


def press(page, button):
    page.locator(f"button:text-is('{button}')").click()


def choose(page, button, path):
    """Upload a file by the button of this name."""
    with page.expect_file_chooser() as opened:
        page.locator(f"button:has-text('{button}')").click()
    opened.value.set_files(path)


def test_pick_enrol_upload_forget_undo(tmp_path, faces, page, monkeypatch):
    gallery = tmp_path / "people"
    monkeypatch.setenv("FACE3D_GALLERY", str(gallery))
    monkeypatch.setenv("FACE3D_DATA", str(faces))
    with server(tmp_path, tmp_path / "runs", "voila", "--no-browser", "notebooks/desk.py") as address:
        page.goto(address)
        page.wait_for_selector(".face3d-said")
        assert "page_of_gallery" not in page.content()  # the code is hidden
        page.locator("select:has(option:text-is('p0000/s1_000'))").select_option(label="p0000/s1_000")
        says(page, "Nobody is enrolled yet.", "answer")
        says(page, "depth shows a face", "liveness")
        says(page, "nothing speaks against", "gate")
        for what in ("aligned colour", "aligned depth", "the picture with the faces found in it"):
            assert page.locator(f"img[alt='{what}']").evaluate("picture => picture.naturalWidth") > 0
        press(page, "enrol")
        says(page, "name")  # it has none yet: one line, and no traceback
        assert "Traceback" not in page.inner_text("body")
        page.get_by_placeholder("a name").fill("anna")
        press(page, "enrol")
        says(page, "Enrolled as anna.")
        says(page, "This is anna", "answer")

        other = "p0001/s1_000"
        choose(page, "colour picture", faces / f"{other}.png")
        says(page, "s1_000.png is here. Now choose its depth map.")
        choose(page, "depth map", faces / f"{other}.npy")
        says(page, "Done in")
        page.wait_for_function(
            "!document.querySelector('.face3d-answer').innerText.includes('This is anna: the score 1')"
        )
        assert page.locator(".face3d-match").count() == 1
        bad = np.zeros((4, 4), np.float32)
        np.save(tmp_path / "bad.npy", bad)
        choose(page, "colour picture", faces / f"{other}.png")
        choose(page, "depth map", tmp_path / "bad.npy")
        says(page, "bad.npy: depth has the shape (4, 4)")
        assert page.locator(".face3d-answer").count() == 0

        press(page, "check the gallery")
        says(page, "1 person with 1 picture", "check")
        assert page.locator("img[alt='the scores of the check']").evaluate("picture => picture.naturalWidth") > 0
        press(page, "forget")
        says(page, "Forgotten: nothing of anna")
        says(page, "Nobody is enrolled.", "enrolled")
        assert page.locator(".face3d-check").count() == 0  # of a gallery that is another one now
        assert json.loads((gallery / "gallery.json").read_text())["people"] == []
        press(page, "undo")
        says(page, "Taken back: forget anna.")
        says(page, "1 enrolled: anna", "enrolled")
        press(page, "undo")
        says(page, "Taken back: enrol anna.")
        page.wait_for_selector("button:disabled:text-is('undo')")

        shutil.copytree(faces / "p0002", tmp_path / "camera")
        page.get_by_placeholder("the folder into which").fill(str(tmp_path / "camera"))
        page.get_by_placeholder("the folder into which").press("Tab")
        press(page, "watch")
        says(page, "Nobody is enrolled yet.", "answer")
