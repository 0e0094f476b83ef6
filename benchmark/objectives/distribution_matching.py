"""Distribution matching: the mean embedding of each class, real against synthetic (Zhao & Bilen, WACV 2023)."""

from __future__ import annotations

from torch import Tensor

from benchmark.networks import Network
from benchmark.objectives import real_parts
from benchmark.training.passes import EAGER, Passes


def distribution_matching(
    network: Network, real_KNCHW: Tensor, synthetic_KMCHW: Tensor, classes_K: Tensor, passes: Passes = EAGER
) -> Tensor:
    """sum_c | mean_n phi(real_cn) - mean_m phi(synthetic_cm) |^2, phi the embedding before the classifier.

    The sum is over classes and embedding dimensions and is not divided by anything; the real side carries no gradient.
    """
    embed = passes.forward(mean_embedding, network)
    parts = real_parts(real_KNCHW, passes.microbatch, 1)
    real_KD = sum(share * embed(part) for part, share in parts)
    return (real_KD - mean_embedding(network, synthetic_KMCHW)).square().sum()


def mean_embedding(network: Network, images_KNCHW: Tensor) -> Tensor:
    """Return the mean embedding [K, D] of each class."""
    return network.features(images_KNCHW.flatten(0, 1)).unflatten(0, images_KNCHW.shape[:2]).mean(1)
