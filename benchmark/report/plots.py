"""The report's figures as PNG and SVG: accuracy against IPC, accuracy against time, and loss curves.

One file per data set; schedules and protocols are panels of it, so that no two of them share an axis unseen.
Figures are drawn without pyplot: no window system, no state left behind.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.report.frames import Names, Row
from benchmark.report.style import GREY, INK, WHOLE, Look, looks, method_rank, schedule_rank, slug
from benchmark.report.tables import blocks
from benchmark.store import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

KINDS = ("accuracy_vs_ipc", "accuracy_vs_seconds", "loss")
FASTEST = 0.01
"""Seconds; anything quicker (choosing images at random) is drawn here, since a log axis has no zero."""
POINTS = 400
"""Most points drawn of one loss curve."""

Key = tuple[str, str]


@dataclass(frozen=True)
class Plot:
    """A figure on disk: `<name>.png` and `<name>.svg` below results/plots."""

    name: str
    kind: str
    dataset: str
    caption: str
    svg: str


def draw(rows: list[Row], titles: Names, folder: Path) -> list[Plot]:
    """Draw every figure there is something for; files of earlier reports that have no figure any more go."""
    folder.mkdir(parents=True, exist_ok=True)
    look = looks([(row.method, row.variant) for row in rows])
    plots = []
    with theme():
        for dataset, name in _file_names(rows).items():
            mine = [row for row in rows if row.dataset == dataset and row.done]
            for kind, figure in (
                ("accuracy_vs_ipc", _accuracy_vs_ipc),
                ("accuracy_vs_seconds", _accuracy_vs_seconds),
                ("loss", _loss),
            ):
                if drawn := figure(mine, titles, look):
                    plots.append(save(drawn[0], folder, f"{kind}_{name}", kind, dataset, drawn[1]))
    kept = {plot.name for plot in plots}
    for path in folder.iterdir():
        if path.suffix in (".png", ".svg") and path.stem.startswith(KINDS) and path.stem not in kept:
            path.unlink()
    return plots


def _file_names(rows: list[Row]) -> dict[str, str]:
    """A file-name part per data set; two folders of one name are numbered."""
    found: dict[str, str] = {}
    for dataset in dict.fromkeys(row.dataset for row in rows):
        name, number = slug(dataset), 2
        while name in found.values():
            name, number = f"{slug(dataset)}-{number}", number + 1
        found[dataset] = name
    return found


@contextmanager
def theme() -> Iterator[None]:
    """The look of every figure."""
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


def _panels(
    number: int, width: float, height: float, most: int, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
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


def _panel_title(key: tuple[str, ...]) -> str:
    schedule, protocol, network = key
    return f"schedule {schedule} · protocol {protocol or '?'} · {network or '?'}"


def _headline(figure: Figure, titles: Names, rows: list[Row]) -> None:
    figure.suptitle(
        _label(titles.dataset(rows[0].dataset)), fontweight="bold", fontsize=11, x=0.012, ha="left"
    )


def _legend(figure: Figure, entries: list[tuple[str, Look]], extra: tuple[Line2D, ...] = ()) -> None:
    from matplotlib.lines import Line2D

    handles = []
    for text, look in entries:
        style = {
            "color": look.colour,
            "marker": look.marker,
            "linestyle": look.line,
            "markersize": _size(look),
        }
        handles.append(Line2D([], [], label=_label(text), **style))
    figure.legend(handles=[*handles, *extra], loc="outside right upper", fontsize=8)


def _label(text: str) -> str:
    """Matplotlib leaves labels that begin with an underscore out of a legend."""
    text = " ".join(text.split())
    text = text if len(text) <= 34 else text[:33] + "…"
    return f" {text}" if text.startswith("_") else text


def _size(look: Look) -> float:
    return 10.0 if look.marker == "*" else 6.5


def _series(rows: list[Row]) -> dict[Key, list[Row]]:
    """Rows with an IPC by (method, variant), each by ascending IPC."""
    found: dict[Key, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row.ipc):
        if row.ipc:
            found.setdefault((row.method, row.variant), []).append(row)
    return found


def _entries(rows: list[Row], titles: Names, look: dict[Key, Look]) -> list[tuple[str, Look]]:
    """Legend entries in the order of the tables; the whole set last."""
    keys = [key for key in look if any((row.method, row.variant) == key for row in rows)]
    return [(titles.method(*key), look[key]) for key in _ordered(keys)]


def _ordered(keys: list[Key]) -> list[Key]:
    return sorted(keys, key=_rank)


def _rank(key: Key) -> tuple:
    return method_rank(key[0]), key[1]


def _whole_line(axes: Axes, rows: list[Row], right: bool = False) -> None:
    place, side = (0.985, "right") if right else (0.015, "left")
    text = {"textcoords": "offset points", "ha": side, "va": "bottom", "fontsize": 7.5}
    for row in rows:
        if row.ipc == 0:
            axes.axhline(row.accuracy, color=WHOLE.colour, linestyle=WHOLE.line, linewidth=1.0, zorder=1)
            at = {"xy": (place, row.accuracy), "xycoords": ("axes fraction", "data"), "xytext": (0, 3)}
            axes.annotate(f"whole set {row.accuracy:.1f}", **at, **text)


def _accuracy_vs_ipc(rows: list[Row], titles: Names, look: dict[Key, Look]) -> tuple[Figure, str] | None:
    if not rows:
        return None
    parts = blocks(rows, "schedule", "protocol", "network")
    figure, panels = _panels(len(parts), 4.2, 3.6, 2, sharey=True)
    hollow = False
    for axes, (key, members) in zip(panels, parts, strict=True):
        series = _series(members)
        sizes = sorted({row.ipc for line in series.values() for row in line})
        offsets = _dodge(_ordered(list(series)), sizes)
        for name, line in series.items():
            _accuracy_line(axes, line, look[name], offsets[name])
            if key[0] == "paper":
                hollow |= _hollow(axes, line, look[name], offsets[name])
        _whole_line(axes, members)
        _ipc_axis(axes, sizes)
        axes.set_title(_panel_title(key))
        axes.set_ylabel("test accuracy (%)")
    low, high = panels[0].get_ylim()  # one scale for all panels, final only now
    panels[0].set_ylim(max(low, 0), min(high, 100))  # a wide interval may reach where no accuracy can be
    _headline(figure, titles, rows)
    _legend(figure, _entries(rows, titles, look), (_marker("published", "none", 5.5),) if hollow else ())
    caption = (
        "Accuracy against images per class of the budget. Bars are 95 % intervals; the points of one IPC "
        "stand side by side."
    )
    return figure, caption + " Hollow marks are published values, unverified ones left out." * hollow


def _accuracy_line(axes: Axes, line: list[Row], style: Look, shift: float) -> None:
    axes.errorbar(
        [row.ipc * shift for row in line],
        [row.accuracy for row in line],
        [row.ci95 or 0.0 for row in line],
        color=style.colour,
        marker=style.marker,
        linestyle=style.line,
        linewidth=1.4,
        elinewidth=1.0,
        capsize=2,
        markersize=_size(style),
        markeredgecolor="white",
        markeredgewidth=0.4,
    )


def _marker(label: str, face: str, size: float) -> Line2D:
    from matplotlib.lines import Line2D

    options = {"markerfacecolor": face, "markeredgecolor": GREY, "markersize": size, "linestyle": "none"}
    return Line2D([], [], marker="o", label=label, **options)


def _hollow(axes: Axes, line: list[Row], style: Look, shift: float) -> bool:
    """Published values as hollow marks; what nobody could verify is not drawn as if it were fact."""
    known = [row for row in line if row.published and row.published.evidence != "unverified"]
    axes.plot(
        [row.ipc * shift for row in known],
        [row.published.accuracy for row in known],
        linestyle="none",
        marker=style.marker,
        markersize=_size(style) + 1.5,
        markerfacecolor="none",
        markeredgecolor=style.colour,
        markeredgewidth=0.9,
        zorder=1,
    )
    return bool(known)


def _dodge(keys: list[Key], sizes: list[int]) -> dict[Key, float]:
    """Factors on the IPC that set the methods of one IPC side by side, within a third of the gap."""
    gap = min((larger / smaller for smaller, larger in pairwise(sizes)), default=4.0)
    width = math.log(min(gap, 5.0)) * (0.38 if len(sizes) > 1 else 0.8)
    middle, steps = (len(keys) - 1) / 2, max(len(keys) - 1, 1)
    width = min(width, 0.12 * steps)
    return {key: math.exp(width * (number - middle) / steps) for number, key in enumerate(keys)}


def _ipc_axis(axes: Axes, sizes: list[int]) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator

    axes.set_xlabel("images per class (IPC, log scale)")
    if not sizes:
        axes.set_xticks([])
        return
    axes.set_xscale("log")
    axes.set_xlim(sizes[0] / 2.1, sizes[-1] * 2.1)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.set_xticklabels([str(size) for size in sizes])


def _accuracy_vs_seconds(rows: list[Row], titles: Names, look: dict[Key, Look]) -> tuple[Figure, str] | None:
    timed = [row for row in rows if row.mean("seconds") is not None and row.ipc]
    if not timed:
        return None
    parts = blocks(timed, "schedule", "protocol", "network")
    areas = {ipc: 42 + 50 * number for number, ipc in enumerate(sorted({row.ipc for row in timed}))}
    figure, panels = _panels(len(parts), 4.2, 3.6, 2, sharey=True)
    for axes, (key, members) in zip(panels, parts, strict=True):
        for name, line in _series(members).items():
            _time_line(axes, line, look[name], areas)
        _whole_line(axes, [r for r in rows if (r.schedule, r.protocol, r.network) == key], right=True)
        _seconds_axis(axes)
        axes.set_title(_panel_title(key))
        axes.set_ylabel("test accuracy (%)")
    _headline(figure, titles, rows)
    sizes = tuple(_marker(f"IPC {ipc}", GREY, math.sqrt(area)) for ipc, area in areas.items())
    _legend(figure, _entries(timed, titles, look), sizes)
    devices = "; ".join(dict.fromkeys(row.device for row in timed if row.device))
    caption = (
        "Accuracy against the wall time of the condensation; larger marks are larger IPCs, and what took "
        f"less than {FASTEST:g} s stands there."
    )
    return figure, caption + (f" Measured on {devices}." if devices else "")


def _time_line(axes: Axes, line: list[Row], style: Look, areas: dict[int, int]) -> None:
    import seaborn

    seconds = [max(row.mean("seconds"), FASTEST) for row in line]
    accuracies = [row.accuracy for row in line]
    axes.plot(
        seconds, accuracies, color=style.colour, linestyle=style.line, linewidth=0.9, alpha=0.45, zorder=1
    )
    seaborn.scatterplot(
        x=seconds,
        y=accuracies,
        size=[row.ipc for row in line],
        sizes=areas,
        color=style.colour,
        marker=style.marker,
        edgecolor="white",
        linewidth=0.5,
        legend=False,
        ax=axes,
        zorder=2,
    )


def _seconds_axis(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xlim(low / 1.4, high * 1.4)
    if high / low < 20:  # less than about a decade: a log axis would show one tick or none
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("condensation time (s, log scale)")


@dataclass(frozen=True)
class Curve:
    """The loss along one condensation."""

    schedule: str
    key: Key
    ipc: int
    steps: list[int]
    losses: list[float]


def _loss(rows: list[Row], titles: Names, look: dict[Key, Look]) -> tuple[Figure, str] | None:
    curves = _curves(rows)
    if not curves:
        return None
    order = list(dict.fromkeys((curve.schedule, curve.key) for curve in curves))
    order.sort(key=lambda panel: (schedule_rank(panel[0]), *_rank(panel[1])))
    sizes = sorted({curve.ipc for curve in curves})
    several = len({schedule for schedule, _ in order}) > 1
    figure, panels = _panels(len(order), 2.55, 2.05, 4)
    for axes, (schedule, key) in zip(panels, order, strict=True):
        mine = [curve for curve in curves if (curve.schedule, curve.key) == (schedule, key)]
        for curve in mine:
            colour = _tint(look[key].colour, sizes.index(curve.ipc), len(sizes))
            marker = "." if len(curve.steps) < 5 else ""
            axes.plot(curve.steps, curve.losses, color=colour, linewidth=1.1, marker=marker)
        axes.set_title(_label(titles.method(*key) + (f" · {schedule}" if several else "")))
        _loss_axes(axes, mine)
    figure.supxlabel("condensation step", fontsize=9)
    figure.supylabel("loss", fontsize=9)
    _headline(figure, titles, rows)
    _legend(figure, [(f"IPC {ipc}", Look(_tint(INK, n, len(sizes)), "")) for n, ipc in enumerate(sizes)])
    caption = "Loss along the condensation (first seed), darker for larger IPCs."
    return figure, caption + " The losses of different methods have different scales."


def _curves(rows: list[Row]) -> list[Curve]:
    """One curve per configuration, its first seed that logged losses."""
    found: dict[tuple[str, Key, int], Curve] = {}
    for row in rows:
        place = row.schedule, (row.method, row.variant), row.ipc
        for observation in row.done:
            if place in found:
                break
            steps, losses = _read_losses(observation.record.directory)
            if steps:
                found[place] = Curve(*place, steps, losses)
    return list(found.values())


def _read_losses(directory: Path) -> tuple[list[int], list[float]]:
    """Steps and losses of the phase `condense`; damaged lines and values that are not finite are left out."""
    try:
        lines = (directory / "steps.jsonl").read_text(errors="replace").splitlines()
    except OSError:
        return [], []
    lines = [line for line in lines if '"condense"' in line]
    steps, losses = [], []
    for line in lines[:: max(1, len(lines) // POINTS)]:
        try:
            entry = json.loads(line)
            step, loss = int(entry["step"]), float(entry["loss"])
        except (ValueError, KeyError, TypeError):
            continue
        if math.isfinite(loss):
            steps.append(step)
            losses.append(loss)
    return steps, losses


def _loss_axes(axes: Axes, curves: list[Curve]) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

    losses = [loss for curve in curves for loss in curve.losses]
    if min(losses) > 0 and max(losses) / min(losses) > 30:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(_thousands))
    axes.tick_params(labelsize=7.5)


def _thousands(value: float, _: int) -> str:
    return f"{value / 1000:g}k" if abs(value) >= 1000 else f"{value:g}"


def _tint(colour: str, number: int, of: int) -> tuple[float, float, float]:
    """The colour itself for the last of a series, lighter for the ones before."""
    from matplotlib.colors import to_rgb

    white = 0.62 * (of - 1 - number) / max(of - 1, 1)
    red, green, blue = (channel + (1 - channel) * white for channel in to_rgb(colour))
    return red, green, blue
