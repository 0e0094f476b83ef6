"""The units of work that are timed. Each is the product's own path, driven through the method or the trainer itself,
with the plain reference beside it.

A condensation unit is one step of the method's loop at its published settings, without what is a unit of its own:
network training between two image steps. So the cost of a step depends only on the data set's shape and the IPC.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmark import data
from benchmark.augment.dsa import strategy_for
from benchmark.condensation.cost import Work
from benchmark.condensation.experts import ExpertTrainer, expert_recipe, trajectories
from benchmark.condensation.method import Method
from benchmark.condensation.run import Run
from benchmark.condensation.settings import Schedule
from benchmark.condensation.task import Task
from benchmark.containers.budget import Budget
from benchmark.data import DataError, Dataset, DatasetSpec, Split
from benchmark.evaluation.evaluate import evaluate
from benchmark.grid import registry
from benchmark.grid.hours import work_flops
from benchmark.networks import TRAINED_COST, Network, flops_per_image
from benchmark.networks import build as build_network
from benchmark.speed.plain import matching, training, unrolled
from benchmark.speed.plain.network import Step
from benchmark.store.cells import Evaluation
from benchmark.system.errors import CellError
from benchmark.system.runtime import MIB, Runtime, derive_seed
from benchmark.training.recipes import Recipe, unified
from benchmark.training.trainer import TrainingSet

PURPOSE = "speed"
"""What seeds every generator of a measurement."""

RANDOM_PER_CLASS = 300
"""Images of noise in each class where the data set is absent: more than any step draws."""

EXPERT_IMAGES = 1024
EXPERT_EPOCHS = 50
STUDENT_IMAGES = 256
"""Real images that the one expert of a student's path is trained on: one step."""

EVALUATION_STEPS = 2

GRAPH_BYTES = 4500
"""Bytes that the plain reference of an unroll keeps for each pixel of an image that a network sees in it (at 32x32
4,300 for MTT and 4,100 for LinBa)."""

GRAPH_SHARE = 0.7
"""The share of the free memory that this graph may take."""


class Unavailable(CellError):
    """A unit that cannot be measured here; the message says why."""

    reason = "not available"


@dataclass(frozen=True)
class Unit:
    """A unit of work done in two ways."""

    name: str
    ipc: int | None
    title: str
    phase: str
    """What the phases of the run are called in which the product does the unit."""
    steps: int
    """How many steps of that phase's loop make one unit."""
    flops: float | None
    """Floating-point operations of one unit, counted from its images as the plan counts them."""
    product: Callable[[Run], Any]
    """Does the unit again and again, until the run's loop ends."""
    plain: Step
    """Does the unit once."""

    @property
    def label(self) -> str:
        return f"{self.title}, IPC {self.ipc}" if self.ipc else self.title


@dataclass(frozen=True)
class Bench:
    """What all units are made of."""

    dataset: Dataset
    runtime: Runtime
    cache: Path
    """Folder for experts."""
    data_dir: Path | None = None
    """Where the data set was read; None where its images are noise."""
    inner_steps: int | None = None
    """Inner steps of the unrolled units; None takes each one's own number."""
    experts: int = 1
    """How many experts the unit of that name trains beside each other; as many as one group takes, if that is less."""

    @property
    def spec(self) -> DatasetSpec:
        return self.dataset.spec

    def task(self, name: str, ipc: int) -> Task:
        """Return a task on the data set, with the same random numbers at every call."""
        budget = Budget(ipc, self.spec.classes, self.spec.image_shape)
        generator = self.runtime.generator(PURPOSE, name, ipc)
        return Task(self.spec, self.dataset.train, budget, self.runtime, generator, cache=self.cache)


def with_few(task: Task, images: int) -> Task:
    """Return the same task on that many of its training images, of all classes in whichever order they lie."""
    if images >= len(task.train):
        return task
    return replace(task, train=task.train.subset(torch.linspace(0, len(task.train) - 1, images).long()))


