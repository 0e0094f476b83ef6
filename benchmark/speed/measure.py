"""Timing a unit: product and plain reference take turns in one process. Also, what the device can do at most."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.condensation.run import Run
from benchmark.speed.allocator import default_allocator, release_free_memory
from benchmark.speed.units import Unit
from benchmark.system.runtime import MIB, Runtime

LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch")
"""How the names begin of what hands work to a GPU; a whole CUDA graph is one launch."""


class Sampled(Run):
    """A run that keeps nothing, and whose loop of one phase ends after the samples asked for.

    The loop is told its full length, so that nothing in it is decided by how short the run is. Between two samples it
    is the turn of the given iterable, in which the plain reference runs.
    """

    def __init__(self, phase: str, steps: int, samples: Iterable[AbstractContextManager[Any]]) -> None:
        super().__init__()
        self.phase, self.steps, self.samples = phase, steps, samples
        self.state: dict[str, Any] = {}
        """What the loop said it changes."""

    def loop(self, phase: str, steps: int, **state: Any) -> Iterator[int]:
        if not phase.startswith(self.phase):
            yield from super().loop(phase, steps, **state)
            return
        self.state, numbers, seconds = state, iter(range(steps)), time.perf_counter()
        for sample in self.samples:
            with sample:
                yield from islice(numbers, self.steps)
        self.phases[phase] = {"steps": next(numbers, steps), "seconds": time.perf_counter() - seconds}


@dataclass
class Cost:
    """What one side of a unit cost."""

    milliseconds: list[float] = field(default_factory=list)
    cpu_milliseconds: list[float] = field(default_factory=list)
    """Processor time of all threads. With one thread, it is what an otherwise idle machine would take."""
    first_milliseconds: float | None = None
    """From the unit's construction to the end of its first run, including whatever is compiled."""
    peak_mib: float | None = None
    """Memory of one unit, above what was there before it."""
    launches: int | None = None
    """Kernel launches of one unit on CUDA."""

    @property
    def median(self) -> float:
        return statistics.median(self.milliseconds)

    @property
    def cpu_median(self) -> float:
        return statistics.median(self.cpu_milliseconds)


def measure(unit: Unit, runtime: Runtime, repetitions: int) -> tuple[Cost, Cost]:
    """Return (the product's cost, the plain reference's) of a unit, timed `repetitions` times in turns after a
    warm-up."""
    product, plain, first = Cost(), Cost(), Cost()
    since_construction = contextlib.ExitStack()

    def samples() -> Iterator[AbstractContextManager[Any]]:
        yield since_construction
        product.first_milliseconds = first.median
        yield resources(product, runtime)
        with default_allocator():
            unit.plain()  # unmeasured, as ours above: choosing an algorithm takes memory that later times do not
            with resources(plain, runtime):
                unit.plain()
        for _ in range(repetitions):
            yield stopwatch(product, runtime)
            with default_allocator(), stopwatch(plain, runtime):
                unit.plain()

    since_construction.enter_context(stopwatch(first, runtime))
    unit.product(Sampled(unit.phase, unit.steps, samples()))
    return product, plain


@contextlib.contextmanager
def stopwatch(cost: Cost, runtime: Runtime) -> Iterator[None]:
    """Note how long the block took, the device's share included."""
    synchronise(runtime)
    start, cpu_start = time.perf_counter(), time.process_time()
    yield
    synchronise(runtime)
    cost.milliseconds.append(1000 * (time.perf_counter() - start))
    cost.cpu_milliseconds.append(1000 * (time.process_time() - cpu_start))


def synchronise(runtime: Runtime) -> None:
    if runtime.device.type == "cuda":
        torch.cuda.synchronize(runtime.device)


@contextlib.contextmanager
def resources(cost: Cost, runtime: Runtime) -> Iterator[None]:
    """Note the memory and the kernel launches of the block: tensors on CUDA, resident memory of the process on a CPU.
    What a CUDA graph keeps in a pool of its own is not seen."""
    if runtime.device.type == "cuda":
        synchronise(runtime)
        allocated = torch.cuda.memory_allocated(runtime.device) / MIB
        runtime.reset_peak_memory()
        with torch.profiler.profile() as profile:
            yield
            synchronise(runtime)
        peak = runtime.peak_memory_mib()
        cost.peak_mib = None if peak is None else peak - allocated
        cost.launches = sum(event.count for event in profile.key_averages() if event.key.startswith(LAUNCHES))
        return
    release_free_memory()  # else it would be used again, and no peak be seen
    runtime.reset_peak_memory()
    before = runtime.peak_memory_mib()
    yield
    after = runtime.peak_memory_mib()
    cost.peak_mib = None if before is None or after is None else after - before


def ceilings(runtime: Runtime) -> dict[str, float]:
    """Return the FLOP/s of a large matrix product and of a large convolution (128 channels to 128, the better of both
    layouts) in the type that the precision computes in. No step can exceed them."""
    dtype = torch.bfloat16 if "bf16" in runtime.precision else torch.float32
    cuda = runtime.device.type == "cuda"
    side, images = (8192, 1024) if cuda else (2048, 64)
    options: dict[str, Any] = {"device": runtime.device, "dtype": dtype}
    matrix = torch.randn(side, side, **options)
    maps, weight = torch.randn(images, 128, 32, 32, **options), torch.randn(128, 128, 3, 3, **options)

    def convolution(layout: torch.memory_format) -> float:
        inputs = maps.contiguous(memory_format=layout), weight.contiguous(memory_format=layout)
        return rate(lambda: F.conv2d(*inputs, padding=1), 2.0 * 9 * 128 * maps.numel(), runtime)

    return {
        "matrix product": rate(lambda: matrix @ matrix, 2.0 * side**3, runtime),
        "convolution": max(map(convolution, (torch.contiguous_format, torch.channels_last))),
    }


@torch.no_grad()
def rate(operation: Callable[[], Tensor], flops: float, runtime: Runtime) -> float:
    """Return the FLOP/s of an operation at the best of some repetitions, because other processes must not lower a
    ceiling."""
    cost = Cost()
    for _ in range(10):
        with stopwatch(cost, runtime):
            operation()
    return flops / min(cost.milliseconds) * 1000
