"""Finding methods: a file dropped in, an entry point, and everything malformed stopping the program by name."""

import importlib.metadata
import re
import sys
import textwrap
from pathlib import Path

import pytest

import methods
from benchmark.grid import registry
from benchmark.grid.registry import RegistrationError
from benchmark.testing import check_method

GOOD = '''
from dataclasses import dataclass
from benchmark.condensation.method import Method
from benchmark.containers.pixels import Pixels

@dataclass(frozen=True)
class Hyper:
    steps: int = 10
    lr: float = 0.5

class Dropped(Method):
    """Nothing but noise."""
    name, title, Hyper = "dropped", "Dropped", Hyper
    def condense(self, task, run):
        return Pixels.of(task.noise(task.ipc))
'''
PACKAGE = {
    "theirs_package/__init__.py": "from theirs_package.inner import Dropped\nother = 3\n",
    "theirs_package/inner.py": GOOD,
}
CARD = 'name, title, Hyper = "dropped", "Dropped", Hyper'


@pytest.fixture
def drop(tmp_path, monkeypatch):
    """drop(text, module) puts a file where methods are looked for; returns its path."""
    folder = tmp_path / "dropped-methods"
    folder.mkdir()
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(folder)])
    names = []

    def write(text, module="dropped_method"):
        (folder / f"{module}.py").write_text(textwrap.dedent(text))
        names.append(module)
        registry.all_methods.cache_clear()
        return folder / f"{module}.py"

    yield write
    registry.all_methods.cache_clear()
    for name in names:
        sys.modules.pop(f"methods.{name}", None)
        vars(methods).pop(name, None)


@pytest.fixture
def offer(tmp_path, monkeypatch):
    """offer(value, {path: text}) installs files and an entry point of our group that names one of them."""
    names = []

    def install(value, files):
        monkeypatch.syspath_prepend(str(tmp_path))
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
            names.append(Path(name).parts[0].removesuffix(".py"))
        entry = importlib.metadata.EntryPoint("theirs", value, registry.ENTRY_POINTS)
        monkeypatch.setattr(
            importlib.metadata, "entry_points", lambda *, group: [entry] if group == registry.ENTRY_POINTS else []
        )
        registry.all_methods.cache_clear()

    yield install
    registry.all_methods.cache_clear()
    for module in [m for m in sys.modules if m.split(".")[0] in names]:
        del sys.modules[module]


def test_the_methods_of_this_repository():
    found = registry.all_methods()
    assert {"dc", "dsa", "dm", "random", "herding", "kcenter", "whole"} <= set(found)
    for name, cls in found.items():
        assert registry.check(cls) is cls
        assert cls.name == name
        assert len(registry.summary(cls).splitlines()) == 1
        assert cls.__module__.startswith("methods.")


def test_all_is_methods_and_references_references_first():
    rows = [row.method for row in registry.expand(["all"])]
    wanted = {n for n, cls in registry.all_methods().items() if cls.category in ("method", "reference")}
    assert {cls.name for cls in rows} == wanted
    kinds = [cls.category for cls in rows]
    assert kinds == sorted(kinds, key=lambda kind: kind != "reference")
    assert [row.method.name for row in registry.expand(["dm", "dc", "dm"])] == ["dm", "dc"]
    assert len(registry.expand(["dm", "all"])) == len(rows)


def test_a_dropped_file_is_a_method(drop):
    drop(GOOD)
    assert registry.summary(registry.get("dropped")) == "Nothing but noise."
    assert "dropped" in [row.method.name for row in registry.expand(["all"])]
    check_method(registry.get("dropped"))


def test_an_entry_point_names_a_module(offer):
    offer("theirs_module", {"theirs_module.py": GOOD})
    assert registry.get("dropped").__module__ == "theirs_module"


def test_an_entry_point_names_a_class(offer):
    offer("theirs_package:Dropped", PACKAGE)
    assert registry.get("dropped").__module__ == "theirs_package.inner"


