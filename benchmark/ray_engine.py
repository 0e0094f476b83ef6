"""The Ray engine: every cell is a task of a cluster. It does what the pool does, with nodes instead of processes.

Tasks tell a `Board`, an actor beside the driver, how far they are, and hear from it whether to stop. A task whose
process or node died is given out again. A node that sees the results folder works in it, claims and checkpoints
included; to one that does not, a cell's files travel with its task, and they come back when it ends, however it does.
Data sets travel too; what cells share (experts, feature networks) is in each node's own cache folder.
"""

from __future__ import annotations

import itertools
import json
import shutil
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import ray
from ray.actor import ActorHandle
from ray.exceptions import NodeDiedError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from benchmark.cells import Job
from benchmark.claims import LOOK_SECONDS, Claimed, claim
from benchmark.cluster import Cluster
from benchmark.data import Dataset
from benchmark.engine import StopSignal
from benchmark.failures import failure_reason, first_line
from benchmark.folders import cache_folder
from benchmark.ledger import ATTEMPTS, End, Ledger, Outcome, attempt
from benchmark.progress import CellProgress, Display
from benchmark.runtime import Precision, set_up
from benchmark.store import RESULT, Store, write_atomically
from benchmark.worker import Worker

LOST_NODES = 8
"""How often a job is given out whose node died. More often than one whose process died: clusters take nodes away, and
that is seldom the job's doing."""

TELL_SECONDS = 0.5
"""Between two messages of a task."""

Files = dict[str, bytes]


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
    """What the cell's folder holds, from a node that does not share it."""


def run_jobs(
    jobs: Sequence[Job],
    cluster: Cluster,
    loaded: Mapping[str, Dataset],
    store: Store,
    display: Display,
    stop: StopSignal | None = None,
) -> Outcome:
    """Run every job as a task of the cluster. `loaded`: data sets by name, sent to the nodes that need them."""
    stop, ledger = stop or StopSignal(), Ledger(jobs, store, display)
    with probe(store) as path, stop.installed():
        settings = Settings(store.root.absolute(), path, cluster.device, cluster.precision, cluster.cores)
        try:
            Tasks(cluster, settings, loaded, ledger).run(stop)
        except RayError as error:  # with the driver's own node or the head everything is lost but what is stored
            ledger.outcome.stopped = f"because the cluster was lost: {first_line(error)}"
    return ledger.outcome


@contextmanager
def probe(store: Store) -> Iterator[Path]:
    """A file by which a node can tell whether it sees the same folder."""
    path = store.root.absolute() / "locks" / f"{uuid4().hex}.probe"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, b"")
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


@dataclass
class Task:
    """A job that was given to the cluster, as the driver sees it."""

    number: int
    job: Job
    progress: CellProgress | None = None
    """None until it runs."""


