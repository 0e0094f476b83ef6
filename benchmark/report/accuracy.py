"""The accuracy tables: methods x (data set, IPC), and methods x evaluation network."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import groupby

from benchmark.report.observations import Names
from benchmark.report.rows import Row
from benchmark.report.style import dataset_rank, ipc_rank
from benchmark.report.tables import (
    MISSING,
    Column,
    Entry,
    Line,
    Notes,
    Table,
    block_text,
    blocks,
    count,
    plural,
    value_text,
)

INTERVALS = (
    "± is half the 95 % t-interval: over the means of the condensations where there are several seeds, over "
    "the networks where there is one; no ± where there is a single network. Bold: best of the column, the "
    "whole set and rows above the budget aside."
)
EVIDENCE_LEGEND = (
    "In brackets the published value: [26.0] from the authors' own code or readme; [26.0 s] quoted by a "
    "secondary source; (26.0?) unverified, not to be taken as fact."
)
MISSING_LEGEND = f"{MISSING} is a cell without a result; no mean is taken over what is not there."


def accuracy_tables(rows: list[Row], titles: Names) -> list[Table]:
    """Return one table of methods x (data set, IPC) for each schedule, protocol and network."""
    parts = blocks(rows, "schedule", "protocol", "network")
    return [_accuracy_table(key, members, titles) for key, members in parts]


def _accuracy_table(key: tuple[str, ...], rows: list[Row], titles: Names) -> Table:
    schedule, protocol, network = key
    places = sorted({(r.dataset, r.ipc) for r in rows}, key=lambda place: (dataset_rank(place[0]), place[1]))
    # The whole set has no IPC: its row spans its data set's columns; it has its own only where there is none.
    places = [p for p in places if p[1] or not any(q[0] == p[0] and q[1] for q in places)]
    columns = tuple(dataset_column(dataset, ipc, titles) for dataset, ipc in places)
    best, notes, lines = best_rows(rows, lambda r: (r.dataset, r.ipc)), Notes(titles), []
    methods = sorted({(r.method, r.variant) for r in rows}, key=titles.key_rank)
    for method, variant in methods:
        mine = {(r.dataset, r.ipc): r for r in rows if (r.method, r.variant) == (method, variant)}
        if all(ipc == 0 for _, ipc in mine):
            spans = [(d, len(list(group))) for d, group in groupby(places, key=lambda place: place[0])]
            entries = [
                replace(accuracy_entry(mine.get((dataset, 0)), best), span=span, id=f"{dataset} whole")
                for dataset, span in spans
            ]
        else:
            entries = [accuracy_entry(mine.get(place), best) for place in places]
        rule = bool(lines) and titles.group(method) != titles.group(lines[-1].ids["method"])
        tip = titles.method_card(method).paper
        stubs, ids = (titles.method(method, variant),), {"method": method, "variant": variant}
        lines.append(Line(stubs, ids, tuple(entries), notes.mark(method), rule, tip))
    block = {"schedule": schedule, "protocol": protocol, "network": network}
    caption = f"Test accuracy (%) of {network or 'an unnamed network'}{_length(rows)}; {block_text(schedule, protocol)}"
    ends = tuple(lines), accuracy_legend(rows), tuple(notes.sentences)
    return Table("accuracy", block, caption, ("Method",), columns, *ends)


def _length(rows: list[Row]) -> str:
    """How long the networks of these rows were trained."""
    steps = [row.evaluation_mean("steps") for row in rows if row.done]
    steps = sorted({value for value in steps if value is not None})
    if not steps:
        return ""
    return f", trained for {count(steps[0])}{f' to {count(steps[-1])}' if len(steps) > 1 else ''} steps"


def dataset_column(dataset: str, ipc: int, titles: Names) -> Column:
    label, name = (f"IPC {ipc}", f"{dataset} ipc{ipc}") if ipc else ("whole set", f"{dataset} whole")
    return Column(titles.dataset(dataset), label, name)


def accuracy_legend(rows: list[Row]) -> tuple[str, ...]:
    return (INTERVALS, *[EVIDENCE_LEGEND] * any(row.published for row in rows), MISSING_LEGEND)


def cross_architecture_tables(rows: list[Row], titles: Names) -> list[Table]:
    """Return tables of (data set, IPC, method) x network; none if only one network was trained."""
    tables = []
    for (schedule, protocol), members in blocks(rows, "schedule", "protocol"):
        networks = sorted({row.network for row in members}, key=lambda name: (name != "convnet", name))
        if len(networks) < 2:
            continue
        notes = Notes(titles)
        lines = _network_lines(members, networks, titles, notes)
        columns = tuple(Column("", network or "not recorded", network) for network in networks)
        block = {"schedule": schedule, "protocol": protocol}
        caption = f"Test accuracy (%) by evaluation network; {block_text(schedule, protocol)}"
        stubs, ends = ("Data set", "IPC", "Method"), (accuracy_legend(members), tuple(notes.sentences))
        tables.append(Table("cross-architecture", block, caption, stubs, columns, tuple(lines), *ends))
    return tables


def _network_lines(rows: list[Row], networks: list[str], titles: Names, notes: Notes) -> list[Line]:
    best, lines = best_rows(rows, lambda r: (r.dataset, r.ipc, r.network)), []
    found: dict[tuple, dict[str, Row]] = {}
    for row in sorted(rows, key=lambda r: (dataset_rank(r.dataset), ipc_rank(r.ipc), titles.rank(r.method), r.variant)):
        found.setdefault((row.dataset, row.ipc, row.method, row.variant), {})[row.network] = row
    for (dataset, ipc, method, variant), mine in found.items():
        stubs = (titles.dataset(dataset), str(ipc) if ipc else "whole", titles.method(method, variant))
        ids = {"dataset": dataset, "ipc": str(ipc), "method": method, "variant": variant}
        entries = tuple(accuracy_entry(mine.get(network), best) for network in networks)
        rule = bool(lines) and lines[-1].stubs[:2] != stubs[:2]
        lines.append(Line(stubs, ids, entries, notes.mark(method), rule))
    return lines


def over_budget(row: Row) -> bool:
    """Return whether more is stored than the IPC allows; the whole set has no budget."""
    return row.ipc > 0 and (row.mean("budget_multiple") or 0.0) > 1.0 + 1e-9


def remarks(row: Row) -> tuple[str, ...]:
    """Return why a value is not quite what its column promises: it is above the budget, or short of seeds or
    networks."""
    found = []
    if over_budget(row):
        found.append(f"{max(row.mean('budget_multiple'), 1.01):.2f}× budget")
    if row.seeds < len(row.observations):
        found.append(f"{row.seeds} of {len(row.observations)} seeds")
    asked = max(o.nets_asked for o in row.observations)
    if row.nets < asked:
        found.append(f"{row.nets} of {asked} nets")
    return tuple(found)


def _tip(row: Row) -> str:
    parts = [f"{row.seeds} {plural('condensation', row.seeds)} × {row.nets} {plural('network', row.nets)}"]
    if row.std_sets is not None:
        parts.append(f"std over condensations {row.std_sets:.2f}")
    parts.append(f"pooled std over all networks {row.std_pooled:.2f}")
    if images := row.mean("images_per_class"):
        parts.append(f"{count(images)} decoded images per class")
    return "; ".join(parts)


def accuracy_entry(row: Row | None, best: set[int]) -> Entry:
    """Return one place of an accuracy table; `best` holds the identities of the rows to be set in bold."""
    if row is None:
        return Entry(kind="missing", tip="not asked for")
    if row.status == "failed":
        return Entry(f"failed: {row.error}", kind="failed", published=row.published)
    if row.status == "missing":
        return Entry(kind="missing", published=row.published, tip="asked for, no result yet")
    return Entry(
        value_text(row),
        best=id(row) in best,
        published=row.published,
        difference=row.difference if row.schedule == "paper" else None,
        remarks=remarks(row),
        tip=_tip(row),
    )


def best_rows(rows: list[Row], column: Callable[[Row], tuple]) -> set[int]:
    """Return the identities of the best rows of every column, ties at the printed precision included."""
    eligible = [r for r in rows if r.accuracy is not None and r.ipc and not over_budget(r)]
    top: dict[tuple, float] = {}
    for row in eligible:
        top[column(row)] = max(top.get(column(row), -math.inf), round(row.accuracy, 1))
    return {id(row) for row in eligible if round(row.accuracy, 1) == top[column(row)]}
