"""The ConvNet of the literature from library layers, and gradients of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from benchmark.networks.convnet import ConvNet

Step = Callable[[], Any]
"""Does a unit of work once."""


class PlainConvNet(nn.Module):
    """The ConvNet of the literature from library layers, with the widths of a network of the suite. Its parameters come
    in the same order, so that one generator initialises both alike."""

    def __init__(self, twin: ConvNet) -> None:
        super().__init__()
        convolutions = [block.conv for block in twin.blocks]
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(c.in_channels, c.out_channels, c.kernel_size, padding=c.padding),
                nn.GroupNorm(c.out_channels, c.out_channels),
                nn.ReLU(inplace=True),
            )
            for c in convolutions
        )
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
    """Of the cross-entropy of one class's images in all parameters."""
    labels = torch.full((len(images_NCHW),), label, device=images_NCHW.device)
    loss = F.cross_entropy(network(images_NCHW), labels)
    found = torch.autograd.grad(loss, list(network.parameters()), create_graph=graph)
    return list(found) if graph else [gradient.detach().clone() for gradient in found]


def descend(loss: Tensor, optimiser: Optimizer) -> Tensor:
    """One step of the images on a loss."""
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return loss.detach()
