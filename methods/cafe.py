"""CAFE and CAFE+DSA: feature alignment with a dynamic bi-level loop.

Paper      Wang, Zhao, Peng, Zhu, Yang, Wang, Huang, Bilen, Wang, You, "CAFE: Learning to Condense Dataset by Aligning
           Features", CVPR 2022
Code       kaiwang960112/CAFE (no licence: written from a description, nothing of it is used)
Loss       sum_l w_l sum_c | mean f_l(B_c) - mean f_l(S_c) |^2 + 0.01 sum_c,n CE(<f(B_cn), mean f(S)>, c),  f_l the
           maps of all layers of a network in training; w 0.1 for all blocks but the last, 1 for the last one, 2 for the
           pooled map f
Settings   2000 networks; lr_img 0.1 halved after 60, 80, 90 %, momentum 0.5, 256 real images per class, from noise.
           Image steps with a network end when its last 10 query accuracies lie within lambda1 = 0.04; between two of
           them it is trained on S until its last 10 lie wider than lambda2 = 0.03
Deviations query accuracy starts anew at every query (`leaky_query` for the authors' running value); caps of 200 image
           steps a network and 200 epochs a step (their loop can be endless), hits counted in the result; real features
           detached, no loss term without gradient; any class count, image size and depth (theirs: 10, 32x32x3, 3).
           CAFE+DSA has no published command: siamese DSA on both batches, DSA in network training, none on queries.
           Both windows are judged when full
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from benchmark import networks
from benchmark.condensation.method import Method, Work
from benchmark.condensation.run import STEPS_TAKEN, Run
from benchmark.condensation.task import Task
from benchmark.containers import Container
from benchmark.containers.budget import Budget
from benchmark.containers.pixels import Pixels
from benchmark.data import DatasetSpec
from benchmark.networks import Network
from benchmark.objectives.feature_alignment import FeatureAlignment, means_and_pooled
from benchmark.training.passes import Pass
from benchmark.training.recipes import Recipe
from benchmark.training.trainer import SCORING_BATCH, scale_lr, train_epochs


@dataclass(frozen=True)
class CAFEHyper:
    iterations: int = 2000
    """Networks drawn."""
    lr_img: float = 0.1
    mom_img: float = 0.5
    batch_real: int = 256
    """Real images per class and image step."""
    query: int = 128
    """Real images per class whose accuracy drives the loops."""
    window: int = 10
    """Queries that are compared."""
    lambda1: float = 0.04
    """A network is done when its queries between image steps differ by less."""
    lambda2: float = 0.03
    """Its training between two image steps ends when its queries differ by more."""
    max_image_steps: int = 200
    max_inner_epochs: int = 200
    leaky_query: bool = False
    """Queries are (previous query + sum of class accuracies) / classes, as in the authors' code."""
    discrimination: float = 0.01
    lr_net: float = 0.01
    batch_net: int = 256
    init: Literal["noise", "real"] = "noise"


Answer = Callable[[Tensor], Tensor]
"""`guesses` of a network (`Task.forward`)."""


class Window:
    """The last few query accuracies of a network."""

    def __init__(self, size: int, leaky: bool) -> None:
        self.size, self.leaky = size, leaky
        self.accuracies: list[float] = []

    def add(self, class_accuracies: Sequence[float]) -> None:
        """Take up a query: the accuracy of every class in [0, 1]."""
        carried = self.accuracies[-1] if self.leaky and self.accuracies else 0.0
        accuracy = (carried + sum(class_accuracies)) / len(class_accuracies)
        self.accuracies = [*self.accuracies, accuracy][-self.size :]

    @property
    def full(self) -> bool:
        return len(self.accuracies) == self.size

    @property
    def spread(self) -> float:
        return max(self.accuracies) - min(self.accuracies)


