"""The command line: arguments to a grid, the grid to a plan, the plan to a run and a report.

Exit status: 0 all requested cells are done; 1 some cell failed; 2 bad arguments or missing data (one message that names
the mend); 130 or 143 stopped by a signal, or 1 by the loss of a cluster, to be gone on with by the same command.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import tomllib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from rich.console import Console

from benchmark import __version__, data, networks, plan, pool, registry
from benchmark.artifact import ArtifactError
from benchmark.budget import BudgetError, CellError
from benchmark.cells import Job
from benchmark.data import DataError, Dataset
from benchmark.engine import StopSignal, run_jobs
from benchmark.failures import describe_failure, failure_word, mend
from benchmark.folders import cache_folder, data_folder
from benchmark.foreign import ForeignSetError
from benchmark.ledger import Outcome
from benchmark.listing import print_list, print_plan
from benchmark.method import Schedule
from benchmark.plan import OBJECTIVE, Entry, Grid, make_plan, parse_overrides
from benchmark.progress import Display
from benchmark.runtime import Precision, Runtime, has_fast_bf16, set_up
from benchmark.scoring import print_scores, score_file
from benchmark.store import Store

BAD_INPUT = 2
PLAIN_WIDTH = 140
LARGEST = 100_000
"""Of --ipc, --seeds, --nets and --workers: what is beyond it was not meant, and its plan would fill the memory."""


Loaded = dict[str, Dataset]
Engine = Callable[[list[Job], Loaded, Display, StopSignal], Outcome]


class UsageError(ValueError):
    """Arguments that cannot be obeyed; the message says why and what would do."""


@dataclass(frozen=True)
class Options:
    """An open, fair, fast benchmark of dataset condensation: every method x data set x IPC on one loader, one trainer
    and one augmentation layer, with tables and plots.

    Without arguments: all methods on the embedded digits at IPC 1 and 10, minutes on two CPU cores.
    """

    methods: tuple[str, ...] = ("all",)
    """Methods by name, or `all` (see --list)."""
    datasets: tuple[str, ...] = ("digits",)
    """Data sets by name (see --list), or folder:PATH with a sub-folder of images per class."""
    ipc: tuple[int, ...] | None = None
    """Images per class of the budget. Default: 1 10 on digits, 1 10 50 elsewhere."""
    seeds: int | None = None
    """Independent condensations of every cell. Default: 3 on the paper schedule, 1 otherwise."""
    nets: int | None = None
    """Networks trained on each condensed set. Default: 10 on the paper schedule, 3 otherwise."""
    schedule: str | None = None
    """quick, paper, or a fraction of the published length such as 0.05; evaluation scales along, to no less than 500
    steps. Default: quick on digits, paper elsewhere."""
    protocol: Literal["unified", "native", "both"] = "unified"
    """How condensed sets are scored: one recipe for all, each paper's own, or both."""
    workers: int | None = None
    """Processes that share the cells, each with a GPU or an equal share of the cores. Default: one per core for images
    up to 16 pixels on a CPU, otherwise one."""
    engine: Literal["local", "ray"] = "local"
    """local: this machine; ray: the machines of a Ray cluster (docs/cluster.md). With ray, --workers is the number of
    cells that may run at once; by default as many as fit."""
    ray_address: str | None = None
    """The cluster: auto (the default), which this machine is part of; HOST:PORT; ray://HOST:10001; or local, one for
    this run alone."""
    budget: Literal["strict", "native"] = "strict"
    """strict: refuse what stores more floats than IPC x classes x pixels; native: the authors' size, named as such."""
    networks: tuple[str, ...] = ("convnet",)
    """Networks to evaluate with (see --list)."""
    set: tuple[str, ...] = ()
    """Hyper-parameters to override, as METHOD.FIELD=VALUE."""
    data_dir: Path | None = None
    """Where data sets are, or go. Default: $CONDENSE_DATA, or ~/condense-data."""
    results_dir: Path = Path("results")
    """Where results are kept; a second run of the same command does only what is missing."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""
    precision: Precision | None = None
    """float32; bf16: evaluation and other first-order work in bfloat16, gradients that are matched in float32; or
    reference: the plain eager oracle, one class and one network at a time. Default: bf16 on the quick schedule where
    the processor has instructions for it, float32 otherwise."""
    microbatch: int | None = None
    """Real images of a class that go through a network at once in a matching step: the same numbers up to rounding in
    less memory. Default: the whole batch."""
    config: Path | None = None
    """A TOML file of these options; the command line goes before it."""
    plan: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Show what would run and what it would cost; run nothing."""
    report: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Make every table and plot anew from what is stored; run nothing."""
    list: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """List methods, data sets and networks."""
    evaluate: Path | None = None
    """Score a condensed set: our .safetensors, a .pt of the DC/DSA/DM authors, or a folder of images."""
    version: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print the version."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
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


def parse(arguments: Sequence[str]) -> Options:
    """Options from the command line over those of --config. Raises UsageError, or exits with tyro's message."""
    given: set[str] = set()
    stored: list[str] = []
    for index, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        name = name.replace("_", "-")
        if name.startswith("--") and name in given:  # tyro would take the last one and forget the others
            raise UsageError(f"{name} is given twice; write all of its values behind one {name}")
        given.add(name)
        if name == "--config":
            value = value or (arguments[index + 1] if index + 1 < len(arguments) else "")
            if not value:
                raise UsageError("--config needs the path of a TOML file")
            stored = from_toml(Path(value))
    # Of an option in both places tyro takes the later one, so the command line goes before the file.
    return tyro.cli(Options, args=[*stored, *arguments], prog="bench.py", config=(tyro.conf.OmitArgPrefixes,))


