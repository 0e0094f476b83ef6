"""Multi-formation: each stored image is an f x f grid of small images (IDC; Kim et al., ICML 2022).

The formulas are in docs/methods.md 7.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.containers import Container


def cell_edges(side: int, factor: int) -> list[int]:
    """Return the factor + 1 borders of the grid cells along a side of so many pixels; the last cell may be smaller.

    Raises ValueError if a cell would hold no pixel.
    """
    width = -(-side // factor)
    edges = [min(index * width, side) for index in range(factor + 1)]
    if edges[-2] >= side:
        raise ValueError(f"images of {side} pixels cannot be cut into {factor} parts a side")
    return edges


class MultiFormation(Container):
    """`stored` images of each class, pixels in [0, 1]; each holds factor^2 training images.

    Decoding cuts a stored image into factor x factor cells (padded with 0.5 at the right and bottom if the sides do not
    divide) and enlarges each to full size, bilinearly. Within a class, images are ordered by their position in the
    grid, row by row, and images of one position by their stored image.
    """

    kind = "multi-formation"

    def __init__(self, classes: int, stored: int, image_shape: list[int], factor: int) -> None:
        super().__init__(classes, stored * factor**2, "raw")
        self.stored, self.factor, self.image_shape = stored, factor, tuple(image_shape)
        for side in self.image_shape[1:]:
            cell_edges(side, factor)
        self.pixels = nn.Parameter(torch.empty(classes * stored, *self.image_shape))

    @classmethod
    def of(cls, images_KMCHW: Tensor, factor: int) -> MultiFormation:
        """Return a container, on the images' device, that stores them as they are, raw pixels in [0, 1]."""
        classes, stored, *shape = images_KMCHW.shape
        container = cls(classes, stored, shape, factor).to(images_KMCHW.device, images_KMCHW.dtype)
        container.pixels.data.copy_(images_KMCHW.flatten(0, 1))
        return container

    @classmethod
    def tiled(cls, images_KMCHW: Tensor, factor: int) -> MultiFormation:
        """Return a container whose cells show the given images: M = stored * factor^2 images per class, in decoding
        order, each reduced to its cell by the nearest pixel."""
        classes, per_class, _, rows, columns = images_KMCHW.shape
        canvases = torch.empty_like(images_KMCHW[:, : per_class // factor**2])
        positions = images_KMCHW.unflatten(1, (factor, factor, -1))
        y, x = cell_edges(rows, factor), cell_edges(columns, factor)
        for row in range(factor):
            for column in range(factor):
                cell = canvases[..., y[row] : y[row + 1], x[column] : x[column + 1]]
                small = F.interpolate(positions[:, row, column].flatten(0, 1), cell.shape[-2:])
                cell.copy_(small.unflatten(0, (classes, -1)))
        return cls.of(canvases, factor)

    def config(self) -> dict[str, Any]:
        shape = list(self.image_shape)
        return {"classes": self.classes, "stored": self.stored, "image_shape": shape, "factor": self.factor}

    def images(self, indices: Tensor | None = None) -> Tensor:
        cells = self._cells()
        cells = cells if indices is None else cells[indices]
        if self.factor == 1:
            return cells
        return F.interpolate(cells, self.image_shape[1:], mode="bilinear", align_corners=False)

    def _cells(self) -> Tensor:
        """Return the cells of all stored images [num_images, C, ceil(H / f), ceil(W / f)] in decoding order."""
        factor, (channels, rows, columns) = self.factor, self.image_shape
        if factor == 1:
            return self.pixels
        padded = F.pad(self.pixels, (0, -columns % factor, 0, -rows % factor), value=0.5)
        grid = padded.view(
            self.classes, self.stored, channels, factor, padded.shape[2] // factor, factor, padded.shape[3] // factor
        )
        return grid.permute(0, 3, 5, 1, 2, 4, 6).flatten(0, 3)

    @torch.no_grad()
    def project_(self) -> None:
        self.pixels.clamp_(0, 1)
