"""What a cell is estimated to take, by a probe of the machine or by measured steps."""

import dataclasses
import math

import pytest

from benchmark.cli.options import Options, grid_of
from benchmark.condensation.method import Work
from benchmark.containers.budget import Budget
from benchmark.grid import registry
from benchmark.grid.hours import (
    EVALUATION,
    EXPERT,
    MeasuredUnit,
    Speed,
    condensing_flops,
    estimate_seconds,
    measured_units,
    scoring_flops,
    units_of,
    work_flops,
)
from benchmark.store.cells import Job
from benchmark.testing import short_job


def unit(name, ipc, rate):
    return {"unit": name, "ipc": ipc, "product": {"flops_per_second": rate}}


def measured(*units):
    environment = {"device": "here"}
    return {
        "environment": environment, "precision": "bf16", "dataset": "CIFAR-10", "contended": False, "units": [*units],
    }  # fmt: skip


@pytest.fixture
def dm(digits):
    job = short_job(registry.get("dm"), digits, 10)
    return digits.spec, Budget(10, digits.spec.classes, digits.spec.image_shape), job


def test_without_measurements_the_probe_counts_for_all(dm):
    spec, budget, job = dm
    flops = sum(condensing_flops(spec, budget, job)) + scoring_flops(spec, budget, job)
    assert estimate_seconds(*dm, Speed(lambda: 1e9)) == pytest.approx(flops / 1e9)
    assert estimate_seconds(*dm, Speed(lambda: None)) is None
    assert estimate_seconds(spec, budget, Job(job.cell, ()), Speed(lambda: 1e9)) < flops / 1e9


@pytest.mark.parametrize("objective", ["", "dm"])
def test_pruning_and_a_pilot_count_whichever_loop_it_is(digits, objective, tmp_path):
    spec, method = digits.spec, registry.get("hmn")

    def job(**settings):
        overrides = {"hmn": settings | ({"objective": objective} if objective else {})}
        grid = grid_of(Options(methods=("hmn",), datasets=("digits",), ipc=(10,)), tmp_path)
        return dataclasses.replace(grid, overrides=overrides).jobs()[0]

    def flops(**settings):
        asked = job(**settings)
        return condensing_flops(spec, asked.cell.budget_on(spec), asked)[0]

    training = work_flops(Work(trained=60 * 256), spec)  # of 640 or 720 images
    assert flops(beta="0.4", aum_steps=120) - flops(beta="0.4", aum_steps=60) == pytest.approx(training)
    assert flops(aum_steps=60) - flops(beta="0.4", aum_steps=60) == pytest.approx(3 * training)
    cell = job().cell
    (name, values), budget = cell.loop, cell.budget_on(spec)
    loop = work_flops(registry.get(name).work(registry.get(name).Hyper(**values), spec, budget), spec)
    again = method.starting(method.Hyper(**cell.hyper), spec, budget) + loop + training
    assert flops(split="pilot") - flops() == pytest.approx(again)


def test_measured_steps_of_the_nearest_size_count(dm):
    rates = ("dm", 1, 1.0), ("dm", 10, 4e9), ("dc", 10, 1.0), (EVALUATION, 50, 2e9)
    units = [MeasuredUnit(name, "Digits 8x8", ipc, rate) for name, ipc, rate in rates]

    def probe():
        raise AssertionError("nothing is to be tried out")

    expected = sum(condensing_flops(*dm)) / 4e9 + scoring_flops(*dm) / 2e9
    assert estimate_seconds(*dm, Speed(probe, units)) == pytest.approx(expected)
    other = [dataclasses.replace(entry, dataset="CIFAR-10") for entry in units]
    assert estimate_seconds(*dm, Speed(lambda: 1e9, other)) == estimate_seconds(*dm, Speed(lambda: 1e9))


def test_measurements_of_another_place_are_not_used():
    stored = measured(unit("dm", 10, 1e9), unit("expert", None, 2e9), unit("loading", None, None))
    expected = [MeasuredUnit("dm", "CIFAR-10", 10, 1e9), MeasuredUnit("expert", "CIFAR-10", 1, 2e9)]
    assert measured_units(stored, "here", "bf16") == expected
    assert measured_units(stored, "there", "bf16") == []
    assert measured_units(stored, "here", "float32") == []
    assert measured_units(stored | {"contended": True}, "here", "bf16") == []
    assert measured_units(None, "here", "bf16") == []


