"""A condensed set for anyone's own training script: `from benchmark import load_condensed`.

Nothing here trains, and nothing needs the data set that was condensed: the file says how its images are decoded and how
real ones must be normalised to be seen alike.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from benchmark import data
from benchmark.containers.dataset import WholeSet
from benchmark.data.normalisation import Normalisation
from benchmark.data.whitening import ZCA
from benchmark.store import condensed_set
from benchmark.store.condensed_set import CONDENSED, ArtifactError
from benchmark.system.paths import data_folder

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIX = ".safetensors"
CELL_FACTS = ("method", "ipc", "seed", "schedule", "budget")
"""Of the cell that made a set; the card repeats them at its top."""


@dataclass(frozen=True)
class Transform:
    """Makes real images look to a network as the condensed ones do. Give it to torchvision as `transform=`."""

    normalisation: Normalisation
    image_shape: tuple[int, int, int]

    def __call__(self, images: Tensor | Image) -> Tensor:
        """Normalise, or whiten, one image or several.

        Args:
            images: A PIL image, or a tensor [C, H, W] or [N, C, H, W]: uint8, or floats in [0, 1].

        Returns:
            A float32 tensor of the same shape ([C, H, W] for a PIL image), on the images' device.

        Raises:
            ValueError: The images have another size or number of channels than the condensed ones.
        """
        images = images if isinstance(images, Tensor) else self._pixels(images)
        if images.ndim not in (3, 4) or tuple(images.shape[-3:]) != self.image_shape:
            raise ValueError(
                f"images of shape {list(images.shape)}; this condensed set has {list(self.image_shape)} "
                "(channels, height, width): resize or convert them first"
            )
        raw = images.float() / 255 if images.dtype == torch.uint8 else images.float()
        batch = raw if raw.ndim == 4 else raw[None]
        seen = self.normalisation.to(raw.device).normalise(batch)
        return seen if raw.ndim == 4 else seen[0]

    def _pixels(self, image: Image) -> Tensor:
        import numpy as np  # torch has it loaded already, unless it was built without

        array = np.array(image.convert("L" if self.image_shape[0] == 1 else "RGB"))
        return torch.from_numpy(array).reshape(*array.shape[:2], -1).permute(2, 0, 1)


class CondensedDataset(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """A condensed set, decoded once: a torch `Dataset` of N images and labels, and the tensors behind it.

    Attributes:
        images: float32 [N, C, H, W] as networks must see them: normalised per channel, or ZCA-whitened where `zca` is
            set. The images of a class follow each other.
        labels: int64 [N], in 0 ... len(classes) - 1.
        mean, std: float32 [C], of the real pixels in [0, 1].
        zca: The whitening that takes the place of mean and std (its tensors are `mean`, `transform` and `inverse`), or
            None.
        learned_lr: The step size that the method learned with the images, or None.
        classes: The names of the classes, in the order of the labels.
        card: What the file says of itself, as JSON values: `method`, `dataset`, `ipc`, `seed`, `schedule`, `budget`
            (None where the file names no cell), `floats` stored, `classes`, `image_shape`, `space` it is stored in,
            `container` and its `config`, and `origin`: the whole cell, how long it took, and on what.
        transform: A callable for real images, to hand to torchvision; see `Transform`.
    """

    def __init__(
        self,
        stored: Tensor,
        seen: Tensor,
        labels: Tensor,
        space: str,
        normalisation: Normalisation,
        card: dict[str, Any],
    ) -> None:
        """Take decoded images: as they are `stored` in `space` and as they are `seen`, both [N, C, H, W]."""
        self.images, self.labels, self.card = seen, labels, card
        self.mean, self.std = normalisation.mean, normalisation.std
        self.learned_lr: float | None = card["learned_lr"]
        self.classes: tuple[str, ...] = tuple(card["classes"])
        channels, height, width = seen.shape[1:]
        self.transform = Transform(normalisation, (channels, height, width))
        self._stored, self._space = stored, space

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.labels[index])

    def __repr__(self) -> str:
        size = "whole set" if self.card["ipc"] == 0 else f"IPC {self.card['ipc']}"
        made = f"{self.card['method']} on {self.card['dataset']}, {size}: " if self.card["method"] else ""
        return f"<{type(self).__name__} {made}{len(self)} images {list(self.images.shape[1:])}>"

    @property
    def zca(self) -> ZCA | None:
        return self.transform.normalisation.whitening

    @cached_property
    def raw(self) -> Tensor:
        """Pixels [N, C, H, W], float32, of real images' range [0, 1]; a method that does not clamp may leave it."""
        return self.transform.normalisation.to_raw(self._stored, self._space, self.zca)

    @property
    def shown(self) -> Tensor:
        """Pixels [N, C, H, W], float32, clamped to [0, 1]: to look at, not to train on."""
        return self.raw.clamp(0, 1)

    def normalise(self, images: Tensor | Image) -> Tensor:
        """Make real images look to a network as the condensed ones do, for a test on them.

        Args:
            images: A PIL image, or a tensor [C, H, W] or [N, C, H, W]: uint8, or floats in [0, 1].

        Returns:
            A float32 tensor of the same shape ([C, H, W] for a PIL image), on the images' device.

        Raises:
            ValueError: The images have another size or number of channels than the condensed ones.
        """
        return self.transform(images)


