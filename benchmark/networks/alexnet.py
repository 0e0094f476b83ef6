"""AlexNet for CIFAR-sized images: five convolutions and one linear layer, as the DC family evaluates it.

Differences from Krizhevsky et al. 2012: small kernels, stride 1, no hidden linear layers, no dropout, and an
instance norm behind every convolution so that it trains under the suite's one recipe.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.networks.base import ImageShape, Network, can_halve, instance_norm, map_size, stem_padding

# (channels in units of width / 2, kernel, max-pool behind it); width 128 gives 128 192 256 192 192.
LAYERS = ((2, 5, True), (3, 5, True), (4, 3, False), (3, 3, False), (3, 3, True))
LAST_SIDE = 4


class AlexNet(Network):
    """Embedding: the last map, averaged down to about 4x4 where it is twice that or more, flattened."""

    def __init__(self, image_shape: ImageShape, classes: int, width: int = 128) -> None:
        super().__init__()
        channels, (rows, columns) = image_shape[0], map_size(image_shape)
        layers: list[nn.Module] = []
        for index, (units, kernel, pool) in enumerate(LAYERS):
            channels_out = units * width // 2
            padding = kernel // 2 if index else stem_padding(image_shape, kernel)
            convolution = nn.Conv2d(channels, channels_out, kernel, padding=padding)
            layers += [convolution, instance_norm(channels_out), nn.ReLU()]
            channels = channels_out
            if pool and can_halve(min(rows, columns)):
                layers.append(nn.MaxPool2d(2))
                rows, columns = rows // 2, columns // 2
        self.body = nn.Sequential(*layers)
        # A plain average pool: unlike the adaptive one its backward pass is deterministic on CUDA.
        self.last_pool = max(1, min(rows, columns) // LAST_SIDE)
        embedding = channels * (rows // self.last_pool) * (columns // self.last_pool)
        self.classifier = nn.Linear(embedding, classes)

    def features(self, images_NCHW: Tensor) -> Tensor:
        return F.avg_pool2d(self.body(images_NCHW), self.last_pool).flatten(1)
