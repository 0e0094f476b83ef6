"""Outer steps through an unrolled training run: MTT, HaBa and LinBa, all inner steps in one graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import Optimizer

from benchmark import networks
from benchmark.augment import dsa
from benchmark.condensation.experts import trajectories
from benchmark.condensation.run import Run
from benchmark.condensation.task import SYNTHETIC_AT_MOST, Task
from benchmark.containers import Container
from benchmark.objectives.supervised_contrastive import supervised_contrastive
from benchmark.objectives.trajectory_matching import StepSize, inner_batches
from benchmark.speed.plain.augmentation import augment, draws
from benchmark.speed.plain.network import PlainConvNet, Step, descend
from benchmark.training.unroll import flatten, unflatten
from methods.linba import LinBaLoop
from methods.mtt import MTTLoop


def unroll(
    network: nn.Module,
    start: Tensor,
    batch: Callable[[int], tuple[Tensor, Tensor]],
    steps: int,
    lr: Tensor | float,
    momentum: float = 0.0,
) -> Tensor:
    """Return flat weights [P] after `steps` steps of SGD, all of them in one graph."""
    weights, velocity = start.clone().requires_grad_(), None
    for step in range(steps):
        images, labels = batch(step)
        loss = F.cross_entropy(functional_call(network, unflatten(weights, network), (images,)), labels)
        (gradient,) = torch.autograd.grad(loss, weights, create_graph=True)
        velocity = gradient if velocity is None else momentum * velocity + gradient
        weights = weights - lr * velocity
    return weights


def trajectory_matching(loop: MTTLoop, container: Container, optimiser: Optimizer, task: Task) -> Step:
    """Return an iteration of MTT, or of HaBa if the container has several hallucinators."""
    hyper, generator, device = loop.hyper, task.generator, task.device
    experts = trajectories(task, Run(), hyper.experts, loop.expert_recipe())
    network = PlainConvNet(task.network())
    critic = Critic(hyper, container, task) if container.variants > 1 else None
    alpha = StepSize(hyper.alpha0, hyper.alpha_floor, hyper.alpha_param).to(device)
    alpha_optimiser = alpha.optimiser(hyper.lr_lr, hyper.mom_lr)
    order: list[int] = []

    def batches() -> Callable[[int], tuple[Tensor, Tensor]]:
        samples, size = sample_count(container, hyper, task)
        through_T = torch.zeros(hyper.syn_steps, dtype=torch.int64, device=device)
        if container.variants > 1:
            through_T = torch.randint(container.variants, through_T.shape, generator=generator, device=device)
        indices = inner_batches(samples, size, hyper.syn_steps, generator)
        drawn = dsa.sample(task.strategy, hyper.syn_steps, size, task.spec.image_shape[1:], generator)
        transforms = draws(drawn, hyper.syn_steps)

        def batch(step: int) -> tuple[Tensor, Tensor]:
            chosen = indices[step]
            if chosen is None:
                chosen = torch.arange(samples, device=device)
            images = task.as_seen(container, container.variant_images(chosen, through_T[step]))
            return augment(images, transforms[step], align_corners=True), container.labels[chosen * container.variants]

        return batch

    def step() -> Tensor:
        if not order:
            order.extend(torch.randperm(len(experts), generator=generator, device=device).tolist())
        begin = int(torch.randint(hyper.starts, (), generator=generator, device=device))
        expert = order.pop(0)
        start, target = experts.weights(expert, begin), experts.weights(expert, begin + hyper.expert_epochs)
        weights = unroll(network, start, batches(), hyper.syn_steps, alpha())
        loss = torch.sum((weights - target) ** 2) / torch.sum((start - target) ** 2)
        if critic:
            loss = loss + critic.diversity()
        alpha_optimiser.zero_grad()
        descend(loss, optimiser)
        alpha_optimiser.step()
        alpha.project_()
        if critic:
            critic.learn()
        return loss.detach()

    return step


def sample_count(container: Container, hyper: Any, task: Task) -> tuple[int, int]:
    """Return (samples the container holds, samples of one inner step)."""
    samples = container.num_images // container.variants
    most = min(samples, SYNTHETIC_AT_MOST * task.classes)
    return samples, min(hyper.batch_syn or most, most)


class Critic:
    """HaBa's critic, which is taught to see two hallucinations of a basis alike."""

    def __init__(self, hyper: Any, container: Container, task: Task) -> None:
        self.hyper, self.container, self.task = hyper, container, task
        self.network = PlainConvNet(twin := task.network())
        self.network.load_state_dict(dict(zip(self.network.state_dict(), twin.state_dict().values(), strict=True)))
        self.optimiser = torch.optim.SGD(self.network.parameters(), hyper.lr_critic, hyper.mom_critic)

    def pair(self) -> tuple[Tensor, Tensor]:
        """(random bases through one random hallucinator, then through another [2 N, C, H, W]; labels [2 N])."""
        container, task, generator = self.container, self.task, self.task.generator
        samples, size = sample_count(container, self.hyper, task)
        chosen = torch.randperm(samples, generator=generator, device=task.device)[:size]
        through = torch.randperm(container.variants, generator=generator, device=task.device)[:2]
        images = torch.cat([task.as_seen(container, container.variant_images(chosen, j)) for j in through])
        drawn = dsa.sample(task.strategy, 1, 2 * size, task.spec.image_shape[1:], generator)
        labels = container.labels[chosen * container.variants].repeat(2)
        return augment(images, draws(drawn, 1)[0], align_corners=True), labels

    def diversity(self) -> Tensor:
        images, _ = self.pair()
        one, other = self.network.features(images).chunk(2)
        alike = F.cosine_similarity(one, other, dim=1)
        return self.hyper.diversity * ((1 + alike) / 2).mean()

    def learn(self) -> None:
        images, labels = self.pair()
        features = self.network.features(images.detach())
        one, other = features.chunk(2)
        alike = F.cosine_similarity(one, other, dim=1)
        loss = F.cross_entropy(self.network.classifier(features), labels)
        loss = loss + self.hyper.similarity * ((1 - alike) / 2).mean()
        loss = loss + self.hyper.contrast * supervised_contrastive(features, labels, self.hyper.temperature)
        descend(loss, self.optimiser)


def training_matching(loop: LinBaLoop, container: Container, optimiser: Optimizer, task: Task) -> Step:
    """Return an outer step of LinBa without an intervention."""
    hyper, generator = loop.hyper, task.generator
    assert hyper.intervention == "none", "the plain outer step does not augment"
    network = PlainConvNet(task.network())
    every = torch.arange(task.classes, device=task.device)
    chosen = min(hyper.batch_syn, container.per_class)

    def step() -> Tensor:
        networks.initialise_(network, generator)
        rows = (task.classes, container.per_class)
        keys = [torch.rand(rows, generator=generator, device=task.device) for _ in range(hyper.inner_steps)]
        indices_TKM = [key.topk(chosen, dim=1).indices for key in keys]
        real = task.real_batch(hyper.batch_real)

        def batch(inner: int) -> tuple[Tensor, Tensor]:
            images = container.decode_classes(indices_TKM[inner]).flatten(0, 1)
            return task.as_seen(container, images), every.repeat_interleave(chosen)

        weights = unroll(network, flatten(network), batch, hyper.inner_steps, hyper.lr_net, hyper.mom_net)
        logits = functional_call(network, unflatten(weights, network), (real.flatten(0, 1),))
        loss = F.cross_entropy(logits, every.repeat_interleave(real.shape[1]))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(container.parameters(), hyper.clip)
        optimiser.step()
        return loss.detach()

    return step
