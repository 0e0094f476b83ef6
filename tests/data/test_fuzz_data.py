"""Random and damaged data set files: a DataError, or images; nothing is executed and nothing written."""

import io
import shutil

import numpy as np
import pytest
from PIL import Image

from benchmark.data import DataError, load
from tests import fuzz
from tests.fuzz import damaged, examples, st, watched

pytestmark = pytest.mark.slow  # hundreds of data sets are written

SUFFIXES = {"png": "PNG", "jpg": "JPEG", "bmp": "BMP", "webp": "WEBP"}


def image(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def pets(tmp_path):
    for label in ("a", "b"):
        (tmp_path / "pets" / label).mkdir(parents=True)
        for number in range(3):
            (tmp_path / "pets" / label / f"{number}.png").write_bytes(image("PNG"))
    return tmp_path / "pets"


@examples
def test_folders_of_images(pets, tmp_path, examples):
    names = st.sampled_from(["a/0.png", "a/x.jpg", "b/x.bmp", "a/x.webp", "a/deep/x.png", "c/x.png", "train/a/x.png"])
    contents = st.sampled_from([image(kind) for kind in SUFFIXES.values()])

    def check(mutant):
        name, content = mutant
        path = tmp_path / "mutant" / name
        shutil.rmtree(tmp_path / "mutant", ignore_errors=True)
        shutil.copytree(pets, tmp_path / "mutant")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        with watched(tmp_path / "none"):
            load_or_say(f"folder:{tmp_path / 'mutant'}", tmp_path)

    mutants = st.tuples(names, contents.flatmap(damaged) | st.binary(max_size=64) | contents)
    fuzz.fuzz(examples, check, mutants)


def load_or_say(name, folder):
    try:
        found = load(name, folder, download=False)
    except DataError:
        return
    assert len(found.train) and found.train.labels.max() < found.spec.classes


@examples
def test_files_of_the_named_data_sets(tmp_path, write_mnist, write_tiny, write_svhn, write_cifar, examples):
    from torchvision import datasets

    write_mnist(datasets.MNIST, tmp_path / "data")
    load("mnist", tmp_path / "data")  # unpacks
    for packed in (tmp_path / "data").rglob("*.gz"):
        packed.unlink()  # its checksum would tell of every damage
    write_tiny(tmp_path / "data")
    write_svhn(tmp_path / "data")
    write_cifar(datasets.CIFAR10, tmp_path / "data")
    files = sorted(path for path in (tmp_path / "data").rglob("*") if path.is_file())
    sound = {path: path.read_bytes() for path in files}
    kinds = {"tiny-imagenet-200": "tiny-imagenet", "MNIST": "mnist", "cifar-10-batches-py": "cifar10"}

    def check(mutant):
        path, content = mutant
        path.write_bytes(content)
        try:
            with watched(tmp_path / "data", tmp_path / "user-cache"):  # decoded images are kept
                load_or_say(kinds.get(path.relative_to(tmp_path / "data").parts[0], "svhn"), tmp_path / "data")
        finally:
            path.write_bytes(sound[path])

    mutants = st.sampled_from(files).flatmap(
        lambda path: st.tuples(st.just(path), damaged(sound[path]) | st.binary(max_size=64))
    )
    fuzz.fuzz(examples, check, mutants)
