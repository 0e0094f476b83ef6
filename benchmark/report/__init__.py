"""The report: it makes every table, every plot and the page from what a results folder holds.

It reads only the store and the packaged published numbers; no method, data set or network is imported.
"""

from __future__ import annotations

from pathlib import Path

from benchmark.report import accuracy, containers, cost, frames, observations, pruning, render, rows
from benchmark.report.tables import Table
from benchmark.store.folder import Store
from benchmark.system.files import write_atomically

ALWAYS = ("accuracy", "cost")
"""Tables that are written even if nothing has run."""


def build(store: Store) -> Path:
    """Write tables/, plots/ and index.html below the store's folder; return the path of index.html.

    An empty store gives a page that says so, and a `results.csv` that has only its header.
    """
    # Drawing libraries take seconds to import; who only imports the report should not wait for them.
    from benchmark.report import page, plots, speed

    records = store.records()
    titles = observations.names(records)
    observed = observations.observations(records)
    lines = rows.aggregate(observed, titles)
    main = rows.main_rows(lines)
    made = {
        "accuracy": accuracy.accuracy_tables(main, titles),
        "cost": cost.cost_tables(lines, titles),
        "cross_architecture": accuracy.cross_architecture_tables(lines, titles),
        "containers": containers.container_tables(main, titles),
        "pruning": pruning.pruning_tables(main, titles),
    }
    folder = store.root / "tables"
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "results.csv", frames.results_frame(lines).to_csv(index=False))
    write_atomically(folder / "runs.csv", frames.nets_frame(observed).to_csv(index=False))
    for name, blocks in made.items():
        _write_table(folder, name, blocks)
    drawn = plots.draw(main, titles, store.root / "plots")
    bars = speed.draw(store.speed(), store.root / "plots")
    path = store.root / "index.html"
    write_atomically(path, page.render(records, lines, titles, made, drawn, bars))
    return path


def _write_table(folder: Path, name: str, blocks: list[Table]) -> None:
    for suffix, write in (("csv", render.to_csv), ("md", render.to_markdown), ("tex", render.to_latex)):
        path = folder / f"{name}.{suffix}"
        if blocks or name in ALWAYS:
            write_atomically(path, write(blocks))
        else:  # nothing of the kind ran: no such table, and none left over from an earlier report
            path.unlink(missing_ok=True)
