"""What stored records hold: one observation per condensation and evaluation, and the names that results give.

A record that names no cell is left out with a warning; an evaluation that was asked for and is missing stays visible.
"""

from __future__ import annotations

import json
import math
import statistics
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from benchmark.report.published import IDENTIFIERS
from benchmark.report.style import DATASETS, METHODS
from benchmark.store.folder import Record

Status = Literal["done", "failed", "missing"]


@dataclass(frozen=True)
class Observation:
    """One condensation under one evaluation: what was asked, and what is there."""

    record: Record
    protocol: str
    network: str
    nets_asked: int
    recipe: str
    """The recipe and its factor as canonical JSON; "" where nothing was trained yet."""
    evaluation: dict[str, Any] | None

    @property
    def accuracies(self) -> list[float]:
        """Percent, one per network."""
        return accuracies_of(self.evaluation) if self.evaluation else []

    @property
    def status(self) -> Status:
        return "done" if self.evaluation else "failed" if self.record.failure else "missing"

    @property
    def condensation(self) -> dict[str, Any]:
        return section(self.record.result, "condensation")


def readable(records: list[Record]) -> list[Record]:
    """The records whose configuration names a cell; others are named by a warning."""
    kept = []
    for record in records:
        cell = record.config
        if all(isinstance(cell.get(f), str) for f in ("method", "dataset", "schedule")) and numbers([cell.get("ipc")]):
            kept.append(record)
        else:
            warnings.warn(f"{record.directory / 'config.json'} names no cell; left out of the report", stacklevel=2)
    return kept


def observations(records: list[Record]) -> list[Observation]:
    """Every condensation x evaluation, held or asked for.

    A missing evaluation has no recipe of its own; it joins the cells of its configuration that have one.
    """
    found = [o for record in records for o in _observe(record)]
    recipes = {(cell_key(o), o.protocol, o.network): o.recipe for o in found if o.recipe}
    return [
        o
        if o.recipe
        else Observation(o.record, o.protocol, o.network, o.nets_asked, recipes[key], None)
        if (key := (cell_key(o), o.protocol, o.network)) in recipes
        else o
        for o in found
    ]


def _observe(record: Record) -> list[Observation]:
    """The evaluations a record holds, then those asked of it that it lacks."""
    requests = [request for request in record.requested if isinstance(request, dict)]
    asked = {(str(r.get("protocol", "")), str(r.get("network", ""))): _count(r.get("nets")) for r in requests}
    held: dict[tuple[str, str, str], dict[str, Any]] = {}
    for evaluation in record.result["evaluations"] if record.result else []:
        recipe = json.dumps({"recipe": evaluation["recipe"], "factor": evaluation["factor"]}, sort_keys=True)
        place = (str(evaluation["protocol"]), str(evaluation["network"]), recipe)
        # The same training stored twice: the longer list of networks contains the shorter experiment.
        if len(accuracies_of(evaluation)) > (len(accuracies_of(held[place])) if place in held else 0):
            held[place] = evaluation
    found = [
        Observation(record, protocol, network, asked.get((protocol, network), 0), recipe, evaluation)
        for (protocol, network, recipe), evaluation in held.items()
    ]
    there = {(o.protocol, o.network) for o in found}
    if not asked and not found:
        asked = {("", ""): 0}  # announced by another hand; it stays visible all the same
    return found + [Observation(record, *p, nets, "", None) for p, nets in asked.items() if p not in there]


def cell_key(observation: Observation) -> str:
    """Everything of a cell but its seed."""
    return json.dumps({k: v for k, v in observation.record.config.items() if k != "seed"}, sort_keys=True)


@dataclass
class Names:
    """What the stored results say about methods and data sets beyond their registry names."""

    methods: dict[str, dict[str, Any]] = field(default_factory=dict)
    datasets: dict[str, dict[str, Any]] = field(default_factory=dict)

    def method(self, name: str, variant: str = "") -> str:
        known = "Whole set" if name == "whole" else METHODS.get(name, name)
        title = str(self.methods.get(name, {}).get("title") or known)
        return f"{title} ({variant})" if variant else title

    def dataset(self, name: str) -> str:
        return str(self.datasets.get(name, {}).get("title") or DATASETS.get(name, name))

    def disclosure(self, method: str) -> str:
        return str(self.methods.get(method, {}).get("disclosure") or "")

    def identifier(self, dataset: str) -> str:
        stored = self.datasets.get(dataset, {}).get("published")
        return IDENTIFIERS.get(dataset, "") if stored is None else str(stored)


def names(records: list[Record]) -> Names:
    """Titles and disclosures as stored; the newest result of a method or data set has the last word."""
    found = Names()
    for record in sorted(records, key=lambda r: str((r.result or {}).get("finished", ""))):
        for table, key in ((found.methods, "method"), (found.datasets, "dataset")):
            if stored := section(record.result, key):
                table[record.config[key]] = stored
    _tell_apart(found.methods)
    _tell_apart(found.datasets)
    return found


def _tell_apart(sections: dict[str, dict[str, Any]]) -> None:
    """Two methods, or two folders of images, of one title are shown with their registry names."""
    titles = {name: str(stored.get("title") or "") for name, stored in sections.items()}
    common = {title for title, number in Counter(titles.values()).items() if title and number > 1}
    for name, title in titles.items():
        if title in common:
            sections[name] = sections[name] | {"title": f"{title} [{name}]"}


def section(result: dict[str, Any] | None, name: str) -> dict[str, Any]:
    value = result.get(name) if result else None
    return value if isinstance(value, dict) else {}


def numbers(values: Iterable[Any]) -> list[float]:
    return [v for v in values if isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)]


def mean_of(values: Iterable[Any]) -> float | None:
    found = numbers(values)
    return statistics.fmean(found) if found else None


def accuracies_of(evaluation: dict[str, Any]) -> list[float]:
    values = evaluation["accuracies"]
    return [100.0 * value for value in numbers(values if isinstance(values, list) else [])]


def _count(value: Any) -> int:
    return int(sum(numbers([value])))
