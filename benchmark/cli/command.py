"""The command line: arguments to a grid, the grid to a plan, the plan to a run and a report.

Exit status: 0 all requested cells are done; 1 some cell failed; 2 bad arguments or missing data (one message that names
the mend); 130 or 143 stopped by a signal, or 1 by the loss of a cluster, to be gone on with by the same command.
"""

from __future__ import annotations

import dataclasses
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from rich.console import Console

from benchmark import __version__, data
from benchmark.cli.evaluate_file import print_scores, score_file
from benchmark.cli.listing import print_list, print_plan
from benchmark.cli.options import Options, UsageError, grid_of, parse
from benchmark.condensation.cost import Cost
from benchmark.data import DataError, Dataset, DatasetSpec
from benchmark.engines import processes
from benchmark.engines.failures import describe_failure, failure_word, mend
from benchmark.engines.progress import Display
from benchmark.engines.queue import Outcome
from benchmark.engines.serial import StopSignal, run_jobs
from benchmark.evaluation.importers import ForeignSetError
from benchmark.grid import hours, registry
from benchmark.grid.memory import predicted_bytes, predicted_bytes_on_cpu
from benchmark.grid.plan import Entry, Grid, make_plan
from benchmark.store.cells import Job
from benchmark.store.condensed_set import ArtifactError
from benchmark.store.folder import Store
from benchmark.system.errors import BudgetError, CellError
from benchmark.system.paths import cache_folder, data_folder
from benchmark.system.runtime import MIB, Runtime, has_fast_bf16, set_up, settle_compiler

BAD_INPUT = 2
PLAIN_WIDTH = 140

Loaded = dict[str, Dataset]
Engine = Callable[[list[Job], Loaded, Display, StopSignal], Outcome]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    settle_compiler()
    if hasattr(sys.stdout, "reconfigure"):  # names of files may hold what the terminal cannot show
        sys.stdout.reconfigure(errors="backslashreplace")
    console, errors = terminal(), terminal(stderr=True)
    warnings.showwarning = lambda message, *_, **__: errors.print(f"warning: {message}", markup=False, style="yellow")
    try:
        options = parse(arguments)
        return dispatch(options, console)
    except SystemExit as stop:  # tyro prints its own message
        return stop.code if isinstance(stop.code, int) else BAD_INPUT
    except (UsageError, DataError, registry.RegistrationError, OSError) as error:
        errors.print(f"bench.py: {error}{mend(error)}", markup=False, highlight=False, style="red", soft_wrap=True)
        return BAD_INPUT
    except KeyboardInterrupt:
        errors.print("interrupted; the same command goes on from the last checkpoint")
        return 130


def terminal(stderr: bool = False) -> Console:
    """A console as wide as the terminal, or wide enough for the plan's table where there is none."""
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=max(console.width, PLAIN_WIDTH))


def dispatch(options: Options, console: Console) -> int:
    if options.version:
        console.print(f"condensation-bench {__version__}", highlight=False)
        return 0
    if options.list:
        print_list(console)
        return 0
    store = Store(options.results_dir)
    if options.report:
        return write_report(store, console)
    data_dir = (options.data_dir or data_folder()).expanduser()
    if options.ray_address and options.engine != "ray":
        raise UsageError("--ray-address needs --engine ray")
    if options.engine == "ray" and not options.evaluate:
        return run_on_ray(options, grid_of(options, data_dir), store, data_dir, console)
    try:
        runtime = set_up(options.device, options.precision or "float32")
    except ValueError as error:
        raise UsageError(str(error)) from None
    if options.evaluate:
        if options.workers or options.engine != "local":
            raise UsageError("--evaluate scores in this process; leave out --workers and --engine")
        if options.microbatch:
            raise UsageError("--evaluate has no real batches to split; leave out --microbatch")
        return score(options.evaluate, grid_of(options, data_dir), data_dir, runtime, store, console)
    grid = grid_of(options, data_dir, has_fast_bf16(runtime.device))
    return run_here(options, grid, dataclasses.replace(runtime, precision=grid.precision), store, data_dir, console)


