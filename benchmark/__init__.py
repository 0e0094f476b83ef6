"""An open, fair, fast benchmark of dataset condensation: plan, engine, substrate, store and report.

The names below are what scripts and notebooks import (`docs/python.md`) and what methods are written against. Each is
loaded when it is first asked for, so that `import benchmark` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmark.condensation.cost import Cost
    from benchmark.condensation.loop import Loop
    from benchmark.condensation.method import Method
    from benchmark.condensation.task import Task
    from benchmark.containers import Container
    from benchmark.loading import load_condensed
    from benchmark.notebook import Grid

__version__ = "0.1.0"

__all__ = ["Container", "Cost", "Grid", "Loop", "Method", "Task", "__version__", "load_condensed"]

_MODULES = {
    "Container": "benchmark.containers",
    "Cost": "benchmark.condensation.cost",
    "Grid": "benchmark.notebook",
    "Loop": "benchmark.condensation.loop",
    "Method": "benchmark.condensation.method",
    "Task": "benchmark.condensation.task",
    "load_condensed": "benchmark.loading",
}
"""Where each public name is defined (PEP 562)."""


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
