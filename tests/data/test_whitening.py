"""ZCA kind A: golden vectors, the closed form, and a cache that never serves what it should not."""

import pytest
import torch

from benchmark.data import whitening


@pytest.fixture(scope="module")
def images():
    return torch.rand(50, 2, 4, 4, generator=torch.Generator().manual_seed(1))


def test_golden(golden):
    vectors = golden("zca_kornia")
    fitted = whitening.fit(vectors["images"])
    whitened = fitted.whiten(vectors["images"])
    torch.testing.assert_close(whitened, vectors["whitened"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(fitted.restore(vectors["whitened"]), vectors["restored"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(fitted.restore(whitened), vectors["images"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("eps", [0.1, 1e-3])
def test_closed_form(images, eps):
    fitted = whitening.fit(images.double(), eps)
    centred = images.double().flatten(1) - images.double().flatten(1).mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred / (len(images) - 1))
    torch.testing.assert_close(fitted.transform, vectors @ torch.diag((values + eps) ** -0.5) @ vectors.T)
    torch.testing.assert_close(fitted.inverse, vectors @ torch.diag((values + eps) ** 0.5) @ vectors.T)
    torch.testing.assert_close(fitted.mean, images.double().flatten(1).mean(0))
    torch.testing.assert_close(whitening.fit(images, eps).transform, fitted.transform.float(), rtol=1e-4, atol=1e-5)


def test_inverse_undoes_transform(images):
    fitted = whitening.fit(images)
    torch.testing.assert_close(fitted.transform @ fitted.inverse, torch.eye(32), rtol=0, atol=1e-5)
    torch.testing.assert_close(fitted.restore(fitted.whiten(images)), images, rtol=0, atol=1e-5)


def test_digest_follows_contents(images):
    fitted, other = whitening.fit(images), whitening.fit(images, eps=0.2)
    assert fitted.digest == whitening.fit(images).digest != other.digest
    assert fitted.digest != whitening.ZCA(fitted.mean, fitted.transform, fitted.inverse, kind="B").digest


def test_cache_hit_and_miss(images, tmp_path, monkeypatch):
    calls = []

    def images_fn():
        calls.append(1)
        return images

    def ask(fingerprint="f", dataset="cifar10", eps=0.1):
        return whitening.cached(fingerprint, dataset, images_fn, eps, cache_dir=tmp_path / "new")

    first, again = ask(), ask()
    assert len(calls) == 1
    assert first.digest == again.digest == whitening.fit(images).digest
    assert again.kind == "A"
    folders = [{"dataset": "folder:/a/b"}, {"dataset": "folder:/a-b"}]
    misses = [{"dataset": "cifar100"}, {"fingerprint": "g"}, {"eps": 0.2}, *folders]
    for count, miss in enumerate(misses, start=2):
        ask(**miss)
        assert len(calls) == count
    monkeypatch.setattr(whitening, "KIND", "B")
    ask()
    assert len(calls) == len(misses) + 2
    assert len(list((tmp_path / "new").glob("*.safetensors"))) == len(misses) + 2


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "foreign"])
def test_damaged_cache_is_redone_with_a_warning(images, tmp_path, damage):
    expected = whitening.cached("f", "digits", lambda: images, cache_dir=tmp_path)
    (path,) = tmp_path.glob("*.safetensors")
    content = path.read_bytes()
    flipped = content[:-1] + bytes([content[-1] ^ 1])
    foreign = (2).to_bytes(8, "little") + b"{}"
    path.write_bytes({"truncated": content[:200], "flipped": flipped, "empty": b"", "foreign": foreign}[damage])
    with pytest.warns(UserWarning, match=f"{path.name} is damaged"):
        redone = whitening.cached("f", "digits", lambda: images, cache_dir=tmp_path)
    assert redone.digest == expected.digest
    assert {path.name, "locks"} == {other.name for other in tmp_path.iterdir()}
    assert whitening.cached("f", "digits", pytest.fail, cache_dir=tmp_path).digest == expected.digest
