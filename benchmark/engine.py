"""The local engine: runs the jobs of a plan one after the other in this process. A failed cell never stops the rest."""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmark.cells import Job
from benchmark.claims import LOOK_SECONDS, Claimed, is_free
from benchmark.data import Dataset
from benchmark.failures import failure_reason
from benchmark.progress import Display
from benchmark.run import Stopped
from benchmark.runtime import Runtime
from benchmark.store import Store
from benchmark.worker import Worker

ELSEWHERE = "another process is at it; looked at again later"


@dataclass
class Outcome:
    """What became of the jobs: how many ended done, which failed and why, and whether the run was stopped."""

    done: int = 0
    failed: list[tuple[Job, str]] = field(default_factory=list)
    stopped: str = ""
    """Where it stopped, empty if it ran to its end."""


class StopSignal:
    """Set by the first SIGINT or SIGTERM, read at every step boundary; the second one interrupts at once."""

    def __init__(self) -> None:
        self.name = ""

    def __call__(self) -> bool:
        return bool(self.name)

    @contextmanager
    def installed(self) -> Iterator[None]:
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


class Queue:
    """The jobs that are to be done: those that another process is at come last, when it has left them."""

    def __init__(self, jobs: Sequence[Job], store: Store) -> None:
        self.store, self.waiting, self.elsewhere = store, deque(jobs), deque()

    def __bool__(self) -> bool:
        return bool(self.waiting or self.elsewhere)

    def upcoming(self) -> str:
        """The label of the cell that would come next."""
        return (self.waiting or self.elsewhere)[0].cell.label

    def take(self) -> Job | None:
        """The next job; None where all that are left are done by other processes at this moment."""
        if self.waiting:
            return self.waiting.popleft()
        free = next((job for job in self.elsewhere if is_free(self.store.claim(job.cell))), None)
        if free is not None:
            self.elsewhere.remove(free)
        return free


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
    outcome, stop = Outcome(), stop or StopSignal()
    for job in jobs:
        store.announce(job)
    dataset: Dataset | None = None
    queue = Queue(jobs, store)
    with stop.installed():
        while queue:
            if stop():
                outcome.stopped = f"before {queue.upcoming()}"
                break
            job = queue.take()
            if job is None:
                time.sleep(LOOK_SECONDS)
                continue
            cell = display.start(job.cell.label)
            try:
                if dataset is None or dataset.spec.name != job.cell.dataset:
                    dataset = load(job.cell.dataset).to(runtime.device)
                result = Worker(store, runtime, cache, cell.step, stop).run(job, dataset)
            except Claimed:
                queue.elsewhere.append(job)
                cell.end(ELSEWHERE, final=False)
            except Stopped as error:
                outcome.stopped = f"{job.cell.label}: {error}"
                break
            except Exception as error:
                reason = failure_reason(job.cell, error)
                outcome.failed.append((job, reason))
                cell.end(f"failed: {reason}")
            else:
                outcome.done += 1
                cell.end(summarise(result))
    return outcome


def summarise(result: dict) -> str:
    """One line for the progress display: accuracy by protocol and network, and seconds."""
    scores = []
    for entry in result["evaluations"]:
        mean = 100 * sum(entry["accuracies"]) / len(entry["accuracies"])
        scores.append(f"{mean:.1f} % ({entry['protocol']}, {entry['network']}, {len(entry['accuracies'])} nets)")
    seconds = result["condensation"]["seconds"] + sum(entry["seconds"] for entry in result["evaluations"])
    return f"{'; '.join(scores)} in {seconds:.0f} s"
