"""Pruning a condensed set: which of its images are too hard or too easy to be worth their storage (METHODS 10).

    aum(x, y) = mean over logged moments of a training of z_y(x) - max_{j != y} z_j(x)      Pleiss et al., NeurIPS 2020

Double-end pruning drops, in every class alike, a share beta of what must go from the images of lowest margin (hardest)
and the rest from those of highest (easiest). beta is the one that trains best by a part of the *training* set that was
held out; a `Task` has no test split, so nothing in this file can reach it. Works on the decoded images of any
container; one that can drop images offers `keep_(positions_KM)`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark import networks
from benchmark.condensation.run import Run
from benchmark.condensation.task import Task
from benchmark.data import Split
from benchmark.system.errors import NotFinite
from benchmark.training.recipes import Recipe
from benchmark.training.trainer import SCORING_BATCH, Ensemble, Training, TrainingSet, accuracies

MarginSpace = Literal["logits", "prob"]

TENTHS = 10
"""beta is counted in tenths, so that the numbers of images are exact integers."""


def margins(logits_NK: Tensor, labels_N: Tensor, space: MarginSpace = "logits") -> Tensor:
    """z_y - max_{j != y} z_j of every image, [N]. `prob`: of softmax probabilities, as the first author's CCS code."""
    scores = logits_NK.softmax(1) if space == "prob" else logits_NK
    own = labels_N[:, None]
    others = scores.masked_fill(F.one_hot(labels_N, scores.shape[1]).bool(), -torch.inf)
    return scores.gather(1, own)[:, 0] - others.amax(1)


def area_under_margin(logits_TNK: Tensor, labels_N: Tensor, space: MarginSpace = "logits") -> Tensor:
    """Mean of `margins` over T logged moments, [N]."""
    return torch.stack([margins(logits, labels_N, space) for logits in logits_TNK]).mean(0)


def double_end(aum_KG: Tensor, drop: int, tenths: int) -> Tensor:
    """Ascending positions [K, G - drop] of the images to keep in every class.

    With beta = tenths / 10: the floor(beta * drop) images of lowest AUM go, and the drop - floor(beta * drop) of
    highest. Equal AUMs count in the order of their positions.
    """
    hardest = tenths * drop // TENTHS
    order = aum_KG.argsort(dim=1, stable=True)
    return order[:, hardest : aum_KG.shape[1] - (drop - hardest)].sort(1).values


def random_positions(classes: int, per_class: int, drop: int, generator: torch.Generator) -> Tensor:
    """Ascending positions [K, G - drop] of a random subset of every class."""
    keys = torch.rand(classes, per_class, generator=generator, device=generator.device)
    return keys.argsort(1)[:, drop:].sort(1).values


def logged_moments(steps: int, points: int) -> set[int]:
    """`points` evenly spaced step numbers, 1-based, the last one included (every step where there are fewer)."""
    return {max(1, round(steps * (k + 1) / points)) for k in range(points)}


def measure_aum(
    images: TrainingSet, task: Task, run: Run, recipe: Recipe, nets: int, points: int, space: MarginSpace, phase: str
) -> Tensor:
    """AUM [K, G] of class-major `images`, averaged over `nets` networks trained on them by `recipe`.

    Trained under the recipe's augmentation; margins are measured without any, at `points` moments of the training.
    Raises NotFinite.
    """
    training = _training(images, task, recipe, nets)
    total, moments = torch.zeros(len(images), device=task.device), logged_moments(training.total_steps, points)
    for step in run.loop(phase, training.total_steps, training=training, total=total):
        run.log(loss=training.step(step).mean())
        if step + 1 in moments:
            for index in range(nets):
                total += _margins_of(training.ensemble, index, images, space)
    if not total.isfinite().all():
        raise NotFinite("an area under the margin is not finite")
    return (total / (len(moments) * nets)).unflatten(0, (task.classes, -1))


def search_beta(
    images: TrainingSet,
    aum_KG: Tensor,
    drop: int,
    grid: Iterable[int],
    validation: Split,
    task: Task,
    run: Run,
    recipe: Recipe,
    nets: int,
    phase: str,
) -> dict[int, list[float]]:
    """Accuracy on `validation` of every network trained on what each beta (in tenths) leaves, by beta.

    The same initial networks and generators for every beta, so that the comparison is of images, not of luck.
    """
    judged = TrainingSet.real(validation)
    seeds = _seeds(task, nets)
    offsets = torch.arange(task.classes, device=task.device)[:, None] * aum_KG.shape[1]
    scores = {}
    for tenths in grid:
        kept = (double_end(aum_KG, drop, tenths) + offsets).flatten()
        subset = TrainingSet.of(images.gather(kept), images.labels[kept])
        training = _training(subset, task, recipe, nets, seeds)
        for step in run.loop(f"{phase} {tenths / TENTHS}", training.total_steps, training=training):
            run.log(loss=training.step(step).mean())
        scores[tenths] = accuracies(training.ensemble, judged)
    return scores


def best_beta(scores: dict[int, list[float]]) -> int:
    """The beta (in tenths) of the highest mean accuracy; the smaller one in a tie."""
    return min(scores, key=lambda tenths: (-sum(scores[tenths]) / len(scores[tenths]), tenths))


def _seeds(task: Task, nets: int) -> list[int]:
    return torch.randint(2**62, (nets,), generator=task.generator, device=task.device).tolist()


def _training(images: TrainingSet, task: Task, recipe: Recipe, nets: int, seeds: list[int] | None = None) -> Training:
    network = networks.build("convnet", task.spec.image_shape, task.classes)
    ensemble = Ensemble(network, seeds or _seeds(task, nets), task.runtime)
    return Training(ensemble, images, recipe, task.strategy)


@torch.no_grad()
def _margins_of(ensemble: Ensemble, index: int, images: TrainingSet, space: MarginSpace) -> Tensor:
    everything = torch.arange(len(images), device=images.labels.device)
    return torch.cat(
        [
            margins(ensemble.logits(ensemble.member(index), images.gather(part)), images.labels[part], space)
            for part in everything.split(SCORING_BATCH)
        ]
    )
