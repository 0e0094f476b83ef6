"""DM: distribution matching.

Paper      Zhao, Bilen, "Dataset Condensation with Distribution Matching", WACV 2023
Code       VICO-UoE/DatasetCondensation (MIT)
Loss       sum_c | mean phi(A_w(B_c)) - mean phi(A_w(S_c)) |^2,  phi the embedding of a freshly drawn, untrained ConvNet
Settings   20,000 iterations, lr_img 1, momentum 0.5, 256 real images per class, from random real images
Deviations exactly `iterations` steps (the authors' loop makes one more); any IPC (their script exits for unlisted ones,
           although DM does not use the loop table)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
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
from benchmark.objectives.distribution_matching import distribution_matching, mean_embedding
from benchmark.training.recipes import Recipe


@dataclass(frozen=True)
class DMHyper:
    iterations: int = 20_000
    lr_img: float = 1.0
    mom_img: float = 0.5
    batch_real: int = 256
    """Real images per class and step."""
    init: Literal["noise", "real"] = "real"


class DM(Method):
    """Distribution matching: class means in the embedding of untrained networks, under siamese augmentation."""

    name, title, paper = "dm", "DM", "Zhao & Bilen, WACV 2023"
    Hyper = DMHyper
    microbatches = True
    scaled = ("iterations",)
    quick = {"iterations": 100, "batch_real": 64}

    @classmethod
    def adapt(cls, values: dict[str, Any], spec: DatasetSpec, ipc: int) -> dict[str, Any]:
        """The authors' readme: lr_img 10 from IPC 100 on with ten classes, and above IPC 125 with a hundred."""
        large = ipc >= 100 if spec.classes < 50 else ipc > 125
        return values | {"lr_img": 10.0 if large else 1.0}

    @classmethod
    def work(cls, hyper: DMHyper, spec: DatasetSpec, budget: Budget) -> Work:
        steps = hyper.iterations * spec.classes
        return Work(forward=steps * hyper.batch_real, trained=steps * budget.ipc)

    @classmethod
    def native_recipe(cls, hyper: DMHyper, spec: DatasetSpec, ipc: int) -> Recipe:
        return Recipe(epochs=1000, decay="halfway")

    def start(self, task: Task, run: Run) -> Container:
        return Pixels.of(task.noise(task.ipc) if self.hyper.init == "noise" else task.start_images(task.ipc))

    def optimiser(self, container: Container) -> torch.optim.Optimizer:
        return torch.optim.SGD(container.parameters(), self.hyper.lr_img, self.hyper.mom_img)

    def move(self, container: Container, optimiser: torch.optim.Optimizer, task: Task, run: Run) -> None:
        network = task.network()
        real_side = task.forward(mean_embedding, network, self.work(self.hyper, task.spec, task.budget).forward)
        objective = partial(distribution_matching, microbatch=task.microbatch, real_side=real_side)
        for _ in run.loop("condense", self.hyper.iterations, container=container, optimiser=optimiser):
            networks.initialise_(network, task.generator)
            real, synthetic = task.siamese(task.real_batch(self.hyper.batch_real), task.synthetic(container))
            run.log(loss=task.step(objective, network, real, synthetic, optimiser))
