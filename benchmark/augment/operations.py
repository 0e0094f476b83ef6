"""From uniform random numbers to augmentation parameters: the formulas of docs/methods.md 1.3 over all rows at once.

u is always uniform in [0, 1), one row per image. A size is (rows, columns) in pixels; where the formulas say
"size", each side uses its own.
"""

from collections.abc import Sequence
from math import pi

import torch
from torch import Tensor

from benchmark.system.wording import nearest

BRIGHTNESS = 1.0
SATURATION = 2.0
CONTRAST = 0.5
CROP = 0.125
CUTOUT = 0.5
FLIP = 0.5
SCALE = 1.2
ROTATE = 15 * pi / 180

Size = tuple[int, int]


def colour(u_R3: Tensor) -> Tensor:
    """(R, 3): brightness in [-1/2, 1/2), saturation factor in [0, 2), contrast factor in [1/2, 3/2)."""
    brightness, saturation, contrast = u_R3.unbind(1)
    return torch.stack([(brightness - 0.5) * BRIGHTNESS, saturation * SATURATION, contrast + CONTRAST], 1)


def crop(u_R2: Tensor, size: Size) -> Tensor:
    """(R, 2, 3): a shift by whole pixels in [-s, s], s an eighth of the side, rounded."""
    shift_y, shift_x = (_integers(u, 2 * reach + 1) - reach for u, reach in zip(u_R2.unbind(1), _parts(size, CROP)))
    return affine(shift_x=shift_x.to(u_R2.dtype), shift_y=shift_y.to(u_R2.dtype))


def flip(u_R2: Tensor, size: Size) -> Tensor:
    """(R, 2, 3): mirrored left to right with probability 1/2. The second column of u is not used."""
    return affine(xx=1 - 2 * flipped(u_R2[:, 0]).to(u_R2.dtype))


def flipped(u_R: Tensor) -> Tensor:
    """(R,) bool: which rows are mirrored."""
    return u_R < FLIP


def scale(u_R2: Tensor, size: Size) -> Tensor:
    """(R, 2, 3): independent factors in [1/1.2, 1.2) for x and y. Above 1 the image shrinks."""
    factors = 1 / SCALE + u_R2 * (SCALE - 1 / SCALE)
    return affine(xx=factors[:, 0], yy=factors[:, 1])


def rotate(u_R2: Tensor, size: Size) -> Tensor:
    """(R, 2, 3): an angle in [-15, 15) degrees. The second column of u is not used."""
    return rotation((2 * u_R2[:, 0] - 1) * ROTATE)


def rotation(angle_R: Tensor) -> Tensor:
    """(R, 2, 3) from angles in radians, in [-1, 1] coordinates: a true rotation of square images only."""
    return affine(xx=angle_R.cos(), xy=-angle_R.sin(), yx=angle_R.sin(), yy=angle_R.cos())


GEOMETRIC = {"crop": crop, "flip": flip, "scale": scale, "rotate": rotate}
NAMES = ("color", "cutout", *GEOMETRIC)


def affine(
    xx: Tensor | float = 1.0,
    xy: Tensor | float = 0.0,
    shift_x: Tensor | float = 0.0,
    yx: Tensor | float = 0.0,
    yy: Tensor | float = 1.0,
    shift_y: Tensor | float = 0.0,
) -> Tensor:
    """(R, 2, 3) as in `Params.affine`, from tensors (R,) or numbers; at least one is a tensor."""
    entries = (xx, xy, shift_x, yx, yy, shift_y)
    like = next(entry for entry in entries if isinstance(entry, Tensor))
    columns = [entry if isinstance(entry, Tensor) else torch.full_like(like, entry) for entry in entries]
    return torch.stack(columns, -1).view(-1, 2, 3)


Generators = torch.Generator | Sequence[torch.Generator]
"""One generator, or several on one device that each draw for their own calls: what one of them gives does not depend on
the others, and the formulas run once for all of them."""


def each(generators: Generators) -> Sequence[torch.Generator]:
    return [generators] if isinstance(generators, torch.Generator) else generators


def draw_per_call(options: int, calls: int, rows: int, generators: Generators) -> Tensor:
    """(generators * calls * rows,) int64: one number below `options` per call, repeated for its rows."""
    chosen = [torch.randint(options, (calls, 1), generator=g, device=g.device) for g in each(generators)]
    return torch.cat(chosen).expand(-1, rows).reshape(-1)


def uniforms(rows: int, columns: int, generators: Generators) -> Tensor:
    """(generators * rows, columns) in [0, 1)."""
    return torch.cat([torch.rand(rows, columns, generator=g, device=g.device) for g in each(generators)])


def choose(u_R2: Tensor, names: tuple[str, ...], chosen_R: Tensor, size: Size) -> Tensor:
    """(R, 2, 3): row r is the operation names[chosen[r]] where that is geometric, else the identity."""
    matrix = torch.eye(2, 3, dtype=u_R2.dtype, device=u_R2.device)
    for index, name in enumerate(names):
        if name in GEOMETRIC:
            matrix = torch.where((chosen_R == index).view(-1, 1, 1), GEOMETRIC[name](u_R2, size), matrix)
    return matrix.expand(len(u_R2), 2, 3)


def cutout(u_R2: Tensor, size: Size) -> Tensor:
    """(R, 4): a box of half the side, rounded, around a random centre; it may reach beyond the image."""
    # An even side k has its centre on a pixel corner, of which there is one more than pixels.
    counts = (side + 1 - part % 2 for side, part in zip(size, _parts(size, CUTOUT)))
    centre_y, centre_x = (_integers(u, count) for u, count in zip(u_R2.unbind(1), counts))
    return box_around(centre_y, centre_x, size)


def box_around(centre_row_R: Tensor, centre_column_R: Tensor, size: Size) -> Tensor:
    """(R, 4): the cut-out box of `Params.box` around whole-pixel centres."""
    height, width = _parts(size, CUTOUT)
    top, left = centre_row_R - height // 2, centre_column_R - width // 2
    return torch.stack([top, top + height, left, left + width], -1)


def parse(strategy: str) -> tuple[str, ...]:
    """The operations of a strategy string such as color_crop_cutout; none for '' and 'none'.

    Raises ValueError for an unknown operation, naming the nearest, and for one listed twice.
    """
    names = () if strategy in ("", "none") else tuple(strategy.split("_"))
    for name in names:
        if name not in NAMES:
            raise ValueError(f"unknown augmentation {name!r} in {strategy!r}{nearest(name, NAMES)}")
    if len(set(names)) < len(names):
        raise ValueError(f"an augmentation is listed twice in {strategy!r}")
    return names


def _parts(size: Size, ratio: float) -> tuple[int, int]:
    return int(size[0] * ratio + 0.5), int(size[1] * ratio + 0.5)


def _integers(u: Tensor, count: int) -> Tensor:
    # The product may round up to `count` itself.
    return (u * count).long().clamp(max=count - 1)
