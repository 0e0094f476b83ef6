"""How many bytes data sets and networks in training take. Everything that plans with memory counts by this file.

Only activations are large here. They are counted as those that autograd keeps of one image, times the images of one
batch, times what the backward pass adds.
"""

from __future__ import annotations

from functools import cache

import torch
from torch.func import functional_call

from benchmark import networks
from benchmark.data import DatasetSpec
from benchmark.store.cells import Evaluation

CONTEXT = 2**30
"""Bytes of a process that holds a CUDA context, its kernels and cuDNN's workspace; an allowance, not measured."""

TRAINED = 2.0
"""Kept activations and their gradients, as a multiple of the activations alone. For networks side by side it is 1.1 to
1.6 where a norm's output is rectified in place or pooled away soon, and 1.97 for ResNet and DenseNet."""

USABLE = 0.9
"""Share of a GPU that can be filled before the gaps of its allocator make the difference."""

OPTIMISED = 4
"""How many copies of a network's parameters exist while it is trained: itself, gradients, momentum, and one that is
being made."""


def network_bytes(evaluation: Evaluation, images: int, spec: DatasetSpec) -> float:
    """Return the bytes of each network that an evaluation trains on so many images."""
    kept = TRAINED * evaluation.batch(images) * kept_bytes(evaluation.network, spec)
    return kept + OPTIMISED * parameter_bytes(evaluation.network, spec)


def trained_at_once(evaluation: Evaluation, images: int, spec: DatasetSpec, available: int) -> int:
    """Return how many networks, one at least, a GPU of `available` bytes trains together.

    `available` is the GPU's whole memory, not what is free at the moment, so that a resumed evaluation has the groups
    it had.
    """
    room = USABLE * available - standing_bytes(spec)
    return max(1, int(room / network_bytes(evaluation, images, spec)))


def standing_bytes(spec: DatasetSpec) -> int:
    """Return what every process of a GPU holds: its context, and the data set at one byte per value."""
    return CONTEXT + dataset_bytes(spec)


def dataset_bytes(spec: DatasetSpec) -> int:
    return (spec.train_images + spec.test_images) * spec.pixels


def parameter_bytes(network: str, spec: DatasetSpec) -> int:
    return sum(parameter.nbytes for parameter in _parameters(network, spec).values())


@cache
def kept_bytes(network: str, spec: DatasetSpec) -> int:
    """Return the bytes of activations that a forward pass keeps for the backward pass, per image. Nothing is
    computed."""
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
