"""Live progress: the grid, the running cells and their steps with ETAs on a terminal; a plain line now and then
elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

PLAIN_SECONDS = 30.0
"""Seconds between two plain lines of one cell."""


class Display:
    """Shows how a list of cells advances. Use as a context manager around the run."""

    def __init__(self, console: Console, cells: int | None = None) -> None:
        """`cells`: how many will come, if that is known."""
        self.console, self.cells = console, cells
        self.live = console.is_terminal
        self.ended = 0
        self._numbers: dict[str, int] = {}
        self.bars = Progress(
            TextColumn("{task.description}", markup=False),  # a variant such as [lr_img=2] is no markup
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(elapsed_when_finished=False),
            TextColumn("{task.fields[info]}"),
            console=console,
            disable=not self.live,
            transient=True,
        )
        self._grid = self.bars.add_task("grid", total=cells, info="")

    def __enter__(self) -> Display:
        self.bars.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.bars.stop()

    def start(self, label: str) -> CellProgress:
        """Show that a cell begins, possibly beside others; one that begins again keeps its number."""
        number = self._numbers.setdefault(label, len(self._numbers) + 1)
        return CellProgress(self, label, f"[{number}/{self.cells}]" if self.cells else f"[{number}]")

    def count_ended(self, final: bool) -> None:
        self.ended += final
        self.bars.update(self._grid, completed=self.ended)

    def print(self, line: str, style: str | None = None) -> None:
        self.console.print(line, markup=False, highlight=False, style=style)


class CellProgress:
    """One running cell of a display."""

    def __init__(self, display: Display, label: str, place: str) -> None:
        self.display, self.name = display, f"{place} {label}"
        self._last_line = time.perf_counter()
        self._phase = ""
        self._bar = display.bars.add_task(self.name, total=1, info="")
        if not display.live:
            display.print(self.name)

    def step(self, phase: str, done: int, total: int, values: dict[str, float]) -> None:
        """Show a step of the cell; the run calls this after every one."""
        bars = self.display.bars
        if self.display.live:
            info = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
            if phase != self._phase:
                bars.reset(self._bar, total=total, completed=done)
            bars.update(self._bar, description=f"{self.name}: {phase}", completed=done, total=total, info=info)
        elif time.perf_counter() - self._last_line > PLAIN_SECONDS:
            self._last_line = time.perf_counter()
            info = "".join(f", {name} {value:.4g}" for name, value in values.items())
            self.display.print(f"{self.name}: {phase} {done}/{total}{info}")
        self._phase = phase

    def end(self, outcome: str, final: bool = True) -> None:
        """Show how the cell ended. `final`: whether this was the cell's last attempt."""
        self.display.bars.remove_task(self._bar)
        self.display.count_ended(final)
        self.display.print(f"{self.name}: {outcome}", "red" if outcome.startswith("failed") else None)
