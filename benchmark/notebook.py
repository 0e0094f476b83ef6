"""Grids for notebooks and scripts, `from benchmark import Grid`: what `bench.py` does, with data frames as tables."""

from __future__ import annotations

import dataclasses
import inspect
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from benchmark.cli import session
from benchmark.cli.options import GridOptions, from_python, grid_of
from benchmark.system.errors import Stopped

if TYPE_CHECKING:
    import pandas as pd

    from benchmark.report.rows import Row
    from benchmark.store.folder import Store

MIB = 2**20
TEXTS = ("method", "dataset", "schedule", "protocol", "network", "status", "reason", "published_evidence", "device")
"""Columns of the results that are no numbers."""


class Grid:
    """A grid of methods, data sets and IPC: planned, run and read from Python.

    The keyword arguments are the options of the command line, by the same names and with the same defaults: `methods`,
    `datasets`, `ipc`, `schedule`, `seeds`, `nets`, `protocol`, `budget`, `set`, `results_dir`, `device`, `workers` and
    the others that `python bench.py --help` explains. Several values are a list, one may stand alone, and `set` takes a
    mapping too: `Grid(methods=["dm", "hmn"], ipc=10, set={"dm.lr_img": 2})`. It shares its results folder with the
    command line: what one has done the other does not do again.
    """

    def __init__(self, **options: Any) -> None:
        """Take the options and make sure that all they name exists; nothing is read or run yet.

        Args:
            **options: By name, as above; None and what is left out is the default.

        Raises:
            ValueError: An option, a name or a value does not exist or does not fit; the message is the command line's.
        """
        self.options: GridOptions = from_python(options)
        grid_of(self.options, session.data_dir_of(self.options))

    def __repr__(self) -> str:
        fields = [(field.name, field.default, getattr(self.options, field.name)) for field in grid_fields()]
        return f"Grid({', '.join(f'{name}={value!r}' for name, default, value in fields if value != default)})"

    @property
    def _store(self) -> Store:
        return session.store_of(self.options)

    def plan(self) -> pd.DataFrame:
        """Tell what `run` would do, and what it would cost; run nothing.

        Returns:
            A row for each cell: `dataset`, `method`, `variant` (what `set` changed), `ipc` (0 for the whole training
            set), `seed`, `schedule`, `evaluations` (their number), `floats` stored, `budget_multiple`, `state` ("done",
            "to do" or "blocked"), `reason` of a blocked one, `seconds` and `memory_mib` estimated of one to do (NaN
            where nothing is known), and `directory`, the cell's folder, for `load_condensed`.

        Raises:
            ValueError: The device does not exist, or images are too small for a network.
        """
        import pandas as pd

        with session.planned(self.options) as plan:
            entries = plan.entries
        lines = [
            {
                "dataset": entry.job.cell.dataset,
                "method": entry.job.cell.method,
                "variant": entry.job.cell.variant,
                "ipc": entry.job.cell.ipc,
                "seed": entry.job.cell.seed,
                "schedule": entry.job.cell.schedule,
                "evaluations": len(entry.job.evaluations),
                "floats": entry.floats,
                "budget_multiple": entry.budget.multiple(entry.floats),
                "state": entry.state,
                "reason": entry.reason,
                "seconds": float("nan") if entry.seconds is None else entry.seconds,
                "memory_mib": entry.memory / MIB if entry.state == "to do" else float("nan"),
                "directory": self._store.directory(entry.job.cell),
            }
            for entry in entries
        ]
        return pd.DataFrame(lines)

    def run(self) -> pd.DataFrame:
        """Do what is missing of the grid, showing progress; a failed cell never stops the rest.

        Interrupted (Ctrl-C, or the notebook's stop button), it saves where it is and raises KeyboardInterrupt; the same
        call goes on from there. Outside the main thread, where Python hears no signals, it runs to its end.

        Returns:
            What `results` returns. A cell that failed is a row of status "failed" with its reason.

        Raises:
            ValueError: As `plan`; or data is missing, which the message names with the mend.
            Stopped: The Ray cluster was lost; the same call goes on from where it was.
        """
        console = Console()
        with session.planned(self.options) as plan:
            outcome, stop = session.run(plan, self._store, session.data_dir_of(self.options), console)
        if outcome.stopped:
            told = f"stopped {outcome.stopped}; the same call of run() goes on from there"
            if not stop.name:
                raise Stopped(told)
            console.print(told, markup=False)
            signal.raise_signal(signal.Signals[stop.name])  # to whoever hears it when no grid runs
        return self.results()

    def results(self) -> pd.DataFrame:
        """Read what is stored of this grid; run nothing.

        Returns:
            The rows of `tables/results.csv` that are this grid's, seeds aggregated: `method`, `dataset`, `ipc`,
            `schedule`, `protocol`, `network`, `status` ("done", "failed" or "missing"), `reason` of what failed,
            `accuracy` (percent) and half its 95 % interval `ci95`, `seeds`, `nets`, the `published` number beside it,
            `floats`, `images`, `steps`, `seconds`, `peak_memory_mib` and `device`. A cell that was never asked to run
            has no row.
        """
        import pandas as pd

        from benchmark.report import frames, observations, rows

        grid = session.grid_to_run(self.options)
        directories = {job.cell.directory for job in grid.jobs()}
        records = [record for record in self._store.records() if record.directory.name in directories]
        found = [
            o
            for o in observations.observations(records)
            if o.protocol in ("", *grid.protocols) and o.network in ("", *grid.networks)
        ]
        lines = rows.aggregate(found, observations.names(records))
        frame = frames.results_frame(lines)
        frame.insert(frame.columns.get_loc("status") + 1, "reason", [reason_of(line) for line in lines])
        return frame.assign(**{name: pd.to_numeric(frame[name]) for name in frame if name not in TEXTS})

    def report(self) -> Path:
        """Make every table, every plot and the page anew, from all that the results folder holds.

        Returns:
            The page, `index.html` in the results folder.
        """
        from benchmark.report import build

        return build(self._store)


def grid_fields() -> tuple[dataclasses.Field[Any], ...]:
    """The options of a grid."""
    return dataclasses.fields(GridOptions)


def reason_of(row: Row) -> str:
    """Why a row's cells failed, each reason once; empty where none did."""
    failures = [o.record.failure for o in row.observations if o.status == "failed" and o.record.failure]
    return "; ".join(dict.fromkeys(f"{failure.error}: {failure.message}" for failure in failures))


# So that a notebook's completion and help name every option, once and for all.
Grid.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [
        inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type)
        for field in grid_fields()
    ]
)
