"""How much memory of a GPU a cell will need, before anything runs: what the plan shows and a cluster divides GPUs by.

Nothing but activations is large here, so they are counted: those that autograd keeps of one image, times the images of
one pass, times what the kind of pass adds. It errs on the high side, because a cell that is given too little dies.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch.func import functional_call

from benchmark import networks, registry
from benchmark.cells import Evaluation, Job
from benchmark.data import DatasetSpec
from benchmark.task import PIXELS_AT_ONCE, SYNTHETIC_AT_MOST

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


def standing_bytes(spec: DatasetSpec) -> int:
    """What every process of a GPU holds: its context and the data set, a byte a value."""
    return CONTEXT + (spec.train_images + spec.test_images) * spec.pixels


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
