"""What a data set is once it is loaded: its spec, two splits of uint8 images, and their normalisation."""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from benchmark.data.files import DataError
from benchmark.data.normalisation import Normalisation
from benchmark.data.whitening import ZCA

# Data sets without an official test set are divided once and for all: everybody is tested on the same images.
TEST_FRACTION = 0.2
TEST_SEED = 0


@dataclass(frozen=True)
class DatasetSpec:
    """What is known of a data set before its images are read.

    name:        as on the command line, `cifar10` or `folder:/absolute/path`.
    title:       for tables and messages, `CIFAR-10`.
    flip:        whether a mirrored image still belongs to its class (not so for digits).
    published:   the data set's id in the files of published numbers, "" if it has none.
    default_ipc: images per class that a run covers unless told otherwise.
    train_images, test_images: how many there are in each split; 0 if that is not known.
    """

    name: str
    title: str
    channels: int
    height: int
    width: int
    classes: int
    flip: bool
    published: str
    default_ipc: tuple[int, ...] = (1, 10, 50)
    train_images: int = 0
    test_images: int = 0

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)"""
        return self.channels, self.height, self.width

    @property
    def pixels(self) -> int:
        """Floats of one image, C * H * W."""
        return self.channels * self.height * self.width


# eq=False: comparing tensors has no truth value; two splits are the same only if they are one object.
@dataclass(frozen=True, eq=False)
class Split:
    """Images and labels on one device, and the normalisation that belongs to them.

    images:    uint8 [N, C, H, W].
    labels:    int64 [N] in [0, classes).
    mean, std: float32 [C], in units of pixels in [0, 1].
    whitening: takes the place of mean and std where networks are to see ZCA-whitened images.
    """

    images: Tensor
    labels: Tensor
    mean: Tensor
    std: Tensor
    classes: int
    whitening: ZCA | None = None

    def __post_init__(self) -> None:
        assert self.images.dtype == torch.uint8 and self.images.dim() == 4, "images must be uint8 NCHW"
        assert self.labels.dtype == torch.int64, "labels must be int64"
        assert self.labels.shape == self.images.shape[:1], "one label per image"
        assert self.mean.shape == self.std.shape == self.images.shape[1:2], "one mean and std per channel"

    def __len__(self) -> int:
        return len(self.labels)

    def raw(self, indices: Tensor | None = None) -> Tensor:
        """Return images `indices` (int64 [B], None for all) as float32 [B, C, H, W] in [0, 1]."""
        images = self.images
        if indices is not None:
            images = images.index_select(0, indices.to(images.device))
        return images.to(torch.float32).div_(255)

    def gather(self, indices: Tensor | None = None) -> Tensor:
        """Return images `indices` (int64 [B], None for all) as float32 [B, C, H, W], as the networks see them."""
        return self.normalise(self.raw(indices))

    def normalise(self, raw: Tensor) -> Tensor:
        """Return pixels [B, C, H, W] in [0, 1] as the networks see them: (x - mean) / std, or whitened."""
        return self.normalisation.normalise(raw)

    @cached_property
    def normalisation(self) -> Normalisation:
        """How the networks see this split's images."""
        return Normalisation(self.mean, self.std, self.whitening)

    @property
    def space(self) -> Literal["normalised", "zca"]:
        """What the networks see, in the words of a container's `space`: `normalised` or `zca`."""
        return self.normalisation.space

    def whitened(self, whitening: ZCA | None) -> "Split":
        """Return the same images seen through another whitening, or through none."""
        return self if whitening is self.whitening else replace(self, whitening=whitening)

    def to_raw(self, images: Tensor, space: str, whitening: ZCA | None = None) -> Tensor:
        """Return images [B, C, H, W], which are stored as `space`, as pixels; not clamped. whitening: that of images
        stored as `zca`."""
        return self.normalisation.to_raw(images, space, whitening)

    def seen(self, images: Tensor, space: str, whitening: ZCA | None = None) -> Tensor:
        """Return images, which are stored as `space` (see `to_raw`), as networks see this split's; differentiable."""
        return self.normalisation.seen(images, space, whitening)

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits of a SHA-256 over the images (with their shape) and labels."""
        digest = hashlib.sha256(str(tuple(self.images.shape)).encode())
        digest.update(self.images.cpu().contiguous().numpy().data)
        digest.update(self.labels.cpu().contiguous().numpy().data)
        return digest.hexdigest()[:16]

    @cached_property
    def class_indices(self) -> tuple[Tensor, ...]:
        """For each class the ascending indices (int64) of its images, on the split's device; a class may have none."""
        order = torch.argsort(self.labels, stable=True)
        return order.split(torch.bincount(self.labels, minlength=self.classes).tolist())

    def subset(self, indices: Tensor) -> "Split":
        """Return the images `indices` (int64 [M]) as a split of their own, in that order."""
        indices = indices.to(self.images.device)
        images, labels = (tensor.index_select(0, indices) for tensor in (self.images, self.labels))
        return replace(self, images=images, labels=labels)

    def stratified(self, fraction: float, seed: int) -> tuple["Split", "Split"]:
        """Divide into (fit, held_out), with `fraction` in (0, 1) of every class held out.

        The number is rounded in each class, but a class of two images or more has at least one on either side; a class
        of one image stays in fit. The same seed gives the same division on every device.
        """
        fit, held_out = stratified_indices(self.labels, fraction, seed)
        return self.subset(fit), self.subset(held_out)

    def to(self, device: torch.device | str) -> "Split":
        """Return this split on `device`."""
        moved = {name: getattr(self, name).to(device) for name in ("images", "labels", "mean", "std")}
        return replace(self, **moved, whitening=self.whitening and self.whitening.to(device))


