"""What stored records hold: one observation per condensation and evaluation, and the names that results give.

An evaluation that was asked for and is missing stays visible.
"""

from __future__ import annotations

import json
import re
import statistics
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

from benchmark.report.published import IDENTIFIERS
from benchmark.report.style import DATASETS
from benchmark.store.folder import Record
from benchmark.store.records import Condensation, DatasetCard, EvaluationResult, MethodCard

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
    evaluation: EvaluationResult | None

    @property
    def accuracies(self) -> list[float]:
        """Percent, one per network."""
        return [100.0 * accuracy for accuracy in self.evaluation.accuracies] if self.evaluation else []

    @property
    def status(self) -> Status:
        return "done" if self.evaluation else "failed" if self.record.failure else "missing"

    @property
    def condensation(self) -> Condensation:
        """The condensation, of an observation that is done."""
        return self.record.result.condensation


def observations(records: list[Record]) -> list[Observation]:
    """Return every condensation x evaluation that is held or was asked for.

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
    asked = {(request.protocol, request.network): request.nets for request in record.requested}
    held: dict[tuple[str, str, str], EvaluationResult] = {}
    for evaluation in record.result.evaluations if record.result else ():
        recipe = json.dumps({"recipe": evaluation.recipe, "factor": evaluation.factor}, sort_keys=True)
        place = (evaluation.protocol, evaluation.network, recipe)
        # The same training stored twice: the longer list of networks contains the shorter experiment.
        if place not in held or len(evaluation.accuracies) > len(held[place].accuracies):
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
    """Return everything of a cell but its seed."""
    return json.dumps({k: v for k, v in observation.record.config.items() if k != "seed"}, sort_keys=True)


GROUPS = ("reference", "method", "variant")
"""Categories of methods in the order of the tables."""


@dataclass
class Names:
    """What the stored results say about methods and data sets beyond their registry names."""

    methods: dict[str, MethodCard] = field(default_factory=dict)
    datasets: dict[str, DatasetCard] = field(default_factory=dict)

    whole: set[str] = field(default_factory=set)
    """Methods that condense nothing: their result is the whole training set."""

    def group(self, method: str) -> int:
        """Return the part of a table that a method belongs to: reference rows, methods, variants, the whole set."""
        if method in self.whole:
            return len(GROUPS)
        category = self.method_card(method).category
        return GROUPS.index(category) if category in GROUPS else len(GROUPS) - 1

    def rank(self, method: str) -> tuple[int, int, str, str]:
        """Return the sorting key of a method: its group, the year of its paper, its title."""
        card = self.method_card(method)
        year = re.search(r"\b(?:19|20)\d\d\b", card.paper)
        return self.group(method), int(year[0]) if year else 0, self.method(method).lower(), method

    def key_rank(self, key: tuple[str, str]) -> tuple:
        """Return the sorting key of (method, variant)."""
        return self.rank(key[0]), key[1]

    def method_card(self, name: str) -> MethodCard:
        return self.methods.get(name, MethodCard())

    def dataset_card(self, name: str) -> DatasetCard:
        return self.datasets.get(name, DatasetCard())

    def method(self, name: str, variant: str = "") -> str:
        title = self.method_card(name).title or name
        return f"{title} ({variant})" if variant else title

    def dataset(self, name: str) -> str:
        return self.dataset_card(name).title or DATASETS.get(name, name)

    def disclosure(self, method: str) -> str:
        return self.method_card(method).disclosure

    def identifier(self, dataset: str) -> str:
        stored = self.dataset_card(dataset).published
        return IDENTIFIERS.get(dataset, "") if stored is None else stored


def names(records: list[Record]) -> Names:
    """Return titles and disclosures as stored; the newest result of a method or data set has the last word."""
    found = Names(methods={record.cell.method: record.method for record in records if record.method})
    found.whole = {r.cell.method for r in records if not r.cell.ipc}
    for record in sorted((r for r in records if r.result), key=lambda r: r.result.finished):
        if record.result.method:
            found.methods[record.cell.method] = record.result.method
        if record.result.dataset:
            found.datasets[record.cell.dataset] = record.result.dataset
    _tell_apart(found.methods)
    _tell_apart(found.datasets)
    return found


Card = TypeVar("Card", MethodCard, DatasetCard)


def _tell_apart(cards: dict[str, Card]) -> None:
    """Two methods, or two folders of images, of one title are shown with their registry names."""
    number = Counter(card.title for card in cards.values())
    for name, card in cards.items():
        if card.title and number[card.title] > 1:
            cards[name] = replace(card, title=f"{card.title} [{name}]")


def mean_of(values: Iterable[float | None]) -> float | None:
    """Return the mean of the values that are there; None if none is."""
    found = [value for value in values if value is not None]
    return statistics.fmean(found) if found else None
