"""Methods for tests of the engine: quick ones, and ones that go wrong. They are registered by `registered`."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

import torch

from benchmark.condensation.cost import Cost
from benchmark.condensation.method import Method
from benchmark.condensation.settings import Schedule, Setting, shortened
from benchmark.containers.pixels import Pixels
from benchmark.grid import registry
from benchmark.store.cells import Cell, Evaluation, Job
from benchmark.system.errors import BudgetError
from benchmark.training.recipes import Recipe

SHORT = Recipe(steps=3, batch=16)


@dataclass(frozen=True)
class DriftHyper:
    iterations: Annotated[int, Setting(scaled=True, quick=6)] = 40
    rate: float = 0.1
    mode: str = "drift"


class Drift(Method):
    """Noise that drifts to the class means."""

    name, title, Hyper = "drift", "Drift", DriftHyper
    condensed = 0
    """How many times this class condensed since it was last set to 0."""

    def condense(self, task, run):
        Drift.condensed += 1
        pixels = torch.zeros(task.classes, task.ipc, *task.spec.image_shape)
        run.note("mode", self.hyper.mode)
        for _ in run.loop("condense", self.hyper.iterations, pixels=pixels):
            real = task.real_batch(8).mean(1, keepdim=True)
            pixels += self.hyper.rate * (real - pixels + 0.1 * task.noise(task.ipc))
            run.log(loss=(real - pixels).square().mean())
        return Pixels.of(pixels)


class Failing(Drift):
    """Fails as its hyper-parameter says."""

    name, title, category = "failing", "Failing", "variant"

    def condense(self, task, run):
        failures = {
            "raise": RuntimeError("the loss went round the corner"),
            "memory": MemoryError(),
            "disk": OSError(28, "No space left on device"),
            "budget": BudgetError("no room for a decoder"),
        }
        if self.hyper.mode in failures:
            raise failures[self.hyper.mode]
        if self.hyper.mode == "allocate":
            torch.empty(2**45)
        if self.hyper.mode == "nan":
            for _ in run.loop("condense", 2):
                run.log(loss=float("nan"))
        if self.hyper.mode == "large":
            return Pixels.of(task.noise(task.ipc + 1))
        return super().condense(task, run)


class Large(Drift):
    """Needs twice the budget."""

    name, title, category = "large", "Large", "variant"

    def cost(self, spec, budget):
        return Cost(2 * budget.floats, 2 * budget.ipc * spec.classes)

    def condense(self, task, run):
        return Pixels.of(task.noise(2 * task.ipc))


TOYS = {cls.name: cls for cls in (Drift, Failing, Large)}


@contextmanager
def registered(*classes: type[Method]) -> Iterator[None]:
    """Only `classes` and the methods of `methods/` are known inside."""
    known = registry.all_methods()
    before = dict(known)
    known.update({registry.check(cls).name: cls for cls in classes})
    try:
        yield
    finally:
        known.clear()
        known.update(before)


def toy_job(
    method: type[Method] = Drift,
    ipc: int = 1,
    seed: int = 0,
    evaluations: tuple[Evaluation, ...] | None = None,
    nets: int = 2,
    **settings,
) -> Job:
    """A cell of a toy method on digits with its quick settings, evaluated for three steps."""
    hyper = dataclasses.replace(shortened(method.Hyper(), Schedule.parse("quick")), **settings)
    cell = Cell(method.name, "digits", ipc, seed, "quick", "strict", "float32", method.version, dict(vars(hyper)))
    return Job(cell, evaluations or (Evaluation("unified", "convnet", nets, SHORT, 1.0),))
