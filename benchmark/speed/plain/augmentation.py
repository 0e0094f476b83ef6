"""The augmentation as single operations, one after the other, with the parameters that `benchmark.augment` draws."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.augment import Params, dsa
from benchmark.condensation.task import Task

Warp = Literal["none", "crop", "flip", "grid"]


@dataclass(frozen=True)
class Draw:
    """What one call of the augmentation does: its rows of parameters (one, or one per image) and the operations in
    use."""

    params: Params
    colour: bool
    warp: Warp
    cutout: bool


def draws(params: Params, calls: int) -> list[Draw]:
    """Return the rows of every call. They are read back from the device once, because the host decides which operation
    runs."""
    rows, host, found = len(params) // calls, params.to("cpu"), []
    eye = torch.eye(2, 3, dtype=host.affine.dtype)
    for call in range(calls):
        index = torch.arange(call * rows, (call + 1) * rows)
        colour, affine, box = (values[index] for values in (host.colour, host.affine, host.box))
        linear, shift = affine[..., :2], affine[..., 2]
        warp: Warp
        if bool((affine == eye).all()):
            warp = "none"
        elif bool((linear == eye[:, :2]).all()):
            warp = "crop"
        elif bool((linear.abs() == eye[:, :2]).all() and (shift == 0).all()):
            warp = "flip"
        else:
            warp = "grid"
        own = params.take(index.to(params.colour.device))
        coloured = bool((colour != torch.tensor([0.0, 1.0, 1.0])).any())
        found.append(Draw(own, coloured, warp, bool((box != 0).any())))
    return found


def augment(images_NCHW: Tensor, draw: Draw, align_corners: bool = False) -> Tensor:
    """Apply one operation after the other, each to the whole batch (docs/methods.md 1.3)."""
    count, _, rows, columns = images_NCHW.shape
    images, params = images_NCHW, draw.params
    if draw.colour:
        brightness, saturation, contrast = (v.view(-1, 1, 1, 1) for v in params.colour.to(images.dtype).unbind(1))
        images = images + brightness
        grey = images.mean(1, keepdim=True)
        images = (images - grey) * saturation + grey
        mean = images.mean((1, 2, 3), keepdim=True)
        images = (images - mean) * contrast + mean
    affine = params.affine.to(images.dtype).expand(count, 2, 3)
    if draw.warp == "crop":
        images = crop(images, affine[..., 2].long())
    elif draw.warp == "flip":
        images = torch.where((affine[:, 0, 0] < 0).view(-1, 1, 1, 1), images.flip(3), images)
    elif draw.warp == "grid":
        grid = F.affine_grid(affine, list(images.shape), align_corners)
        images = F.grid_sample(images, grid, "bilinear", "zeros", align_corners)
    if draw.cutout:
        top, left = (params.box[:, side].view(-1, 1, 1) for side in (0, 2))
        bottom, right = (params.box[:, side].view(-1, 1, 1) for side in (1, 3))
        y = torch.arange(rows, device=images.device).view(1, -1, 1)
        x = torch.arange(columns, device=images.device).view(1, 1, -1)
        kept = ~((top <= y) & (y < bottom) & (left <= x) & (x < right))
        images = images * kept.to(images.dtype).unsqueeze(1)
    return images


def crop(images_NCHW: Tensor, shift_N2: Tensor) -> Tensor:
    """Every image moved by its own (x, y) pixels: padded, then gathered pixel by pixel."""
    count, _, rows, columns = images_NCHW.shape
    device = images_NCHW.device
    x = torch.arange(columns, device=device) + shift_N2[:, :1] + 1
    y = torch.arange(rows, device=device) + shift_N2[:, 1:] + 1
    x, y = x.clamp(0, columns + 1), y.clamp(0, rows + 1)
    padded = F.pad(images_NCHW, (1, 1, 1, 1)).permute(0, 2, 3, 1).contiguous()
    image = torch.arange(count, device=device).view(-1, 1, 1)
    return padded[image, y[:, :, None], x[:, None, :]].permute(0, 3, 1, 2)


def siamese(task: Task, strategy: str) -> list[Draw]:
    """Return one draw of DSA for every class; a draw of nothing if the strategy is `none`."""
    return draws(dsa.sample(strategy, task.classes, 1, task.spec.image_shape[1:], task.generator), task.classes)
