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
from typing import Annotated, Any, Literal

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
from benchmark.objectives.distribution_matching import distribution_matching
from benchmark.training.recipes import Recipe


@dataclass(frozen=True)
class DMHyper:
    iterations: Annotated[int, Setting(scaled=True, quick=100)] = 20_000
    lr_img: float = 1.0
    mom_img: float = 0.5
    batch_real: Annotated[int, Setting(quick=64)] = 256
    """Real images per class and step."""
    init: Literal["noise", "real"] = "real"


class DMLoop(Loop):
    """Distribution matching: a fresh, untrained network in every step."""

    microbatches = True

    def cost(self, spec: DatasetSpec, per_class: int, variants: int = 1) -> LoopCost:
        step = Work(
            forward=spec.classes * self.hyper.batch_real, trained=spec.classes * min(per_class, SYNTHETIC_AT_MOST)
        )
        return LoopCost(self.hyper.iterations, step)

    def optimiser(self, container: Container) -> torch.optim.Optimizer:
        return torch.optim.SGD(container.parameters(), self.hyper.lr_img, self.hyper.mom_img)

    def move(self, container: Container, optimiser: torch.optim.Optimizer, task: Task, run: Run) -> None:
        network = task.network()
        for _ in run.loop("condense", self.hyper.iterations, container=container, optimiser=optimiser):
            networks.initialise_(network, task.generator)
            real, synthetic = task.siamese(task.real_batch(self.hyper.batch_real), task.synthetic(container))
            run.log(loss=task.step(distribution_matching, network, real, synthetic, optimiser))


class DM(Method):
    """Distribution matching: class means in the embedding of untrained networks, under siamese augmentation."""

    name, title, paper = "dm", "DM", "Zhao & Bilen, WACV 2023"
    Hyper, Loop = DMHyper, DMLoop

    @classmethod
    def adapt(cls, values: dict[str, Any], spec: DatasetSpec, ipc: int, schedule: Schedule) -> dict[str, Any]:
        """Set lr_img by the authors' readme: 10 from IPC 100 on with ten classes, and above IPC 125 with a hundred;
        else 1."""
        large = ipc >= 100 if spec.classes < 50 else ipc > 125
        return values | {"lr_img": 10.0 if large else 1.0}

    def start(self, task: Task, run: Run) -> Container:
        return Pixels.of(task.noise(task.ipc) if self.hyper.init == "noise" else task.start_images(task.ipc))

    def native_recipe(self, spec: DatasetSpec, ipc: int) -> Recipe:
        return Recipe(epochs=1000, decay="halfway")
