"""Objectives: how far a synthetic batch is from a real one, as seen by a network.

An objective is a pure function of (network, real batch, synthetic batch). It returns a scalar that is a sum over
classes. An objective that sets `separable = False` compares its classes with each other, and is always called with all
of them. The batches [K, n, C, H, W] are what the network sees: normalised or whitened, and already augmented.

Of the real side an objective uses only means over images, and no network looks at two images at once. So with a
`microbatch` the real images of a class go through the network in parts of that size, and the mean of all is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmark.networks import Network
from benchmark.training.passes import EAGER, Passes

Objective = Callable[[Any, Tensor, Tensor, Tensor, Passes], Tensor]
"""(network, real_KNCHW, synthetic_KMCHW, classes_K, passes) -> loss summed over the K classes. The network is a
`Network`, or of a narrower type where the objective needs more of it (CAFE's needs the stages of a ConvNet)."""


def real_parts(batch: Tensor, microbatch: int | None, dim: int = 0) -> list[tuple[Tensor, float]]:
    """Return the batch in parts of at most `microbatch` images along `dim`, each with its share of all images."""
    size = batch.shape[dim]
    return [(part, part.shape[dim] / size) for part in batch.split(microbatch or size, dim)]


def with_gradient(value: Tensor, gradient: Tensor, images: Tensor) -> Tensor:
    """Return a loss, whose gradient in `images` is known, as a tensor that passes this gradient on to `images`."""
    return value + ((images - images.detach()) * gradient).sum()


def value_and_grad(
    objective: Objective,
    network: Network,
    real_KNCHW: Tensor,
    synthetic_KMCHW: Tensor,
    chunk: int = 1,
    classes: Tensor | None = None,
    passes: Passes = EAGER,
) -> tuple[Tensor, Tensor]:
    """Return (loss, its gradient with respect to the synthetic batch), computed `chunk` classes at a time.

    The loss is a sum over classes, so the chunks are exact and the graph of only one chunk is alive at once. An
    objective that is not separable gets everything in one piece. `classes` [K]: which classes they are, by default 0 ..
    K - 1. The caller sends the gradient on through augmentation and decoding: `augmented.backward(gradient)`.
    """
    classes = torch.arange(len(real_KNCHW), device=real_KNCHW.device) if classes is None else classes
    if not getattr(objective, "separable", True):
        chunk = len(classes)
    total, gradients = torch.zeros((), device=real_KNCHW.device), []
    for part in (slice(start, start + chunk) for start in range(0, len(classes), chunk)):
        leaf = synthetic_KMCHW[part].detach().requires_grad_()
        loss = objective(network, real_KNCHW[part], leaf, classes[part], passes)
        gradients.append(torch.autograd.grad(loss, leaf)[0])
        total += loss.detach()
    return total, torch.cat(gradients)