def noise(spec: DatasetSpec, per_class: int = RANDOM_PER_CLASS) -> Dataset:
    """Return a data set of that shape whose images are noise."""
    generator = torch.Generator().manual_seed(derive_seed(PURPOSE, spec.name))
    count = per_class * spec.classes
    images = torch.randint(0, 256, (count, *spec.image_shape), dtype=torch.uint8, generator=generator)
    labels = torch.arange(spec.classes).repeat(per_class)
    mean, std = (0.5,) * spec.channels, (0.25,) * spec.channels
    split = Split(images, labels, torch.tensor(mean), torch.tensor(std), spec.classes)
    return Dataset(spec, split, split, mean, std, tuple(map(str, range(spec.classes))))


def dataset_or_noise(name: str, data_dir: Path) -> tuple[Dataset, bool]:
    """Return (the data set, whether its images are real). Nothing is downloaded. Raises ValueError for an unknown
    name."""
    try:
        return data.load(name, data_dir, download=False), True
    except DataError:
        return noise(data.spec(name, data_dir)), False


def names() -> list[str]:
    return list(_UNITS)


def build(name: str, ipc: int, bench: Bench) -> Unit:
    """Return a unit by name. Raises CellError if it does not fit the data set or the budget."""
    return _UNITS[name](name, ipc, bench)


def depends_on_ipc(name: str) -> bool:
    return name not in ("expert", "loading")


def _method(
    plain: Callable[..., Step], images: int = sys.maxsize, **settings: Any
) -> Callable[[str, int, Bench], Unit]:
    """A step of a method's loop on that many training images, at its published settings but for these."""

    def build(name: str, ipc: int, bench: Bench) -> Unit:
        cls, inner = registry.get(name), UNROLLED.get(name)
        overrides = settings | ({inner: bench.inner_steps} if inner and bench.inner_steps else {})
        hyper = cls.hyper_parameters(bench.spec, ipc, Schedule.parse("paper"), overrides)
        if inner:
            hyper = _with_room(cls, hyper, inner, bench.task(name, ipc))
        method = cls(hyper)

        def begin() -> tuple[Any, Any, Task]:
            task = bench.task(name, ipc)
            container = method.start(task, Run())
            return container, method.optimiser(container), with_few(task, images)

        title = f"{cls.title} outer step of {getattr(hyper, inner)}" if inner else f"{cls.title} step"
        flops = work_flops(_step(cls, hyper, bench.task(name, ipc)), bench.spec)
        return Unit(
            name, ipc, title, "condense", 1, flops,
            product=lambda run: method.loop.drive(*begin(), run), plain=plain(method.loop, *begin()),
        )  # fmt: skip

    return build


def _step(method: type[Method], hyper: Any, task: Task) -> Work:
    """One step of the loop, without the experts that it needs, on the real images that there are."""
    largest = max(map(len, task.train.class_indices))
    fewer = {name: min(getattr(hyper, name), largest) for name in ("batch_real", "query") if hasattr(hyper, name)}
    return method(replace(hyper, **fewer)).cost(task.spec, task.budget).loop.step


def _with_room(method: type[Method], hyper: Any, inner: str, task: Task) -> Any:
    """With fewer inner steps where the free memory does not hold the graphs of all of them at once."""
    free, steps = task.runtime.free_memory_mib(), getattr(hyper, inner)
    pixels = task.spec.height * task.spec.width
    graph = _step(method, hyper, task).matched * pixels * GRAPH_BYTES / MIB
    if free is None or graph <= GRAPH_SHARE * free:
        return hyper
    return replace(hyper, **{inner: max(1, int(steps * GRAPH_SHARE * free / graph))})


def _training(
    name: str,
    ipc: int | None,
    title: str,
    phase: str,
    steps: int,
    network: Network,
    images: TrainingSet,
    recipe: Recipe,
    seeds: Sequence[int],
    spec: DatasetSpec,
    product: Callable[[Run], Any],
) -> Unit:
    """`steps` optimiser steps of one network of that architecture for each seed."""
    plain = training.PlainTraining(network, seeds, images, recipe, strategy_for(spec.flip))
    count = itertools.count()

    def once() -> None:
        for _ in range(steps):
            plain.step(next(count))

    shown = steps * len(seeds) * min(recipe.batch, len(images))
    flops = TRAINED_COST * shown * flops_per_image(network, spec.image_shape)
    return Unit(name, ipc, title, phase, steps, flops, product, once)


