"""The contract of a condensation method: one class, found by being in a file of `methods/`.

    class DM(Method):
        \"\"\"Distribution matching. ...\"\"\"            # the card: its first line is shown by --list
        name, title, paper = "dm", "DM", "Zhao & Bilen, WACV 2023"
        Hyper = DMHyper                              # its settings, and what a schedule makes of them

        Loop = DMLoop                                # the loop of its paper

        def start(self, task, run): ...              # the container that it moves

Container and loop are independent axes: a method is built with the loop of another one where the user says so
(`--set hmn.objective=dm`). A row that moves nothing, such as a coreset, overrides `condense` instead.
"""

from __future__ import annotations

import dataclasses
import inspect
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
"""`method` and `reference` rows are part of `--methods all`; a `variant`, a control or a relative of another method,
runs by name only."""


class Method:
    """A condensation method, built with its settings (`self.hyper`) for one cell.

    `self.loop` is what moves its container: its own loop, or the one it was built with.
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
    """Set on a method that has controls, and inherited by them: its name. With equal settings all begin with the same
    random numbers, whatever the budget's mode, so that a control differs in nothing but what it leaves out."""
    container_row: ClassVar[str] = ""
    """The container this method stands for when all of them are compared under one loop; empty for none."""

    @classmethod
    def summary(cls) -> str:
        """The first line of its docstring, which --list shows."""
        card = inspect.getdoc(cls)
        assert card is not None, f"{cls.__name__} has no docstring"
        return card.splitlines()[0]

    # Its settings

    Hyper: ClassVar[type]
    """A frozen dataclass of plain values; `Setting` says how a schedule shortens a field."""
    cells: ClassVar[dict[tuple[str, int], dict[str, Any]]] = {}
    """Settings that differ from Hyper's defaults, by (data set id of the CSV files, IPC)."""

    @classmethod
    def adapt(cls, values: dict[str, Any], spec: DatasetSpec, ipc: int, schedule: Schedule) -> dict[str, Any]:
        """Recompute what has a formula from the actual data set, IPC and schedule, after the table row was chosen."""
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
    """The loop of the method's paper; left alone by a row that moves nothing."""

    def __init__(self, hyper: Any, loop: AnyLoop | None = None) -> None:
        """loop: another method's, to move this one's container."""
        self.hyper, self.owns_loop = hyper, loop is None
        self.loop = loop or self.Loop(hyper)

    def start(self, task: Task, run: Run) -> Container:
        """The container before the first step, on the task's device."""
        raise NotImplementedError

    def optimiser(self, container: Container) -> torch.optim.Optimizer:
        """What steps the container: by default what the loop has for pixels, whose step size goes with its loss. A
        method whose container is no set of pixels overrides it."""
        return self.loop.optimiser(container)

    def condense(self, task: Task, run: Run) -> Container:
        """Condense `task.train` within `task.budget`. Long work happens inside `for step in run.loop(...)`."""
        task = self.loop.view(task)
        run.train_images = len(task.train)
        container = self.start(task, run)
        self.loop.drive(container, self.optimiser(container), task, run)
        return container

    def prerequisites(self) -> tuple[Prerequisite, ...]:
        """What must be made before the cell begins and is shared with others: what its loop needs. None where it
        condenses other images than they."""
        return self.loop.prerequisites()

    # What is known of it before it runs

    def cost(self, spec: DatasetSpec, budget: Budget) -> Cost:
        """What a cell stores, decodes to and computes. Raises a CellError where it cannot be done: BudgetError for a
        budget that no container fits."""
        return Cost(budget.floats, budget.ipc * spec.classes, self.loop.cost(spec, budget.ipc))

    def native_recipe(self, spec: DatasetSpec, ipc: int) -> Recipe:
        """The authors' own evaluation; the unified recipe where there is none."""
        return unified(ipc)


def nearest_ipc(ipc: float, listed: list[int]) -> int:
    """The listed IPC nearest on a log scale; the smaller one in a tie."""
    return min(sorted(listed), key=lambda other: abs(math.log(ipc / other)))


def table_dataset(spec: DatasetSpec, listed: set[str]) -> str:
    """The data set whose settings one without settings of its own takes (docs/methods.md 1.10).

    Up to 32 pixels and fewer than 50 classes: CIFAR10's, or SVHN's where flipping makes no sense (digits); 50 classes
    or more: CIFAR100's; larger images: TinyImageNet's.
    """
    if spec.published in listed:
        return spec.published
    if max(spec.height, spec.width) > 32:
        return "TinyImageNet"
    if spec.classes >= 50:
        return "CIFAR100"
    return "CIFAR10" if spec.flip else "SVHN"
