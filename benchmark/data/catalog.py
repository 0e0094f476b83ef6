"""The list of data sets: from a name on the command line to a spec or to loaded data."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

from benchmark.data import digits, folder, tiny_imagenet, vision
from benchmark.data.dataset import Dataset, DatasetSpec
from benchmark.data.files import DataError
from benchmark.system.wording import close_names

FOLDER_PREFIX = "folder:"


class _Entry(NamedTuple):
    spec: Callable[[Path], DatasetSpec]
    load: Callable[[Path, bool], Dataset]


def _vision(name: str) -> _Entry:
    source = vision.SOURCES[name]
    return _Entry(lambda data_dir: source.spec, lambda data_dir, download: vision.load(source, data_dir, download))


_CATALOG: dict[str, _Entry] = {
    "digits": _Entry(lambda data_dir: digits.SPEC, lambda data_dir, download: digits.load()),
    **{name: _vision(name) for name in vision.SOURCES},
    "tiny-imagenet": _Entry(tiny_imagenet.spec, tiny_imagenet.load),
}


def names() -> tuple[str, ...]:
    """Names of the built-in data sets, smallest first. `folder:PATH` is accepted besides them."""
    return tuple(_CATALOG)


def spec(name: str, data_dir: Path) -> DatasetSpec:
    """Return what is known of data set `name` without reading its images.

    `folder:PATH` opens the image headers under PATH; `tiny-imagenet` reads its class list if there is one.

    Raises ValueError for an unknown name (the message holds the nearest valid ones), and DataError (a ValueError) for a
    folder that is not a data set.
    """
    with _explained(name):
        return _entry(name).spec(Path(data_dir).expanduser())


def load(name: str, data_dir: Path, device: torch.device | str = "cpu", download: bool = True) -> Dataset:
    """Read data set `name` below `data_dir` and put it on `device`.

    Absent files are downloaded by torchvision (with its checksums) if `download`. Archives that already lie in
    `data_dir` are extracted in either case.

    Raises ValueError for an unknown name, and DataError (a ValueError) for files that are missing, damaged or cannot be
    downloaded: the message names them and says what to do.
    """
    with _explained(name):
        data = _entry(name).load(Path(data_dir).expanduser(), download)
    return data.to(device)


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Make one sentence of what the loaders cannot foresee of a disk (no permission, a stale mount)."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{name}: cannot read the data: {error}. Check the path and its permissions.") from error


def _entry(name: str) -> _Entry:
    if name.startswith(FOLDER_PREFIX) and name != FOLDER_PREFIX:
        path = Path(name.removeprefix(FOLDER_PREFIX)).expanduser().resolve()
        return _Entry(lambda data_dir: folder.spec(path), lambda data_dir, download: folder.load(path))
    if name not in _CATALOG:
        near = close_names(name, _CATALOG)
        hint = f"Did you mean {' or '.join(near)}? " if near else ""
        raise ValueError(
            f"Unknown data set {name!r}. {hint}Known: {', '.join(_CATALOG)}, and folder:PATH for "
            "class sub-folders of images."
        )
    return _CATALOG[name]


def describe() -> dict[str, str]:
    """One line for each data set name, for `--list`."""
    lines = {}
    for name, entry in _CATALOG.items():
        spec = entry.spec(Path())
        lines[name] = f"{spec.title}: {spec.height}x{spec.width}x{spec.channels}, {spec.classes} classes"
    return lines | {"folder:PATH": "your own images: one sub-folder per class, all of one size"}
