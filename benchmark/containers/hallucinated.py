"""Bases and hallucinators: each of J small networks turns every basis into another image. The container of HaBa.

    image (c, i, j) = H_j(base_ci),   H_j(x) = conv_transpose3x3( scale_j * conv3x3(x) + shift_j )

Liu et al., "Dataset Distillation via Factorization", NeurIPS 2022 (docs/methods.md 8). The hallucinators serve all
classes and have no activation unless asked for, so each is affine in its input. To fit a budget, bases may be stored at
half the side (they are enlarged before they are hallucinated), and so may the maps scale and shift.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.containers import Container, ImageShape, Space, as_shape
from benchmark.containers.budget import Budget
from benchmark.system.errors import BudgetError

Activation = Literal["none", "relu"]

SPEND = 0.95
"""If less than this share of a strict budget would be spent, the rest buys more hallucinators."""


def half(shape: ImageShape) -> ImageShape:
    """Return the shape of a map with half the sides, rounded up."""
    channels, rows, columns = shape
    return channels, ceil(rows / 2), ceil(columns / 2)


def map_shape(image_shape: ImageShape, half_maps: bool) -> ImageShape:
    """Return the shape of a stored scale or shift map: the unpadded convolution's output, or half of it."""
    channels, rows, columns = image_shape
    full = channels, rows - 2, columns - 2
    return half(full) if half_maps else full


@dataclass(frozen=True)
class HallucinatedLayout:
    """How a budget is divided: bases per class of either resolution, hallucinators, and their maps' resolution."""

    classes: int
    image_shape: ImageShape
    full: int
    half: int
    hallucinators: int
    half_maps: bool = False

    @classmethod
    def of(cls, budget: Budget, hallucinators: int) -> HallucinatedLayout:
        """Return the layout of a budget: the authors' size if it is native (IPC bases per class, so over the budget by
        the hallucinators), or what fits if it is strict. Raises BudgetError if not even one half-size basis per class
        fits."""
        sizes = {"native": cls.native, "strict": cls.strict}
        return sizes[budget.mode](budget, hallucinators)

    @classmethod
    def native(cls, budget: Budget, hallucinators: int) -> HallucinatedLayout:
        return cls(budget.classes, budget.image_shape, budget.ipc, 0, hallucinators)

    @classmethod
    def strict(cls, budget: Budget, hallucinators: int) -> HallucinatedLayout:
        """Return what fits a budget: full-size bases first, then half-size ones from what is left. Maps have half the
        size if there would otherwise be no basis at all, and there are more hallucinators if less than 95 % would be
        spent (docs/methods.md 8, our definition)."""
        bare = cls(budget.classes, budget.image_shape, 0, 0, hallucinators)
        left = max(0, budget.floats - bare.floats)
        full_count, rest = divmod(left, budget.classes * prod(budget.image_shape))
        half_floats = budget.classes * prod(half(budget.image_shape))
        half_count, half_maps = rest // half_floats, False
        if full_count + half_count == 0:
            half_maps = True
            smaller = cls(budget.classes, budget.image_shape, 0, 0, hallucinators, half_maps)
            half_count = max(0, budget.floats - smaller.floats) // half_floats
        if full_count + half_count == 0:
            raise BudgetError(
                f"{hallucinators} hallucinators leave no basis per class in a budget of {budget.floats:,} floats "
                f"(IPC {budget.ipc}); raise --ipc, or use --budget native to run HaBa at its own size"
            )
        fitted = cls(budget.classes, budget.image_shape, full_count, half_count, hallucinators, half_maps)
        if fitted.floats < SPEND * budget.floats:
            count = (budget.floats - fitted.basis_floats) // fitted.hallucinator_floats
            fitted = cls(budget.classes, budget.image_shape, full_count, half_count, count, half_maps)
        return fitted

    @property
    def hallucinator_floats(self) -> int:
        """Floats of one hallucinator: two 3x3 convolutions with bias and two maps."""
        channels = self.image_shape[0]
        convolution = 9 * channels * channels + channels
        return 2 * convolution + 2 * prod(map_shape(self.image_shape, self.half_maps))

    @property
    def basis_floats(self) -> int:
        """Floats of all bases of all classes."""
        return self.classes * (self.full * prod(self.image_shape) + self.half * prod(half(self.image_shape)))

    @property
    def floats(self) -> int:
        return self.basis_floats + self.hallucinators * self.hallucinator_floats

    @property
    def bases(self) -> int:
        """Bases per class."""
        return self.full + self.half

    @property
    def per_class(self) -> int:
        """Decoded images per class."""
        return self.bases * self.hallucinators


