"""A grid that was asked for, planned and run: what the command line and notebooks share. It prints only progress."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from rich.console import Console

from benchmark import data
from benchmark.cli.options import GridOptions, UsageError, grid_of
from benchmark.condensation.cost import Cost
from benchmark.data import Dataset, DatasetSpec
from benchmark.engines import processes
from benchmark.engines.failures import describe_failure
from benchmark.engines.progress import Display
from benchmark.engines.queue import Outcome
from benchmark.engines.serial import StopSignal, run_jobs
from benchmark.grid import hours
from benchmark.grid.memory import predicted_bytes, predicted_bytes_on_cpu
from benchmark.grid.plan import Entry, Grid, make_plan
from benchmark.store.cells import Job
from benchmark.store.folder import Store
from benchmark.system.paths import cache_folder, data_folder
from benchmark.system.runtime import MIB, Runtime, has_fast_bf16, set_up

Loaded = dict[str, Dataset]
Engine = Callable[[list[Job], Loaded, Display, StopSignal], Outcome]


@dataclass(frozen=True)
class Planned:
    """What is known before anything runs, and what would run it."""

    entries: list[Entry]
    place: str
    """What the cells would run on."""
    at_once: int
    """Cells that would run side by side."""
    gpu: bool
    """Whether they would run on GPUs."""
    engine: Engine


def store_of(options: GridOptions) -> Store:
    """The results folder."""
    return Store(options.results_dir.expanduser())


def data_dir_of(options: GridOptions) -> Path:
    """Where data sets are, or go."""
    return (options.data_dir or data_folder()).expanduser()


def runtime_of(options: GridOptions) -> Runtime:
    """The device of this machine. Raises UsageError where it has none such."""
    try:
        return set_up(options.device, options.precision or "float32")
    except ValueError as error:
        raise UsageError(str(error)) from None


def grid_to_run(options: GridOptions) -> Grid:
    """The grid of the options, with the default precision of where it would run. Raises UsageError or DataError."""
    fast = options.engine == "local" and has_fast_bf16(runtime_of(options).device)
    return grid_of(options, data_dir_of(options), fast)


@contextmanager
def planned(options: GridOptions) -> Iterator[Planned]:
    """The grid of the options, planned for this machine or for a Ray cluster, which is connected while this lasts.

    Raises UsageError for what cannot be run as asked, DataError for data that is not there.
    """
    if options.engine == "local":
        yield planned_here(options)
        return
    grid = grid_to_run(options)
    if options.device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"--device {options.device}: with --engine ray it is auto, cpu or cuda; Ray chooses which one")
    try:
        from benchmark.engines import ray_cluster, ray_driver
    except ModuleNotFoundError as error:
        raise UsageError(f"--engine ray needs Ray ({error}); pip install 'condensation-bench[ray]'") from None
    address, store = options.ray_address or "auto", store_of(options)
    try:
        with ray_cluster.connected(address, options.device, grid.precision, grid.datasets, options.workers) as machines:
            entries = plan_of(grid, store, hours.Speed(machines.speed))

            def on_ray(jobs: list[Job], loaded: Loaded, display: Display, stop: StopSignal) -> Outcome:
                return ray_driver.run_jobs(longest_first(jobs, entries), machines, loaded, store, display, stop)

            yield Planned(entries, machines.describe(), machines.at_once, True, on_ray)
    except ray_cluster.ClusterError as error:
        raise UsageError(str(error)) from None


def planned_here(options: GridOptions) -> Planned:
    """The grid of the options, planned for this process or for several on this machine."""
    store, data_dir, grid = store_of(options), data_dir_of(options), grid_to_run(options)
    runtime = dataclasses.replace(runtime_of(options), precision=grid.precision)
    place = runtime.describe()
    units = hours.measured_units(store.speed(), place, runtime.precision)
    gpu, mib = runtime.device.type == "cuda", runtime.peak_memory_mib()
    predict = predicted_bytes if gpu else partial(predicted_bytes_on_cpu, process=mib and mib * MIB)
    entries = plan_of(grid, store, hours.Speed(lambda: hours.probe_speed(runtime), units), predict)
    to_do = sum(entry.state == "to do" for entry in entries)
    workers, threads = processes.workers_and_threads(grid.datasets, to_do, runtime, options.workers)

    def alone(jobs: list[Job], loaded: Loaded, display: Display, stop: StopSignal) -> Outcome:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            return run_jobs(jobs, loaded.__getitem__, store, runtime, cache_folder(), display, stop)
        finally:
            torch.set_num_threads(before)

    def together(jobs: list[Job], loaded: Loaded, display: Display, stop: StopSignal) -> Outcome:
        loaded.clear()  # each process reads its own
        root = store.root.absolute()
        settings = processes.Settings(root, data_dir, cache_folder(), str(runtime.device), runtime.precision, threads)
        return processes.run_jobs(longest_first(jobs, entries), workers, settings, store, display, stop)

    place += ", by the steps in speed.json" if units else ""
    return Planned(entries, place, workers, gpu, together if workers > 1 else alone)


def longest_first(jobs: list[Job], entries: list[Entry]) -> list[Job]:
    """So that all who work on them end together."""
    cost = {entry.job.cell.key: entry.seconds or 0.0 for entry in entries}
    return sorted(jobs, key=lambda job: -cost[job.cell.key])


def plan_of(
    grid: Grid, store: Store, speed: hours.Speed, predict: Callable[[Job, DatasetSpec, Cost], int] = predicted_bytes
) -> list[Entry]:
    try:
        return make_plan(grid, store, speed, predict)
    except ValueError as error:  # images too small for a network, or settings that make no set
        raise UsageError(str(error)) from None


def run(plan: Planned, store: Store, data_dir: Path, console: Console) -> tuple[Outcome, StopSignal]:
    """Run what is to do; returns what became of it, blocked cells among the failed, and the signal that stopped it."""
    blocked = [entry for entry in plan.entries if entry.error]
    for entry in blocked:
        assert entry.error is not None
        store.announce(entry.job)
        store.fail(entry.job.cell, describe_failure(entry.job.cell, entry.error))
    jobs = [entry.job for entry in plan.entries if entry.state == "to do"]
    # All of them before anything runs: missing data is said now, not hours later.
    loaded = {name: data.load(name, data_dir) for name in dict.fromkeys(job.cell.dataset for job in jobs)}
    stop = StopSignal()
    with Display(console, cells=len(jobs)) as display:
        outcome = plan.engine(jobs, loaded, display, stop)
    outcome.failed += [(entry.job, entry.reason) for entry in blocked]
    return outcome, stop
