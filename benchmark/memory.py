"""How much memory a cell will need, before anything runs: what the plan shows and a cluster divides GPUs by.

Nothing but activations is large here, so they are counted: those that autograd keeps of one image, times the images of
one pass, times what the kind of pass adds. Of a GPU it errs on the high side, because a cell that is given too little
dies; of a CPU's memory it is what was measured within a quarter or so (tests/core/test_memory.py).
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch.func import functional_call

from benchmark import networks, registry
from benchmark.cells import Evaluation, Job
from benchmark.data import DatasetSpec
from benchmark.experts import SNAPSHOT_BYTES
from benchmark.runtime import MIB
from benchmark.task import PIXELS_AT_ONCE, SYNTHETIC_AT_MOST
from benchmark.trainer import SCORING_BATCH

CONTEXT = 2**30
"""Of a process that holds a CUDA context, its kernels and cuDNN's workspace; an allowance, not measured."""

TRAINED = 2.0
"""Kept activations and their gradients, as a multiple of the former. Of networks side by side 1.1 to 1.6 where a norm's
output is rectified in place or pooled away soon, 1.97 of ResNet and DenseNet."""

MATCHED = 5.0
"""The same for a pass whose gradient is differentiated again (7.3 MB an image of 32x32x3 in a ConvNet of width 128, see
`PIXELS_AT_ONCE`, which keeps 1.6 MB for a plain backward pass)."""

USABLE = 0.9
"""Of a GPU, before its allocator's gaps make the difference."""

OPTIMISED = 4
"""Copies of a network's parameters while it is trained: itself, gradients, momentum, and one that is being made."""

PROCESS, LATER = 600 * MIB, 250 * MIB
"""Resident in a process when it plans, where the system does not tell; and what it imports later on, such as torch's
compiler and readers of data sets. Measured: 609 MiB, and 860 in all."""

WHITENED = 2
"""Copies of the training images as floats while a whitening is fitted; measured."""

MINIBATCH = 256
"""Of networks that a method trains on real images and says nothing else of."""

INNER_STEPS = ("syn_steps", "inner_steps")
"""What a loop that unrolls a training, and so has all classes in one graph, calls its steps."""

ONE_STEP = {
    "outer_loop": 1, "passes": 1, "max_image_steps": 1, "max_inner_epochs": 0, "aum_steps": 0, "beta_steps": 0,
} | dict.fromkeys(INNER_STEPS, 1)  # fmt: skip
"""Settings, by the names methods give them, that leave one step of a loop at scaled fields of 1."""


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
    cell, method = job.cell, registry.get(job.cell.method)
    images = method.decoded(method.Hyper(**cell.hyper), spec, cell.budget_on(spec))
    return math.ceil(standing_bytes(spec) + evaluation.nets * network_bytes(evaluation, images, spec))


def network_bytes(evaluation: Evaluation, images: int, spec: DatasetSpec) -> float:
    """What each network takes that an evaluation trains on so many images."""
    kept = TRAINED * evaluation.batch(images) * kept_bytes(evaluation.network, spec)
    return kept + OPTIMISED * parameter_bytes(evaluation.network, spec)


def trained_at_once(evaluation: Evaluation, images: int, spec: DatasetSpec, available: int) -> int:
    """Networks, one at least, that a GPU of `available` bytes trains together.

    Its whole memory counts, not what is free at the moment: an evaluation that is resumed has the groups it had.
    """
    room = USABLE * available - standing_bytes(spec)
    return max(1, int(room / network_bytes(evaluation, images, spec)))


def predicted_bytes_on_cpu(job: Job, spec: DatasetSpec, process: float | None = None) -> int:
    """Peak bytes resident in a process that condenses and evaluates one cell on a CPU, where networks and, unless they
    are in one graph, classes go one after the other. process: bytes resident when it plans."""
    needed = [condensing_bytes_on_cpu(job, spec)]
    cell, method = job.cell, registry.get(job.cell.method)
    images = method.decoded(method.Hyper(**cell.hyper), spec, cell.budget_on(spec))
    for evaluation in job.evaluations:
        kept = max(TRAINED * evaluation.batch(images), SCORING_BATCH) * kept_bytes(evaluation.network, spec)
        needed.append(kept + evaluation.nets * OPTIMISED * parameter_bytes(evaluation.network, spec))
    return math.ceil((process or PROCESS) + LATER + dataset_bytes(spec) + max(needed))


def condensing_bytes_on_cpu(job: Job, spec: DatasetSpec) -> float:
    """What a condensation holds at most on a CPU: activations, and of a loop that unrolls the weights of its steps, or
    before it the snapshots of experts or the floats that a whitening is fitted to."""
    (name, values), budget = job.cell.loop, job.cell.budget_on(spec)
    mover = registry.get(name)
    once = dict.fromkeys(mover.scaled, 1) | ONE_STEP
    step = mover.work(mover.Hyper(**values | {k: v for k, v in once.items() if k in values}), spec, budget)
    batch = values.get("batch_real", MINIBATCH)
    kept, weights = kept_bytes("convnet", spec), parameter_bytes("convnet", spec)
    if inner := sum(values.get(field, 0) for field in INNER_STEPS):
        length = round(step.experts / spec.train_images) if spec.train_images else 0  # of one expert, in epochs
        snapshots = min(SNAPSHOT_BYTES, values.get("experts", 0) * (length + 1) * weights)
        training = TRAINED * min(step.experts, batch) * kept + snapshots
        fitting = WHITENED * 4 * spec.train_images * spec.pixels if values.get("zca") else 0
        return max(MATCHED * step.matched * kept + 2 * inner * weights, training, fitting)
    real = min(batch, job.microbatch or math.inf)
    trained, forward, matched = (count / spec.classes for count in (step.trained, step.forward, step.matched))
    return (max(TRAINED * min(trained, real), min(forward, real)) + MATCHED * matched) * kept


def standing_bytes(spec: DatasetSpec) -> int:
    """What every process of a GPU holds: its context and the data set, a byte a value."""
    return CONTEXT + dataset_bytes(spec)


def dataset_bytes(spec: DatasetSpec) -> int:
    return (spec.train_images + spec.test_images) * spec.pixels


def share(needed: int, available: int) -> float:
    """The part of a GPU with `available` bytes to ask for, in hundredths; all of it where that is too little, or where
    nothing is known of it (0)."""
    return min(1.0, math.ceil(100 * needed / available) / 100) if available else 1.0


def parameter_bytes(network: str, spec: DatasetSpec) -> int:
    return sum(parameter.nbytes for parameter in _parameters(network, spec).values())


@cache
def kept_bytes(network: str, spec: DatasetSpec) -> int:
    """Bytes of activations that a forward pass keeps for the backward one, per image. Nothing is computed."""
    parameters = _parameters(network, spec)
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[id(tensor)] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        image = torch.empty(1, *spec.image_shape, device="meta")
        functional_call(networks.build(network, spec.image_shape, spec.classes), parameters, (image,))
    own = {id(parameter) for parameter in parameters.values()}
    return sum(tensor.nbytes for tensor in kept.values() if id(tensor) not in own)


@cache
def _parameters(network: str, spec: DatasetSpec) -> dict[str, torch.Tensor]:
    """On the meta device."""
    built = networks.build(network, spec.image_shape, spec.classes)
    return {name: p.detach().to("meta").requires_grad_() for name, p in built.named_parameters()}
