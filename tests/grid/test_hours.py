"""What a cell is estimated to take, by a probe of the machine or by measured steps."""

import dataclasses
import math

import pytest

from benchmark.cli.options import Options, grid_of
from benchmark.condensation.cost import Cost, LoopCost, Work
from benchmark.grid import registry
from benchmark.grid.hours import (
    EVALUATION,
    EXPERT,
    MeasuredUnit,
    Speed,
    estimate_seconds,
    measured_units,
    scoring_flops,
    units_of,
    work_flops,
)
from benchmark.store.cells import Job
from benchmark.testing import short_job


def cost_of(job, spec):
    return registry.build(job.cell).cost(spec, job.cell.budget_on(spec))


def condensing_flops(cost, spec):
    """(Without the experts, of training those.)"""
    return work_flops(cost.without_experts(), spec), work_flops(Work(experts=cost.work.experts), spec)


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
    return digits.spec, job, cost_of(job, digits.spec)


def test_without_measurements_the_probe_counts_for_all(dm):
    spec, job, cost = dm
    flops = sum(condensing_flops(cost, spec)) + scoring_flops(spec, job, 100)
    assert estimate_seconds(*dm, Speed(lambda: 1e9)) == pytest.approx(flops / 1e9)
    assert estimate_seconds(*dm, Speed(lambda: None)) is None
    assert estimate_seconds(spec, Job(job.cell, ()), cost, Speed(lambda: 1e9)) < flops / 1e9


@pytest.mark.parametrize("objective", ["", "dm"])
def test_pruning_and_a_pilot_count_whichever_loop_it_is(digits, objective, tmp_path):
    spec = digits.spec

    def job(**settings):
        overrides = {"hmn": settings | ({"objective": objective} if objective else {})}
        grid = grid_of(Options(methods=("hmn",), datasets=("digits",), ipc=(10,)), tmp_path)
        return dataclasses.replace(grid, overrides=overrides).jobs()[0]

    def flops(**settings):
        return condensing_flops(cost_of(job(**settings), spec), spec)[0]

    training = work_flops(Work(trained=60 * 256), spec)  # of 640 or 720 images
    assert flops(beta="0.4", aum_steps=120) - flops(beta="0.4", aum_steps=60) == pytest.approx(training)
    assert flops(aum_steps=60) - flops(beta="0.4", aum_steps=60) == pytest.approx(3 * training)
    name, values = job().cell.loop
    owner = registry.get(name)
    loop = owner.Loop(owner.Hyper(**values)).cost(spec, 72).work  # on the images of a class over budget
    again = work_flops(cost_of(job(), spec).before + loop, spec) + training
    assert flops(split="pilot") - flops() == pytest.approx(again)


def test_measured_steps_of_the_nearest_size_count(dm):
    rates = ("dm", 1, 1.0), ("dm", 10, 4e9), ("dc", 10, 1.0), (EVALUATION, 50, 2e9)
    units = [MeasuredUnit(name, "Digits 8x8", ipc, rate) for name, ipc, rate in rates]

    def probe():
        raise AssertionError("nothing is to be tried out")

    spec, job, cost = dm
    expected = sum(condensing_flops(cost, spec)) / 4e9 + scoring_flops(spec, job, 100) / 2e9
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
    """And the loop is counted on the images that the moved container decodes: 72 of a class, not DM's own 10."""
    spec = digits.spec
    hmn, dm = registry.get("hmn"), registry.get("dm")
    own, other = short_job(hmn, digits, 10), short_job(dm, digits, 10)
    moved = dataclasses.replace(own.cell, objective="dm", objective_hyper=other.cell.hyper)
    cost = cost_of(Job(moved, ()), spec)
    assert cost.before.flops > 0 and cost.after.trained > 0
    assert (cost.before, cost.after) == (cost_of(own, spec).before, cost_of(own, spec).after)
    assert hmn(hmn.Hyper(**own.cell.hyper)).sizes(spec, own.cell.budget_on(spec)) == (64, 72)
    loop = Work(forward=3 * 10 * 64, trained=3 * 10 * 72)  # three steps, 64 real images of each class
    assert cost.loop.work == loop
    around = cost.before.flops + work_flops(cost.after, spec)
    assert condensing_flops(cost, spec) == (pytest.approx(around + work_flops(loop, spec)), 0)


def test_all_parts_of_a_cost_add_up():
    loop = LoopCost(10, Work(forward=3, matched=2), between=Work(trained=7), before=Work(experts=100))
    assert loop.work == Work(forward=30, trained=7, matched=20, experts=100)
    cost = Cost(1, 1, loop, loops=2, before=Work(flops=5), after=Work(trained=1))
    assert cost.work == Work(forward=60, trained=15, matched=40, experts=200, flops=10)  # a pilot's are of other images
    assert cost.without_experts() == dataclasses.replace(cost.work, experts=0)


@pytest.mark.parametrize("name", ["mtt", "haba"])
def test_experts_have_a_speed_of_their_own(name, digits):
    spec, job = digits.spec, Job(short_job(registry.get(name), digits, 10).cell, ())
    cost = cost_of(job, spec)
    loop, experts = condensing_flops(cost, spec)
    epochs = registry.get(name).Hyper(**job.cell.hyper).expert_length
    assert experts == work_flops(Work(trained=job.cell.hyper["experts"] * epochs * len(digits.train)), spec)
    units = [MeasuredUnit(name, spec.title, 10, 1e9), MeasuredUnit(EXPERT, spec.title, 1, 4e9)]
    assert estimate_seconds(spec, job, cost, Speed(lambda: None, units)) == pytest.approx(loop / 1e9 + experts / 4e9)


@pytest.mark.parametrize(
    ("name", "ipc", "nearest"), [("whole", 0, 50), ("random", 1, 1), ("idc", 1, 4), ("idc", 10, 50)]
)
def test_evaluations_have_the_speed_of_as_many_images(name, ipc, nearest, digits):
    """IDC decodes four from each it stores."""
    spec, job = digits.spec, short_job(registry.get(name), digits, ipc)
    cost = cost_of(job, spec)
    assert cost.images == {"whole": 0, "random": 10, "idc": 40 * ipc}[name]
    scoring = scoring_flops(spec, job, cost.images)
    loop = [MeasuredUnit(name, spec.title, 1, math.inf)]  # takes no time
    units = [MeasuredUnit(EVALUATION, spec.title, size, 1e9 * size) for size in (1, 4, 50)]
    assert estimate_seconds(spec, job, cost, Speed(lambda: None, loop + units)) == scoring / (1e9 * nearest)


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