class Tasks:
    """The tasks that do the jobs of a ledger."""

    def __init__(
        self, cluster: Cluster, settings: Settings, loaded: Mapping[str, Dataset], ledger: Ledger
    ) -> None:
        self.cluster, self.settings, self.loaded, self.ledger = cluster, settings, loaded, ledger
        self.running: dict[ray.ObjectRef, Task] = {}
        self.sent: dict[str, ray.ObjectRef] = {}
        self.numbers = itertools.count()
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.board = Board.options(scheduling_strategy=here).remote()

    def run(self, stop: StopSignal) -> None:
        """Give out jobs and hear of them until none is left, or, after a stop, none has begun."""
        told = False
        while True:
            if stop() and not told:
                told = True
                ray.get(self.board.stop.remote())
            while not told and self.has_room() and (job := self.ledger.take()):
                self.give(job)
            tasks = {task.number: task for task in self.running.values()}
            for number, kind, content in ray.get(self.board.take.remote()):
                self.hear(tasks.get(number), kind, content)
            begun = [ref for ref, task in self.running.items() if task.progress or not told]
            if not begun and (told or not self.ledger):
                break
            if not begun:
                time.sleep(LOOK_SECONDS)  # all that are left are done by other programs
            ended, _ = ray.wait(begun, timeout=LOOK_SECONDS) if begun else ((), ())
            for ref in ended:
                self.end(ref, told)
        self.ledger.waiting.extendleft(task.job for task in reversed(self.running.values()))  # given out, never begun
        if told:
            self.ledger.stop_before_the_rest()

    def has_room(self) -> bool:
        return self.cluster.limit is None or len(self.running) < self.cluster.limit

    def give(self, job: Job) -> None:
        """Submit the task of a job; it begins when a node has room."""
        name = job.cell.dataset
        if name not in self.sent:
            self.sent[name] = ray.put(self.loaded[name])
        files = ray.put(self.ledger.store.export(job.cell))
        task = Task(next(self.numbers), job)
        ref = do.options(name=job.cell.label, **self.cluster.resources(job, self.loaded[name])).remote(
            task.number, job, self.sent[name], files, self.settings, self.board
        )
        self.running[ref] = task

    def hear(self, task: Task | None, kind: str, content: Any) -> None:
        """Take up a message of a task; None is one that ended meanwhile."""
        if kind == "warning":
            warnings.warn(content, stacklevel=1)
        elif task:
            task.progress = task.progress or self.ledger.begin(task.job)
            if content:
                task.progress.step(*content)

    def end(self, ref: ray.ObjectRef, stopping: bool) -> None:
        """Take up how a task ended."""
        task = self.running.pop(ref)
        job, progress = task.job, task.progress or self.ledger.begin(task.job)
        try:
            ended = ray.get(ref)
            end = ended.end if ended.files is None else self.keep(job, ended)
        except NodeDiedError as error:
            self.ledger.lose(job, progress, "node died", LOST_NODES, stopping, first_line(error))
        except RayTaskError as error:
            self.ledger.settle(job, progress, ("failed", f"error: {error.cause}"))
        except RayError as error:
            self.ledger.lose(job, progress, "process died", ATTEMPTS, stopping, first_line(error))
        else:
            if end[0] == "stopped" and not stopping:
                self.ledger.lose(job, progress, "node lost touch", LOST_NODES, stopping)
            else:
                self.ledger.settle(job, progress, end)

    def keep(self, job: Job, ended: Ended) -> End:
        """Write what came back from a node that does not share the results folder; returns how that ended."""
        store, files = self.ledger.store, dict(ended.files)
        try:
            with claim(store.claim(job.cell)):
                if store.is_done(job):  # by a program that does share it
                    return ended.end
                result = files.pop(RESULT, None) if ended.end[0] == "done" else None
                store.adopt(job.cell, files)
                if result:
                    store.finish(job.cell, json.loads(result))
        except Claimed:
            return "claimed", ""
        except OSError as error:
            return "failed", failure_reason(job.cell, error)
        return ended.end


@ray.remote(num_cpus=0)
class Board:
    """Where tasks say how far they are and the driver says stop. It lives beside the driver and ends with it."""

    def __init__(self) -> None:
        self.messages: list[tuple[int, str, Any]] = []
        self.stopping = False

    def tell(self, number: int, kind: str, content: Any) -> bool:
        """Take a message of a task; the answer is whether it should stop."""
        self.messages.append((number, kind, content))
        return self.stopping

    def take(self) -> list[tuple[int, str, Any]]:
        """The messages since the last call."""
        taken, self.messages = self.messages, []
        return taken

    def stop(self) -> None:
        self.stopping = True


class Line:
    """The task's way to the board: tells progress and hears the wish to stop, which a board that is gone is too.

    A thread of its own asks, because Ray gives the cores of a task away while its main thread waits for an answer.
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
def do(number: int, job: Job, dataset: Dataset, files: Files, settings: Settings, board: ActorHandle) -> Ended:
    """The task of a job. `files`: what the cell's folder held at the driver, for where that is not seen."""
    shared = settings.probe.exists()
    alone = cache_folder() / "cluster" / f"{settings.probe.stem}-{job.cell.key}"  # a process that dies leaves it
    store = Store(settings.results if shared else alone)

    def run() -> dict[str, Any]:
        if not (shared or store.directory(job.cell).exists()):
            store.adopt(job.cell, files)
        runtime = set_up(settings.device, settings.precision, settings.threads)
        worker = Worker(store, runtime, cache_folder(), line.progress, line.should_stop)
        return worker.run(job, dataset.to(runtime.device))

    with Line(board, number) as line:
        warnings.showwarning = lambda message, *_, **__: line.warn(str(message))
        end = attempt(job, run)
    files_after = None if shared else store.export(job.cell)
    if not shared:
        shutil.rmtree(alone, ignore_errors=True)
    return Ended(end, files_after)
