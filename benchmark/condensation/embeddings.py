"""Embeddings of the training images by a network trained on them: what coreset selection measures distances in.

The network depends on the data, the repetition and the length of its training, not on the method or the IPC, so it is
kept in the cache folder and shared by the cells that need it.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor

from benchmark import networks
from benchmark.condensation.run import Run
from benchmark.condensation.task import Task
from benchmark.system import checkpoint, locks
from benchmark.system.runtime import derive_seed
from benchmark.training.recipes import Recipe
from benchmark.training.trainer import SCORING_BATCH, Ensemble, Training, TrainingSet


def trained_embedding(task: Task, run: Run, steps: int) -> Tensor:
    """Embeddings [N, D] of all training images, by a ConvNet trained on them for `steps` unified steps."""
    purpose = ("features", task.spec.name, task.train.fingerprint, task.seed, steps, task.runtime.precision)
    seed = derive_seed(*purpose)
    network = networks.build("convnet", task.spec.image_shape, task.classes)
    ensemble = Ensemble(network, [seed], task.runtime)
    state = {"parameters": ParameterState(ensemble)}
    header = {"purpose": list(purpose)}
    path = task.cache / "features" / f"{task.device.type}-{seed:016x}.safetensors" if task.cache else None
    with locks.turn(task.cache, f"features-{seed:016x}", run.should_stop):
        if not (path and _restored(path, header, state)):
            _train(ensemble, task, run, steps)
            if path:
                _keep(path, header, state)
    return embed(ensemble, task)


def _train(ensemble: Ensemble, task: Task, run: Run, steps: int) -> None:
    data = TrainingSet.real(task.train)
    training = Training(ensemble, data, Recipe(steps=steps), task.strategy)
    for step in run.loop("features", steps, training=training):
        run.log(loss=training.step(step).mean())


def _keep(path: Path, header: dict[str, list], state: checkpoint.State) -> None:
    try:
        checkpoint.save_state(path, state, header)
    except OSError as error:
        warnings.warn(f"cannot keep the feature network in {path}: {error}", stacklevel=2)


def _restored(path: Path, header: dict[str, list], state: checkpoint.State) -> bool:
    """Whether `path` held the wanted network, which then fills `state`."""
    if checkpoint.read_header(path) != header:
        return False
    try:
        checkpoint.load_state(path, state)
    except checkpoint.CheckpointError as error:
        warnings.warn(f"{error}; it is trained again", stacklevel=2)
        return False
    return True


class ParameterState:
    """The parameters of an ensemble, without its generators, as a state to save."""

    def __init__(self, ensemble: Ensemble) -> None:
        self.ensemble = ensemble

    def state_dict(self) -> dict[str, Tensor]:
        return self.ensemble.parameters

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, parameter in self.ensemble.parameters.items():
            parameter.copy_(state[name])


@torch.no_grad()
def embed(ensemble: Ensemble, task: Task) -> Tensor:
    network = ensemble.network_of(0)
    indices = torch.arange(len(task.train), device=task.device)
    return torch.cat([network.features(task.train.gather(part)) for part in indices.split(SCORING_BATCH)])
