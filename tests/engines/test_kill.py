"""Processes that are killed, interrupted and terminated, and the same command afterwards: the same bits."""

import glob
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from benchmark.grid import registry
from benchmark.store.folder import Store
from tests.short import scaled_settings, short_settings, smallest_ipc

pytestmark = pytest.mark.slow  # programs are started again and again

ROOT = Path(__file__).parents[2]
GRID = (
    "--methods", "random", "herding", "dc", "dm", "--ipc", "2", "--nets", "2",
    "--set", "dc.iterations=4", "dc.outer_loop=3", "dc.inner_epochs=2", "dc.batch_net=8", "dm.iterations=12",
    "herding.feature_steps=12",
)  # fmt: skip


def start(folder: Path, *arguments: str, cache: Path | None = None) -> subprocess.Popen:
    environment = os.environ | {
        "CONDENSE_CACHE": str(cache or folder / "cache"), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1",
    }  # fmt: skip
    # Not by -m: such a process dies of the signal even where main() turned its KeyboardInterrupt into an exit status.
    run = "from tests.engines.driver import main; raise SystemExit(main())"
    command = [sys.executable, "-c", run, *arguments, "--results-dir", str(folder / "results")]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip


def finish(process: subprocess.Popen) -> tuple[int, str]:
    out, err = process.communicate(timeout=900)
    return process.returncode, out + err


def wait_for_a_checkpoint(folder: Path, process: subprocess.Popen, phase: str) -> None:
    """Until the phase of some cell has saved its state. The process ending first is an error."""
    deadline = time.monotonic() + 600
    while not glob.glob(f"runs/*/checkpoint/**/{phase}*.safetensors", root_dir=folder / "results", recursive=True):
        assert process.poll() is None, finish(process)
        assert time.monotonic() < deadline
        time.sleep(0.01)


def outcome(folder: Path) -> dict[str, tuple[dict[str, torch.Tensor], list]]:
    """Tensors and accuracies of every cell, by directory."""
    found = {}
    for record in Store(folder / "results").records():
        assert record.status == "done", record
        accuracies = [entry.accuracies for entry in record.result.evaluations]
        found[record.directory.name] = load_file(record.directory / "condensed.safetensors"), accuracies
    return found


def same(one: dict, two: dict) -> None:
    assert one.keys() == two.keys()
    for name, (tensors, accuracies) in one.items():
        others, accuracies_too = two[name]
        assert tensors.keys() == others.keys()
        for key, tensor in tensors.items():
            assert tensor.dtype == others[key].dtype
            assert torch.equal(tensor, others[key]), (name, key)
        assert accuracies == accuracies_too


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> tuple[dict, float]:
    """What the grid gives when it is left alone, and the seconds it takes."""
    folder = tmp_path_factory.mktemp("whole")
    began = time.monotonic()
    status, output = finish(start(folder, *GRID))
    assert status == 0, output
    found = outcome(folder)
    assert len(found) == 4
    return found, time.monotonic() - began


def kill_again_and_again(folder: Path, whole: dict, seconds: float, kills: int, seed: int) -> None:
    draw, survived = random.Random(seed), 0
    for _ in range(kills):
        process = start(folder, *GRID)
        try:
            process.wait(timeout=draw.uniform(0.3, 1.0) * seconds)
            survived += 1
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    status, output = finish(start(folder, *GRID))
    assert status == 0, output
    assert survived < kills
    same(whole, outcome(folder))
    runs = folder / "results" / "runs"
    assert not list(runs.glob("*/checkpoint"))
    assert not list(runs.glob("*/.*")), "a killed process's temporary file was left"
    for log in runs.glob("*/steps.jsonl"):
        steps = [(line["phase"], line["step"]) for line in map(json.loads, log.read_text().splitlines())]
        assert len(set(steps)) == len(steps)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1, 8))
def test_killed_at_many_random_moments(tmp_path, uninterrupted, seed):
    kill_again_and_again(tmp_path, *uninterrupted, kills=8, seed=seed)


