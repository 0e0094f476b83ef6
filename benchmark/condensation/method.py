"""The contract of a condensation method: one class, which is found because its file is in `methods/`.

    class DM(Method):
        \"\"\"Distribution matching. ...\"\"\"            # the card: its first line is shown by --list
        name, title, paper = "dm", "DM", "Zhao & Bilen, WACV 2023"
        Hyper = DMHyper                              # its settings, and what a schedule makes of them

        Loop = DMLoop                                # the loop of its paper

        def start(self, task, run): ...              # the container that it moves

Container and loop are independent: with `--set hmn.objective=dm`, HMN is built with the loop of DM. A method that
moves nothing, such as a coreset, overrides `condense` instead.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar, Literal

import torch

from benchmark.condensation.cost import Cost
from benchmark.condensation.loop import Loop as AnyLoop
from benchmark.condensation.prerequisite import Prerequisite
from benchmark.condensation.run import Run
from benchmark.condensation.settings import Schedule, check_minima, shortened
from benchmark.condensation.task import Task
from benchmark.containers import Container
from benchmark.containers.budget import Budget
from benchmark.data import DatasetSpec
from benchmark.training.recipes import Recipe, unified

Category = Literal["method", "reference", "variant"]
"""`--methods all` runs the rows of category `method` and `reference`. A `variant`, which is a control or a relative of
another method, runs by name only."""


class Method:
    """A condensation method, built with its settings (`self.hyper`) for one cell.

    `self.loop` moves its container: the loop of its own paper, or the loop that it was built with.
    """

    # The card

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str] = ""
    category: ClassVar[Category] = "method"
    disclosure: ClassVar[str] = ""
    """A sentence that every printed result of this method must carry."""
    version: ClassVar[int] = 1
    """Raise it when the algorithm changes, so that stored results of the old one are not reused."""
    condenses: ClassVar[bool] = True
    """False where the whole training set is the result and IPC means nothing."""
    draws_as: ClassVar[str] = ""
    """The name of the method, set on one that has controls, which inherit it. With equal settings a method and its
    controls begin with the same random numbers, whatever the mode of the budget, so that a control differs only in what
    it leaves out."""
    container_row: ClassVar[str] = ""
    """The row that the method fills where all containers are compared under one loop; empty for none."""

    # Its settings

    Hyper: ClassVar[type]
    """A frozen dataclass of plain values; `Setting` says how a schedule shortens a field."""
    cells: ClassVar[dict[tuple[str, int], dict[str, Any]]] = {}
    """Settings that differ from Hyper's defaults, by (data set id of the CSV files, IPC)."""

    @classmethod
    def adapt(cls, values: dict[str, Any], spec: DatasetSpec, ipc: int, schedule: Schedule) -> dict[str, Any]:
        """Compute the settings that follow from a formula of the data set, IPC and schedule, after the table row was
        chosen."""
        return values

    @classmethod
    def hyper_parameters(
        cls, spec: DatasetSpec, ipc: int, schedule: Schedule, overrides: dict[str, Any] | None = None
    ) -> Any:
        """Resolve Hyper for one cell: defaults, table row, formulas, schedule, then the user's overrides.

        Raises ValueError for a value below the smallest that makes sense.
        """
        values: dict[str, Any] = {}
        if cls.cells and ipc:
            dataset = table_dataset(spec, {name for name, _ in cls.cells})
            listed = [other for name, other in cls.cells if name == dataset]
            values = dict(cls.cells[dataset, nearest_ipc(ipc, listed)])
        hyper = shortened(cls.Hyper(**cls.adapt(values, spec, ipc, schedule)), schedule)
        hyper = dataclasses.replace(hyper, **(overrides or {}))
        check_minima(cls.name, hyper)
        return hyper

    # What it does

    Loop: ClassVar[type[AnyLoop]] = AnyLoop
    """The loop of the method's paper. A method that moves nothing leaves it as it is."""

    def __init__(self, hyper: Any, loop: AnyLoop | None = None) -> None:
        """Build the method. loop: another method's loop, which is to move this one's container; None for its own."""
        self.hyper, self.owns_loop = hyper, loop is None
        self.loop = loop or self.Loop(hyper)

    def start(self, task: Task, run: Run) -> Container:
        """Return the container before the first step, on the task's device."""
        raise NotImplementedError

    def optimiser(self, container: Container) -> torch.optim.Optimizer:
        """Return the optimiser of the container. By default it is the loop's optimiser for pixels, whose step size
        suits its loss. A method that stores something else than pixels overrides this."""
        return self.loop.optimiser(container)

    def condense(self, task: Task, run: Run) -> Container:
        """Condense `task.train` within `task.budget`. Long work happens inside `for step in run.loop(...)`."""
        task = self.loop.view(task)
        run.train_images = len(task.train)
        container = self.start(task, run)
        self.loop.drive(container, self.optimiser(container), task, run)
        return container

    def prerequisites(self) -> tuple[Prerequisite, ...]:
        """Return what must be made before the cell begins and is shared with other cells: by default what its loop
        needs. A method returns nothing if it condenses other images than those cells."""
        return self.loop.prerequisites()

    # What is known of it before it runs

    def cost(self, spec: DatasetSpec, budget: Budget) -> Cost:
        """Return what a cell stores, decodes and computes. Raises a CellError if the cell cannot be done, a BudgetError
        if no container fits the budget."""
        return Cost(budget.floats, budget.ipc * spec.classes, self.loop.cost(spec, budget.ipc))

    def native_recipe(self, spec: DatasetSpec, ipc: int) -> Recipe:
        """Return the recipe of the authors' own evaluation, or the unified recipe if they have none."""
        return unified(ipc)


def nearest_ipc(ipc: float, listed: list[int]) -> int:
    """Return the listed IPC that is nearest on a log scale, the smaller one in a tie."""
    return min(sorted(listed), key=lambda other: abs(math.log(ipc / other)))


def table_dataset(spec: DatasetSpec, listed: set[str]) -> str:
    """Return the data set whose settings are used where a data set has none of its own (docs/methods.md 1.10).

    Images of up to 32 pixels in fewer than 50 classes take CIFAR10's settings, or SVHN's where flipping makes no sense
    (digits); in 50 classes or more they take CIFAR100's. Larger images take TinyImageNet's.
    """
    if spec.published in listed:
        return spec.published
    if max(spec.height, spec.width) > 32:
        return "TinyImageNet"
    if spec.classes >= 50:
        return "CIFAR100"
    return "CIFAR10" if spec.flip else "SVHN"
