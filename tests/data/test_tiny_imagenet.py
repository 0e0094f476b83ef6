"""Tiny-ImageNet from a small tree like the archive's: labels, grey images, cache, and damage."""

import hashlib
import os
import shutil
from pathlib import Path

import pytest
import torch

from benchmark.data import DataError, load, spec, tiny_imagenet


@pytest.fixture
def root(tmp_path, write_tiny):
    return write_tiny(tmp_path)


def test_images_and_labels(tmp_path, root):
    data = load("tiny-imagenet", tmp_path, download=False)
    assert data.spec == spec("tiny-imagenet", tmp_path)
    assert data.spec.classes == 4 and data.spec.image_shape == (3, 64, 64)
    assert data.class_names == ("goldfish", "tailed frog", "n03", "n04")  # n03 and n04 are not in words.txt
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert data.test.labels.tolist() == [3, 0, 1, 3, 2]
    # JPEG keeps a plain colour to a few levels.
    red = data.train.images[:, 0].float().mean((1, 2)) / 40
    assert torch.equal(red.round().long(), data.train.labels)
    assert (data.test.images[4].float() - 80).abs().max() <= 2  # a grey file in three channels
    expected = (data.test.images[0, 0, 9, 50].item() / 255 - 0.485) / 0.229
    assert data.test.gather(torch.tensor([0]))[0, 0, 9, 50].item() == pytest.approx(expected, rel=1e-5)


def test_a_second_load_decodes_nothing(tmp_path, root, monkeypatch):
    first = load("tiny-imagenet", tmp_path)
    monkeypatch.setattr(tiny_imagenet, "decode", None)
    second = load("tiny-imagenet", tmp_path)
    assert first.train.fingerprint == second.train.fingerprint
    assert torch.equal(first.test.images, second.test.images)
    assert torch.equal(first.test.labels, second.test.labels)


def test_the_cache_follows_the_tree(tmp_path, root, write_image):
    before = load("tiny-imagenet", tmp_path)
    shutil.copy(root / "train/n04/images/n04_0.JPEG", root / "train/n01/images/n01_0.JPEG")
    after = load("tiny-imagenet", tmp_path)
    assert not torch.equal(before.train.images[0], after.train.images[0])
    annotations = root / "val" / "val_annotations.txt"
    annotations.write_text(annotations.read_text().replace("val_0.JPEG\tn04", "val_0.JPEG\tn01"))
    assert load("tiny-imagenet", tmp_path).test.labels.tolist() == [0, 0, 1, 3, 2]


def test_a_damaged_cache_is_made_anew(tmp_path, root):
    before = load("tiny-imagenet", tmp_path)
    stored = tmp_path / "tiny-imagenet-200.safetensors"
    intact = stored.stat().st_size
    with stored.open("r+b") as file:
        file.truncate(intact // 2)
    with pytest.warns(UserWarning, match=f"{stored} is damaged"):
        assert load("tiny-imagenet", tmp_path).train.fingerprint == before.train.fingerprint
    assert stored.stat().st_size == intact
    assert list(tmp_path.glob(".tiny*")) == []


def test_the_cache_goes_to_the_user_where_the_data_folder_cannot_take_it(tmp_path, root, monkeypatch):
    (tmp_path / "tiny-imagenet-200.safetensors").mkdir()
    first = load("tiny-imagenet", tmp_path)
    monkeypatch.setattr(tiny_imagenet, "decode", None)
    assert load("tiny-imagenet", tmp_path).train.fingerprint == first.train.fingerprint
    assert list((tmp_path / "user-cache").rglob("*.safetensors"))


def test_no_cache_at_all_is_only_slower(tmp_path, root):
    (tmp_path / "tiny-imagenet-200.safetensors").mkdir()
    (tmp_path / "user-cache").write_text("a file, not a folder")
    with pytest.warns(UserWarning, match="cannot keep tiny-imagenet-200"):
        assert len(load("tiny-imagenet", tmp_path).train) == 12


def test_the_zip_in_the_data_folder_is_extracted_without_network(tmp_path, root, monkeypatch):
    archive = Path(shutil.make_archive(str(root), "zip", tmp_path, root.name))
    shutil.rmtree(root)
    monkeypatch.setattr(tiny_imagenet, "MD5", hashlib.md5(archive.read_bytes()).hexdigest())
    assert len(load("tiny-imagenet", tmp_path, download=False).test) == 5


def test_half_a_zip_is_named(tmp_path):
    (tmp_path / "tiny-imagenet-200.zip").write_bytes(b"half")
    with pytest.raises(DataError, match="damaged or incomplete") as raised:
        load("tiny-imagenet", tmp_path)
    assert str(tmp_path / "tiny-imagenet-200.zip") in str(raised.value)


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("train/n02/images/n02_1.JPEG", "no such file"),
        ("val/images/val_3.JPEG", "no such file"),
        ("val/val_annotations.txt", "No such file"),
        ("val/images", "no such folder"),
        ("train/n02/images", "no such folder"),
    ],
)
def test_a_tree_that_lacks_something_names_it(file, words, tmp_path, root):
    path = root / file
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    with pytest.raises(DataError, match=words) as raised:
        load("tiny-imagenet", tmp_path)
    assert str(path) in str(raised.value)


def test_a_class_without_images_is_named(tmp_path, root):
    shutil.rmtree(root / "train/n02")
    (root / "train/n02/images").mkdir(parents=True)
    with pytest.raises(DataError, match=r"n02/images/\*.JPEG"):
        load("tiny-imagenet", tmp_path)


def test_a_truncated_jpeg_is_named_and_never_cached(tmp_path, root):
    path = root / "val/images/val_2.JPEG"
    os.truncate(path, path.stat().st_size // 2)
    for _ in range(2):
        with pytest.raises(DataError, match="damaged") as raised:
            load("tiny-imagenet", tmp_path)
        assert str(path) in str(raised.value)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("val_1.JPEG\tn01", "val_1.JPEG\tn77", "line 2: 'n77' is no class"),
        ("val_1.JPEG\tn01", "val_1.JPEG", "line 2"),
        ("val_4.JPEG\tn03\t0\t0\t63\t63\n", "", "no line for val_4.JPEG"),
    ],
)
def test_wrong_annotations_are_named(old, new, words, tmp_path, root):
    annotations = root / "val" / "val_annotations.txt"
    assert old in annotations.read_text()
    annotations.write_text(annotations.read_text().replace(old, new))
    with pytest.raises(DataError, match=words) as raised:
        load("tiny-imagenet", tmp_path)
    assert str(annotations) in str(raised.value)


def test_an_image_of_another_size_is_named(tmp_path, root, write_image, rng):
    write_image(root / "val/images/val_0.JPEG", rng.integers(0, 256, (32, 64), dtype="uint8"))
    with pytest.raises(DataError, match=r"val_0.JPEG is 32x64 \(height x width\), expected 64x64"):
        load("tiny-imagenet", tmp_path)
