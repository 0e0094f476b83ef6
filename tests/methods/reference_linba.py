"""LinBa written down from docs/methods.md 9: the whole training run is one autograd graph, one image at a time.

Draws from the task's generator in the method's order (bases, coefficients, network, then per outer step: network, rows
of every inner step, transform, real images), so that both see the same numbers.
"""

import math

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from benchmark import augment, networks
from benchmark.condensation.task import Task


def decode(bases: Tensor, coefficients: Tensor, image: int, shape: tuple[int, int, int], ds: int) -> Tensor:
    """Image [C, H, W]: the sum of K weighted bases, enlarged."""
    total = sum(coefficients[image, k] * bases[k] for k in range(len(bases)))
    channels, rows, columns = shape
    small = total.reshape(1, channels, math.ceil(rows / ds), math.ceil(columns / ds))
    return F.interpolate(small, size=(rows, columns), mode="bilinear", align_corners=False)[0]


def linba(task: Task, hyper, per_class: int) -> tuple[Tensor, Tensor]:
    """(bases [K, d], coefficients [C * r, K]) after the loop, always with an intervention of flips and rotations or
    none."""
    channels, rows, columns = shape = task.spec.image_shape
    d = channels * math.ceil(rows / hyper.downsample) * math.ceil(columns / hyper.downsample)

    def xavier(out: int, into: int) -> Tensor:
        bound = math.sqrt(6 / (out + into))
        return torch.empty(out, into).uniform_(-bound, bound, generator=task.generator)

    parameters = [xavier(hyper.bases, d), xavier(task.classes * per_class, hyper.bases)]
    velocities = [torch.zeros_like(p) for p in parameters]
    network = task.network()
    for _ in range(hyper.iterations):
        networks.initialise_(network, task.generator)
        draws = []
        for _ in range(hyper.inner_steps):
            keys = torch.rand(task.classes, per_class, generator=task.generator)
            draws.append([row.argsort(descending=True)[: hyper.batch_syn].tolist() for row in keys])
        names = "none" if hyper.intervention == "none" else "flip_rotate" if task.spec.flip else "rotate"
        params = augment.dsa.sample(names, 1, 1, (rows, columns), task.generator)
        real = task.real_batch(hyper.batch_real)

        leaves = [p.clone().requires_grad_() for p in parameters]
        theta = {name: p.detach().clone().requires_grad_() for name, p in network.named_parameters()}
        speed = {name: torch.zeros_like(p) for name, p in theta.items()}
        for draw in draws:
            chosen = [(c, c * per_class + j) for c, row in enumerate(draw) for j in row]
            images = torch.stack([decode(*leaves, image, shape, hyper.downsample) for _, image in chosen])
            logits = functional_call(network, theta, (augment.apply(images, params),))
            loss = F.cross_entropy(logits, torch.tensor([c for c, _ in chosen]))
            gradients = torch.autograd.grad(loss, list(theta.values()), create_graph=True)
            for name, gradient in zip(theta, gradients, strict=True):
                speed[name] = hyper.mom_net * speed[name] + gradient
                theta[name] = theta[name] - hyper.lr_net * speed[name]
        labels = torch.tensor([c for c in range(task.classes) for _ in range(real.shape[1])])
        images = augment.apply(real.reshape(-1, *shape), params)
        loss = F.cross_entropy(functional_call(network, theta, (images,)), labels)
        gradients = torch.autograd.grad(loss, leaves)
        norm = torch.sqrt(sum(g.pow(2).sum() for g in gradients))
        shrink = min(1.0, hyper.clip / (norm.item() + 1e-6))
        for index, gradient in enumerate(gradients):
            velocities[index] = hyper.mom_img * velocities[index] + shrink * gradient
            parameters[index] = parameters[index] - hyper.lr_img * velocities[index]
    return parameters[0], parameters[1]
