"""The loop of a method: it moves a container towards an objective, and knows nothing of how images are stored.

    class DMLoop(Loop):
        def optimiser(self, container): ...                     # what steps plain pixels
        def move(self, container, optimiser, task, run): ...    # the paper's algorithm box
        def cost(self, spec, per_class): ...                    # its steps, and the work of one

A method owns the loop of its paper and can be given another one: with `--set hmn.objective=dm`, DM's loop moves HMN's
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
    """Whether the loop takes a mean over real images, which `--microbatch` can split."""

    def __init__(self, hyper: Any) -> None:
        self.hyper = hyper

    def optimiser(self, container: Container) -> torch.optim.Optimizer:
        """Return the optimiser of a container, with the step size that suits the loop's loss. It also serves any
        container whose method does not bring an optimiser of its own."""
        raise NotImplementedError

    def move(self, container: Container, optimiser: torch.optim.Optimizer, task: Task, run: Run) -> None:
        """Move a container of any kind: read its images by `task.synthetic`, and step the optimiser, inside
        `run.loop(...)`.

        A loop that has nothing left to do skips the rest with `run.skip_to(step)`.
        """
        raise NotImplementedError

    def cost(self, spec: DatasetSpec, per_class: int, variants: int = 1) -> LoopCost:
        """Return the cost of the loop, whichever method's container it moves.

        per_class: how many images of a class the container decodes. variants: how many of them are forms of one sample
        (`Container.variants`).
        """
        return LoopCost()

    def prerequisites(self) -> tuple[Prerequisite, ...]:
        """Return what must be made before the loop starts. Cells of one data set and repetition share it."""
        return ()

    def view(self, task: Task) -> Task:
        """Return the task with the training images that the loop condenses; by default all of them. Images that it
        keeps for a decision of its own become `task.validation`."""
        return task

    def drive(self, container: Container, optimiser: torch.optim.Optimizer, task: Task, run: Run) -> None:
        """Move the container, with the passes that suit a loop of this length."""
        cost = self.cost(task.spec, container.per_class, container.variants)
        self.move(container, optimiser, task.for_loop(cost), run)
