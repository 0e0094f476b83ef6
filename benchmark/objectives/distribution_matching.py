"""Distribution matching: the mean embedding of each class, real against synthetic (Zhao & Bilen, WACV 2023)."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmark.networks import Network


def distribution_matching(network: Network, real_KNCHW: Tensor, synthetic_KMCHW: Tensor, classes_K: Tensor) -> Tensor:
    """sum_c | mean_n phi(real_cn) - mean_m phi(synthetic_cm) |^2, phi the embedding before the classifier.

    A sum over classes and embedding dimensions, not divided by anything; the real side carries no gradient.
    """
    with torch.no_grad():
        real_KD = network.features(real_KNCHW.flatten(0, 1)).unflatten(0, real_KNCHW.shape[:2]).mean(1)
    synthetic_KD = network.features(synthetic_KMCHW.flatten(0, 1)).unflatten(0, synthetic_KMCHW.shape[:2]).mean(1)
    return (real_KD - synthetic_KD).square().sum()
