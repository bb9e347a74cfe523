"""The page of a `Desk`, in JupyterLab and under Voila. What it says is decided by the desk; here it is only shown.

A mistake of the user is one line at the top of the page, never a traceback.
"""

import asyncio
import base64
import html
from collections.abc import Callable, Sequence
from pathlib import Path

import ipywidgets
import numpy as np
import pandas as pd

from ..base.atomic import write_bytes
from ..base.errors import UserError
from ..base.paths import relative
from ..data.convention import DIRECTIONS, UNITS, read_convention, read_source
from ..data.pairs import failure, find_pairs
from ..data.splits import Splits, read_splits
from ..evaluate.embeddings import Embeddings
from ..evaluate.pictures import BLUE, RED, png_of
from ..evaluate.protocol import unseen_people
from ..evaluate.widgets import image
from ..runs.folders import find_stage
from . import check_shown
from .check import Check, embeddings
from .desk import Desk, View
from .gallery import open_gallery
from .identify import STAGE
from .people import People
from .recogniser import Recogniser
from .strangers import Strangers

POLL_SECONDS = 0.5  # between two looks at a watched folder
BARS = 260  # px: the width of a score of 1
WIDE = {"width": "100%"}
BLACK = "#222222"


def page_of_gallery(folder: str | Path, raw: Path | None = None) -> ipywidgets.Widget:
    """The page for the gallery of a folder, which need not exist yet, by the gallery's own model; "pretrained" for a new one.

    raw: a folder of raw pairs, which can be picked; its dataset.json says what their depth means. No run is needed.

    A line of text comes back where the page cannot be opened, as where the folder holds something else.
    """
    try:
        files, meaning = (find_pairs(raw), read_convention(raw)) if raw else ((), None)
        return DeskPage(Desk(People.open(Path(folder).expanduser()), files, meaning))
    except UserError as error:
        return ipywidgets.HTML(_line(str(error), RED))


def page_of_run(run: str, model: str, recogniser: str = "", far: float = 0.1) -> ipywidgets.Widget:
    """The page for a run, whose pairs can be picked; its gallery is `people` in the folder of notebook 50.

    model: of the run, whose gallery the notebook has saved. recogniser: another one instead, as `Recogniser.load` takes it. far:
    the share of strangers who may be accepted; with the run's model the threshold for it comes from the dev people.

    A line of text comes back where the page cannot be opened, as after the model was trained again.
    """
    try:
        folder, looked, split = (find_stage(run, stage) for stage in (STAGE, "00_look_at_pairs", "20_split_subjects"))
        if folder is None or looked is None or split is None:
            raise UserError(f"run {run} is not complete: face3d run {STAGE} {run} makes it")
        root, meaning = read_source(looked)
        division = read_splits(split)
        asked = pd.concat([division.probe, division.unknown])
        picks = asked[asked["group"] == "test"]["pair_id"].tolist()
        strangers = None if recogniser else _dev_people(folder / "gallery", division)
        loaded = Recogniser.load(recogniser or f"{run}:{model}")
        table = Strangers.measure(strangers, "dev people of the run") if strangers else None
        people = People.open(folder / "people", loaded, far=far, strangers=table)
        return DeskPage(Desk(people, find_pairs(root), meaning, strangers), picks)
    except UserError as error:
        return ipywidgets.HTML(_line(str(error), RED))


