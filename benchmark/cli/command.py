"""The command line: arguments to a grid, the grid to a plan, the plan to a run and a report.

Exit status: 0 all requested cells are done; 1 some cell failed; 2 bad arguments or missing data (one message that names
the mend); 130 or 143 stopped by a signal, or 1 by the loss of a cluster, to be gone on with by the same command.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmark import __version__, data
from benchmark.cli import session
from benchmark.cli.evaluate_file import print_scores, score_file
from benchmark.cli.listing import print_list, print_plan
from benchmark.cli.options import Options, UsageError, grid_of, parse
from benchmark.data import DataError
from benchmark.engines.failures import failure_reason, hint
from benchmark.engines.progress import Display
from benchmark.evaluation.importers import ForeignSetError
from benchmark.grid import registry
from benchmark.store.condensed_set import ArtifactError
from benchmark.store.folder import Store
from benchmark.system.errors import CellError
from benchmark.system.runtime import settle_compiler

BAD_INPUT = 2
PLAIN_WIDTH = 140


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
        errors.print(f"bench.py: {error}{hint(error)}", markup=False, highlight=False, style="red", soft_wrap=True)
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
    store = session.store_of(options)
    if options.report:
        return write_report(store, console)
    if options.evaluate:
        return score(options.evaluate, options, store, console)
    with session.planned(options) as plan:
        print_plan(plan.entries, plan.place, plan.at_once, plan.gpu, console)
        if options.plan:
            return 0
        outcome, stop = session.run(plan, store, session.data_dir_of(options), console)
    if outcome.stopped:
        why = f"({stop.name}) " if stop.name else ""
        console.print(f"stopped {why}{outcome.stopped}.\nThe same command goes on from there.", markup=False)
        return {"SIGINT": 130, "SIGTERM": 143}.get(stop.name, 1)
    write_report(store, console)
    for job, reason in outcome.failed:
        console.print(f"failed: {job.cell.label}: {reason}", markup=False, highlight=False, style="red")
    return 1 if outcome.failed else 0


def score(path: Path, options: Options, store: Store, console: Console) -> int:
    """Score a condensed set of this or another program on the one data set that was named."""
    runtime, data_dir = session.runtime_of(options), session.data_dir_of(options)
    if options.workers or options.engine != "local":
        raise UsageError("--evaluate scores in this process; leave out --workers and --engine")
    if options.microbatch:
        raise UsageError("--evaluate has no real batches to split; leave out --microbatch")
    grid = grid_of(options, data_dir)
    if len(grid.datasets) != 1:
        raise UsageError("--evaluate scores on one data set; name it with --datasets")
    dataset = data.load(grid.datasets[0].name, data_dir).to(runtime.device)
    try:
        with Display(console) as display:
            entries = score_file(path, grid, dataset, runtime, store, display)
    except (ForeignSetError, ArtifactError) as error:
        raise UsageError(f"--evaluate: {error}") from None
    except (CellError, MemoryError, RuntimeError) as error:
        raise UsageError(f"--evaluate {path}: {failure_reason(error)}: {error}") from None
    print_scores(entries, console)
    return 0


def write_report(store: Store, console: Console) -> int:
    from benchmark.report import build  # pandas, matplotlib and seaborn take seconds to import

    page = build(store)
    console.print(f"report: {page.resolve()}", markup=False, highlight=False, soft_wrap=True)
    return 0
