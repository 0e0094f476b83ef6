"""Every method still learns: the digits condensed by the command line, one network trained on the result.

A floor is ten points or so below what is reached today on the test images; chance is 10 %. It is no claim about a
method and no number to quote: it is missed when a loop, a container or a recipe stops doing its work.
"""

import csv

import pytest

from benchmark.cli import main
from benchmark.grid import registry

FLOORS = {
    "random": 50, "herding": 72, "kcenter": 70, "dc": 80, "dsa": 78, "dm": 78, "cafe": 80, "mtt": 78,
    "idc": 62, "haba": 58, "linba": 60, "hmn": 78,
}  # fmt: skip
"""Accuracy in per cent by method, one image per class, the quick schedule."""

VARIANTS = {"kmeans-emb": 72, "cafe-dsa": 80, "idc-i": 72, "hmn-noprune": 78, "hmn-random": 78}
"""They share the loop or the container of one above; `make test-long` looks at them."""


REFUSED = {"fyi-dm", "fyi-dsa", "fyi-idc"}
"""On digits, which mean something else in the mirror."""


def test_everything_that_condenses_has_a_floor():
    condensing = {name for name, method in registry.all_methods().items() if method.condenses}
    assert condensing == set(FLOORS) | set(VARIANTS) | REFUSED


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "floor"),
    [*FLOORS.items(), *(pytest.param(*variant, marks=pytest.mark.long) for variant in VARIANTS.items())],
)
def test_it_learns(name, floor, tmp_path, monkeypatch):
    monkeypatch.setattr("benchmark.report.plots.draw", lambda *_: [])
    grid = ["--methods", name, "--datasets", "digits", "--ipc", "1", "--schedule", "quick", "--nets", "1"]
    where = ["--device", "cpu", "--precision", "float32", "--workers", "1", "--results-dir", str(tmp_path)]
    assert main([*grid, *where]) == 0
    with open(tmp_path / "tables" / "results.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["status"] == "done"
    assert float(row["accuracy"]) > floor
