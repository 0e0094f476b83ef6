"""2x2 average pooling that is fast on a CPU: torch's own kernel there is scalar and took a sixth of a training step on
small maps and a quarter of a forward pass on large ones.

Forward and backward on one core, 100 maps of 128 channels: 16x16 20.8 ms for `avg_pool2d` and 8.7 ms for sums of
slices; 8x8 5.6 ms, 2.8 ms for sums of slices, and 1.9 ms as a matrix product.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

PRODUCT_SIDE = 8
"""Up to this side a product with the (sparse) pooling matrix is fastest."""

LARGE = 2**18
"""Elements from which on sums of slices win; below, Python's share of a custom function is larger than their gain."""


def average_pool(maps: Tensor) -> Tensor:
    """2x2 means with stride 2 over the last two dimensions; an odd last row or column is dropped."""
    rows, columns = maps.shape[-2:]
    if maps.device.type != "cpu":
        return F.avg_pool2d(maps, 2)
    if max(rows, columns) <= PRODUCT_SIDE:
        matrix = pooling_matrix if torch.compiler.is_compiling() else kept_matrix  # dynamo warns of what is cached
        pooled = maps.flatten(-2) @ matrix(rows, columns, maps.dtype)
        return pooled.unflatten(-1, (rows // 2, columns // 2))
    if torch.compiler.is_compiling() or maps.numel() < LARGE:  # compiled, large maps are pooled with their norm
        return F.avg_pool2d(maps, 2)
    return _Halve.apply(maps[..., : rows // 2 * 2, : columns // 2 * 2])


def pooling_matrix(rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    """[rows x columns, rows/2 x columns/2] on the CPU: a quarter where a value belongs to a mean."""
    down, right = (torch.eye(side // 2).repeat_interleave(2, 0) / 2 for side in (rows, columns))
    down, right = (F.pad(part, (0, 0, 0, side - len(part))) for part, side in ((down, rows), (right, columns)))
    return torch.kron(down, right).to(dtype)


@cache
def kept_matrix(rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    """The same, made once: without the wrapper that it gets inside one of torch.func's transforms, which ends first."""
    return torch.func.debug_unwrap(pooling_matrix(rows, columns, dtype), recurse=True)


class _Halve(torch.autograd.Function):
    """Means of 2x2 blocks. Linear, and the adjoint of `_Double`, so that either is the other's derivative to any order
    (slicing would be differentiated into zero-filled maps of full size)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(maps: Tensor) -> Tensor:
        rows = maps[..., ::2, :] + maps[..., 1::2, :]
        return (rows[..., ::2] + rows[..., 1::2]) * 0.25

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Double.apply(gradient)


class _Double(torch.autograd.Function):
    """A quarter of every value at the four places of its block."""

    generate_vmap_rule = True

    @staticmethod
    def forward(maps: Tensor) -> Tensor:
        quarter = maps * 0.25
        wide = torch.stack((quarter, quarter), -1).flatten(-2)
        return torch.stack((wide, wide), -2).flatten(-3, -2)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Halve.apply(gradient)
