"""An estimate, made before anything runs, of how long a cell will take: its arithmetic over the speed of the machine.

The arithmetic is counted in images. The speed is what `python -m benchmark.speed` measured on the same device for the
same kind of step, if the results folder has that; otherwise it is that of a convolution, tried out for a moment.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property

import torch
import torch.nn.functional as F

from benchmark import networks
from benchmark.condensation.cost import Cost, Work
from benchmark.condensation.method import nearest_ipc
from benchmark.data import DatasetSpec
from benchmark.grid import registry
from benchmark.networks import MATCHED_COST, TRAINED_COST
from benchmark.store.cells import Job
from benchmark.store.records import Speed as SpeedRecord
from benchmark.system.runtime import Precision, Runtime
from benchmark.training.recipes import Recipe

EVALUATION, EXPERT = "evaluation-5", "expert"
"""The units of `benchmark.speed` whose rates are assumed for evaluations and for the training of experts."""


@dataclass(frozen=True)
class MeasuredUnit:
    """The measured speed of one kind of step on a data set's images."""

    name: str
    dataset: str
    ipc: int
    """1 if the step does not depend on it."""
    rate: float
    """FLOP per second."""


@dataclass
class Speed:
    """The speed, in FLOP per second, of the device where jobs would run."""

    probe: Callable[[], float | None]
    """Returns the speed of a network's step in general (`probe_speed`), or None if nothing is known. It is called only
    if needed, and once."""
    units: list[MeasuredUnit] = field(default_factory=list)
    """What was measured on that device (see `measured_units`)."""

    def of(self, names: Sequence[str], per_class: float, spec: DatasetSpec) -> float | None:
        """Return the rate of the first of these units that was measured on the data set, at the nearest number of
        images per class (0 stands for the whole training set, and so for the largest number); otherwise the probe's
        rate."""
        for name in names:
            rates = {unit.ipc: unit.rate for unit in self.units if (unit.name, unit.dataset) == (name, spec.title)}
            if rates:
                return rates[nearest_ipc(per_class, list(rates)) if per_class else max(rates)]
        return self._probed

    @cached_property
    def _probed(self) -> float | None:
        return self.probe()


def measured_units(measured: SpeedRecord | None, device: str, precision: Precision) -> list[MeasuredUnit]:
    """Return the units of a stored measurement (`Store.speed`) that were measured on this device in this precision and
    have a rate. A measurement on a busy machine gives none."""
    if not measured or measured.contended or (measured.environment.device, measured.precision) != (device, precision):
        return []
    return [
        MeasuredUnit(unit.unit, measured.dataset, unit.ipc or 1, unit.product.flops_per_second)
        for unit in measured.units
        if unit.product.flops_per_second
    ]


def estimate_seconds(spec: DatasetSpec, job: Job, cost: Cost, speed: Speed) -> float | None:
    """Return the seconds to condense and evaluate one cell by itself; None if nothing is known of the speed."""
    cell = job.cell
    parts = [
        (work_flops(cost.without_experts(), spec), units_of(cell.loop[0]), cell.ipc),
        (work_flops(Work(experts=cost.work.experts), spec), [EXPERT], cell.ipc),
        (scoring_flops(spec, job, cost.images), [EVALUATION], cost.images / spec.classes),
    ]
    seconds = []
    for flops, units, per_class in parts:
        if flops:
            rate = speed.of(units, per_class, spec)
            if not rate:
                return None
            seconds.append(flops / rate)
    return sum(seconds)


def units_of(method: str) -> list[str]:
    """Return the units that stand for a step of the method, the best first: its own, then those of its base classes."""
    return [vars(base)["name"] for base in registry.get(method).__mro__ if "name" in vars(base)]


def scoring_flops(spec: DatasetSpec, job: Job, images: int) -> float:
    """Return the floating-point operations of a job's evaluations on so many images; 0 stands for the whole training
    set."""
    total = 0.0
    for evaluation in job.evaluations:
        recipe: Recipe = evaluation.recipe.scaled(evaluation.factor, max(images, 1))
        steps = recipe.total_steps(max(images, 1))
        network = forward_flops(evaluation.network, spec.image_shape, spec.classes)
        total += evaluation.nets * TRAINED_COST * network * evaluation.batch(images) * steps
    return total


def work_flops(work: Work, spec: DatasetSpec) -> float:
    """Return the floating-point operations of condensation work, on the ConvNet that the data set is condensed on."""
    forward = networks.flops_per_image(networks.build_matching(spec.image_shape, spec.classes), spec.image_shape)
    images = work.forward + TRAINED_COST * (work.trained + work.experts) + MATCHED_COST * work.matched
    return forward * images + work.flops


@cache
def forward_flops(network: str, shape: tuple[int, int, int], classes: int) -> float:
    return networks.flops_per_image(networks.build(network, shape, classes), shape)


def probe_speed(runtime: Runtime) -> float:
    """Return the FLOP per second of a ConvNet-sized convolution times the share that real steps reach, measured in 0.3
    seconds."""
    images = torch.randn(64, 128, 16, 16, device=runtime.device)
    weight = torch.randn(128, 128, 3, 3, device=runtime.device)
    flops = 2 * images.shape[0] * 128 * 128 * 9 * 256
    F.conv2d(images, weight, padding=1)
    repeats, start = 0, time.perf_counter()
    while time.perf_counter() - start < 0.3:
        out = F.conv2d(images, weight, padding=1)
        repeats += 1
        if runtime.device.type == "cuda":
            out[0, 0, 0, 0].item()
    return STEP_EFFICIENCY * flops * repeats / (time.perf_counter() - start)


STEP_EFFICIENCY = 0.6
"""The share of the bare convolution's speed that whole steps reach (normalisation, pooling, augmentation, Python)."""
