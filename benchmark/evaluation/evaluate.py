"""Scoring a condensed set: train fresh networks on it by a recipe and measure them on the test split.

This is the one place where training on a condensed set and the test split meet; the last iterate is what counts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from benchmark import networks
from benchmark.augment.dsa import strategy_for
from benchmark.condensation.run import Run
from benchmark.data import Dataset, DatasetSpec
from benchmark.evaluation.footprint import trained_at_once
from benchmark.store.cells import Evaluation
from benchmark.store.folder import same_training
from benchmark.system.runtime import Runtime, derive_seed
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
    done: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """Train on `data` and score what `done` does not hold yet; returns the evaluation as the store keeps it.

    Network i is seeded by (key, architecture, i) alone: more networks are more of the same run, and two protocols with
    one recipe are one training. Where a GPU has no room for all, they are trained in groups, each a phase.
    """
    length = data.epoch_length(evaluation.recipe)
    recipe = evaluation.recipe.scaled(evaluation.factor, length)
    entry = {
        "protocol": evaluation.protocol,
        "network": evaluation.network,
        "recipe": dataclasses.asdict(evaluation.recipe),
        "factor": evaluation.factor,
        "steps": recipe.total_steps(length),
        "epochs": recipe.total_steps(length) / recipe.steps_per_epoch(length),
        "images": len(data),
        "accuracies": [],
        "seconds": 0.0,
        "peak_memory_mib": None,
    }
    known = [other for other in done if same_training(other, evaluation)]
    if known:
        most = max(known, key=lambda other: len(other["accuracies"]))
        entry |= {name: most.get(name) for name in ("accuracies", "seconds", "peak_memory_mib")}
    missing = range(len(entry["accuracies"]), evaluation.nets)
    if not missing:
        return entry

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
        entry["accuracies"] = entry["accuracies"] + accuracies(training.ensemble, TrainingSet.real(test))
        entry["seconds"] += run.phases[phase]["seconds"]
        del training  # before the next group is there
    entry["peak_memory_mib"] = runtime.peak_memory_mib()
    return entry


def at_once(evaluation: Evaluation, images: int, spec: DatasetSpec, runtime: Runtime) -> int:
    """Networks that are trained together on so many images: what runs side by side takes memory for each."""
    available = runtime.gpu_bytes() if runtime.batched else None
    return trained_at_once(evaluation, images, spec, available) if available else evaluation.nets
