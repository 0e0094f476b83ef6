"""How networks see images: normalised per channel, or ZCA-whitened, and the way back to pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from benchmark.data.whitening import ZCA


# eq=False: comparing tensors has no truth value.
@dataclass(frozen=True, eq=False)
class Normalisation:
    """What is done to pixels in [0, 1] before a network sees them.

    mean, std: float32 [C], in units of pixels in [0, 1].
    whitening: takes the place of mean and std if networks are to see ZCA-whitened images.
    """

    mean: Tensor
    std: Tensor
    whitening: ZCA | None = None

    @property
    def space(self) -> Literal["normalised", "zca"]:
        """What the networks see, in the words of a container's `space`: `normalised` or `zca`."""
        return "normalised" if self.whitening is None else "zca"

    def normalise(self, raw: Tensor) -> Tensor:
        """Return pixels [B, C, H, W] in [0, 1] as the networks see them: (x - mean) / std, or whitened."""
        if self.whitening is not None:
            return self.whitening.whiten(raw)
        return (raw - self.mean[:, None, None]) / self.std[:, None, None]

    def to_raw(self, images: Tensor, space: str, whitening: ZCA | None = None) -> Tensor:
        """Return images [B, C, H, W], which are stored as `space`, as pixels; not clamped. whitening: that of images
        stored as `zca`."""
        if space == "raw":
            return images
        if space == "normalised":
            return images * self.std[:, None, None] + self.mean[:, None, None]
        if whitening is None:
            raise ValueError("whitened images without the matrix they were whitened by")
        return whitening.restore(images)

    def seen(self, images: Tensor, space: str, whitening: ZCA | None = None) -> Tensor:
        """Return images, which are stored as `space` (see `to_raw`), as networks see them; differentiable."""
        return images if space == self.space else self.normalise(self.to_raw(images, space, whitening))

    def to(self, device: torch.device | str) -> Normalisation:
        """Return this normalisation on `device`."""
        return Normalisation(self.mean.to(device), self.std.to(device), self.whitening and self.whitening.to(device))
