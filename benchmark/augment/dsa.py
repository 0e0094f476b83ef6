"""Drawing DSA parameters as DSA, DM, CAFE+DSA, MTT, HaBa and the unified evaluation do (docs/methods.md 1.3).

Zhao & Bilen, "Dataset Condensation with Differentiable Siamese Augmentation", ICML 2021. One operation of the
strategy is drawn per call and everything else is left alone; docs/methods.md 14, rows 1, 2 and 7, says where the
draws differ from the authors' code (explicit generator, no re-seeding).
"""

import torch

from benchmark.augment.operations import Generators, Size, choose, colour, cutout, draw_per_call, each, parse, uniforms
from benchmark.augment.params import Params

UNIFORMS_PER_ROW = 3


def strategy_for(flip: bool) -> str:
    """The full strategy, or that of digits (SVHN, MNIST, 8x8), where a mirrored image is another thing."""
    return "color_crop_cutout_flip_scale_rotate" if flip else "color_crop_cutout_scale_rotate"


def sample(strategy: str, calls: int, rows: int, size: Size, generator: Generators) -> Params:
    """calls * rows rows, call by call, on the generator's device; as many after another from each of several.

    Each call draws one operation uniformly from the strategy, for all of its rows; each row draws its own
    values. Network training: calls=1, rows=batch. Siamese matching: calls=classes, rows=1, then
    `take(class_of_image)` on both sides, so that the draw cannot depend on how many images a class has.
    `size` is (rows, columns) of the image; the formulas are applied per side. Empty strategies ('' or 'none')
    give identity rows. Raises ValueError for an unknown operation.
    """
    names = parse(strategy)
    generators = each(generator)
    params = Params.identity(len(generators) * calls * rows, generators[0].device)
    if not names:
        return params
    chosen = draw_per_call(len(names), calls, rows, generators)
    # Only one operation is active in a row, so all of them read the same uniforms.
    u = uniforms(calls * rows, UNIFORMS_PER_ROW, generators)
    colours, box = params.colour, params.box
    if "color" in names:
        colours = torch.where((chosen == names.index("color"))[:, None], colour(u), colours)
    if "cutout" in names:
        box = torch.where((chosen == names.index("cutout"))[:, None], cutout(u[:, :2], size), box)
    return Params(colours, choose(u[:, :2], names, chosen, size), box)
