"""From stored records to rows: one per network trained, and one per line of `results.csv`.

Networks are nested in condensations: a row's accuracy is the mean over condensations (seeds) of the mean
over networks. Cells that differ in anything but the seed are never averaged together; where two of them share
a line's visible key, a `variant` label says what differs. What is missing stays missing.
"""

from __future__ import annotations

import json
import math
import statistics
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import pandas as pd
from scipy.special import stdtrit

from benchmark.report.published import IDENTIFIERS, Published, lookup
from benchmark.report.style import DATASETS, METHODS, dataset_rank, ipc_rank, method_rank, schedule_rank
from benchmark.store import Record

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
        return _accuracies(self.evaluation) if self.evaluation else []

    @property
    def status(self) -> Status:
        return "done" if self.evaluation else "failed" if self.record.failure else "missing"

    @property
    def condensation(self) -> dict[str, Any]:
        return _section(self.record.result, "condensation")


@dataclass(frozen=True)
class Row:
    """A line of `results.csv`: seeds aggregated. Accuracies in percent; None is "not there"."""

    method: str
    dataset: str
    ipc: int
    schedule: str
    protocol: str
    network: str
    variant: str
    status: Status
    observations: tuple[Observation, ...]
    published: Published | None
    accuracy: float | None = None
    ci95: float | None = None
    std_sets: float | None = None
    std_pooled: float | None = None
    nets: int | None = None
    error: str = ""

    @property
    def done(self) -> list[Observation]:
        return [o for o in self.observations if o.status == "done"]

    @property
    def seeds(self) -> int:
        return len(self.done)

    @property
    def difference(self) -> float | None:
        return self.accuracy - self.published.accuracy if self.done and self.published else None

    def mean(self, name: str) -> float | None:
        """Mean of a field of the condensations over the seeds that have it."""
        return _mean(o.condensation.get(name) for o in self.done)

    def evaluation_mean(self, name: str) -> float | None:
        return _mean(o.evaluation.get(name) for o in self.done)

    def peak(self, evaluation: bool = False) -> float | None:
        """Largest peak memory over the seeds, MiB."""
        places = (o.evaluation if evaluation else o.condensation for o in self.done)
        return max(_numbers(place.get("peak_memory_mib") for place in places), default=None)

    @property
    def device(self) -> str:
        devices = (_section(o.record.result, "environment").get("device") for o in self.done)
        return "; ".join(dict.fromkeys(str(d) for d in devices if d))


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


def _section(result: dict[str, Any] | None, name: str) -> dict[str, Any]:
    value = result.get(name) if result else None
    return value if isinstance(value, dict) else {}


def _numbers(values: Iterable[Any]) -> list[float]:
    return [v for v in values if isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)]


def _count(value: Any) -> int:
    return int(sum(_numbers([value])))


def _mean(values: Iterable[Any]) -> float | None:
    numbers = _numbers(values)
    return statistics.fmean(numbers) if numbers else None


def _accuracies(evaluation: dict[str, Any]) -> list[float]:
    values = evaluation["accuracies"]
    return [100.0 * value for value in _numbers(values if isinstance(values, list) else [])]


def interval(values: list[float]) -> float | None:
    """Half the width of the 95 % t-interval of a mean; None below two values."""
    if len(values) < 2:
        return None
    return float(stdtrit(len(values) - 1, 0.975)) * statistics.stdev(values) / math.sqrt(len(values))


def readable(records: list[Record]) -> list[Record]:
    """The records whose configuration names a cell; others are named by a warning."""
    kept = []
    for record in records:
        cell = record.config
        if all(isinstance(cell.get(f), str) for f in ("method", "dataset", "schedule")) and _numbers(
            [cell.get("ipc")]
        ):
            kept.append(record)
        else:
            warnings.warn(
                f"{record.directory / 'config.json'} names no cell; left out of the report", stacklevel=2
            )
    return kept


def names(records: list[Record]) -> Names:
    """Titles and disclosures as stored; the newest result of a method or data set has the last word."""
    found = Names()
    for record in sorted(records, key=lambda r: str((r.result or {}).get("finished", ""))):
        for table, key in ((found.methods, "method"), (found.datasets, "dataset")):
            if section := _section(record.result, key):
                table[record.config[key]] = section
    _tell_apart(found.methods)
    _tell_apart(found.datasets)
    return found


