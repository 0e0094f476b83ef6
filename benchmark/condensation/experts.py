"""Expert trajectories: the weights of networks at every epoch of their training on real data (MTT, HaBa).

Experts are trained as ensembles and each is kept in one memory-mapped safetensors file below the cache folder, float32,
from its initialisation to the last epoch anyone has asked for. What an expert is depends on the images and how they
are seen, the recipe, the repetition and its number, and on nothing else: every cell that wants it shares it, more
experts are added to those there are, and one that is too short is trained on from where it ends.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import tempfile
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from benchmark import networks
from benchmark.condensation.run import Run
from benchmark.condensation.task import PIXELS_AT_ONCE, Task
from benchmark.data import DatasetSpec
from benchmark.system import locks
from benchmark.system.files import canonical_json
from benchmark.system.runtime import derive_seed
from benchmark.training.recipes import Recipe
from benchmark.training.trainer import Ensemble, Training, TrainingSet

FORMAT = 1
SNAPSHOT_BYTES = 2**29
"""Of one group: all of its snapshots are held in memory and are part of its checkpoints until the group is done."""


def expert_recipe(epochs: int, lr: float = 0.01, batch: int = 256) -> Recipe:
    """MTT's: plain SGD at a constant rate under DSA with one operation a batch (METHODS 6)."""
    return Recipe(epochs=epochs, batch=batch, lr=lr, momentum=0, weight_decay=0, decay="constant", align_corners=True)


@dataclass(frozen=True)
class ExpertTrajectories:
    """What trajectory matching needs made: `count` experts of a recipe's length (a `Prerequisite`)."""

    count: int
    recipe: Recipe
    zca: bool = False
    """Whether they see the images ZCA-whitened."""

    def identity(self) -> dict[str, Any]:
        return {"experts": self.count, "recipe": dataclasses.asdict(self.recipe), "zca": self.zca}

    def make(self, task: Task, run: Run) -> None:
        self.get(task, run)

    def get(self, task: Task, run: Run) -> Experts:
        """The experts, trained as far as they are not in the task's cache."""
        return trajectories(task.whitened() if self.zca else task, run, self.count, self.recipe)

    def images(self, spec: DatasetSpec) -> float:
        """Images that training them sees, as if no other cell had trained them (500 a class if unknown)."""
        return float(self.count * self.recipe.epochs * (spec.train_images or 500 * spec.classes))


class Damaged(ValueError):
    """A stored expert that is not what it should be."""


@dataclass(frozen=True)
class Experts:
    """Trained experts, on disk: weights are read when they are asked for."""

    paths: tuple[Path, ...]
    epochs: int
    device: torch.device
    folder: tempfile.TemporaryDirectory | None = None
    """What must outlive them where there is no cache."""

    def __len__(self) -> int:
        return len(self.paths)

    def weights(self, expert: int, epoch: int) -> Tensor:
        """Flat weights [P] on the device after `epoch` epochs; 0 is the initialisation."""
        assert 0 <= epoch <= self.epochs, "beyond the trajectory"
        with safe_open(self.paths[expert], "pt") as file:
            return file.get_slice("weights")[epoch].to(self.device)


def trajectories(task: Task, run: Run, count: int, recipe: Recipe) -> Experts:
    """`count` ConvNets trained on the task's images, as it sees them, for `recipe.epochs` epochs.

    From the task's cache as far as they are there. A damaged file is named in a warning and its expert trained again.
    """
    trainer = ExpertTrainer(task, run, recipe)
    with locks.turn(task.cache, f"experts-{trainer.folder.name}", run.should_stop):
        found = [trainer.epochs_stored(expert) for expert in range(count)]
        for group in trainer.groups([expert for expert in range(count) if found[expert] < recipe.epochs], found):
            trainer.train(group, max(0, found[group[0]]))
    return Experts(tuple(map(trainer.path, range(count))), recipe.epochs, task.device, trainer.temporary)


