"""What a cell is estimated to take, by a probe of the machine or by measured steps."""

import pytest

from benchmark import registry
from benchmark.budget import Budget
from benchmark.cells import Job
from benchmark.estimate import EVALUATION, Speed, condensing_flops, estimate_seconds, measured_units, scoring_flops
from benchmark.testing import short_job


def unit(name, ipc, rate):
    return {"unit": name, "ipc": ipc, "dataset": "Digits 8x8", "product": {"flops_per_second": rate}}


@pytest.fixture
def dm(digits):
    job = short_job(registry.get("dm"), digits, 10)
    return digits.spec, Budget(10, digits.spec.classes, digits.spec.image_shape), job


def test_without_measurements_the_probe_counts_for_all(dm):
    spec, budget, job = dm
    flops = condensing_flops(spec, budget, job) + scoring_flops(spec, budget, job)
    assert estimate_seconds(*dm, Speed(lambda: 1e9)) == pytest.approx(flops / 1e9)
    assert estimate_seconds(*dm, Speed(lambda: None)) is None
    assert estimate_seconds(spec, budget, Job(job.cell, ()), Speed(lambda: 1e9)) < flops / 1e9


def test_measured_steps_of_the_nearest_size_count(dm):
    units = [unit("dm", 1, 1.0), unit("dm", 10, 4e9), unit("dc", 10, 1.0), unit(EVALUATION, 50, 2e9)]

    def probe():
        raise AssertionError("nothing is to be tried out")

    expected = condensing_flops(*dm) / 4e9 + scoring_flops(*dm) / 2e9
    assert estimate_seconds(*dm, Speed(probe, units)) == pytest.approx(expected)
    other = [entry | {"dataset": "CIFAR-10"} for entry in units]
    assert estimate_seconds(*dm, Speed(lambda: 1e9, other)) == estimate_seconds(*dm, Speed(lambda: 1e9))


def test_measurements_of_another_place_are_not_used():
    measured = {
        "environment": {"device": "here"}, "precision": "bf16", "dataset": "CIFAR-10", "contended": False,
        "units": [unit("dm", 1, 1e9), unit("loading", None, None)],
    }  # fmt: skip
    (found,) = measured_units(measured, "here", "bf16")
    assert (found["unit"], found["dataset"]) == ("dm", "CIFAR-10")
    assert measured_units(measured, "there", "bf16") == []
    assert measured_units(measured, "here", "float32") == []
    assert measured_units(measured | {"contended": True}, "here", "bf16") == []
    assert measured_units(None, "here", "bf16") == []
