"""The cost table: what every cell stores, and what its condensation and its evaluation cost."""

from __future__ import annotations

from benchmark.report.observations import Names
from benchmark.report.rows import Row
from benchmark.report.style import dataset_rank, ipc_rank
from benchmark.report.tables import (
    Column,
    Entry,
    Line,
    Notes,
    Table,
    block_text,
    blocks,
    count,
    number_entry,
    three_digits,
    value_text,
)

COST_COLUMNS = (
    Column("Storage", "floats", "floats"),
    Column("Storage", "× budget", "budget_multiple"),
    Column("Storage", "bytes", "bytes"),
    Column("Storage", "bits / class", "bits_per_class"),
    Column("Storage", "images / class", "images_per_class"),
    Column("Condensation", "steps", "condensation_steps"),
    Column("Condensation", "seconds", "condensation_seconds"),
    Column("Condensation", "peak MiB", "condensation_peak_memory_mib"),
    Column("Evaluation", "steps", "evaluation_steps"),
    Column("Evaluation", "epochs", "evaluation_epochs"),
    Column("Evaluation", "images / epoch", "evaluation_images_per_epoch"),
    Column("Evaluation", "seconds", "evaluation_seconds"),
    Column("Evaluation", "peak MiB", "evaluation_peak_memory_mib"),
    Column("", "device", "device"),
)


LEGEND = (
    "Means over the seeds; peak memory is the largest. Seconds of an evaluation are those of all its "
    "networks together. Times compare only between rows of one device."
)


def cost_tables(rows: list[Row], titles: Names) -> list[Table]:
    """Return one table per schedule and protocol, with a line per data set, IPC, network and method."""
    tables = []
    for (schedule, protocol), members in blocks(rows, "schedule", "protocol"):
        notes, lines = Notes(titles), []
        for row in sorted(members, key=lambda row: _order(row, titles)):
            size = str(row.ipc) if row.ipc else "whole"
            stubs = titles.dataset(row.dataset), size, row.network, titles.method(row.method, row.variant)
            ids = {n: str(getattr(row, n)) for n in ("dataset", "ipc", "network", "method", "variant")}
            rule = bool(lines) and lines[-1].stubs[:2] != stubs[:2]
            lines.append(Line(stubs, ids, _entries(row, titles), notes.mark(row.method), rule))
        caption = f"Storage, time and memory; {block_text(schedule, protocol)}"
        block, stubs = {"schedule": schedule, "protocol": protocol}, ("Data set", "IPC", "Network", "Method")
        legend = LEGEND, *_more_images_than_real(members, titles)
        ends = tuple(lines), legend, tuple(notes.sentences)
        tables.append(Table("cost", block, caption, stubs, COST_COLUMNS, *ends))
    return tables


def _order(row: Row, titles: Names) -> tuple:
    return dataset_rank(row.dataset), ipc_rank(row.ipc), row.network, titles.rank(row.method), row.variant


def _entries(row: Row, titles: Names) -> tuple[Entry, ...]:
    if row.status == "failed":
        return (Entry(f"failed: {row.error}", kind="failed", span=len(COST_COLUMNS), id="status"),)
    if row.status == "missing":
        return (Entry(plain="missing", kind="missing", span=len(COST_COLUMNS), id="status"),)
    return (
        number_entry(row.mean("floats")),
        number_entry(row.mean("budget_multiple") if row.ipc else None, lambda value: f"{value:.2f}"),
        number_entry(row.mean("bytes")),
        number_entry(_bits_per_class(row, titles), _whole_number),
        number_entry(row.mean("images_per_class")),
        number_entry(row.mean("steps")),
        number_entry(row.mean("seconds"), three_digits),
        number_entry(row.peak(), _whole_number),
        number_entry(row.evaluation_mean("steps")),
        number_entry(row.evaluation_mean("epochs"), _whole_number),
        number_entry(row.evaluation_mean("images")),
        number_entry(row.evaluation_mean("seconds"), three_digits),
        number_entry(row.peak(evaluation=True), _whole_number),
        Entry(row.device) if row.device else Entry(plain="", kind="missing"),
    )


def _whole_number(value: float) -> str:
    return f"{value:,.0f}"


def _bits_per_class(row: Row, titles: Names) -> float | None:
    classes, size = titles.dataset_card(row.dataset).classes, row.mean("bytes")
    return 8 * size / classes if size is not None and classes else None


def _more_images_than_real(rows: list[Row], titles: Names) -> list[str]:
    """Return a note for each set that decodes to more images than it was made from: it must be compared with the whole
    set's row."""
    found = []
    for row in rows:
        images, real = row.mean("images"), row.mean("train_images")
        if not row.ipc or images is None or real is None or images <= real:
            continue
        beside = "the whole set was not trained"
        for other in rows:
            if not other.ipc and (other.dataset, other.network) == (row.dataset, row.network) and other.done:
                steps = count(other.evaluation_mean("steps") or 0)
                beside = f"the whole set reaches {value_text(other)} % in {steps} steps"
        place = f"{titles.method(row.method, row.variant)}, {titles.dataset(row.dataset)}, IPC {row.ipc}"
        found.append(f"{place}, {row.network}: {count(images)} images decoded, {count(real)} real; {beside}.")
    return found
