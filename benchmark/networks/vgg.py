"""VGG11 and VGG16 for CIFAR-sized images (Simonyan & Zisserman 2015): instance norm, one linear layer."""

from torch import Tensor, nn

from benchmark.networks.base import ImageShape, Network, can_halve, instance_norm, map_size, stem_padding

# Convolutions per stage; stage widths are width * (1, 2, 4, 8, 8).
CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 16: (2, 2, 3, 3, 3)}
WIDENING = (1, 2, 4, 8, 8)


class VGG(Network):
    """Five stages of 3x3 convolutions and 2x2 max-pooling. Embedding: the mean of the last map."""

    def __init__(self, image_shape: ImageShape, classes: int, width: int = 64, *, layers: int) -> None:
        super().__init__()
        channels, side = image_shape[0], min(map_size(image_shape))
        padding = stem_padding(image_shape, 3)
        body: list[nn.Module] = []
        for stage, convolutions in enumerate(CONVOLUTIONS[layers]):
            if stage and can_halve(side):
                body.append(nn.MaxPool2d(2))
                side //= 2
            channels_out = width * WIDENING[stage]
            for _ in range(convolutions):
                body += [
                    nn.Conv2d(channels, channels_out, 3, padding=padding),
                    instance_norm(channels_out),
                    nn.ReLU(),
                ]
                channels, padding = channels_out, 1
        # No norm follows the last pooling, so it may reach 1x1.
        body.append(nn.MaxPool2d(2))
        self.body = nn.Sequential(*body)
        self.classifier = nn.Linear(channels, classes)

    def features(self, images_NCHW: Tensor) -> Tensor:
        return self.body(images_NCHW).mean((2, 3))
