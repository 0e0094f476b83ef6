"""The report's figures: accuracy against IPC, accuracy against time, and loss curves.

There is one file per data set. Schedules and protocols are panels of it, so that no two of them silently share an axis.
"""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.report.figures import Plot, headline, legend, marker_size, panels_of, save, theme
from benchmark.report.loss import loss
from benchmark.report.observations import Names
from benchmark.report.rows import Row
from benchmark.report.style import GREY, WHOLE, Key, Look, looks, slug
from benchmark.report.tables import blocks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

KINDS = ("accuracy_vs_ipc", "accuracy_vs_seconds", "loss")

FASTEST = 0.01
"""In seconds. Anything quicker (choosing images at random) is drawn here, since a log axis has no zero."""


def draw(rows: list[Row], titles: Names, folder: Path) -> list[Plot]:
    """Draw every figure for which there is data. Remove the files of earlier reports that have no figure any more."""
    folder.mkdir(parents=True, exist_ok=True)
    look = looks([(row.method, row.variant) for row in rows])
    plots = []
    with theme():
        for dataset, name in _file_names(rows).items():
            mine = [row for row in rows if row.dataset == dataset and row.done]
            for kind, figure in (
                ("accuracy_vs_ipc", _accuracy_vs_ipc),
                ("accuracy_vs_seconds", _accuracy_vs_seconds),
                ("loss", loss),
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


def _accuracy_vs_ipc(rows: list[Row], titles: Names, look: dict[Key, Look]) -> tuple[Figure, str] | None:
    if not rows:
        return None
    parts = blocks(rows, "schedule", "protocol", "network")
    figure, panels = panels_of(len(parts), 4.2, 3.6, 2, sharey=True)
    hollow = False
    for axes, (key, members) in zip(panels, parts, strict=True):
        series = _series(members)
        sizes = sorted({row.ipc for line in series.values() for row in line})
        offsets = _dodge(sorted(series, key=titles.key_rank), sizes)
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
    headline(figure, titles, rows)
    legend(figure, _entries(rows, titles, look), (_marker("published", "none", 5.5),) if hollow else ())
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
        markersize=marker_size(style),
        markeredgecolor="white",
        markeredgewidth=0.4,
    )


def _hollow(axes: Axes, line: list[Row], style: Look, shift: float) -> bool:
    """Published values as hollow marks; what nobody could verify is not drawn as if it were fact."""
    known = [row for row in line if row.published and row.published.evidence != "unverified"]
    axes.plot(
        [row.ipc * shift for row in known],
        [row.published.accuracy for row in known],
        linestyle="none",
        marker=style.marker,
        markersize=marker_size(style) + 1.5,
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
    figure, panels = panels_of(len(parts), 4.2, 3.6, 2, sharey=True)
    for axes, (key, members) in zip(panels, parts, strict=True):
        for name, line in _series(members).items():
            _time_line(axes, line, look[name], areas)
        _whole_line(axes, [r for r in rows if (r.schedule, r.protocol, r.network) == key])
        _seconds_axis(axes)
        axes.set_title(_panel_title(key))
        axes.set_ylabel("test accuracy (%)")
    headline(figure, titles, rows)
    sizes = tuple(_marker(f"IPC {ipc}", GREY, math.sqrt(area)) for ipc, area in areas.items())
    legend(figure, _entries([*timed, *(row for row in rows if not row.ipc)], titles, look), sizes)
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
    axes.plot(seconds, accuracies, color=style.colour, linestyle=style.line, linewidth=0.9, alpha=0.45, zorder=1)
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


def _panel_title(key: tuple[str, ...]) -> str:
    schedule, protocol, network = key
    return f"schedule {schedule} · protocol {protocol or '?'} · {network or '?'}"


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
    return [(titles.method(*key), look[key]) for key in sorted(keys, key=titles.key_rank)]


def _marker(label: str, face: str, size: float) -> Line2D:
    from matplotlib.lines import Line2D

    options = {"markerfacecolor": face, "markeredgecolor": GREY, "markersize": size, "linestyle": "none"}
    return Line2D([], [], marker="o", label=label, **options)


def _whole_line(axes: Axes, rows: list[Row]) -> None:
    """The whole set's accuracy, its value outside at the right, where no point can lie on it."""
    for row in rows:
        if row.ipc == 0:
            axes.axhline(row.accuracy, color=WHOLE.colour, linestyle=WHOLE.line, linewidth=1.0, zorder=1)
            at = {"xy": (1.01, row.accuracy), "xycoords": ("axes fraction", "data"), "va": "center"}
            axes.annotate(f"{row.accuracy:.1f}", **at, fontsize=7.5)
