"""Expert trajectories: the weights of networks at every epoch of their training on real data (MTT, HaBa).

Experts are trained as ensembles. Each is kept in one memory-mapped safetensors file below the cache folder, float32,
from its initialisation to the last epoch that anyone has asked for. An expert depends on the images and how networks
see them, the recipe, the repetition and its own number, and on nothing else. So every cell that wants it shares it:
missing experts are added to those that exist, and an expert that is too short is trained further from where it ends.
"""

from __future__ import annotations

import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from benchmark import networks
from benchmark.condensation.run import Run
from benchmark.condensation.task import PIXELS_AT_ONCE, Task
from benchmark.data import DatasetSpec
from benchmark.system import cache, locks
from benchmark.system.files import DamagedFile, canonical_json
from benchmark.system.runtime import derive_seed
from benchmark.training.recipes import Recipe
from benchmark.training.trainer import Ensemble, Training, TrainingSet

FORMAT = 1
SNAPSHOT_BYTES = 2**29
"""The most bytes of snapshots in a group of several experts. They are held in memory, and are part of the checkpoints,
until the group is done."""


def expert_recipe(epochs: int, lr: float = 0.01, batch: int = 256) -> Recipe:
    """Return MTT's recipe of an expert: plain SGD at a constant rate, under DSA with one operation per batch
    (docs/methods.md 6)."""
    return Recipe(epochs=epochs, batch=batch, lr=lr, momentum=0, weight_decay=0, decay="constant", align_corners=True)


@dataclass(frozen=True)
class ExpertTrajectories:
    """What trajectory matching needs before it starts, as a `Prerequisite`: `count` experts trained by a recipe."""

    count: int
    recipe: Recipe
    zca: bool = False
    """Whether the experts see ZCA-whitened images."""

    @property
    def epochs(self) -> int:
        """Epochs that each expert is trained."""
        return self.recipe.epoch_count

    def identity(self) -> dict[str, Any]:
        return {"experts": self.count, "recipe": dataclasses.asdict(self.recipe), "zca": self.zca}

    def make(self, task: Task, run: Run) -> None:
        self.get(task, run)

    def get(self, task: Task, run: Run) -> Experts:
        """Return the experts; those that the task's cache lacks are trained first."""
        return trajectories(task.whitened() if self.zca else task, run, self.count, self.recipe)

    def images(self, spec: DatasetSpec) -> float:
        """Return how many images their training shows, as if no other cell had trained them (500 per class if the data
        set's size is unknown)."""
        return float(self.count * self.epochs * (spec.train_images or 500 * spec.classes))


@dataclass(frozen=True)
class Experts:
    """Trained experts on disk; weights are read only when they are asked for."""

    paths: tuple[Path, ...]
    epochs: int
    device: torch.device
    folder: tempfile.TemporaryDirectory | None = None
    """The temporary folder that holds the files where there is no cache. It exists as long as this object."""

    def __len__(self) -> int:
        return len(self.paths)

    def weights(self, expert: int, epoch: int) -> Tensor:
        """Return an expert's flat weights [P] on the device after `epoch` epochs; epoch 0 is the initialisation."""
        assert 0 <= epoch <= self.epochs, "beyond the trajectory"
        with safe_open(self.paths[expert], "pt") as file:
            return file.get_slice("weights")[epoch].to(self.device)


def trajectories(task: Task, run: Run, count: int, recipe: Recipe) -> Experts:
    """Return `count` ConvNets trained on the task's images, as the task sees them, for `recipe.epochs` epochs.

    Experts in the task's cache are used as far as they go. A damaged file is named in a warning, and its expert is
    trained again.
    """
    trainer = ExpertTrainer(task, run, recipe)
    with locks.turn(task.cache, f"experts-{trainer.folder.name}", run.should_stop):
        found = [trainer.epochs_stored(expert) for expert in range(count)]
        for group in trainer.groups([expert for expert in range(count) if found[expert] < trainer.epochs], found):
            trainer.train(group, max(0, found[group[0]]))
    return Experts(tuple(map(trainer.path, range(count))), trainer.epochs, task.device, trainer.temporary)