@dataclass(frozen=True, eq=False)
class Dataset:
    """A loaded data set. mean, std: per channel, of pixels in [0, 1], as the splits hold them too."""

    spec: DatasetSpec
    train: Split
    test: Split
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...]

    def to(self, device: torch.device | str) -> "Dataset":
        """Return this data set with both splits on `device`."""
        return replace(self, train=self.train.to(device), test=self.test.to(device))


def assemble(
    spec: DatasetSpec,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    class_names: tuple[str, ...],
    where: Path | str,
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
) -> Dataset:
    """Build a Dataset from what a loader read: (uint8 [N, C, H, W], int64 [N]) for either split.

    `normalisation` is (mean, std) where the field has agreed on it, None to compute it on the training split.
    Raises DataError, naming `where`, if the files were readable but hold something else than `spec` says.
    """
    for part, (images, labels) in {"training": train, "test": test}.items():
        if len(images) == 0 or tuple(images.shape[1:]) != spec.image_shape or len(images) != len(labels):
            raise DataError(
                f"{spec.title}: the {part} files in {where} hold {len(labels)} labels and an image array of "
                f"shape {tuple(images.shape)}, expected one label for each image of {spec.image_shape}. "
                "Replace them."
            )
        if labels.min() < 0 or labels.max() >= spec.classes:
            raise DataError(
                f"{spec.title}: the {part} labels in {where} reach from {labels.min()} to {labels.max()}, "
                f"expected 0 to {spec.classes - 1}. Replace the files."
            )
    mean, std = normalisation or channel_statistics(train[0])
    means, deviations = torch.tensor(mean, dtype=torch.float32), torch.tensor(std, dtype=torch.float32)
    fitted, tested = (Split(images, labels, means, deviations, spec.classes) for images, labels in (train, test))
    return Dataset(spec, fitted, tested, mean, std, class_names)


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel of uint8 images [N, C, H, W], in units of [0, 1].

    The deviation is over all pixels of all images. A constant channel gets std 1, so that it can be divided by.
    """
    values = torch.arange(256, dtype=torch.float64) / 255
    # A histogram of the 256 values is exact and needs no float copy of the whole data set.
    counts = torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in images.unbind(1)])
    weights = counts.double() / counts.sum(1, keepdim=True)
    mean = weights @ values
    std = (weights * (values - mean[:, None]) ** 2).sum(1).sqrt()
    return tuple(mean.tolist()), tuple(torch.where(std > 0, std, 1.0).tolist())


def stratified_indices(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Return ascending indices (int64, on the CPU) of the two parts described at `Split.stratified`."""
    if not 0 < fraction < 1:
        raise ValueError(f"the held-out fraction must lie between 0 and 1, got {fraction}")
    labels = labels.cpu()
    generator = torch.Generator().manual_seed(seed)
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique().tolist():
        members = (labels == label).nonzero().squeeze(1)
        count = max(min(round(fraction * len(members)), len(members) - 1), min(1, len(members) - 1))
        held_out[members[torch.randperm(len(members), generator=generator)[:count]]] = True
    return (~held_out).nonzero().squeeze(1), held_out.nonzero().squeeze(1)
