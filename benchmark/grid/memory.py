"""An estimate, made before anything runs, of the memory that a cell will need. The plan shows it, and a cluster divides
its GPUs by it.

The counts are those of `benchmark.evaluation.footprint`. The estimate for a GPU errs on the high side, because a cell
that is given too little dies. The estimate for a CPU is within a quarter or so of what was measured
(tests/grid/test_memory.py).
"""

from __future__ import annotations

import math

from benchmark.condensation.cost import Cost
from benchmark.condensation.experts import SNAPSHOT_BYTES, ExpertTrajectories
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
from benchmark.store.cells import Evaluation, Job
from benchmark.system.runtime import MIB
from benchmark.training.trainer import SCORING_BATCH

MATCHED = 5.0
"""Like `TRAINED`, for a pass whose gradient is differentiated again (7.3 MB per image of 32x32x3 in a ConvNet of width
128, see `PIXELS_AT_ONCE`; a plain backward pass keeps 1.6 MB)."""

PROCESS, LATER = 600 * MIB, 250 * MIB
"""Bytes resident in a process when it plans, used if the system does not tell; and bytes that it takes later on by
imports, such as torch's compiler and readers of data sets. Measured: 609 MiB, and 860 in all."""

WHITENED = 2
"""Copies of the training images as floats while a whitening is fitted; measured."""

MINIBATCH = 256
"""The batch size assumed for networks that a method trains on real images, if it names none."""


def predicted_bytes(job: Job, spec: DatasetSpec, cost: Cost) -> int:
    """Return the peak bytes of a GPU that condensing and evaluating one cell of a data set takes."""
    scoring = [scoring_bytes(evaluation, spec, cost.images) for evaluation in job.evaluations]
    return max([condensing_bytes(job, spec, cost), *scoring])


def condensing_bytes(job: Job, spec: DatasetSpec, cost: Cost) -> int:
    """Return the peak bytes of a GPU that condensing a cell takes.

    A pass of a condensation is assumed to be as large as allowed (`PIXELS_AT_ONCE`, and `SYNTHETIC_AT_MOST` synthetic
    images per class), unless the training set or the whole cell shows fewer images than that.
    """
    work = cost.loop.work + cost.before
    at_once = (job.microbatch or math.inf) * spec.classes
    real = min(PIXELS_AT_ONCE / spec.pixels, spec.train_images or math.inf, at_once)
    synthetic = min(PIXELS_AT_ONCE / spec.pixels, SYNTHETIC_AT_MOST * spec.classes)
    trained = TRAINED * min(work.trained + work.experts, real)
    seen = max(trained, min(work.forward, real)) + MATCHED * min(work.matched, synthetic)
    return math.ceil(standing_bytes(spec) + seen * kept_bytes("convnet", spec))


def scoring_bytes(evaluation: Evaluation, spec: DatasetSpec, images: int) -> int:
    """Return the peak bytes of a GPU that one evaluation on so many images takes. Its networks are trained together, if
    there is room (`trained_at_once`)."""
    return math.ceil(standing_bytes(spec) + evaluation.nets * network_bytes(evaluation, images, spec))


def predicted_bytes_on_cpu(job: Job, spec: DatasetSpec, cost: Cost, process: float | None = None) -> int:
    """Return the peak bytes resident in a process that condenses and evaluates one cell on a CPU. Networks go there one
    after the other, and so do classes, unless they are in one graph. process: bytes resident when it plans."""
    needed = [condensing_bytes_on_cpu(job, spec, cost)]
    for evaluation in job.evaluations:
        kept = max(TRAINED * evaluation.batch(cost.images), SCORING_BATCH) * kept_bytes(evaluation.network, spec)
        needed.append(kept + evaluation.nets * OPTIMISED * parameter_bytes(evaluation.network, spec))
    return math.ceil((process or PROCESS) + LATER + dataset_bytes(spec) + max(needed))


def condensing_bytes_on_cpu(job: Job, spec: DatasetSpec, cost: Cost) -> float:
    """Return the most bytes that a condensation holds on a CPU: activations; for a loop that unrolls, also the weights
    of its steps, or, before it, the snapshots of experts or the floats that a whitening is fitted to."""
    step, unrolled, (_, values) = cost.loop.step, cost.loop.unrolled, job.cell.loop
    batch = values.get("batch_real", MINIBATCH)
    kept, weights = kept_bytes("convnet", spec), parameter_bytes("convnet", spec)
    if unrolled:
        wanted = [p for p in registry.build(job.cell).loop.prerequisites() if isinstance(p, ExpertTrajectories)]
        snapshots = sum(min(SNAPSHOT_BYTES, p.count * (p.epochs + 1) * weights) for p in wanted)
        training = TRAINED * min(cost.loop.before.experts, batch) * kept + snapshots
        fitting = WHITENED * 4 * spec.train_images * spec.pixels if any(p.zca for p in wanted) else 0
        return max(MATCHED * step.matched / unrolled * kept + 2 * unrolled * weights, training, fitting)
    real = min(batch, job.microbatch or math.inf)
    trained, forward, matched = (count / spec.classes for count in (step.trained, step.forward, step.matched))
    moving = max(TRAINED * min(trained, real), min(forward, real)) + MATCHED * matched
    embedding = TRAINED * min(cost.before.trained, MINIBATCH)  # of all classes, before the loop
    return max(moving, embedding) * kept


def share(needed: int, available: int) -> float:
    """Return the part of a GPU with `available` bytes to ask for, in hundredths; all of it if it is too small, or if
    nothing is known of it (0)."""
    return min(1.0, math.ceil(100 * needed / available) / 100) if available else 1.0