class Hallucinated(Container):
    """Bases and hallucinators. Image `(c * bases + i) * J + j` is basis i of class c through hallucinator j: the J
    variants of a basis follow each other. Within a class the full-size bases come first."""

    kind = "hallucinated"

    def __init__(
        self,
        classes: int,
        full: int,
        half_size: int,
        hallucinators: int,
        image_shape: list[int],
        half_maps: bool = False,
        activation: Activation = "none",
        space: Space = "normalised",
    ) -> None:
        super().__init__(classes, (full + half_size) * hallucinators, space)
        self.full, self.half_size, self.variants = full, half_size, hallucinators
        self.image_shape, self.half_maps, self.activation = as_shape(image_shape), half_maps, activation
        channels, maps = self.image_shape[0], map_shape(self.image_shape, half_maps)
        kernels = (hallucinators, channels, channels, 3, 3)
        self.bases_full = nn.Parameter(torch.empty(classes, full, *self.image_shape))
        self.bases_half = nn.Parameter(torch.empty(classes, half_size, *half(self.image_shape)))
        self.encode_weight = nn.Parameter(torch.empty(kernels))
        self.encode_bias = nn.Parameter(torch.empty(hallucinators, channels))
        self.scale = nn.Parameter(torch.empty(hallucinators, *maps))
        self.shift = nn.Parameter(torch.empty(hallucinators, *maps))
        self.decode_weight = nn.Parameter(torch.empty(kernels))
        self.decode_bias = nn.Parameter(torch.empty(hallucinators, channels))

    @classmethod
    def of(
        cls, layout: HallucinatedLayout, activation: Activation = "none", space: Space = "normalised"
    ) -> Hallucinated:
        """Return an uninitialised container of that layout."""
        sizes = layout.classes, layout.full, layout.half, layout.hallucinators
        return cls(*sizes, list(layout.image_shape), layout.half_maps, activation, space)

    def config(self) -> dict[str, Any]:
        return {
            "classes": self.classes,
            "full": self.full,
            "half_size": self.half_size,
            "hallucinators": self.variants,
            "image_shape": list(self.image_shape),
            "half_maps": self.half_maps,
            "activation": self.activation,
            "space": self.space,
        }

    @property
    def bases(self) -> int:
        """Bases per class."""
        return self.full + self.half_size

    def basis_parameters(self) -> list[nn.Parameter]:
        return [self.bases_full, self.bases_half]

    def hallucinator_parameters(self) -> list[nn.Parameter]:
        bases = {id(parameter) for parameter in self.basis_parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in bases]

    @torch.no_grad()
    def initialise_(self, real_KNCHW: Tensor, generator: torch.Generator) -> Hallucinated:
        """Set the bases to real images [K, bases, C, H, W] (averaged down where they are stored small), draw the
        convolutions as PyTorch does, and set the scale maps to 1 and the shift maps to 0. In place, and on the images'
        device."""
        self.to(real_KNCHW.device)
        self.bases_full.copy_(real_KNCHW[:, : self.full])
        if self.half_size:
            small = F.adaptive_avg_pool2d(real_KNCHW[:, self.full :].flatten(0, 1), half(self.image_shape)[1:])
            self.bases_half.copy_(small.unflatten(0, (self.classes, self.half_size)))
        bound = self.encode_weight[0, 0].numel() ** -0.5  # equal channels in and out: one bound for all four
        for parameter in (self.encode_weight, self.encode_bias, self.decode_weight, self.decode_bias):
            parameter.uniform_(-bound, bound, generator=generator)
        self.scale.fill_(1)
        self.shift.fill_(0)
        return self

    def base_images(self, indices: Tensor | None = None) -> Tensor:
        """Return bases [N, C, H, W] at full size, of the given indices (class * bases + position), or all."""
        if indices is None:
            indices = torch.arange(self.classes * self.bases, device=self.scale.device)
        label, position = indices // self.bases, indices % self.bases
        # Both kinds are gathered for every index and one is kept, so that no shape depends on the indices.
        found = []
        if self.full:
            found.append(self.bases_full[label, position.clamp(max=self.full - 1)])
        if self.half_size:
            small = self.bases_half[label, (position - self.full).clamp(min=0)]
            found.append(F.interpolate(small, size=self.image_shape[1:], mode="bilinear", align_corners=False))
        if len(found) == 1:
            return found[0]
        return torch.where((position < self.full).view(-1, 1, 1, 1), found[0], found[1])

    def hallucinate(self, bases_GNCHW: Tensor, which_G: Tensor) -> Tensor:
        """Return images [G, N, C, H, W]: the N bases of group g through hallucinator `which_G[g]`."""
        groups, count, channels, *_ = bases_GNCHW.shape
        maps = bases_GNCHW.transpose(0, 1).flatten(1, 2)  # [N, G * C, H, W]: groups are groups of the convolutions
        weight, bias = self.encode_weight[which_G].flatten(0, 1), self.encode_bias[which_G].flatten()
        maps = F.conv2d(maps, weight, bias, groups=groups)
        maps = maps * self._at_size(self.scale[which_G]) + self._at_size(self.shift[which_G])
        maps = F.relu(maps) if self.activation == "relu" else maps
        weight, bias = self.decode_weight[which_G].flatten(0, 1), self.decode_bias[which_G].flatten()
        images = F.conv_transpose2d(maps, weight, bias, groups=groups)
        return images.view(count, groups, channels, *images.shape[2:]).transpose(0, 1)

    def _at_size(self, maps_GCHW: Tensor) -> Tensor:
        """Return scale or shift maps of the groups as [G * C, H - 2, W - 2]."""
        if self.half_maps:
            size = map_shape(self.image_shape, False)[1:]
            maps_GCHW = F.interpolate(maps_GCHW, size=size, mode="bilinear", align_corners=False)
        return maps_GCHW.flatten(0, 1)

    def images(self, indices: Tensor | None = None) -> Tensor:
        if indices is None:
            every = torch.arange(self.variants, device=self.scale.device)
            bases = self.base_images()
            images = self.hallucinate(bases.expand(self.variants, *bases.shape), every)
            return images.transpose(0, 1).flatten(0, 1)
        return self.hallucinate(self.base_images(indices // self.variants)[:, None], indices % self.variants)[:, 0]

    def variant_images(self, samples: Tensor, variant: Tensor) -> Tensor:
        """Return the bases `samples` [N], all through the one hallucinator `variant` (an int64 scalar tensor)."""
        return self.hallucinate(self.base_images(samples)[None], variant[None])[0]
