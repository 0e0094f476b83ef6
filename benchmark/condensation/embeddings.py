"""Embeddings of the training images, by a network trained on them. Coreset selection measures distances between them.

The network depends on the data, the repetition and the length of its training, not on the method or the IPC. So it is
kept in the cache folder and shared by the cells that need it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmark import networks
from benchmark.condensation.run import Run
from benchmark.condensation.task import Task
from benchmark.system import cache
from benchmark.system.runtime import derive_seed
from benchmark.training.recipes import Recipe
from benchmark.training.trainer import SCORING_BATCH, Ensemble, Training, TrainingSet


def trained_embedding(task: Task, run: Run, steps: int) -> Tensor:
    """Return embeddings [N, D] of all training images, by a ConvNet trained on them for `steps` steps of the unified
    recipe."""
    purpose = ("features", task.spec.name, task.train.fingerprint, task.seed, steps, task.runtime.precision)
    network = networks.build("convnet", task.spec.image_shape, task.classes)
    ensemble = Ensemble(network, [derive_seed(*purpose)], task.runtime)

    def make() -> dict[str, Tensor]:
        _train(ensemble, task, run, steps)
        return ensemble.parameters

    places = (task.cache,) if task.cache else ()
    on_device = [*purpose, task.device.type]  # generators of devices differ
    name = f"features/{cache.name_for(task.spec.name, on_device)}"
    for part, tensor in cache.get_or_make(places, name, on_device, make, run.should_stop).items():
        ensemble.parameters[part].copy_(tensor)
    return embed(ensemble, task)


def _train(ensemble: Ensemble, task: Task, run: Run, steps: int) -> None:
    data = TrainingSet.real(task.train)
    training = Training(ensemble, data, Recipe(steps=steps), task.strategy)
    for step in run.loop("features", steps, training=training):
        run.log(loss=training.step(step).mean())


@torch.no_grad()
def embed(ensemble: Ensemble, task: Task) -> Tensor:
    """Return embeddings [N, D] of all training images, by the first network of the ensemble."""
    network = ensemble.network_of(0)
    indices = torch.arange(len(task.train), device=task.device)
    return torch.cat([network.features(task.train.gather(part)) for part in indices.split(SCORING_BATCH)])
