"""The page of a `Desk`, in JupyterLab and under Voila. What it says is decided by the desk; here it is only shown.

A mistake of the user is one line at the top of the page, never a traceback.
"""

import asyncio
import html
from collections.abc import Callable, Sequence
from pathlib import Path

import ipywidgets
import nbformat
import numpy as np
import pandas as pd
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from ..base.atomic import write_bytes
from ..base.errors import UserError
from ..data.convention import DIRECTIONS, UNITS, read_source
from ..data.pairs import failure, find_pairs
from ..data.splits import Splits, read_splits
from ..evaluate.embeddings import Embeddings
from ..evaluate.pictures import BLUE, RED
from ..evaluate.protocol import unseen_people
from ..evaluate.widgets import image
from ..runs.folders import find_stage
from .desk import Desk, View
from .gallery import open_gallery
from .identify import STAGE
from .people import People
from .recogniser import Recogniser
from .strangers import Strangers

POLL_SECONDS = 0.5  # between two looks at a watched folder
BARS = 260  # px: the width of a score of 1
WIDE = {"width": "100%"}


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
        people = People.open(folder / "people", loaded, far=far, strangers=strangers)
        return DeskPage(Desk(people, find_pairs(root), meaning), picks)
    except UserError as error:
        return ipywidgets.HTML(_line(str(error), RED))


