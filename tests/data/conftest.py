"""Writers of tiny data sets in their true layouts on disk, and a network that is always down."""

import gzip
import hashlib
import pickle
import struct
import urllib.request
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import scipy.io
from PIL import Image
from torchvision import datasets


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """No test reaches the network, or the cache folder of whoever runs it."""

    def refuse(*args, **kwargs):
        raise URLError("network is down")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))
    monkeypatch.delenv("CONDENSE_CACHE", raising=False)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def write_cifar(monkeypatch, rng):
    """write(factory, root, per_batch) -> (images NCHW, labels) of train and test; checksums match."""

    def write(factory, root: Path, per_batch: int = 20):
        hundred = factory is datasets.CIFAR100
        classes, key, folder = (100, "fine_labels", "meta") if hundred else (10, "labels", "batches.meta")
        base = root / factory.base_folder
        base.mkdir(parents=True)

        def dump(name, content):
            payload = pickle.dumps(content)
            (base / name).write_bytes(payload)
            return [name, hashlib.md5(payload).hexdigest()]

        parts = {}
        for part in ("train_list", "test_list"):
            images, labels, table = [], [], []
            for name, _ in getattr(factory, part):
                batch = rng.integers(0, 256, (per_batch, 3, 32, 32), dtype=np.uint8)
                answers = rng.permutation(np.arange(per_batch) % classes).tolist()  # every class where there is room
                content = {"data": batch.reshape(per_batch, -1), key: answers}
                if hundred:
                    content["coarse_labels"] = [0] * per_batch
                table.append(dump(name, content))
                images.append(batch)
                labels += answers
            monkeypatch.setattr(factory, part, table)
            parts[part] = np.concatenate(images), np.array(labels)
        names = {factory.meta["key"]: [f"class {i}" for i in range(classes)]}
        name, md5 = dump(folder, names)
        monkeypatch.setattr(factory, "meta", {**factory.meta, "filename": name, "md5": md5})
        return parts["train_list"], parts["test_list"]

    return write


def _idx(array: np.ndarray) -> bytes:
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def write_mnist(monkeypatch, rng):
    """write(factory, root) -> (images, labels) of train and test: the four gz files as downloaded."""

    def write(factory, root: Path):
        raw = root / factory.__name__ / "raw"
        raw.mkdir(parents=True)
        parts, table = [], []
        for prefix, count in (("train", 30), ("t10k", 12)):
            images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
            labels = rng.permutation(np.arange(count) % 10).astype(np.uint8)
            for name, array in (("images-idx3", images), ("labels-idx1", labels)):
                payload = gzip.compress(_idx(array))
                file = raw / f"{prefix}-{name}-ubyte.gz"
                file.write_bytes(payload)
                table.append((file.name, hashlib.md5(payload).hexdigest()))
            parts.append((images, labels))
        monkeypatch.setattr(factory, "resources", table)
        return parts

    return write


@pytest.fixture
def write_svhn(monkeypatch, rng):
    """write(root) -> (images HWCN, labels 1..10) of train and test as MATLAB files."""

    def write(root: Path):
        root.mkdir(parents=True, exist_ok=True)
        parts, table = [], dict(datasets.SVHN.split_list)
        for split, count in (("train", 24), ("test", 11)):
            images = rng.integers(0, 256, (32, 32, 3, count), dtype=np.uint8)
            labels = (np.arange(count, dtype=np.uint8) % 10 + 1)[:, None]
            url, name, _ = table[split]
            scipy.io.savemat(root / name, {"X": images, "y": labels})
            table[split] = [url, name, hashlib.md5((root / name).read_bytes()).hexdigest()]
            parts.append((images, labels[:, 0]))
        monkeypatch.setattr(datasets.SVHN, "split_list", table)
        return parts

    return write


@pytest.fixture
def write_image():
    """write(path, array): HxW (grey) or HxWx3 uint8, format by suffix."""

    def write(path: Path, array: np.ndarray):
        path.parent.mkdir(parents=True, exist_ok=True)
        options = {"quality": 95} if path.suffix.lower() in (".jpeg", ".jpg") else {}
        Image.fromarray(array).save(path, **options)

    return write


@pytest.fixture
def write_tiny(write_image):
    """write(data_dir) -> root: 4 classes, 3 training images each, 5 validation images.

    Every image is of one colour, which JPEG keeps: red is 40 x the class's place in sorted order, green the
    image's number. Those of class 2 are grey files.
    """
    wnids = ["n03", "n01", "n04", "n02"]  # wnids.txt is not sorted in the archive either

    def colour(label: int, number: int) -> np.ndarray:
        if label == 2:
            return np.full((64, 64), 80, dtype=np.uint8)
        return np.tile(np.array([40 * label, number, 0], dtype=np.uint8), (64, 64, 1))

    def write(data_dir: Path) -> Path:
        root = data_dir / "tiny-imagenet-200"
        for label, wnid in enumerate(sorted(wnids)):
            for number in range(3):
                write_image(root / "train" / wnid / "images" / f"{wnid}_{number}.JPEG", colour(label, number))
            boxes = "".join(f"{wnid}_{number}.JPEG\t0\t0\t63\t63\n" for number in range(3))
            (root / "train" / wnid / f"{wnid}_boxes.txt").write_text(boxes)
        answers = [3, 0, 1, 3, 2]
        for number, label in enumerate(answers):
            write_image(root / "val" / "images" / f"val_{number}.JPEG", colour(label, number))
        write_image(root / "test" / "images" / "test_0.JPEG", colour(0, 0))
        lines = [f"val_{n}.JPEG\t{sorted(wnids)[label]}\t0\t0\t63\t63\n" for n, label in enumerate(answers)]
        (root / "val" / "val_annotations.txt").write_text("".join(lines))
        (root / "wnids.txt").write_text("\n".join(wnids))
        (root / "words.txt").write_text("n01\tgoldfish, Carassius auratus\nn02\ttailed frog\nn99\tunused\n")
        return root

    return write
