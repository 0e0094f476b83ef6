"""HMN written down literally from docs/methods.md 10: one image decoded at a time, one plain Adam for every memory.

It draws from the task's generator in the order the method does, so that both see the same numbers; nothing else is
shared with the code under test but the drawing functions, the augmentation kernels and the reference of IDC's loss.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmark import augment, networks
from benchmark.augment import diffaug
from benchmark.condensation.task import Task
from tests.methods.reference_idc import distance, train


class Memories:
    """Every memory, extractor and decoder layer as a tensor of its own, each with its own `torch.optim.Adam`."""

    def __init__(self, task: Task, hyper, images: int, shape: tuple[int, int]) -> None:
        g, classes = task.generator, task.classes
        d, k, n = hyper.dataset_channels, hyper.class_channels, hyper.instance_channels
        widths = [2 * k + n, *(int(width) for width in hyper.hidden.split("-")), task.spec.image_shape[0]]

        def uniform(*size: int, fan_in: int) -> Tensor:
            return torch.empty(size).uniform_(-(fan_in**-0.5), fan_in**-0.5, generator=g)

        self.size, self.decoder = task.spec.image_shape[1:], []
        self.dataset = torch.empty(d, *shape).normal_(generator=g)
        self.classes = list(torch.empty(classes, k, *shape).normal_(generator=g))
        self.instances = [list(rows) for rows in torch.empty(classes, images, n, *shape).normal_(generator=g)]
        self.weights = list(uniform(classes, k, d, fan_in=d))
        self.biases = list(uniform(classes, k, fan_in=d))
        for before, after in pairwise(widths):
            weight = uniform(before, after, 4, 4, fan_in=after * 16)
            self.decoder.append((weight, uniform(after, fan_in=after * 16)))
        # Each row of a batch of draws becomes a leaf that owns its numbers.
        self.dataset = self.dataset.clone().requires_grad_()
        self.classes, self.weights, self.biases = (
            [row.clone().requires_grad_() for row in rows] for rows in (self.classes, self.weights, self.biases)
        )
        self.instances = [[row.clone().requires_grad_() for row in rows] for rows in self.instances]
        self.decoder = [(w.requires_grad_(), b.requires_grad_()) for w, b in self.decoder]

    def leaves(self) -> list[Tensor]:
        own = [row for rows in self.instances for row in rows]
        layers = [tensor for layer in self.decoder for tensor in layer]
        return [self.dataset, *self.classes, *self.weights, *self.biases, *own, *layers]

    def optimisers(self, lr: float, betas: tuple[float, float]) -> list[tuple[Tensor, torch.optim.Adam]]:
        return [(leaf, torch.optim.Adam([leaf], lr, betas)) for leaf in self.leaves()]

    def decode(self, c: int, i: int) -> Tensor:
        k, d = self.weights[c].shape
        extracted = F.conv2d(self.dataset[None], self.weights[c].reshape(k, d, 1, 1), self.biases[c])
        maps = torch.cat([extracted[0], self.classes[c], self.instances[c][i]])[None]
        for position, (weight, bias) in enumerate(self.decoder):
            if position > 0:
                maps = torch.where(maps > 0, maps, 0.1 * maps)
            maps = F.conv_transpose2d(maps, weight, bias, stride=2, padding=1)
        top, left = ((have - want) // 2 for have, want in zip(maps.shape[2:], self.size, strict=True))
        maps = maps[0, :, top : top + self.size[0], left : left + self.size[1]]
        return 1 / (1 + torch.exp(-maps))

    def decode_class(self, c: int, chosen: Tensor) -> Tensor:
        return torch.stack([self.decode(c, int(i)) for i in chosen])


def step(optimisers: list[tuple[Tensor, torch.optim.Adam]], lr: float) -> None:
    """Only what took part has a gradient, and only that has a step."""
    for leaf, adam in optimisers:
        if leaf.grad is not None:
            adam.param_groups[0]["lr"] = lr
            adam.step()
            leaf.grad = None


def warm_start(memories: Memories, task: Task, hyper, images: int) -> None:
    found = task.start_indices(images)
    targets = [[int(found[c, i % found.shape[1]]) for i in range(images)] for c in range(task.classes)]
    optimisers = memories.optimisers(hyper.warm_lr, (hyper.beta1, hyper.beta2))
    shown = min(images, hyper.batch_syn)
    steps = hyper.warm_start * -(-images // shown)
    for t in range(steps):
        chosen = torch.rand(task.classes, images, generator=task.generator).argsort(1, descending=True)[:, :shown]
        total, pixels = 0.0, 0
        for c in range(task.classes):
            for i in chosen[c]:
                error = memories.decode(c, int(i)) - task.train.raw(torch.tensor([targets[c][int(i)]]))[0]
                total, pixels = total + error.pow(2).sum(), pixels + error.numel()
        (total / pixels).backward()
        step(optimisers, hyper.warm_lr * 0.5 * (1 + math.cos(math.pi * t / steps)))


def hmn(task: Task, hyper, images: int, shape: tuple[int, int]) -> Memories:
    """The memories after warm start and loop; `images` per class, memory maps of `shape`."""
    memories = Memories(task, hyper, images, shape)
    warm_start(memories, task, hyper, images)
    optimisers = memories.optimisers(hyper.lr_img, (hyper.beta1, hyper.beta2))
    network, done = task.network(), 0
    for _ in range(hyper.outer):
        networks.initialise_(network, task.generator)
        sgd = torch.optim.SGD(network.parameters(), hyper.lr_net, hyper.mom_net, weight_decay=hyper.wd_net)
        for k in range(hyper.passes):
            progress = done / (hyper.outer * hyper.passes)
            lr = hyper.lr_img * (1 if progress < 0.6 else hyper.decay if progress < 0.8 else hyper.decay**2)
            order = list(range(task.classes))
            if hyper.classes_per_step < task.classes:
                order = torch.randperm(task.classes, generator=task.generator).tolist()
            for first in range(0, task.classes, hyper.classes_per_step):
                matching_step(memories, order[first : first + hyper.classes_per_step], task, network, hyper, images)
                step(optimisers, lr)
            done += 1
            if k < hyper.passes - 1:
                train(network, sgd, task, hyper)
    return memories


def matching_step(memories: Memories, chunk: list[int], task: Task, network, hyper, images: int) -> None:
    """Gradients of the loss of some classes on everything that took part in it."""
    real = task.real_indices(hyper.batch_real)
    chosen = torch.arange(images).expand(len(chunk), -1)
    if images > hyper.batch_syn:
        keys = torch.rand(len(chunk), images, generator=task.generator)
        chosen = keys.argsort(1, descending=True)[:, : hyper.batch_syn]
    size = task.spec.image_shape[1:]
    params = diffaug.sample(hyper.strategy, 1, size, task.generator, shared=True, calls=len(chunk))
    total = 0.0
    for row, c in enumerate(chunk):
        shown = task.train.normalise(memories.decode_class(c, chosen[row]))
        batch = task.train.gather(real[c])
        both = augment.apply(torch.cat([batch, shown]), params.take(torch.tensor([row])))
        sides = []
        for part, keep in ((both[: len(batch)].detach(), False), (both[len(batch) :], True)):
            value = F.cross_entropy(network(part), torch.full((len(part),), c))
            found = torch.autograd.grad(value, list(network.parameters()), create_graph=keep)
            sides.append([g if keep else g.detach() for g in found])
        total = total + distance(*sides, hyper.metric)
    total.backward(inputs=[leaf for leaf in memories.leaves() if belongs(leaf, memories, chunk, chosen)])


def belongs(leaf: Tensor, memories: Memories, chunk: list[int], chosen: Tensor) -> bool:
    """Whether a tensor takes part in a step that shows the `chosen` images of the classes of `chunk`."""
    part = [memories.dataset, *(tensor for layer in memories.decoder for tensor in layer)]
    for row, c in enumerate(chunk):
        part += [memories.classes[c], memories.weights[c], memories.biases[c]]
        part += [memories.instances[c][int(i)] for i in chosen[row]]
    return any(leaf is other for other in part)


def margins(logits: Tensor, label: int) -> float:
    """z_y - max_{j != y} z_j of one image, by loops."""
    others = [float(z) for j, z in enumerate(logits) if j != label]
    return float(logits[label]) - max(others)


def kept(aum: list[float], drop: int, tenths: int) -> list[int]:
    """Positions that double-end pruning keeps in one class."""
    hardest = (tenths * drop) // 10
    order = sorted(range(len(aum)), key=lambda i: (aum[i], i))
    return sorted(order[hardest : len(order) - (drop - hardest)])
