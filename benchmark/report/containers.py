"""The container table: every container under one objective x (data set, IPC)."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from benchmark.report.accuracy import accuracy_entry, accuracy_legend, best_rows, dataset_column
from benchmark.report.observations import Names
from benchmark.report.published import lookup_container
from benchmark.report.rows import Row, objective_of
from benchmark.report.style import CONTAINERS, container_rank, dataset_rank, schedule_rank
from benchmark.report.tables import Line, Notes, Table, block_text


def container_tables(rows: list[Row], titles: Names) -> list[Table]:
    """Return one table for each schedule, protocol, network and objective under which two containers or more were
    condensed."""
    found: dict[tuple[str, str, str, str], list[tuple[str, Row]]] = defaultdict(list)
    for row in rows:
        container = titles.method_card(row.method).container  # of any of its results: failed and missing cells count
        objective = objective_of(row.observations[0]) or row.method
        if container and row.ipc:
            published = lookup_container(container, objective, titles.identifier(row.dataset), row.ipc, row.network)
            place = row.schedule, row.protocol, row.network, objective
            found[place].append((container, replace(row, published=published)))
    order = sorted(found, key=lambda key: (schedule_rank(key[0]), key[1] != "unified", key[2] != "convnet", key))
    return [_table(key, found[key], titles) for key in order if len({container for container, _ in found[key]}) > 1]


def _table(key: tuple[str, str, str, str], members: list[tuple[str, Row]], titles: Names) -> Table:
    schedule, protocol, network, objective = key
    rows, notes = [row for _, row in members], Notes(titles)
    places = sorted({(r.dataset, r.ipc) for r in rows}, key=lambda place: (dataset_rank(place[0]), place[1]))
    best = best_rows(rows, lambda r: (r.dataset, r.ipc))
    lines = []
    for container, method, variant in sorted(
        {(container, r.method, r.variant) for container, r in members}, key=lambda line: (container_rank(line[0]), line)
    ):
        mine = {(r.dataset, r.ipc): r for c, r in members if (c, r.method, r.variant) == (container, method, variant)}
        rest = ", ".join(part for part in variant.split(", ") if part != f"objective={objective}")  # the caption's
        stubs = CONTAINERS.get(container, container), titles.method(method, rest)
        ids = {"container": container, "method": method, "variant": variant}
        entries = tuple(accuracy_entry(mine.get(place), best) for place in places)
        lines.append(Line(stubs, ids, entries, notes.mark(method)))
    block = {"schedule": schedule, "protocol": protocol, "network": network, "objective": objective}
    trained = f"Test accuracy (%) of {network or 'an unnamed network'} on every container"
    caption = f"{trained} moved by {titles.method(objective)}'s objective and loop; "
    columns = tuple(dataset_column(dataset, ipc, titles) for dataset, ipc in places)
    ends = tuple(lines), accuracy_legend(rows), tuple(notes.sentences)
    return Table("containers", block, caption + block_text(schedule, protocol), ("Container", "Method"), columns, *ends)
