"""Prerequisites: what must be made before a cell can begin, shared by the cells of one data set and repetition."""

from __future__ import annotations

from typing import Any, Protocol

from benchmark.condensation.run import Run
from benchmark.condensation.task import Task


class Prerequisite(Protocol):
    """Something that is made once, kept in the cache folder, and found there by every cell that needs it.

    An engine that spreads a grid makes it in a separate task, before the cells that need it.
    """

    def identity(self) -> dict[str, Any]:
        """Return JSON that says what is made. Cells of one data set and repetition that return the same JSON share
        it."""
        ...

    def make(self, task: Task, run: Run) -> None:
        """Make what the task's cache lacks of it."""
        ...
