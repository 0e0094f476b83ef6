"""Files as everything here writes and reads them: whole or not at all, and with a checksum that tells a flipped bit.

JSON text, atomic writes, and safetensors files sealed by a CRC-32 over their tensors and texts.
"""

from __future__ import annotations

import json
import os
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

CHECKSUM = "checksum"


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: the same text for the same value, on every machine."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never half of it."""
    data = content.encode(errors="replace") if isinstance(content, str) else content  # half a surrogate becomes a ?
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    write_atomically(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


class DamagedFile(ValueError):
    """A readable file whose contents are not what was written."""


def sealed_texts(tensors: Mapping[str, Tensor], texts: Mapping[str, str]) -> dict[str, str]:
    """The metadata to save `tensors` with: `texts` and the checksum of both."""
    return {**texts, CHECKSUM: tensor_checksum(tensors, texts)}


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file, on the CPU, and its texts.

    Raises DamagedFile where they do not match their checksum (a file without one is from before there were any),
    SafetensorError for what is no such file, and OSError.
    """
    with safe_open(path, "pt") as file:
        texts: dict[str, str] = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    stored = texts.pop(CHECKSUM, None)
    if stored is not None and stored != tensor_checksum(tensors, texts):
        raise DamagedFile("its contents do not match their checksum")
    return tensors, texts


def tensor_checksum(tensors: Mapping[str, Tensor], texts: Mapping[str, str]) -> str:
    total = zlib.crc32(repr(sorted(texts.items())).encode())
    for name, tensor in sorted(tensors.items()):
        total = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), total)
        total = zlib.crc32(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data, total)
    return f"{total:08x}"
