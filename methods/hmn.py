"""HMN: a hierarchical memory network, condensed over budget and pruned back to it.

Paper      Zheng, Sun, Wu, Kailkhura, Mao, Xiao, Prakash, "Leveraging Hierarchical Feature Sharing for Efficient Dataset
           Condensation", ECCV 2024
Code       none published: what follows is written from the public descriptions, and is disclosed with every number
Loss       IDC's, sum_c sum_l | grad_l CE(A_w(B_c)) - grad_l CE(A_w(dec(M)_c)) |^2,  l the convolution weights;
           dec(M)_c,i = Dec([ f_c(m^D), m^C_c, m^I_c,i ]): memories of the data set, the class and the image
Then       condensed with 10 % more storage than the budget; of each class the floor(beta K) images of lowest area under
           the margin are dropped, and the K - floor(beta K) of highest; beta by accuracy on a held-out tenth of TRAIN
Settings   this suite's, as the paper's are not public (`benchmark.containers.hierarchical_layout` for the sizes,
           docs/lab/hmn.md for the search of the rest): 2000 networks x 100 passes as IDC
Deviations starts from a fit to real images (`warm_start`; 0 turns it off); Adam without the recalled decay above 16
           pixels, and at 0.01, 0.003 above 32 pixels, also where 0.02 is recalled (100 and 200 classes;
           docs/lab/hmn.md);
           rows of the memories that a step does not show keep value and Adam state; beta of a pilot is each
           repetition's own unless `beta` fixes it
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor

from benchmark.condensation.cost import Cost, Work
from benchmark.condensation.method import Method
from benchmark.condensation.prerequisite import Prerequisite
from benchmark.condensation.pruning import (
    TENTHS,
    MarginSpace,
    best_beta,
    double_end,
    measure_aum,
    random_positions,
    search_beta,
)
from benchmark.condensation.run import Prefixed, Run
from benchmark.condensation.settings import Schedule, Setting
from benchmark.condensation.task import Task
from benchmark.condensation.warm_start import fit_images, fitting_flops
from benchmark.containers import Container
from benchmark.containers.budget import Budget
from benchmark.containers.hierarchical import Hierarchical
from benchmark.containers.hierarchical_layout import Layout, layout_for
from benchmark.data import DatasetSpec
from benchmark.store.records import Pruning
from benchmark.system.errors import BudgetError
from benchmark.training.recipes import unified
from benchmark.training.row_adam import RowAdam
from benchmark.training.training_set import training_set
from methods.idc import IDCLoop, LoopHyper

FEWEST_IMAGES = 2
"""Images per class; a budget that holds fewer is too small (docs/methods.md 1.10)."""

DECAY_AT = (0.6, 0.8)
"""Shares of the steps after which the learning rate is multiplied by `decay`."""

FOUND: tuple[tuple[float, dict[str, Any]], ...] = ((16, {"decay": 0.1}), (32, {}), (math.inf, {"lr_img": 3e-3}))
"""Settings that scored higher than the defaults on held-out training images, each with the longest side in pixels for
which it holds. The evidence above 32 is weak (docs/lab/hmn.md)."""


@dataclass(frozen=True, kw_only=True)
class HMNHyper(LoopHyper):
    outer: Annotated[int, Setting(scaled=True, quick=5)] = 2000
    """Networks drawn."""
    n_data: Annotated[int, Setting(quick=256)] = 2000
    """Real images the network is trained on between two passes."""
    dataset_channels: int
    """Channels d of the memory that all classes share. `layout_for` sets it, and k, n and `hidden` with it."""
    class_channels: int
    instance_channels: int
    hidden: str
    """Widths between the decoder's layers, such as `16-8`."""
    over_budget: float = 0.1
    """Storage beyond the budget during condensation, as a share of the budget; it is pruned away afterwards."""
    split: Literal["holdout", "pilot"] = "holdout"
    """With `holdout`, only the choice of beta sees the held-out tenth. With `pilot`, that holds for a pilot run that
    finds beta; the set itself is then condensed, and pruned at that beta, with the whole training set."""
    beta: Literal["search", "0", "0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9", "1"] = "search"
    """A number is a beta that an earlier run found: nothing is searched, and the whole training set is condensed."""
    warm_start: int = 1500
    """Adam steps that move every image towards a real one before the first matching step; 0 starts from noise."""
    warm_lr: float = 0.1
    """Learning rate of the warm start, which falls to zero along a cosine."""
    lr_img: float = 1e-2
    """Learning rate of Adam, on everything that the container stores."""
    decay: float = 1.0
    """Factor on the learning rate at 60 % and again at 80 % of the steps."""
    beta1: float = 0.9
    beta2: float = 0.99
    classes_per_step: int = 10
    aum_space: MarginSpace = "logits"
    aum_nets: Annotated[int, Setting(at_least=1)] = 1
    """How many networks the margins are averaged over."""
    aum_steps: Annotated[int, Setting(quick=60)] = 10_000
    """Optimiser steps of their training: the unified recipe's."""
    aum_points: Annotated[int, Setting(quick=10, at_least=1)] = 50
    """Evenly spaced moments of that training at which margins are measured."""
    beta_nets: Annotated[int, Setting(quick=1, at_least=1)] = 2
    """How many networks are trained for each beta."""
    beta_steps: Annotated[int, Setting(quick=60)] = 3_333
    """Optimiser steps of their training: a third of the unified recipe's."""
    beta_stride: Annotated[int, Setting(quick=5, at_least=1)] = 1
    """The grid of beta is 0, stride / 10, ... up to 1."""


