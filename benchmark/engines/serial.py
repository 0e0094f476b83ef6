"""The local engine: runs the jobs of a plan one after the other in this process. A failed cell never stops the rest."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmark.data import Dataset
from benchmark.engines.job import JobRunner, OnDevice
from benchmark.engines.progress import CellProgress, Display
from benchmark.engines.queue import JobQueue, Outcome, attempt
from benchmark.store.cells import Job
from benchmark.store.folder import Store
from benchmark.store.records import Result
from benchmark.system.locks import LOOK_SECONDS
from benchmark.system.runtime import Runtime


class StopSignal:
    """Set by the first SIGINT or SIGTERM, and read after every step; the second signal interrupts at once.

    Python lets only the main thread hear signals: in any other thread they stay with whoever has them.
    """

    def __init__(self) -> None:
        self.name = ""

    def __call__(self) -> bool:
        return bool(self.name)

    @contextmanager
    def installed(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def handle(number: int, _frame: object) -> None:
            if self.name:
                raise KeyboardInterrupt
            self.name = signal.Signals(number).name

        previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def run_jobs(
    jobs: Sequence[Job],
    load: Callable[[str], Dataset],
    store: Store,
    runtime: Runtime,
    cache: Path | None,
    display: Display,
    stop: StopSignal | None = None,
) -> Outcome:
    """Run every job; `load(name)` gives a data set in memory, which is moved to the device once for all its cells."""
    stop = stop or StopSignal()
    queue = JobQueue(jobs, store, display)
    datasets = OnDevice(load, runtime.device)

    def run(job: Job, progress: CellProgress) -> Result:
        return JobRunner(store, runtime, cache, progress.step, stop).run(job, datasets(job.cell.dataset))

    with stop.installed():
        while queue and not stop():
            if (job := queue.take()) is None:
                time.sleep(LOOK_SECONDS)
                continue
            progress = queue.begin(job)
            queue.settle(job, progress, attempt(job, partial(run, job, progress)))
    if stop():
        queue.stop_before_the_rest()
    return queue.outcome
