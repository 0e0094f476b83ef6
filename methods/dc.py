"""DC: gradient matching.

Paper      Zhao, Mopuri, Bilen, "Dataset Condensation with Gradient Matching", ICLR 2021
Code       VICO-UoE/DatasetCondensation (MIT)
Loss       sum_c sum_l sum_o  1 - cos( grad_l,o CE(S_c), grad_l,o CE(B_c) ),  rows o of every weight matrix or kernel
Settings   1000 iterations of (outer, inner) loops by IPC, lr_img 0.1, momentum 0.5, 256 real images a class, from noise
Deviations exactly `iterations` passes (the authors' loop makes one more); any IPC (see `loops`); randomness from the
           cell's generator, never from the clock. The quick schedule starts from real images
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch

from benchmark import networks
from benchmark.condensation.cost import LoopCost, Work
from benchmark.condensation.loop import Loop
from benchmark.condensation.method import Method
from benchmark.condensation.run import Run
from benchmark.condensation.settings import Schedule, Setting
from benchmark.condensation.task import SYNTHETIC_AT_MOST, Task
from benchmark.containers import Container
from benchmark.containers.pixels import Pixels
from benchmark.data import DatasetSpec
from benchmark.objectives.gradient_matching import Distance, GradientMatching
from benchmark.training.recipes import Recipe

PUBLISHED_LOOPS = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}

QUICK_STEPS = 30
"""Image steps of the quick schedule, at any IPC."""


def loops(ipc: int) -> tuple[int, int]:
    """Return (outer loop, inner epochs) of an IPC: the authors' table, and our rule where their code exits."""
    if ipc in PUBLISHED_LOOPS:
        return PUBLISHED_LOOPS[ipc]
    if ipc >= 100:
        return 50, 10
    return min(ipc, 50), max(1, round(500 / ipc))


@dataclass(frozen=True)
class DCHyper:
    iterations: Annotated[int, Setting(scaled=True)] = 1000
    """Networks drawn; each sees `outer_loop` image steps."""
    outer_loop: int = 1
    inner_epochs: int = 1
    """Epochs of network training on the synthetic set between two image steps."""
    lr_img: float = 0.1
    mom_img: float = 0.5
    lr_net: float = 0.01
    batch_net: int = 256
    batch_real: Annotated[int, Setting(quick=64)] = 256
    """Real images per class and step."""
    distance: Distance = "dc"
    init: Annotated[Literal["noise", "real"], Setting(quick="real")] = "noise"
    """The few steps of the quick schedule would end at chance if they began with noise."""


class DCLoop(Loop):
    """Gradient matching on networks that are trained on the synthetic set as it changes."""

    microbatches = True
    augments: ClassVar[bool] = False
    """Whether DSA augments both batches of a class, and network training."""

    def cost(self, spec: DatasetSpec, per_class: int, variants: int = 1) -> LoopCost:
        hyper, synthetic = self.hyper, per_class * spec.classes
        inner = hyper.iterations * (hyper.outer_loop - 1) * hyper.inner_epochs * synthetic
        shown = min(per_class, SYNTHETIC_AT_MOST) * spec.classes
        step = Work(trained=hyper.batch_real * spec.classes, matched=shown)
        return LoopCost(hyper.iterations * hyper.outer_loop, step, between=Work(trained=inner))

    def optimiser(self, container: Container) -> torch.optim.Optimizer:
        return torch.optim.SGD(container.parameters(), self.hyper.lr_img, self.hyper.mom_img)

    def move(self, container: Container, optimiser: torch.optim.Optimizer, task: Task, run: Run) -> None:
        hyper, strategy = self.hyper, task.strategy if self.augments else "none"
        network, objective = task.network(), GradientMatching(hyper.distance)
        steps = hyper.iterations * hyper.outer_loop
        for step in run.loop("condense", steps, container=container, optimiser=optimiser, network=network):
            outer = step % hyper.outer_loop
            if outer == 0:
                networks.initialise_(network, task.generator)
            real, synthetic = task.siamese(
                task.real_batch(hyper.batch_real), task.synthetic(container), strategy=strategy
            )
            run.log(loss=task.step(objective, network, real, synthetic, optimiser))
            if outer + 1 < hyper.outer_loop:
                task.train_on_synthetic(network, container, hyper.inner_epochs, hyper.lr_net, hyper.batch_net, strategy)


class DC(Method):
    """Gradient matching between real and synthetic batches of each class, from noise, without augmentation."""

    name, title, paper = "dc", "DC", "Zhao, Mopuri & Bilen, ICLR 2021"
    Hyper, Loop = DCHyper, DCLoop

    @classmethod
    def adapt(cls, values: dict[str, Any], spec: DatasetSpec, ipc: int, schedule: Schedule) -> dict[str, Any]:
        """The loops of the IPC; on the quick schedule about `QUICK_STEPS` image steps, and a short inner loop."""
        outer, inner = loops(ipc)
        if schedule.quick:
            inner = min(inner, 10)
            values = values | {"iterations": max(3, QUICK_STEPS // outer)}
        return values | {"outer_loop": outer, "inner_epochs": inner}

    def start(self, task: Task, run: Run) -> Container:
        return Pixels.of(task.noise(task.ipc) if self.hyper.init == "noise" else task.start_images(task.ipc))

    def native_recipe(self, spec: DatasetSpec, ipc: int) -> Recipe:
        # Our choice above 32 pixels, where there is no official run: as long as with augmentation.
        augments = self.Loop.augments
        epochs = 1000 if augments or max(spec.height, spec.width) > 32 else 300
        return Recipe(epochs=epochs, decay="halfway", augment="dsa" if augments else "none")
