"""HaBa written down from docs/methods.md 8: one image through one hallucinator at a time, the student's whole run
as one autograd graph, plain SGD with momentum everywhere.

Draws from the task's generator in the method's order (bases, hallucinators, student, critic, then per iteration:
expert, epoch, hallucinator of every inner step, batches, transforms, and a pair for the diversity term and for the
critic).
"""

import math

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from benchmark import augment
from benchmark.condensation.experts import expert_recipe, trajectories
from benchmark.condensation.task import Task

NAMES = ("encode_weight", "encode_bias", "scale", "shift", "decode_weight", "decode_bias")
DRAWN = ("encode_weight", "encode_bias", "decode_weight", "decode_bias")


def hallucinate(basis: Tensor, h: dict[str, Tensor], j: int, shape: tuple[int, int, int], relu: bool = False) -> Tensor:
    """Image [C, H, W] of one basis, stored at either resolution, through hallucinator j."""
    _, rows, columns = shape
    x = basis[None]
    if basis.shape[1:] != (rows, columns):
        x = F.interpolate(x, size=(rows, columns), mode="bilinear", align_corners=False)
    scale, shift = h["scale"][j][None], h["shift"][j][None]
    if scale.shape[2:] != (rows - 2, columns - 2):
        scale, shift = (
            F.interpolate(m, size=(rows - 2, columns - 2), mode="bilinear", align_corners=False) for m in (scale, shift)
        )
    x = F.conv2d(x, h["encode_weight"][j], h["encode_bias"][j]) * scale + shift
    x = F.relu(x) if relu else x
    return F.conv_transpose2d(x, h["decode_weight"][j], h["decode_bias"][j])[0]


def contrastive(z: list[Tensor], labels: list[int], tau: float) -> Tensor:
    """Supervised contrastive loss (Khosla et al. 2020, equation 2) of embeddings, pair by pair."""
    z = [v / v.pow(2).sum().sqrt() for v in z]
    total, anchors = 0.0, 0
    for i in range(len(z)):
        others = [a for a in range(len(z)) if a != i]
        positives = [p for p in others if labels[p] == labels[i]]
        if not positives:
            continue
        below = sum(torch.exp(torch.dot(z[i], z[a]) / tau) for a in others)
        parts = [torch.log(torch.exp(torch.dot(z[i], z[p]) / tau) / below) for p in positives]
        total, anchors = total - sum(parts) / len(parts), anchors + 1
    return total / anchors


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return torch.dot(a, b) / (a.pow(2).sum().sqrt() * b.pow(2).sum().sqrt())


