"""Reading and writing files: a file appears whole or not at all, and a checksum tells when a bit was flipped.

There is one atomic writer: `replacing`, by which `write_atomically`, `write_json` and `write_tensors` work. There is
one checksum for each kind of contents: a CRC-32 over canonical JSON, which stands in the object, and one over the
tensors and texts of a safetensors file, which stands among its texts.
"""

from __future__ import annotations

import errno
import json
import os
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

CHECKSUM = "checksum"
"""Where a checksum stands: in a field of a JSON object, or in a text of a safetensors file."""

FULL = "No space left on device"
"""What safetensors says of a full disk in an error of its own."""


class DamagedFile(ValueError):
    """A file whose contents are not what was written; the message says what is wrong."""


# Writing


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give an empty file beside `path` to write to. When the block ends, it takes the place of `path`, so that a reader
    sees the old content or the new, never half of it. If the block raises, the file is removed."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(descriptor)
    unfinished = Path(name)
    try:
        yield unfinished
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.chmod(0o644)
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file by `replacing`. Half a surrogate in a text becomes a question mark."""
    with replacing(path) as unfinished:
        unfinished.write_bytes(content.encode(errors="replace") if isinstance(content, str) else content)


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON by `replacing`. Raises ValueError for NaN and infinities, which JSON does not have."""
    write_atomically(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], texts: Mapping[str, str]) -> None:
    """Write a safetensors file by `replacing`, sealed by its checksum, without a second copy of tensors that are on the
    CPU. The tensors are contiguous and share no memory. Raises OSError if the disk does not take the file."""
    with replacing(path) as unfinished:
        try:
            save_file(dict(tensors), unfinished, sealed_texts(tensors, texts))
        except SafetensorError as error:  # which a full disk is to safetensors as well
            number = errno.ENOSPC if FULL in str(error) else errno.EIO
            raise OSError(number, f"{os.strerror(number)}: {error}", str(path)) from error


# JSON


def canonical_json(value: Any) -> str:
    """Return JSON with sorted keys and no spaces: the same text for the same value, on every machine."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON object with its checksum, by which a reader can tell whether a digit was flipped."""
    as_read = json.loads(json.dumps(value, allow_nan=False))
    return as_read | {CHECKSUM: json_checksum(as_read)}


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, without its checksum if it has one. Raises OSError, and DamagedFile for a file
    that holds no object, holds what JSON does not have (NaN), or does not match its checksum."""
    try:
        value = json.loads(path.read_text())
        if not isinstance(value, dict):
            raise DamagedFile("not an object")
        stored, found = value.pop(CHECKSUM, None), json_checksum(value)
    except DamagedFile:
        raise
    except (ValueError, RecursionError) as error:
        raise DamagedFile(str(error)) from error
    if stored is not None and stored != found:
        raise DamagedFile("its contents do not match their checksum")
    return value


def json_checksum(value: Any) -> str:
    return f"{zlib.crc32(canonical_json(value).encode()):08x}"


# Tensors


def sealed_texts(tensors: Mapping[str, Tensor], texts: Mapping[str, str]) -> dict[str, str]:
    """Return the metadata to save `tensors` with: `texts` and the checksum of both."""
    return {**texts, CHECKSUM: tensor_checksum(tensors, texts)}


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a file, on the CPU, and its texts.

    Raises OSError, and DamagedFile if they do not match their checksum, or if the file is of another kind. A file
    without a checksum is older than checksums and is accepted.
    """
    try:
        with safe_open(path, "pt") as file:
            texts: dict[str, str] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise DamagedFile(str(error)) from error
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
