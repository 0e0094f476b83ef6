"""Gradient matching: the gradient a class's synthetic images give the network, against the one its real images give.

Distances: `dc` (row-wise cosine, Zhao et al., ICLR 2021), `mse` (squared difference) and `cos` (one cosine over all
tensors), the options of the same authors' code, and `l1` (sum of absolute differences). DC takes them over all
parameters; IDC (Kim et al., ICML 2022) over convolution weights only, with `mse`, `l1` or `dc`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, grad, grad_and_value, vmap

from benchmark.networks import Network, detached
from benchmark.objectives import real_parts, with_gradient
from benchmark.training.passes import EAGER, Passes, value_and_gradient

Distance = Literal["dc", "mse", "cos", "l1"]
Matched = Literal["all", "conv"]
"""The parameters whose gradients are compared: all, or the weights of convolutions (tensors of four dimensions)."""


def row_cosine_distance(real: Sequence[Tensor], synthetic: Sequence[Tensor]) -> Tensor:
    """DC's distance: sum over tensors of two dimensions and more, over output rows, of 1 - cosine.

    A row is everything that feeds one output channel or class. One-dimensional tensors contribute nothing. The 1e-6
    stands inside the denominator, added to the product of the norms.
    """
    total = torch.zeros((), device=real[0].device)
    for real_gradient, synthetic_gradient in zip(real, synthetic, strict=True):
        if real_gradient.ndim < 2:
            continue
        r, s = real_gradient.flatten(1), synthetic_gradient.flatten(1)
        cosine = (r * s).sum(1) / (r.norm(dim=1) * s.norm(dim=1) + 1e-6)
        total = total + (1 - cosine).sum()
    return total


def squared_distance(real: Sequence[Tensor], synthetic: Sequence[Tensor]) -> Tensor:
    """Squared Euclidean distance: a sum over all elements of all tensors."""
    return sum((s - r).square().sum() for r, s in zip(real, synthetic, strict=True))  # type: ignore[return-value]


def cosine_distance(real: Sequence[Tensor], synthetic: Sequence[Tensor]) -> Tensor:
    """1 - cosine of all tensors taken as one vector."""
    r, s = (torch.cat([t.flatten() for t in side]) for side in (real, synthetic))
    return 1 - (r * s).sum() / (r.norm() * s.norm() + 1e-6)


def absolute_distance(real: Sequence[Tensor], synthetic: Sequence[Tensor]) -> Tensor:
    """Sum of absolute differences over all elements of all tensors."""
    return sum((s - r).abs().sum() for r, s in zip(real, synthetic, strict=True))  # type: ignore[return-value]


DISTANCES = {"dc": row_cosine_distance, "mse": squared_distance, "cos": cosine_distance, "l1": absolute_distance}


class GradientMatching:
    """sum_c D( grad CE(real_c), grad CE(synthetic_c) ), the real side detached.

    matched: the parameters whose gradients are compared. Classes are computed one after the other, or all in one
    vmapped pass if the passes say so (for devices where launches cost more than arithmetic). Both give the same
    numbers.
    """

    def __init__(self, distance: Distance = "dc", matched: Matched = "all") -> None:
        self.distance, self.matched = DISTANCES[distance], matched

    def __call__(
        self,
        network: Network,
        real_KNCHW: Tensor,
        synthetic_KMCHW: Tensor,
        classes_K: Tensor,
        passes: Passes = EAGER,
    ) -> Tensor:
        if passes.batched:
            return self._all_at_once(network, real_KNCHW, synthetic_KMCHW, classes_K, passes)
        total = torch.zeros((), device=real_KNCHW.device)
        for real_NCHW, synthetic_MCHW, label in zip(real_KNCHW, synthetic_KMCHW, classes_K, strict=True):
            parts = real_parts(real_NCHW, passes.microbatch)
            real = weighted_sum((self._gradient(network, part, label, passes), share) for part, share in parts)
            total = total + self._distance(network, synthetic_MCHW, label, real, passes)
        return total

    def _gradient(self, network: Network, images_NCHW: Tensor, label: Tensor, passes: Passes) -> Sequence[Tensor]:
        """Return the gradients of the matched parameters, without a graph."""
        labels = label.repeat(len(images_NCHW))
        gradients = passes.gradients(network, detached(network), images_NCHW, labels)
        return [gradients[name] for name in self._parameters(network)]

    def _distance(
        self, network: Network, images_MCHW: Tensor, label: Tensor, real: Sequence[Tensor], passes: Passes
    ) -> Tensor:
        """Return the distance between real gradients and those of synthetic images, with a graph to the images."""
        matched, whole = self._parameters(network), passes.second_order(distance_and_gradient, network)
        if whole is None:
            loss = self._loss(network, images_MCHW, label)
            return self.distance(real, torch.autograd.grad(loss, tuple(matched.values()), create_graph=True))
        labels, targets = label.repeat(len(images_MCHW)), dict(zip(matched, real, strict=True))
        value, gradient = whole(self.distance, detached(network), images_MCHW.detach(), labels, targets)
        return with_gradient(value, gradient, images_MCHW)

    def _parameters(self, network: Network) -> dict[str, Tensor]:
        """The parameters whose gradients are compared, by name."""
        return {name: p for name, p in network.named_parameters() if self.matched == "all" or p.ndim == 4}

    @staticmethod
    def _loss(network: Network, images_NCHW: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(network(images_NCHW), label.expand(len(images_NCHW)))

    def _all_at_once(
        self, network: Network, real_KNCHW: Tensor, synthetic_KMCHW: Tensor, classes_K: Tensor, passes: Passes
    ) -> Tensor:
        fixed = detached(network)
        parameters = {name: fixed[name] for name in self._parameters(network)}

        def loss(parameters: dict[str, Tensor], images_NCHW: Tensor, label: Tensor) -> Tensor:
            logits = functional_call(network, fixed | parameters, (images_NCHW,))
            return F.cross_entropy(logits, label.expand(len(images_NCHW)))

        def gradient(parameters: dict[str, Tensor], *batch: Tensor) -> dict[str, Tensor]:
            return value_and_gradient(lambda parameters: loss(parameters, *batch), parameters)[1]

        by_class = partial(vmap, in_dims=(None, 0, 0))
        with torch.autocast(real_KNCHW.device.type, torch.bfloat16, enabled=passes.half):
            real = weighted_sum(
                (list(by_class(gradient)(parameters, part, classes_K).values()), share)
                for part, share in real_parts(real_KNCHW, passes.microbatch, 1)
            )
        synthetic = by_class(grad(loss))(parameters, synthetic_KMCHW, classes_K)
        return vmap(self.distance)(tuple(real), tuple(synthetic.values())).sum()


def distance_and_gradient(
    network: Network,
    distance: Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor],
    parameters: dict[str, Tensor],
    images_MCHW: Tensor,
    labels_M: Tensor,
    real: dict[str, Tensor],
) -> tuple[Tensor, Tensor]:
    """Return (the distance between the images' gradient and the real one, by name of parameter; its own gradient [M, C,
    H, W] in the images). It is one pure function of what `GradientMatching` otherwise leaves to autograd."""

    def loss(matched: dict[str, Tensor], images_MCHW: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(network, parameters | matched, (images_MCHW,)), labels_M)

    def apart(images_MCHW: Tensor) -> Tensor:
        synthetic = grad(loss)({name: parameters[name] for name in real}, images_MCHW)
        return distance(tuple(real.values()), tuple(synthetic.values()))

    gradient, value = grad_and_value(apart)(images_MCHW)
    return value, gradient


def weighted_sum(parts: Iterable[tuple[Sequence[Tensor], float]]) -> Sequence[Tensor]:
    """Return the sum of lists of tensors, each times its share; a single list is returned as it is."""
    total: Sequence[Tensor] | None = None
    for tensors, share in parts:
        scaled = tensors if share == 1 else [share * tensor for tensor in tensors]
        total = scaled if total is None else [t + s for t, s in zip(total, scaled, strict=True)]
    assert total is not None, "nothing to add up"
    return total
