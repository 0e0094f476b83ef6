"""The CPU pooling against torch's own, to the second derivative and under vmap."""

import pytest
import torch
from torch.nn import functional as F

from benchmark.networks import pooling
from benchmark.networks.pooling import average_pool


@pytest.mark.parametrize("size", [(2, 2), (8, 8), (7, 5), (4, 6), (10, 10), (11, 9)])
def test_equals_torch_to_the_second_derivative(size, generator, monkeypatch):
    monkeypatch.setattr(pooling, "LARGE", 0)
    maps = torch.randn(3, 5, *size, dtype=torch.float64, generator=generator, requires_grad=True)
    weight = torch.randn(3, 5, size[0] // 2, size[1] // 2, dtype=torch.float64, generator=generator)
    results = []
    for pool in (average_pool, lambda m: F.avg_pool2d(m, 2)):
        first = torch.autograd.grad((pool(maps) ** 3 * weight).sum(), maps, create_graph=True)[0]
        second = torch.autograd.grad((first**2).sum(), maps)[0]
        results.append((pool(maps), first, second))
    torch.testing.assert_close(results[0], results[1])
    assert torch.autograd.gradgradcheck(average_pool, (maps,))


@pytest.mark.parametrize("side", [8, 10])
def test_vmap_and_func_grad(side, generator, monkeypatch):
    monkeypatch.setattr(pooling, "LARGE", 0)
    maps = torch.randn(4, 2, 3, side, side, generator=generator)
    gradient = torch.func.grad(lambda m: (average_pool(m) ** 2).sum())
    torch.testing.assert_close(torch.func.vmap(gradient)(maps), torch.stack([gradient(m) for m in maps]))


def test_first_used_inside_transforms_it_can_be_used_again(generator):
    pooling.kept_matrix.cache_clear()
    maps = torch.randn(2, 3, 6, 6, generator=generator)
    gradient = torch.func.grad(lambda m: (average_pool(m) ** 2).sum())
    second = torch.func.grad(lambda m: gradient(m).square().sum())
    torch.testing.assert_close(second(maps), second(maps))
