"""The queue that every engine keeps: which jobs wait, and what became of the others."""

from __future__ import annotations

import contextlib
import statistics
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from benchmark.engines.failures import describe_failure, failure_text, less_memory
from benchmark.engines.progress import CellProgress, Display
from benchmark.store.cells import Job
from benchmark.store.folder import Store
from benchmark.store.records import Result
from benchmark.system.errors import CellError, Stopped
from benchmark.system.locks import Claimed, is_free
from benchmark.system.wording import duration

ATTEMPTS = 2
"""How often a job whose process died is given to a process."""

ELSEWHERE = "another process is at it; looked at again later"

Ending = Literal["done", "claimed", "stopped", "failed"]
End = tuple[Ending, Any]
"""How a job, or a part of one, ended, with what belongs to that: its result, nothing, where it stopped, or why it
failed."""


class ProcessDied(CellError):
    reason = "process died"


@dataclass
class Outcome:
    """What became of the jobs: how many ended done, which failed and why, and whether the run was stopped."""

    done: int = 0
    failed: list[tuple[Job, str]] = field(default_factory=list)
    stopped: str = ""
    """Where the run stopped; empty if it ran to its end."""

    def stop(self, where: str) -> None:
        """Note where the run stopped; the first place counts."""
        self.stopped = self.stopped or where


def attempt(job: Job, run: Callable[[], Any]) -> End:
    """Call `run`, which does the job or a part of it, and return how that ended. Raises nothing."""
    try:
        given = run()
    except Claimed:
        return "claimed", ""
    except Stopped as error:
        return "stopped", str(error)
    except Exception as error:
        return "failed", failure_text(job.cell, error)
    return "done", given


def summarise(result: Result) -> str:
    """Return one line for the progress display: accuracy by protocol and network, and how long it took."""
    scores = []
    for entry in result.evaluations:
        mean = 100 * statistics.fmean(entry.accuracies)
        scores.append(f"{mean:.1f} % ({entry.protocol}, {entry.network}, {len(entry.accuracies)} nets)")
    seconds = result.condensation.seconds + sum(entry.seconds for entry in result.evaluations)
    return f"{'; '.join(scores)} in {duration(seconds)}"


class JobQueue:
    """The jobs of a grid. Jobs that another program is working on come last, when it has left them."""

    def __init__(self, jobs: Sequence[Job], store: Store, display: Display) -> None:
        """Announce every job in the store."""
        self.store, self.display = store, display
        self.waiting, self.elsewhere = deque(jobs), deque[Job]()
        self.outcome = Outcome()
        self._lost: Counter[tuple[str, str]] = Counter()
        for job in jobs:
            store.announce(job)

    def __bool__(self) -> bool:
        """Return whether there are jobs left that nobody was given."""
        return bool(self.waiting or self.elsewhere)

    def take(self) -> Job | None:
        """Return the next job; None if all jobs that are left are being done by other programs at this moment."""
        if self.waiting:
            return self.waiting.popleft()
        free = next((job for job in self.elsewhere if all(map(is_free, self.store.claims(job)))), None)
        if free is not None:
            self.elsewhere.remove(free)
        return free

    def begin(self, job: Job) -> CellProgress:
        """Show that a job is under way."""
        return self.display.start(job.cell.label)

    def settle(self, job: Job, progress: CellProgress, end: End) -> None:
        """Record how a job ended. What a job that is done gave is its result."""
        kind, content = end
        if kind == "done":
            self.outcome.done += 1
            progress.end(summarise(content))
        elif kind == "claimed":
            self.elsewhere.append(job)
            progress.end(ELSEWHERE, final=False)
        elif kind == "failed":
            self.outcome.failed.append((job, content))
            progress.end(f"failed: {content}")
        else:
            self.outcome.stop(f"{job.cell.label}: {content}")

    def lose(
        self, job: Job, progress: CellProgress, what: str, times: int, stopping: bool, detail: str = ""
    ) -> End | None:
        """Record that a job, or a part of one, came to no end because of `what` ("process died"). Return None if it is
        to be given out again, to continue from what it had saved. Return its end if that happened `times` times, or if
        everything is stopping."""
        self._lost[job.cell.key, what] += 1
        told = f"its {what} ({detail})" if detail else f"its {what}"
        if stopping:
            return "stopped", told
        if self._lost[job.cell.key, what] < times:
            progress.end(f"{told}; given to another one", final=False)
            return None
        error = ProcessDied(f"{told}, {times} times; if memory ran out: {less_memory(job.cell)}")
        with contextlib.suppress(OSError):  # a full disk: the reason still reaches the user
            self.store.fail(job.cell, describe_failure(job.cell, error))
        return "failed", failure_text(job.cell, error)

    def stop_before_the_rest(self) -> None:
        """Note that the run was stopped with jobs left."""
        if self:
            self.outcome.stop(f"before {(self.waiting or self.elsewhere)[0].cell.label}")
