"""The local engine with several processes: each takes one job after the other and runs it as a single process would.

A process talks to the grid through one pipe: jobs and the wish to stop go in, progress and outcomes come out. A process
that dies, for example because the system was out of memory, is replaced. Its job is given out once more and continues
from what it had saved. When the grid itself dies, its processes see the pipe close and stop at their next step.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import connection, get_context
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch

from benchmark import data
from benchmark.data import DatasetSpec
from benchmark.engines.job import JobRunner, OnDevice
from benchmark.engines.progress import CellProgress, Display
from benchmark.engines.queue import ATTEMPTS, Ending, JobQueue, Outcome, attempt
from benchmark.engines.serial import StopSignal
from benchmark.store.cells import Job
from benchmark.store.folder import Store
from benchmark.store.records import Result
from benchmark.system.locks import LOOK_SECONDS
from benchmark.system.runtime import Precision, Runtime, cores, set_up

TELL_SECONDS = 0.2
"""Seconds between two progress messages of a process."""

SMALL_IMAGE = 16
"""Up to this side the operations of a network are too small to share among threads (ConvNet, 8x8: a step on 100 images
takes 17 ms on two cores and 25 ms on one), so a process per core does more."""


@dataclass(frozen=True)
class Settings:
    """What every process is told; plain values that can be sent."""

    results: Path
    data_dir: Path
    cache: Path | None
    device: str
    precision: Precision
    threads: int


def is_small(specs: Sequence[DatasetSpec]) -> bool:
    """Return whether all images are so small that a network uses only one thread of a CPU."""
    return all(max(spec.height, spec.width) <= SMALL_IMAGE for spec in specs)


def workers_and_threads(
    specs: Sequence[DatasetSpec], jobs: int, runtime: Runtime, wanted: int | None
) -> tuple[int, int]:
    """Return how many processes to use, and how many threads of the CPU for each.

    By default there is one process per core if all images are small and the device is a CPU, and otherwise one process.
    Small images use one thread whatever the number of processes: the last bits of a sum depend on how many threads
    share it, and so such a grid has the same results however it is spread.
    """
    small = is_small(specs) and runtime.device.type == "cpu"
    workers = max(1, min(wanted or (cores() if small else 1), jobs))
    return workers, 1 if small else max(1, cores() // workers)


def device_of(index: int, device: str) -> str:
    """Return the device of process `index`. If no GPU was named, the processes take the GPUs in turn."""
    return f"cuda:{index % torch.cuda.device_count()}" if device == "cuda" else device


def run_jobs(
    jobs: Sequence[Job],
    workers: int,
    settings: Settings,
    store: Store,
    display: Display,
    stop: StopSignal | None = None,
) -> Outcome:
    """Run every job on one of `workers` processes; a failed job never stops the rest."""
    stop = stop or StopSignal()
    pool = Pool(workers, settings, JobQueue(jobs, store, display))
    with stop.installed():
        try:
            pool.run(stop)
        finally:
            for process in pool.processes:
                process.end()
    return pool.queue.outcome


class Pool:
    """The processes that do the jobs of a queue."""

    def __init__(self, workers: int, settings: Settings, queue: JobQueue) -> None:
        self.queue = queue
        self.processes = [Process(replace(settings, device=device_of(i, settings.device))) for i in range(workers)]

    def run(self, stop: StopSignal) -> None:
        """Hand out jobs and handle what comes back, until no job is left or, after a stop, none is running."""
        told = False
        while True:
            if stop() and not told:
                told = True
                for process in self.processes:
                    process.tell_stop()
            for process in self.processes:
                if not (process.job or told) and (job := self.queue.take()):
                    process.give(job, self.queue.begin(job))
            busy: dict[object, Process] = {process.pipe: process for process in self.processes if process.job}
            if not busy and (told or not self.queue):
                break
            if not busy:
                time.sleep(LOOK_SECONDS)  # all that are left are done by other programs
            for pipe in connection.wait([process.pipe for process in busy.values()], LOOK_SECONDS) if busy else ():
                process = busy[pipe]
                try:
                    message = process.pipe.recv()
                except (EOFError, OSError):
                    self.bury(process, told)
                else:
                    self.hear(process, *message)
        if told:
            self.queue.stop_before_the_rest()

    def hear(self, process: Process, kind: Literal["step", "warning"] | Ending, content: Any) -> None:
        """Handle a message of a process that is working on a job."""
        job, progress = process.job, process.progress
        assert job is not None and progress is not None
        if kind == "step":
            progress.step(*content)
        elif kind == "warning":
            warnings.warn(content, stacklevel=1)
        else:
            process.job = process.progress = None
            self.queue.settle(job, progress, (kind, content))

    def bury(self, process: Process, stopping: bool) -> None:
        """Replace a process that died, and give its job to another one, unless that was tried before."""
        job, progress = process.job, process.progress
        assert job is not None and progress is not None
        code = process.replace()
        if end := self.queue.lose(job, progress, "process died", ATTEMPTS, stopping, f"exit code {code}"):
            self.queue.settle(job, progress, end)
        else:
            self.queue.waiting.appendleft(job)


class Process:
    """A process of the pool, as the grid sees it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.job: Job | None = None
        self.progress: CellProgress | None = None
        self._start()

    def _start(self) -> None:
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, self.settings), daemon=True)
        with without_main():
            self._process.start()
        theirs.close()  # so that the pipe ends when the process does

    def give(self, job: Job, progress: CellProgress) -> None:
        self.job, self.progress = job, progress
        with contextlib.suppress(OSError):  # dead already: the next look at the pipe tells
            self.pipe.send(job)

    def tell_stop(self) -> None:
        with contextlib.suppress(OSError):
            self.pipe.send(None)

    def replace(self) -> int | None:
        """Start a new process for a dead one; return the exit code of the old one."""
        self._process.join(5)
        code = self._process.exitcode
        self.end()
        self.job = self.progress = None
        self._start()
        return code

    def end(self) -> None:
        self.pipe.close()  # an idle process ends by that
        if self.job is None:
            self._process.join(5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


@contextlib.contextmanager
def without_main() -> Iterator[None]:
    """Keep processes that start inside the block from running the user's script again, as `spawn` has them do. Nothing
    that they are sent comes from there, and a script that calls `Grid.run` outside `if __name__ == "__main__"` would
    start itself for ever."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


class Line:
    """The process's end of the pipe: it tells progress and hears the wish to stop. A closed pipe counts as one."""

    def __init__(self, pipe: connection.Connection) -> None:
        self.pipe, self.stopping = pipe, False
        self._told, self._phase = 0.0, ""

    def should_stop(self) -> bool:
        if not self.stopping and self.pipe.poll():
            with contextlib.suppress(EOFError, OSError):
                self.pipe.recv()
            self.stopping = True
        return self.stopping

    def tell(self, kind: str, content: Any) -> None:
        with contextlib.suppress(OSError):
            self.pipe.send((kind, content))

    def progress(self, phase: str, done: int, total: int, values: dict[str, float]) -> None:
        if phase != self._phase or time.perf_counter() - self._told > TELL_SECONDS:
            self._phase, self._told = phase, time.perf_counter()
            self.tell("step", (phase, done, total, values))


def serve(pipe: connection.Connection, settings: Settings) -> None:
    """Run the jobs that come through the pipe, until it closes or says stop."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the grid hears them, and says stop
    line = Line(pipe)
    warnings.showwarning = lambda message, *_, **__: line.tell("warning", str(message))
    runtime = set_up(settings.device, settings.precision, settings.threads)
    runner = JobRunner(Store(settings.results), runtime, settings.cache, line.progress, line.should_stop)
    load = partial(data.load, data_dir=settings.data_dir, download=False)
    datasets = OnDevice(load, runtime.device)

    def run(job: Job) -> Result:
        return runner.run(job, datasets(job.cell.dataset))

    while not line.stopping:
        try:
            job = pipe.recv()
        except (EOFError, OSError):
            return
        if job is None:
            return
        line.tell(*attempt(job, partial(run, job)))
