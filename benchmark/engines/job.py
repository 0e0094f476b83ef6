"""Running one job: condense, save, evaluate, and write the result. Engines call it, on this machine or another."""

from __future__ import annotations

import contextlib
import dataclasses
import platform
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmark import __version__
from benchmark.condensation.run import Progress, Run, append_log
from benchmark.condensation.task import Task
from benchmark.containers import Container
from benchmark.data import Dataset
from benchmark.engines.failures import describe_failure, now
from benchmark.evaluation.evaluate import evaluate
from benchmark.grid import registry
from benchmark.store.cells import RESULT_FORMAT, Cell, Job
from benchmark.store.condensed_set import CONDENSED, Artifact, ArtifactError, load_artifact, save_artifact
from benchmark.store.folder import Store
from benchmark.store.preview import write_preview
from benchmark.store.records import (
    Condensation,
    DatasetCard,
    Environment,
    EvaluationResult,
    Origin,
    Phase,
    Result,
    as_json,
    from_json,
)
from benchmark.system.errors import NotFinite, Stopped
from benchmark.system.locks import Claimed, claim
from benchmark.system.runtime import Runtime, derive_seed
from benchmark.training.training_set import training_set

CHECKPOINT_SECONDS = 60.0
"""The longest time between two saves of a phase whose steps are short."""


class OnDevice:
    """The data set of the last job on the device. It is moved there once for all successive jobs that want it."""

    def __init__(self, load: Callable[[str], Dataset], device: torch.device) -> None:
        """load: returns the data set of a name."""
        self.load, self.device = load, device
        self._latest: Dataset | None = None

    def __call__(self, name: str) -> Dataset:
        if self._latest is None or self._latest.spec.name != name:
            self._latest = self.load(name).to(self.device)
        return self._latest


@dataclass(frozen=True)
class JobRunner:
    """Runs jobs, with what all jobs of a process share."""

    store: Store
    runtime: Runtime
    cache: Path | None = None
    progress: Progress = lambda *_: None
    should_stop: Callable[[], bool] = lambda: False

    def run(self, job: Job, dataset: Dataset) -> Result:
        """Do what is missing of a job, and return its stored result. `dataset` lies on the runtime's device.

        Raises what the cell raised, after recording it as the cell's failure; `Stopped` when asked to stop; and
        `Claimed` if another process is working on the cell.
        """
        if not self.store.is_done(job):
            with claim(self.store.claim(job.cell)):
                if not self.store.is_done(job):  # by the process that held the claim a moment ago
                    with self._recorded(job.cell):
                        artifact = self._condense(job, dataset)
                        self._conclude(job, dataset, artifact, self._score(job, dataset, artifact))
        return self._result(job.cell)

    # The same in parts, for an engine that spreads one job. Each raises as `run` does.

    def prepare(self, job: Job, dataset: Dataset) -> None:
        """Make, in the cache, what the cell shares with others (`Method.prerequisites`)."""
        with claim(self.store.claim(job.cell)), self._recorded(job.cell):
            if not (self.store.directory(job.cell) / CONDENSED).exists():
                task, run = self._begin(job, dataset)
                for wanted in registry.build(job.cell).prerequisites():
                    wanted.make(task, run)

    def condense(self, job: Job, dataset: Dataset) -> None:
        """Condense and store the condensed set."""
        with claim(self.store.claim(job.cell)), self._recorded(job.cell):
            self._condense(job, dataset)

    def score(self, job: Job, dataset: Dataset) -> list[EvaluationResult]:
        """Do and return the evaluations of the job that its stored result does not hold. The condensed set must be
        there."""
        with self._recorded(job.cell):
            return self._score(job, dataset, self._stored(job, dataset))

    def conclude(self, job: Job, dataset: Dataset, entries: Sequence[EvaluationResult]) -> Result:
        """Store the job's result, made of what is stored already and the evaluations `entries`; return it."""
        with claim(self.store.claim(job.cell)), self._recorded(job.cell):
            self._conclude(job, dataset, self._stored(job, dataset), entries)
        return self._result(job.cell)

    def _result(self, cell: Cell) -> Result:
        """The result of a cell that is done."""
        result = self.store.result(cell)
        assert result is not None, f"the result of {cell.label} went away as soon as it was stored"
        return result

    @contextlib.contextmanager
    def _recorded(self, cell: Cell) -> Iterator[None]:
        """Keep what goes wrong inside the block as the cell's failure."""
        try:
            yield
        except (Stopped, Claimed):
            raise
        except Exception as error:
            with contextlib.suppress(OSError):  # a full or read-only disk: the error itself still reaches the user
                self.store.fail(cell, describe_failure(cell, error))
            raise

    def _begin(self, job: Job, dataset: Dataset) -> tuple[Task, Run]:
        directory, task = self.store.announce(job), self._task(job, dataset)
        return task, self._run(directory, job.cell, {"generator": task.generator})

    def _run(self, directory: Path, cell: Cell, shared: dict[str, Any] | None = None) -> Run:
        return Run(directory, cell.key, CHECKPOINT_SECONDS, self.progress, self.should_stop, shared)

    def _stored(self, job: Job, dataset: Dataset) -> Artifact:
        return load_artifact(self.store.directory(job.cell) / CONDENSED, dataset, self.runtime.device)

    def _condense(self, job: Job, dataset: Dataset) -> Artifact:
        directory, (task, run) = self.store.directory(job.cell), self._begin(job, dataset)
        artifact = self._condensed(directory / CONDENSED, task, run, dataset, job.cell)
        write_preview(directory / "preview.png", artifact.container, dataset.train)
        return artifact

    def _score(self, job: Job, dataset: Dataset, artifact: Artifact) -> list[EvaluationResult]:
        """Each evaluation keeps its log and its state in a folder of its own, so that several can be under way."""
        cell, stored = job.cell, self.store.result(job.cell)
        done = stored.evaluations if stored else ()
        data, learned_lr = training_set(artifact.container, dataset.train), artifact.container.learned_lr
        entries: list[EvaluationResult] = []
        for evaluation in self.store.missing_evaluations(job):
            with claim(self.store.claim(cell, evaluation)):
                run = self._run(self.store.evaluating(cell, evaluation), cell)
                args = data, dataset, self.runtime, run, cell.key, learned_lr, [*done, *entries]
                entries.append(evaluate(evaluation, *args))
        return entries

    def _conclude(self, job: Job, dataset: Dataset, artifact: Artifact, entries: Sequence[EvaluationResult]) -> None:
        cell, stored, origin = job.cell, self.store.result(job.cell), from_json(artifact.card["origin"], Origin)
        done = list(stored.evaluations) if stored else []
        names = [evaluation.name for evaluation in job.evaluations]
        for entry in sorted(entries, key=lambda entry: names.index(entry.name)):
            done = [other for other in done if not replaces(entry, other)] + [entry]
        result = Result(
            format=RESULT_FORMAT,
            key=cell.key,
            cell=cell.config(),
            method=registry.card_of(registry.get(cell.method)),
            dataset=describe_dataset(dataset),
            condensation=origin.condensation,
            evaluations=tuple(done),
            environment=origin.environment,
            finished=now(),
        )
        for evaluation in job.evaluations:
            append_log(self.store.evaluating(cell, evaluation), self.store.directory(cell))
        self.store.finish(cell, result)

    def _task(self, job: Job, dataset: Dataset) -> Task:
        cell = job.cell
        spec, generator = dataset.spec, self.runtime.generator(draws_of(cell), "condense")
        return Task(
            spec,
            dataset.train,
            cell.budget_on(spec),
            self.runtime,
            generator,
            seed=cell.seed,
            cache=self.cache,
            microbatch=job.microbatch,
        )

    def _condensed(self, path: Path, task: Task, run: Run, dataset: Dataset, cell: Cell) -> Artifact:
        """The cell's condensed set: the stored one if it is whole and this cell's, else condensed now and stored."""
        if path.exists():
            try:
                artifact = load_artifact(path, dataset, self.runtime.device)
                if from_json(artifact.card["origin"], Origin).key == cell.key:
                    return artifact
                reason = f"{path} belongs to another cell"
            except (KeyError, TypeError, ValueError) as error:
                reason = str(error) if isinstance(error, ArtifactError) else f"{path} does not say where it is from"
            warnings.warn(f"{reason}; condensed again", stacklevel=2)
        method = registry.build(cell)
        self.runtime.reset_peak_memory()
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed(cell.key, "global"))  # nothing of ours draws from it; a plug-in might
            container = method.condense(task, run)
        container.project_()
        task.budget.check(container.num_floats)
        if not all(torch.isfinite(value).all() for value in container.state_dict().values()):
            raise NotFinite("the condensed set holds values that are not finite")
        condensation = describe_condensation(container, task, run, self.runtime)
        origin = Origin(cell.key, cell.config(), condensation, describe_environment(self.runtime))
        save_artifact(path, container, dataset, as_json(origin))
        return load_artifact(path, dataset, self.runtime.device)


