"""The Ray engine: the parts of every job are tasks of a cluster. It does what the pool does, with nodes instead of
processes.

Tasks tell a `Board`, an actor beside the driver, how far they are, and hear from it whether to stop. A task whose
process or node died is given out again. A node that sees the results folder works in it, with its claims and
checkpoints. For a node that does not see it, a cell's files travel with its tasks, and they come back when the tasks
end, however they end. Data sets travel too. What cells share (experts, feature networks) is in each node's own cache
folder.
"""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import ray
from ray.exceptions import NodeDiedError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from benchmark.data import Dataset
from benchmark.engines.failures import failure_text
from benchmark.engines.job import JobRunner
from benchmark.engines.progress import CellProgress, Display
from benchmark.engines.queue import ATTEMPTS, End, JobQueue, Outcome, attempt
from benchmark.engines.ray_cluster import Cluster
from benchmark.engines.ray_tasks import Board, Kind, Settings, do
from benchmark.engines.serial import StopSignal
from benchmark.grid import registry
from benchmark.grid.memory import condensing_bytes, scoring_bytes
from benchmark.store.cells import Evaluation, Job
from benchmark.store.folder import RESULT, Store
from benchmark.store.records import EvaluationResult
from benchmark.system.errors import first_line
from benchmark.system.files import canonical_json, write_atomically
from benchmark.system.locks import LOOK_SECONDS, Claimed, claim
from benchmark.system.runtime import set_up

LOST_NODES = 8
"""How often a part is given out if its node dies. That is more often than if its process dies: clusters take nodes
away, and the job is seldom the cause."""


def run_jobs(
    jobs: Sequence[Job],
    cluster: Cluster,
    loaded: Mapping[str, Dataset],
    store: Store,
    display: Display,
    stop: StopSignal | None = None,
) -> Outcome:
    """Run every job as tasks of the cluster. `loaded`: data sets by name, sent to the nodes that need them."""
    stop, queue = stop or StopSignal(), JobQueue(jobs, store, display)
    with probe(store) as path, stop.installed():
        settings = Settings(store.root.absolute(), path, cluster.device, cluster.precision, cluster.cores)
        try:
            Driver(cluster, settings, loaded, queue).run(stop)
        except RayError as error:  # with the driver's own node or the head everything is lost but what is stored
            queue.outcome.stopped = f"because the cluster was lost: {first_line(error)}"
    return queue.outcome


@contextmanager
def probe(store: Store) -> Iterator[Path]:
    """Make a file by which a node can tell whether it sees the same folder."""
    path = store.root.absolute() / "locks" / f"{uuid4().hex}.probe"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, b"")
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


@dataclass(eq=False)
class Work:
    """A job under way, as the driver sees it."""

    job: Job
    shares: str
    """The name of what the cell shares with others; empty for nothing."""
    progress: CellProgress | None = None
    """None until one of its tasks runs."""
    parts: int = 0
    """How many of its tasks have not ended."""
    entries: list[EvaluationResult] = field(default_factory=list)
    """The evaluations that its tasks gave."""
    end: End | None = None
    """The first end of a task that was not done."""


@dataclass
class Part:
    """A part of a job that was given to the cluster."""

    work: Work
    kind: Kind
    job: Job
    number: int
    begun: bool = False