@pytest.mark.parametrize(
    ("value", "said"),
    [("theirs_package", "no method is defined in .*theirs_package"), ("theirs_package:Nothing", "Nothing"),
     ("theirs_package:other", "no method class other"), ("nosuchmodule", "nosuchmodule cannot be imported")],
)  # fmt: skip
def test_an_entry_point_without_a_method_is_an_error(offer, value, said):
    offer(value, PACKAGE)
    with pytest.raises(RegistrationError, match=said):
        registry.all_methods()


def bad(text, path, said):
    with pytest.raises(RegistrationError) as caught:
        registry.all_methods()
    message = str(caught.value)
    assert re.search(said, message), message
    assert path.name in message or f"methods.{path.stem}" in message


CHANGES = {
    "no name": (CARD, 'title, Hyper = "Dropped", Hyper', "`name` is missing"),
    "upper case": ('"dropped"', '"Dropped Method"', "`name` must be lower-case"),
    "a number": ('"dropped"', "3", "`name` must be lower-case"),
    "all": ('"dropped"', '"all"', "'all' is taken"),
    "no title": (CARD, 'name, Hyper = "dropped", Hyper', "`title` is missing"),
    "no card": ('    """Nothing but noise."""\n', "", "docstring .* is missing"),
    "not frozen": ("@dataclass(frozen=True)", "@dataclass", "frozen dataclass"),
    "no dataclass": ("@dataclass(frozen=True)\n", "", "frozen dataclass"),
    "no Hyper": (CARD, 'name, title = "dropped", "Dropped"', "frozen dataclass"),
    "category": ("    def cond", '    category = "refrence"\n    def cond', "`category` 'refrence' is none of"),
    "cells": ("    def cond", '    cells = {("CIFAR10", 1): {"lrr": 1.0}}\n    def cond', "Hyper has no field lrr"),
    "no loop": ("def condense", "def condens", "`Loop`, `start` missing"),
    "no own loop": ("def condense(self, task, run)", "def start(self, task, run)", "`Loop` missing"),
    "a loop alone": ("    def condense", "    class Loop(Method.Loop): pass\n    def condens", "`start` missing"),
    "syntax": ("class Dropped", "klass Dropped", "cannot be imported: SyntaxError"),
    "import": ("from dataclasses", "import nosuchmodule\nfrom dataclasses", "cannot be imported.*nosuchmodule"),
    "raises": ("class Dropped", "1 / 0\nclass Dropped", "cannot be imported: ZeroDivisionError"),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "said"), CHANGES.values(), ids=list(CHANGES))
def test_a_malformed_file_stops_the_program_by_name(drop, old, new, said):
    assert old in GOOD
    text = GOOD.replace(old, new)
    bad(text, drop(text), said)


def test_a_name_given_twice_names_both_files(drop):
    first, second = drop(GOOD, "first_method"), drop(GOOD, "second_method")
    with pytest.raises(RegistrationError, match=f"two methods are called 'dropped': {first} and {second}"):
        registry.all_methods()


def test_a_name_of_ours_cannot_be_taken(drop):
    path = drop(GOOD.replace('"dropped"', '"dm"'))
    with pytest.raises(RegistrationError, match=f"two methods are called 'dm': .*dm.py and {path}"):
        registry.all_methods()


def test_an_inherited_name_is_no_name_of_ones_own(drop):
    text = GOOD + '\nclass Second(Dropped):\n    """Another."""\n'
    bad(text, drop(text), "class Second: `name` is missing")


def test_base_classes_start_with_an_underscore_and_imported_methods_are_not_counted_twice(drop):
    text = GOOD.replace("class Dropped(Method)", "class _Base(Method):\n    pass\n\nclass Dropped(_Base)")
    drop(text + "\nfrom methods.dm import DM\n")
    assert registry.get("dropped").__name__ == "Dropped"
    assert registry.get("dm").__module__ == "methods.dm"


@pytest.mark.parametrize(
    ("name", "said"), [("dcc", "did you mean dc"), ("DSA", "dsa"), ("herdng", "did you mean herding"), ("", "known: ")]
)
def test_unknown_names_give_the_nearest(name, said):
    with pytest.raises(ValueError, match=f"unknown method '{name}'.*{said}"):
        registry.get(name)
