"""A small task made of noise, for tests that compare a method's loop with its reference.

Comparisons run in float64: in float32 the loops are chaotic, one flipped ReLU moves an image gradient by a hundredth.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from benchmark import networks
from benchmark.condensation.run import Run
from benchmark.condensation.task import Task
from benchmark.containers.budget import Budget
from benchmark.data import DatasetSpec, Split
from benchmark.networks import Network
from benchmark.networks.convnet import matching_depth
from benchmark.system.runtime import Runtime


class Batched(Runtime):
    """A CPU runtime that batches classes and networks as a GPU's does."""

    @property
    def batched(self) -> bool:
        return True


LOOP, BATCHED = Runtime(torch.device("cpu")), Batched(torch.device("cpu"))


class Losses(Run):
    """A run that remembers what was logged."""

    def __init__(self):
        super().__init__()
        self.losses = []

    def log(self, **values):
        if "loss" in values:  # a warm start logs another
            self.losses.append(float(values["loss"]))
        super().log(**values)


class DefaultPrecision(Split):
    """A split whose images are read in torch's default precision."""

    def raw(self, indices: Tensor | None = None) -> Tensor:
        return super().raw(indices).to(torch.get_default_dtype())


class NarrowTask(Task):
    """A task whose networks are an eighth as wide."""

    def network(self) -> Network:
        shape = self.spec.image_shape
        network = networks.build("convnet", shape, self.classes, 16, depth=matching_depth(shape)).to(self.device)
        return networks.initialise_(network, self.generator)


@contextmanager
def float64() -> Iterator[None]:
    """Everything drawn and computed inside is float64."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def toy_task(
    ipc: int = 2,
    counts: tuple[int, ...] = (7, 4, 6),
    shape: tuple[int, int, int] = (3, 8, 8),
    flip: bool = True,
    runtime: Runtime = LOOP,
    seed: int = 5,
) -> Task:
    """`counts` images of each class, in no order of classes."""
    draw = torch.Generator().manual_seed(11)
    labels = torch.cat([torch.full((count,), c) for c, count in enumerate(counts)])
    labels = labels[torch.randperm(len(labels), generator=draw)]
    images = torch.randint(0, 256, (len(labels), *shape), dtype=torch.uint8, generator=draw)
    spec = DatasetSpec("toy", "Toy", *shape, len(counts), flip, "")
    channels = torch.ones(shape[0])
    train = DefaultPrecision(images, labels, 0.45 * channels, 0.22 * channels, len(counts))
    budget = Budget(ipc, len(counts), shape)
    generator = torch.Generator(runtime.device).manual_seed(seed)
    return NarrowTask(spec, train.to(runtime.device), budget, runtime, generator)
