"""The pruning table: sets condensed over their budget and pruned back to it, beside their controls."""

from __future__ import annotations

from typing import Any

from benchmark.report.accuracy import INTERVALS, accuracy_entry, best_rows
from benchmark.report.observations import Names
from benchmark.report.rows import Row
from benchmark.report.style import dataset_rank, method_rank
from benchmark.report.tables import Column, Entry, Line, Notes, Table, block_text, blocks, count, number_entry

COLUMNS = (
    Column("Images per class", "condensed", "gipc_over"),
    Column("Images per class", "dropped", "pruned_per_class"),
    Column("Images per class", "kept", "gipc"),
    Column("Storage", "× budget", "budget_multiple"),
    Column("Pruning", "β*", "beta"),
    Column("Pruning", "trainings for AUM", "trainings_for_aum"),
    Column("Pruning", "trainings for β", "trainings_for_beta"),
    Column("", "accuracy %", "accuracy"),
)

LEGEND = (
    "Of each class the share β* of the dropped images is that of lowest area under the margin (AUM), the rest of "
    "highest; β* was chosen on a held-out tenth of the training set. Trainings are whole trainings of a network on the "
    "condensed set. An empty place: no such step."
)


def pruning_tables(rows: list[Row], titles: Names) -> list[Table]:
    """One table per schedule and protocol, a line per data set, IPC and method whose images are pruned."""
    pruned = [row for row in rows if row.done and "gipc" in _notes(row)]
    tables = []
    for (schedule, protocol), members in blocks(pruned, "schedule", "protocol"):
        notes, lines = Notes(titles), []
        best = best_rows(members, lambda r: (r.dataset, r.ipc, r.network))
        for row in sorted(members, key=_order):
            stubs = titles.dataset(row.dataset), str(row.ipc), titles.method(row.method, row.variant)
            ids = {name: str(getattr(row, name)) for name in ("dataset", "ipc", "method", "variant")}
            rule = bool(lines) and lines[-1].stubs[:2] != stubs[:2]
            lines.append(Line(stubs, ids, _entries(row, best), notes.mark(row.method), rule))
        block, caption = {"schedule": schedule, "protocol": protocol}, f"Pruning; {block_text(schedule, protocol)}"
        ends = tuple(lines), (LEGEND, INTERVALS), tuple(notes.sentences)
        tables.append(Table("pruning", block, caption, ("Data set", "IPC", "Method"), COLUMNS, *ends))
    return tables


def _order(row: Row) -> tuple:
    return dataset_rank(row.dataset), row.ipc, row.network, method_rank(row.method.partition("-")[0]), row.method


def _notes(row: Row) -> dict[str, Any]:
    notes = row.done[0].condensation.get("notes")
    return notes if isinstance(notes, dict) else {}


def _entries(row: Row, best: set[int]) -> tuple[Entry, ...]:
    values = _notes(row) | {"budget_multiple": row.mean("budget_multiple")}
    numbers = (values.get(column.id) for column in COLUMNS[:-1])
    entries = (number_entry(value if isinstance(value, int | float) else None, _form) for value in numbers)
    return *entries, accuracy_entry(row, best)


def _form(value: float) -> str:
    return count(value) if isinstance(value, int) else f"{value:.2f}"
