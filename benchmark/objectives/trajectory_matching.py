"""Trajectory matching: a student starts on an expert's path and should end further along it (Cazenavette et al., CVPR
2022).

MTT and HaBa share these pieces; the student's steps and their gradient are in `benchmark.training.unroll`.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

StepSizeParameter = Literal["plain", "log"]


def trajectory_distance(student: Tensor, target: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """Return (|student - target|^2 / |start - target|^2, its gradient in `student`) of flat weights [P], biases
    included."""
    difference, scale = student - target, (start - target).square().sum()
    return difference.square().sum() / scale, 2 * difference / scale


def inner_batches(images: int, size: int, steps: int, generator: torch.Generator) -> list[Tensor | None]:
    """Return the indices of the images that each of `steps` inner steps sees: chunks of random permutations of all
    `images`.

    None stands for all images in their order, if one batch holds them all (the loss does not depend on the order).
    """
    if size >= images:
        return [None] * steps
    chunks: list[Tensor] = []
    while len(chunks) < steps:
        chunks += torch.randperm(images, generator=generator, device=generator.device).split(size)
    return list(chunks[:steps])


class StepSize(nn.Module):
    """The learned step size alpha, kept above a floor. With `log`, its logarithm is what is learned."""

    def __init__(self, initial: float, floor: float, kind: StepSizeParameter = "plain") -> None:
        super().__init__()
        self.kind, self.floor = kind, floor
        self.value = nn.Parameter(torch.tensor(math.log(initial) if kind == "log" else initial))

    def forward(self) -> Tensor:
        return self.value.exp() if self.kind == "log" else self.value

    def optimiser(self, lr: float, momentum: float) -> torch.optim.Optimizer:
        """Return SGD with the published `lr` of a plain alpha. For the logarithm, `lr` is divided by alpha squared, so
        that the first step changes alpha by as much."""
        lr = lr / self().item() ** 2 if self.kind == "log" else lr
        return torch.optim.SGD(self.parameters(), lr, momentum)

    @torch.no_grad()
    def project_(self) -> None:
        """Bring the step size back to the floor if the last step went below it."""
        self.value.clamp_(min=math.log(self.floor) if self.kind == "log" else self.floor)