def haba(task: Task, hyper, full: int, half: int, maps: tuple[int, int], run) -> tuple[list[Tensor], dict, float]:
    """(bases [K, n, C, h, w] at full and half size, hallucinators by name, alpha) after the loop."""
    generator, classes, shape = task.generator, task.classes, task.spec.image_shape
    channels, rows, columns = shape
    J, count = hyper.hallucinators, classes * (full + half)
    real = task.gather(task.start_indices(full + half))
    small = (math.ceil(rows / 2), math.ceil(columns / 2))
    bases = [real[:, :full].clone(), torch.empty(classes, half, channels, *small)]
    for c in range(classes):
        for i in range(half):
            bases[1][c, i] = F.adaptive_avg_pool2d(real[c, full + i], small)
    h = {}
    for name in DRAWN:
        size = (J, channels, channels, 3, 3) if name.endswith("weight") else (J, channels)
        bound = 1 / math.sqrt(9 * channels)
        h[name] = torch.empty(size).uniform_(-bound, bound, generator=generator)
    h["scale"], h["shift"] = torch.ones(J, channels, *maps), torch.zeros(J, channels, *maps)

    leaves = [*bases, *(h[name] for name in NAMES)]
    rates = [hyper.lr_img] * 2 + [hyper.lr_hallucinator] * len(NAMES)
    speeds = [torch.zeros_like(leaf) for leaf in leaves]
    alpha, alpha_speed = torch.tensor(hyper.alpha0), torch.tensor(0.0)
    experts = trajectories(task, run, hyper.experts, expert_recipe(hyper.expert_length, hyper.lr_net, hyper.batch_real))
    network, critic = task.network(), task.network()
    critic_speed = [torch.zeros_like(p) for p in critic.parameters()]
    size = min(hyper.batch_syn or count, count)

    def decode(leaves: list[Tensor], sample: int, j: int) -> Tensor:
        c, i = divmod(sample, full + half)
        basis = leaves[0][c, i] if i < full else leaves[1][c, i - full]
        return hallucinate(basis, dict(zip(NAMES, leaves[2:], strict=True)), j, shape, hyper.activation == "relu")

    def label(sample: int) -> int:
        return sample // (full + half)

    def transform(calls: int, rows_: int) -> augment.Params:
        return augment.dsa.sample(task.strategy, calls, rows_, (rows, columns), generator)

    def pair(leaves: list[Tensor]) -> tuple[Tensor, list[int]]:
        samples = torch.randperm(count, generator=generator)[:size].tolist()
        a, b = torch.randperm(J, generator=generator)[:2].tolist()
        images = torch.stack([decode(leaves, s, j) for j in (a, b) for s in samples])
        return augment.apply(images, transform(1, 2 * size), align_corners=True), [label(s) for s in samples] * 2

    order: list[int] = []
    for iteration in range(hyper.iterations):
        if iteration % len(experts) == 0:
            order = torch.randperm(len(experts), generator=generator).tolist()
        epoch = int(torch.randint(hyper.starts, (), generator=generator))
        expert = order[iteration % len(experts)]
        start, target = experts.weights(expert, epoch), experts.weights(expert, epoch + hyper.expert_epochs)
        which = torch.randint(J, (hyper.syn_steps,), generator=generator).tolist()
        batches: list[list[int]] = []
        while len(batches) < hyper.syn_steps:
            if size == count:
                batches.append(list(range(count)))
            else:
                chunks = torch.randperm(count, generator=generator).tolist()
                batches += [chunks[i : i + size] for i in range(0, count, size)]
        params = transform(hyper.syn_steps, size)

        tracked = [leaf.clone().requires_grad_() for leaf in leaves]
        step_size = alpha.clone().requires_grad_()
        theta = start.clone().requires_grad_()
        for n in range(hyper.syn_steps):
            images = torch.stack([decode(tracked, s, which[n]) for s in batches[n]])
            rows_ = torch.arange(n * size, n * size + len(images))
            images = augment.apply(images, params.take(rows_), align_corners=True)
            named, at = {}, 0
            for name, parameter in network.named_parameters():
                named[name] = theta[at : at + parameter.numel()].view_as(parameter)
                at += parameter.numel()
            logits = functional_call(network, named, (images,))
            loss = F.cross_entropy(logits, torch.tensor([label(s) for s in batches[n]]))
            theta = theta - step_size * torch.autograd.grad(loss, theta, create_graph=True)[0]
        matching = (theta - target).pow(2).sum() / (start - target).pow(2).sum()
        images, _ = pair(tracked)
        features = network_features(critic, images)
        diversity = sum((cosine(features[i], features[size + i]) + 1) / 2 for i in range(size)) / size
        total = matching + hyper.diversity * diversity
        *gradients, alpha_gradient = torch.autograd.grad(total, [*tracked, step_size], materialize_grads=True)
        for k, gradient in enumerate(gradients):
            speeds[k] = hyper.mom_img * speeds[k] + gradient
            leaves[k] = leaves[k] - rates[k] * speeds[k]
        alpha_speed = hyper.mom_lr * alpha_speed + alpha_gradient
        alpha = torch.clamp(alpha - hyper.lr_lr * alpha_speed, min=hyper.alpha_floor)

        images, labels = pair(leaves)
        features = network_features(critic, images)
        loss = F.cross_entropy(critic.classifier(features), torch.tensor(labels))
        apart = sum((1 - cosine(features[i], features[size + i])) / 2 for i in range(size)) / size
        loss = loss + hyper.similarity * apart
        loss = loss + hyper.contrast * contrastive(list(features), labels, hyper.temperature)
        gradients = torch.autograd.grad(loss, list(critic.parameters()))
        with torch.no_grad():
            for k, (parameter, gradient) in enumerate(zip(critic.parameters(), gradients, strict=True)):
                critic_speed[k] = hyper.mom_critic * critic_speed[k] + gradient
                parameter -= hyper.lr_critic * critic_speed[k]
    return leaves[:2], dict(zip(NAMES, leaves[2:], strict=True)), alpha.item()


def network_features(network, images: Tensor) -> Tensor:
    """The input of the classifier."""
    kept = {}
    handle = network.classifier.register_forward_pre_hook(lambda module, inputs: kept.update(features=inputs[0]))
    network(images)
    handle.remove()
    return kept["features"]
