"""Several processes on one grid: the same bits as one, and none of their deaths loses a cell."""

import dataclasses
import io
import multiprocessing
import os
import signal

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from benchmark import pool
from benchmark.cells import Job
from benchmark.engine import Outcome, StopSignal
from benchmark.progress import Display
from benchmark.run import Run
from benchmark.runtime import Runtime
from benchmark.store import Store
from benchmark.testing import short_job
from benchmark.worker import Worker
from methods.dm import DM
from methods.random import Random

CPU = Runtime(torch.device("cpu"))


class Meddling(Display):
    """Calls `meddle(phase, steps done)` at every message of every cell."""

    def __init__(self, meddle, cells):
        super().__init__(Console(file=io.StringIO(), width=200), cells)
        self.meddle = meddle

    def start(self, label):
        cell = super().start(label)
        step = cell.step
        cell.step = lambda phase, done, total, values: (step(phase, done, total, values), self.meddle(phase, done))
        return cell


@pytest.fixture
def go(tmp_path):
    def run(jobs, workers=2, meddle=lambda *_: None, stop=None) -> tuple[Outcome, str]:
        settings = pool.Settings(tmp_path / "pool", tmp_path, None, "cpu", "float32", 1)
        display = Meddling(meddle, len(jobs))
        with display:
            outcome = pool.run_jobs(jobs, workers, settings, Store(tmp_path / "pool"), display, stop)
        assert multiprocessing.active_children() == []
        return outcome, display.console.file.getvalue()

    return run


def jobs_of(digits, *methods, **hyper) -> list[Job]:
    """A job of each method in turn, as different repetitions; `hyper` is DM's."""
    own = [hyper if method is DM else {} for method in methods]
    return [short_job(method, digits, 1, seed, **own[seed]) for seed, method in enumerate(methods)]


def same_as_alone(jobs, digits, tmp_path):
    alone, together = Store(tmp_path / "alone"), Store(tmp_path / "pool")
    for job in jobs:
        Worker(alone, CPU).run(job, digits)
        tensors = [load_file(store.directory(job.cell) / "condensed.safetensors") for store in (alone, together)]
        assert tensors[0].keys() == tensors[1].keys()
        assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])
        scores = [[e["accuracies"] for e in store.result(job.cell)["evaluations"]] for store in (alone, together)]
        assert scores[0] == scores[1]


def killer(phase, times=1):
    """Kills the processes of the pool, `times` times, when one of them tells of `phase`."""
    left = [times]

    def meddle(now, done):
        if now == phase and done and left[0]:
            left[0] -= 1
            for child in multiprocessing.active_children():
                os.kill(child.pid, signal.SIGKILL)

    return meddle


def test_the_same_bits_as_in_one_process(go, digits, tmp_path):
    jobs = jobs_of(digits, DM, Random, DM, iterations=3)
    outcome, printed = go(jobs)
    assert (outcome.done, outcome.failed, outcome.stopped) == (3, [], "")
    assert "[3/3] " in printed
    same_as_alone(jobs, digits, tmp_path)


def test_a_killed_process_is_replaced_and_its_cell_ends_with_the_same_bits(go, digits, tmp_path):
    jobs = jobs_of(digits, DM, DM, iterations=40)
    outcome, printed = go(jobs, meddle=killer("condense"))
    assert (outcome.done, outcome.failed) == (2, [])
    assert "its process died (exit code -9); given to another one" in printed
    same_as_alone(jobs, digits, tmp_path)


def test_a_cell_that_kills_its_process_twice_fails_and_the_rest_goes_on(go, digits, tmp_path):
    jobs = jobs_of(digits, DM, Random, iterations=40)
    outcome, printed = go(jobs, workers=1, meddle=killer("condense", times=2))
    assert outcome.done == 1
    assert [(job, reason.partition(":")[0]) for job, reason in outcome.failed] == [(jobs[0], "process died")]
    assert "failed: process died" in printed
    status = {record.config["method"]: record.status for record in Store(tmp_path / "pool").records()}
    assert status == {"dm": "failed", "random": "done"}


def test_a_stop_reaches_the_processes_and_the_same_call_goes_on(go, digits, tmp_path):
    jobs, stop = jobs_of(digits, DM, DM, DM, iterations=40), StopSignal()

    def meddle(phase, done):
        stop.name = "SIGTERM"

    outcome, _ = go(jobs, meddle=meddle, stop=stop)
    assert outcome.stopped
    assert (outcome.done, outcome.failed) == (0, [])
    outcome, _ = go(jobs)
    assert outcome.done == 3
    same_as_alone(jobs, digits, tmp_path)


def test_a_failure_is_told(go, digits):
    job = jobs_of(digits, Random)[0]
    large = dataclasses.replace(job, cell=dataclasses.replace(job.cell, ipc=10_000))
    outcome, printed = go([large, job])
    assert outcome.done == 1
    assert outcome.failed[0][1].startswith("too few images: ")
    assert "failed: too few images" in printed


def test_a_closed_pipe_asks_to_stop():
    ours, theirs = multiprocessing.Pipe()
    line = pool.Line(theirs)
    run = Run(progress=line.progress, should_stop=line.should_stop)
    assert next(run.loop("condense", 2)) == 0
    assert not line.should_stop()
    ours.close()
    assert line.should_stop()


def test_a_process_per_core_for_small_images_only(digits, monkeypatch):
    monkeypatch.setattr(pool, "cores", lambda: 8)
    small, large = digits.spec, dataclasses.replace(digits.spec, height=32, width=32)
    assert pool.workers_and_threads([small], 20, CPU, None) == (8, 1)
    assert pool.workers_and_threads([small], 3, CPU, None) == (3, 1)
    assert pool.workers_and_threads([small], 3, CPU, 1) == (1, 1)
    assert pool.workers_and_threads([small, large], 20, CPU, None) == (1, 8)
    assert pool.workers_and_threads([large], 20, CPU, 4) == (4, 2)
    assert pool.workers_and_threads([small], 0, CPU, None) == (1, 1)
