"""From observations to the rows of the tables: seeds aggregated, variants told apart.

Networks are nested in condensations: a row's accuracy is the mean over condensations (seeds) of the mean over networks.
Cells that differ in anything but the seed are never averaged together; where two of them share a line's visible key, a
`variant` label says what differs. What is missing stays missing.
"""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from scipy.special import stdtrit

from benchmark.report.observations import Names, Observation, Status, cell_key, mean_of
from benchmark.report.published import Published, lookup
from benchmark.report.style import dataset_rank, ipc_rank, schedule_rank


@dataclass(frozen=True)
class Row:
    """A line of `results.csv`: seeds aggregated. Accuracies are in percent; None stands for what is not there."""

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
        """Return the mean of a field of `Condensation` over the seeds that have it."""
        return mean_of(getattr(o.condensation, name) for o in self.done)

    def evaluation_mean(self, name: str) -> float | None:
        """Return the mean of a field of `EvaluationResult` over the seeds that have it."""
        return mean_of(getattr(o.evaluation, name) for o in self.done)

    def peak(self, evaluation: bool = False) -> float | None:
        """Return the largest peak memory over the seeds, in MiB."""
        peaks = ((o.evaluation if evaluation else o.condensation).peak_memory_mib for o in self.done)
        return max((peak for peak in peaks if peak is not None), default=None)

    @property
    def device(self) -> str:
        devices = (o.record.result.environment.device for o in self.done)
        return "; ".join(dict.fromkeys(device for device in devices if device))


def aggregate(found: list[Observation], titles: Names) -> list[Row]:
    """Return the rows in the order of the tables: data set, schedule, protocol, network, IPC, method."""
    places: dict[tuple, dict[tuple, list[Observation]]] = defaultdict(lambda: defaultdict(list))
    for o in found:
        cell = o.record.cell
        place = (cell.method, cell.dataset, cell.ipc, cell.schedule, o.protocol, o.network)
        places[place][cell_key(o), o.recipe].append(o)
    rows = []
    for place, groups in places.items():
        method, dataset, ipc, _, _, network = place
        published, labels = lookup(method, titles.identifier(dataset), ipc, network), _variants(groups)
        for key, members in groups.items():  # what another method's loop moved was published by nobody under this name
            rows.append(_row(place, labels[key], members, None if objective_of(members[0]) else published))
    return sorted(rows, key=lambda row: row_order(row, titles))


def _row(place: tuple, variant: str, members: list[Observation], published: Published | None) -> Row:
    members = sorted(members, key=lambda o: (o.record.cell.seed, o.record.directory.name))
    done = [o for o in members if o.status == "done"]
    failed = [o.record.failure for o in members if o.status == "failed"]
    error = (failed[0].error or "no reason stored") if failed else ""
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


def interval(values: list[float]) -> float | None:
    """Return half the width of the 95 % t-interval of a mean; None below two values."""
    if len(values) < 2:
        return None
    return float(stdtrit(len(values) - 1, 0.975)) * statistics.stdev(values) / math.sqrt(len(values))


def objective_of(observation: Observation) -> str:
    """Return the method whose loop moved the container, if that is not the method itself; else an empty text."""
    return observation.record.cell.objective


def _variants(groups: dict[tuple, list[Observation]]) -> dict[tuple, str]:
    """A label for each group of one visible key: its budget unless strict, the loop unless its own, what the user set,
    then whatever still differs."""
    alike: dict[tuple[str, str], list[tuple]] = defaultdict(list)
    for key, members in groups.items():
        alike[members[0].record.cell.budget, objective_of(members[0])].append(key)
    labels = {}
    for (budget, objective), keys in alike.items():
        settings = {key: _settings(groups[key][0]) for key in keys}
        fields = sorted({name for flat in settings.values() for name in flat})
        absent = object()
        differing = set()
        for name in fields:  # a cell without a result has no recipe yet, which is no difference
            own = [flat for flat in settings.values() if name in flat or not name.startswith("recipe.")]
            if len({repr(flat.get(name, absent)) for flat in own}) > 1:
                differing.add(name)
        for key, flat in settings.items():
            parts = [] if budget == "strict" else [f"{budget} budget"]
            parts += [f"objective={objective}"] if objective else []
            shown = differing | _asked(groups[key][0])
            parts += [f"{name}={_short(flat[name])}" for name in fields if name in flat and name in shown]
            labels[key] = ", ".join(parts)
    return labels


def _settings(observation: Observation) -> dict[str, Any]:
    """What may tell two cells of one visible key apart: hyper-parameters, precision, version, recipe."""
    cell = observation.record.cell
    flat = dict(cell.hyper) | {f"{cell.objective}.{name}": value for name, value in cell.objective_hyper.items()}
    flat |= {"precision": cell.precision, "version": cell.version}
    if observation.recipe:
        stored = json.loads(observation.recipe)
        recipe = stored["recipe"] | {"factor": stored["factor"]}
        flat |= {f"recipe.{name}": value for name, value in recipe.items()}
    return flat


def _asked(observation: Observation) -> set[str]:
    """Names of the settings that the user gave the cell (`Cell.variant`)."""
    return {part.partition("=")[0] for part in observation.record.cell.variant.split()}


def _short(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 24 else text[:23] + "…"


def row_order(row: Row, titles: Names) -> tuple:
    place = (dataset_rank(row.dataset), schedule_rank(row.schedule), row.protocol != "unified", row.protocol)
    return (
        *place,
        row.network != "convnet",
        row.network,
        ipc_rank(row.ipc),
        titles.rank(row.method),
        row.variant,
    )


def main_rows(rows: list[Row]) -> list[Row]:
    """Return the rows of the main accuracy table: the ConvNet's, or all in a block that has none of it."""
    with_convnet = {(r.schedule, r.protocol) for r in rows if r.network == "convnet"}
    return [r for r in rows if r.network == "convnet" or (r.schedule, r.protocol) not in with_convnet]
