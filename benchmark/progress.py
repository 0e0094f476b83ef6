"""Live progress: the grid, the cell and the step with their ETAs on a terminal; a plain line now and then elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

PLAIN_SECONDS = 30.0
"""Between two plain lines of one cell."""


class Display:
    """Shows how a list of cells advances. Use as a context manager around the run."""

    def __init__(self, console: Console, cells: int | None = None) -> None:
        """`cells`: how many will come, if that is known."""
        self.console, self.cells, self.number = console, cells, 0
        self.live = console.is_terminal
        self._last_line = self._began = time.perf_counter()
        self._phase = ""
        self._bars = Progress(
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
        self._grid = self._bars.add_task("grid", total=cells, info="")
        self._cell = self._bars.add_task("cell", total=1, info="", visible=False)

    def __enter__(self) -> Display:
        self._bars.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bars.stop()

    def start(self, label: str) -> None:
        self.number += 1
        self._phase, self._last_line, self._began = "", time.perf_counter(), time.perf_counter()
        self._label = label
        self._place = f"[{self.number}/{self.cells}]" if self.cells else f"[{self.number}]"
        self._bars.update(self._grid, description=f"{self._place} {label}")
        if not self.live:
            self.console.print(f"{self._place} {label}", markup=False, highlight=False)

    def step(self, phase: str, done: int, total: int, values: dict[str, float]) -> None:
        """Called by the run after every step."""
        if self.live:
            info = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
            if phase != self._phase:
                self._bars.reset(self._cell, total=total, completed=done, visible=True)
            self._bars.update(self._cell, description=f"  {phase}", completed=done, total=total, info=info)
        elif time.perf_counter() - self._last_line > PLAIN_SECONDS:
            self._last_line = time.perf_counter()
            info = "".join(f", {name} {value:.4g}" for name, value in values.items())
            line = f"{self._place} {self._label}: {phase} {done}/{total}{info}"
            self.console.print(line, markup=False, highlight=False)
        self._phase = phase

    def end(self, label: str, outcome: str) -> None:
        self._bars.update(self._grid, completed=self.number)
        self._bars.update(self._cell, visible=False)
        line = f"{self._place} {label}: {outcome}"
        self.console.print(line, markup=False, highlight=False, style="red" if outcome.startswith("failed") else None)