def from_toml(path: Path) -> list[str]:
    """The options of a TOML file as arguments; names as on the command line. Raises UsageError for what is none."""
    try:
        values = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"--config {path}: {error}") from None
    defaults = {field.name: field.default for field in dataclasses.fields(Options) if field.name != "config"}
    arguments: list[str] = []
    for name, value in values.items():
        key = name.replace("-", "_")
        if key not in defaults:
            raise UsageError(f"--config {path}: no option {name!r}{registry.nearest(key, defaults)}")
        own = as_arguments(key, value)
        try:
            with contextlib.redirect_stderr(None), contextlib.redirect_stdout(None):
                tyro.cli(Options, args=own, prog="bench.py")
            fits = isinstance(value, bool) == isinstance(defaults[key], bool) and not isinstance(value, dict)
        except SystemExit:
            fits = False
        if not fits:
            raise UsageError(f"--config {path}: {name} = {value!r} does not fit; see --help for what the option takes")
        arguments += own
    return arguments


def as_arguments(key: str, value: Any) -> list[str]:
    flag = "--" + key.replace("_", "-")
    if isinstance(value, bool):
        return [flag] if value else []
    return [flag, *(str(item) for item in (value if isinstance(value, list) else [value]))]


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
        return score(options.evaluate, grid_of(options, data_dir), data_dir, runtime, store, console)
    grid = grid_of(options, data_dir, has_fast_bf16(runtime.device))
    return run_here(options, grid, dataclasses.replace(runtime, precision=grid.precision), store, data_dir, console)


def run_here(options: Options, grid: Grid, runtime: Runtime, store: Store, data_dir: Path, console: Console) -> int:
    """Plan and run a grid in this process, or in several on this machine."""
    entries = plan_of(grid, store, lambda: plan.probe_speed(runtime))
    to_do = sum(entry.state == "to do" for entry in entries)
    workers, threads = pool.workers_and_threads(grid.datasets, to_do, runtime, options.workers)
    print_plan(entries, runtime.describe(), workers, runtime.device.type == "cuda", console)
    if options.plan:
        return 0

    def alone(jobs: list[Job], loaded: Loaded, display: Display, stop: StopSignal) -> Outcome:
        torch.set_num_threads(threads)
        return run_jobs(jobs, loaded.__getitem__, store, runtime, cache_folder(), display, stop)

    def together(jobs: list[Job], loaded: Loaded, display: Display, stop: StopSignal) -> Outcome:
        loaded.clear()  # each process reads its own
        root = store.root.absolute()
        settings = pool.Settings(root, data_dir, cache_folder(), str(runtime.device), runtime.precision, threads)
        return pool.run_jobs(longest_first(jobs, entries), workers, settings, store, display, stop)

    return run(entries, together if workers > 1 else alone, store, data_dir, console)


