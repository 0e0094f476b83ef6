"""Whole: the reference row above all others. The full training set, nothing condensed.

Evaluation by our own protocol: no public script reproduces the upper bounds that papers quote.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmark.condensation.method import Method
from benchmark.condensation.run import Run
from benchmark.condensation.task import Task
from benchmark.containers import Container
from benchmark.containers.dataset import WholeSet


@dataclass(frozen=True)
class WholeHyper:
    """Nothing to set."""


class Whole(Method):
    """The whole training set."""

    name, title, category = "whole", "Whole set", "reference"
    Hyper = WholeHyper
    condenses = False

    def condense(self, task: Task, run: Run) -> Container:
        return WholeSet.of(task.train)
