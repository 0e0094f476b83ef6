"""The pruning table: sets condensed over their budget and pruned back to it, beside their controls."""

from __future__ import annotations

from dataclasses import replace

from benchmark.report.accuracy import INTERVALS, accuracy_entry, best_rows
from benchmark.report.observations import Names
from benchmark.report.rows import Row
from benchmark.report.style import dataset_rank
from benchmark.report.tables import Column, Entry, Line, Notes, Table, block_text, blocks, count, number_entry
from benchmark.store.records import Condensation, Pruning, from_json

COLUMNS = (
    Column("Training", "images", "train_pool"),
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
    "highest; β* was chosen on a held-out tenth of the training set, or given by the user. Trainings are whole "
    "trainings of a network on the condensed set. Where condensations of several seeds differ, the value of each is "
    "given. An empty place: no such step."
)


def pruning_tables(rows: list[Row], titles: Names) -> list[Table]:
    """Return one table per schedule, protocol and network, with a line per data set, IPC and method whose images are
    pruned."""
    pruned = [row for row in rows if row.done and _prunings(row)]
    tables = []
    for (schedule, protocol, network), members in blocks(pruned, "schedule", "protocol", "network"):
        notes, lines = Notes(titles), []
        best = best_rows(members, lambda r: (r.dataset, r.ipc))
        for row in sorted(members, key=lambda row: _order(row, titles)):
            stubs = titles.dataset(row.dataset), str(row.ipc), titles.method(row.method, row.variant)
            ids = {name: str(getattr(row, name)) for name in ("dataset", "ipc", "method", "variant")}
            rule = bool(lines) and lines[-1].stubs[:2] != stubs[:2]
            lines.append(Line(stubs, ids, _entries(row, best), notes.mark(row.method), rule))
        block = {"schedule": schedule, "protocol": protocol, "network": network}
        caption = f"Pruning, and the accuracy of {network or 'an unnamed network'}; {block_text(schedule, protocol)}"
        ends = tuple(lines), (LEGEND, INTERVALS), tuple(notes.sentences)
        tables.append(Table("pruning", block, caption, ("Data set", "IPC", "Method"), COLUMNS, *ends))
    return tables


def _order(row: Row, titles: Names) -> tuple:
    return dataset_rank(row.dataset), row.ipc, titles.rank(row.method)


def pruning_of(condensation: Condensation) -> Pruning | None:
    """Return what a condensation says of its pruning; None if nothing was pruned. Older results, made before there was
    a field for it, have it among their notes."""
    if condensation.pruning or "gipc" not in (condensation.notes or {}):
        return condensation.pruning
    try:
        return from_json(condensation.notes, Pruning)
    except ValueError:  # notes are free, so that another method may have one of this name
        return None


def _prunings(row: Row) -> list[Pruning]:
    found = (pruning_of(observation.condensation) for observation in row.done)
    return [pruning for pruning in found if pruning]


def _entries(row: Row, best: set[int]) -> tuple[Entry, ...]:
    prunings = _prunings(row)
    entries = {
        "train_pool": _of_each([observation.condensation.train_images for observation in row.done]),
        "budget_multiple": number_entry(row.mean("budget_multiple"), _form),
    }
    for column in COLUMNS[:-1]:
        if column.id not in entries:
            entries[column.id] = _of_each([getattr(pruning, column.id) for pruning in prunings])
    if any(pruning.beta is not None and pruning.trainings_for_beta == 0 for pruning in prunings):
        entries["beta"] = replace(entries["beta"], remarks=("given",))
    return *(entries[column.id] for column in COLUMNS[:-1]), accuracy_entry(row, best)


def _of_each(values: list[float | None]) -> Entry:
    """One number where all condensations agree, otherwise the number of each."""
    known = [value for value in values if value is not None]
    if len(set(known)) < 2:
        return number_entry(known[0] if known else None, _form)
    return Entry(" / ".join(map(_form, known)), plain=" ".join(f"{value:.10g}" for value in known))


def _form(value: float) -> str:
    return count(value) if isinstance(value, int) else f"{value:.2f}"
