"""IDC and IDC-I: gradient matching with efficient parameterisation.

Paper      Kim, Kim, Oh, Yun, Song, Jeong, Ha, Song, "Dataset Condensation via Efficient Synthetic-Data
           Parameterization", ICML 2022
Code       snu-mllab/Efficient-Dataset-Condensation (MIT)
Loss       sum_c sum_l | grad_l CE(A_w(B_c)) - grad_l CE(A_w(dec(S)_c)) |^2,  l the convolution weights; dec cuts each
           stored image into f x f cells and enlarges them (f = 1: IDC-I), so that IPC f^2 images are trained on
Settings   2000 networks x 100 passes over the classes, each followed by training the network on 2000 real images;
           lr_img 5e-3 (IPC / 10) (side / 32)^2, momentum 0.5; 64 real and at most 128 synthetic images per class
Deviations one joint step for all classes with the step size and momentum that give each class the gradients of the
           authors' one step per class (`joint_momentum`; `step_per_class` is their order); initial images are drawn at
           random, not the first of each class (`init=first` is theirs); one clamp more, before saving; any image size.
           TinyImageNet has no official settings (those of the DREAM fork)
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from benchmark import networks
from benchmark.augment import diffaug
from benchmark.condensation.cost import Cost, LoopCost, Work
from benchmark.condensation.loop import Loop
from benchmark.condensation.method import Method, nearest_ipc, table_dataset
from benchmark.condensation.run import Run
from benchmark.condensation.settings import Schedule, Setting
from benchmark.condensation.task import Task, by_class
from benchmark.containers import Container
from benchmark.containers.budget import Budget
from benchmark.containers.multi_formation import MultiFormation
from benchmark.data import DatasetSpec
from benchmark.objectives.gradient_matching import Distance, GradientMatching
from benchmark.training.recipes import Recipe
from benchmark.training.trainer import scale_lr

SETTINGS: dict[tuple[str, int], dict[str, Any]] = {
    ("SVHN", 10): {"n_data": 500},
    ("CIFAR10", 10): {},
    ("CIFAR100", 10): {},
    ("TinyImageNet", 10): {"n_data": 1000},
    ("TinyImageNet", 50): {"n_data": 1000, "lr_img": 1e-6},
    ("MNIST", 10): {"n_data": 500, "lr_img": 1e-4, "metric": "l1"},
    ("FashionMNIST", 10): {"n_data": 500, "lr_img": 1e-4, "metric": "l1"},
}
"""Settings by data set. lr_img is the one at IPC 10 and `BASE_SIDE` pixels, from which `adapt` computes that of the
cell."""

BASE_LR = 5e-3
BASE_SIDE = {"MNIST": 28}
"""Side in pixels at which lr_img is as listed; 32 elsewhere, also for FashionMNIST."""


def joint_momentum(lr: float, momentum: float, steps: float) -> tuple[float, float]:
    """Return (lr', momentum') of one step that stands for `steps` steps of which only the first has a gradient.

    The authors' one momentum buffer holds all classes and steps after each class, so between two gradients of a class
    its images drift for C - 1 steps. One step per pass with momentum^C and lr (1 - momentum^C) / (1 - momentum) puts
    every class where its next gradient finds it (docs/methods.md 1.9).
    """
    decay = momentum**steps
    return lr * (1 - decay) / (1 - momentum), decay


@dataclass(frozen=True, kw_only=True)
class LoopHyper:
    """What IDC's loop needs to know, whatever container it moves."""

    outer: Annotated[int, Setting(scaled=True, quick=7)] = 2000
    """Networks drawn."""
    passes: Annotated[int, Setting(quick=10)] = 100
    """Passes over the classes with each network."""
    n_data: Annotated[int, Setting(quick=512)] = 2000
    """Real images the network is trained on between two passes."""
    metric: Distance = "mse"
    batch_real: Annotated[int, Setting(at_least=1)] = 64
    """Real images per class and step."""
    batch_syn: Annotated[int, Setting(at_least=1)] = 128
    """Decoded images per class and step, at most."""
    strategy: str = "color_crop_cutout"
    """DiffAug operations of the matching step."""
    lr_net: float = 0.01
    mom_net: float = 0.9
    wd_net: float = 5e-4
    batch_net: Annotated[int, Setting(at_least=1)] = 64
    strategy_net: str = "color_crop"
    """DiffAug operations of network training: those of matching, less the cut-out that CutMix replaces."""
    cutmix: float = 0.5
    """Probability that a batch of network training (and of IDC's native evaluation) is mixed by CutMix."""
    classes_per_step: int = 0
    """How many classes are in one step, in random order; 0 for all of them together."""
    step_per_class: bool = False
    """Whether there is one step after each class, in their order: the authors' literal sequence, in place of the joint
    step."""