@pytest.mark.parametrize("phase", ["condense", "evaluate"])
def test_killed_in_the_middle_of_a_phase(tmp_path, uninterrupted, phase):
    process = start(tmp_path, *GRID)
    wait_for_a_checkpoint(tmp_path, process, phase)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert any(record.result is None for record in Store(tmp_path / "results").records())
    status, output = finish(start(tmp_path, *GRID))
    assert status == 0, output
    same(uninterrupted[0], outcome(tmp_path))


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_stops_cleanly_and_says_how_to_resume(tmp_path, uninterrupted, number, status):
    process = start(tmp_path, *GRID)
    wait_for_a_checkpoint(tmp_path, process, "condense")
    process.send_signal(number)
    code, output = finish(process)
    assert code == status, output
    assert f"stopped ({signal.Signals(number).name})" in output
    assert "The same command goes on from there." in output
    assert "Traceback" not in output
    records = Store(tmp_path / "results").records()
    assert len(records) == 4
    assert not any(record.failure for record in records)
    code, output = finish(start(tmp_path, *GRID))
    assert code == 0, output
    same(uninterrupted[0], outcome(tmp_path))


def test_a_second_signal_ends_it_at_once(tmp_path):
    process = start(tmp_path, "--methods", "dc", "--ipc", "50", "--set", "dc.batch_real=4096", "dc.inner_epochs=2000")
    deadline = time.monotonic() + 600
    while not list((tmp_path / "results").glob("runs/*/config.json")):
        assert time.monotonic() < deadline, finish(process)
        time.sleep(0.05)
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    code, output = finish(process)
    assert code == 130, output
    assert "the same command goes on from the last checkpoint" in output
    assert "Traceback" not in output


# Every method killed in every phase it has, at moments drawn at random

SEED = int(os.environ.get("KILL_SEED", "1"))
EVERYWHERE = ("loading", "steps", "writing", "evaluation", "writing", "report")
PLACES = {
    "random": ("loading", "writing", "evaluation", "report"),
    "herding": ("loading", "experts", "writing", "evaluation", "report"),
    "mtt": ("loading", "experts", *EVERYWHERE[1:]),
    "haba": ("loading", "experts", *EVERYWHERE[1:]),
    "hmn": ("loading", "steps", "pruning", *EVERYWHERE[2:]),
} | dict.fromkeys(("dc", "dsa", "dm", "cafe", "idc", "linba"), EVERYWHERE)
"""The places of `tests.engines.driver`, in about the order in which a cell comes by them."""

VISITS = {"loading": 1, "report": 1, "writing": 8}
"""How often a run comes by a place at least; by the others three times."""


def short_grid(name: str, digits) -> list[str]:
    """One cell of a method that takes moments, as arguments."""
    method = registry.get(name)
    ipc = smallest_ipc(method, digits.spec, **short_settings(method))
    own = scaled_settings(method, 6) | short_settings(method)
    settings = [f"{name}.{key}={str(value).lower()}" for key, value in own.items()]
    return ["--methods", name, "--ipc", str(ipc), "--nets", "2", *(["--set", *settings] if settings else [])]


@pytest.mark.long
@pytest.mark.parametrize("name", PLACES)
def test_every_method_is_killed_everywhere(tmp_path, digits, monkeypatch, name):
    grid, draw, killed = short_grid(name, digits), random.Random(f"{SEED} {name}"), []
    monkeypatch.setenv("REPORT", "1")
    status, output = finish(start(tmp_path / "whole", *grid))
    assert status == 0, output
    for place in PLACES[name]:
        visit = draw.randint(1, VISITS.get(place, 3))
        monkeypatch.setenv("KILL", f"{place} {visit} {draw.uniform(0, 0.05):.3f}")
        process = start(tmp_path / "killed", *grid)
        status, output = finish(process)
        assert status in (0, -signal.SIGKILL), output
        killed += [place] * (status != 0)
    monkeypatch.delenv("KILL")
    status, output = finish(start(tmp_path / "killed", *grid))
    assert status == 0, output
    print(f"{name}: killed while {', '.join(killed)}")
    assert len(killed) >= 3, killed
    same(outcome(tmp_path / "whole"), outcome(tmp_path / "killed"))
    results = tmp_path / "killed" / "results"
    assert "Traceback" not in output
    assert "</html>" in (results / "index.html").read_text()
    assert not list(results.glob("runs/*/checkpoint"))
