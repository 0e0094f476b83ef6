"""The training set itself, by reference: nothing is stored, images are gathered from the data set. The `whole` row."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmark.containers import Container
from benchmark.data import Split


class WholeSet(Container):
    """Every image of a split, in its order and with its labels (which need not be balanced)."""

    kind = "dataset"

    def __init__(self, images: int, classes: int, image_shape: list[int]) -> None:
        super().__init__(classes, 0, "normalised")
        self.count, self.image_shape = images, tuple(image_shape)
        self._split: Split | None = None

    @classmethod
    def of(cls, split: Split) -> WholeSet:
        container = cls(len(split), split.classes, list(split.images.shape[1:]))
        container.attach(split)
        return container

    def attach(self, split: Split) -> None:
        """Give a container that was read from a file its data set. Raises ValueError for one of another size."""
        if (len(split), *split.images.shape[1:]) != (self.count, *self.image_shape):
            raise ValueError(f"this set refers to {self.count} training images; the data set has {len(split)}")
        self._split = split

    @property
    def split(self) -> Split:
        """The data set's images. Raises ValueError before `attach`."""
        if self._split is None:
            raise ValueError(f"this set refers to {self.count:,} images of a data set and was not given it")
        return self._split

    def config(self) -> dict[str, Any]:
        return {"images": self.count, "classes": self.classes, "image_shape": list(self.image_shape)}

    @property
    def num_images(self) -> int:
        return self.count

    @property
    def num_floats(self) -> int:
        """The number of pixels in the images that it refers to."""
        return self.count * torch.Size(self.image_shape).numel()

    @property
    def labels(self) -> Tensor:
        return self.split.labels

    def images(self, indices: Tensor | None = None) -> Tensor:
        return self.split.gather(indices)
