"""Several processes on one grid: the same bits as one, and none of their deaths loses a cell."""

import dataclasses
import multiprocessing
import os
import signal

import pytest

from benchmark.condensation.run import Run
from benchmark.engines import processes
from benchmark.engines.queue import Outcome
from benchmark.engines.serial import StopSignal
from benchmark.store.folder import Store
from methods.dm import DM
from methods.random import Random
from tests.engines.spread import CPU, Meddling, jobs_of, once, same_as_alone

pytestmark = pytest.mark.slow  # every process imports torch


@pytest.fixture
def go(tmp_path):
    def run(jobs, workers=2, meddle=lambda *_: None, stop=None) -> tuple[Outcome, str]:
        settings = processes.Settings(tmp_path / "pool", tmp_path, None, "cpu", "float32", 1)
        display = Meddling(meddle, len(jobs))
        with display:
            outcome = processes.run_jobs(jobs, workers, settings, Store(tmp_path / "pool"), display, stop)
        assert multiprocessing.active_children() == []
        return outcome, display.printed

    return run


def kill_all(label):
    for child in multiprocessing.active_children():
        os.kill(child.pid, signal.SIGKILL)


def test_the_same_bits_as_in_one_process(go, digits, tmp_path):
    jobs = jobs_of(digits, DM, Random, DM, iterations=3)
    outcome, printed = go(jobs)
    assert (outcome.done, outcome.failed, outcome.stopped) == (3, [], "")
    assert "[3/3] " in printed
    same_as_alone(jobs, digits, Store(tmp_path / "pool"))


def test_a_killed_process_is_replaced_and_its_cell_ends_with_the_same_bits(go, digits, tmp_path):
    jobs = jobs_of(digits, DM, DM, iterations=40)
    outcome, printed = go(jobs, meddle=once("condense", kill_all))
    assert (outcome.done, outcome.failed) == (2, [])
    assert "its process died (exit code -9); given to another one" in printed
    same_as_alone(jobs, digits, Store(tmp_path / "pool"))


def test_a_cell_that_kills_its_process_twice_fails_and_the_rest_goes_on(go, digits, tmp_path):
    jobs = jobs_of(digits, DM, Random, iterations=40)
    outcome, printed = go(jobs, workers=1, meddle=once("condense", kill_all, times=2))
    assert outcome.done == 1
    assert [(job, reason.partition(":")[0]) for job, reason in outcome.failed] == [(jobs[0], "process died")]
    assert "failed: process died" in printed
    status = {record.config["method"]: record.status for record in Store(tmp_path / "pool").records()}
    assert status == {"dm": "failed", "random": "done"}


def test_a_stop_reaches_the_processes_and_the_same_call_goes_on(go, digits, tmp_path):
    jobs, stop = jobs_of(digits, DM, DM, DM, iterations=40), StopSignal()

    def meddle(label, phase, done):
        stop.name = "SIGTERM"

    outcome, _ = go(jobs, meddle=meddle, stop=stop)
    assert outcome.stopped
    assert (outcome.done, outcome.failed) == (0, [])
    outcome, _ = go(jobs)
    assert outcome.done == 3
    same_as_alone(jobs, digits, Store(tmp_path / "pool"))


def test_a_failure_is_told(go, digits):
    job = jobs_of(digits, Random)[0]
    large = dataclasses.replace(job, cell=dataclasses.replace(job.cell, ipc=10_000))
    outcome, printed = go([large, job])
    assert outcome.done == 1
    assert outcome.failed[0][1].startswith("too few images: ")
    assert "failed: too few images" in printed


def test_a_closed_pipe_asks_to_stop():
    ours, theirs = multiprocessing.Pipe()
    line = processes.Line(theirs)
    run = Run(progress=line.progress, should_stop=line.should_stop)
    assert next(run.loop("condense", 2)) == 0
    assert not line.should_stop()
    ours.close()
    assert line.should_stop()


def test_a_process_per_core_for_small_images_only(digits, monkeypatch):
    monkeypatch.setattr(processes, "cores", lambda: 8)
    small, large = digits.spec, dataclasses.replace(digits.spec, height=32, width=32)
    assert processes.workers_and_threads([small], 20, CPU, None) == (8, 1)
    assert processes.workers_and_threads([small], 3, CPU, None) == (3, 1)
    assert processes.workers_and_threads([small], 3, CPU, 1) == (1, 1)
    assert processes.workers_and_threads([small, large], 20, CPU, None) == (1, 8)
    assert processes.workers_and_threads([large], 20, CPU, 4) == (4, 2)
    assert processes.workers_and_threads([small], 0, CPU, None) == (1, 1)
