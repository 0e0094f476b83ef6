"""Pixel mean: condensed images drift to where their mean is the mean of their class.

Paper      this example
Loss       sum_c | mean A_w(B_c) - mean A_w(S_c) |^2, one random transform per class and step for both batches
Settings   1000 iterations, lr_img 0.1, 64 real images per class, from random real images
Deviations none
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch

from benchmark.condensation.cost import LoopCost
from benchmark.condensation.loop import Loop
from benchmark.condensation.method import Method
from benchmark.condensation.run import Run
from benchmark.condensation.settings import Setting
from benchmark.condensation.task import Task
from benchmark.containers import Container
from benchmark.containers.pixels import Pixels
from benchmark.data import DatasetSpec


@dataclass(frozen=True)
class PixelMeanHyper:
    iterations: Annotated[int, Setting(scaled=True, quick=50, at_least=1)] = 1000
    lr_img: float = 0.1
    batch_real: int = 64
    """Real images per class and step."""


class PixelMeanLoop(Loop):
    """Move the mean of a class's images to that of a real batch."""

    def cost(self, spec: DatasetSpec, per_class: int, variants: int = 1) -> LoopCost:
        return LoopCost(self.hyper.iterations)  # no network sees an image

    def optimiser(self, container: Container) -> torch.optim.Optimizer:
        return torch.optim.SGD(container.parameters(), self.hyper.lr_img)

    def move(self, container: Container, optimiser: torch.optim.Optimizer, task: Task, run: Run) -> None:
        for _ in run.loop("condense", self.hyper.iterations, container=container, optimiser=optimiser):
            real, synthetic = task.siamese(task.real_batch(self.hyper.batch_real), task.synthetic(container))
            loss = (real.mean(1) - synthetic.mean(1)).square().sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            run.log(loss=loss)


class PixelMean(Method):
    """Match the mean pixels of each class."""

    name, title, paper = "pixel-mean", "Pixel mean", "an example"
    Hyper, Loop = PixelMeanHyper, PixelMeanLoop

    def start(self, task: Task, run: Run) -> Container:
        return Pixels.of(task.start_images(task.ipc))
