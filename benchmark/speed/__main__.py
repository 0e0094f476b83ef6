"""The command line of the measurements: it times units at each IPC, prints and stores the times, and draws them into
the report.

Exit status: 0 done; 1 nothing could be measured; 2 bad arguments.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from benchmark.cli.command import terminal
from benchmark.engines.failures import failure_reason, now
from benchmark.engines.job import describe_environment
from benchmark.speed import measure, units
from benchmark.store.folder import SPEED_FORMAT, Store
from benchmark.store.records import SkippedUnit, Speed, SpeedUnit, Timing
from benchmark.system.paths import data_folder
from benchmark.system.runtime import Precision, cores, set_up
from benchmark.system.wording import nearest

BAD_INPUT = 2
BUSY = 0.5
"""If other processes take more than this share of the cores, the times are called contended."""

REPETITIONS, QUICK_REPETITIONS = 5, 2
GPU_EXPERTS = 10
"""How many experts are trained beside each other where one would not keep a GPU busy; fewer if a group of them takes
fewer."""

QUICK_UNITS = ("dsa", "dm", "idc", "expert", "mtt", "evaluation-5", "loading")
QUICK_INNER_STEPS = 4


@dataclass(frozen=True)
class Options:
    """Times every unit of work of the benchmark against a plain reference in the same process, in turns.

    Prints milliseconds and their ratio, FLOP/s and their share of what the device can do, memory, and kernel launches;
    stores them as speed.json in the results folder and draws them into its report.
    """

    dataset: str = "cifar10"
    """Whose shapes (see bench.py --list); noise where the data is not there. Nothing is downloaded."""
    units: tuple[str, ...] = ()
    """What to time: dc dsa dm cafe idc hmn expert mtt haba linba evaluation-5 evaluation-20 loading. Default: all, with
    --quick dsa dm idc expert mtt evaluation-5 loading."""
    ipc: tuple[int, ...] = (1, 10)
    """Images per class."""
    repetitions: int | None = None
    """Timed repetitions behind the warm-up; their median counts. Default: 5, with --quick 2."""
    inner_steps: int | None = None
    """Of MTT, HaBa and LinBa. Default: 10, 10 and 20, with --quick 4. The plain reference keeps a graph of all of them
    (on CIFAR-10 about 3 GB for 10 steps of 100 images), so fewer are taken where memory is short; the table says how
    many."""
    quick: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Fewer units and repetitions."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""
    precision: Precision = "float32"
    """As bench.py's: how the product computes. The plain reference always computes in float32."""
    threads: int | None = None
    """CPU threads; default: what torch takes."""
    data_dir: Path | None = None
    """Where data sets are. Default: $CONDENSE_DATA, or ~/condense-data."""
    results_dir: Path = Path("results")
    """Where speed.json and the report go."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    console, errors = terminal(), terminal(stderr=True)
    try:
        options = tyro.cli(Options, args=arguments, prog="python -m benchmark.speed")
        check(options)
        runtime = set_up(options.device, options.precision, options.threads)
        data_dir = (options.data_dir or data_folder()).expanduser()
        dataset, real = units.dataset_or_noise(options.dataset, data_dir)
    except SystemExit as stop:  # tyro prints its own message
        return stop.code if isinstance(stop.code, int) else BAD_INPUT
    except ValueError as error:
        errors.print(f"benchmark.speed: {error}", markup=False, highlight=False, style="red", soft_wrap=True)
        return BAD_INPUT
    store = Store(options.results_dir)
    with tempfile.TemporaryDirectory(prefix="speed-") as cache:
        bench = units.Bench(
            dataset.to(runtime.device), runtime, Path(cache), data_dir if real else None,
            options.inner_steps or (QUICK_INNER_STEPS if options.quick else None),
            GPU_EXPERTS if runtime.device.type == "cuda" else 1,
        )  # fmt: skip
        measured = describe(bench, options)
        print_circumstances(measured, console)
        for name, ipc in chosen(options):
            measured = measure_one(name, ipc, bench, options, measured, console)
            store.keep_speed(measured)  # after every unit: who stops early keeps what was measured
    print_table(measured, console)
    from benchmark.report import build  # drawing libraries take seconds to import

    console.print(f"report: {build(store).resolve()}", markup=False, highlight=False, soft_wrap=True)
    return 0 if measured.units else 1


def check(options: Options) -> None:
    """Raise ValueError for what does not exist."""
    for name in options.units:
        if name not in units.names():
            raise ValueError(f"unknown unit {name!r}{nearest(name, units.names())}")
    numbers = {"--ipc": options.ipc, "--repetitions": (options.repetitions,), "--inner-steps": (options.inner_steps,)}
    for option, values in numbers.items():
        if not values or any(value is not None and value < 1 for value in values):
            raise ValueError(f"{option} needs whole numbers of at least 1")


def chosen(options: Options) -> list[tuple[str, int]]:
    """Return the units to time, each at every IPC that it depends on."""
    wanted = options.units or (QUICK_UNITS if options.quick else units.names())
    sizes = tuple(dict.fromkeys(options.ipc))
    return [(name, ipc) for name in wanted for ipc in (sizes if units.depends_on_ipc(name) else sizes[:1])]


def describe(bench: units.Bench, options: Options) -> Speed:
    """Return the measurements before the first one: where and how they are made."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return Speed(
        format=SPEED_FORMAT,
        environment=describe_environment(bench.runtime),
        dataset=bench.spec.title,
        real_images=bench.data_dir is not None,
        precision=options.precision,
        load=load,
        contended=load > BUSY * cores(),
        ceilings=measure.ceilings(bench.runtime),
        units=(),
        finished=now(),
    )


