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

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor

from benchmark import networks
from benchmark.condensation.cost import LoopCost, Work
from benchmark.condensation.loop import Loop
from benchmark.condensation.method import Method
from benchmark.condensation.run import Run
from benchmark.condensation.settings import Setting
from benchmark.condensation.task import SYNTHETIC_AT_MOST, Task
from benchmark.containers import Container
from benchmark.containers.pixels import Pixels
from benchmark.data import DatasetSpec
from benchmark.networks import Network
from benchmark.objectives.feature_alignment import FeatureAlignment
from benchmark.training.recipes import Recipe
from benchmark.training.trainer import SCORING_BATCH, scale_lr


@dataclass(frozen=True)
class CAFEHyper:
    iterations: Annotated[int, Setting(scaled=True, quick=3)] = 2000
    """Networks drawn."""
    lr_img: float = 0.1
    mom_img: float = 0.5
    batch_real: Annotated[int, Setting(quick=64)] = 256
    """Real images per class and image step."""
    query: Annotated[int, Setting(quick=16)] = 128
    """Real images per class whose accuracy drives the loops."""
    window: int = 10
    """How many queries are compared."""
    lambda1: float = 0.04
    """A network is done when its queries between image steps differ by less than this."""
    lambda2: float = 0.03
    """Its training between two image steps ends when its queries differ by more than this."""
    max_image_steps: Annotated[int, Setting(quick=10)] = 200
    max_inner_epochs: Annotated[int, Setting(quick=10)] = 200
    leaky_query: bool = False
    """Whether a query is (previous query + sum of class accuracies) / classes, as in the authors' code."""
    discrimination: float = 0.01
    lr_net: float = 0.01
    batch_net: int = 256
    init: Literal["noise", "real"] = "noise"


