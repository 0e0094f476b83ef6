"""ResNet18 for CIFAR-sized images (He et al. 2016): 3x3 stem without pooling, instance norm."""

from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.networks.base import ImageShape, Network, can_halve, instance_norm, map_size, stem_padding


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, projected where the shape changes."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.norm1 = instance_norm(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.norm2 = instance_norm(channels_out)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), instance_norm(channels_out)
            )

    def forward(self, maps: Tensor) -> Tensor:
        residual = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(maps)))))
        return F.relu(residual + self.shortcut(maps))


class ResNet18(Network):
    """Four stages of two blocks, widths width * (1, 2, 4, 8). Embedding: the mean of the last map."""

    def __init__(self, image_shape: ImageShape, classes: int, width: int = 64) -> None:
        super().__init__()
        channels, side = width, min(map_size(image_shape))
        padding = stem_padding(image_shape, 3)
        body: list[nn.Module] = [
            nn.Conv2d(image_shape[0], width, 3, padding=padding, bias=False),
            instance_norm(width),
            nn.ReLU(),
        ]
        for stage in range(4):
            stride = 2 if stage and can_halve(side) else 1
            channels_out = width << stage
            body += [BasicBlock(channels, channels_out, stride), BasicBlock(channels_out, channels_out, 1)]
            channels, side = channels_out, side // stride
        self.body = nn.Sequential(*body)
        self.classifier = nn.Linear(channels, classes)

    def features(self, images_NCHW: Tensor) -> Tensor:
        return self.body(images_NCHW).mean((2, 3))