def load_condensed(path: str | os.PathLike[str], dataset: str | data.Dataset | None = None) -> CondensedDataset:
    """Read a condensed set for use in a training loop of your own.

    Args:
        path: A `condensed.safetensors`, or the folder `results/runs/<cell>/` that holds one.
        dataset: The data set that was condensed: its name as on the command line, or one that was loaded. Only a file
            that refers to training images instead of holding images (the `whole` row) needs it; any other is held
            against it, and must have its classes and shape. A name is looked up in $CONDENSE_DATA, as `bench.py` does.

    Returns:
        The set, decoded, on the CPU.

    Raises:
        FileNotFoundError: There is no such file, or the cell's folder holds no condensed set (yet).
        ArtifactError: The file is damaged, of another kind or version, does not fit the data set, or needs one. This is
            a ValueError.
        DataError: The data set is named and cannot be read. This is a ValueError too.
    """
    file = Path(path).expanduser()
    if not file.exists():
        raise FileNotFoundError(f"{file} does not exist; give a {CONDENSED}, or the folder of a cell that holds one")
    if file.is_dir():
        file = file / CONDENSED
        if not file.exists():
            raise FileNotFoundError(f"{file.parent} holds no {CONDENSED}; is it the folder of a cell that is done?")
    if file.suffix != SUFFIX:
        raise ArtifactError(f"{file}: unknown kind of file; load_condensed reads {CONDENSED}")
    artifact = condensed_set.read_artifact(file)
    container, normalisation = artifact.container, artifact.normalisation
    if dataset is None and isinstance(container, WholeSet):
        name = artifact.card["dataset"]
        raise ArtifactError(
            f"{file} refers to the {container.num_images:,} training images of {name} and holds none of them; "
            f"read it with load_condensed({str(path)!r}, dataset={name!r})"
        )
    if dataset is not None:
        loaded = data.load(dataset, data_folder()) if isinstance(dataset, str) else dataset.to("cpu")
        condensed_set.fit(artifact, loaded, file)
    stored, seen = condensed_set.decode(artifact, normalisation, file)
    return CondensedDataset(stored, seen, container.labels, container.space, normalisation, described(artifact.card))


def described(card: dict[str, Any]) -> dict[str, Any]:
    """A card with the facts of its cell at the top, each None where the file names no cell."""
    origin = card.get("origin")
    cell = origin.get("cell") if isinstance(origin, dict) else None
    return card | {name: cell.get(name) if isinstance(cell, dict) else None for name in CELL_FACTS}
