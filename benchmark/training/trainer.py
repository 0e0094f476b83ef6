"""The trainer: an ensemble of networks trained together by a recipe, and scored.

Every network has a generator of its own, so what network i becomes does not depend on how many others are trained
beside it: three networks today and seven more tomorrow are the ten of one run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor
from torch.func import functional_call

from benchmark import augment, networks
from benchmark.augment import cutmix, diffaug, dsa
from benchmark.containers import as_shape
from benchmark.data import Split
from benchmark.networks import Network, detached
from benchmark.system.runtime import Runtime
from benchmark.system.torch_private import add_to_each_
from benchmark.training.passes import Pass, eagerly_half, first_order_pass, is_compiled, side_by_side
from benchmark.training.recipes import Recipe

SCORING_BATCH = 250
"""Images in one forward pass of scoring. More take memory (3.5 GB for a thousand of 32x32 on a CPU) and are no
faster."""

SMALL_STEP = 2000
"""Up to this many pixels per network and step even a CPU is bound by launches, and where nothing is compiled one
batched computation wins (three networks: ten 8x8 images 9.9 against 10.9 ms; ten 32x32 images 81 against 73 ms)."""


@dataclass(frozen=True)
class TrainingSet:
    """Labelled images as the network sees them, gathered by index: `gather(indices_N) -> images [N, C, H, W]`."""

    gather: Callable[[Tensor], Tensor]
    labels: Tensor
    image_shape: tuple[int, int, int]
    variants: int = 1
    """How many images in a row are forms of one sample (see `Container.variants`)."""

    @classmethod
    def of(cls, images_NCHW: Tensor, labels_N: Tensor, variants: int = 1) -> Self:
        return cls(images_NCHW.__getitem__, labels_N, as_shape(images_NCHW.shape[1:]), variants)

    @classmethod
    def real(cls, split: Split) -> Self:
        """A real split as the network sees it."""
        return cls(split.gather, split.labels, as_shape(split.images.shape[1:]))

    def __len__(self) -> int:
        return len(self.labels)

    def epoch_length(self, recipe: Recipe) -> int:
        """Return how many images one epoch of a recipe shows."""
        return len(self) // self.variants if recipe.one_variant else len(self)


class Ensemble:
    """E networks of one architecture, their parameters stacked as [E, ...]."""

    def __init__(self, network: Network, seeds: Sequence[int], runtime: Runtime) -> None:
        """`network` gives the architecture; member e is initialised, and later shuffled, by a generator of its own."""
        self.network, self.runtime = network.to(runtime.device), runtime
        self.generators = [torch.Generator(runtime.device).manual_seed(seed) for seed in seeds]
        members = []
        for generator in self.generators:
            networks.initialise_(network, generator)
            members.append({name: p.detach().clone() for name, p in network.named_parameters()})
        self.parameters = {name: torch.stack([member[name] for member in members]) for name in members[0]}

    def __len__(self) -> int:
        return len(self.generators)

    def member(self, index: int) -> dict[str, Tensor]:
        """Return views of one network's parameters."""
        return {name: parameter[index] for name, parameter in self.parameters.items()}

    def logits(self, parameters: dict[str, Tensor], images_NCHW: Tensor) -> Tensor:
        return functional_call(self.network, parameters, (images_NCHW,))

    def network_of(self, index: int) -> Network:
        """Return the architecture with the parameters of one member. Every call returns the same object."""
        self.network.load_state_dict(self.member(index))
        return self.network


