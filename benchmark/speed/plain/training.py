"""Training networks one after the other, and making the data set image by image."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark import data, networks
from benchmark.augment import dsa
from benchmark.data import Dataset
from benchmark.networks import Network
from benchmark.speed.plain.augmentation import augment, draws
from benchmark.speed.plain.network import PlainConvNet, descend
from benchmark.training.recipes import Recipe
from benchmark.training.trainer import TrainingSet


class PlainTraining:
    """Networks trained one after the other by a recipe without CutMix: `step(i)` is one optimiser step of each."""

    def __init__(
        self, network: Network, seeds: Sequence[int], images: TrainingSet, recipe: Recipe, strategy: str
    ) -> None:
        assert recipe.augment == "dsa" and not recipe.cutmix and not recipe.one_variant, "not a plain recipe"
        assert recipe.lr is not None, "a recipe with a step size of its own"
        self.images, self.recipe, self.strategy, self.lr = images, recipe, strategy, recipe.lr
        self.generators = [torch.Generator(images.labels.device).manual_seed(seed) for seed in seeds]
        plain = PlainConvNet(network).to(images.labels.device)
        self.networks = [networks.initialise_(deepcopy(plain), generator) for generator in self.generators]
        self.optimisers = [
            torch.optim.SGD(member.parameters(), self.lr, recipe.momentum, weight_decay=recipe.weight_decay)
            for member in self.networks
        ]
        self.orders = [torch.empty(0)] * len(seeds)

    def step(self, step: int) -> None:
        recipe, count = self.recipe, len(self.images)
        first = step % recipe.steps_per_epoch(count) * recipe.batch
        for member, (network, optimiser, generator) in enumerate(
            zip(self.networks, self.optimisers, self.generators, strict=True)
        ):
            if first == 0:
                self.orders[member] = torch.randperm(count, generator=generator, device=generator.device)
            chosen = self.orders[member][first : first + recipe.batch]
            images = self.images.gather(chosen)
            drawn = dsa.sample(self.strategy, 1, len(chosen), self.images.image_shape[1:], generator)
            images = augment(images, draws(drawn, 1)[0], recipe.align_corners)
            for group in optimiser.param_groups:
                group["lr"] = self.lr * recipe.lr_factor(step, count)
            descend(F.cross_entropy(network(images), self.images.labels[chosen]), optimiser)


def load(name: str, data_dir: Path, device: torch.device) -> Tensor:
    """Return the training images [N, C, H, W] as the networks see them, read from the files."""
    return as_seen(data.load(name, data_dir, download=False)).to(device)


def as_seen(dataset: Dataset) -> Tensor:
    """Return the training images [N, C, H, W] as the networks see them, made one after the other from PIL images."""
    from PIL import Image
    from torchvision import transforms

    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(dataset.mean, dataset.std)])
    images = []
    for image_CHW in dataset.train.images.numpy():
        pixels = image_CHW[0] if len(image_CHW) == 1 else image_CHW.transpose(1, 2, 0)
        images.append(transform(Image.fromarray(pixels)).unsqueeze(0))
    return torch.cat(images)
