"""Several processes on one folder: no cell is done twice, and a process that dies holds nothing."""

import dataclasses
import io
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from rich.console import Console

from benchmark.condensation import embeddings
from benchmark.condensation.run import Run
from benchmark.engines.job import JobRunner
from benchmark.engines.progress import Display
from benchmark.engines.queue import ELSEWHERE
from benchmark.engines.serial import run_jobs
from benchmark.store.folder import Store
from benchmark.system import locks
from benchmark.system.errors import Stopped
from benchmark.system.runtime import Runtime
from tests.toy_task import toy_task
from tests.toys import Drift, toy_job

CPU = Runtime(torch.device("cpu"))
HOLD = (
    "import sys, time; from benchmark.system.locks import claim\nwith claim(__import__('pathlib').Path(sys.argv[1])):\n"
)


@pytest.fixture
def holder():
    """holder(path) -> a process that holds the lock file."""
    started = []

    def start(path):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD + "    print('held', flush=True)\n    time.sleep(600)", str(path)],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def kill(process):
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def test_a_claim_is_exclusive_and_ends_with_its_process(tmp_path, holder):
    path = tmp_path / "cell" / ".claim"
    assert locks.is_free(path)
    process = holder(path)
    assert not locks.is_free(path)
    with pytest.raises(locks.Claimed), locks.claim(path):
        pass
    kill(process)
    with locks.claim(path):
        assert not locks.is_free(path)
    assert locks.is_free(path)


def test_a_turn_is_waited_for_and_heeds_a_stop(tmp_path, holder, monkeypatch):
    monkeypatch.setattr(locks, "LOOK_SECONDS", 0.05)
    path = tmp_path / "locks" / "it.lock"
    process = holder(path)
    with pytest.raises(Stopped), locks.turn(tmp_path, "it", lambda: True):
        pass
    threading.Timer(0.3, process.kill).start()
    with locks.turn(tmp_path, "it", lambda: False):
        assert not locks.is_free(path)


def test_a_claimed_cell_comes_last_and_a_dead_claim_is_taken_over(tmp_path, digits, toys, holder):
    store, jobs = Store(tmp_path), [toy_job(seed=seed) for seed in range(3)]
    process = holder(store.claim(jobs[0].cell))
    out = io.StringIO()
    with Display(Console(file=out, width=200), 3) as display:
        ended = []
        count = display.count_ended
        # The other process dies when the two free cells are done.
        display.count_ended = lambda final: (count(final), ended.append(final), len(ended) == 3 and kill(process))
        outcome = run_jobs(jobs, lambda name: digits, store, CPU, None, display)
    assert (outcome.done, outcome.failed, outcome.stopped) == (3, [], "")
    assert ended == [False, True, True, True]
    assert out.getvalue().count(ELSEWHERE) == 1
    assert all(store.is_done(job) for job in jobs)


def test_an_evaluation_that_another_process_is_at_is_waited_for(tmp_path, digits, toys, holder):
    store, job = Store(tmp_path), toy_job()
    process = holder(store.claim(job.cell, job.evaluations[0]))
    out = io.StringIO()
    with Display(Console(file=out, width=200), 1) as display:
        count = display.count_ended
        display.count_ended = lambda final: (count(final), threading.Timer(1.5, process.kill).start())
        outcome = run_jobs([job], lambda name: digits, store, CPU, None, display)
    assert (outcome.done, outcome.failed) == (1, [])
    assert out.getvalue().count(ELSEWHERE) == 1, "it was asked for again while the other process was at it"
    assert Drift.condensed == 1


def test_what_another_process_did_is_not_done_again(tmp_path, digits, toys):
    store, job = Store(tmp_path), toy_job()
    first = JobRunner(store, CPU).run(job, digits)
    Drift.condensed = 0
    assert JobRunner(store, CPU).run(job, digits) == first
    assert Drift.condensed == 0


def test_a_worker_keeps_off_a_claimed_cell(tmp_path, digits, toys, holder):
    store, job = Store(tmp_path), toy_job()
    holder(store.claim(job.cell))
    with pytest.raises(locks.Claimed):
        JobRunner(store, CPU).run(job, digits)
    assert store.records() == []


def test_a_feature_network_is_trained_once_by_those_that_want_it_together(tmp_path, monkeypatch):
    trained = []
    train = embeddings._train
    monkeypatch.setattr(embeddings, "_train", lambda *given: (trained.append(1), time.sleep(0.5), train(*given)))
    task = dataclasses.replace(toy_task(), cache=tmp_path)
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(embeddings.trained_embedding(task, Run(), 2))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(trained) == 1
    assert torch.equal(*found)


@pytest.mark.slow
def test_two_programs_share_a_grid(tmp_path):
    command = [
        sys.executable, "bench.py", "--methods", "random", "--ipc", "1", "2", "--nets", "1", "--workers", "1",
        "--results-dir", str(tmp_path / "results"),
    ]  # fmt: skip
    programs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [program.communicate()[0] for program in programs]
    assert [program.returncode for program in programs] == [0, 0]
    records = Store(tmp_path / "results").records()
    assert [record.status for record in records] == ["done", "done"]
    assert all(len(record.result.evaluations) == 1 for record in records)
    assert all("report: " in text for text in printed)
    for record in records:
        phases = [line for line in (record.directory / "steps.jsonl").read_text().splitlines() if "evaluate" in line]
        assert len(phases) == len(set(phases)) > 0, "a cell was evaluated twice"
