"""The torchvision data sets from tiny files in their true layouts, and the real CIFAR-10."""

import hashlib
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import datasets

from benchmark.data import DataError, load

CIFAR = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}
MNIST = {"mnist": datasets.MNIST, "fashion-mnist": datasets.FashionMNIST}
MEAN_STD = {
    "mnist": ((0.1307,), (0.3081,)),
    "fashion-mnist": ((0.2861,), (0.3530,)),
    "svhn": ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": ((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
}


def _check(data, name, train, test):
    """train, test: (images NCHW, labels) as written; compare bytes, labels, and one pixel by hand."""
    assert (data.mean, data.std) == MEAN_STD[name]
    for split, (images, labels) in ((data.train, train), (data.test, test)):
        assert split.images.dtype == torch.uint8 and split.images.is_contiguous()
        assert np.array_equal(split.images.numpy(), images)
        assert split.labels.dtype == torch.int64
        assert split.labels.tolist() == labels.tolist()
        channel = images.shape[1] - 1
        mean, std = (values[channel] for values in MEAN_STD[name])
        expected = (int(images[7, channel, 3, 21]) / 255 - mean) / std
        assert split.gather(torch.tensor([7]))[0, channel, 3, 21].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", CIFAR)
def test_cifar(name, tmp_path, write_cifar):
    train, test = write_cifar(CIFAR[name], tmp_path)
    data = load(name, tmp_path, download=False)
    _check(data, name, train, test)
    assert data.class_names[3] == "class 3" and len(data.class_names) == data.spec.classes


@pytest.mark.parametrize("name", MNIST)
def test_mnist_from_its_gz_files_without_network(name, tmp_path, write_mnist):
    written = write_mnist(MNIST[name], tmp_path)
    for _ in range(2):  # the second time from the extracted files
        data = load(name, tmp_path, download=False)
        _check(data, name, *((images[:, None], labels) for images, labels in written))
    assert data.class_names[9] == ("9" if name == "mnist" else "Ankle boot")


@pytest.mark.parametrize("folder", ["", "svhn"])
def test_svhn(folder, tmp_path, write_svhn):
    written = write_svhn(tmp_path / folder)
    data = load("svhn", tmp_path, download=False)
    # In the files a zero has label 10.
    _check(data, "svhn", *((images.transpose(3, 2, 0, 1), labels % 10) for images, labels in written))
    assert data.class_names == tuple("0123456789")


def test_an_archive_in_the_data_folder_is_extracted_without_network(tmp_path, write_cifar, monkeypatch):
    factory = datasets.CIFAR10
    written = write_cifar(factory, tmp_path / "elsewhere")
    archive = tmp_path / factory.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "elsewhere" / factory.base_folder, factory.base_folder)
    monkeypatch.setattr(factory, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    _check(load("cifar10", tmp_path, download=False), "cifar10", *written)


@pytest.mark.parametrize("download", [True, False])
def test_a_damaged_cifar_batch_is_named(download, tmp_path, write_cifar):
    write_cifar(datasets.CIFAR10, tmp_path)
    file = tmp_path / "cifar-10-batches-py" / "data_batch_4"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DataError) as raised:
        load("cifar10", tmp_path, download=download)
    assert f"damaged or incomplete: {file} (" in str(raised.value)
    assert "delete it" in str(raised.value)


def test_a_missing_cifar_batch_is_named_alone(tmp_path, write_cifar):
    write_cifar(datasets.CIFAR10, tmp_path)
    (tmp_path / "cifar-10-batches-py" / "data_batch_4").unlink()
    with pytest.raises(DataError, match=r"for cifar-10-batches-py/data_batch_4 \("):
        load("cifar10", tmp_path)


def test_a_truncated_download_is_named(tmp_path):
    archive = tmp_path / "cifar-100-python.tar.gz"
    archive.write_bytes(b"half")
    with pytest.raises(DataError, match="damaged or incomplete") as raised:
        load("cifar100", tmp_path)
    assert str(archive) in str(raised.value)


