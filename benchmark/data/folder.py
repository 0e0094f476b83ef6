"""`folder:PATH`: anybody's own data set, one sub-folder of images per class.

Either PATH/train/<class>/ with PATH/test/<class>/ (or val/), or PATH/<class>/ alone, divided 80/20 by a
fixed stratified draw. Classes are numbered in the alphabetical order of their folders; images may lie deeper
inside.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from benchmark.data.dataset import (
    TEST_FRACTION,
    TEST_SEED,
    Dataset,
    DatasetSpec,
    assemble,
    stratified_indices,
)
from benchmark.data.files import DataError
from benchmark.data.images import decode, read_headers, wrong_size

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})
_LAYOUT = (
    f"Expected class sub-folders of images ({' '.join(sorted(SUFFIXES))}): either PATH/train/<class>/ and "
    "PATH/test/<class>/ (or val/), or PATH/<class>/."
)


class _Scan(NamedTuple):
    spec: DatasetSpec
    class_names: tuple[str, ...]
    train: list[tuple[Path, int]]
    test: list[tuple[Path, int]]


def spec(path: Path) -> DatasetSpec:
    """Return size, colour and class count from the headers of all images under the absolute `path`."""
    return _scan(path).spec


def load(path: Path) -> Dataset:
    """Decode all images under the absolute `path`; grey stays one channel if every image is grey, else RGB.

    Mean and standard deviation are those of the training split. Raises DataError for a folder that is no data set, a
    damaged image, or an image of another size than the rest.
    """
    scan = _scan(path)
    return assemble(
        scan.spec,
        _decode(scan.train, scan.spec),
        _decode(scan.test, scan.spec),
        class_names=scan.class_names,
        where=path,
    )


def _decode(items: Sequence[tuple[Path, int]], spec: DatasetSpec) -> tuple[Tensor, Tensor]:
    images = decode([path for path, _ in items], *spec.image_shape, title=spec.name)
    return images, torch.tensor([label for _, label in items], dtype=torch.int64)


def _scan(path: Path) -> _Scan:
    name = f"folder:{path}"
    if not path.is_dir():
        raise DataError(f"{name}: no such folder. {_LAYOUT}")
    # A class may itself be called "train": the folder is a split only if it has sub-folders.
    if _subfolders(path / "train"):
        held_out = next((path / part for part in ("test", "val") if _subfolders(path / part)), None)
        if held_out is None:
            raise DataError(f"{name}: train/ needs a test/ or val/ with class sub-folders beside it. {_LAYOUT}")
        class_names, train = _classes(path / "train", name)
        test_names, test = _classes(held_out, name)
        if test_names != class_names:
            odd = ", ".join(sorted(set(class_names) ^ set(test_names)))
            raise DataError(f"{name}: train/ and {held_out.name}/ differ in their classes: {odd}. {_LAYOUT}")
    else:
        class_names, items = _classes(path, name)
        labels = torch.tensor([label for _, label in items])
        counts = torch.bincount(labels).tolist()
        for class_name, count in zip(class_names, counts, strict=True):
            if count < 2:
                raise DataError(f"{name}: class {class_name} has one image, and none for the test set. Add one.")
        fit, held = stratified_indices(labels, TEST_FRACTION, TEST_SEED)
        train, test = [items[i] for i in fit.tolist()], [items[i] for i in held.tolist()]

    paths = [file for file, _ in (*train, *test)]
    headers = read_headers(paths, title=name)
    size = headers[0][:2]
    for file, header in zip(paths, headers, strict=True):
        if header[:2] != size:
            raise wrong_size(name, file, header[:2], size)
    spec = DatasetSpec(
        name=name,
        title=path.name,
        channels=1 if all(header.grey for header in headers) else 3,
        height=size[0],
        width=size[1],
        classes=len(class_names),
        flip=True,
        published="",
        train_images=len(train),
        test_images=len(test),
    )
    return _Scan(spec, class_names, train, test)


def _classes(root: Path, name: str) -> tuple[tuple[str, ...], list[tuple[Path, int]]]:
    """Class names and (file, label) of every image below the class folders of `root`."""
    folders = _subfolders(root)
    if len(folders) < 2:
        raise DataError(f"{name}: {root} has {len(folders)} class sub-folders, not 2 or more. {_LAYOUT}")
    items: list[tuple[Path, int]] = []
    for label, folder in enumerate(folders):
        found = _images(folder)
        if not found:
            raise DataError(f"{name}: no image in {folder}. {_LAYOUT}")
        items.extend((file, label) for file in found)
    return tuple(folder.name for folder in folders), items


def _images(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and _visible(file))


def _subfolders(path: Path) -> list[Path]:
    if not path.is_dir():
        return []
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and _visible(entry))


def _visible(path: Path) -> bool:
    # macOS leaves "._cat.png" beside "cat.png" on foreign disks: a name like an image, with no image in it.
    return not path.name.startswith(".")


def read_class_folders(path: Path, spec: DatasetSpec, class_names: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """Return images of another program (uint8 [N, C, H, W], int64 [N]) from PATH/<class>/, to be scored on a data set.

    Sub-folders are named as the classes or numbered 0 .. classes - 1. Raises DataError if a class has no images, or if
    an image differs from the data set's size.
    """
    folders = {folder.name: folder for folder in _subfolders(path)}
    numbered = all(name.isdecimal() for name in folders)
    wanted = [str(number) for number in range(spec.classes)] if numbered else list(class_names)
    missing = [name for name in wanted if name not in folders]
    if missing or len(folders) != len(wanted):
        raise DataError(
            f"{path}: expected {len(wanted)} sub-folders of images named as the classes of {spec.name} "
            f"({', '.join(class_names[:4])}, ...) or 0 to {spec.classes - 1}; "
            + (f"{missing[0]} is missing" if missing else f"there are {len(folders)}")
        )
    items = [(file, label) for label, name in enumerate(wanted) for file in _images(folders[name])]
    if not items:
        raise DataError(f"{path}: no image ({' '.join(sorted(SUFFIXES))}) in any sub-folder")
    return _decode(items, spec)
