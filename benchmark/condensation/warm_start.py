"""Warm start: fitting decoded images to real ones, for containers whose first images would make no sense.

The pixel error knows nothing of classification. A start that was fitted by it is worth about as much as the real images
it was fitted to. It is used where a loop is too short to find images from noise, and that is always disclosed.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmark.condensation.run import Run
from benchmark.condensation.task import Task
from benchmark.containers import Container

FITTING_COST = 15.0
"""The cost of fitting an image, in forward passes of the container: forward and backward, where layers of a few
channels run at about a fifth of the speed of a network's (HMN's, on a CPU)."""


def fit_images(
    container: Container,
    targets: Callable[[Tensor], Tensor],
    optimiser: torch.optim.Optimizer,
    task: Task,
    run: Run,
    steps_per_image: int,
    at_most: int,
) -> None:
    """Move every image of the container towards a real image of its class, by the mean squared error of the pixels.

    The real images of a class are all different if it has enough of them; otherwise they repeat. `targets(indices_N)`
    gives training images [N, C, H, W] in the container's space. Each step shows a random `at_most` images of every
    class. The learning rate of the fresh `optimiser` falls to zero along a cosine.
    """
    targets_KG = task.start_indices(container.per_class)
    steps, shown = _lengths(container, steps_per_image, at_most)
    rates = [group["lr"] for group in optimiser.param_groups]
    for step in run.loop("warm start", steps, container=container, optimiser=optimiser):
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * (1 + math.cos(math.pi * step / steps)) / 2
        keys = torch.rand(targets_KG.shape, generator=task.generator, device=task.device)
        within_KM = keys.topk(shown, dim=1).indices
        decoded = container.decode_classes(within_KM).flatten(0, 1)
        loss = F.mse_loss(decoded, targets(targets_KG.gather(1, within_KM).flatten()))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        run.log(pixel_error=loss)


def fitting_flops(container: Container, steps_per_image: int, at_most: int) -> float:
    """Return the floating-point operations that `fit_images` will take, at the speed of a network's convolutions.

    container: of the same layout, on the meta device, so that nothing is computed.
    """
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        container.images()
    steps, shown = _lengths(container, steps_per_image, at_most)
    return FITTING_COST * steps * shown / container.per_class * counter.get_total_flops()


def _lengths(container: Container, steps_per_image: int, at_most: int) -> tuple[int, int]:
    """(steps in all, images of every class in each)."""
    shown = min(container.per_class, at_most)
    return steps_per_image * math.ceil(container.per_class / shown), shown
