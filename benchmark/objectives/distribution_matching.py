"""Distribution matching: the mean embedding of each class, real against synthetic (Zhao & Bilen, WACV 2023)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmark.networks import Network
from benchmark.objectives import real_parts


def distribution_matching(
    network: Network,
    real_KNCHW: Tensor,
    synthetic_KMCHW: Tensor,
    classes_K: Tensor,
    microbatch: int | None = None,
    real_side: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """sum_c | mean_n phi(real_cn) - mean_m phi(synthetic_cm) |^2, phi the embedding before the classifier.

    A sum over classes and embedding dimensions, not divided by anything; the real side carries no gradient.
    microbatch: real images of a class in one pass; None is all. real_side: how `mean_embedding` of this network is
    computed for real images (`Task.forward`); None is eagerly.
    """
    embed = real_side or partial(mean_embedding, network)
    with torch.no_grad():
        real_KD = sum(share * embed(part) for part, share in real_parts(real_KNCHW, microbatch, 1))
    return (real_KD - mean_embedding(network, synthetic_KMCHW)).square().sum()


def mean_embedding(network: Network, images_KNCHW: Tensor) -> Tensor:
    """[K, D]."""
    return network.features(images_KNCHW.flatten(0, 1)).unflatten(0, images_KNCHW.shape[:2]).mean(1)
