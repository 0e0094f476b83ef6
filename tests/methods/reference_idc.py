"""IDC written down literally from docs/methods.md 7: one class, one grid cell, one optimiser step at a time.

It draws from the task's generator in the order the method does, so that both see the same numbers; nothing else is
shared with the code under test but the drawing functions and the augmentation kernels, which have their own tests.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmark import augment, networks
from benchmark.augment import cutmix, diffaug
from benchmark.condensation.task import Task


def decode(image_CHW: Tensor, factor: int) -> list[Tensor]:
    """The factor^2 full-size images of one stored image, row by row."""
    _, rows, columns = image_CHW.shape
    height, width = -(-rows // factor), -(-columns // factor)
    padded = torch.full((len(image_CHW), height * factor, width * factor), 0.5, dtype=image_CHW.dtype)
    padded[:, :rows, :columns] = image_CHW
    images = []
    for y in range(factor):
        for x in range(factor):
            cell = padded[None, :, y * height : (y + 1) * height, x * width : (x + 1) * width]
            images.append(F.interpolate(cell, (rows, columns), mode="bilinear", align_corners=False)[0])
    return images


def decode_class(stored_MCHW: Tensor, factor: int) -> Tensor:
    """Position in the grid major, stored image minor."""
    decoded = [decode(image, factor) for image in stored_MCHW]
    return torch.stack([images[position] for position in range(factor**2) for images in decoded])


def mix_start(task: Task, factor: int) -> Tensor:
    """Stored images [K, IPC, C, H, W]: every cell a random real image, reduced by the nearest pixel."""
    wanted = task.ipc * factor**2
    indices = task.start_indices(wanted)
    channels, rows, columns = task.spec.image_shape
    height, width = -(-rows // factor), -(-columns // factor)
    stored = torch.zeros(task.classes, task.ipc, channels, rows, columns)
    for c in range(task.classes):
        for position in range(factor**2):
            top, left = position // factor * height, position % factor * width
            for image in range(task.ipc):
                source = task.train.raw(indices[c, (position * task.ipc + image) % indices.shape[1]][None])[0]
                cell = stored[c, image, :, top : top + height, left : left + width]
                for y in range(cell.shape[1]):
                    for x in range(cell.shape[2]):
                        cell[:, y, x] = source[:, y * rows // cell.shape[1], x * columns // cell.shape[2]]
    return stored


def distance(real: list[Tensor], synthetic: list[Tensor], metric: str) -> Tensor:
    total = 0.0
    for r, s in zip(real, synthetic, strict=True):
        if r.dim() != 4:
            continue
        if metric == "mse":
            total = total + (r - s).pow(2).sum()
        elif metric == "l1":
            total = total + (r - s).abs().sum()
        else:
            for row in range(len(r)):
                a, b = r[row].reshape(-1), s[row].reshape(-1)
                total = total + 1 - torch.dot(a, b) / (a.pow(2).sum().sqrt() * b.pow(2).sum().sqrt() + 1e-6)
    return total


def class_gradient(task: Task, network, stored_MCHW: Tensor, c: int, real: Tensor, chosen, params, hyper) -> Tensor:
    """Gradient of the class's loss with respect to its stored images."""
    leaf = stored_MCHW.clone().requires_grad_()
    synthetic = decode_class(leaf, hyper.factor)
    synthetic = task.train.normalise(synthetic if chosen is None else synthetic[chosen])
    both = augment.apply(torch.cat([real, synthetic]), params)
    gradients = []
    for batch, keep in ((both[: len(real)], False), (both[len(real) :], True)):
        value = F.cross_entropy(network(batch), torch.full((len(batch),), c))
        found = torch.autograd.grad(value, list(network.parameters()), create_graph=keep)
        gradients.append([g if keep else g.detach() for g in found])
    return torch.autograd.grad(distance(*gradients, hyper.metric), leaf)[0]


def train(network, sgd, task: Task, hyper) -> None:
    steps = -(-hyper.n_data // hyper.batch_net)
    order = torch.randperm(len(task.train), generator=task.generator)[: steps * hyper.batch_net]
    size = task.spec.image_shape[1:]
    for chosen in order.split(hyper.batch_net):
        images, labels = task.train.gather(chosen), task.train.labels[chosen]
        images = augment.apply(images, diffaug.sample(hyper.strategy_net, len(chosen), size, task.generator))
        mix = cutmix.sample(len(chosen), size, hyper.cutmix, task.generator)
        images = cutmix.apply(images, mix)
        logits = network(images)
        loss = mix.kept * F.cross_entropy(logits, labels)
        loss = loss + (1 - mix.kept) * F.cross_entropy(logits, labels[mix.partner])
        sgd.zero_grad()
        loss.backward()
        sgd.step()


def idc(task: Task, hyper) -> Tensor:
    """Stored images [K, IPC, C, H, W] after IDC's loop with one momentum buffer for all classes.

    `hyper.step_per_class`: one step after each class moves every class, as in the authors' code. Otherwise the same
    sequence of every class by itself: its gradient, followed at once by the C - 1 steps in which it only drifts.
    """
    stored = mix_start(task, hyper.factor)
    velocity = torch.zeros_like(stored)
    network = task.network()
    size, classes = task.spec.image_shape[1:], task.classes

    def draw(count: int):
        chosen = None
        if task.ipc * hyper.factor**2 > hyper.batch_syn:
            keys = torch.rand(count, task.ipc * hyper.factor**2, generator=task.generator)
            chosen = keys.argsort(dim=1, descending=True)[:, : hyper.batch_syn]
        return chosen, diffaug.sample(hyper.strategy, 1, size, task.generator, shared=True, calls=count)

    for _ in range(hyper.outer):
        stored.clamp_(0, 1)
        networks.initialise_(network, task.generator)
        sgd = torch.optim.SGD(network.parameters(), hyper.lr_net, hyper.mom_net, weight_decay=hyper.wd_net)
        for k in range(hyper.passes):
            if not hyper.step_per_class:
                indices = task.real_indices(hyper.batch_real)
                chosen, params = draw(classes)
            for c in range(classes):
                if hyper.step_per_class:
                    indices = task.real_indices(hyper.batch_real)
                    chosen, params = draw(1)
                row = 0 if hyper.step_per_class else c
                real = task.train.gather(indices[c])
                own = None if chosen is None else chosen[row]
                gradient = torch.zeros_like(stored)
                own_params = params.take(torch.tensor([row]))
                gradient[c] = class_gradient(task, network, stored[c], c, real, own, own_params, hyper)
                if hyper.step_per_class:
                    velocity = hyper.mom_img * velocity + gradient
                    stored = stored - hyper.lr_img * velocity
                    continue
                for step in range(classes):
                    velocity[c] = hyper.mom_img * velocity[c] + (gradient[c] if step == 0 else 0)
                    stored[c] = stored[c] - hyper.lr_img * velocity[c]
            if k < hyper.passes - 1:
                train(network, sgd, task, hyper)
    return stored