@pytest.mark.parametrize(("ipc", "rate"), [("10", 1e9), (-1, 1e9), (10, "fast"), (10, -1.0), (10, True), ([], [1])])
def test_measurements_that_are_no_numbers_are_left_out(ipc, rate):
    assert measured_units(measured(unit("dm", ipc, rate)), "here", "bf16") == []
    nothing = {"unit": "dm", "product": {}}
    assert measured_units(measured(nothing), "here", "bf16") == []


def test_a_start_is_counted_under_any_loop(digits):
    spec, budget = digits.spec, Budget(10, digits.spec.classes, digits.spec.image_shape)
    hmn, dm = registry.get("hmn"), registry.get("dm")
    cell = short_job(hmn, digits, 10).cell
    other = short_job(dm, digits, 10).cell
    moved = dataclasses.replace(cell, objective="dm", objective_hyper=other.hyper)
    starting = hmn.starting(hmn.Hyper(**cell.hyper), spec, budget)
    assert starting > 0
    loop, _ = condensing_flops(spec, budget, Job(other, ()))
    pruning = work_flops(hmn.finishing(hmn.Hyper(**cell.hyper), spec, budget), spec)
    assert condensing_flops(spec, budget, Job(moved, ())) == (pytest.approx(starting + loop + pruning), 0)


@pytest.mark.parametrize("name", ["mtt", "haba"])
def test_experts_have_a_speed_of_their_own(name, digits):
    spec, budget = digits.spec, Budget(10, digits.spec.classes, digits.spec.image_shape)
    job = Job(short_job(registry.get(name), digits, 10).cell, ())
    loop, experts = condensing_flops(spec, budget, job)
    epochs = registry.get(name).Hyper(**job.cell.hyper).expert_length
    assert experts == work_flops(Work(trained=job.cell.hyper["experts"] * epochs * len(digits.train)), spec)
    units = [MeasuredUnit(name, spec.title, 10, 1e9), MeasuredUnit(EXPERT, spec.title, 1, 4e9)]
    assert estimate_seconds(spec, budget, job, Speed(lambda: None, units)) == pytest.approx(loop / 1e9 + experts / 4e9)


@pytest.mark.parametrize(
    ("name", "ipc", "nearest"), [("whole", 0, 50), ("random", 1, 1), ("idc", 1, 4), ("idc", 10, 50)]
)
def test_evaluations_have_the_speed_of_as_many_images(name, ipc, nearest, digits):
    """IDC decodes four from each it stores."""
    spec, budget = digits.spec, Budget(ipc, digits.spec.classes, digits.spec.image_shape)
    job = short_job(registry.get(name), digits, ipc)
    scoring = scoring_flops(spec, budget, job)
    loop = [MeasuredUnit(name, spec.title, 1, math.inf)]  # takes no time
    units = [MeasuredUnit(EVALUATION, spec.title, size, 1e9 * size) for size in (1, 4, 50)]
    assert estimate_seconds(spec, budget, job, Speed(lambda: None, loop + units)) == scoring / (1e9 * nearest)


@pytest.mark.parametrize(
    ("name", "measured", "unit"),
    [
        ("cafe-dsa", ["cafe", "dm"], "cafe"),
        ("hmn-random", ["idc", "hmn"], "hmn"),
        ("dsa", ["dc", "dsa"], "dsa"),
        ("dsa", ["dc"], "dc"),
    ],
)
def test_a_method_without_a_unit_has_the_speed_of_what_it_derives_from(name, measured, unit, digits):
    rates = {other: 1e9 + number for number, other in enumerate(measured)}
    speed = Speed(lambda: None, [MeasuredUnit(other, digits.spec.title, 10, rate) for other, rate in rates.items()])
    assert speed.of(units_of(name), 10, digits.spec) == rates[unit]
    assert speed.of(units_of("linba"), 10, digits.spec) is None