def _tell_apart(sections: dict[str, dict[str, Any]]) -> None:
    """Two methods, or two folders of images, of one title are shown with their registry names."""
    for title, number in Counter(section.get("title") for section in sections.values()).items():
        for name in [name for name, section in sections.items() if section.get("title") == title]:
            if number > 1 and title:
                sections[name] = sections[name] | {"title": f"{title} [{name}]"}


def _observe(record: Record) -> list[Observation]:
    """The evaluations a record holds, then those asked of it that it lacks."""
    requests = [request for request in record.requested if isinstance(request, dict)]
    asked = {(str(r.get("protocol", "")), str(r.get("network", ""))): _count(r.get("nets")) for r in requests}
    held: dict[tuple[str, str, str], dict[str, Any]] = {}
    for evaluation in record.result["evaluations"] if record.result else []:
        recipe = json.dumps({"recipe": evaluation["recipe"], "factor": evaluation["factor"]}, sort_keys=True)
        place = (str(evaluation["protocol"]), str(evaluation["network"]), recipe)
        # The same training stored twice: the longer list of networks contains the shorter experiment.
        if len(_accuracies(evaluation)) > (len(_accuracies(held[place])) if place in held else 0):
            held[place] = evaluation
    found = [
        Observation(record, protocol, network, asked.get((protocol, network), 0), recipe, evaluation)
        for (protocol, network, recipe), evaluation in held.items()
    ]
    there = {(o.protocol, o.network) for o in found}
    if not asked and not found:
        asked = {("", ""): 0}  # announced by another hand; it stays visible all the same
    return found + [Observation(record, *p, nets, "", None) for p, nets in asked.items() if p not in there]


def observations(records: list[Record]) -> list[Observation]:
    """Every condensation x evaluation, held or asked for.

    A missing evaluation has no recipe of its own; it joins the cells of its configuration that have one.
    """
    found = [o for record in records for o in _observe(record)]
    recipes = {(_cell_key(o), o.protocol, o.network): o.recipe for o in found if o.recipe}
    return [
        o
        if o.recipe
        else Observation(o.record, o.protocol, o.network, o.nets_asked, recipes[key], None)
        if (key := (_cell_key(o), o.protocol, o.network)) in recipes
        else o
        for o in found
    ]


def _cell_key(observation: Observation) -> str:
    """Everything of a cell but its seed."""
    return json.dumps({k: v for k, v in observation.record.config.items() if k != "seed"}, sort_keys=True)


def _settings(observation: Observation) -> dict[str, Any]:
    """What may tell two cells of one visible key apart: hyper-parameters, precision, version, recipe."""
    cell = observation.record.config
    hyper = cell.get("hyper")
    flat = dict(hyper) if isinstance(hyper, dict) else {}
    flat |= {name: cell[name] for name in ("precision", "version") if name in cell}
    if observation.recipe:
        stored = json.loads(observation.recipe)
        recipe = stored["recipe"] if isinstance(stored["recipe"], dict) else {"text": stored["recipe"]}
        flat |= {f"recipe.{name}": value for name, value in recipe.items()} | {
            "recipe.factor": stored["factor"]
        }
    return flat


def _variants(groups: dict[tuple, list[Observation]]) -> dict[tuple, str]:
    """A label for each group of one visible key: its budget unless strict, then whatever still differs."""
    by_budget: dict[str, list[tuple]] = defaultdict(list)
    for key, members in groups.items():
        by_budget[str(members[0].record.config.get("budget", "strict"))].append(key)
    labels = {}
    for budget, keys in by_budget.items():
        settings = {key: _settings(groups[key][0]) for key in keys}
        fields = sorted({name for flat in settings.values() for name in flat})
        absent = object()
        differing = []
        for name in fields:  # a cell without a result has no recipe yet, which is no difference
            own = [flat for flat in settings.values() if name in flat or not name.startswith("recipe.")]
            if len({repr(flat.get(name, absent)) for flat in own}) > 1:
                differing.append(name)
        for key, flat in settings.items():
            parts = [] if budget == "strict" else [f"{budget} budget"]
            parts += [f"{name}={_short(flat[name])}" for name in differing if name in flat]
            labels[key] = ", ".join(parts)
    return labels


