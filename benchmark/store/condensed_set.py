"""condensed.safetensors: a condensed set as one file, with everything needed to decode it and train on it.

It holds tensors of the container (`container.*`), labels, and a JSON card in the header: the container's kind and
configuration, the space its images live in, mean and std, the learned step size, and the cell it came from. For
whitened images it also holds the matrices (`zca.*`) and their digest. Reading executes nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmark import containers
from benchmark.containers import Container
from benchmark.containers.dataset import WholeSet
from benchmark.data import Dataset
from benchmark.data.normalisation import Normalisation
from benchmark.data.whitening import ZCA
from benchmark.system import files
from benchmark.system.errors import first_line
from benchmark.system.files import canonical_json, write_tensors

CONDENSED = "condensed.safetensors"
"""The file of a cell's folder that holds its condensed set."""

FORMAT = 1
PREFIX = "container."
ZCA_PREFIX, ZCA_TENSORS = "zca.", ("mean", "transform", "inverse")


class ArtifactError(ValueError):
    """A file that is not a condensed set which this version can read; the message names the file and says why."""


@dataclass(frozen=True)
class Artifact:
    """A condensed set as it was read: the container that decodes, and what the file says of itself (JSON)."""

    container: Container
    card: dict[str, Any]

    @property
    def normalisation(self) -> Normalisation:
        """How networks must see the set, and real images beside it: by the card's mean and std, or by the whitening
        that came with the set. On the container's device."""
        mean, std = (torch.tensor(self.card[name], dtype=torch.float32) for name in ("mean", "std"))
        device = next((t.device for t in self.container.state_dict().values()), "cpu")
        return Normalisation(mean, std, self.container.whitening).to(device)


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
    """Read a condensed set, and make sure that it can take the place of its data set's training images.

    `dataset` is the one it was made from: sets that refer to their images need it. Raises ArtifactError for a damaged
    or foreign file, or one that does not fit the data set.
    """
    artifact = read_artifact(path, device)
    fit(artifact, dataset, path)
    if not isinstance(artifact.container, WholeSet):  # whose images are many, and the data set's own
        decode(artifact, dataset.train.whitened(artifact.container.whitening).normalisation, path)
    return artifact


def read_artifact(path: Path, device: torch.device | str = "cpu") -> Artifact:
    """Read a condensed set as its file stands, without its data set: a `WholeSet` has no images until `fit`.

    Raises ArtifactError for a damaged or foreign file.
    """
    with _readable(path):
        tensors, texts = files.read_tensors(path)
        card = json.loads(texts["card"])
        canonical_json(card)  # refuses NaN and infinities, which no result could quote
        if card["format"] != FORMAT:
            raise ArtifactError(f"{path}: format {card['format']}; this version reads format {FORMAT}")
        container = containers.build(card["container"], card["config"])
        state = {name.removeprefix(PREFIX): t for name, t in tensors.items() if name.startswith(PREFIX)}
        container.load_state_dict(state)
        classes = len(card["classes"])
        if container.classes != classes:
            raise ArtifactError(f"{path} holds images of {container.classes} classes and names {classes}")
        container.learned_lr = card["learned_lr"]
        if container.learned_lr is not None and not math.isfinite(container.learned_lr):
            raise ArtifactError(f"{path}: a learned step size of {container.learned_lr}")
        if card.get("zca"):
            mean, transform, inverse = (tensors[ZCA_PREFIX + name] for name in ZCA_TENSORS)
            container.whitening = ZCA(mean, transform, inverse).to(device)
            if container.whitening.digest != card["zca"]:
                raise ArtifactError(f"{path}: its whitening matrices do not match their digest")
        artifact = Artifact(container.to(device), card)
        normalisation, channels = artifact.normalisation, card["image_shape"][:1]
        if list(normalisation.mean.shape) != channels or list(normalisation.std.shape) != channels:
            raise ArtifactError(f"{path}: mean and std are not one number for each of {channels[0]} channels")
        if not (normalisation.std > 0).all():
            raise ArtifactError(f"{path}: a std that is not positive")
    return artifact


def fit(artifact: Artifact, dataset: Dataset, path: Path) -> None:
    """Check a condensed set against a data set, and give it the images if it only refers to them.

    path: the file, for messages. Raises ArtifactError if the set has other classes, another shape or other images.
    """
    card, spec = artifact.card, dataset.spec
    with _readable(path):
        if (len(card["classes"]), tuple(card["image_shape"])) != (spec.classes, spec.image_shape):
            raise ArtifactError(
                f"{path} holds {len(card['classes'])} classes of shape {card['image_shape']} (from {card['dataset']}); "
                f"{spec.name} has {spec.classes} of shape {list(spec.image_shape)}"
            )
        if isinstance(artifact.container, WholeSet):
            artifact.container.attach(dataset.train)


@torch.no_grad()
def decode(artifact: Artifact, normalisation: Normalisation, path: Path) -> tuple[Tensor, Tensor]:
    """Return the images of a set, decoded once: as they are stored (in the container's space), and as networks see
    them.

    Both are float32 [N, C, H, W], and one tensor if they are the same. path: the file, for messages. Raises
    ArtifactError if they are not finite images of the shape that the card names.
    """
    container, shape = artifact.container, list(artifact.card["image_shape"])
    with _readable(path):
        stored = container.images().detach()
        seen = normalisation.seen(stored, container.space, container.whitening)
        right = seen.dtype == torch.float32 and list(seen.shape[1:]) == shape
        if not (right and len(seen) == container.num_images > 0 and seen.isfinite().all()):
            raise ArtifactError(f"{path} does not decode to finite images of shape {shape}")
    return stored, seen


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """What is wrong with a file surfaces as whatever its container stumbled over; here it gets the file's name."""
    try:
        yield
    except (ArtifactError, MemoryError):
        raise
    except Exception as error:
        raise ArtifactError(f"{path} is not a readable condensed set: {first_line(error)}") from None
