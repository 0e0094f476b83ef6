"""What the terminal shows besides progress: the lists of --list and the plan."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmark import data, networks
from benchmark.grid import registry
from benchmark.grid.plan import Entry
from benchmark.system.wording import duration


def print_list(console: Console) -> None:
    """Methods, data sets and networks, one line each."""
    methods = Table("method", "what it does", "paper", title="Methods", title_justify="left", box=None)
    for name, method in registry.all_methods().items():
        kind = "" if method.category == "method" else f" ({method.category})"
        methods.add_row(name + kind, registry.summary(method), method.paper)
    datasets = Table("data set", "images", title="Data sets", title_justify="left", box=None)
    for name, description in data.describe().items():
        datasets.add_row(name, description)
    nets = Table("network", "what it is", title="Networks", title_justify="left", box=None)
    for name in networks.NAMES:
        nets.add_row(name, networks.describe(name))
    for table in (methods, datasets, nets):
        console.print(table)
        console.print()


def print_plan(entries: Sequence[Entry], place: str, processes: int, gpu: bool, console: Console) -> None:
    """One line a cell: state, floats, estimated cost; then the totals.

    place: what the cells would run on. gpu: whether that is GPUs: then the memory shown is theirs, and processes divide
    the time, each having a GPU of its own; those of a CPU do not.
    """
    table = Table(box=None, title=f"Plan on {place}", title_justify="left")
    numbers = ("IPC", "seed", "floats", "x budget", "estimate", "GPU memory" if gpu else "memory")
    columns = ("data set", "method", *numbers[:2], "schedule", "evaluation", *numbers[2:4], "state", *numbers[4:])
    for column in columns:
        table.add_column(column, justify="right" if column in numbers else "left")
    for entry in entries:
        cell = entry.job.cell
        protocols = dict.fromkeys(f"{e.protocol}, {e.nets} x {e.network}" for e in entry.job.evaluations)
        table.add_row(
            escape(cell.dataset),
            escape(f"{cell.method} [{cell.variant}]") if cell.variant else cell.method,
            str(cell.ipc) if cell.ipc else "all",
            str(cell.seed),
            cell.schedule,
            "; ".join(protocols),
            f"{entry.floats:,}" if entry.floats else "-",
            f"{entry.budget.multiple(entry.floats):.3f}" if entry.floats else "-",
            escape(f"blocked: {entry.reason}") if entry.state == "blocked" else entry.state,
            duration(entry.seconds) if entry.seconds is not None else "-",
            f"{entry.memory / 2**30:.1f} GiB" if entry.state == "to do" else "-",
        )
    console.print(table)
    counts = {state: sum(entry.state == state for entry in entries) for state in ("done", "to do", "blocked")}
    shared = f" in {processes} processes" if processes > 1 else ""
    cells = ", ".join(f"{count} {state}" for state, count in counts.items())
    known = [entry.seconds for entry in entries if entry.seconds is not None]
    total = f"estimated {duration(sum(known) / (processes if gpu else 1))}" if known else "no estimate"
    console.print(f"{len(entries)} cells: {cells}; {total}{shared}", highlight=False)