def _short(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 24 else text[:23] + "…"


def _row(place: tuple, variant: str, members: list[Observation], published: Published | None) -> Row:
    members = sorted(
        members, key=lambda o: (str(o.record.config.get("seed", "")).zfill(9), o.record.directory.name)
    )
    done = [o for o in members if o.status == "done"]
    failed = [o.record.failure for o in members if o.status == "failed"]
    error = str(failed[0].get("error") or "no reason stored") if failed else ""
    status: Status = "done" if done else "failed" if failed else "missing"
    if not done:
        return Row(*place, variant, status, tuple(members), published, error=error)
    means = [statistics.fmean(o.accuracies) for o in done]
    pooled = [accuracy for o in done for accuracy in o.accuracies]
    return Row(
        *place, variant, status, tuple(members), published, error=error,
        accuracy=statistics.fmean(means),
        ci95=interval(means if len(means) > 1 else done[0].accuracies),
        std_sets=statistics.stdev(means) if len(means) > 1 else None,
        std_pooled=statistics.pstdev(pooled),
        nets=min(len(o.accuracies) for o in done),
    )  # fmt: skip


def aggregate(found: list[Observation], titles: Names) -> list[Row]:
    """Rows in the order of the tables: data set, schedule, protocol, network, IPC, method."""
    places: dict[tuple, dict[tuple, list[Observation]]] = defaultdict(lambda: defaultdict(list))
    for o in found:
        cell = o.record.config
        place = (cell["method"], cell["dataset"], int(cell["ipc"]), cell["schedule"], o.protocol, o.network)
        places[place][_cell_key(o), o.recipe].append(o)
    rows = []
    for place, groups in places.items():
        method, dataset, ipc, _, _, network = place
        published = lookup(method, titles.identifier(dataset), ipc, network)
        labels = _variants(groups)
        rows += [_row(place, labels[key], members, published) for key, members in groups.items()]
    return sorted(rows, key=row_order)


def row_order(row: Row) -> tuple:
    place = (dataset_rank(row.dataset), schedule_rank(row.schedule), row.protocol != "unified", row.protocol)
    return (
        *place,
        row.network != "convnet",
        row.network,
        ipc_rank(row.ipc),
        method_rank(row.method),
        row.variant,
    )


def main_rows(rows: list[Row]) -> list[Row]:
    """The rows of the main accuracy table: the ConvNet's, or all where a block has none of it."""
    with_convnet = {(r.schedule, r.protocol) for r in rows if r.network == "convnet"}
    return [r for r in rows if r.network == "convnet" or (r.schedule, r.protocol) not in with_convnet]


def _tidy(value: float | None) -> float | int | None:
    """Four decimals at most, and no trailing `.0` on counts."""
    if value is None:
        return None
    return int(value) if float(value).is_integer() else round(value, 4)


def results_frame(rows: list[Row]) -> pd.DataFrame:
    """`results.csv`: the columns of `RESULT_COLUMNS`, percent, empty where there is nothing."""
    lines = []
    for row in rows:
        line = {name: getattr(row, name) for name in RESULT_COLUMNS[:7]}
        line |= {"accuracy": _round(row.accuracy), "ci95": _round(row.ci95), "nets": row.nets or 0}
        line |= {"seeds": row.seeds, "difference": _round(row.difference), "device": row.device}
        line |= {
            name: _tidy(row.mean(name))
            for name in ("floats", "budget_multiple", "images", "steps", "seconds")
        }
        line["peak_memory_mib"] = _tidy(row.peak())
        if row.published:
            line |= {"published": row.published.accuracy, "published_std": row.published.std}
            line["published_evidence"] = row.published.evidence
        lines.append(line)
    return pd.DataFrame(lines, columns=RESULT_COLUMNS, dtype=object)


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def nets_frame(found: list[Observation]) -> pd.DataFrame:
    """`runs.csv`: every accuracy of every network, percent."""
    lines = []
    for o in found:
        cell = o.record.config
        base = {name: cell.get(name) for name in NET_COLUMNS if name in cell}
        base |= {"protocol": o.protocol, "network": o.network, "directory": o.record.directory.name}
        base["key"] = (o.record.result or {}).get("key")
        lines += [base | {"net": number, "accuracy": _round(a)} for number, a in enumerate(o.accuracies)]
    return pd.DataFrame(lines, columns=NET_COLUMNS, dtype=object)
