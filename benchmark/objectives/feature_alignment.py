"""Feature alignment: class means of every layer, and the synthetic means as a classifier (Wang et al., CVPR 2022)."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from benchmark.networks.convnet import ConvNet
from benchmark.objectives import real_parts
from benchmark.training.passes import EAGER, Passes

PIXELS_AT_ONCE = 2**23
"""The most input values in one pass through the network. Larger batches go in parts, and the activations of a part are
computed again in the backward pass."""

EARLY_WEIGHT = 0.1
"""The weight of every block but the last. The last map counts once and the pooled one twice: as a map and flattened."""


class FeatureAlignment:
    """sum_l w_l sum_c | mean_n f_l(real_cn) - mean_m f_l(synthetic_cm) |^2  +  discrimination * sum_cn CE(logits_cn, c)

    f_l are the post-ReLU maps of all blocks and the pooled last map. logits_cn are the inner products of the pooled
    real image with the pooled synthetic means of all classes, so the classes cannot be taken apart. The real side
    carries no gradient. It goes through the network class by class, or many classes in one pass where the passes
    say so.
    """

    separable = False

    def __init__(self, discrimination: float = 0.01) -> None:
        self.discrimination = discrimination

    def __call__(
        self,
        network: ConvNet,
        real_KNCHW: Tensor,
        synthetic_KMCHW: Tensor,
        classes_K: Tensor,
        passes: Passes = EAGER,
    ) -> Tensor:
        align, discriminate = self.parts(network, real_KNCHW, synthetic_KMCHW, passes)
        return align + self.discrimination * discriminate

    def parts(
        self, network: ConvNet, real_KNCHW: Tensor, synthetic_KMCHW: Tensor, passes: Passes = EAGER
    ) -> tuple[Tensor, Tensor]:
        """Return (alignment, discrimination), both summed over classes, the second one unweighted."""
        classes, images = real_KNCHW.shape[:2]
        with torch.no_grad():
            chunk = at_once(real_KNCHW) if passes.batched else 1
            features = passes.forward(means_and_pooled, network)
            found = [in_parts(features, part, passes.microbatch) for part in real_KNCHW.split(chunk)]
            *real, pooled_KNCHW = (torch.cat(parts) for parts in zip(*found, strict=True))
        synthetic = class_means(network, synthetic_KMCHW)
        weights = [*[EARLY_WEIGHT] * (len(real) - 2), 1.0, 2.0]
        distances = (w * (r - s).square().sum() for w, r, s in zip(weights, real, synthetic, strict=True))
        align = cast(Tensor, sum(distances))
        logits = pooled_KNCHW.flatten(2).flatten(0, 1) @ synthetic[-1].flatten(1).T
        targets = torch.arange(classes, device=logits.device).repeat_interleave(images)
        return align, F.cross_entropy(logits, targets, reduction="sum")


def at_once(images_KNCHW: Tensor) -> int:
    """Return how many classes go through the network in one pass."""
    return max(1, PIXELS_AT_ONCE // images_KNCHW[0].numel())


def means_and_pooled(network: ConvNet, images_KNCHW: Tensor) -> tuple[Tensor, ...]:
    """Return the class means of every stage [K, ...], and the pooled map of every image [K, N, ...]."""
    stages = [stage.unflatten(0, images_KNCHW.shape[:2]) for stage in network.stages(images_KNCHW.flatten(0, 1))]
    return *(stage.mean(1) for stage in stages), stages[-1]


def in_parts(
    features: Callable[[Tensor], tuple[Tensor, ...]], images_KNCHW: Tensor, microbatch: int | None
) -> tuple[Tensor, ...]:
    """Return `means_and_pooled`, computed on at most `microbatch` images of a class at a time."""
    means, pooled = [], []
    for part, share in real_parts(images_KNCHW, microbatch, 1):
        *stages, last = features(part)
        means.append([share * stage for stage in stages])
        pooled.append(last)
    return *(sum(stage) for stage in zip(*means, strict=True)), torch.cat(pooled, 1)


def class_means(network: ConvNet, images_KMCHW: Tensor) -> list[Tensor]:
    """Return the class means of every stage [K, ...], with a graph to the images."""

    def means(part: Tensor) -> tuple[Tensor, ...]:
        return means_and_pooled(network, part)[:-1]

    parts = images_KMCHW.split(at_once(images_KMCHW))
    if len(parts) == 1:
        return list(means(images_KMCHW))
    found = [checkpoint(means, part, use_reentrant=False, preserve_rng_state=False) for part in parts]
    return [torch.cat(stage) for stage in zip(*found, strict=True)]