def measure_one(name: str, ipc: int, bench: units.Bench, options: Options, measured: Speed, console: Console) -> Speed:
    """Return the measurements with one more unit, or with the reason why it could not be measured."""
    repetitions = options.repetitions or (QUICK_REPETITIONS if options.quick else REPETITIONS)
    try:
        unit = units.build(name, ipc, bench)
        product, plain = measure.measure(unit, bench.runtime, repetitions)
    except Exception as error:
        if failure_reason(error) == "error":
            raise
        console.print(f"{name}, IPC {ipc}: {error}", markup=False, highlight=False, style="yellow")
        return replace(measured, skipped=(*measured.skipped, SkippedUnit(name, ipc, str(error))))
    ours, theirs = (timing_of(cost, unit.flops, measured.ceilings) for cost in (product, plain))
    ratio, cpu_ratio = plain.median / product.median, plain.cpu_median / product.cpu_median
    timed = SpeedUnit(
        unit=unit.name,
        ipc=unit.ipc,
        label=unit.label,
        flops=unit.flops,
        ratio=ratio,
        cpu_ratio=cpu_ratio,
        product=ours,
        plain=theirs,
    )
    times = f"{plain.median:,.0f} ms plain, {product.median:,.0f} ms ours"
    ratios = f"{ratio:.2f}x, {cpu_ratio:.2f}x in CPU time"
    console.print(f"{unit.label}: {times}, {ratios}", markup=False, highlight=False)
    return replace(measured, units=(*measured.units, timed), finished=now())


def timing_of(cost: measure.Cost, flops: float | None, ceilings: dict[str, float]) -> Timing:
    rate = flops / cost.median * 1000 if flops else None
    return Timing(
        milliseconds=cost.median,
        samples=tuple(cost.milliseconds),
        cpu_milliseconds=cost.cpu_median,
        first_milliseconds=cost.first_milliseconds,
        flops_per_second=rate,
        ceiling_share=rate / ceilings["convolution"] if rate else None,
        peak_mib=cost.peak_mib,
        launches=cost.launches,
    )


def print_circumstances(measured: Speed, console: Console) -> None:
    images = measured.dataset if measured.real_images else f"noise of {measured.dataset}'s shape"
    peaks = ", ".join(f"{name} {rate / 1e9:,.0f} GFLOP/s" for name, rate in measured.ceilings.items())
    console.print(
        f"{measured.environment.device}, torch {measured.environment.torch}; {images}; "
        f"precision {measured.precision}; at most: {peaks}",
        markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip
    if measured.contended:
        warning = f"contended: {measured.load:.1f} other processes are running; trust no single time"
        console.print(warning, style="yellow", highlight=False)


def print_table(measured: Speed, console: Console) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("unit")
    rates = "GFLOP/s", "of ceiling"
    for heading in ("plain ms", "ours ms", "ratio", "in CPU time", *rates, "plain MiB", "ours", "launches", "ours"):
        table.add_column(heading, justify="right")
    for unit in measured.units:
        ours, plain = unit.product, unit.plain
        table.add_row(
            unit.label,
            shown(plain.milliseconds),
            shown(ours.milliseconds),
            f"{unit.ratio:.2f}",
            f"{unit.cpu_ratio:.2f}",
            shown(ours.flops_per_second, 1e-9),
            shown(ours.ceiling_share, 100, " %"),
            *(shown(side) for side in (plain.peak_mib, ours.peak_mib, plain.launches, ours.launches)),
        )
    console.print(table)


def shown(value: float | None, scale: float = 1, suffix: str = "") -> str:
    return "-" if value is None else f"{value * scale:,.{0 if value * scale >= 10 else 1}f}{suffix}"


if __name__ == "__main__":
    sys.exit(main())
