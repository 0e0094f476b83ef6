"""Drawing a fresh network from an explicit generator, distributed as PyTorch initialises by default."""

from typing import TypeVar

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)


@torch.no_grad()
def initialise_(module: Module, generator: torch.Generator) -> Module:
    """Re-draw every parameter in place and return the module.

    Same distribution as PyTorch's defaults: convolutions and linear layers Kaiming-uniform with a = sqrt(5),
    which is U(-1/sqrt(fan_in), 1/sqrt(fan_in)) for weight and bias alike; norm layers 1 and 0. On the CPU a
    network of this package gets the very numbers it would have when built after `torch.manual_seed` with the
    generator's seed. The generator must live on the parameters' device. Raises TypeError for a layer whose
    default is not known here.
    """
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            bound = layer.weight[0].numel() ** -0.5
            for parameter in layer.parameters(recurse=False):
                parameter.uniform_(-bound, bound, generator=generator)
        elif isinstance(layer, nn.GroupNorm):
            layer.reset_parameters()
        elif next(layer.parameters(recurse=False), None) is not None:
            raise TypeError(f"no default initialisation known for {type(layer).__name__}")
    return module
