"""Reading condensed sets from outside a results folder: our own files, the DC/DSA/DM authors' `.pt`, image folders.

Nothing read here can execute code: safetensors, `torch.load(weights_only=True)` and image decoders only.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmark.data import Dataset, read_class_folders
from benchmark.store.condensed_set import load_artifact
from benchmark.training.trainer import TrainingSet
from benchmark.training.training_set import training_set


class ForeignSetError(ValueError):
    """A file that cannot be scored; the message names the file and says what would do."""


@dataclass(frozen=True)
class CondensedSet:
    """One set to score. `ipc` is its budget in images per class, which sets the length of the unified training."""

    name: str
    data: TrainingSet
    ipc: int
    learned_lr: float | None = None
    method: str = ""
    """Our name of the method that made the set, if the file says so."""


def digest(path: Path) -> str:
    """Return 16 hex digits of a file's content, or of the contents and names of a folder's files."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    total = hashlib.sha256()
    for file in files:
        total.update(os.fsencode(file.relative_to(path)))
        total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()[:16]


def read_sets(path: Path, dataset: Dataset) -> list[CondensedSet]:
    """Return the condensed sets in a file or folder, on the data set's device, checked against the data set they are to
    be tested on.

    `.safetensors`: one of ours. `.pt`: a result of VICO-UoE/DatasetCondensation, one set per experiment, normalised
    pixels. A folder: one sub-folder of images per class. Raises ForeignSetError, ArtifactError or DataError.
    """
    if not path.exists():
        raise ForeignSetError(f"{path} does not exist; give a .safetensors or .pt file, or a folder of images")
    if path.is_dir():
        return [_from_folder(path, dataset)]
    if path.suffix == ".safetensors":
        return [_own(path, dataset)]
    if path.suffix in (".pt", ".pth"):
        return _from_authors(path, dataset)
    raise ForeignSetError(f"{path}: unknown kind of file; give .safetensors, .pt or a folder of class sub-folders")


def _own(path: Path, dataset: Dataset) -> CondensedSet:
    device = dataset.train.images.device
    artifact = load_artifact(path, dataset, device)
    try:
        cell = artifact.card["origin"]["cell"]
        ipc, method = cell["ipc"], cell["method"]
    except (KeyError, TypeError):
        ipc = method = None
    if type(ipc) is not int or ipc < 0 or not isinstance(method, str):
        raise ForeignSetError(f"{path} does not say which cell it came from; it was not written by this program")
    container = artifact.container
    return CondensedSet(path.name, training_set(container, dataset.train), ipc, container.learned_lr, method)


def _from_authors(path: Path, dataset: Dataset) -> list[CondensedSet]:
    """`{'data': [[images, labels], ...], ...}`: the tensors of each experiment, and accuracies that are not read."""
    try:
        with torch.serialization.safe_globals(_accuracy_stubs()):
            content = torch.load(path, map_location=dataset.train.images.device, weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # a damaged pickle surfaces as whatever its reader stumbled over
        raise ForeignSetError(f"{path} cannot be read: {_reason(error)}") from None
    pairs = content.get("data") if isinstance(content, dict) else None
    if not isinstance(pairs, list) or not pairs:
        raise ForeignSetError(f"{path} holds no 'data' list of [images, labels], as the DC/DSA/DM authors' files do")
    sets = []
    for number, pair in enumerate(pairs):
        name = f"{path.name} [{number}]" if len(pairs) > 1 else path.name
        tensors = list(pair) if isinstance(pair, list | tuple) else []
        if len(tensors) != 2 or not all(isinstance(t, Tensor) for t in tensors):
            raise ForeignSetError(f"{name}: expected [images, labels]")
        sets.append(_checked(name, tensors[0], tensors[1], dataset))
    return sets


class _Ignored:
    """Stands in for a numpy scalar or dtype among the authors' accuracies: takes anything and does nothing with it, so
    that the tensors beside it can be read with weights_only."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


def _accuracy_stubs() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """The names pickle knows numpy scalars by (two modules: before and since NumPy 2), all of them ignored."""
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype", "_codecs.encode")
    return [(_Ignored, name) for name in names]


def _reason(error: Exception) -> str:
    """Why torch would not read a file, without its advice to switch the safety off."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if lines and lines[0].startswith("Weights only load failed"):
        return "it holds objects other than tensors, numbers and texts, which this program will not create"
    return lines[0] if lines else type(error).__name__


def _from_folder(path: Path, dataset: Dataset) -> CondensedSet:
    images, labels = read_class_folders(path, dataset.spec, dataset.class_names)
    device = dataset.train.images.device
    raw = images.to(device).float() / 255
    return _checked(path.name, dataset.train.normalise(raw), labels, dataset)


def _is_plain(tensor: Tensor) -> bool:
    """Not sparse, quantised, complex or empty of memory, nor a small memory shown as a huge tensor."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex() or tensor.is_meta:
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def _checked(name: str, images: Tensor, labels: Tensor, dataset: Dataset) -> CondensedSet:
    """A set of normalised images [N, C, H, W] and labels [N] that fits the data set."""
    spec, device = dataset.spec, dataset.train.images.device
    if not all(_is_plain(tensor) for tensor in (images, labels)):
        raise ForeignSetError(f"{name}: expected plain tensors with every element stored")
    if images.ndim != 4 or tuple(images.shape[1:]) != spec.image_shape or not images.is_floating_point():
        raise ForeignSetError(f"{name}: images of shape {tuple(images.shape)}; {spec.name} has {spec.image_shape}")
    if labels.shape != images.shape[:1] or labels.is_floating_point() or not len(labels):
        raise ForeignSetError(f"{name}: {tuple(labels.shape)} labels for {len(images)} images; one whole number each")
    if labels.min() < 0 or labels.max() >= spec.classes:
        reach = f"{labels.min()} to {labels.max()}"
        raise ForeignSetError(f"{name}: labels reach from {reach}, not 0 to {spec.classes - 1}")
    if not torch.isfinite(images).all():
        raise ForeignSetError(f"{name}: some pixels are not finite")
    data = TrainingSet.of(images.detach().to(device, torch.float32), labels.to(device, torch.int64))
    return CondensedSet(name, data, max(1, round(len(images) / spec.classes)))
