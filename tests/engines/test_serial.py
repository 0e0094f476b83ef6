"""The local engine, its signals and its display."""

import io
import os
import signal

import pytest
import torch
from rich.console import Console

from benchmark.engines.progress import Display
from benchmark.engines.serial import StopSignal, run_jobs
from benchmark.store.folder import Store
from benchmark.system.runtime import Runtime, derive_seed, set_up
from tests.toys import Drift, Failing, toy_job

CPU = Runtime(torch.device("cpu"))


@pytest.fixture
def go(tmp_path, digits, toys):
    """go(jobs, stop) -> (outcome, names of the data sets loaded, what was printed)."""

    def run(jobs, stop=None, load=None):
        loaded, out = [], io.StringIO()

        def read(name):
            loaded.append(name)
            return digits

        console = Console(file=out, width=200)
        with Display(console, len(jobs)) as display:
            outcome = run_jobs(jobs, load or read, Store(tmp_path / "results"), CPU, None, display, stop)
        return outcome, loaded, out.getvalue()

    return run


def test_one_data_set_is_loaded_once_for_its_cells(go):
    outcome, loaded, printed = go([toy_job(seed=seed) for seed in range(3)])
    assert (outcome.done, outcome.failed, outcome.stopped) == (3, [], "")
    assert loaded == ["digits"]
    assert "[3/3] drift digits IPC 1 seed 2: " in printed
    assert "% (unified, convnet, 2 nets)" in printed


def test_a_failure_is_told_and_the_next_cell_runs(go, tmp_path):
    jobs = [toy_job(Failing, mode="nan"), toy_job(Failing, mode="disk"), toy_job()]
    outcome, _, printed = go(jobs)
    assert outcome.done == 1
    assert [job for job, _ in outcome.failed] == jobs[:2]
    assert "failed: loss not finite: loss is nan" in printed
    assert "failed: disk full" in printed


def test_a_data_set_that_cannot_be_loaded_fails_its_cells(go):
    outcome, _, _ = go([toy_job(), toy_job(seed=1)], load=lambda name: (_ for _ in ()).throw(ValueError("no data")))
    assert [reason for _, reason in outcome.failed] == ["error: ValueError: no data"] * 2


def test_everything_asked_for_is_announced_before_anything_runs(go, tmp_path):
    stop = StopSignal()
    stop.name = "SIGTERM"
    outcome, loaded, _ = go([toy_job(seed=seed) for seed in range(3)], stop)
    assert outcome.stopped == "before drift digits IPC 1 seed 0"
    assert (outcome.done, loaded, Drift.condensed) == (0, [], 0)
    assert [record.status for record in Store(tmp_path / "results").records()] == ["missing"] * 3


def test_a_stop_in_a_cell_ends_the_run_there(go):
    class Later(StopSignal):
        asked = 0

        def __call__(self):
            self.asked += 1
            return self.asked > 4

    outcome, _, _ = go([toy_job(), toy_job(seed=1)], Later())
    assert outcome.stopped.startswith("drift digits IPC 1 seed 0: condense stopped after step")
    assert (outcome.done, outcome.failed) == (0, [])


def test_signals_ask_once_and_then_interrupt():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    stop = StopSignal()
    with stop.installed():
        assert not stop()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop()
        assert stop.name == "SIGTERM"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_the_live_display_shows_variants_as_they_are():
    out = io.StringIO()
    with Display(Console(file=out, force_terminal=True, width=120), 1) as display:
        cell = display.start("dm [lr_img=2.0] digits")
        cell.step("condense", 3, 10, {"loss": 0.25})
        display.bars.refresh()
        cell.end("failed: error: [b]")
    shown = out.getvalue()
    assert "dm [lr_img=2.0] digits" in shown
    assert "condense" in shown
    assert "loss 0.25" in shown
    assert "failed: error: [b]" in shown


def test_seeds_depend_on_every_part_and_on_nothing_else():
    assert derive_seed("a", 1) == derive_seed("a", "1") == derive_seed("a", 1)
    seeds = {derive_seed(*parts) for parts in (("a", 1), ("a", 2), ("a1",), ("a", 1, ""), (1, "a"))}
    assert len(seeds) == 5
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize("device", ["nowhere", "cuda:99", "meta", ""])
def test_devices_that_are_not_there(device):
    with pytest.raises(ValueError, match=f"--device {device} is not available here"):
        set_up(device)


def test_the_processor_is_always_there():
    assert set_up("cpu").device == torch.device("cpu")
    assert set_up("cpu", "reference").batched is False
