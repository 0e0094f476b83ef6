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
"""What the decoded pixels are: in [0,1], normalised per channel, or ZCA-whitened."""

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
    """Set where networks must see ZCA-whitened images, whatever `space` the set is stored in; saved with it."""
    variants: int = 1
    """Forms in which one sample is decoded (HaBa: a basis through each hallucinator); they follow each other, so image
    `i` is form `i % variants` of sample `i // variants`."""

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
        """Images [N, C, H, W] of the given int64 indices (all where None), differentiable in the parameters."""

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
        """Every parameter with the number of its leading dimensions that count rows: a class's or an image's own share,
        which has a gradient only in steps that show the class or image. By default each is one row."""
        return [(parameter, 0) for parameter in self.parameters()]

    def decode(self, indices: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(images [N, C, H, W] in `space`, labels [N]) of the given indices, or of the whole set."""
        labels = self.labels
        return self.images(indices), labels if indices is None else labels[indices]

    def decode_classes(self, indices_KM: Tensor | None = None, classes_K: Tensor | None = None) -> Tensor:
        """Images [K, M, C, H, W]: for every class, or each of `classes_K`, those of `indices_KM` (within the class), or
        all of its images."""
        if classes_K is None:
            if indices_KM is None:
                return self.images().unflatten(0, (self.classes, self.per_class))
            classes_K = torch.arange(self.classes, device=indices_KM.device)
        if indices_KM is None:
            indices_KM = torch.arange(self.per_class, device=classes_K.device).expand(len(classes_K), -1)
        offsets = classes_K[:, None] * self.per_class
        return self.images((indices_KM + offsets).flatten()).unflatten(0, indices_KM.shape)

    def variant_images(self, samples_N: Tensor, variant: Tensor) -> Tensor:
        """Images [N, C, H, W] of the given samples, all in one form (an int64 scalar tensor)."""
        return self.images(samples_N * self.variants + variant)

    @torch.no_grad()
    def project_(self) -> None:
        """Bring the parameters back to where they are allowed to be, before saving; nothing by default."""


def as_shape(image_shape: Sequence[int]) -> ImageShape:
    """The image shape that a configuration holds as a list."""
    channels, rows, columns = image_shape
    return channels, rows, columns


def build(kind: str, config: dict[str, Any]) -> Container:
    """An uninitialised container of a saved kind. Raises ValueError for an unknown kind or a config that misfits."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    if kind not in _kinds:
        raise ValueError(f"unknown container {kind!r}; known: {', '.join(sorted(_kinds))}")
    try:
        return _kinds[kind](**config)
    except TypeError as error:
        raise ValueError(f"the configuration does not fit container {kind!r}: {error}") from None
