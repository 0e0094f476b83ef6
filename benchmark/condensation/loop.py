"""A loop: what moves a container. It is an objective on a schedule, and knows nothing of how images are stored.

    class DMLoop(Loop):
        def optimiser(self, container): ...                     # what steps plain pixels
        def move(self, container, optimiser, task, run): ...    # the paper's algorithm box
        def cost(self, spec, per_class): ...                    # its steps, and the work of one

A method owns the loop of its paper, and takes any other one instead: `--set hmn.objective=dm` lets DM's loop move HMN's
container.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from benchmark.condensation.cost import LoopCost
from benchmark.condensation.prerequisite import Prerequisite
from benchmark.condensation.run import Run
from benchmark.condensation.task import Task
from benchmark.containers import Container
from benchmark.data import DatasetSpec


class Loop:
    """The loop of a method, built with that method's settings (`self.hyper`)."""

    microbatches: ClassVar[bool] = False
    """Whether the loop takes a mean over real images that `--microbatch` may split."""

    def __init__(self, hyper: Any) -> None:
        self.hyper = hyper

    def optimiser(self, container: Container) -> torch.optim.Optimizer:
        """What steps the container: by default of any container, with the step size that goes with the loop's loss."""
        raise NotImplementedError

    def move(self, container: Container, optimiser: torch.optim.Optimizer, task: Task, run: Run) -> None:
        """Move any container: read its images by `task.synthetic`, step its optimiser, inside `run.loop(...)`.

        A loop that has nothing left to do goes on with `run.skip_to(step)`.
        """
        raise NotImplementedError

    def cost(self, spec: DatasetSpec, per_class: int, variants: int = 1) -> LoopCost:
        """What the loop costs, whichever method's container it moves.

        per_class: images that this decodes of a class. variants: forms of one sample among them (`Container.variants`).
        """
        return LoopCost()

    def prerequisites(self) -> tuple[Prerequisite, ...]:
        """What the loop will find made: cells of a data set and repetition share it."""
        return ()

    def view(self, task: Task) -> Task:
        """The task on the training images that the loop condenses; all of them by default. What it keeps for a decision
        of its own is `task.validation`."""
        return task

    def drive(self, container: Container, optimiser: torch.optim.Optimizer, task: Task, run: Run) -> None:
        """Move the container, with the passes that suit a loop of this length."""
        cost = self.cost(task.spec, container.per_class, container.variants)
        self.move(container, optimiser, task.for_loop(cost), run)
