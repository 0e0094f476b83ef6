"""What a cell needs made before it can begin, and shares with the other cells of its data set and repetition."""

from __future__ import annotations

from typing import Any, Protocol

from benchmark.condensation.run import Run
from benchmark.condensation.task import Task


class Prerequisite(Protocol):
    """Something that is made once, kept in the cache folder, and found there by every cell that wants it.

    An engine that spreads a grid makes it in a task of its own, before the cells that need it.
    """

    def identity(self) -> dict[str, Any]:
        """JSON that says what is made: cells of a data set and repetition that say the same share it."""
        ...

    def make(self, task: Task, run: Run) -> None:
        """Make it, as far as it is not in the task's cache."""
        ...
