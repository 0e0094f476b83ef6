"""The loss along each condensation, a panel per method."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.report.figures import headline, label_of, legend, panels_of, tint
from benchmark.report.observations import Names
from benchmark.report.rows import Row
from benchmark.report.style import INK, Key, Look, schedule_rank

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POINTS = 400
"""The most points that are drawn of one loss curve."""


@dataclass(frozen=True)
class Curve:
    """The loss along one condensation."""

    schedule: str
    key: Key
    ipc: int
    steps: list[int]
    losses: list[float]


def loss(rows: list[Row], titles: Names, look: dict[Key, Look]) -> tuple[Figure, str] | None:
    curves = _curves(rows)
    if not curves:
        return None
    order = list(dict.fromkeys((curve.schedule, curve.key) for curve in curves))
    order.sort(key=lambda panel: (schedule_rank(panel[0]), *titles.key_rank(panel[1])))
    sizes = sorted({curve.ipc for curve in curves})
    several = len({schedule for schedule, _ in order}) > 1
    figure, panels = panels_of(len(order), 2.55, 2.05, 4)
    for axes, (schedule, key) in zip(panels, order, strict=True):
        mine = [curve for curve in curves if (curve.schedule, curve.key) == (schedule, key)]
        for curve in mine:
            colour = tint(look[key].colour, sizes.index(curve.ipc), len(sizes))
            marker = "." if len(curve.steps) < 5 else ""
            axes.plot(curve.steps, curve.losses, color=colour, linewidth=1.1, marker=marker)
        axes.set_title(label_of(titles.method(*key) + (f" · {schedule}" if several else "")))
        _loss_axes(axes, mine)
    figure.supxlabel("condensation step", fontsize=9)
    figure.supylabel("loss", fontsize=9)
    headline(figure, titles, rows)
    legend(figure, [(f"IPC {ipc}", Look(tint(INK, n, len(sizes)), "")) for n, ipc in enumerate(sizes)])
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
