"""Objectives: how far a synthetic batch is from a real one, as seen by a network.

An objective is a pure function of (network, real batch, synthetic batch) to a scalar that is a sum over classes. The
batches [K, n, C, H, W] are what the network sees: normalised or whitened, already augmented.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmark.networks import Network

Objective = Callable[[Network, Tensor, Tensor, Tensor], Tensor]
"""(network, real_KNCHW, synthetic_KMCHW, classes_K) -> loss summed over the K classes."""


def value_and_grad(
    objective: Objective, network: Network, real_KNCHW: Tensor, synthetic_KMCHW: Tensor, chunk: int = 1
) -> tuple[Tensor, Tensor]:
    """(loss, its gradient with respect to the synthetic batch), `chunk` classes at a time.

    The loss is a sum over classes, so the chunks are exact and only one chunk's graph is alive at once. The caller
    sends the gradient on through augmentation and decoding: `augmented.backward(gradient)`.
    """
    classes = torch.arange(len(real_KNCHW), device=real_KNCHW.device)
    total, gradients = torch.zeros((), device=real_KNCHW.device), []
    for part in (slice(start, start + chunk) for start in range(0, len(classes), chunk)):
        leaf = synthetic_KMCHW[part].detach().requires_grad_()
        loss = objective(network, real_KNCHW[part], leaf, classes[part])
        gradients.append(torch.autograd.grad(loss, leaf)[0])
        total += loss.detach()
    return total, torch.cat(gradients)
