"""Scoring a condensed set: train fresh networks on it by a recipe and measure them on the test split.

This is the one place where training on a condensed set and the test split meet; the last iterate is what counts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from benchmark import networks
from benchmark.augment.dsa import strategy_for
from benchmark.condensation.run import Run
from benchmark.data import Dataset, DatasetSpec
from benchmark.evaluation.footprint import trained_at_once
from benchmark.store.cells import Evaluation
from benchmark.store.folder import same_training
from benchmark.store.records import EvaluationResult
from benchmark.system.runtime import Runtime, derive_seed
from benchmark.training.recipes import Recipe
from benchmark.training.trainer import Ensemble, Training, TrainingSet, accuracies
from benchmark.training.training_set import CondensedImages


def evaluate(
    evaluation: Evaluation,
    data: TrainingSet,
    dataset: Dataset,
    runtime: Runtime,
    run: Run,
    key: str,
    learned_lr: float | None = None,
    done: Sequence[EvaluationResult] = (),
) -> EvaluationResult:
    """Train on `data` and score the networks that `done` does not hold yet; return the evaluation as the store keeps
    it.

    Network i is seeded by (key, architecture, i) alone. So more networks are more of the same run, and two protocols
    with one recipe are one training. If a GPU has no room for all networks, they are trained in groups, and each group
    is a phase.
    """
    length = data.epoch_length(evaluation.recipe)
    recipe = evaluation.recipe.scaled(evaluation.factor, length)
    same = [other for other in done if same_training(other, evaluation)]
    most = max(same, key=lambda other: len(other.accuracies), default=None)
    scores, seconds, peak = (most.accuracies, most.seconds, most.peak_memory_mib) if most else ((), 0.0, None)
    missing = range(len(scores), evaluation.nets)
    if missing:
        added, more, peak = _train(evaluation, missing, recipe, data, dataset, runtime, run, key, learned_lr)
        scores, seconds = scores + added, seconds + more
    return EvaluationResult(
        protocol=evaluation.protocol,
        network=evaluation.network,
        recipe=dataclasses.asdict(evaluation.recipe),
        factor=evaluation.factor,
        steps=recipe.total_steps(length),
        epochs=recipe.total_steps(length) / recipe.steps_per_epoch(length),
        images=len(data),
        accuracies=scores,
        seconds=seconds,
        peak_memory_mib=peak,
    )


def _train(
    evaluation: Evaluation,
    missing: range,
    recipe: Recipe,
    data: TrainingSet,
    dataset: Dataset,
    runtime: Runtime,
    run: Run,
    key: str,
    learned_lr: float | None,
) -> tuple[tuple[float, ...], float, float | None]:
    """Return the accuracies of the networks of these numbers, in their order, and the seconds and peak memory of it
    all."""
    length, seconds = data.epoch_length(evaluation.recipe), 0.0
    scores: tuple[float, ...] = ()
    runtime.reset_peak_memory()
    network = networks.build(evaluation.network, dataset.spec.image_shape, dataset.spec.classes)
    test = dataset.test.whitened(data.whitening if isinstance(data, CondensedImages) else None)
    strategy, together = strategy_for(dataset.spec.flip), at_once(evaluation, length, dataset.spec, runtime)
    for first in range(missing.start, missing.stop, together):
        group = range(first, min(first + together, missing.stop))
        seeds = [derive_seed(key, "evaluate", evaluation.network, index) for index in group]
        phase = f"evaluate {evaluation.name} {group.start}-{group.stop}"
        training = Training(Ensemble(network, seeds, runtime), data, recipe, strategy, learned_lr)
        for step in run.loop(phase, training.total_steps, training=training):
            run.log(loss=training.step(step).mean())
        scores += tuple(accuracies(training.ensemble, TrainingSet.real(test)))
        seconds += run.phases[phase]["seconds"]
        del training  # before the next group is there
    return scores, seconds, runtime.peak_memory_mib()


def at_once(evaluation: Evaluation, images: int, spec: DatasetSpec, runtime: Runtime) -> int:
    """Return how many networks are trained together on so many images: each that runs beside others takes memory."""
    available = runtime.gpu_bytes() if runtime.batched else None
    return trained_at_once(evaluation, images, spec, available) if available else evaluation.nets
