"""Three tiers of memory and one decoder: the container of HMN (docs/methods.md 10).

    image c,i = sigmoid( Dec( [ f_c(m^D), m^C_c, m^I_c,i ] ) )        raw pixels in [0,1]

m^D is shared by the whole data set, m^C_c by the images of a class, and m^I_c,i belongs to one image. f_c is a 1x1
convolution of each class, and Dec is one stack of transposed convolutions for all images. An image costs only its own
m^I, so images can be dropped (`keep_`) without touching the others. All classes always hold equally many images: one
that is dropped in a class is dropped in every class. Shapes and layer lists are this suite's choice; those of the paper
are not public.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import ceil, prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.containers import Container

SLOPE = 0.1
"""Negative slope of the LeakyReLU between two decoder layers."""


def map_sides(image_shape: Sequence[int], doublings: int) -> tuple[int, int]:
    """Return rows and columns of the memory maps, which `doublings` doublings make at least as large as the image."""
    return ceil(image_shape[1] / 2**doublings), ceil(image_shape[2] / 2**doublings)


class Hierarchical(Container):
    """`per_class` images of each class, decoded from one memory of the data set, C class memories and C * per_class
    instance memories.

    image_shape: (channels, rows, columns). dataset_channels, class_channels, instance_channels: d, k, n of the maps.
    hidden: widths between the decoder's layers; there are len(hidden) + 1 layers, and each doubles the map.
    """

    kind = "hierarchical"

    def __init__(
        self,
        classes: int,
        per_class: int,
        image_shape: list[int],
        dataset_channels: int,
        class_channels: int,
        instance_channels: int,
        hidden: list[int],
    ) -> None:
        super().__init__(classes, per_class, "raw")
        self.image_shape, self.hidden = tuple(image_shape), tuple(hidden)
        sides = map_sides(image_shape, len(hidden) + 1)
        self.dataset_memory = nn.Parameter(torch.empty(dataset_channels, *sides))
        self.class_memory = nn.Parameter(torch.empty(classes, class_channels, *sides))
        self.instance_memory = nn.Parameter(torch.empty(classes, per_class, instance_channels, *sides))
        self.extractor_weight = nn.Parameter(torch.empty(classes, class_channels, dataset_channels))
        self.extractor_bias = nn.Parameter(torch.empty(classes, class_channels))
        widths = (2 * class_channels + instance_channels, *hidden, image_shape[0])
        self.decoder = nn.ModuleList(
            nn.utils.skip_init(nn.ConvTranspose2d, i, o, 4, stride=2, padding=1) for i, o in pairwise(widths)
        )

    @torch.no_grad()
    def initialise_(self, generator: torch.Generator) -> Hierarchical:
        """Draw memories from N(0,1), and layers as PyTorch does: U(-b, b), b = 1 / sqrt(fan in) for weights and
        biases."""
        for memory in (self.dataset_memory, self.class_memory, self.instance_memory):
            memory.normal_(generator=generator)
        bound = max(1, self.dataset_memory.shape[0]) ** -0.5
        for tensor in (self.extractor_weight, self.extractor_bias):
            tensor.uniform_(-bound, bound, generator=generator)
        for layer in self.decoder:
            assert isinstance(layer, nn.ConvTranspose2d)
            bound = prod(layer.weight.shape[1:]) ** -0.5  # PyTorch counts (in, out, 4, 4) from its second dimension
            for tensor in layer.parameters():
                tensor.uniform_(-bound, bound, generator=generator)
        return self

    def config(self) -> dict[str, Any]:
        return {
            "classes": self.classes,
            "per_class": self.per_class,
            "image_shape": list(self.image_shape),
            "dataset_channels": self.dataset_memory.shape[0],
            "class_channels": self.class_memory.shape[1],
            "instance_channels": self.instance_memory.shape[2],
            "hidden": list(self.hidden),
        }

    def images(self, indices: Tensor | None = None) -> Tensor:
        """Return images [N, C, H, W] in [0,1]."""
        extracted = torch.einsum("ckd,dyx->ckyx", self.extractor_weight, self.dataset_memory)
        shared = torch.cat([extracted + self.extractor_bias[..., None, None], self.class_memory], 1)
        own = self.instance_memory.flatten(0, 1)
        if indices is not None:
            own = own.index_select(0, indices)
        labels = self.labels if indices is None else indices // self.per_class
        maps = torch.cat([shared.index_select(0, labels), own], 1)
        for position, layer in enumerate(self.decoder):
            maps = layer(F.leaky_relu(maps, SLOPE) if position else maps)
        return centre_crop(maps, self.image_shape[1:]).sigmoid()

    def row_dimensions(self) -> list[tuple[nn.Parameter, int]]:
        owned = [(self.instance_memory, 2)]
        owned += [(p, 1) for p in (self.class_memory, self.extractor_weight, self.extractor_bias)]
        return [(self.dataset_memory, 0), *owned, *((p, 0) for p in self.decoder.parameters())]

    @torch.no_grad()
    def keep_(self, positions_KM: Tensor) -> None:
        """Keep the images at int64 `positions_KM` of every class, in that order, and drop the memories of the others.

        The instance memory becomes a new parameter: build optimisers afterwards. Raises ValueError for other shapes.
        """
        if positions_KM.ndim != 2 or len(positions_KM) != self.classes:
            raise ValueError(f"keep_ takes as many positions of each of {self.classes} classes: [{self.classes}, M]")
        rows = torch.arange(self.classes, device=positions_KM.device)[:, None]
        self.instance_memory = nn.Parameter(self.instance_memory[rows, positions_KM].clone())
        self.per_class = positions_KM.shape[1]


def centre_crop(images_NCHW: Tensor, size: Sequence[int]) -> Tensor:
    """Return the middle `size` (rows, columns) of images; the odd pixel is lost at the bottom and right."""
    top, left = ((have - want) // 2 for have, want in zip(images_NCHW.shape[2:], size))
    return images_NCHW[:, :, top : top + size[0], left : left + size[1]]
