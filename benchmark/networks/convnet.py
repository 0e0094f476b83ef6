"""The ConvNet of the condensation literature (docs/methods.md 1.2; DC, ICLR 2021)."""

from math import log2

from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.networks.base import ImageShape, Network, instance_norm, map_size, stem_padding
from benchmark.networks.pooling import average_pool


class Block(nn.Module):
    """Conv3x3 with bias -> instance norm -> ReLU. The network pools: it also needs the map before that."""

    def __init__(self, channels_in: int, channels_out: int, padding: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3, padding=padding)
        self.norm = instance_norm(channels_out)

    def forward(self, maps: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(maps)), inplace=True)  # the norm does not need its output again


class ConvNet(Network):
    """`depth` blocks, each followed by 2x2 average pooling, then one linear layer.

    `parameters()` runs per block conv weight, conv bias, norm weight, norm bias; then classifier weight,
    bias. Raises ValueError when the image is too small for `depth` halvings.
    """

    def __init__(self, image_shape: ImageShape, classes: int, width: int = 128, depth: int | None = None) -> None:
        super().__init__()
        rows, columns = map_size(image_shape)
        deepest = int(log2(min(rows, columns)))
        depth = default_depth(image_shape) if depth is None else depth
        if not 1 <= depth <= deepest:
            raise ValueError(f"a ConvNet for {image_shape} images has a depth of 1 to {deepest}, not {depth}")
        first = Block(image_shape[0], width, stem_padding(image_shape, 3))
        self.blocks = nn.ModuleList([first, *(Block(width, width, padding=1) for _ in range(depth - 1))])
        self.classifier = nn.Linear(width * (rows >> depth) * (columns >> depth), classes)

    def stages(self, images_NCHW: Tensor) -> list[Tensor]:
        """The post-ReLU map of every block before its pooling, and last the pooled map: depth + 1 tensors."""
        maps, pooled = [], images_NCHW
        for block in self.blocks:
            maps.append(block(pooled))
            pooled = average_pool(maps[-1])
        return [*maps, pooled]

    def features(self, images_NCHW: Tensor) -> Tensor:
        return self.stages(images_NCHW)[-1].flatten(1)


def default_depth(image_shape: ImageShape) -> int:
    """Number of blocks: log2(side) - 2 rounded down, where side is the shorter one, and at least 3.

    So 3 up to 32 pixels, 4 at 64, 5 at 128: the last map is 4x4 for powers of two (MTT: "ConvNetD4 for 64x64
    images"). Images of fewer than 8 pixels get as many blocks as they can be halved.
    """
    halvings = int(log2(min(map_size(image_shape))))
    return min(max(3, halvings - 2), halvings)


def matching_depth(image_shape: ImageShape) -> int:
    """Number of blocks of the ConvNet that images are condensed on: the default, or as many as leave the last norm a
    map of at least 4x4.

    So 2 at 8x8, and the default from 16 pixels on. Instance norm over four values divides by a deviation that is often
    nearly zero, and derivatives through it, above all second ones, are noise. DSA on digits at IPC 1, 40 to 60 steps at
    the published rate, accuracy of the default network on a held-out tenth of the training set: 78 % by the real images
    it starts from, 18 % matched at depth 3, 93 % at depth 2.
    """
    shortest = min(map_size(image_shape))
    return max(1, min(default_depth(image_shape), int(log2(shortest)) - 1))