class HMNLoop(IDCLoop):
    """IDC's loop with Adam and two drops of its rate. Rows that a step does not show keep their value and state."""

    def optimiser(self, container: Container) -> torch.optim.Optimizer:
        return row_adam(container, self.hyper, self.hyper.lr_img)

    def lr_factor(self, progress: float) -> float:
        return self.hyper.decay ** sum(progress >= share for share in DECAY_AT)


class HMN(Method):
    """Three tiers of memory decoded to images, condensed 10 % over budget and pruned by area under the margin."""

    name, title, paper = "hmn", "HMN", "Zheng et al., ECCV 2024"
    draws_as = name
    disclosure = "HMN configuration chosen by this suite; the paper's configuration is not public"
    container_row = "hmn"
    Hyper, Loop = HMNHyper, HMNLoop
    cells = {
        (dataset, ipc): {"metric": metric, "n_data": n_data}
        for dataset, metric, n_data in (
            ("SVHN", "mse", 500),
            ("CIFAR10", "mse", 2000),
            ("CIFAR100", "l1", 2000),
            ("TinyImageNet", "l1", 1000),
        )
        for ipc in (1, 10, 50)
    }
    searches: ClassVar[bool] = True
    """Whether beta is searched for."""

    @classmethod
    def adapt(cls, values: dict[str, Any], spec: DatasetSpec, ipc: int, schedule: Schedule) -> dict[str, Any]:
        """Set the sizes of the budget, what scored best at the images' size, and trainings of AUM and beta that are as
        long as the schedule makes those of evaluation."""
        layout = asdict(layout_for(spec.classes, spec.image_shape, ipc))
        side = max(spec.height, spec.width)
        found = next(settings for most, settings in FOUND if side <= most)
        whole = unified(ipc)
        recipes = {"aum_steps": whole, "beta_steps": replace(whole, steps=whole.total_steps(0) // 3)}
        lengths = {name: recipe.scaled(schedule.factor, 0).steps for name, recipe in recipes.items()}
        return values | found | layout | lengths | {"hidden": "-".join(map(str, layout["hidden"]))}

    # Its sizes

    def sizes(self, spec: DatasetSpec, budget: Budget) -> tuple[int, int]:
        """Return (GIPC stored at the end, GIPC+ during condensation). Raises BudgetError if fewer than two images per
        class fit."""
        layout = layout_of(self.hyper)
        over = math.floor(
            (1 + Fraction(str(self.hyper.over_budget))) * budget.floats
        )  # exact: 1.1 B is no binary float
        final, start = (
            layout.images_per_class(floats, spec.classes, spec.image_shape) for floats in (budget.floats, over)
        )
        if final < FEWEST_IMAGES:
            smallest = layout.floats(FEWEST_IMAGES, spec.classes, spec.image_shape)
            raise BudgetError(
                f"HMN needs {smallest:,} floats for {FEWEST_IMAGES} images per class of {spec.title}; "
                f"IPC {budget.ipc} has {budget.floats:,}"
            )
        return final, start

    def searching(self, spec: DatasetSpec, budget: Budget) -> bool:
        """Return whether something is pruned by a beta that is not given."""
        final, start = self.sizes(spec, budget)
        return self.searches and start > final and self.hyper.beta == "search"

    @property
    def holds_out(self) -> bool:
        """Whether the set itself is condensed without the held-out tenth."""
        return self.hyper.split == "holdout" and self.hyper.beta == "search"

    def cost(self, spec: DatasetSpec, budget: Budget) -> Cost:
        hyper, (final, start) = self.hyper, self.sizes(spec, budget)
        loops = 2 if hyper.split == "pilot" and self.searching(spec, budget) else 1
        with torch.device("meta"):
            container = container_of(hyper, spec, start)
        warm_start = Work(flops=fitting_flops(container, hyper.warm_start, hyper.batch_syn))
        return Cost(
            floats=layout_of(hyper).floats(final, spec.classes, spec.image_shape),
            images=spec.classes * final,
            loop=self.loop.cost(spec, start),
            loops=loops,
            before=warm_start,
            after=Work(trained=loops * self._images_for_aum(spec, budget) + self._images_for_beta(spec, budget)),
        )

    def _images_for_aum(self, spec: DatasetSpec, budget: Budget) -> int:
        """Return how many images the trainings show that measure AUM."""
        final, start = self.sizes(spec, budget)
        if not self.searches or start == final:
            return 0
        return self.hyper.aum_nets * self.hyper.aum_steps * min(unified(budget.ipc).batch, start * spec.classes)

    def _images_for_beta(self, spec: DatasetSpec, budget: Budget) -> int:
        """Return how many images the trainings show that choose beta."""
        if not self.searching(spec, budget):
            return 0
        steps = len(beta_grid(self.hyper)) * self.hyper.beta_nets * self.hyper.beta_steps
        return steps * min(unified(budget.ipc).batch, self.sizes(spec, budget)[0] * spec.classes)

    def prerequisites(self) -> tuple[Prerequisite, ...]:
        return () if self.holds_out else super().prerequisites()

    # Its condensation

    def condense(self, task: Task, run: Run) -> Container:
        """Condense GIPC+ images per class, then keep GIPC of them."""
        final, start = self.sizes(task.spec, task.budget)
        searching = self.searching(task.spec, task.budget)
        fitting, scores = task.split_validation() if searching or self.holds_out else task, None
        if searching:
            fitting.require_validation()
        if searching and self.hyper.split == "pilot":
            first = Prefixed(run, "pilot ")
            trial = super().condense(fitting, first)
            assert isinstance(trial, Hierarchical)
            scores = self.beta_scores(trial, self.margins(trial, fitting, first), fitting, first)
        pool = fitting if self.holds_out else task
        container = super().condense(pool, run)
        assert isinstance(container, Hierarchical)
        if start > final:
            container.keep_(self.kept(container, pool, run, scores))
        task.budget.check(container.num_floats)
        run.pruning = replace(
            run.pruning or Pruning(),
            gipc=final,
            gipc_over=start,
            pruned_per_class=start - final,
            split=self.hyper.split,
            beta_scored_on=len(fitting.validation) if searching and fitting.validation else 0,
        )
        for name, value in {
            "train_images_of_smallest_class": pool.smallest_class,
            "warm_start": {"steps_per_image": self.hyper.warm_start, "lr": self.hyper.warm_lr, "target": "real images"},
            "initialisation": "memories N(0,1), layers uniform within 1/sqrt(fan in)",
        }.items():
            run.note(name, value)
        return container

    def start(self, task: Task, run: Run) -> Container:
        hyper = self.hyper
        container = container_of(hyper, task.spec, self.sizes(task.spec, task.budget)[1])
        container.to(task.device).initialise_(task.generator)
        optimiser = row_adam(container, hyper, hyper.warm_lr)
        fit_images(container, task.train.raw, optimiser, task, run, hyper.warm_start, hyper.batch_syn)
        return container

    def optimiser(self, container: Container) -> torch.optim.Optimizer:
        """Return Adam under every loop, because the step sizes of other methods are those of pixels."""
        return row_adam(container, self.hyper, self.hyper.lr_img)

    def kept(self, container: Hierarchical, task: Task, run: Run, scores: dict[int, list[float]] | None) -> Tensor:
        """Return the positions [K, GIPC] of the images to keep. `scores`: those of each beta from a pilot run; None if
        there was none, and they are to be found here unless beta is given."""
        aum_KG = self.margins(container, task, run)
        trainings = self.hyper.aum_nets * (2 if scores else 1)
        if self.hyper.beta == "search":
            scores = scores or self.beta_scores(container, aum_KG, task, run)
            beta = best_beta(scores)
        else:
            scores, beta = {}, round(float(self.hyper.beta) * TENTHS)
        run.pruning = Pruning(
            beta=beta / TENTHS,
            beta_scores={str(tenths / TENTHS): tuple(accuracies) for tenths, accuracies in scores.items()},
            trainings_for_aum=trainings,
            trainings_for_beta=sum(len(accuracies) for accuracies in scores.values()),
        )
        return double_end(aum_KG, container.per_class - self.final(task), beta)

    def final(self, task: Task) -> int:
        return self.sizes(task.spec, task.budget)[0]

    def margins(self, container: Hierarchical, task: Task, run: Run) -> Tensor:
        """Return the AUM [K, GIPC+] of the container's images."""
        hyper, recipe = self.hyper, replace(unified(task.ipc), steps=self.hyper.aum_steps)
        images = training_set(container, task.train)
        return measure_aum(images, task, run, recipe, hyper.aum_nets, hyper.aum_points, hyper.aum_space, "margins")

    def beta_scores(self, container: Hierarchical, aum_KG: Tensor, task: Task, run: Run) -> dict[int, list[float]]:
        """Return the accuracies on the held-out images, by beta in tenths."""
        hyper, recipe = self.hyper, replace(unified(task.ipc), steps=self.hyper.beta_steps)
        assert task.validation is not None, "beta is judged by held-out images"
        images, validation = training_set(container, task.train), task.validation.whitened(container.whitening)
        drop, grid = container.per_class - self.final(task), beta_grid(hyper)
        return search_beta(images, aum_KG, drop, grid, validation, task, run, recipe, hyper.beta_nets, "beta")


class HMNNoPrune(HMN):
    """Control: HMN condensed at its budget, nothing pruned; with --budget native, the over-budget set left as it is."""

    name, title, category, container_row = "hmn-noprune", "HMN, not pruned", "variant", ""
    searches = False

    def sizes(self, spec: DatasetSpec, budget: Budget) -> tuple[int, int]:
        final, start = super().sizes(spec, budget)
        return (start, start) if budget.mode == "native" else (final, final)


class HMNRandom(HMN):
    """Control: HMN condensed over budget, then as many random images of every class dropped as HMN drops."""

    name, title, category, container_row = "hmn-random", "HMN, pruned at random", "variant", ""
    searches = False

    def kept(self, container: Hierarchical, task: Task, run: Run, scores: dict[int, list[float]] | None) -> Tensor:
        drop = container.per_class - self.final(task)
        return random_positions(task.classes, container.per_class, drop, task.generator)


def row_adam(container: Container, hyper: HMNHyper, lr: float) -> RowAdam:
    """Return Adam on everything that the container stores, with the rows of its memories treated separately."""
    groups = [{"params": [parameter], "rows": rows} for parameter, rows in container.row_dimensions()]
    return RowAdam(groups, lr, (hyper.beta1, hyper.beta2))


def container_of(hyper: HMNHyper, spec: DatasetSpec, per_class: int) -> Hierarchical:
    """Return an uninitialised container of so many images per class."""
    layout = layout_of(hyper)
    sizes = layout.dataset_channels, layout.class_channels, layout.instance_channels, list(layout.hidden)
    return Hierarchical(spec.classes, per_class, list(spec.image_shape), *sizes)


def layout_of(hyper: HMNHyper) -> Layout:
    """Return the layout that the settings name. Raises ValueError for a `hidden` that is no list of widths."""
    widths = hyper.hidden.split("-")
    if not all(width.isdecimal() and int(width) for width in widths):
        raise ValueError(f"hidden={hyper.hidden!r}: write widths such as 16-8")
    channels = hyper.dataset_channels, hyper.class_channels, hyper.instance_channels
    return Layout(*channels, tuple(int(width) for width in widths))


def beta_grid(hyper: HMNHyper) -> range:
    """Return the betas that are tried, in tenths."""
    return range(0, TENTHS + 1, hyper.beta_stride)
