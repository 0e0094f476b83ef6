"""The five data sets that torchvision downloads, checks and reads: MNIST, Fashion-MNIST, SVHN and CIFAR.

The folder given as `data_dir` is torchvision's `root`: what another torchvision program has fetched is found.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import numpy as np
import torch
from torch import Tensor

from benchmark.data import files
from benchmark.data.dataset import Dataset, DatasetSpec, assemble
from benchmark.data.files import DataError

_Check = Callable[[Path], bool]
_Factory = Any  # a class of torchvision.datasets: they have no base that declares what is read of them here


class _Layout(NamedTuple):
    """Where a data set lies. needed: the files that are read. archives: the files they can be extracted from."""

    root: Path
    holds: str
    needed: list[tuple[Path, _Check]]
    archives: list[tuple[Path, _Check]]


class _Part(NamedTuple):
    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """One torchvision data set: spec, the normalisation of the condensation papers, and how to reach it."""

    spec: DatasetSpec
    mean: tuple[float, ...]
    std: tuple[float, ...]
    page: str
    factory: str  # name in torchvision.datasets, which takes seconds to import: specs are had without it
    layout: Callable[[_Factory, Path], _Layout]
    read: Callable[[_Factory, Path, bool, bool], _Part]


def load(source: Source, data_dir: Path, download: bool) -> Dataset:
    """Read both splits of `source` below `data_dir`; see `benchmark.data.load` for downloads and errors."""
    from torchvision import datasets

    factory = getattr(datasets, source.factory)
    layout = source.layout(factory, data_dir)

    def read(download: bool) -> tuple[_Part, _Part]:
        return (
            source.read(factory, layout.root, True, download),
            source.read(factory, layout.root, False, download),
        )

    try:
        train, test = read(False)
    except MemoryError:
        raise
    except Exception as error:  # damage has no type of its own: pickle, zlib, assert, index errors all occur
        train, test = _fetch_and_read(read, source, layout, download, error)
    return assemble(
        source.spec,
        (train.images, train.labels),
        (test.images, test.labels),
        class_names=train.class_names,
        where=layout.root,
        normalisation=(source.mean, source.std),
    )


def _fetch_and_read(
    read: Callable[[bool], tuple[_Part, _Part]],
    source: Source,
    layout: _Layout,
    download: bool,
    error: Exception,
) -> tuple[_Part, _Part]:
    """Reading failed with `error`: fetch or extract and read again, or explain it by a DataError."""
    attempt = "download is off"
    # An archive that lies there intact is only extracted by torchvision's download: that needs no network.
    if download or all(intact(path) for path, intact in layout.archives):
        try:
            with files.bounded_network():
                return read(True)
        except MemoryError:
            raise
        except Exception as second:
            error, attempt = second, f"tried to fetch it: {second}"

    title = source.spec.title
    checks = dict(layout.needed + layout.archives)
    bad = [path for path, intact in checks.items() if path.is_file() and not intact(path)]
    absent = [str(path.relative_to(layout.root)) for path, _ in layout.needed if not path.is_file()]
    if bad:
        raise files.damaged(title, bad, f"checksum or size is wrong; {attempt}") from error
    if absent:
        raise files.missing(title, layout.root, absent, source.page, layout.holds, attempt) from error
    raise DataError(f"{title}: cannot read {layout.holds} in {layout.root}: {error}") from error


def _md5(md5: str) -> _Check:
    from torchvision.datasets.utils import check_integrity

    return lambda path: check_integrity(path, md5)


def _cifar_layout(factory: _Factory, root: Path) -> _Layout:
    meta = [factory.meta["filename"], factory.meta["md5"]]
    return _Layout(
        root=root,
        holds=f"{factory.base_folder}/",
        needed=[
            (root / factory.base_folder / name, _md5(md5))
            for name, md5 in [*factory.train_list, *factory.test_list, meta]
        ],
        archives=[(root / factory.filename, _md5(factory.tgz_md5))],
    )


def _read_cifar(factory: _Factory, root: Path, train: bool, download: bool) -> _Part:
    source = factory(root, train=train, download=download)
    # torchvision shows a channels-last view of the NCHW array on disk; turning it back copies nothing.
    images = np.ascontiguousarray(source.data.transpose(0, 3, 1, 2))
    labels = torch.tensor(source.targets, dtype=torch.int64)
    return _Part(torch.from_numpy(images), labels, tuple(source.classes))


def _mnist_layout(factory: _Factory, root: Path) -> _Layout:
    raw = root / factory.__name__ / "raw"
    return _Layout(
        root=root,
        holds=f"{factory.__name__}/raw/",
        needed=[(raw / Path(name).stem, _idx_intact) for name, _ in factory.resources],
        archives=[(raw / name, _md5(md5)) for name, md5 in factory.resources],
    )


def _idx_intact(path: Path) -> bool:
    """Whether an IDX file is as long as its header says and, where the .gz that it came from lies beside it, has the
    checksum that is kept there (the extracted files have no published one)."""
    with path.open("rb") as file:
        magic = file.read(4)
        dimensions = file.read(4 * magic[3]) if len(magic) == 4 else b""
    if not dimensions or len(dimensions) < 4 * magic[3]:
        return False
    items = int(np.prod(np.frombuffer(dimensions, dtype=">u4"), dtype=np.int64))
    if magic[:3] != b"\x00\x00\x08" or path.stat().st_size != len(magic) + len(dimensions) + items:
        return False
    packed = path.with_name(f"{path.name}.gz")
    return not packed.is_file() or packed.read_bytes()[-8:-4] == zlib.crc32(path.read_bytes()).to_bytes(4, "little")


def _read_mnist(factory: _Factory, root: Path, train: bool, download: bool) -> _Part:
    source = factory(root, train=train, download=download)
    prefix = "train" if train else "t10k"
    for path, intact in _mnist_layout(factory, root).needed:
        if path.name.startswith(prefix) and path.is_file() and not intact(path):  # torchvision checks no extracted file
            raise ValueError(f"{path} is not what was downloaded")
    # MNIST calls its classes "7 - seven".
    class_names = tuple(name.split(" - ")[0] for name in factory.classes)
    return _Part(source.data.unsqueeze(1), source.targets.to(torch.int64), class_names)


def _svhn_layout(factory: _Factory, root: Path) -> _Layout:
    splits = [factory.split_list[split][1:] for split in ("train", "test")]
    names = [name for name, _ in splits]
    # The two files have no folder of their own, so many people keep them in one called svhn.
    places = (root, root / "svhn", root / "SVHN")
    root = next((place for place in places if any((place / name).is_file() for name in names)), root)
    needed = [(root / name, _md5(md5)) for name, md5 in splits]
    return _Layout(root=root, holds=" and ".join(names), needed=needed, archives=needed)


def _read_svhn(factory: _Factory, root: Path, train: bool, download: bool) -> _Part:
    source = factory(root, split="train" if train else "test", download=download)
    images = np.ascontiguousarray(source.data)
    labels = torch.from_numpy(source.labels).reshape(-1)
    return _Part(torch.from_numpy(images), labels, tuple(str(digit) for digit in range(10)))


class _Sizes(TypedDict):
    train_images: int
    test_images: int


def _sizes(train: int, test: int = 10_000) -> _Sizes:
    return {"train_images": train, "test_images": test}


_SOURCES = (
    Source(
        spec=DatasetSpec("mnist", "MNIST", 1, 28, 28, 10, flip=False, published="MNIST", **_sizes(60_000)),
        mean=(0.1307,),
        std=(0.3081,),
        page="https://ossci-datasets.s3.amazonaws.com/mnist/ (four *-ubyte.gz files, into MNIST/raw/)",
        factory="MNIST",
        layout=_mnist_layout,
        read=_read_mnist,
    ),
    Source(
        spec=DatasetSpec(
            "fashion-mnist", "Fashion-MNIST", 1, 28, 28, 10, flip=True, published="FashionMNIST", **_sizes(60_000)
        ),
        mean=(0.2861,),
        std=(0.3530,),
        page="https://github.com/zalandoresearch/fashion-mnist (four *.gz files, into FashionMNIST/raw/)",
        factory="FashionMNIST",
        layout=_mnist_layout,
        read=_read_mnist,
    ),
    Source(
        spec=DatasetSpec("svhn", "SVHN", 3, 32, 32, 10, flip=False, published="SVHN", **_sizes(73_257, 26_032)),
        mean=(0.4377, 0.4438, 0.4728),
        std=(0.1980, 0.2010, 0.1970),
        page="http://ufldl.stanford.edu/housenumbers/ (format 2, cropped digits)",
        factory="SVHN",
        layout=_svhn_layout,
        read=_read_svhn,
    ),
    Source(
        spec=DatasetSpec("cifar10", "CIFAR-10", 3, 32, 32, 10, flip=True, published="CIFAR10", **_sizes(50_000)),
        mean=(0.4914, 0.4822, 0.4465),
        # The mean of the per-image deviations, not the data set's (.247 .243 .262): every paper uses it.
        std=(0.2023, 0.1994, 0.2010),
        page="https://www.cs.toronto.edu/~kriz/cifar.html (cifar-10-python.tar.gz)",
        factory="CIFAR10",
        layout=_cifar_layout,
        read=_read_cifar,
    ),
    Source(
        spec=DatasetSpec("cifar100", "CIFAR-100", 3, 32, 32, 100, flip=True, published="CIFAR100", **_sizes(50_000)),
        # Its own statistics. The official code of CAFE, MTT, HaBa and IDC uses CIFAR-10's here.
        mean=(0.5071, 0.4866, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        page="https://www.cs.toronto.edu/~kriz/cifar.html (cifar-100-python.tar.gz)",
        factory="CIFAR100",
        layout=_cifar_layout,
        read=_read_cifar,
    ),
)
SOURCES: dict[str, Source] = {source.spec.name: source for source in _SOURCES}