class Driver:
    """Gives the parts of a queue's jobs to the cluster and hears of them."""

    def __init__(self, cluster: Cluster, settings: Settings, loaded: Mapping[str, Dataset], queue: JobQueue) -> None:
        self.cluster, self.settings, self.loaded, self.queue = cluster, settings, loaded, queue
        self.running: dict[ray.ObjectRef, Part] = {}
        self.under_way: list[Work] = []
        self.preparing: dict[str, list[Work]] = {}
        """The jobs that wait for what one task makes for all of them, by its name."""
        self.prepared: set[str] = set()
        self.sent: dict[str, ray.ObjectRef] = {}
        self.numbers, self.stopping = itertools.count(), False
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        # Ray's decorator adds `options`, which no type checker sees.
        self.board = Board.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]
        self.runner = JobRunner(queue.store, set_up("cpu"))

    def run(self, stop: StopSignal) -> None:
        """Give out jobs and handle what comes back, until no job is left or, after a stop, none has begun."""
        while True:
            if stop() and not self.stopping:
                self.stopping = True
                ray.get(self.board.stop.remote())
            while not self.stopping and self.has_room() and (job := self.queue.take()):
                self.begin(job)
            parts = {part.number: part for part in self.running.values()}
            for number, kind, content in ray.get(self.board.take.remote()):
                self.hear(parts.get(number), kind, content)
            begun = [ref for ref, part in self.running.items() if part.begun or not self.stopping]
            if not begun and (self.stopping or not self.queue):
                break
            if not begun:
                time.sleep(LOOK_SECONDS)  # all that are left are done by other programs
            ended, _ = ray.wait(begun, timeout=LOOK_SECONDS) if begun else ((), ())
            for ref in ended:
                self.take_up(ref)
        self.queue.waiting.extendleft(work.job for work in reversed(self.under_way))  # begun by no task, or not ended
        if self.stopping:
            self.queue.stop_before_the_rest()

    def has_room(self) -> bool:
        return self.cluster.limit is None or len(self.under_way) < self.cluster.limit

    # From a job to its parts

    def begin(self, job: Job) -> None:
        cell = job.cell
        wanted = [prerequisite.identity() for prerequisite in registry.build(cell).prerequisites()]
        name = canonical_json([cell.dataset, cell.seed, cell.precision, wanted]) if wanted else ""
        work = Work(job, name)
        self.under_way.append(work)
        if self.queue.store.is_done(job):
            self.end(work, ("done", self.queue.store.result(cell)))
        else:
            self.condense(work)

    def condense(self, work: Work) -> None:
        """Give out the condensation. What the cell shares with others is given out before it, once for all who want
        it."""
        if not work.shares or work.shares in self.prepared:
            self.give(work, "condense", work.job)
        elif work.shares in self.preparing:
            self.preparing[work.shares].append(work)
        else:
            self.preparing[work.shares] = []
            self.give(work, "prepare", work.job)

    def score(self, work: Work) -> None:
        """Give out the evaluations. Those that train the same networks go together, because one training serves them
        all."""
        together: dict[str, list[Evaluation]] = {}
        for evaluation in self.queue.store.missing_evaluations(work.job):
            training = canonical_json([evaluation.network, vars(evaluation.recipe), evaluation.factor])
            together.setdefault(training, []).append(evaluation)
        for evaluations in together.values():
            self.give(work, "score", replace(work.job, evaluations=tuple(evaluations)))

    def give(self, work: Work, kind: Kind, job: Job) -> None:
        """Submit the task of a part; it begins when a node has room. job: the job with only the evaluations of this
        part."""
        name, spec = job.cell.dataset, self.loaded[job.cell.dataset].spec
        if name not in self.sent:
            self.sent[name] = ray.put(self.loaded[name])
        cost = registry.build(job.cell).cost(spec, job.cell.budget_on(spec))
        needed = condensing_bytes(job, spec, cost)
        if kind == "score":
            needed = max(scoring_bytes(evaluation, spec, cost.images) for evaluation in job.evaluations)
        part = Part(work, kind, job, next(self.numbers))
        files = ray.put(self.queue.store.export(job.cell))
        task = do.options(name=f"{job.cell.label} {kind}", **self.cluster.resources(needed))
        ref = task.remote(part.number, kind, job, self.sent[name], files, self.settings, self.board)
        self.running[ref] = part
        work.parts += 1

    # What comes back

    def hear(self, part: Part | None, kind: str, content: Any) -> None:
        """Handle a message of a task. part: None if the task ended meanwhile."""
        if kind == "warning":
            warnings.warn(content, stacklevel=1)
        elif part:
            part.begun = True
            progress = self.progress(part.work)
            if content:
                progress.step(*content)

    def progress(self, work: Work) -> CellProgress:
        work.progress = work.progress or self.queue.begin(work.job)
        return work.progress

    def take_up(self, ref: ray.ObjectRef) -> None:
        """Handle how a task ended."""
        part = self.running.pop(ref)
        work = part.work
        work.parts -= 1
        end = self.end_of(part, ref)
        if end is None:
            work.progress = None  # the next one begins anew
            self.give(work, part.kind, part.job)
            return
        if part.kind == "prepare":
            self.prepared.add(work.shares)  # if it failed, each cell finds out for itself
            for waiting in self.preparing.pop(work.shares) if not self.stopping else ():
                self.give(waiting, "condense", waiting.job)
        if end[0] != "done":
            work.end = work.end or end
        elif part.kind == "score":
            work.entries += end[1]
        if not (work.end or self.stopping):
            if part.kind == "prepare":
                self.give(work, "condense", work.job)
            elif part.kind == "condense":
                self.score(work)
        if not work.parts:
            self.end(work, work.end or self.conclude(work, part))

    def end_of(self, part: Part, ref: ray.ObjectRef) -> End | None:
        """Return how the task of a part ended; None if it came to no end and is to be given out again."""
        job, lose = part.job, partial(self.queue.lose, part.job, self.progress(part.work))
        try:
            ended = ray.get(ref)
            end = ended.end if ended.files is None else self.keep(job, ended.end, ended.files)
        except NodeDiedError as error:
            return lose("node died", LOST_NODES, self.stopping, first_line(error))
        except RayTaskError as error:
            return "failed", f"error: {error.cause}"
        except RayError as error:
            return lose("process died", ATTEMPTS, self.stopping, first_line(error))
        if end[0] == "stopped" and not self.stopping:
            return lose("node lost touch", LOST_NODES, self.stopping)
        return end

    def keep(self, job: Job, end: End, files: Mapping[str, bytes]) -> End:
        """Write the files of a node that does not share the results folder. Return `end`, or how writing the files
        failed."""
        store = self.queue.store
        try:
            with claim(store.claim(job.cell)):
                if not store.is_done(job):  # by a program that does share it
                    store.adopt(job.cell, {name: data for name, data in files.items() if name != RESULT})
        except Claimed:
            return "claimed", ""
        except OSError as error:
            return "failed", failure_text(job.cell, error)
        return end

    def conclude(self, work: Work, last: Part) -> End:
        """Return the end of a job whose parts are all done, or that a stop keeps from its next part."""
        if last.kind != "score" and self.queue.store.missing_evaluations(work.job):
            return "stopped", f"stopped after its task {last.kind}"
        dataset = self.loaded[work.job.cell.dataset]
        return attempt(work.job, partial(self.runner.conclude, work.job, dataset, work.entries))

    def end(self, work: Work, end: End) -> None:
        self.under_way.remove(work)
        self.queue.settle(work.job, self.progress(work), end)
