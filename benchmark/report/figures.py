"""What all figures share: look, panels, legend, and how they are saved as PNG and SVG.

Figures are drawn without pyplot: no window system, no state left behind.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.report.observations import Names
from benchmark.report.rows import Row
from benchmark.report.style import GREY, INK, Look
from benchmark.system.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D


@dataclass(frozen=True)
class Plot:
    """A figure on disk: `<name>.png` and `<name>.svg` below results/plots."""

    name: str
    kind: str
    dataset: str
    caption: str
    svg: str


@contextmanager
def theme() -> Iterator[None]:
    """Give every figure made inside the block the look of the report."""
    import matplotlib
    import seaborn

    look = seaborn.axes_style("ticks") | seaborn.plotting_context("paper", font_scale=1.05)
    look |= {
        # Names come from outside: a dollar sign in one is a dollar sign.
        "text.parse_math": False,
        "font.family": ["DejaVu Sans"],
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": GREY,
        "axes.linewidth": 0.8,
        "axes.titlesize": 9.5,
        "axes.titlelocation": "left",
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.color": "#e6e8eb",
        "grid.linewidth": 0.7,
        "xtick.color": INK,
        "ytick.color": INK,
        "legend.frameon": False,
        "svg.hashsalt": "condensation",
    }
    with matplotlib.rc_context(look):
        yield


def panels_of(number: int, width: float, height: float, most: int, sharey: bool = False) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    columns = min(number, most)
    lines = math.ceil(number / columns)
    figure = Figure(figsize=(width * columns + 1.7, height * lines + 0.45), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)
    axes = figure.subplots(lines, columns, squeeze=False, sharey=sharey).ravel().tolist()
    for unused in axes[number:]:
        unused.remove()
    return figure, axes[:number]


def save(figure: Figure, folder: Path, name: str, kind: str, dataset: str, caption: str) -> Plot:
    """Write a figure as PNG and SVG."""
    files = {}
    for suffix, options in (("png", {"dpi": 160}), ("svg", {"metadata": {"Date": None}})):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix, **options)
        files[suffix] = buffer.getvalue()
        write_atomically(folder / f"{name}.{suffix}", files[suffix])
    return Plot(name, kind, dataset, caption, files["svg"].decode())


def headline(figure: Figure, titles: Names, rows: list[Row]) -> None:
    figure.suptitle(label_of(titles.dataset(rows[0].dataset)), fontweight="bold", fontsize=11, x=0.012, ha="left")


def legend(figure: Figure, entries: list[tuple[str, Look]], extra: tuple[Line2D, ...] = ()) -> None:
    from matplotlib.lines import Line2D

    handles = []
    for text, look in entries:
        style = {
            "color": look.colour,
            "marker": look.marker,
            "linestyle": look.line,
            "markersize": marker_size(look),
        }
        handles.append(Line2D([], [], label=label_of(text), **style))
    figure.legend(handles=[*handles, *extra], loc="outside right upper", fontsize=8)


def label_of(text: str) -> str:
    """Return a text as Matplotlib can show it in a legend, which leaves out labels that begin with an underscore."""
    text = " ".join(text.split())
    text = text if len(text) <= 34 else text[:33] + "…"
    return f" {text}" if text.startswith("_") else text


def marker_size(look: Look) -> float:
    return 10.0 if look.marker == "*" else 6.5


def tint(colour: str, number: int, of: int) -> tuple[float, float, float]:
    """Return the colour itself for the last of a series, and a lighter one for the others."""
    from matplotlib.colors import to_rgb

    white = 0.62 * (of - 1 - number) / max(of - 1, 1)
    red, green, blue = (channel + (1 - channel) * white for channel in to_rgb(colour))
    return red, green, blue
