"""A plotly figure as a widget that is small and whose numbers change in place.

plotly's own FigureWidget brings 5 MB of code with every figure. Where a browser needs more than two seconds to start
them, anywidget gives up and the figure stays empty. Here a page asks the kernel once for the code of plotly.js, and a
figure's own code is a few lines.
"""

from collections.abc import Callable
from typing import Any

import anywidget
import plotly.graph_objects as go
import traitlets
from plotly.offline import get_plotlyjs

from ..base.atomic import plain

CODE = """
async function plotly(model) {
  model.on("msg:custom", (message, buffers) => {
    if (message.kind !== "code" || globalThis.face3dPlotly) return
    const module = {exports: {}}  // not `define`, with which other libraries of the page would meddle
    new Function("module", "exports", "define", new TextDecoder().decode(buffers[0]))(module, module.exports)
    globalThis.face3dPlotly = module.exports
  })
  while (!globalThis.face3dPlotly) {
    if (!(Date.now() - globalThis.face3dAsked < 20000)) {  // again, if the kernel was restarted meanwhile
      globalThis.face3dAsked = Date.now()
      model.send({kind: "code"})
    }
    await new Promise(done => setTimeout(done, 50))
  }
  return globalThis.face3dPlotly
}

async function render({model, el}) {
  const Plotly = await plotly(model), place = document.createElement("div")
  el.appendChild(place)
  const move = () => {
    const {traces = [], ...values} = model.get("moved")
    if (traces.length) return Plotly.restyle(place, values, traces)
  }
  const draw = async () => {
    const {data, layout} = structuredClone(model.get("figure"))
    await Plotly.react(place, data, layout, {responsive: true, displayModeBar: false})
    await move()
  }
  await draw()
  model.on("change:figure", draw)
  model.on("change:moved", move)
  for (const name of ["plotly_hover", "plotly_click"]) place.on(name, ({points}) => {
    model.set("pointed", [points[0].curveNumber, points[0].pointNumber])
    model.save_changes()
  })
}

export default {render}
"""


class Plot(anywidget.AnyWidget):
    """A figure in a page; `draw` shows another, `move` changes the points of some of its traces."""

    _esm = CODE
    figure = traitlets.Dict().tag(sync=True)
    moved = traitlets.Dict().tag(sync=True)  # what `move` set last, for a page that is opened later
    pointed: traitlets.List = traitlets.List().tag(
        sync=True
    )  # the numbers of the trace and of its point under the pointer

    def __init__(self, figure: go.Figure):
        super().__init__(figure=_values(figure))
        self.on_msg(self._send_code)

    def draw(self, figure: go.Figure) -> None:
        """Show another figure; where it can, the page keeps what was turned and zoomed."""
        self.figure = _values(figure)

    def move(self, traces: dict[int, tuple[list[float], list[float]]]) -> None:
        """Give some traces, by their number, other points: their x and their y."""
        x, y = (list(values) for values in zip(*traces.values(), strict=True))
        self.moved = plain({"traces": list(traces), "x": x, "y": y})

    def on_point(self, call: Callable[[int, int], None]) -> None:
        """Call `call` with the numbers of the trace and of its point that comes under the pointer."""
        self.observe(lambda change: call(*change["new"]), "pointed")

    def _send_code(self, _: Any, content: dict, buffers: list) -> None:
        if content.get("kind") == "code":
            self.send({"kind": "code"}, buffers=[get_plotlyjs().encode()])


def _values(figure: go.Figure) -> dict[str, Any]:
    """The figure in plain values; numbers that are not finite are None, because JSON has none."""
    return plain(figure.to_plotly_json())