def write_page(path: Path, *arguments: str | float) -> None:
    """Write a notebook of one cell, which shows `page_of_run(*arguments)`, for Voila to serve."""
    source = f"from face3d_lib.serve import desk_page\n\ndesk_page.page_of_run({', '.join(map(repr, arguments))})"
    cells = [new_markdown_cell("# Who is this?"), new_code_cell(source)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    write_bytes(path, nbformat.writes(new_notebook(cells=cells, metadata={"kernelspec": kernel})).encode())


def _dev_people(folder: Path, division: Splits) -> Strangers | None:
    """How high the dev people in the run's gallery score with one another; None for fewer than two."""
    served = open_gallery(folder)
    dev = set(unseen_people(division).query("group == 'dev'")["cls_name"])
    owner = np.array(served.names)[served.owner]
    chosen = np.isin(owner, list(dev))
    if len(set(owner[chosen].tolist())) < 2:
        return None
    pair_ids = np.array([picture.pair_id for shown in served.pictures for picture in shown])
    return Strangers.measure(
        Embeddings(pair_ids[chosen], owner[chosen], served.vectors[chosen]), "dev people of the run"
    )


class DeskPage(ipywidgets.VBox):
    """Pick, upload or watch; see what was found; enrol, forget, undo.

    page.said is the line that answers the last action, page.shown what is seen of the pair.
    """

    def __init__(self, desk: Desk, picks: Sequence[str] = ()):
        self.desk = desk
        self._watching: asyncio.Task | None = None
        self.said, self.shown, self.enrolled = (ipywidgets.HTML(layout=WIDE) for _ in range(3))
        first = [pair_id for pair_id in picks if pair_id in desk.files]
        options = first + [pair_id for pair_id in desk.files if pair_id not in set(first)]
        self.choice = ipywidgets.Dropdown(options=options, value=None, description="pick a pair")
        self.rgb = ipywidgets.FileUpload(accept=".png,.jpg,.jpeg,.bmp", description="picture")
        self.depth = ipywidgets.FileUpload(accept=".npy,.png", description="depth")
        unit, larger = (desk.meaning.unit, desk.meaning.larger_is) if desk.meaning else ("mm", "farther")
        small = {"width": "150px"}
        self.unit = ipywidgets.Dropdown(options=UNITS, value=unit, description="unit", layout=small)
        self.larger = ipywidgets.Dropdown(
            options=DIRECTIONS, value=larger, description="larger is", layout={"width": "180px"}
        )
        self.folder = ipywidgets.Text(placeholder="a folder into which a camera writes", description="folder")
        self.watch = ipywidgets.ToggleButton(description="watch", layout={"width": "80px"})
        self.name = ipywidgets.Combobox(placeholder="a name", description="name")
        self.anyway = ipywidgets.Checkbox(description="enrol what is refused", indent=False, layout={"width": "180px"})
        self.buttons = {
            what: ipywidgets.Button(description=what, layout={"width": "auto"}) for what in ("enrol", "forget", "undo")
        }
        self._connect()
        loaded = ipywidgets.HBox([self.rgb, self.depth, self.unit, self.larger], layout={"flex_flow": "row wrap"})
        chosen = ipywidgets.HBox([self.choice, self.folder, self.watch], layout={"flex_flow": "row wrap"})
        does = ipywidgets.HBox(
            [self.name, *self.buttons.values(), self.anyway], layout={"flex_flow": "row wrap", "margin": "6px 0"}
        )
        super().__init__([chosen, loaded, does, self.said, self.shown, self.enrolled])
        self._show(
            "Pick a pair, upload a picture with its depth, or watch a folder."
            if options
            else "Upload a picture with its depth, or watch a folder."
        )

    def _connect(self) -> None:
        self.choice.observe(lambda change: self._pick(change["new"]), "value")
        for upload in (self.rgb, self.depth):
            upload.observe(lambda _: self._upload(), "value")
        self.watch.observe(lambda change: self._watch(change["new"]), "value")
        self.buttons["enrol"].on_click(lambda _: self._do(lambda: self.desk.enrol(self.name.value, self.anyway.value)))
        self.buttons["forget"].on_click(lambda _: self._do(lambda: self.desk.forget(self.name.value)))
        self.buttons["undo"].on_click(lambda _: self._do(self.desk.undo))

    def _do(self, action: Callable[[], str]) -> None:
        """Do something, and show what came of it; an error is one line."""
        try:
            said, colour = action(), "#222222"
        except Exception as error:  # whatever went wrong, the page goes on
            said, colour = failure(error)[1], RED
            if isinstance(error, UserError):
                said = str(error)
        self._show(said, colour)

    def _looked(self, view: View) -> str:
        return f"Done in {sum(view.milliseconds.values()):.0f} ms."

    def _pick(self, pair_id: str | None) -> None:
        if pair_id is not None:
            self._do(lambda: self._looked(self.desk.pick(pair_id)))

    def _upload(self) -> None:
        """Look at the two files once both are there."""
        given = [widget.value[0] for widget in (self.rgb, self.depth) if widget.value]
        if len(given) == 2:
            rgb, depth = ((file["name"], bytes(file["content"])) for file in given)
            declared = (self.unit.value, self.larger.value, None)
            self._do(lambda: self._looked(self.desk.upload(rgb, depth, declared)))
            self.choice.value = None
            for widget in (self.rgb, self.depth):  # the next pair needs both again
                widget.value = ()

    def _watch(self, on: bool) -> None:
        if self._watching is not None:
            self._watching.cancel()
        self._watching = asyncio.get_event_loop().create_task(self._poll()) if on else None

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
                line = str(error) if isinstance(error, UserError) else failure(error)[1]
                if line != said:
                    self._show(said := line, RED)
            await asyncio.sleep(POLL_SECONDS)

    def _show(self, said: str, colour: str = "#222222") -> None:
        """Show a line, the pair that is looked at, and who is enrolled."""
        self.said.value = _line(said, colour)
        self.shown.value = view_html(self.desk.view) if self.desk.view else ""
        names = self.desk.names
        self.name.options = names
        self.enrolled.value = f'<small class="face3d-enrolled">{_people(names)}</small>'
        self.buttons["undo"].disabled = not self.desk.undoes
        self.buttons["undo"].tooltip = self.desk.undoes
        self.buttons["enrol"].disabled = self.desk.view is None


def view_html(view: View) -> str:
    """What is shown of a pair: pictures, whom it shows, scores beside the threshold, liveness, the gate's findings."""
    colour, depth = (
        image(pixels, 160, what) for pixels, what in zip(view.crops, ("aligned colour", "aligned depth"), strict=True)
    )
    faces = image(view.picture, 320, "the picture with the faces found in it")
    found = "".join(f"<li>{'refused' if f.refused else 'a hint'}: {html.escape(f.message)}</li>" for f in view.findings)
    gate = f"<ul style='margin:0'>{found}</ul>" if found else "nothing speaks against enrolling it"
    times = ", ".join(f"{name} {value:.0f}" for name, value in view.milliseconds.items())
    parts = [
        f'<b class="face3d-answer" style="font-size:16px;color:{BLUE if view.match.known else RED}">{html.escape(view.answer)}</b>',
        bars_html(view),
        f'<div class="face3d-liveness"><b>liveness:</b> {html.escape(view.liveness)}</div>',
        f'<div class="face3d-gate"><b>enrolment gate:</b> {gate}</div>',
        f"<small>milliseconds: {times}</small>",
    ]
    words = f'<div style="min-width:300px;flex:1;line-height:1.5">{"".join(parts)}</div>'
    crops = f'<div style="display:flex;flex-direction:column;gap:6px">{colour}{depth}</div>'
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
    said = f"<small>dashed: the threshold {limit:.3f}</small>" if rows else ""
    return "".join(rows) + said


def _people(names: Sequence[str]) -> str:
    if not names:
        return "Nobody is enrolled."
    shown = ", ".join(html.escape(name) for name in names[:20])
    return f"{len(names)} enrolled: {shown}{', ...' if len(names) > 20 else ''}"


def _line(text: str, colour: str) -> str:
    return f'<div class="face3d-said" style="color:{colour};font-size:14px">{html.escape(" ".join(text.split()))}</div>'
