"""Decoded images kept on disk as safetensors: 110,000 JPEG files are decoded once, not at every start."""

import logging
import os
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from benchmark.system import files
from benchmark.system.paths import cache_folder

_log = logging.getLogger(__name__)


def load(name: str, key: str, beside: Path) -> dict[str, Tensor] | None:
    """The tensors stored as `name` for `key`, or None if there are none, they are out of date, or damaged."""
    for path in _places(name, beside):
        try:
            tensors, texts = files.read_tensors(path)
        except (OSError, SafetensorError, files.DamagedFile):
            continue  # absent or damaged: either way the caller decodes again and stores anew
        if texts.get("key") == key:
            return tensors
    return None


def store(name: str, key: str, beside: Path, tensors: dict[str, Tensor]) -> None:
    """Keep `tensors` in folder `beside`, or in the user's cache where that cannot be written.

    The file appears complete or not at all. A cache that cannot be written goes to the log, it is no error.
    """
    for path in _places(name, beside):
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file(tensors, temporary, metadata=files.sealed_texts(tensors, {"key": key}))
            temporary.replace(path)
            return
        except (OSError, SafetensorError) as error:
            _log.warning("cannot keep decoded images in %s: %s", path, error)
        finally:
            with suppress(OSError):  # gone after the rename; and no cleaning may fail a run
                temporary.unlink()


def _places(name: str, beside: Path) -> tuple[Path, Path]:
    return beside / f"{name}.safetensors", cache_folder() / f"{name}.safetensors"
