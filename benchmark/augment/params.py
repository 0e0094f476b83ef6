"""The one augmentation kernel: each image has its row of parameters, all rows are applied in one pass.

DSA (DC family) and IDC's DiffAug differ only in how rows are drawn (`dsa`, `diffaug`); what a row does is
defined here, after docs/methods.md 1.3. Parameters are tensors on the device, so a pass has no host synchronisation,
no random numbers and no data-dependent shape: it can be compiled or replayed as part of a CUDA graph.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Params:
    """Augmentation of R images, or of any number of images alike where R = 1.

    colour: (R, 3) float; brightness to add, saturation factor, contrast factor, in this order. No change is
        0 1 1.
    affine: (R, 2, 3) float; where each output pixel reads its input, rows (x, y) as in `affine_grid`. The 2x2
        part acts on coordinates in [-1, 1], the last column is a shift in pixels: a crop by whole pixels must
        be one under both conventions of align_corners.
    box: (R, 4) int64; top, bottom, left, right of the cut-out, half-open, possibly beyond the image. No cut
        is 0 0 0 0.
    """

    colour: Tensor
    affine: Tensor
    box: Tensor

    @classmethod
    def identity(cls, rows: int, device: torch.device | str = "cpu") -> "Params":
        """Rows that leave images bit-identical."""
        colour = torch.ones(rows, 3, device=device)
        colour[:, 0] = 0
        affine = torch.eye(2, 3, device=device).repeat(rows, 1, 1)
        return cls(colour, affine, torch.zeros(rows, 4, dtype=torch.int64, device=device))

    def __len__(self) -> int:
        return len(self.colour)

    @property
    def warped(self) -> Tensor:
        """(R,) bool: rows that need resampling."""
        return (self.affine != torch.eye(2, 3, device=self.affine.device)).flatten(1).any(1)

    def take(self, index: Tensor) -> "Params":
        """Rows at an int64 index (N,): `take(class_of_image)` spreads one draw per class over its images."""
        return Params(self.colour[index], self.affine[index], self.box[index])

    def to(self, device: torch.device | str) -> "Params":
        return Params(self.colour.to(device), self.affine.to(device), self.box.to(device))


def apply(images_NCHW: Tensor, params: Params, align_corners: bool = False) -> Tensor:
    """Augmented images (N, C, H, W), same dtype: colour, then the warp, then the cut-out.

    Images are normalised or whitened and of any range; zero fills what a warp or a cut-out leaves empty.
    `params` holds N rows or one. What a row does not change stays bit-identical. Differentiable once with
    respect to the images. align_corners is that of `grid_sample`: False for DSA, DM, CAFE, IDC, LinBa; True
    for MTT and HaBa (docs/methods.md 1.3).
    """
    if len(params) not in (1, len(images_NCHW)):
        raise ValueError(f"{len(params)} rows of augmentation parameters for {len(images_NCHW)} images")
    # bfloat16 has 8 bits: its sampling coordinates would be off by up to a tenth of a pixel.
    images = images_NCHW.to(torch.promote_types(images_NCHW.dtype, torch.float32))
    return _cut_out(_warp(_colour(images, params), params, align_corners), params).to(images_NCHW.dtype)


def _per_image(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def _colour(images: Tensor, params: Params) -> Tensor:
    add, saturation, contrast = (_per_image(column) for column in params.colour.to(images.dtype).unbind(1))
    # The three steps multiplied out, two passes over the images in place of eight: saturation leaves the mean
    # of an image as it is, so contrast turns around mean + add. With 0 1 1 this is images * 1 + 0, exactly.
    grey = images.mean(1, keepdim=True)
    mean = grey.mean((2, 3), keepdim=True)
    offset = grey * (contrast - saturation * contrast) + (mean - mean * contrast + add)
    return torch.addcmul(offset, images, saturation * contrast)


def _warp(images: Tensor, params: Params, align_corners: bool) -> Tensor:
    rows, columns = images.shape[2:]
    span_y, span_x = (max(1, side - 1) if align_corners else side for side in (rows, columns))
    y = torch.arange(1 - rows, rows, 2, device=images.device, dtype=images.dtype).view(1, -1, 1) / span_y
    x = torch.arange(1 - columns, columns, 2, device=images.device, dtype=images.dtype).view(1, 1, -1) / span_x
    # Not by `affine_grid`: its matrix product would round coordinates to TF32, or to bfloat16 under autocast.
    xx, xy, shift_x, yx, yy, shift_y = params.affine.to(images.dtype).view(-1, 6, 1, 1).unbind(1)
    grid_x = (xx * x + shift_x * (2 / span_x)) + xy * y
    grid_y = (yx * x + shift_y * (2 / span_y)) + yy * y
    grid = torch.stack([grid_x, grid_y], -1).expand(len(images), -1, -1, -1)
    sampled = F.grid_sample(images, grid, "bilinear", "zeros", align_corners)
    return torch.where(_per_image(params.warped), sampled, images)


def _cut_out(images: Tensor, params: Params) -> Tensor:
    return images.masked_fill(inside(params.box, images.shape[2], images.shape[3]), 0)


def inside(box: Tensor, rows: int, columns: int) -> Tensor:
    """(R, 1, rows, columns) bool: the pixels in each of R boxes (R, 4) of top, bottom, left, right."""
    top, bottom, left, right = (_per_image(edge) for edge in box.unbind(1))
    y = torch.arange(rows, device=box.device).view(1, 1, -1, 1)
    x = torch.arange(columns, device=box.device).view(1, 1, 1, -1)
    return ((top <= y) & (y < bottom)) & ((left <= x) & (x < right))
