"""Whole: the reference row above all others. It is the full training set, with nothing condensed.

It is evaluated by our own protocol: no public script reproduces the upper bounds that papers quote.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmark.condensation.cost import Cost
from benchmark.condensation.method import Method
from benchmark.condensation.run import Run
from benchmark.condensation.task import Task
from benchmark.containers import Container
from benchmark.containers.budget import Budget
from benchmark.containers.dataset import WholeSet
from benchmark.data import DatasetSpec


@dataclass(frozen=True)
class WholeHyper:
    """Nothing to set."""


class Whole(Method):
    """The whole training set."""

    name, title, category = "whole", "Whole set", "reference"
    Hyper = WholeHyper
    condenses = False

    def cost(self, spec: DatasetSpec, budget: Budget) -> Cost:
        return Cost(floats=0, images=0)

    def condense(self, task: Task, run: Run) -> Container:
        return WholeSet.of(task.train)
