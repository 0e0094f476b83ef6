"""A condensed set as networks are trained on it: decoded once, and normalised as the training images are."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch

from benchmark.containers import Container, as_shape
from benchmark.containers.dataset import WholeSet
from benchmark.data import Split
from benchmark.data.whitening import ZCA
from benchmark.training.trainer import TrainingSet


@dataclass(frozen=True)
class CondensedImages(TrainingSet):
    """Decoded images as the network sees them, with the whitening that real images need to be seen alike."""

    whitening: ZCA | None = None


def training_set(container: Container, split: Split) -> TrainingSet:
    """Return the decoded images as the network sees them. `split` gives mean and std; a whitening comes with the
    container."""
    if isinstance(container, WholeSet):
        return TrainingSet(container.images, container.labels, as_shape(split.images.shape[1:]))
    with torch.no_grad():
        images, labels = container.decode()
        images = split.whitened(container.whitening).seen(images, container.space, container.whitening)
    seen = CondensedImages.of(images.detach(), labels, container.variants)
    return dataclasses.replace(seen, whitening=container.whitening)
