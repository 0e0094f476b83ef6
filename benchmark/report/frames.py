"""The data behind the tables as CSV: `results.csv`, a line per row, and `runs.csv`, a line per network trained."""

from __future__ import annotations

import pandas as pd

from benchmark.report.observations import Observation
from benchmark.report.rows import Row

RESULT_COLUMNS = [
    "method",
    "dataset",
    "ipc",
    "schedule",
    "protocol",
    "network",
    "status",
    "accuracy",
    "ci95",
    "seeds",
    "nets",
    "published",
    "published_std",
    "published_evidence",
    "difference",
    "floats",
    "budget_multiple",
    "images",
    "steps",
    "seconds",
    "peak_memory_mib",
    "device",
]

NET_COLUMNS = [
    "method",
    "dataset",
    "ipc",
    "seed",
    "schedule",
    "protocol",
    "network",
    "net",
    "accuracy",
    "budget",
    "precision",
    "version",
    "key",
    "directory",
]


CELL_COLUMNS = ("method", "dataset", "ipc", "seed", "schedule", "budget", "precision", "version")
"""The `NET_COLUMNS` that are fields of the cell."""


def results_frame(rows: list[Row]) -> pd.DataFrame:
    """Return `results.csv`: the columns of `RESULT_COLUMNS`, percent, empty where there is nothing.

    A variant is named beside its method, `dm [lr_img=2]`, because it is not a row of the method itself.
    """
    lines = []
    for row in rows:
        line = {name: getattr(row, name) for name in RESULT_COLUMNS[:7]}
        line["method"] += f" [{row.variant}]" if row.variant else ""
        line |= {"accuracy": _round(row.accuracy), "ci95": _round(row.ci95), "nets": row.nets or 0}
        line |= {"seeds": row.seeds, "difference": _round(row.difference), "device": row.device}
        line |= {name: _tidy(row.mean(name)) for name in ("floats", "budget_multiple", "images", "steps", "seconds")}
        line["peak_memory_mib"] = _tidy(row.peak())
        if row.published:
            line |= {"published": row.published.accuracy, "published_std": row.published.std}
            line["published_evidence"] = row.published.evidence
        lines.append(line)
    return pd.DataFrame(lines, columns=RESULT_COLUMNS, dtype=object)


def nets_frame(found: list[Observation]) -> pd.DataFrame:
    """Return `runs.csv`: every accuracy of every network, percent."""
    lines = []
    for o in found:
        base = {name: getattr(o.record.cell, name) for name in CELL_COLUMNS}
        base |= {"protocol": o.protocol, "network": o.network, "directory": o.record.directory.name}
        base["key"] = o.record.result.key if o.record.result else None
        lines += [base | {"net": number, "accuracy": _round(a)} for number, a in enumerate(o.accuracies)]
    return pd.DataFrame(lines, columns=NET_COLUMNS, dtype=object)


def _tidy(value: float | None) -> float | int | None:
    """Four decimals at most, and no trailing `.0` on counts."""
    if value is None:
        return None
    return int(value) if float(value).is_integer() else round(value, 4)


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
