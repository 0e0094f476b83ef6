"""What every network of the suite has in common: features and classifier, and the rules for small images.

All networks normalise with instance norm, literally GroupNorm with one group per channel (docs/methods.md 1.2): no
running statistics and no dropout, so train and eval mode agree and `torch.func.vmap` over stacked parameters
is exact. Instance norm of a 1x1 map is identically its bias, which would cut the network in two. The suite
therefore never normalises such a map: a stage halves its map only where that leaves at least 2x2
(`can_halve`). At 32x32 nothing changes; at 8x8 the last stages keep their 2x2 maps. One rule for all networks
beats a second norm layer for small images only.
"""

from torch import Tensor, nn

ImageShape = tuple[int, int, int]


class Network(nn.Module):
    """A classifier that exposes its embedding. Sub-classes define `features` and set `classifier`."""

    classifier: nn.Linear

    def features(self, images_NCHW: Tensor) -> Tensor:
        """Embedding (N, D): the flattened last map, the input of the classifier."""
        raise NotImplementedError

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Logits (N, classes)."""
        return self.classifier(self.features(images_NCHW))


def detached(network: nn.Module) -> dict[str, Tensor]:
    """A network's own parameters by name, outside any graph: what is written to them moves the network."""
    return {name: parameter.detach() for name, parameter in network.named_parameters()}


def instance_norm(channels: int) -> nn.GroupNorm:
    """Affine norm with one group per channel."""
    return nn.GroupNorm(channels, channels)


def can_halve(side: int) -> bool:
    """Whether a map of this side may be halved before another norm layer."""
    return side >= 4


def stem_padding(image_shape: ImageShape, kernel: int) -> int:
    """Padding of the first convolution: size-preserving, except that 28x28x1 images become 32x32 maps.

    The authors' networks pad every one-channel image so and assume 28x28 (docs/methods.md 1.2); here only those grow.
    """
    return kernel // 2 + (2 if tuple(image_shape) == (1, 28, 28) else 0)


def map_size(image_shape: ImageShape) -> tuple[int, int]:
    """Rows and columns of the map behind the first convolution, before any pooling or stride."""
    grown = 2 * stem_padding(image_shape, kernel=1)
    return image_shape[1] + grown, image_shape[2] + grown