def _expert(name: str, ipc: int, bench: Bench) -> Unit:
    """An epoch of experts on a part of the training set; the same at every IPC."""
    task = replace(with_few(bench.task(name, ipc), EXPERT_IMAGES), cache=None)  # or they would be found trained
    recipe, images = expert_recipe(EXPERT_EPOCHS), TrainingSet.real(task.train)
    trainer = ExpertTrainer(task, Run(), recipe)
    count = len(trainer.groups([*range(bench.experts)], [-1] * bench.experts)[0])  # the loop of a second is not timed
    seeds = [derive_seed(trainer.purpose, expert) for expert in range(count)]
    title = f"epoch of {count} expert{'s' * (count > 1)}, {len(images):,} images"
    return _training(
        name, None, title, "experts", recipe.steps_per_epoch(len(images)), trainer.network, images, recipe, seeds,
        bench.spec, lambda run: trajectories(task, run, count, recipe),
    )  # fmt: skip


def _evaluation(nets: int) -> Callable[[str, int, Bench], Unit]:
    """The first steps of training `nets` networks on a condensed set by the unified recipe."""

    def build(name: str, ipc: int, bench: Bench) -> Unit:
        task, recipe = bench.task(name, ipc), unified(ipc)
        labels = torch.arange(task.classes, device=task.device).repeat_interleave(ipc)
        images = TrainingSet.of(task.start_images(ipc).flatten(0, 1), labels)
        few = replace(bench.dataset, test=bench.dataset.test.subset(torch.arange(1)))  # scoring is not timed
        seeds = [derive_seed(PURPOSE, "evaluate", "convnet", index) for index in range(nets)]
        title = f"evaluation, {EVALUATION_STEPS} steps of {nets} networks"
        evaluation = Evaluation("unified", "convnet", nets, recipe, 1.0)
        network = build_network("convnet", bench.spec.image_shape, bench.spec.classes)
        return _training(
            name, ipc, title, "evaluate", EVALUATION_STEPS, network, images, recipe, seeds, bench.spec,
            lambda run: evaluate(evaluation, images, few, bench.runtime, run, PURPOSE),
        )  # fmt: skip

    return build


def _loading(name: str, ipc: int, bench: Bench) -> Unit:
    """From the files to a training set on the device; the same at every IPC."""
    source, device = bench.data_dir, bench.runtime.device
    if source is None:
        raise Unavailable(f"{bench.spec.title} is not there to be loaded")

    def product(run: Run) -> None:
        for _ in run.loop("load", sys.maxsize):
            data.load(bench.spec.name, source, device, download=False)

    title = f"loading {bench.spec.title}"
    return Unit(name, None, title, "load", 1, None, product, lambda: training.load(bench.spec.name, source, device))


UNROLLED = {"mtt": "syn_steps", "haba": "syn_steps", "linba": "inner_steps"}
"""The setting of such a method that counts the training steps which one step of its loop differentiates through."""

_STUDENT = {"zca": False, "experts": 1, "expert_epochs": 1, "max_start_epoch": 1, "syn_steps": 10}

_UNITS: dict[str, Callable[[str, int, Bench], Unit]] = {
    "dc": _method(matching.gradient_matching, outer_loop=1),
    "dsa": _method(matching.gradient_matching, outer_loop=1),
    "dm": _method(matching.distribution_matching),
    "cafe": _method(matching.feature_alignment, max_image_steps=1, max_inner_epochs=0),
    "idc": _method(matching.multi_formation_matching, passes=1),
    "hmn": _method(matching.multi_formation_matching, passes=1, warm_start=0),
    "expert": _expert,
    "mtt": _method(unrolled.trajectory_matching, STUDENT_IMAGES, **_STUDENT),
    "haba": _method(unrolled.trajectory_matching, STUDENT_IMAGES, **_STUDENT),
    "linba": _method(unrolled.training_matching, inner_steps=20),
    "evaluation-5": _evaluation(5),
    "evaluation-20": _evaluation(20),
    "loading": _loading,
}
