"""Tiny-ImageNet from the official archive's own tree, `tiny-imagenet-200/`.

The test split is the archive's *validation* images, labelled by val/val_annotations.txt: its test images have
no labels. Classes are numbered in the sorted order of their WordNet ids, as ImageFolder would, not in that of
wnids.txt.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from benchmark.data import files
from benchmark.data.dataset import Dataset, DatasetSpec, assemble
from benchmark.data.images import decode
from benchmark.system import cache
from benchmark.system.paths import cache_folder

TITLE = "Tiny-ImageNet"
FOLDER = "tiny-imagenet-200"
URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
CLASSES = 200
SIDE = 64
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
_EXPECTED = (
    f"{FOLDER}/wnids.txt",
    f"{FOLDER}/words.txt",
    f"{FOLDER}/train/<wnid>/images/*.JPEG",
    f"{FOLDER}/val/images/*.JPEG",
    f"{FOLDER}/val/val_annotations.txt",
)


class _Tree(NamedTuple):
    wnids: list[str]
    train: list[tuple[Path, int]]
    test: list[tuple[Path, int]]
    key: str  # changes with any file's name, size or time


def spec(data_dir: Path) -> DatasetSpec:
    """Return the spec; the class count is that of wnids.txt if the file is there (200 in the official archive)."""
    root = data_dir / FOLDER
    return _spec(len(_wnids(root)) if (root / "wnids.txt").is_file() else CLASSES)


def load(data_dir: Path, download: bool) -> Dataset:
    """Read the tree below `data_dir`, or its cache if the tree has not changed since it was decoded.

    The cache, `tiny-imagenet-200.safetensors` (1.4 GB), lies beside the tree, or in the user's cache folder if it
    cannot be written there. Raises DataError for files that are missing or damaged.
    """
    root = data_dir / FOLDER
    if not (root / "wnids.txt").is_file():
        _fetch(data_dir, download)
    tree = _list(root)
    spec = _spec(len(tree.wnids))
    tensors = cache.get_or_make((data_dir, cache_folder()), FOLDER, tree.key, lambda: _decode(tree, spec))
    return assemble(
        spec,
        (tensors["train_images"], tensors["train_labels"]),
        (tensors["test_images"], tensors["test_labels"]),
        class_names=_class_names(root, tree.wnids),
        where=root,
        normalisation=(MEAN, STD),
    )


def _decode(tree: _Tree, spec: DatasetSpec) -> dict[str, Tensor]:
    """All images and labels: 110,000 JPEG files, which are decoded once and not at every start."""
    tensors = {}
    for part, items in {"train": tree.train, "test": tree.test}.items():
        tensors[f"{part}_images"] = decode([path for path, _ in items], *spec.image_shape, title=TITLE)
        tensors[f"{part}_labels"] = torch.tensor([label for _, label in items], dtype=torch.int64)
    return tensors


def _spec(classes: int) -> DatasetSpec:
    return DatasetSpec(
        "tiny-imagenet",
        TITLE,
        3,
        SIDE,
        SIDE,
        classes,
        flip=True,
        published="TinyImageNet",
        train_images=500 * classes,
        test_images=50 * classes,
    )


def _fetch(data_dir: Path, download: bool) -> None:
    # torchvision takes seconds to import; an extracted tree does without it.
    from torchvision.datasets.utils import check_integrity, download_and_extract_archive

    archive = data_dir / Path(URL).name
    reason: object = "download is off"
    if download or check_integrity(archive, MD5):  # an intact archive is extracted without the network
        try:
            with files.bounded_network():
                download_and_extract_archive(URL, data_dir, md5=MD5)
            return
        except Exception as error:  # network, zip and disk errors share no type
            reason = f"tried to fetch it: {error}"
    if archive.is_file() and not check_integrity(archive, MD5):
        raise files.damaged(TITLE, [archive], f"its checksum is wrong; {reason}")
    raise files.missing(TITLE, data_dir, _EXPECTED, URL, f"{FOLDER}/ or {archive.name}", reason)


def _list(root: Path) -> _Tree:
    """All images with their labels. A tree that lacks files (an extraction cut short) is an error."""
    wnids = _wnids(root)
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    key = hashlib.sha256()

    train: list[tuple[Path, int]] = []
    for wnid, label in labels.items():
        folder = root / "train" / wnid
        found = _images(folder / "images", root, key)
        boxes = folder / f"{wnid}_boxes.txt"
        listed = [line.split("\t")[0] for line in _lines(boxes)] if boxes.is_file() else []
        _require(folder / "images", listed, found)
        train.extend((folder / "images" / name, label) for name in found)

    folder, annotations = root / "val" / "images", root / "val" / "val_annotations.txt"
    found = _images(folder, root, key)
    answers: dict[str, str] = {}
    for number, line in enumerate(_lines(annotations), 1):
        name, wnid = [*line.split("\t"), ""][:2]
        if wnid not in labels:
            raise files.damaged(TITLE, [annotations], f"line {number}: {wnid!r} is no class of wnids.txt")
        answers[name] = wnid
    _require(folder, list(answers), found)
    for name in found:
        if name not in answers:
            raise files.damaged(TITLE, [annotations], f"no line for {name}")
        key.update(f"{name}={answers[name]}\n".encode())
    test = [(folder / name, labels[wnid]) for name, wnid in answers.items()]
    return _Tree(wnids, train, test, key.hexdigest())


def _wnids(root: Path) -> list[str]:
    return sorted({line.strip() for line in _lines(root / "wnids.txt")})


def _images(folder: Path, root: Path, key: "hashlib._Hash") -> list[str]:
    """Sorted names of the JPEG files in `folder`; name, size and time of each go into `key`."""
    if not folder.is_dir():
        raise files.damaged(TITLE, [folder], "no such folder")
    with os.scandir(folder) as entries:
        jpegs = (entry for entry in entries if entry.name.lower().endswith((".jpeg", ".jpg")))
        found = sorted((entry.name, entry.stat()) for entry in jpegs)
    place = folder.relative_to(root).as_posix()
    for name, stat in found:
        key.update(f"{place}/{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return [name for name, _ in found]


def _require(folder: Path, expected: Sequence[str], found: Sequence[str]) -> None:
    absent = sorted(set(expected) - set(found))
    if absent or not found:
        raise files.damaged(TITLE, [folder / name for name in absent or ["*.JPEG"]], "no such file")


def _lines(path: Path) -> list[str]:
    try:
        lines = [line.rstrip("\r") for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise files.damaged(TITLE, [path], error) from error
    if not lines:
        raise files.damaged(TITLE, [path], "the file is empty")
    return lines


def _class_names(root: Path, wnids: Sequence[str]) -> tuple[str, ...]:
    """The first synonym in words.txt for each id ("goldfish, Carassius auratus"), or else the id itself."""
    words = root / "words.txt"
    pairs = (line.partition("\t") for line in _lines(words)) if words.is_file() else ()
    names = {wnid: synonyms.split(",")[0] for wnid, _, synonyms in pairs}
    return tuple(names.get(wnid, wnid) for wnid in wnids)
