"""How much memory a cell will need, before anything runs: what the plan shows and a cluster divides GPUs by.

Counted by `benchmark.evaluation.footprint`. Of a GPU it errs on the high side, because a cell that is given too little
dies; of a CPU's memory it is what was measured within a quarter or so (tests/grid/test_memory.py).
"""

from __future__ import annotations

import math
from dataclasses import replace

from benchmark.condensation.experts import SNAPSHOT_BYTES
from benchmark.condensation.task import PIXELS_AT_ONCE, SYNTHETIC_AT_MOST
from benchmark.data import DatasetSpec
from benchmark.evaluation.footprint import (
    OPTIMISED,
    TRAINED,
    dataset_bytes,
    kept_bytes,
    network_bytes,
    parameter_bytes,
    standing_bytes,
)
from benchmark.grid import registry
from benchmark.grid.hours import decoded
from benchmark.store.cells import Evaluation, Job
from benchmark.system.runtime import MIB
from benchmark.training.trainer import SCORING_BATCH

MATCHED = 5.0
"""As `TRAINED`, of a pass whose gradient is differentiated again (7.3 MB an image of 32x32x3 in a ConvNet of width 128,
see `PIXELS_AT_ONCE`, which keeps 1.6 MB for a plain backward pass)."""

PROCESS, LATER = 600 * MIB, 250 * MIB
"""Resident in a process when it plans, where the system does not tell; and what it imports later on, such as torch's
compiler and readers of data sets. Measured: 609 MiB, and 860 in all."""

WHITENED = 2
"""Copies of the training images as floats while a whitening is fitted; measured."""

MINIBATCH = 256
"""Of networks that a method trains on real images and says nothing else of."""


def predicted_bytes(job: Job, spec: DatasetSpec) -> int:
    """Peak bytes of a GPU that condensing and evaluating one cell of a data set takes."""
    return max([condensing_bytes(job, spec), *(scoring_bytes(job, e, spec) for e in job.evaluations)])


def condensing_bytes(job: Job, spec: DatasetSpec) -> int:
    """Peak bytes of a GPU that condensing a cell takes.

    A pass of a condensation is taken to be as large as the substrate allows (`PIXELS_AT_ONCE`; of synthetic images
    `SYNTHETIC_AT_MOST` a class), unless the training set or the whole cell shows fewer images than that.
    """
    name, values = job.cell.loop
    mover = registry.get(name)
    work = mover.work(mover.Hyper(**values), spec, job.cell.budget_on(spec))
    at_once = (job.microbatch or math.inf) * spec.classes
    real = min(PIXELS_AT_ONCE / spec.pixels, spec.train_images or math.inf, at_once)
    synthetic = min(PIXELS_AT_ONCE / spec.pixels, SYNTHETIC_AT_MOST * spec.classes)
    trained = TRAINED * min(work.trained + work.experts, real)
    seen = max(trained, min(work.forward, real)) + MATCHED * min(work.matched, synthetic)
    return math.ceil(standing_bytes(spec) + seen * kept_bytes("convnet", spec))


def scoring_bytes(job: Job, evaluation: Evaluation, spec: DatasetSpec) -> int:
    """Peak bytes of a GPU that one evaluation of a cell takes with its networks trained together, as they are where
    there is room (`trained_at_once`)."""
    images = decoded(spec, job.cell.budget_on(spec), job)
    return math.ceil(standing_bytes(spec) + evaluation.nets * network_bytes(evaluation, images, spec))


def predicted_bytes_on_cpu(job: Job, spec: DatasetSpec, process: float | None = None) -> int:
    """Peak bytes resident in a process that condenses and evaluates one cell on a CPU, where networks and, unless they
    are in one graph, classes go one after the other. process: bytes resident when it plans."""
    needed, images = [condensing_bytes_on_cpu(job, spec)], decoded(spec, job.cell.budget_on(spec), job)
    for evaluation in job.evaluations:
        kept = max(TRAINED * evaluation.batch(images), SCORING_BATCH) * kept_bytes(evaluation.network, spec)
        needed.append(kept + evaluation.nets * OPTIMISED * parameter_bytes(evaluation.network, spec))
    return math.ceil((process or PROCESS) + LATER + dataset_bytes(spec) + max(needed))


def condensing_bytes_on_cpu(job: Job, spec: DatasetSpec) -> float:
    """What a condensation holds at most on a CPU: activations, and of a loop that unrolls the weights of its steps, or
    before it the snapshots of experts or the floats that a whitening is fitted to."""
    (name, values), budget = job.cell.loop, job.cell.budget_on(spec)
    mover = registry.get(name)
    once = mover.single_step(mover.Hyper(**values))
    if mover.unrolls:
        once = replace(once, **{mover.unrolls: 1})
    step = mover.work(once, spec, budget)
    batch = values.get("batch_real", MINIBATCH)
    kept, weights = kept_bytes("convnet", spec), parameter_bytes("convnet", spec)
    if mover.unrolls:
        length = round(step.experts / spec.train_images) if spec.train_images else 0  # of one expert, in epochs
        snapshots = min(SNAPSHOT_BYTES, values.get("experts", 0) * (length + 1) * weights)
        training = TRAINED * min(step.experts, batch) * kept + snapshots
        fitting = WHITENED * 4 * spec.train_images * spec.pixels if values.get("zca") else 0
        return max(MATCHED * step.matched * kept + 2 * values[mover.unrolls] * weights, training, fitting)
    real = min(batch, job.microbatch or math.inf)
    trained, forward, matched = (count / spec.classes for count in (step.trained, step.forward, step.matched))
    return (max(TRAINED * min(trained, real), min(forward, real)) + MATCHED * matched) * kept


def share(needed: int, available: int) -> float:
    """The part of a GPU with `available` bytes to ask for, in hundredths; all of it where that is too little, or where
    nothing is known of it (0)."""
    return min(1.0, math.ceil(100 * needed / available) / 100) if available else 1.0
