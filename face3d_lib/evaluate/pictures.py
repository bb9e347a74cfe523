"""Pictures of pairs, depth, normals and matches in one style, and figures as files.

Importing this file sets the style for the whole session. Colours are those of Okabe and Ito ("Color universal
design", 2008), which colour-blind readers can tell apart. A grey pixel in a depth picture has no reading.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from ..base.atomic import plain, write_bytes, write_json

if TYPE_CHECKING:
    import plotly.graph_objects as go

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#8A8A8A",
)
HOLE = "#9A9A9A"
SURFACE_SCENE: dict[str, Any] = {  # a surface without axes, seen from the front and a little from the side
    **{axis: {"visible": False} for axis in ("xaxis", "yaxis", "zaxis")},
    "aspectmode": "data",
    "camera": {"eye": {"x": 0.35, "y": -0.25, "z": 1.5}, "up": {"x": 0, "y": 1, "z": 0}},
}
MAX_PNG_BYTES = 300_000  # so that a clone stays small
matplotlib.rcdefaults()  # not the style of the user's matplotlibrc: the same figure looks the same everywhere
plt.rcParams.update(
    {
        "figure.dpi": 100,
        "figure.constrained_layout.use": True,
        "font.size": 11,
        "axes.titlesize": 12,
        "axes.labelsize": 11,
        "legend.fontsize": 10,
        "legend.frameon": False,
        "lines.linewidth": 2,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "#DDDDDD",
        "grid.linewidth": 0.6,
        "axes.prop_cycle": plt.cycler(color=[BLUE, ORANGE, GREEN, RED, PURPLE, SKY]),
        "image.interpolation": "nearest",
    }
)


def show_rgb(ax: Axes, rgb: np.ndarray, title: str = "") -> Axes:
    """A colour picture (H, W, 3) uint8 without axes."""
    return _picture(ax, title, rgb)


def show_depth(ax: Axes, depth: np.ndarray, title: str = "") -> Axes:
    """Canonical depth (H, W) in the colours of `depth_picture`."""
    return _picture(ax, title, depth_picture(depth))


def depth_picture(depth: np.ndarray) -> np.ndarray:
    """Canonical depth (H, W) as colours (H, W, 3) uint8: near is bright, no reading grey.

    The range of the colours is that of the readings in the picture's middle.
    """
    depth = np.asarray(depth, float)
    height, width = depth.shape
    centre = depth[height // 4 : height - height // 4, width // 4 : width - width // 4]
    readings = centre[centre > 0] if (centre > 0).any() else depth[depth > 0]
    near, middle = np.percentile(readings, [2, 50]) if len(readings) else (0, 1)
    reach = max(middle - near, 1e-6)  # nose tip to cheeks; the background may be metres farther
    cmap = plt.get_cmap("viridis_r").with_extremes(bad=HOLE)
    shown = (np.ma.masked_where(depth <= 0, depth) - (near - 0.2 * reach)) / (middle - near + 2.2 * reach)
    return cmap(shown, bytes=True)[..., :3]


def show_normals(ax: Axes, encoded: np.ndarray, title: str = "") -> Axes:
    """Normals of encodings.encode_normals_depth (>= 2, H, W): x right, y up, z forward as red, green, blue."""
    return _picture(ax, title, normals_picture(encoded))


def normals_picture(encoded: np.ndarray) -> np.ndarray:
    """The normals of `show_normals` as colours, (H, W, 3) uint8."""
    x, y = np.asarray(encoded, float)[:2]
    z = np.sqrt(np.clip(1 - x * x - y * y, 0, 1))
    return np.rint(np.clip((np.stack([x, -y, z], -1) + 1) / 2, 0, 1) * 255).astype(np.uint8)


def relative_picture(relative: np.ndarray) -> np.ndarray:
    """Relative depth of encodings.encode_depth (H, W) as colours (H, W, 3) uint8; near is bright."""
    return plt.get_cmap("viridis")(np.clip((np.asarray(relative, float) + 1) / 2, 0, 1), bytes=True)[..., :3]


def plot_pairs_grid(
    rgb: Sequence[np.ndarray],
    depth: Sequence[np.ndarray],
    normals: Sequence[np.ndarray] | None = None,
    titles: Sequence[str] | None = None,
) -> Figure:
    """A figure with a column per pair and the rows colour, depth and, where given, normals.

    rgb: P pictures (H, W, 3); depth: P canonical (H, W); normals: P of (>= 2, H, W); titles: P texts.
    """
    rows = 2 if normals is None else 3
    height, width = np.shape(rgb[0])[:2]
    cell = 9.6 / max(len(rgb), 4)
    size = cell * len(rgb), cell * rows * height / width + (0.1 if titles is None else 0.4)
    figure, axes = plt.subplots(rows, len(rgb), figsize=size, squeeze=False)
    for column in range(len(rgb)):
        show_rgb(axes[0, column], rgb[column], titles[column] if titles is not None else "")
        show_depth(axes[1, column], depth[column])
        if normals is not None:
            show_normals(axes[2, column], normals[column])
    for ax, name in zip(axes[:, 0], ("colour", "depth", "normals"), strict=False):
        ax.set_ylabel(name)
    figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.03, wspace=0, hspace=0)
    return figure


def plot_match(
    axes: Sequence[Axes], probe_rgb: np.ndarray, match_rgb: np.ndarray | None, match: Any, true_name: str = ""
) -> Sequence[Axes]:
    """A probe on axes[0]; on axes[1] the best candidate of `match`, the result of Gallery.identify.

    The frame is blue if the probe was accepted and red if it was not. match_rgb, the candidate's picture, is None if
    nobody is enrolled.
    """
    show_rgb(axes[0], probe_rgb, f"probe{': ' + short(true_name) if true_name else ''}")
    best = short(match.candidates[0][0]) if match.candidates else "nobody is enrolled"
    title, relation, colour = (best, "≥", BLUE) if match.known else (f"not accepted\nbest: {best}", "<", RED)
    title += "\n" if match.known else ", "
    title += f"{match.score:.3f} {relation} {match.threshold:.3f}"
    blank = np.full((8, 8, 3), 255, np.uint8)
    show_rgb(axes[1], blank if match_rgb is None else match_rgb, title)
    axes[1].title.set(color=colour, fontsize=9)  # beside other probes there is little room
    for spine in axes[1].spines.values():
        spine.set(visible=True, color=colour, linewidth=4)
    return axes


def depth_surface(rgb: np.ndarray, depth: np.ndarray, depth_per_px: float = 1.0, cells: int = 112) -> "go.Figure":
    """A surface that the reader can turn, a plotly Figure under 150 kB: depth (H, W) in the picture's colours.

    `depth` is canonical; `depth_per_px` is the depth units that a pixel measures across the face, so that the
    face is not stretched. The picture is thinned to at most `cells` rows and columns; holes and points far from
    the face are left out.
    """
    import plotly.graph_objects as go  # takes half a second to import, and only this function needs it

    rgb, depth = np.asarray(rgb), np.asarray(depth, float)
    step = -(-max(depth.shape) // cells)
    rgb, depth = (
        rgb[::step, ::step, :3],
        depth[::step, ::step] / (depth_per_px * step),
    )  # now in thinned pixels
    height, width = depth.shape
    centre = depth[height // 4 : height - height // 4, width // 4 : width - width // 4]
    face = np.median(centre[centre > 0]) if (centre > 0).any() else 0.0
    far = (depth <= 0) | (np.abs(depth - face) > 0.6 * width)
    surface = np.where(far, np.nan, face - depth).astype(np.float32)  # nearer = higher
    grey = (rgb @ [0.299, 0.587, 0.114]).round().astype(np.uint8)
    light = {"ambient": 0.9, "diffuse": 0.2, "specular": 0.02, "roughness": 0.9}
    figure = go.Figure(
        go.Surface(
            z=surface[::-1],
            surfacecolor=grey[::-1],
            colorscale=_tints(rgb, grey),
            cmin=0,
            cmax=255,
            showscale=False,
            lighting=light,
            hoverinfo="skip",
        )
    )
    figure.update_layout(
        template=None,
        margin={"l": 0, "r": 0, "t": 0, "b": 0},
        height=420,
        scene=SURFACE_SCENE,
    )
    return figure


def save_figure(figure: Figure, folder: Path, name: str, numbers: Any) -> None:
    """Write <folder>/<name>.png and, beside it, <name>.json with its numbers.

    Each is written whole or not at all; the same figure gives the same bytes (no date, no versions). The PNG
    stays under 300 kB: where colour pictures need more, 256 colours and then fewer pixels are used. NaN is
    written as null.
    """
    folder = Path(folder)
    picture = png_of(figure)  # before the numbers are replaced: the two belong together
    write_json(folder / f"{name}.json", plain(numbers))
    write_bytes(folder / f"{name}.png", picture)


def png_of(figure: Figure) -> bytes:
    """The figure as PNG, at most 300 kB; the same figure gives the same bytes."""
    for dpi in (130, 100, 80, 60, 45):
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
        if buffer.tell() <= MAX_PNG_BYTES:
            break
        buffer.seek(0)
        few = Image.open(buffer).convert("RGB").quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        buffer = io.BytesIO()
        few.save(buffer, "PNG", optimize=True)
        if buffer.tell() <= MAX_PNG_BYTES:
            break
    return buffer.getvalue()


def _picture(ax: Axes, title: str, image: np.ndarray, **how: Any) -> Axes:
    ax.imshow(image, **how)
    ax.set(xticks=[], yticks=[], title=literal(title))
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    return ax


def _tints(rgb: np.ndarray, grey: np.ndarray, levels: int = 32) -> list:
    """A plotly colour scale that gives each grey level the mean colour of its pixels."""
    level = grey.astype(int) * levels // 256
    count = np.bincount(level.ravel(), minlength=levels)
    found = np.flatnonzero(count)
    sums = np.stack([np.bincount(level.ravel(), rgb[..., c].ravel(), levels) for c in range(3)], 1)  # (levels, 3)
    mean = np.stack([np.interp(range(levels), found, sums[found, c] / count[found]) for c in range(3)], 1)
    return [[i / (levels - 1), "rgb({:.0f},{:.0f},{:.0f})".format(*colour)] for i, colour in enumerate(mean)]


def short(name: str, length: int = 22) -> str:
    """`name`, cut to `length` letters with an ellipsis at its end where it is longer."""
    return name if len(name) <= length else name[: length - 1] + "…"


def literal(text: str) -> str:
    """`text` for matplotlib, which would read what stands between two dollar signs as a formula."""
    return str(text).replace("$", r"\$")
