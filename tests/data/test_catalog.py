"""Names, specs without files, and the digits that need none."""

import pytest
import torch

from benchmark.data import DataError, load, names, spec


def test_names_and_specs_need_no_files(tmp_path):
    assert names() == ("digits", "mnist", "fashion-mnist", "svhn", "cifar10", "cifar100", "tiny-imagenet")
    specs = {name: spec(name, tmp_path) for name in names()}
    assert [one.name for one in specs.values()] == list(names())
    assert {name: one.image_shape for name, one in specs.items()} == {
        "digits": (1, 8, 8),
        "mnist": (1, 28, 28),
        "fashion-mnist": (1, 28, 28),
        "svhn": (3, 32, 32),
        "cifar10": (3, 32, 32),
        "cifar100": (3, 32, 32),
        "tiny-imagenet": (3, 64, 64),
    }
    assert [one.classes for one in specs.values()] == [10, 10, 10, 10, 10, 100, 200]
    assert {name for name, one in specs.items() if not one.flip} == {"digits", "mnist", "svhn"}
    assert [one.published for one in specs.values()] == [
        "digits",
        "MNIST",
        "FashionMNIST",
        "SVHN",
        "CIFAR10",
        "CIFAR100",
        "TinyImageNet",
    ]
    assert specs["digits"].default_ipc == (1, 10)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ask", [spec, load])
def test_an_unknown_name_gets_the_nearest_ones(ask, tmp_path):
    with pytest.raises(ValueError, match="Did you mean cifar10 or cifar100") as raised:
        ask("cifar", tmp_path)
    assert "folder:PATH" in str(raised.value)


@pytest.mark.parametrize("ask", [spec, load])
def test_a_path_the_disk_refuses_is_one_sentence(ask, tmp_path):
    with pytest.raises(DataError, match="cannot read the data"):
        ask(f"folder:{tmp_path / ('x' * 300)}", tmp_path)


@pytest.mark.parametrize("download", [True, False])
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("mnist", "MNIST/raw/train-images-idx3-ubyte"),
        ("fashion-mnist", "FashionMNIST/raw/t10k-labels-idx1-ubyte"),
        ("svhn", "train_32x32.mat"),
        ("cifar10", "cifar-10-batches-py/data_batch_1"),
        ("cifar100", "cifar-100-python/meta"),
        ("tiny-imagenet", "tiny-imagenet-200/val/val_annotations.txt"),
    ],
)
def test_missing_files_are_named_with_the_way_to_get_them(name, file, download, tmp_path):
    with pytest.raises(DataError) as raised:
        load(name, tmp_path / "nowhere", download=download)
    message = str(raised.value)
    for part in (f"Searched {tmp_path / 'nowhere'}", file, "http", "--data-dir", "CONDENSE_DATA"):
        assert part in message
    assert ("network is down" if download else "download is off") in message
    assert (tmp_path / "nowhere").exists() <= download


def test_digits():
    data = load("digits", "/nowhere", download=False)
    assert (len(data.train), len(data.test)) == (1438, 359)
    assert data.train.images.shape[1:] == data.spec.image_shape == (1, 8, 8)
    assert data.train.images.unique().tolist()[::4] == [0, 64, 128, 191, 255]
    assert data.class_names == tuple("0123456789")
    for part in (data.train, data.test):
        assert part.labels.bincount().min() >= 0.9 * len(part) / 10
    normalised = data.train.gather()
    assert normalised.mean().abs() < 1e-4
    assert normalised.std() == pytest.approx(1, abs=1e-4)
    assert data.train.mean.item() == pytest.approx(data.mean[0])


def test_digits_are_the_same_every_time():
    one, two = (load("digits", "/nowhere") for _ in range(2))
    # Written down, because published digits numbers are about this very division.
    assert one.train.fingerprint == two.train.fingerprint == "87104a4ebbcaf530"
    assert torch.equal(one.test.images, two.test.images)
    assert one.to("cpu").train.fingerprint == one.train.fingerprint
