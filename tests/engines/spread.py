"""What the tests of the pool and of the Ray engine share: small jobs, a display that meddles, and the run alone."""

import io
import json

import torch
from rich.console import Console
from safetensors.torch import load_file

from benchmark.engines.job import JobRunner
from benchmark.engines.progress import Display
from benchmark.store.cells import Job
from benchmark.store.folder import Store
from benchmark.system.runtime import Runtime
from benchmark.testing import short_job
from methods.dm import DM

CPU = Runtime(torch.device("cpu"))


class Meddling(Display):
    """Calls `meddle(label, phase, steps done)` at every message of every cell."""

    def __init__(self, meddle, cells):
        super().__init__(Console(file=io.StringIO(), width=200), cells)
        self.meddle = meddle

    def start(self, label):
        cell = super().start(label)
        step = cell.step
        cell.step = lambda phase, done, total, values: (
            step(phase, done, total, values), self.meddle(label, phase, done),
        )  # fmt: skip
        return cell

    @property
    def printed(self):
        return self.console.file.getvalue()


def once(phase, act, times=1):
    """Calls act(label) when a cell tells of the inside of a phase, `times` times."""
    left = [times]

    def meddle(label, now, done):
        if now == phase and done and left[0]:
            left[0] -= 1
            act(label)

    return meddle


def jobs_of(digits, *methods, **hyper) -> list[Job]:
    """A job of each method in turn, as different repetitions; `hyper` is DM's."""
    own = [hyper if method is DM else {} for method in methods]
    return [short_job(method, digits, 1, seed, **own[seed]) for seed, method in enumerate(methods)]


def same_as_alone(jobs, digits, together: Store):
    """Every cell is done, once, with the bits of a run in this process on one thread, as small images have it."""
    alone = Store(together.root.with_name("alone"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for job in jobs:
            JobRunner(alone, CPU).run(job, digits)
    finally:
        torch.set_num_threads(threads)
    statuses = [record.status for record in together.records()]
    assert statuses == ["done"] * len(jobs), statuses
    for job in jobs:
        tensors = [load_file(store.directory(job.cell) / "condensed.safetensors") for store in (alone, together)]
        assert tensors[0].keys() == tensors[1].keys()
        assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])
        scores = [[e.accuracies for e in store.result(job.cell).evaluations] for store in (alone, together)]
        assert scores[0] == scores[1]
        assert len(scores[0]) == len(job.evaluations)
        log = [json.loads(line) for line in (together.directory(job.cell) / "steps.jsonl").read_text().splitlines()]
        steps = [(line["phase"], line["step"]) for line in log]
        assert len(set(steps)) == len(steps), "a step was logged by two"
        assert sorted(path.name for path in together.directory(job.cell).iterdir()) == sorted(
            path.name for path in alone.directory(job.cell).iterdir()
        )
