"""The contract of a condensation method: one class, found by being in a file of `methods/`.

    class DM(Method):
        \"\"\"Distribution matching. ...\"\"\"            # the card: first line is shown by --list
        name, title, paper = "dm", "DM", "Zhao & Bilen, WACV 2023"
        Hyper = DMHyper                              # a frozen dataclass of plain values
        cells = {("CIFAR10", 1): {...}, ...}         # what differs per (data set, IPC)
        scaled, quick = ("iterations",), {"iterations": 200}

        def start(self, task, run): ...              # -> Container, where the images begin
        def optimiser(self, container): ...          # what moves its parameters
        def move(self, container, optimiser, task, run): ...   # the paper's loop

The three are apart because container and objective are independent axes: `--set hmn.objective=dm` lets DM's loop move
HMN's container. A row that moves nothing (a coreset) overrides `condense` instead.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from benchmark.condensation.run import Run
from benchmark.condensation.task import Task
from benchmark.containers import Container
from benchmark.containers.budget import Budget
from benchmark.data import DatasetSpec
from benchmark.training.recipes import Recipe, unified

Category = Literal["method", "reference", "variant"]
"""`method` and `reference` rows are part of `--methods all`; a `variant`, a control or a relative of another method,
runs by name only."""


@dataclass(frozen=True)
class Schedule:
    """How long a cell runs, as a share of what was published.

    `paper` is 1; `quick` is each method's own short setting, meant for small images; otherwise a fraction.
    """

    name: str
    factor: float
    """Of condensation and evaluation lengths; evaluation has a floor (see `Recipe.scaled`), so 0 means the floor."""

    @classmethod
    def parse(cls, text: str) -> Schedule:
        """Raises ValueError for anything but `quick`, `paper` or a number in (0, 1]."""
        if text in ("quick", "paper"):
            return cls(text, float(text == "paper"))
        try:
            factor = float(text)
        except ValueError:
            factor = math.nan
        if not 0 < factor <= 1:
            raise ValueError(f"--schedule {text}: use quick, paper or a fraction of the published length such as 0.05")
        return cls("paper" if factor == 1 else f"{factor:g}", factor)


@dataclass(frozen=True)
class Work:
    """Images a condensation sends through its network, by what is done with them; the plan turns it into hours."""

    forward: float = 0.0
    trained: float = 0.0
    """Forward and backward to the parameters."""
    matched: float = 0.0
    """Forward, backward with a graph, and backward through that to the pixels."""
    experts: float = 0.0
    """As `trained`, of the networks that are trained before the loop, several at once and at a speed of their own."""


def nearest_ipc(ipc: float, listed: list[int]) -> int:
    """The listed IPC nearest on a log scale; the smaller one in a tie."""
    return min(sorted(listed), key=lambda other: abs(math.log(ipc / other)))


def table_dataset(spec: DatasetSpec, listed: set[str]) -> str:
    """The data set whose settings one without settings of its own takes (METHODS 1.10).

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


