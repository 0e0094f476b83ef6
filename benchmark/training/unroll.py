"""The exact gradient of an unrolled training run, with the graph of only one step in memory (docs/methods.md 1.7).

The inner loop is SGD with momentum, v <- m v + g_i, theta <- theta - lr v, with g_i the gradient of the cross-entropy
of the images that step i sees. Trajectory matching (MTT, HaBa) and back-propagation through training (LinBa) use it.

Source: Maclaurin, Duvenaud, Adams, "Gradient-based Hyperparameter Optimization through Reversible Learning", ICML 2015,
for the recursion. Here the weights are stored instead of recomputed, so it is exact for any momentum.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad

from benchmark.networks import Network
from benchmark.training.passes import EAGER, Passes

Batch = Callable[[int], tuple[Tensor, Tensor]]


def flatten(parameters: nn.Module | dict[str, Tensor]) -> Tensor:
    """Return a copy of all parameters as one detached tensor [P], in `parameters()` order."""
    tensors = parameters if isinstance(parameters, dict) else dict(parameters.named_parameters())
    return torch.cat([tensor.detach().flatten() for tensor in tensors.values()])


def unflatten(flat: Tensor, network: nn.Module) -> dict[str, Tensor]:
    """Return views of `flat` [P] by the names and shapes of the network's parameters; differentiable."""
    named = dict(network.named_parameters())
    parts = flat.split([parameter.numel() for parameter in named.values()])
    return {name: part.view_as(shape) for (name, shape), part in zip(named.items(), parts, strict=True)}


class Unroll:
    """N inner SGD steps with momentum, and their exact adjoint with the graph of only one step in memory.

    `batch(i)` gives the images [B, C, H, W] of inner step i as the network sees them, augmentation included, and their
    labels [B]. It is called once without a graph going forward and once with one going backward, and must return the
    same values both times: draw indices and augmentation parameters beforehand.

    Between the two, N flat weights [P] are stored, and N velocities if the gradient of the step size is wanted.
    """

    def __init__(
        self,
        network: Network,
        batch: Batch,
        steps: int,
        momentum: float = 0.0,
        through_weights: bool = True,
        passes: Passes = EAGER,
    ) -> None:
        """`through_weights` False leaves out how a step's images change the gradients of all later steps. That is the
        approximation of TESLA (Cui et al. 2022, as its public code computes it), not the gradient of the unroll.
        `passes`: how the gradient of a step and its adjoint are computed."""
        self.network, self.batch, self.steps, self.momentum = network, batch, steps, momentum
        self.through_weights, self.passes = through_weights, passes
        self._weights: list[Tensor] = []
        self._velocities: list[Tensor] = []
        self._lr = torch.empty(())

    def forward(self, start: Tensor, lr: Tensor) -> Tensor:
        """Return the weights [P] after all steps, detached, from `start` [P] at step size `lr` (a scalar tensor)."""
        self._weights, self._velocities, self._lr = [], [], lr
        weights, velocity, step_size = start.detach(), None, lr.detach()
        for step in range(self.steps):
            with torch.no_grad():
                images, labels = self.batch(step)
            self._weights.append(weights)
            gradient = self._gradient(weights, images, labels)
            velocity = gradient if velocity is None else gradient.add_(velocity, alpha=self.momentum)
            if lr.requires_grad:
                self._velocities.append(velocity)
            weights = weights - step_size * velocity
        return weights

    def backward(self, cotangent: Tensor) -> None:
        """Accumulate `.grad` of a loss whose gradient in the last weights is `cotangent` [P].

        It reaches every leaf that the images of `batch` depend on, and `lr` if that requires a gradient. It frees what
        `forward` stored, so each forward allows one backward.
        """
        assert len(self._weights) == self.steps, "backward needs a forward of its own"
        step_size, lr_gradient = self._lr.detach(), torch.zeros_like(self._lr)
        adjoint, velocity_adjoint = cotangent.detach(), torch.zeros_like(cotangent)
        for step in reversed(range(self.steps)):
            if self._lr.requires_grad:
                lr_gradient -= adjoint @ self._velocities.pop()
            velocity_adjoint = self.momentum * velocity_adjoint - step_size * adjoint
            through_weights = self._step_backward(step, self._weights.pop(), velocity_adjoint)
            if self.through_weights:
                adjoint = adjoint + through_weights
        if self._lr.requires_grad:
            self._lr.grad = lr_gradient if self._lr.grad is None else self._lr.grad + lr_gradient

    def _gradient(self, weights: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        """Return the gradient of one step, [P]."""
        return flatten(
            self.passes.gradients(self.network, unflatten(weights, self.network), images, labels, exact=True)
        )

    def _loss(self, weights: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        with torch.enable_grad():
            return F.cross_entropy(functional_call(self.network, unflatten(weights, self.network), (images,)), labels)

    def _step_backward(self, step: int, weights: Tensor, cotangent: Tensor) -> Tensor:
        """Compute the vector-Jacobian product of one step's gradient: it is accumulated in the images' leaves, and
        returned for the weights [P]."""
        with torch.enable_grad():
            images, labels = self.batch(step)
        # Cut at the images: the network's graph is gone before the decoder's is walked.
        whole = self.passes.second_order(adjoint_of_gradient, self.network)
        if whole and images.requires_grad and self.through_weights:
            to_weights, to_images = whole(weights, images.detach(), labels, cotangent)
            images.backward(to_images)
            return to_weights
        seen, leaf = images.detach().requires_grad_(images.requires_grad), weights.requires_grad_()
        (gradient,) = torch.autograd.grad(self._loss(leaf, seen, labels), leaf, create_graph=True)
        if not images.requires_grad:
            return torch.autograd.grad(gradient, leaf, cotangent)[0]
        if self.through_weights:
            to_weights, to_images = torch.autograd.grad(gradient, (leaf, seen), cotangent)
        else:
            to_weights, to_images = leaf, torch.autograd.grad(gradient, seen, cotangent)[0]
        del gradient
        images.backward(to_images)
        return to_weights


def adjoint_of_gradient(
    network: Network, weights_P: Tensor, images_NCHW: Tensor, labels_N: Tensor, cotangent_P: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the gradients [P] and [N, C, H, W], in flat weights and in images, of the inner product of a step's
    gradient with `cotangent_P`. It is one pure function of what `Unroll` otherwise leaves to autograd."""

    def loss(weights_P: Tensor, images_NCHW: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(network, unflatten(weights_P, network), (images_NCHW,)), labels_N)

    def projected(weights_P: Tensor, images_NCHW: Tensor) -> Tensor:
        return grad(loss)(weights_P, images_NCHW) @ cotangent_P

    return grad(projected, argnums=(0, 1))(weights_P, images_NCHW)
