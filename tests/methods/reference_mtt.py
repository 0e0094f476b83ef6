"""MTT written down literally from docs/methods.md 6: the student's whole run as one autograd graph, SGD by hand.

Draws from the task's generator in the method's order (images, student network, then per iteration: expert, epoch,
batches, transforms). Whitens by the closed form.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from benchmark import augment
from benchmark.condensation.experts import expert_recipe, trajectories
from benchmark.condensation.task import Task


def closed_form(raw_NCHW: Tensor) -> tuple[Tensor, Tensor]:
    """(mean [D], T [D, D]) of docs/methods.md 1.1, kind A."""
    x = raw_NCHW.flatten(1)
    centred = x - x.mean(0)
    s, u = torch.linalg.eigh(centred.T @ centred / (len(x) - 1))
    return x.mean(0), u @ torch.diag((s + 0.1) ** -0.5) @ u.T


def mtt(task: Task, hyper, run) -> tuple[Tensor, float, list[float]]:
    """(images [K * ipc, C, H, W], alpha, loss of every iteration) after the loop, from random real images."""
    generator, size = task.generator, task.spec.image_shape[1:]
    indices = task.start_indices(task.ipc).flatten()
    labels = torch.arange(task.classes).repeat_interleave(task.ipc)
    if hyper.zca:
        mean, transform = closed_form(task.train.raw())
        images = ((task.train.raw(indices).flatten(1) - mean) @ transform).view(len(indices), *task.spec.image_shape)
        task = task.whitened()
    else:
        images = task.train.gather(indices)
    experts = trajectories(task, run, hyper.experts, expert_recipe(hyper.expert_length, hyper.lr_net, hyper.batch_real))
    network = task.network()
    alpha = torch.tensor(hyper.alpha0)
    speed, alpha_speed, order, losses = torch.zeros_like(images), torch.tensor(0.0), [], []
    batch_size = min(hyper.batch_syn or len(images), len(images))

    for iteration in range(hyper.iterations):
        if iteration % len(experts) == 0:
            order = torch.randperm(len(experts), generator=generator).tolist()
        epoch = int(torch.randint(hyper.starts, (), generator=generator))
        expert = order[iteration % len(experts)]
        start, target = experts.weights(expert, epoch), experts.weights(expert, epoch + hyper.expert_epochs)
        batches: list[Tensor] = []
        while len(batches) < hyper.syn_steps:
            if batch_size == len(images):
                batches.append(torch.arange(len(images)))
            else:
                permutation = torch.randperm(len(images), generator=generator)
                batches += [permutation[i : i + batch_size] for i in range(0, len(images), batch_size)]
        params = augment.dsa.sample(task.strategy, hyper.syn_steps, batch_size, size, generator)

        tracked, step_size = images.clone().requires_grad_(), alpha.clone().requires_grad_()
        theta = start.clone().requires_grad_()
        for n in range(hyper.syn_steps):
            batch = batches[n]
            rows = torch.arange(n * batch_size, n * batch_size + len(batch))
            seen = augment.apply(tracked[batch], params.take(rows), align_corners=True)
            named, at = {}, 0
            for name, parameter in network.named_parameters():
                named[name] = theta[at : at + parameter.numel()].view_as(parameter)
                at += parameter.numel()
            loss = F.cross_entropy(functional_call(network, named, (seen,)), labels[batch])
            theta = theta - step_size * torch.autograd.grad(loss, theta, create_graph=True)[0]
        matching = (theta - target).pow(2).sum() / (start - target).pow(2).sum()
        gradient, alpha_gradient = torch.autograd.grad(matching, [tracked, step_size])
        speed = hyper.mom_img * speed + gradient
        images = images - hyper.lr_img * speed
        if hyper.alpha_param == "plain":
            alpha_speed = hyper.mom_lr * alpha_speed + alpha_gradient
            alpha = torch.clamp(alpha - hyper.lr_lr * alpha_speed, min=hyper.alpha_floor)
        else:  # a = log alpha; the learning rate is divided by alpha0^2
            alpha_speed = hyper.mom_lr * alpha_speed + alpha_gradient * alpha
            a = alpha.log() - hyper.lr_lr / hyper.alpha0**2 * alpha_speed
            alpha = torch.clamp(a.exp(), min=hyper.alpha_floor)
        losses.append(matching.item())
    return images, alpha.item(), losses
