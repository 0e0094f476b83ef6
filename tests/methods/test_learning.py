"""Every method still learns: the digits condensed by the command line, one network trained on the result.

A floor is ten points or so below what is reached today on the test images; chance is 10 %. It is no claim about a
method and no number to quote: it is missed when a loop, a container or a recipe stops doing its work.
"""

import csv

import pytest

from benchmark.cli import main
from benchmark.grid import registry

FLOORS = {
    "random": 50, "herding": 72, "kcenter": 70, "kmeans-emb": 72, "whole": 88,
    "dc": 80, "dsa": 78, "dm": 78, "cafe": 80, "cafe-dsa": 80, "mtt": 78,
    "idc": 62, "idc-i": 78, "haba": 58, "linba": 60, "hmn": 78, "hmn-noprune": 78, "hmn-random": 78,
}  # fmt: skip
"""Accuracy in per cent by method, one image per class, the quick schedule."""


REFUSED = {"fyi-dm", "fyi-dsa", "fyi-idc"}
"""On digits, which mean something else in the mirror."""


def test_every_method_has_a_floor():
    assert set(FLOORS) | REFUSED == set(registry.all_methods())


@pytest.mark.slow
@pytest.mark.parametrize("name", FLOORS)
def test_it_learns(name, tmp_path):
    grid = ["--methods", name, "--datasets", "digits", "--ipc", "1", "--schedule", "quick", "--nets", "1"]
    where = ["--device", "cpu", "--precision", "float32", "--workers", "1", "--results-dir", str(tmp_path)]
    assert main([*grid, *where]) == 0
    with open(tmp_path / "tables" / "results.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["status"] == "done"
    assert float(row["accuracy"]) > FLOORS[name]