class Training:
    """The training of an ensemble by a recipe: call `step(i)` for i in 0 .. total_steps - 1. It is a state with
    state_dict."""

    def __init__(
        self, ensemble: Ensemble, data: TrainingSet, recipe: Recipe, strategy: str, lr: float | None = None
    ) -> None:
        """`strategy`: the data set's DSA operations, used if the recipe names none. `lr`: the learned step size, used
        if the recipe's is None. Raises ValueError if both are None."""
        self.ensemble, self.data, self.recipe = ensemble, data, recipe
        self.strategy = recipe.strategy or strategy
        lr = recipe.lr if recipe.lr is not None else lr
        if lr is None:
            raise ValueError("this recipe trains at the learned step size, and the condensed set has none")
        self.lr = lr
        self.epoch_length = data.epoch_length(recipe)
        self.total_steps = recipe.total_steps(self.epoch_length)
        self.optimiser = torch.optim.SGD(
            ensemble.parameters.values(), self.lr, recipe.momentum, weight_decay=recipe.weight_decay, foreach=True
        )
        self.order_EN = torch.zeros(len(ensemble), self.epoch_length, dtype=torch.int64, device=ensemble.runtime.device)
        batch, runtime = min(recipe.batch, self.epoch_length), ensemble.runtime
        what = (ensemble.network, data.image_shape, batch * self.total_steps, runtime)
        small = batch * data.image_shape[1] * data.image_shape[2] <= SMALL_STEP and runtime.precision != "reference"
        self.batched = runtime.batched or (small and not is_compiled(*what))
        together = partial(side_by_side, ensemble.network, half=eagerly_half(runtime))
        self._pass: Pass = together if self.batched else first_order_pass(*what)

    def state_dict(self) -> dict[str, Any]:
        generators = [generator.get_state() for generator in self.ensemble.generators]
        parameters, optimiser = self.ensemble.parameters, self.optimiser.state_dict()
        return {"parameters": parameters, "optimiser": optimiser, "order": self.order_EN, "generators": generators}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, parameter in self.ensemble.parameters.items():
            parameter.copy_(state["parameters"][name])
        self.optimiser.load_state_dict(state["optimiser"])
        self.order_EN.copy_(state["order"])
        for generator, value in zip(self.ensemble.generators, state["generators"], strict=True):
            generator.set_state(value.cpu())

    def step(self, step: int) -> Tensor:
        """Take one optimiser step of every network; return the losses [E]."""
        if step == self.recipe.momentum_reset(self.epoch_length):
            self.optimiser.state.clear()
        for group in self.optimiser.param_groups:
            group["lr"] = self.lr * self.recipe.lr_factor(step, self.epoch_length)
        losses_E, gradients = self._gradients(*self._batch(step))
        for name, parameter in self.ensemble.parameters.items():
            parameter.grad = gradients[name]
        self.optimiser.step()
        return losses_E

    def _batch(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(images [E, B, C, H, W], labels [E, B], CutMix partners' labels [E, B], share of the own label [E])."""
        in_epoch = step % self.recipe.steps_per_epoch(self.epoch_length)
        if in_epoch == 0:
            for row, generator in zip(self.order_EN, self.ensemble.generators, strict=True):
                self._draw_epoch(row, generator)
        indices_EB = self.order_EN[:, in_epoch * self.recipe.batch : (in_epoch + 1) * self.recipe.batch]
        labels_EB = self.data.labels[indices_EB]
        images = self._standardise(self.data.gather(indices_EB.flatten()).unflatten(0, indices_EB.shape))
        images_EBCHW = self._augment(images.flatten(0, 1), len(indices_EB[0])).unflatten(0, indices_EB.shape)
        if not self.recipe.cutmix:
            return images_EBCHW, labels_EB, labels_EB, torch.ones(len(self.ensemble), device=images.device)
        size, probability = self.data.image_shape[1:], self.recipe.cutmix
        mixes = [cutmix.sample(len(indices_EB[0]), size, probability, g) for g in self.ensemble.generators]
        images_EBCHW = torch.stack([cutmix.apply(i, m) for i, m in zip(images_EBCHW, mixes, strict=True)])
        partners_EB = torch.stack([row[m.partner] for row, m in zip(labels_EB, mixes, strict=True)])
        return images_EBCHW, labels_EB, partners_EB, torch.stack([m.kept for m in mixes])

    def _draw_epoch(self, order_N: Tensor, generator: torch.Generator) -> None:
        """Fill the order in which one network sees an epoch's images."""
        torch.randperm(len(order_N), generator=generator, out=order_N)
        if self.recipe.one_variant:
            variants, device = self.data.variants, order_N.device
            order_N.mul_(variants).add_(torch.randint(variants, order_N.shape, generator=generator, device=device))

    def _standardise(self, images_EBCHW: Tensor) -> Tensor:
        if not self.recipe.standardise:
            return images_EBCHW
        std, mean = torch.std_mean(images_EBCHW, dim=(1, 2, 3, 4), keepdim=True)
        return (images_EBCHW - mean) / std

    def _augment(self, images: Tensor, rows: int) -> Tensor:
        recipe, size, generators = self.recipe, self.data.image_shape[1:], self.ensemble.generators
        if recipe.augment == "none":
            return images
        if recipe.augment == "dsa":
            params = dsa.sample(self.strategy, 1, rows, size, generators)
        else:
            params = diffaug.sample(self.strategy, rows, size, generators)
        return augment.apply(images, params, recipe.align_corners)

    def _gradients(
        self, images: Tensor, labels: Tensor, partners: Tensor, ratio: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses [E] and the gradients of every stacked parameter, at once or one network after the other."""
        if self.batched:
            return self._pass(self.ensemble.parameters, images, labels, partners, ratio)
        batches = zip(images, labels, partners, ratio, strict=True)
        results = [self._pass(self.ensemble.member(index), *batch) for index, batch in enumerate(batches)]
        gradients = {name: torch.stack([own[name] for _, own in results]) for name in self.ensemble.parameters}
        return torch.stack([loss for loss, _ in results]), gradients


@torch.no_grad()
def accuracies(ensemble: Ensemble, data: TrainingSet) -> list[float]:
    """Return the fraction of images that each network labels correctly."""
    correct = torch.zeros(len(ensemble), device=data.labels.device)
    for indices in torch.arange(len(data), device=data.labels.device).split(SCORING_BATCH):
        images, labels = data.gather(indices), data.labels[indices]
        for index in range(len(ensemble)):
            correct[index] += (ensemble.logits(ensemble.member(index), images).argmax(1) == labels).sum()
    return (correct / len(data)).tolist()


def train_epochs(
    network: Network,
    first_order: Pass,
    images_NCHW: Tensor,
    labels_N: Tensor,
    epochs: int,
    generator: torch.Generator,
    lr: float = 0.01,
    batch: int = 256,
    strategy: str = "none",
) -> None:
    """Train one network in place by plain SGD, without momentum or weight decay: the inner loop of DC and its kin.

    `first_order`: the pass to train by (see `Passes.training`). `strategy`: DSA operations drawn anew for every batch,
    or `none`.
    """
    parameters, whole = detached(network), images_NCHW.new_ones(())
    _, _, rows, columns = images_NCHW.shape
    for _ in range(epochs):
        for indices in torch.randperm(len(images_NCHW), generator=generator, device=images_NCHW.device).split(batch):
            images = images_NCHW[indices]
            if strategy != "none":
                images = augment.apply(images, dsa.sample(strategy, 1, len(indices), (rows, columns), generator))
            _, gradients = first_order(parameters, images, labels_N[indices], labels_N[indices], whole)
            add_to_each_(list(parameters.values()), [gradients[name] for name in parameters], -lr)


def train_mixed(
    network: Network,
    first_order: Pass,
    optimiser: torch.optim.Optimizer,
    data: TrainingSet,
    images: int,
    generator: torch.Generator,
    batch: int = 64,
    strategy: str = "color_crop",
    mix: float = 0.5,
) -> None:
    """Train one network in place on randomly drawn images, none of them twice: how IDC keeps its network moving.

    It sees as many whole batches as are needed for `images` images, or one epoch if `data` has fewer. Every image has
    its own DiffAug draw of `strategy`; a batch is mixed by CutMix with probability `mix`. `first_order`: the pass to
    train by (see `Passes.training`).
    """
    parameters = detached(network)
    drawn = -(-images // batch) * batch
    order = torch.randperm(len(data), generator=generator, device=data.labels.device)[:drawn]
    for indices in order.split(batch):
        params = diffaug.sample(strategy, len(indices), data.image_shape[1:], generator)
        mixture = cutmix.sample(len(indices), data.image_shape[1:], mix, generator)
        mixed = cutmix.apply(augment.apply(data.gather(indices), params), mixture)
        labels = data.labels[indices]
        _, gradients = first_order(parameters, mixed, labels, labels[mixture.partner], mixture.kept)
        for name, parameter in network.named_parameters():
            parameter.grad = gradients[name]
        optimiser.step()


def scale_lr(optimiser: torch.optim.Optimizer, factor: float) -> None:
    """Set the learning rate of every group to `factor` times the one it was made with."""
    for group in optimiser.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
