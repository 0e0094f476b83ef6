"""What the tutorial and the example say is true: its code runs, and the example package is a method like any other."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import methods
from benchmark.grid import registry
from benchmark.testing import check_method

ROOT = Path(__file__).parents[2]
TUTORIAL = ROOT / "docs" / "tutorial.md"
EXAMPLE = ROOT / "examples" / "pixel-mean"


@pytest.fixture
def added_methods(tmp_path, monkeypatch):
    """A folder whose files count as files of methods/."""
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    registry.all_methods.cache_clear()
    yield tmp_path
    registry.all_methods.cache_clear()


def test_the_method_of_the_tutorial_is_found_as_a_file_and_keeps_the_contract(added_methods):
    code = next(block for block in re.findall(r"```python\n(.*?)```", TUTORIAL.read_text(), re.S) if "class " in block)
    (added_methods / "pixel_mean.py").write_text(code)
    check_method(registry.get("pixel-mean"))
    assert "pixel-mean" in [row.method.name for row in registry.expand(["all"])]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder in which the example package is installed, as pip does it."""
    target = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target"]
    subprocess.run([*pip, str(target), str(EXAMPLE)], check=True, capture_output=True)
    return target


def test_the_example_package_is_a_method_like_any_other(installed, tmp_path):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(installed), str(ROOT)])}
    results = tmp_path / "results"
    grid = ["--methods", "random", "pixel-mean", "--ipc", "1", "--nets", "1", "--device", "cpu", "--workers", "1"]
    told = subprocess.run(
        [sys.executable, str(ROOT / "bench.py"), *grid, "--results-dir", str(results)],
        env=environment, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    table = (results / "tables" / "accuracy.md").read_text()
    assert "Pixel mean" in table and "Random" in table


def test_the_example_package_passes_its_own_test(installed):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(installed), str(ROOT)])}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(EXAMPLE / "tests")]
    told = subprocess.run(command, env=environment, cwd=EXAMPLE, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout
