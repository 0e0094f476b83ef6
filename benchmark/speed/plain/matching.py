"""Image steps that match real and synthetic batches: DC, DSA, DM, CAFE, IDC and HMN, class by class."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Optimizer

from benchmark import networks
from benchmark.augment import diffaug
from benchmark.condensation.loop import Loop
from benchmark.condensation.task import Task
from benchmark.containers import Container
from benchmark.speed.plain.augmentation import augment, draws, siamese
from benchmark.speed.plain.network import PlainConvNet, Step, descend, gradients
from methods.cafe import CAFELoop
from methods.dc import DCLoop
from methods.idc import IDCLoop


def row_cosine_distance(real: Sequence[Tensor], synthetic: Sequence[Tensor]) -> Tensor:
    """Return DC's distance, over the weights of all layers."""
    total = torch.zeros((), device=real[0].device)
    for r, s in zip(real, synthetic, strict=True):
        if r.ndim > 1:
            r, s = r.flatten(1), s.flatten(1)
            norms = torch.norm(r, dim=-1) * torch.norm(s, dim=-1)
            total = total + torch.sum(1 - torch.sum(r * s, dim=-1) / (norms + 1e-6))
    return total


def convolution_distance(kind: str, real: Sequence[Tensor], synthetic: Sequence[Tensor]) -> Tensor:
    """Return IDC's distance, over the weights of convolutions."""
    pairs = [(r, s) for r, s in zip(real, synthetic, strict=True) if r.ndim == 4]
    if kind == "dc":
        return row_cosine_distance(*zip(*pairs, strict=True))
    total = torch.zeros((), device=real[0].device)
    for r, s in pairs:
        total = total + ((r - s).pow(2).sum() if kind == "mse" else (r - s).abs().sum())
    return total


def gradient_matching(loop: DCLoop, container: Container, optimiser: Optimizer, task: Task) -> Step:
    """Return an image step of DC and DSA."""
    hyper, strategy = loop.hyper, task.strategy if loop.augments else "none"
    network = PlainConvNet(task.network())

    def step() -> Tensor:
        networks.initialise_(network, task.generator)
        indices_KN = task.real_indices(hyper.batch_real)
        images_KMCHW = task.synthetic(container)
        transforms = siamese(task, strategy)
        loss = torch.zeros((), device=task.device)
        for c in range(task.classes):
            real = augment(task.train.gather(indices_KN[c]), transforms[c])
            synthetic = augment(images_KMCHW[c], transforms[c])
            target = gradients(network, real, c, graph=False)
            loss = loss + row_cosine_distance(target, gradients(network, synthetic, c, graph=True))
        network.zero_grad()
        return descend(loss, optimiser)

    return step


def distribution_matching(loop: Loop, container: Container, optimiser: Optimizer, task: Task) -> Step:
    """Return an iteration of DM."""
    network = PlainConvNet(task.network()).requires_grad_(False)

    def step() -> Tensor:
        networks.initialise_(network, task.generator)
        indices_KN = task.real_indices(loop.hyper.batch_real)
        images_KMCHW = task.synthetic(container)
        transforms = siamese(task, task.strategy)
        loss = torch.zeros((), device=task.device)
        for c in range(task.classes):
            real = network.features(augment(task.train.gather(indices_KN[c]), transforms[c]))
            synthetic = network.features(augment(images_KMCHW[c], transforms[c]))
            loss = loss + torch.sum((real.mean(0) - synthetic.mean(0)) ** 2)
        return descend(loss, optimiser)

    return step


def feature_alignment(loop: CAFELoop, container: Container, optimiser: Optimizer, task: Task) -> Step:
    """Return an image step of CAFE with the query behind it."""
    hyper, strategy = loop.hyper, task.strategy if loop.augments else "none"
    network = PlainConvNet(task.network())
    weights = [*[0.1] * (len(network.blocks) - 1), 1.0, 1.0, 1.0]

    def layers(images_NCHW: Tensor) -> list[Tensor]:
        found = network.stages(images_NCHW)
        return [*found, found[-1].flatten(1)]

    def step() -> list[float]:
        networks.initialise_(network, task.generator)
        indices_KN = task.real_indices(hyper.batch_real)
        images_KMCHW = task.synthetic(container)
        transforms = siamese(task, strategy)
        loss, embedded, centres = torch.zeros((), device=task.device), [], []
        for c in range(task.classes):
            real = [layer.detach() for layer in layers(augment(task.train.gather(indices_KN[c]), transforms[c]))]
            synthetic = layers(augment(images_KMCHW[c], transforms[c]))
            for weight, r, s in zip(weights, real, synthetic, strict=True):
                loss = loss + weight * torch.sum((r.mean(0) - s.mean(0)) ** 2)
            embedded.append(real[-1])
            centres.append(synthetic[-1].mean(0))
        targets = torch.arange(task.classes, device=task.device).repeat_interleave(indices_KN.shape[1])
        logits = torch.cat(embedded) @ torch.stack(centres).T
        loss = loss + hyper.discrimination * F.cross_entropy(logits, targets, reduction="sum")
        network.zero_grad()
        descend(loss, optimiser)
        queried_KN = task.real_indices(hyper.query)
        guesses = (network(task.train.gather(indices)).argmax(1) for indices in queried_KN)
        return [(guess == c).float().mean().item() for c, guess in enumerate(guesses)]

    return step


def multi_formation_matching(loop: IDCLoop, container: Container, optimiser: Optimizer, task: Task) -> Step:
    """Return the matching of one pass over the classes of IDC and HMN, in the joint form of one step for all classes.
    The graph of a class is gone before the next one's is built."""
    hyper = loop.hyper
    network = PlainConvNet(task.network())

    def shown(classes_K: Tensor) -> Tensor:
        """Positions [K, M] within their classes of the images that take part."""
        if container.per_class > hyper.batch_syn:
            keys = torch.rand(len(classes_K), container.per_class, generator=task.generator, device=task.device)
            return keys.topk(hyper.batch_syn, dim=1).indices
        return torch.arange(container.per_class, device=task.device).expand(len(classes_K), -1)

    def step() -> None:
        container.project_()
        networks.initialise_(network, task.generator)
        for classes_K in loop.class_order(task):
            real_KN, shown_KM = task.real_indices(hyper.batch_real)[classes_K], shown(classes_K)
            size, calls = task.spec.image_shape[1:], len(classes_K)
            drawn = diffaug.sample(hyper.strategy, 1, size, task.generator, shared=True, calls=calls)
            optimiser.zero_grad()
            transforms = draws(drawn, calls)
            for c, real, positions, transform in zip(classes_K.tolist(), real_KN, shown_KM, transforms, strict=True):
                images = task.as_seen(container, container.images(c * container.per_class + positions))
                both = augment(torch.cat([task.train.gather(real), images]), transform)
                target = gradients(network, both[: len(real)], c, graph=False)
                found = gradients(network, both[len(real) :], c, graph=True)
                convolution_distance(hyper.metric, target, found).backward()
            network.zero_grad()
            optimiser.step()

    return step
