"""What runs on the nodes of a Ray cluster: the parts of jobs, and how they talk with the driver.

A job has up to three kinds of parts, each a task of its own: making what its cell shares with others (experts), the
condensation, and then its evaluations, side by side.
"""

from __future__ import annotations

import shutil
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

from benchmark.data import Dataset
from benchmark.engines.job import JobRunner
from benchmark.engines.queue import End, attempt
from benchmark.store.cells import Job
from benchmark.store.folder import FAILURE, Store
from benchmark.system.paths import cache_folder
from benchmark.system.runtime import Precision, set_up

TELL_SECONDS = 0.5
"""Seconds between two messages of a task."""

Files = dict[str, bytes]

Kind = Literal["prepare", "condense", "score"]
"""The parts of a job, which are the methods of `JobRunner` of these names."""


@dataclass(frozen=True)
class Settings:
    """What every task is told; plain values."""

    results: Path
    probe: Path
    """A file below the results folder, made by the driver: a node that sees it shares the folder."""
    device: str
    precision: Precision
    threads: int


@dataclass(frozen=True)
class Ended:
    """How a task ended."""

    end: End
    files: Files | None
    """What the task wrote in the cell's folder, from a node that does not share it."""


@ray.remote(num_cpus=0)
class Board:
    """Where tasks say how far they are and the driver says stop. It lives beside the driver and ends with it."""

    def __init__(self) -> None:
        self.messages: list[tuple[int, str, Any]] = []
        self.stopping = False

    def tell(self, number: int, kind: str, content: Any) -> bool:
        """Take a message of a task; return whether the task should stop."""
        self.messages.append((number, kind, content))
        return self.stopping

    def take(self) -> list[tuple[int, str, Any]]:
        """Return the messages since the last call."""
        taken, self.messages = self.messages, []
        return taken

    def stop(self) -> None:
        self.stopping = True


class Line:
    """A task's line to the board: it tells progress and hears the wish to stop. A board that is gone counts as one.

    A separate thread asks the board, because Ray gives the cores of a task away while its main thread waits for an
    answer.
    """

    def __init__(self, board: ActorHandle, number: int) -> None:
        self.board, self.number, self.stopping = board, number, False
        self._latest: tuple[str, int, int, dict[str, float]] | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._talk)

    def __enter__(self) -> Line:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def progress(self, phase: str, done: int, total: int, values: dict[str, float]) -> None:
        self._latest = phase, done, total, values

    def should_stop(self) -> bool:
        return self.stopping

    def warn(self, text: str) -> None:
        self.board.tell.remote(self.number, "warning", text)

    def _talk(self) -> None:
        while not (self.stopping or self._over.is_set()):
            try:
                self.stopping = ray.get(self.board.tell.remote(self.number, "step", self._latest))
            except RayError:
                self.stopping = True
            self._over.wait(TELL_SECONDS)


@ray.remote(max_retries=0)
def do(
    number: int, kind: Kind, job: Job, dataset: Dataset, files: Files, settings: Settings, board: ActorHandle
) -> Ended:
    """Do a part of a job (of scoring: its evaluations), and return how that ended. `files`: what the cell's folder held
    at the driver, for a node that does not see the folder."""
    shared = settings.probe.exists()
    part = "-".join([kind, *(e.name for e in job.evaluations if kind == "score")])
    alone = cache_folder() / "cluster" / f"{settings.probe.stem}-{job.cell.key}-{part}"  # a process that dies leaves it
    store = Store(settings.results if shared else alone)

    def run() -> Any:
        if not (shared or store.directory(job.cell).exists()):
            store.adopt(job.cell, files)
        runtime = set_up(settings.device, settings.precision, settings.threads)
        runner = JobRunner(store, runtime, cache_folder(), line.progress, line.should_stop)
        return getattr(runner, kind)(job, dataset.to(runtime.device))

    with Line(board, number) as line:
        warnings.showwarning = lambda message, *_, **__: line.warn(str(message))
        end = attempt(job, run)
    written = None if shared else written_by(kind, job, store)
    if not shared:
        shutil.rmtree(alone, ignore_errors=True)
    return Ended(end, written)


def written_by(kind: Kind, job: Job, store: Store) -> Files:
    """Return the files of a cell that this part of its job writes. Other parts may have newer versions of the other
    files."""
    files = store.export(job.cell)
    if kind != "score":
        return files
    own = [store.evaluating(job.cell, evaluation) for evaluation in job.evaluations]
    places = [folder.relative_to(store.directory(job.cell)).as_posix() + "/" for folder in own]
    return {name: files[name] for name in files if name == FAILURE or name.startswith(tuple(places))}