class ExpertTrainer:
    """Trains groups of experts and stores each in a file of its own."""

    def __init__(self, task: Task, run: Run, recipe: Recipe) -> None:
        self.task, self.run, self.recipe, self.epochs = task, run, recipe, recipe.epoch_count
        self.network = networks.build_matching(task.spec.image_shape, task.classes)
        self.purpose = canonical_json({
            "format": FORMAT,
            "images": task.train.fingerprint,
            "whitening": task.train.whitening and task.train.whitening.digest,
            "normalisation": [task.train.mean.tolist(), task.train.std.tolist()],
            "network": ["convnet", [list(p.shape) for p in self.network.parameters()]],
            "recipe": dataclasses.asdict(recipe) | {"epochs": None},
            "strategy": task.strategy,
            "repetition": task.seed,
            "precision": task.runtime.precision,
            "device": task.device.type,  # their generators differ
        })  # fmt: skip
        self.temporary: tempfile.TemporaryDirectory[str] | None = None
        if task.cache:
            root = task.cache / "experts"
        else:
            self.temporary = tempfile.TemporaryDirectory(prefix="experts-")
            root = Path(self.temporary.name)
        self.folder = root / cache.name_for(task.spec.name, self.purpose)

    def path(self, expert: int) -> Path:
        return self.folder / f"expert-{expert:03d}.safetensors"

    def epochs_stored(self, expert: int) -> int:
        """Return how many epochs the expert's file holds; -1 if there is no file or it is damaged."""
        stored = cache.load(self.path(expert), self.purpose)
        return -1 if stored is None else len(stored["weights"]) - 1

    def groups(self, wanted: list[int], found: list[int]) -> list[list[int]]:
        """Return the experts in the groups that are trained together: as many as memory allows, all starting at the
        same epoch. The members of a group are neighbours, so that its first and last number name it when it is
        resumed."""
        parameters = sum(p.numel() for p in self.network.parameters())
        by_snapshots = SNAPSHOT_BYTES // (4 * parameters * (self.epochs + 1))
        by_batch = PIXELS_AT_ONCE // (self.recipe.batch * self.task.spec.pixels)
        together = max(1, min(by_snapshots, by_batch))
        groups: list[list[int]] = []
        for expert in wanted:
            last = groups[-1] if groups else []
            joins = last and last[-1] == expert - 1 and found[last[-1]] == found[expert] and len(last) < together
            groups = [*groups[:-1], [*last, expert]] if joins else [*groups, [expert]]
        return groups

    def train(self, group: list[int], begin: int) -> None:
        """Train a group of experts, from epoch `begin` of what is stored, and store them."""
        task, recipe = self.task, self.recipe
        ensemble = Ensemble(self.network, [derive_seed(self.purpose, expert) for expert in group], task.runtime)
        data = TrainingSet.real(task.train)
        training = Training(ensemble, data, recipe, task.strategy)
        parameters = sum(p[0].numel() for p in ensemble.parameters.values())
        snapshots_EtP = torch.zeros(len(group), self.epochs + 1, parameters)
        if begin:
            self._go_on(ensemble, group, begin, snapshots_EtP)
        else:
            snapshots_EtP[:, 0] = flat_members(ensemble)
        per_epoch = recipe.steps_per_epoch(len(data))
        phase, first = f"experts {group[0] + 1}-{group[-1] + 1}", begin * per_epoch
        state = {"training": training, "snapshots": snapshots_EtP}
        for step in self.run.loop(phase, self.epochs * per_epoch - first, **state):
            self.run.log(loss=training.step(first + step).mean())
            epoch, rest = divmod(first + step + 1, per_epoch)
            if not rest:
                snapshots_EtP[:, epoch] = flat_members(ensemble)
        for expert, weights_tP, generator in zip(group, snapshots_EtP, ensemble.generators, strict=True):
            cache.keep(self.path(expert), self.purpose, {"weights": weights_tP, "generator": generator.get_state()})

    def _go_on(self, ensemble: Ensemble, group: list[int], begin: int, snapshots_EtP: Tensor) -> None:
        """Bring the ensemble to where the stored experts end. The optimiser has no state, and the order is drawn anew
        at the start of an epoch, so weights and generators are everything."""
        for row, (expert, generator) in enumerate(zip(group, ensemble.generators, strict=True)):
            stored = cache.load(self.path(expert), self.purpose)
            if stored is None:
                raise DamagedFile(f"{self.path(expert)} was whole a moment ago; give the same command again")
            snapshots_EtP[row, : begin + 1] = stored["weights"][: begin + 1]
            generator.set_state(stored["generator"])
        sizes = [p[0].numel() for p in ensemble.parameters.values()]
        for parameter, part in zip(ensemble.parameters.values(), snapshots_EtP[:, begin].split(sizes, 1), strict=True):
            parameter.copy_(part.view_as(parameter))


def flat_members(ensemble: Ensemble) -> Tensor:
    """Return a copy of the flat weights [E, P] of all members, on the CPU."""
    return torch.cat([p.detach().flatten(1) for p in ensemble.parameters.values()], 1).cpu()