@dataclass(frozen=True, kw_only=True)
class IDCHyper(LoopHyper):
    factor: Annotated[int, Setting(at_least=1)] = 2
    """A stored image holds factor^2 training images."""
    lr_img: Annotated[float, Setting(quick=0.01)] = BASE_LR
    mom_img: float = 0.5
    optim_img: Annotated[Literal["sgd", "adam"], Setting(quick="adam")] = "sgd"
    """`adam` is for runs that are too short for the published step size: the loss, and with it its gradient, changes by
    orders of magnitude while the network is trained."""
    init: Literal["mix", "random", "first"] = "mix"
    """`mix`: every cell shows a random real image; `first`: the same with the first images of each class, as the
    authors do; `random`: every stored image is a random real one."""


class IDCLoop(Loop):
    """Gradient matching of convolution weights, on networks that are trained on real images."""

    microbatches = True

    def cost(self, spec: DatasetSpec, per_class: int, variants: int = 1) -> LoopCost:
        hyper = self.hyper
        trainings = hyper.outer * (hyper.passes - 1)
        network = trainings * math.ceil(hyper.n_data / hyper.batch_net) * hyper.batch_net
        synthetic = spec.classes * min(hyper.batch_syn, per_class)
        step = Work(trained=spec.classes * hyper.batch_real, matched=synthetic)
        return LoopCost(hyper.outer * hyper.passes, step, between=Work(trained=network))

    def optimiser(self, container: Container) -> torch.optim.Optimizer:
        if self.hyper.optim_img == "adam":
            return torch.optim.Adam(container.parameters(), self.hyper.lr_img)
        step = 1 if self.hyper.step_per_class else self.hyper.classes_per_step or container.classes
        lr, momentum = joint_momentum(self.hyper.lr_img, self.hyper.mom_img, min(step, container.classes))
        return torch.optim.SGD(container.parameters(), lr, momentum)

    def lr_factor(self, progress: float) -> float:
        """Return the factor on the container's learning rate when a share `progress` in [0, 1) of the steps is done."""
        return 1.0

    def move(self, container: Container, optimiser: torch.optim.Optimizer, task: Task, run: Run) -> None:
        hyper = self.hyper
        network, objective = task.network(), GradientMatching(hyper.metric, "conv")
        trainer = torch.optim.SGD(network.parameters(), hyper.lr_net, hyper.mom_net, weight_decay=hyper.wd_net)
        state = {"container": container, "optimiser": optimiser, "network": network, "trainer": trainer}
        steps = hyper.outer * hyper.passes
        for step in run.loop("condense", steps, **state, **self.own_state(task)):
            if step % hyper.passes == 0:
                container.project_()
                networks.initialise_(network, task.generator)
                trainer.state.clear()
            scale_lr(optimiser, self.lr_factor(step / steps))
            loss = torch.zeros((), device=task.device)
            for classes_K in self.class_order(task):
                real, synthetic = self.batches(container, classes_K, task)
                loss += task.step(objective, network, real, synthetic, optimiser, classes_K)
            run.log(loss=loss)
            if (step + 1) % hyper.passes:  # after its last pass the network is dropped
                settings = hyper.n_data, hyper.batch_net, hyper.strategy_net, hyper.cutmix
                task.train_on_real(network, trainer, *settings)

    def own_state(self, task: Task) -> dict[str, Any]:
        """Return what a variant of the loop changes besides, such as the images that it has picked (see `Run.loop`)."""
        return {}

    def class_order(self, task: Task) -> tuple[Tensor, ...]:
        """Return the classes of each step of one pass."""
        classes = torch.arange(task.classes, device=task.device)
        if self.hyper.step_per_class:
            return classes.split(1)
        if not 0 < self.hyper.classes_per_step < task.classes:
            return (classes,)
        order = torch.randperm(task.classes, generator=task.generator, device=task.device)
        return order.split(self.hyper.classes_per_step)

    def batches(self, container: Container, classes_K: Tensor, task: Task) -> tuple[Tensor, Tensor]:
        """Return (real [K, n, C, H, W], synthetic [K, M, C, H, W]) of the given classes as the network sees them.

        Both sides of a class are under one DiffAug transform; the synthetic side carries the graph to the container.
        """
        real = task.gather(task.real_indices(self.hyper.batch_real)[classes_K])
        synthetic = task.synthetic(container, self.hyper.batch_syn, classes_K)
        size, calls = task.spec.image_shape[1:], len(classes_K)
        params = diffaug.sample(self.hyper.strategy, 1, size, task.generator, shared=True, calls=calls)
        return by_class(real, params), by_class(synthetic, params)


