"""preview.png: a sheet of the condensed images, class by class, as they would look to a person."""

from __future__ import annotations

import io
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.containers import Container
from benchmark.data import Split
from benchmark.system.files import write_atomically

ROWS, COLUMNS, SIDE = 20, 10, 48


def viewable(images_NCHW: Tensor, container: Container, split: Split) -> Tensor:
    """Return pixels in [0,1]: raw ones are clamped, normalised and whitened ones are brought back to pixels first."""
    return split.to_raw(images_NCHW, container.space, container.whitening).clamp(0, 1)


@torch.no_grad()
def write_preview(path: Path, container: Container, split: Split) -> None:
    """Write up to 20 classes and the first 10 images of each; small images are enlarged without smoothing.

    A class is a row, or several classes share one if they have few images.
    """
    from torchvision.utils import make_grid, save_image  # seconds to import, which --list and --plan do without

    labels = container.labels
    classes = range(min(split.classes, ROWS))
    rows = [(labels == c).nonzero().flatten()[:COLUMNS] for c in classes]
    columns = min(len(row) for row in rows if len(row))
    shown = torch.cat([row[:columns] for row in rows])
    images = viewable(container.images(shown), container, split)
    scale = max(1, SIDE // max(images.shape[-2:]))
    enlarged, side_by_side = F.interpolate(images, scale_factor=scale), columns * max(1, COLUMNS // columns)
    sheet = make_grid(enlarged, nrow=side_by_side, padding=2, pad_value=1.0)
    buffer = io.BytesIO()
    save_image(sheet, buffer, format="png")
    write_atomically(path, buffer.getvalue())
