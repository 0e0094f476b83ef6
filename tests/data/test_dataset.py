"""Split and Dataset: normalisation, class indices, divisions, fingerprint, and the checks at assembly."""

import pytest
import torch

from benchmark.data import DataError, DatasetSpec, Split
from benchmark.data.dataset import assemble, channel_statistics

SPEC = DatasetSpec("toy", "Toy", 3, 4, 5, 4, flip=True, published="")


def _images(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 4, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def split() -> Split:
    labels = torch.tensor([0] * 10 + [1] * 25 + [3] * 2)[torch.randperm(37)]  # class 2 is empty
    return Split(_images(37), labels, torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.25, 2.0]), classes=4)


def test_spec_shape():
    assert SPEC.image_shape == (3, 4, 5)
    assert SPEC.pixels == 60
    assert SPEC.default_ipc == (1, 10, 50)


def test_raw_and_gather_scale_and_normalise(split):
    indices = torch.tensor([5, 0, 5])
    raw, normalised = split.raw(indices), split.gather(indices)
    assert raw.dtype == normalised.dtype == torch.float32
    assert torch.equal(raw, split.images[indices].float() / 255)
    value = split.images[0, 1, 2, 3].item()
    assert normalised[1, 1, 2, 3].item() == pytest.approx((value / 255 - 0.2) / 0.25, rel=1e-5)
    assert torch.equal(split.gather(None)[indices], normalised)
    assert torch.equal(split.raw()[indices], raw)


def test_gather_leaves_the_stored_images_alone(split):
    before = split.images.clone()
    split.gather()
    assert torch.equal(split.images, before)


def test_class_indices_cover_every_image_once(split):
    assert len(split.class_indices) == 4
    assert [len(members) for members in split.class_indices] == [10, 25, 0, 2]
    for label, members in enumerate(split.class_indices):
        assert (split.labels[members] == label).all()
        assert torch.equal(members, members.sort().values)
    assert torch.equal(torch.cat(split.class_indices).sort().values, torch.arange(37))
    assert split.class_indices is split.class_indices


def test_subset_keeps_order_and_normalisation(split):
    part = split.subset(torch.tensor([7, 2]))
    assert len(part) == 2
    assert torch.equal(part.images, split.images[[7, 2]])
    assert torch.equal(part.labels, split.labels[[7, 2]])
    assert part.mean is split.mean and part.classes == 4


def test_stratified_holds_out_the_fraction_of_every_class(split):
    fit, held_out = split.stratified(0.2, seed=3)
    assert [len(members) for members in held_out.class_indices] == [2, 5, 0, 1]
    assert [len(members) for members in fit.class_indices] == [8, 20, 0, 1]
    together = {image.numpy().tobytes() for part in (fit, held_out) for image in part.images}
    assert together == {image.numpy().tobytes() for image in split.images}


def test_stratified_depends_on_the_seed_alone(split):
    one, two, other = (split.stratified(0.3, seed)[1] for seed in (3, 3, 4))
    assert torch.equal(one.images, two.images)
    assert not torch.equal(one.images, other.images)


@pytest.mark.parametrize(("fraction", "counts"), [(0.01, [1, 1, 0]), (0.99, [9, 1, 0])])
def test_stratified_leaves_at_least_one_image_on_either_side(fraction, counts):
    labels = torch.tensor([0] * 10 + [1] * 2 + [2])
    split = Split(_images(13), labels, torch.zeros(3), torch.ones(3), classes=3)
    _, held_out = split.stratified(fraction, seed=0)
    assert [len(members) for members in held_out.class_indices] == counts


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1])
def test_stratified_refuses_a_fraction_outside_the_unit_interval(split, fraction):
    with pytest.raises(ValueError, match="between 0 and 1"):
        split.stratified(fraction, seed=0)


def test_to_moves_every_tensor(split):
    moved = split.to("meta")
    assert {t.device.type for t in (moved.images, moved.labels, moved.mean, moved.std)} == {"meta"}
    assert split.images.device.type == "cpu"


def test_statistics_agree_with_torch():
    images = _images(50)
    mean, std = channel_statistics(images)
    pixels = images.double().div(255).transpose(0, 1).flatten(1)
    assert mean == pytest.approx(pixels.mean(1).tolist())
    assert std == pytest.approx(pixels.std(1, correction=0).tolist())


def test_a_constant_channel_can_be_normalised():
    assert channel_statistics(torch.full((3, 1, 2, 2), 51, dtype=torch.uint8)) == (
        pytest.approx((0.2,)),
        (1.0,),
    )


def test_fingerprint_changes_with_images_and_labels():
    images, labels = _images(8), torch.arange(8) % 4
    changed = images.clone()
    changed[0, 0, 0, 0] ^= 1
    variants = [(images, labels), (changed, labels), (images, labels.flip(0)), (images[:7], labels[:7])]
    prints = [assemble(SPEC, part, (images, labels), ("a",) * 4, "here").train.fingerprint for part in variants]
    assert len(set(prints)) == 4
    assert prints[0] == assemble(SPEC, variants[0], (changed, labels), ("a",) * 4, "here").train.fingerprint
    assert len(prints[0]) == 16


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (_images(3), torch.tensor([0, 1]), "2 labels"),
        (_images(3).transpose(2, 3), torch.tensor([0, 1, 2]), r"\(3, 3, 5, 4\)"),
        (_images(2), torch.tensor([0, 4]), "from 0 to 4, expected 0 to 3"),
        (_images(0), torch.tensor([], dtype=torch.int64), "0 labels"),
    ],
)
def test_assembly_refuses_what_is_not_the_spec(images, labels, words):
    good = _images(4), torch.arange(4)
    with pytest.raises(DataError, match=words) as raised:
        assemble(SPEC, good, (images, labels), ("a",) * 4, "/some/folder")
    assert "test" in str(raised.value) and "/some/folder" in str(raised.value)