class IDC(Method):
    """Gradient matching of convolution weights, with several small images stored in each one."""

    name, title, paper = "idc", "IDC", "Kim et al., ICML 2022"
    container_row = "idc"
    Hyper, Loop = IDCHyper, IDCLoop
    cells = SETTINGS

    @classmethod
    def adapt(cls, values: dict[str, Any], spec: DatasetSpec, ipc: int, schedule: Schedule) -> dict[str, Any]:
        side = BASE_SIDE.get(spec.published, 32)
        scale = ipc / 10 * spec.height * spec.width / side**2
        values = values | {"lr_img": values.get("lr_img", BASE_LR) * scale, "factor": cls.default_factor(spec)}
        if spec.published == "MNIST" and values["factor"] > 1:
            values |= {"strategy": "color_crop", "cutmix": 0.0}
        return values

    @classmethod
    def default_factor(cls, spec: DatasetSpec) -> int:
        """Return 2, or 3 for images above 64 pixels, as the authors use on ImageNet."""
        return 2 if max(spec.height, spec.width) <= 64 else 3

    def start(self, task: Task, run: Run) -> Container:
        factor, init = self.hyper.factor, self.hyper.init
        task.require_class_size(task.ipc)
        if init == "random":
            return MultiFormation.of(raw_images(task, task.start_indices(task.ipc)), factor)
        wanted = task.ipc * factor**2
        if init == "first":
            indices = torch.stack([around(members, wanted) for members in task.train.class_indices])
        else:
            indices = task.start_indices(wanted)
        return MultiFormation.tiled(raw_images(task, indices), factor)

    def cost(self, spec: DatasetSpec, budget: Budget) -> Cost:
        per_class = budget.ipc * self.hyper.factor**2
        return Cost(budget.floats, spec.classes * per_class, self.loop.cost(spec, per_class))

    def native_recipe(self, spec: DatasetSpec, ipc: int) -> Recipe:
        strategy = "color_crop_flip_scale_rotate" if spec.flip else "color_crop_scale_rotate"
        settings = {"augment": "diffaug", "strategy": strategy, "cutmix": self.hyper.cutmix}
        return Recipe(epochs=1000, batch=64, decay="multistep", **settings)


class IDCI(IDC):
    """IDC with one training image in each stored one: its loss and loop on plain pixels."""

    name, title, category, container_row = "idc-i", "IDC-I", "variant", "pixels"

    @classmethod
    def default_factor(cls, spec: DatasetSpec) -> int:
        return 1

    def native_recipe(self, spec: DatasetSpec, ipc: int) -> Recipe:
        recipe = super().native_recipe(spec, ipc)
        if table_dataset(spec, {name for name, _ in self.cells}) == "SVHN" and nearest_ipc(ipc, [1, 10, 50]) == 1:
            return dataclasses.replace(recipe, strategy="color_crop_cutout_scale_rotate", cutmix=0.0)
        return recipe


def around(indices: Tensor, count: int) -> Tensor:
    """Return `count` indices [..., count], which repeat if there are fewer."""
    return indices[..., torch.arange(count, device=indices.device) % indices.shape[-1]]


def raw_images(task: Task, indices_KM: Tensor) -> Tensor:
    """Return training images [K, M, C, H, W], pixels in [0, 1]."""
    return task.train.raw(indices_KM.flatten()).unflatten(0, indices_KM.shape)
