"""Pruning a condensed set: which of its images are too hard or too easy to be worth their storage (docs/methods.md 10).

    aum(x, y) = mean over logged moments of a training of z_y(x) - max_{j != y} z_j(x)      Pleiss et al., NeurIPS 2020

Double-end pruning drops the same number of images from every class: a share beta of them are those of lowest margin
(the hardest), the rest those of highest margin (the easiest). beta is chosen by how well the remaining images train,
scored on a held-out part of the *training* set; a `Task` has no test split, so nothing in this file can reach it. The
functions work on the decoded images of any container. A container that can drop images has `keep_(positions_KM)`.
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
    """Return z_y - max_{j != y} z_j of every image, [N]. With `prob`, z are softmax probabilities, as in the first
    author's CCS code."""
    scores = logits_NK.softmax(1) if space == "prob" else logits_NK
    own = labels_N[:, None]
    others = scores.masked_fill(F.one_hot(labels_N, scores.shape[1]).bool(), -torch.inf)
    return scores.gather(1, own)[:, 0] - others.amax(1)


def double_end(aum_KG: Tensor, drop: int, tenths: int) -> Tensor:
    """Return ascending positions [K, G - drop] of the images to keep in every class.

    With beta = tenths / 10, the floor(beta * drop) images of lowest AUM are dropped, and the drop - floor(beta * drop)
    images of highest. Equal AUMs count in the order of their positions.
    """
    hardest = tenths * drop // TENTHS
    order = aum_KG.argsort(dim=1, stable=True)
    return order[:, hardest : aum_KG.shape[1] - (drop - hardest)].sort(1).values


def random_positions(classes: int, per_class: int, drop: int, generator: torch.Generator) -> Tensor:
    """Return ascending positions [K, G - drop] of a random subset of every class."""
    keys = torch.rand(classes, per_class, generator=generator, device=generator.device)
    return keys.argsort(1)[:, drop:].sort(1).values


def logged_moments(steps: int, points: int) -> set[int]:
    """Return `points` evenly spaced step numbers, counted from 1, the last step included (every step if there are
    fewer)."""
    return {max(1, round(steps * (k + 1) / points)) for k in range(points)}


def measure_aum(
    images: TrainingSet, task: Task, run: Run, recipe: Recipe, nets: int, points: int, space: MarginSpace, phase: str
) -> Tensor:
    """Return the AUM [K, G] of class-major `images`, averaged over `nets` networks trained on them by `recipe`.

    The networks train under the recipe's augmentation. Margins are measured without any, at `points` moments of the
    training. Raises NotFinite if an AUM is not finite.
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
    """Return, for each beta in tenths, the accuracy on `validation` of every network trained on the images that it
    keeps.

    All betas share the initial networks and the generators, so that images are compared, not luck.
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
    """Return the beta (in tenths) of the highest mean accuracy, the smaller one in a tie."""
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
