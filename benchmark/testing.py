"""The conformance test of a method. Third parties call it too:

from benchmark.testing import check_method
def test_my_method():
    check_method(MyMethod)
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmark import data
from benchmark.condensation.method import Method
from benchmark.condensation.run import Run
from benchmark.condensation.settings import Schedule, settings_of
from benchmark.containers.budget import Budget
from benchmark.data import Dataset
from benchmark.engines.job import CONDENSED, JobRunner
from benchmark.evaluation.evaluate import evaluate
from benchmark.grid import registry
from benchmark.store.cells import Cell, Evaluation, Job
from benchmark.store.condensed_set import load_artifact
from benchmark.store.folder import Store
from benchmark.system.errors import Stopped
from benchmark.system.runtime import Runtime
from benchmark.training.recipes import Recipe
from benchmark.training.training_set import training_set

FEW_STEPS = 3
SHORT = Recipe(steps=4)


def short_job(method: type[Method], dataset: Dataset, ipc: int = 1, seed: int = 0, **settings: Any) -> Job:
    """Return a job of the method that takes a few steps: the quick schedule, every scaled field at `FEW_STEPS`,
    `settings`."""
    few = {name: FEW_STEPS for name, setting in settings_of(method.Hyper).items() if setting.scaled}
    hyper = method.hyper_parameters(dataset.spec, ipc, Schedule.parse("quick"), few | settings)
    cell = Cell(
        method=method.name,
        dataset=dataset.spec.name,
        ipc=ipc if method.condenses else 0,
        seed=seed,
        schedule="quick",
        budget="strict",
        precision="float32",
        version=method.version,
        hyper=dataclasses.asdict(hyper),
    )
    return Job(cell, (Evaluation("unified", "convnet", 2, SHORT, 1.0),))


def run_job(
    job: Job, dataset: Dataset, folder: Path, stop: Callable[[], bool] = lambda: False
) -> tuple[dict[str, Tensor], list[float]]:
    """Run a job in a folder of its own; return (tensors of the condensed set, accuracies)."""
    store, runtime = Store(folder), Runtime(dataset.train.images.device)
    result = JobRunner(store, runtime, cache=folder / "cache", should_stop=stop).run(job, dataset)
    artifact = load_artifact(store.directory(job.cell) / CONDENSED, dataset)
    return artifact.container.state_dict(), list(result.evaluations[0].accuracies)


def check_method(method: type[Method], dataset: Dataset | None = None, ipc: int = 1, **settings: Any) -> None:
    """Assert that a method keeps the contract, by condensing digits (or `dataset`) for a few steps on the CPU.

    It checks the card and the fields; the budget and the announced storage; decoded shapes, labels and finite pixels;
    that the same seed gives the same bits, also after a stop and resume at every step; and that the saved set scores
    what was reported. `settings` override hyper-parameters, to keep a long inner loop short.
    """
    registry.check(method)
    assert registry.get(method.name) is method, f"{method.name} is registered as another class"
    dataset = dataset or data.load("digits", Path())
    job = short_job(method, dataset, ipc, **settings)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        tensors, scores = run_job(job, dataset, root / "once")
        _check_condensed(method, job, dataset, root / "once", scores)
        again, scores_again = run_job(job, dataset, root / "again")
        _same(tensors, again, "the same seed gave other bits")
        assert scores == scores_again, "the same seed gave other accuracies"
        other, _ = run_job(short_job(method, dataset, ipc, 1, **settings), dataset, root / "other")
        assert tensors.keys() == other.keys(), "another seed gave a container of another form"
        resumed, scores_resumed = _run_with_stops(job, dataset, root / "stopped")
        _same(tensors, resumed, "stop and resume gave other bits")
        assert scores == scores_resumed, "stop and resume gave other accuracies"


def _check_condensed(method: type[Method], job: Job, dataset: Dataset, folder: Path, scores: list[float]) -> None:
    store, cell = Store(folder), job.cell
    assert store.is_done(job), "the cell is not done after a run"
    container = load_artifact(store.directory(cell) / CONDENSED, dataset).container
    budget = Budget(cell.ipc, dataset.spec.classes, dataset.spec.image_shape)
    budget.check(container.num_floats)
    if method.condenses:
        stored = sum(t.numel() for t in container.state_dict().values() if t.is_floating_point())
        assert container.num_floats == stored, "num_floats is not what is saved"
        cost = registry.build(cell).cost(dataset.spec, budget)
        assert cost.floats == container.num_floats, f"cost() says {cost.floats} floats, not {container.num_floats}"
        assert cost.images == container.num_images, f"cost() says {cost.images} images, not {container.num_images}"
    images, labels = container.decode()
    assert images.shape == (container.num_images, *dataset.spec.image_shape), f"decoded shape {tuple(images.shape)}"
    assert torch.isfinite(images).all(), "decoded pixels are not all finite"
    assert labels.dtype == torch.int64 and len(labels) == len(images), "one int64 label per image"
    assert set(labels.tolist()) == set(range(dataset.spec.classes)), "a class has no image"
    some = torch.tensor([len(images) - 1, 0])
    part, part_labels = container.decode(some)
    torch.testing.assert_close(part, images[some], rtol=1e-5, atol=1e-6)
    assert torch.equal(part_labels, labels[some]), "decode(indices) disagrees with decode()"
    runtime, evaluation = Runtime(torch.device("cpu")), job.evaluations[0]
    rescored = evaluate(
        evaluation, training_set(container, dataset.train), dataset, runtime, Run(), cell.key, container.learned_lr
    )
    assert list(rescored.accuracies) == scores, "the saved set does not score what was reported"


def _same(first: dict[str, Tensor], second: dict[str, Tensor], complaint: str) -> None:
    assert first.keys() == second.keys(), complaint
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), f"{complaint} ({name})"


def _run_with_stops(job: Job, dataset: Dataset, folder: Path) -> tuple[dict[str, Tensor], list[float]]:
    """Run a job, stopping at every step boundary and resuming from the files."""
    for _ in range(200):
        try:
            return run_job(job, dataset, folder, stop=lambda: True)
        except Stopped:
            continue
    raise AssertionError("the job does not advance: every attempt was stopped and none went further")
