"""DenseNet121 for CIFAR-sized images (Huang et al. 2017): 3x3 stem, compression 1/2, instance norm."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.networks.base import ImageShape, Network, can_halve, instance_norm, map_size, stem_padding

BLOCKS = (6, 12, 24, 16)
BOTTLENECK = 4


class DenseLayer(nn.Module):
    """norm-ReLU-conv1x1, norm-ReLU-conv3x3; returns its input with `growth` new channels behind it."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.norm1 = instance_norm(channels)
        self.conv1 = nn.Conv2d(channels, BOTTLENECK * growth, 1, bias=False)
        self.norm2 = instance_norm(BOTTLENECK * growth)
        self.conv2 = nn.Conv2d(BOTTLENECK * growth, growth, 3, padding=1, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        new = self.conv2(F.relu(self.norm2(self.conv1(F.relu(self.norm1(maps))))))
        return torch.cat([maps, new], 1)


class DenseNet121(Network):
    """Four dense blocks with growth rate `width`. Embedding: the mean of the last map."""

    def __init__(self, image_shape: ImageShape, classes: int, width: int = 32) -> None:
        super().__init__()
        channels, side = 2 * width, min(map_size(image_shape))
        body: list[nn.Module] = [
            nn.Conv2d(image_shape[0], channels, 3, padding=stem_padding(image_shape, 3), bias=False)
        ]
        for index, layers in enumerate(BLOCKS):
            if index:
                body += [
                    instance_norm(channels),
                    nn.ReLU(),
                    nn.Conv2d(channels, channels // 2, 1, bias=False),
                ]
                channels //= 2
                if can_halve(side):
                    body.append(nn.AvgPool2d(2))
                    side //= 2
            for _ in range(layers):
                body.append(DenseLayer(channels, width))
                channels += width
        self.body = nn.Sequential(*body, instance_norm(channels), nn.ReLU())
        self.classifier = nn.Linear(channels, classes)

    def features(self, images_NCHW: Tensor) -> Tensor:
        return self.body(images_NCHW).mean((2, 3))
