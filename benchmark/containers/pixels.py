"""Free pixels: every stored float is a pixel of a training image. The container of DC, DSA, DM, CAFE and MTT."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from benchmark.containers import Container, Space


class Pixels(Container):
    """`per_class` images of each class, stored as they are, unclamped."""

    kind = "pixels"

    def __init__(self, classes: int, per_class: int, image_shape: list[int], space: Space = "normalised") -> None:
        super().__init__(classes, per_class, space)
        self.image_shape = tuple(image_shape)
        self.pixels = nn.Parameter(torch.empty(self.num_images, *self.image_shape))

    @classmethod
    def of(cls, images_KMCHW: Tensor, space: Space = "normalised") -> Pixels:
        """Return a container, on the images' device, that holds a copy of them."""
        classes, per_class, *shape = images_KMCHW.shape
        container = cls(classes, per_class, shape, space).to(images_KMCHW.device)
        container.pixels.data.copy_(images_KMCHW.flatten(0, 1))
        return container

    def config(self) -> dict[str, Any]:
        shape = list(self.image_shape)
        return {"classes": self.classes, "per_class": self.per_class, "image_shape": shape, "space": self.space}

    def images(self, indices: Tensor | None = None) -> Tensor:
        return self.pixels if indices is None else self.pixels[indices]
