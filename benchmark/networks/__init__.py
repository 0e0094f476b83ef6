"""The networks condensed sets are matched on, trained on and transferred to. All are built by name."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from benchmark.networks.alexnet import AlexNet
from benchmark.networks.base import ImageShape, Network, detached
from benchmark.networks.convnet import ConvNet, matching_depth
from benchmark.networks.densenet import DenseNet121
from benchmark.networks.initialise import initialise_
from benchmark.networks.resnet import ResNet18
from benchmark.networks.vgg import VGG
from benchmark.system.wording import nearest

__all__ = [
    "MATCHED_COST",
    "NAMES",
    "TRAINED_COST",
    "Network",
    "build",
    "build_matching",
    "describe",
    "detached",
    "flops_per_image",
    "initialise_",
]


@dataclass(frozen=True)
class _Entry:
    make: Callable[..., Network]
    line: str


_NETWORKS = {
    "convnet": _Entry(ConvNet, "3 conv blocks (4 at 64x64), width 128, instance norm, average pooling: the default"),
    "alexnet": _Entry(AlexNet, "5 convolutions, max pooling, instance norm, one linear layer"),
    "vgg11": _Entry(partial(VGG, layers=11), "8 convolutions in 5 stages, instance norm, one linear layer"),
    "vgg16": _Entry(partial(VGG, layers=16), "13 convolutions in 5 stages, instance norm, one linear layer"),
    "resnet18": _Entry(ResNet18, "4 stages of 2 residual blocks, 3x3 stem, instance norm"),
    "densenet121": _Entry(DenseNet121, "4 dense blocks of 6, 12, 24, 16 layers, growth 32, 3x3 stem, instance norm"),
}
NAMES = tuple(_NETWORKS)
SMALLEST_SIDE = 4

TRAINED_COST = 3.0
"""The cost of a training step, forward and backward, in forward passes."""

MATCHED_COST = 7.0
"""The cost, in forward passes, of an image whose gradient is matched: forward, backward with a graph, and backward
through both to the pixels (710 against 101.5 MFLOP for a 32x32 image)."""


def _entry(name: str) -> _Entry:
    if name not in _NETWORKS:
        raise ValueError(f"unknown network {name!r}{nearest(name, NAMES)}")
    return _NETWORKS[name]


def describe(name: str) -> str:
    """One line about the network, for `--list`."""
    return _entry(name).line


def build(
    name: str, image_shape: ImageShape, classes: int, width: int | None = None, depth: int | None = None
) -> Network:
    """A network on the CPU, initialised from the global stream; call `initialise_` for a seeded one.

    `image_shape` is (channels, height, width) in pixels, both sides at least 4. `width` is the number of
    channels the network's own widths scale with (ConvNet 128, AlexNet 128, VGG and ResNet 64, DenseNet growth
    32). `depth` is the number of blocks of a ConvNet, by default `convnet.default_depth`. Raises ValueError
    for an unknown name, an image that is too small, or a depth where it has no meaning or no room.
    """
    make = _entry(name).make
    if min(image_shape[1:]) < SMALLEST_SIDE:
        raise ValueError(f"images of {image_shape[1]}x{image_shape[2]} are too small: both sides must be 4 or more")
    if depth is not None and name != "convnet":
        raise ValueError(f"{name} has a fixed depth; only convnet takes one")
    options = {"width": width, "depth": depth}
    return make(image_shape, classes, **{key: value for key, value in options.items() if value is not None})


def build_matching(image_shape: ImageShape, classes: int) -> Network:
    """The ConvNet that images are condensed on: the default one, or a shallower one where images are tiny (see
    `convnet.matching_depth`). Condensed sets are scored on the default one either way."""
    return build("convnet", image_shape, classes, depth=matching_depth(image_shape))


def flops_per_image(network: torch.nn.Module, image_shape: ImageShape) -> int:
    """Floating-point operations of one forward pass: two per multiply-add of convolutions and linear layers.

    Counted on the meta device, so nothing is computed and the network stays where and as it is.
    """
    parameters = {name: tensor.detach().to("meta") for name, tensor in network.named_parameters()}
    image = torch.empty(1, *image_shape, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        functional_call(network, parameters, (image,))
    return counter.get_total_flops()
