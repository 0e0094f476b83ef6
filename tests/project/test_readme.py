"""The method in the README is complete: it is found as a file of methods/ and keeps the contract."""

import re
from pathlib import Path

import pytest

import methods
from benchmark.grid import registry
from benchmark.testing import check_method

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture
def added_methods(tmp_path, monkeypatch):
    """A folder whose files count as files of methods/."""
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    registry.all_methods.cache_clear()
    yield tmp_path
    registry.all_methods.cache_clear()


def test_the_example_method_runs(added_methods):
    block = next(b for b in re.findall(r"```python\n(.*?)```", README.read_text(), re.S) if "class " in b)
    name = re.match(r'"""methods/(\w+\.py):', block)[1]
    (added_methods / name).write_text(block)
    check_method(registry.get("pixel-mean"))
    assert "pixel-mean" in [row.method.name for row in registry.expand(["all"])]
