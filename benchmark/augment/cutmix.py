"""CutMix as in IDC (docs/methods.md 1.5; Yun et al. 2019): a box of every image shows a partner from the batch."""

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.augment.operations import Size
from benchmark.augment.params import inside


@dataclass(frozen=True)
class CutMix:
    """One draw for a batch of N images.

    partner: (N,) int64, a permutation. box: (1, 4) int64; top, bottom, left, right, half-open and clipped to
    the image, empty where the batch is not mixed. kept: () float in [0, 1], the share of an image's own
    pixels.
    """

    partner: Tensor
    box: Tensor
    kept: Tensor


def sample(batch: int, size: Size, probability: float, generator: torch.Generator) -> CutMix:
    """With the given probability a box of side int(side * sqrt(1 - lambda)), lambda ~ Beta(1, 1) = U(0, 1).

    The box is built from half-sides rounded down around an integer centre uniform in the image, then clipped.
    """
    device = generator.device
    mixed, lam, *centre = torch.rand(4, generator=generator, device=device).unbind()
    edges, area = [], torch.ones((), dtype=torch.int64, device=device)
    for u, side in zip(centre, size):
        half = (side * (1 - lam).sqrt()).long() // 2 * (mixed < probability)
        middle = (u * side).long().clamp(max=side - 1)
        start, stop = (middle - half).clamp(min=0), (middle + half).clamp(max=side)
        edges += [start, stop]
        area = area * (stop - start)
    partner = torch.rand(batch, generator=generator, device=device).argsort()
    return CutMix(partner, torch.stack(edges).view(1, 4), 1 - area / (size[0] * size[1]))


def apply(images_NCHW: Tensor, params: CutMix) -> Tensor:
    """New images (N, C, H, W); the input is not written to."""
    return torch.where(inside(params.box, *images_NCHW.shape[2:]), images_NCHW[params.partner], images_NCHW)
