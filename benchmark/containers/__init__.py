"""Containers: what is stored of a condensed set, and how it becomes training images.

A container owns parameters and decodes them to images. Images are always in class-major order: image
`c * per_class + j` is the j-th of class c, so a batch of every class is a reshape. Each kind is one file of this
folder and is found by its `kind` when a saved set is read back.
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from benchmark.data.whitening import ZCA

Space = Literal["raw", "normalised", "zca"]
"""The space of decoded pixels: in [0,1], normalised per channel, or ZCA-whitened."""

ImageShape = tuple[int, int, int]
"""(channels, rows, columns)"""

_kinds: dict[str, type[Container]] = {}


class Container(nn.Module, ABC):
    """Parameters that decode to `num_images` labelled images, `per_class` for each class.

    A subclass sets `kind`, takes only JSON values in its constructor and returns them from `config()`, so that
    `build(kind, config)` followed by `load_state_dict` restores it.
    """

    kind: ClassVar[str]
    learned_lr: float | None = None
    """The step size learned with the images (trajectory matching); recipes with lr None train at it."""
    whitening: ZCA | None = None
    """Set if networks must see ZCA-whitened images, in whatever `space` the set is stored; saved with the set."""
    variants: int = 1
    """The number of forms in which one sample is decoded (HaBa: a basis through each hallucinator). They follow each
    other, so image `i` is form `i % variants` of sample `i // variants`."""

    def __init__(self, classes: int, per_class: int, space: Space) -> None:
        super().__init__()
        self.classes, self.per_class, self.space = classes, per_class, space

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if _kinds.setdefault(cls.kind, cls).__qualname__ != cls.__qualname__:
            raise TypeError(f"two containers call themselves {cls.kind!r}: {_kinds[cls.kind]} and {cls}")

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """The constructor's arguments, as JSON values."""

    @abstractmethod
    def images(self, indices: Tensor | None = None) -> Tensor:
        """Return images [N, C, H, W] of the given int64 indices (all if None), differentiable in the parameters."""

    @property
    def num_images(self) -> int:
        return self.classes * self.per_class

    @property
    def labels(self) -> Tensor:
        """Labels [num_images] int64, implied by position and therefore free of storage."""
        device = next(iter(self.state_dict().values())).device
        return torch.arange(self.classes, device=device).repeat_interleave(self.per_class)

    @property
    def num_floats(self) -> int:
        """Everything stored: the number of floating-point elements in the saved tensors."""
        return sum(t.numel() for t in self.state_dict().values() if t.is_floating_point())

    def row_dimensions(self) -> list[tuple[nn.Parameter, int]]:
        """Return every parameter with the number of its leading dimensions that count rows. A row belongs to one class
        or image, and has a gradient only in steps that show it. By default each parameter is one row."""
        return [(parameter, 0) for parameter in self.parameters()]

    def decode(self, indices: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return (images [N, C, H, W] in `space`, labels [N]) of the given indices, or of the whole set."""
        labels = self.labels
        return self.images(indices), labels if indices is None else labels[indices]

    def decode_classes(self, indices_KM: Tensor | None = None, classes_K: Tensor | None = None) -> Tensor:
        """Return images [K, M, C, H, W] of every class, or of each of `classes_K`: those at `indices_KM` (within the
        class), or all of the class's images."""
        if indices_KM is None and classes_K is None:
            return self.images().unflatten(0, (self.classes, self.per_class))
        if classes_K is None:
            assert indices_KM is not None
            classes_K = torch.arange(self.classes, device=indices_KM.device)
        if indices_KM is None:
            indices_KM = torch.arange(self.per_class, device=classes_K.device).expand(len(classes_K), -1)
        offsets = classes_K[:, None] * self.per_class
        return self.images((indices_KM + offsets).flatten()).unflatten(0, indices_KM.shape)

    def variant_images(self, samples_N: Tensor, variant: Tensor) -> Tensor:
        """Return images [N, C, H, W] of the given samples, all in one form (an int64 scalar tensor)."""
        return self.images(samples_N * self.variants + variant)

    @torch.no_grad()
    def project_(self) -> None:
        """Bring the parameters back into their allowed range, before saving. By default there is nothing to do."""


def as_shape(image_shape: Sequence[int]) -> ImageShape:
    """Return a sequence of three numbers, such as a configuration holds, as an image shape."""
    channels, rows, columns = image_shape
    return channels, rows, columns


def build(kind: str, config: dict[str, Any]) -> Container:
    """Return an uninitialised container of a saved kind. Raises ValueError for an unknown kind or a config that does
    not fit."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    if kind not in _kinds:
        raise ValueError(f"unknown container {kind!r}; known: {', '.join(sorted(_kinds))}")
    try:
        return _kinds[kind](**config)
    except TypeError as error:
        raise ValueError(f"the configuration does not fit container {kind!r}: {error}") from None