class ExpertTrainer:
    """Trains groups of experts and stores each in a file of its own."""

    def __init__(self, task: Task, run: Run, recipe: Recipe) -> None:
        self.task, self.run, self.recipe = task, run, recipe
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
        self.temporary = None if task.cache else tempfile.TemporaryDirectory(prefix="experts-")
        readable = re.sub(r"[^\w-]+", "-", task.spec.name)[-40:]
        key = hashlib.sha256(self.purpose.encode()).hexdigest()[:16]
        root = task.cache / "experts" if task.cache else Path(self.temporary.name)
        self.folder = root / f"{readable}-{key}"

    def path(self, expert: int) -> Path:
        return self.folder / f"expert-{expert:03d}.safetensors"

    def epochs_stored(self, expert: int) -> int:
        """Epochs that the expert's file holds; -1 where there is none or it is damaged."""
        path = self.path(expert)
        if not path.exists():
            return -1
        try:
            return len(self._load(path)[0]) - 1
        except (Damaged, SafetensorError, OSError, KeyError, ValueError) as error:
            warnings.warn(f"{path} is damaged ({error}); this expert is trained again", stacklevel=3)
            return -1

    def groups(self, wanted: list[int], found: list[int]) -> list[list[int]]:
        """Experts to be trained together: as many as memory allows that start at the same epoch. Always neighbours, so
        that first and last name the group when it is resumed."""
        parameters = sum(p.numel() for p in self.network.parameters())
        by_snapshots = SNAPSHOT_BYTES // (4 * parameters * (self.recipe.epochs + 1))
        by_batch = PIXELS_AT_ONCE // (self.recipe.batch * self.task.spec.pixels)
        together, groups = max(1, min(by_snapshots, by_batch)), []
        for expert in wanted:
            last = groups[-1] if groups else []
            joins = last and last[-1] == expert - 1 and found[last[-1]] == found[expert] and len(last) < together
            groups = [*groups[:-1], [*last, expert]] if joins else [*groups, [expert]]
        return groups

    def train(self, group: list[int], begin: int) -> None:
        """Train and store a group, from epoch `begin` of what is stored."""
        task, recipe = self.task, self.recipe
        ensemble = Ensemble(self.network, [derive_seed(self.purpose, expert) for expert in group], task.runtime)
        data = TrainingSet.real(task.train)
        training = Training(ensemble, data, recipe, task.strategy)
        parameters = sum(p[0].numel() for p in ensemble.parameters.values())
        snapshots_EtP = torch.zeros(len(group), recipe.epochs + 1, parameters)
        if begin:
            self._go_on(ensemble, group, begin, snapshots_EtP)
        else:
            snapshots_EtP[:, 0] = flat_members(ensemble)
        per_epoch = recipe.steps_per_epoch(len(data))
        phase, first = f"experts {group[0] + 1}-{group[-1] + 1}", begin * per_epoch
        state = {"training": training, "snapshots": snapshots_EtP}
        for step in self.run.loop(phase, recipe.epochs * per_epoch - first, **state):
            self.run.log(loss=training.step(first + step).mean())
            epoch, rest = divmod(first + step + 1, per_epoch)
            if not rest:
                snapshots_EtP[:, epoch] = flat_members(ensemble)
        for expert, weights_tP, generator in zip(group, snapshots_EtP, ensemble.generators, strict=True):
            self._store(self.path(expert), weights_tP.contiguous(), generator)

    def _go_on(self, ensemble: Ensemble, group: list[int], begin: int, snapshots_EtP: Tensor) -> None:
        """Bring the ensemble to where the stored experts end. The optimiser has no state and the order is drawn anew at
        an epoch's start, so weights and generators are everything."""
        for row, (expert, generator) in enumerate(zip(group, ensemble.generators, strict=True)):
            weights_tP, state = self._load(self.path(expert))
            snapshots_EtP[row, : begin + 1] = weights_tP[: begin + 1]
            generator.set_state(state)
        sizes = [p[0].numel() for p in ensemble.parameters.values()]
        for parameter, part in zip(ensemble.parameters.values(), snapshots_EtP[:, begin].split(sizes, 1), strict=True):
            parameter.copy_(part.view_as(parameter))

    def _load(self, path: Path) -> tuple[Tensor, Tensor]:
        """(weights [epochs + 1, P], state of the generator after the last epoch). Raises Damaged for other contents."""
        with safe_open(path, "pt") as file:
            metadata, weights_tP, state = file.metadata(), file.get_tensor("weights"), file.get_tensor("generator")
        if not metadata or metadata["purpose"] != self.purpose:
            raise Damaged("it was made for something else")
        if int(metadata["checksum"]) != checksum(weights_tP, state):
            raise Damaged("its contents do not match their checksum")
        return weights_tP, state

    def _store(self, path: Path, weights_tP: Tensor, generator: torch.Generator) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
        state = generator.get_state()
        metadata = {"purpose": self.purpose, "checksum": str(checksum(weights_tP, state))}
        try:
            save_file({"weights": weights_tP, "generator": state}, unfinished, metadata)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)


def flat_members(ensemble: Ensemble) -> Tensor:
    """Flat weights [E, P] of every member on the CPU, a copy."""
    return torch.cat([p.detach().flatten(1) for p in ensemble.parameters.values()], 1).cpu()


def checksum(weights_tP: Tensor, state: Tensor) -> int:
    return zlib.crc32(state.numpy(), zlib.crc32(weights_tP.numpy()))
