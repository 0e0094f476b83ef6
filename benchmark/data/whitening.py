"""ZCA whitening, kind A of METHODS 1.1 (MTT, HaBa): one matrix over all pixels of the raw training images.

LinBa's kind B (per-image contrast normalisation first) is another transform; the kind is part of every cache
key, so the two can never be mixed up.
"""

import hashlib
import os
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from uuid import uuid4

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

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
        """Whitened images, same shape, from raw ones in [0, 1]."""
        return ((images_NCHW.flatten(1) - self.mean) @ self.transform).view(images_NCHW.shape)

    def restore(self, images_NCHW: Tensor) -> Tensor:
        """Raw images, same shape, from whitened ones; not clamped."""
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
    """Fitted in the images' precision with kornia, as MTT and HaBa do; its default eps of 1e-6 is not theirs.

    `raw_images_NCHW` (N, C, H, W) are floats in [0, 1] without channel normalisation. Covariance over N - 1.
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
    """The whitening of a training split, on the CPU: from `cache_dir`, or fitted and kept there.

    `images_fn()` is called only to fit; it returns what `fit` takes. The key is (dataset, kind, eps,
    split_fingerprint). The file appears by atomic rename. A damaged one is
    named in a warning and redone.
    """
    path = Path(cache_dir) / _file_name(split_fingerprint, dataset, eps)
    if path.exists():
        try:
            return _load(path)
        except (SafetensorError, OSError, ValueError) as error:
            warnings.warn(f"{path} is damaged ({error}); the whitening is computed again", stacklevel=2)
    zca = fit(images_fn(), eps).to("cpu")
    _store(zca, path)
    return zca


def _file_name(split_fingerprint: str, dataset: str, eps: float) -> str:
    parts = "|".join([dataset, KIND, repr(float(eps)), split_fingerprint])
    key = hashlib.sha256(parts.encode()).hexdigest()[:16]
    # The readable part is for people looking into the folder; the hash decides.
    readable = re.sub(r"[^\w-]+", "-", dataset)[:40]
    return f"zca-{readable}-{KIND}-{key}.safetensors"


def _load(path: Path) -> ZCA:
    with safe_open(path, "pt") as file:
        if not set(_TENSORS) <= set(file.keys()):
            raise ValueError(f"holds {sorted(file.keys())}")
        metadata = file.metadata() or {}
        zca = ZCA(**{name: file.get_tensor(name) for name in _TENSORS}, kind=metadata.get("kind", ""))
    if zca.digest != metadata.get("digest"):
        raise ValueError("its contents do not match their digest")
    return zca


def _store(zca: ZCA, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        tensors = {name: getattr(zca, name).contiguous() for name in _TENSORS}
        save_file(tensors, unfinished, metadata={"kind": zca.kind, "digest": zca.digest})
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
