"""CAFE written down literally from docs/methods.md 5: one layer, one class, one image step at a time, plain SGD.

It draws from the task's generator in the order the method does; nothing else is shared with the code under test but
the drawing functions and the augmentation kernel, which have their own tests.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmark import augment, networks
from benchmark.condensation.task import Task
from tests.methods.reference_gradient_matching import start, transforms


def layers(network, images: Tensor) -> list[Tensor]:
    """f1 .. fD after each ReLU, the pooled last map, and that flattened."""
    found = []
    for block in network.blocks:
        images = F.relu(F.group_norm(block.conv(images), len(block.norm.weight), block.norm.weight, block.norm.bias))
        found.append(images)
        images = F.avg_pool2d(images, 2)
    return [*found, images, images.flatten(1)]


def loss_parts(network, real: list[Tensor], synthetic: list[Tensor]) -> tuple[Tensor, Tensor]:
    """(alignment, discrimination) of one batch for each class."""
    depth = len(network.blocks)
    weights = [0.1] * (depth - 1) + [1.0, 1.0, 1.0]
    align, centres, embedded = 0.0, [], []
    for c in range(len(real)):
        real_layers, synthetic_layers = layers(network, real[c]), layers(network, synthetic[c])
        for weight, r, s in zip(weights, real_layers, synthetic_layers, strict=True):
            align = align + weight * (r.detach().mean(0) - s.mean(0)).pow(2).sum()
        centres.append(synthetic_layers[-1].mean(0))
        embedded.append(real_layers[-1].detach())
    discriminate = 0.0
    for c, samples in enumerate(embedded):
        for sample in samples:
            logits = torch.stack([torch.dot(sample, centre) for centre in centres])
            discriminate = discriminate + torch.logsumexp(logits, 0) - logits[c]
    return align, discriminate


def accuracy(network, task: Task, hyper, before: float) -> float:
    total = 0.0
    for c, batch in enumerate(task.real_batch(hyper.query)):
        total += sum(network(image[None]).argmax().item() == c for image in batch) / len(batch)
    return (total + (before if hyper.leaky_query else 0.0)) / task.classes


def cafe(task: Task, hyper, strategy: str) -> tuple[Tensor, dict[str, int]]:
    """(images [K, M, C, H, W] after CAFE's loop, what was counted)."""
    images = start(task, hyper.init)
    velocity = torch.zeros_like(images)
    network = task.network()
    counts = {"networks": 0, "image_steps": 0, "inner_epochs": 0, "image_step_caps_hit": 0, "inner_epoch_caps_hit": 0}
    for iteration in range(hyper.iterations):
        networks.initialise_(network, task.generator)
        counts["networks"] += 1
        lr = hyper.lr_img
        for milestone in (1200, 1600, 1800):
            if iteration >= milestone * hyper.iterations / 2000:
                lr = lr * 0.5
        outer, steps = [], 0
        while True:
            real = task.real_batch(hyper.batch_real)
            transform = transforms(task, strategy)
            leaf = images.clone().requires_grad_()
            augmented = [[transform[c](side[c]) for c in range(task.classes)] for side in (real, leaf)]
            align, discriminate = loss_parts(network, *augmented)
            (gradient,) = torch.autograd.grad(align + hyper.discrimination * discriminate, leaf)
            velocity = hyper.mom_img * velocity + gradient
            images = images - lr * velocity
            steps += 1
            outer.append(accuracy(network, task, hyper, outer[-1] if outer else 0.0))
            if len(outer) >= hyper.window and max(outer[-hyper.window :]) - min(outer[-hyper.window :]) < hyper.lambda1:
                break
            if steps == hyper.max_image_steps:
                counts["image_step_caps_hit"] += 1
                break
            inner = []
            while True:
                if len(inner) == hyper.max_inner_epochs:
                    counts["inner_epoch_caps_hit"] += 1
                    break
                epoch(network, images, hyper, strategy, task)
                inner.append(accuracy(network, task, hyper, inner[-1] if inner else 0.0))
                last = inner[-hyper.window :]
                if len(last) == hyper.window and max(last) - min(last) > hyper.lambda2:
                    break
            counts["inner_epochs"] += len(inner)
        counts["image_steps"] += steps
    return images, counts


def epoch(network, images: Tensor, hyper, strategy: str, task: Task) -> None:
    flat, labels = images.flatten(0, 1), torch.arange(task.classes).repeat_interleave(images.shape[1])
    for chosen in torch.randperm(len(flat), generator=task.generator).split(hyper.batch_net):
        batch = flat[chosen]
        if strategy != "none":
            batch = augment.apply(batch, augment.dsa.sample(strategy, 1, len(chosen), batch.shape[2:], task.generator))
        gradients = torch.autograd.grad(F.cross_entropy(network(batch), labels[chosen]), list(network.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(network.parameters(), gradients, strict=True):
                parameter -= hyper.lr_net * gradient
