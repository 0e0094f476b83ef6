"""What a cell of the grid is: its identity, and the evaluations asked of it.

A cell is one condensation: (method, dataset, IPC, seed) with everything resolved that can change its result. Its
key is a hash of exactly that, so a changed hyper-parameter is a new cell and an old result is never mistaken for
a new one. Evaluations (protocol x network) hang below the cell: asking for one more network trains that network
on the condensed set already there.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from dataclasses import dataclass, field
from typing import Any, cast

from benchmark.containers.budget import Budget, BudgetMode
from benchmark.data import DatasetSpec
from benchmark.store.records import MethodCard
from benchmark.system.files import canonical_json
from benchmark.training.recipes import Recipe

RESULT_FORMAT = 1
"""Raised when the meaning of stored results changes, so that older ones are not reused."""


@dataclass(frozen=True)
class Cell:
    """One condensation of the grid.

    `hyper` holds the method's hyper-parameters after the table, the overrides and the schedule were applied;
    `version` is the method's own version number, raised by its author when the algorithm changes.
    """

    method: str
    dataset: str
    ipc: int
    """Images per class of the budget; 0 stands for the whole training set."""
    seed: int
    schedule: str
    budget: str
    precision: str
    version: int
    hyper: dict[str, Any] = field(hash=False)
    objective: str = ""
    """The method whose loop moves the container; empty for the method's own."""
    objective_hyper: dict[str, Any] = field(default_factory=dict, hash=False)
    variant: str = ""
    """What the user set differently, as printed beside the method's name: `objective=dm lr_img=2`."""

    def config(self) -> dict[str, Any]:
        return {"format": RESULT_FORMAT} | dataclasses.asdict(self)

    @property
    def key(self) -> str:
        return hashlib.sha256(canonical_json(self.config()).encode()).hexdigest()[:16]

    @property
    def directory(self) -> str:
        """Name of the cell's folder below results/runs/: readable first, unique by its key."""
        dataset = re.sub(r"[^a-z0-9]+", "-", self.dataset.lower()).strip("-")[-40:]
        return f"{self.method}-{dataset}-ipc{self.ipc}-seed{self.seed}-{self.key}"

    @property
    def loop(self) -> tuple[str, dict[str, Any]]:
        """The method whose loop runs, and its hyper-parameters."""
        return (self.objective, self.objective_hyper) if self.objective else (self.method, self.hyper)

    def budget_on(self, spec: DatasetSpec) -> Budget:
        """The floats that the cell may store of its data set."""
        return Budget(self.ipc, spec.classes, spec.image_shape, cast(BudgetMode, self.budget))

    @property
    def label(self) -> str:
        size = "whole set" if self.ipc == 0 else f"IPC {self.ipc}"
        variant = f" [{self.variant}]" if self.variant else ""
        return f"{self.method}{variant} {self.dataset} {size} seed {self.seed}"


@dataclass(frozen=True)
class Evaluation:
    """Train `nets` fresh networks of one architecture on the condensed set by one recipe, and score them on test.

    `recipe` is the full-length one; `factor` is the schedule's, applied once the number of images is known.
    """

    protocol: str
    network: str
    nets: int
    recipe: Recipe
    factor: float

    @property
    def name(self) -> str:
        return f"{self.protocol}-{self.network}"

    def batch(self, images: int) -> int:
        """Return how many images are in a training step on a set of that size; 0 stands for a set larger than any
        batch."""
        return min(self.recipe.batch, images) if images else self.recipe.batch


@dataclass(frozen=True)
class Job:
    """A cell together with the evaluations the user asked for."""

    cell: Cell
    evaluations: tuple[Evaluation, ...]
    microbatch: int | None = None
    """Real images of a class in one pass (`Task.microbatch`). No part of the cell: what is computed is the same."""
    card: MethodCard = field(default_factory=MethodCard)
    """How the report names the cell's method. No part of the cell either."""
