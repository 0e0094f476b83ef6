"""condensed.safetensors: a condensed set as one file, with everything needed to decode it and train on it.

Tensors of the container (`container.*`), labels, and a JSON card in the header: container kind and configuration,
the space its images live in, mean and std, the learned step size, and the cell it came from; for whitened images
also the matrices (`zca.*`) and their digest. Reading executes nothing.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmark import containers
from benchmark.containers import Container
from benchmark.containers.dataset import WholeSet
from benchmark.data import Dataset
from benchmark.data.whitening import ZCA
from benchmark.system import files
from benchmark.system.errors import first_line
from benchmark.system.files import canonical_json, write_tensors

FORMAT = 1
PREFIX = "container."
ZCA_PREFIX, ZCA_TENSORS = "zca.", ("mean", "transform", "inverse")


class ArtifactError(ValueError):
    """A file that is not a condensed set this version can read; the message names it and says why."""


@dataclass(frozen=True)
class Artifact:
    container: Container
    card: dict[str, Any]


def save_artifact(path: Path, container: Container, dataset: Dataset, origin: dict[str, Any]) -> None:
    """Write a condensed set atomically. `origin`: JSON about where it comes from (cell, seconds, notes)."""
    card = {
        "format": FORMAT,
        "container": container.kind,
        "config": container.config(),
        "space": container.space,
        "dataset": dataset.spec.name,
        "classes": list(dataset.class_names),
        "image_shape": list(dataset.spec.image_shape),
        "mean": list(dataset.mean),
        "std": list(dataset.std),
        "zca": container.whitening and container.whitening.digest,
        "learned_lr": container.learned_lr,
        "floats": container.num_floats,
        "origin": origin,
    }
    tensors = {PREFIX + name: t.detach().contiguous().cpu() for name, t in container.state_dict().items()}
    if not isinstance(container, WholeSet):
        tensors["labels"] = container.labels.cpu()
    if container.whitening:
        tensors |= {ZCA_PREFIX + name: getattr(container.whitening, name).contiguous().cpu() for name in ZCA_TENSORS}
    write_tensors(path, tensors, {"card": json.dumps(card)})


def load_artifact(path: Path, dataset: Dataset, device: torch.device | str = "cpu") -> Artifact:
    """Read a condensed set. `dataset` is the one it was made from: sets that refer to their images need it.

    Raises ArtifactError for a damaged or foreign file, or one that does not fit the data set.
    """
    try:
        tensors, texts = files.read_tensors(path)
        card = json.loads(texts["card"])
        canonical_json(card)  # refuses NaN and infinities, which no result could quote
        if card["format"] != FORMAT:
            raise ArtifactError(f"{path}: format {card['format']}; this version reads format {FORMAT}")
        if (len(card["classes"]), tuple(card["image_shape"])) != (dataset.spec.classes, dataset.spec.image_shape):
            raise ArtifactError(
                f"{path} holds {len(card['classes'])} classes of shape {card['image_shape']} (from {card['dataset']}); "
                f"{dataset.spec.name} has {dataset.spec.classes} of shape {list(dataset.spec.image_shape)}"
            )
        container = containers.build(card["container"], card["config"])
        if isinstance(container, WholeSet):
            container.attach(dataset.train)
        state = {name.removeprefix(PREFIX): t for name, t in tensors.items() if name.startswith(PREFIX)}
        container.load_state_dict(state)
        if container.classes != dataset.spec.classes:
            raise ArtifactError(f"{path} holds images of {container.classes} classes and names {dataset.spec.classes}")
        container.learned_lr = card["learned_lr"]
        if container.learned_lr is not None and not math.isfinite(container.learned_lr):
            raise ArtifactError(f"{path}: a learned step size of {container.learned_lr}")
        if card.get("zca"):
            container.whitening = ZCA(*(tensors[ZCA_PREFIX + name] for name in ZCA_TENSORS)).to(device)
            if container.whitening.digest != card["zca"]:
                raise ArtifactError(f"{path}: its whitening matrices do not match their digest")
        container = container.to(device)
        if not (isinstance(container, WholeSet) or decodes(container, dataset)):
            raise ArtifactError(f"{path} does not decode to finite images of shape {list(dataset.spec.image_shape)}")
    except (ArtifactError, MemoryError):
        raise
    except Exception as error:  # what is wrong with a file surfaces as whatever its container stumbled over
        raise ArtifactError(f"{path} is not a readable condensed set: {first_line(error)}") from None
    return Artifact(container, card)


@torch.no_grad()
def decodes(container: Container, dataset: Dataset) -> bool:
    """Whether a container gives images that networks can see as they see those of the data set."""
    split, whitening = dataset.train.whitened(container.whitening), container.whitening
    images = split.seen(container.images(), container.space, whitening)
    right = images.dtype == torch.float32 and tuple(images.shape[1:]) == dataset.spec.image_shape
    return bool(right and len(images) == container.num_images > 0 and images.isfinite().all())
