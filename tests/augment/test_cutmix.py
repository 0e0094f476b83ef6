"""CutMix: the box, the partners, and that the loss weighs by the true area."""

import pytest
import torch

from benchmark.augment import cutmix


@pytest.mark.parametrize("size", [(32, 32), (8, 8), (9, 14)], ids=str)
def test_kept_is_the_true_share_of_own_pixels(size, generator):
    # Image n is filled with n, so a pixel names the image it came from.
    images = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 2, *size)
    before = images.clone()
    for _ in range(300):
        params = cutmix.sample(6, size, 1.0, generator)
        assert sorted(params.partner.tolist()) == list(range(6))
        mixed = cutmix.apply(images, params)
        for index, partner in enumerate(params.partner.tolist()):
            own = (mixed[index] == index).float().mean()
            assert own == pytest.approx(1.0 if partner == index else params.kept.item(), abs=1e-6)
            assert ((mixed[index] == index) | (mixed[index] == partner)).all()
        top, bottom, left, right = params.box[0].tolist()
        assert 0 <= top <= bottom <= size[0] and 0 <= left <= right <= size[1]
        assert params.kept.item() == pytest.approx(1 - (bottom - top) * (right - left) / (size[0] * size[1]))
    assert torch.equal(images, before)


def test_probability_and_box_sizes(generator):
    draws = [cutmix.sample(2, (32, 32), 0.5, generator) for _ in range(4_000)]
    heights = torch.stack([d.box[0, 1] - d.box[0, 0] for d in draws])
    assert abs((heights > 0).float().mean() - 0.5) < 0.03
    assert heights.max() > 28
    # Away from the border a box keeps its full, even, side.
    inner = [d.box[0] for d in draws if d.box[0, 0] > 0 and d.box[0, 1] < 32 and d.box[0, 1] > d.box[0, 0]]
    assert all((box[1] - box[0]) % 2 == 0 for box in inner)
    # lambda uniform: a side of 32 sqrt(1 - lambda) is below 16 in a quarter of the mixed draws, before
    # clipping and rounding down; clipping only adds to them.
    share = (heights[heights > 0] < 16).float().mean()
    assert 0.22 < share < 0.6


def test_never_and_always(generator):
    images = torch.randn(4, 3, 8, 8)
    params = cutmix.sample(4, (8, 8), 0.0, generator)
    assert torch.equal(cutmix.apply(images, params), images)
    assert params.kept == 1


def test_batch_of_one_mixes_with_itself(generator):
    image = torch.randn(1, 3, 8, 8)
    assert torch.equal(cutmix.apply(image, cutmix.sample(1, (8, 8), 1.0, generator)), image)