def run_on_ray(options: Options, grid: Grid, store: Store, data_dir: Path, console: Console) -> int:
    """Plan and run a grid on a Ray cluster."""
    if options.device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"--device {options.device}: with --engine ray it is auto, cpu or cuda; Ray chooses which one")
    try:
        from benchmark import cluster, ray_engine
    except ModuleNotFoundError as error:
        raise UsageError(f"--engine ray needs Ray ({error}); pip install 'condensation-bench[ray]'") from None
    address = options.ray_address or "auto"
    try:
        with cluster.connected(address, options.device, grid.precision, grid.datasets, options.workers) as machines:
            entries = plan_of(grid, store, machines.speed)
            print_plan(entries, machines.describe(), machines.at_once, True, console)
            if options.plan:
                return 0

            def on_ray(jobs: list[Job], loaded: Loaded, display: Display, stop: StopSignal) -> Outcome:
                return ray_engine.run_jobs(longest_first(jobs, entries), machines, loaded, store, display, stop)

            return run(entries, on_ray, store, data_dir, console)
    except cluster.ClusterError as error:
        raise UsageError(str(error)) from None


def longest_first(jobs: list[Job], entries: list[Entry]) -> list[Job]:
    """So that all who work on them end together."""
    cost = {entry.job.cell.key: entry.seconds or 0.0 for entry in entries}
    return sorted(jobs, key=lambda job: -cost[job.cell.key])


def plan_of(grid: Grid, store: Store, speed: Callable[[], float | None]) -> list[Entry]:
    try:
        return make_plan(grid, store, speed)
    except ValueError as error:  # images too small for a network
        raise UsageError(str(error)) from None


def grid_of(options: Options, data_dir: Path, fast_bf16: bool = False) -> Grid:
    """The grid that the options ask for. Raises UsageError for what does not exist.

    fast_bf16: whether what runs it has instructions for bfloat16, which the quick schedule then uses by default. The
    nodes of a cluster may differ in that, so there the default is always float32.
    """
    try:
        for option in ("methods", "datasets", "networks", "ipc"):
            if getattr(options, option) == ():
                raise ValueError(f"--{option} needs at least one value")
        for name in options.networks:
            if name not in networks.NAMES:
                raise ValueError(f"unknown network {name!r}{registry.nearest(name, networks.NAMES)}")
        chosen = registry.expand(options.methods)
        overrides = parse_overrides(options.set)
        used = {name for row in chosen for name in (row.method.name, row.objective)}
        used |= {str(overrides[name][OBJECTIVE]) for name in used & overrides.keys() if OBJECTIVE in overrides[name]}
        idle = overrides.keys() - used
        if idle:
            raise ValueError(f"--set names {', '.join(sorted(idle))}, which --methods does not run")
        if options.microbatch and not any(registry.get(name).microbatches for name in used):
            raise ValueError("--microbatch splits the real batches of a matching step, which none of --methods has")
        numbers = (
            ("--ipc", options.ipc), ("--seeds", options.seeds), ("--nets", options.nets),
            ("--workers", options.workers), ("--microbatch", options.microbatch),
        )  # fmt: skip
        for option, values in numbers:
            given = [v for v in (values if isinstance(values, tuple) else (values,)) if v is not None]
            wrong = [v for v in given if not 1 <= v <= LARGEST]
            if wrong:
                bound = "of at least 1" if wrong[0] < 1 else f"up to {LARGEST:,}"
                raise ValueError(f"{option} needs whole numbers {bound}, not {wrong[0]}")
        specs = [data.spec(name, data_dir) for name in options.datasets]
        grid = Grid(
            rows=tuple(chosen),
            datasets=tuple({spec.name: spec for spec in specs}.values()),
            ipc=tuple(dict.fromkeys(options.ipc)) if options.ipc else None,
            seeds=options.seeds,
            nets=options.nets,
            schedule=Schedule.parse(options.schedule) if options.schedule is not None else None,
            protocols=("unified", "native") if options.protocol == "both" else (options.protocol,),
            networks=tuple(dict.fromkeys(options.networks)),
            budget=options.budget,
            precision=options.precision or "float32",
            overrides=overrides,
            microbatch=options.microbatch,
        )
        quick = all(grid.schedule_of(spec).name == "quick" for spec in specs)
        if options.precision is None and quick and fast_bf16:
            return dataclasses.replace(grid, precision="bf16")
        return grid
    except DataError:
        raise
    except ValueError as error:
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
