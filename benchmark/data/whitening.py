"""ZCA whitening, kind A of docs/methods.md 1.1 (MTT, HaBa): one matrix over all pixels of the raw training images.

LinBa's kind B (per-image contrast normalisation first) is another transform; the kind is part of every cache
key, so the two can never be mixed up.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from benchmark.system import cache

KIND = "A"
EPS = 0.1
_TENSORS = ("mean", "transform", "inverse")


@dataclass(frozen=True)
class ZCA:
    """A fitted whitening of images with D = C * H * W pixels: z = (x - mean) transform, x = z inverse + mean.

    mean: (D,). transform, inverse: (D, D), symmetric, inverse to each other. kind: "A".
    """

    mean: Tensor
    transform: Tensor
    inverse: Tensor
    kind: str = KIND

    def whiten(self, images_NCHW: Tensor) -> Tensor:
        """Return whitened images, same shape, from raw ones in [0, 1]."""
        return ((images_NCHW.flatten(1) - self.mean) @ self.transform).view(images_NCHW.shape)

    def restore(self, images_NCHW: Tensor) -> Tensor:
        """Return raw images, same shape, from whitened ones; not clamped."""
        return (images_NCHW.flatten(1) @ self.inverse + self.mean).view(images_NCHW.shape)

    def to(self, device: torch.device | str) -> "ZCA":
        return ZCA(self.mean.to(device), self.transform.to(device), self.inverse.to(device), self.kind)

    @cached_property
    def digest(self) -> str:
        """Sixteen hex digits that identify the contents: kind, shapes and all bytes."""
        content = hashlib.sha256(f"{self.kind}|{self.mean.dtype}|{tuple(self.mean.shape)}".encode())
        for name in _TENSORS:
            content.update(getattr(self, name).cpu().contiguous().numpy())
        return content.hexdigest()[:16]


def fit(raw_images_NCHW: Tensor, eps: float = EPS) -> ZCA:
    """Return the whitening, fitted in the images' precision with kornia, as MTT and HaBa do. Their eps is not kornia's
    default, 1e-6.

    `raw_images_NCHW` (N, C, H, W) are floats in [0, 1] without channel normalisation. The covariance is over N - 1.
    """
    # Here and not at the top: a slow import that only two methods need.
    from kornia.enhance import ZCAWhitening

    fitted = ZCAWhitening(eps=eps, compute_inv=True).fit(raw_images_NCHW)
    return ZCA(fitted.mean_vector.flatten(), fitted.transform_matrix, fitted.transform_inv)


def cached(
    split_fingerprint: str,
    dataset: str,
    images_fn: Callable[[], Tensor],
    eps: float = EPS,
    *,
    cache_dir: Path,
) -> ZCA:
    """Return the whitening of a training split, on the CPU: from `cache_dir`, or fitted and kept there.

    `images_fn()` is called only to fit; it returns what `fit` takes. The purpose is (dataset, kind, eps,
    split_fingerprint); see `benchmark.system.cache` for the rest.
    """

    def make() -> dict[str, Tensor]:
        zca = fit(images_fn(), eps).to("cpu")
        return {name: getattr(zca, name) for name in _TENSORS}

    purpose = ["zca", dataset, KIND, float(eps), split_fingerprint]
    return ZCA(**cache.get_or_make((cache_dir,), cache.name_for(f"zca-{dataset}", purpose), purpose, make), kind=KIND)
