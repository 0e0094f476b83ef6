"""Settings that make any method of the registry take moments, and the smallest budget that holds it."""

import dataclasses
from typing import Any

from benchmark.condensation.method import Method
from benchmark.condensation.settings import settings_of
from benchmark.containers.budget import Budget
from benchmark.data import Dataset, DatasetSpec
from benchmark.system.errors import BudgetError
from benchmark.testing import short_job

# Loops that no schedule scales, by the names methods give them; a method takes those it has.
SHORT: dict[str, Any] = {
    "inner_epochs": 1,  # DC, DSA
    "query": 4, "max_image_steps": 2, "max_inner_epochs": 1,  # CAFE
    "syn_steps": 2, "expert_epochs": 1, "max_start_epoch": 1, "train_epochs": 2,  # MTT, HaBa
    "zca": False,  # MTT, HaBa: the eigen-decomposition alone takes half a minute
    "passes": 1, "n_data": 8,  # IDC, HMN
    "inner_steps": 2,  # LinBa
    "warm_start": 2, "aum_steps": 4, "aum_points": 2, "beta_steps": 2, "beta_nets": 1, "beta_stride": 10,  # HMN
}  # fmt: skip


def short_settings(method: type[Method]) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(method.Hyper)}
    return {name: value for name, value in SHORT.items() if name in names}


def scaled_settings(method: type[Method], value: int) -> dict[str, int]:
    """Every field that a fractional schedule multiplies, at `value`."""
    return {name: value for name, setting in settings_of(method.Hyper).items() if setting.scaled}


def smallest_ipc(method: type[Method], spec: DatasetSpec, **settings: Any) -> int:
    """The first of 1, 2, 5, 10 whose budget holds the method's container."""
    for ipc in (1, 2, 5, 10):
        budget = Budget(ipc, spec.classes, spec.image_shape)
        try:
            budget.check(method(_hyper(method, spec, ipc, settings)).cost(spec, budget).floats)
        except BudgetError:
            continue
        return ipc
    raise AssertionError(f"{method.name} does not fit {spec.name} at IPC 10")


def _hyper(method: type[Method], spec: DatasetSpec, ipc: int, settings: dict[str, Any]) -> Any:
    dataset = Dataset(spec, None, None, (), (), ())
    return method.Hyper(**short_job(method, dataset, ipc, **settings).cell.hyper)