class Method:
    """A condensation method, built with its resolved hyper-parameters (`self.hyper`) for one cell.

    `mover` is the method whose loop moves the container: itself, unless `--set NAME.objective=OTHER` chose another.
    """

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
    """The container this method stands for when all of them are compared under one objective; empty for none."""

    Hyper: ClassVar[type]
    cells: ClassVar[dict[tuple[str, int], dict[str, Any]]] = {}
    """Settings that differ from Hyper's defaults, by (data set id of the CSV files, IPC)."""
    scaled: ClassVar[tuple[str, ...]] = ()
    """Fields of Hyper that a fractional schedule multiplies (never below 1)."""
    quick: ClassVar[dict[str, Any]] = {}
    """Fields of Hyper under the quick schedule."""
    positive: ClassVar[tuple[str, ...]] = ()
    """Fields of Hyper for which 0 makes no sense and nothing else would say so in time."""
    one_step: ClassVar[dict[str, Any]] = {}
    """Fields of Hyper that leave a single step of the loop, with those of `scaled` at 1; the plan and the speed table
    count by it."""
    unrolls: ClassVar[str] = ""
    """The field of Hyper that counts the steps of the training that the loop differentiates through, with all classes
    in one graph; empty for a loop that does not."""
    microbatches: ClassVar[bool] = False
    """Whether the loop takes a mean over real images that `task.microbatch` may split."""

    def __init__(self, hyper: Any, mover: Method | None = None) -> None:
        self.hyper, self.mover = hyper, mover or self

    def condense(self, task: Task, run: Run) -> Container:
        """Condense `task.train` within `task.budget`. Long work happens inside `for step in run.loop(...)`."""
        task = self.mover.pool(task)
        container = self.start(task, run)
        optimiser = self.optimiser(container) if self.mover is self else self.foreign_optimiser(container)
        self.mover.move(container, optimiser, task, run)
        return self.finish(container, task, run)

    def pool(self, task: Task) -> Task:
        """The task on the training images that this method's loop condenses; all of them by default. What it keeps for
        a decision of its own goes to `held_out`."""
        return task

    def start(self, task: Task, run: Run) -> Container:
        """The container before the first step, on the task's device."""
        raise NotImplementedError

    def optimiser(self, container: Container) -> torch.optim.Optimizer:
        """What steps the container's parameters, whichever loop computes their gradients."""
        raise NotImplementedError

    def foreign_optimiser(self, container: Container) -> torch.optim.Optimizer:
        """What steps the container under another method's loop: by default that method's own optimiser, whose step size
        goes with its loss. A container that is no set of pixels overrides it."""
        return self.mover.optimiser(container)

    def move(self, container: Container, optimiser: torch.optim.Optimizer, task: Task, run: Run) -> None:
        """Run the method's loop on any container: read its images by `task.synthetic`, step its optimiser."""
        raise NotImplementedError

    def finish(self, container: Container, task: Task, run: Run) -> Container:
        """What comes after the loop, such as pruning; nothing by default."""
        return container

    def shares(self) -> dict[str, Any] | None:
        """What `prepare` makes, as JSON: cells of a data set and repetition that say the same share it. None: it makes
        nothing."""
        return None

    def shared(self) -> dict[str, Any] | None:
        """What this cell shares with others by its loop's `shares`; None where it condenses other images than they."""
        return self.mover.shares()

    def prepare(self, task: Task, run: Run) -> None:
        """Make what the loop will find in the task's cache, such as experts."""

    @classmethod
    def summary(cls) -> str:
        return inspect.getdoc(cls).splitlines()[0]

    @classmethod
    def storage(cls, hyper: Any, spec: DatasetSpec, budget: Budget) -> int:
        """Floats the container will store, known before anything runs. Raises BudgetError where none can fit."""
        return budget.floats

    @classmethod
    def decoded(cls, hyper: Any, spec: DatasetSpec, budget: Budget) -> int:
        """Images the container will decode to, known before anything runs; 0 for the whole training set."""
        return budget.ipc * spec.classes

    @classmethod
    def work(cls, hyper: Any, spec: DatasetSpec, budget: Budget) -> Work:
        """What the loop will cost once, for the plan's estimate, whichever method's container it moves."""
        return Work()

    @classmethod
    def single_step(cls, hyper: Any) -> Any:
        """The settings with which the loop takes one step; see `one_step`."""
        return dataclasses.replace(hyper, **dict.fromkeys(cls.scaled, 1) | cls.one_step)

    @classmethod
    def loops(cls, hyper: Any, spec: DatasetSpec, budget: Budget) -> int:
        """How often the loop, whichever method's that is, runs for one cell."""
        return 1

    @classmethod
    def finishing(cls, hyper: Any, spec: DatasetSpec, budget: Budget) -> Work:
        """What comes after the loop, whichever method's that is, for the plan's estimate."""
        return Work()

    @classmethod
    def starting(cls, hyper: Any, spec: DatasetSpec, budget: Budget) -> float:
        """What comes before the loop, whichever method's that is, in floating-point operations at the speed of a
        network's convolutions, for the plan's estimate."""
        return 0.0

    @classmethod
    def native_recipe(cls, hyper: Any, spec: DatasetSpec, ipc: int) -> Recipe:
        """The authors' own evaluation; the unified recipe where there is none."""
        return unified(ipc)

    @classmethod
    def adapt(cls, values: dict[str, Any], spec: DatasetSpec, ipc: int) -> dict[str, Any]:
        """Recompute what has a formula from the actual data set and IPC, after the table row was chosen."""
        return values

    @classmethod
    def quicken(cls, hyper: Any, spec: DatasetSpec) -> Any:
        """The quick schedule's settings; `cls.quick` in place of the cell's, unless they depend on them."""
        return dataclasses.replace(hyper, **cls.quick)

    @classmethod
    def hyper_parameters(
        cls, spec: DatasetSpec, ipc: int, schedule: Schedule, overrides: dict[str, Any] | None = None
    ) -> Any:
        """Resolve Hyper for one cell: defaults, table row, formulas, schedule, then the user's overrides.

        Raises ValueError for a field of `positive` that is not.
        """
        values: dict[str, Any] = {}
        if cls.cells and ipc:
            dataset = table_dataset(spec, {name for name, _ in cls.cells})
            listed = [other for name, other in cls.cells if name == dataset]
            values = dict(cls.cells[dataset, nearest_ipc(ipc, listed)])
        hyper = cls.Hyper(**cls.adapt(values, spec, ipc))
        if schedule.name == "quick":
            hyper = cls.quicken(hyper, spec)
        else:
            scaled = {name: max(1, round(getattr(hyper, name) * schedule.factor)) for name in cls.scaled}
            hyper = dataclasses.replace(hyper, **scaled)
        hyper = dataclasses.replace(hyper, **(overrides or {}))
        for name in cls.positive:
            if getattr(hyper, name) < 1:
                raise ValueError(f"--set {cls.name}.{name}={getattr(hyper, name)}: needs 1 or more")
        return hyper