def draws_of(cell: Cell) -> str:
    """Return what seeds the random numbers of a cell's condensation: its key, or the key of the cell that it is a
    control of."""
    original = registry.get(cell.method).draws_as
    if original:
        cell = dataclasses.replace(cell, method=original, version=registry.get(original).version, budget="strict")
    return cell.key


def replaces(entry: EvaluationResult, other: EvaluationResult) -> bool:
    """Return whether an evaluation is the newer one of the same training under the same protocol."""
    names = ("protocol", "network", "recipe", "factor")
    return all(getattr(entry, name) == getattr(other, name) for name in names)


def describe_condensation(container: Container, task: Task, run: Run, runtime: Runtime) -> Condensation:
    floats = container.num_floats
    phases = {name: Phase(int(phase["steps"]), phase["seconds"]) for name, phase in run.phases.items()}
    return Condensation(
        container=container.kind,
        space=container.space,
        steps=phases["condense"].steps if "condense" in phases else 0,
        seconds=sum(phase.seconds for phase in phases.values()),
        phases=phases,
        peak_memory_mib=runtime.peak_memory_mib(),
        floats=floats,
        budget_floats=task.budget.floats,
        budget_multiple=task.budget.multiple(floats),
        bytes=4 * floats,
        images=container.num_images,
        images_per_class=container.num_images / task.classes,
        train_images=run.train_images or len(task.train),
        learned_lr=container.learned_lr,
        pruning=run.pruning,
        notes=run.notes,
    )


def describe_dataset(dataset: Dataset) -> DatasetCard:
    spec = dataset.spec
    return DatasetCard(
        spec.title, spec.published, spec.classes, tuple(spec.image_shape), len(dataset.train), len(dataset.test)
    )


def describe_environment(runtime: Runtime) -> Environment:
    return Environment(runtime.describe(), torch.__version__, platform.python_version(), __version__)
