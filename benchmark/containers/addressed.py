"""Addressed bases: every image is a linear combination of bases that all classes share. The container of LinBa.

    image (c, j) = enlarge( A[c, j] . M ),   M [K, d] bases at 1/ds of the side,   A [C, r, K] coefficients

Deng, Russakovsky, "Remember the Past", NeurIPS 2022 (docs/methods.md 9): K bases serve every class, so most of a budget
buys coefficients, K floats for one more image.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log2, prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.containers import Container, ImageShape, Space, as_shape
from benchmark.containers.budget import Budget
from benchmark.system.errors import BudgetError


def basis_shape(image_shape: ImageShape, downsample: int) -> ImageShape:
    """Return (channels, rows, columns) of a basis; a side that `downsample` does not divide is rounded up."""
    channels, rows, columns = image_shape
    return channels, ceil(rows / downsample), ceil(columns / downsample)


def default_bases(ipc: int, classes: int, basis_floats: int) -> int:
    """Return K: the power of two nearest (in log2, the smaller in a tie) to 16 sqrt(IPC C / 10), halved while K > d /
    2.

    The one published cell (CIFAR-10, IPC 1) has 16; K grows with the square root of the images in the budget
    (docs/methods.md 9, our choice).
    """
    bases = 2 ** ceil(log2(25.6 * ipc * classes) / 2 - 0.5)
    while bases > max(1, basis_floats / 2):
        bases //= 2
    return bases


@dataclass(frozen=True)
class AddressedLayout:
    """What a budget buys: `bases` of `basis_floats` floats, and `per_class` rows of `bases` coefficients."""

    classes: int
    bases: int
    basis_floats: int
    per_class: int

    @classmethod
    def of(cls, budget: Budget, bases: int, downsample: int) -> AddressedLayout:
        """Return the layout of a budget, with r = floor((B - K d) / (C K)). Raises BudgetError if no image is left."""
        floats = prod(basis_shape(budget.image_shape, downsample))
        per_class = (budget.floats - bases * floats) // (budget.classes * bases)
        if per_class < 1:
            raise BudgetError(
                f"{bases} bases of {floats:,} floats leave no coefficients in a budget of {budget.floats:,} floats; "
                "raise --ipc, or take fewer bases"
            )
        return cls(budget.classes, bases, floats, per_class)

    @property
    def floats(self) -> int:
        return self.bases * (self.basis_floats + self.classes * self.per_class)


class Addressed(Container):
    """K bases and one row of K coefficients for each image."""

    kind = "addressed"

    def __init__(
        self,
        classes: int,
        per_class: int,
        bases: int,
        image_shape: list[int],
        downsample: int = 2,
        space: Space = "normalised",
    ) -> None:
        super().__init__(classes, per_class, space)
        self.image_shape, self.downsample = as_shape(image_shape), downsample
        self.basis_shape = basis_shape(self.image_shape, downsample)
        self.bases = nn.Parameter(torch.empty(bases, prod(self.basis_shape)))
        self.coefficients = nn.Parameter(torch.empty(self.num_images, bases))

    def config(self) -> dict[str, Any]:
        return {
            "classes": self.classes,
            "per_class": self.per_class,
            "bases": len(self.bases),
            "image_shape": list(self.image_shape),
            "downsample": self.downsample,
            "space": self.space,
        }

    def initialise_(self, generator: torch.Generator) -> Addressed:
        """Draw bases and coefficients Xavier-uniform, in place."""
        nn.init.xavier_uniform_(self.bases, generator=generator)
        nn.init.xavier_uniform_(self.coefficients, generator=generator)
        return self

    @torch.no_grad()
    def fit_(self, images_KrCHW: Tensor) -> Addressed:
        """Set the bases and coefficients, in place, to those whose images are nearest to the given ones [K, r, C, H, W]
        averaged down to the bases' size: a truncated singular value decomposition, its scale shared equally between the
        two."""
        small = F.adaptive_avg_pool2d(images_KrCHW.flatten(0, 1), self.basis_shape[1:]).flatten(1)
        u, s, vh = torch.linalg.svd(small, full_matrices=False)
        rank = min(len(self.bases), len(s))
        root = s[:rank].sqrt()
        self.bases[:rank] = root[:, None] * vh[:rank]
        self.coefficients.zero_()  # bases beyond the rank, if any, stay as they are, and unused
        self.coefficients[:, :rank] = u[:, :rank] * root
        return self

    def images(self, indices: Tensor | None = None) -> Tensor:
        coefficients = self.coefficients if indices is None else self.coefficients[indices]
        small = (coefficients @ self.bases).unflatten(1, self.basis_shape)
        return F.interpolate(small, size=self.image_shape[1:], mode="bilinear", align_corners=False)
