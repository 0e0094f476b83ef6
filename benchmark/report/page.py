"""The report's page: one HTML file that holds its plots and images and loads nothing from outside."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from benchmark.report.figures import Plot
from benchmark.report.observations import Names
from benchmark.report.published import EVIDENCE, Published
from benchmark.report.rows import Row
from benchmark.report.style import dataset_rank, ipc_rank, looks
from benchmark.report.tables import Column, Table, count, plural, value_text
from benchmark.store.folder import Record
from benchmark.store.records import as_json
from benchmark.system.wording import duration

SHEET_PIXELS = 520
"""Longest side of a sheet in the page."""
SHEET_BYTES = 80_000
"""A sheet of more bytes goes into the page with 256 colours: a grid has a hundred of them, mostly noise."""


@dataclass(frozen=True)
class Sheet:
    """A sheet of condensed images with what stands below it."""

    image: str
    width: int
    height: int
    title: str
    facts: tuple[str, ...]
    settings: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Failure:
    cell: str
    error: str
    message: str
    time: str
    traceback: str


@dataclass(frozen=True)
class Source:
    """One published value of the page and where it comes from."""

    method: str
    dataset: str
    ipc: str
    network: str
    published: Published


def render(
    records: list[Record],
    rows: list[Row],
    titles: Names,
    tables: dict[str, list[Table]],
    plots: list[Plot],
    speed: Plot | None,
) -> str:
    """Return the page as text. `speed`: the bars of `benchmark.speed`, if that was run."""
    environment = Environment(
        loader=PackageLoader("benchmark.report", "."), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    colours = {key: look.colour for key, look in looks([(r.method, r.variant) for r in rows]).items()}
    return environment.get_template("page.html.jinja").render(
        summary=_summary(records, rows, titles),
        tables=tables,
        plots=[(titles.dataset(name), list(group)) for name, group in groupby(plots, key=lambda p: p.dataset)],
        speed=speed,
        sheets=_sheets(rows, titles),
        failures=[_failure(record, titles) for record in records if record.failure],
        sources=_sources(rows, titles),
        disclosures=_disclosures(rows, titles),
        evidence=EVIDENCE,
        colours=colours,
        embed=lambda svg: _data_uri(svg.encode(), "svg+xml"),
        runs=_runs,
    )


def _runs(columns: tuple[Column, ...]) -> list[tuple[str, int]]:
    """Neighbouring columns of one group: its name and how many they are."""
    return [(name, len(list(members))) for name, members in groupby(columns, key=lambda column: column.group)]


def _summary(records: list[Record], rows: list[Row], titles: Names) -> dict[str, Any]:
    done = [r for r in records if r.result]
    finished = sorted(r.result.finished for r in done if r.result.finished)
    environments = [as_json(r.result.environment) for r in done]
    found = {
        name: ", ".join(dict.fromkeys(environment[name] for environment in environments if environment[name]))
        for name in ("device", "torch", "python", "package")
    }
    datasets = sorted({r.dataset for r in rows}, key=dataset_rank)
    methods = sorted({r.method for r in rows}, key=titles.rank)
    return found | {
        "cells": len(records),
        "done": sum(r.status == "done" for r in records),
        "failed": sum(r.status == "failed" for r in records),
        "missing": sum(r.status == "missing" for r in records),
        "methods": [titles.method(m) for m in methods],
        "datasets": [titles.dataset(d) for d in datasets],
        "schedules": list(dict.fromkeys(r.schedule for r in rows)),
        "precisions": list(dict.fromkeys(r.cell.precision for r in done)),
        "protocols": [p for p in dict.fromkeys(r.protocol for r in rows) if p],
        "first": _moment(finished[0]) if finished else "",
        "last": _moment(finished[-1]) if finished else "",
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _moment(text: str) -> str:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return text
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC") if moment.tzinfo else moment.strftime("%Y-%m-%d %H:%M")


def _data_uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _preview(path: Path) -> tuple[str, int, int] | None:
    """A preview as a data URI with the size to show it at; None where there is none that can be read."""
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            image.load()
            shown = image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    shown.thumbnail((SHEET_PIXELS, SHEET_PIXELS))
    if len(data) > SHEET_BYTES:
        buffer = io.BytesIO()
        shown.quantize(256).save(buffer, "PNG", optimize=True)
        data = min(data, buffer.getvalue(), key=len)
    return _data_uri(data, "png"), shown.width, shown.height


def _sheets(rows: list[Row], titles: Names) -> list[tuple[str, list[Sheet]]]:
    """One sheet per configuration (its first seed with a preview), by data set and IPC."""
    found: dict[str, list[Sheet]] = {}
    seen = set()
    for row in sorted(rows, key=lambda r: (dataset_rank(r.dataset), ipc_rank(r.ipc), titles.rank(r.method), r.variant)):
        place = (row.method, row.dataset, row.ipc, row.schedule, row.variant)
        for observation in row.done:
            if place in seen or not (preview := _preview(observation.record.directory / "preview.png")):
                continue
            seen.add(place)
            heading = f"{titles.dataset(row.dataset)}, {_size(row.ipc)}"
            found.setdefault(heading, []).append(_sheet(row, observation.record, titles, preview))
    return list(found.items())


def _size(ipc: int) -> str:
    return f"IPC {ipc}" if ipc else "whole set"


def _sheet(row: Row, record: Record, titles: Names, preview: tuple[str, int, int]) -> Sheet:
    condensation = record.result.condensation
    facts = [f"{value_text(row)} % ({row.protocol})", f"schedule {row.schedule}"]
    if (images := row.mean("images_per_class")) is not None:
        facts.append(f"{count(images)} {plural('image', images)} per class")
    if (seconds := row.mean("seconds")) is not None:
        facts.append(duration(seconds))
    facts.append(f"seed {record.cell.seed}")
    pruning = as_json(condensation.pruning) if condensation.pruning else {}
    parts = record.cell.hyper, pruning, condensation.notes or {}
    settings = tuple((name, _brief(value)) for part in parts for name, value in part.items())
    return Sheet(*preview, titles.method(row.method, row.variant), tuple(facts), settings)


def _brief(value: Any) -> str:
    """A setting or note on one line; long lists (chosen images, say) by their length."""
    if isinstance(value, list | dict) and len(value) > 8:
        return f"{len(value)} values"
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 120 else text[:119] + "…"


def _failure(record: Record, titles: Names) -> Failure:
    cell, failure = record.cell, record.failure
    place = [titles.method(cell.method), titles.dataset(cell.dataset), _size(cell.ipc)]
    label = ", ".join((*place, f"seed {cell.seed}", f"schedule {cell.schedule}"))
    error, when = failure.error or "no reason stored", _moment(failure.time)
    return Failure(label, error, failure.message, when, failure.traceback)


def _sources(rows: list[Row], titles: Names) -> list[Source]:
    found = {}
    for r in sorted(rows, key=lambda r: (dataset_rank(r.dataset), ipc_rank(r.ipc), titles.rank(r.method))):
        if r.published:
            size = str(r.ipc) if r.ipc else "whole"
            source = Source(titles.method(r.method), titles.dataset(r.dataset), size, r.network, r.published)
            found.setdefault((r.method, r.dataset, r.ipc, r.network), source)
    return list(found.values())


def _disclosures(rows: list[Row], titles: Names) -> list[tuple[str, str]]:
    methods = sorted({r.method for r in rows}, key=titles.rank)
    return [(titles.method(m), titles.disclosure(m)) for m in methods if titles.disclosure(m)]
