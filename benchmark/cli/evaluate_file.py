"""`--evaluate`: score condensed sets from a file by the protocols of the grid, and keep the numbers."""

from __future__ import annotations

import re
import statistics
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmark.condensation.run import Run
from benchmark.data import Dataset
from benchmark.engines.progress import Display
from benchmark.evaluation.evaluate import evaluate
from benchmark.evaluation.importers import CondensedSet, ForeignSetError, digest, read_sets
from benchmark.grid import registry
from benchmark.grid.plan import Grid
from benchmark.store.cells import Evaluation
from benchmark.store.folder import Store
from benchmark.system.files import write_json
from benchmark.system.runtime import Runtime
from benchmark.training.recipes import Recipe, unified


def recipe_of(protocol: str, condensed: CondensedSet, grid: Grid, dataset: Dataset) -> Recipe:
    """The recipe of a protocol for a set. Raises ForeignSetError for `native` where the file names no method."""
    if protocol == "unified":
        return unified(condensed.ipc)
    if not condensed.method:
        raise ForeignSetError(f"{condensed.name} names no method, so it has no native protocol; use --protocol unified")
    if condensed.method not in registry.all_methods():
        raise ForeignSetError(f"{condensed.name}: no method {condensed.method!r} is known here; use --protocol unified")
    method, spec = registry.get(condensed.method), dataset.spec
    hyper = method.hyper_parameters(spec, condensed.ipc, grid.schedule_of(spec))
    return method(hyper).native_recipe(spec, condensed.ipc)


def score_file(
    path: Path, grid: Grid, dataset: Dataset, runtime: Runtime, store: Store, display: Display
) -> list[dict[str, Any]]:
    """Score every set in a file; returns what is kept in evaluated/<name>-<digest>.json, an entry a set and recipe."""
    schedule = grid.schedule_of(dataset.spec)
    nets = grid.nets or (10 if schedule.name == "paper" else 3)
    sets = read_sets(path, dataset)
    identity, entries = digest(path), []
    for condensed in sets:
        for protocol in grid.protocols:
            recipe = recipe_of(protocol, condensed, grid, dataset)
            for network in grid.networks:
                progress = display.start(f"{condensed.name} on {dataset.spec.name}, {protocol}, {network}")
                wanted = Evaluation(protocol, network, nets, recipe, schedule.factor)
                run = Run(progress=progress.step)
                entry = evaluate(
                    wanted, condensed.data, dataset, runtime, run, f"{identity} {condensed.name}", condensed.learned_lr
                )
                entries.append({"set": condensed.name, "schedule": schedule.name} | entry)
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem)[:60]
    folder = store.root / "evaluated"
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{stem}-{identity}.json", {"file": path.name, "dataset": dataset.spec.name, "scores": entries})
    return entries


def print_scores(entries: list[dict[str, Any]], console: Console) -> None:
    """Mean and standard deviation over the networks of every entry, in percent."""
    table = Table("set", "protocol", "network", "schedule", "images", "steps", "nets", "accuracy %", box=None)
    for entry in entries:
        scores = [100 * accuracy for accuracy in entry["accuracies"]]
        spread = f" ± {statistics.stdev(scores):.2f}" if len(scores) > 1 else ""
        table.add_row(
            escape(entry["set"]), entry["protocol"], entry["network"], entry["schedule"], str(entry["images"]),
            str(entry["steps"]), str(len(scores)), f"{statistics.mean(scores):.2f}{spread}",
        )  # fmt: skip
    console.print(table)
