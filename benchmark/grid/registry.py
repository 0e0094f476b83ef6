"""Finding methods: every file in `methods/`, and every entry point of the group `condensation.methods`.

Dropping in a file is enough. A file that cannot be imported, a class without a card, or a name given twice stops
the program at once, naming the file, rather than leaving a row out of the table.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import inspect
import pkgutil
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any, get_args

import methods
from benchmark.condensation.method import Category, Method
from benchmark.store.cells import Cell
from benchmark.store.records import MethodCard
from benchmark.system.wording import nearest

ENTRY_POINTS = "condensation.methods"
ALL = "all"
CONTAINERS = "containers"
CONTAINERS_OBJECTIVE = "idc"


class RegistrationError(Exception):
    """A method file that does not keep the contract; the message names the file and says how to mend it."""


def check(cls: type[Method]) -> type[Method]:
    """Return the class itself, if it keeps the contract. Raises RegistrationError otherwise."""
    where = f"{inspect.getsourcefile(cls)}: class {cls.__name__}"
    problems = []
    if "name" not in vars(cls):
        problems.append("`name` is missing (a base class that is no row of its own starts with an underscore)")
    elif not re.fullmatch(r"[a-z][a-z0-9-]*", str(cls.name)):
        problems.append("`name` must be lower-case letters, digits and dashes")
    if getattr(cls, "name", "") in (ALL, CONTAINERS):
        problems.append(f"`name` {cls.name!r} is taken by --methods {cls.name}")
    if not cls.__doc__:
        problems.append("the docstring (the method's card) is missing")
    if not getattr(cls, "title", ""):
        problems.append("`title` is missing")
    if cls.category not in get_args(Category):
        problems.append(f"`category` {cls.category!r} is none of {', '.join(get_args(Category))}")
    hyper: Any = getattr(cls, "Hyper", None)
    if not getattr(getattr(hyper, "__dataclass_params__", None), "frozen", False):
        problems.append("`Hyper` must be a frozen dataclass")
    else:
        fields = {field.name for field in dataclasses.fields(hyper)}
        unknown = {name for row in cls.cells.values() for name in row} - fields
        if unknown:
            problems.append(f"Hyper has no field {', '.join(sorted(unknown))}")
    if cls.condense is Method.condense:
        missing = [part for part in ("Loop", "start") if getattr(cls, part) is getattr(Method, part)]
        if missing:
            problems.append(f"`{'`, `'.join(missing)}` missing (or override `condense`)")
    if problems:
        raise RegistrationError(f"{where}: {'; '.join(problems)}")
    return cls


def methods_of(module: ModuleType) -> list[type[Method]]:
    """Return the methods defined in a module: not those it imports, nor base classes, whose names start with an
    underscore."""
    return [
        check(cls)
        for cls in vars(module).values()
        if inspect.isclass(cls)
        and issubclass(cls, Method)
        and cls.__module__ == module.__name__
        and not cls.__name__.startswith("_")
    ]


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise RegistrationError(f"method module {name} cannot be imported: {type(error).__name__}: {error}") from error


def _offered_by(entry: importlib.metadata.EntryPoint) -> list[type[Method]]:
    """The method an entry point names, as `module:Class`, or the methods defined in the module it names."""
    where = f"entry point {entry.name} = {entry.value}"
    module = _import(entry.module)
    if not entry.attr:
        offered = methods_of(module)
        if not offered:
            raise RegistrationError(f"{where}: no method is defined in {entry.module}; name one as module:Class")
        return offered
    cls = getattr(module, entry.attr, None)
    if not (inspect.isclass(cls) and issubclass(cls, Method)):
        raise RegistrationError(f"{where}: {entry.module} has no method class {entry.attr}")
    return [check(cls)]


@cache
def all_methods() -> dict[str, type[Method]]:
    """Return every method by name, in the order of the file names."""
    names = sorted(info.name for info in pkgutil.iter_modules(methods.__path__))
    classes = [cls for name in names for cls in methods_of(_import(f"methods.{name}"))]
    classes += [cls for entry in importlib.metadata.entry_points(group=ENTRY_POINTS) for cls in _offered_by(entry)]
    found: dict[str, type[Method]] = {}
    for cls in classes:
        if found.setdefault(cls.name, cls) is not cls:
            here, there = (inspect.getsourcefile(c) for c in (cls, found[cls.name]))
            raise RegistrationError(f"two methods are called {cls.name!r}: {there} and {here}")
    return found


def get(name: str) -> type[Method]:
    """Return the method of a name. Raises ValueError, with the nearest names, for an unknown one."""
    found = all_methods()
    if name not in found:
        raise ValueError(f"unknown method {name!r}{nearest(name, [*found, ALL, CONTAINERS])}")
    return found[name]


def summary(cls: type[Method]) -> str:
    """Return the first line of a method's docstring, which --list shows."""
    return (inspect.getdoc(cls) or "").partition("\n")[0]


def card_of(cls: type[Method]) -> MethodCard:
    """Return the card by which the report names the method."""
    return MethodCard(cls.title, cls.paper, cls.category, cls.disclosure, cls.container_row)


def build(cell: Cell) -> Method:
    """Return the cell's method with its settings, and with another method's loop if the cell says so."""
    cls, loop = get(cell.method), None
    if cell.objective:
        owner = get(cell.objective)
        loop = owner.Loop(owner.Hyper(**cell.objective_hyper))
    return cls(cls.Hyper(**cell.hyper), loop)


@dataclass(frozen=True)
class Row:
    """A row of the grid: a method, and the method whose loop moves its container (empty: its own)."""

    method: type[Method]
    objective: str = ""


def expand(names: Iterable[str]) -> list[Row]:
    """Return the rows of the given names, without repetition.

    `all` stands for every method and reference row, references first. `containers` stands for every container under
    IDC's gradient matching, by IDC's own loop and its settings. Raises ValueError, with the nearest names, for an
    unknown one.
    """
    rows: dict[Row, None] = {}
    for name in names:
        if name == ALL:
            chosen = [cls for cls in all_methods().values() if cls.category in ("method", "reference")]
            rows |= dict.fromkeys(Row(cls) for cls in sorted(chosen, key=lambda cls: cls.category != "reference"))
        elif name == CONTAINERS:
            owner = get(CONTAINERS_OBJECTIVE)
            chosen = [cls for cls in all_methods().values() if cls.container_row]
            rows |= dict.fromkeys(Row(cls, "" if cls is owner else owner.name) for cls in chosen)
        else:
            rows[Row(get(name))] = None
    return list(rows)
