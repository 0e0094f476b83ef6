"""Drawing augmentation parameters as IDC does (docs/methods.md 1.4): the same formulas as DSA, composed differently.

Kim et al., "Dataset Condensation via Efficient Synthetic-Data Parameterization", ICML 2022. Flip, colour and
cut-out are always on where listed; of crop, scale and rotate one is drawn per call. The order is flip,
colour, drawn operation, cut-out. Mirroring commutes with colour, so flip and drawn operation are one affine
map.
"""

import torch

from benchmark.augment.operations import (
    Generators,
    Size,
    choose,
    colour,
    cutout,
    draw_per_call,
    each,
    flipped,
    parse,
    uniforms,
)
from benchmark.augment.params import Params

DRAWN = ("crop", "scale", "rotate")
UNIFORMS_PER_ROW = 8


def sample(strategy: str, rows: int, size: Size, generator: Generators, shared: bool = False, calls: int = 1) -> Params:
    """calls * rows rows, call by call, on the generator's device; calls * 1 rows where `shared`. As many after another
    from each of several generators.

    shared=True is IDC's batch=True: one row for the whole batch, real and synthetic images alike.
    calls=classes with shared=True then `take(class_of_image)` serves all classes in one pass. `size` is
    (rows, columns) of the image; the formulas are applied per side. Empty strategies ('' or 'none') give
    identity rows. Raises ValueError for an unknown operation.
    """
    names = parse(strategy)
    rows = 1 if shared else rows
    generators = each(generator)
    params = Params.identity(len(generators) * calls * rows, generators[0].device)
    u = uniforms(calls * rows, UNIFORMS_PER_ROW, generators)
    colours, affine, box = params.colour, params.affine, params.box
    drawn = tuple(name for name in names if name in DRAWN)
    if drawn:
        chosen = draw_per_call(len(drawn), calls, rows, generators)
        affine = choose(u[:, :2], drawn, chosen, size)
    if "flip" in names:
        # The flip comes first, so it mirrors the x coordinate that the drawn operation reads from.
        mirrored = torch.stack([-affine[:, 0], affine[:, 1]], 1)
        affine = torch.where(flipped(u[:, 2]).view(-1, 1, 1), mirrored, affine)
    if "color" in names:
        colours = colour(u[:, 3:6])
    if "cutout" in names:
        box = cutout(u[:, 6:8], size)
    return Params(colours, affine, box)
