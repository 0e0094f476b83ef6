"""How large the memories of a hierarchical container are, and how many images a budget then holds.

The formulas are those of docs/methods.md 10:

    shared = d m^2 + C k m^2 + C (d k + k) + decoder;   per = C n m^2;   images = floor((budget - shared) / per)

Channel counts are listed by (image shape, classes, IPC), and a rule gives all others. All of them are this suite's
choice: the paper's are not public.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from benchmark.containers.hierarchical import map_sides


@dataclass(frozen=True)
class Layout:
    """d, k, n of the three tiers and the widths between the decoder's layers."""

    dataset_channels: int
    class_channels: int
    instance_channels: int
    hidden: tuple[int, ...]

    def map_floats(self, image_shape: Sequence[int]) -> int:
        rows, columns = map_sides(image_shape, len(self.hidden) + 1)
        return rows * columns

    def shared_floats(self, classes: int, image_shape: Sequence[int]) -> int:
        """Return the floats of everything but the instance memories."""
        d, k, area = self.dataset_channels, self.class_channels, self.map_floats(image_shape)
        widths = (2 * k + self.instance_channels, *self.hidden, image_shape[0])
        decoder = sum(16 * before * after + after for before, after in pairwise(widths))
        return d * area + classes * k * area + classes * (d * k + k) + decoder

    def image_floats(self, classes: int, image_shape: Sequence[int]) -> int:
        """Return the floats of one more image in every class."""
        return classes * self.instance_channels * self.map_floats(image_shape)

    def images_per_class(self, floats: int, classes: int, image_shape: Sequence[int]) -> int:
        """Return how many images of each class `floats` hold beside the shared part; negative if not even that fits."""
        return (floats - self.shared_floats(classes, image_shape)) // self.image_floats(classes, image_shape)

    def floats(self, per_class: int, classes: int, image_shape: Sequence[int]) -> int:
        return self.shared_floats(classes, image_shape) + per_class * self.image_floats(classes, image_shape)


SMALL, LARGE = (5, 3), (50, 30)
LISTED: dict[tuple[tuple[int, int, int], int, int], Layout] = {
    ((3, 32, 32), 10, 1): Layout(*SMALL, 2, (10, 6)),
    ((3, 32, 32), 10, 10): Layout(*LARGE, 6, (16, 8)),
    ((3, 32, 32), 10, 50): Layout(*LARGE, 8, (16, 8)),
    ((3, 32, 32), 100, 1): Layout(*SMALL, 2, (10, 6)),
    ((3, 32, 32), 100, 10): Layout(*LARGE, 8, (16, 8)),
    ((3, 32, 32), 100, 50): Layout(*LARGE, 14, (16, 8)),
    ((3, 64, 64), 200, 1): Layout(*SMALL, 2, (10, 6)),
    ((3, 64, 64), 200, 10): Layout(*LARGE, 8, (16, 8)),
    ((3, 64, 64), 200, 50): Layout(*LARGE, 14, (16, 8)),
    ((1, 28, 28), 10, 1): Layout(3, 2, 1, (6, 4)),
    ((1, 28, 28), 10, 10): Layout(10, 6, 2, (10, 6)),
    ((1, 28, 28), 10, 50): Layout(20, 12, 3, (16, 8)),
    ((1, 8, 8), 10, 1): Layout(2, 1, 1, (2,)),
    ((1, 8, 8), 10, 10): Layout(8, 4, 2, (4,)),
    ((1, 8, 8), 10, 50): Layout(8, 4, 4, (8,)),
}
"""Layouts by (image shape, classes, IPC)."""

TIERS = (
    (2, 1, (2, 2)),
    (3, 2, (6, 4)),
    (5, 3, (10, 6)),
    (10, 6, (10, 6)),
    (20, 12, (16, 8)),
    (50, 30, (16, 8)),
)
"""d, k, hidden widths for three doublings; for two doublings the last hidden width alone."""

DENSITY = ((10, 1), (50, 3))
"""Floats of an image's own memory per hundred pixel values: 1 below IPC 10, 3 below 50, then 5."""


def layout_for(classes: int, image_shape: Sequence[int], ipc: int) -> Layout:
    """Return the listed layout. If there is none, return the largest tier whose shared floats are at most a fifth of
    the budget (the smallest tier if none is), with instance channels in proportion to the pixels."""
    channels, height, width = image_shape
    listed = LISTED.get(((channels, height, width), classes, ipc))
    if listed:
        return listed
    doublings = 3 if max(height, width) > 16 else 2
    rows, columns = map_sides(image_shape, doublings)
    pixels, area = channels * height * width, rows * columns
    percent = next((share for below, share in DENSITY if ipc < below), 5)
    instance = max(1, (2 * percent * pixels + 100 * area) // (200 * area))  # rounded, the half upwards
    layouts = [Layout(d, k, instance, hidden[-(doublings - 1) :]) for d, k, hidden in TIERS]
    budget = ipc * classes * pixels
    fitting = [layout for layout in layouts if 5 * layout.shared_floats(classes, image_shape) <= budget]
    return fitting[-1] if fitting else layouts[0]
