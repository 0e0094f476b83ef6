"""How a unit is timed: in turns, through the run, and what is noted beside the time."""

import itertools
import os
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from benchmark.condensation.run import Run
from benchmark.speed.allocator import default_allocator, glibc
from benchmark.speed.measure import Cost, Sampled, measure, resources
from benchmark.speed.units import Unit
from benchmark.system.runtime import MIB, Runtime, keep_freed_memory

CPU = Runtime(torch.device("cpu"))
needs_glibc = pytest.mark.skipif(glibc() is None, reason="the C library is not glibc")


def test_a_loop_ends_after_its_samples_and_knows_its_full_length():
    run = Sampled("condense", 3, [nullcontext()] * 2)
    assert list(run.loop("condense", 1000, container="c")) == [0, 1, 2, 3, 4, 5]
    assert run.phases["condense"]["steps"] == 6
    assert run.state == {"container": "c"}


def test_other_phases_run_to_their_end():
    run = Sampled("condense", 1, [nullcontext()])
    assert list(run.loop("experts 1-2", 4)) == [0, 1, 2, 3]
    assert list(run.loop("condense", 10)) == [0]


def test_product_and_plain_take_turns():
    turns = []

    def product(run: Run) -> None:
        for _ in run.loop("condense", 500):
            turns.append("product")

    unit = Unit("toy", 1, "toy", "condense", 2, None, product, lambda: turns.append("plain"))
    ours, plain = measure(unit, CPU, repetitions=3)
    pair = ["product", "product"]
    warm_up = [*pair, *pair, "plain", "plain"]  # of both one unmeasured and one whose resources are noted
    assert turns == [*warm_up, *[*pair, "plain"] * 3]
    lengths = [len(cost.milliseconds) for cost in (ours, plain)]
    assert lengths == [3, 3]
    assert ours.first_milliseconds > 0 and plain.first_milliseconds is None


def test_the_first_time_begins_with_construction():
    """Where passes are compiled, before any loop."""

    def product(run: Run) -> None:
        time.sleep(0.1)
        for _ in run.loop("condense", 500):
            pass

    ours, _ = measure(Unit("toy", 1, "toy", "condense", 1, None, product, lambda: None), CPU, repetitions=1)
    assert ours.median < 100 <= ours.first_milliseconds


@needs_glibc
def test_memory_of_a_first_time_counts_on_neither_side():
    """Such as what it takes to choose an algorithm."""
    if CPU.peak_memory_mib() is None:
        pytest.skip("the system does not tell peak memory")
    product_times, plain_times = itertools.count(), itertools.count()

    def take(times: itertools.count) -> None:
        torch.ones((16 if next(times) else 256) * MIB // 4)

    def product(run: Run) -> None:
        for _ in run.loop("condense", 500):
            take(product_times)

    unit = Unit("toy", 1, "toy", "condense", 1, None, product, lambda: take(plain_times))
    for cost in measure(unit, CPU, repetitions=1):
        assert 12 < cost.peak_mib < 100


def resident() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / MIB


@needs_glibc
def test_memory_is_the_peak_of_the_block():
    if CPU.peak_memory_mib() is None:
        pytest.skip("the system does not tell peak memory")
    keep_freed_memory()
    torch.ones(128 * MIB // 4)  # what was freed before must not hide the next one
    cost = Cost()
    with resources(cost, CPU):
        torch.ones(64 * MIB // 4)
    assert 60 < cost.peak_mib < 100


@needs_glibc
def test_the_default_allocator_gives_large_tensors_back_to_the_system():
    keep_freed_memory()
    tensors = [torch.ones(100 * MIB // 4) for _ in range(3)]
    del tensors[1]  # a hole in the heap
    kept = resident()
    with default_allocator():
        tensor = torch.ones(64 * MIB // 4)
        assert resident() - kept > 32  # not in the hole
        del tensor
        assert resident() - kept < 32
    assert resident() - kept > -32


def test_free_memory_is_that_of_the_machine():
    free = Runtime(torch.device("cpu")).free_memory_mib()
    if free is None:
        pytest.skip("this system does not tell")
    assert 1 < free <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / MIB
