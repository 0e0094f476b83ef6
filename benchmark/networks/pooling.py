"""2x2 average pooling, fast for large maps on a CPU: torch's own kernel there is scalar and took a quarter of a
forward pass.

Measured on one core, 256 maps of 128x32x32: 186 ms for `avg_pool2d`, 38 ms here. Small batches of small maps go through
torch's: there Python's share of a custom function is larger than what it saves.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

LARGE = 2**20
"""Elements from which on the custom kernel wins (100 maps of 128x8x8 are a draw)."""


def average_pool(maps: Tensor) -> Tensor:
    """2x2 means with stride 2 over the last two dimensions; an odd last row or column is dropped."""
    if maps.device.type != "cpu" or maps.numel() < LARGE:
        return F.avg_pool2d(maps, 2)
    return _Halve.apply(maps[..., : maps.shape[-2] // 2 * 2, : maps.shape[-1] // 2 * 2])


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
