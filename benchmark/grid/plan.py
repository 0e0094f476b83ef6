"""The plan: what the user asked for becomes jobs, with what is known of each before anything runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from benchmark.condensation.cost import Cost
from benchmark.condensation.method import Method
from benchmark.condensation.settings import Schedule, parse_value, types_of
from benchmark.containers.budget import Budget
from benchmark.data import DatasetSpec
from benchmark.grid import registry
from benchmark.grid.hours import Speed, estimate_seconds
from benchmark.grid.memory import predicted_bytes
from benchmark.grid.registry import Row
from benchmark.store.cells import Cell, Evaluation, Job
from benchmark.store.folder import Store
from benchmark.system.errors import CellError
from benchmark.system.runtime import Precision
from benchmark.system.wording import nearest
from benchmark.training.recipes import unified

Overrides = dict[str, dict[str, Any]]
"""Hyper-parameter overrides by method name; `objective` names the method whose loop moves the container."""

OBJECTIVE = "objective"


@dataclass(frozen=True)
class Grid:
    """The request: which cells to run, for how long, and how to score them."""

    rows: tuple[Row, ...]
    datasets: tuple[DatasetSpec, ...]
    ipc: tuple[int, ...] | None
    """None takes each data set's own default."""
    seeds: int | None
    nets: int | None
    schedule: Schedule | None
    """None takes quick for digits, paper otherwise."""
    protocols: tuple[str, ...]
    networks: tuple[str, ...]
    budget: Literal["strict", "native"]
    precision: Precision
    overrides: Overrides = dataclasses.field(default_factory=dict)
    microbatch: int | None = None

    def schedule_of(self, spec: DatasetSpec) -> Schedule:
        return self.schedule or Schedule.parse("quick" if spec.name == "digits" else "paper")

    def jobs(self) -> list[Job]:
        """Return every job of the grid: data set by data set, seed by seed, small budgets first."""
        found = []
        for spec in self.datasets:
            schedule = self.schedule_of(spec)
            paper = schedule.name == "paper"
            for seed in range(self.seeds or (3 if paper else 1)):
                for ipc in sorted({0, *(self.ipc or spec.default_ipc)}):
                    wanted = [row for row in self.rows if row.method.condenses == (ipc > 0)]
                    if not ipc and seed:
                        continue  # the whole set is the same in every repetition
                    found += [self._job(row, spec, ipc, seed, schedule) for row in wanted]
        return found

    def _job(self, row: Row, spec: DatasetSpec, ipc: int, seed: int, schedule: Schedule) -> Job:
        method = row.method
        own = dict(self.overrides.get(method.name, {}))
        chosen = own.pop(OBJECTIVE, "")
        objective = row.objective or chosen
        hyper = method.hyper_parameters(spec, ipc, schedule, own)
        loop_hyper = {}
        if objective:
            owner = registry.get(objective)
            others = {k: v for k, v in self.overrides.get(objective, {}).items() if k != OBJECTIVE}
            loop_hyper = dataclasses.asdict(owner.hyper_parameters(spec, ipc, schedule, others))
            own |= {f"{objective}.{k}": v for k, v in others.items()}
        settings = own | ({OBJECTIVE: objective} if objective else {})
        cell = Cell(
            method=method.name,
            dataset=spec.name,
            ipc=ipc,
            seed=seed,
            schedule=schedule.name,
            budget=self.budget,
            precision=self.precision,
            version=method.version,
            hyper=dataclasses.asdict(hyper),
            objective=objective,
            objective_hyper=loop_hyper,
            variant=" ".join(f"{name}={value}" for name, value in sorted(settings.items())),
        )
        nets = self.nets or (10 if schedule.name == "paper" else 3)
        recipes = {"unified": unified(ipc), "native": method(hyper).native_recipe(spec, ipc)}
        evaluations = tuple(
            Evaluation(protocol, network, nets, recipes[protocol], schedule.factor)
            for protocol in self.protocols
            for network in self.networks
        )
        return Job(cell, evaluations, self.microbatch, registry.card_of(method))


def parse_overrides(settings: Iterable[str]) -> Overrides:
    """Return `["dm.lr_img=2", ...]` as values of the fields' types. Raises ValueError with the nearest names."""
    overrides: Overrides = {}
    for setting in settings:
        target, equals, text = setting.partition("=")
        method_name, dot, field = target.partition(".")
        if not (equals and dot):
            raise ValueError(f"--set {setting}: write METHOD.FIELD=VALUE, for example dm.lr_img=2")
        method = registry.get(method_name)
        types = types_of(method.Hyper)
        if field == OBJECTIVE and field not in types:
            overrides.setdefault(method_name, {})[field] = _objective(setting, method, text)
            continue
        if field not in types:
            raise ValueError(f"--set {setting}: {method_name} has no field {field!r}{nearest(field, types)}")
        overrides.setdefault(method_name, {})[field] = parse_value(setting, text, types[field])
    return overrides


def _objective(setting: str, method: type[Method], name: str) -> str:
    """Return a method's name, if it has a loop that can move the container of `method`. Raises ValueError otherwise."""
    with_loop = [other.name for other in registry.all_methods().values() if other.Loop is not Method.Loop]
    if method.start is Method.start:
        raise ValueError(f"--set {setting}: {method.name} has no container to move")
    if name not in with_loop:
        raise ValueError(f"--set {setting}: no objective {name!r}{nearest(name, with_loop)}")
    return name


State = Literal["done", "to do", "blocked"]


@dataclass(frozen=True)
class Entry:
    """One job as the plan shows it."""

    job: Job
    state: State
    error: CellError | None
    """Why the job is blocked; None if it is not."""
    floats: int
    budget: Budget
    seconds: float | None
    """Estimated seconds; None if nothing can be said."""
    memory: int
    """Bytes that the job is predicted to take where it would run; 0 if there is nothing to do."""

    @property
    def reason(self) -> str:
        """Why the job is blocked, in words; empty if it is not."""
        return str(self.error or "")


def make_plan(
    grid: Grid, store: Store, speed: Speed, predict: Callable[[Job, DatasetSpec, Cost], int] = predicted_bytes
) -> list[Entry]:
    """Return every job with its state, stored floats and estimated seconds. This reads the store; it loads no data and
    runs nothing.

    speed: of the device where the jobs would run. predict: returns the bytes that a job takes there; by default on a
    GPU. Raises ValueError for images that are too small for a network, and for settings with which no set can be made.
    """
    specs = {spec.name: spec for spec in grid.datasets}
    entries = []
    for job in grid.jobs():
        spec, cell = specs[job.cell.dataset], job.cell
        budget = cell.budget_on(spec)
        state: State = "to do"
        blocked, floats, seconds, memory = None, 0, None, 0
        try:
            cost = registry.build(cell).cost(spec, budget)
            floats = cost.floats
            budget.check(floats)
            if store.is_done(job):
                state = "done"
            else:
                seconds = estimate_seconds(spec, job, cost, speed)
                memory = predict(job, spec, cost)
        except CellError as error:
            state, blocked = "blocked", error
        except (ValueError, ArithmeticError) as error:
            if not cell.variant:
                raise
            raise ValueError(f"{cell.label}: {error}; choose other values for --set") from None
        entries.append(Entry(job, state, blocked, floats, budget, seconds, memory))
    return entries
