"""Random: a reference row. IPC training images of each class, drawn uniformly without replacement.

Settings   none; a new draw for every seed
Deviations IDC's code takes the first images of each class in file order; that is one fixed subset, not a random one
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmark.condensation.method import Method
from benchmark.condensation.run import Run
from benchmark.condensation.task import Task
from benchmark.containers import Container
from benchmark.containers.pixels import Pixels


@dataclass(frozen=True)
class RandomHyper:
    """Nothing to set."""


class Random(Method):
    """Random real images of each class."""

    name, title, category = "random", "Random", "reference"
    Hyper = RandomHyper

    def condense(self, task: Task, run: Run) -> Container:
        task.require_class_size(task.ipc)
        indices = task.start_indices(task.ipc)
        run.note("indices", indices.tolist())
        return Pixels.of(task.gather(indices))
