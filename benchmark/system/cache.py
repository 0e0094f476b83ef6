"""A cache of tensors that take long to make: decoded images, whitening matrices, feature networks, expert trajectories.

What a file holds is decided by its purpose: JSON of everything that its contents depend on. The purpose stands in the
file together with the number of this format. So a file of other images or of an older version is made again and never
misread. A damaged file is named by a warning and made again as well.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmark.system import locks
from benchmark.system.files import DamagedFile, canonical_json, read_tensors, write_tensors

FORMAT = 2
"""Part of every purpose; raised when files of an earlier version must no longer be read."""

KEY = "key"
"""The name of the text in a file that holds its purpose."""

Tensors = dict[str, Tensor]


def get_or_make(
    places: Sequence[Path],
    name: str,
    purpose: Any,
    make: Callable[[], Tensors],
    should_stop: Callable[[], bool] = lambda: False,
) -> Tensors:
    """Return the tensors kept as `name` (which may lead into sub-folders) for this purpose, on the CPU.

    They come from the first of the folders `places` that has them. Otherwise `make` makes them, and the first folder
    that takes them keeps them. Of several processes that want the same tensors, one makes them and the others wait, by
    a lock in the last of the folders. Raises Stopped if `should_stop` says so meanwhile. If no folder takes the
    tensors, a warning says so; without folders nothing is kept.
    """
    paths = [place / f"{name}.safetensors" for place in places]
    with locks.turn(places[-1] if places else None, name.replace("/", "-"), should_stop):
        for path in paths:
            if (found := load(path, purpose)) is not None:
                return found
        made = make()
        error: OSError | None = None
        for path in paths:
            try:
                keep(path, purpose, made)
                return made
            except OSError as refused:
                error = refused
        if error:
            warnings.warn(f"cannot keep {name}: {error}", stacklevel=2)
    return made


def load(path: Path, purpose: Any) -> Tensors | None:
    """Return the tensors that `keep` wrote for this purpose, on the CPU; None if there is no file or, after a warning,
    if it is damaged or was made for something else."""
    try:
        tensors, texts = read_tensors(path)
        if KEY not in texts:
            raise DamagedFile("it does not say what it was made for")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        warnings.warn(f"{path} is damaged ({error}); it is made again", stacklevel=2)
        return None
    if texts[KEY] != _key(purpose):
        warnings.warn(f"{path} was made for something else; it is made again", stacklevel=2)
        return None
    return tensors


def keep(path: Path, purpose: Any, tensors: Tensors) -> None:
    """Write tensors so that `load` finds them for this purpose. The file appears whole or not at all. Raises OSError if
    it cannot be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    own = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    write_tensors(path, own, {KEY: _key(purpose)})


def name_for(readable: str, purpose: Any) -> str:
    """Return the name of a file or folder: a part for people who look into the folder, and a hash of the purpose, which
    decides."""
    return (
        f"{re.sub(r'[^A-Za-z0-9_-]+', '-', readable)[-40:]}-{hashlib.sha256(_key(purpose).encode()).hexdigest()[:16]}"
    )


def _key(purpose: Any) -> str:
    return canonical_json({"format": FORMAT, "purpose": purpose})
