"""DC: gradient matching.

Paper      Zhao, Mopuri, Bilen, "Dataset Condensation with Gradient Matching", ICLR 2021
Code       VICO-UoE/DatasetCondensation (MIT)
Loss       sum_c sum_l sum_o  1 - cos( grad_l,o CE(S_c), grad_l,o CE(B_c) ),  rows o of every weight matrix or kernel
Settings   1000 iterations of (outer, inner) loops by IPC, lr_img 0.1, momentum 0.5, 256 real images a class, from noise
Deviations exactly `iterations` passes (the authors' loop makes one more); any IPC (see `loops`); randomness from the
           cell's generator, never from the clock. The quick schedule starts from real images
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import torch

from benchmark import networks
from benchmark.condensation.method import Method, Work
from benchmark.condensation.run import Run
from benchmark.condensation.task import Task
from benchmark.containers import Container
from benchmark.containers.budget import Budget
from benchmark.containers.pixels import Pixels
from benchmark.data import DatasetSpec
from benchmark.objectives.gradient_matching import Distance, GradientMatching, distance_and_gradient
from benchmark.training.recipes import Recipe
from benchmark.training.trainer import train_epochs

PUBLISHED_LOOPS = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}

QUICK_STEPS, QUICK_REAL = 30, 64


def loops(ipc: int) -> tuple[int, int]:
    """(outer loop, inner epochs) of an IPC: the authors' table, and our rule where their code exits."""
    if ipc in PUBLISHED_LOOPS:
        return PUBLISHED_LOOPS[ipc]
    if ipc >= 100:
        return 50, 10
    return min(ipc, 50), max(1, round(500 / ipc))


@dataclass(frozen=True)
class DCHyper:
    iterations: int = 1000
    """Networks drawn; each sees `outer_loop` image steps."""
    outer_loop: int = 1
    inner_epochs: int = 1
    """Epochs of network training on the synthetic set between two image steps."""
    lr_img: float = 0.1
    mom_img: float = 0.5
    lr_net: float = 0.01
    batch_net: int = 256
    batch_real: int = 256
    """Real images per class and step."""
    distance: Distance = "dc"
    init: Literal["noise", "real"] = "noise"


class DC(Method):
    """Gradient matching between real and synthetic batches of each class, from noise, without augmentation."""

    name, title, paper = "dc", "DC", "Zhao, Mopuri & Bilen, ICLR 2021"
    Hyper = DCHyper
    microbatches = True
    scaled = ("iterations",)
    one_step = {"outer_loop": 1}
    augments = False

    @classmethod
    def adapt(cls, values: dict[str, Any], spec: DatasetSpec, ipc: int) -> dict[str, Any]:
        outer, inner = loops(ipc)
        return values | {"outer_loop": outer, "inner_epochs": inner}

    @classmethod
    def quicken(cls, hyper: DCHyper, spec: DatasetSpec) -> DCHyper:
        """About `QUICK_STEPS` image steps at any IPC on `QUICK_REAL` real images a class, a short inner loop, and a
        start from real images: from noise so few steps end at chance."""
        return dataclasses.replace(
            hyper,
            iterations=max(3, QUICK_STEPS // hyper.outer_loop),
            inner_epochs=min(hyper.inner_epochs, 10),
            batch_real=QUICK_REAL,
            init="real",
        )

    @classmethod
    def work(cls, hyper: DCHyper, spec: DatasetSpec, budget: Budget) -> Work:
        steps, synthetic = hyper.iterations * hyper.outer_loop, budget.ipc * spec.classes
        inner = hyper.iterations * (hyper.outer_loop - 1) * hyper.inner_epochs * synthetic
        return Work(trained=steps * hyper.batch_real * spec.classes + inner, matched=steps * synthetic)

    @classmethod
    def native_recipe(cls, hyper: DCHyper, spec: DatasetSpec, ipc: int) -> Recipe:
        # Our choice above 32 pixels, where there is no official run: as long as with augmentation.
        epochs = 1000 if cls.augments or max(spec.height, spec.width) > 32 else 300
        return Recipe(epochs=epochs, decay="halfway", augment="dsa" if cls.augments else "none")

    def start(self, task: Task, run: Run) -> Container:
        return Pixels.of(task.noise(task.ipc) if self.hyper.init == "noise" else task.start_images(task.ipc))

    def optimiser(self, container: Container) -> torch.optim.Optimizer:
        return torch.optim.SGD(container.parameters(), self.hyper.lr_img, self.hyper.mom_img)

    def move(self, container: Container, optimiser: torch.optim.Optimizer, task: Task, run: Run) -> None:
        hyper, strategy = self.hyper, task.strategy if self.augments else "none"
        network, work = task.network(), self.work(hyper, task.spec, task.budget)
        passes = task.passes(distance_and_gradient, network, work.trained, work.matched, exact=False)
        objective = GradientMatching(hyper.distance, task.runtime.batched, "all", task.microbatch, passes)
        steps, trainings = hyper.iterations * hyper.outer_loop, hyper.iterations * (hyper.outer_loop - 1)
        first_order = task.first_order(network, trainings * hyper.inner_epochs * container.num_images)
        for step in run.loop("condense", steps, container=container, optimiser=optimiser, network=network):
            outer = step % hyper.outer_loop
            if outer == 0:
                networks.initialise_(network, task.generator)
            real, synthetic = task.siamese(
                task.real_batch(hyper.batch_real), task.synthetic(container), strategy=strategy
            )
            run.log(loss=task.step(objective, network, real, synthetic, optimiser))
            if outer + 1 < hyper.outer_loop:
                images, labels = task.synthetic_set(container)
                settings = task.generator, hyper.lr_net, hyper.batch_net, strategy
                train_epochs(network, first_order, images, labels, hyper.inner_epochs, *settings)