def test_a_pickle_that_passes_its_checksum_and_cannot_be_read(tmp_path, write_cifar, monkeypatch):
    write_cifar(datasets.CIFAR10, tmp_path)
    payload = pickle.dumps({"nothing": "useful"})
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(payload)
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", hashlib.md5(payload).hexdigest()]])
    with pytest.raises(DataError, match="CIFAR-10: cannot read cifar-10-batches-py/"):
        load("cifar10", tmp_path, download=False)


@pytest.mark.parametrize("keep", [0, 3, 10, 500])
def test_a_truncated_idx_file_is_named(keep, tmp_path, write_mnist):
    write_mnist(datasets.MNIST, tmp_path)
    load("mnist", tmp_path)
    file = tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(DataError, match="damaged or incomplete") as raised:
        load("mnist", tmp_path)
    assert f"{file} (" in str(raised.value)


@pytest.mark.parametrize("packed", [True, False])
def test_a_flipped_bit_in_an_idx_file_is_named(packed, tmp_path, write_mnist):
    write_mnist(datasets.MNIST, tmp_path)
    load("mnist", tmp_path, download=False)
    path = tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    content = bytearray(path.read_bytes())
    content[500] ^= 4
    path.write_bytes(content)
    if packed:
        with pytest.raises(DataError, match=f"damaged.*{path}"):
            load("mnist", tmp_path, download=False)
    else:  # nothing is left to tell by
        path.with_name(f"{path.name}.gz").unlink()
        load("mnist", tmp_path, download=False)


def test_a_pickle_that_is_not_the_published_one_is_never_opened(tmp_path, write_cifar):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    write_cifar(datasets.CIFAR10, tmp_path)
    for path in (tmp_path / datasets.CIFAR10.base_folder).iterdir():
        path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(DataError, match="checksum"):
        load("cifar10", tmp_path, download=False)
    assert not (tmp_path / "executed").exists()


def test_images_and_labels_that_do_not_belong_together(tmp_path, write_mnist):
    write_mnist(datasets.MNIST, tmp_path)
    load("mnist", tmp_path)
    raw = tmp_path / "MNIST" / "raw"
    (raw / "train-labels-idx1-ubyte.gz").unlink()  # it would tell that the file is not its own
    (raw / "train-labels-idx1-ubyte").write_bytes((raw / "t10k-labels-idx1-ubyte").read_bytes())
    with pytest.raises(DataError, match=r"training files .* 12 labels"):
        load("mnist", tmp_path)


def test_a_damaged_mat_file_is_named(tmp_path, write_svhn):
    write_svhn(tmp_path)
    file = tmp_path / "test_32x32.mat"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DataError) as raised:
        load("svhn", tmp_path, download=False)
    assert f"damaged or incomplete: {file} (" in str(raised.value)


def test_the_real_cifar10():
    root = os.environ.get("CONDENSE_DATA")
    if not root or not (Path(root) / "cifar-10-batches-py").is_dir():
        pytest.skip("CONDENSE_DATA names no folder with cifar-10-batches-py/")
    data = load("cifar10", Path(root), download=False)
    assert data.train.labels.bincount().tolist() == [5000] * 10
    assert data.test.labels.bincount().tolist() == [1000] * 10
    assert data.train.images.is_contiguous() and data.train.images.shape == (50000, 3, 32, 32)
    assert data.class_names[0] == "airplane" and data.class_names[9] == "truck"
    # The first training image is a frog, its first pixel (59, 62, 63).
    assert data.train.labels[0] == 6
    assert data.train.images[0, :, 0, 0].tolist() == [59, 62, 63]
    assert data.train.images.double().mean((0, 2, 3)).div(255).tolist() == pytest.approx(data.mean, abs=1e-4)
    assert data.train.fingerprint == "f3120a8fa253dbda"
