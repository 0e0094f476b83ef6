"""The ConvNet of the literature from library layers, and gradients of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from benchmark.networks import Network
from benchmark.networks.convnet import Block, ConvNet

Step = Callable[[], Any]
"""Does a unit of work once."""


class PlainConvNet(nn.Module):
    """The ConvNet of the literature, made of library layers, with the widths of a network of the suite. Its parameters
    have the same order, so that one generator initialises both alike."""

    def __init__(self, twin: Network) -> None:
        super().__init__()
        assert isinstance(twin, ConvNet), "only the ConvNet has a plain twin"
        blocks = []
        for block in twin.blocks:
            assert isinstance(block, Block)
            conv: Any = block.conv  # torch types its padding too widely for its own constructor
            convolution = nn.Conv2d(conv.in_channels, conv.out_channels, conv.kernel_size, padding=conv.padding)
            norm = nn.GroupNorm(conv.out_channels, conv.out_channels)
            blocks.append(nn.Sequential(convolution, norm, nn.ReLU(inplace=True)))
        self.blocks = nn.ModuleList(blocks)
        self.pool = nn.AvgPool2d(2)
        self.classifier = nn.Linear(twin.classifier.in_features, twin.classifier.out_features)
        self.to(twin.classifier.weight.device)

    def stages(self, images_NCHW: Tensor) -> list[Tensor]:
        """The map of every block behind its ReLU, then the pooled last map."""
        maps, pooled = [], images_NCHW
        for block in self.blocks:
            maps.append(block(pooled))
            pooled = self.pool(maps[-1])
        return [*maps, pooled]

    def features(self, images_NCHW: Tensor) -> Tensor:
        return self.stages(images_NCHW)[-1].flatten(1)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        return self.classifier(self.features(images_NCHW))


def gradients(network: nn.Module, images_NCHW: Tensor, label: int, graph: bool) -> list[Tensor]:
    """Return the gradients, in all parameters, of the cross-entropy of one class's images."""
    labels = torch.full((len(images_NCHW),), label, device=images_NCHW.device)
    loss = F.cross_entropy(network(images_NCHW), labels)
    found = torch.autograd.grad(loss, list(network.parameters()), create_graph=graph)
    return list(found) if graph else [gradient.detach().clone() for gradient in found]


def descend(loss: Tensor, optimiser: Optimizer) -> Tensor:
    """Take one step of the optimiser on a loss; return the loss without its graph."""
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return loss.detach()