class Window:
    """The last few query accuracies of a network."""

    def __init__(self, size: int, leaky: bool) -> None:
        self.size, self.leaky = size, leaky
        self.accuracies: list[float] = []

    def add(self, class_accuracies: Sequence[float]) -> None:
        """Add a query: the accuracy of every class in [0, 1]."""
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
    """Where the dynamic loop stands: the queries of the current network, and what was counted. It is part of a
    checkpoint."""

    def __init__(self, window: Window) -> None:
        self.window = window
        self.counts = dict.fromkeys(
            ("networks", "image_steps", "inner_epochs", "image_step_caps_hit", "inner_epoch_caps_hit"), 0
        )

    def next_network(self) -> None:
        self.window.accuracies = []
        self.counts["networks"] += 1

    def state_dict(self) -> dict[str, Any]:
        return {"accuracies": self.window.accuracies, "counts": dict(self.counts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.window.accuracies = list(state["accuracies"])
        self.counts.update(state["counts"])


class CAFELoop(Loop):
    """Feature alignment on networks that are trained on the synthetic set for as long as their queries say."""

    microbatches = True
    augments: ClassVar[bool] = False
    """Whether DSA augments both batches of a class, and network training."""

    def cost(self, spec: DatasetSpec, per_class: int, variants: int = 1) -> LoopCost:
        """Return the cost of a loop that judges every window as soon as it is full."""
        hyper, synthetic = self.hyper, per_class * spec.classes
        steps = hyper.iterations * min(hyper.window, hyper.max_image_steps)
        epochs = steps * min(hyper.window, hyper.max_inner_epochs)
        shown = min(per_class, SYNTHETIC_AT_MOST) * spec.classes
        step = Work(forward=spec.classes * (hyper.batch_real + hyper.query), trained=shown)
        between = Work(forward=epochs * spec.classes * hyper.query, trained=epochs * synthetic)
        return LoopCost(steps, step, between)

    def optimiser(self, container: Container) -> torch.optim.Optimizer:
        return torch.optim.SGD(container.parameters(), self.hyper.lr_img, self.hyper.mom_img)

    def move(self, container: Container, optimiser: torch.optim.Optimizer, task: Task, run: Run) -> None:
        """A step of the run is one image step with its network training. A network has at most `max_image_steps` of
        them; those that it does not need are skipped."""
        hyper, strategy = self.hyper, task.strategy if self.augments else "none"
        network, objective, loop = task.network(), FeatureAlignment(hyper.discrimination), BiLevel(self.window())
        steps = hyper.iterations * hyper.max_image_steps
        state = {"container": container, "optimiser": optimiser, "network": network, "loop": loop}
        for step in run.loop("condense", steps, **state):
            iteration, image_step = divmod(step, hyper.max_image_steps)
            if image_step == 0:
                networks.initialise_(network, task.generator)
                loop.next_network()
                halvings = sum(10 * iteration >= tenths * hyper.iterations for tenths in (6, 8, 9))
                scale_lr(optimiser, 0.5**halvings)
            real, synthetic = task.siamese(
                task.real_batch(hyper.batch_real), task.synthetic(container), strategy=strategy
            )
            run.log(loss=task.step(objective, network, real, synthetic, optimiser))
            loop.counts["image_steps"] += 1
            loop.window.add(query(network, task, hyper.query))
            settled = loop.window.full and loop.window.spread < hyper.lambda1
            capped = not settled and image_step + 1 == hyper.max_image_steps
            loop.counts["image_step_caps_hit"] += capped
            if settled:
                run.skip_to((iteration + 1) * hyper.max_image_steps)
            elif not capped:
                self.train(network, container, task, strategy, loop.counts)
            run.note("bi_level_loop", dict(loop.counts))

    def window(self) -> Window:
        return Window(self.hyper.window, self.hyper.leaky_query)

    def train(self, network: Network, container: Container, task: Task, strategy: str, counts: dict[str, int]) -> None:
        """Train the network on the synthetic set until it has moved: its queries span more than lambda2."""
        hyper, window = self.hyper, self.window()
        for _ in range(hyper.max_inner_epochs):
            task.train_on_synthetic(network, container, 1, hyper.lr_net, hyper.batch_net, strategy)
            counts["inner_epochs"] += 1
            window.add(query(network, task, hyper.query))
            if window.full and window.spread > hyper.lambda2:
                return
        counts["inner_epoch_caps_hit"] += 1


class CAFEDSALoop(CAFELoop):
    """CAFE's loop under one random transform per class and step."""

    augments = True


class CAFE(Method):
    """Alignment of class means in every layer of networks in training, from noise, without augmentation."""

    name, title, paper = "cafe", "CAFE", "Wang et al., CVPR 2022"
    Hyper, Loop = CAFEHyper, CAFELoop

    def start(self, task: Task, run: Run) -> Container:
        return Pixels.of(task.noise(task.ipc) if self.hyper.init == "noise" else task.start_images(task.ipc))

    def native_recipe(self, spec: DatasetSpec, ipc: int) -> Recipe:
        return Recipe(epochs=600, decay="halfway", augment="none")


class CAFEDSA(CAFE):
    """CAFE under one random transform per class, shared by real and synthetic images."""

    name, title = "cafe-dsa", "CAFE+DSA"

    Loop = CAFEDSALoop

    def native_recipe(self, spec: DatasetSpec, ipc: int) -> Recipe:
        return Recipe(epochs=1000, decay="halfway")


def guesses(network: Network, images_NCHW: Tensor) -> Tensor:
    """Return the class [N] that a network sees in every image."""
    return network(images_NCHW).argmax(1)


def query(network: Network, task: Task, per_class: int) -> list[float]:
    """Return the accuracy of a network's `guesses` on a random batch of real images of each class."""
    batch_KNCHW = task.real_batch(per_class)
    # Whole classes at a time: what is compiled for a size then serves nearly all of them.
    parts = batch_KNCHW.split(max(1, SCORING_BATCH // batch_KNCHW.shape[1]))
    found = [task.forward(guesses, network, part.flatten(0, 1)) for part in parts]
    guesses_KN = torch.cat(found).unflatten(0, batch_KNCHW.shape[:2])
    right_K = (guesses_KN == torch.arange(task.classes, device=task.device)[:, None]).double().mean(1)
    return right_K.tolist()
