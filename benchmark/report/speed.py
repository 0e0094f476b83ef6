"""The bars of `benchmark.speed`: how many times faster the product's path is than the plain reference."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmark.report.figures import Plot, save, theme
from benchmark.report.style import GREY, INK
from benchmark.store.records import Speed, SpeedUnit

NAME = "speed"
BAR = "#117733"


def draw(measured: Speed | None, folder: Path) -> Plot | None:
    """Write speed.png and speed.svg below `folder` from what the store holds. If it holds nothing, remove both."""
    if not measured or not measured.units:
        for suffix in (".png", ".svg"):
            (folder / f"{NAME}{suffix}").unlink(missing_ok=True)
        return None
    folder.mkdir(parents=True, exist_ok=True)
    with theme():
        return save(_figure(measured.units), folder, NAME, NAME, "", _caption(measured))


def _figure(units: Sequence[SpeedUnit]) -> Any:
    from matplotlib.figure import Figure

    panels = [("times faster", "milliseconds", "ms")]
    if any(_ratio(unit, "peak_mib") for unit in units):
        panels.append(("times less peak memory", "peak_mib", "MiB"))
    figure = Figure(figsize=(2.2 + 4.2 * len(panels), 0.9 + 0.27 * len(units)), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    places = range(len(units))
    for axis, (title, field, unit_name) in zip(axes, panels, strict=True):
        ratios = [_ratio(unit, field) or 0.0 for unit in units]
        axis.barh(places, ratios, height=0.72, color=BAR)
        axis.axvline(1, color=INK, linewidth=0.8)
        axis.set(title=title, xlim=(0, 1.5 * max([1.0, *ratios])))
        axis.grid(axis="y", visible=False)
        for place, unit, ratio in zip(places, units, ratios, strict=True):
            if ratio:
                plain, ours = (f"{getattr(side, field):,.0f}" for side in (unit.plain, unit.product))
                text = f" {ratio:.2f}  ({plain} → {ours} {unit_name})"
                axis.text(max(ratio, 1), place, text, va="center", fontsize=7.5, color=INK)
    axes[0].set_yticks(places, [unit.label for unit in units])
    axes[0].invert_yaxis()
    for axis in axes:
        axis.tick_params(axis="y", length=0, colors=INK)
        axis.spines["bottom"].set_color(GREY)
    return figure


def _ratio(unit: SpeedUnit, field: str) -> float | None:
    """Plain over ours; None where one of them was not measured or is next to nothing."""
    plain, ours = getattr(unit.plain, field), getattr(unit.product, field)
    return plain / ours if plain and ours and min(plain, ours) >= 1 else None


def _caption(measured: Speed) -> str:
    environment = measured.environment
    parts = [
        f"Plain reference against this suite's path, medians in one process: {measured.dataset}, precision "
        f"{measured.precision}, {environment.device or '?'}, torch {environment.torch or '?'}"
    ]
    parts += [f"{name} at most {rate / 1e9:,.0f} GFLOP/s" for name, rate in measured.ceilings.items()]
    if measured.contended:
        parts.append(f"contended by {measured.load:.1f} other processes")
    return "; ".join(parts) + "."
