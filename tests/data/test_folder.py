"""folder:PATH in both layouts: order, colour, division, and what is refused."""

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark.data import DataError, load, spec


@pytest.fixture
def pets(tmp_path, write_image, rng):
    """PATH/<class>/: 10 cats and 5 dogs of 6x9 pixels; returns (path, images by file)."""
    path = tmp_path / "pets"
    written = {}
    for name, count in (("dog", 5), ("cat", 10)):
        for number in range(count):
            image = rng.integers(0, 256, (6, 9, 3), dtype=np.uint8)
            file = path / name / f"{number:02d}.png"
            write_image(file, image)
            written[file] = image
    return path, written


def _rows(images) -> set[bytes]:
    return {image.tobytes() for image in images}


def test_one_folder_is_divided(pets, tmp_path):
    path, written = pets
    data = load(f"folder:{path}", tmp_path)
    assert data.spec == spec(f"folder:{path}", tmp_path)
    assert data.spec.name == f"folder:{path}" and data.spec.title == "pets"
    assert (data.spec.image_shape, data.spec.classes) == ((3, 6, 9), 2)
    assert data.spec.flip and data.spec.published == ""
    assert data.class_names == ("cat", "dog")
    assert data.train.labels.bincount().tolist() == [8, 4]
    assert data.test.labels.bincount().tolist() == [2, 1]
    both = [*data.train.images.numpy(), *data.test.images.numpy()]
    assert _rows(both) == _rows(image.transpose(2, 0, 1) for image in written.values())
    cats = _rows(image.transpose(2, 0, 1) for file, image in written.items() if file.parent.name == "cat")
    for part in (data.train, data.test):
        assert [image.numpy().tobytes() in cats for image in part.images] == [y == 0 for y in part.labels]
    normalised = data.train.gather()
    assert normalised.mean((0, 2, 3)).abs().max() < 1e-5
    assert torch.allclose(normalised.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-4)


def test_the_division_is_always_the_same(pets, tmp_path):
    one, two = (load(f"folder:{pets[0]}", tmp_path) for _ in range(2))
    assert one.train.fingerprint == two.train.fingerprint
    assert torch.equal(one.test.images, two.test.images)


@pytest.mark.parametrize("held_out", ["test", "val"])
def test_a_given_division_is_kept(held_out, tmp_path, write_image):
    for part, level in (("train", 10), (held_out, 20)):
        for label, name in enumerate(("a", "b")):
            write_image(tmp_path / part / name / "deeper" / "x.BMP", np.full((4, 4), level + label, np.uint8))
    data = load(f"folder:{tmp_path}", tmp_path)
    assert data.spec.image_shape == (1, 4, 4)
    assert data.train.images[:, 0, 0, 0].tolist() == [10, 11]
    assert data.test.images[:, 0, 0, 0].tolist() == [20, 21]
    assert data.train.gather()[1, 0, 0, 0].item() == pytest.approx(1, rel=1e-4)


def test_test_is_preferred_to_val(tmp_path, write_image):
    for part, level in (("train", 1), ("val", 2), ("test", 3)):
        for name in ("a", "b"):
            write_image(tmp_path / part / name / "x.png", np.full((4, 4), level, np.uint8))
    assert load(f"folder:{tmp_path}", tmp_path).test.images.unique().tolist() == [3]


def test_a_class_may_be_called_train(tmp_path, write_image):
    for name in ("plane", "train"):
        for number in range(2):
            write_image(tmp_path / name / f"{number}.png", np.full((4, 4), number, np.uint8))
    assert load(f"folder:{tmp_path}", tmp_path).class_names == ("plane", "train")


def test_one_coloured_image_makes_all_rgb(tmp_path, write_image):
    for name in ("a", "b"):
        for number in range(2):
            write_image(tmp_path / name / f"{number}.png", np.full((4, 4), 7, np.uint8))
    assert spec(f"folder:{tmp_path}", tmp_path).channels == 1
    Image.new("RGBA", (4, 4), (1, 2, 3, 128)).save(tmp_path / "b" / "2.png")
    data = load(f"folder:{tmp_path}", tmp_path)
    assert data.spec.channels == 3
    assert {tuple(image[:, 0, 0].tolist()) for image in data.train.images} <= {(7, 7, 7), (1, 2, 3)}


def test_formats_and_strangers(tmp_path, write_image):
    for name in ("a", "b"):
        for suffix in ("png", "jpg", "JPEG", "bmp", "webp"):
            write_image(tmp_path / name / f"x.{suffix}", np.full((8, 8, 3), 128, np.uint8))
        (tmp_path / name / "notes.txt").write_text("not an image")
        (tmp_path / name / "._x.png").write_bytes(b"left by macOS")
    (tmp_path / ".git").mkdir()
    data = load(f"folder:{tmp_path}", tmp_path)
    assert len(data.train) + len(data.test) == 10
    assert (data.train.images.float() - 128).abs().max() <= 3


def test_another_size_names_the_file_and_both_sizes(pets, tmp_path, write_image):
    path, _ = pets
    write_image(path / "dog" / "99.png", np.zeros((9, 6, 3), np.uint8))
    for ask in (spec, load):
        with pytest.raises(DataError, match=r"is .*x.*expected") as raised:
            ask(f"folder:{path}", tmp_path)
        message = str(raised.value)
        assert "99.png" in message and "9x6" in message and "6x9" in message


@pytest.mark.parametrize("size", [0, 20, 60])
def test_a_damaged_image_is_named(size, pets, tmp_path):
    path, _ = pets
    file = path / "cat" / "03.png"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(DataError, match="damaged") as raised:
        load(f"folder:{path}", tmp_path)
    assert f"{file} (" in str(raised.value)


def test_sixteen_bits_are_refused(pets, tmp_path):
    path, _ = pets
    Image.fromarray(np.full((6, 9), 40000, np.uint16)).save(path / "cat" / "deep.png")
    with pytest.raises(DataError, match=r"deep\.png has over 8 bits"):
        load(f"folder:{path}", tmp_path)


def test_no_such_folder(tmp_path):
    with pytest.raises(DataError, match=r"no such folder.*PATH/train/<class>/"):
        load(f"folder:{tmp_path / 'gone'}", tmp_path)


def test_folders_that_are_no_data_set(pets, tmp_path, write_image):
    path, _ = pets
    with pytest.raises(DataError, match="0 class sub-folders"):
        load(f"folder:{path / 'cat'}", tmp_path)
    (path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no image in .*empty"):
        load(f"folder:{path}", tmp_path)
    write_image(path / "empty" / "only.png", np.zeros((6, 9, 3), np.uint8))
    with pytest.raises(DataError, match="class empty has one image"):
        load(f"folder:{path}", tmp_path)


def test_both_halves_must_have_the_same_classes(tmp_path, write_image):
    for name in ("train/a", "train/b"):
        write_image(tmp_path / name / "x.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(DataError, match="train/ needs a test/ or val/"):
        load(f"folder:{tmp_path}", tmp_path)
    for name in ("test/a", "test/c"):
        write_image(tmp_path / name / "x.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(DataError, match="differ in their classes: b, c"):
        load(f"folder:{tmp_path}", tmp_path)


def test_relative_paths_and_home_become_absolute(pets, tmp_path, monkeypatch):
    path, _ = pets
    monkeypatch.chdir(path.parent)
    monkeypatch.setenv("HOME", str(path.parent))
    assert spec("folder:pets", tmp_path).name == spec("folder:~/pets", tmp_path).name == f"folder:{path}"
