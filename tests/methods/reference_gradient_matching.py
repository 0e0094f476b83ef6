"""DC, DSA and DM written down literally from docs/methods.md 2 to 4: loops, one class and one row at a time, plain SGD.

They draw from the task's generator in the order the methods do (start, network, then per step: network, real batches,
transforms, and the batches of the inner training), so that both see the same numbers; nothing else is shared with
the code under test except the drawing functions and the augmentation kernel, which have tests of their own.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmark import augment, networks
from benchmark.condensation.task import Task


def start(task: Task, init: str) -> Tensor:
    images = task.noise(task.ipc) if init == "noise" else task.start_images(task.ipc)
    return images.clone()


def transforms(task: Task, strategy: str) -> list:
    """For every class the function that augments its real and its synthetic images alike."""
    if strategy == "none":
        return [lambda images: images] * task.classes
    params = augment.dsa.sample(strategy, task.classes, 1, task.spec.image_shape[1:], task.generator)
    return [lambda images, c=c: augment.apply(images, params.take(torch.tensor([c]))) for c in range(task.classes)]


def dc_distance(real: list[Tensor], synthetic: list[Tensor]) -> Tensor:
    total = 0.0
    for r, s in zip(real, synthetic, strict=True):
        if r.dim() == 1:
            continue
        for row in range(r.shape[0]):
            a, b = r[row].reshape(-1), s[row].reshape(-1)
            total = total + 1 - torch.dot(a, b) / (a.pow(2).sum().sqrt() * b.pow(2).sum().sqrt() + 1e-6)
    return total


def gradient_matching(task: Task, hyper, strategy: str) -> Tensor:
    """Images [K, M, C, H, W] after DC's (strategy "none") or DSA's loop."""
    images = start(task, hyper.init)
    velocity = torch.zeros_like(images)
    network = task.network()
    for _ in range(hyper.iterations):
        networks.initialise_(network, task.generator)
        for outer in range(hyper.outer_loop):
            real = task.real_batch(hyper.batch_real)
            transform = transforms(task, strategy)
            leaf = images.clone().requires_grad_()
            loss = 0.0
            for c in range(task.classes):
                gradients = []
                for batch, keep in ((real[c], False), (leaf[c], True)):
                    labels = torch.full((len(batch),), c)
                    value = F.cross_entropy(network(transform[c](batch)), labels)
                    gradients.append(torch.autograd.grad(value, list(network.parameters()), create_graph=keep))
                loss = loss + dc_distance(*gradients)
            (gradient,) = torch.autograd.grad(loss, leaf)
            velocity = hyper.mom_img * velocity + gradient
            images = images - hyper.lr_img * velocity
            if outer == hyper.outer_loop - 1:
                break
            train(network, images, hyper, strategy, task)
    return images


def train(network, images: Tensor, hyper, strategy: str, task: Task) -> None:
    flat, labels = images.flatten(0, 1), torch.arange(task.classes).repeat_interleave(images.shape[1])
    sgd = torch.optim.SGD(network.parameters(), lr=hyper.lr_net, momentum=0.0, weight_decay=0.0)
    for _ in range(hyper.inner_epochs):
        for chosen in torch.randperm(len(flat), generator=task.generator).split(hyper.batch_net):
            batch = flat[chosen]
            if strategy != "none":
                params = augment.dsa.sample(strategy, 1, len(chosen), batch.shape[2:], task.generator)
                batch = augment.apply(batch, params)
            sgd.zero_grad()
            F.cross_entropy(network(batch), labels[chosen]).backward()
            sgd.step()
    sgd.zero_grad()


def distribution_matching(task: Task, hyper) -> Tensor:
    """Images [K, M, C, H, W] after DM's loop."""
    images = start(task, hyper.init)
    velocity = torch.zeros_like(images)
    network = task.network()
    for _ in range(hyper.iterations):
        networks.initialise_(network, task.generator)
        real = task.real_batch(hyper.batch_real)
        transform = transforms(task, task.strategy)
        leaf = images.clone().requires_grad_()
        loss = 0.0
        for c in range(task.classes):
            mean_real = network.features(transform[c](real[c])).detach().mean(0)
            mean_synthetic = network.features(transform[c](leaf[c])).mean(0)
            loss = loss + (mean_real - mean_synthetic).pow(2).sum()
        (gradient,) = torch.autograd.grad(loss, leaf)
        velocity = hyper.mom_img * velocity + gradient
        images = images - hyper.lr_img * velocity
    return images
