"""The task that a method is given: the training data on the device, the budget, a seeded generator, networks,
augmentation.

It has no test split, and methods read nothing else: no arguments, no globals, no clocks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from benchmark import augment, networks
from benchmark.condensation.cost import LoopCost
from benchmark.containers import Container
from benchmark.containers.budget import Budget
from benchmark.data import DatasetSpec, Split, whitening
from benchmark.networks import Network
from benchmark.objectives import Objective, value_and_grad
from benchmark.system.errors import TooFewImages
from benchmark.system.runtime import Runtime
from benchmark.training.passes import EAGER, Forward, Passes
from benchmark.training.trainer import TrainingSet, train_epochs, train_mixed
from benchmark.training.unroll import Batch, Unroll

PIXELS_AT_ONCE = 2**24
"""The most input values (images x channels x height x width) in one batched pass: 5,461 images of 32x32x3, whose
activations and double-backward graph take about 40 GB in a ConvNet of width 128."""

VALIDATION, VALIDATION_SEED = 0.1, 0
"""The share of every class that is held out for decisions, and the seed that draws it: the same images in every run."""

SYNTHETIC_AT_MOST = 128
"""The most images of one class in a matching step; containers that decode to more are sampled (docs/methods.md 7 and
10)."""


@dataclass(frozen=True)
class Task:
    """One condensation to do."""

    spec: DatasetSpec
    train: Split
    budget: Budget
    runtime: Runtime
    generator: torch.Generator
    """The only source of randomness; lives on the device and is part of every checkpoint."""
    seed: int = 0
    """Number of the repetition. It seeds what the cells of one repetition share, such as a feature network."""
    cache: Path | None = None
    """Folder for what several cells share; None if nothing is kept."""
    validation: Split | None = None
    """Training images by which a method decides something (see `split_validation`); `train` holds none of them."""
    microbatch: int | None = None
    """Real images of a class that go through a network at once in a matching step; None is the whole batch."""
    passes: Passes = EAGER
    """How a loop computes what it asks of its network (see `for_loop`)."""

    @property
    def device(self) -> torch.device:
        return self.runtime.device

    @property
    def classes(self) -> int:
        return self.spec.classes

    @property
    def ipc(self) -> int:
        return self.budget.ipc

    def whitened(self) -> Task:
        """Return the same task seen through ZCA whitening of kind A (docs/methods.md 1.1), which is fitted on its
        training images and kept in the cache."""
        if self.train.whitening is not None:
            return self
        if self.cache:
            fitted = whitening.cached(self.train.fingerprint, self.spec.name, self.train.raw, cache_dir=self.cache)
        else:
            fitted = whitening.fit(self.train.raw())
        return replace(self, train=self.train.whitened(fitted.to(self.device)))

    def as_seen(self, container: Container, images_NCHW: Tensor) -> Tensor:
        """Return images that the container decoded as the network sees them; differentiable."""
        return self.train.seen(images_NCHW, container.space, container.whitening)

    def class_chunk(self, *batches_KNCHW: Tensor) -> int:
        """Return how many classes have their graph alive at once: as many as fit `PIXELS_AT_ONCE` if classes are
        batched, else one."""
        pixels = sum(batch[0].numel() for batch in batches_KNCHW)
        return min(self.classes, max(1, PIXELS_AT_ONCE // pixels)) if self.runtime.batched else 1

    @cached_property
    def strategy(self) -> str:
        """The DSA operations that make sense on this data set (no flip on digits)."""
        return augment.dsa.strategy_for(self.spec.flip)

    @cached_property
    def smallest_class(self) -> int:
        return min(len(indices) for indices in self.train.class_indices)

    def network(self) -> Network:
        """Return a freshly drawn ConvNet on which images of this data set are condensed."""
        network = networks.build_matching(self.spec.image_shape, self.classes).to(self.device)
        return networks.initialise_(network, self.generator)

    def for_loop(self, cost: LoopCost) -> Task:
        """Return the same task for a loop of this cost. How it computes depends on how many images it will show its
        network."""
        work = cost.work
        passes = Passes(
            self.runtime,
            self.spec.image_shape,
            forward=work.forward,
            trained=work.trained,
            matched=work.matched,
            training=cost.between.trained,
            microbatch=self.microbatch,
        )
        return replace(self, passes=passes)

    def forward(self, function: Forward, network: Network, images_NCHW: Tensor) -> Any:
        """Return `function(network, images)`, computed without a graph."""
        return self.passes.forward(function, network)(images_NCHW)

    def train_on_synthetic(
        self,
        network: Network,
        container: Container,
        epochs: int,
        lr: float = 0.01,
        batch: int = 256,
        strategy: str = "none",
    ) -> None:
        """Train the network in place on the synthetic set: plain SGD, as DC and its kin (see `train_epochs`)."""
        images, labels = self.synthetic_set(container)
        how = self.generator, lr, batch, strategy
        train_epochs(network, self.passes.training(network), images, labels, epochs, *how)

    def train_on_real(
        self, network: Network, optimiser: Optimizer, images: int, batch: int, strategy: str, mix: float
    ) -> None:
        """Train the network in place on `images` random real images, each with an augmentation of its own (see
        `train_mixed`)."""
        pool = TrainingSet.real(self.train)
        train_mixed(
            network, self.passes.training(network), optimiser, pool, images, self.generator, batch, strategy, mix
        )

    def unroll(
        self, network: Network, batch: Batch, steps: int, momentum: float = 0.0, through_weights: bool = True
    ) -> Unroll:
        """Return a training of the network that can be differentiated through (see `Unroll`)."""
        return Unroll(network, batch, steps, momentum, through_weights, self.passes)

    def noise(self, per_class: int) -> Tensor:
        """Return standard normal images [K, M, C, H, W]."""
        shape = (self.classes, per_class, *self.spec.image_shape)
        return torch.randn(shape, generator=self.generator, device=self.device)

    @cached_property
    def _class_table(self) -> tuple[Tensor, Tensor]:
        """(indices of each class padded to the largest [K, L], class sizes [K])."""
        rows = self.train.class_indices
        table = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
        return table, torch.tensor([len(row) for row in rows], device=self.device)

    def real_indices(self, per_class: int, generator: torch.Generator | None = None) -> Tensor:
        """Return random training indices [K, n] of every class, drawn without replacement by the cell's generator or
        another one.

        n is `per_class`, or the size of the largest class if that is smaller. In a class with fewer than n images, each
        image is used floor or ceil of n / size times, so that shapes never depend on the class.
        """
        table, sizes = self._class_table
        classes, largest = table.shape
        keys = torch.rand(classes, largest, generator=generator or self.generator, device=self.device)
        keys = keys.masked_fill(torch.arange(largest, device=self.device) >= sizes[:, None], 2.0)
        chosen = min(per_class, largest)
        order = keys.topk(chosen, dim=1, largest=False, sorted=True).indices
        position = torch.arange(chosen, device=self.device) % sizes[:, None]
        return table.gather(1, order.gather(1, position))

    def gather(self, indices_KN: Tensor) -> Tensor:
        """Return normalised training images [K, n, C, H, W]."""
        return self.train.gather(indices_KN.flatten()).unflatten(0, indices_KN.shape)

    def real_batch(self, per_class: int) -> Tensor:
        """Return random normalised training images of every class [K, n, C, H, W]; see `real_indices` for n."""
        return self.gather(self.real_indices(per_class))

    def start_indices(self, per_class: int) -> Tensor:
        """Return training indices [K, per_class] of the images that condensation begins with. A class with fewer images
        repeats them.

        They depend only on `train` and the repetition. So methods of one repetition that condense the same images begin
        with the same ones, which are those of its `random` row, and no difference between methods is the luck of the
        draw.
        """
        generator = self.runtime.generator(self.spec.name, self.seed, "start")
        indices_KN = self.real_indices(per_class, generator)
        return indices_KN[:, torch.arange(per_class, device=self.device) % indices_KN.shape[1]]

    def start_images(self, per_class: int) -> Tensor:
        """Return normalised images [K, n, C, H, W] to begin with, none of them twice. Raises TooFewImages if a class
        does not hold so many."""
        self.require_class_size(per_class)
        return self.gather(self.start_indices(per_class))

    def require_class_size(self, per_class: int) -> None:
        if per_class > self.smallest_class:
            raise TooFewImages(
                f"{self.spec.title} has a class of {self.smallest_class} training images; IPC {per_class} needs more"
            )

    def synthetic(
        self, container: Container, at_most: int = SYNTHETIC_AT_MOST, classes_K: Tensor | None = None
    ) -> Tensor:
        """Return images [K, M, C, H, W] as the network sees them, differentiable in the container's parameters. They
        are all images of every class, or a random `at_most` of each if there are more; of the classes `classes_K`, or
        of all in order."""
        indices_KM, count = None, self.classes if classes_K is None else len(classes_K)
        if container.per_class > at_most:
            keys = torch.rand(count, container.per_class, generator=self.generator, device=self.device)
            indices_KM = keys.topk(at_most, dim=1).indices
        images = container.decode_classes(indices_KM, classes_K)
        return self.as_seen(container, images.flatten(0, 1)).unflatten(0, images.shape[:2])

    @torch.no_grad()
    def synthetic_set(self, container: Container) -> tuple[Tensor, Tensor]:
        """Return (all images [N, C, H, W] as the network sees them, labels [N]), without a graph."""
        images, labels = container.decode()
        return self.as_seen(container, images).detach(), labels

    def split_validation(self) -> Task:
        """Return the same task without a tenth of every class. That tenth becomes its `validation` images, which only a
        decision may see."""
        fit, validation = self.train.stratified(VALIDATION, VALIDATION_SEED)
        return replace(self, train=fit, validation=validation)

    def require_validation(self) -> None:
        """Raise TooFewImages if no image could be held out for a decision."""
        if not self.validation:
            raise TooFewImages(f"{self.spec.title} has no class of two training images, one of which would be held out")

    def step(
        self,
        objective: Objective,
        network: Network,
        real: Tensor,
        synthetic: Tensor,
        optimiser: Optimizer,
        classes: Tensor | None = None,
    ) -> Tensor:
        """Take one optimiser step of the container on an objective that is summed over classes; return the loss.

        `real` and `synthetic` [K, n, C, H, W] are already augmented, and `synthetic` carries the graph to the
        parameters. They show the classes `classes` [K], or all in order.
        """
        chunk = self.class_chunk(real, synthetic)
        loss, gradient = value_and_grad(objective, network, real, synthetic, chunk, classes, self.passes)
        optimiser.zero_grad()
        synthetic.backward(gradient)
        optimiser.step()
        return loss

    def siamese(self, *batches_KNCHW: Tensor, strategy: str | None = None) -> list[Tensor]:
        """Return the batches [K, n_i, C, H, W] under one freshly drawn DSA transform per class, the same for all
        batches."""
        strategy = self.strategy if strategy is None else strategy
        if strategy == "none":
            return list(batches_KNCHW)
        params = augment.dsa.sample(strategy, self.classes, 1, self.spec.image_shape[1:], self.generator)
        return [by_class(batch, params) for batch in batches_KNCHW]


def by_class(batch_KNCHW: Tensor, params: augment.Params) -> Tensor:
    """Return the batch with row k of `params` applied to all images of its k-th class."""
    classes, images = batch_KNCHW.shape[:2]
    rows = torch.arange(classes, device=batch_KNCHW.device).repeat_interleave(images)
    return augment.apply(batch_KNCHW.flatten(0, 1), params.take(rows)).unflatten(0, (classes, images))