def run_here(options: Options, grid: Grid, runtime: Runtime, store: Store, data_dir: Path, console: Console) -> int:
    """Plan and run a grid in this process, or in several on this machine."""
    place = runtime.describe()
    units = hours.measured_units(store.speed(), place, runtime.precision)
    gpu, mib = runtime.device.type == "cuda", runtime.peak_memory_mib()
    predict = predicted_bytes if gpu else partial(predicted_bytes_on_cpu, process=mib and mib * MIB)
    entries = plan_of(grid, store, hours.Speed(lambda: hours.probe_speed(runtime), units), predict)
    to_do = sum(entry.state == "to do" for entry in entries)
    workers, threads = processes.workers_and_threads(grid.datasets, to_do, runtime, options.workers)
    place += ", by the steps in speed.json" if units else ""
    print_plan(entries, place, workers, gpu, console)
    if options.plan:
        return 0

    def alone(jobs: list[Job], loaded: Loaded, display: Display, stop: StopSignal) -> Outcome:
        torch.set_num_threads(threads)
        return run_jobs(jobs, loaded.__getitem__, store, runtime, cache_folder(), display, stop)

    def together(jobs: list[Job], loaded: Loaded, display: Display, stop: StopSignal) -> Outcome:
        loaded.clear()  # each process reads its own
        root = store.root.absolute()
        settings = processes.Settings(root, data_dir, cache_folder(), str(runtime.device), runtime.precision, threads)
        return processes.run_jobs(longest_first(jobs, entries), workers, settings, store, display, stop)

    return run(entries, together if workers > 1 else alone, store, data_dir, console)


def run_on_ray(options: Options, grid: Grid, store: Store, data_dir: Path, console: Console) -> int:
    """Plan and run a grid on a Ray cluster."""
    if options.device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"--device {options.device}: with --engine ray it is auto, cpu or cuda; Ray chooses which one")
    try:
        from benchmark.engines import ray_cluster, ray_driver
    except ModuleNotFoundError as error:
        raise UsageError(f"--engine ray needs Ray ({error}); pip install 'condensation-bench[ray]'") from None
    address = options.ray_address or "auto"
    try:
        with ray_cluster.connected(address, options.device, grid.precision, grid.datasets, options.workers) as machines:
            entries = plan_of(grid, store, hours.Speed(machines.speed))
            print_plan(entries, machines.describe(), machines.at_once, True, console)
            if options.plan:
                return 0

            def on_ray(jobs: list[Job], loaded: Loaded, display: Display, stop: StopSignal) -> Outcome:
                return ray_driver.run_jobs(longest_first(jobs, entries), machines, loaded, store, display, stop)

            return run(entries, on_ray, store, data_dir, console)
    except ray_cluster.ClusterError as error:
        raise UsageError(str(error)) from None


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


def run(entries: list[Entry], engine: Engine, store: Store, data_dir: Path, console: Console) -> int:
    """Run what is to do, then write the report."""
    blocked = [entry for entry in entries if entry.state == "blocked"]
    for entry in blocked:
        store.announce(entry.job)
        store.fail(entry.job.cell, describe_failure(entry.job.cell, BudgetError(entry.reason)))
    jobs = [entry.job for entry in entries if entry.state == "to do"]
    # All of them before anything runs: missing data is said now, not hours later.
    loaded = {name: data.load(name, data_dir) for name in dict.fromkeys(job.cell.dataset for job in jobs)}
    stop = StopSignal()
    with Display(console, cells=len(jobs)) as display:
        outcome = engine(jobs, loaded, display, stop)
    if outcome.stopped:
        why = f"({stop.name}) " if stop.name else ""
        console.print(f"stopped {why}{outcome.stopped}.\nThe same command goes on from there.", markup=False)
        return {"SIGINT": 130, "SIGTERM": 143}.get(stop.name, 1)
    write_report(store, console)
    failed = [*outcome.failed, *((entry.job, entry.reason) for entry in blocked)]
    for job, reason in failed:
        console.print(f"failed: {job.cell.label}: {reason}", markup=False, highlight=False, style="red")
    return 1 if failed else 0


def score(path: Path, grid: Grid, data_dir: Path, runtime: Runtime, store: Store, console: Console) -> int:
    """Score a condensed set of this or another program on the one data set that was named."""
    if len(grid.datasets) != 1:
        raise UsageError("--evaluate scores on one data set; name it with --datasets")
    dataset = data.load(grid.datasets[0].name, data_dir).to(runtime.device)
    try:
        with Display(console) as display:
            entries = score_file(path, grid, dataset, runtime, store, display)
    except (ForeignSetError, ArtifactError) as error:
        raise UsageError(f"--evaluate: {error}") from None
    except (CellError, MemoryError, RuntimeError) as error:
        raise UsageError(f"--evaluate {path}: {failure_word(error)}: {error}") from None
    print_scores(entries, console)
    return 0


def write_report(store: Store, console: Console) -> int:
    from benchmark.report import build  # pandas, matplotlib and seaborn take seconds to import

    page = build(store)
    console.print(f"report: {page.resolve()}", markup=False, highlight=False, soft_wrap=True)
    return 0