class BiLevel:
    """Where the dynamic loop stands: the queries of the current network and what was counted; part of a checkpoint."""

    def __init__(self, window: Window) -> None:
        self.window, self.done = window, False
        self.counts = dict.fromkeys(
            ("networks", "image_steps", "inner_epochs", "image_step_caps_hit", "inner_epoch_caps_hit"), 0
        )

    def next_network(self) -> None:
        self.window.accuracies, self.done = [], False
        self.counts["networks"] += 1

    def state_dict(self) -> dict[str, Any]:
        return {"accuracies": self.window.accuracies, "done": self.done, "counts": dict(self.counts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.window.accuracies, self.done = list(state["accuracies"]), state["done"]
        self.counts.update(state["counts"])


class CAFE(Method):
    """Alignment of class means in every layer of networks in training, from noise, without augmentation."""

    name, title, paper = "cafe", "CAFE", "Wang et al., CVPR 2022"
    Hyper = CAFEHyper
    microbatches = True
    scaled = ("iterations",)
    one_step = {"max_image_steps": 1, "max_inner_epochs": 0}
    quick = {"iterations": 3, "max_image_steps": 10, "max_inner_epochs": 10, "batch_real": 64, "query": 16}
    augments = False

    @classmethod
    def work(cls, hyper: CAFEHyper, spec: DatasetSpec, budget: Budget) -> Work:
        steps, epochs = cls.least(hyper)
        real = spec.classes * (steps * hyper.batch_real + (steps + epochs) * hyper.query)
        return Work(forward=real, trained=(steps + epochs) * budget.ipc * spec.classes)

    @classmethod
    def least(cls, hyper: CAFEHyper) -> tuple[int, int]:
        """(image steps, epochs of network training) with every window judged as soon as it is full."""
        steps = hyper.iterations * min(hyper.window, hyper.max_image_steps)
        return steps, steps * min(hyper.window, hyper.max_inner_epochs)

    @classmethod
    def native_recipe(cls, hyper: CAFEHyper, spec: DatasetSpec, ipc: int) -> Recipe:
        return Recipe(epochs=1000 if cls.augments else 600, decay="halfway", augment="dsa" if cls.augments else "none")

    def start(self, task: Task, run: Run) -> Container:
        return Pixels.of(task.noise(task.ipc) if self.hyper.init == "noise" else task.start_images(task.ipc))

    def optimiser(self, container: Container) -> torch.optim.Optimizer:
        return torch.optim.SGD(container.parameters(), self.hyper.lr_img, self.hyper.mom_img)

    def move(self, container: Container, optimiser: torch.optim.Optimizer, task: Task, run: Run) -> None:
        """A step of the run is one image step with its network training. A network that is done early leaves the rest
        of its `max_image_steps` steps empty: how many it needs is not known before."""
        hyper, strategy = self.hyper, task.strategy if self.augments else "none"
        network = task.network()
        shown = self.work(hyper, task.spec, task.budget).forward
        real_side, answer = (task.forward(function, network, shown) for function in (means_and_pooled, guesses))
        objective = FeatureAlignment(hyper.discrimination, task.runtime.batched, task.microbatch, real_side)
        first_order = task.first_order(network, self.least(hyper)[1] * container.num_images)
        loop = BiLevel(self.window())
        steps = hyper.iterations * hyper.max_image_steps
        state = {"container": container, "optimiser": optimiser, "network": network, "loop": loop}
        for step in run.loop("condense", steps, **state):
            iteration, image_step = divmod(step, hyper.max_image_steps)
            if image_step == 0:
                networks.initialise_(network, task.generator)
                loop.next_network()
                halvings = sum(10 * iteration >= tenths * hyper.iterations for tenths in (6, 8, 9))
                scale_lr(optimiser, 0.5**halvings)
            if loop.done:
                continue
            real, synthetic = task.siamese(
                task.real_batch(hyper.batch_real), task.synthetic(container), strategy=strategy
            )
            run.log(loss=task.step(objective, network, real, synthetic, optimiser))
            loop.counts["image_steps"] += 1
            loop.window.add(query(answer, task, hyper.query))
            settled = loop.window.full and loop.window.spread < hyper.lambda1
            capped = not settled and image_step + 1 == hyper.max_image_steps
            loop.counts["image_step_caps_hit"] += capped
            loop.done = settled or capped
            if not loop.done:
                self.train(network, first_order, answer, container, task, strategy, loop.counts)
            run.note("bi_level_loop", dict(loop.counts))
            run.note(STEPS_TAKEN, loop.counts["image_steps"])

    def window(self) -> Window:
        return Window(self.hyper.window, self.hyper.leaky_query)

    def train(
        self,
        network: Network,
        first_order: Pass,
        answer: Answer,
        container: Container,
        task: Task,
        strategy: str,
        counts: dict[str, int],
    ) -> None:
        """Train the network on the synthetic set until it has moved: its queries span more than lambda2."""
        hyper, window = self.hyper, self.window()
        images, labels = task.synthetic_set(container)
        settings = task.generator, hyper.lr_net, hyper.batch_net, strategy
        for _ in range(hyper.max_inner_epochs):
            train_epochs(network, first_order, images, labels, 1, *settings)
            counts["inner_epochs"] += 1
            window.add(query(answer, task, hyper.query))
            if window.full and window.spread > hyper.lambda2:
                return
        counts["inner_epoch_caps_hit"] += 1


class CAFEDSA(CAFE):
    """CAFE under one random transform per class, shared by real and synthetic images."""

    name, title = "cafe-dsa", "CAFE+DSA"
    augments = True


def guesses(network: Network, images_NCHW: Tensor) -> Tensor:
    """The class [N] that a network sees in every image."""
    return network(images_NCHW).argmax(1)


def query(answer: Answer, task: Task, per_class: int) -> list[float]:
    """Accuracy of a network's `guesses` on a random batch of real images of each class."""
    batch_KNCHW = task.real_batch(per_class)
    # Whole classes at a time: what is compiled for a size then serves nearly all of them.
    parts = batch_KNCHW.split(max(1, SCORING_BATCH // batch_KNCHW.shape[1]))
    found = [answer(part.flatten(0, 1)) for part in parts]
    guesses_KN = torch.cat(found).unflatten(0, batch_KNCHW.shape[:2])
    right_K = (guesses_KN == torch.arange(task.classes, device=task.device)[:, None]).double().mean(1)
    return right_K.tolist()