def write_page(path: Path, *arguments: str | float) -> None:
    """Write a notebook of one cell, which shows `page_of_run(*arguments)`, for Voila to serve."""
    import nbformat  # takes a second, and the page does without
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

    source = f"from face3d_lib.serve import desk_page\n\ndesk_page.page_of_run({', '.join(map(repr, arguments))})"
    cells = [new_markdown_cell("# Who is this?"), new_code_cell(source)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    write_bytes(path, nbformat.writes(new_notebook(cells=cells, metadata={"kernelspec": kernel})).encode())


def _dev_people(folder: Path, division: Splits) -> Embeddings | None:
    """The dev people in the run's gallery; None for fewer than two."""
    held = embeddings(open_gallery(folder))
    dev = set(unseen_people(division).query("group == 'dev'")["cls_name"])
    chosen = np.isin(held.subject_ids, list(dev))
    found = held.select(held.pair_ids[chosen].tolist())
    return found if len(set(found.subject_ids.tolist())) > 1 else None


class DeskPage(ipywidgets.VBox):
    """Pick, upload or watch; see what was found; enrol, forget, undo; check the gallery.

    page.said is the line that answers the last action, page.shown what is seen of the pair, page.checked the check.
    """

    def __init__(self, desk: Desk, picks: Sequence[str] = ()):
        self.desk = desk
        self._watching: asyncio.Task | None = None
        self.said, self.shown, self.checked = (ipywidgets.HTML(layout=WIDE) for _ in range(3))
        self.enrolled = ipywidgets.HTML(layout={"margin": "2px 10px"})
        self._where = f"<small>(in {html.escape(relative(desk.people.folder))})</small>"
        first = [pair_id for pair_id in picks if pair_id in desk.files]
        options = first + [pair_id for pair_id in desk.files if pair_id not in set(first)]
        self.choice = ipywidgets.Dropdown(options=[("choose one", None), *((name, name) for name in options)])
        self.rgb = ipywidgets.FileUpload(accept=".png,.jpg,.jpeg,.bmp", description="colour picture")
        self.depth = ipywidgets.FileUpload(accept=".npy,.png", description="depth map")
        unit, larger = (desk.meaning.unit, desk.meaning.larger_is) if desk.meaning else ("mm", "farther")
        self.unit = _dropdown("is in", UNITS, unit, 120)
        self.larger = _dropdown("and has larger numbers where things are", DIRECTIONS, larger, 350)
        self.folder = ipywidgets.Text(placeholder="the folder into which the camera writes", layout={"width": "300px"})
        self.watch = ipywidgets.ToggleButton(description="watch")
        self.name = ipywidgets.Combobox(placeholder="a name", layout={"width": "220px"})
        self.anyway = ipywidgets.Checkbox(
            description="enrol even what is refused", indent=False, layout={"width": "220px"}
        )
        self.check = ipywidgets.ToggleButton(description="check the gallery")
        self.buttons = {what: ipywidgets.Button(description=what) for what in ("enrol", "forget", "undo")}
        for button in (self.rgb, self.depth, self.watch, self.check, *self.buttons.values()):
            button.layout.width = "auto"
        self._connect()
        ways = [("from the camera", [self.folder, self.watch]), ("or from two files", [self.rgb, self.depth])]
        ways += [("whose depth", [self.unit, self.larger])]
        ways += [("or from this list", [self.choice])] if options else []
        ways += [("the person", [self.name, *self.buttons.values(), self.anyway])]
        ways += [("the gallery", [self.check, self.enrolled])]
        super().__init__([*(_row(*way) for way in ways), self.said, self.checked, self.shown])
        self._show("Take a picture in one of the ways above. Whom it shows is then said here.")

    def _connect(self) -> None:
        self.choice.observe(lambda change: self._pick(change["new"]), "value")
        for upload in (self.rgb, self.depth):
            upload.observe(lambda change: self._upload() if change["new"] else None, "value")
        self.watch.observe(lambda change: self._watch(change["new"]), "value")
        self.buttons["enrol"].on_click(lambda _: self._do(lambda: self.desk.enrol(self.name.value, self.anyway.value)))
        self.buttons["forget"].on_click(lambda _: self._do(lambda: self.desk.forget(self.name.value)))
        self.buttons["undo"].on_click(lambda _: self._do(self.desk.undo))
        self.check.observe(lambda change: self._check(change["new"]), "value")

    def _do(self, action: Callable[[], str]) -> None:
        """Do something, and show what came of it; an error is one line."""
        try:
            said, colour = action(), BLACK
        except Exception as error:  # whatever went wrong, the page goes on
            said, colour = _mistake(error), RED
        self._show(said, colour)

    def _looked(self, view: View) -> str:
        return f"Done in {sum(view.milliseconds.values()):.0f} ms."

    def _pick(self, pair_id: str | None) -> None:
        if pair_id is not None:
            self._do(lambda: self._looked(self.desk.pick(pair_id)))

    def _upload(self) -> None:
        """Look at the two files once both are there."""
        given = [widget.value[0] for widget in (self.rgb, self.depth) if widget.value]
        if len(given) == 1:
            wanted = "colour picture" if self.depth.value else "depth map"
            self.said.value = _line(f"{given[0]['name']} is here. Now choose its {wanted}.")
        if len(given) == 2:
            rgb, depth = ((file["name"], bytes(file["content"])) for file in given)
            declared = (self.unit.value, self.larger.value, None)
            self._do(lambda: self._looked(self.desk.upload(rgb, depth, declared)))
            self.choice.index = 0  # none of the run
            for widget in (self.rgb, self.depth):  # the next pair needs both again
                widget.value = ()

    def _watch(self, on: bool) -> None:
        self.watch.description = "stop watching" if on else "watch"
        if self._watching is not None:
            self._watching.cancel()
        self._watching = asyncio.get_event_loop().create_task(self._poll()) if on else None

    def _check(self, on: bool) -> None:
        """Show whether the gallery works, or no longer."""
        try:
            self.checked.value = check_html(self.desk.check()) if on else ""
        except Exception as error:
            self._show(_mistake(error), RED)

    async def _poll(self) -> None:
        """Look at each new pair of the folder until the button is released."""
        said = ""
        while True:
            declared = (self.unit.value, self.larger.value, None)
            try:
                view = self.desk.newest(self.folder.value, declared)
                if view is not None:
                    self._show(said := self._looked(view))
            except Exception as error:
                line = _mistake(error)
                if line != said:
                    self._show(said := line, RED)
            await asyncio.sleep(POLL_SECONDS)

    def _show(self, said: str, colour: str = BLACK) -> None:
        """Show a line, the pair that is looked at, and who is enrolled."""
        self.said.value = _line(said, colour)
        self.shown.value = view_html(self.desk.view) if self.desk.view else ""
        names = self.desk.names
        if names != self.name.options:  # what is checked is another gallery now
            self.name.options = names
            self.check.value = False
        self.enrolled.value = f'<span class="face3d-enrolled">{_people(names)}</span> {self._where}'
        self.buttons["undo"].disabled = not self.desk.undoes
        self.buttons["undo"].tooltip = self.desk.undoes
        self.buttons["enrol"].disabled = self.desk.view is None
        self.buttons["forget"].disabled = not names


def check_html(found: Check) -> str:
    """What the gallery's pictures say about it, as a picture above a table."""
    data = base64.b64encode(png_of(check_shown.draw(found))).decode()
    figure = (
        f'<img src="data:image/png;base64,{data}" alt="the scores of the check" style="width:720px;max-width:100%">'
    )
    return f"<b>Does it work on this gallery?</b><br>{figure}{check_shown.as_html(found)}"


def view_html(view: View) -> str:
    """What is shown of a pair: pictures, whom it shows, scores beside the threshold, liveness, the gate's findings."""
    crops = "".join(
        f"<figure style='margin:0'>{image(pixels, 160, what)}<figcaption><small>{words}</small></figcaption></figure>"
        for pixels, what, words in zip(
            view.crops,
            ("aligned colour", "aligned depth"),
            ("the face, upright", "its depth: yellow is near, grey unknown"),
            strict=True,
        )
    )
    faces = image(view.picture, 320, "the picture with the faces found in it")
    found = "".join(f"<li>{'refused' if f.refused else 'a hint'}: {html.escape(f.message)}</li>" for f in view.findings)
    gate = f"<ul style='margin:0'>{found}</ul>" if found else "nothing speaks against enrolling it"
    times = ", ".join(f"{name} {value:.0f}" for name, value in view.milliseconds.items())
    parts = [
        f'<b class="face3d-answer" style="font-size:16px;color:{BLUE if view.match.known else RED}">{html.escape(view.answer)}</b>',
        bars_html(view),
        f'<div class="face3d-liveness"><b>Is it a real face?</b> {html.escape(view.liveness)}</div>',
        f'<div class="face3d-gate"><b>Is the picture good enough to enrol?</b> {gate}</div>',
        f"<small>milliseconds: {times}</small>",
    ]
    words = f'<div style="min-width:300px;flex:1;line-height:1.5">{"".join(parts)}</div>'
    crops = f'<div style="display:flex;flex-direction:column;gap:6px;line-height:1.2;width:160px">{crops}</div>'
    return f'<div style="display:flex;flex-wrap:wrap;align-items:flex-start;gap:12px">{faces}{crops}{words}</div>'


def bars_html(view: View) -> str:
    """The best matches as bars, with a line at the threshold."""
    rows = []
    limit = view.match.threshold
    for name, score in view.match.candidates:
        length, colour = max(0, min(1, score)) * BARS, BLUE if score >= limit else "#999999"
        line = f'<div style="position:absolute;left:{min(1, limit) * BARS:.0f}px;top:-2px;height:20px;border-left:2px dashed black"></div>'
        bar = f'<div style="width:{length:.0f}px;height:16px;background:{colour}"></div>'
        track = f'<div style="position:relative;width:{BARS}px;background:#EEEEEE">{bar}{line}</div>'
        rows.append(
            f'<div class="face3d-match" style="display:flex;gap:8px;margin:4px 0">{track}<span>{html.escape(name)} {score:.3f}</span></div>'
        )
    said = f"<small>dashed line: the threshold, {limit:.3f}; whoever reaches it is named</small>" if rows else ""
    return "".join(rows) + said


def _row(label: str, widgets: Sequence[ipywidgets.Widget]) -> ipywidgets.Widget:
    """Widgets in a row behind a label; they wrap where the page is narrow."""
    said = ipywidgets.HTML(f"<b>{label}</b>", layout={"width": "140px", "flex": "0 0 auto"})
    wrapped = ipywidgets.HBox(widgets, layout={"flex_flow": "row wrap", "flex": "1 1 0", "min_width": "0"})
    return ipywidgets.HBox([said, wrapped], layout=WIDE)


def _dropdown(description: str, options: Sequence[str], value: str, width: int) -> ipywidgets.Dropdown:
    return ipywidgets.Dropdown(
        options=options,
        value=value,
        description=description,
        layout={"width": f"{width}px"},
        style={"description_width": "initial"},
    )


def _mistake(error: Exception) -> str:
    return str(error) if isinstance(error, UserError) else failure(error)[1]


def _people(names: Sequence[str]) -> str:
    if not names:
        return "Nobody is enrolled."
    shown = ", ".join(html.escape(name) for name in names[:20])
    return f"{len(names)} enrolled: {shown}{', ...' if len(names) > 20 else ''}"


def _line(text: str, colour: str = BLACK) -> str:
    return f'<div class="face3d-said" style="color:{colour};font-size:14px">{html.escape(" ".join(text.split()))}</div>'
