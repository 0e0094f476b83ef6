"""Safetensors files that say whether they are whole: a CRC-32 over tensors and texts, so that a flipped bit is noticed.

A leaf that knows tensors only; who writes a file decides how it becomes visible.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

CHECKSUM = "checksum"


class DamagedFile(ValueError):
    """A readable file whose contents are not what was written."""


def sealed(tensors: Mapping[str, Tensor], texts: Mapping[str, str]) -> dict[str, str]:
    """The metadata to save `tensors` with: `texts` and the checksum of both."""
    return {**texts, CHECKSUM: checksum(tensors, texts)}


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file, on the CPU, and its texts.

    Raises DamagedFile where they do not match their checksum (a file without one is from before there were any),
    SafetensorError for what is no such file, and OSError.
    """
    with safe_open(path, "pt") as file:
        texts: dict[str, str] = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    stored = texts.pop(CHECKSUM, None)
    if stored is not None and stored != checksum(tensors, texts):
        raise DamagedFile("its contents do not match their checksum")
    return tensors, texts


def checksum(tensors: Mapping[str, Tensor], texts: Mapping[str, str]) -> str:
    total = zlib.crc32(repr(sorted(texts.items())).encode())
    for name, tensor in sorted(tensors.items()):
        total = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), total)
        total = zlib.crc32(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy(), total)
    return f"{total:08x}"
