"""What the user asked for: the options of the command line and of TOML files, and the grid they describe."""

from __future__ import annotations

import contextlib
import dataclasses
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from benchmark import data, networks
from benchmark.condensation.settings import Schedule
from benchmark.data import DataError
from benchmark.grid import registry
from benchmark.grid.plan import OBJECTIVE, Grid, parse_overrides
from benchmark.system.runtime import Precision

LARGEST = 100_000
"""Of --ipc, --seeds, --nets and --workers: what is beyond it was not meant, and its plan would fill the memory."""


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
    """float32; bf16: first-order work in bfloat16, what is differentiated twice in float32; or reference: the plain
    eager oracle, one class and one network at a time. Default: float32 on the paper schedule, bf16 on shorter ones
    where the processor has instructions for it."""
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


def grid_of(options: Options, data_dir: Path, fast_bf16: bool = False) -> Grid:
    """The grid that the options ask for. Raises UsageError for what does not exist.

    fast_bf16: whether what runs it has instructions for bfloat16, which a grid without the paper schedule then uses by
    default. The nodes of a cluster may differ in that, so there the default is always float32.
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
        objectives = {name: str(values[OBJECTIVE]) for name, values in overrides.items() if OBJECTIVE in values}
        loops = {row.objective or objectives.get(row.method.name, row.method.name) for row in chosen}
        rows = {row.method.name for row in chosen}
        idle = (overrides.keys() - loops - rows) | {f"{name}.{OBJECTIVE}" for name in objectives.keys() - rows}
        if idle:
            raise ValueError(f"--set names {', '.join(sorted(idle))}, which --methods does not run")
        fixed = objectives.keys() - {row.method.name for row in chosen if not row.objective}
        if fixed:
            raise ValueError(f"--set {min(fixed)}.{OBJECTIVE}: --methods gives {min(fixed)} an objective already")
        if options.microbatch and not any(registry.get(name).Loop.microbatches for name in loops):
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
        shortened = all(grid.schedule_of(spec).name != "paper" for spec in specs)
        if options.precision is None and shortened and fast_bf16:
            return dataclasses.replace(grid, precision="bf16")
        return grid
    except DataError:
        raise
    except ValueError as error:
        raise UsageError(str(error)) from None
